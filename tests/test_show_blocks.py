"""What a task found, as blocks: the same in terminal, page and JSON, whatever the details hold."""

import io
import json
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_bench import registry
from sae_bench.board import details as page_details
from sae_bench.cli import main
from sae_bench.results import store
from sae_bench.schema import MetricSpec, Result, TaskSpec
from sae_bench.show import blocks, terminal, text
from sae_bench.show.details import found
from tests.builders.boards import HOSTILE
from tests.builders.results import result

ROOT = Path(__file__).parent.parent


def plugin(name="fair_probes", version=1, **changes):
    """The definition of a task that is installed nowhere."""
    metrics = {
        "fairness": MetricSpec(name="Fairness", unit="1", better="higher", table="example", description="how fair"),
        "spread": MetricSpec(
            name="Spread", unit="nats", better="none", table="example", headline=False, description="how wide"
        ),
    }
    fields = {"id": name, "version": version, "title": "Fair probes", "question": "How fair?", "metrics": metrics}
    return TaskSpec(**(fields | {"code": "fair:Fair", "figures": "fair_figures"} | changes))


def result_of(spec, details, *, with_definition=True, name="my sae"):
    """A result of a task that is not installed."""
    from sae_bench.schema import MetricValue

    metrics = {
        m: MetricValue(value=0.5, low=0.4, high=0.6, unit=s.unit, better=s.better, n_units=9)
        for m, s in spec.metrics.items()
    }
    digest = registry.definition_sha256(spec)
    one = result(name=name, task=spec.id, version=spec.version, task_sha256=digest, metrics=metrics, details=details)
    return one.model_copy(update={"controls": {}, "definition": spec if with_definition else None})


LABELLED = {
    "sets": {
        "cities": {"latent": 3, "texts": 40, "fairness": {"value": 0.5, "low": 0.4, "high": 0.6}, "order": [1, 2]},
        "names": {"latent": 5, "metrics": {"fairness": {"value": None, "low": None, "high": None, "reason": "few"}}},
    }
}


def shown(one, known=None):
    """What the terminal shows of a result's details."""
    made = found(one, registry.tasks() if known is None else known)
    return "\n".join(row for block in made.blocks for row in terminal.drawn(block)), made.problems


def run(*arguments):
    """The command line, and what it printed."""
    with redirect_stdout(io.StringIO()) as out:
        code = main.main([str(one) for one in arguments])
    return code, out.getvalue()


# --- a task that is not installed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_definition", [True, False])
def test_a_labelled_plugin_is_shown_with_whatever_columns_there_are(tmp_path, with_definition):
    file = store.write(tmp_path, result_of(plugin(), LABELLED, with_definition=with_definition), {})
    for path in (file, tmp_path):
        code, out = run("show", path)
        assert code == 0
        rows = [row.split() for row in out.splitlines()]
        assert ["name", "latent", "texts", "fairness", "order"] in rows
        assert ["cities", "3", "40", "0.50", "[0.40,", "0.60]", "1,", "2"] in rows
        assert ["names", "5", "-"] in rows
    code, out = run("ls", "results", "--out", tmp_path)
    assert "fair_probes@v1" in out
    code, out = run("show", file, "--json")
    content = json.loads(out)
    assert content["results"][0]["details"] == LABELLED
    assert content["blocks"][0][0]["head"] == ["name", "latent", "texts", "fairness", "order"]


def test_details_of_a_plugin_stand_on_the_page():
    (one,) = page_details.blocks(Path("f"), result_of(plugin(), LABELLED), 1, [])
    assert (one["block"], one["title"], one["more"]) == ("table", "sets", 1)
    assert one["rows"] == [["cities", "3", "40", "0.50 [0.40, 0.60]", "1, 2"]]


@pytest.mark.parametrize("style", ["text", "github", "latex", "csv", "json"])
def test_the_board_shows_a_task_from_the_definition_that_its_result_holds(tmp_path, style, capsys):
    for name in ("first", "second"):
        store.write(tmp_path, result_of(plugin(), LABELLED, name=name), {})
    code, out = run("board", tmp_path, "--format", style, "--all-metrics")
    assert code == 0
    assert not capsys.readouterr().err
    for part in ("Fairness" if style not in ("csv",) else "fairness", "first", "second"):
        assert part in out
    assert "0.5" in out
    if style == "text":
        assert "its task is not installed here" in out


