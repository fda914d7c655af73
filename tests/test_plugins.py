"""The package of ``examples/``, installed in a fresh environment, and its tasks from a plain folder."""

from __future__ import annotations

import importlib.util
import shutil
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sae_bench.results import store
from sae_bench.schema import Result
from tests.builders.plugins import EXTRAS, environment, extras_points, read, run, short_texts
from tests.builders.said import complaints

TASKS = ("half_code", "label_l0", "opening_error")
TABLES = {"half_code": {"document"}, "label_l0": {"example", "dataset"}, "opening_error": {"window"}}
CONTROLS = ("mean", "identity", "pca", "random", "random_l0", "permuted", "random_fit", "shuffled_encoder")
BUILDS = importlib.util.find_spec("pip") and int(version("setuptools").split(".")[0]) > 70
GATES = """
[half_code.half_kl]
allowed_loss = 0.01
[label_l0.l0_auroc]
floor = 0.1
[opening_error.opening_nmse]
allowed_loss = 0.01
"""
Place = tuple[Path, Path]  # of the interpreter, and of what a run wrote


def results(folder: Path) -> dict[tuple[str, str], tuple[Path, Result]]:
    """Result files below a folder, by SAE and task."""
    found = [(file, store.read(file)) for file in store.find(folder)]
    return {(result.sae.name, result.task): (file, result) for file, result in found}


