"""Which units are first where some stand for all of a text: by a hash of what each is, whatever the order.

Groups take turns, so that a sample of n units is of n groups if there are as many: rows of one group say the same thing
over again. What is in the sample of a text is in that of each part of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence

from sae_bench.units.groups import group_of


def in_turns(ids: Sequence[str], place: Callable[[str], bytes]) -> list[int]:
    """The places of the units ``ids``: one of each group, then a second of each, and so on; in order of ``place``."""
    order = sorted(range(len(ids)), key=lambda index: place(ids[index]))
    came, turn = Counter[str](), [0] * len(ids)
    for index in order:
        group = group_of(ids[index])
        turn[index] = came[group]
        came[group] += 1
    return sorted(order, key=turn.__getitem__)


def first_for_controls(ids: Sequence[str], n: int, seed: int) -> list[int]:
    """The places of the first ``n`` of the units ``ids``, on which controls are measured; of all if they are fewer.

    They are of ``n`` groups, or as many of each as of any other: what controls cost does not grow with the rows of a
    group.
    """
    return in_turns(ids, lambda unit: hashlib.sha256(f"{seed} control document {unit}".encode()).digest())[:n]