def test_the_page_shows_a_plugin(tmp_path):
    pytest.importorskip("vl_convert", reason="the extra 'board' is not installed")
    store.write(tmp_path / "r", result_of(plugin(), LABELLED), {})
    assert run("board", tmp_path / "r", "--format", "html", "--out", tmp_path / "b.html")[0] == 0
    page = (tmp_path / "b.html").read_text(encoding="utf-8")
    assert "Fair probes" in page
    assert '["cities","3","40","0.50 [0.40, 0.60]","1, 2"]' in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda one: one.model_copy(update={"definition": None}), "the result holds no definition of it"),
        (
            lambda one: one.model_copy(update={"definition": plugin(parameters={"x": 1})}),
            "is not the one of 'provenance.protocol.task_sha256'",
        ),
        (lambda one: one.model_copy(update={"definition": plugin("other")}), "is of 'other' version 1"),
    ],
)
def test_without_a_definition_that_fits_the_board_says_one_sentence(tmp_path, change, says, capsys):
    file = store.write(tmp_path, change(result_of(plugin(), {})), {})
    assert run("board", tmp_path)[0] == 2
    first, _ = capsys.readouterr().err.splitlines()
    assert first.startswith(f"sae-bench: {file}: 'task': the task 'fair_probes', which is not installed here")
    assert "--task-dir" in first
    assert says in first


@pytest.mark.parametrize("verb", ["compare", "check", "submit", "verify"])
def test_what_needs_the_figures_says_which_task_and_how_to_give_it(tmp_path, verb, capsys):
    files = [store.write(tmp_path / n, result_of(plugin(), {}, name=n), {}) for n in ("a", "b")]
    extra = {"compare": files[1:], "check": [], "submit": ["--check-only"], "verify": ["--sae", "demo"]}[verb]
    if verb == "verify":
        pytest.importorskip("torch")
    assert run(verb, files[0], *extra)[0] == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert "the task 'fair_probes', which is not installed here" in said or "no table of units" in said
    assert "--task-dir" in said or "no table of units" in said


FIGURES = """
from sae_bench.show.blocks import Text, table

def metrics(parameters):
    return {"fairness": lambda s: s.x / s.n, "spread": lambda s: s.n / s.n}

def blocks(details):
    yield Text(title="In words", lines=(f"{len(details['sets'])} sets",))
    yield {"block": "table", "title": "By hand", "head": ["a"], "rows": [[details["n"]]]}
"""


def test_a_plugins_own_blocks_are_drawn_and_what_it_does_not_read_as_well(tmp_path, monkeypatch):
    (tmp_path / "own_fair_figures.py").write_text(FIGURES)
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = plugin(figures="own_fair_figures")
    out, problems = shown(result_of(spec, LABELLED | {"n": 7, "left": "over"}), {"fair_probes": spec})
    assert not problems
    assert out.splitlines() == ["  left: over", "  In words:", "  2 sets", "  By hand:", "  a", "  ---", "  7"]
    out, problems = shown(result_of(spec, {"sets": 3, "left": "over"}), {"fair_probes": spec})
    assert "'details.sets' is not what this sae-bench writes (TypeError" in problems[0]
    assert "  sets: 3" in out.splitlines()
    assert "  left: over" in out.splitlines()


