"""Tables in LaTeX: what is bold, what is chosen, and that no name from a result is markup."""

import re
import shutil
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sae_bench.board import latex
from sae_bench.cli import compare as verb
from sae_bench.cli import compare_latex
from sae_bench.errors import UsageError
from sae_bench.show.latex import LABEL, Options, caption, escaped, figure, label, with_interval
from tests.builders import plots
from tests.builders.boards import HOSTILE, main_board, make, put, small
from tests.builders.results import changed
from tests.builders.verbs import runner

SPECIAL = r"\ { } $ & % # _ ~ ^ < > | \" ' ` [ ] - --- \input{x} \\ %" + " Δ é 日本 ﬁ 😀 \u202e \u0301 ² ↑ α"


def cells(tex, name):
    """The cells of the row whose first cell is the name."""
    row = next(line for line in tex.splitlines() if line.startswith(escaped(name) + " &"))
    return [cell.strip() for cell in row.removesuffix(r" \\").split(" & ")]


# --- escaping --------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60))
@example(SPECIAL)
@example("".join(map(chr, range(32, 127))))
def test_nothing_in_a_name_is_a_command(name):
    """Taking away what the escaper may write leaves letters, digits and plain signs."""
    shown = escaped(name)
    commands = r"\\(textbackslash|textasciicircum|textasciitilde|ldots)\{\}|\\[{}$&#%_]"
    known = re.compile(commands + r"|\$[^$]*\$|\{[\[\]]\}|['`-]+\{\}")
    assert not set(known.sub("", shown)) & set('\\{}$&#%_^~<>|"[]\n')
    assert all(c.isprintable() for c in shown)


def test_letters_that_pdflatex_has_are_kept_and_no_other():
    assert escaped("é ü α Ω ²") == r"é ü $\alpha$ $\Omega$ $^2$"
    assert escaped("日本 😀 ﬁ") == "?? ? ?"


def test_minus_signs_of_figures_are_minus_signs():
    assert figure("-0.5 [-1e-05, 3]") == "$-$0.5 [$-$1e$-$05, 3]"


def test_a_figure_with_its_interval_in_the_three_ways():
    shown = "0.09 [-0.08, 0.10]*"
    assert with_interval(shown, bold=False, intervals="no") == "0.09"
    assert with_interval(shown, bold=True, intervals="yes") == r"\textbf{0.09} {[}$-$0.08, 0.10{]}*"
    assert with_interval(shown, bold=False, intervals="subscript") == r"0.09$_{[-0.08,\,0.10]*}$"


@pytest.mark.parametrize("bad", ["", "a}b", r"\x", "a b", "a%", "-x", "é", "x" * 99])
def test_a_label_that_ref_does_not_take_is_refused(bad):
    with pytest.raises(UsageError, match="--label must be"):
        label(bad)
    assert label(LABEL) == LABEL


def test_a_percent_sign_in_a_caption_is_no_comment():
    assert caption("50% of {it}") == r"50\% of \{it\}"
    with pytest.raises(UsageError, match="--caption must be"):
        caption(" ")


# --- the board -------------------------------------------------------------------------------------------------------


def test_the_best_is_bold_and_a_tie_is_bold_together(tmp_path):
    """In a figure that orders all SAEs: a and b overlap, c is worse; of two that overlap neither is best."""
    for name, value in (("a", 0.8), ("b", 0.79), ("c", 0.3)):
        put(tmp_path / "tie", name, "probe_recovery", {"probe_r": value})
    tex = latex.as_latex(make(tmp_path / "tie", metrics="probe_r"))
    bold = {name: "textbf" in cells(tex, name)[4] for name in "abc"}
    assert bold == {"a": True, "b": True, "c": False}
    for name, value in (("a", 0.8), ("b", 0.79), ("c", 0.3)):
        put(tmp_path / "clear", name, "probe_recovery", {"probe_r": plots.exact("probe_recovery", "probe_r", value)})
    tex = latex.as_latex(make(tmp_path / "clear", metrics="probe_r"))
    assert ["textbf" in cells(tex, name)[4] for name in "abc"] == [True, False, False]
    assert "(1)" in cells(tex, "a")[4]
    put(tmp_path / "one", "a", "probe_recovery", {"probe_r": 0.8})
    put(tmp_path / "one", "b", "probe_recovery", {"probe_r": 0.81})
    tex = latex.as_latex(make(tmp_path / "one", metrics="probe_r"))
    assert "textbf" not in tex


