"""What puts SAEs in an order does so only where the definition lets it: never, or among SAEs of about one L0."""

from __future__ import annotations

import csv
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sae_bench import registry
from sae_bench.board import data, text
from sae_bench.board.layout import Board, Row, Table
from sae_bench.board.ranks import Groups
from sae_bench.cli.main import main
from sae_bench.registry import tasks
from sae_bench.results import at_l0
from sae_bench.schema import MetricSpec
from sae_bench.units import Units
from tests.builders.boards import figure, make, measured, of_one_l0, put
from tests.builders.locks import judged_by

FVU, KL, R = "reconstruction.fvu", "loss_recovered.kl", "probe_recovery.probe_r"
L0S = st.lists(st.sampled_from([0.0, 10.0, 10.5, 11.0, 11.5, 12.0, 20.0, 21.9, 22.0, 22.1, 64.0]), max_size=9)


def sweep(folder: Path, l0s: dict[str, float | None], fvus: dict[str, float], half: float = 0.001) -> dict[str, Row]:
    """The rows of a board of SAEs with these L0 and FVU, by name."""
    for name, fvu in fvus.items():
        put(folder, name, "reconstruction", {"fvu": figure("reconstruction", "fvu", fvu, half=half)})
        if (l0 := l0s[name]) is not None:
            put(folder, name, "sparsity", {"l0": l0})
    return {row.sae.name: row for row in fidelity(make(folder)).rows}


def fidelity(board: Board) -> Table:
    return next(one for one in board.tables if one.group == "Reconstruction and loss")


# --- about one L0 ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "expected"), [
    (20.0, 22.0, True), (22.0, 20.0, True), (20.0, 22.1, False), (20.0, 20.0, True), (0.0, 0.0, True),
    (0.0, 1e-9, False), (0.1, 0.11, True), (70.0, 77.0, True),
])  # fmt: skip
def test_close_is_ten_per_cent_of_the_lower_whichever_comes_first(a: float, b: float, expected: bool) -> None:
    assert at_l0.close(a, b) is expected


@given(l0s=L0S)
def test_every_sae_is_held_against_all_that_are_close_to_it_and_no_others(l0s: list[float]) -> None:
    order, begin, end = at_l0.windows(l0s)
    for i, own in enumerate(l0s):
        assert set(order[begin[i] : end[i]]) == {j for j, other in enumerate(l0s) if at_l0.close(own, other)}
    assert Groups.of(len(l0s), l0s).n_pairs == sum(at_l0.close(a, b) for i, a in enumerate(l0s) for b in l0s[:i])


@given(points=st.lists(st.tuples(st.integers(1, 5), st.integers(-3, 3)), min_size=1, max_size=9))
def test_the_front_is_what_a_plain_loop_finds(points: list[tuple[int, int]]) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        return a[0] <= b[0] and a[1] <= b[1] and a != b

    expected = [not any(beats(other, own) for other in points) for own in points]
    assert at_l0.on_front(*([float(p[k]) for p in points] for k in (0, 1)), rounding=1e-6) == expected


def test_rounding_takes_nobody_from_the_front() -> None:
    assert at_l0.on_front([32.0, 32.0 * (1 + 1e-9)], [0.1 * (1 + 1e-9), 0.1], 1e-6) == [True, True]
    assert at_l0.on_front([32.0, 32.1], [0.1, 0.1 * (1 - 1e-9)], 1e-6) == [True, False]


# --- the board -------------------------------------------------------------------------------------------------------


def test_a_rank_counts_only_saes_of_about_its_l0(tmp_path: Path) -> None:
    """20 is close to 22 and 22 to 24, but 20 is not to 24: each has a group of its own."""
    l0s = {"a": 20.0, "b": 22.0, "c": 24.0, "d": 64.0}
    rows = sweep(tmp_path, l0s, {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1})
    found = {name: (row.cells[FVU].rank, row.cells[FVU].group) for name, row in rows.items()}
    assert found == {
        "a": ((2, 2), (2, 20.0, 22.0)),
        "b": ((2, 2), (3, 20.0, 24.0)),
        "c": ((1, 1), (2, 22.0, 24.0)),
        "d": (None, None),
    }
    assert text.rank_text(rows["b"].cells[FVU]) == "rank 2 of 3 at L0 20-24, front"
    assert rows["d"].cells[FVU].unranked == "no other is within 10 % of its L0"
    assert all(row.cells[FVU].front for row in rows.values())


