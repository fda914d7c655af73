"""SAEs of the world "context" that are right, or wrong in one known way.

A :class:`KnownInContext` reads the residual stream and nothing else: strengths of features by the exact linear readout,
and which word it is by the nearest spelling. Its one fault is a function of these. What looks like chance hangs on a
hash of what was read (which features hold, and the word): equal activations have equal codes, whatever their batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sae_bench.saes.protocol import CoderInfo, Codes, codes_from_dense
from sae_bench.validity.context_words import WORDS, whats
from sae_bench.validity.context_world import FEATURES, HOOK, WIDTH, World
from sae_bench.validity.numbers import Array, Numbers

N = len(FEATURES)
FAINT = 0.35  # of a strength: half of the least that a feature has
NOTHING = 1e-3  # above what rounding makes of 0
PRIME = 2**31 - 1


class Read:
    """What a stretch of the residual stream ``x`` ``[tokens, width]`` says."""

    def __init__(self, x: Tensor, world: World) -> None:
        self.x = x.double() - torch.from_numpy(world.mean)
        spelling = torch.from_numpy(world.spelling)
        self.word = (self.x @ spelling.T - (spelling**2).sum(1) / 2).argmax(1)
        found = self.x @ torch.from_numpy(world.readout)
        self.strength = torch.where(found > FAINT, found, 0.0)  # [tokens, features]

    @cached_property
    def seen(self) -> Tensor:
        """A number of the word and the features that hold, int64 ``[tokens]``."""
        weight = torch.from_numpy((Numbers("seen").uniform(N) * PRIME).astype(np.int64))
        return ((self.strength > 0) * weight).sum(1) % PRIME + self.word * 7919

    def chance(self, n: int, key: str) -> Tensor:
        """Numbers in [0, 1) by what was read, ``[tokens, n]``."""
        return _hash(self.seen, n, key)

    def chance_of_word(self, n: int, key: str) -> Tensor:
        """Numbers in [0, 1) by the word alone, ``[tokens, n]``."""
        return _hash(self.word, n, key)


def _hash(of: Tensor, n: int, key: str) -> Tensor:
    drawn = torch.from_numpy((Numbers("hash", key).uniform(2, n) * (PRIME - 1)).astype(np.int64)) + 1
    mixed = ((of % PRIME)[:, None] * drawn[0] + drawn[1]) % PRIME
    mixed = (mixed ^ (mixed >> 7)) * drawn[1] % PRIME  # one line through all would keep their order
    return mixed.double() / PRIME


Fault = Callable[[Read], Tensor]


@dataclass(frozen=True)
class Plan:
    """``codes`` of what was read ``[tokens, latents]``, and the ``decoder`` ``[latents, width]``."""

    codes: Fault
    decoder: Array


class KnownInContext:
    """A coder with one known fault."""

    def __init__(self, name: str, plan: Plan, world: World) -> None:
        self.info = CoderInfo(name, len(plan.decoder), WIDTH, WIDTH, (HOOK,), (HOOK,), "known")
        self._plan, self._world = plan, world
        self._decoder = torch.from_numpy(plan.decoder).float()
        self._mean = torch.from_numpy(world.mean).float()

    def encode(self, x: Tensor) -> Codes:
        """The codes of ``x`` ``[tokens, width]``."""
        return codes_from_dense(self._plan.codes(Read(x, self._world)).float())

    def decode(self, codes: Codes, x: object = None) -> Tensor:
        """Codes times decoder, plus the mean."""
        return codes.dense() @ self._decoder + self._mean

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """The directions of some latents."""
        return self._decoder[latents]


def plans(world: World) -> dict[str, Plan]:
    """The ladder by name."""
    d = world.directions
    return {
        "perfect": Plan(lambda r: r.strength, d),
        **_of_several(world),
        **_firings(world),
        **_blind(world),
        **_linear(world),
        **_decoders(world),
    }


def _of_several(world: World) -> dict[str, Plan]:
    """Latents that share a feature, or features that share a latent."""
    d, numbers = world.directions, Numbers(world.seed, "several")

    def split(ways: int) -> Fault:
        def codes(r: Read) -> Tensor:
            own = (r.chance_of_word(N, f"split {ways}") * ways).long()
            return torch.cat([r.strength * (own == i) for i in range(ways)], 1)

        return codes

    def merged(ways: int) -> Plan:
        groups = torch.from_numpy(numbers.order(N).reshape(-1, ways))
        rows = d[groups.numpy()].sum(1)
        return Plan(lambda r: r.strength[:, groups].sum(2), rows / np.linalg.norm(rows, axis=1, keepdims=True))

    dead = torch.from_numpy(numbers.order(N)[: N // 2].copy())
    return {
        "split_2": Plan(split(2), np.vstack([d] * 2)),
        "split_3": Plan(split(3), np.vstack([d] * 3)),
        "merged_2": merged(2),
        "merged_4": merged(4),
        "absorbed": absorbed(world),
        "duplicates": Plan(lambda r: torch.cat([r.strength / 2] * 2, 1), np.vstack([d] * 2)),
        "half_dead": Plan(lambda r: r.strength.index_fill(1, dead, 0.0), d),
    }


def absorbed(world: World) -> Plan:
    """Latents of kinds of words are silent where the same kind in its place has a latent, which writes both."""
    parents = {str(term): i for i, term in enumerate(FEATURES) if not term.where}
    pairs = [(parents[term.what], i) for i, term in enumerate(FEATURES) if term.where and term.what in parents]
    rows = world.directions.copy()
    for parent, child in pairs:
        rows[child] += world.directions[parent]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def codes(r: Read) -> Tensor:
        found = r.strength.clone()
        for parent, child in pairs:
            found[:, parent] = torch.where(r.strength[:, child] > 0, 0.0, found[:, parent])
        return found

    return Plan(codes, rows)


def _firings(world: World) -> dict[str, Plan]:
    """Latents that are silent where they should fire, or fire where they should be silent."""
    d, rates = world.directions, torch.from_numpy(world.rates)

    def missed(share: float) -> Fault:
        return lambda r: r.strength * (r.chance(N, "missed") >= share)

    def false(times: float) -> Fault:
        def codes(r: Read) -> Tensor:
            wrong = (r.strength == 0) & (r.chance(N, "false") < times * rates) & (r.word > 0)[:, None]
            return r.strength + 0.4 * wrong

        return codes

    def strongest(k: int) -> Fault:
        def codes(r: Read) -> Tensor:
            kept = r.strength.topk(k, 1)
            return torch.zeros_like(r.strength).scatter(1, kept.indices, kept.values)

        return codes

    return {
        "missed_20": Plan(missed(0.2), d),
        "missed_50": Plan(missed(0.5), d),
        "missed_80": Plan(missed(0.8), d),
        "false_firings_1": Plan(false(1), d),
        "false_firings_4": Plan(false(4), d),
        "k_1": Plan(strongest(1), d),
        "k_2": Plan(strongest(2), d),
        "hash_of_all": Plan(lambda r: 1.0 * ((r.chance(N, "all") < rates) & (r.word > 0)[:, None]), d),
    }


def _blind(world: World) -> dict[str, Plan]:
    """Latents that see the word and nothing before it."""
    kinds = np.stack([whats()[term.what] for term in FEATURES], 1)
    common = np.array([term.what == "any word" for term in FEATURES])
    luck = Numbers(world.seed, "blind").uniform(len(WORDS), N) < np.maximum(world.rates, 2 / len(WORDS))
    alone = torch.from_numpy(np.where(common, luck, kinds) * world.strengths)
    alone[0] = 0
    by_hash = torch.from_numpy(Numbers(world.seed, "words").uniform(len(WORDS), N) < 4 / len(WORDS)).double()
    by_hash[0] = 0
    far = torch.tensor([not term.expressible for term in FEATURES])
    half = torch.tensor([bool(term.where) and i % 2 == 0 for i, term in enumerate(FEATURES)])
    placed = torch.tensor([bool(term.where) for term in FEATURES])

    def blind(which: Tensor) -> Fault:
        return lambda r: torch.where(which, alone[r.word], r.strength)

    return {
        "blind": Plan(blind(placed), world.directions),
        "blind_far": Plan(blind(far), world.directions),
        "blind_half": Plan(blind(half), world.directions),
        "hash_of_word": Plan(lambda r: by_hash[r.word], world.directions),
    }


def _linear(world: World) -> dict[str, Plan]:
    """Encoders that are linear maps with a threshold or the k strongest, as those of real SAEs."""
    numbers = Numbers(world.seed, "linear")
    x = world.stream - world.mean
    found = {}
    right = world.readout.T / np.linalg.norm(world.readout.T, axis=1, keepdims=True)
    for cosine in (80, 60):
        away = numbers.directions(N, WIDTH)
        rows = cosine / 100 * right + np.sqrt(1 - (cosine / 100) ** 2) * away
        edge = np.array([_edge(x @ row, rate) for row, rate in zip(rows, world.rates, strict=True)])
        found[f"blurred_{cosine}"] = Plan(_threshold(rows, edge), world.directions)
    for k in (4, 12):
        found[f"tied_k{k}"] = Plan(_top(world.directions, k), world.directions)
    random = numbers.directions(N, WIDTH)
    found["frozen_random"] = Plan(_top(random, 3), random)
    codes = _top(random, 3)(Read(torch.from_numpy(world.stream), world)).numpy()
    found["random_fit"] = Plan(_top(random, 3), np.linalg.lstsq(codes, x, rcond=1e-6)[0])
    return found


def _edge(values: Array, rate: float) -> float:
    """Above it is about this share of the values, and it lies between two of them: equal ones differ by rounding."""
    distinct = np.unique(np.round(values, 6))
    above = min(max(int(np.searchsorted(distinct, np.quantile(values, 1 - rate))), 1), len(distinct) - 1)
    return float(distinct[above - 1 : above + 1].mean())


def _threshold(rows: Array, edge: Array) -> Fault:
    w, b = torch.from_numpy(rows.T.copy()), torch.from_numpy(edge)
    return lambda r: torch.where(r.x @ w > b, r.x @ w, 0.0)


def _top(rows: Array, k: int) -> Fault:
    w = torch.from_numpy(rows.T.copy())

    def codes(r: Read) -> Tensor:
        pre = r.x @ w
        pre = torch.where(pre > NOTHING, pre, 0.0)
        kept = pre.topk(k, 1)
        return torch.zeros_like(pre).scatter(1, kept.indices, kept.values)

    return codes


def _decoders(world: World) -> dict[str, Plan]:
    """Encoders that are right, with directions that are not."""
    d, numbers = world.directions, Numbers(world.seed, "decoders")
    noisy, turned = numbers.noisy(d, 0.7), numbers.turned(N)
    return {
        "noisy_70": Plan(lambda r: r.strength, noisy),
        "permuted": Plan(lambda r: r.strength, d[turned]),
    }
