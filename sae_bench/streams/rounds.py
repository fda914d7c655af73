"""Spending what there is in rounds: each coder its part, and then again those that could use more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sae_bench.engine.workspace import Entry
from sae_bench.tasks.tracked import TrackedTask

Turn = tuple[TrackedTask, Entry]


def in_rounds(turns: Sequence[Turn], take: Callable[[TrackedTask, Entry], bool]) -> None:
    """Let every coder ``take`` its turns, each with an equal portion of what is left, until nobody wants or gets more.

    ``take`` says whether that coder would spend more. What it has done before must cost nothing when it is done again.
    Where a portion buys nothing for anybody, there are fewer and larger ones, down to all that is left.
    """
    tasks = list({id(task): task for task, _ in turns}.values())
    left, portions = list(turns), len(turns)
    while left and portions:
        before = _spent(tasks)
        for task in tasks:
            task.divide(portions)
        more = []
        for task, entry in left:
            task.turn()
            if take(task, entry):
                more.append((task, entry))
        left, portions = more, len(more) if _spent(tasks) > before else portions - 1
    for task in tasks:
        task.divide(1)


def _spent(tasks: Sequence[TrackedTask]) -> int:
    return sum(task.spent() for task in tasks)
