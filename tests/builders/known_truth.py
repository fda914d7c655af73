"""A second witness of what is true of the world of tokens: loops over text, the words of it, and a hook on the model.

Nothing here is taken from ``sae_bench.validity`` but what defines the world: which word has which feature how strongly,
the directions of features, and their common mean.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def read(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[list[list[str]], list[torch.Tensor]]:
    """The tokens of each text as written, and the output of the model's first block there ``[tokens, width]``."""
    found: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: Any) -> None:
        found.append(
            (output[0] if isinstance(output, tuple) else output).detach().reshape(-1, model.config.hidden_size)
        )

    handle = model.model.layers[0].register_forward_hook(keep)
    words = []
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text)["input_ids"]
            words.append(tokenizer.convert_ids_to_tokens(ids))
            model(torch.tensor([ids]))
    handle.remove()
    return words, found


def features_of(world: Any) -> dict[str, dict[int, float]]:
    """By word: its features, with their strengths. The word that begins a text has none."""
    found: dict[str, dict[int, float]] = {"<s>": {}}
    for word in range(1, len(world.strengths)):
        row = world.strengths[word]
        found[f"w{word}"] = {feature: float(row[feature]) for feature in range(len(row)) if row[feature] > 0}
    return found


def made_of(world: Any, features: dict[int, float]) -> np.ndarray:
    """The activation of a token with these features ``[width]``."""
    found = np.array(world.mean, dtype=np.float64)
    for feature, strength in features.items():
        found = found + strength * world.directions[feature]
    return found


def truths(world: Any, coder: Any, words: Sequence[Sequence[str]], read: Sequence[torch.Tensor]) -> list[float]:
    """Both, encoder and decoder, of a coder on texts without the word that begins them."""
    features = features_of(world)
    has: dict[int, set[int]] = {}
    fires: dict[int, set[int]] = {}
    place = 0
    for own, activations in zip(words, read, strict=True):
        codes = coder.encode(activations)
        for i, word in enumerate(own):
            if word == "<s>":
                continue
            place += 1
            for feature in features[word]:
                has.setdefault(feature, set()).add(place)
            for entry in range(int(codes.indptr[i]), int(codes.indptr[i + 1])):
                fires.setdefault(int(codes.indices[entry]), set()).add(place)
    rows = coder.decoder_rows(torch.arange(coder.info.n_latents)).double().numpy()
    both, encoder, decoder = [], [], []
    for feature in sorted(has):
        firing, cosines = [], []
        for latent in range(coder.info.n_latents):
            where = fires.get(latent, set())
            firing.append(f1(has[feature], where))
            cosines.append(abs(cosine(world.directions[feature], rows[latent])) if where else 0.0)
        encoder.append(firing)
        decoder.append(cosines)
        both.append([a * b for a, b in zip(firing, cosines, strict=True)])
    return [auction(score) for score in (both, encoder, decoder)]


def f1(true: set[int], said: set[int]) -> float:
    """From precision and recall."""
    common = len(true & said)
    if not common:
        return 0.0
    precision, recall = common / len(said), common / len(true)
    return 2 * precision * recall / (precision + recall)


def cosine(a: Any, b: Any) -> float:
    """Of two vectors, number by number."""
    product = math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return product / math.sqrt(math.fsum(float(x) ** 2 for x in a) * math.fsum(float(y) ** 2 for y in b))


def auction(score: Sequence[Sequence[float]], step: float = 1e-6) -> float:
    """The mean over rows of the best one-to-one match, by Bertsekas' auction: rows bid for columns until all have one.

    It is at most ``step`` too low. Each row also has a column of its own that is worth nothing: that of no match.
    """
    n = len(score)
    values = np.hstack([np.asarray(score, dtype=np.float64), np.where(np.eye(n, dtype=bool), 0.0, -np.inf)])
    prices, owner, waiting = np.zeros(values.shape[1]), np.full(values.shape[1], -1), list(range(n))
    while waiting:
        row = waiting.pop()
        gain = values[row] - prices
        best = int(gain.argmax())
        first, gain[best] = gain[best], -np.inf
        prices[best] += first - gain.max() + step if np.isfinite(gain.max()) else step
        if owner[best] >= 0:
            waiting.append(int(owner[best]))
        owner[best] = row
    return math.fsum(values[row, column] for column, row in enumerate(owner) if row >= 0) / n


def best_by_trying(score: Any) -> float:
    """The same by trying all ways, for a few rows."""
    n, m = len(score), len(score[0])
    wide = [[*row, *[0.0] * n] for row in score]
    ways = itertools.permutations(range(m + n), n)
    return max(math.fsum(wide[i][way[i]] for i in range(n)) for way in ways) / n
