"""Results from a folder: what can be shown, and a sentence for each thing that cannot.

Kept of a result are its head and the values of its controls; whoever draws its details reads it again, one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sae_bench.errors import ResultError
from sae_bench.registry import suggest
from sae_bench.results import store
from sae_bench.results.definitions import all_known
from sae_bench.results.heads import Heads
from sae_bench.results.verified import STATES, State, state_of
from sae_bench.schema import Result, TaskSpec
from sae_bench.show import judges
from sae_bench.suites.claims import Claims

CONFIDENCE = 0.95  # of every interval on the board
UNOFFICIAL = "unofficial (no suite)"


Controls = Mapping[str, Mapping[str, float]]  # by control and metric, those that have a value


@dataclass(frozen=True)
class Entry:
    """The head of a result, the file it is from, how far it was checked, and the values of its controls.

    ``suite`` is the sealed suite that it is of, or says that it is of none ("unofficial ..."); ``official`` which.
    """

    file: Path
    result: Result
    checked: State
    controls: Controls
    suite: str = UNOFFICIAL
    official: bool = False


@dataclass(frozen=True)
class Collection:
    """All that can be shown, in the order of the files, and the sentences about the rest.

    ``specs`` are the definitions of all tasks: those that are ``installed``, and of others the one that a result holds.
    """

    entries: tuple[Entry, ...]
    problems: tuple[str, ...]
    specs: Mapping[str, TaskSpec]
    installed: Mapping[str, TaskSpec]


def collect(folder: Path, installed: Mapping[str, TaskSpec], suites: str | Path | None = None) -> Collection:
    """Read all results below ``folder``, or the one file. Raises UsageError where there is no result at all.

    What a result says of its suite is held against the files of suites, those in the folder ``suites`` or those that
    ship: one whose claim does not hold is shown as unofficial, and the reason is a problem.
    """
    entries: list[Entry] = []
    heads, names, claims = Heads(installed), _Names(), Claims(suites)

    def load(file: Path) -> tuple[Result, Controls]:
        result = _consistent(file, store.read(file))
        return heads.of(result), names.values(result)

    found, problems = store.each_below(folder, load)
    specs, unknown = all_known({file: one for file, (one, _) in found.items() if one.measured}, installed)
    problems += unknown
    for file, (result, controls) in found.items():
        state, problem = state_of(file)
        problems += [problem] if problem else []
        if not result.measured:
            problems.append(f"{file}: 'status' is {result.status}, so it is not shown: {result.reason}")
            continue
        if result.task in specs:
            shown = _known_metrics(file, result, specs[result.task], problems)
            why = claims.problem(result)
            if why is not None and result.suite is not None:
                problems.append(f"{file}: it is shown as unofficial: {why}")
            entries.append(Entry(file, shown, state, controls, claims.label(result), why is None))
    return Collection(tuple(_without_duplicates(entries, problems)), tuple(problems), specs, installed)


class _Names:
    """The values of controls under names that are in memory once."""

    def __init__(self) -> None:
        self._once: dict[str, str] = {}

    def values(self, result: Result) -> Controls:
        return {
            self._name(control): {self._name(name): m.value for name, m in metrics.items() if m.value is not None}
            for control, metrics in result.controls.items()
        }

    def _name(self, name: str) -> str:
        return self._once.setdefault(name, name)


def _consistent(file: Path, result: Result) -> Result:
    """Refuse a result whose heading is not what its protocol says. Raises ResultError."""
    p = result.provenance.protocol
    fields = (
        ("task", result.task, p.task),
        ("version", result.version, p.version),
        ("sae.hooks_in", result.sae.hooks_in, p.hooks_in),
        ("sae.hooks_out", result.sae.hooks_out, p.hooks_out),
    )
    for field, found, expected in fields:
        if found != expected:
            name = field.removeprefix("sae.")
            raise ResultError(f"{file}: {field!r} is {found!r}, but 'provenance.protocol.{name}' is {expected!r}")
    if result.provenance.confidence != CONFIDENCE:
        raise ResultError(
            f"{file}: 'provenance.confidence' is {result.provenance.confidence}, but the board shows intervals of "
            f"{CONFIDENCE}; measure again without another confidence"
        )
    return result


def _known_metrics(file: Path, result: Result, spec: TaskSpec, problems: list[str]) -> Result:
    """The result with the metrics that its task defines."""
    defined = spec.metrics
    bad = set()
    for name, value in result.metrics.items():
        if name not in defined:
            problems.append(
                f"{file}: 'metrics': {result.task} has no metric {name!r}; {suggest(name, defined)}; it is left out"
            )
            bad.add(name)
        elif value.better != defined[name].better or value.unit != defined[name].unit:
            problems.append(
                f"{file}: 'metrics.{name}' is in {value.unit!r} with better {value.better!r}, but its definition says "
                f"{defined[name].unit!r} and {defined[name].better!r}; it is left out"
            )
            bad.add(name)
    if not bad:
        return result
    return result.model_copy(update={"metrics": {k: v for k, v in result.metrics.items() if k not in bad}})


def _without_duplicates(entries: list[Entry], problems: list[str]) -> list[Entry]:
    """One result for an SAE, a protocol and a judge: the most checked one, else the first."""
    kept: dict[tuple[str, str, str, tuple[str, ...]], Entry] = {}
    for entry in entries:
        sae = entry.result.sae
        key = (sae.name, sae.weights_sha256, entry.result.protocol, judges.identity(entry.result))
        first = kept.get(key)
        if first is None:
            kept[key] = entry
            continue
        better, worse = first, entry
        if STATES.index(entry.checked) > STATES.index(first.checked):
            better, worse = entry, first
        kept[key] = better
        problems.append(
            f"{worse.file}: 'sae' and 'protocol' are those of {better.file}; only the latter is shown, remove one"
        )
    return sorted(kept.values(), key=lambda entry: entry.file)
