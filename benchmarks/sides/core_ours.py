"""The core metrics by ``sae_bench.evaluate`` of this repository, on a model and SAEs in memory."""

from __future__ import annotations

import time
import warnings
from statistics import median
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

from sae_bench import evaluate
from sae_bench.models.loading import load_subject
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights
from sides.core_data import K, make, make_saes

__all__ = ["bare", "entries", "load", "make", "make_saes", "run"]

_state: dict[str, Any] = {}


def load(folder: str, model: str, hook: str, latents: int, rows: int) -> None:
    """The language model and all SAEs of that width; ``rows`` of the ids are evaluated, the others calibrate."""
    tensors = load_file(f"{folder}/sae_{latents}.safetensors")
    W_enc, W_dec = tensors["W_enc"], tensors["W_dec"]
    _state.update(
        model=GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32).eval(),
        ids=torch.from_numpy(np.load(f"{folder}/tokens_{latents}.npy")).long(),
        rows=rows,
        hook=hook,
        coders=[
            LinearCoder(
                CoderInfo(f"sae {i}", latents, *reversed(W_dec.shape[1:] * 2), (hook,), (hook,)),
                Weights(W_enc, W_dec, b_dec, b_enc),
                Nonlinearity("topk", k=K),
            )
            for i, (b_enc, b_dec) in enumerate(zip(tensors["b_enc"], tensors["b_dec"], strict=True))
        ],
    )


def run(saes: int, passes: list[tuple[str, int]]) -> dict[str, Any]:
    """Evaluate the first ``saes`` SAEs: for each pass some tasks on the first so many rows. Figures and counters."""
    figures: list[dict[str, float | None]] = [{} for _ in range(saes)]
    counters: dict[str, int] = {}
    for tasks, rows in passes:
        results = evaluate(
            _state["coders"][:saes],
            model=_state["model"],
            data=torch.cat([_state["ids"][:rows], _state["ids"][_state["rows"] :]]),
            tasks=tasks,
            controls="none",
            device="cpu",
        )
        for i, result in enumerate(results):
            if result.status != "ok":
                raise SystemExit(f"{result.sae.name}, {result.task}: {result.reason}")
            of_sae = figures[i // (len(results) // saes)]
            of_sae |= {name: metric.value for name, metric in result.metrics.items()}
        counters = {k: counters.get(k, 0) + v for k, v in (counters | results[0].provenance.counters).items()}
    return {"figures": figures, "counters": counters}


def bare(tokens: int) -> dict[str, float]:
    """GFLOP/s of ``x @ W_enc`` of the first SAE alone, into memory that is there already: the median of nine."""
    W = _state["coders"][0].weights.W_enc
    x, out = torch.randn(tokens, W.shape[0]), torch.empty(tokens, W.shape[1])
    rates = []
    for _ in range(9):
        start = time.process_time()
        torch.mm(x, W, out=out)
        rates.append(2e-9 * x.numel() * W.shape[1] / (time.process_time() - start))
    return {"rate": median(rates)}


def entries(path: str) -> None:
    """Which latents of the first SAE are active on all tokens but BOS."""
    ids = _state["ids"][: _state["rows"]]
    subject, _ = load_subject(_state["model"])
    captured = subject.capture(ids, torch.ones_like(ids, dtype=torch.bool), [_state["hook"]])
    codes = _state["coders"][0].encode(captured.activations[_state["hook"]][:, 1:].flatten(0, 1))
    np.save(path, (codes.token_of_entry() * codes.n_latents + codes.indices).numpy())


warnings.filterwarnings("ignore", message="`loss_type=None`")
