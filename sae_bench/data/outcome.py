"""What is said of a text that was read: what each side of it holds, and why it cannot be used where one is empty."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sae_bench.data.rows import LEAST
from sae_bench.data.sides import Side
from sae_bench.data.tokens import TokenSet
from sae_bench.errors import DataError


def of_side(side: Side, tokens: TokenSet) -> dict[str, Any]:
    """What details say of one side."""
    most = side.most
    found: dict[str, Any] = {"units": tokens.n_units, "tokens": tokens.n_tokens, "groups": tokens.n_groups}
    found |= {"units_of_several_sequences": side.several, "duplicates": side.duplicates}
    found["fewer_units_than_asked"] = most.units is not None and tokens.n_units < most.units
    if most.tokens is not None:
        found |= {"most_tokens": most.tokens, "most_tokens_of_a_group": side.share, "units_cut": side.cut}
    return found


def check_sides(
    name: str,
    unit: str,
    found: tuple[TokenSet, TokenSet],
    sides: tuple[Side, Side],
    counts: Counter[str],
    labelled: bool,
) -> None:
    """Refuse a side without units, with what was read and what would be needed."""
    evaluation, calibration = (tokens.n_units for tokens in found)
    if evaluation and calibration:
        return
    for tokens, side in zip(found, sides, strict=True):
        if not tokens.n_units and side.spent:
            raise DataError(
                f"{side.most.tokens} tokens are less than one {unit} of {name}: give a larger --tokens, or a shorter "
                "--context."
            )
    if evaluation or calibration:
        empty = "calibration" if evaluation else "evaluation"
        there = f"all {evaluation + calibration} of {name} (each a {unit})"
        more = "groups" if labelled else "documents"
        if labelled:
            n = sum(tokens.n_groups for tokens in found)
            there += f", of {n} group{'s' if n != 1 else ''},"
        raise DataError(
            f"No {empty} unit is left: {there} are on the other side; give more {more}, or "
            "take the mean from the evaluation units (--mean-from evaluation)."
        )
    read = counts["documents_read"]
    if unit == "sequence" and read:
        left, room = counts["tokens_left_over"], sides[0].room
        where = "" if left < room else " on the evaluation or on the calibration side"
        raise DataError(
            f"{name} has {left} tokens and one sequence needs {room}{where}: give more text or a shorter context."
        )
    if unit == "row":
        raise DataError(f"{name} holds {counts['rows_read']} rows of less than {LEAST} ids beside padding.")
    what = f"only documents of less than {LEAST} tokens ({read} of them)" if read else "no document"
    raise DataError(f"{name} holds {what}; give text to measure on.")
