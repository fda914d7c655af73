"""A cache as JSON lines, for others: every reply beside the request whose digest is its key, and no key of an account.

The first line says what the file is; then a line for each judge (who answered last, and what its endpoint takes), and
one for each complete reply. Whoever imports it can see that a reply belongs to its request, and must trust whoever
wrote it that the judge has said so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sae_bench.files import lines, opened, strict_json, write_atomically
from sae_bench.judge.abilities import Abilities
from sae_bench.judge.cache import Cache, Known, Row
from sae_bench.judge.errors import JudgeError
from sae_bench.judge.records import STORED_CHARACTERS, Completion, canonical
from sae_bench.judge.secrets import NO_KEY, Scrubber
from sae_bench.judge.served import Served

HEAD = "sae_bench_judge_replay"
VERSION = 1
_LONGEST_LINE = 16 << 20  # bytes of a request with its reply

_Name = Field(default=None, max_length=300)
_Count = Field(default=None, ge=0, lt=2**40)


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Who(_Line):
    model: str | None = _Name
    fingerprint: str | None = _Name
    provider: str | None = _Name


class _Judge(_Line):
    endpoint: str = Field(max_length=4096)
    asked: str = Field(max_length=4096)
    served: _Who
    takes: dict[str, Any]
    said: str = Field(max_length=STORED_CHARACTERS)


class _Reply(_Line):
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    request: dict[str, Any]
    served: _Who
    text: str = Field(max_length=STORED_CHARACTERS)
    finish_reason: str | None = _Name
    format: str | None = _Name
    prompt_tokens: int | None = _Count
    completion_tokens: int | None = _Count
    reasoning_tokens: int | None = _Count


def write(cache: Cache, path: Path, model: str | None = None) -> int:
    """Write all complete replies of ``cache``, or those that ``model`` was asked for; returns how many.

    Raises ResultError for a file that cannot be written, JudgeError for a cache that cannot be read.
    """
    made = [json.dumps({HEAD: VERSION})]
    for endpoint, asked, known in cache.judges():
        if model in (None, asked):
            judge = {"endpoint": endpoint, "asked": asked, "served": vars(known.served)}
            made.append(canonical({"judge": judge | {"takes": known.takes, "said": known.said}}))
    replies = [canonical(_written(row)) for row in cache.rows() if model in (None, _asked(row))]
    write_atomically(path, "".join(line + "\n" for line in [*made, *replies]).encode())
    return len(replies)


def is_replay(path: Path) -> bool:
    """Whether a file begins as :func:`write` does. Raises JudgeError for what is no file that can be read."""
    try:
        with opened(path, JudgeError) as stream:
            return stream.read(len(HEAD) + 8).lstrip().startswith(f'{{"{HEAD}"'.encode())
    except OSError as error:
        raise JudgeError(f"{path} cannot be read: {error.strerror or error}") from error


def read(path: Path, scrub: Scrubber = NO_KEY) -> tuple[list[Row], list[tuple[str, str, Known]]]:
    """The replies and the judges of a file, free of the key. Raises JudgeError with the number of a malformed line."""
    rows: list[Row] = []
    judges: list[tuple[str, str, Known]] = []
    for number, content in _lines(path):
        where = f"{path}, line {number}"
        if number == 1:
            if content != {HEAD: VERSION}:
                raise JudgeError(
                    f"{where}: this sae-bench reads version {VERSION} of a replay, and it is not; nothing was kept"
                )
        elif set(content) == {"judge"}:
            judges.append(_judge(content["judge"], where, scrub))
        else:
            rows.append(_row(content, where, scrub))
    return rows, judges


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with opened(path, JudgeError) as stream:
            for number, line in enumerate(lines(stream, path, JudgeError, _LONGEST_LINE), start=1):
                if line.strip():
                    yield number, _object(line, f"{path}, line {number}")
    except OSError as error:
        raise JudgeError(f"{path} cannot be read: {error.strerror or error}") from error


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = strict_json(line)
    except (ValueError, RecursionError) as error:
        raise JudgeError(
            f"{where} is not JSON ({error}), as in a file that was cut off; nothing was kept: give an exported file"
        ) from error
    if not isinstance(content, dict):
        raise JudgeError(f"{where} is no object; nothing was kept: give an exported file")
    return content


def _judge(content: Any, where: str, scrub: Scrubber) -> tuple[str, str, Known]:
    try:
        it = _Judge.model_validate(content)
        _ = Abilities(**it.takes).words
    except (ValidationError, TypeError, ValueError, AttributeError) as error:
        raise JudgeError(f"{where} is no judge of a replay ({_first(error)}); nothing was kept") from error
    return it.endpoint, it.asked, Known(Served(**it.served.model_dump()), it.takes, scrub.text(it.said))


def _row(content: Any, where: str, scrub: Scrubber) -> Row:
    try:
        it = _Reply.model_validate(content)
        request = canonical(it.request)
    except (ValidationError, TypeError, ValueError) as error:
        raise JudgeError(f"{where} is no reply of a replay ({_first(error)}); nothing was kept") from error
    if hashlib.sha256(request.encode()).hexdigest() != it.key:
        raise JudgeError(f"{where}: the key is not the digest of the request, so it answers another; nothing was kept")
    who = Served(**it.served.model_dump())
    if not all(_is_name(it.request.get(name)) for name in ("endpoint", "model")):
        raise JudgeError(f"{where}: the request names no endpoint and model, so nobody asks it; nothing was kept")
    completion = Completion(
        "ok",
        it.text,
        it.finish_reason,
        who.model,
        who.fingerprint,
        it.prompt_tokens,
        it.completion_tokens,
        provider=who.provider,
        reasoning_tokens=it.reasoning_tokens,
    )
    return Row(it.key, scrub.record(completion), scrub.text(request), it.format, "import", served=who)


def _is_name(value: Any) -> bool:
    """Whether a value is a text that a database takes: no half of a character."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() == value


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        found = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
    return str(error)[:200]


def _asked(row: Row) -> Any:
    return strict_json(row.request)["model"] if row.request is not None else None


def _written(row: Row) -> dict[str, Any]:
    it = row.completion
    own = {"finish_reason": it.finish_reason, "format": row.format, "prompt_tokens": it.prompt_tokens}
    own |= {"completion_tokens": it.completion_tokens, "reasoning_tokens": it.reasoning_tokens}
    request = strict_json(row.request) if row.request is not None else None
    said = {name: value for name, value in own.items() if value is not None}
    return {"key": row.key, "request": request, "served": vars(row.served), "text": it.text} | said


def keep(cache: Cache, rows: Iterable[Row], judges: Iterable[tuple[str, str, Known]]) -> None:
    """Put what :func:`read` gave into a cache; complete replies that are there stay. Raises JudgeError."""
    cache.store(rows)
    for endpoint, asked, known in judges:
        cache.note(endpoint, asked, known)
