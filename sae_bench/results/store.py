"""Results on disk: ``<out>/<sae>/<weights sha256[:12]>/<task>@v<version>-<protocol[:8]>.json`` and the units beside it.

What the units of several results share stands once, in ``<out>/_shared``: see :mod:`sae_bench.results.unit_files`.

The protocol is part of the name, so that a short run never overwrites a long one. Files are written beside their place
and then renamed: a reader never sees half a result.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sae_bench.errors import ResultError, UsageError
from sae_bench.files import (
    MIB,
    NotFinite,
    at_home,
    json_levels,
    read_bytes,
    strict_json,
    write_atomically,
)
from sae_bench.parsing import first_problem
from sae_bench.results import unit_files
from sae_bench.results.unit_files import read_units as read_units
from sae_bench.results.unit_files import units_of as units_of
from sae_bench.schema import RESULT_SCHEMA, CoderRecord, Protocol, Result
from sae_bench.units import Units

T = TypeVar("T")
MOST_RESULT = 64 * MIB  # bytes
PASSED_OVER = "; this file is passed over"
DEEPEST = 100  # levels of a result: whoever walks through one does so by recursion


def protocol_hash(protocol: Protocol) -> str:
    """sha256 over all that changes a number. Only results of equal hash are compared.

    Model and data count by their content: the names under which they were found do not. What is None is left out, so
    that older results, which know less of themselves, keep their hash.
    """
    unknown = {name for name, value in protocol if value is None}
    return hashlib.sha256(protocol.model_dump_json(exclude={"model", "data"} | unknown).encode()).hexdigest()


def path_of(out: str | Path, sae: CoderRecord, task: str, version: int, protocol: str) -> Path:
    """Where a result belongs: always three levels below ``out``, whatever the names hold."""
    file = f"{_part(task)}@v{version}-{_part(protocol[:8])}.json"
    return at_home(out) / _part(sae.name) / _part(sae.weights_sha256[:12]) / file


def _part(name: str) -> str:
    """A name as one part of a path: no separator, no leading dot, at most 120 bytes (file systems take 255)."""
    safe = re.sub(r"[^\w.+-]+", "__", name).strip("._") or "sae"
    return safe.encode()[:120].decode(errors="ignore")


def write(out: str | Path, result: Result, tables: dict[str, Units]) -> Path:
    """Write a result, its units and ``sae.json``; returns the path of the result. Raises ResultError."""
    return written(out, result, tables)[1]


def written(out: str | Path, result: Result, tables: dict[str, Units]) -> tuple[Result, Path]:
    """As :func:`write`; returns the result as it is written, with the digest of its units, and its path."""
    file = path_of(out, result.sae, result.task, result.version, result.protocol)
    if tables:
        result = result.model_copy(update={"units_sha256": unit_files.write(file, tables)})
    write_atomically(file.parent / "sae.json", to_json(result.sae.model_dump(mode="json")))
    write_atomically(file, to_json(result.model_dump(mode="json")))
    return result, file


def renamed(out: str | Path, result: Result) -> None:
    """Write the result again where it is, under another claim of a suite; its units stay. Raises ResultError."""
    file = path_of(out, result.sae, result.task, result.version, result.protocol)
    write_atomically(file, to_json(result.model_dump(mode="json")))


def check_units(file: Path, result: Result) -> None:
    """That the file of units beside the result ``file`` is the one it was made of, and what it shares. ResultError."""
    unit_files.check(file, result.units_sha256)


def units_problem(file: Path, result: Result) -> str | None:
    """What :func:`check_units` says, or None."""
    try:
        check_units(file, result)
    except ResultError as error:
        return str(error)
    return None


def check_whole(file: Path, result: Result) -> None:
    """That all is there of which the result ``file`` was made. Raises ResultError."""
    check_units(file, result)
    if result.units_sha256 is None and any(metric.n_units for metric in result.metrics.values()):
        needed = {metric.table for metric in result.definition.metrics.values()} if result.definition else set()
        tables = read_units(file)
        if not tables or not needed <= tables.keys():
            raise ResultError(f"{units_of(file)} does not hold the tables of which {file.name} was made")


def to_json(content: Any) -> bytes:
    """Strict JSON (null, never NaN), readable, with a final newline."""
    return (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read(file: str | Path) -> Result:
    """One result. Raises ResultError that names the file and the field."""
    file = at_home(file)
    raw = read_bytes(file, most=MOST_RESULT)
    try:
        content = _content(raw.decode("utf-8"), file)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{file} is not valid JSON ({error}); is it truncated?") from error
    newer = content.get("schema_version") if isinstance(content, dict) else None
    if type(newer) is int and newer > RESULT_SCHEMA:
        raise ResultError(f"{file} has result schema {newer}, this sae-bench knows {RESULT_SCHEMA}; update sae-bench")
    try:
        result = Result.model_validate(content)
    except (ValidationError, RecursionError) as error:
        field, message = first_problem(error) if isinstance(error, ValidationError) else ("", "it is nested too deeply")
        where = f"{field!r}: " if field else ""  # repr: a field of a file from elsewhere may be named with anything
        raise ResultError(f"{file} is not a result of sae-bench: {where}{message}") from error
    if result.protocol != protocol_hash(result.provenance.protocol):
        raise ResultError(
            f"{file}: 'protocol' must be the hash of 'provenance.protocol', but is not; the file was changed, or "
            "written by another version of sae-bench: measure again"
        )
    return result


def _content(text: str, file: Path) -> Any:
    """Strict JSON of finite numbers that is not too deep, in one pass. Raises ValueError, and ResultError for NaN."""
    try:
        content = strict_json(text, finite=True)
        strange = json_levels(text, DEEPEST) > DEEPEST
    except NotFinite:  # which one it is takes a walk, which files that are whole need not take
        content = strict_json(text)
        strange = True
    if strange and (bad := _not_finite(content)):
        raise ResultError(f"{file}: {bad!r} is not a finite number; a result holds null and a reason instead")
    return content


def _not_finite(content: Any, path: str = "", depth: int = 0) -> str | None:
    """Where there is a NaN or an infinity, which Python reads but JSON does not have. ValueError for deep nests."""
    if depth > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if isinstance(content, float):
        return None if math.isfinite(content) else path
    parts = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = (_not_finite(part, f"{path}.{key}".lstrip("."), depth + 1) for key, part in parts)
    return next((place for place in found if place is not None), None)


def results_below(path: str | Path) -> list[Path]:
    """Which files are results: the file itself, or all result files at any depth below a folder, in order.

    Hidden files and folders (``.partial``) are passed over; a link to a folder is followed, each folder once. Raises
    UsageError where there is nothing.
    """
    path = at_home(path)
    if not path.exists():
        raise UsageError(f"there is no file or folder {path}; give a result file, or a folder of results")
    files = list(find(path)) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"there is no result below {path}; `sae-bench run` writes results, --out says where")
    return files


def read_below(path: str | Path, load: Callable[[Path], T]) -> dict[Path, T]:
    """What ``load`` makes of every result below ``path``, with a warning for each damaged file of a folder.

    Raises what :func:`each_below` raises, and ResultError where no result can be read.
    """
    found, problems = each_below(path, load)
    if not found:
        first = problems[0].removesuffix(PASSED_OVER)
        raise ResultError(f"none of {len(problems)} results below {path} can be read; the first: {first}")
    for problem in problems:
        warnings.warn(problem, stacklevel=2)
    return found


def each_below(path: str | Path, load: Callable[[Path], T]) -> tuple[dict[Path, T], list[str]]:
    """What ``load`` makes of every result below ``path``, in order; a sentence for each file that it refuses.

    One damaged file does not hide the others of its folder. Raises UsageError where there is nothing, ResultError for
    a file that was named itself.
    """
    found: dict[Path, T] = {}
    problems: list[str] = []
    for file in results_below(path):
        try:
            found[file] = load(file)
        except ResultError as error:
            if not at_home(path).is_dir():
                raise
            problems.append(f"{error}{PASSED_OVER}")
    return found, problems


def find(out: str | Path) -> Iterator[Path]:
    """All result files at any depth below the folder ``out``, in order; none where there is none."""
    seen: set[str] = set()
    found: list[Path] = []
    for folder, names, files in os.walk(at_home(out), followlinks=True):
        real = os.path.realpath(folder)
        names[:] = sorted(name for name in names if not name.startswith(".") and real not in seen)
        found += [Path(folder, name) for name in files if real not in seen and _is_result(name)]
        seen.add(real)
    yield from sorted(found)


def _is_result(name: str) -> bool:
    return fnmatch.fnmatchcase(name, "*@v*.json") and not name.startswith(".")
