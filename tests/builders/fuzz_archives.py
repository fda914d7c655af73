"""Damage to archives of arrays: what ``.pt`` and ``.npz`` files have in common, and ``.npz`` files."""

from __future__ import annotations

import functools
import io
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

Mutators = dict[str, Callable[[random.Random, bytes], bytes]]


def archive(entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def entries_of(content: bytes) -> dict[str, bytes]:
    """What is in a zip file."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {name: file.read(name) for name in file.namelist()}


def repacked(change: Callable[[random.Random, dict[str, bytes]], Any]) -> Callable[[random.Random, bytes], bytes]:
    def mutate(rng: random.Random, content: bytes) -> bytes:
        entries = entries_of(content)
        change(rng, entries)
        return archive(entries)

    return mutate


def flip(rng: random.Random, content: bytes, start: int, stop: int) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def directory(rng: random.Random, content: bytes) -> bytes:
    """A bit of the zip file's directory, or of what points at it, which stands at the end."""
    return flip(rng, content, max(content.find(b"PK\x01\x02"), 0), len(content))


def entry_header(rng: random.Random, content: bytes) -> bytes:
    start = rng.choice([at for at in range(len(content) - 4) if content[at : at + 4] == b"PK\x03\x04"])
    return flip(rng, content, start, min(start + 30, len(content)))


# npz: a zip file of arrays, each with a header that is a Python literal


def _array(descr: str, shape: str, numbers: bytes, version: bytes = b"\x01\x00", fortran: str = "False") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + version + length + header + numbers


def _npz(*arrays: Callable[[], bytes]) -> Callable[[random.Random, bytes], bytes]:
    """One entry, chosen by chance, replaced by one of ``arrays``."""
    return repacked(lambda rng, e: e.update({rng.choice(list(e)): rng.choice(arrays)()}))


_FLOATS = bytes(24 * 8 * 4)
NPZ: Mutators = {
    "directory flipped": directory,
    "directory flipped again": directory,
    "directory flipped once more": directory,
    "entry flipped": entry_header,
    "entry flipped again": entry_header,
    "compressed": lambda rng, content: archive(entries_of(content), zipfile.ZIP_DEFLATED),
    "compressed, flipped": lambda rng, c: _entry_body(rng, archive(entries_of(c), zipfile.ZIP_DEFLATED)),
    "compressed by LZMA": lambda rng, content: archive(entries_of(content), zipfile.ZIP_LZMA),
    "compressed by LZMA, flipped": lambda rng, c: _entry_body(rng, archive(entries_of(c), zipfile.ZIP_LZMA)),
    "compressed by bzip2": lambda rng, content: archive(entries_of(content), zipfile.ZIP_BZIP2),
    "compressed bomb": lambda rng, content: archive(
        entries_of(content) | {"W_enc.npy": _array("'<f4'", "(8, 1000000)", bytes(32_000_000))}, zipfile.ZIP_DEFLATED
    ),
    "compressed bomb that lies": lambda rng, content: _lying_bomb(),
    "shape huge": _npz(
        lambda: _array("'<f4'", "(1099511627776, 8)", _FLOATS),
        lambda: _array("'<f4'", f"({'9' * 4000}, 8)", _FLOATS),
        lambda: _array("'<f4'", "(0, 1099511627776)", b""),
        lambda: _array("'<f4'", "(" + "1, " * 2000 + ")", b"1234"),
        lambda: _array("'<f4'", "(8, 24)", b"1234"),
    ),
    "shape odd": _npz(
        lambda: _array("'<f4'", "(-8, -24)", _FLOATS),
        lambda: _array("'<f4'", "None", _FLOATS),
        lambda: _array("'<f4'", "(8.0, 24)", _FLOATS),
        lambda: _array("'<f4'", "(True, 192)", _FLOATS),
        lambda: _array("'<f4'", "'x'", _FLOATS),
    ),
    "type odd": _npz(
        *(
            lambda descr=descr: _array(descr, "(8, 24)", _FLOATS)
            for descr in ("'|O'", "'<U8'", "'<c8'", "'|V4'", "[('a', '<f4')]", "'>f4'", "'<M8[s]'", "'nonsense'", "7")
        ),
        lambda: _array("'<f16'", "(8, 24)", bytes(8 * 24 * 16)),
        lambda: _array("'<u4'", "(8, 24)", _FLOATS),
        lambda: _array("('<f4', (2, 2))", "(8, 6)", _FLOATS),
    ),
    "header deep": _npz(
        lambda: _array("(" * 3000, "(8, 24)", _FLOATS),
        lambda: _array("-" * 3000 + "1", "(8, 24)", _FLOATS),
        lambda: _array("'<f4'", "[" * 150 + "]" * 150, _FLOATS),
    ),
    "header odd": _npz(
        lambda: b"\x93NUMPY\x01\x00\xff\xff{}",
        lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        lambda: b"\x93NUMPY\x09\x00\x10\x00{}",
        lambda: b"",
        lambda: b"not an array",
        lambda: _array("'<f4'", "(8, 24)", _FLOATS, fortran="None"),
        lambda: _array("'<f4'", "(8, 24)", _FLOATS, fortran="True"),
        lambda: _array("'<f4'", "(8, 24)", _FLOATS, version=b"\x03\x00"),
        lambda: b"\x93NUMPY\x01\x00\x08\x00\xff\xfe\x00\x00'''(",
    ),
    "objects": _npz(lambda: _array("'|O'", "(1,)", b"cos\nsystem\n(Vtrue\ntR.")),
    "many entries": repacked(
        lambda rng, e: e.update({f"e{i}.npy": _array("'<f4'", "(1,)", b"1234") for i in range(500)})
    ),
    "no entries": lambda rng, content: archive({}),
    "a folder inside": repacked(lambda rng, e: e.update({"folder/": b""})),
    "names odd": repacked(lambda rng, e: e.update({"a\nb\x1b[2J.npy": e.pop("W_enc.npy"), "y" * 5000: b"x"})),
}


def _entry_body(rng: random.Random, content: bytes) -> bytes:
    return flip(rng, content, 60, max(content.find(b"PK\x01\x02"), 61))


@functools.cache
def _lying_bomb() -> bytes:
    """Zeros that unpack to 128 MiB, where both headers of the entry claim the size of a small matrix."""
    honest = _array("'<f4'", "(8, 2400)", bytes(8 * 2400 * 4))  # more than zipfile unpacks ahead
    whole = archive({"W_enc.npy": honest + bytes(128 << 20)}, zipfile.ZIP_DEFLATED)
    return whole.replace(struct.pack("<L", len(honest) + (128 << 20)), struct.pack("<L", len(honest)))
