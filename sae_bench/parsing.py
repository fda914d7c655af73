"""Reading files that people write by hand: what is wrong with one is said in one sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sae_bench.errors import SaeBenchError
from sae_bench.files import read_bytes

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)

_MOST = 1 << 20  # bytes of a file that people write by hand


def read_toml(file: Path, raises: type[SaeBenchError], what: str = "") -> dict[str, Any]:
    """The content of a TOML file. ``what`` stands before the name of one that cannot be read. Raises ``raises``."""
    try:
        content = read_bytes(file, raises, _MOST)
    except raises as error:
        raise raises(f"{what}{error}") from error
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise raises(f"{file} is not valid TOML: {error}") from error


def read_record(file: Path, record: type[Model], raises: type[SaeBenchError]) -> Model:
    """A TOML file as one record. Raises ``raises``, which names the file and the field."""
    from pydantic import ValidationError

    try:
        return record.model_validate(read_toml(file, raises))
    except ValidationError as error:
        field, message = first_problem(error)
        raise raises(f"{file}: {field!r}: {message}") from error


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The path of the first field that is wrong ("" for the whole), and what is wrong with it."""
    first = error.errors()[0]
    return ".".join(str(part) for part in first["loc"]), first["msg"]
