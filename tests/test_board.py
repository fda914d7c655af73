"""The board: what a reader sees of a folder of results, in every format, whatever the files hold."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.board import collect, columns, data, latex, layout, ranks, text
from sae_bench.board import page as html_page
from sae_bench.errors import UsageError
from sae_bench.registry import data_folder, tasks
from sae_bench.results import store, verified
from sae_bench.schema import CONTROL_RULES, LOST, NO_LATENTS, MetricValue
from sae_bench.show.text import line as one_line
from sae_bench.units import Units
from tests.builders.boards import COLUMNS, HOSTILE, SNAPSHOTS, figure, main_board, make, of_one_l0, put, small
from tests.builders.results import changed, result

FVU = "reconstruction.fvu"
ROOT = Path(__file__).parent.parent


def table(board, group):
    return next(t for t in board.tables if t.group == group)


# --- formats ---------------------------------------------------------------------------------------------------------

FORMATS = {
    "text": ("board.txt", text.as_text),
    "github": ("board.md", text.as_github),
    "latex": ("board.tex", latex.as_latex),
    "csv": ("board.csv", data.as_csv),
    "json": ("board.json", data.as_json),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_looks_as_it_did(tmp_path, name):
    """To accept a change: delete the file, run this test, read what it wrote."""
    file, write = FORMATS[name]
    shown = write(make(small(tmp_path)))
    kept = SNAPSHOTS / file
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(shown.encode())
        pytest.fail(f"{kept} was missing and is written anew: read it, then run again")
    assert shown.encode() == kept.read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_results_give_the_same_bytes_in_any_order_of_writing(tmp_path, name):
    small(tmp_path / "a")
    small(tmp_path / "c")
    shutil.copytree(tmp_path / "c", tmp_path / "b")
    assert FORMATS[name][1](make(tmp_path / "a")) == FORMATS[name][1](make(tmp_path / "b"))


def test_l0_width_and_architecture_stand_beside_every_score(tmp_path):
    for line in text.as_text(make(small(tmp_path))).splitlines():
        if line.startswith("lab/b_2"):
            assert line.split()[1:4] == ["jumprelu", "1024", "34.5"]


def test_l0_is_found_where_it_was_measured_on_other_text(tmp_path):
    put(tmp_path, "a", "sparsity", {"l0": 3.0}, n_documents=16, data_sha256="7" * 64)
    put(tmp_path, "a", "sparsity", {"l0": 5.0}, n_documents=512, data_sha256="8" * 64)
    put(tmp_path, "a", "probe_recovery", {"probe_r": 0.5}, data_sha256="9" * 64)
    assert table(make(tmp_path), "Known properties in single latents").rows[0].l0.value == 5.0


def test_controls_are_reference_rows_below(tmp_path):
    board = make(small(tmp_path))
    lines = text.as_text(board).splitlines()
    assert next(i for i, x in enumerate(lines) if x.startswith("control: mean")) > next(
        i for i, x in enumerate(lines) if x.startswith("lab/c_3")
    )
    assert any(row["control"] == "mean" and row["sae"] == "" for row in csv.DictReader(io.StringIO(data.as_csv(board))))


def test_controls_of_older_rules_stand_apart(tmp_path):
    """They were matched otherwise and measured on other text: one range of both would be of neither."""
    small(tmp_path)
    names = {reference.name for table in make(tmp_path).tables for reference in table.references}
    assert names == {"mean"}, "where all are of one kind, nothing is said"
    newer = next(file for file in store.find(tmp_path) if "lab__a_1" in str(file) and "reconstruction" in file.name)
    changed(newer, "provenance", "control_rules", value=CONTROL_RULES)
    changed(newer, "controls", "mean", "fvu", "value", value=1.0625)
    of_three = [reference for one in make(tmp_path).tables if len(one.rows) == 3 for reference in one.references]
    found = {one.name: one.cells["reconstruction.fvu"] for one in of_three if "reconstruction.fvu" in one.cells}
    assert found == {"mean": (1.0625, 1.0625), "mean (as defined before)": (1.0, 1.0)}


def test_fixed_decimals(tmp_path):
    file = tmp_path / "columns.toml"
    file.write_text('[[group]]\nname = "x"\ncolumns = [{task = "reconstruction", metric = "fvu", decimals = 2}]')
    wanted = columns.read_columns(file, {"reconstruction": tasks()["reconstruction"]})
    put(tmp_path / "r", "a", "reconstruction", {"fvu": 0.12345})
    board = layout.make(collect.collect(tmp_path / "r", tasks()), wanted)
    assert "0.12 [0.11, 0.14]" in text.as_text(board)


def test_official_is_true_or_false_in_json_and_a_word_in_csv(tmp_path):
    """The word "no" is true to a program that asks whether there is anything."""
    board = make(small(tmp_path))
    assert {table["official"] for table in json.loads(data.as_json(board))["tables"]} == {False}
    assert {row["official"] for row in csv.DictReader(io.StringIO(data.as_csv(board)))} == {"no"}


def test_json_is_strict_and_holds_ranks_and_what_is_missing(tmp_path):
    put(tmp_path, "a", "reconstruction", {"fvu": MetricValue(value=None, low=None, high=None, unit="1", better="lower",
                                                              n_units=0, reason="no tokens")})  # fmt: skip
    put(tmp_path, "b", "reconstruction", {"fvu": 0.5})
    put(tmp_path, "c", "reconstruction", {"fvu": 0.1})
    of_one_l0(tmp_path, "abc")

    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(data.as_json(make(tmp_path)), parse_constant=refuse)
    scores = {row["sae"]: row["scores"]["reconstruction.fvu"] for row in content["tables"][0]["rows"]}
    assert scores["a"]["value"] is None
    assert scores["a"]["reason"] == "no tokens"
    assert scores["a"]["rank"] is None
    assert (scores["b"]["rank"], scores["c"]["rank"]) == ([2, 2], [1, 1])
    assert scores["c"]["among"] == {"n": 2, "l0": [32.0, 32.0]}
    assert any("no tokens" in note for note in content["tables"][0]["notes"])


# --- grouping and ranks ----------------------------------------------------------------------------------------------


def test_results_of_different_protocols_are_never_in_one_ranking(tmp_path):
    changes = [{}, {"seed": 1}, {"mask": "none"}, {"model_sha256": "9" * 64}, {"task_sha256": "9" * 64},
               {"version": 2}, {"parameters": {"x": 1}}, {"data_sha256": "9" * 64}, {"n_documents": 9}]  # fmt: skip
    for i, change in enumerate(changes):
        put(tmp_path, f"sae{i}", "reconstruction", {"fvu": 0.1 + i}, **change)
    board = make(tmp_path, metrics="fvu")
    assert len(board.tables) == len(changes)
    for one in board.tables:
        assert len(one.protocols) == len(one.rows) == 1
        assert all(cell.rank is None for row in one.rows for cell in row.cells.values())


def test_names_of_model_and_data_do_not_part_a_table(tmp_path):
    put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    put(tmp_path, "b", "reconstruction", {"fvu": 0.2}, model="/home/me/gpt2", data="other name")
    board = make(tmp_path, metrics="fvu")
    assert [len(one.rows) for one in board.tables] == [2]
    assert board.tables[0].model == "/home/me/gpt2 = gpt2"


def test_saes_that_cannot_be_told_apart_share_a_rank(tmp_path):
    rows = table(make(small(tmp_path)), "Reconstruction and loss").rows
    assert [(r.sae.name, r.cells["reconstruction.fvu"].rank) for r in rows] == [
        ("lab/a_1", (1, 2)),
        ("lab/b_2", (1, 2)),
        ("lab/c_3", None),  # alone at its L0
    ]


def test_a_metric_without_a_direction_has_no_ranks(tmp_path):
    rows = table(make(small(tmp_path)), "Geometry of the reconstruction").rows
    assert all(row.cells["reconstruction.norm_ratio"].rank is None for row in rows)


INTERVALS = st.lists(  # whole numbers: ends are equal, or differ by more than rounding, which is no difference
    st.tuples(st.integers(-1000, 1000), st.integers(0, 99), st.integers(0, 99)) | st.none(), min_size=1, max_size=12
)


@given(drawn=INTERVALS, better=st.sampled_from(["higher", "lower"]))
def test_ranks_by_intervals_are_what_a_plain_loop_counts(drawn, better):
    values = [
        MetricValue(value=0.0, low=None, high=None, unit="1", better=better, n_units=1)
        if d is None
        else MetricValue(value=d[0], low=d[0] - d[1], high=d[0] + d[2], unit="1", better=better, n_units=1)
        for d in drawn
    ]

    def surely_better(a, b):
        if a.low is None or b.low is None:
            return False
        return a.low > b.high if better == "higher" else a.high < b.low

    expected = [
        (1 + sum(surely_better(b, a) for b in values), len(values) - sum(surely_better(a, b) for b in values))
        for a in values
    ]
    assert ranks.from_intervals(values, better) == expected


def losses(seed, more):
    """Losses of documents that differ much from each other, and little between SAEs."""
    rng = np.random.default_rng(0)
    ids = tuple(f"d{i}" for i in range(60))
    clean = 30 * rng.gamma(2.0, 1.0, len(ids))
    noise = np.random.default_rng(seed).normal(0, 0.1, len(ids))
    hard = rng.gamma(1.0, 20.0, len(ids))
    return Units(
        ids, {"predictions": np.full(len(ids), 10.0), "ce_clean": clean, "ce_spliced": clean + hard + more + noise}
    )


def test_ranks_by_paired_differences_see_what_intervals_do_not(tmp_path):
    files = []
    for name, more in (("a", 0.0), ("b", 0.0), ("c", 3.0)):
        units = losses(ord(name), more)
        delta = float((units.columns["ce_spliced"] - units.columns["ce_clean"]).sum() / 600)
        values = {"delta_ce": figure("loss_recovered", "delta_ce", delta, half=0.3)}
        files.append(put(tmp_path, name, "loss_recovered", values, tables={"document": units}))
    of_one_l0(tmp_path, "abc")
    board = make(tmp_path)
    one = table(board, "Reconstruction and loss")
    assert board.problems == ()
    assert [(r.sae.name, r.cells["loss_recovered.delta_ce"].rank) for r in one.rows][-1] == ("c", (3, 3))
    assert {r.cells["loss_recovered.delta_ce"].rank for r in one.rows} == {(1, 2), (3, 3)}
    assert "paired difference on common units" in one.notes[0]
    files[0].with_suffix(".units.safetensors").unlink()
    one = table(make(tmp_path), "Reconstruction and loss")
    assert {r.cells["loss_recovered.delta_ce"].rank for r in one.rows} == {(1, 3)}
    assert "two 95 % intervals do not overlap (not every result has its units)" in one.notes[0]


def test_units_that_cannot_be_read_are_told_and_intervals_used(tmp_path):
    for name in "ab":
        units = losses(1, 0.0)
        delta = float((units.columns["ce_spliced"] - units.columns["ce_clean"]).sum() / 600)
        file = put(tmp_path, name, "loss_recovered", {"delta_ce": delta}, tables={"document": units})
    of_one_l0(tmp_path, "ab")
    file.with_suffix(".units.safetensors").write_bytes(b"not units")
    board = make(tmp_path)
    assert "is not a table of units" in board.problems[0]
    assert str(file.with_suffix(".units.safetensors")) in board.problems[0]
    assert "the units cannot be compared" in board.tables[0].notes[0]


def test_many_saes_are_ranked_by_their_intervals(tmp_path):
    for i in range(ranks.PAIRED_AT_MOST + 1):
        put(tmp_path, f"s{i:02d}", "reconstruction", {"fvu": 2.0**i})
        put(tmp_path, f"s{i:02d}", "probe_recovery", {"probe_r": 2.0**-i})
        put(tmp_path, f"s{i:02d}", "sparsity", {"l0": 10.0 + i / 20})
    for group, metric, why in (
        ("Reconstruction and loss", "reconstruction.fvu", "more than 66 pairs of about one L0"),
        ("Known properties in single latents", "probe_recovery.probe_r", "more than 12 SAEs"),
    ):
        one = table(make(tmp_path, metrics="fvu,probe_r"), group)
        assert why in one.notes[0]
        assert [r.cells[metric].rank for r in one.rows] == [(i, i) for i in range(1, 14)]


def test_a_board_of_many_pairs_is_ranked_by_intervals(tmp_path):
    for place in range(8):
        for i in range(12):
            put(tmp_path, f"s{place}_{i:02d}", "reconstruction", {"fvu": 2.0**i}, seed=place)
            of_one_l0(tmp_path, [f"s{place}_{i:02d}"], seed=place)
    board = make(tmp_path, metrics="fvu")
    assert len(board.tables) == 8
    assert all("more than 500 pairs on this board" in one.notes[0] for one in board.tables)


# --- text from elsewhere ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_escapes_its_cell(tmp_path, name):
    put(tmp_path / "bad", name, "reconstruction", {"fvu": 0.1}, architecture=name, model=name)
    put(tmp_path / "plain", "plain", "reconstruction", {"fvu": 0.1}, architecture="plain", model="plain")
    bad, plain = make(tmp_path / "bad"), make(tmp_path / "plain")
    for write in (text.as_text, text.as_github, latex.as_latex):
        shown = write(bad)
        assert len(shown.splitlines()) == len(write(plain).splitlines())
        assert all(c.isprintable() or c in "\n\u200b" for c in shown)
    head, _, row = text.as_github(bad).split("\n| ", 1)[1].split("\n")[:3]
    unescaped = re.findall(r"(?<!\\)(?:\\\\)*\|", row)
    assert len(unescaped) == len(re.findall(r"\|", head)) + 1
    assert "<script" not in text.as_github(bad)
    assert "<img" not in text.as_github(bad)
    rows = list(csv.DictReader(io.StringIO(data.as_csv(bad))))
    assert all(row["sae"].lstrip("'") == one_line(name).lstrip("'") for row in rows if not row["control"])
    assert all(c.isprintable() or c in "\r\n" for c in data.as_csv(bad))
    assert all(not cell or cell[0] not in "=+@\t\r\n" for row in rows for cell in row.values())


@pytest.mark.parametrize("value", ["=1+1", "+1", "-x", "@SUM(A1)", "\t=1", "\r=1"])
def test_text_that_a_spreadsheet_takes_for_a_formula_is_quoted(tmp_path, value):
    put(tmp_path, value, "reconstruction", {"fvu": 0.1, "relative_reconstruction_bias": -0.5})
    rows = list(csv.DictReader(io.StringIO(data.as_csv(make(tmp_path)), newline="")))
    assert {row["sae"] for row in rows if not row["control"]} == {f"'{one_line(value)}"}
    assert "-0.5" in {row["value"] for row in rows}


@given(name=st.text(max_size=40))
def test_markdown_names_hold_no_markup(name):
    shown = text.markdown_name(name)
    inner = shown[1:-1] if shown.startswith("`") else shown.removeprefix("<code>").removesuffix("</code>")
    assert not set(inner) & set("`<>|\\[]*\n")


def test_latex_compiles(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is not installed")
    for i, name in enumerate([*HOSTILE, "Δ ± ↑ ü 日本 ²", "[x]", "--- ?` !`", "\\\\", "x" * 300]):
        put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1 + i}, architecture=name, model=name)
    small(tmp_path / "r")
    body = latex.as_latex(make(tmp_path / "r", everything=True))
    document = (
        "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n" + body + "\\end{document}\n"
    )
    (tmp_path / "board.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "board.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-1500:]


# --- bad files -------------------------------------------------------------------------------------------------------


def test_bad_files_are_told_and_the_rest_is_shown(tmp_path, capsys):
    small(tmp_path)
    truncated = put(tmp_path, "z1", "reconstruction", {"fvu": 0.1})
    truncated.write_text(truncated.read_text()[:99])
    tampered = put(tmp_path, "z2", "reconstruction", {"fvu": 0.1})
    tampered.write_text(tampered.read_text().replace('"seed": 0', '"seed": 7'))
    newer = put(tmp_path, "z3", "reconstruction", {"fvu": 0.1})
    newer.write_text(newer.read_text().replace('"schema_version": 3', '"schema_version": 9'))
    unknown = put(tmp_path, "z4", "reconstruction", {"fvu": 0.1})
    content = json.loads(unknown.read_text())
    content["metrics"]["fvuu"] = content["metrics"]["fvu"]
    unknown.write_text(json.dumps(content))
    turned = put(tmp_path, "z5", "loss_recovered", {"delta_ce": 0.1})
    turned.write_text(turned.read_text().replace('"better": "lower"', '"better": "higher"'))
    first = put(tmp_path, "z6", "reconstruction", {"fvu": 0.1})
    twin = first.parent.parent / "copy" / first.name
    twin.parent.mkdir()
    shutil.copy(first, twin)
    assert main_board(tmp_path) == 0
    out, err = capsys.readouterr()
    assert "lab/a_1" in out
    for file, field in (
        (truncated, "is not valid JSON"),
        (tampered, "'protocol' must be the hash"),
        (newer, "result schema 9"),
        (unknown, "'metrics': reconstruction has no metric 'fvuu'"),
        (turned, "'metrics.delta_ce'"),
        (twin, "'sae' and 'protocol'"),
    ):
        lines = [line for line in err.splitlines() if str(file) in line]
        assert len(lines) == 1, (file, err)
        assert field in lines[0]
    assert len(err.splitlines()) == 6
    shown = [line.split()[0] for line in out.splitlines() if line.startswith("z")]
    assert sorted(shown) == ["z4", "z6"]
    assert main_board(tmp_path, "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 6


def test_nothing_to_show_is_a_sentence_and_exit_2(tmp_path, capsys):
    assert main_board(tmp_path / "nowhere") == 2
    assert "there is no file or folder" in capsys.readouterr().err
    assert main_board(tmp_path) == 2
    assert "there is no result below" in capsys.readouterr().err
    file = put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    file.write_text("{")
    assert main_board(tmp_path) == 2
    assert "nothing in" in capsys.readouterr().err


def test_a_heading_that_is_not_its_protocols_is_refused(tmp_path):
    file = put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    file.write_text(file.read_text().replace('"task": "reconstruction"', '"task": "sparsity"', 1))
    (problem,) = collect.collect(tmp_path, tasks()).problems
    assert f"{file}: 'task' is 'sparsity', but 'provenance.protocol.task' is 'reconstruction'" in problem


def test_an_error_of_a_run_is_told(tmp_path):
    one = result(task="reconstruction", status="error", reason="encode failed", metrics={})
    store.write(tmp_path, one, {})
    assert "'status' is error, so it is not shown: encode failed" in collect.collect(tmp_path, tasks()).problems[0]


@pytest.mark.parametrize(
    ("content", "state", "problem"),
    [
        (None, "reported", None),
        ('{"state": "re-run", "by": "ci", "date": "2026-01-02", "sha256": "HERE"}', "re-run", None),
        ('{"state": "recomputed", "by": "ci", "date": "2026-01-02", "sha256": "HERE"}', "recomputed", None),
        ('{"state": "re-run", "by": "ci", "date": "2026-01-02", "sha256": "0"}', "reported", "'sha256'"),
        ('{"state": "perfect", "by": "ci", "date": "2026-01-02"}', "reported", "'state'"),
        ('{"state": "re-run", "by": "ci", "date": "soon"}', "reported", "'date'"),
        ('{"state": "re-run"', "reported", "is not valid JSON"),
        ("[]", "reported", "Input should be"),
    ],
)
def test_how_far_a_result_was_checked(tmp_path, content, state, problem):
    file = put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    if content is not None:
        verified.path_of(file).write_text(content.replace("HERE", verified.digest(file)))
    board = make(tmp_path)
    assert board.tables[0].rows[0].checked == state
    assert (not board.problems) if problem is None else (problem in board.problems[0])
    assert problem is None or str(verified.path_of(file)) in board.problems[0]


def test_the_more_checked_of_two_duplicates_is_shown(tmp_path):
    first = put(tmp_path, "a", "reconstruction", {"fvu": 0.1})
    twin = first.parent.parent / "zz" / first.name
    twin.parent.mkdir()
    shutil.copy(first, twin)
    verified.record(twin, "re-run", "ci")
    board = make(tmp_path)
    assert board.tables[0].rows[0].checked == "re-run"
    assert str(first) in board.problems[0].split(":")[0]


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_metrics_and_models_are_chosen_by_name_and_glob(tmp_path):
    small(tmp_path)
    put(tmp_path, "other", "reconstruction", {"fvu": 0.5}, model="pythia", model_sha256="5" * 64)
    only = make(tmp_path, metrics="fvu,loss_recovered.*", models="gpt*")
    assert {c.id for t in only.tables for c in t.columns} == {FVU, "loss_recovered.kl", "loss_recovered.delta_ce"}
    assert {t.model for t in only.tables} == {"gpt2"}
    with pytest.raises(UsageError, match="did you mean 'fvu'"):
        make(tmp_path, metrics="fvuu")
    with pytest.raises(UsageError, match="no result is of a model named 'llama'; there are: gpt2, pythia"):
        make(tmp_path, models="llama")


def test_all_metrics_shows_what_the_file_leaves_out(tmp_path, capsys):
    put(tmp_path, "a", "reconstruction", {"fvu": 0.1, "mse": 2.0, "first_fvu": 0.7})
    assert main_board(tmp_path) == 0
    assert "MSE" not in capsys.readouterr().out.replace("nMSE", "")
    assert main_board(tmp_path, "--all-metrics") == 0
    assert "FVU (position 0)" in capsys.readouterr().out


def test_every_task_has_a_column():
    wanted = columns.read_columns(COLUMNS, tasks())
    assert {c.task for g in wanted.groups for c in g.columns} == set(tasks())


def group(inside):
    return f"[[group]]\nname = 'x'\ncolumns = [{inside}]"


L0 = "{task = 'sparsity', metric = 'l0'}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (group("{task = 'reconstruction', metric = 'fvuu'}"), "no metric 'fvuu'; did you mean 'fvu'"),
        (group(f"{L0}, {{task = 'recon', metric = 'fvu'}}"), "'group.0.columns.1': no task is called 'recon'"),
        (group(""), "'group.0.columns'"),
        (group("{task = 'sparsity', metric = 'l0', digits = 2}"), "'group.0.columns.0.digits': Extra"),
        (group("{task = 'sparsity', metric = 'l0', decimals = -1}"), "'group.0.columns.0.decimals'"),
        (group(f"{L0}, {L0}"), "'group.0.columns.1': sparsity.l0 is a column already"),
        (f"plot = [{{x = 'sparsity.l0', y = 'fvu'}}]\n{group(L0)}", "'plot.0.y'"),
        (f"arrows = {{up = '^'}}\n{group(L0)}", "'arrows.up"),
        ("[[group]\n", "is not valid TOML"),
        ("", "'group': Field required"),
    ],
)
def test_a_mistake_in_the_columns_names_file_and_field(tmp_path, content, message):
    file = tmp_path / "columns.toml"
    file.write_text(content)
    with pytest.raises(UsageError) as caught:
        columns.read_columns(file, tasks())
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


# --- the command -----------------------------------------------------------------------------------------------------


def test_out_writes_what_would_be_printed(tmp_path, capsys):
    small(tmp_path / "r")
    assert main_board(tmp_path / "r", "--format", "csv", "--out", str(tmp_path / "b.csv")) == 0
    assert capsys.readouterr().out == ""
    assert main_board(tmp_path / "r", "--format", "csv") == 0
    assert (tmp_path / "b.csv").read_bytes().decode() == capsys.readouterr().out


def test_a_control_that_is_not_there_is_said_with_its_reason(tmp_path):
    """A row that is missing says nothing of itself; that a task finds no latents in the mean is none of it."""
    lost = {"random_fit": "fitting a decoder takes more tokens", "mean": NO_LATENTS}
    put(tmp_path, "a", "reconstruction", {"fvu": 0.1}, details={LOST: lost})
    shown = text.as_text(make(tmp_path))
    assert "control random_fit has no figures: fitting a decoder takes more tokens (" in shown
    assert shown.count("has no figures") == 1


def test_the_board_imports_no_torch(tmp_path):
    small(tmp_path)
    code = (
        "import argparse, sys\nfrom sae_bench.cli import board\np = argparse.ArgumentParser()\n"
        "board.add(p.add_subparsers())\nargs = p.parse_args(sys.argv[1:])\nassert args.function(args) == 0\n"
        "assert not {'torch', 'transformers', 'datasets', 'jinja2', 'vl_convert'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "board", str(tmp_path)], check=True, capture_output=True, cwd=ROOT)


def test_the_page_without_the_extra_is_a_sentence(tmp_path, monkeypatch, capsys):
    small(tmp_path)
    html_page._library.cache_clear()  # what another test has made
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    for more in (("--format", "html"), ("--plots", str(tmp_path / "p"))):
        assert main_board(tmp_path, *more) == 2
        assert "pip install 'sae-bench-suite[board]'" in capsys.readouterr().err


@pytest.mark.usefixtures("shipped_lock")
def test_the_leaderboard_is_up_to_date():
    """Mend it with: sae-bench board --format github --out leaderboard/README.md"""
    folder, page = ROOT / "results", data_folder("leaderboard") / "README.md"
    if not folder.is_dir() or not any(store.find(folder)):
        pytest.skip("there are no results in this checkout")
    board = make(folder)
    assert page.is_file(), "leaderboard/README.md is missing: make it with the command above"
    assert page.read_bytes() == text.as_github(board).encode(), "leaderboard/README.md is not what results/ gives"
