"""Documents lead where they say: every link and anchor, every page from the first, every name that they list."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sae_bench import registry
from sae_bench.saes.formats import native

ROOT = Path(__file__).parent.parent
HOOK = ROOT / "scripts" / "documents.py"
if not HOOK.is_file():
    pytest.skip("needs the checkout", allow_module_level=True)


def _load() -> Any:
    """The hook of mkdocs, as a module: it says which documents there are and how they are linked."""
    found = importlib.util.spec_from_file_location("documents", HOOK)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["documents"] = module
    found.loader.exec_module(module)
    return module


documents = _load()
MOST_LINES = 149  # of the README
MOST_BYTES = 200_000  # of a picture


def text(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def broken(content: str, document: str) -> list[str]:
    """The links of a text, standing where a document stands, that lead nowhere in the checkout."""
    found = []
    for link in documents.links(content):
        target = link["target"]
        if documents.is_outside(target):
            continue
        path = documents.path_of(target, document)
        anchor = target.partition("#")[2]
        there = (ROOT / path).is_file()
        if there and anchor:
            there = anchor in documents.anchors(content if path == document else text(path))
        if not there:
            found.append(target)
    return found


@pytest.mark.parametrize("document", documents.documents())
def test_every_link_leads_somewhere(document: str) -> None:
    assert broken(text(document), document) == []


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("[a](nowhere.md)", ["nowhere.md"]),
        ("[a](saes.md#no-such-heading)", ["saes.md#no-such-heading"]),
        ("# One\n\n[a](#two)", ["#two"]),
        ("![a picture](none.png)", ["none.png"]),
        ("[a [b] c](nowhere.md)", ["nowhere.md"]),
        ("[an anchor in code](#not-one)\n\n```sh\n# Not one\n```", ["#not-one"]),
        ("# One\n\n[a](#one) [b](saes.md#layouts-that-load) [c](../README.md) [d](https://example.org/x)", []),
        ("`[code](nowhere.md)` and\n\n```\n[code](nowhere.md)\n```", []),
    ],
)
def test_the_check_of_links_sees_what_is_broken(content: str, wrong: list[str]) -> None:
    assert broken(content, "docs/text.md") == wrong


@pytest.mark.parametrize(
    ("heading", "anchor"),
    [
        ("Is it loaded rightly?", "is-it-loaded-rightly"),
        ("What it costs, and what is kept", "what-it-costs-and-what-is-kept"),
        ("`--data`: [texts](text.md)", "--data-texts"),
        ("sae-bench's own layout", "sae-benchs-own-layout"),
        ("A_b & c", "a_b--c"),
    ],
)
def test_anchors_are_those_of_github(heading: str, anchor: str) -> None:
    assert documents.slug(heading) == anchor


@pytest.mark.parametrize("document", documents.documents())
def test_headings_can_be_told_apart(document: str) -> None:
    """GitHub and the site number equal ones differently, so that a link to the second is right in one of them alone."""
    linked = {link["target"].partition("#")[2] for one in documents.documents() for link in documents.links(text(one))}
    anchors = documents.anchors(text(document))
    assert [anchor for anchor in linked if anchors.count(anchor) > 1] == []


def test_the_site_has_every_document_once() -> None:
    def pages(entries: list[dict[str, Any]]) -> list[str]:
        values = [value for entry in entries for value in entry.values()]
        return [page for value in values for page in (pages(value) if isinstance(value, list) else [value])]

    config = yaml.safe_load(text("mkdocs.yml"))
    assert sorted(pages(config["nav"])) == sorted(documents.documents())
    assert set(config["validation"].values()) == {"warn"}
    # with --quiet mkdocs counts no warning, and --strict passes whatever it finds
    assert 'mkdocs" build --strict --site-dir' in text(".ci/run")


def test_the_readme_leads_to_every_page() -> None:
    reached, ahead = set(), {"README.md"}
    while ahead:
        document = ahead.pop()
        reached.add(document)
        paths = {documents.path_of(link["target"], document) for link in documents.links(text(document))}
        ahead |= (paths & set(documents.documents())) - reached
    assert sorted(set(documents.documents()) - reached) == []
    direct = {documents.path_of(link["target"], "README.md") for link in documents.links(text("README.md"))}
    assert {page for page in documents.documents() if page.startswith("docs/")} <= direct


def test_pictures_are_small_and_described() -> None:
    for document in documents.documents():
        for link in documents.links(text(document)):
            if link["picture"] and not documents.is_outside(link["target"]):
                file = ROOT / documents.path_of(link["target"], document)
                assert len(link["text"]) >= 20, f"{document}: {file.name} needs a text for who cannot see it"
                assert file.stat().st_size <= MOST_BYTES, file
    picture = (ROOT / "docs" / "board.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_readme_is_short_and_has_the_lines_that_ci_runs() -> None:
    lines = text("README.md").splitlines()
    assert len(lines) <= MOST_LINES
    assert len([line for line in lines if line.startswith("python3 -m venv")]) == 2


def table_below(heading: str, document: str = "README.md") -> list[list[str]]:
    """The rows of the first table below a heading, without its head."""
    behind = text(document).split(f"\n## {heading}\n", 1)[1]
    found = re.search(r"(?:^\|.*\n)+", behind, re.MULTILINE)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[0].splitlines()[2:]]


@pytest.mark.parametrize(
    ("heading", "document"),
    [
        ("Report these numbers", "README.md"),
        ("In the words of SAELens and SAEBench", "README.md"),
        ("Which", "docs/report.md"),
    ],
)
def test_the_figures_that_are_named_exist(heading: str, document: str) -> None:
    metrics = {name for spec in registry.tasks().values() for name in spec.metrics}
    rows = table_below(heading, document)
    named = {name for row in rows for name in re.findall(r"`([a-z][a-z0-9_]*)`", row[0])}
    assert len(named) >= 8
    assert sorted(named - metrics) == []


def test_words_of_other_libraries_are_those_of_the_cards() -> None:
    """What others call a figure stands in the card of its task too, with the commit at which it was read."""
    cards = "".join(text(f"tasks/{task}/README.md") for task in registry.tasks())
    for row in table_below("In the words of SAELens and SAEBench"):
        if re.search(r"`[a-z]+\w*`", row[0]) and "--" not in row[0]:
            for name in re.findall(r"`([a-z]\w*)`", row[1]):
                assert f"`{name}`" in cards, name


def test_the_fields_of_the_own_layout_are_listed() -> None:
    rows = table_below("sae-bench's own layout", "docs/saes.md")
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row[0])} == set(native._KEYS)


def test_extras_and_version_are_those_of_the_project() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    rows = table_below("Install", "docs/start.md")
    assert {row[0].strip("`| ") for row in rows} == set(project["optional-dependencies"])
    cited = yaml.safe_load(text("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited), "what the format asks for"
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
