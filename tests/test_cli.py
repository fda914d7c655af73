"""The command line as a user meets it: help without torch, clear sentences, exit codes, JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sae_bench import demo
from tests.builders.tiny_saes import tiny_coder, write_native
from tests.conftest import ON_TEXT, Run

SMALL = ("--tier", "smoke", "--limit", 8, "--resamples", 50, "--quiet", "--controls", "none", "--tasks", ON_TEXT)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["ls"], ["ls", "formats"], ["show", "sparsity"]])
def test_help_and_listings_do_not_import_torch(arguments: list[str]) -> None:
    program = (
        "import sys; from sae_bench.cli.main import main\n"
        f"try: main({arguments!r})\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'datasets', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_a_run_prints_json_and_writes_files(cli: Run, tmp_path: Path) -> None:
    code, out, _ = cli("run", "--sae", "demo", "--json", *SMALL)
    assert code == 0
    results = json.loads(out)["results"]
    assert [r["task"] for r in results] == ["reconstruction", "sparsity", "loss_recovered"]
    for result in results:
        assert result["sae"] == f"demo/{demo.DEFAULT_SAE}"
        assert result["status"] == "ok"
        for metric in result["metrics"].values():
            assert set(metric) >= {"value", "low", "high", "unit", "better", "n_units"}
            assert metric["value"] is None or metric["low"] <= metric["value"] <= metric["high"]
            assert (metric["value"] is None) == (metric["reason"] is not None)
    (summary,) = json.loads(out)["summary"]
    (line,) = summary["saes"]
    assert line["figures"]["loss_recovered.kl"] == results[2]["metrics"]["kl"]["value"]
    assert summary["by"] == "loss_recovered.kl"
    files = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file())
    assert sum(f.endswith(".json") for f in files) == 4
    assert sum(f.endswith(".units.safetensors") for f in files) == 3


def test_the_table_shows_every_sae_between_its_controls(cli: Run) -> None:
    code, out, _ = cli(
        "run",
        "--sae",
        "demo/topk_k16",
        "--sae",
        "demo/relu",
        *("--limit", 8, "--tier", "smoke", "--quiet", "--resamples", 50, "--tasks", ON_TEXT, "--all-metrics"),
    )
    assert code == 0
    assert out.index("best control") < out.index("permuted"), "the summary comes first"
    for text in ("demo/topk_k16", "demo/relu", "fvu", "permuted", "random_l0", "["):
        assert text in out
    code, listed, _ = cli("ls", "results")
    assert code == 0
    assert listed.count("demo/topk_k16") == 3
    file = listed.strip().splitlines()[-1].split()[-1]
    code, shown, _ = cli("show", file)
    assert code == 0
    assert "dense_contribution_1pct" in shown, "every metric is shown, not only headlines"
    assert "#####" in shown, "the histogram of density"


def test_a_dry_run_says_what_it_would_do_and_writes_nothing(cli: Run, tmp_path: Path) -> None:
    code, out, _ = cli("run", "--sae", "demo/*", "--dry-run", "--json", *SMALL)
    assert code == 0
    forecast = json.loads(out)
    assert forecast["documents"] == 8
    assert len(forecast["saes"]) == len(demo.SAE_NAMES)
    assert not list(tmp_path.iterdir())


def test_inspect_says_what_an_sae_is(cli: Run) -> None:
    code, out, _ = cli("inspect", f"demo/{demo.DEFAULT_SAE}")
    assert code == 0
    for text in ("1024", demo.HOOK, "topk", "breaks the contract:"):
        assert text in out


def bad_inputs(folder: Path) -> dict[str, tuple[list[Any], str]]:
    """Arguments beside ``run --sae demo``, and what the sentence must mention."""
    text = folder / "short.txt"
    text.write_text("one two")
    np.save(folder / "ids.npy", np.full((20, 8), 5000))
    (folder / "empty").mkdir()
    return {
        "no such sae": (["--sae", folder / "nowhere"], "nowhere"),
        "empty folder": (["--sae", folder / "empty"], "native"),
        "unknown demo sae": (["--sae", "demo/topk_k23"], "topk_k"),
        "unknown task": (["--tasks", "reconstuction"], "reconstruction"),
        "unknown control": (["--controls", "pcaa"], "pca"),
        "no such model": (["--model", folder / "nowhere"], "nowhere"),
        "no such data": (["--data", folder / "nowhere.txt"], "nowhere.txt"),
        "too short a text": (["--data", text], "short.txt"),
        "ids of another tokenizer": (["--data", folder / "ids.npy"], "5000"),
        "no such hook point": (["--hook-in", "blocks.2.hook_resid_pst"], "hook_resid_p"),
        "no such layer": (["--hook-in", "blocks.9.hook_resid_post"], "blocks.9"),
        "hook point of another width": (["--hook-in", "blocks.2.mlp.hook_post"], "512"),
        "no such device": (["--device", "cuda:7"], "cuda:7"),
        "limit of zero": (["--limit", "0"], "limit"),
        "no folder for tasks": (["--task-dir", folder / "nowhere"], "nowhere"),
        "results are a file": (["--out", text], "short.txt"),
    }


@pytest.mark.parametrize("number", range(16))
def test_bad_input_is_one_sentence_and_leaves_nothing(cli: Run, tmp_path: Path, number: int) -> None:
    arguments, mention = list(bad_inputs(tmp_path).values())[number]
    before = {p for p in tmp_path.rglob("*")}
    sae = [] if "--sae" in arguments else ["--sae", "demo"]
    small = ["--tier", "smoke"] if "--limit" in arguments else ["--tier", "smoke", "--limit", 8]
    code, out, err = cli("run", *sae, *small, *arguments, "--quiet")
    assert code == 2
    assert not out
    sentence = err.strip().splitlines()[-1]
    assert sentence.startswith("sae-bench: ")
    assert mention in sentence
    assert "Traceback" not in err
    assert {p for p in tmp_path.rglob("*")} == before


def test_an_sae_whose_code_raises_is_an_error_and_the_others_are_measured(cli: Run, tmp_path: Path) -> None:
    (tmp_path / "broken_sae.py").write_text(
        "import torch\n"
        "class Broken(torch.nn.Module):\n"
        "    d_in, calls = 128, 0\n"
        "    def encode(self, x):\n"
        "        self.calls += 1\n"
        "        if self.calls > 2: raise RuntimeError('out of luck')\n"
        "        return torch.relu(x)\n"
        "    def decode(self, f): return f\n"
    )
    arguments = ["--sae", "broken_sae:Broken", "--sae", "demo", "--hook-in", demo.HOOK, "--model", "demo"]
    code, out, err = cli("run", *arguments, "--json", *SMALL)
    assert code == 1
    status = {(r["sae"], r["task"]): (r["status"], r["reason"]) for r in json.loads(out)["results"]}
    assert status["broken_sae.Broken", "sparsity"][0] == "error"
    assert "out of luck" in str(status["broken_sae.Broken", "sparsity"][1])
    assert status[f"demo/{demo.DEFAULT_SAE}", "sparsity"] == ("ok", None)
    assert "out of luck" in err


def test_the_users_own_sae_runs_on_the_demo_model(cli: Run, tmp_path: Path) -> None:
    mine = tiny_coder("topk", d_in=128)
    folder = write_native(mine, tmp_path / "mine", hook_in=demo.HOOK, hook_out=demo.HOOK, model="demo", name="mine")
    code, out, err = cli("run", "--sae", folder, "--json", *SMALL)
    assert code == 0, err
    assert {r["sae"] for r in json.loads(out)["results"]} == {"mine"}


@pytest.mark.slow
def test_a_run_killed_outright_goes_on(cli: Run, tmp_path: Path) -> None:
    """kill -9 in the middle, then the same command: the files equal those of a run that was left alone."""
    command = ["run", "--sae", "demo", "--resamples", "50", "--quiet", "--tier", "smoke", "--controls", "mean"]
    command += ["--tasks", ON_TEXT, "--limit", "48", "--batch-tokens", "512"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "-m", "sae_bench.cli.main", *command, "--out", str(tmp_path / "a")]
    killed = subprocess.Popen(program, env=environment, stderr=subprocess.DEVNULL)
    state = tmp_path / "a" / ".partial"
    deadline = time.monotonic() + 120
    while killed.poll() is None and time.monotonic() < deadline and not list(state.glob("*/calibration.safetensors")):
        time.sleep(0.02)
    time.sleep(0.2)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    for out in ("a", "b"):
        code, _, said = cli(*command, "--out", tmp_path / out)
        assert code == 0, said
    files = {out: {f.relative_to(tmp_path / out): f.read_bytes() for f in (tmp_path / out).rglob("*") if f.is_file()}
             for out in ("a", "b")}  # fmt: skip
    assert files["a"] == files["b"]
