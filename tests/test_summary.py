"""The summary: a line an SAE, within the width of the terminal, and nothing in it that its results do not say."""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.board import collect, columns, layout
from sae_bench.board.summary import summaries
from sae_bench.board.summary_parts import others_in
from sae_bench.cli import show as show_verb
from sae_bench.cli.after_run import next_steps
from sae_bench.results import store
from sae_bench.show.fitted import command, padded, ranges, shell, table, unlike, width, wrapped
from sae_bench.show.summary import Summary, as_markdown, shown
from tests.builders.boards import COLUMNS, HOSTILE
from tests.builders.results import result
from tests.builders.summaries import SNAPSHOTS, SPECS, family, heads, lay, made, many, of, value
from tests.builders.verbs import runner

WIDTHS = (60, 80, 100)
STRANGE = [*HOSTILE, "名前の長い字典学習器", "e\u0301" * 30, "a\nb", "", "x" * 300]


def looks(text: str, file: str) -> None:
    """To accept a change: delete the file, run this test, read what it wrote."""
    kept = SNAPSHOTS / file
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(text)
        pytest.fail(f"{kept} was missing and is written anew: read it, then run again")
    assert text == kept.read_text()


def widest(text: str) -> int:
    return max(map(width, text.splitlines()))


def lines_of(summary: Summary) -> dict[str, object]:
    """All that a summary says of each SAE but its number."""
    return {one.name: replace(one, number=0) for one in summary.lines}


# ---------------------------------------------------------------- how it looks


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_summary_looks_as_it_did(columns):
    looks(shown(of(many()), columns) + "\n", f"summary_{columns}.txt")


def test_a_summary_looks_as_it_did_in_markdown():
    looks("\n".join(as_markdown(of(many())[0])) + "\n", "summary.md")


@pytest.mark.parametrize("columns", [40, *WIDTHS, 140])
def test_thirty_saes_are_thirty_lines_and_none_is_too_wide(columns):
    results = [
        one for i in range(30) for one in family(f"lab/{'long-' * 9}{i}-trained-{i}", 16 + i / 10, 0.1 + i / 100)
    ]
    (summary,) = of(results)
    text = shown([summary], columns)
    assert widest(text) <= columns
    assert [one.number for one in summary.lines] == list(range(1, 31))
    first = text.splitlines()[text.splitlines().index(next(x for x in text.splitlines() if x.startswith("--"))) + 1 :]
    assert [line.split()[0] for line in first[:30]] == [str(i) for i in range(1, 31)]
    names = [line.split()[1] for line in first[:30]]
    assert len(set(names)) == 30


@pytest.mark.parametrize("tasks", [
    ["sparsity"], ["reconstruction"], ["loss_recovered"], ["probe_recovery"], ["token_rules"],
    ["sparsity", "loss_recovered"], ["reconstruction", "probe_recovery"],
])  # fmt: skip
def test_columns_are_those_that_some_result_has(tasks):
    results = [one for one in many() if one.task in tasks]
    for summary in of(results):
        assert {column.task for column in summary.columns} <= set(tasks)
        for column in summary.columns:
            assert any(column.key in one.figures for one in summary.lines)
        assert widest(shown([summary], 100)) <= 100


def test_a_task_that_no_column_names_has_one_while_there_is_room():
    alone = of([made("a", "sparse_probing", {"auroc_k1": 0.8, "auroc_k5": 0.9})])
    assert [column.metric for column in alone[0].columns] == ["auroc_k1"]
    beside = of([*family("a", 32.0, 0.1), made("a", "sparse_probing", {"auroc_k1": 0.8}, data_sha256="5" * 64)])
    assert "measured too: sparse_probing" in shown(beside, 100)


def test_a_judged_result_has_its_column_and_its_judge():
    judged = made("a", "autointerp", {"detection": 0.7}, parameters={"judge": "gpt-4o"}, details={"unanswered": 2})
    (summary,) = of([*family("a", 32.0, 0.1), judged])
    text = shown([summary], 120)
    assert summary.columns[-1].name == "detection"
    assert summary.lines[0].cells["autointerp.detection"] == "0.7?"
    assert "line 1: ? autointerp is partial: 2 requests have no complete, readable answer" in text
    assert "autointerp: judged by gpt-4o" in text


