"""Reading configuration and tensors of an untrusted folder."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open

from sae_bench.errors import CoderError

T = TypeVar("T", str, int, bool)
_KINDS = {str: "text", int: "a whole number", bool: "true or false"}


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CoderError."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CoderError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CoderError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CoderError(f"{file} must hold a JSON object, but it holds a {type(content).__name__}")
    return content


def read_tensors(file: Path, device: str | torch.device) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file, mapped rather than read where the device is the CPU. Raises CoderError."""
    try:
        with safe_open(file, framework="pt") as tensors:
            found = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CoderError(f"{file} is missing") from error
    except OSError as error:
        raise CoderError(f"{file} cannot be read: {error.strerror or error}") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CoderError(f"{file} is not a valid safetensors file ({error}); is it truncated?") from error
    try:
        return {name: tensor.to(device) for name, tensor in found.items()}
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without this kind of device
        raise CoderError(f"{file}: the tensors cannot be put on {device}: {str(error).splitlines()[0]}") from error


def take(tensors: dict[str, torch.Tensor], names: list[str], file: Path) -> dict[str, torch.Tensor]:
    """The tensors called ``names``; missing ones are refused, and so are ones that would silently be ignored."""
    missing = [name for name in names if name not in tensors]
    if missing:
        raise CoderError(f"{file} lacks the tensors {', '.join(missing)}; it has {', '.join(sorted(tensors))}")
    unknown = sorted(set(tensors) - set(names))
    if unknown:
        raise CoderError(f"{file} holds the tensors {', '.join(unknown)}, which this kind of SAE does not use")
    return {name: tensors[name] for name in names}


def integer(config: dict[str, Any], key: str, file: Path) -> int:
    """A positive integer of a configuration. Raises CoderError."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CoderError(f"{file}: {key} must be a positive whole number, but it is {value!r}")
    return value


def optional(config: dict[str, Any], key: str, kind: type[T], file: Path) -> T | None:
    """A value that may be missing or null, else of ``kind`` (str, int or bool). Raises CoderError."""
    value = config.get(key)
    if value is not None and type(value) is not kind:
        raise CoderError(f"{file}: {key} must be {_KINDS[kind]} or null, but it is {value!r}")
    return value


def flag(config: dict[str, Any], key: str, default: bool, file: Path) -> bool:
    """A true or false of a configuration. Raises CoderError."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise CoderError(f"{file}: {key} must be true or false, but it is {value!r}")
    return value


def sha256(*files: Path) -> str:
    """Digest of the contents of files, in this order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
