"""Which layout a folder or file has: by names of files and of the tensors in their headers, in a fixed order."""

from __future__ import annotations

from typing import Protocol

from sae_bench import registry
from sae_bench.errors import CoderError, SaeBenchError, named
from sae_bench.saes.config import listed
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import SUFFIXES, Source
from sae_bench.settings import Told

_DEEPEST = 4  # folders below the one that the user gave
_MOST_LISTED = 5


class Reader(Protocol):
    """What a format module has."""

    def matches(self, source: Source) -> bool:
        """Whether the folder or file has this layout."""

    def read(self, source: Source, told: Told) -> Reading:
        """What is in it. Raises CoderError."""


def reader(entry: registry.Entry) -> Reader:
    """The code of a format."""
    loaded: Reader = registry.load(entry)
    return loaded


def detect(source: Source, named: str | None = None) -> tuple[registry.Entry, Source]:
    """The format of ``source``, or of the one SAE below it, and where that SAE lies. Raises CoderError.

    ``named`` is the format that the user told, with a variant of it behind a colon where the reader has some.
    """
    known = registry.formats()
    if named is not None:
        chosen = registry.choose(named.partition(":")[0], known, "format")
        if len(chosen) != 1:
            raise CoderError(f"--format must name one format, but {named!r} names {len(chosen)}")
        _check_variant(named, known[chosen[0]])
        return known[chosen[0]], _narrowed(source, known[chosen[0]])
    if entry := _format_of(source):
        return entry, source
    if source.main is not None:
        beside = Source(source.folder, label=source.label, origin=source.origin)
        if entry := _format_of(beside):
            return entry, beside
        raise CoderError(_unknown(source))
    found, problem = _below(source)
    if len(found) == 1:
        return found[0]
    if found:
        paths = sorted(place.path.relative_to(source.path).as_posix() for _, place in found)
        some = ", ".join(paths[:_MOST_LISTED]) + (", ..." if len(paths) > _MOST_LISTED else "")
        remote = "repository" in source.origin
        start = f"hf:{source.label}" if remote else str(source.path)
        glob = "" if remote else f", or all as --sae '{start}/{'/'.join('*' * (paths[0].count('/') + 1))}'"
        raise CoderError(f"{start} holds several SAEs ({some}): give one of them, as --sae {start}/{paths[0]}{glob}")
    raise problem or CoderError(_unknown(source))


def _check_variant(named: str, entry: registry.Entry) -> None:
    """Refuse what stands behind a colon unless it is one of the reader's ``VARIANTS``."""
    variants = getattr(reader(entry), "VARIANTS", ())
    if ":" in named and named not in variants:
        known = ", ".join(variants) or "none"
        raise CoderError(f"--format {named}: there is no such variant of {entry.name}; the variants are {known}")


def _format_of(source: Source) -> registry.Entry | None:
    return next((entry for entry in registry.formats().values() if _matches(entry, source)), None)


def _matches(entry: registry.Entry, source: Source) -> bool:
    """Whether a layout is recognised; one that another package registers and that fails is left out with a warning."""
    try:
        return reader(entry).matches(source)
    except Exception as error:
        if not entry.origin or isinstance(error, CoderError):
            raise
        registry.left_out(entry.origin, error if isinstance(error, SaeBenchError) else named(error))
        return False


def _narrowed(source: Source, entry: registry.Entry) -> Source:
    """For a format that the user named: the one file of weights of a folder, if the format reads files."""
    if source.main is not None or reader(entry).matches(source):
        return source
    files = [source.folder / name for name in sorted(source.names) if name.endswith(SUFFIXES)]
    if len(files) != 1:
        return source
    return Source(files[0], label=f"{source.label}/{files[0].name}", origin=source.origin)


def _below(source: Source, depth: int = 0) -> tuple[list[tuple[registry.Entry, Source]], CoderError | None]:
    """The SAEs in a folder that is none itself, and what was wrong with the first that cannot be opened."""
    found: list[tuple[registry.Entry, Source]] = []
    problem: CoderError | None = None
    for path in sorted(source.path.iterdir()):
        below = Source(path, label=f"{source.label}/{path.name}", origin=source.origin)
        try:
            if (path.is_file() and path.suffix in SUFFIXES) or path.is_dir():
                if entry := _format_of(below):
                    found.append((entry, below))
                elif path.is_dir() and depth < _DEEPEST:
                    more, trouble = _below(below, depth + 1)
                    found, problem = found + more, problem or trouble
        except CoderError as error:
            problem = problem or error
    return found, problem


def _unknown(source: Source) -> str:
    known = ", ".join(registry.formats())
    holds = source.keys() if source.main else [path.name for path in source.path.iterdir()]
    return (
        f"{source.path} is not an SAE in a known layout ({known}); it holds {listed(holds, 5) or 'nothing'}. "
        "'sae-bench ls formats' describes them; give --format NAME, or your own code as --sae module:factory"
    )