# ---------------------------------------------------------------- what may not matter


def test_the_order_of_results_changes_nothing():
    results = many()
    text = shown(of(results), 100)
    for seed in range(5):
        random.Random(seed).shuffle(results)
        assert shown(of(results), 100) == text


OTHER = {
    "model": {"model": "gpt2-xl", "model_sha256": "9" * 64},
    "hook point": {"hooks_in": ("blocks.1.hook_resid_post",), "hooks_out": ("blocks.1.hook_resid_post",)},
    "text": {"data_sha256": "8" * 64, "calibration_sha256": "7" * 64},
    "seed": {"seed": 3},
    "mask": {"mask": "none", "special_ids": ()},
    "suite": {"suite": "demo-v1@" + "1" * 64},
}


@pytest.mark.parametrize("what", OTHER)
def test_what_was_measured_otherwise_is_another_table_and_moves_no_rank(what):
    before = of(many())
    after = of([*many(), *family("lab/other", 32.2, 0.01, **OTHER[what])])
    assert len(before) == 1
    assert len(after) == 2
    (own,) = [one for one in after if "lab/other" not in lines_of(one)]
    (other,) = [one for one in after if "lab/other" in lines_of(one)]
    assert lines_of(own) == lines_of(before[0])
    assert len(other.lines) == 1
    assert not other.ranked
    numbers = [one.number for summary in after for one in summary.lines]
    assert numbers == list(range(1, 9)), "a number says which line is meant, in whatever table"


def test_figures_of_two_protocols_of_a_task_never_share_a_column():
    more = made("lab/topk-16", "loss_recovered", {"kl": 0.07}, parameters={"changed": 1})
    (summary,) = of([*many(), more])
    kls = [column for column in summary.columns if column.metric == "kl"]
    assert [column.name for column in kls] == ["KL", "KL(2)"]
    for column in kls:
        assert len({r.protocol for one in summary.lines for r in one.results if r.protocol == column.protocol}) == 1
    assert "other protocols, whose figures are not compared" in shown([summary], 100)


def test_labelled_sets_join_the_text_they_were_measured_with():
    (summary,) = of(family("a", 32.0, 0.1))
    assert "probe_recovery.probe_r" in summary.lines[0].figures
    alone = of([one for one in family("a", 32.0, 0.1) if one.task == "probe_recovery"])
    assert [column.metric for column in alone[0].columns] == ["probe_r"]
    assert "36 of 37 labelled sets" in alone[0].title


def test_sets_that_were_not_read_are_no_part_of_what_was_measured_on():
    """A task without a set that it can use is skipped, and says so below: 0 of 0 sets above says nothing."""
    none = {"data": {"coverage": "0 of 0"}, "status": "skipped", "reason": "no set says it", "data_sha256": "6" * 64}
    skipped = made("a", "token_labels", {}, **none)
    (summary,) = of([*family("a", 32.0, 0.1), skipped])
    assert "36 of 37 labelled sets" in summary.title
    assert "0 of 0" not in summary.title
    few = made(
        "a",
        "token_labels",
        {"label_f1": 0.3},
        **(none | {"data": {"coverage": "30 of 30"}, "status": "ok", "reason": None}),
    )
    assert "36 of 37 labelled sets (token_labels: 30 of 30); " in of([*family("a", 32.0, 0.1), few])[0].title
    assert "0 of 0 labelled sets" in of([skipped])[0].title


def test_two_saes_of_one_name_are_two_lines():
    first = family("lab/twin", 32.0, 0.1)
    second = [one.model_copy(update={"sae": one.sae.model_copy(update={"weights_sha256": "c" * 64})}) for one in first]
    text = shown(of([*first, *second]), 100)
    assert "(cccccccc)" in text


def test_saes_that_lie_beside_are_ranked_among_and_have_no_line():
    own, others = family("lab/a", 32.0, 0.1), [*family("lab/b", 32.1, 0.01), *family("lab/c", 90.0, 0.01)]
    alone, (beside,) = of(own), of(own, others)
    assert not alone[0].ranked
    assert [one.name for one in beside.lines] == ["lab/a"]
    assert beside.lines[0].rank == "2 of 2"
    assert "the SAE of this table and 2 more in the same folder under the same protocol" in shown([beside], 200)