def test_the_code_that_a_result_names_is_never_imported(tmp_path, monkeypatch):
    """A definition in a file from elsewhere is text: only installed tasks have code."""
    (tmp_path / "evil_figures.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = plugin(figures="evil_figures", code="evil_figures:Evil")
    store.write(tmp_path / "r", result_of(spec, LABELLED), {})
    assert run("show", tmp_path / "r")[0] == 0
    assert run("board", tmp_path / "r")[0] == 0
    assert "evil_figures" not in sys.modules


def test_showing_and_the_board_import_no_torch(tmp_path):
    store.write(tmp_path, result_of(plugin(), LABELLED), {})
    code = (
        "import sys\nfrom sae_bench.cli.main import main\nassert main(['show', sys.argv[1]]) == 0\n"
        "assert main(['board', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'transformers', 'datasets', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, cwd=ROOT)


@pytest.mark.parametrize("bad", HOSTILE)
def test_hostile_prose_of_a_definition_stays_prose(tmp_path, bad):
    metrics = {"m": plugin().metrics["fairness"].model_copy(update={"name": bad, "description": bad, "unit": bad})}
    spec = plugin(title=bad, question=bad, metrics=metrics)
    store.write(tmp_path, result_of(spec, {bad: {bad: [bad]}}), {})
    for style in ("text", "github", "latex"):
        code, out = run("board", tmp_path, "--format", style)
        assert code == 0
        assert all(c.isprintable() or c in "\n\u200b" for c in out)
        assert style == "text" or "<script" not in out
        assert style != "github" or ("<img" not in out and "@everyone" not in out)
    code, out = run("show", tmp_path)
    assert code == 0
    assert all(c.isprintable() or c == "\n" for c in out)


def test_a_metric_of_a_definition_must_have_a_plain_name(tmp_path, capsys):
    spec = plugin(metrics={"a|b": plugin().metrics["fairness"]})
    store.write(tmp_path, result_of(spec, {}), {})
    assert run("board", tmp_path)[0] == 2
    assert "names a metric 'a|b'" in capsys.readouterr().err


# --- blocks ----------------------------------------------------------------------------------------------------------


def every_kind(word):
    """A block of each kind that holds a word wherever a text may stand."""
    return [
        {"block": "table", "title": word, "head": [word, "n"], "rows": [[word, 1.5]]},
        {"block": "table", "title": word, "head": ["what", "value"], "rows": [[word, word]]},
        {"block": "histogram", "title": word, "x": word, "of": word, "bins": [[0, 1, 3], [1, 2, 1]]},
        {"block": "text", "title": word, "lines": [word, word]},
        {
            **{"block": "contexts", "title": word},
            "rows": [{"group": word, "caption": word, "tokens": [word, "b"], "strengths": [1.0, 0.0], "marked": 1}],
        },
        {"block": "plot", "title": word, "x": word, "y": word, "series": [{"name": word, "points": [[0, 1], [1, 3]]}]},
    ]


@pytest.mark.parametrize("word", [*HOSTILE, "\x00\x9b31m", "a\nb", "x" * 9999])
def test_no_text_of_a_block_does_anything_in_any_output(word):
    one = result_of(plugin(), {f"part {i}": block for i, block in enumerate(every_kind(word))})
    out, problems = shown(one)
    assert not problems
    assert all(c.isprintable() or c == "\n" for c in out)
    if len(word) < 200:  # a table of long words is written a row at a time
        assert len(out.splitlines()) == len(shown(result_of(plugin(), dict(enumerate_kinds("w"))))[0].splitlines())
    drawn = page_details.blocks(Path("f"), one, 5, [])
    assert [block["block"] for block in drawn] == [block["block"] for block in every_kind("")]
    for line in texts(drawn):
        assert line.isprintable()
        assert len(line) <= terminal.LONGEST


def enumerate_kinds(word):
    return ((f"part {i}", block) for i, block in enumerate(every_kind(word)))


def texts(content):
    """All texts in plain JSON."""
    if isinstance(content, dict):
        content = list(content.values())
    return (
        [content]
        if isinstance(content, str)
        else [t for c in content for t in texts(c)]
        if isinstance(content, list)
        else []
    )


def test_how_each_kind_looks_in_a_terminal():
    made = [terminal.drawn(blocks.read(block)) for block in every_kind("w")]
    assert made[0] == ["  w:", "  w    n", "  ---  ---", "  w    1.5"]
    assert made[1] == ["  w: w"]
    assert made[2][1].split() == ["0", "to", "1", "3", "#" * 40]
    assert made[3] == ["  w:", "  w", "  w"]
    assert made[4] == ["  w:", "  w:", "    w  <<w>>(9)[b]"]
    assert made[5][3:] == ["  0    1", "  1    3", "  (of w)"]


def test_a_wide_table_is_written_a_row_at_a_time():
    long = blocks.table("wide", ["latent", "n", "tokens"], [[3, 0.25, "t" * 200], [4, None, ""]])
    assert terminal.drawn(long) == ["  wide:", "  latent 3: n 0.25", f"    tokens: {'t' * 200}", "  latent 4: n -"]


def test_blocks_are_shortened_and_say_by_how_much():
    table = blocks.table("t", ["a"], [[i] for i in range(30)])
    assert terminal.drawn(table)[-1] == "  and 10 more (--json shows them)"
    assert (table.shortened(4).more, table.shortened(20).shortened(4).more) == (26, 26)
    rows = tuple(blocks.Context(group=f"g{i // 9}", tokens=("a",), strengths=(0.5,)) for i in range(27))
    short = blocks.Contexts(title="c", rows=rows).shortened(2)
    assert [row.group for row in short.rows] == ["g0"] * 4 + ["g1"] * 4
    assert short.more == 19
    plot = blocks.read(every_kind("w")[5])
    assert plot.shortened(0).more == 2
    for block in every_kind("w"):
        assert page_details.on_page(blocks.read(block), 0)["title"] == "w"


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"block": "table", "title": "t", "head": ["a"], "rows": [[1, 2]]}, "a row has 2 cells, and head names 1"),
        ({"block": "tableau", "title": "t"}, "'tableau'"),
        ({"block": "text", "title": "t"}, "lines"),
        ({"block": "contexts", "title": "t", "rows": [{"tokens": ["a"], "strengths": []}]}, "1 tokens and 0 strengths"),
        ({"block": "contexts", "title": "t", "rows": [{"tokens": ["a"], "strengths": [2]}]}, "less than or equal"),
        ({"block": ["table"]}, "block"),
    ],
)
def test_what_is_not_quite_a_block_is_told_and_drawn_as_it_stands(block, says):
    out, problems = shown(result_of(plugin(), {"x": block}))
    assert "'details.x' is no block" in problems[0]
    assert says in problems[0]
    assert "block: " in out


