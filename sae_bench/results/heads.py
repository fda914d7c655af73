"""Heads of results: what lists, tables and rankings need of a result, without what only its own page shows.

A result file is large for its details and its controls, and a sweep has thousands of them. So whoever asks for many
reads every file once, in full and with every check, keeps the head, and reads a file again when its page is drawn. What
many results say alike (where they come from, the conditions) is kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from sae_bench.errors import ResultError, UsageError
from sae_bench.results import store
from sae_bench.schema import CAUTIONS, LOST, MEASURED, Result, TaskSpec
from sae_bench.show import judges, marks
from sae_bench.show.details import Said
from sae_bench.show.text import some

SAID = frozenset({CAUTIONS, LOST, MEASURED, *marks.SAID, *judges.SAID})  # of the details: what stands beside figures
M = TypeVar("M", bound=BaseModel)


class Heads:
    """Reads heads of results; ``installed`` are the tasks whose definition a head need not hold."""

    def __init__(self, installed: Mapping[str, TaskSpec]) -> None:
        self._installed = installed
        self._kept: dict[bytes, BaseModel] = {}

    def read(self, file: Path) -> Result:
        """The head of a result: no controls, of the details what SAID names. Raises what ``store.read`` raises."""
        return self.of(store.read(file))

    def of(self, result: Result) -> Result:
        """The head of a whole result."""
        spec = None if result.task in self._installed else result.definition
        return result.model_copy(
            update={
                "sae": self._once(result.sae),
                "details": said(result),
                "controls": {},
                "provenance": self._once(result.provenance),
                "definition": None if spec is None else self._once(spec),
            }
        )

    def _once(self, record: M) -> M:
        """The record, or the equal one that another head has."""
        key = hashlib.sha256(f"{type(record).__name__}{record.model_dump_json()}".encode()).digest()
        return self._kept.setdefault(key, record)  # type: ignore[return-value]


def check_one_sae(path: Path, results: Iterable[Result]) -> None:
    """That these results below ``path``, or their heads, are of one SAE. Raises UsageError."""
    saes = sorted({(one.sae.name, one.sae.weights_sha256[:12]) for one in results})
    if len(saes) > 1:
        names = some([f"{name!r} ({weights})" for name, weights in saes])
        raise UsageError(f"{path} holds results of {len(saes)} SAEs: {names}; give the folder of one of them")


def said(result: Result) -> Said:
    """The part of the details that a head keeps."""
    return Said((name, value) for name, value in result.details.items() if name in SAID)


def whole(file: Path, head: Result) -> Result:
    """The result of which ``head`` is the head, read again. Raises ResultError, also if it is another by now."""
    result = store.read(file)
    same = (result.sae, result.protocol, result.status, result.units_sha256) == (
        head.sae, head.protocol, head.status, head.units_sha256
    )  # fmt: skip
    if not same or any(result.metrics.get(name) != value for name, value in head.metrics.items()):
        raise ResultError(f"{file} was changed while results were read; run the command again")
    return result