def test_the_others_of_a_folder_are_found_by_their_protocol(tmp_path):
    own = family("lab/a", 32.0, 0.1)
    others = [*family("lab/b", 32.1, 0.01), *family("lab/c", 32.2, 0.01, seed=5), *family("lab/d", 32.3, 0.3)]
    out = lay(tmp_path, [*own, *others])
    found = others_in(out, own, {"loss_recovered", "sparsity"})
    assert sorted({one.sae.name for one in found.values()}) == ["lab/b", "lab/d"], "c was measured with another seed"
    assert {one.task for one in found.values()} == {"loss_recovered", "sparsity"}
    for file in (file for file, one in found.items() if one.sae.name == "lab/d"):
        file.write_text("{")
    assert {one.sae.name for one in others_in(out, own, {"loss_recovered"}).values()} == {"lab/b"}
    assert others_in(tmp_path / "nowhere", own, {"loss_recovered"}) == {}
    files = {store.path_of(out, r.sae, r.task, r.version, r.protocol): r for r in own}
    (summary,) = summaries(files, SPECS, others=found)
    assert summary.lines[0].rank == "2 of 3"


def test_ranks_are_those_of_the_board():
    """Of the results that ship, whose units are there: by paired differences, as the board makes them."""
    shipped = Path(__file__).parents[1] / "results"
    wanted = columns.chosen(columns.read_columns(COLUMNS, SPECS), "loss_recovered.kl")
    (table,) = layout.make(collect.collect(shipped, SPECS), wanted).tables
    cells = {row.sae.name: row.cells["loss_recovered.kl"] for row in table.rows}
    (summary,) = [one for one in summaries(heads(shipped), SPECS) if one.by == "loss_recovered.kl"]
    assert {one.name for one in summary.lines} == set(cells)
    for one in summary.lines:
        cell = cells[one.name]
        assert one.figures["loss_recovered.kl"] == cell.value.value
        if cell.rank is None or cell.group is None:
            assert one.rank == "alone"
        else:
            low, high = cell.rank
            assert one.rank == f"{low if low == high else f'{low}-{high}'} of {cell.group.n}"
    assert any(one.rank not in ("-", "alone") for one in summary.lines)
    assert {one.verdict.split()[0] for one in summary.lines} <= {"beats", "ties", "below"}


# ---------------------------------------------------------------- what must be seen


def test_a_figure_that_is_missing_is_marked_and_told():
    (summary,) = of(many())
    line = next(one for one in summary.lines if one.figures.get("loss_recovered.kl", 0) is None)
    assert (line.cells["loss_recovered.kl"], line.rank, line.verdict) == ("-", "-", "-")
    assert f"line {line.number}: KL: no value, because no token is left to measure" in shown([summary], 200)


def test_a_task_that_failed_is_a_dash_and_told_once():
    (summary,) = of(many())
    own = [one for one in summary.lines if one.name.startswith("lab/outlier")]
    assert len(own) == 2
    assert {one.cells["loss_recovered.kl"] for one in own} == {"-"}
    assert shown([summary], 200).count("the SAE decodes to NaN") == 1


def test_an_interval_that_is_too_narrow_is_marked_in_its_cell_or_in_its_heading():
    few = {"optimistic": "32 groups"}
    mixed = [made("a", "reconstruction", {"fvu": value("reconstruction", "fvu", 0.1, **few)}),
             made("b", "reconstruction", {"fvu": 0.2})]  # fmt: skip
    (summary,) = of(mixed)
    assert {one.name: one.cells["reconstruction.fvu"] for one in summary.lines} == {"a": "0.1*", "b": "0.2"}
    every = [made(n, "reconstruction", {"fvu": value("reconstruction", "fvu", 0.1, **few)}) for n in "ab"]
    every += [made(n, "sparsity", {"l0": 32.0}) for n in "ab"]
    (summary,) = of(every)
    assert {column.metric: column.sign for column in summary.columns} == {"fvu": "*", "l0": ""}
    assert "32 groups: FVU" in shown([summary], 100)
    whole = of([one for one in every if one.task == "reconstruction"])
    assert "Every interval is too narrow, as the sample itself says: 32 groups." in shown(whole, 100)


