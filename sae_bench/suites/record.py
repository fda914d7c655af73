"""What a suite's file says, and which suites there are.

The upper part of a file is written by people. The table ``[seal]`` below it is written by ``sae-bench suite build``:
the revisions that were looked up, and the digests of what was loaded at them. A suite without it is *unsealed*: it says
what to measure, but nothing holds that two people have measured on the same.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sae_bench import registry
from sae_bench.errors import UsageError
from sae_bench.files import MIB, at_home, read_json, read_text
from sae_bench.parsing import first_problem, read_toml
from sae_bench.schema import MOST_RESAMPLES

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
SHA256 = r"^[0-9a-f]{64}$"
Names = Annotated[tuple[str, ...], Field(strict=False)]
Ids = Annotated[tuple[int, ...], Field(strict=False)]


class Part(BaseModel):
    """Frozen; refuses what it does not know and what is of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Model(Part):
    """The language model: an id on the hub, a folder, or "demo"; ``also`` are other names that SAEs declare it by."""

    id: str = Field(min_length=1)
    also: Names = ()
    dtype: Literal["float32", "float64", "bfloat16", "float16"] = "float32"
    backend: str = "hf"


class Text(Part):
    """The text and how it becomes sequences, in the words of :class:`sae_bench.settings.Settings`.

    ``source`` is a data set on the hub, of which ``files`` (globs) are read, a path, or "demo".
    """

    source: str = Field(min_length=1)
    files: Names = ()
    text_field: str = "text"
    group_field: str | None = None
    split: str | None = None
    tier: Literal["smoke", "standard", "full"] = "standard"
    limit: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=2)
    context: int = Field(ge=3)
    bos: Literal["yes", "no"]
    packed: bool = False


class Labelled(Part):
    """The labelled sets, as ``probe_sets`` names them."""

    sets: str = "all"


class JudgedBy(Part):
    """The language model that judges, for suites with a judged task."""

    model: str = Field(min_length=1)
    base_url: str | None = None


class Reference(Part):
    """Where the model's own figures are measured when the suite is sealed."""

    hooks: Names


class SealedTask(Part):
    """What the protocol of every result of a task must say: see :class:`sae_bench.schema.Protocol`."""

    version: int = Field(ge=1)
    documents: int = Field(ge=1)
    data_sha256: str = Field(pattern=SHA256)
    parameters: dict[str, Any] = Field(default_factory=dict)
    bos: int | None = None


class Seal(Part):
    """What was loaded when the suite was sealed; a revision is a commit of the hub, None of what is not from there."""

    model_revision: str | None = None
    weights_sha256: str = Field(pattern=SHA256)
    config_sha256: str = Field(pattern=SHA256)
    tokenizer_sha256: str | None = Field(default=None, pattern=SHA256)
    special_ids: Ids = ()
    text_revision: str | None = None
    evaluation_sha256: str = Field(pattern=SHA256)
    calibration_sha256: str = Field(pattern=SHA256)
    documents: int = Field(ge=1)
    groups: int = Field(ge=1)
    tokens: int = Field(ge=1)
    tasks: dict[str, SealedTask]


class Suite(Part):
    """All that a run must keep to. Sealed if there is a ``seal``."""

    name: str
    title: str
    model: Model
    text: Text
    tasks: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    controls: str = "default"
    mask: Literal["special", "first", "none"] = "special"
    mean_from: Literal["calibration", "evaluation"] = "calibration"
    seed: int = Field(default=0, ge=0)
    resamples: int = Field(default=2000, ge=20, le=MOST_RESAMPLES)
    parameters: dict[str, Any] = Field(default_factory=dict)
    labelled: Labelled = Labelled()
    judge: JudgedBy | None = None
    references: Reference | None = None
    seal: Seal | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.seal is not None and set(self.seal.tasks) != set(self.tasks):
            differ = ", ".join(sorted(set(self.seal.tasks) ^ set(self.tasks)))
            raise ValueError(f"the seal and tasks do not name the same tasks (see {differ}): build the suite again")
        return self


@dataclass(frozen=True)
class Known:
    """A suite with its file and the digest of that."""

    suite: Suite
    file: Path
    sha256: str

    @property
    def claim(self) -> str:
        """What a result of it says in ``Result.suite``."""
        return f"{self.suite.name}@{self.sha256}"

    @property
    def sealed(self) -> bool:
        """Whether results of it are official."""
        return self.suite.seal is not None

    @property
    def word(self) -> str:
        """That in a word."""
        return "sealed" if self.sealed else "unsealed"


