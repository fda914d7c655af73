"""The suite as data: which labelled sets there are, and where each comes from.

The entries stand in `tasks/probe_recovery/suite/*.toml`, one file a family, as arrays of tables `[[set]]`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from sae_bench.data.labelled.wheels import WHEELS
from sae_bench.errors import TaskError
from sae_bench.parsing import read_record, read_toml
from sae_bench.registry import data_folder
from sae_bench.schema import Record

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$"
MOST_ROWS = 50_000


class Values(Record):
    """Label by the value of `column`: one of `positive`, or one of `negative`; rows with another value are left out."""

    form: Literal["values"]
    column: str
    positive: tuple[str | int | float, ...] = Field(min_length=1)
    negative: tuple[str | int | float, ...] = Field(min_length=1)


class Threshold(Record):
    """Label by the number in `column`: `at_least` or more is positive, below `below` negative, between is left out."""

    form: Literal["threshold"]
    column: str
    at_least: float
    below: float


class Answers(Record):
    """One example with a correct and one with a wrong candidate a row, from columns of their own.

    Each column holds a text or a list of texts. Columns that a row does not have are passed over, as long as one of
    each kind is there.
    """

    form: Literal["answers"]
    correct: tuple[str, ...] = Field(min_length=1)
    wrong: tuple[str, ...] = Field(min_length=1)


class Choices(Record):
    """One example with the correct and one with a wrong candidate a row, from a list and the answer among it.

    `choices` is a column with a list of texts, or several columns. `answer` is the column of the correct one: its
    index from 0, or one of `keys` (given here, or the column that lists them).
    """

    form: Literal["choices"]
    choices: str | tuple[str, ...]
    answer: str
    keys: str | tuple[str | int, ...] | None = None


LabelRule = Annotated[Values | Threshold | Answers | Choices, Field(discriminator="form")]


class _Named(Record):
    name: str = Field(pattern=NAME)
    source: str = Field(min_length=1)  # paper or site
    licence: str = Field(min_length=1)
    note: str = ""  # what is not certain about the entry
    uncertain: bool = False  # membership in the family is not certain


class HubSet(_Named):
    """A data set of the Hugging Face hub, or a local folder of the same layout.

    Either `train` and `test` name its splits, or `split` is one that is divided by a hash of the text. `text` is a
    template over columns, as in "{question} {answer}", with dots for nested ones; `{candidate}` is filled by the
    rules that have candidates. With several `configs`, rows are taken from each in turn. `folder` is a folder in the
    repository. The first `rows` rows of a split are looked at. Of each class as many examples are taken, unless
    `balanced` is false.
    """

    kind: Literal["hub"]
    dataset: str
    configs: tuple[str, ...] = ()
    folder: str | None = None
    revision: str = "main"
    train: str | None = None
    test: str | None = None
    split: str | None = None
    rows: int = Field(default=10_000, ge=100, le=MOST_ROWS)
    text: str = "{text}"
    label: LabelRule
    balanced: bool = True

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.split is None) == (self.train is None) or (self.train is None) != (self.test is None):
            raise ValueError("give either train and test, or split")
        if ("{candidate}" in self.text) != isinstance(self.label, Answers | Choices):
            raise ValueError("the text must hold {candidate} exactly where the label rule has candidates")
        return self


class PackageSet(_Named):
    """A table in the wheel of a package, which is read as data alone: see :mod:`sae_bench.data.labelled.wheels`.

    `file` is its name without what stands before and behind it in the wheel. The column `prompt` holds the texts, as
    they are; a text that is too long keeps its end, as the package does it: many a label is about the last word.
    `shifted` is the file of a test part of another kind of text, with labels of the same meaning.
    """

    kind: Literal["package"]
    dataset: Literal["sae-probes"]
    file: str = Field(pattern=r"^[^/\\]+$")
    label: Values
    balanced: bool = True
    shifted: str | None = Field(default=None, pattern=r"^[^/\\]+$")


class Base64Set(_Named):
    """Base64 encodings (RFC 4648) of pieces of the corpus, against pieces of it."""

    kind: Literal["base64"]


class PhraseSet(_Named):
    """Stretches of the corpus that end with a compound of two words, against ends with one of them beside another."""

    kind: Literal["phrase"]
    phrase: str = Field(pattern=r"^[a-z]+ [a-z]+$")


class DemoSet(_Named):
    """An attribute of the demo world."""

    kind: Literal["demo"]
    attribute: str


class UnavailableSet(_Named):
    """A set that a paper uses and that cannot be had, or is not what it is called; `reason` says why, in one sentence.

    It has no full stop.
    """

    kind: Literal["unavailable"]
    reason: str = Field(min_length=1)


Entry = Annotated[HubSet | PackageSet | Base64Set | PhraseSet | DemoSet | UnavailableSet, Field(discriminator="kind")]
_ENTRIES: TypeAdapter[tuple[Entry, ...]] = TypeAdapter(tuple[Entry, ...])


def suite_folder() -> Path:
    """Where the families of the suite are."""
    return data_folder("tasks") / "probe_recovery" / "suite"


@cache
def suite_entries() -> dict[str, Entry]:
    """All entries of the suite by name, in the order of their names."""
    return collect(sorted(suite_folder().glob("*.toml")))


def collect(files: Iterable[Path]) -> dict[str, Entry]:
    """The entries of several files. Raises `TaskError` if two have the same name."""
    found: dict[str, Entry] = {}
    for file in files:
        for entry in read_family(file):
            if entry.name in found:
                raise TaskError(f"{file}: the set {entry.name!r} is there already; choose another name")
            found[entry.name] = entry
    return dict(sorted(found.items()))


def read_family(file: Path) -> tuple[Entry, ...]:
    """The entries of one file. Raises `TaskError` that names the file, the set and the field."""
    content = read_toml(file, TaskError)
    if content.keys() != {"set"}:
        raise TaskError(f"{file} must hold tables [[set]] and nothing else, got {', '.join(content) or 'nothing'}")
    try:
        return _ENTRIES.validate_python(content["set"])
    except ValidationError as error:
        first = error.errors()[0]
        place, *fields = first["loc"]
        tables = content["set"]
        at = tables[place].get("name", place) if isinstance(place, int) and isinstance(tables[place], dict) else place
        raise TaskError(f"{file}: set {at!r}: {'.'.join(map(str, fields))!r}: {first['msg']}") from error


DEFAULT_LIST = "probes-v2"
_DECIDES_NO_TEXT = {"source", "licence", "note", "uncertain"}  # what else an entry says decides its texts and labels


class NamedList(Record):
    """Sets that are measured together, under a name: `suite/lists/<name>.toml`.

    `sha256` is over the entries of the sets, less what is only said of them. It stands in the file, so that a suite
    does not change under its name: whoever changes it gives the file another one.
    """

    title: str = Field(min_length=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    sets: tuple[str, ...] = Field(min_length=1)


@cache
def named_lists() -> dict[str, NamedList]:
    """The named lists of sets. Raises `TaskError` for one whose sets are not there, or not those of its digest."""
    files = sorted((suite_folder() / "lists").glob("*.toml"))
    return {file.stem: read_list(file, suite_entries()) for file in files}


def resolved(names: str) -> str:
    """What a user calls "all" is the default list; names, globs and other lists stay as they are."""
    return ",".join(DEFAULT_LIST if (name := part.strip()) == "all" else name for part in names.split(","))


def read_list(file: Path, known: Mapping[str, Entry]) -> NamedList:
    """A list of sets. Raises `TaskError` that names the file, for sets that are not known or have changed."""
    found = read_record(file, NamedList, TaskError)
    unknown = [name for name in found.sets if name not in known]
    if unknown or len(set(found.sets)) < len(found.sets):
        wrong = f"there is no set {unknown[0]!r}" if unknown else "a set is named twice"
        raise TaskError(f"{file}: {wrong}; name each set of the suite once")
    if (digest := list_digest(found.sets, known)) != found.sha256:
        raise TaskError(
            f"{file}: its sets are no longer those of its digest (sha256 {digest}); "
            "a suite that changes gets another name"
        )
    return found


def list_digest(names: Iterable[str], known: Mapping[str, Entry]) -> str:
    """Hex digest over all that decides the texts and labels of these sets, in the order of their names.

    It is over what entries say beside the defaults, and over the wheels that they are read from.
    """
    entries = [known[name] for name in sorted(names)]
    content: list[Any] = [
        one.model_dump(mode="json", exclude=_DECIDES_NO_TEXT, exclude_defaults=True) for one in entries
    ]
    content += sorted({WHEELS[one.dataset].sha256 for one in entries if isinstance(one, PackageSet)})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
