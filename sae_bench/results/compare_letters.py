"""Groups that cannot be told apart, as letters (compact letter display).

Two SAEs share a letter exactly where they cannot be told apart. That relation is not transitive: B may be told from
neither A nor C, and A from C; B then has two letters. Letters are groups of SAEs no two of which are told apart, as
large as they can be, so many that every such pair is in one (Piepho 2004, "An algorithm for a letter-based
representation of all-pairwise comparisons", for what the display means; groups are found here by growing them).
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from sae_bench.results.compare import Difference, adjusted
from sae_bench.results.compare_sides import Comparison

NAMES = string.ascii_letters  # of the first groups; of more than these all have numbers


def groups(n: int, alike: Callable[[int, int], bool]) -> list[tuple[int, ...]]:
    """Groups of the places 0 to n - 1 such that two are in one exactly where ``alike``, which is symmetric.

    They depend on the order of the places, so that callers number SAEs by what does not change.
    """
    near = [{j for j in range(n) if j != i and alike(min(i, j), max(i, j))} for i in range(n)]
    made: list[tuple[int, ...]] = []
    covered: set[tuple[int, int]] = set()
    for i, j in combinations(range(n), 2):
        if j in near[i] and (i, j) not in covered:
            group = {i, j}
            for k in range(n):
                if k not in group and group <= near[k]:
                    group.add(k)
            made.append(tuple(sorted(group)))
            covered |= set(combinations(made[-1], 2))
    made += [(i,) for i in range(n) if not near[i]]
    return sorted(_needed(made))


def _needed(made: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Without groups whose pairs are all in others."""
    kept = sorted(made)
    for one in sorted(made, reverse=True):
        others = set().union(*(combinations(other, 2) for other in kept if other != one))
        if len(one) > 1 and set(combinations(one, 2)) <= others:
            kept.remove(one)
    return kept


def letters(n: int, alike: Callable[[int, int], bool]) -> list[str]:
    """The letters of each place."""
    made = groups(n, alike)
    named = len(made) <= len(NAMES)
    own = [[NAMES[g] if named else str(g + 1) for g, group in enumerate(made) if i in group] for i in range(n)]
    return ["".join(one) if named else ",".join(one) for one in own]


def columns_of(found: Sequence[Comparison]) -> list[dict[tuple[int, int], Difference]]:
    """For each metric the differences of all pairs of sides, their p-values adjusted over these pairs (Holm)."""
    pairs = [(one.a, one.b) for one in found]
    every = zip(*(one.rows for one in found), strict=True)
    return [dict(zip(pairs, adjusted(list(rows)), strict=True)) for rows in every]


def of_column(pairs: Mapping[tuple[int, int], Difference], order: Sequence[int]) -> dict[int, str]:
    """The letters of sides in one metric; ``order`` are the sides that have a figure, the best first.

    A side that could be compared with no other has none. One that could not be compared with some shares none with
    these, and whoever shows letters says so.
    """
    compared = [side for side in order if any(side in pair and one.value is not None for pair, one in pairs.items())]

    def alike(i: int, j: int) -> bool:
        a, b = sorted((compared[i], compared[j]))
        return pairs[a, b].verdict == "cannot be told apart"

    return dict(zip(compared, letters(len(compared), alike), strict=True))