class ReferenceRow(Part):
    """A figure of the model without an SAE ("model"), or of a control that needs none, at a hook point."""

    hook: str
    reference: str
    task: str
    metric: str
    value: float | None
    low: float | None
    high: float | None
    unit: str
    n_units: int
    reason: str | None = None


class References(Part):
    """The rows that were measured when a suite was sealed, and the claim of that suite."""

    suite: str
    rows: list[ReferenceRow]


REFERENCES = ".references.json"


def references_of(file: Path) -> Path:
    """Where the reference rows of a suite's file lie: beside it, as no part of the suite; they differ by rounding."""
    return file.with_name(file.stem + REFERENCES)


def reference_rows(known: Known) -> list[ReferenceRow]:
    """The reference rows of a suite; none where there are none, or where they are of another suite of its name."""
    file = references_of(known.file)
    if not file.is_file():
        return []
    try:
        found = References.model_validate(read_json(file, UsageError))
    except ValidationError as error:
        field, message = first_problem(error)
        raise UsageError(f"{file}: {field!r}: {message}") from error
    return found.rows if found.suite == known.claim else []


def folder_of(folder: str | Path | None = None) -> Path:
    """The folder of suites: the given one, else those that ship. Raises UsageError."""
    if folder is None:
        return registry.data_folder("leaderboard") / "suites"
    found = at_home(folder)
    if not found.is_dir():
        raise UsageError(f"--suites must be a folder of suites (NAME.toml), but {folder} is none")
    return found


def read(file: Path) -> Known:
    """The suite in a file. Raises UsageError, in a sentence that names the file and the field."""
    content = read_toml(file, UsageError, "a suite is a TOML file, but ")
    text = read_text(file, UsageError, MIB)
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        field, message = first_problem(error)
        raise UsageError(f"{file}: {field or 'the suite'!r}: {_plainly(field, message)}") from error
    if suite.name != file.stem or not NAME.fullmatch(suite.name):
        raise UsageError(
            f"{file}: the name is {suite.name!r}, and must be that of the file without .toml, of small letters, "
            "digits, '.', '-' and '_'"
        )
    _check_tasks(file, suite)
    return Known(suite, file, hashlib.sha256(text.encode()).hexdigest())


def _plainly(field: str, message: str) -> str:
    if message.startswith("Extra inputs"):
        part: Any = Suite
        *above, last = field.split(".")
        for one in above:
            known = getattr(part, "model_fields", {}).get(one)
            options = getattr(known.annotation, "__args__", (known.annotation,)) if known is not None else ()
            part = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        fields = getattr(part, "model_fields", {})
        return f"there is no such field; {registry.suggest(last, fields)}" if fields else "there is no such field"
    return message.removeprefix("Value error, ")


def _check_tasks(file: Path, suite: Suite) -> None:
    """That its tasks, parameters and controls are those that ship. Raises UsageError."""
    known = registry.tasks()
    for name in suite.tasks:
        if name not in known:
            raise UsageError(f"{file}: 'tasks': no task is named {name!r}; {registry.suggest(name, known)}")
    for path in suite.parameters:
        name, _, parameter = path.partition(".")
        if name not in suite.tasks or parameter not in known[name].parameters:
            there = [f"{task}.{one}" for task in suite.tasks for one in known[task].parameters]
            raise UsageError(f"{file}: 'parameters': there is no {path!r}; {registry.suggest(path, there)}")
    if suite.judge is None and (judged := [name for name in suite.tasks if known[name].judge]):
        raise UsageError(f"{file}: {judged[0]} needs a judge: add [judge] with model, or leave the task out")


def every(folder: str | Path | None = None) -> dict[str, Known]:
    """All suites of a folder by name. Raises UsageError for one that cannot be read."""
    return {file.stem: read(file) for file in sorted(folder_of(folder).glob("*.toml"))}


def find(name: str | Path, folder: str | Path | None = None) -> Known:
    """The suite of that name, or in that file. Raises UsageError with the nearest name."""
    if isinstance(name, Path) or "/" in name or name.endswith(".toml"):
        return read(at_home(name))
    where = folder_of(folder)
    file = where / f"{name}.toml"
    if not NAME.fullmatch(name) or not file.is_file():
        names = [one.stem for one in sorted(where.glob("*.toml"))]
        raise UsageError(f"no suite is named {name!r}; {registry.suggest(name, names)}")
    return read(file)
