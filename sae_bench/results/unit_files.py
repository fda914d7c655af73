"""The file of units beside a result, and what the results of one hook point share.

The columns of a hook point are the same for every SAE and control there, and the wide ones are most of a table. Where
they take more than a MiB they stand once in the folder of results, ``<out>/_shared/<sha256>.safetensors``, and every
file of units names that digest. A file is what its name says or it is not read. Nothing ever removes one: it does no
harm without a result, and a folder of results without those that it names is not whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save

from sae_bench import known_digests
from sae_bench.errors import ResultError
from sae_bench.files import GIB, MIB, at_home, check_folder, regular, sha256, write_atomically
from sae_bench.units import Common, Units, pack, unpack
from sae_bench.units.table import shared_files

MOST_UNITS = 4 * GIB  # bytes, of all files of one result
SHARED = "_shared"  # no SAE's folder is called so: see store.path_of
LEAST = MIB  # bytes that are worth a file of their own: a smaller result is whole with the one beside it
_TABLE = "shared"  # the one table of a shared file
_CORRUPT = (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError, AttributeError)
_read: WeakValueDictionary[str, Common] = WeakValueDictionary()  # by digest, as long as somebody uses it


def units_of(file: Path) -> Path:
    """Where the units of the result ``file`` are."""
    return file.with_suffix(".units.safetensors")


def write(file: Path, tables: Mapping[str, Units]) -> str:
    """Write the units of the result ``file``, which lies three levels below its folder; returns their digest.

    What it shares with others is there before it. Raises ResultError.
    """
    shared = {key: table.common for key, table in tables.items() if table.common is not None and table.shared}
    saved: Counter[Common] = Counter()
    for key, common in shared.items():
        saved[common] += sum(tables[key].columns[name].nbytes for name in tables[key].shared)
    elsewhere = {key: _kept(file.parents[2], common) for key, common in shared.items() if saved[common] >= LEAST}
    content = save(*pack(tables, elsewhere))
    write_atomically(units_of(file), content)
    return hashlib.sha256(content).hexdigest()


def _kept(out: Path, common: Common) -> str:
    """The digest of the shared file that holds these columns, which is there afterwards."""
    digest: str | None = common.memo.get(("stored", out))
    if digest is not None and common.memo["seen", out] == known_digests.seen(place_of(out, digest)):
        return digest
    content = _pieces(*pack({_TABLE: Units(common.ids, common.columns)}))
    hashed = hashlib.sha256()
    for piece in content:
        hashed.update(piece)
    digest = hashed.hexdigest()
    place = place_of(out, digest)
    if not (place.is_file() and known_digests.sha256(place) == digest):  # another run's, or one that was damaged
        check_folder(place.parent)
        write_atomically(place, content)
    common.memo["stored", out], common.memo["seen", out] = digest, known_digests.seen(place)
    return digest


def _pieces(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The content of a safetensors file, without a copy of arrays of float64, which may be most of the memory."""
    if any(array.dtype != np.dtype("<f8") for array in arrays.values()):
        return [save(dict(arrays), dict(metadata))]
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    names, end = sorted(arrays), 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        header[name] = {"dtype": "F64", "shape": list(arrays[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little"), text, *(arrays[name].reshape(-1).view(np.uint8).data for name in names)]


def place_of(out: Path, digest: str) -> Path:
    """Where the shared file of that digest belongs in a folder of results."""
    return out / SHARED / f"{digest}.safetensors"


def shared_beside(file: Path) -> dict[str, Path]:
    """The shared files of the result ``file`` by digest, each with the content that this says. Raises ResultError."""
    units = units_of(at_home(file))
    return _shared(units, _metadata(units))


def _metadata(units: Path) -> dict[str, str]:
    try:
        with safe_open(regular(units, most=MOST_UNITS), framework="numpy") as opened:
            return opened.metadata() or {}
    except _CORRUPT as error:
        raise _not_units(units, error) from error


def _shared(units: Path, metadata: Mapping[str, str]) -> dict[str, Path]:
    """What these metadata of a file of units name. Raises ResultError."""
    try:
        digests = shared_files(metadata)
    except _CORRUPT as error:
        raise _not_units(units, error) from error
    found, left = {}, MOST_UNITS - units.stat().st_size
    for digest in digests:
        found[digest] = regular(_found(units, digest), most=max(0, left))
        left -= found[digest].stat().st_size
        if known_digests.sha256(found[digest]) != digest:
            raise ResultError(
                f"{found[digest]}, which holds a part of {units.name}, is not what was written: its content does not "
                "have the digest that is its name; copy it again from where the result comes from, or measure again"
            )
    return found


def _found(units: Path, digest: str) -> Path:
    """Where a shared file is: in the folder of results, or nearer, where a result was copied without its folders."""
    absolute = Path(os.path.abspath(units))
    for file in (absolute, Path(os.path.realpath(units))):
        for folder in file.parents[:3]:
            if os.path.lexists(place := place_of(folder, digest)):
                return place
    missing = place_of((units if len(units.parents) > 2 else absolute).parents[:3][-1], digest)
    raise ResultError(
        f"{missing} is missing, which holds a part of {units.name} that several results share; copy the folder "
        f"{SHARED} along with the results, or measure again"
    )


def read_units(file: str | Path) -> dict[str, Units]:
    """The tables of units beside the result ``file``; empty if it has none. Raises ResultError."""
    units = units_of(at_home(file))
    if not units.exists():
        return {}
    metadata = _metadata(units)
    shared = {digest: _common(digest, place) for digest, place in _shared(units, metadata).items()}
    try:
        return unpack(load_file(regular(units, most=MOST_UNITS)), metadata, shared)
    except _CORRUPT as error:
        raise _not_units(units, error) from error


def _common(digest: str, place: Path) -> Common:
    """What a shared file holds, whose content is that of the digest; one object for all tables that share it."""
    if (found := _read.get(digest)) is None:
        try:
            (table,) = unpack(load_file(regular(place, most=MOST_UNITS)), _metadata(place)).values()
        except _CORRUPT as error:
            raise _not_units(place, error) from error
        found = _read[digest] = Common(table.ids, table.columns)
    return found


def _not_units(file: Path, error: Exception) -> ResultError:
    if isinstance(error, ResultError):
        return error
    return ResultError(f"{file} is not a table of units ({error}); is it truncated?")


def check(file: Path, sha256_of_units: str | None) -> None:
    """That the units beside the result ``file`` are those of which it was made. Raises ResultError.

    Nothing is known of results of before digests.
    """
    units = units_of(file)
    if sha256_of_units is None:
        return
    try:
        digest = sha256(units)
    except OSError as error:
        raise ResultError(f"{units}, of which {file.name} was made, cannot be read: {error.strerror}") from error
    if digest != sha256_of_units:
        raise ResultError(
            f"{units} is not the file of which {file.name} was made: its digest is another; measure again"
        )
    shared_beside(file)


def all_of(file: Path) -> list[Path]:
    """The files of units of the result ``file``, its own and those that it shares; none if it has none. ResultError."""
    units = units_of(at_home(file))
    if not units.exists():
        return []
    try:
        metadata = _metadata(units)
    except ResultError:  # it is not what it was: its digest says so
        return [units]
    return [units, *_shared(units, metadata).values()]
