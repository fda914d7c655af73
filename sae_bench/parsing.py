"""Reading files that people write by hand: what is wrong with one is said in one sentence."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sae_bench.errors import SaeBenchError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)


def read_toml(file: Path, raises: type[SaeBenchError], what: str = "") -> dict[str, Any]:
    """The content of a TOML file. ``what`` stands before the name of one that cannot be read. Raises ``raises``."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise raises(f"{what}{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
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
