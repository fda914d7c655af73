"""Whole runs of this repository on made-up inputs, with CPU seconds told apart by what they went into.

Clocks stand around the back end (language model), the losses, encode and decode of coders, and before and after the
loops over the text; a clock that starts inside another one stops it meanwhile. What is in none of them is the tasks'
and the loops' own.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sae_bench import api
from sae_bench.engine import batch
from sae_bench.models.huggingface import HuggingFaceSubject
from sae_bench.models.huggingface_suffix import KeysAndValues
from sae_bench.saes.controls import ChannelCoder
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights
from sae_bench.settings import Settings

PARTS = ("start", "language model", "losses", "encode", "decode", "own", "end")
K = 32
_state: dict[str, Any] = {}


class Clocks:
    """CPU seconds by part; of nested ones the innermost runs."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._running: list[str] = []
        self._since = time.process_time()

    def _turn(self) -> None:
        now = time.process_time()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        self._turn()
        self._running.append(part)
        try:
            yield
        finally:
            self._turn()
            self._running.pop()


_clocks = Clocks()


def _clocked(owner: Any, name: str, part: str) -> None:
    """Put a clock around a function, or stop: a share must not move from one part to another unseen."""
    inner: Callable[..., Any] = getattr(owner, name)

    @wraps(inner)
    def timed(*given: Any, **named: Any) -> Any:
        with _clocks(part):
            return inner(*given, **named)

    setattr(owner, name, timed)


def _put_clocks() -> None:
    for name in ("capture", "resume", "splice"):
        _clocked(HuggingFaceSubject, name, "language model")
    for name in ("__init__", "logits"):
        _clocked(KeysAndValues, name, "language model")
    for name in ("clean_scores", "score"):
        _clocked(batch, name, "losses")
    for kind in (LinearCoder, ChannelCoder):
        for name, value in list(vars(kind).items()):
            for part in ("encode", "decode"):
                if callable(value) and name.startswith(part):
                    _clocked(kind, name, part)
    _clocked(api, "measure", "own")


_put_clocks()


def make(folder: str, width: int, layers: int, vocabulary: int, texts: int, context: int, sets: int) -> None:
    """A random GPT-2, texts of as many words as fit, and labelled sets in which one word decides."""
    torch.manual_seed(0)
    shape = {"n_embd": width, "n_layer": layers, "n_head": max(1, width // 64), "vocab_size": vocabulary}
    model = GPT2LMHeadModel(GPT2Config(**shape, n_positions=context, bos_token_id=0, eos_token_id=0)).eval()
    words = {"<bos>": 0} | {f"w{i}": i for i in range(1, vocabulary)}
    plain = Tokenizer(WordLevel(words, unk_token="w1"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<bos>", eos_token="<bos>", unk_token="w1")
    chosen = random.Random(0)

    def text(length: int) -> str:
        return " ".join(f"w{chosen.randrange(2, vocabulary)}" for _ in range(length))

    _state.update(
        folder=folder,
        model=model,
        tokenizer=tokenizer,
        context=context,
        texts=[text(context - 1) for _ in range(2 * texts)],
        saes={},
    )
    for i in range(sets):
        for part in ("train", "test"):
            rows = [{"text": text(24), "label": n % 2} for n in range(48)]
            for row in rows:
                row["text"] += f" w{2 + i}" if row["label"] else ""
            file = Path(folder, "sets", f"set_{i}", f"{part}.jsonl")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(map(json.dumps, rows)))


def _saes(latents: int, count: int, hooks: int) -> list[LinearCoder]:
    """Random TopK SAEs, spread over the first hook points; one encoder and decoder, biases of their own."""
    width, layers = _state["model"].config.n_embd, _state["model"].config.n_layer
    if latents not in _state["saes"]:
        _state["saes"].clear()  # one width in memory at a time
        rows = torch.randn(latents, width, generator=torch.Generator().manual_seed(latents))
        directions = rows / rows.norm(dim=1, keepdim=True)
        _state["saes"][latents] = directions.T.contiguous(), 0.3 * directions
    encoder, decoder = _state["saes"][latents]
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(i)
        bias, offset = 0.01 * torch.randn(latents, generator=generator), 0.01 * torch.randn(width, generator=generator)
        hook = f"blocks.{layers - 1 - i % hooks}.hook_resid_post"
        info = CoderInfo(f"sae {i}", latents, width, width, (hook,), (hook,))
        made.append(LinearCoder(info, Weights(encoder, decoder, offset, bias), Nonlinearity("topk", k=min(K, latents))))
    return made


def run(
    tasks: str, latents: int, texts: int, saes: int, hooks: int, sets: int, resamples: int, controls: str
) -> dict[str, Any]:
    """One run with results on disk; CPU seconds by part."""
    coders = _saes(latents, saes, hooks)
    _clocks.__init__()  # type: ignore[misc] - from the beginning
    given: dict[str, Any] = {"model": _state["model"], "tokenizer": _state["tokenizer"], "data": _state["texts"]}
    given |= {"context": _state["context"], "limit": texts, "device": "cpu", "batch_tokens": None}
    given |= {"probe_data": Path(_state["folder"], "sets"), "probe_sets": ",".join(f"set_{i}" for i in range(sets))}
    given |= {"tasks": tasks, "resamples": resamples, "controls": controls, "calibration_cache": False}
    with tempfile.TemporaryDirectory() as out, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _clocks("start"):
            session = api.Session(coders, Settings(**given, out=out))
        with _clocks("end"):  # but for the loops, which have clocks of their own
            results = session.run(lambda what, done, total: None)
    for result in results:
        if result.status not in ("ok", "degraded"):
            raise SystemExit(f"{result.sae.name}, {result.task}: {result.reason}")
    return {"parts": _clocks.seconds}
