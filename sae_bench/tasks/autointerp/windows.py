"""Which windows of text a latent is explained from, and which it is scored on.

A window is up to 32 tokens of one document. Positives hold a firing, a strong one at a random place; silent windows
hold none, checked on the whole window, and *matched* ones hold a token on which the latent fires elsewhere: the hard
ones, where a list of tokens is no help. What is shown to the explainer comes from the fit documents, what is scored
from the others, and no scored window shares 8 tokens in a row with a shown one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.kernels.detection import DECILES, MATCHED, RANDOM, STRATA
from sae_bench.kernels.ranks import clusters, top
from sae_bench.kernels.token_counts import Firings
from sae_bench.randomness import generator
from sae_bench.tasks.tracked import Ints, Text, Tracked

TRIES = 4  # random places in a silent block, before its start is taken
SHINGLE = 8  # tokens in a row that a scored window may not share with a shown one

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Window:
    """Tokens ``start:stop`` of a text, their ids and the latent's activations; its stratum as in kernels.detection."""

    start: int
    stop: int
    tokens: Ints
    activations: Floats
    stratum: int


@dataclass(frozen=True)
class Case:
    """One latent with its windows. ``sizes`` ``[STRATA]`` is how many windows of the text each stratum stands for."""

    latent: int
    shown: tuple[Window, ...]
    contrast: tuple[Window, ...]
    scored: tuple[Window, ...]
    sizes: Floats


@dataclass(frozen=True)
class Sizes:
    """How many windows of each kind, and of how many tokens."""

    length: int
    shown: int
    contrast: int
    positives: int
    random: int
    matched: int


class _Half:
    """One half of the documents with the firings of all watched latents, sorted by latent and position."""

    def __init__(self, text: Text, firings: Firings, n_latents: int, length: int) -> None:
        self.text, self.length = text, length
        order = np.lexsort([firings.position, firings.latent])
        self.position, self.activation = firings.position[order], firings.activation[order]
        self.bounds = np.searchsorted(firings.latent[order], np.arange(n_latents + 1))
        starts = np.flatnonzero(np.diff(text.document, prepend=-1))
        ends = np.append(starts[1:], len(text.tokens))[: len(starts)]
        self.first = np.repeat(starts, ends - starts)  # of the document of every token
        self.last = np.repeat(ends, ends - starts)
        within = np.arange(len(text.tokens)) - self.first
        self.block_starts = np.flatnonzero(within % length == 0)
        self.block = np.cumsum(within % length == 0) - 1  # of every token
        by_token = np.argsort(text.tokens, kind="stable")
        self._by_token, self._sorted = by_token, text.tokens[by_token]

    def firings(self, latent: int) -> tuple[Ints, Floats]:
        """Positions and activations of one latent, in order."""
        own = slice(self.bounds[latent], self.bounds[latent + 1])
        return self.position[own], self.activation[own]

    def occurrences(self, tokens: Ints) -> Ints:
        """All positions of these tokens."""
        low = np.searchsorted(self._sorted, tokens)
        high = np.searchsorted(self._sorted, tokens, side="right")
        found = [self._by_token[a:b] for a, b in zip(low, high, strict=True)]
        return np.sort(np.concatenate(found)) if found else np.zeros(0, dtype=np.int64)

    def around(self, position: int, slot: int) -> tuple[int, int]:
        """The window in which ``position`` is at ``slot``, moved into its document."""
        first, last = int(self.first[position]), int(self.last[position])
        start = max(first, min(position - slot, last - self.length))
        return start, min(start + self.length, last)

    def window(self, latent: int, start: int, stop: int, stratum: int) -> Window:
        """The window with the latent's activations."""
        position, activation = self.firings(latent)
        low, high = np.searchsorted(position, [start, stop])
        values = np.zeros(stop - start)
        values[position[low:high] - start] = activation[low:high]
        return Window(start, stop, self.text.tokens[start:stop], values, stratum)

    def is_silent(self, latent: int, start: int, stop: int) -> bool:
        """Whether the latent fires nowhere in the window."""
        low, high = np.searchsorted(self.firings(latent)[0], [start, stop])
        return bool(low == high)

    def peaks(self, latent: int) -> tuple[Ints, Floats]:
        """The strongest firing in each block of the text that has one, from weak to strong; near-ties by position."""
        position, activation = self.firings(latent)
        strength = clusters(torch.from_numpy(activation)).numpy()
        order = np.lexsort([-strength, self.block[position]])
        _, first = np.unique(self.block[position][order], return_index=True)
        best = order[first]
        best = best[np.argsort(strength[best], kind="stable")]
        return position[best], activation[best]


