"""SAEs of the user's own code: those that do not say how wide they are have the width of the model at their hook."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from sae_bench import demo, evaluate, load_sae
from sae_bench.errors import CoderError
from sae_bench.saes import conformance
from sae_bench.settings import Told
from tests.builders.dense import QUICK, Dense, measured
from tests.builders.tiny_models import WIDTH, tiny_gpt2
from tests.builders.token_rows import HOOK
from tests.conftest import Run

pytestmark = pytest.mark.filterwarnings("ignore:.* is wrapped")
PLAIN = """
import torch

class Plain(torch.nn.Module):
    def __init__(self, latents=96, width=128):
        super().__init__()
        torch.manual_seed(0)
        self.W = torch.nn.Parameter(torch.linalg.qr(torch.randn(width, latents))[0])
    def encode(self, x):
        return (x @ self.W).relu()
    def decode(self, latents):
        return latents @ self.W.T

class Narrow(Plain):
    def __init__(self):
        super().__init__(20, 64)

class Declares(Narrow):
    d_in = 64

class Sometimes(Plain):
    def encode(self, x):
        latents = super().encode(x)
        return latents if len(x) == 2 else latents[:, :-1]

def factory():
    return Plain()
"""


@pytest.fixture
def my_sae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module ``my_sae`` in the current folder."""
    (tmp_path / "my_sae.py").write_text(PLAIN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.delitem(sys.modules, "my_sae", raising=False)
    import my_sae  # type: ignore[import-not-found]

    yield my_sae
    sys.modules.pop("my_sae", None)


# ----------------------------------------------------------------------------------------------------------- widths


def fvu_by_hooks(module: Any, rows: np.ndarray[Any, Any]) -> float:
    """Of all tokens at the demo's hook point, without anything of sae-bench but its model."""
    model, seen = GPT2LMHeadModel.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval(), []
    model.transformer.h[2].register_forward_hook(
        lambda m, args, out: seen.append(out[0] if type(out) is tuple else out)
    )
    with torch.no_grad():
        model(torch.from_numpy(rows))
        x = seen[0].reshape(-1, 128)
        error = (x - module.decode(module.encode(x))).double()
    return float((error**2).sum() / ((x.double() - x.double().mean(0)) ** 2).sum())


def test_a_module_that_says_nothing_is_measured_as_the_readme_says(cli: Run, my_sae: Any, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(1, 1000, (40, 16))
    np.save("ids.npy", rows)
    given = ["--hook-in", demo.HOOK, "--model", "demo", "--data", "ids.npy", "--mask", "none"]
    small = ["--mean-from", "evaluation", "--tasks", "reconstruction", "--controls", "none", "--resamples", 20]
    code, out, err = cli("run", "--sae", "my_sae:factory", *given, *small, "--json", "--quiet")
    assert code == 0, err
    (result,) = json.loads(out)["results"]
    expected = fvu_by_hooks(my_sae.factory(), rows)
    assert result["sae"] == "my_sae.factory"
    assert result["metrics"]["fvu"]["value"] == pytest.approx(expected, rel=1e-4)
    assert err.count("my_sae.factory is wrapped") == 1
    (same,) = evaluate(
        my_sae.factory(), model="demo", data=rows, hook_in=demo.HOOK, mask="none", mean_from="evaluation", **QUICK
    )
    assert same.sae.name == "my_sae.Plain"
    assert same.metrics["fvu"].value == result["metrics"]["fvu"]["value"]
    assert same.protocol == result["protocol"]
    assert same.sae.provenance["width_of"] == f"{demo.HOOK} of demo"


def test_the_demo_needs_no_data_and_a_width_that_is_not_the_models_is_one_sentence(cli: Run, my_sae: Any) -> None:
    small = ["--tier", "smoke", "--limit", 8, "--tasks", "reconstruction", "--controls", "none", "--quiet"]
    at = ["--hook-in", demo.HOOK]
    assert cli("run", "--sae", "my_sae:factory", *at, "--model", "demo", *small)[0] == 0
    for source, model, says in (
        ("my_sae:factory", [], "my_sae.factory declares none; give --model"),
        (
            "my_sae:Narrow",
            ["--model", "demo"],
            f"my_sae.Narrow fails on two tokens of 128 zeros, as wide as {demo.HOOK}",
        ),
        ("my_sae:Declares", ["--model", "demo"], f"reads 64 numbers a token, but {demo.HOOK} of demo has 128"),
    ):
        code, out, err = cli("run", "--sae", source, *at, *model, *small)
        assert (code, out) == (2, "")
        assert says in err.strip().splitlines()[-1]
    code, _, err = cli("run", "--sae", "my_sae:factory", "--model", "demo", *small)
    assert (code, "does not say where it reads" in err) == (2, True)
    code, _, err = cli("run", "--sae", "my_sae:factory", "--sae", "demo", *at, *small)
    assert "They declare demo, none" in err


def test_shapes_are_checked_on_the_first_batch_of_that_sae_alone(cli: Run, my_sae: Any) -> None:
    given = ["--hook-in", demo.HOOK, "--model", "demo", "--tier", "smoke", "--limit", 8, "--tasks", "reconstruction"]
    code, out, err = cli("run", "--sae", "my_sae:Sometimes", "--sae", "my_sae:factory", *given, "--json", "--quiet")
    assert code == 1
    broken, good = json.loads(out)["results"]
    assert (broken["status"], good["status"]) == ("error", "ok")
    assert re.search(
        r"my_sae\.Sometimes: encode of x \[\d+, 128\] must return .* \[\d+, 96\], but .* \[\d+, 95\]$", broken["reason"]
    )
    assert "Traceback" not in err


def test_inspect_takes_the_width_of_the_model_and_says_so(cli: Run, my_sae: Any, tmp_path: Path) -> None:
    at = ["my_sae:factory", "--hook-in", demo.HOOK]
    code, out, err = cli("inspect", *at, "--model", "demo", "--json")
    assert code == 0, err
    (found,) = json.loads(out)["saes"]
    assert (found["name"], found["d_in"], found["n_latents"]) == ("my_sae.factory", 128, 96)
    assert found["preflight"]["measured"]["tokens"] > 400
    code, out, err = cli("inspect", *at)
    assert (code, out) == (2, "")
    assert "--model" in err.strip().splitlines()[-1]
    tiny_gpt2().save_pretrained(tmp_path / "tiny")
    code, out, err = cli("inspect", "my_sae:Declares", "--hook-in", HOOK)
    assert code == 0, err
    (tmp_path / "narrow.py").write_text(f"import my_sae\ndef make():\n    return my_sae.Plain(8, {WIDTH})\n")
    code, out, err = cli("inspect", "narrow:make", "--hook-in", HOOK, "--model", "tiny")
    assert code == 0, err
    assert "give --data to measure the SAE on tiny" in out
    sys.modules.pop("narrow")


def test_from_python_a_width_can_be_given_where_there_is_no_model(my_sae: Any) -> None:
    told = Told(hook_in=demo.HOOK)
    with pytest.raises(CoderError, match=r"my_sae\.factory does not say how wide its input is: give .*--model"):
        load_sae("my_sae:factory", told=told)
    loaded = load_sae("my_sae:factory", told=told, d_in=128)
    x = torch.randn(9, 128, generator=torch.Generator().manual_seed(0))
    assert conformance.check(loaded, x) == []
    with pytest.raises(CoderError, match=r"Plain is no SparseCoder: .*as_coder\(.*d_in=128"):
        conformance.check(my_sae.factory(), x)
    with pytest.raises(CoderError, match="has no nested dictionaries"):
        load_sae("my_sae:factory#8", told=told)


def test_a_decoder_that_lies_the_other_way_is_no_width() -> None:
    class Transposed(Dense):
        @property
        def W_dec(self) -> Tensor:
            return self.W  # [d_out, n_latents]

    (result,) = measured(Transposed())
    assert (result.status, result.sae.d_in, result.sae.n_latents) == ("ok", WIDTH, 24)
