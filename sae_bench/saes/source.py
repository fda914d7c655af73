"""A folder or file that a user points at, opened header by header: what is mapped is not read, and nothing is run."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open
from torch import Tensor

from sae_bench import known_digests
from sae_bench.errors import CoderError
from sae_bench.files import MIB, read_text, regular, strict_json
from sae_bench.saes.config import Config, plain
from sae_bench.saes.npz import open_npz
from sae_bench.saes.pickles import open_pickle

TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (*TORCH_SUFFIXES, ".safetensors", ".npz")
_MOST_CONFIG = MIB


class Source:
    """Files of one SAE, each opened once.

    ``folder`` is where they lie; ``main`` is the file that the user pointed at, None for a folder. ``label`` is where
    it came from, in the words of its author (repository and path on the hub, else the local path): some layouts keep
    layer, site or k only there. ``origin`` goes into the provenance.
    """

    def __init__(self, path: Path, *, label: str | None = None, origin: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self.main = path if path.is_file() else None
        self.folder = path.parent if self.main else path
        self.label = label or path.as_posix()
        self.origin = dict(origin or {})
        self._opened: dict[Path, Any] = {}

    @property
    def name(self) -> str:
        """How the SAE is called if its files do not say."""
        if self.main:
            return self.main.stem
        if "repository" in self.origin:  # the folder of a whole repository is called by its commit
            return self.words[-1]
        return self.folder.name or self.folder.resolve().name

    @property
    def words(self) -> list[str]:
        """The parts of the label: owner, repository, folders, file."""
        return [part for part in self.label.split("/") if part not in ("", ".")]

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """Names of the files in the folder. Raises CoderError."""
        try:
            return frozenset(p.name for p in self.folder.iterdir() if p.is_file())
        except OSError as error:
            raise CoderError(f"{self.folder} cannot be read: {error.strerror}") from error

    def has(self, *names: str) -> bool:
        """Whether this is a folder with all of these files (paths below the folder)."""
        return self.main is None and all((self.folder / name).is_file() for name in names)

    def file(self, name: str | None = None) -> Path:
        """The file ``name`` of the folder, or the main file."""
        assert name is not None or self.main is not None
        return self.folder / name if name is not None else self.path

    def config(self, name: str) -> Config:
        """The configuration in a JSON or YAML file (by its suffix). Raises CoderError."""
        read = _read_yaml if name.endswith((".yaml", ".yml")) else _read_json
        return Config(self.folder / name, self._once(name, read))

    def front_matter(self, name: str) -> dict[str, Any]:
        """The fields at the head of a card in Markdown, between lines of ``---``; none where they cannot be read."""
        file = self.folder / name
        try:
            text = read_text(file, CoderError, _MOST_CONFIG) if file.is_file() else ""
            head = text.removeprefix("\ufeff").split("\n---", 1)[0].removeprefix("---\n")
            content = yaml.load(head, _Loader) if text.lstrip("\ufeff").startswith("---\n") else {}
        except Exception:  # noqa: BLE001 - a card is prose, and PyYAML raises what it likes
            return {}
        return content if isinstance(content, dict) else {}

    def tensors(self, name: str | None = None) -> dict[str, Tensor]:
        """The tensors of a file by name, mapped rather than read. Raises CoderError.

        Of a ``.pt`` file only the tensors at its top level are given; see :meth:`content`.
        """
        file = self.file(name)
        if file.suffix in TORCH_SUFFIXES:
            return {str(key): value for key, value in self.content(name).items() if isinstance(value, Tensor)}
        opened: dict[str, Tensor] = self._once(name, open_npz if file.suffix == ".npz" else _open_safetensors)
        return opened

    def content(self, name: str | None = None) -> dict[Any, Any]:
        """The dictionary in a ``.pt`` file: tensors (mapped), numbers, texts and dictionaries. Raises CoderError."""
        opened: dict[Any, Any] = self._once(name, open_pickle)
        return opened

    def keys(self) -> frozenset[str]:
        """Names in the main file; none where there is no such file."""
        if self.main is None or self.main.suffix not in SUFFIXES:
            return frozenset()
        names = self.content() if self.main.suffix in TORCH_SUFFIXES else self.tensors()
        return frozenset(map(str, names))

    def sha256(self, names: tuple[str, ...]) -> str:
        """Digest of the contents of files, in this order."""
        return known_digests.sha256(*(self.folder / name for name in names), raises=CoderError)

    def _once(self, name: str | None, read: Any) -> Any:
        file = self.file(name)
        if file not in self._opened:
            if not file.is_file():  # a pipe would be waited for
                raise CoderError(f"{file} is {'not a file' if os.path.lexists(file) else 'missing'}")
            self._opened[file] = read(file)
        return self._opened[file]


def _read_json(file: Path) -> dict[str, Any]:
    text = read_text(file, CoderError, _MOST_CONFIG)
    try:
        content = strict_json(text)
    except ValueError as error:
        raise CoderError(f"{file} is not valid JSON: {plain(error)}") from error
    if not isinstance(content, dict):
        raise CoderError(f"{file} must hold a JSON object, but it holds a {type(content).__name__}")
    return content


def _read_yaml(file: Path) -> dict[str, Any]:
    text = read_text(file, CoderError, _MOST_CONFIG)
    try:
        content = yaml.load(text, _Loader)
    except Exception as error:  # PyYAML's constructors raise what they like: of dates, sets, numbers
        raise CoderError(f"{file} is not valid YAML: {plain(error)}") from error
    if not isinstance(content, dict):
        raise CoderError(f"{file} must hold a YAML mapping, but it holds a {type(content).__name__}")
    return content


class _Loader(yaml.SafeLoader):
    """Without aliases: a few lines of them stand for more than the memory holds."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases (*name), which sae-bench does not read")
        return super().compose_node(parent, index)


def _open_safetensors(file: Path) -> dict[str, Tensor]:
    regular(file, CoderError)
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError as error:
        raise CoderError(f"{file} is missing") from error
    except OSError as error:
        raise CoderError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever a parser of untrusted bytes raises
        raise CoderError(f"{file} is not a valid safetensors file ({plain(error)}); is it truncated?") from error
