"""From files and folders to comparisons: which results of several SAEs belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_bench import registry
from sae_bench.errors import UsageError
from sae_bench.results import store
from sae_bench.results.compare import Difference, Loaded, NotComparable, adjusted, comparable, difference, load, refusal
from sae_bench.results.heads import Heads, check_one_sae
from sae_bench.schema import CoderRecord, MetricSpec

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
EVERY_PAIR = len(LETTERS)  # sides of which every pair is compared where nobody says which: 325 pairs


def label(side: int) -> str:
    """The name of a side by its place, from 0: A is the reference, and after Z comes AA, as columns of a sheet."""
    name, rest = "", side + 1
    while rest:
        rest, letter = divmod(rest - 1, len(LETTERS))
        name = LETTERS[letter] + name
    return name


@dataclass(frozen=True)
class Side:
    """The results of one SAE; those without figures are named in ``failed``, with their reasons."""

    path: Path
    results: tuple[Loaded, ...]
    failed: tuple[str, ...]

    @property
    def sae(self) -> CoderRecord:
        """The SAE."""
        return self.results[0].result.sae


@dataclass(frozen=True)
class Match:
    """The results of one task that belong together, one a side."""

    task: str
    results: tuple[Loaded, ...]


@dataclass(frozen=True)
class Comparison:
    """Side ``b`` against side ``a`` (their places), in all metrics that are shown."""

    a: int
    b: int
    rows: tuple[Difference, ...]


def read_side(path: Path, task_dir: str | None = None, *, pass_over: bool = False) -> Side:
    """The results of one SAE; with ``pass_over`` damaged files of a folder are passed over with a warning.

    A gate must not pass over any. Raises UsageError where a folder holds several SAEs, or one result twice.
    """
    if len(store.results_below(path)) > 1:  # before units are read, which all results of a sweep would not fit
        check_one_sae(path, store.each_below(path, Heads({}).read)[0].values())
    if pass_over:
        loaded = list(store.read_below(path, lambda file: load(file, task_dir)).values())
    else:
        loaded = [load(file, task_dir) for file in store.results_below(path)]
    seen: dict[tuple[str, str], Path] = {}
    for x in loaded:
        twin = seen.setdefault((x.result.task, x.result.protocol), x.file)
        if twin != x.file:
            raise UsageError(f"{twin} and {x.file} are the same task under the same protocol; remove one")
    failed = tuple(f"{x.result.task}: {x.result.status}: {x.result.reason}" for x in loaded if x.result.status != "ok")
    good = tuple(x for x in loaded if x.result.status == "ok")
    if not good:
        raise UsageError(f"{path} has no result with figures ({'; '.join(failed)})")
    return Side(path, good, failed)


def read_sides(paths: Sequence[Path], task_dir: str | None = None) -> list[Side]:
    """One side a path, or of a single folder of several SAEs one side an SAE.

    Raises UsageError for fewer than two, or the same one twice.
    """
    if len(paths) == 1:
        paths = _of_each(paths[0])
    if len(paths) < 2:
        raise UsageError(f"compare takes 2 or more results, not {len(paths)}")
    sides = [read_side(path, task_dir, pass_over=True) for path in paths]
    seen: dict[Path, Path] = {}
    for side in sides:
        for own in side.results:
            twin = seen.setdefault(own.file.resolve(), side.path)
            if twin is not side.path:
                raise UsageError(f"{own.file} is given twice ({twin} and {side.path}); compare different results")
    return sides


def _of_each(path: Path) -> list[Path]:
    """The folders of the SAEs below a folder, or the path itself."""
    folders = sorted({file.parent for file in store.results_below(path)})
    return folders if path.is_dir() and len(folders) > 1 else [path]


def match(sides: Sequence[Side], *, other_text: bool = False) -> tuple[list[Match], list[str]]:
    """The tasks that all sides have under comparable protocols, and notes on the others.

    Raises NotComparable where no task is left.
    """
    found: list[Match] = []
    notes: list[str] = []
    refused: list[NotComparable] = []
    for task in dict.fromkeys(x.result.task for side in sides for x in side.results):
        own = [[x for x in side.results if x.result.task == task] for side in sides]
        if lacking := [label(i) for i, results in enumerate(own) if not results]:
            notes.append(f"{task}: no result of {', '.join(lacking)}")
            continue
        options = [m for m in (_matching(task, first, own[1:], other_text) for first in own[0]) if m]
        if not options:
            worst = next(r for r in own[1:] if not any(comparable(own[0][0], x, other_text=other_text) for x in r))
            refused.append(refusal(own[0][0], worst[0]))
            continue
        found.append(_largest(options, notes))
    if not found and refused:
        raise refused[0]
    if not found:
        raise NotComparable("there is no task that all have: " + "; ".join(notes))
    return found, notes + [f"{refusal}" for refusal in refused]


def _matching(task: str, first: Loaded, others: Sequence[Sequence[Loaded]], other_text: bool) -> Match | None:
    """For a result of the first side those of the others that belong to it: of equal protocol rather than others."""
    chosen = [first]
    for results in others:
        fitting = [x for x in results if comparable(first, x, other_text=other_text)]
        if not fitting:
            return None
        chosen.append(max(fitting, key=lambda x: (x.result.protocol == first.result.protocol, _size(x))))
    return Match(task, tuple(chosen))


def _largest(options: Sequence[Match], notes: list[str]) -> Match:
    """The one on most documents. Raises UsageError where that does not decide."""
    ordered = sorted(options, key=lambda m: _size(m.results[0]), reverse=True)
    if len(ordered) > 1:
        sizes = [_size(m.results[0]) for m in ordered]
        if sizes[0] == sizes[1]:
            files = " and ".join(str(m.results[0].file) for m in ordered[:2])
            raise UsageError(
                f"{files} are both results of {ordered[0].task} that can be compared; give one of the files"
            )
        notes.append(
            f"{ordered[0].task}: measured under {len(ordered)} protocols that can be compared; shown is the one with "
            f"most documents, {sizes[0][0]}"
        )
    return ordered[0]


def _size(loaded: Loaded) -> tuple[int, int]:
    """Documents, and of as many the number of replicates: a comparison draws its own, so both would serve."""
    provenance = loaded.result.provenance
    return provenance.protocol.n_documents, provenance.resamples


def choose_metrics(
    matches: Sequence[Match], names: str | None = None, *, everything: bool = False
) -> tuple[dict[str, list[str]], list[str]]:
    """The metrics of each task that all sides have: headline ones, all, or those that ``names`` tells; and notes.

    Raises UsageError for a name that no task has.
    """
    specs: dict[str, MetricSpec] = {}
    for m in matches:
        specs |= m.results[0].spec.metrics
    wanted = set(registry.choose(names, specs, "metric")) if names else None
    chosen: dict[str, list[str]] = {}
    notes = []
    for m in matches:
        defined: Mapping[str, MetricSpec] = m.results[0].spec.metrics
        shown = [n for n, spec in defined.items() if (n in wanted if wanted else everything or spec.headline)]
        having = [set(x.result.metrics) for x in m.results]
        some, every = set[str]().union(*having), set[str].intersection(*having)
        chosen[m.task] = [name for name in shown if name in every]
        for i, one in enumerate(having):
            if missing := [name for name in shown if name in some - one]:
                notes.append(f"{m.task}: {label(i)} has no {', '.join(missing)}")
    if not any(chosen.values()):
        raise UsageError("there is no metric to show that all results have; choose others with --metrics")
    return chosen, notes


def comparisons(
    matches: Sequence[Match],
    chosen: Mapping[str, Sequence[str]],
    *,
    every_pair: bool = False,
    other_text: bool = False,
) -> list[Comparison]:
    """Every side against the first, or every pair; p-values are adjusted over all metrics of a pair."""
    n = len(matches[0].results)
    pairs = [(a, b) for a in range(n if every_pair else 1) for b in range(a + 1, n)]
    found = []
    for a, b in pairs:
        rows = [
            difference(m.results[a], m.results[b], metric, other_text=other_text)
            for m in matches
            for metric in chosen[m.task]
        ]
        found.append(Comparison(a, b, tuple(adjusted(rows))))
    return found
