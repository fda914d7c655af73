"""From the rows of labelled texts to tables: a coder's own columns beside those of floor and ceiling."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sae_bench.data.labelled import Suite
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.plan import Cast
from sae_bench.engine.workspace import Entry
from sae_bench.metrics.labelled import BEST_CHANNELS, CEILING, FLOOR, FULL_RESIDUAL
from sae_bench.streams.channels import channels_key, is_identity
from sae_bench.tasks.labelled import LabelledTask
from sae_bench.units import Column, Units, nested


def ceiling_key(hook: str) -> str:
    """The key under which the full residual stream at a hook point is measured."""
    return f"@{hook}/residual"


def encoded_as(entry: Entry, cast: Cast) -> str:
    """The key of the coder whose codes these are."""
    return next((other.key for other in cast.entries if other.encoder is entry.encoder), entry.key)


def measured_as(entry: Entry, cast: Cast, task: LabelledTask) -> str:
    """The key of the coder whose rows of a task are those of ``entry``: one of the same codes, if only they count."""
    if is_identity(entry):
        return channels_key(entry.hook_in)
    return entry.key if task.sees_decoder else encoded_as(entry, cast)


_COMMON = ("set", "text", "examples", "positive")


def wanted_keys(entry: Entry, cast: Cast, task: LabelledTask) -> tuple[str, ...]:
    """The keys under which a coder's rows of a task, and those of floor and ceiling if it has them, are measured."""
    own = measured_as(entry, cast, task)
    return (own, channels_key(entry.hook_in), ceiling_key(entry.hook_in)) if task.references else (own,)


def labelled_tables(rows: Arrays, task: LabelledTask, entry: Entry, cast: Cast, suite: Suite) -> dict[str, Units]:
    """The tables "example" and "dataset" of a coder, with the columns of floor and ceiling beside its own.

    Rows of refits follow those of examples, see :mod:`sae_bench.units.nested`.
    """
    keys = zip(("", FLOOR, CEILING), wanted_keys(entry, cast, task), strict=False)  # the coder's own may be alone
    tables = {prefix: _table(rows, task.spec.id, key) for prefix, key in keys}
    own = tables[""]
    columns: dict[str, Column] = {}
    for prefix, table in tables.items():
        for name, column in table["example"].items():
            if name in ("set", "text") or (prefix and name in _COMMON):
                continue
            columns[prefix + name] = np.concatenate([column, table["refit"][name]])
    names = [f"{one.name}@{one.token_digest if task.on_tokens else one.digest}" for one in suite.sets]
    unit_ids = suite.tokens.unit_ids
    sets, texts = own["example"]["set"], own["example"]["text"]
    ids = [f"{names[int(s)]}:{unit_ids[int(t)]}" for s, t in zip(sets, texts, strict=True)]
    drawn = zip(own["refit"]["set"], own["refit"]["number"], strict=True)
    ids += [f"{names[int(s)]}:{nested.refit_name(int(r))}" for s, r in drawn]
    of_ceiling = tables[CEILING]["dataset"] if CEILING in tables else {}
    facts = own["dataset"] | {n: c for n, c in of_ceiling.items() if n != "set"}
    dataset = Units(tuple(names[int(s)] for s in facts["set"]), {n: c for n, c in facts.items() if n != "set"})
    return {"example": Units(tuple(ids), columns), "dataset": dataset}


def refit_rows(sums: Mapping[str, Column], columns: Mapping[str, Column], number: int) -> dict[str, Column]:
    """The rows of a set's refits from their ``sums`` ``[number]`` over its test examples, which have ``columns``.

    As :mod:`sae_bench.units.nested` says: deviations from the mean of all, over sqrt(INFLATION (number - 1)). A column
    of which refits say nothing is 0.
    """
    rows = {name: np.zeros((number, *column.shape[1:])) for name, column in columns.items()}
    for name, column in sums.items():
        rows[name] = (column - column.mean(0)) / (nested.INFLATION * max(1, number - 1)) ** 0.5
    return rows


def reference_tables(
    rows: Arrays, task: LabelledTask, entry: Entry, cast: Cast, suite: Suite
) -> dict[str, dict[str, Units]]:
    """The tables of what stands beside every SAE at its hook point: best channels, and the full residual stream."""
    whole = labelled_tables(rows, task, entry, cast, suite)["example"]
    common: dict[str, Column] = {n: whole.columns[n] for n in ("examples", "positive")}
    found = {}
    for label, prefix in ((BEST_CHANNELS, FLOOR), (FULL_RESIDUAL, CEILING)):
        own = {n.removeprefix(prefix): c for n, c in whole.columns.items() if n.startswith(prefix)}
        shared = {n: c for n, c in whole.columns.items() if n.startswith((FLOOR, CEILING))}
        found[label] = {"example": Units(whole.ids, common | own | shared)}
    return found


def _table(rows: Arrays, task: str, key: str) -> dict[str, dict[str, Column]]:
    tables: dict[str, dict[str, Column]] = {"example": {}, "dataset": {}, "refit": {}}
    for (name, owner, column), values in rows.items():
        kind, _, short = column.partition(".")
        if (name, owner) == (task, key) and kind in tables:
            tables[kind][short] = values
    return tables


def append(rows: Arrays, more: Arrays) -> None:
    """Put columns behind those of the same name."""
    for key, column in more.items():
        rows[key] = np.concatenate([rows[key], column]) if key in rows else column