def test_at_equal_l0_the_best_is_of_its_own_l0_alone(tmp_path):
    tex = latex.as_latex(make(small(tmp_path), metrics="kl"))
    assert [r"\textbf" in cells(tex, f"lab/{name}")[4] for name in ("a_1", "b_2", "c_3")] == [False, True, False]


def test_a_figure_that_orders_nobody_is_never_bold(tmp_path):
    for name, value in (("a", 0.8), ("b", 0.2)):
        put(tmp_path, name, "reconstruction", {"norm_ratio": value})
    assert "textbf" not in latex.as_latex(make(tmp_path, metrics="norm_ratio"))


def test_ranks_intervals_controls_and_notes_are_chosen(tmp_path):
    board = make(small(tmp_path), metrics="fvu")
    whole = latex.as_latex(board)
    assert "(1--2 of 2)" in whole
    assert "{[}0.090, 0.110{]}" in whole
    assert "control: mean" in whole
    assert "Protocols: " in whole
    bare = latex.as_latex(board, Options(ranks=False, intervals="no", controls="none", notes=False))
    assert "of 2)" not in bare
    assert "control: mean" not in bare
    assert all(line.startswith("%") for line in bare.splitlines() if "Protocols: " in line)
    assert "{[}" not in "".join(line for line in bare.splitlines() if line.startswith("lab/"))
    with pytest.raises(UsageError, match="did you mean 'mean'"):
        latex.as_latex(board, Options(controls="maen"))


def test_a_sign_that_is_not_in_the_table_is_not_explained(tmp_path):
    put(tmp_path, "a", "reconstruction", {"fvu": plots.narrow("reconstruction", "fvu", 0.2)})
    board = make(tmp_path, metrics="fvu")
    assert "marks an interval" in latex.as_latex(board)
    assert "marks an interval" not in latex.as_latex(board, Options(intervals="no"))


def test_each_table_has_a_label_and_a_caption_of_its_own(tmp_path):
    board = make(small(tmp_path))
    tex = latex.as_latex(board, Options(caption="100% mine", label="tab:x"))
    n = len(board.tables)
    assert n > 1
    assert re.findall(r"\\label\{(.*)\}", tex) == [f"tab:x-{i + 1}" for i in range(n)]
    captions = re.findall(r"\\caption\{(.*)\}", tex)
    assert len(set(captions)) == n
    assert all(one.startswith(r"100\% mine ") for one in captions)
    alone = latex.as_latex(make(tmp_path, metrics="kl"), Options(caption="mine", label="tab:x"))
    assert r"\label{tab:x}" in alone
    assert r"\caption{mine}" in alone
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\begin{table}") == n


def test_flags_of_latex_are_refused_with_another_format(tmp_path, capsys):
    small(tmp_path)
    for flags in (("--ranks",), ("--no-notes",), ("--caption", "x"), ("--intervals", "no")):
        assert main_board(tmp_path, *flags) == 2
        assert "is of --format latex" in capsys.readouterr().err
    assert main_board(tmp_path, "--format", "latex", "--no-ranks", "--label", "a b") == 2
    assert "--label must be" in capsys.readouterr().err


# --- compare ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys):
    return runner(verb, "compare", capsys)


def test_compare_writes_a_table_with_a_row_an_sae(tmp_path, run):
    saes = plots.measured(tmp_path, {"a": 0.30, "b": 0.20, "c": 0.80})
    code, tex, _ = run(*saes, "--format", "latex", "--metrics", "nmse", "--label", "tab:c")
    assert code == 0
    rows = {line.split(" & ")[0]: line for line in tex.splitlines() if re.match(r"[ABC] & ", line)}
    assert list(rows) == ["A", "B", "C"]
    assert ["textbf" in rows[one] for one in "ABC"] == [False, True, False]
    assert "$^{+}$" in rows["B"]
    assert "$^{-}$" in rows["C"]
    assert r"\label{tab:c}" in tex
    assert tex.count(r"{\scriptsize") == 2


