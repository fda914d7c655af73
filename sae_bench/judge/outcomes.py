"""What an HTTP reply means: a completion, a reason to wait, a reason to try again, or a reason to stop."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from sae_bench.judge import events
from sae_bench.judge.echo import NO_ECHO, Echo
from sae_bench.judge.records import Completion
from sae_bench.judge.replies import completion
from sae_bench.judge.secrets import MARK, NO_KEY, Scrubber
from sae_bench.judge.words import short, storable

Kind = Literal["completion", "rate_limit", "quota", "transient", "fatal", "adapted", "short"]

_QUOTA = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_FILTERED = ("content_filter", "content_policy", "responsibleaipolicy", "moderation", "flagged")
_LONG = re.compile(
    r"per.?(day|week|month)|by(day|month)\b|\b(daily|weekly|monthly)\b|\b[rt]pd\b|/ ?(day|month)\b|per 86400"
    r"|\b24[ -]?(h|hrs?|hours?)\b"
)
_WAIT = re.compile(
    r"(?:try again|retry|wait)(?: (?:in|after|for))? (?:(\d+)h ?)?(?:(\d+)m(?!s) ?)?"
    r"(?:(\d+(?:\.\d+)?) ?(ms|s\b|sec\w*))?|retrydelay\W{1,6}(\d+(?:\.\d+)?)s"
)
REDIRECT = "x-redirect"  # the header in which ``wire.py`` hands on where a redirect points
_READ = 8192  # characters of an error in which something is looked for


@dataclass(frozen=True)
class Outcome:
    """What one try came to.

    Attributes:
        kind: ``completion``; ``rate_limit`` and ``transient``, which another try may mend; ``fatal``, which none does;
            ``quota``, where a limit per day or month is used up; ``adapted``, where the next try is in other words, and
            ``short``, where it may be longer.
        completion: the completion, where there is one.
        reason: in words, short and printable.
        status: HTTP status, 0 where no reply came.
        wait: seconds that the endpoint asks to wait, or None.
        billed: the try may have been billed, although no completion came of it.
        quota: the account has no credit left.
        foreign: nothing answered, or something that does not speak the protocol.
        cure: what to do about it, where the reason alone does not say.
        words: what the endpoint says of a request that it refuses, in small letters.
    """

    kind: Kind
    completion: Completion | None = None
    reason: str = ""
    status: int = 0
    wait: float | None = None
    billed: bool = False
    quota: bool = False
    foreign: bool = False
    cure: str | None = None
    words: str = ""


def classify(
    status: int, headers: Mapping[str, str], text: str, scrub: Scrubber = NO_KEY, echo: Echo = NO_ECHO
) -> Outcome:
    """The meaning of a reply with HTTP ``status`` and body ``text``, which ``scrub`` frees of the key.

    What an error repeats of the request, as ``echo`` knows it, is no word of the endpoint.
    """
    text = scrub.text(text)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if content is None and events.is_stream(text):
        if (content := events.joined(text)) is None:  # its parts are not shown: each may hold a part of the key
            return Outcome("transient", reason="a stream of events that is not whole", status=status, billed=True)
        text = scrub.text(json.dumps(content, ensure_ascii=False))
    try:
        content = scrub.value(content)
        if scrub.scattered(content):  # of what holds it in pieces nothing is kept, and of an error nothing is said
            text, content = MARK, content if isinstance(content, dict) and content.get("choices") else None
    except RecursionError:
        content = None
    found = _classified(status, headers, content, text, echo)
    if found.completion is None:
        return found
    return replace(found, completion=scrub.record(found.completion))  # its parts may make up the key when joined


def _classified(status: int, headers: Mapping[str, str], content: Any, text: str, echo: Echo) -> Outcome:
    if not 200 <= status < 300:
        return _failure(status, headers, content, text, echo)
    if not isinstance(content, dict):
        return Outcome(
            "transient", reason=f"not JSON: {short(text) or 'nothing'}", status=status, billed=True, foreign=True
        )
    choices = content.get("choices")
    if not choices and content.get("error"):
        inner = _code(content["error"])
        return _failure(inner if inner is not None and 400 <= inner < 600 else 500, headers, content, text, echo)
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict) or not isinstance(first.get("message"), dict):
        return Outcome("transient", reason=f"a reply without choices: {short(text)}", status=status, billed=True)
    if first.get("finish_reason") == "error" or first.get("error"):
        return Outcome("transient", reason=f"the model failed: {short(text)}", status=status, billed=True)
    return Outcome("completion", completion(content, first, text), status=status)


def _failure(status: int, headers: Mapping[str, str], content: Any, whole: str, echo: Echo) -> Outcome:
    reason = short(_error(content)[1] or whole) or f"status {status}"
    text, content = echo.without(whole[:_READ]), echo.value(content)
    codes, message = _error(content)
    words = f"{codes} {message} {_beside(content, text)}".lower()
    if status == 402 or (status in (403, 429) and not _QUOTA.isdisjoint(codes.lower().split())):
        return Outcome("fatal", reason=reason, status=status, quota=True)
    if status == 429 and _LONG.search(f"{text} {words}".lower()):
        return Outcome("quota", reason=reason, status=status)
    if status == 429:
        return Outcome("rate_limit", reason=reason, status=status, wait=_wait(headers, text))
    if status in (408, 409) or status >= 500:
        return Outcome("transient", reason=reason, status=status, wait=_wait(headers, text), words=words)
    if status in (400, 403, 422) and any(word in words for word in _FILTERED):
        filtered = Completion("refused", finish_reason="content_filter", raw=storable(whole), reason=reason)
        return Outcome("completion", filtered, status=status)
    if 300 <= status < 400:
        reason = f"a redirect to {headers.get(REDIRECT, 'nowhere')}"
    return Outcome("fatal", reason=reason, status=status, words=words)


def _error(content: Any) -> tuple[str, str]:
    """Codes and message of an error object, in the shapes that endpoints give it."""
    content = content[0] if isinstance(content, list) and content else content
    if not isinstance(content, dict):
        return "", ""
    error = content.get("error") or content.get("detail") or content
    if isinstance(error, str):
        return "", error
    if not isinstance(error, dict):
        return "", json.dumps(error)[:_READ]
    codes = " ".join(str(error[name]) for name in ("code", "type", "param") if error.get(name))
    message = error.get("message")
    return codes, message if isinstance(message, str) and message else json.dumps(error)


def _beside(content: Any, text: str) -> str:
    """What else an error says: a text without form, or fields beside the message (of the endpoint behind this one)."""
    if not isinstance(content, dict):
        return text[:_READ]
    error = content.get("error")
    rest = {name: value for name, value in error.items() if name != "message"} if isinstance(error, dict) else {}
    return json.dumps(rest, ensure_ascii=False)[:_READ]


def _code(error: Any) -> int | None:
    """The HTTP status inside an error object, where it has one."""
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and not isinstance(code, bool) else None


def _wait(headers: Mapping[str, str], text: str) -> float | None:
    """Seconds to wait from the headers, else from what the message says in words."""
    if (asked := retry_after(headers)) is not None:
        return asked
    found = _WAIT.search(text[:_READ].lower())
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds, unit, delay = found.groups()
    scale = 1e-3 if unit == "ms" else 1.0
    return 3600.0 * int(hours or 0) + 60.0 * int(minutes or 0) + scale * float(seconds or 0) + float(delay or 0)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait from ``retry-after-ms`` or ``retry-after`` (seconds or a date); None where there is neither."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if math.isfinite(seconds):
            return max(0.0, seconds)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    aware = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())
