"""Streams: what a task reads. One file a way of reading, and nobody else asks which one a task has."""

from __future__ import annotations

from functools import cache

from sae_bench import registry
from sae_bench.errors import SaeBenchError, TaskError, named
from sae_bench.streams.base import Inputs, Part, Population, Reader, Run, Stream

__all__ = ["Inputs", "Part", "Population", "Reader", "Run", "Stream", "stream"]


@cache
def stream(name: str) -> Stream:
    """The stream of this name. Raises SaeBenchError for one that nothing registers."""
    known = registry.streams()
    if name not in known:
        raise TaskError(f"no stream is named {name!r}; {registry.suggest(name, known)}")
    entry = known[name]
    made = registry.load(entry)
    try:
        made = made()
    except Exception as error:
        raise SaeBenchError(f"{entry.origin or entry.code} cannot be opened: {named(error)}") from error
    if not isinstance(made, Stream):
        raise SaeBenchError(f"{entry.origin or entry.code} must make a Stream, not {type(made).__name__}")
    return made
