"""From a row of a data set to labelled texts, by the declarations of an entry."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_bench.data.labelled.encode import Unusable, keyed
from sae_bench.data.labelled.entries import Answers, Choices, HubSet, Threshold, Values
from sae_bench.data.sources import quoted

Row = Mapping[str, Any]
_FIELD = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Labelled:
    """A text with its label; texts of the same `group` belong in the same part."""

    text: str
    label: bool
    group: str


def labelled(entry: HubSet, row: Row) -> Iterator[Labelled]:
    """The examples of one row: none, one, or one with a correct and one with a wrong candidate.

    A row whose text or label is null, or whose label is none of those listed, gives none. Raises `Unusable` if a
    column is missing or of the wrong type.
    """
    rule = entry.label
    if isinstance(rule, Values | Threshold):
        label = _by_value(rule, row) if isinstance(rule, Values) else _by_threshold(rule, row)
        text = _filled(entry.text, row)
        if label is not None and text is not None:
            yield Labelled(text, label, text)
        return
    pair = _from_answers(rule, row) if isinstance(rule, Answers) else _from_choices(rule, row)
    if pair is None:
        return
    correct, wrong = pair
    # The question alone decides the part; where the text is nothing but the candidate, the correct one does.
    question = correct if entry.text.strip() == "{candidate}" else _filled(entry.text, row, "")
    texts = _filled(entry.text, row, correct), _filled(entry.text, row, wrong[_pick(question or "", wrong)])
    for text, label in zip(texts, (True, False), strict=True):
        if question is not None and text is not None:
            yield Labelled(text, label, question)


def _pick(question: str, wrong: Sequence[str]) -> int:
    return keyed("wrong candidate", question, *wrong) % len(wrong)


def _by_value(rule: Values, row: Row) -> bool | None:
    value = _value(row, rule.column)
    if value is None:
        return None
    return True if value in rule.positive else False if value in rule.negative else None


def _by_threshold(rule: Threshold, row: Row) -> bool | None:
    value = _value(row, rule.column)
    if value is None:
        return None
    if not isinstance(value, int | float):
        raise Unusable(f"the column {rule.column!r} must hold numbers, got {type(value).__name__}")
    return True if value >= rule.at_least else False if value < rule.below else None


def _from_answers(rule: Answers, row: Row) -> tuple[str, list[str]] | None:
    correct, wrong = (_candidates(row, columns) for columns in (rule.correct, rule.wrong))
    wrong = [text for text in wrong if text not in correct]
    return (correct[0], wrong) if correct and wrong else None


def _from_choices(rule: Choices, row: Row) -> tuple[str, list[str]] | None:
    names = (rule.choices,) if isinstance(rule.choices, str) else rule.choices
    choices = _candidates(row, names, keep_empty=True)
    answer = _value(row, rule.answer)
    if rule.keys is None:
        index = answer if isinstance(answer, int) and 0 <= answer < len(choices) else None
    else:
        keys = list(_value(row, rule.keys) or ()) if isinstance(rule.keys, str) else list(rule.keys)
        index = keys.index(answer) if answer in keys[: len(choices)] else None
    if index is None or not choices[index]:
        return None
    wrong = [text for text in choices if text and text != choices[index]]
    return (choices[index], wrong) if wrong else None


def _candidates(row: Row, columns: Sequence[str], keep_empty: bool = False) -> list[str]:
    """The texts of several columns, each of one text or a list of them."""
    present = [column for column in columns if _present(row, column)]
    if not present:
        _value(row, columns[0])  # raises, with the columns that there are
    found: list[str] = []
    for column in present:
        value = _value(row, column)
        for text in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(text, str | None):
                raise Unusable(f"the column {column!r} must hold texts, got {type(text).__name__}")
            found.append(text or "")
    return found if keep_empty else [text for text in found if text.strip()]


def _present(row: Row, column: str) -> bool:
    at: Any = row
    for name in column.split("."):
        if not isinstance(at, Mapping) or name not in at:
            return False
        at = at[name]
    return True


def _value(row: Row, column: str) -> Any:
    """What a column holds; dots go into nested ones."""
    at: Any = row
    for name in column.split("."):
        if at is None:
            return None
        if not isinstance(at, Mapping) or name not in at:
            found = quoted(at) if isinstance(at, Mapping) else type(at).__name__
            raise Unusable(f"the column {column!r} is missing (found: {found})")
        at = at[name]
    return at


def _filled(template: str, row: Row, candidate: str | None = None) -> str | None:
    """The template with the columns in it; None if one of them is null."""
    filled: dict[str, str] = {}
    for field in _FIELD.findall(template):
        value = candidate if field == "candidate" else _value(row, field)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Unusable(f"the column {field!r} must hold text, got {type(value).__name__}")
        filled[field] = value.strip()
    return _FIELD.sub(lambda match: filled[match[1]], template).strip()
