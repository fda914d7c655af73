"""Results of a task from a package: written with their definition, and compared, submitted and ranked without torch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sae_bench import registry
from sae_bench.cli import verify as verify_verb
from sae_bench.errors import UsageError
from sae_bench.results import recompute, store
from sae_bench.schema import MetricValue
from sae_bench.units import Units
from tests.builders.locks import lock_beside
from tests.builders.results import result
from tests.builders.said import complaints
from tests.conftest import Run

ROOT = Path(__file__).parent.parent
TASK = """
id = "plain_mean"
version = 1
title = "Plain mean"
question = "How large is x?"
code = "plain_mean_code:PlainMean"
figures = "plain_mean_figures"
[parameters]
scale = 2.0
[metrics.mean_x]
name = "mean of x"
unit = "nats"
better = "lower"
table = "document"
claims = "features"
description = "the mean"
"""
FIGURES = """
from sae_bench.units.bootstrap import Ratio

def metrics(parameters):
    return {"mean_x": lambda s: Ratio(parameters["scale"] * s.x, s.n, "the number of tokens")}
"""
N = 80


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """A folder of tasks whose code cannot be imported, only its figures, and results of two SAEs."""
    folder = tmp_path_factory.mktemp("plugin")
    tasks = folder / "tasks"
    (tasks / "plain_mean").mkdir(parents=True)
    (tasks / "plain_mean" / "task.toml").write_text(TASK)
    (tasks / "plain_mean_figures.py").write_text(FIGURES)
    lock_beside(tasks)
    spec = registry.tasks(tasks)["plain_mean"]
    for name, level in (("good", 1.0), ("bad", 2.0)):
        x = level + np.random.default_rng(0).normal(0, 0.1, N)
        table = Units(tuple(f"d{i:02}" for i in range(N)), {"x": x, "n": np.ones(N)})
        found = recompute.figures(spec, {"document": table}, 0, 2000)["mean_x"]
        value = MetricValue(**{k: getattr(found, k) for k in SAID}, unit="nats",
                            better="lower")  # fmt: skip
        one = result(name=name, sha=name.encode().hex().ljust(64, "0"), task="plain_mean", n_documents=N,
                     task_sha256=registry.definition_sha256(spec), metrics={"mean_x": value})  # fmt: skip
        controls = {"controls": registry.DEFAULT_CONTROLS}
        one = one.model_copy(
            update={
                "definition": spec,
                "controls": {"zero": {"mean_x": value}},
                "provenance": one.provenance.model_copy(update=controls),
            }
        )
        store.write(folder / "results", one, {"document": table})
    return folder


SAID = ("value", "low", "high", "n_units", "no_interval", "optimistic", "design_effect")


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which must not import torch."""
    code = (
        "import sys\nfrom sae_bench.cli.main import main\ncode = main(sys.argv[1:])\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\nsys.exit(code)"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_with_its_folder_a_plugin_is_compared_checked_and_ranked_without_torch(plugin):
    good, bad = plugin / "results" / "good", plugin / "results" / "bad"
    given = ("--task-dir", plugin / "tasks")
    done = alone("compare", good, bad, *given)
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert "worse" in done.stdout
    (plugin / "gates.toml").write_text("[plain_mean.mean_x]\nallowed_loss = 0.1\n")
    done = alone("check", bad, "--baseline", good, "--sae-name", "good", "--gates", plugin / "gates.toml", *given)
    assert done.returncode == 1, done.stderr
    done = alone("submit", good, "--check-only", *given)
    assert done.returncode == 2
    assert all("it is unofficial" in line for line in complaints(done.stderr)), "no suite has a task of another package"
    done = alone("board", plugin / "results", "--format", "json", *given)
    assert done.returncode == 0, done.stderr
    (table,) = json.loads(done.stdout)["tables"]
    assert [row["scores"]["plain_mean.mean_x"]["rank"] for row in table["rows"]] == [[1, 1], [2, 2]]
    assert "paired difference" in table["notes"][0]


def test_without_it_the_board_ranks_nobody_and_says_so(plugin):
    done = alone("board", plugin / "results", "--format", "json")
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    (table,) = json.loads(done.stdout)["tables"]
    assert "Not ranked: mean of x (it is not validated: its task is not installed here" in table["notes"][0]
    assert [row["sae"] for row in table["rows"]] == ["bad", "good"], "by name"
    assert {row["scores"]["plain_mean.mean_x"]["rank"] for row in table["rows"]} == {None}
    done = alone("submit", plugin / "results", "--check-only")
    assert done.returncode == 2
    assert all("'plain_mean', which is not installed here" in line for line in done.stderr.splitlines())


def test_a_run_writes_the_definition_and_verify_takes_the_folder(cli: Run, tmp_path: Path) -> None:
    small = ("--limit", 8, "--resamples", 50, "--quiet", "--controls", "none", "--tasks", "reconstruction,sparsity")
    assert cli("run", "--sae", "demo/gated", "--out", "r", *small)[0] == 0
    for file in store.results_below(tmp_path / "r"):
        one = store.read(file)
        assert one.schema_version == 3
        assert one.definition == registry.tasks()[one.task]
        assert registry.definition_sha256(one.definition) == one.provenance.protocol.task_sha256
    code, out, err = cli("verify", "r", "--sae", "demo/gated", "--quiet", "--share", "1")
    assert (code, complaints(err)) == (0, [])
    assert out.count("nothing wrong was found") == 2
    assert "reconstruction@v1" in out
    code, out, _ = cli("verify", "r", "--sae", "demo/gated", "--quiet", "--json")
    content = json.loads(out)
    assert (code, content["ok"], len(content["results"])) == (0, True, 2)


def test_verify_takes_the_results_of_one_sae(plugin):
    with pytest.raises(UsageError, match=r"holds results of 2 SAEs: 'bad' .*'good' .*give the folder of one"):
        verify_verb._files(plugin / "results")
    (file,) = verify_verb._files(plugin / "results" / "good")
    assert file.name.startswith("plain_mean@v1")
