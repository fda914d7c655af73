"""Plug-ins that cannot be used, and tasks that misbehave: one sentence each, and all others go on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sae_bench import registry
from sae_bench.errors import CoderError, SaeBenchError, UsageError
from sae_bench.results import store
from sae_bench.saes import load
from sae_bench.units.kinds import kind
from tests.builders.misbehaving import HOW, write_all
from tests.builders.plugins import Point, register
from tests.builders.said import complaints
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.conftest import Run

DEFINITION = """
id = "{name}"
version = 1
title = "{name}"
question = "What is {name}?"
code = "{code}"
figures = "sae_bench.metrics.sparsity"
"""
FEW = ("--limit", "4", "--tier", "smoke", "--resamples", "20", "--quiet")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test registers is forgotten, and what it writes can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    yield
    registry._tasks.cache_clear()
    kind.cache_clear()


def task(folder: Path, name: str, code: str = "sae_bench.tasks.sparsity:Sparsity", *, table: str = "document") -> Path:
    """The definition of the task sparsity under another name, in a folder of tasks."""
    shipped = (registry.data_folder("tasks") / "sparsity" / "task.toml").read_text(encoding="utf-8")
    text = DEFINITION.format(name=name, code=code) + shipped[shipped.index("[metrics") :]
    (folder / name).mkdir(parents=True, exist_ok=True)
    file = folder / name / "task.toml"
    file.write_text(text.replace('table = "document"', f'table = "{table}"'), encoding="utf-8")
    return file


def module(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return name


def folders(tmp_path: Path, name: str, *tasks: str) -> Point:
    """An entry point whose module names a folder of tasks."""
    module(tmp_path, name, f"TASKS = {str(tmp_path / f'{name}_tasks')!r}\n")
    for one in tasks:
        task(tmp_path / f"{name}_tasks", one)
    return Point(name, f"{name}:TASKS", "sae_bench.tasks")


# ------------------------------------------------------------------------------------------ packages that are broken


def test_each_broken_package_of_tasks_is_one_sentence_and_the_others_load(
    cli: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typo = folders(tmp_path, "pb_typo", "typo")
    file = tmp_path / "pb_typo_tasks" / "typo" / "task.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("question", "queston"), encoding="utf-8")
    unit = folders(tmp_path, "pb_unit")
    task(tmp_path / "pb_unit_tasks", "of_a_gone_unit", table="pb_gone")
    module(tmp_path, "pb_raises", "raise RuntimeError('no licence')\n")
    says = {
        Point("gone", "pb_absent:TASKS", "sae_bench.tasks"): "No module named 'pb_absent'",
        Point("raises", "pb_raises:TASKS", "sae_bench.tasks"): "(RuntimeError: no licence)",
        Point("lacks", "pb_typo:NOTHING", "sae_bench.tasks"): "has no attribute 'NOTHING'",
        Point("no_folder", "json:dumps", "sae_bench.tasks"): "it must name a folder with <task>/task.toml files",
        typo: "'question': Field required",
        folders(tmp_path, "pb_twice", "sparsity"): "the task id sparsity is taken already",
        unit: "the entry point pb_gone = 'pb_nowhere:UNIT' in sae_bench.units",
    }
    good = folders(tmp_path, "pb_good", "good")
    register(monkeypatch, *says, good, Point("pb_gone", "pb_nowhere:UNIT", "sae_bench.units"))
    for verb in (("ls", "tasks"), ("show", "good")):
        registry._tasks.cache_clear()
        code, out, error = cli(*verb)
        assert code == 0
        assert {"good", "sparsity"} <= set(re.findall(r"\w+", out)) or verb[0] == "show"
        assert len(error.splitlines()) == len(says)
        for line, (point, why) in zip(error.splitlines(), says.items(), strict=True):
            start = f"sae-bench: the entry point {point.name} = {point.value!r} in sae_bench.tasks is left out: "
            assert line.startswith(start), line
            assert why in line


def test_what_cannot_be_used_is_left_out_of_a_run_unless_it_is_named(
    cli: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = folders(tmp_path, "pb_some", "bad_good")
    tasks = tmp_path / "pb_some_tasks"
    task(tasks, "bad_code", "pb_absent:Task")
    task(tasks, "bad_kind", "builtins:str")
    task(tasks, "bad_stream", "pb_code:Lost")
    task(tasks, "bad_passes", "pb_code:Passes")
    code = "from sae_bench.tasks.sparsity import Sparsity\n"
    code += "class Lost(Sparsity):\n    stream = 'pb_lost'\n"
    code += "class Passes(Sparsity):\n    def passes(self):\n        return 1 / 0\n"
    code += "def raises(sae, calibration, seed):\n    raise ValueError('no such control')\n"
    code += "def nothing(sae, calibration, seed):\n    return 3\n"
    module(tmp_path, "pb_code", code)
    controls = {"ctl_raises": "pb_code:raises", "ctl_nothing": "pb_code:nothing", "ctl_gone": "pb_absent:control"}
    register(
        monkeypatch,
        package,
        *(Point(name, value, "sae_bench.controls") for name, value in controls.items()),
        Point("pb_lost", "pb_absent:Stream", "sae_bench.streams"),
    )
    code_, out, error = cli("run", "--sae", "demo", "--tasks", "sparsity,bad_*", "--controls", "mean,ctl_*", *FEW)
    assert code_ == 0, error
    assert {result.task for result in map(store.read, store.find(tmp_path / "runs"))} == {"sparsity", "bad_good"}
    for result in map(store.read, store.find(tmp_path / "runs")):
        assert set(result.controls) == {"mean"}
        assert result.details["controls without figures"] == {
            "ctl_raises": "it cannot be made: ValueError: no such control",
            "ctl_nothing": "it cannot be made: TypeError: it must be a coder or None, not int",
        }
    from_package = f", from the entry point pb_some = {package.value!r} in sae_bench.tasks, is left out: "
    says = {
        "bad_code": f"bad_code{from_package}pb_absent:Task cannot be imported (ModuleNotFoundError: ",
        "bad_kind": f"bad_kind{from_package}task bad_kind: builtins:str must make a Task, not str",
        "bad_stream": f"bad_stream{from_package}pb_absent:Stream cannot be imported (ModuleNotFoundError: ",
        "bad_passes": f"bad_passes{from_package}task bad_passes: passes fails: ZeroDivisionError: division by zero",
        "ctl_gone": "ctl_gone, from the entry point ctl_gone = 'pb_absent:control' in sae_bench.controls, is left out",
        "ctl_raises": "the control ctl_raises of demo/topk_k32 cannot be made: ValueError: no such control",
        "ctl_nothing": "the control ctl_nothing of demo/topk_k32 cannot be made: TypeError: it must be a coder",
    }
    assert len(complaints(error)) == len(says)
    for sentence in says.values():
        assert f"sae-bench: {sentence}" in error
    for asked, origin in (
        (("--tasks", "bad_code"), "pb_some = 'pb_some:TASKS' in sae_bench.tasks"),
        (("--tasks", "sparsity", "--controls", "ctl_gone"), "ctl_gone = 'pb_absent:control' in sae_bench.controls"),
    ):
        code_, out, error = cli("run", "--sae", "demo", *asked, *FEW)
        assert (code_, out, error.count("\n")) == (2, "", 1)
        assert "No module named 'pb_absent'" in error
        assert error.rstrip().endswith(f"the entry point {origin}")


def test_a_broken_format_takes_no_other_down(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module(tmp_path, "pb_matches", "def matches(source):\n    raise KeyError('config')\n")
    module(
        tmp_path,
        "pb_reads",
        "def matches(source):\n    return source.has('mine.txt')\ndef read(source, told):\n    1 / 0\n",
    )
    names = ("pb_absent", "pb_matches", "pb_reads")
    register(monkeypatch, *(Point(name, name, "sae_bench.formats") for name in names))
    native = write_native(tiny_coder("relu"), tmp_path / "native")
    assert len(list(load.load_saes([native]))) == 1  # layouts that ship are tried first, and no warning
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "mine.txt").write_text("x")
    with pytest.warns(UserWarning, match="is left out: ") as warned, pytest.raises(CoderError) as caught:
        list(load.load_saes([tmp_path / "odd"]))
    assert "cannot be read by the entry point pb_reads = 'pb_reads' in sae_bench.formats: ZeroDiv" in str(caught.value)
    assert [str(one.message).partition(" is left out: ")[2] for one in warned] == [
        "pb_absent cannot be imported (ModuleNotFoundError: No module named 'pb_absent'); install or correct what "
        "registers it: the entry point pb_absent = 'pb_absent' in sae_bench.formats",
        "KeyError: 'config'",
    ]


def test_a_unit_and_a_stream_that_are_none_are_said_to_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_bench.streams import stream

    register(
        monkeypatch, Point("pb_u", "json:dumps", "sae_bench.units"), Point("pb_s", "io:BytesIO", "sae_bench.streams")
    )
    with pytest.raises(SaeBenchError, match=r"the entry point pb_u = 'json:dumps' in sae_bench\.units must be a Kind"):
        kind("pb_u")
    with pytest.raises(SaeBenchError, match=r"the entry point pb_s = .* must make a Stream, not BytesIO"):
        stream("pb_s")


def test_a_run_of_nothing_is_refused(cli: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = folders(tmp_path, "pb_only")
    task(tmp_path / "pb_only_tasks", "only_bad", "pb_absent:Task")
    register(monkeypatch, package)
    code, out, error = cli("run", "--sae", "demo", "--tasks", "only_*", *FEW)
    assert (code, out) == (2, "")
    assert error.splitlines()[-1] == "sae-bench: no task is left of --tasks only_*; see the warnings above"
    assert issubclass(UsageError, SaeBenchError)


# ------------------------------------------------------------------------------------------ tasks that misbehave


def test_a_task_that_misbehaves_is_an_error_of_its_own(cli: Run, tmp_path: Path) -> None:
    """One run of all of them beside one that behaves: a sentence each, and the exit code says that something failed."""
    folder = write_all(tmp_path / "misbehaving")
    given = ("--tasks", ",".join(("sparsity", *HOW)), "--task-dir", folder, "--controls", "mean")
    code, _, error = cli("run", "--sae", "demo", *given, "--batch-tokens", "200", *FEW)
    assert code == 1
    found = {result.task: result for result in map(store.read, store.find(tmp_path / "runs"))}
    assert set(found) == {"sparsity", *HOW}
    assert found["sparsity"].status == "ok"
    assert found["sparsity"].controls["mean"]
    for how, says in HOW.items():
        result = found[how]
        assert (result.status, result.metrics) == ("error", {}), how
        assert str(result.reason).startswith(f"task {how}: {says}"), result.reason
        assert "\n" not in str(result.reason)
        assert f"sae-bench: demo/topk_k32, {how}: {result.reason}" in error
    assert len(complaints(error)) == len(HOW)
    assert re.search(r"for document [0-9a-f]{16}$", str(found["nan"].reason)), "the document is named"
