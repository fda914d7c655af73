"""What known truth says of each metric: ``tasks/validity.lock``, which decides who may be ranked by what.

``sae-bench validate`` measures SAEs of known quality and writes it; see :mod:`sae_bench.validity`. An entry counts only
for the definition that it was measured with, whose digest it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, FiniteFloat, TypeAdapter, ValidationError

from sae_bench.errors import TaskError
from sae_bench.files import write_atomically
from sae_bench.parsing import first_problem, read_toml
from sae_bench.schema import Record

FILE = "validity.lock"  # beside the folders of the tasks whose metrics it speaks of
HEADER = "# What known truth says of each metric. Made by: sae-bench validate. Nobody edits it by hand.\n"

Claims = Literal["features", "encoder", "decoder", "fidelity"]  # what a metric says that it measures


class InWorld(Record):
    """What one world says of a metric; numbers are rounded, and absent where they could not be had.

    ``features``, ``encoder``, ``decoder``: Spearman's correlation with that truth over the SAEs of the ladder, signed
    so that 1 is a metric that orders them as the truth does; the mean over draws, and ``spread`` the standard deviation
    over draws of that which is claimed. ``monotone``: the same over the checkpoints of one training alone. ``signal``:
    standard deviation over SAEs divided by that over draws, with its 95 % interval. ``coverage``: the share of 95 %
    intervals of 400 groups of documents that hold the truth, counted with the standard error ``coverage_error``;
    ``false_positives``: of null pairs that ``compare`` tells apart. ``blind``: SAEs that are worse than the perfect one
    and that the metric does not tell from it. ``beaten_by``: controls that are not worse than the trained SAE.
    ``fragile``: without which SAE or draw the verdict would be another one.
    """

    features: FiniteFloat | None = None
    encoder: FiniteFloat | None = None
    decoder: FiniteFloat | None = None
    spread: FiniteFloat | None = None
    monotone: FiniteFloat | None = None
    signal: FiniteFloat | None = None
    signal_low: FiniteFloat | None = None
    signal_high: FiniteFloat | None = None
    coverage: FiniteFloat | None = None
    coverage_error: FiniteFloat | None = None
    false_positives: FiniteFloat | None = None
    blind: tuple[str, ...] = ()
    beaten_by: tuple[str, ...] = ()
    fragile: tuple[str, ...] = ()
    rungs: int = Field(ge=0)
    draws: int = Field(ge=0)


class Standing(Record):
    """Whether SAEs may be ranked by a metric, and why not (``why``, one sentence) where they may not."""

    digest: str
    claims: Claims | None = None
    ranked: bool
    why: str | None = None
    worlds: dict[str, InWorld] = Field(default_factory=dict)  # by name: "tokens", "context", "demo"


Lock = Mapping[str, Standing]  # by "task.metric"


def read(file: Path) -> dict[str, Standing]:
    """The standings in a lock by ``task.metric``, none where there is no file. Raises TaskError: file and field."""
    if not file.exists():
        return {}
    try:
        content = _CONTENT.validate_python(read_toml(file, TaskError))
    except ValidationError as error:
        field, message = first_problem(error)
        raise TaskError(f"{file}: {field!r}: {message}") from error
    return {f"{task}.{metric}": one for task, metrics in content.items() for metric, one in metrics.items()}


def write(file: Path, lock: Lock) -> None:
    """Write a lock in the order of ``lock``, so that the same standings are the same bytes. Raises ResultError."""
    text = HEADER + "".join(f"\n{part}" for name, one in lock.items() for part in _tables(name, one))
    write_atomically(file, text.encode())


def standing(lock: Lock, task: str, metric: str, digest: str) -> Standing | None:
    """What a lock says of a metric as it is defined now; None where it was never asked, or of another definition."""
    found = lock.get(f"{task}.{metric}")
    return found if found is not None and found.digest == digest else None


_CONTENT = TypeAdapter(dict[str, dict[str, Standing]])
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def _tables(name: str, one: Standing) -> Iterator[str]:
    """The TOML of one standing: its own table, and one for each world."""
    place = ".".join(map(_key, name.split(".", 1)))
    content = one.model_dump(exclude_defaults=True)
    worlds = content.pop("worlds", {})
    yield _table(place, content)
    for world, said in worlds.items():
        yield _table(f"{place}.worlds.{_key(world)}", said)


def _table(place: str, content: Mapping[str, Any]) -> str:
    return f"[{place}]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in content.items())


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _value(name)


def _value(value: Any) -> str:
    """A value as TOML; strings are those of JSON but for DEL, which TOML has only escaped."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value + 0.0)  # a rounded zero has no sign
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
