"""Reading what the judge wrote. Applied to completions from the cache, so that a better reader costs nothing.

What is not plainly an answer is missing: a number that was guessed from unclear words looks like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from sae_bench.judge.lenient import LONGEST, values

_THOUGHT = re.compile(r"^.*</think(?:ing)?>|<think(?:ing)?>.*", re.DOTALL | re.IGNORECASE)
_PERCENT = re.compile(r"\s*([-+]?\d{1,9}(?:\.\d{1,30})?)\s*%?\s*")
_LABEL = re.compile(r"^[ \t*#\[]*explanation[ \t*\]]*:[\s*]*(\S.*)", re.IGNORECASE | re.DOTALL | re.MULTILINE)


def read_json(text: str) -> dict[str, Any] | None:
    """The last JSON object in ``text``, or None; prose, code fences and thoughts around it are passed over.

    Forgives what models do to JSON (see ``lenient.py``). Of an object that is cut off it gives what is complete.
    """
    return next(iter(_objects(text)), None)


def read_answers(text: str, ids: Sequence[str]) -> dict[str, float]:
    """The probability, 0 to 1, that the judge gave to each of ``ids``; those without a clear answer are left out.

    Expects ``{"answers": [{"id": "kq", "p": 85}, ...]}`` with percentages. Also reads a bare list of such entries, an
    entry a line, and ``{"kq": 85, ...}``. Numbers may be texts ("85", "85%") and ids in other capitals. Unknown ids
    are passed over. Left out are a number out of range, an id with two different numbers, and the whole reply if no
    number is above 1 and one lies between 0 and 1: nobody can tell then whether it counts in percent.
    """
    known = _known(ids)
    found: dict[str, set[float | None]] = {}
    for name, value in _entries(text, known):
        if (wanted := known.get(_plain(name))) is not None:
            found.setdefault(wanted, set()).add(_percent(value))
    clear: dict[str, float] = {}
    for name, numbers in found.items():
        first, *others = numbers
        if first is not None and not others:
            clear[name] = first
    if any(0 < p < 1 for p in clear.values()) and all(p <= 1 for p in clear.values()):
        return {}
    return {name: clear[name] / 100 for name in ids if name in clear}


def read_explanation(text: str) -> str | None:
    """The explanation in ``{"explanation": "..."}``, or after the label ``Explanation:``; None where there is none.

    White space is made plain. Free text without a label is no explanation: it may as well be a refusal.
    """
    given = next((found["explanation"] for found in _objects(text) if "explanation" in found), None)
    if given is None and "{" not in text and (label := _LABEL.search(_spoken(text))):
        given = label.group(1).split("\n\n")[0].strip("* \n")
    plain = " ".join(given.encode("utf-8", "replace").decode().split()) if isinstance(given, str) else ""
    return plain or None


def _spoken(text: str) -> str:
    """``text`` without the thoughts that some models write before it."""
    return _THOUGHT.sub("", text[:LONGEST])


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The objects at the top level of ``text``, the last one first: what comes before it is a draft."""
    return (found for found in reversed(list(values(_spoken(text)))) if isinstance(found, dict))


def _entries(text: str, known: dict[str, str | None]) -> Iterator[tuple[str, Any]]:
    """Pairs of an id and what was answered, from the last part of ``text`` that has such pairs."""
    found = list(values(_spoken(text)))
    for value in reversed(found):
        inner = value.get("answers") if isinstance(value, dict) else value
        pairs = list(_pairs(inner, known))
        if not pairs and isinstance(value, dict) and "answers" not in value and "id" not in value:
            pairs = list(_pairs(value, known))
        if pairs:
            yield from pairs
            return
    yield from _pairs(found, known)


def _pairs(value: Any, known: dict[str, str | None]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((name, answer) for name, answer in value.items() if _plain(name) in known)
    elif isinstance(value, list):
        for entry in value:
            named = {str(name).lower(): item for name, item in entry.items()} if isinstance(entry, dict) else {}
            if isinstance(named.get("id"), str) and "p" in named:
                yield named["id"], named["p"]


def _known(ids: Sequence[str]) -> dict[str, str | None]:
    """The id behind each plain spelling; None where two ids share it."""
    known: dict[str, str | None] = {}
    for name in ids:
        known[_plain(name)] = None if _plain(name) in known else name
    return known


def _plain(name: str) -> str:
    return name.strip(" \t\n[]()#'\"`*.:").casefold()


def _percent(value: Any) -> float | None:
    """A number from 0 to 100, or None."""
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
        value = float(match.group(1))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and 0 <= number <= 100 else None
