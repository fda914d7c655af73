"""The labelled sets of the package sae-probes: fetched, checked, read as data, and made into the default suite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench.cli.main import main
from sae_bench.data.labelled import LabelledOptions, Suite, load_suite, package, wheels
from sae_bench.data.labelled.encode import Encoder
from sae_bench.data.labelled.entries import (
    HubSet,
    PackageSet,
    UnavailableSet,
    list_digest,
    named_lists,
    read_list,
    suite_entries,
    suite_folder,
)
from sae_bench.data.labelled.wheels import SAE_PROBES, Absent, Tables, fetch, kept, place
from sae_bench.errors import DataError, TaskError
from tests.builders import probe_wheel
from tests.builders.labelled_texts import VOCABULARY, WORDS, texts_of
from tests.conftest import USERS_CACHE

PACKAGE = {name: entry for name, entry in suite_entries().items() if isinstance(entry, PackageSet)}
SHIFTED = {name: entry for name, entry in PACKAGE.items() if entry.shifted}
ONE = PACKAGE["5_hist_fig_ismale"]
TABLE = "sae_probes/data/cleaned_data/5_hist_fig_ismale.csv.zst"
GOLDEN = Path(__file__).parent / "references" / "probe_package.json"


def load(names: str = "all", **options: Any) -> Suite:
    return load_suite(
        probe_data=None,
        demo=False,
        corpus=None,
        corpus_name="the corpus",
        tokenizer=WORDS,
        vocab_size=VOCABULARY,
        options=LabelledOptions(**({"context": 32, "prepend_bos": True, "names": names} | options)),
    )


# ---------------------------------------------------------------- what there is


def test_the_sets_of_the_package_are_those_that_are_what_they_are_called() -> None:
    """113 tables are binary; ten of them are left out by name, each with its reason."""
    left_out = {n: e for n, e in suite_entries().items() if isinstance(e, UnavailableSet) and n[0].isdigit()}
    assert (len(PACKAGE), len(left_out), len(SHIFTED)) == (103, 10, 7)
    assert {name.split("_", 1)[1].split("_")[0] for name in left_out} == {"news", "disease", "toxic", "agnews"}
    assert len({entry.file for entry in PACKAGE.values()}) == 103
    assert PACKAGE["ai_human_text"].file == "94_ai_gen"
    assert suite_entries()["gpt2_disc"].kind == "unavailable", "another set does not take its name"
    assert sum(name.startswith("wikidata_") for name in PACKAGE) == 9


def test_as_many_examples_of_each_class_are_taken_of_every_set() -> None:
    assert all(e.balanced for e in suite_entries().values() if isinstance(e, PackageSet | HubSet))


def test_the_default_suite_is_a_list_that_cannot_change_under_its_name(tmp_path: Path) -> None:
    one = named_lists()["probes-v2"]
    assert set(one.sets) == set(PACKAGE)
    known = dict(suite_entries())
    assert list_digest(reversed(one.sets), known) == one.sha256, "the order says nothing"
    said = known | {ONE.name: ONE.model_copy(update={"licence": "other", "note": "other"})}
    assert list_digest(one.sets, said) == one.sha256, "nor what is only said of a set"
    other = ONE.label.model_copy(update={"positive": ("0",), "negative": ("1",)})
    for change in ({"label": other}, {"file": "x"}, {"balanced": False}, {"shifted": None}):
        assert list_digest(one.sets, known | {ONE.name: ONE.model_copy(update=change)}) != one.sha256
    whole = (suite_folder() / "lists" / "probes-v2.toml").read_text()
    for old, new, message in (
        (f'    "{ONE.name}",\n', "", "no longer those of its digest"),
        (f'"{ONE.name}"', '"nothing"', "there is no set 'nothing'"),
        (f'"{ONE.name}"', '"21_headline_istrump"', "named twice"),
        (one.sha256, "x", "'sha256': String should match"),
    ):
        file = tmp_path / "changed.toml"
        file.write_text(whole.replace(old, new))
        with pytest.raises(TaskError, match=message):
            read_list(file, known)


# ---------------------------------------------------------------- the suite


def test_every_set_loads_and_is_balanced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = probe_wheel.installed(monkeypatch, tmp_path)
    suite = load()
    assert (suite.name, suite.coverage, suite.skipped, suite.lacking) == ("probes-v2", "103 of 103", {}, "")
    assert suite.stands_for_all
    assert suite.details()["definition"] == named_lists()["probes-v2"].sha256
    for one in suite.sets:
        assert one.notes["train"]["base_rate"] == one.notes["test"]["base_rate"] == 0.5
        assert (len(one.train.texts), len(one.test.texts), one.shifted) == (30, 10, None)
        assert one.notes["package_sha256"] == wheel.sha256
        assert all(text.split()[0] == ("yes" if label else "no") for text, label in texts_of(suite, one))
    assert "sae_probes" not in sys.modules
    assert load(names="probes-v2").sha256 == suite.sha256
    assert load(names=" all, 65_*").coverage == "103 of 103", "all is the default suite wherever it stands"
    assert load(names="ai_human_text,65_*").name == "suite"
    assert [one.name for one in load(names="ai_human_text,65_*").sets] == ["65_high-school", "ai_human_text"]


def test_a_text_is_read_as_it_stands_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_wheel.installed(monkeypatch, tmp_path)
    with Tables(package.WHEELS["sae-probes"]) as tables:
        found = [(text, "1" if label else "0") for text, label in package.examples(ONE, tables)]
        assert found == probe_wheel.texts(ONE)
        assert tables.names("shifted") == sorted(str(entry.shifted) for entry in SHIFTED.values())


def test_a_text_that_is_too_long_keeps_its_end() -> None:
    """Many a label is about the last word, as that of a person whose name ends the text."""
    encoder = Encoder(WORDS, VOCABULARY, LabelledOptions(context=3, prepend_bos=True))
    start, end = (encoder.encode("a long text about Ada", keep) for keep in ("start", "end"))
    assert [WORDS.ids[word] for word in ("a", "long")] == list(start.ids)
    assert [WORDS.ids[word] for word in ("about", "Ada")] == list(end.ids)
    assert (start.truncated, end.truncated) == (True, True)
    short = encoder.encode("about Ada", "end")
    assert (short.unit, short.truncated) == (end.unit, False)


def test_copies_are_one_example_and_contradictions_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = probe_wheel.texts(ONE)
    doubled = [*rows, *rows, *[(text, "0") for text, target in rows[:3] if target == "1"]]
    probe_wheel.installed(monkeypatch, tmp_path, {TABLE: probe_wheel.packed(probe_wheel.table(doubled))})
    notes = load(names=ONE.name).sets[0].notes
    assert sum(notes[part]["texts_with_both_labels_left_out"] for part in ("train", "test")) == 3
    assert sum(notes[part]["used"] for part in ("train", "test")) == 34
    assert notes["train"]["base_rate"] == notes["test"]["base_rate"] == 0.5


# ---------------------------------------------------------------- shifted test parts


def test_shifted_parts_are_loaded_where_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe_wheel.installed(monkeypatch, tmp_path)
    plain, both = load(), load(shifted=True)
    assert {one.name for one in both.sets if one.shifted is not None} == set(SHIFTED)
    assert [one.digest for one in plain.sets] == [one.digest for one in both.sets], "the sets are the same"
    assert load(names="65_*", shifted=True).sha256 == load(names="65_*").sha256
    assert both.sha256 != plain.sha256
    assert both.groups() == plain.groups()
    for one in both.sets:
        if one.shifted is not None:
            assert texts_of(both, one, "shifted") == {
                (" ".join(text.split()), target == str(SHIFTED[one.name].label.positive[0]))
                for text, target in probe_wheel.texts(SHIFTED[one.name], shifted=True)
            }
            assert one.notes["shifted"]["base_rate"] == 0.5


def test_a_shifted_text_is_in_no_other_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, members = dict(SAE_PROBES.inside), probe_wheel.whole()
    rows = [*probe_wheel.texts(ONE, shifted=True), *probe_wheel.texts(ONE)[:7], *probe_wheel.texts(ONE)[-2:]]
    members[inside["shifted"].format(ONE.shifted)] = probe_wheel.packed(probe_wheel.table(rows))
    probe_wheel.installed(monkeypatch, tmp_path, members)
    one = load(names=ONE.name, shifted=True).sets[0]
    assert one.shifted is not None
    assert one.notes["shifted"]["texts_of_other_parts_left_out"] == 9
    assert not set(one.shifted.texts) & {*one.train.texts, *one.test.texts}
    assert one.shifted.labels.sum() * 2 == len(one.shifted.labels) == 40


# ---------------------------------------------------------------- what is not here


def test_without_the_package_there_is_no_table_but_one_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two machines never get two tables from one command, also where some of the sets could be had."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    suite = load()
    assert (suite.coverage, suite.stands_for_all) == ("0 of 103", False)
    assert suite.lacking == "the package sae-probes 0.4.2 is not here; fetch it once: sae-bench probes fetch"
    assert set(suite.skipped.values()) == {f"T{suite.lacking[1:]}."}
    assert not load(names=f"{ONE.name},gpt2_disc").stands_for_all
    assert load(names="gpt2_disc").lacking == ""


def test_a_file_that_is_not_the_package_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = probe_wheel.wheel_of(tmp_path / "right", probe_wheel.whole())
    probe_wheel.pin(monkeypatch, wheel, tmp_path / "cache")
    right = tmp_path / "right" / wheel.file
    other = tmp_path / "other" / wheel.file
    probe_wheel.wheel_of(other.parent, {"sae_probes/__init__.py": b"raise SystemExit"})
    cut = tmp_path / "cut.whl"
    cut.write_bytes(right.read_bytes()[:-1])
    os.mkfifo(tmp_path / "pipe.whl")
    for file, message in (
        (tmp_path / "nowhere.whl", "is missing"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe.whl", "it is a pipe"),
        (other, "is another version, or damaged"),
        (cut, "is another version, or damaged"),
    ):
        with pytest.raises(DataError, match=message):
            fetch(wheel, file)
        assert not place(wheel).parent.exists(), "nothing is left behind"
    assert fetch(wheel, right)
    assert not fetch(wheel, right)
    place(wheel).write_bytes(cut.read_bytes())
    with pytest.raises(Absent, match=r"damaged; fetch it anew: sae-bench probes fetch$"):
        kept(wheel)
    assert "damaged" in load().lacking
    assert fetch(wheel, right)
    assert [file.name for file in place(wheel).parent.iterdir()] == [wheel.file]


def test_several_fetch_at_once_and_one_puts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = probe_wheel.wheel_of(tmp_path / "right", probe_wheel.whole())
    probe_wheel.pin(monkeypatch, wheel, tmp_path / "cache")
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda _: fetch(wheel, tmp_path / "right" / wheel.file), range(6)))
    assert sum(found) == 1
    assert kept(wheel).read_bytes() == (tmp_path / "right" / wheel.file).read_bytes()


def test_pip_brings_the_wheel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = probe_wheel.wheel_of(tmp_path / "right", probe_wheel.whole())
    probe_wheel.pin(monkeypatch, wheel, tmp_path / "cache")
    asked: list[list[str]] = []

    def pip(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        Path(command[command.index("--dest") + 1], wheel.file).write_bytes(
            (tmp_path / "right" / wheel.file).read_bytes()
        )
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(wheels.subprocess, "run", pip)
    assert fetch(wheel)
    assert not fetch(wheel)
    (command,) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "sae-probes==0.4.2"


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (
            1,
            "WARNING: x\nERROR: No matching distribution\nhint",
            r"pip could not fetch .* \(No matching distribution\)",
        ),
        (1, "", r"\(no reason given\)"),
        (0, "", "pip did not bring sae_probes-0.4.2-py3-none-any.whl"),
    ],
)
def test_a_pip_that_fails_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stderr: str, message: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(wheels.subprocess, "run", lambda command, **_: done)
    with pytest.raises(DataError, match=message) as caught:
        fetch(SAE_PROBES)
    assert "sae-bench probes fetch --from FILE" in str(caught.value)


def test_without_pip_the_file_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Environments that uv makes have none."""
    monkeypatch.setattr(wheels.importlib.util, "find_spec", lambda name: None)
    wheel = probe_wheel.wheel_of(tmp_path / "right", probe_wheel.whole())
    probe_wheel.pin(monkeypatch, wheel, tmp_path / "cache")
    assert main(["probes", "fetch"]) == 2
    said = capsys.readouterr().err
    assert "this Python has no pip" in said
    assert "--from FILE" in said
    assert main(["probes", "list", "--probe-sets", "probes-v2"]) == 0
    assert "The package sae-probes 0.4.2 is not here" in capsys.readouterr().out
    assert main(["probes", "fetch", "--from", str(tmp_path / "right" / wheel.file)]) == 0
    assert main(["probes", "list"]) == 0
    said = capsys.readouterr().out
    assert f"sae-probes 0.4.2 is here: {place(wheel)} (103 tables, 7 shifted)" in said
    assert "probes-v2: 103 sets" in said
    assert "95_toxic_is" in said
    assert main(["probes", "list", "--probe-sets", "all"]) == 0
    assert "95_toxic_is" not in capsys.readouterr().out, "all are those of the default list, as for run"


