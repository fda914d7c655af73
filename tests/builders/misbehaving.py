"""Tasks that do what a task may not, each by the parameter ``how`` of its definition; their module of figures too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench.schema import TaskSpec
from sae_bench.tasks.base import Site, Task, View
from sae_bench.units import Units
from sae_bench.units.bootstrap import Metric, Sums

DEFINITION = """
id = "{how}"
version = 1
title = "{how}"
question = "What happens if it does {how}?"
code = "tests.builders.misbehaving:Misbehaving"
figures = "tests.builders.misbehaving"
[parameters]
how = "{how}"
[metrics.tokens]
name = "tokens"
unit = "1"
better = "none"
table = "document"
description = "number of tokens of all documents"
"""
# what each does, and what is said of it
HOW = {
    **{f"{method}_raises": f"{method} raises ZeroDivisionError: oh" for method in ("shared", "measure", "totals")},
    **{f"{method}_raises": f"{method} raises ZeroDivisionError: oh" for method in ("tables", "details", "unusable")},
    "metrics_raises": "the metric tokens, on the table document, raises ZeroDivisionError: oh",
    "metrics_shape": "the metric tokens, on the table document, raises ValueError: a metric must return one number ",
    "metrics_text": "the metric tokens, on the table document, raises ",
    "nan": "the column n of measure is NaN or infinite for document ",
    "nan_totals": "the column n of totals is NaN or infinite",
    "shape": "the column n of measure has the shape [1, 1, 1], and must have one row for each of ",
    "other_columns": "measure returned the columns n before, and now m",
    "other_width": "the column n of measure had the shape [2] before, and now [3]",
    "other_totals": "the column n of totals had the shape [2] before, and now [3]",
    "complex": "the column n of measure must hold real numbers, not complex128",
    "nothing": "measure, shared and totals return no column at all",
    "text": "measure must return columns by name, not str",
    "number": "measure must return tensors under names without /, and 'n' is a float",
    "no_table": "its metrics are made of the table document, which is not made",
    "no_units": "tables must return tables of units by name",
    "details_set": "details must be plain JSON, but Object of type set is not JSON serializable",
    "details_nan": "details must be plain JSON, but Out of range float values are not JSON compliant",
    "details_list": "details must be an object, not list",
}


def write_all(folder: Path) -> Path:
    """A folder with a task for each, to be given as ``--task-dir``."""
    for how in HOW:
        (folder / how).mkdir(parents=True)
        (folder / how / "task.toml").write_text(DEFINITION.format(how=how), encoding="utf-8")
    return folder


class Misbehaving(Task):
    """Number of tokens of a document, in the column n."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        self.how: str = spec.parameters["how"]
        self.batches = 0

    def _raise_in(self, method: str) -> None:
        if self.how == f"{method}_raises":
            raise ZeroDivisionError("oh\nand more")

    def shared(self, site: Site) -> dict[str, Tensor]:
        self._raise_in("shared")
        return {}

    def measure(self, view: View) -> Any:
        self._raise_in("measure")
        self.batches += 1
        n = view.sum(view.kept.double(), view.kept)
        wrong: dict[str, Any] = {
            "nan": {"n": n * torch.nan},
            "shape": {"n": torch.ones(1, 1, 1)},
            "nothing": {},
            "text": "n",
            "number": {"n": float(n[0])},
            "complex": {"n": n * 1j},
            "other_width": {"n": torch.ones(len(n), min(1 + self.batches, 3))},
        }
        if self.how == "other_columns" and self.batches > 1:
            return {"m": n}
        return wrong.get(self.how, {"n": n})

    def totals(self, view: View) -> dict[str, Tensor]:
        self._raise_in("totals")
        wrong = {"nan_totals": torch.full((2,), torch.inf), "other_totals": torch.ones(min(1 + self.batches, 3))}
        return {"n": wrong[self.how]} if self.how in wrong else {}

    def tables(self, rows: Units, totals: Any) -> Any:
        self._raise_in("tables")
        return {"no_table": {"other": rows}, "no_units": [rows]}.get(self.how, {"document": rows})

    def unusable(self, tables: Mapping[str, Units]) -> str | None:
        self._raise_in("unusable")
        return None

    def details(self, tables: Mapping[str, Units]) -> Any:
        self._raise_in("details")
        wrong = {"details_set": {"a": {1}}, "details_nan": {"a": float("nan")}, "details_list": [1]}
        return wrong.get(self.how, {})


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    def tokens(s: Sums) -> Any:
        if parameters["how"] == "metrics_raises":
            raise ZeroDivisionError("oh")
        wrong: dict[str, Any] = {"metrics_text": "many", "metrics_shape": np.ones(7)}
        return wrong.get(parameters["how"], s.n)

    return {"tokens": tokens}
