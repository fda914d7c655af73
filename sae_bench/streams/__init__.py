"""Streams: what a task reads. One file a way of reading, and nobody else asks which one a task has."""

from __future__ import annotations

from functools import cache

from sae_bench import registry
from sae_bench.errors import TaskError
from sae_bench.streams.base import Inputs, Part, Population, Reader, Run, Stream

__all__ = ["Inputs", "Part", "Population", "Reader", "Run", "Stream", "stream"]


@cache
def stream(name: str) -> Stream:
    """The stream of this name. Raises SaeBenchError for one that nothing registers."""
    known = registry.streams()
    if name not in known:
        raise TaskError(f"no stream is named {name!r}; {registry.suggest(name, known)}")
    made: Stream = registry.load(known[name].code)()
    return made
