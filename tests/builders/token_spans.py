"""Labels of tokens whose truth is known, and coders that fire on known tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench.saes.protocol import CoderInfo, Codes, codes_from_dense
from tests.builders.tiny_models import CONTEXT, VOCAB, WIDTH, TinyTokenizer, number_texts, tiny_gpt2

HOOK = "blocks.0.hook_resid_pre"  # token and position embedding: every token can be told from its activation
Fires = Callable[[Tensor, Tensor], Tensor]  # ids and positions [T] to activations [T, n]


class Located(TinyTokenizer):
    """It says which characters its tokens have, as tokenizers of the library tokenizers do."""

    is_fast = True

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = super().__call__(text)
        if options.get("return_offsets_mapping"):
            found["offset_mapping"] = [word.span() for word in re.finditer(r"\S+", text)]
        return found


class Planted:
    """A coder whose latents fire where ``fires`` says."""

    def __init__(self, fires: Fires, name: str = "planted") -> None:
        model = tiny_gpt2()
        with torch.no_grad():
            tokens, places = model.transformer.wte.weight, model.transformer.wpe.weight
            self._all = (tokens[:, None] + places[None]).reshape(-1, WIDTH).double()
        self._fires = fires
        n = fires(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)).shape[1]
        self.info = CoderInfo(name, n, WIDTH, WIDTH, (HOOK,), (HOOK,))

    def encode(self, x: Tensor) -> Codes:
        which = torch.cdist(x.double(), self._all).argmin(1)
        return codes_from_dense(self._fires(which // CONTEXT, which % CONTEXT).to(x.dtype))

    def decode(self, codes: Codes, x: Any = None) -> Tensor:
        return torch.zeros(codes.n_tokens, WIDTH)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(latents % WIDTH, WIDTH).float()


def share(ids: Tensor, places: Tensor, of: float) -> Tensor:
    """About so large a share of all occurrences, the same ones each time; a larger share holds a smaller one."""
    return ((ids * 2654435761 + places * 40503) >> 5) % 100 < 100 * of


def row(text: str, ids: Iterable[int]) -> dict[str, Any]:
    """A text with the label wherever one of the tokens ``ids`` stands."""
    wanted = {str(i) for i in ids}
    spans = [list(word.span()) for word in re.finditer(r"\S+", text) if word[0] in wanted]
    return {"text": text, "label": int(bool(spans)), "spans": spans}


def texts(n: int, seed: int) -> list[str]:
    """Different texts, half of them of high numbers alone."""
    found = number_texts(n, seed=seed, shortest=8, longest=23)
    high = np.random.default_rng(seed).integers(30, VOCAB, (n, 12))
    return [*found[: n // 2], *(" ".join(map(str, some)) for some in high[n // 2 :])]


def write_set(folder: Path, name: str, ids: Iterable[int], *, n: int = 160) -> Path:
    """A set of texts whose label is on some tokens; the same texts whatever these are."""
    wanted = list(ids)
    (folder / name).mkdir(parents=True)
    for part, size, seed in (("train", n, 1), ("test", n // 2, 2)):
        rows = (json.dumps(row(text, wanted)) for text in texts(size, seed))
        (folder / name / f"{part}.jsonl").write_text("\n".join(rows))
    return folder


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """A run of the task on the sets of a folder."""
    given: dict[str, Any] = {"model": tiny_gpt2(), "tokenizer": Located(), "data": number_texts(6), "context": CONTEXT}
    given |= {"tasks": "token_labels", "probe_data": folder, "controls": "none", "resamples": 200}
    return given | changes
