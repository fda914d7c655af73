"""What may be on the board: fit results go where they belong, and each way of being unfit is said in a sentence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from sae_bench.api import evaluate
from sae_bench.errors import UsageError
from sae_bench.files import sha256
from sae_bench.results import store, submit
from sae_bench.results.submit import LEAST_DOCUMENTS, MOST_JSON, MOST_UNITS, NAME, check, result_files
from sae_bench.schema import Protocol
from sae_bench.suites import record
from sae_bench.units import Units, pack
from tests.builders.results import changed
from tests.builders.said import complaints
from tests.builders.suites import sealed
from tests.conftest import Run

ROOT = Path(__file__).parents[1]
FIT = ("reconstruction", "sparsity", "probe_recovery")
UNITS = ".units.safetensors"
Change = Callable[[dict[str, Any]], Any]
Tables = dict[str, Units]


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sealed suite that the results of this file are of."""
    folder = tmp_path_factory.mktemp("suites")
    sets = '[labelled]\nsets = "base64,code_comment,contains_number,has_question,uppercase_word"'
    text = {"limit": 64, "context": 128}
    tasks = (*FIT, "downstream_sparsity")
    sealed(folder, "tried-v1", tasks=tasks, text=text, controls="default", resamples=50, rest=sets)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, suites: Path) -> dict[str, Path]:
    """Results of one SAE of the demo world by task; the one of downstream_sparsity is of 8 documents."""
    out = tmp_path_factory.mktemp("made")
    evaluate("demo", suite=suites / "tried-v1.toml", out=out)
    return {store.read(file).task: file for file in store.find(out)}


