"""Which files a model's weights are loaded from, and what their headers say."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_bench.errors import ModelError, said
from sae_bench.files import MIB, at_home, below, opened, read_json, strict_json

_MOST_HEADER = 100 * MIB  # bytes; the library safetensors reads no more
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True)
class Stored:
    """A tensor in a file: the type as safetensors writes it, the shape, and where it lies."""

    dtype: str
    shape: tuple[int, ...]
    file: Path


def folder_of(source: str | Path) -> Path | None:
    """Where the files of a model lie: its folder, or its snapshot in the hub's cache; None where there is neither."""
    if (folder := at_home(source)).is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in ("config.json", ADAPTER_CONFIG):
        try:
            cached = try_to_load_from_cache(str(source), name)
        except HFValidationError:
            return None
        if isinstance(cached, str):
            return Path(cached).parent
    return None


def weight_files(source: str | Path) -> list[Path]:
    """The files that decide the weights of the model at a folder or hub id, in the order of their names.

    They are those that transformers loads, safetensors before others and one file before many; what else lies beside
    them is left out. Of a model with an adapter they are those of its base and of the adapter. Empty where they are not
    known. Raises ModelError for an index that cannot be read.
    """
    folder = folder_of(source)
    if folder is None:
        return []
    adapter = folder / ADAPTER_CONFIG
    if not adapter.is_file():
        return _plain(folder)
    own = [adapter, folder / ADAPTER_WEIGHTS]
    if (folder / "config.json").is_file():
        base = _plain(folder)
    else:
        named = _json(adapter).get("base_model_name_or_path")
        root = folder_of(named) if isinstance(named, str) and named else None
        base = _plain(root) if root is not None else []
    return [*base, *own] if base and all(file.is_file() for file in own) else []


def _plain(folder: Path) -> list[Path]:
    """The files of a model without an adapter."""
    told = _json(folder / "config.json").get("transformers_weights")
    for name in (told, "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        if name is told and name is not None and not below(folder, name):
            config = folder / "config.json"
            raise ModelError(f"{config}: transformers_weights names {name!r}, which is not in its folder")
        if isinstance(name, str) and (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".index.json") else [folder / name]
    index = folder / "pytorch_model.bin.index.json"
    return _shards(index) if index.is_file() else []


def _shards(index: Path) -> list[Path]:
    names = _json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ModelError(f"{index} has no weight_map from tensors to files; save the model again")
    if outside := sorted(name for name in names.values() if not below(index.parent, name)):
        raise ModelError(f"{index} names {outside[0]!r}, which is not in its folder; save the model again")
    files = [index.parent / name for name in sorted(set(names.values()))]
    if absent := [file.name for file in files if not file.is_file()]:
        raise ModelError(f"{index} names {len(absent)} files that are not there (first {absent[0]}); copy them too")
    return files


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = read_json(file, ModelError, 64 * MIB)
    return content if isinstance(content, dict) else {}


def stored_tensors(files: list[Path], source: str) -> dict[str, Stored]:
    """What the headers of safetensors files say, by name; files of other formats are left out.

    Raises ModelError where two files hold a tensor of one name, as it is chance which of them is loaded.
    """
    found: dict[str, Stored] = {}
    for file in files:
        if file.suffix != ".safetensors":
            continue
        for name, tensor in _header(file).items():
            if name in found:
                raise ModelError(
                    f"the weights of model {source!r} hold {name} twice, in {found[name].file.name} and {file.name}; "
                    "save the model again"
                )
            found[name] = Stored(str(tensor["dtype"]), tuple(tensor["shape"]), file)
    return found


def _header(file: Path) -> dict[str, Any]:
    """The header of a file. Raises ModelError."""
    with opened(file, ModelError) as stream:
        try:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > _MOST_HEADER:
                raise ValueError(f"its header claims {size} bytes")
            header = strict_json(stream.read(size))
            if not isinstance(header, dict):
                raise ValueError("its header is no table")
            header.pop("__metadata__", None)
            if wrong := next((name for name, tensor in header.items() if not _is_tensor(tensor)), None):
                raise ValueError(f"its header says nothing of {wrong[:80]!r} that could be a tensor")
        except (OSError, ValueError, struct.error) as error:
            raise ModelError(f"{file} is damaged, or no file of safetensors: {said(error)}") from error
    return header


def _is_tensor(told: Any) -> bool:
    if not isinstance(told, dict) or not isinstance(told.get("dtype"), str):
        return False
    shape = told.get("shape")
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)
