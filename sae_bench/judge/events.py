"""A reply that comes as a stream of server-sent events, although none was asked for: its parts joined.

They must be joined before anything of them is kept: each alone may hold a part of the key that nobody recognises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_BEGINS = ("data:", "event:", "id:", ":")


def is_stream(text: str) -> bool:
    """Whether this is a stream of events rather than JSON or a page."""
    return text.lstrip("\ufeff \r\n").startswith(_BEGINS)


def joined(text: str) -> dict[str, Any] | None:
    """The completion (or error) that the events add up to; None if they end before the choice does."""
    whole: dict[str, Any] = {}
    said: dict[str, str] = {}
    finish = None
    for chunk in _chunks(text):
        if chunk.get("error"):
            return chunk
        whole |= {name: chunk[name] for name in ("id", "model", "system_fingerprint", "usage") if chunk.get(name)}
        choices = chunk.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict) or first.get("index", 0) != 0:
            continue
        finish = first.get("finish_reason") or finish
        part = first.get("delta") or first.get("message")
        for name, piece in part.items() if isinstance(part, dict) else ():
            if isinstance(piece, str) and name != "role":
                said[name] = said.get(name, "") + piece
    if finish is None:
        return None
    message = {"role": "assistant", "content": None} | said
    return whole | {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def _chunks(text: str) -> Iterator[dict[str, Any]]:
    """The objects in the data of the events; others are passed over."""
    for line in text.split("\n"):
        if line.startswith("data:"):
            try:
                chunk = json.loads(line.removeprefix("data:"))
            except (ValueError, RecursionError):
                continue
            if isinstance(chunk, dict):
                yield chunk
