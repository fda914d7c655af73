"""Small runs whose passes are counted, for what runs keep for later ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_bench.api import evaluate
from sae_bench.schema import Result
from tests.builders.tiny_models import TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder

HOOK = "blocks.1.hook_resid_post"
GIVEN: dict[str, Any] = {
    "data": number_texts(40, seed=5),
    "context": 16,
    "controls": "mean,permuted",
    "resamples": 20,
    "batch_tokens": 64,
    "device": "cpu",
    "tasks": "reconstruction,loss_recovered",
}
PASSES = ("calibration_prefix", "suffix_zero", "suffix_mean")  # what a second run does not need


def ran(sae: Any = None, **more: Any) -> list[Result]:
    given = GIVEN | {"model": tiny_gpt2(), "tokenizer": TinyTokenizer()} | more
    return evaluate(tiny_coder("topk", hook=HOOK) if sae is None else sae, **given)


def figures(results: list[Result]) -> list[Any]:
    return [
        (r.sae.name, r.task, r.protocol, r.status, r.metrics, r.controls, r.provenance.n_calibration_tokens)
        for r in results
    ]


def took(results: list[Result]) -> dict[str, int]:
    """The passes that were made, of those that a second run does not need."""
    counters = results[0].provenance.counters
    return {name: counters[name] for name in PASSES if counters.get(name)}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))
