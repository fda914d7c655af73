"""What somebody else has checked of a result: a small file beside it, which ends in ``.verified``.

It holds the digest of the result and of its units, so it says nothing of a result that was changed afterwards.
"""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from sae_bench.errors import ResultError
from sae_bench.files import KIB, read_text, sha256, strict_json, write_atomically
from sae_bench.parsing import first_problem
from sae_bench.results import store, unit_files
from sae_bench.schema import Record

State = Literal["reported", "recomputed", "re-run"]
_MOST = 64 * KIB  # bytes
STATES: tuple[State, ...] = ("reported", "recomputed", "re-run")  # from the least to the most checked


class Verification(Record):
    """How far a result was checked (recomputed: its figures from its units; re-run: rows too), by whom and when."""

    state: State
    by: str
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    sha256: str


def path_of(result: Path) -> Path:
    """The file beside a result that says how far it was checked."""
    return result.with_suffix(".verified")


def digest(result: Path) -> str:
    """Of a result file and its units, those that it shares included. Raises ResultError where some are missing."""
    return sha256(result, *unit_files.all_of(result))


def record(result: Path, state: State, by: str) -> Path:
    """Write that the result was checked today. Raises ResultError."""
    made = Verification(state=state, by=by, date=date.today().isoformat(), sha256=digest(result))
    write_atomically(path_of(result), store.to_json(made.model_dump()))
    return path_of(result)


def state_of(result: Path) -> tuple[State, str | None]:
    """How far a result was checked, and why a file that says so does not count; "reported" without one."""
    file = path_of(result)
    if not os.path.lexists(file):
        return "reported", None
    try:
        found = Verification.model_validate(strict_json(read_text(file, most=_MOST)))
    except ResultError as error:
        return "reported", f"{error}; its result counts as reported"
    except ValidationError as error:
        field, message = first_problem(error)
        return "reported", f"{file}: {field!r}: {message}; its result counts as reported"
    except (ValueError, RecursionError) as error:
        return "reported", f"{file} is not valid JSON ({error}); its result counts as reported"
    try:
        same = found.sha256 == digest(result)
    except ResultError as error:
        return "reported", f"{error}; its result counts as reported"
    if not same:
        return (
            "reported",
            f"{file}: 'sha256' is of another content, so its result was changed; it counts as reported",
        )
    return found.state, None
