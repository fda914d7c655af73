"""``sae-bench validate``: what it prints and writes, and when it fails. The worlds are made up."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest

from sae_bench import api, registry, standing
from sae_bench.builtin import Entry
from sae_bench.cli.main import main
from sae_bench.errors import SaeBenchError
from sae_bench.validity import asked, measure, seen, table, worlds
from sae_bench.validity import locked as validate_locked
from tests.builders import made_up_draws as made_up
from tests.builders.plugins import Point
from tests.builders.results import result

SHIPPED = seen.QUICK


@pytest.fixture(scope="module", autouse=True)
def made_up_world() -> Iterator[None]:
    """No other world, in this process, with little effort."""
    with pytest.MonkeyPatch.context() as patch:
        entry = Entry("token", "tests.builders.made_up_draws:TOKENS", "pieces of documents")
        patch.setattr(registry, "UNITS", (*registry.UNITS, entry))
        patch.setattr(worlds, "WORLDS", {"made up": "tests.builders.made_up_draws"})
        patch.setattr(asked, "_cores", lambda: 1)
        patch.setattr(seen, "WHOLE", seen.Effort(8, 200, 2))
        patch.setattr(seen, "QUICK", seen.Effort(25, 200, 0))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up.write_task(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def printed(folder: Path) -> str:
    """What the whole command prints, which writes the lock beside the tasks of the folder."""
    with redirect_stdout(io.StringIO()) as out:
        assert main(["validate", "--task-dir", str(folder), "--write", "--quiet"]) == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def lock(folder: Path, printed: str) -> dict[str, standing.Standing]:
    return standing.read(folder / standing.FILE)


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = main(["validate", "--quiet", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_the_lock_of_a_folder_lies_in_it_and_holds_its_metrics_in_order(lock: dict[str, standing.Standing]) -> None:
    assert [*lock] == sorted(f"made_up.{name}" for name in made_up.metrics())
    assert {name for name, one in lock.items() if one.ranked} == {"made_up.seen", "made_up.fvu"}
    assert {one.digest for one in lock.values()} == {registry.definition_sha256(made_up.spec())}
    assert lock["made_up.fvu"].worlds["made up"].draws == 3


def test_the_table_fits_and_says_what_is_wrong(printed: str) -> None:
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 100
    for said in (
        "claims features",
        "claims fidelity",
        "claims nothing",
        "in made up",
        "  noise: not ranked: its rho",
    ):
        assert said in printed
    for name in made_up.metrics():
        assert any(line.startswith(f"{name} ") for line in lines), name


def test_the_same_twice_is_the_same_file(folder: Path, lock: dict[str, standing.Standing], tmp_path: Path) -> None:
    outs = [tmp_path / "one.lock", tmp_path / "two.lock"]
    for out in outs:
        arguments = ["--task-dir", str(folder), "--metric", "made_up.fvu", "--out", str(out), "--quiet"]
        assert main(["validate", *arguments]) == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert standing.read(outs[0]) == {"made_up.fvu": lock["made_up.fvu"]}  # alone as among others


def test_one_metric_is_measured_alone_and_the_others_stay_in_the_lock(
    folder: Path, lock: dict[str, standing.Standing], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folder / standing.FILE).read_bytes()
    code, out = ran(capsys, "--task-dir", folder, "--metric", "made_up.fvu", "--write")
    assert (code, "fvu_of_tokens" in out, "claims features" in out) == (0, False, False)
    assert (folder / standing.FILE).read_bytes() == before
    code, out = ran(capsys, "--task-dir", folder, "--quick", "--metric", "made_up.*een", "--json")
    assert [*json.loads(out)["metrics"]] == ["made_up.seen", "made_up.half_seen"]


def test_a_quick_look_finds_the_ranks_as_they_are(
    folder: Path, lock: dict[str, standing.Standing], capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = "made_up.seen,made_up.fvu,made_up.noise,made_up.aimless"
    code, out = ran(capsys, "--task-dir", folder, "--quick", "--metric", wanted, "--json")
    found = json.loads(out)
    assert (code, found["lost"]) == (0, [])
    assert found["metrics"]["made_up.fvu"]["worlds"]["made up"]["draws"] == asked.QUICK_DRAWS
    assert found["metrics"]["made_up.aimless"]["worlds"] == {}  # it claims nothing: nobody waits for it


LOST = {
    "worse": (("seen", "noise"), "made_up.seen has lost its rank: its rho with features"),
    "too sure": (("fvu", "fvu_of_tokens"), "made_up.fvu has lost its rank: its interval holds the truth"),
}


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("fault", LOST)
def test_a_metric_that_got_worse_loses_its_rank_and_the_command_fails(
    folder: Path,
    lock: dict[str, standing.Standing],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    quick: bool,
) -> None:
    """Its code now makes the figure of another; its definition, and so its digest, is as before."""
    (name, other), said = LOST[fault]
    spec, own = made_up.spec(), made_up.spec().metrics
    metrics, table = made_up.metrics, own[other].table
    monkeypatch.setattr(made_up, "metrics", lambda parameters=None: {**metrics(), name: metrics()[other]})
    if table != own[name].table:
        changed = spec.model_copy(update={"metrics": {**own, name: own[name].model_copy(update={"table": table})}})
        monkeypatch.setattr(made_up, "spec", lambda **changes: changed)
        monkeypatch.setattr(asked.registry, "tasks", _with(changed))
        monkeypatch.setattr(registry, "definition_sha256", lambda spec: lock[f"made_up.{name}"].digest)
    code, out = ran(capsys, "--task-dir", folder, "--metric", f"made_up.{name}", *(["--quick"] if quick else []))
    assert code == 1
    assert said in out.replace("\n    ", " ")


def _with(changed: object) -> object:
    whole = registry.tasks
    return lambda extra=None: {**whole(), **({"made_up": changed} if extra else {})}


def test_another_definition_is_not_validated(
    tmp_path: Path, lock: dict[str, standing.Standing], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made_up.write_task(tmp_path, seen={"unit": "nats"})
    standing.write(folder / standing.FILE, lock)
    code, out = ran(capsys, "--task-dir", folder, "--metric", "made_up.seen", "--quick")
    assert (code, "defined otherwise than when it was validated" in out) == (1, True)


def test_a_quick_look_without_a_rank_to_lose_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A lock that is gone must not look like ranks that hold."""
    folder = made_up.write_task(tmp_path)
    assert main(["validate", "--quiet", "--quick", "--task-dir", str(folder), "--metric", "made_up.seen"]) == 0
    assert "no lock ranks SAEs by any of these metrics" in capsys.readouterr().err


