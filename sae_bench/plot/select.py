"""Which stored figures may stand in one panel: those of one protocol, one suite and one judge, and of no two."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_bench.board.alike import SaeKey, conditions, key_of
from sae_bench.board.collect import Collection, Entry
from sae_bench.board.columns import Column
from sae_bench.board.layout import hook_of
from sae_bench.errors import UsageError
from sae_bench.registry import suggest
from sae_bench.results.store import protocol_hash
from sae_bench.schema import Protocol
from sae_bench.show import judges, marks
from sae_bench.show.results import few
from sae_bench.show.text import ARROWS, line, shortened

MOST_PANELS = 12
_TOLD = {"model", "hooks_in", "hooks_out", "special_ids"}  # otherwise, or by the mask


@dataclass(frozen=True)
class Only:
    """What of a folder of results is wanted: names, commas, globs; None is all. ``protocol``: how its digest begins."""

    model: str | None = None
    hook: str | None = None
    sae: str | None = None
    suite: str | None = None
    protocol: str | None = None


@dataclass(frozen=True)
class Alike:
    """Figures of one metric that may be held against each other, by SAE.

    ``suite`` is the sealed suite that they are of, or says that they are unofficial; ``claim`` is what they say.
    """

    protocol: Protocol
    suite: str
    claim: str
    judge: tuple[str, ...]
    entries: Mapping[SaeKey, Entry]


def metric(name: str, collection: Collection, entries: Sequence[Entry]) -> Column:
    """The metric that a name means, ``task.metric`` or the metric alone. Raises UsageError with what it may have meant.

    Known are the metrics that some result here has a value of.
    """
    known = {
        f"{e.result.task}.{id_}": None
        for e in entries
        for id_, value in e.result.metrics.items()
        if value.value is not None
    }
    found = [id_ for id_ in known if name in (id_, id_.partition(".")[2])]
    if len(found) > 1:
        raise UsageError(f"several tasks have a metric {line(name)!r}: give one of {', '.join(sorted(found))}")
    if not found:
        defined = {f"{task}.{id_}" for task, spec in collection.specs.items() for id_ in spec.metrics}
        bare = {id_.partition(".")[2] for id_ in known}
        if name in defined or name in {one.partition(".")[2] for one in defined}:
            raise UsageError(f"no result here has a value of {name}; {_there(sorted(known))}")
        raise UsageError(f"no metric is named {line(name)[:80]!r}; {_near(name, sorted(known), sorted(bare))}")
    task, _, id_ = found[0].partition(".")
    spec = collection.specs[task].metrics[id_]
    for e in entries:
        if e.result.task == task and id_ in e.result.metrics:  # a figure has one front, or none
            spec = spec.measured_as(e.result.provenance.protocol.task_sha256)
    name = spec.name if len(spec.name) > 1 else f"{spec.name} ({task.replace('_', ' ')})"
    return Column(task, id_, name, ARROWS[spec.better].strip(), spec)


def _near(name: str, ids: Sequence[str], bare: Sequence[str]) -> str:
    close = suggest(name, ids if "." in name else bare)
    return close if close.startswith("did you mean") else _there(ids)


def _there(ids: Sequence[str]) -> str:
    return f"there are: {few(list(ids))}" if ids else "there is no figure at all"


def wanted(collection: Collection, only: Only) -> list[Entry]:
    """The results that are asked for. Raises UsageError for a name that none has, and where nothing is left."""
    entries = list(collection.entries)
    tests: tuple[tuple[str, str | None, Callable[[Entry], str]], ...] = (
        ("model", only.model, lambda e: e.result.provenance.protocol.model),
        ("hook", only.hook, lambda e: hook_of(e.result.provenance.protocol)),
        ("sae", only.sae, lambda e: e.result.sae.name),
        ("suite", only.suite, suite_name),
    )
    for flag, patterns, of in tests:
        if patterns is None:
            continue
        there = sorted({of(e) for e in entries})
        for pattern in (part.strip() for part in patterns.split(",")):
            if entries and not any(fnmatch.fnmatchcase(name, pattern) for name in there):
                raise UsageError(f"--{flag}: no result has {line(pattern)[:80]!r}; there are: {few(there)}")
        entries = [e for e in entries if any(fnmatch.fnmatchcase(of(e), p.strip()) for p in patterns.split(","))]
    if not entries:
        raise UsageError("no result is left to plot")
    return entries


def suite_name(entry: Entry) -> str:
    """The sealed suite of a result in a word, "unofficial" of all that are of none, whatever they claim."""
    return (entry.result.suite or "").partition("@")[0] if entry.official else "unofficial"


def alike(entries: Sequence[Entry], column: Column, *, depth: bool = False) -> list[Alike]:
    """The figures of a metric, a record for each protocol, suite and judge, the most SAEs first.

    With ``depth`` protocols that differ in their hook points alone are one: there each hook point has a place of its
    own on the axis. What must not be ranked is left out (:mod:`sae_bench.show.marks`).
    """
    found: dict[tuple[str, str, str, tuple[str, ...]], dict[SaeKey, Entry]] = {}
    protocols: dict[str, Protocol] = {}
    for e in entries:
        value = e.result.metrics.get(column.metric) if e.result.task == column.task else None
        if value is None or value.value is None or not marks.ranked(e.result):
            continue
        p = e.result.provenance.protocol
        digest = protocol_hash(p.model_copy(update={"hooks_in": (), "hooks_out": ()})) if depth else e.result.protocol
        protocols.setdefault(digest, p)
        key = key_of(e.result.sae)
        place = (digest, line(e.suite), e.result.suite or "", judges.identity(e.result))
        found.setdefault(place, {})[(key[0], f"{key[1]} {hook_of(p)}") if depth else key] = e
    made = [Alike(protocols[d], suite, claim, judge, own) for (d, suite, claim, judge), own in found.items()]
    return sorted(made, key=lambda one: (-len(one.entries), protocol_hash(one.protocol), one.claim, one.judge))


def chosen(groups: Sequence[Alike], only: Only) -> list[Alike]:
    """Those whose protocol's digest begins as asked. Raises UsageError where none does."""
    if only.protocol is None:
        return list(groups)
    kept = [one for one in groups if protocol_hash(one.protocol).startswith(only.protocol)]
    if not kept:
        there = few(sorted({protocol_hash(one.protocol)[:8] for one in groups}))
        raise UsageError(f"--protocol: none of these figures has {line(only.protocol)[:80]!r}; there are: {there}")
    return kept