def cases(watched: Tracked, sizes: Sizes, seed: int) -> list[Case]:
    """A case for every watched latent with enough windows on both halves, in order of the latents."""
    n = len(watched.latents)
    fit = _Half(watched.fit, watched.fit_firings, n, sizes.length)
    test = _Half(watched.test, watched.test_firings, n, sizes.length)
    found = []
    for slot, latent in enumerate(watched.latents.tolist()):
        case = _case(slot, latent, fit, test, sizes, seed)
        if case is not None:
            check(case)
            found.append(case)
    return found


def check(case: Case) -> None:
    """No scored window was shown to the explainer. Raises AssertionError: a score would mean nothing."""
    shown = {window.tokens.tobytes() for window in (*case.shown, *case.contrast)}
    seen = _shingles((*case.shown, *case.contrast))
    for window in case.scored:
        if window.tokens.tobytes() in shown or seen & _shingles([window]):
            raise AssertionError(f"a scored window of latent {case.latent} was shown to the explainer")


def _case(slot: int, latent: int, fit: _Half, test: _Half, sizes: Sizes, seed: int) -> Case | None:
    draw = np.random.Generator(np.random.PCG64(int(generator(seed, f"windows of latent {latent}").initial_seed())))
    fit_peaks, _ = fit.peaks(slot)
    peaks, _ = test.peaks(slot)
    if len(fit_peaks) < sizes.shown or len(peaks) < 2 * sizes.positives:
        return None
    highest = fit_peaks[-(-len(fit_peaks) * (DECILES - 1) // DECILES) :]
    half = sizes.shown // 2
    strong = _apart(fit, slot, draw.permutation(highest), half, draw, ())
    spread = _apart(fit, slot, _across(fit_peaks, draw), sizes.shown - len(strong), draw, strong)
    both = (*strong, *spread)
    shown = tuple(both[i] for i in top(torch.tensor([window.activations.max() for window in both])).tolist())
    contrast = _matched(fit, slot, fit_peaks, sizes.contrast, draw, set())
    seen = _shingles((*shown, *contrast))
    scored: list[Window] = []
    deciles = np.array_split(peaks, DECILES)
    for decile in ((np.arange(sizes.positives) + 0.5) * DECILES / sizes.positives).astype(int).tolist():
        scored += _fresh(test, slot, draw.permutation(deciles[decile]), decile, draw, seen, scored)
    matched = _matched(test, slot, peaks, sizes.matched, draw, seen)
    silent = _silent(test, slot, peaks, sizes.random, draw, seen)
    if len(shown) < 2 or len(scored) < 2 or len(silent) + len(matched) < 2:
        return None
    return Case(latent, shown, tuple(contrast), (*scored, *silent, *matched), _natural(test, slot, peaks))


def _across(peaks: Ints, draw: np.random.Generator) -> Ints:
    """The peaks in an order that goes through the deciles again and again, at random within each."""
    parts = [draw.permutation(part) for part in np.array_split(peaks, DECILES)]
    turns = [part[i] for i in range(max(map(len, parts))) for part in parts if i < len(part)]
    return np.array(turns, dtype=np.int64)


def _apart(
    half: _Half, slot: int, peaks: Ints, n: int, draw: np.random.Generator, taken: tuple[Window, ...]
) -> tuple[Window, ...]:
    """Windows around up to ``n`` of the peaks that do not overlap each other or the ``taken`` ones."""
    found = list(taken)
    for peak in peaks.tolist():
        if len(found) == len(taken) + n:
            break
        start, stop = half.around(peak, int(draw.integers(half.length)))
        if all(stop <= other.start or other.stop <= start for other in found):
            found.append(half.window(slot, start, stop, DECILES - 1))
    return tuple(found[len(taken) :])


def _fresh(
    half: _Half,
    slot: int,
    peaks: Ints,
    decile: int,
    draw: np.random.Generator,
    seen: set[bytes],
    scored: list[Window],
) -> list[Window]:
    """One window around one of the peaks that shares nothing with what was shown, and overlaps no scored one."""
    for peak in peaks.tolist():
        start, stop = half.around(peak, int(draw.integers(half.length)))
        window = half.window(slot, start, stop, decile)
        free = all(stop <= other.start or other.stop <= start for other in scored)
        if free and not seen & _shingles([window]):
            return [window]
    return []


def _matched(half: _Half, slot: int, peaks: Ints, n: int, draw: np.random.Generator, seen: set[bytes]) -> list[Window]:
    """Silent windows that hold a token on which the latent has a peak."""
    places = half.occurrences(np.unique(half.text.tokens[peaks]))
    found: list[Window] = []
    for place in draw.permutation(places)[: 40 * n].tolist():
        if len(found) == n:
            break
        start, stop = half.around(place, int(draw.integers(half.length)))
        if not half.is_silent(slot, start, stop):
            continue
        window = half.window(slot, start, stop, MATCHED)
        if not seen & _shingles([window]) and all(stop <= o.start or o.stop <= start for o in found):
            found.append(window)
    return found


def _silent(half: _Half, slot: int, peaks: Ints, n: int, draw: np.random.Generator, seen: set[bytes]) -> list[Window]:
    """Silent windows that hold no token on which the latent has a peak, at random places as far as there is room."""
    liked = half.occurrences(np.unique(half.text.tokens[peaks]))
    taken = np.union1d(half.block[liked], half.block[half.firings(slot)[0]])
    found: list[Window] = []
    for block in draw.permutation(np.setdiff1d(np.arange(len(half.block_starts)), taken)).tolist():
        if len(found) == n:
            break
        start = int(half.block_starts[block])
        slots = [*draw.integers(half.length, size=TRIES).tolist(), 0]
        for first, stop in (half.around(start, -s) for s in slots):
            low, high = np.searchsorted(liked, [first, stop])
            window = half.window(slot, first, stop, RANDOM)
            alone = all(stop <= o.start or o.stop <= first for o in found)
            if low == high and alone and half.is_silent(slot, first, stop) and not seen & _shingles([window]):
                found.append(window)
                break
    return found


def _natural(half: _Half, slot: int, peaks: Ints) -> Floats:
    """How many blocks of the text each stratum stands for ``[STRATA]``."""
    sizes = np.zeros(STRATA)
    sizes[:DECILES] = [len(part) for part in np.array_split(peaks, DECILES)]
    liked = np.unique(half.block[half.occurrences(np.unique(half.text.tokens[peaks]))])
    loud = np.unique(half.block[half.firings(slot)[0]])
    sizes[MATCHED] = len(np.setdiff1d(liked, loud))
    sizes[RANDOM] = len(half.block_starts) - len(np.union1d(liked, loud))
    return sizes


def _shingles(windows: list[Window] | tuple[Window, ...]) -> set[bytes]:
    """All runs of 8 tokens; of a shorter window all of it."""
    found = set()
    for window in windows:
        width = min(SHINGLE, len(window.tokens))
        found |= {window.tokens[i : i + width].tobytes() for i in range(len(window.tokens) - width + 1)}
    return found
