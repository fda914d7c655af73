"""What known truth says of a metric: the lock that holds it, and what counts of it."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sae_bench import registry, standing
from sae_bench.board import collect, columns, figures
from sae_bench.errors import TaskError
from sae_bench.plot import controls, select
from sae_bench.results import recompute, store
from sae_bench.schema import Against, MetricSpec, MetricValue, Result, TaskSpec
from sae_bench.show import against, truth
from sae_bench.standing import InWorld, Standing
from sae_bench.validity.verdict import why_not
from tests.builders.boards import COLUMNS, HOSTILE, make, measured, put
from tests.builders.locks import judged_by, lock_beside, trusting
from tests.builders.plugins import Point, register
from tests.builders.results import changed, result
from tests.conftest import Run

# --- the file --------------------------------------------------------------------------------------------------------

LETTERS = st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")
TEXT = st.text(LETTERS, max_size=30)
NAMES = st.text(LETTERS, min_size=1, max_size=12)
FLOATS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
WORLDS = st.builds(
    InWorld,
    features=FLOATS,
    signal=FLOATS,
    blind=st.lists(NAMES, max_size=3).map(tuple),
    rungs=st.integers(0, 99),
    draws=st.integers(0, 9),
)
STANDINGS = st.builds(
    Standing,
    digest=TEXT,
    claims=st.sampled_from([None, "features", "fidelity"]),
    ranked=st.booleans(),
    why=st.none() | TEXT,
    worlds=st.dictionaries(NAMES, WORLDS, max_size=2),
)
METRICS = st.text("abz019_.-", min_size=1, max_size=12)


@given(st.dictionaries(st.tuples(st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True), METRICS), STANDINGS))
def test_what_is_written_is_read_again_whatever_it_says(made: dict[tuple[str, str], Standing]) -> None:
    lock = {f"{task}.{metric}": one for (task, metric), one in made.items()}
    with TemporaryDirectory() as folder:
        file = Path(folder) / standing.FILE
        standing.write(file, lock)
        assert standing.read(file) == lock


def test_no_lock_says_nothing(tmp_path: Path) -> None:
    assert standing.read(tmp_path / standing.FILE) == {}


@pytest.mark.parametrize(("text", "said"), [
    ("[a.b\n", "not valid TOML"),
    ("a = 1\n", "'a'"),
    ('[a.b]\ndigest = "1"\n', "'a.b.ranked': Field required"),
    ('[a.b]\ndigest = "1"\nranked = "perhaps"\n', "'a.b.ranked'"),
    ('[a.b]\ndigest = "1"\nranked = true\nbest = true\n', "'a.b.best'"),
    ('[a.b]\ndigest = "1"\nranked = true\nclaims = "all"\n', "'a.b.claims'"),
    ('[a.b]\ndigest = "1"\nranked = true\n[a.b.worlds.w]\nrungs = 1\ndraws = 1\nfeatures = nan\n', "features"),
    ('[a.b]\ndigest = "1"\nranked = true\n[a.b.worlds.w]\nrungs = -1\ndraws = 1\n', "rungs"),
])  # fmt: skip
def test_a_lock_that_says_nothing_clear_is_refused_with_its_field(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / standing.FILE
    file.write_text(text)
    with pytest.raises(TaskError) as refused:
        standing.read(file)
    assert str(file) in str(refused.value)
    assert said in str(refused.value)


def test_an_entry_of_another_definition_counts_as_none() -> None:
    lock = {"a.b": Standing(digest="1", claims="features", ranked=True)}
    assert standing.standing(lock, "a", "b", "1") is lock["a.b"]
    assert standing.standing(lock, "a", "b", "2") is None
    assert standing.standing(lock, "a", "c", "1") is None
    assert standing.standing(lock, "b", "b", "1") is None


# --- what counts of it -----------------------------------------------------------------------------------------------

ABOUT: dict[str, Any] = {"name": "x", "unit": "1", "table": "document", "description": "x"}
SPEC = TaskSpec(
    id="a", version=1, title="A", question="?", code="sae_bench.a:A", figures="sae_bench.a",
    metrics={
        "claiming": MetricSpec(**ABOUT, better="lower", claims="features"),
        "silent": MetricSpec(**ABOUT, better="lower"),
        "undirected": MetricSpec(**ABOUT, better="none", claims="encoder"),
    },
)  # fmt: skip
DIGEST = registry.definition_sha256(SPEC)
BORNE_OUT = Standing(digest=DIGEST, claims="features", ranked=True)


@pytest.mark.parametrize(("metric", "entry", "said"), [
    ("claiming", BORNE_OUT, None),
    ("claiming", None, "known truth was never asked about this definition"),
    ("claiming", BORNE_OUT.model_copy(update={"digest": "0" * 64}), "about another definition of it"),
    ("claiming", BORNE_OUT.model_copy(update={"claims": "encoder"}), "it claims features, and known truth was asked about a claim to encoder"),  # noqa: E501
    ("claiming", BORNE_OUT.model_copy(update={"claims": None}), "about a claim to nothing"),
    ("claiming", BORNE_OUT.model_copy(update={"ranked": False, "why": "rho is 0.55"}), "rho is 0.55"),
    ("claiming", BORNE_OUT.model_copy(update={"ranked": False}), "does not bear out what it claims"),
    ("silent", BORNE_OUT, "does not claim to measure"),
    ("silent", BORNE_OUT.model_copy(update={"claims": None}), "does not claim to measure"),
    ("undirected", BORNE_OUT.model_copy(update={"claims": "encoder"}), "neither more nor less of it is better"),
])  # fmt: skip
def test_a_rank_needs_a_direction_a_claim_and_a_lock_that_bears_it_out(
    metric: str, entry: Standing | None, said: str | None
) -> None:
    lock = {} if entry is None else {f"a.{metric}": entry}
    judged, _ = standing.judged(SPEC, lock, DIGEST)
    found = judged.metrics[metric]
    assert found.orders == (said is None)
    assert (found.unranked is None) if said is None else (said in str(found.unranked))
    assert not any(one.orders for name, one in judged.metrics.items() if name != metric)


def test_no_definition_from_a_file_has_ranks() -> None:
    """Neither by what it says, nor by what was made of another one."""
    judged, _ = standing.judged(SPEC, {"a.claiming": BORNE_OUT}, DIGEST)
    assert judged.metrics["claiming"].orders
    read = TaskSpec.model_validate_json(judged.model_dump_json())
    assert not any(one.orders for one in read.metrics.values())
    with pytest.raises(ValidationError, match="_judged"):
        MetricSpec.model_validate({**ABOUT, "better": "lower", "_judged": [DIGEST, None]})
    with pytest.raises(ValidationError, match="ranked is earned and not said"):
        MetricSpec.model_validate({**ABOUT, "better": "lower", "ranked": True})


def test_other_parameters_are_another_definition() -> None:
    spec = registry.tasks()["probe_recovery"]
    (name, value), *_ = [(n, v) for n, v in spec.parameters.items() if isinstance(v, float)]
    same = registry.with_parameters(spec, {name: value})
    other = registry.with_parameters(spec, {name: value * 2})
    assert same.metrics["probe_r"].orders
    assert "other parameters" in str(other.metrics["probe_r"].unranked)


# --- everything that orders SAEs -------------------------------------------------------------------------------------

FORMATS = ("text", "github", "latex", "csv", "json", "html")
RANKS = {  # what says that one SAE is better than another, by command
    ("board", "text"): r"rank \d|front",
    ("board", "github"): r"rank \d|front",
    ("board", "latex"): r"textbf|\(1\b|dagger",
    ("board", "csv"): r"lower,[^,]+,[^,]+,[^,]+,[^,]*,,[^,]*,[^,]*,[^,]*,\d",
    ("board", "json"): r'"rank": \[|"front": true',
    ("board", "html"): r"<i>rank \d|\bbetter\"|\bworse\"",
    ("compare", "text"): r"\b(better|worse)\b *$",
    ("compare", "markdown"): r"\| (better|worse) ",
    ("compare", "json"): r'"verdict": "(better|worse)"',
    ("compare", "latex"): r"textbf|\$\^\{[+-]\}\$",
    ("show", "text"): r" 1 of 2|beats |better than|worse than",
    ("show", "json"): r'"verdict": "(better|worse)"',
    ("card", ""): r" 1 of 2|beats |better than|worse than",
}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of two SAEs of one L0 that are apart, one of them better than its control when it was measured."""
    folder = tmp_path_factory.mktemp("two")
    for name, fvu in (("a", 0.1), ("b", 0.2)):
        measured(folder, name, 32.0, fvu)
    for file in store.results_below(folder):
        content = json.loads(file.read_text())
        if content["task"] == "reconstruction":
            apart = {"value": -0.2, "low": -0.3, "high": -0.1, "p": 0.001, "n_units": 30, "verdict": "better"}
            changed(file, "against", value={"random": {"fvu": apart}})
            changed(file, "controls", value={"random": content["controls"]["mean"]})
    return folder


