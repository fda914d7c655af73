"""A figure that is not whole bears a word wherever it stands; what the word means is said once below."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_bench.cli.main import main
from sae_bench.cli.run import brief
from sae_bench.registry import tasks
from sae_bench.results import store
from sae_bench.schema import Result
from sae_bench.show import marks
from sae_bench.show.marks import Mark
from sae_bench.show.results import result_tables
from sae_bench.streams.tracked import beside_control
from tests.builders.judged_results import BUDGET, FEW, LOST, TASK, WAITS, judged
from tests.builders.results import result

Cli = Callable[..., tuple[int, str, str]]
GAPS = {  # details: word, whether it is ranked all the same
    "waits": (WAITS, "partial", False),
    "budget": (BUDGET, "partial", False),
    "both": (WAITS | BUDGET | LOST, "partial", False),
    "few unanswered": (FEW, "partial", True),
    "lost": (LOST, "degraded", False),
    "lost and unanswered": (LOST | FEW, "degraded", False),
}
BOARDS = ("text", "github", "latex", "csv", "json", "html")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def made(**details: Any) -> Result:
    return result(task=TASK, details=details)


# ---------------------------------------------------------------- which results bear which word


@pytest.mark.parametrize("name", GAPS)
def test_every_gap_has_its_word(name: str) -> None:
    details, word, ranked = GAPS[name]
    mark = marks.of(made(**details))
    assert mark is not None
    assert (mark.word, mark.ranked) == (word, ranked)
    assert mark.why
    assert ("not ranked" in mark.sentence) == (not ranked)


def test_a_whole_result_bears_none() -> None:
    for details in ({}, {"unanswered": 0}, {"incomplete": ""}, {"budget": None}, {"degraded": False}, {"statuses": {}}):
        assert marks.of(made(**details)) is None, details
        assert marks.ranked(made(**details))


def test_the_status_is_enough() -> None:
    mark = marks.of(result(status="degraded", reason="5 of 6 have no score"))
    assert mark == Mark("degraded", "5 of 6 have no score")


@pytest.mark.parametrize("status", ["error", "skipped"])
def test_what_has_no_figures_has_none_to_mark_and_is_never_ranked(status: str) -> None:
    one = result(status=status, reason="it failed", details=WAITS)
    assert marks.of(one) is None
    assert not marks.ranked(one)


@pytest.mark.parametrize("said", [["x"], {"a": 1}, 7, 1.5, True, "x" * 5000, "a\n\x1b[31mb"])
def test_details_from_elsewhere_make_a_mark_rather_than_an_error(said: Any) -> None:
    for name in ("incomplete", "budget", "degraded"):
        mark = marks.of(made(**{name: said}))
        assert mark is not None
        assert len(mark.why) <= marks.LONGEST
        assert mark.why.isprintable()
    for name in ("unanswered", marks.MARKED):
        marks.to_json(made(**{name: said}))


# ---------------------------------------------------------------- controls


def test_a_control_that_waits_bears_the_word_and_the_sae_beside_it_does_not() -> None:
    details = beside_control({"latents": 6}, "random", WAITS | BUDGET)
    one = made(**details)
    assert marks.of(one) is None
    assert {name: mark.word for name, mark in marks.of_controls(one).items()} == {"random": "partial"}
    assert details["incomplete"].startswith("control random: "), "it is measured again"


def test_a_control_does_not_hide_what_the_sae_waits_for() -> None:
    details = beside_control(WAITS, "random", {"incomplete": "2 requests wait for an answer"})
    one = made(**details)
    own = marks.of(one)
    assert own is not None
    assert own.why.startswith("31 requests wait")
    assert marks.of_controls(one)["random"].why == "2 requests wait for an answer"


def test_a_control_of_an_older_result_is_read_from_its_sentence() -> None:
    one = made(incomplete="control random: 3 requests wait for an answer; the same command goes on")
    assert marks.of(one) is None
    assert marks.of_controls(one)["random"].why.startswith("3 requests wait")


def test_the_table_marks_the_figure_of_the_control_alone() -> None:
    one = result(task="sparsity", details={marks.MARKED: {"mean": {"mark": "partial", "why": "2 wait"}}})
    shown = result_tables([one], tasks(), everything=True)
    row = next(line for line in shown.splitlines() if line.startswith("sparsity"))
    assert row.endswith("1.5 partial")
    assert row.count("partial") == 1
    assert "sparsity: control mean is partial: 2 wait" in shown


# ---------------------------------------------------------------- where figures stand


def figures(out: str) -> list[str]:
    """The lines of a table that show detection."""
    return [line for line in out.splitlines() if re.search(r"\bdetection\b.*\d", line) and "autointerp" in line]


@pytest.mark.parametrize("name", GAPS)
def test_show_marks_the_figure_and_says_why_below(cli: Cli, tmp_path: Path, name: str) -> None:
    details, word, _ = GAPS[name]
    code, out, _ = cli("show", judged(tmp_path, details=details))
    assert code == 0
    row = figures(out)[0]
    assert re.search(rf"0\.\d+ {word}\b", row), row
    assert f"{TASK}: {word}: " in out
    assert "judged by gpt-4o at an endpoint that the result does not name" in out


def test_show_as_json_and_ls_say_it_too(cli: Cli, tmp_path: Path) -> None:
    judged(tmp_path, "whole", 1)
    judged(tmp_path, "waits", 2, details=WAITS)
    found = json.loads(cli("show", tmp_path, "--json")[1])
    named = {one["sae"]["name"]: mark.get("mark") for one, mark in zip(found["results"], found["marks"], strict=True)}
    assert named == {"whole": None, "waits": "partial"}
    listed = json.loads(cli("ls", "results", "--out", tmp_path, "--json")[1])
    assert {one["sae"]: one["mark"] for one in listed} == {"whole": "", "waits": "partial"}


def test_what_scripts_read_of_a_run_has_the_mark() -> None:
    assert brief(made(**WAITS))["mark"] == "partial"
    assert "mark" not in brief(made())
    beside = brief(made(**beside_control({}, "random", FEW)))
    assert "mark" not in beside
    assert beside[marks.MARKED]["random"]["mark"] == "partial"


def scores(cli: Cli, folder: Path) -> dict[str, dict[str, Any]]:
    """Of every SAE the detection on the board."""
    tables = json.loads(cli("board", folder, "--format", "json")[1])["tables"]
    return {row["sae"]: row["scores"]["autointerp.detection"] for table in tables for row in table["rows"]}


@pytest.mark.parametrize("name", GAPS)
def test_the_board_marks_the_figure_and_ranks_what_may_be_ranked(cli: Cli, tmp_path: Path, name: str) -> None:
    details, word, ranked = GAPS[name]
    judged(tmp_path, "best", 1, level=0.6)
    judged(tmp_path, "good", 2, level=0.5)
    judged(tmp_path, "gap", 3, level=0.9, details=details)
    found = scores(cli, tmp_path)
    assert {sae: one.get("mark") for sae, one in found.items()} == {"best": None, "good": None, "gap": word}
    assert [found[sae]["rank"] is not None for sae in ("best", "good", "gap")] == [True, True, ranked]
    assert list(found)[0 if ranked else -1] == "gap", "the best figure leads only where it is ranked"
    assert found["best"]["rank"] == ([2, 2] if ranked else [1, 1])


@pytest.mark.parametrize("shown", BOARDS)
@pytest.mark.parametrize("name", ["waits", "lost", "few unanswered"])
def test_every_format_of_the_board_shows_the_word_and_the_reason(
    cli: Cli, tmp_path: Path, shown: str, name: str
) -> None:
    if shown == "html":
        pytest.importorskip("jinja2")
    details, word, _ = GAPS[name]
    judged(tmp_path, "best", 1)
    judged(tmp_path, "gap", 3, details=details)
    code, out, _ = cli("board", tmp_path, "--format", shown)
    assert code == 0
    where = {"html": rf'<b class="mark">{word}</b>', "csv": rf",{word},[^,\n]*,no\r?$", "json": rf'"mark": "{word}"'}
    assert re.search(where.get(shown, rf"\d\]?\}}?\$? {word}\b"), out, re.MULTILINE), out[-3000:]
    said = {"waits": "31 requests wait", "lost": "of the latents have no score", "few unanswered": "2 requests have no"}
    assert (said[name] in out) == (shown != "csv")


def test_a_result_that_waits_is_in_no_plot(cli: Cli, tmp_path: Path) -> None:
    """The line of a plot joins those that nobody beats, which is a ranking."""
    pytest.importorskip("jinja2")
    for name, details in (("best", {}), ("gap", WAITS)):
        judged(tmp_path, name, 1, details=details)
    page = cli("board", tmp_path, "--format", "html")[1]
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    plotted = {data["saes"][number]["name"] for place in data["places"] for number in place["saes"]}
    assert plotted == {"best"}
    gap = next(own for sae, own in zip(data["saes"], data["details"], strict=True) if sae["name"] == "gap")
    assert gap[0]["rows"][0][1].endswith(" partial")
    assert any(said.startswith("partial: 31 requests") for said in gap[0]["said"])


def test_compare_marks_the_figure_and_says_it_in_a_sentence(cli: Cli, tmp_path: Path) -> None:
    a, b = judged(tmp_path / "a", "a", 1), judged(tmp_path / "b", "b", 2, details=WAITS, level=0.8)
    for shown in ("text", "markdown"):
        code, out, _ = cli("compare", a, b, "--format", shown)
        assert code == 0
        assert re.search(r"0\.\d+ partial", figures(out.replace("|", " "))[0])
        assert f"{TASK}, B: partial: 31 requests wait" in out.replace("\\", "")
    found = json.loads(cli("compare", a, b, "--format", "json")[1])
    assert found["comparisons"][0]["differences"][0]["marks"] == [None, "partial"]
    assert found["results"]["B"]["marks"][TASK]["mark"] == "partial"
    assert found["results"]["A"]["marks"] == {}


def test_compare_says_the_cautions_of_both_sides(cli: Cli, tmp_path: Path) -> None:
    caution = "only 3 tokens decide this"
    a = judged(tmp_path / "a", "a", 1)
    b = judged(tmp_path / "b", "b", 2, details={"cautions": [caution]})
    assert f"{TASK}, B: {caution}" in cli("compare", a, b)[1]
    assert json.loads(cli("compare", a, b, "--format", "json")[1])["results"]["B"]["cautions"] == {TASK: [caution]}


GATE = "[autointerp.detection]\nallowed_loss = 0.5\n"


@pytest.mark.parametrize("which", ["new", "old"])
@pytest.mark.parametrize("name", GAPS)
def test_check_does_not_take_a_gap_for_as_good_as_before(cli: Cli, tmp_path: Path, name: str, which: str) -> None:
    details, word, ranked = GAPS[name]
    (tmp_path / "gates.toml").write_text(GATE)
    old = judged(tmp_path / "old", "a", 1, details=details if which == "old" else None)
    new = judged(tmp_path / "new", "a", 2, details=details if which == "new" else None)
    given = ["check", new, "--baseline", old, "--gates", tmp_path / "gates.toml"]
    code, out, _ = cli(*given)
    assert code == 0
    whose = "the new result" if which == "new" else "the baseline"
    assert f"{whose} is {word}: " in out
    assert re.search(rf"0\.\d+ {word}\b", out)
    assert cli(*given, "--strict")[0] == (0 if ranked else 1)
    junit, markdown = tmp_path / "j.xml", tmp_path / "m.md"
    cli(*given, "--junit", junit, "--markdown", markdown)
    assert f"{whose} is {word}: " in junit.read_text()
    assert f"{whose} is {word}: " in markdown.read_text()


def test_what_a_gap_has_lost_it_has_lost(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(GATE.replace("0.5", "0.01"))
    old = judged(tmp_path / "old", "a", 1, level=0.9)
    new = judged(tmp_path / "new", "a", 2, level=0.3, details=WAITS)
    assert cli("check", new, "--baseline", old, "--gates", tmp_path / "gates.toml")[0] == 1


def test_check_says_the_cautions(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "gates.toml").write_text(GATE)
    old = judged(tmp_path / "old", "a", 1)
    new = judged(tmp_path / "new", "a", 2, details={"cautions": ["few tokens decide"]})
    assert (
        f"{TASK}: few tokens decide (a)" in cli("check", new, "--baseline", old, "--gates", tmp_path / "gates.toml")[1]
    )


@pytest.mark.parametrize("name", GAPS)
def test_submit_takes_what_may_be_ranked(cli: Cli, tmp_path: Path, name: str) -> None:
    details, word, ranked = GAPS[name]
    _, out, err = cli("submit", judged(tmp_path, details=details), "--check-only")
    assert (f"it is {word} (" in out + err) == (not ranked)


def test_one_of_several_saes_is_marked_alone(cli: Cli, tmp_path: Path) -> None:
    for i, name in enumerate(("a", "b", "c")):
        judged(tmp_path, name, i, details=WAITS if name == "b" else None)
    rows = figures(cli("show", tmp_path)[1])
    assert ["partial" in row for row in rows if "failed" not in row] == [False, True, False]
    assert sorted(store.read(file).sae.name for file in store.find(tmp_path)) == ["a", "b", "c"]
