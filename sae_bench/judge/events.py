"""A reply that comes as a stream of server-sent events, although none was asked for: its parts joined.

They must be joined before anything of them is kept: each alone may hold a part of the key that nobody recognises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_BEGINS = ("data:", "event:", "id:", "retry:", ":")
_ABOUT = ("id", "model", "system_fingerprint", "provider", "usage")
_END = "[DONE]"


def is_stream(text: str) -> bool:
    """Whether this is a stream of events rather than JSON or a page."""
    return text.lstrip("\ufeff \r\n").startswith(_BEGINS)


def joined(text: str) -> dict[str, Any] | None:
    """The completion (or error) that the events add up to; None if they end before the choice does, or one is broken.

    Texts of one name are put together, parts of content and calls of tools too. A whole message, which some servers
    send last, stands for all pieces before it.
    """
    whole: dict[str, Any] = {}
    said: dict[str, Any] = {}
    finish = None
    for chunk in _chunks(text):
        if chunk is None:  # a piece of the text is lost
            return None
        if chunk.get("error"):
            return chunk
        whole |= {name: chunk[name] for name in _ABOUT if chunk.get(name)}
        choices = chunk.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict) or first.get("index", 0) != 0:
            continue
        finish = first.get("finish_reason") or finish
        part, message = first.get("delta"), first.get("message")
        if isinstance(message, dict):
            said |= {name: value for name, value in message.items() if value}
        elif isinstance(part, dict):
            for name, piece in part.items():
                said[name] = _added(name, said.get(name), piece)
    if finish is None and not (said and _is_over(text)):
        return None
    message = {"content": None} | said | {"role": "assistant"}
    return whole | {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def _added(name: str, before: Any, piece: Any) -> Any:
    """What came under this name until now, with one more piece."""
    if piece is None or piece == "":
        return before
    if name == "function_call" and isinstance(piece, dict):
        return _call(before, piece)
    if name == "tool_calls" and isinstance(piece, list):
        return _calls(before if isinstance(before, list) else [], piece)
    if isinstance(piece, str) and isinstance(before, str | None):
        return (before or "") + piece
    if name == "content" and isinstance(piece, str | list):
        return _parts([*_as_parts(before), *_as_parts(piece)])
    if isinstance(piece, list):
        return [*before, *piece] if isinstance(before, list) else piece
    return piece


def _as_parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return content if isinstance(content, list) else []


def _parts(parts: list[Any]) -> list[Any]:
    """Parts of content, those that follow one another and hold a text as one."""
    found: list[Any] = []
    for part in parts:
        if found and _is_text(found[-1]) and _is_text(part) and _kind(found[-1]) == _kind(part):
            found[-1] = found[-1] | {"text": found[-1]["text"] + part["text"]}
        else:
            found.append(part)
    return found


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _kind(part: dict[str, Any]) -> Any:
    return part.get("type", "text")


def _calls(before: list[Any], pieces: list[Any]) -> list[Any]:
    """Calls of tools: a piece goes to the call of its ``index``, or with the same ``id``, or to the last one."""
    found = list(before)
    for piece in pieces:
        if not isinstance(piece, dict):
            continue
        place = _place(found, piece)
        if place == len(found):
            found.append({name: value for name, value in piece.items() if name != "function"})
        found[place] = found[place] | {"function": _call(found[place].get("function"), piece.get("function"))}
    return found


def _place(found: list[Any], piece: dict[str, Any]) -> int:
    for name in ("index", "id"):
        if piece.get(name) is not None:
            return next((i for i, call in enumerate(found) if call.get(name) == piece[name]), len(found))
    return max(0, len(found) - 1)


def _call(before: Any, piece: Any) -> dict[str, Any]:
    """A function that is called, its arguments put together."""
    old, new = (value if isinstance(value, dict) else {} for value in (before, piece))
    first, more = old.get("arguments"), new.get("arguments")
    arguments = (first or "") + (more or "") if isinstance(first, str | None) and isinstance(more, str | None) else more
    return old | {name: value for name, value in new.items() if value} | {"arguments": arguments}


def _is_over(text: str) -> bool:
    """Whether the last event says that it is."""
    return text.rstrip().endswith(_END)


def _chunks(text: str) -> Iterator[dict[str, Any] | None]:
    """The objects in the data of the events, None for one that is broken; what is no object is passed over."""
    data: list[str] = []  # of one event, while its lines do not make up an object
    for line in [*text.split("\n"), ""]:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").strip())
            chunk = next((found for form in (data[-1], "\n".join(data)) if (found := _object(form))), None)
            if chunk is not None:
                data = []
                yield chunk
        elif data and not line.strip():
            if any(part.startswith("{") for part in data):
                yield None
            data = []


def _object(text: str) -> dict[str, Any] | None:
    """The object that a text is, None where it is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