# ---------------------------------------------------------------- a wheel that means harm


def refused(monkeypatch: pytest.MonkeyPatch, folder: Path, members: dict[str, bytes]) -> str:
    """What is said of a wheel whose digest is the right one, and whose content is not."""
    probe_wheel.installed(monkeypatch, folder, members)
    with pytest.raises(DataError) as caught:
        load(names=ONE.name)
    return str(caught.value)


ROW = probe_wheel.table([("a text", "1")])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"other": b""}, "is not in the package"),
        ({TABLE: b"no frame"}, "cannot be unpacked"),
        ({TABLE: probe_wheel.packed(ROW * 40)[:-9]}, "cannot be"),
        ({TABLE: probe_wheel.packed(b"text,label\na,1\n")}, "has no column 'prompt'"),
        ({TABLE: probe_wheel.packed(b"prompt,target\na,1,2\n")}, "row 0 has 3 columns"),
        ({TABLE: probe_wheel.packed(ROW + b'"b","1","2"\n')}, "row 1: the target must be one of 1, 0, got '2'"),
        ({TABLE: probe_wheel.packed(b"prompt,target\n\xff,1\n")}, "is not UTF-8"),
        ({TABLE: probe_wheel.packed(b'prompt,target\n"a,1\n')}, "cannot be read"),
    ],
)
def test_a_table_that_is_not_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes], message: str
) -> None:
    assert message in refused(monkeypatch, tmp_path, members)


