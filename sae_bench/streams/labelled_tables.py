"""From the rows of labelled texts to tables: a coder's own columns beside those of floor and ceiling."""

from __future__ import annotations

from sae_bench.data.labelled import Suite
from sae_bench.engine.checkpoint import Arrays
from sae_bench.engine.plan import Cast
from sae_bench.engine.workspace import Entry
from sae_bench.metrics.labelled import CEILING, FLOOR
from sae_bench.streams.channels import channels_key, is_identity
from sae_bench.units import Column, Units


def ceiling_key(hook: str) -> str:
    """The key under which the full residual stream at a hook point is measured."""
    return f"@{hook}/residual"


def measured_as(entry: Entry, cast: Cast) -> str:
    """The key of the coder whose codes these are, and whose rows are therefore its rows."""
    if is_identity(entry):
        return channels_key(entry.hook_in)
    for other in cast.entries:
        if other.encoder is entry.encoder:
            return other.key
    return entry.key


_COMMON = ("set", "text", "examples", "positive")


def wanted_keys(entry: Entry, cast: Cast) -> tuple[str, str, str]:
    """The keys under which a coder's rows, and those of floor and ceiling, are measured."""
    return measured_as(entry, cast), channels_key(entry.hook_in), ceiling_key(entry.hook_in)


def labelled_tables(rows: Arrays, task: str, entry: Entry, cast: Cast, suite: Suite) -> dict[str, Units]:
    """The tables "example" and "dataset" of a coder, with the columns of floor and ceiling beside its own."""
    own = _table(rows, task, measured_as(entry, cast))
    hook = entry.hook_in
    columns = dict(own["example"])
    for prefix, key in ((FLOOR, channels_key(hook)), (CEILING, ceiling_key(hook))):
        shared = _table(rows, task, key)["example"]
        columns |= {prefix + name: c for name, c in shared.items() if name not in _COMMON}
    sets, texts = columns.pop("set"), columns.pop("text")
    names = [f"{one.name}@{one.digest}" for one in suite.sets]
    unit_ids = suite.tokens.unit_ids
    ids = tuple(f"{names[int(s)]}:{unit_ids[int(t)]}" for s, t in zip(sets, texts, strict=True))
    facts = own["dataset"]
    dataset = Units(tuple(names[int(s)] for s in facts["set"]), {n: c for n, c in facts.items() if n != "set"})
    return {"example": Units(ids, columns), "dataset": dataset}


def reference_tables(rows: Arrays, task: str, entry: Entry, cast: Cast, suite: Suite) -> dict[str, dict[str, Units]]:
    """The tables of what stands beside every SAE at its hook point: best channels, and the full residual stream."""
    whole = labelled_tables(rows, task, entry, cast, suite)["example"]
    common: dict[str, Column] = {n: whole.columns[n] for n in ("examples", "positive")}
    found = {}
    for label, prefix in (("best_channels", FLOOR), ("full_residual", CEILING)):
        own = {n.removeprefix(prefix): c for n, c in whole.columns.items() if n.startswith(prefix)}
        shared = {n: c for n, c in whole.columns.items() if n.startswith((FLOOR, CEILING))}
        found[label] = {"example": Units(whole.ids, common | own | shared)}
    return found


def _table(rows: Arrays, task: str, key: str) -> dict[str, dict[str, Column]]:
    tables: dict[str, dict[str, Column]] = {"example": {}, "dataset": {}}
    for (name, owner, column), values in rows.items():
        kind, _, short = column.partition(".")
        if (name, owner) == (task, key) and kind in tables:
            tables[kind][short] = values
    return tables