def said(cli: Run, two: Path, verb: str, how: str) -> str:
    given = {
        "board": [two, "--format", how, *(["--ranks"] if how == "latex" else [])],
        "compare": [*sorted(two.glob("*")), "--format", how],
        "show": [two, *(["--json"] if how == "json" else [])],
        "card": [two],
    }[verb]
    code, out, err = cli(verb, *given)
    assert code == 0, err
    if how == "github":  # what stands above the tables speaks of ranks in general
        return out[out.index("\n## ") :]
    if how == "html":  # and so do the head of the page, and its script
        return out[out.index("<main") : out.index("</script>", out.index('id="data"'))]
    return out


@pytest.mark.parametrize(("verb", "how"), RANKS)
def test_nothing_orders_saes_by_what_is_not_validated(cli: Run, two: Path, verb: str, how: str) -> None:
    ordered = re.compile(RANKS[verb, how], re.MULTILINE)
    assert ordered.search(said(cli, two, verb, how)), "this test must be able to fail"
    with judged_by({}):
        out = said(cli, two, verb, how)
        assert not ordered.search(out)
        if (verb, how) != ("show", "json"):
            assert "known truth was never asked about this definition" in " ".join(out.split())


@pytest.mark.parametrize("change", [
    {"task_sha256": "9" * 64},
    {"parameters": {"smallest": 9}, "task_sha256": "9" * 64},
])  # fmt: skip
@pytest.mark.parametrize(("verb", "how"), [one for one in RANKS if one[0] != "compare"])
def test_results_of_another_definition_are_not_ranked(
    cli: Run, tmp_path: Path, verb: str, how: str, change: dict[str, Any]
) -> None:
    for name, fvu in (("a", 0.1), ("b", 0.2)):
        put(tmp_path / "r", name, "reconstruction", {"fvu": fvu}, **change)
        put(tmp_path / "r", name, "sparsity", {"l0": 32.0})
    out = said(cli, tmp_path / "r", verb, how)
    assert not re.search(RANKS[verb, how], out, re.MULTILINE)
    if (verb, how) != ("show", "json"):
        assert "about another definition, or about other parameters" in " ".join(out.split())