@pytest.fixture(autouse=True)
def known_suites(suites: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites there are, in all tests but that of the repository."""
    if "repository" not in request.node.name:
        monkeypatch.setattr(record, "folder_of", lambda folder=None: suites if folder is None else Path(folder))


def copied(file: Path, to: Path) -> Path:
    to.mkdir(parents=True, exist_ok=True)
    for one in (file, file.with_suffix(UNITS)):
        shutil.copy(one, to / one.name)
    return to / file.name


def edited(file: Path, to: Path, change: Change, *, rehashed: bool = True) -> Path:
    """A copy with other content, whose hash of the protocol is right unless ``rehashed`` is False."""
    file = copied(file, to)
    content = json.loads(file.read_text())
    change(content)
    if rehashed:
        content["protocol"] = store.protocol_hash(Protocol(**content["provenance"]["protocol"]))
    file.write_text(json.dumps(content, indent=1))
    return file


def with_units(file: Path, to: Path, rows: Callable[[Tables], Any]) -> Path:
    """A copy with other units, of which the result says that they are its own."""
    file = copied(file, to)
    tables = store.read_units(file)
    rows(tables)
    arrays, metadata = pack(tables)
    save_file(arrays, file.with_suffix(UNITS), metadata)
    changed(file, "units_sha256", value=sha256(file.with_suffix(UNITS)))
    return file


def only(file: Path, *parts: str) -> None:
    """The file has one problem, and its sentence holds these parts."""
    problems = check(file).problems
    assert len(problems) == 1, problems
    assert all(part in problems[0] for part in parts), problems


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def at(*path: str, value: Any) -> Change:
    """Sets one field."""

    def change(content: dict[str, Any]) -> None:
        for part in path[:-1]:
            content = content[part]
        content[path[-1]] = value

    return change


PROTOCOL = ("provenance", "protocol")


# ---------------------------------------------------------------- what is fit


@pytest.mark.parametrize("task", FIT)
def test_an_honest_result_has_no_problem(made: dict[str, Path], task: str) -> None:
    checked = check(made[task])
    assert checked.problems == ()
    assert checked.result is not None
    assert checked.result.task == task


def test_parameters_that_only_describe_the_run_are_no_change_of_the_task(made: dict[str, Path]) -> None:
    assert store.read(made["downstream_sparsity"]).provenance.protocol.parameters.keys() == {"vocabulary"}
    only(made["downstream_sparsity"], "it was measured on 8 documents; the board takes 64 or more")


def test_figures_may_pass_a_bound_by_rounding(made: dict[str, Path], tmp_path: Path) -> None:
    for excess, fits in ((1e-7, True), (1e-5, False)):
        change = at("metrics", "cosine", "high", value=1 + excess)
        problems = check(edited(made["reconstruction"], tmp_path, change)).problems
        assert any("must lie between -1 and 1" in problem for problem in problems) == (not fits)


# ---------------------------------------------------------------- what is not


def failed(status: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        content |= {"status": status, "reason": "encode failed", "metrics": {}, "controls": {}}

    return change


def of_version(result: int, protocol: int) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["version"], content["provenance"]["protocol"]["version"] = result, protocol

    return change


def of_task(name: str) -> Change:
    def change(content: dict[str, Any]) -> None:
        content["task"] = content["provenance"]["protocol"]["task"] = name

    return change


def extra_metric(content: dict[str, Any]) -> None:
    content["metrics"]["greatness"] = content["metrics"]["cosine"]


def extra_in_control(content: dict[str, Any]) -> None:
    content["controls"]["mean"]["greatness"] = content["metrics"]["cosine"]


UNFIT: dict[str, tuple[Change, tuple[str, ...]]] = {
    "error": (failed("error"), ("the status is error (encode failed); only results with the status ok are taken",)),
    "skipped": (failed("skipped"), ("the status is skipped",)),
    "unknown task": (of_task("telepathy"), ("it is of the task 'telepathy', which is not installed here",)),
    "newer version": (of_version(2, 2), ("it is of version 2 of reconstruction, the current one is 1",)),
    "version of the protocol": (of_version(1, 2), ("it is of version 1 of reconstruction", "measure again")),
    "version of the result": (of_version(2, 1), ("it is of version 2 of reconstruction",)),
    "definition": (at(*PROTOCOL, "task_sha256", value="0" * 64), ("task_sha256 is not that of reconstruction",)),
    "extra in a control": (extra_in_control, ("mean greatness is no metric of reconstruction",)),
    "controls": (at("provenance", "controls", value=["mean", "pca"]), (
        "without the controls identity, random, random_fit, random_l0, permuted; run with --controls default",)),
    "no controls": (at("provenance", "controls", value=[]), ("without the controls mean, identity, pca",)),
    "long name": (at("sae", "name", value="x" * (NAME + 1)), ("a name is longer than 200 characters",)),
    "name that clears the screen": (at("sae", "name", value="\x1b[2J"), ("holds what cannot be printed: '\\x1b[2J'",)),
    "name that turns the line": (at("sae", "name", value="a\u202eb"), ("holds what cannot be printed",)),
    "architecture": (at("sae", "architecture", value="topk\n"), ("holds what cannot be printed",)),
    "model": (at(*PROTOCOL, "model", value="x" * 5000), ("a name is longer than 200 characters",)),
    "data": (at(*PROTOCOL, "data", value="\x00"), ("holds what cannot be printed: '\\x00'",)),
    "schema": (at("schema_version", value=9), ("has result schema 9, this sae-bench knows 3; update sae-bench",)),
    "not finite": (at("metrics", "fvu", "value", value=float("nan")), ("'metrics.fvu.value' is not a finite number",)),
    "infinite detail": (at("details", "x", value=float("inf")), ("'details.x' is not a finite number",)),
    "interval": (at("metrics", "fvu", "low", value=2.0), ("'metrics.fvu': Value error, the interval",)),
    "unknown field": (at("stars", value=5), ("'stars': Extra inputs are not permitted",)),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(UNFIT))
def test_what_is_unfit_is_one_sentence(made: dict[str, Path], tmp_path: Path, name: str) -> None:
    change, says = UNFIT[name]
    only(edited(made["reconstruction"], tmp_path, change), *says)


def test_another_seed_is_a_problem_though_its_figures_are_right(tmp_path: Path) -> None:
    evaluate("demo", tasks="sparsity", tier="smoke", limit=64, resamples=50, seed=1, out=tmp_path)
    only(next(store.find(tmp_path)), "the seed is 1; the board takes seed 0, since a seed can be chosen")


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("metrics", "fvu", "unit"), "nats", "fvu is in 'nats', better 'lower', not '1', 'lower'"),
        (("metrics", "fvu", "better"), "higher", "fvu is in '1', better 'higher', not '1', 'lower'"),
        (("controls", "pca", "mse", "unit"), "1", "pca mse is in '1', better 'lower', not 'activation^2', 'lower'"),
    ],
)
def test_unit_and_direction_are_those_of_the_task(
    made: dict[str, Path], tmp_path: Path, path: tuple[str, ...], value: str, says: str
) -> None:
    assert says in check(edited(made["reconstruction"], tmp_path, at(*path, value=value))).problems


def test_metrics_must_be_those_of_the_task(made: dict[str, Path], tmp_path: Path) -> None:
    problems = check(edited(made["reconstruction"], tmp_path, extra_metric)).problems
    assert "its metrics are not those of reconstruction: see greatness" in problems
    assert "greatness is no metric of reconstruction" in problems

    def lacking(content: dict[str, Any]) -> None:
        del content["metrics"]["fvu"]

    problems = check(edited(made["reconstruction"], tmp_path, lacking)).problems
    assert "its metrics are not those of reconstruction: see fvu" in problems
    assert "fvu is not in the result, though its units are" in problems


@pytest.mark.parametrize(
    ("task", "path", "value"),
    [
        ("reconstruction", ("metrics", "fvu", "low"), -0.1),
        ("reconstruction", ("metrics", "cosine", "high"), 1.1),
        ("reconstruction", ("controls", "permuted", "mse", "low"), -1e-3),
        ("sparsity", ("metrics", "dead_fraction", "high"), 1.01),
        ("sparsity", ("metrics", "l0", "low"), -2.0),
        ("probe_recovery", ("metrics", "probe_auroc", "high"), 1.5),
        ("probe_recovery", ("metrics", "probe_r", "high"), 1.001),
    ],
)
def test_a_figure_that_cannot_be_is_named(
    made: dict[str, Path], tmp_path: Path, task: str, path: tuple[str, ...], value: float
) -> None:
    problems = check(edited(made[task], tmp_path, at(*path, value=value))).problems
    label = " ".join(path[1:-1])
    assert any(p.startswith(f"{label}: {path[-1]} is {value}, and must lie between") for p in problems), problems
    assert any("but its units give" in p for p in problems)  # the units say so too


def test_too_few_documents_are_a_problem(made: dict[str, Path], tmp_path: Path) -> None:
    file = edited(made["reconstruction"], tmp_path, at(*PROTOCOL, "n_documents", value=LEAST_DOCUMENTS - 1))
    assert "it was measured on 63 documents; the board takes 64 or more" in check(file).problems


@pytest.mark.parametrize("rehashed", [True, False])
def test_an_edited_protocol(made: dict[str, Path], tmp_path: Path, rehashed: bool) -> None:
    """The hash is no secret: whoever edits the protocol can make it anew, so other checks have to see it."""
    change = at(*PROTOCOL, "n_documents", value=5000)
    file = edited(made["reconstruction"], tmp_path, change, rehashed=rehashed)
    if not rehashed:
        only(file, "'protocol' must be the hash of 'provenance.protocol'")
    else:
        problems = check(file).problems  # there are 64 rows, and the suite fixes 64 documents
        assert any("unofficial" in problem for problem in problems)
        assert any("5000" in problem and "unofficial" not in problem for problem in problems)


def test_a_changed_parameter_is_named(made: dict[str, Path], tmp_path: Path) -> None:
    problems = check(edited(made["probe_recovery"], tmp_path, at(*PROTOCOL, "parameters", value={"pooling": "mean"})))
    assert any("but pooling was changed with --param" in problem for problem in problems.problems)


def test_the_definition_counts_where_the_protocol_has_parameters_of_its_own(
    made: dict[str, Path], tmp_path: Path
) -> None:
    file = edited(made["downstream_sparsity"], tmp_path, at(*PROTOCOL, "task_sha256", value="0" * 64))
    assert any("task_sha256 is not that of downstream_sparsity" in problem for problem in check(file).problems)


def test_controls_that_are_named_must_be_there(made: dict[str, Path], tmp_path: Path) -> None:
    file = edited(made["reconstruction"], tmp_path, at("controls", value={}))
    assert any("control" in problem for problem in check(file).problems)


def test_edited_figures_do_not_follow_from_the_units(made: dict[str, Path], tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        content["metrics"]["fvu"]["low"] *= 0.9

    only(edited(made["reconstruction"], tmp_path / "metric", change), "fvu: low is", "but its units give")

    def counted(content: dict[str, Any]) -> None:
        content["metrics"]["fvu"]["n_units"] = 5000

    only(edited(made["reconstruction"], tmp_path / "units", counted), "fvu: n_units is 5000", "64")


# ---------------------------------------------------------------- units


def test_without_units_nobody_can_check(made: dict[str, Path], tmp_path: Path) -> None:
    file = copied(made["reconstruction"], tmp_path)
    file.with_suffix(UNITS).unlink()
    only(file, f"{file.stem}{UNITS} is not beside it; without units nobody can check or compare it")


def test_edited_units_contradict_the_figures(made: dict[str, Path], tmp_path: Path) -> None:
    def rows(tables: Tables) -> None:
        tables["document"].columns["error"][7] *= 0.5

    problems = check(with_units(made["reconstruction"], tmp_path, rows)).problems
    assert 0 < len(problems) <= 5  # a table has many figures, and one sentence is enough to see it
    assert problems[0].startswith("fvu: value is ")


def test_a_table_that_figures_need_must_be_there(made: dict[str, Path], tmp_path: Path) -> None:
    """Else figures are free."""

    def rows(tables: Tables) -> None:
        tables.clear()
        tables["something"] = Units(("0",), {"n": np.ones(1)})

    assert any("document" in problem for problem in check(with_units(made["reconstruction"], tmp_path, rows)).problems)


def without_column(tables: Tables) -> None:
    del tables["document"].columns["error"]  # type: ignore[attr-defined]


def narrow(tables: Tables) -> None:
    tables["document"].columns["x"] = np.ones((64, 3))  # type: ignore[index]


def flat(tables: Tables) -> None:
    tables["document"].columns["x"] = np.ones(64)  # type: ignore[index]


def short(tables: Tables) -> None:
    tables["document"] = tables["document"].select(range(20))


def without_rows(tables: Tables) -> None:
    tables["document"] = tables["document"].select([])


def not_numbers(tables: Tables) -> None:
    tables["document"].columns["error"][:] = np.nan


@pytest.mark.parametrize("rows", [without_column, narrow, flat, short, without_rows, not_numbers])
def test_units_of_another_shape_are_a_problem_and_no_traceback(
    made: dict[str, Path], tmp_path: Path, rows: Callable[[Tables], Any]
) -> None:
    assert check(with_units(made["reconstruction"], tmp_path, rows)).problems


def test_damaged_and_large_files_are_named(made: dict[str, Path], tmp_path: Path) -> None:
    file = copied(made["reconstruction"], tmp_path)
    units = file.with_suffix(UNITS)
    whole = units.read_bytes()
    units.write_bytes(whole[:-10])
    only(file, str(units), "is not a table of units", "is it truncated?")
    with units.open("r+b") as stream:
        stream.truncate(MOST_UNITS + 1)  # sparse: takes no room
    only(file, f"{units.name} is larger than 32 MiB")
    units.write_bytes(whole)
    text = file.read_text()
    file.write_text(text + " " * MOST_JSON)
    only(file, f"{file} is larger than 2 MiB")
    file.write_text(text + " " * (MOST_JSON - len(text.encode())))
    assert check(file).problems == ()
    for content in (text[:-20], "", "[]", "{}", "null", "\x00"):
        file.write_text(content)
        only(file, str(file))
    file.unlink()
    only(file, str(file))


@pytest.mark.parametrize("resamples", [-5, 10**12])
def test_a_number_of_resamples_that_cannot_be_is_a_problem(
    made: dict[str, Path], tmp_path: Path, resamples: int
) -> None:
    only(edited(made["reconstruction"], tmp_path, at("provenance", "resamples", value=resamples)), "resamples")


def test_a_parameter_of_another_type_is_a_problem(made: dict[str, Path], tmp_path: Path) -> None:
    file = edited(made["probe_recovery"], tmp_path, at(*PROTOCOL, "parameters", value={"pooling": ["\x1b[2J"]}))
    assert check(file).problems


# ---------------------------------------------------------------- the command


@pytest.fixture
def cli(cli: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the verb in an empty folder; returns exit code, stdout, stderr."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return partial(cli, "submit")


def test_fit_results_are_copied_byte_by_byte_to_where_they_belong(
    cli: Run, made: dict[str, Path], tmp_path: Path
) -> None:
    files = [copied(made[task], tmp_path / "mine" / str(i)) for i, task in enumerate(FIT)]
    code, out, error = cli(*files)
    assert (code, complaints(error)) == (0, [])
    found = contents(Path("results"))
    result = store.read(files[0])
    folder = f"demo__topk_k32/{result.sae.weights_sha256[:12]}"
    assert set(found) == {f"{folder}/sae.json"} | {f"{folder}/{f.stem}{end}" for f in files for end in (".json", UNITS)}
    for file in files:
        assert found[f"{folder}/{file.name}"] == file.read_bytes()
        assert found[f"{folder}/{file.stem}{UNITS}"] == file.with_suffix(UNITS).read_bytes()
        assert str(Path("results") / folder / file.name) in out.splitlines()
    assert json.loads(found[f"{folder}/sae.json"]) == result.sae.model_dump(mode="json")
    assert "3 results of demo/topk_k32 are in results" in out
    for step in ("git checkout -b", "git add results", "git push", "pull request", "sae-bench verify RESULT --sae"):
        assert step in out
    assert cli(*files)[0] == 0  # once more changes nothing
    assert contents(Path("results")) == found
    assert all(one.problems == () for one in map(check, store.find(Path("results"))))


def test_a_file_of_any_name_goes_to_its_place(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    file = copied(made["sparsity"], tmp_path / "mine")
    for one in (file, file.with_suffix(UNITS)):
        one.rename(one.with_name(one.name.replace(file.stem, "my best")))
    assert cli(file.with_name("my best.json"), "--to", tmp_path / "board")[0] == 0
    assert [f.name for f in store.find(tmp_path / "board")] == [file.name]


def test_none_is_copied_if_one_is_unfit(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    bad = edited(made["sparsity"], tmp_path / "mine", at("provenance", "controls", value=[]))
    code, out, error = cli(made["reconstruction"], bad)
    assert (code, out) == (2, "")
    assert error.startswith(f"sae-bench: {bad}: it was measured without the controls mean, ")
    assert len(error.splitlines()) == 1
    assert contents(Path()) == {}


def test_check_only_copies_nothing(cli: Run, made: dict[str, Path]) -> None:
    code, out, error = cli(*(made[task] for task in FIT), "--check-only")
    assert (code, out, complaints(error)) == (0, "3 results are fit for the board\n", [])
    assert contents(Path()) == {}
    code, out, error = cli(made["downstream_sparsity"], "--check-only")
    assert (code, out) == (2, "")
    assert "8 documents" in error


def test_folders_are_searched(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    deep = tmp_path / "runs" / "monday" / "sae"
    file = copied(made["sparsity"], deep)
    copied(made["reconstruction"], tmp_path / "runs")
    (deep / "sae.json").write_text("{}")
    (deep / f".{file.name}.77.tmp").write_text("{")
    (deep / f".{file.name}").write_text("{")
    code, out, _ = cli(tmp_path / "runs", file, deep, "--check-only")
    assert (code, out) == (0, "2 results are fit for the board\n")
    found = result_files([tmp_path / "runs", file, deep])
    assert sorted(f.name for f in found) == sorted(made[task].name for task in ("sparsity", "reconstruction"))


def test_nothing_found_is_one_sentence(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for given in ([tmp_path / "empty"], [tmp_path / "nothing"], [tmp_path / "empty", tmp_path / "nothing.json"]):
        code, out, error = cli(*given)
        assert (code, out) == (2, "")
        assert "there is no " in error
        assert len(error.splitlines()) == 1
    with pytest.raises(UsageError):
        result_files([])


def test_a_path_that_is_not_there_is_said_beside_one_that_is(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    """A typo in one of several names must not pass for a whole submission."""
    code, _, error = cli(made["sparsity"], tmp_path / "typo.json", "--check-only")
    assert code == 2
    assert "typo.json" in error


def test_a_folder_that_cannot_be_written_is_one_sentence(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, out, error = cli(made["sparsity"], "--to", tmp_path / "file")
    assert (code, out) == (2, "")
    assert "cannot write" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/b", "..", "-rf", "日本語", "$(reboot)"])
def test_names_stay_in_the_folder(cli: Run, made: dict[str, Path], tmp_path: Path, name: str) -> None:
    file = edited(made["sparsity"], tmp_path / "mine", at("sae", "name", value=name))
    code, _, error = cli(file)
    assert (code, complaints(error)) == (0, [])
    assert sorted(os.listdir(tmp_path)) == ["here", "mine"]
    assert os.listdir() == ["results"]
    assert [store.read(f).sae.name for f in store.find(Path("results"))] == [name]


def test_hostile_content_does_not_reach_the_terminal(cli: Run, made: dict[str, Path], tmp_path: Path) -> None:
    evil = "\x1b[2J\x1b[31m\r\nall is well\u202e"

    def change(content: dict[str, Any]) -> None:
        content["sae"] |= {"name": evil, "architecture": evil}
        content["metrics"][evil] = content["metrics"]["l0"]
        content["controls"][evil] = content["controls"]["mean"]
        content["controls"]["mean"][evil] = content["metrics"]["l0"]
        content["metrics"]["l0"]["unit"] = evil

    files = [
        edited(made["sparsity"], tmp_path / "0", change),
        edited(made["sparsity"], tmp_path / "1", lambda c: (failed("error")(c), at("reason", value=evil)(c))),
        edited(made["sparsity"], tmp_path / "2", at(evil, value=1)),
        edited(made["sparsity"], tmp_path / "3", at("task", value=evil)),
    ]
    code, out, error = cli(*files)
    assert (code, out) == (2, "")
    assert all(character.isprintable() or character == "\n" for character in error)
    assert all(line.startswith("sae-bench: ") for line in error.splitlines())
    assert {line.split(": ")[1] for line in error.splitlines()} == {str(file) for file in files}


def in_process_of_its_own(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_checking_imports_no_torch(made: dict[str, Path], suites: Path) -> None:
    """The job that checks a pull request installs little and reads files from strangers."""
    files = [str(made[task]) for task in FIT]
    out = in_process_of_its_own(
        "import sys\nfrom sae_bench.cli.main import main\n"
        f"assert main(['submit', *{files!r}, '--check-only', '--suites', {str(suites)!r}]) == 0\n"
        "print(sorted({'torch', 'transformers', 'transformer_lens', 'datasets', 'openai'} & set(sys.modules)))\n"
    )
    assert out.splitlines() == ["3 results are fit for the board", "[]"]


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys, time, contextlib, io\nfrom sae_bench.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()) as said:\n"
        "    try:\n        main(['submit', '--help'])\n    except SystemExit as end:\n        assert end.code == 0\n"
        "assert '--check-only' in said.getvalue()\n"
        "print(time.process_time(), 'torch' in sys.modules, 'numpy' in sys.modules)\n"
    )
    runs = [in_process_of_its_own(code).split() for _ in range(3)]
    assert {tuple(run[1:]) for run in runs} == {("False", "False")}
    assert min(float(run[0]) for run in runs) < 0.3  # CPU seconds, which other work on the machine does not change


# ---------------------------------------------------------------- the repository


def test_every_result_of_the_repository_is_fit() -> None:
    """What CI asks of a pull request that brings results."""
    folder = ROOT / "results"
    files = sorted(f for f in folder.rglob("*.json") if f.name != "sae.json") if folder.is_dir() else []
    if not files:
        pytest.skip("there are no results in the repository yet")
    assert files == list(store.find(folder))
    for file in files:
        checked = submit.check(file)
        assert checked.problems == (), file
        result = checked.result
        assert result is not None
        assert file == store.path_of(folder, result.sae, result.task, result.version, result.protocol)
        assert json.loads((file.parent / "sae.json").read_text()) == result.sae.model_dump(mode="json")
    units = {f.with_suffix(UNITS) for f in files}
    assert {f for f in folder.rglob("*") if f.is_file()} == {*files, *units, *(f.parent / "sae.json" for f in files)}