def test_what_is_written_anew_is_no_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who changes a definition, or what a metric claims, and does what is asked of him has done it."""
    folder = made_up.write_task(tmp_path)
    arguments = ["--task-dir", folder, "--metric", "made_up.seen,made_up.half_seen", "--write"]
    assert ran(capsys, *arguments)[0] == 0
    for change in ({"unit": "nats"}, {"unit": "nats", "claims": "fidelity"}):
        made_up.write_task(folder, seen=change)
        registry._tasks.cache_clear()
        code, out = ran(capsys, *arguments)
        assert (code, "measure it again" in out, "validated for" in out) == (0, False, False)
        assert standing.read(folder / standing.FILE)["made_up.seen"].ranked


@pytest.mark.parametrize("flag", ["--out", "--write"])
def test_a_place_that_cannot_be_written_is_said_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    folder = made_up.write_task(tmp_path)
    (tmp_path / "file").touch()
    nowhere = tmp_path / "file" / standing.FILE
    monkeypatch.setattr(asked, "standings", lambda *_: pytest.fail("it was measured"))
    monkeypatch.setattr(validate_locked, "known", lambda question: {})
    monkeypatch.setattr(validate_locked, "files", lambda question: {nowhere: []})
    for place in (nowhere, tmp_path) if flag == "--out" else (None,):
        written = [flag] if place is None else [flag, str(place)]
        assert main(["validate", "--quiet", "--task-dir", str(folder), *written]) == 2
        assert capsys.readouterr().err.startswith("sae-bench: cannot write")


def test_the_task_of_a_package_is_measured_when_named_and_its_lock_lies_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made_up.write_task(tmp_path / "tasks")
    (tmp_path / "made_up_place.py").write_text(f"TASKS = {str(folder)!r}\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = registry.entry_points
    points = [Point("made_up", "made_up_place:TASKS", "sae_bench.tasks")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if "tasks" in group else before(group=group))
    registry._tasks.cache_clear()
    ours = registry.data_folder("tasks") / standing.FILE
    was = ours.read_bytes() if ours.exists() else None
    try:
        assert asked.Question(()).own == {"made_up"}
        code, out = ran(capsys, "--metric", "made_up.seen", "--write")
        assert (code, "claims features" in out) == (0, True)
        assert standing.read(folder / standing.FILE)["made_up.seen"].ranked
        assert (ours.read_bytes() if ours.exists() else None) == was, "what ships says nothing of others"
        monkeypatch.setattr(asked.Question, "measured", ())
        assert "made_up" not in ran(capsys, "--json")[1], "nobody else waits for it"
    finally:
        monkeypatch.undo()
        registry._tasks.cache_clear()


def test_a_task_of_ones_own_that_asks_a_judge_is_not_measured_and_says_why(folder: Path) -> None:
    """No world has a judge but for the task that it knows, and nobody would be ranked by it."""
    question = asked.Question(("made_up.seen",), task_dir=str(folder))
    world = worlds.KnownWorld("w", made_up.measured, 1, (), ())
    assert question.tasks_in(world) == ["made_up"]
    spec = made_up.spec().model_copy(update={"judge": True})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asked.Question, "specs", {"made_up": spec})
        assert question.tasks_in(world) == []
        found = asked.standings(question, [world], lambda *_: None)
    assert "no replay of a real judge" in str(found["made_up.seen"].why)


def test_a_task_of_ones_own_that_a_world_cannot_measure_is_said_and_the_others_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs what the world has not; no world that ships may lack anything that its own tasks need."""

    def evaluated(coders: object, **settings: object) -> Iterator[object]:
        yield result("a", task=str(settings["tasks"]), status="skipped", reason="no pairs", metrics={})

    monkeypatch.setattr(api, "evaluate", evaluated)
    rungs = {"a": SimpleNamespace(coder=None)}
    draw = measure.run("w", 0, rungs, tasks="made_up", task_dir=folder)  # type: ignore[arg-type]
    assert (draw.results, draw.lacks) == ({"a": {}}, {"made_up": "no pairs"})
    with pytest.raises(SaeBenchError, match="the world w, draw 0: sparsity of a: no pairs"):
        measure.run("w", 0, rungs, tasks="sparsity", task_dir=folder)  # type: ignore[arg-type]

    def measured(seed: int, **_: object) -> SimpleNamespace:
        made = made_up.measured(seed)
        return SimpleNamespace(**vars(made) | {"results": {n: {} for n in made.rungs}, "lacks": draw.lacks})

    world = worlds.KnownWorld("made up", measured, 2, ("made_up",), ())  # type: ignore[arg-type]
    question = asked.Question(("made_up.seen",), task_dir=str(folder))
    with pytest.warns(UserWarning, match="the world made up does not speak of made_up: no pairs") as said:
        found = asked.standings(question, [world], lambda *_: None)
    assert len(said) == 1
    assert (found["made_up.seen"].ranked, found["made_up.seen"].why) == (False, "no world speaks of it")