def test_what_was_written_before_anybody_was_ranked_is_better_now() -> None:
    apart = Against(value=0.2, low=0.1, high=0.3, p=0.001, n_units=30, verdict="differs")
    spec = registry.tasks()["probe_recovery"].metrics["probe_r"]
    metric = MetricValue(value=0.5, low=0.4, high=0.6, unit=spec.unit, better=spec.better, n_units=30)
    one = result(task="probe_recovery", metrics={"probe_r": metric})
    one = one.model_copy(update={"against": {"random": {"probe_r": apart}}})
    assert against.sentences([one], registry.tasks()) == [
        "probe_recovery, in pairs: probe_r better than random by 0.20 [0.10, 0.30]"
    ]
    with judged_by({}):
        assert against.sentences([one], registry.tasks()) == []
    assert against.sentences([one], {}) == [], "whose task is not here"


@pytest.mark.parametrize(("claimed", "ours", "agree"), [
    ("better", "better", True), ("differs", "better", True), ("worse", "differs", True), ("better", "worse", False),
    ("differs", "cannot be told apart", False), ("better", "cannot be told apart", False),
])  # fmt: skip
def test_verify_blames_nobody_for_ranks_that_came_or_went(claimed: Any, ours: Any, agree: bool) -> None:
    assert recompute._agree(claimed, ours) == agree


@pytest.mark.parametrize("ranked", [True, False])
def test_plots_have_a_front_only_where_saes_are_ranked(tmp_path: Path, ranked: bool) -> None:
    for name, l0, fvu in (("a", 16.0, 0.3), ("b", 32.0, 0.1), ("c", 64.0, 0.2)):
        put(tmp_path, name, "reconstruction", {"fvu": fvu})
        put(tmp_path, name, "sparsity", {"l0": l0})
    with judged_by(trusting(list(registry.tasks().values())) if ranked else {}):
        found = collect.collect(tmp_path, registry.tasks())
        column = select.metric("fvu", found, found.entries)
        (place,) = figures.places(make(tmp_path), found, columns.read_columns(COLUMNS, registry.tasks()))
        axes = {axis.id: axis for axis in place.axes}
        costs = [one["cy"] for one in figures.points(place, axes["sparsity.l0"], axes["reconstruction.fvu"])]
    assert (controls.cost(0.5, column) is not None) == ranked
    assert all((cost is not None) == ranked for cost in costs)


