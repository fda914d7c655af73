"""Every architecture of the installed transformers, tiny: no wrong number and no traceback, only refusals.

All of them are `slow` (`python scripts/sweep_models.py` does the same and writes what `sae-bench ls models` prints);
one of each kind of block runs always.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import sae_bench
from sae_bench.api import evaluate
from sae_bench.cli.main import main
from sae_bench.results import store
from tests.builders import architectures, plain_figures, sweeps
from tests.builders.marks import slow_but

KINDS = ("gpt_neox-serial", "granite", "phi", "openai-gpt", "gemma3n_text", "bloom", "olmo", "minimax")
SWEPT = json.loads((Path(sae_bench.__file__).parent / "models" / "swept.json").read_text())


def swept(name: str, backend: str = "hf") -> sweeps.Sweep:
    return sweeps.sweep(architectures.tiny(name), backend)


@pytest.mark.parametrize(
    "name",
    slow_but(
        4,
        ["phi", "bloom", "gpt_neox-serial", "granite", *(KINDS and ("openai-gpt", "gemma3n_text", "olmo", "minimax"))],
    ),
)
def test_a_kind_of_block_is_measured_rightly_or_refused(name: str):
    found = swept(name)
    assert not found.faults
    assert set(found.right) >= {"hook_embed"} - set(found.refused)
    assert found.right


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(SWEPT["models"]) - set(KINDS)))
def test_every_architecture_is_measured_rightly_or_refused(name: str):
    found = swept(name)
    assert not found.faults
    named = SWEPT["models"][name]
    if SWEPT["transformers"] == transformers.__version__:
        assert sorted(found.right) == sorted(named["right"])
        assert sorted(found.refused) == sorted(hook for hooks in named["refused"].values() for hook in hooks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_neox", "granite", "qwen3", "mistral", "olmo2", "phi"])
def test_transformer_lens_measures_the_same_or_refuses(name: str):
    assert not swept(name, "tl").faults


def test_the_list_of_models_is_long_and_has_reasons(capsys: pytest.CaptureFixture[str]):
    assert len(SWEPT["models"]) >= 60
    assert main(["ls", "models", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    by_name = {row["architecture"]: row for row in rows}
    assert "hook_mlp_out" in by_name["llama"]["measured"]
    assert "hook_mlp_out" in by_name["bloom"]["refused"]
    assert "no layout that sae-bench knows" in by_name["bloom"]["refused"]


@contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    """A module that is named on the command line is looked for in the current folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        yield


@pytest.mark.parametrize(
    ("name", "hook", "path", "scale"),
    [
        ("granite", "blocks.1.hook_mlp_out", "model.layers.1.mlp", 0.22),
        pytest.param("gpt2", "blocks.1.hook_attn_out", "transformer.h.1.attn", 1.0, marks=pytest.mark.slow),
        pytest.param("gemma2", "blocks.1.hook_out", "model.layers.1", 1.0, marks=pytest.mark.slow),
        pytest.param("falcon", "blocks.1.hook_resid_post", "transformer.h.1", 1.0, marks=pytest.mark.slow),
        pytest.param("mixtral", "blocks.1.hook_mlp_out", "model.layers.1.mlp", 1.0, marks=pytest.mark.slow),
        pytest.param("openai-gpt", "blocks.1.hook_resid_post", "transformer.h.1", 1.0, marks=pytest.mark.slow),
        pytest.param("phi", "model.layers.1.mlp:out", "model.layers.1.mlp", 1.0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("way", ["evaluate", "command line"])
def test_figures_are_those_of_hooks_by_hand(name: str, hook: str, path: str, scale: float, way: str, tmp_path: Path):
    model = architectures.tiny(name)
    rows = torch.randint(3, architectures.VOCAB, (8, 20), generator=torch.Generator().manual_seed(2))
    rows[:, 0] = 1
    np.save(tmp_path / "rows.npy", rows.numpy())
    sae = plain_figures.Topless(architectures.WIDTH)
    expected = plain_figures.figures(model, rows.tolist(), path, "out", sae, scale=scale)
    how = {"hook_in": hook, "data": tmp_path / "rows.npy", "controls": "none", "mean_from": "evaluation"}
    tasks = "reconstruction,sparsity,loss_recovered"
    if way == "evaluate":
        results = evaluate(sae, model=model, tasks=tasks, **how)
    else:
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "mine.py").write_text(
            "from tests.builders.plain_figures import Topless\ndef sae(): return Topless(32)\n"
        )
        out = tmp_path / "runs"
        args = ["run", "--sae", "mine:sae", "--model", str(tmp_path / "model"), "--tasks", tasks, "--quiet"]
        flags = [part for key, value in how.items() for part in (f"--{key.replace('_', '-')}", str(value))]
        with in_folder(tmp_path):
            assert main([*args, *flags, "--out", str(out)]) == 0
        results = [store.read(file) for file in store.results_below(out)]
    found = {key: metric.value for result in results for key, metric in result.metrics.items()}
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5), key
