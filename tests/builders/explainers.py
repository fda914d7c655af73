"""Judges that explain and score by rule."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.builders.judge_server import Messages, Oracle

TASK = "autointerp"


HELLO, EXPLAIN, DETECT, FUZZ, INTRUDER = "hello", "explain", "detect", "fuzz", "intruder"


def kind_of(messages: Messages) -> str:
    words = messages[0]["content"]
    if len(messages) == 1:
        return HELLO
    if "at most 30 words" in words:
        return EXPLAIN
    if "does not belong" in words:
        return INTRUDER
    return FUZZ if "stand between << and >>. In some" in words else DETECT


def description(messages: Messages) -> str:
    found = re.search(r"<description>\n(.*)\n</description>", messages[0]["content"])
    assert found is not None
    return found.group(1)


def excerpts(messages: Messages) -> list[tuple[str, str]]:
    """(id, text) of the excerpts that the judge is asked about."""
    return re.findall(r"^\[([a-z]{2})\] (.*)$", messages[1]["content"], re.MULTILINE)


def learned(messages: Messages) -> str:
    """What the marked tokens have in common: tokens that are never unmarked, or which tokens come before them."""
    marked, unmarked = set(), set()
    for line in messages[1]["content"].splitlines():
        before = "-"
        text = re.sub(r"^\d+\. ", "", line)
        for mark, plain in re.findall(r"<< ?(\d+)>>\(\d\)|(\d+)", text) if re.search(r"\d", text) else ():
            (marked if mark else unmarked).add((before, mark or plain))
            before = mark or plain
    alone = {token for _, token in marked} - {token for _, token in unmarked}
    pairs = {f"{before}>{token}" for before, token in marked if token not in alone}
    return "fires on " + " ".join(sorted(alone) + sorted(pairs))


def fits(rule: str, text: str) -> bool:
    tokens = text.split()
    items = set(rule.removeprefix("fires on ").split()) if rule else set()
    pairs = zip(["-", *tokens], tokens, strict=False)
    return bool(items & set(tokens)) or any(f"{a}>{b}" in items for a, b in pairs)


def explained(messages: Messages) -> str:
    if kind_of(messages) == HELLO:
        return "ready"
    return json.dumps({"explanation": learned(messages)})


def truth(messages: Messages) -> list[tuple[str, bool]] | None:
    """What an explanation says of each excerpt; None for a prompt that asks for no verdicts."""
    if kind_of(messages) not in (DETECT, FUZZ):
        return None
    rule = description(messages)
    if kind_of(messages) == DETECT:
        return [(name, fits(rule, text)) for name, text in excerpts(messages)]
    return [(name, marked_rightly(rule, text)) for name, text in excerpts(messages)]


def marked_rightly(rule: str, text: str) -> bool:
    """Whether a marked token is one that the rule names."""
    found = re.findall(r"<< ?(\d+)>>|(\d+)", text)
    tokens = [mark or plain for mark, plain in found]
    items = set(rule.removeprefix("fires on ").split())
    before = ["-", *tokens]
    return any(
        mark and (token in items or f"{before[i]}>{token}" in items)
        for i, ((mark, _), token) in enumerate(zip(found, tokens, strict=True))
    )


def oracle(accuracy: float = 1.0, **rates: Any) -> Oracle:
    return Oracle(truth, accuracy, explain=explained, **rates)
