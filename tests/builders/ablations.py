"""Ablations of single latents in tiny models, by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench.api import evaluate
from sae_bench.results import store
from sae_bench.schema import Result
from sae_bench.units import Units
from tests.builders.tiny_models import TinyTokenizer, number_texts, tiny_gpt2

TASK = "downstream_sparsity"


HOOK = "blocks.1.hook_resid_post"


MLP = {"hook": "blocks.1.mlp.hook_in", "hook_out": "blocks.1.hook_mlp_out"}


def ablated(sae: Any, out: Path, **settings: Any) -> tuple[Result, dict[str, Units]]:
    """The result of one SAE on the tiny model in float64, as it is written, and its tables of units."""
    defaults: dict[str, Any] = {"model": tiny_gpt2().double(), "data": number_texts(8), "dtype": "float64"}
    defaults |= {"tokenizer": TinyTokenizer(), "tasks": TASK, "controls": "none", "resamples": 20, "context": 24}
    result = evaluate(sae, out=out, **(defaults | settings))[0]
    file = store.path_of(out, result.sae, result.task, result.version, result.protocol)
    assert store.read(file) == result
    return result, store.read_units(file)


def places(table: Units) -> list[tuple[str, int, int]]:
    """Document, position and latent of every row, from its id."""
    found = []
    for unit in table.ids:
        document, _, rest = unit.partition("@")
        position, _, latent = rest.partition(":")
        found.append((document, int(position), int(latent)))
    return found


def documents_of(texts: list[str]) -> dict[str, Tensor]:
    """Ids of each text with BOS before them, by the name of its document."""
    rows = [np.array(text.split(), dtype="<i4") for text in texts]
    return {hashlib.blake2b(r.tobytes()).hexdigest()[:16]: torch.tensor([0, *r.tolist()]) for r in rows}


def passed(
    model: Any, ids: Tensor, at: tuple[Any, str], put: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, Tensor]:
    """Logits ``[length, vocab]`` of a full pass of transformers, and what passed at a module before ``put``."""
    seen: list[Tensor] = []

    def changed(x: Tensor) -> Tensor:
        seen.append(x[0].clone())
        return put(x[0].clone())[None]

    def before(_module: Any, args: Any) -> Any:
        return (changed(args[0]), *args[1:])

    def behind(_module: Any, _args: Any, out: Any) -> Any:
        return (changed(out[0]), *out[1:]) if isinstance(out, tuple) else changed(out)

    module, side = at
    handle = module.register_forward_pre_hook(before) if side == "in" else module.register_forward_hook(behind)
    try:
        with torch.no_grad():
            return model(ids[None], use_cache=False).logits[0], seen[0]
    finally:
        handle.remove()


def module_of(model: Any, hook: str) -> tuple[Any, str]:
    block = (model.model.layers if hasattr(model, "model") else model.transformer.h)[1]
    return {HOOK: (block, "out"), MLP["hook"]: (block.mlp, "in"), MLP["hook_out"]: (block.mlp, "out")}[hook]