def test_more_latents_never_make_a_rank_better(tmp_path: Path) -> None:
    rows = sweep(tmp_path, {"k16": 16.0, "k32": 32.0, "bad": 32.0}, {"k16": 0.10, "k32": 0.05, "bad": 0.2})
    shown = {name: text.rank_text(row.cells[FVU]) for name, row in rows.items()}
    assert shown == {"k16": "front", "k32": "rank 1 of 2 at L0 32, front", "bad": "rank 2 of 2 at L0 32"}
    assert list(rows) == ["k16", "k32", "bad"]  # in the order of L0, the better first


def test_saes_that_cannot_be_told_apart_share_a_rank_of_their_group(tmp_path: Path) -> None:
    rows = sweep(tmp_path, {"a": 29.0, "b": 30.0, "c": 31.9}, {"a": 0.100, "b": 0.101, "c": 0.5}, half=0.1)
    assert text.rank_text(rows["a"].cells[FVU]) == "rank 1-2 of 3 at L0 29-31.9, front"
    assert text.rank_text(rows["c"].cells[FVU]) == "rank 3 of 3 at L0 29-31.9"


def test_without_an_l0_there_is_no_rank_and_a_reason(tmp_path: Path) -> None:
    rows = sweep(tmp_path, {"a": 20.0, "b": 20.0, "c": None}, {"a": 0.4, "b": 0.3, "c": 0.2})
    assert [rows[name].cells[FVU].rank for name in "abc"] == [(2, 2), (1, 1), None]
    assert rows["c"].cells[FVU].unranked == "its L0 was not measured (task sparsity)"
    assert rows["c"].cells[FVU].front is None
    notes = fidelity(make(tmp_path)).notes
    assert "Without a rank in FVU: c, because its L0 was not measured (task sparsity)." in notes


def test_names_and_files_in_another_order_change_no_rank(tmp_path: Path) -> None:
    """The figures of an SAE decide, not where it stands."""
    l0s, fvus = [20.0, 21.0, 22.0, 23.0, 30.0], [0.5, 0.2, 0.3, 0.1, 0.4]

    def measured(names: str, folder: Path) -> list[tuple[Any, ...]]:
        rows = sweep(folder, dict(zip(names, l0s, strict=True)), dict(zip(names, fvus, strict=True)))
        cells = [rows[name].cells[FVU] for name in names]
        return [(cell.rank, cell.group, cell.front) for cell in cells]

    assert measured("abcde", tmp_path / "1") == measured("edcba", tmp_path / "2") == measured("cadbe", tmp_path / "3")


def test_by_paired_differences_only_pairs_of_about_one_l0_are_compared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids, base = tuple(f"d{i}" for i in range(40)), rng.gamma(2.0, 1.0, 40)
    for name, l0, more in (("a", 16.0, 0.0), ("b", 17.0, 0.5), ("c", 40.0, -1.5)):
        columns = {"predictions": np.full(40, 1.0), "kl": base + 3 + more + rng.normal(0, 0.01, 40)}
        value = figure("loss_recovered", "kl", float(columns["kl"].mean()), half=0.5)
        put(tmp_path, name, "loss_recovered", {"kl": value}, tables={"document": Units(ids, columns)})
        put(tmp_path, name, "sparsity", {"l0": l0})
    board = make(tmp_path)
    assert board.problems == ()
    table = fidelity(board)
    assert [row.cells[KL].rank for row in table.rows] == [(1, 1), (2, 2), None]
    assert "paired difference" in table.notes[0]