def beside(one: Alike, others: Sequence[Alike]) -> Alike | None:
    """Of the figures of another metric those that were measured most alike to these; None where there are none.

    Model, hook points and suite are always the same. Equal conditions come first (text, mask, seed), then what has the
    most of these SAEs; labelled sets have no L0 of their own.
    """

    def place(p: Protocol) -> tuple[Any, ...]:
        return p.model_sha256, p.config_sha256, p.dtype, p.hooks_in, p.hooks_out

    near = [o for o in others if place(o.protocol) == place(one.protocol) and o.claim == one.claim]
    return min(
        near,
        key=lambda o: (
            conditions(o.protocol) != conditions(one.protocol),
            o.protocol.mask != one.protocol.mask,
            -len(one.entries.keys() & o.entries.keys()),
            -o.protocol.version,
            -o.protocol.n_documents,
            protocol_hash(o.protocol),
            o.judge,
        ),
        default=None,
    )


def headers(panels: Sequence[tuple[Alike, ...]], *, depth: bool = False) -> list[str]:
    """What tells panels apart, one text a panel: never two alike, and empty where there is one panel.

    Raises UsageError for more panels than a figure holds.
    """
    if len(panels) > MOST_PANELS:
        raise UsageError(
            f"these results were measured in {len(panels)} ways, which need a panel each, and a figure has at most "
            f"{MOST_PANELS}; choose by --model, --hook, --suite or --protocol"
        )
    if len(panels) < 2:
        return [""] * len(panels)
    said = [_fields(panel, depth) for panel in panels]
    names = dict.fromkeys(name for own in said for name in own)
    differ = [name for name in names if len({own.get(name) for own in said}) > 1 and not name.endswith("sha256")]
    made = ["; ".join(_in_words(name, own[name]) for name in differ if name in own) for own in said]
    made = [shortened(line(text), 90) for text in made]
    twice = Counter(made)
    return [
        "; ".join(part for part in (text, _digests(panel)) if part) if twice[text] > 1 or not text else text
        for text, panel in zip(made, panels, strict=True)
    ]


def _digests(panel: Sequence[Alike]) -> str:
    """What no two panels have in common."""
    first = ", ".join(dict.fromkeys(protocol_hash(one.protocol)[:8] for one in panel))
    suites = [line(one.claim.rpartition("@")[2][:8]) for one in panel[:1] if one.claim]
    judge = [f"judge {digest(one.judge)}" for one in panel if one.judge]
    return ", ".join([f"protocol {first}", *(f"suite {own}" for own in suites), *judge[:2]])


def digest(judge: Sequence[str]) -> str:
    """A judge in eight letters."""
    return hashlib.sha256(json.dumps(list(judge)).encode()).hexdigest()[:8]


def _fields(panel: tuple[Alike, ...], depth: bool) -> dict[str, str]:
    first = panel[0]
    made = {"suite": first.suite, "model": first.protocol.model}
    if not depth:
        made["hook"] = hook_of(first.protocol)
    dumps = [one.protocol.model_dump(mode="json", exclude=_TOLD) for one in panel]
    for name in dumps[0]:
        values = [json.dumps(own[name], sort_keys=True) for own in dumps]
        if len(set(values)) == 1:
            made[name] = values[0]
        else:
            made |= {f"{own['task']} {name}": value for own, value in zip(dumps, values, strict=True)}
    return made


def _in_words(name: str, value: str) -> str:
    if name in ("suite", "model", "hook"):
        return value
    plain = shortened(value.strip('"'), 30)
    if name == "n_documents":
        return f"{plain} documents"
    return plain if name == "data" else f"{name.replace('_', ' ')} {plain}"
