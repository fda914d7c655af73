"""Opening ``.npz`` archives: entries that are stored as they are get mapped, nothing is unpickled."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.files import opened
from sae_bench.saes.config import listed, plain, shown

_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # of a zip entry
_MOST_EXPANSION = 20  # deflated weights shrink by far less
_SMALL = 64 << 20  # bytes that may come from next to nothing: biases that are all zero
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # those of numpy


def open_npz(file: Path) -> dict[str, Tensor]:
    """The arrays of ``file`` as tensors. Raises CoderError."""
    found: dict[str, Tensor] = {}
    try:
        with opened(file, CoderError) as raw, zipfile.ZipFile(file) as archive:
            _check_expansion(file, archive.infolist())
            for entry in archive.infolist():
                name = entry.filename.removesuffix(".npy")
                if name in found:
                    raise CoderError(f"{file} holds {listed([name])} twice; save the arrays again")
                found[name] = _tensor(file, archive, raw, entry)
    except CoderError:
        raise
    except FileNotFoundError as error:
        raise CoderError(f"{file} is missing") from error
    except OSError as error:
        raise CoderError(f"{file} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # whatever zipfile, its decompressors and numpy's parser raise on damaged bytes
        problem = plain(error) or type(error).__name__
        raise CoderError(f"{file} is not a valid npz archive ({problem}); is it truncated?") from error
    return found


def _check_expansion(file: Path, entries: list[zipfile.ZipInfo]) -> None:
    if any(entry.compress_type not in _METHODS for entry in entries):
        raise CoderError(f"{file} is packed in another way than numpy does; save the arrays again")
    packed = [entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    size, unpacked = sum(entry.compress_size for entry in packed), sum(entry.file_size for entry in packed)
    if size > file.stat().st_size or unpacked > max(_SMALL, _MOST_EXPANSION * size):
        raise CoderError(
            f"{file} unpacks from {size} bytes to {unpacked}, which no weights do; it is damaged or malicious"
        )


def _tensor(file: Path, archive: zipfile.ZipFile, raw: IO[bytes], entry: zipfile.ZipInfo) -> Tensor:
    name = listed([entry.filename])
    with archive.open(entry) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        start = stream.tell()
        if dtype.hasobject or dtype.kind not in "fiu":
            raise CoderError(f"{file}: {name} holds {plain(dtype)}, not numbers")
        if any(size < 0 for size in shape) or _bytes(shape, dtype) != entry.file_size - start:
            raise CoderError(f"{file}: {name} claims the shape {shown(shape)}, but holds another size")
        if entry.compress_type != zipfile.ZIP_STORED:
            array = np.frombuffer(bytearray(stream.read(entry.file_size - start)), dtype=dtype)  # and no more
        else:
            array = _mapped(file, raw, entry, start, dtype, _bytes(shape, dtype) // dtype.itemsize)
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    return torch.from_numpy(array.reshape(shape, order="F" if fortran else "C"))


def _mapped(
    file: Path, raw: IO[bytes], entry: zipfile.ZipInfo, start: int, dtype: np.dtype[np.generic], count: int
) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    """The numbers of a stored entry, copied on write; an empty one cannot be mapped."""
    raw.seek(entry.header_offset)
    fields = _LOCAL_HEADER.unpack(raw.read(_LOCAL_HEADER.size))
    offset = entry.header_offset + _LOCAL_HEADER.size + fields[-2] + fields[-1] + start
    if offset + count * dtype.itemsize > file.stat().st_size:
        raise CoderError(f"{file}: {listed([entry.filename])} lies beyond the end of the file; is it truncated?")
    if count == 0:
        return np.zeros(0, dtype)
    return np.memmap(file, dtype, "c", offset, (count,))


def _bytes(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> int:
    size = dtype.itemsize
    for n in shape:
        size *= n
    return size