def test_the_pages_charts_of_blocks_are_drawn_by_its_vega_lite():
    drawer = pytest.importorskip("vl_convert", reason="the extra 'board' is not installed")
    from sae_bench.board import figures

    for spec, values in (
        (figures.histogram(), [{"low": 0, "high": 1, "count": 3}]),
        (figures.lines(), [{"series": "a", "x": 0, "y": 1}, {"series": "a", "x": 2, "y": 3}]),
    ):
        spec["data"]["values"] = values
        for axis in "xy":
            spec["encoding"][axis]["title"] = "<b>title</b>"
        svg = drawer.vegalite_to_svg(json.dumps(spec), vl_version=figures.VEGA_LITE)
        assert "&lt;b&gt;title&lt;/b&gt;" in svg
        assert "mark-line" in svg or "mark-rect" in svg


# --- every result that there is, and every one that there could be ---------------------------------------------------


@pytest.mark.parametrize("file", sorted((ROOT / "results" / "demo__relu").rglob("*@*.json")), ids=lambda f: f.name)
def test_results_of_the_repository_are_drawn_in_full(file):
    one = store.read(file)
    assert one.definition == registry.tasks()[one.task]
    made = found(one, registry.tasks())
    assert not made.problems
    titles = [block.title for block in made.blocks]
    assert titles[0] == "Counts"
    own = {name: value for name, value in one.details.items() if name != "figure"}  # which tables, their titles say
    plain = {name.replace("_", " ") for name, value in own.items() if not isinstance(value, dict | list)}
    assert plain == {row[0] for row in made.blocks[0].rows}
    assert len(titles) == 1 + len(own) - len(plain)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(HOSTILE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["value", "low", "high", "block", "rows", "latent", "metrics"]), inner, max_size=5
        )
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=25,
)
KEYS = ("sets", "rules", "outputs", "explanations", "density_histogram", "by_density", "judge", "statuses", "tokens")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    task=st.sampled_from([*registry.tasks(), "unknown"]),
    details=st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), json_values, max_size=5),
)
def test_any_details_are_shown_and_nothing_in_them_reaches_terminal_or_page_raw(task, details):
    one = result(task=task, details=details)
    out, _ = shown(one)
    assert all(c.isprintable() or c == "\n" for c in out)
    assert details == {} or out
    drawn = page_details.blocks(Path("f"), one, 5, [])
    assert all(line.isprintable() and len(line) <= terminal.LONGEST for line in texts(drawn))
    json.dumps(drawn, allow_nan=False)
    assert Result.model_validate(one.model_dump()).details == details


@pytest.mark.parametrize("empty", [[], {}])
@pytest.mark.parametrize("task", sorted(registry.tasks()))
def test_an_empty_part_is_said_and_not_dropped(task, empty):
    """Also a part that the task would draw itself."""
    for name in KEYS:
        out, problems = shown(result(task=task, details={name: empty}))
        assert not problems
        assert "none" in out, name


def test_deep_and_many_details_are_bounded():
    deep = [1]
    for _ in range(900):
        deep = [deep]
    one = result(details={"deep": deep, **{f"part {i}": [{"a": 1}] for i in range(200)}})
    out, problems = shown(one)
    assert not problems
    assert "and 161 more parts (the result file holds all)" in out
    assert "(1 parts)" in out
    assert len(page_details.blocks(Path("f"), one, 0, [])) == 41


# --- one home for each ----------------------------------------------------------------------------------------------