def test_a_tie_of_a_comparison_is_bold_together(tmp_path, run):
    saes = plots.measured(tmp_path, {"a": 0.30, "b": 0.30, "c": 0.80})
    tex = run(*saes, "--format", "latex", "--metrics", "nmse")[1]
    rows = {line.split(" & ")[0]: line for line in tex.splitlines() if re.match(r"[ABC] & ", line)}
    assert ["textbf" in rows[one] for one in "ABC"] == [True, True, False]
    two = run(*saes[:2], "--format", "latex", "--metrics", "nmse")[1]
    assert "textbf{0" not in two


def test_at_other_l0_nobody_is_better(tmp_path, run):
    few, many = plots.measured(tmp_path / "a", {"a": 0.30}), plots.measured(tmp_path / "b", {"b": 0.10}, l0=64.0)
    tex = run(*few, *many, "--format", "latex", "--metrics", "nmse", "--no-notes")[1]
    assert "textbf{0" not in tex
    assert "$^{+}$ &" not in tex


def test_compare_of_many_metrics_has_a_row_a_metric(tmp_path, run, monkeypatch):
    saes = plots.measured(tmp_path, {"a": 0.30, "b": 0.28})
    monkeypatch.setattr(compare_latex, "_flat", compare_latex._upright)
    code, tex, _ = run(*saes, "--format", "latex", "--metrics", "nmse")
    assert code == 0
    assert r"metric & A & B & B $-$ A \\" in tex
    assert re.search(r"^nMSE .* & .* & .*\{\[\}", tex, re.MULTILINE)


def test_compare_chooses_ranks_and_controls(tmp_path, run):
    saes = plots.measured(tmp_path, {"a": 0.30, "b": 0.20, "c": 0.80})
    flags = ("--ranks", "--controls", "mean", "--intervals", "no", "--no-notes")
    code, tex, _ = run(*saes, "--format", "latex", "--metrics", "nmse", *flags)
    assert code == 0
    assert "(1 of 3)" in tex
    assert "(3 of 3)" in tex
    assert "control: mean" in tex
    assert "scriptsize" not in tex


# --- compiled --------------------------------------------------------------------------------------------------------


def compiled(folder, body):
    """The log of a compiler's run, and its exit code; skips where there is no compiler."""
    compiler = next((one for one in ("pdflatex", "tectonic", "xelatex") if shutil.which(one)), None)
    if compiler is None:
        pytest.skip("no compiler of LaTeX is installed")
    folder.mkdir(exist_ok=True)
    head = "\\documentclass{article}\n\\usepackage{booktabs,graphicx}\n\\begin{document}\n"
    (folder / "x.tex").write_text(f"{head}{body}\n\\end{{document}}\n", encoding="utf-8")
    flags = ["x.tex"] if compiler == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error", "x.tex"]
    done = subprocess.run([compiler, *flags], cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [Options(), Options(intervals="subscript", notes=False, caption=SPECIAL)])
def test_a_board_compiles(tmp_path, options):
    for i, name in enumerate([*HOSTILE, SPECIAL, "[x]", "--- ?` !`", "\\\\", "x" * 300]):
        put(tmp_path / "r", name, "reconstruction", {"fvu": 0.1 + i}, architecture=name, model=name)
    small(tmp_path / "r")
    for file in (tmp_path / "r").rglob("reconstruction*.json"):
        changed(file, "controls", SPECIAL, value={"fvu": plots.exact("reconstruction", "fvu", 1.0).model_dump()})
    code, log = compiled(tmp_path / "tex", latex.as_latex(make(tmp_path / "r", everything=True), options))
    assert code == 0, log[-1500:]
    assert "Overfull \\hbox" not in log


def test_a_comparison_compiles(tmp_path, run, monkeypatch):
    saes = plots.measured(tmp_path / "r", {SPECIAL[:40]: 0.30, HOSTILE[6]: 0.28, "c": 0.80})
    one = run(*saes, "--format", "latex", "--metrics", "nmse", "--controls", "all", "--ranks")
    monkeypatch.setattr(compare_latex, "_flat", compare_latex._upright)
    two = run(*saes, "--format", "latex", "--metrics", "nmse", "--intervals", "subscript", "--label", "tab:z")
    assert (one[0], two[0]) == (0, 0)
    code, log = compiled(tmp_path / "tex", one[1] + two[1])
    assert code == 0, log[-1500:]
    assert "Overfull \\hbox" not in log
