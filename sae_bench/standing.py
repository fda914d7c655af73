"""What known truth says of each metric: ``tasks/validity.lock``, which decides who may be ranked by what.

``sae-bench validate`` measures SAEs of known quality and writes it; see :mod:`sae_bench.validity`. An entry counts only
for the definition that it was measured with, whose digest it names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError

from sae_bench.errors import TaskError
from sae_bench.files import write_atomically
from sae_bench.parsing import first_problem, read_toml
from sae_bench.schema import NOT_VALIDATED, MetricSpec, Record, TaskSpec
from sae_bench.schema import Claims as Claims

FILE = "validity.lock"  # beside the folders of the tasks whose metrics it speaks of
HEADER = "# What known truth says of each metric. Made by: sae-bench validate. Nobody edits it by hand.\n"
MOST_NAMES = 200  # SAEs that a list names


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds what cannot be printed in one line")
    return text


# a lock comes with other people's packages, and what it says is shown
Name = Annotated[str, StringConstraints(min_length=1, max_length=80), AfterValidator(_printable)]
Sentence = Annotated[str, StringConstraints(max_length=500), AfterValidator(_printable)]
Names = Annotated[tuple[Name, ...], Field(max_length=MOST_NAMES)]


class InWorld(Record):
    """What one world says of a metric; numbers are rounded, and absent where they could not be had.

    ``features``, ``encoder``, ``decoder``: Spearman's correlation with that truth over the SAEs of the ladder, signed
    so that 1 is a metric that orders them as the truth does; the mean over draws, and ``spread`` the standard deviation
    over draws of that which is claimed. ``monotone``: the same over the checkpoints of one training alone. ``signal``:
    standard deviation over SAEs divided by that over draws, with its 95 % interval. ``coverage``: the share of 95 %
    intervals of 400 groups of documents that hold the truth, counted with the standard error ``coverage_error``;
    ``false_positives``: of null pairs that ``compare`` tells apart. ``blind``: SAEs that are worse than the perfect one
    and that the metric does not tell from it, of ``worse`` that were held against it; 0 where no SAE is perfect, and
    absent of older locks. ``beaten_by``: controls that are not worse than the trained SAE.
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
    worse: int | None = Field(None, ge=0)
    blind: Names = ()
    beaten_by: Names = ()
    fragile: Names = ()
    rungs: int = Field(ge=0)
    draws: int = Field(ge=0)


class Standing(Record):
    """Whether SAEs may be ranked by a metric, and why not (``why``, one sentence) where they may not."""

    digest: str
    claims: Claims | None = None
    ranked: bool
    why: Sentence | None = None
    worlds: dict[Name, InWorld] = Field(default_factory=dict)  # by name: "tokens", "context", "demo"


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


def judged(spec: TaskSpec, lock: Lock, digest: str) -> tuple[TaskSpec, dict[str, Standing]]:
    """The definition with metrics that know whether SAEs are ranked by them, and what the lock says of them.

    ``digest`` is that of the definition: what the lock says of another one counts for nothing.
    """
    metrics = {
        name: one.judged(digest, _why_not(one, lock.get(f"{spec.id}.{name}"), digest))
        for name, one in spec.metrics.items()
    }
    said = {name: one for name in metrics if (one := standing(lock, spec.id, name, digest)) is not None}
    return spec.model_copy(update={"metrics": metrics}), said


def _why_not(metric: MetricSpec, found: Standing | None, digest: str) -> str | None:
    """Why a metric that claims something ranks nobody, or None."""
    if metric.claims is None:
        return None  # the definition says it, and nothing that a lock says can change it
    if found is None:
        return NOT_VALIDATED
    if found.digest != digest:
        return "it is not validated: known truth was asked about another definition of it"
    if found.claims != metric.claims:
        was = found.claims or "nothing"
        return f"it is not validated: it claims {metric.claims}, and known truth was asked about a claim to {was}"
    return None if found.ranked else found.why or "known truth does not bear out what it claims"


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
