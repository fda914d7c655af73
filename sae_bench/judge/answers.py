"""Reading what the judge wrote. Applied to completions from the cache, so that a better reader costs nothing.

What is not plainly an answer is missing: a number that was guessed from unclear words looks like any other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sae_bench.judge.lenient import LONGEST, values
from sae_bench.judge.refusals import REFUSED, Refused, is_refusal
from sae_bench.judge.thoughts import spoken
from sae_bench.judge.words import leaves

LONGEST_EXPLANATION = 2000  # characters; a few dozen words were asked for
Counts = Literal["percent", "unit", "unclear"]

_NUMBER = re.compile(r"\s*([-+]?\d{1,9}(?:\.\d{1,30})?)\s*(%|percent|per cent|pct|/\s*100|out of 100)?\s*\.?\s*", re.I)
_VERDICTS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_LABEL = re.compile(r"^[ \t*#\[]*explanation[ \t*\]]*:[\s*]*(\S.*)", re.IGNORECASE | re.DOTALL | re.MULTILINE)
_PLACEHOLDERS = {"", "string", "str", "text", "explanation", "your explanation", "your explanation here", "description"}
_PLACEHOLDERS |= {
    "the explanation",
    "explanation here",
    "insert explanation here",
    "n/a",
    "na",
    "none",
    "null",
    "unknown",
}
_PLACEHOLDERS |= {"nan", "undefined", "empty", "tbd", "todo", "placeholder", "lorem ipsum", "answer", "your answer"}
_FRAME = " \t\n\"'“”‘’`*_.…<>[](){}-–—:"  # marks around a placeholder


@dataclass(frozen=True)
class Ratings:
    """The numbers of one reply, as the judge wrote them.

    Attributes:
        numbers: by id; a plain "yes" is 1, a plain "no" 0.
        counts: ``percent`` where a number is above 1 or has a percent sign; ``unit``, a scale of 0 to 1, where none is
            and one lies between 0 and 1 or says yes or no; ``unclear`` where there are only 0 and 1.
        outside: how many of our ids have a number below 0 or above 100, which is no answer on any scale.
    """

    numbers: Mapping[str, float]
    counts: Counts
    outside: int = 0


@dataclass(frozen=True)
class _Said:
    """One number. ``sign``: it stands for percent by itself. ``verdict``: it is a yes or a no."""

    number: float
    sign: bool = False
    verdict: bool = False


def read_json(text: str) -> dict[str, Any] | None:
    """The last JSON object in ``text``, or None; prose, code fences and thoughts around it are passed over.

    Forgives what models do to JSON (see ``lenient.py``). Of an object that is cut off it gives what is complete.
    """
    return next(iter(_objects(text)), None)


def read_answers(text: str, ids: Sequence[str]) -> Ratings | Refused | None:
    """What the judge says of ``ids``, in numbers as it wrote them; REFUSED for a refusal, None without any answer.

    Expects ``{"answers": [{"id": "kq", "p": 85}, ...]}``. Also reads a bare list of such entries, an entry a line, and
    ``{"kq": 85, ...}``. Numbers may be texts ("85", "85%", "85 out of 100", "0.85") and ids in other capitals. Unknown
    ids are passed over. Left out are numbers below 0 or above 100, words, an id with two different numbers, and yes
    and no beside percentages.
    """
    known = _known(ids)
    found: dict[str, set[_Said | None]] = {}
    for name, value in _entries(text, known):
        if (wanted := known.get(_plain(name))) is not None:
            found.setdefault(wanted, set()).add(_said(value))
    given = {name: said for name, all_said in found.items() if (said := _agreed(all_said)) is not None}
    outside = {name for name, said in given.items() if not 0 <= said.number <= 100}
    clear = {name: given[name] for name in ids if name in given and name not in outside}
    counts = _counts(given.values())
    if counts == "percent":
        clear = {name: said for name, said in clear.items() if not said.verdict}
    if clear:
        return Ratings({name: said.number for name, said in clear.items()}, counts, len(outside))
    return REFUSED if refuses(text) else None


def read_explanation(text: str) -> str | Refused | None:
    """The explanation in ``{"explanation": "..."}``, or after the label ``Explanation:``.

    REFUSED for a refusal, wherever it stands; None where there is no explanation: free text without a label, a
    placeholder ("...", "string"), more than 2000 characters. White space is made plain.
    """
    named = ({name.strip().lower(): value for name, value in found.items()} for found in _objects(text))
    given = next((found["explanation"] for found in named if "explanation" in found), None)
    if given is None and "{" not in text and (label := _LABEL.search(_spoken(text))):
        given = label.group(1).split("\n\n")[0].strip("* \n")
    plain = " ".join(given.encode("utf-8", "replace").decode().split()) if isinstance(given, str) else ""
    if is_refusal(plain):
        return REFUSED
    if plain.strip(_FRAME).casefold() in _PLACEHOLDERS or len(plain) > LONGEST_EXPLANATION:
        return REFUSED if refuses(text) else None
    return plain


def refuses(text: str) -> bool:
    """Whether a reply that holds no answer is a refusal: in plain words, or anywhere in its JSON."""
    objects = list(_objects(text))
    if any(_flagged(found) for found in objects):
        return True
    said = _spoken(text)
    return is_refusal(said) or any(is_refusal(leaf) for found in objects for leaf in leaves(found))


def _flagged(found: dict[str, Any]) -> bool:
    """Whether an object has a field that is there for refusals, and says something."""
    named = {name.lower(): value for name, value in found.items()}
    said = [named.get(name) for name in ("refusal", "refused", "refuse")]
    return any(value is True or (isinstance(value, str) and _filled(value)) for value in said)


def _filled(text: str) -> bool:
    plain = text.strip(_FRAME).casefold()
    return plain in ("true", "yes") or plain not in _PLACEHOLDERS | set(_VERDICTS)


def _spoken(text: str) -> str:
    """``text`` without the thoughts that some models write before it."""
    return spoken(text[:LONGEST]).text


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


def _said(value: Any) -> _Said | None:
    """A finite number, as such or as a text, or a plain yes or no; None for anything else."""
    if isinstance(value, bool):
        return _Said(float(value), verdict=True)
    if isinstance(value, str):
        if (verdict := _VERDICTS.get(value.strip(" .!").lower())) is not None:
            return _Said(verdict, verdict=True)
        match = _NUMBER.fullmatch(value)
        return None if match is None else _Said(float(match.group(1)), sign=match.group(2) is not None)
    if not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return _Said(number) if math.isfinite(number) else None


def _agreed(said: set[_Said | None]) -> _Said | None:
    """What an id is given, None where that is unclear or differs."""
    numbers = {one.number for one in said if one is not None}
    if None in said or len(numbers) != 1:
        return None
    there = [one for one in said if one is not None]
    return _Said(numbers.pop(), any(one.sign for one in there), all(one.verdict for one in there))


def _counts(said: Iterable[_Said]) -> Counts:
    """What the numbers of one reply count in, as far as they tell."""
    all_said = list(said)
    if any(one.sign or one.number > 1 for one in all_said):
        return "percent"
    return "unit" if any(one.verdict or 0 < one.number < 1 for one in all_said) else "unclear"