def test_what_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of a few kilobytes may hold gigabytes: the memory is bounded, whatever the frame says."""
    monkeypatch.setattr(wheels, "MOST_UNPACKED", 3 << 20)
    bomb = probe_wheel.packed(bytes(200 << 20))
    assert len(bomb) < 1 << 20
    assert "unpacks to more than 3 MiB" in refused(monkeypatch, tmp_path / "frame", {TABLE: bomb})
    monkeypatch.setattr(wheels, "MOST_PACKED", 1 << 20)
    assert "has more than 1 MiB" in refused(monkeypatch, tmp_path / "member", {TABLE: bytes(8 << 20)})


def test_nothing_of_a_wheel_is_unpacked_or_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = probe_wheel.whole() | {
        "../../evil.txt": b"out",
        "/evil.txt": b"out",
        "sae_probes/__init__.py": b"raise SystemExit(9)",
        "sitecustomize.py": b"raise SystemExit(9)",
    }
    probe_wheel.installed(monkeypatch, tmp_path, members)
    assert load().coverage == "103 of 103"
    assert {file.name for file in tmp_path.rglob("*") if file.is_file()} == {SAE_PROBES.file}
    assert not {"sae_probes", "sitecustomize_"} & set(sys.modules)


# ---------------------------------------------------------------- the package itself


@pytest.mark.slow
def test_the_texts_and_ids_of_the_package_are_those_of_the_golden_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the package is in the user's cache: each set is what it was when its figures were measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", USERS_CACHE)
    try:
        kept(SAE_PROBES)
    except Absent as error:
        pytest.skip(str(error))
    assert probe_wheel.golden() == json.loads(GOLDEN.read_text())


def test_the_golden_file_has_every_set() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["wheel"] == SAE_PROBES.sha256
    assert set(golden["sets"]) == set(PACKAGE)
    assert {name for name, one in golden["sets"].items() if "shifted" in one} == set(SHIFTED)
    assert len({one["texts"] for one in golden["sets"].values()}) == len(PACKAGE), "no two sets are the same"
    assert np.isclose([one["base_rate"] for one in golden["sets"].values()], 0.5).all()