@pytest.mark.parametrize(("verdict", "words"), [
    ("better", "beats random_fit"), ("worse", "below random_fit"), ("cannot be told apart", "ties random_fit"),
])  # fmt: skip
def test_the_verdict_is_that_of_the_best_control(verdict, words):
    against = {
        "random_fit": {"kl": verdict},
        "mean": {"kl": "better"},
        "identity": {"kl": "worse"},
        "pursuit": {"kl": "worse"},
    }
    if verdict == "better":
        against["mean"] = {"kl": "better"}
    (summary,) = of(
        [made("a", "loss_recovered", {"kl": 0.1}, against={k: v for k, v in against.items() if k != "mean"})]
    )
    assert summary.lines[0].verdict == words
    (bounds,) = of([made("a", "loss_recovered", {"kl": 0.1}, against={"identity": {"kl": "worse"}})])
    assert not bounds.judged, "what an SAE could reach is nothing that it has to beat"
    assert "no verdict against controls" in shown([bounds], 200)


def test_ties_and_losses_in_other_figures_are_told_with_their_controls():
    (summary,) = of([
        made("a", "loss_recovered", {"kl": 0.1}),
        made("a", "reconstruction", {"fvu": 0.1}, against={"pca": {"fvu": "worse"}}),
        made("a", "probe_recovery", {"probe_r": 0.1}, against={"random": {"probe_r": "cannot be told apart"}}),
    ])  # fmt: skip
    assert summary.lines[0].cells == {
        "reconstruction.fvu": "0.1!", "loss_recovered.kl": "0.1", "probe_recovery.probe_r": "0.1~",
    }  # fmt: skip
    text = shown([summary], 200)
    assert "~ cannot be told from its best control: probe R of 1 (random)" in text
    assert "! worse than its best control: FVU of 1 (pca)" in text


def test_what_is_said_of_many_saes_is_said_once():
    text = shown(of(many()), 200)
    assert text.count("so that fvu says how these few are given back") == 1
    assert "lines 6, 7: reconstruction: 12 of 5600 tokens hold 61.5% of the variance" in text


def test_a_control_that_could_not_be_made_is_told_where_verdicts_rest_on_it():
    lost = {"controls without figures": {"random_fit": "4096 calibration tokens are too few"}}
    (summary,) = of([made("a", "loss_recovered", {"kl": 0.1}, against={"pca": {"kl": "better"}}, details=lost)])
    assert "control random_fit has no figures in loss_recovered: 4096 calibration" in shown([summary], 200)


def test_where_every_task_failed_the_lines_say_only_that():
    results = [made(n, "loss_recovered", {}, status="error", reason="it decodes to NaN") for n in ("a", "b")]
    (summary,) = of(results)
    text = shown([summary], 100)
    assert [one.split() for one in text.splitlines() if one.startswith(("1", "2"))] == [["1", "a"], ["2", "b"]]
    assert "lines 1, 2: loss_recovered: error: it decodes to NaN" in text


def test_a_task_of_a_package_that_is_not_here_is_shown_by_its_own_definition():
    fvu = SPECS["reconstruction"].metrics["fvu"].model_copy(update={"table": "window", "name": "width of it"})
    spec = SPECS["sparsity"].model_copy(update={"id": "foreign", "metrics": {"width_of_it": fvu}})
    metric = value("reconstruction", "fvu", 0.25)
    one = result(task="foreign", metrics={"width_of_it": metric}).model_copy(update={"definition": spec})
    (summary,) = of([one])
    assert [(column.name, column.better) for column in summary.columns] == [("width of it", "lower")]
    (bare,) = of([one.model_copy(update={"definition": None})])
    assert list(bare.lines[0].cells.values()) == ["0.25"]


