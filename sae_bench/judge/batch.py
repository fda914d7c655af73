"""Requests as a file for the batch interface of an endpoint, and its replies into the same cache."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_bench.files import lines, opened, strict_json, write_atomically
from sae_bench.judge.abilities import Abilities
from sae_bench.judge.cache import Row
from sae_bench.judge.errors import JudgeError
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.outcomes import classify
from sae_bench.judge.records import Request, body, canonical
from sae_bench.judge.secrets import NO_KEY, Scrubber
from sae_bench.judge.served import Served

LONGEST_LINE = 4 << 20  # characters of a reply, which may be escaped
MOST_LINES = 50_000  # of one file of the batch interface

_KEY = re.compile(r"[0-9a-f]{64}")


def write(
    requests: Mapping[str, Request], path: Path, options: JudgeOptions, takes: Abilities, cut: Collection[str] = ()
) -> None:
    """One JSON line a request, its key as ``custom_id``, in words that the endpoint takes; with room where it was cut.

    Raises JudgeError for too many, ResultError for the file.
    """
    if len(requests) > MOST_LINES:
        raise JudgeError(
            f"a batch holds at most {MOST_LINES} requests, but these are {len(requests)}; write them in several files"
        )
    takes = replace(takes, stream=False)  # a batch has no streams
    room = {key: takes.most_room for key in cut} if options.reply_tokens is None else {}
    made = (
        canonical(
            {
                "custom_id": key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": takes.prepare(body(request, options), room.get(key, 0)),
            }
        )
        for key, request in requests.items()
    )
    write_atomically(path, "".join(line + "\n" for line in made).encode())


def read(path: Path, scrub: Scrubber = NO_KEY) -> tuple[list[Row], int]:
    """The completions of a file of replies, free of the key, and how many of its requests failed.

    Raises JudgeError with the number of the first line that is no reply of a batch.
    """
    rows: list[Row] = []
    failed = 0
    try:
        with opened(path, JudgeError) as stream:
            for number, line in enumerate(lines(stream, path, JudgeError, LONGEST_LINE), start=1):
                if not line.strip():
                    continue
                row = _reply(line.decode("utf-8"), f"{path}, line {number}", scrub)
                failed += row is None
                rows.extend([] if row is None else [row])
    except OSError as error:
        raise JudgeError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise JudgeError(f"{path} is not text in UTF-8; give the output file of a batch") from error
    return rows, failed


def _reply(line: str, where: str, scrub: Scrubber) -> Row | None:
    """One reply, None where its request failed."""
    try:
        reply: Any = strict_json(line)
    except ValueError as error:
        raise JudgeError(f"{where} is not JSON; nothing was imported: give the output file of a batch") from error
    key = reply.get("custom_id") if isinstance(reply, dict) else None
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise JudgeError(
            f"{where} has no custom_id of 64 hexadecimal digits, as an exported batch has; nothing was imported"
        )
    response = reply.get("response")
    if response is None and reply.get("error"):
        return None
    status = response.get("status_code") if isinstance(response, dict) else None
    if not isinstance(response, dict) or not isinstance(status, int) or "body" not in response:
        raise JudgeError(f"{where} has neither a response with status_code and body nor an error; nothing was imported")
    completion = classify(status, {}, json.dumps(response["body"]), scrub).completion
    if completion is None:
        return None
    return Row(key, completion, source="batch", served=Served.of(completion))
