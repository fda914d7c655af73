"""Opening ``.pt`` files, which are pickles, without running what is in them.

Three guards: the instructions are read (not run) and may name nothing but PyTorch's own builders of tensors; then
PyTorch's restricted unpickler (``weights_only=True``) opens the file, with its storages mapped rather than read; then
every tensor must lie within its storage, so that a few bytes cannot claim to be terabytes.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_bench.errors import CoderError, said
from sae_bench.files import opened, regular
from sae_bench.saes.config import plain, shown
from sae_bench.switches import without_warnings

_ALLOWED = re.compile(
    r"collections OrderedDict|torch._utils _rebuild_(tensor_v2|parameter)"
    r"|torch (\w+Storage|float16|float32|float64|bfloat16|device|Size)"
)
_PICKLE = re.compile(r"[^/]+/data\.pkl", re.IGNORECASE)  # PyTorch finds an entry whatever its case
_LOCAL_HEADER = b"PK\x03\x04"
_MOST_INSTRUCTIONS = 2 << 20  # bytes of pickle; the numbers of tensors lie elsewhere in the file
_MOST_TUPLES = 20_000  # a key of tuples in tuples is hashed by recursion in C, which has no limit of its own
_DEEPEST = 16


def open_pickle(file: Path) -> dict[Any, Any]:
    """The dictionary in a file of ``torch.save``: tensors, numbers, texts, lists, dictionaries. Raises CoderError."""
    regular(file, CoderError)
    _check_instructions(file, _instructions(file))
    try:
        with without_warnings():  # on protocols: what matters is refused in a sentence of our own
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # whatever a parser of untrusted bytes raises
        raise CoderError(f"{file} cannot be opened as tensors: {_reason(error)}") from error
    if not isinstance(content, dict):
        raise CoderError(f"{file} must hold a dictionary of tensors, but it holds a {type(content).__name__}")
    _check_bounds(file, content)
    return content


def _instructions(file: Path) -> bytes:
    """The pickle in the archive, unread by any unpickler. Raises CoderError."""
    try:
        with opened(file, CoderError) as raw:
            if raw.read(len(_LOCAL_HEADER)) != _LOCAL_HEADER:  # an archive behind other bytes is read by zipfile only
                raise zipfile.BadZipFile("it does not start as a zip archive")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            pickles = [entry for entry in entries if _PICKLE.fullmatch(entry.filename)]
            packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
            if len(pickles) != 1 or packed:
                raise CoderError(f"{file} is not a file that torch.save writes; save the tensors again")
            if (size := pickles[0].file_size) > min(_MOST_INSTRUCTIONS, file.stat().st_size):
                raise CoderError(f"{file} claims {size} bytes of instructions, which no file of tensors needs")
            return archive.read(pickles[0])
    except CoderError:
        raise
    except OSError as error:
        raise CoderError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises what it likes on damaged bytes
        raise CoderError(
            f"{file} is not a file of torch.save as PyTorch 1.6 and later write it ({_reason(error)}); is it "
            "truncated? Older files: load them where they come from and save them again"
        ) from error


def _check_instructions(file: Path, pickle: bytes) -> None:
    """Nothing foreign is named, and nothing is nested beyond measure. Raises CoderError."""
    tuples = 0
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            named = _named(opcode.name, argument)
            if named is not None and not _ALLOWED.fullmatch(named):
                raise CoderError(
                    f"{file} is a pickled object that needs {plain(named.replace(' ', '.'))}, and opening it could run "
                    "any code, so sae-bench does not; load it in code of your own that you trust and give --sae "
                    "module:factory (see docs/saes.md), or save its state_dict()"
                )
            tuples += opcode.name.startswith("TUPLE")
    except CoderError:
        raise
    except Exception as error:  # pickletools raises what it likes on damaged bytes
        raise CoderError(f"{file} is damaged: its instructions cannot be read ({_reason(error)})") from error
    if tuples > _MOST_TUPLES:
        raise CoderError(f"{file} builds {tuples} tuples, which no file of tensors needs; save the tensors again")


def _named(opcode: str, argument: Any) -> str | None:
    """What an instruction imports; None for one that imports nothing."""
    if opcode in ("GLOBAL", "INST"):
        return str(argument)
    if opcode == "STACK_GLOBAL":
        return "a name that its instructions put together"
    return "an extension of pickle" if opcode in ("EXT1", "EXT2", "EXT4") else None


def _check_bounds(file: Path, content: dict[Any, Any]) -> None:
    """Every tensor lies within its storage. Each container is seen once, however often it is referred to."""
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Tensor):
            if value.is_quantized:
                raise CoderError(f"{file} holds quantised tensors; save them as floating-point numbers")
            stored = value.untyped_storage().nbytes() if value.layout == torch.strided else -1
            if value.numel() * value.element_size() > stored:
                raise CoderError(f"{file} holds a tensor of shape {shown(list(value.shape))}, but not as many numbers")
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            if depth > _DEEPEST:
                raise CoderError(f"{file} nests its values deeper than {_DEEPEST} levels; save the tensors alone")
            if isinstance(value, OrderedDict) and set(vars(value)) - {"_metadata"}:  # they could hide its methods
                raise CoderError(f"{file} adds attributes to a dictionary, which no state_dict does; save it again")
            seen.add(id(value))
            below = value.values() if isinstance(value, dict) else value
            waiting += [(each, depth + 1) for each in below]


def _reason(error: Exception) -> str:
    """What was raised, without PyTorch's advice to open the file without any guard."""
    if "weights_only" in str(error):
        return "it holds more than tensors, numbers, texts, lists and dictionaries"
    return said(error)