def test_why_there_is_no_verdict_is_said_of_each_sae():
    older = made("older", "loss_recovered", {"kl": 0.2})
    older = older.model_copy(update={"provenance": older.provenance.model_copy(update={"controls": ("pca",)})})
    (summary,) = of([
        made("held", "loss_recovered", {"kl": 0.1}, against={"pca": {"kl": "better"}}), older,
        made("none", "loss_recovered", {"kl": 0.3}),
        made("bound", "loss_recovered", {"kl": 0.4}, against={"identity": {"kl": "worse"}}),
    ])  # fmt: skip
    assert [one.name for one in summary.lines] == ["held", "older", "none", "bound"]
    text = shown([summary], 200)
    assert "line 2: no verdict against controls: the result holds no pair with one: an older sae-bench" in text
    assert "line 3: no verdict against controls: none was measured" in text
    assert "line 4: no verdict against controls: too few groups" in text


# ---------------------------------------------------------------- names and widths


@pytest.mark.parametrize("columns", [40, 60, 100])
def test_strange_names_stay_names_on_one_line(columns):
    results = [one for name in STRANGE for one in family(name, 32.0, 0.1)]
    text = shown(of(results), columns)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert widest(text) <= columns
    (summary,) = of(results)
    assert len(summary.lines) == len(STRANGE)
    assert all(line.count("|") >= 3 for line in as_markdown(summary)[: len(STRANGE) + 2])


@given(st.lists(st.text(max_size=60), min_size=1, max_size=12, unique=True), st.integers(10, 40))
def test_shortened_names_are_unlike_fit_and_do_not_depend_on_order(names, columns):
    made = unlike(names, columns)
    assert len(set(made.values())) == len(names)
    assert made == unlike(names[::-1], columns)
    assert all(width(one) <= columns for one in made.values())
    assert all(one.isprintable() for one in made.values())
    assert all(made[name] == name for name in names if name.isprintable() and width(name) <= columns) or any(
        not name.isprintable() for name in names
    )


@given(st.text(max_size=200), st.integers(10, 60))
def test_sentences_keep_to_their_width_and_lose_nothing(text, columns):
    lines = wrapped(text, columns, then="  ")
    assert all(width(line) <= columns for line in lines)
    whole = "".join("".join(lines).split())
    assert whole == "".join("".join(c if c.isprintable() else "?" for c in text).split())


@given(st.lists(st.lists(st.text(max_size=30), min_size=5, max_size=5), min_size=1, max_size=4), st.integers(40, 120))
def test_tables_keep_to_their_width_and_show_every_cell(rows, columns):
    lines = table([("", f"head {i}") for i in range(5)], rows, columns=columns)
    assert all(width(line) <= columns for line in lines)
    drawn = sorted("".join("".join(lines).split()))
    for row in rows:
        for cell in row:
            for character in "".join(c if c.isprintable() else "?" for c in cell).split():
                assert set(character) <= set(drawn)


def test_wide_and_combining_characters_are_counted_as_a_terminal_draws_them():
    assert (width("名前"), width("e\u0301"), width("abc")) == (4, 1, 3)
    assert padded("名", 4) == "名  "
    assert [ranges(numbers) for numbers in ([3], [1, 2], [5, 3, 4, 1], [])] == ["3", "1, 2", "1, 3-5", ""]


# ---------------------------------------------------------------- what to do next