# --- locks of others -------------------------------------------------------------------------------------------------

TASK = """
id = "mine"
version = 1
title = "Mine"
question = "?"
code = "mine_figures:Mine"
figures = "mine_figures"
[metrics.x]
name = "x"
unit = "1"
better = "lower"
table = "document"
claims = "features"
description = "x"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder of tasks for --task-dir."""
    (tmp_path / "mine" / "mine").mkdir(parents=True)
    (tmp_path / "mine" / "mine" / "task.toml").write_text(TASK)
    (tmp_path / "mine" / "mine_figures.py").write_text("def metrics(parameters):\n    return {}\n")
    yield tmp_path / "mine"
    registry._tasks.cache_clear()


def of_mine(folder: Path) -> MetricSpec:
    registry._tasks.cache_clear()
    return registry.tasks(folder)["mine"].metrics["x"]


def test_a_task_of_a_folder_is_judged_by_the_lock_beside_it_and_no_other_task_is(folder: Path) -> None:
    assert "never asked" in str(of_mine(folder).unranked)
    spec = registry.tasks(folder)["mine"]
    foreign = registry.tasks()["sparsity"]
    lock = {
        "mine.x": Standing(digest=registry.definition_sha256(spec), claims="features", ranked=True),
        "mine.unknown": Standing(digest="1", claims="features", ranked=True),
        "nobody.x": Standing(digest="1", claims="features", ranked=True),
        "sparsity.dead_fraction": Standing(digest=registry.definition_sha256(foreign), claims=None, ranked=True),
        "reconstruction.fvu": Standing(
            digest=registry.definition_sha256(registry.tasks()["reconstruction"]), claims="fidelity", ranked=False
        ),
    }
    standing.write(folder / standing.FILE, lock)
    assert of_mine(folder).orders
    assert set(registry.standings("mine", folder)) == {"x"}
    assert registry.tasks(folder)["reconstruction"].metrics["fvu"].orders
    assert not registry.tasks(folder)["sparsity"].metrics["dead_fraction"].orders
    text = (folder / "mine" / "task.toml").read_text()
    (folder / "mine" / "task.toml").write_text(text.replace('better = "lower"', 'better = "higher"'))
    assert "another definition" in str(of_mine(folder).unranked)


@pytest.mark.parametrize(("old", "new"), [
    ("ranked = true", 'ranked = false\nwhy = "\\u001b[31mred"'), ("ranked = true", 'ranked = false\nwhy = "a\\nb"'),
    ("ranked = true", 'ranked = false\nwhy = "\\u202egnp"'), ("ranked = true", f'ranked = false\nwhy = "{"x" * 501}"'),
    ("ranked = true", 'ranked = true\n[mine.x.worlds."\\u0007"]\nrungs = 1\ndraws = 1'),
    ("ranked = true", 'ranked = true\n[mine.x.worlds.w]\nrungs = 1\ndraws = 1\nblind = ["\\u001b"]'),
])  # fmt: skip
def test_a_lock_whose_words_cannot_be_printed_is_refused_in_a_sentence(
    cli: Run, folder: Path, old: str, new: str
) -> None:
    lock_beside(folder)
    file = folder / standing.FILE
    text = file.read_text().partition("\n[mine.x.worlds")[0] + "\n"
    file.write_text(text.replace(old, new))
    registry._tasks.cache_clear()
    code, out, err = cli("show", "mine", "--task-dir", folder)
    assert (code, out) == (2, "")
    assert str(file) in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