def test_csv_and_json_say_among_whom_and_why_not(tmp_path: Path) -> None:
    sweep(tmp_path, {"a": 20.0, "b": 22.0, "c": None, "d": 90.0}, {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.5})
    put(tmp_path, "a", "sparsity", {"l0": 20.0, "dead_fraction": 0.1})
    board = make(tmp_path)
    rows = {r["sae"]: r for r in csv.DictReader(io.StringIO(data.as_csv(board))) if r["metric"] == "fvu" and r["sae"]}
    names = ("rank_low", "rank_high", "rank_of", "rank_l0_low", "rank_l0_high", "front")
    assert [rows["a"][name] for name in names] == ["2", "2", "2", "20.0", "22.0", "yes"]
    assert [rows["d"][name] for name in names] == ["", "", "", "", "", "no"]
    assert "L0 was not measured" in rows["c"]["unranked"]
    content = json.loads(data.as_json(board))
    scores = {row["sae"]: row["scores"][FVU] for row in content["tables"][0]["rows"]}
    assert (scores["a"]["rank"], scores["a"]["among"], scores["a"]["front"]) == ([2, 2], {"n": 2, "l0": [20, 22]}, True)
    assert scores["d"]["unranked"] == "no other is within 10 % of its L0"
    ranked = {f"{c['task']}.{c['metric']}": c["ranked"] for one in content["tables"] for c in one["columns"]}
    assert (ranked[FVU], ranked["sparsity.dead_fraction"]) == ("at equal L0", "no")


def test_what_is_not_ranked_has_no_rank_whatever_its_direction(tmp_path: Path) -> None:
    never = {t: [n for n, m in s.metrics.items() if not m.orders] for t, s in tasks().items()}
    of_one_l0(tmp_path, "ab")
    for task, metrics in never.items():
        for name, value in (("a", 0.1), ("b", 0.5)):
            if metrics:
                put(tmp_path, name, task, dict.fromkeys(metrics, value), n_documents=65)
    board = make(tmp_path, everything=True)
    shown = {column: cell for one in board.tables for row in one.rows for column, cell in row.cells.items()}
    assert {f"{task}.{name}" for task, names in never.items() for name in names} <= set(shown)
    assert all(cell.rank is None and cell.front is None for cell in shown.values())
    for one in board.tables:
        said = any(c.spec.better != "none" or c.spec.target is not None for c in one.columns)
        assert ("Not ranked: " in " ".join(one.notes)) == said
        assert [row.sae.name for row in one.rows] == ["a", "b"]  # by name, not by a figure


def test_a_metric_that_needs_no_equal_l0_is_ranked_among_all(tmp_path: Path) -> None:
    for name, l0, r in (("a", 16.0, 0.2), ("b", 64.0, 0.9)):
        put(tmp_path, name, "probe_recovery", {"probe_r": r})
        put(tmp_path, name, "sparsity", {"l0": l0})
    rows = make(tmp_path, metrics="probe_r").tables[0].rows
    assert [(row.sae.name, row.cells[R].rank, row.cells[R].group) for row in rows] == [
        ("b", (1, 1), None),
        ("a", (2, 2), None),
    ]
    assert text.rank_text(rows[0].cells[R]) == "rank 1"


# --- definitions -----------------------------------------------------------------------------------------------------

NEVER = {
    "reconstruction": {"norm_ratio", "relative_reconstruction_bias"},
    "sparsity": {"dead_fraction", "dense_fraction_1pct", "dense_fraction_10pct"},
    "probe_recovery": {"probe_share"},
    "sparse_probing": {"share_k1", "share_k2", "share_k5", "share_k16"},
    "downstream_sparsity": {"effect_sparsity", "effect_sparsity_token_gain", "effect_kl"},
}


@pytest.mark.parametrize("task", NEVER)
def test_what_puts_random_latents_first_is_not_ranked(task: str) -> None:
    metrics = tasks()[task].metrics
    assert {name for name in NEVER[task] if name in metrics and metrics[name].orders} == set()


@pytest.mark.parametrize("task", ["reconstruction", "loss_recovered"])
def test_all_that_is_ranked_of_fidelity_is_at_equal_l0(task: str) -> None:
    assert {m.ranking for m in tasks()[task].metrics.values()} == {"no", "at equal L0"}


def test_a_definition_says_what_can_be_held() -> None:
    about: dict[str, Any] = {"name": "x", "unit": "1", "table": "document", "description": "x"}
    plain = MetricSpec(**about, better="lower", claims="features")
    assert (plain.orders, plain.ranking) == (False, "no")
    assert plain.judged("1", None).ranking == "yes"
    assert MetricSpec(**about, better="none").ranking == "no"
    with pytest.raises(ValidationError, match="at_equal_l0 needs a direction"):
        MetricSpec(**about, at_equal_l0=True, better="none")