def sources(*without):
    files = sorted((ROOT / "sae_bench").rglob("*.py"))
    return {f.relative_to(ROOT).as_posix(): f.read_text(encoding="utf-8") for f in files if f.name not in without}


def test_there_is_one_answer_to_which_files_are_results():
    asking = re.compile(r"""(glob|match\w*)\([^)\n]*@""")
    assert [name for name, code in sources().items() if asking.search(code)] == ["sae_bench/results/store.py"]


def test_there_is_one_escaper_for_each_output():
    what = {"terminal": r"if c\.isprintable\(\) or", "Markdown": r'&lt;|"\\u200b"', "LaTeX": "textbackslash"}
    for output, mark in what.items():
        homes = [name for name, code in sources().items() if re.search(mark, code)]
        assert homes == [f"sae_bench/show/{'latex' if output == 'LaTeX' else 'text'}.py"], output


@given(st.text(max_size=40))
def test_markdown_prose_holds_no_markup(words):
    shown = text.markdown(words)
    assert not re.search(r"(?<![\\&])(?:\\\\)*[`*_\[\]|~#]", shown)
    assert not re.search(r"[<>$\n]|@(?!\u200b)|://", shown)


# --- the parameters of a task ----------------------------------------------------------------------------------------


def test_show_prints_the_parameters_of_a_task():
    code, out = run("show", "autointerp")
    assert code == 0
    (row,) = [line for line in out.splitlines() if line.startswith("window_tokens ")]
    assert row.split()[1] == "32"
    assert row.endswith("tokens of a window")
    code, out = run("show", "autointerp", "--json")
    (one,) = [p for p in json.loads(out)["about_parameters"] if p["parameter"] == "window_tokens"]
    assert one == {
        **{"parameter": "window_tokens", "default": 32, "allowed": "a whole number of at least 4"},
        "what": "tokens of a window",
    }


def test_a_card_and_plain_parameters_come_from_the_folder_of_the_task(tmp_path):
    folder = tmp_path / "tasks" / "plain_one"
    folder.mkdir(parents=True)
    (tmp_path / "tasks" / "plain_one_figures.py").write_text("def metrics(parameters):\n    return {}\n")
    (folder / "README.md").write_text("# The card of plain one\x1b[2J\n")
    (folder / "task.toml").write_text(
        "id = 'plain_one'\nversion = 1\ntitle = 'Plain'\nquestion = 'What?'\ncode = 'x:Y'\n"
        "figures = 'plain_one_figures'\n[parameters]\nsteps = 3\n"
        "[metrics.m]\nname = 'm'\nunit = '1'\nbetter = 'none'\ntable = 'document'\ndescription = 'd'\n"
    )
    code, out = run("show", "plain_one", "--task-dir", tmp_path / "tasks")
    assert code == 0
    assert "# The card of plain one?[2J" in out
    assert "steps" in out


# --- one folder, all verbs -------------------------------------------------------------------------------------------


def test_all_verbs_find_the_same_results_at_any_depth(tmp_path, capsys):
    folder = ROOT / "results" / "demo__gated"
    for path in (folder, next(folder.iterdir()), next(folder.rglob("sparsity@*.json"))):
        for arguments in (
            ["show", path],
            ["board", path],
            ["submit", path, "--check-only"],
            ["ls", "results", "--out", path],
        ):
            assert run(*arguments)[0] == 0, arguments
    (tmp_path / "empty").mkdir()
    for missing, says in (
        (tmp_path / "empty", "there is no result below"),
        (tmp_path / "no", "there is no file or folder"),
    ):
        sentences = set()
        for arguments in (
            *(["board", missing], ["compare", missing, missing], ["check", missing], ["submit", missing]),
            *(["verify", missing, "--sae", "demo"], ["ls", "results", "--out", missing]),
            *([["show", missing]] if missing.exists() else []),
        ):
            assert run(*arguments)[0] == 2, arguments
            sentences.add(capsys.readouterr().err)
        (sentence,) = sentences
        assert says in sentence


def test_links_to_folders_are_followed_once_and_hidden_ones_passed_over(tmp_path):
    file = store.write(tmp_path / "real", result(), {})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "round").symlink_to(tmp_path / "real")
    store.write(tmp_path / "runs" / ".partial", result(), {})
    below = file.relative_to(tmp_path / "real")
    assert store.results_below(tmp_path / "runs") == [tmp_path / "runs" / "linked" / below]
    assert store.results_below(file) == [file]