PATHS = [
    "runs",
    "my runs",
    "it's",
    "-x",
    "a\nb",
    "\x1b[31m",
    "$(touch x)",
    "`x`",
    "ü ñ",
    "a'\"\\b",
    "*",
    "~/runs",
    "\udcff",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_comes_back_from_a_shell_as_it_was(path):
    quoted = shell(path)
    assert quoted.isprintable()
    read = subprocess.run(
        ["bash", "-c", f"printf %s {quoted}"], capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert read.stdout == path.encode("utf-8", "surrogateescape")


def test_a_path_that_begins_with_a_dash_is_no_flag():
    assert command("show", "-x") == "sae-bench show ./-x"
    assert command("card", "runs", options={"--out": "-x"}) == "sae-bench card runs --out ./-x"


def test_the_next_commands_work_as_they_stand(tmp_path, capsys):
    from sae_bench.cli.main import main

    out = lay(tmp_path / "my runs", many())
    results = list(heads(out).values())
    steps = next_steps(results, of(results), str(out))
    commands = [line.strip() for line in steps if line.strip().startswith("sae-bench")]
    assert [one.split()[1] for one in commands] == ["show", "compare", "card", "board"]
    for one in commands:
        words = shlex.split(one)
        code = main(words[1:])
        text = capsys.readouterr()
        assert code == (3 if words[1] == "compare" else 0), text.err  # without units nothing is compared
    assert (out / "CARD.md").read_text().startswith("## Evaluation with sae-bench")
    assert next_steps([one.model_copy(update={"status": "error"}) for one in results], of(results), str(out)) == []


# ---------------------------------------------------------------- where it stands


def test_show_of_a_folder_begins_with_the_summary(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    show = runner(show_verb, "show", capsys)
    out = lay(tmp_path, many())
    _, text, _ = show(out)
    assert text.startswith(shown(of(many()), 80))
    one = next(file for file in heads(out))
    assert "best control" not in show(one)[1], "of one result there is nothing to sum up"
    assert widest(text) <= 80, "and so do all tables behind it"


def test_show_has_no_heading_over_nothing_and_says_of_which_sae_the_rest_is(tmp_path, capsys):
    kept = {"tokens": 1000, "dead_by_tokens": {"latents": 8, "tokens": [1], "expected": [1.0], "at_twice": None}}
    for name in ("lab/a", "lab/b"):
        details = kept if name == "lab/b" else {}
        lay(
            tmp_path, [made(name, "sparsity", {"l0": 8.0}, details=details), made(name, "reconstruction", {"fvu": 0.1})]
        )
    _, text, _ = runner(show_verb, "show", capsys)(tmp_path)
    assert [one for one in text.splitlines() if "what else it holds" in one] == ["lab/b, sparsity, what else it holds:"]


def test_what_was_skipped_keeps_to_the_terminal(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    data = {"skipped": {"a_set": "the train part has 6 positive and 122 negative texts, and each class needs 8"}}
    lay(tmp_path, [made("lab/" + "long" * 9, "probe_recovery", {"probe_r": 0.4}, data=data)])
    lay(tmp_path, [made("lab/b", "sparsity", {"l0": 8.0})])
    _, text, _ = runner(show_verb, "show", capsys)(tmp_path)
    assert "each class needs 8" in " ".join(text.split())
    assert widest(text) <= 40


def test_names_are_not_broken_where_the_table_has_room():
    name = "x" * 60
    drawn = table([("", "#"), ("", "SAE"), ("", "L0")], [["1", name, "16"]], columns=80, keep=2)
    assert drawn[-1].split() == ["1", name, "16"]
    assert len(table([("", "#"), ("", "SAE"), ("", "L0")], [["1", name, "16"]], columns=60, keep=2)) > len(drawn)


def test_a_summary_from_disk_needs_no_torch(tmp_path):
    out = lay(tmp_path, many())
    code = (
        "import sys; from sae_bench.cli.main import main; "
        f"main(['show', {str(out)!r}]); main(['card', {str(out)!r}, '--front-matter']); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.usefixtures("shipped_lock")  # which the process reads, too
def test_a_terminal_without_arrows_gets_others_of_the_same_width(tmp_path):
    out = lay(tmp_path, many())
    code = f"import sys; from sae_bench.cli.main import main; sys.exit(main(['show', {str(out)!r}]))"
    env = {"PYTHONIOENCODING": "ascii", "NO_COLOR": "1", "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    text = done.stdout.decode("ascii")
    assert "\x1b" not in text
    assert "FVU v" in text
    wanted = shown(of(many()), 100).translate(str.maketrans("…↑↓", "~^v"))
    assert text.startswith(wanted)


def test_json_of_a_summary_is_plain():
    content = [one.to_json() for one in of(many())]
    text = json.dumps(content, allow_nan=False)
    (first,) = json.loads(text)
    assert first["by"] == "loss_recovered.kl"
    assert [one["line"] for one in first["saes"]] == list(range(1, 8))
    assert first["saes"][1]["rank"] == "1-2 of 3"


def test_a_result_of_an_older_version_without_verdicts_is_shown():
    (summary,) = of([result(name="old", task="sparsity")])
    assert summary.lines[0].cells == {"sparsity.l0": "1.5"}
    assert not summary.judged
