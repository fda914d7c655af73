"""Latents that fire by a planted rule, and what the task token_rules finds of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sae_bench.api import Session, evaluate
from sae_bench.results import store
from sae_bench.saes.protocol import CoderInfo, Codes, codes_from_dense
from sae_bench.schema import Result
from sae_bench.session.run import Measured, measure
from sae_bench.settings import Settings
from sae_bench.streams.tracked import TRACKED
from sae_bench.tasks.tracked import Tracked
from sae_bench.units import Units
from tests.builders.tiny_models import VOCAB, WIDTH, TinyTokenizer, linear_llama, number_texts
from tests.builders.tiny_saes import HOOK

TASK = "token_rules"


TOKENS = range(1, 13)  # what the planted texts are made of


Plant = Callable[[Tensor, Tensor, Tensor], Tensor]  # token, the one before (-1: none), uniform noise -> fires


class Remember(nn.Module):
    """In place of an MLP: writes the token before into channel 1, and noise that no token explains into channel 2."""

    def forward(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        out[..., 1] = torch.nn.functional.pad(x[..., :-1, 0], (1, 0), value=-1)
        out[..., 2] = x[..., 3].cumsum(-1) % 1
        return out


def planted_model() -> Any:
    """A model that carries its token, the one before and noise in plain sight at ``HOOK``."""
    noise = torch.Generator().manual_seed(0)
    model = linear_llama(torch.randn(WIDTH, VOCAB, generator=noise)).double()
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = torch.arange(VOCAB)
        embedding[:, 1:3] = 0
        embedding[:, 3] = torch.rand(VOCAB, generator=noise, dtype=torch.float64)
    model.model.layers[1].post_attention_layernorm = nn.Identity()
    model.model.layers[1].mlp = Remember()
    return model


class Planted:
    """A coder whose latents fire as they are told, with an activation of 1 to 2."""

    def __init__(self, *plants: Plant, name: str = "planted") -> None:
        self.plants = plants
        self.info = CoderInfo(name, len(plants), WIDTH, WIDTH, (HOOK,), (HOOK,))
        self.decoder = torch.randn(len(plants), WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def encode(self, x: Tensor) -> Codes:
        token, before, noise = x[:, 0].round().long(), x[:, 1].round().long(), x[:, 2].double()
        fires = torch.stack([plant(token, before, noise) for plant in self.plants], dim=1)
        return codes_from_dense(fires * (1 + noise.abs().clamp(max=1).unsqueeze(1)))

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        return codes.dense().double() @ self.decoder

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return self.decoder[latents]


def on(*tokens: int) -> Plant:
    return lambda token, before, noise: torch.isin(token, torch.tensor(tokens))


def pair(first: int, second: int) -> Plant:
    return lambda token, before, noise: (before == first) & (token == second)


def everything(token: Tensor, before: Tensor, noise: Tensor) -> Tensor:
    return token > -1000


def now_and_then(share: float) -> Plant:
    return lambda token, before, noise: noise < share


def planted_texts(n: int = 400, seed: int = 0, shortest: int = 10, longest: int = 22) -> list[str]:
    """Texts of the planted tokens, every third with a special token in the middle."""
    return number_texts(n, shortest, longest, vocab=len(TOKENS) + 1, seed=seed)


def ruled(sae: Any, out: Path, **settings: Any) -> tuple[Result, dict[str, Units]]:
    """The result of one SAE, as it is written, and its tables of units."""
    result = evaluate(sae, out=out, **settings_of(settings))[0]
    file = store.path_of(out, result.sae, result.task, result.version, result.protocol)
    assert store.read(file) == result
    return result, store.read_units(file)


def settings_of(changes: dict[str, Any]) -> dict[str, Any]:
    """Settings of a run on planted texts and the planted model in float64."""
    found: dict[str, Any] = {"tokenizer": TinyTokenizer(), "dtype": "float64", "tasks": TASK, "controls": "none"}
    if "model" not in changes:
        found["model"] = planted_model()
    if "data" not in changes:
        found["data"] = planted_texts()
    return found | {"resamples": 20, "context": 24} | changes


def measured(sae: Any, **settings: Any) -> Measured:
    """What a run keeps before rules are made of it."""
    session = Session(sae, Settings(**settings_of(settings)))
    entries = [work.entry for work in session.work]
    return measure(session.subject, session.inputs, entries, session.tasks)


def watched(sae: Any, **settings: Any) -> Tracked:
    """Where the latents of the first SAE fire, as the task gets it."""
    found = measured(sae, **settings)
    entry = found.run.cast.saes[0]
    rows = found.run.checkpoint.rows(found.run.state, {(TRACKED, entry.key)})
    return found.readers["token_rules"].tracked(entry, rows, "token_rules")


def content_of(ids: Sequence[int]) -> str:
    return hashlib.blake2b(np.array(ids, dtype="<i4").tobytes()).hexdigest()[:16]


def is_calibration(ids: Sequence[int]) -> bool:
    content = np.array(ids, dtype="<i4").tobytes()
    digest = hashlib.blake2b(content, digest_size=8, key=b"0", person=b"calibration").digest()
    return int.from_bytes(digest, "little") < 0.2 * 2.0**64


def rows_of(texts: list[str], context: int, bos: bool = True) -> tuple[list[list[list[int]]], list[list[list[int]]]]:
    """The sequences of each document, with BOS: (evaluation, calibration)."""
    sides: tuple[list[list[list[int]]], list[list[list[int]]]] = ([], [])
    room = context - bos
    for text in texts:
        ids = [int(word) for word in text.split()]
        sequences = [[0] * bos + ids[start : start + room] for start in range(0, len(ids), room)]
        sides[is_calibration(ids)].append(sequences)
    return sides
