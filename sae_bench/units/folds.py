"""Shares of latents over text: what latents do in each of 32 folds of the documents, and figures of that.

A dictionary is a census: another draw of latents does not exist, another draw of documents does. So the groups of
documents are dealt over ``FOLDS`` folds by a hash of their names, each fold has a row with the counts of all latents,
and folds are resampled. A share of latents is no mean over folds, and each needs its own resampling:

*Dense* (active on more than a share of the tokens): folds drawn with replacement, as everywhere, around the figure.

*Dead* (active on no token): a resample holds fewer different documents than the sample, so in it more latents are dead.
What differs between two halves of the folds that share no document is unbiased instead: half of its mean square is the
variance at half of the tokens. Were latents to fire independently, the variance at n tokens would be the number of
latents that come alive between n and 2n tokens; so from half of the tokens to all of them it is taken to change as that
number does along the curve, from a quarter to half and from half to all. What two halves differ by because one has more
groups is taken off by regression, since the figure is for as many groups as there are. A number of latents says no
more of its mean than to one latent, so that no interval is empty. Halves and weights are keyed by
the documents of a fold: two SAEs measured on the same documents are compared in pairs.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.units.bootstrap import FEWEST, Array, Draws, Sums, resample_weights, t_width
from sae_bench.units.groups import group_of
from sae_bench.units.table import Units
from sae_bench.units.trust import Influence, of_groups
from sae_bench.units.weights import random

FOLDS = 32
DENSE = {"1pct": 0.01, "10pct": 0.10}
AT_ONCE = 1 << 22  # numbers of replicates in memory at once
ROUNDING = 1e-9  # of a number of latents
FEW = 40  # of which one is within what verify allows to a row, and ten are not
FAR = 8.0  # standard errors: farther from a threshold, a latent is on the same side of it in all replicates
_PIECE = re.compile(r"/\d+$")  # what stands behind the name of a document in that of its further sequences
STEEPEST = 1.5  # by which factor the number of latents that come alive may grow from one doubling to the next


@lru_cache(maxsize=1 << 16)
def fold_of(document: str) -> int:
    """The fold, 0 to 31, of the group of a document, or of a sequence of it, on any machine and in any run."""
    return int.from_bytes(random(0, f"fold of {group_of(_PIECE.sub('', document))}", 4), "little") % FOLDS


def table(documents: Units, active: NDArray[Any], contribution: Array) -> Units:
    """A row for each of 32 folds, from the document table with its column ``tokens``.

    ``active`` ``[32, latents]`` is on how many tokens of each fold every latent is active; it is kept in the smallest
    whole numbers that hold it. ``contribution`` ``[latents]``, which is not counted by fold, is dealt over the rows:
    ``[32, latents / 32]``. ``largest`` is how many tokens the largest group of a fold holds. A row is named by its fold
    and by a digest of the groups in it.
    """
    fold = np.array([fold_of(unit) for unit in documents.ids], dtype=np.int64)
    held: list[Counter[str]] = [Counter() for _ in range(FOLDS)]
    for unit, own, n in zip(documents.ids, fold.tolist(), documents.columns["tokens"].tolist(), strict=True):
        held[own][group_of(unit)] += n
    dealt = np.zeros(-(-len(contribution) // FOLDS) * FOLDS)
    dealt[: len(contribution)] = contribution
    columns = {
        "tokens": np.bincount(fold, documents.columns["tokens"], minlength=FOLDS).astype(np.float64),
        "documents": np.array([len(own) for own in held], dtype=np.float64),
        "largest": np.array([max(own.values(), default=0) for own in held], dtype=np.float64),
        "active": active.astype(np.min_scalar_type(int(active.max(initial=0)))),
        "contribution": dealt.reshape(FOLDS, -1),
    }
    return Units(tuple(f"{i:02d}:{_digest(own)}" for i, own in enumerate(held)), columns)


def disagree(tables: Mapping[str, Units]) -> str | None:
    """What the folds say of the documents beside them that is not so; None where there is nothing to hold them against.

    Latents that are active in other folds than the result says are found by measuring them again alone.
    """
    own, documents = tables["fold"], tables.get("document")
    if documents is None or "tokens" not in documents.columns:
        return None
    again = table(documents, own.columns["active"], _contribution(own))
    if own.ids != again.ids:
        return "the folds are not of the documents that the document table has"
    for name in ("tokens", "documents", "largest"):
        if name in own.columns and not np.array_equal(own.columns[name], again.columns[name]):
            return f"{name} of the folds are not those of the document table"
    if (active := documents.columns.get("active")) is not None:
        by_fold = np.bincount([fold_of(unit) for unit in documents.ids], active, minlength=FOLDS)
        if not np.array_equal(own.columns["active"].sum(axis=1, dtype=np.float64), by_fold):
            return "firings by fold do not add up to those of the documents"
    return None


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


def active_tokens(units: Units) -> Array:
    """On how many tokens each latent is active ``[latents]``."""
    found: Array = units.columns["active"].sum(axis=0, dtype=np.float64)
    return found


def by_latent(units: Units) -> Units:
    """A row for each latent, on how many tokens it is active and what it contributes, from a table of folds.

    On another machine a latent at its threshold is active on a token more or less. So that this is a small part of a
    row, and of that of a rare latent too, counts begin at ``FEW``.
    """
    active = active_tokens(units)
    columns = {"active_tokens": active + FEW, "contribution": _contribution(units)}
    return Units(tuple(map(str, range(len(active)))), columns)


def _contribution(units: Units) -> Array:
    return units.columns["contribution"].reshape(-1)[: units.columns["active"].shape[1]]


def total(units: Units) -> Sums:
    """How many latents there are, are dead and are dense, and what they contribute: ``[1]`` each."""
    active, contribution = active_tokens(units), _contribution(units)
    density = active / max(units.columns["tokens"].sum(), 1)
    sums = {"latents": float(len(active)), "dead": float((active == 0).sum()), "contribution": contribution.sum()}
    for name, threshold in DENSE.items():
        dense = (density > threshold).astype(np.float64)
        sums |= {f"dense_{name}": dense.sum(), f"contribution_{name}": (dense * contribution).sum()}
    return Sums({name: np.array([value]) for name, value in sums.items()})


def draw(units: Units, *, seed: int, resamples: int) -> Draws:
    """Everything that figures of this table are made of, as of so many units as there are groups of documents.

    The spread is that of as few folds as there are: it is widened by what t gives up for them.
    """
    points = total(units)
    there = units.select(np.flatnonzero(units.columns["documents"]))
    n = int(there.columns["documents"].sum())
    if len(there) < FEWEST:
        n = min(n, len(there))
    wider = t_width(len(there)) / t_width(n) if n >= FEWEST else 1.0
    latents, dense = points.latents[0], _dense(there, _contribution(units), seed, resamples)
    differ = {"dead": _dead(there, seed, resamples), **dense}
    replicates = {name: np.maximum(getattr(points, name) + wider * by, 0) for name, by in differ.items()}
    replicates["dead"] = np.clip(replicates["dead"] + _rounding(units, seed, resamples), 0, latents)
    replicates["latents"] = np.full(resamples, latents)
    return Draws(points, Sums(replicates), n, _of_text(there))


def _of_text(there: Units) -> Influence:
    """Of how many groups figures are, and how much of the tokens the largest holds, as far as a table says it."""
    tokens = there.columns["tokens"].sum()
    largest = there.columns["largest"].max(initial=0) if "largest" in there.columns else 0.0
    return of_groups(int(there.columns["documents"].sum()), float(largest / max(tokens, 1)))


def _rounding(units: Units, seed: int, resamples: int) -> Array:
    """What a number of dead latents leaves open of its mean, which is no whole number: -1 to 1, ``[resamples]``.

    A sample in which no latent comes or goes may still hold one that rarely fires. The same for two SAEs whose latents
    are active in the same folds, whatever their order.
    """
    on = np.packbits(units.columns["active"] > 0, axis=0).T
    patterns = np.ascontiguousarray(on).view(f"V{max(1, on.shape[1])}").reshape(-1)
    digest = hashlib.sha256(np.sort(patterns).tobytes()).hexdigest()
    drawn = np.frombuffer(random(seed, f"rounding {digest}", 8 * resamples), "<u8")
    found: Array = drawn / 2.0**63 - 1
    return found


def _dead(units: Units, seed: int, resamples: int) -> Array:
    """By how much the number of dead latents would differ on other text ``[resamples]``."""
    g = len(units)
    if g < 2:
        return np.zeros(resamples)
    first = halves(units.ids, seed, resamples).astype(np.float32)
    on = units.columns["active"] > 0
    seen = on.sum(axis=0)
    on, seen = (column[..., (seen > 0) & (seen <= g - g // 2)] for column in (on, seen))
    differ = np.zeros(resamples)
    step = max(1, AT_ONCE // resamples)
    for start in range(0, len(seen), step):
        part = slice(start, start + step)
        in_first = first @ on[:, part].astype(np.float32)
        differ += (in_first == 0).sum(axis=1) - (in_first == seen[part]).sum(axis=1)
    more = 2 * first.astype(np.float64) @ units.columns["documents"] - units.columns["documents"].sum()
    freedom = 1.0
    if g > 2 and np.ptp(more) > 0:
        differ = differ - more * (differ @ more) / (more @ more)
        freedom = (g - 1) / (g - 2)
    found: Array = differ * math.sqrt(freedom * _slope(units) / 2)
    return found


def halves(ids: Sequence[str], seed: int, resamples: int) -> NDArray[np.bool_]:
    """Which rows are in a random half of them, ``[resamples, rows]``; keyed by their ids, whatever their order."""
    drawn = [np.frombuffer(random(seed, f"half {unit}", 8 * resamples), "<u8") for unit in ids]
    place = np.stack(drawn, axis=1).argsort(axis=1).argsort(axis=1)
    half: NDArray[np.bool_] = place < len(ids) // 2
    return half


def expected_dead(units: Units, n: int) -> float:
    """How many latents are dead on ``n`` of the rows, in the mean over all choices of them (rarefaction)."""
    from scipy.special import gammaln  # here, because importing scipy costs more than all other commands need

    g = len(units)
    without = g - (units.columns["active"] > 0).sum(axis=0)  # in how many rows each is silent
    often = np.bincount(without, minlength=g + 1)
    silent = np.arange(n, g + 1)
    logs = gammaln(silent + 1) - gammaln(silent - n + 1) - gammaln(g + 1) + gammaln(g - n + 1)
    return float((often[n:] * np.exp(logs)).sum())


def doublings(units: Units) -> tuple[float, float]:
    """How many latents come alive from a quarter of the rows to half of them, and from half to all."""
    g = len(units)
    dead = [expected_dead(units, n) for n in (g // 4, g // 2, g)]
    return dead[0] - dead[1], dead[1] - dead[2]


def _slope(units: Units) -> float:
    """By which factor the number of latents that come alive changes from one doubling of the tokens to the next."""
    if len(units) < 8:
        return 1.0
    before, last = doublings(units)
    return min(STEEPEST, max(0.0, last) / before) if before > ROUNDING else 1.0


def dead_at_twice(units: Units) -> float | None:
    """How many latents would be dead on twice the tokens, as the curve goes on; None with fewer than 8 rows of text."""
    there = units.select(np.flatnonzero(units.columns["documents"]))
    if len(there) < 8:
        return None
    dead = expected_dead(there, len(there))
    return max(0.0, dead - _slope(there) * doublings(there)[1])


def _dense(units: Units, contribution: Array, seed: int, resamples: int) -> dict[str, Array]:
    """By how much the sums of dense latents differ in resamples of the rows, around their mean.

    Of a latent it is counted on how many tokens of a fold it is active; what it contributes there is taken in
    proportion.
    """
    weights = resample_weights(units.ids, seed, resamples).astype(np.float64)
    counts, tokens = units.columns["active"].astype(np.float64), units.columns["tokens"]
    active, n = counts.sum(axis=0), max(tokens.sum(), 1)
    each = np.divide(contribution, active, out=np.zeros(len(active)), where=active > 0)
    density = active / n
    error = np.sqrt(np.square(counts - np.outer(tokens, density)).sum(axis=0)) / n
    drawn_tokens = np.maximum(weights @ tokens, 1)[:, None]
    found = {"contribution": weights @ (counts @ each)}
    step = max(1, AT_ONCE // resamples)
    for name, threshold in DENSE.items():
        near = np.flatnonzero(np.abs(density - threshold) <= FAR * error)
        always = np.setdiff1d(np.flatnonzero(density > threshold), near)
        number, sums = np.full(resamples, float(len(always))), weights @ (counts[:, always] @ each[always])
        for start in range(0, len(near), step):
            own = near[start : start + step]
            drawn = weights @ counts[:, own]
            dense = drawn / drawn_tokens > threshold
            number += dense.sum(axis=1)
            sums += (dense * drawn) @ each[own]
        found |= {f"dense_{name}": number, f"contribution_{name}": sums}
    return {name: values - values.mean() for name, values in found.items()}


def unequal(a: Units, b: Units) -> str | None:
    """Why shares of latents on two texts must not be compared: they depend on how many tokens were read."""
    one, other = (int(units.columns["tokens"].sum()) for units in (a, b))
    if one == other:
        return None
    return (
        f"the first was measured on {one} tokens and the second on {other}; how many latents are dead or dense depends "
        "on that, so measure both on equally many"
    )