def test_what_cannot_be_asked_is_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for arguments in (
        ["--metric", "made_up.sene", "--task-dir", str(folder)],
        ["--quick", "--write"],
        ["--quick", "--out", str(tmp_path / "x")],
        ["--task-dir", str(tmp_path)],
        ["--write", "--out", "x"],
    ):
        assert main(["validate", *arguments]) == 2, arguments
        said = capsys.readouterr().err.strip()
        assert said.startswith("sae-bench: "), said
        assert "\n" not in said, said
    assert not (tmp_path / "x").exists()


def test_help_and_what_claims_nothing_need_no_world(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = ran(capsys, "--quick", "--metric", "sparsity.l0")
    assert (code, "no world speaks of sparsity.l0" in out) == (0, True)


def test_worlds_are_named_and_imported_when_asked() -> None:
    known = worlds.world("made up")
    assert (known.tasks, known.draws, known.checkpoints) == (("made_up",), 3, made_up.CHECKPOINTS)
    silent = worlds.KnownWorld("w", made_up.measured, 1, ("t",), (), {"token_rules.*": "why"})
    assert not silent.speaks_of("token_rules.rule_f1")
    assert silent.speaks_of("reconstruction.fvu")


@pytest.mark.slow
def test_processes_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A world as it ships, draw by draw in this process, and in two at once."""
    monkeypatch.setitem(worlds.WORLDS, "tokens", "sae_bench.validity.measure")
    monkeypatch.setattr(seen, "QUICK", SHIPPED)  # as other processes have it
    question = asked.Question(("reconstruction.fvu",), quick=True)
    one, two = (asked.measured(question, [worlds.world("tokens")], lambda *_: None, workers=n) for n in (1, 2))
    assert [*one] == [*two] == ["tokens"]
    assert [draw.seed for draw in two["tokens"]] == [0, 1]
    rows = [
        table.Measured.of("reconstruction.fvu", own["tokens"], worlds.world("tokens").checkpoints) for own in (one, two)
    ]
    said = [row.said("fidelity") for row in rows if row is not None]
    assert said[0] == said[1]
    assert said[0].monotone == 1.0


def test_a_world_without_training_has_samples_of_other_saes() -> None:
    """Where nothing is trained, fidelity is still held to its intervals."""
    specs = {"made_up": made_up.spec()}
    found = seen.seen(made_up.measured(0), specs, (), seen.Effort(2, 100, 1), lambda name: name == "made_up.fvu")
    assert found.metrics["made_up.fvu"].held[1] == 2 * seen.SOME
    assert found.metrics["made_up.fvu"].beside_controls == {}
    row = table.Measured.of("made_up.fvu", [found], ())
    assert row is not None
    assert (row.monotone(), row.beaten_by(None)) == (None, ())
