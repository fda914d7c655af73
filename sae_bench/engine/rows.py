"""Rows of units of a run in progress: columns of files that are appended, each of which is opened once.

Nearly all row files of a run have the same columns. Which ones, in which order, is a *layout*, a small file of its own
that row files name by its digest. A row file holds the bytes of its columns one after another and where each ends, so
a reader takes the columns of one coder from a mapped file without looking at those of the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sae_bench.errors import ResultError, said
from sae_bench.files import GIB, read_bytes, regular, strict_json, write_atomically

Key = tuple[str, str, str]  # task, coder or hook point, column
Column = tuple[str, str, str, str, tuple[int, ...]]  # a key, the type of an entry, the shape of a row
Arrays = dict[Key, NDArray[Any]]
Bytes = NDArray[np.uint8]
MOST_MAPPED = 30_000  # files at a time, for systems bound it (Linux by 65,530); what is beyond is read into memory


class Damaged(ResultError):
    """A file of a run in progress that does not hold what was written."""

    def __init__(self, file: Path, why: str) -> None:
        super().__init__(f"{file} of a run in progress is damaged: {why}")


class Layout:
    """Which columns row files have, in which order. Raises ValueError for what is no layout."""

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self.keys: list[Key] = [column[:3] for column in columns]
        self.dtypes = [np.dtype(column[3]) for column in columns]
        if any(dtype.kind not in "biuf" for dtype in self.dtypes) or len(set(self.keys)) < len(columns):
            raise ValueError("its columns are not such as rows have")
        self.sizes = np.array(
            [
                # A row of no entries takes a byte all the same, else nobody would know how many rows there are.
                max(1, dtype.itemsize * int(np.prod(column[4], dtype=np.int64)))
                for dtype, column in zip(self.dtypes, columns, strict=True)
            ],
            dtype=np.int64,
        )
        self._of: dict[tuple[str, str], list[int]] = {}
        for i, key in enumerate(self.keys):
            self._of.setdefault(key[:2], []).append(i)

    @cached_property
    def content(self) -> bytes:
        """What its file holds."""
        return json.dumps(self.columns).encode()

    @cached_property
    def digest(self) -> str:
        """Its name."""
        return _hash(self.content)

    @classmethod
    def read(cls, folder: Path, digest: str) -> Layout:
        """The layout of that name. Raises Damaged."""
        file = folder / f"layout-{digest}.json"
        try:
            content = read_bytes(file, most=GIB)
            if _hash(content) != digest:
                raise ValueError("its content is not what was written")
            columns = ((*map(str, named), tuple(map(int, shape))) for *named, shape in strict_json(content))
            return cls(tuple(columns))  # type: ignore[arg-type]  # of four names: what was written
        except (ResultError, ValueError, TypeError) as error:
            raise Damaged(file, said(error, file=False)) from error

    def places(self, wanted: Iterable[tuple[str, str]]) -> list[int]:
        """Places of the columns of these pairs of task and owner, in order."""
        return sorted(i for pair in wanted for i in self._of.get(pair, ()))

    def column(self, i: int, content: Bytes) -> NDArray[Any]:
        """The rows that these bytes are."""
        shape = (len(content) // int(self.sizes[i]), *self.columns[i][4])
        if 0 in shape[1:]:
            return np.empty(shape, self.dtypes[i].newbyteorder("="))
        return content.view(self.dtypes[i]).reshape(shape).astype(self.dtypes[i].newbyteorder("="), copy=False)


class _File:
    """What was appended at once: the bytes of all columns, column ``i`` from ``ends[i]`` to ``ends[i + 1]``."""

    def __init__(self, layout: Layout, ends: NDArray[np.int64], content: Bytes) -> None:
        self.layout, self.ends, self.content = layout, ends, content

    def parts(self, places: NDArray[np.int64]) -> list[Bytes]:
        """The bytes of some columns."""
        bounds = zip(self.ends[places].tolist(), self.ends[places + 1].tolist(), strict=True)
        return [self.content[start:end] for start, end in bounds]

    def fits(self) -> bool:
        """Whether the columns are as long as all their rows."""
        if self.ends.shape != (len(self.layout.columns) + 1,) or self.ends[0] != 0:
            return False
        lengths = np.diff(self.ends)
        return bool((lengths >= 0).all() and not (lengths % self.layout.sizes).any()) and (
            int(self.ends[-1]) == len(self.content)
        )


class Rows:
    """Row files of a folder, or, without one, the same in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._files: dict[str, _File] = {}
        self._layouts: dict[tuple[Column, ...], Layout] = {}  # that are known, and, in a folder, written
        self._by_digest: dict[str, Layout] = {}

    def append(self, name: str, rows: Arrays) -> None:
        """Write a row file, and its layout before it where that is new. Raises ResultError."""
        arrays = [np.asarray(array, array.dtype.newbyteorder("<"), order="C") for array in rows.values()]
        columns = tuple((*key, a.dtype.str, a.shape[1:]) for key, a in zip(rows, arrays, strict=True))
        layout = self._layouts.get(columns) or Layout(columns)
        parts = [_bytes(array) for array in arrays]
        ends = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        content = np.concatenate(parts)
        if self.folder is None:
            self._files[name] = _File(layout, ends, content)
        else:
            if columns not in self._layouts:
                write_atomically(self.folder / f"layout-{layout.digest}.json", layout.content)
            named = {"layout": layout.digest, "digest": _digest(name, layout, ends, content)}
            write_atomically(self.folder / name, save({"ends": ends, "content": content}, named))
        self._known(layout)

    def of(self, names: Iterable[str], wanted: Iterable[tuple[str, str]]) -> Arrays:
        """All rows of these files of the columns of ``wanted``, in the order of files and columns. Raises Damaged."""
        pairs = set(wanted)
        found: dict[Key, list[NDArray[Any]]] = {}
        for layout, files in groupby(map(self._file, names), key=lambda file: file.layout):
            places = np.array(layout.places(pairs), dtype=np.int64)
            if not len(places):
                continue
            by_column = zip(*(file.parts(places) for file in files), strict=True)
            for i, parts in zip(places.tolist(), by_column, strict=True):
                found.setdefault(layout.keys[i], []).append(layout.column(i, np.concatenate(parts)))
        return {key: parts[0] if len(parts) == 1 else np.concatenate(parts) for key, parts in found.items()}

    def check(self, names: Iterable[str]) -> None:
        """Compare all bytes of files of a folder with their digests. Raises Damaged."""
        for name in names:
            self._file(name, check=True)

    def close(self) -> None:
        """Give back all files, which may then be removed on any system, and forget what they held."""
        self._files.clear()
        self._layouts.clear()
        self._by_digest.clear()

    def _known(self, layout: Layout) -> None:
        self._layouts[layout.columns] = layout
        if self.folder is not None:
            self._by_digest[layout.digest] = layout

    def _file(self, name: str, check: bool = False) -> _File:
        """A file, opened when it is first asked for."""
        if name not in self._files:
            assert self.folder is not None, f"{name} was never appended"
            self._files[name] = self._opened(self.folder / name, check)
        return self._files[name]

    def _opened(self, file: Path, check: bool) -> _File:
        assert self.folder is not None
        try:
            # As tensors of torch, since safetensors maps those and copies arrays of NumPy.
            with safe_open(regular(file), framework="pt") as opened:
                metadata = opened.metadata()
                ends, content = (opened.get_tensor(name).numpy() for name in ("ends", "content"))
            digest = str(metadata["layout"])
            if digest not in self._by_digest:
                self._known(Layout.read(self.folder, digest))
            found = _File(self._by_digest[digest], ends, content)
            right = found.fits() and (
                not check or _digest(file.name, found.layout, ends, content) == metadata["digest"]
            )
        except Damaged:
            raise
        except (ResultError, SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise Damaged(file, said(error, file=False)) from error
        if not right:
            raise Damaged(file, "its content is not what was written")
        if len(self._files) >= MOST_MAPPED:
            found.ends, found.content = ends.copy(), content.copy()
        return found


def _bytes(array: NDArray[Any]) -> Bytes:
    """The bytes of the rows of an array that is in order; one a row where a row has no entries."""
    if array.size:
        return array.reshape(-1).view(np.uint8)
    return np.zeros(len(array), np.uint8)


def _digest(name: str, layout: Layout, ends: NDArray[np.int64], content: Bytes) -> str:
    """Of the name too, so that a row file cannot stand for another."""
    return _hash(name.encode(), layout.digest.encode(), ends.data, content.data)


def _hash(*parts: Any) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