@pytest.mark.parametrize("broken", [False, True])
def test_a_package_brings_its_own_lock_and_is_left_out_with_one_that_cannot_be_read(
    cli: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    lock_beside(folder)
    if broken:
        (folder / standing.FILE).write_text("[mine.x]\nranked = 7\n")
    place = f"mine_place_{broken}".lower()  # a module is imported once
    (folder / f"{place}.py").write_text(f"TASKS = {str(folder)!r}\n")
    monkeypatch.syspath_prepend(folder)
    register(monkeypatch, Point("mine", f"{place}:TASKS", "sae_bench.tasks"))
    code, out, err = cli("ls", "tasks", "--json")
    ranking = {row["task"]: row["ranked by"] for row in json.loads(out)}
    assert code == 0
    assert ranking["reconstruction"] > 0, "all others go on"
    assert ranking.get("mine") == (None if broken else 1)
    assert ("is left out: " in err and "'mine.x.digest': Field required" in err) == broken


@pytest.mark.parametrize("hostile", [one for one in HOSTILE if one.isprintable()])
def test_what_a_lock_says_is_text_wherever_it_is_shown(cli: Run, folder: Path, tmp_path: Path, hostile: str) -> None:
    spec = registry.tasks(folder)["mine"]
    world = InWorld(features=0.1, blind=(hostile[:80],), rungs=1, draws=1)
    entry = Standing(digest=registry.definition_sha256(spec), claims="features", ranked=False, why=hostile,
                     worlds={hostile[:80]: world})  # fmt: skip
    standing.write(folder / standing.FILE, {"mine.x": entry})
    registry._tasks.cache_clear()
    spec, digest = registry.tasks(folder)["mine"], registry.definition_sha256(spec)
    value = MetricValue(value=0.5, low=0.4, high=0.6, unit="1", better="lower", n_units=9)
    for name in "ab":
        one = result(name=name, sha=name * 64, task="mine", task_sha256=digest, metrics={"x": value})
        store.write(tmp_path / "r", one.model_copy(update={"definition": spec, "controls": {}}), {})
    given = ("--task-dir", folder)
    code, page, _ = cli("board", tmp_path / "r", "--format", "html", *given)
    assert code == 0
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    shown = cli("board", tmp_path / "r", "--format", "github", *given)[1]
    assert "](javascript:" not in shown
    assert "<script>" not in shown
    assert "\\input{" not in cli("board", tmp_path / "r", "--format", "latex", *given)[1]
    code, out, _ = cli("show", "mine.x", *given)
    assert (code, "It claims to measure features." in out) == (0, True)


# --- what is shown of it ---------------------------------------------------------------------------------------------

TOLD = Standing(
    digest=registry.definition_sha256(registry.tasks()["probe_recovery"]), claims="features", ranked=False,
    why="its correlation with the truth of features is 0.55, below 0.7",
    worlds={
        "tokens": InWorld(
            features=0.55, encoder=0.91, monotone=1.0, signal=55.4, signal_low=30.0, signal_high=80.0, coverage=0.94,
            false_positives=0.01, blind=("permuted", "noisy_07"), beaten_by=("random_fit",), fragile=("split_2",),
            rungs=26, draws=4,
        )
    },
)  # fmt: skip
WORDS = (
    "It claims to measure features.", "Ranked: no: its correlation with the truth of features is 0.55, below 0.7.",
    "World 'tokens' (26 SAEs, 4 draws)", "features 0.55, encoder 0.91", "1.00 over the checkpoints",
    "signal over noise 55.4 [30, 80]", "0.94 of its intervals hold the value", "0.01 of equal pairs",
    "permuted, noisy_07", "random_fit", "split_2",
)  # fmt: skip


@pytest.mark.parametrize("name", ["probe_r", "probe_recovery.probe_r", "probe_recovery"])
def test_show_says_of_a_metric_what_known_truth_says(cli: Run, name: str) -> None:
    with judged_by({"probe_recovery.probe_r": TOLD}):
        code, out, _ = cli("show", name)
        assert code == 0
        plain = " ".join(out.split())
        assert [one for one in WORDS if one not in plain] == []
        content = json.loads(cli("show", name, "--json")[1])
    own = content["standing"] if "standing" in content else content["standings"]["probe_r"]
    assert Standing.model_validate(own) == TOLD
    about = content if "standing" in content else content["metrics"]["probe_r"]
    assert (about["ranked"], about["claims"], about["unranked"]) == (False, "features", TOLD.why)


def test_a_card_has_a_row_for_each_world_and_no_empty_column() -> None:
    with judged_by({"probe_recovery.probe_r": TOLD}):
        spec, told = registry.tasks()["probe_recovery"], registry.standings("probe_recovery")
        head, rows = truth.filled(truth.rows(spec, told))
    (row,) = [one for one in rows if one[0] == "`probe_r`"]
    assert dict(zip(head, row, strict=True)) == {
        "metric": "`probe_r`", "claims": "features", "ranked": f"no: {TOLD.why}", "world": "tokens", "features": "0.55",
        "encoder": "0.91", "training": "1.00", "signal / noise": "55.4 [30, 80]", "coverage": "0.94",
        "false positives": "0.01", "cannot see": "permuted, noisy_07", "does not beat": "random_fit",
        "hangs on": "split_2",
    }  # fmt: skip
    assert all(one[2].startswith("no: it is not validated") for one in rows if one is not row)


@pytest.mark.parametrize(("name", "said"), [
    ("probe_rr", "did you mean 'probe_r'?"),
    ("probe_recovery.probe", "did you mean 'probe_recovery.probe_"),
    ("nothing_like_it", "is neither a task nor a metric nor a result file"),
])  # fmt: skip
def test_show_asks_for_what_may_have_been_meant(cli: Run, name: str, said: str) -> None:
    code, out, err = cli("show", name)
    assert (code, out) == (2, "")
    assert said in err


def test_a_metric_that_two_tasks_have_is_named_with_its_task(cli: Run, folder: Path) -> None:
    file = folder / "mine" / "task.toml"
    file.write_text(file.read_text().replace("[metrics.x]", "[metrics.fvu]"))
    registry._tasks.cache_clear()
    code, _, err = cli("show", "fvu", "--task-dir", folder)
    assert code == 2
    assert "name one of reconstruction.fvu, mine.fvu" in err
    assert cli("show", "mine.fvu", "--task-dir", folder)[0] == 0


def test_the_page_says_it_of_every_metric_that_it_shows(cli: Run, two: Path) -> None:
    page = cli("board", two, "--format", "html")[1]
    own = page[page.index('<section id="truth">') :]
    assert '<details id="truth-reconstruction.fvu">' in own
    assert "<li>It claims to measure fidelity.</li>" in own
    assert "<li>Ranked: at equal L0.</li>" in own


def test_ls_counts_the_metrics_that_rank(cli: Run) -> None:
    def counted() -> dict[str, int]:
        return {row["task"]: row["ranked by"] for row in json.loads(cli("ls", "tasks", "--json")[1])}

    assert counted()["sparsity"] == 0
    assert counted()["reconstruction"] > 0
    with judged_by({}):
        assert set(counted().values()) == {0}


# --- what ships ------------------------------------------------------------------------------------------------------


def test_the_lock_that_ships_speaks_of_what_ships_and_of_nothing_else() -> None:
    lock = standing.read(registry.data_folder("tasks") / standing.FILE)
    for name, entry in lock.items():
        task, _, metric = name.partition(".")
        spec = registry.tasks()[task]
        assert metric in spec.metrics, name
        assert entry.digest == registry.definition_sha256(spec), f"{name}: run sae-bench validate --write again"
        assert entry.claims == spec.metrics[metric].claims, name
        assert entry.ranked or entry.why, f"{name} must say why nobody is ranked by it"
        why = why_not(spec, metric, entry.claims, entry.worlds)
        assert (entry.ranked, entry.why) == (why is None, why), f"{name}: the rules say otherwise of these numbers"


def test_the_lock_lies_in_a_folder_that_the_wheel_takes_as_a_whole() -> None:
    build = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"]["force-include"]["tasks"] == "sae_bench/_shipped/tasks"
    assert "tasks" in build["targets"]["sdist"]["include"]


def test_older_results_that_say_who_is_ranked_load_and_say_it_no_more() -> None:
    spec = registry.tasks()["sparsity"]
    one = result(task="sparsity").model_copy(update={"definition": spec})
    content = one.model_dump(mode="json")
    for metric in content["definition"]["metrics"].values():
        del metric["claims"]
        metric["ranked"] = True
    read = Result.model_validate_json(json.dumps(content))
    assert read.definition is not None
    assert not any(metric.orders for metric in read.definition.metrics.values())
    assert registry.definition_sha256(read.definition) == one.provenance.protocol.task_sha256


SILENT = {  # have a direction and claim nothing: shares in which random dictionaries are good, and the like
    *("sparsity.dead_fraction", "sparsity.dense_fraction_10pct", "probe_recovery.probe_share"),
    *(f"sparse_probing.share_k{k}" for k in (1, 2, 5, 16)),
    *("downstream_sparsity.effect_sparsity", "downstream_sparsity.effect_sparsity_token_gain"),
    *("autointerp.failed_fraction", "token_labels.hierarchy_gap"),
}


def test_every_metric_that_ships_with_a_direction_says_what_it_claims() -> None:
    """A new one that forgets it would be unranked in silence."""
    directed = {
        f"{t}.{m}": one for t, s in registry.tasks().items() for m, one in s.metrics.items() if one.better != "none"
    }
    assert {name for name, one in directed.items() if one.claims is None} == SILENT & directed.keys()