# ------------------------------------------------------------------------------------------ installed as a package


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """An environment with the package, and results of all its plug-ins in ``runs``."""
    if not BUILDS:
        pytest.skip("needs pip and setuptools 71 or newer, which build the package without a download")
    folder = tmp_path_factory.mktemp("installed")
    python = environment(folder / "env")
    shutil.copytree(EXTRAS, folder / "source")  # building leaves files behind
    flags = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    built = run(python, "-m", "pip", "install", *flags, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr
    saes = ("--sae", "demo/topk_k16", "--sae", "sae_bench_extras.adapter:rotated")
    asked = ("--tasks", ",".join(TASKS), "--controls", "default,shuffled_encoder", "--backend", "hooked")
    more = (*short_texts(folder), "--limit", 64)
    done = run(python, "-m", "sae_bench.cli.main", "run", *saes, *asked, *more, cwd=folder)
    assert (done.returncode, complaints(done.stderr)) == (0, []), done.stdout + done.stderr
    (folder / "printed").write_text(done.stdout, encoding="utf-8")
    return python, folder


def test_every_plug_in_is_measured_with_its_tables_and_controls(installed: Place) -> None:
    printed, found = (installed[1] / "printed").read_text(encoding="utf-8"), results(installed[1] / "runs")
    assert set(found) == {(sae, task) for sae in ("demo/topk_k16", "rotated") for task in TASKS}
    for (_, task), (file, result) in found.items():
        assert result.provenance.backend == "hooked"
        assert result.provenance.controls == CONTROLS
        assert {"shuffled_encoder", "identity"} <= set(result.controls)
        tables = store.read_units(file)
        assert {name for name in tables if not name.startswith("control/")} == TABLES[task]
        assert {f"control/shuffled_encoder/{name}" for name in TABLES[task]} <= set(tables)
        for name, metric in result.metrics.items():
            assert metric.value is not None, metric.reason
            assert name in printed
    assert {"best_channels", "full_residual"} <= set(found["rotated", "label_l0"][1].controls)
    assert "shuffled_encoder" in printed
    half = found["demo/topk_k16", "half_code"][1]
    shuffled = half.controls["shuffled_encoder"]["half_kl"].value
    values = [half.metrics["half_kl"].value, half.metrics["random_kl"].value, shuffled]
    assert values == sorted(values, key=float), "the strongest half, a random half, the wrong directions"


def test_every_plug_in_is_listed(installed: Place) -> None:
    python, folder = installed
    groups = ("tasks", "controls", "formats", "backends", "streams", "units")
    for group, (code, out, error) in zip(groups, read(python, *(["ls", g] for g in groups), cwd=folder), strict=True):
        assert (code, complaints(error)) == (0, [])
        names = TASKS if group == "tasks" else [p.name for p in extras_points() if p.group == f"sae_bench.{group}"]
        assert names
        assert set(names) <= {line.split()[0] for line in out.splitlines() if line.strip()}


def test_what_reads_results_shows_every_plug_in_and_imports_no_torch(installed: Place) -> None:
    python, folder = installed
    (folder / "gates.toml").write_text(GATES, encoding="utf-8")
    sides = ["runs/demo__topk_k16", "runs/rotated"]
    gate = ["--gates", "gates.toml", "--baseline", sides[1], "--sae-name", "rotated"]
    commands: list[list[Any]] = [
        ["show", "runs"],
        *(["board", "runs", "--format", kind] for kind in ("text", "github", "json", "html")),
        ["compare", *sides, "--all-metrics"],
        ["check", sides[0], *gate],
        ["submit", "runs", "--check-only"],
        *(["show", task] for task in TASKS),
    ]
    found = dict(zip(map(" ".join, commands), read(python, *commands, cwd=folder), strict=True))
    metrics = {task: list(results(folder / "runs")["rotated", task][1].metrics) for task in TASKS}
    for command, (code, out, error) in found.items():
        assert code == 0, command + out + error
        assert complaints(error) == [], command
        if command.startswith("board"):
            assert all(name in out for task in TASKS for name in _names(task)), command
        elif command == "show runs" or command.startswith("compare"):
            assert all(name in out for own in metrics.values() for name in own), command
        elif command.startswith("check"):
            assert all(f"{task} " in out for task in TASKS)
        elif command.startswith("submit"):
            assert out == "6 results are fit for the board\n"
        else:
            assert all(name in out for name in metrics[command.partition(" ")[2]])
    assert "has_question" in found["show runs"][1], "the details of a labelled task"
    for command in ("show runs", "board runs --format html"):
        assert "Latents of a token" in found[command][1], "the block of a task's own"
    assert "Known failures" in found["show half_code"][1], "the card"
    assert "shuffled_encoder" in found["board runs --format html"][1]


def _names(task: str) -> list[str]:
    """How the metrics of a task are headed."""
    file = EXTRAS / "sae_bench_extras" / "tasks" / task / "task.toml"
    return [metric["name"] for metric in tomllib.loads(file.read_text(encoding="utf-8"))["metrics"].values()]


def test_results_carry_their_definition_to_where_the_package_is_not_installed(installed: Place, plain: Plain) -> None:
    folder = installed[1]
    for (_, task), (_, result) in results(folder / "runs").items():
        assert result.definition is not None
        assert (result.definition.id, set(result.definition.metrics)) == (task, set(result.metrics))
    bare = [["show", "runs"], *(["board", "runs", "--format", kind] for kind in ("text", "json", "html"))]
    refused = [["compare", "runs/demo__topk_k16", "runs/rotated"], ["submit", "runs", "--check-only"]]
    shown = read(plain.python, *bare, *refused, cwd=folder)
    for command, (code, out, _) in zip(bare, shown, strict=False):
        assert code == 0, command
        wanted = ("half_kl", "l0_auroc", "opening_nmse") if command[0] == "show" else _names("half_code")
        assert all(name in out for name in wanted), command
    for command, (code, _, error) in zip(refused, shown[len(bare) :], strict=True):
        assert code == 2, command
        assert "Traceback" not in error
        assert any(task in error for task in TASKS), command


# ------------------------------------------------------------------------------------------ from a plain folder


class Plain(NamedTuple):
    """An environment without the package, a folder, and in it a folder of tasks with their code."""

    python: Path
    folder: Path
    tasks: Path


METRIC = """
[metrics.kept]
name = "latents kept"
unit = "latents"
better = "none"
table = "document"
description = "mean number of latents kept of a token"
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """The two tasks on streams that ship, under other names, with code beside them and with one more metric."""
    folder = tmp_path_factory.mktemp("plain")
    tasks, source = folder / "tasks", EXTRAS / "sae_bench_extras"
    for task in ("half_code", "label_l0"):
        here = f"{task}_here"
        shutil.copytree(source / "tasks" / task, tasks / here)
        renamed = [
            (source / f"{task}.py", tasks / f"{here}.py"),
            (source / "figures" / f"{task}.py", tasks / f"{here}_figures.py"),
            (tasks / here / "task.toml", tasks / here / "task.toml"),
        ]
        for old, new in renamed:
            text = old.read_text(encoding="utf-8").replace(f"sae_bench_extras.figures.{task}", f"{here}_figures")
            text = text.replace(f"sae_bench_extras.{task}", here).replace(f'id = "{task}"', f'id = "{here}"')
            new.write_text(text, encoding="utf-8")
    with (tasks / "half_code_here" / "task.toml").open("a", encoding="utf-8") as file:  # one metric: two files
        file.write(METRIC)
    figures = tasks / "half_code_here_figures.py"
    old = 'return {"half_delta_ce"'
    new = f'return {{"kept": lambda s: Ratio(s.kept, s.tokens, "the number of tokens"),{old.partition("{")[2]}'
    assert old in figures.read_text(encoding="utf-8")
    figures.write_text(figures.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return Plain(environment(folder / "env"), folder, tasks)


@pytest.fixture(scope="module")
def measured(plain: Plain) -> Plain:
    """With results of these tasks in ``runs``."""
    python, folder, _ = plain
    asked = ("--tasks", "*_here", "--task-dir", "tasks", "--sae", "demo/topk_k16", "--controls", "none")
    more = (*short_texts(folder), "--limit", 64)
    done = run(python, "-m", "sae_bench.cli.main", "run", *asked, *more, cwd=folder)
    assert (done.returncode, complaints(done.stderr)) == (0, []), done.stdout + done.stderr
    return plain


@pytest.mark.slow
def test_a_plain_folder_of_tasks_gives_the_same_figures(measured: Plain, installed: Place) -> None:
    """Another back end, other batches and another way to the code: the figures are the same."""
    ours, theirs = results(measured.folder / "runs"), results(installed[1] / "runs")
    for task in ("half_code", "label_l0"):
        own = ours["demo/topk_k16", f"{task}_here"][1].metrics
        for name, metric in theirs["demo/topk_k16", task][1].metrics.items():
            expected = [metric.value, metric.low, metric.high]
            found = [own[name].value, own[name].low, own[name].high]
            assert found == [None if x is None else pytest.approx(x, rel=1e-3, abs=1e-5) for x in expected], name
    assert ours["demo/topk_k16", "half_code_here"][1].metrics["kept"].value == pytest.approx(8, abs=0.2)


@pytest.mark.slow
def test_what_reads_results_takes_the_folder_too(measured: Plain) -> None:
    shutil.copytree(measured.folder / "runs", measured.folder / "again")
    (measured.folder / "gates.toml").write_text("[half_code_here.half_kl]\nallowed_loss = 0.01\n", encoding="utf-8")
    side = "runs/demo__topk_k16"
    commands = {
        ("show", "runs"): "kept",
        ("show", "half_code_here"): "mean number of latents kept of a token",
        ("board", "runs", "--all-metrics"): "latents kept",
        ("compare", side, "again/demo__topk_k16", "--all-metrics"): "kept",
        ("check", side, "--baseline", "again", "--gates", "gates.toml"): "half_kl",
    }
    given = [[*command, "--task-dir", "tasks"] for command in commands]
    found = read(measured.python, *given, cwd=measured.folder)
    for (command, says), (code, out, error) in zip(commands.items(), found, strict=True):
        assert (code, complaints(error)) == (0, []), command
        assert says in out, command


@pytest.mark.slow  # in one process: test_show_plugins.py
def test_such_results_are_checked_and_measured_again(measured: Plain) -> None:
    file = results(measured.folder / "runs")["demo/topk_k16", "half_code_here"][0]
    data = ["--data", measured.folder / "texts.jsonl", "--probe-data", measured.folder / "sets"]
    asked = [file, "--sae", "demo/topk_k16", "--task-dir", "tasks", "--share", "0.2", "--quiet"]
    done = run(measured.python, "-m", "sae_bench.cli.main", "verify", *asked, *data, cwd=measured.folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "documents were measured again" in done.stdout
    ((code, _, error),) = read(
        measured.python, ["submit", file, "--check-only", "--task-dir", "tasks"], cwd=measured.folder
    )
    assert code == 2
    faults = [line for line in error.splitlines() if "half_code_here" in line]
    assert len(faults) == 1, error
    assert "without the controls" in faults[0], "nothing but that it was measured without controls"


def test_no_other_folder_is_searched_for_code(plain: Plain, tmp_path: Path) -> None:
    """Code beside the named folder, and in the folder of the task itself, is not found."""
    other = tmp_path / "other"
    shutil.copytree(plain.tasks / "half_code_here", other / "half_code_here")
    for place in (tmp_path / "half_code_here_figures.py", other / "half_code_here" / "half_code_here_figures.py"):
        shutil.copy(plain.tasks / "half_code_here_figures.py", place)
    (tmp_path / "empty").mkdir()
    ((code, out, error),) = read(plain.python, ["ls", "tasks", "--task-dir", other], cwd=tmp_path / "empty")
    assert (code, out) == (2, "")
    assert error.count("\n") == 1
    assert "half_code_here_figures cannot be imported (ModuleNotFoundError: No module named" in error
