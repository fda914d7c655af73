"""Where in a reply the text is, and whether it is complete: text, parts, tool calls, or what a server took for thought.

Thoughts are taken out of it. A server may call a reply complete that ends inside its JSON, and cut off one that only
pads its JSON with white space: what stands there decides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sae_bench.judge.lenient import is_cut, is_whole
from sae_bench.judge.records import STORED_CHARACTERS, Completion, Status
from sae_bench.judge.thoughts import Spoken, spoken
from sae_bench.judge.words import leaves, short, storable

_FILTERED = {"content_filter", "content_filtered", "safety", "refusal", "sensitive", "guardrail_intervened"}
_FILTERED |= {"prohibited_content", "blocklist", "recitation", "spii", "moderation"}
_LIMIT = {"length", "max_tokens", "max_length", "max_output_tokens", "model_length", "model_context_window_exceeded"}
_STOPPED = {"abort", "aborted", "cancelled", "canceled", "interrupted", "insufficient_system_resource", "timeout"}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")  # fields beside the text
_NO_TEXT = {"type", "id", "signature", "format"}  # fields of a part that say nothing


@dataclass(frozen=True)
class _Message:
    """What a message says: text without thoughts, characters of thoughts, words of a refusal."""

    said: Spoken
    thought: int
    refusal: str | None


def completion(content: dict[str, Any], choice: dict[str, Any], text: str) -> Completion:
    """What the first choice of a reply comes to; ``text`` is the reply as it came."""
    finish = name(choice.get("finish_reason"))
    plain = (finish or "").lower()
    found = _message(choice["message"], cut=plain in _LIMIT | _STOPPED)
    status, reason = _status(found, plain)
    answer = found.said.text or found.refusal or ""
    usage = content.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    tokens_out = count(counts.get("completion_tokens"))
    return Completion(
        status,
        storable(answer),
        finish,
        name(content.get("model")),
        name(content.get("system_fingerprint")),
        count(counts.get("prompt_tokens")),
        tokens_out,
        raw=storable(text),
        reason=reason,
        provider=name(content.get("provider")),
        reasoning_tokens=_reasoning_tokens(counts, tokens_out, found),
    )


def name(value: Any) -> str | None:
    """A name that an endpoint gives, on one line; None where it gives none."""
    return short(value) if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """A number of tokens, None for what can be none."""
    fine = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
    return value if fine else None


def _status(found: _Message, finish: str) -> tuple[Status, str | None]:
    said = found.said
    if found.refusal is not None:
        return "refused", "the model refused"
    if finish in _FILTERED:
        return "refused", "stopped by a content filter"
    if said.open:
        return "truncated", "ends inside a thought"
    if len(said.text) > STORED_CHARACTERS:
        return "truncated", f"cut after {STORED_CHARACTERS} characters"
    if finish in _LIMIT | _STOPPED and not is_whole(said.text):
        return "truncated", "stopped at the length limit" if finish in _LIMIT else f"stopped early ({finish})"
    if is_cut(said.text):
        return "truncated", "ends inside its JSON"
    return "ok", None


def _message(message: dict[str, Any], cut: bool) -> _Message:
    texts, refusals, thoughts = _parts(message.get("content"))
    aloud = spoken("".join(texts))
    beside = [value for field in _THOUGHTS if isinstance(value := message.get(field), str)]
    thought = aloud.thought + sum(map(len, thoughts)) + max(map(len, beside), default=0)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        refusals.append(refusal)
    if not aloud.text.strip() and not aloud.open and not refusals:
        called = "\n".join(_calls(message))
        astray = None if called or cut else next(filter(None, map(_astray, beside)), None)
        if called or astray:
            thought -= 0 if astray is None else len(astray)
            aloud = Spoken(called or astray or "")
    return _Message(Spoken(_unwrapped(aloud.text), aloud.thought, aloud.open), thought, "\n".join(refusals) or None)


def _parts(content: Any) -> tuple[list[str], list[str], list[str]]:
    """Texts, refusals and thoughts of the content of a message: a text, a list of parts, or JSON as it stands."""
    if isinstance(content, str):
        return [content], [], []
    if isinstance(content, dict):
        content = [content] if "type" in content or "text" in content else json.dumps(content, ensure_ascii=False)
        return _parts(content)
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            kind = part.get("type", "text")
            if kind == "refusal":
                refusals += [text for text in (part.get("refusal"), part.get("text")) if isinstance(text, str) and text]
            elif kind in ("text", "output_text"):
                texts += _texts(part.get("text"))
            else:
                thoughts += leaves(part, _NO_TEXT)
    return texts, refusals, thoughts


def _texts(value: Any) -> list[str]:
    """A text, also as ``{"value": ...}``."""
    value = value.get("value") if isinstance(value, dict) else value
    return [value] if isinstance(value, str) else []


def _calls(message: dict[str, Any]) -> Iterator[str]:
    """The arguments of calls of tools: where some servers put JSON of a given form."""
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    for function in [*functions, message.get("function_call")]:
        given = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(given, dict) and given:
            yield json.dumps(given, ensure_ascii=False)
        elif isinstance(given, str) and given.strip():
            yield _unwrapped(given)


def _astray(thought: str) -> str | None:
    """An answer in the place of a thought, as of a server that was told wrongly how its model thinks.

    Only what is JSON and nothing else: JSON with words around it is a draft.
    """
    text = spoken(thought).text.strip()
    bare = text.removeprefix("```json").strip("`").strip()
    try:
        return text if isinstance(json.loads(bare), dict | list) else None
    except (ValueError, RecursionError):
        return None


def _unwrapped(text: str) -> str:
    """JSON inside a text of JSON, as some servers write it twice."""
    bare = text.strip()
    if bare.startswith('"{') and bare.endswith('}"'):
        try:
            inner = json.loads(bare)
        except (ValueError, RecursionError):
            return text
        return inner if isinstance(inner, str) else text
    return text


def _reasoning_tokens(counts: dict[str, Any], tokens_out: int | None, found: _Message) -> int | None:
    for holder in (counts.get("completion_tokens_details"), counts.get("output_tokens_details"), counts):
        if isinstance(holder, dict) and (given := count(holder.get("reasoning_tokens"))) is not None:
            return given
    if tokens_out is None or found.thought <= 0:
        return None
    return round(tokens_out * found.thought / (found.thought + len(found.said.text)))
