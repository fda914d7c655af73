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
    read = counts["documents_read"]
    if unit == "sequence" and read:
        raise DataError(_too_little_to_pack(name, found, sides, counts))
    several = "rows" if unit == "row" else "documents"
    least = 1 if sides[0] is sides[1] else 2
    enough = f"at least {least} {several}{' that differ' if least > 1 else ''}, each of {LEAST} tokens or more"
    if evaluation or calibration:
        empty = "calibration" if evaluation else "evaluation"
        groups = sum(tokens.n_groups for tokens in found)
        own = f"{evaluation + calibration} {several if evaluation + calibration > 1 else several[:-1]}"
        own += f" of {groups} group{'s' if groups != 1 else ''}" if labelled else ""
        alike = ", all alike" if evaluation + calibration > 1 and groups == 1 and not labelled else ""
        wanted = f"at least {least} groups" if labelled else enough
        raise DataError(
            f"{name} holds {own}{alike}, so there is no {empty} text beside it: give {wanted}, or take the mean from "
            "the evaluation text (--mean-from evaluation), for which 1 is enough."
        )
    if unit == "row":
        raise DataError(
            f"{name} holds {counts['rows_read']} rows of less than {LEAST} ids beside padding; give {enough}."
        )
    what = f"only documents of less than {LEAST} tokens ({read} of them)" if read else "no document"
    raise DataError(f"{name} holds {what}; give {enough}.")


def _too_little_to_pack(
    name: str, found: tuple[TokenSet, TokenSet], sides: tuple[Side, Side], counts: Counter[str]
) -> str:
    """What is said where packed documents do not fill a sequence on each side."""
    left, room = counts["tokens_left_over"], sides[0].room
    if sides[0] is sides[1]:
        return f"{name} has {left} tokens and one sequence needs {room}: give more text or a shorter --context."
    there = " and ".join(
        f"{tokens.n_units} {side}" for tokens, side in zip(found, ("evaluation", "calibration"), strict=True)
    )
    return (
        f"{name} makes {there} sequences and leaves {left} tokens over, and one sequence needs {room}: give at least 2 "
        f"documents of {room} tokens or more, or a shorter --context, or take the mean from the evaluation text "
        "(--mean-from evaluation)."
    )
