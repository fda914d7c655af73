"""SAEs that are right, or wrong in one known way: a table of codes, one row a token type, and a decoder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.protocol import CoderInfo, Codes, codes_from_dense, indptr_of
from sae_bench.validity.numbers import Array, Numbers
from sae_bench.validity.world import CHILDREN, FEATURES, HOOK, PARENTS, WIDTH, World


@dataclass(frozen=True)
class Table:
    """``codes`` ``[types, latents]`` and ``decoder`` ``[latents, width]``; the bias is the world's mean."""

    codes: Array
    decoder: Array


class Finder:
    """Finds the token type that an activation is of, or is nearest to."""

    def __init__(self, types: Tensor) -> None:
        self._types = types
        self._lengths = (types.double() ** 2).sum(1) / 2
        self._axis = torch.from_numpy(Numbers("axis").normal(types.shape[1]))
        self._marks, self._order = (types.double() @ self._axis).sort()

    def __call__(self, x: Tensor) -> Tensor:
        """The types of ``x`` ``[tokens, width]``, int64 ``[tokens]``: looked up by one number, which rarely fails."""
        x = x.float()
        place = torch.searchsorted(self._marks, x.double() @ self._axis).clamp(max=len(self._marks) - 1)
        found = self._order[place]
        for step in (1, -1):  # the number of the same activation may be rounded otherwise in another batch
            wrong = (self._types[found] != x).any(1)
            found[wrong] = self._order[(place[wrong] + step).clamp(0, len(self._marks) - 1)]
        wrong = ((self._types[found] != x).any(1)).nonzero()[:, 0]
        for some in torch.split(wrong, 4096):
            found[some] = (x[some].double() @ self._types.double().T - self._lengths).argmax(1)
        return found


class Known:
    """A coder that finds which token type an activation is of, and has its codes written down."""

    def __init__(self, name: str, table: Table, mean: Array, find: Finder) -> None:
        self.info = CoderInfo(name, table.codes.shape[1], WIDTH, WIDTH, (HOOK,), (HOOK,), "known")
        self._find = find
        self._codes = codes_from_dense(torch.from_numpy(table.codes).float())
        self._decoder = torch.from_numpy(table.decoder).float()
        self._mean = torch.from_numpy(mean).float()

    def encode(self, x: Tensor) -> Codes:
        """The codes of the token types nearest to ``x`` ``[tokens, width]``."""
        own, types = self._codes, self._find(x)
        counts = own.counts()[types]
        indptr = indptr_of(counts)
        shift = torch.repeat_interleave(own.indptr[types] - indptr[:-1], counts)
        entries = torch.arange(len(shift)) + shift
        return Codes(indptr, own.indices[entries], own.values[entries], own.n_latents)

    def decode(self, codes: Codes, x: object = None) -> Tensor:
        """Codes times decoder, plus the mean."""
        return sparse_decode(codes.indptr, codes.indices, codes.values, self._decoder) + self._mean

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """The directions of some latents."""
        return self._decoder[latents]


def known(world: World) -> dict[str, Known]:
    """The SAEs that need no training, by name."""
    find = Finder(torch.from_numpy(world.activations).float())
    return {name: Known(name, table, world.mean, find) for name, table in tables(world).items()}


def tables(world: World) -> dict[str, Table]:
    """What they are made of."""
    numbers = Numbers(world.seed, "rungs")
    perfect = Table(world.strengths, world.directions)
    found = {
        "perfect": perfect,
        "split_2": split(perfect, 2, numbers),
        "split_4": split(perfect, 4, numbers),
        "merged_2": merged(perfect, 2, numbers),
        "merged_4": merged(perfect, 4, numbers),
        "absorbed_half": absorbed(perfect, range(0, PARENTS, 2), world.rates),
        "absorbed": absorbed(perfect, range(PARENTS), world.rates),
        "duplicates": Table(np.hstack([perfect.codes / 2] * 2), np.vstack([perfect.decoder] * 2)),
        "half_dead": half_dead(perfect, numbers),
        "permuted": replace(perfect, decoder=perfect.decoder[numbers.turned(FEATURES)]),
        "rescaled": rescaled(perfect, numbers),
    }
    for share in (20, 50):
        kept = numbers.uniform(*perfect.codes.shape) >= share / 100
        found[f"missed_{share}"] = replace(perfect, codes=perfect.codes * kept)
    for times in (1, 4):
        found[f"false_firings_{times}"] = false_firings(perfect, times, numbers)
    for cosine in (90, 70, 50):
        found[f"noisy_{cosine}"] = replace(perfect, decoder=numbers.noisy(perfect.decoder, cosine / 100))
    return found


def split(perfect: Table, ways: int, numbers: Numbers) -> Table:
    """Each feature has several latents; which one fires depends on the token."""
    own = (numbers.uniform(*perfect.codes.shape) * ways).astype(np.int64)
    return Table(np.hstack([perfect.codes * (own == i) for i in range(ways)]), np.vstack([perfect.decoder] * ways))


def merged(perfect: Table, ways: int, numbers: Numbers) -> Table:
    """Several features share a latent, which writes the direction between them."""
    groups = numbers.order(FEATURES).reshape(-1, ways)
    decoder = perfect.decoder[groups].sum(1)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    return Table(perfect.codes[:, groups].sum(2), decoder)


def absorbed(perfect: Table, parents: range, rates: Array) -> Table:
    """Latents of parents are silent where a child is; the children's latents write the parent's part as well.

    ``rates`` ``[types]`` is how often each token type comes.
    """
    codes, decoder = perfect.codes.copy(), perfect.decoder.copy()
    for parent in parents:
        for i in range(CHILDREN):
            child = PARENTS * (1 + i) + parent
            on = codes[:, child] > 0
            weight = rates * on
            ratio = (weight @ perfect.codes[:, parent]) / max(float(weight @ codes[:, child]), 1e-12)
            decoder[child] += ratio * decoder[parent]
            codes[on, parent] = 0
    lengths = np.linalg.norm(decoder, axis=1)
    return Table(codes * lengths, decoder / lengths[:, None])


def half_dead(perfect: Table, numbers: Numbers) -> Table:
    """Half of the features have no latent; as many latents never fire."""
    codes = perfect.codes.copy()
    codes[:, numbers.order(FEATURES)[: FEATURES // 2]] = 0
    return replace(perfect, codes=codes)


def rescaled(perfect: Table, numbers: Numbers) -> Table:
    """The same SAE in other units: codes are multiplied by what directions are divided by."""
    scale = np.exp(numbers.normal(FEATURES))
    return Table(perfect.codes * scale, perfect.decoder / scale[:, None])


def false_firings(perfect: Table, times: int, numbers: Numbers) -> Table:
    """Latents fire weakly on tokens that lack the feature, ``times`` as many as those that have it."""
    rates = (perfect.codes > 0).mean(0) * times
    wrong = (perfect.codes == 0) & (numbers.uniform(*perfect.codes.shape) < rates)
    wrong[0] = False
    return replace(perfect, codes=perfect.codes + 0.2 * wrong)