def test_what_is_claimed_is_no_part_of_what_is_measured() -> None:
    """Else results from before anybody asked could not be compared with others of the same figures."""
    spec = tasks()["sparsity"]
    open_ = {n: m.model_copy(update={"claims": "features", "at_equal_l0": False}) for n, m in spec.metrics.items()}
    assert registry.definition_sha256(spec) == registry.definition_sha256(spec.model_copy(update={"metrics": open_}))


def test_a_task_shows_what_is_ranked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "reconstruction"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line[:1].isalpha()}
    assert "ranked" in lines["metric"]
    assert "at equal L0" in lines["fvu"]
    assert lines["fvu"].split()[3] == "fidelity"
    assert lines["norm_ratio"].split()[3] == "no"
    assert main(["show", "--json", "reconstruction"]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert (metrics["fvu"]["at_equal_l0"], metrics["norm_ratio"]["ranked"]) == (True, False)


# --- compare, check, ls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("l0", "said"), [
    (64.0, "A and B have L0 32 and 64, more than 10 % apart"), (34.0, None), (None, "the L0 of B is not among"),
])  # fmt: skip
def test_compare_says_where_l0_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], l0: float | None, said: str | None
) -> None:
    a, b = measured(tmp_path, "a", 32.0, 0.2), measured(tmp_path, "b", l0, 0.1)
    assert main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "better" in shown
    assert ("more active latents alone make fvu better" in shown) == (said is not None)
    assert said is None or said in shown
    assert main(["compare", str(a), str(b), "--format", "json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [content["results"][side]["l0"] for side in "AB"] == [32.0, l0]
    assert any(said in note for note in content["notes"]) if said else not any("L0" in n for n in content["notes"])


def test_compare_of_many_keeps_the_order_given_and_says_it_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [measured(tmp_path, f"s{i}", 32.0 if i == 3 else 64.0 + i, 0.3 - i / 50) for i in range(10)]
    assert main(["compare", *map(str, [files[3], *files[:3], *files[4:]]), "--metrics", "fvu", "--pairs", "first"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split()[1] for line in shown.splitlines() if line[:3].strip() in set("BCDEFGHIJ")]
    assert rows == ["s0", "s1", "s2", "s4", "s5", "s6", "s7", "s8", "s9"]
    assert shown.count("do not order them") == 1
    assert "B, C, D and 6 more: not at the L0 of A, so fvu do" in shown


def test_compare_calls_no_difference_better_in_what_is_not_ranked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = tuple(f"d{i}@1:{i}" for i in range(40))
    for name, share in (("a", 0.3), ("b", 0.6)):
        columns = {
            "token_share": share + np.arange(40) / 1000,
            **dict.fromkeys(("token_scored", "ablations"), np.ones(40)),
        }
        value = {"effect_sparsity_token": float(columns["token_share"].mean())}
        put(tmp_path, name, "downstream_sparsity", value, tables={"ablation": Units(ids, columns)})

    def verdict() -> str:
        assert main(["compare", *map(str, sorted(tmp_path.glob("*")))]) == 0
        (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("downstream")]
        return row.split()[-1]

    assert verdict() == "worse"
    with judged_by({}):
        assert verdict() == "differs"


@pytest.mark.parametrize(("l0", "said"), [(64.0, True), (34.0, False)])
def test_check_says_that_the_l0_left_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], l0: float, said: bool
) -> None:
    old, new = measured(tmp_path / "old", "a", 32.0, 0.2), measured(tmp_path / "new", "b", l0, 0.1)
    assert main(["check", str(new), "--baseline", str(old.parent), "--sae-name", "a"]) == 0
    shown = capsys.readouterr().out
    assert ("the baseline and the new result have L0 32 and 64, more than 10 % apart" in shown) == said


def test_ls_lists_results_by_file_and_not_by_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, fvu in (("c", 0.1), ("a", 0.5), ("b", 0.3)):
        put(tmp_path, name, "reconstruction", {"fvu": fvu})
    assert main(["ls", "results", "--out", str(tmp_path), "--json"]) == 0
    rows = [row["file"] for row in json.loads(capsys.readouterr().out)]
    assert all(one < other for one, other in pairwise(rows))
