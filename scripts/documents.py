"""The documents of this repository: which there are, what they link to, and how mkdocs makes a site of them.

Every document has the path in the site that it has in the checkout: README.md is the first page, and the cards of
tasks stay beside their definitions. So nothing is copied, and a relative link is right in both or wrong in both. What
documents link to beside each other (code, pictures, limits) comes along as a file.

mkdocs calls the functions ``on_...`` (mkdocs.yml, "hooks"); tests/test_documents.py uses the rest, without mkdocs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PATTERNS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "tasks/*/*.md", "benchmarks/README.md"),
    *("examples/*/README.md", "leaderboard/*.md", "sae_bench/demo/README.md"),
)
FENCE = re.compile(r"^(?P<mark>```+|~~~+).*?^(?P=mark)`*$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"(?P<mark>`+)(?!`).+?(?<!`)(?P=mark)(?!`)")
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(?P<text>.+?)(?: +#+)?$", re.MULTILINE)
COMMENT = re.compile(r"^<!-- .*? -->$", re.MULTILINE)


def documents() -> list[str]:
    """The documents, as paths in the checkout."""
    found = (file for pattern in PATTERNS for file in sorted(ROOT.glob(pattern)))
    return [file.relative_to(ROOT).as_posix() for file in found]


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading by GitHub's rule, so that one link serves there and in the site."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", separator)


def anchors(text: str) -> list[str]:
    """The anchors of a document's headings."""
    return [slug(found["text"]) for found in HEADING.finditer(FENCE.sub("", text))]


def links(text: str) -> Iterator[re.Match[str]]:
    """The links and pictures of a document, with the groups ``picture``, ``text`` and ``target``; none of code."""
    prose = CODE.sub(lambda found: "`" * len(found[0]), FENCE.sub("", text))
    return LINK.finditer(prose)


def is_outside(target: str) -> bool:
    """Whether a link leaves the repository."""
    return re.match(r"[a-z][a-z0-9+.-]*:|//", target) is not None


def path_of(target: str, document: str) -> str:
    """The path in the checkout of what a document links to; the document's own for an anchor alone."""
    path = target.partition("#")[0]
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), path)) if path else document


def linked(document: str) -> set[str]:
    """What a document links to in the checkout and is no document itself."""
    text = (ROOT / document).read_text(encoding="utf-8")
    targets = {path_of(found["target"], document) for found in links(text) if not is_outside(found["target"])}
    return {path for path in targets - set(documents()) if (ROOT / path).is_file()}


# --- what mkdocs calls -----------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Anchors are GitHub's, in the site too."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slug
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """The pages are the documents where they lie in the checkout; mkdocs itself has looked in docs/ alone."""
    from mkdocs.structure.files import File

    for file in list(files):
        if file.abs_src_path and Path(file.abs_src_path).is_relative_to(config.docs_dir):
            files.remove(file)
    pages = documents()
    beside = set(config.extra_css).union(*map(linked, pages))
    for path in (*pages, *sorted(beside)):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The marks around tables that a command prints stand alone, else Python's Markdown takes the table for HTML."""
    return COMMENT.sub(lambda found: f"\n{found[0]}\n", markdown)
