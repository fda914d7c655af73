"""The summary of results: which SAEs stand in one table, with which figures, ranks, verdicts and warnings.

One table holds SAEs of one model, hook point, text and suite. A figure under another protocol of its task is another
column, so that none holds two. Ranks are those of the board (:mod:`sae_bench.board.cells`), verdicts those that results
hold (``Result.against``). Nothing depends on the order of the results.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sae_bench.board.alike import SaeKey
from sae_bench.board.cells import Cell, cells_of, cost_of
from sae_bench.board.collect import Entry
from sae_bench.board.ranks import Ranker
from sae_bench.board.summary_columns import L0, Columns, Key, held
from sae_bench.board.summary_notes import Told, notes_of
from sae_bench.board.summary_parts import Found, beside, found_in, labelled, parts
from sae_bench.schema import Against, MetricValue, Result, TaskSpec
from sae_bench.show import against, marks, trust
from sae_bench.show.results import population
from sae_bench.show.summary import CLOSE, GAP, TIE, WORSE, Line, Summary

VERDICTS = {"better": "beats", "worse": "below", "cannot be told apart": "ties"}


def summaries(
    results: Mapping[Path, Result],
    specs: Mapping[str, TaskSpec],
    *,
    others: Mapping[Path, Result] | None = None,
    task_dir: str | None = None,
) -> list[Summary]:
    """A summary for each model, hook point, text and suite; lines are numbered through all of them.

    ``others`` are results of further SAEs, which have no line and are ranked among. Heads of results will do.
    """
    further = found_in({file: one for file, one in (others or {}).items() if file not in results})
    names: dict[str, set[str]] = {}
    for one in results.values():
        names.setdefault(one.provenance.protocol.model_sha256, set()).add(one.provenance.protocol.model)
    made: list[Summary] = []
    for part in parts(found_in(results), specs):
        first = 1 + sum(len(one.lines) for one in made)
        model = " = ".join(sorted(names[part[0].result.provenance.protocol.model_sha256]))
        made.append(_Table(part, beside(part, further), specs, task_dir).summary(first, model))
    return made


class _Table:
    """The results of one table on their way to a summary."""

    def __init__(
        self, part: Sequence[Found], others: Sequence[Found], specs: Mapping[str, TaskSpec], task_dir: str | None
    ) -> None:
        self.part = part
        self.columns = Columns(part, specs)
        self.of_sae: dict[SaeKey, list[Found]] = {}
        for one in part:
            self.of_sae.setdefault(one.sae, []).append(one)
        self.others: dict[SaeKey, list[Found]] = {}
        for one in others:
            self.others.setdefault(one.sae, []).append(one)
        self.problems: list[str] = []
        self.cells, self.how = self._ranked(task_dir)

    def _ranked(self, task_dir: str | None) -> tuple[dict[SaeKey, Cell], list[str]]:
        """The deciding figure of every SAE with its range of ranks, and how ranks were made."""
        key, metric = self.columns.by, self.columns.metric()
        if key is None or metric is None:
            return {}, []
        every = self.of_sae | self.others
        by_sae: dict[SaeKey, Mapping[str, Entry]] = {}
        for sae, own in every.items():
            if (found := held(own, key)) is not None:
                entry = Entry(file=found[0].file, result=found[0].result, checked="reported", controls={})
                by_sae[sae] = {key[0]: entry}
        l0s = {sae: _l0(own) for sae, own in every.items()}
        cells, how = cells_of(by_sae, [metric], Ranker(True, self.problems, task_dir), l0s)
        return {sae: own[metric.id] for sae, own in cells.items()}, how

    def summary(self, first: int, model: str) -> Summary:
        """The summary, its lines ordered by L0 and then by the deciding figure, and numbered from ``first``."""
        order = sorted(self.of_sae, key=self._order)
        called = Counter(name for name, _ in order)
        plain = self._plain()
        lines = []
        for number, sae in enumerate(order, first):
            name = f"{sae[0]} ({sae[1][:8]})" if called[sae[0]] > 1 else sae[0]
            lines.append(self._line(number, sae, name, plain))
        told = Told(
            numbers={sae: number for number, sae in enumerate(order, first)},
            of_sae=self.of_sae,
            columns=self.columns,
            cells=self.cells,
            others=frozenset(self.others),
            how=(*self.how, *self.problems),
        )
        by = None if self.columns.by is None else self.columns.shown[self.columns.by].key
        return Summary(
            title=self._title(model),
            columns=tuple(
                replace(column, sign=CLOSE if plain.get(key) and not all(plain.values()) else "")
                for key, column in self.columns.shown.items()
            ),
            lines=tuple(lines),
            notes=tuple(notes_of(told)),
            by=by,
            ranked=any(one.rank != "-" for one in lines),
            judged=any(one.control is not None for one in lines),
            suite=self.part[0].suite,
            official=self.part[0].official,
        )

    def _plain(self) -> dict[Key, bool]:
        """Of each column that has intervals whether all of them are too narrow: then the heading says so for all."""
        found = {key: [own[1] for one in self.of_sae.values() if (own := held(one, key))] for key in self.columns.shown}
        return {key: trust.all_marked(own) for key, own in found.items() if any(one.low is not None for one in own)}

    def _order(self, sae: SaeKey) -> tuple[float, float, str, str]:
        l0, cell, metric = _l0(self.of_sae[sae]), self.cells.get(sae), self.columns.metric()
        known = cell is not None and cell.value.value is not None and metric is not None
        cost = cost_of(cell, metric) if known and cell is not None and metric is not None else math.inf
        return math.inf if l0 is None else l0, cost, *sae

    def _line(self, number: int, sae: SaeKey, name: str, plain: Mapping[Key, bool]) -> Line:
        texts: dict[str, str] = {}
        figures: dict[str, float | None] = {}
        for key, column in self.columns.shown.items():
            if (found := held(self.of_sae[sae], key)) is not None:
                result, value = found[0].result, found[1]
                texts[column.key] = figure(value.value) + self._signs(key, result, value, plain.get(key, False))
                figures[column.key] = value.value
            elif any((one.result.task, one.result.protocol) == (key[0], key[2]) for one in self.of_sae[sae]):
                texts[column.key] = figure(None)  # it failed or was skipped: a note says why
        best = best_control(self.of_sae[sae], self.columns.by)
        verdict = "-" if best is None else f"{VERDICTS.get(best[1].verdict, best[1].verdict)} {best[0]}"
        return Line(
            number=number,
            name=name,
            weights_sha256=sae[1],
            cells=texts,
            figures=figures,
            rank=self._rank(self.cells.get(sae)),
            verdict=verdict,
            control=None if best is None else best[0],
            results=tuple(one.result for one in self.of_sae[sae]),
        )

    def _rank(self, cell: Cell | None) -> str:
        if cell is None or (cell.rank is None and cell.unranked is None):
            return "-"
        if cell.rank is None:
            return "alone" if cell.group is not None or ALONE in (cell.unranked or "") else "-"
        low, high = cell.rank
        of = cell.group.n if cell.group is not None else sum(one.rank is not None for one in self.cells.values())
        return f"{low if low == high else f'{low}-{high}'} of {of}"

    def _signs(self, key: Key, result: Result, value: MetricValue, plain: bool) -> str:
        """What stands behind a figure: that it is not whole, that its interval is too narrow, and who is as good."""
        signs = GAP if marks.of(result) is not None else ""
        signs += CLOSE if value.optimistic and not plain else ""
        best = against.nearest(result, key[1]) if self.columns.orders(key) and key != self.columns.by else None
        return signs + {"cannot be told apart": TIE, "worse": WORSE}.get(best[1].verdict if best else "", "")

    def _title(self, model: str) -> str:
        """Model and hook point, what was measured on, and by which suite."""
        texts = [one.result for one in self.part if not labelled(one.result, self.columns.specs)]
        largest = max(texts, key=lambda one: one.provenance.protocol.n_documents, default=None)
        said = [population(largest)] if largest is not None else []
        others = [one.result for one in self.part if labelled(one.result, self.columns.specs)]
        on_sets = [one for one in others if "coverage" in one.provenance.data]
        # What was not read is said where it lacks.
        read = [one for one in on_sets if one.status != "skipped"] or on_sets
        if largest is None:
            said += sorted({str(one.provenance.data["coverage"]): population(one) for one in read}.values())
        elif read:
            said.append(_of_sets(read))
        said.append(self.part[0].suite)
        return f"{model}, {self.part[0].place[1]}: {'; '.join(said)}"


def _of_sets(read: Sequence[Result]) -> str:
    """How many of how many sets were read, as most tasks say it, and which tasks say something else."""
    by: dict[str, set[str]] = {}
    for one in read:
        by.setdefault(str(one.provenance.data["coverage"]), set()).add(one.task)
    most, *others = sorted(by, key=lambda coverage: (-len(by[coverage]), min(by[coverage])))
    beside = "; ".join(f"{', '.join(sorted(by[coverage]))}: {coverage}" for coverage in others)
    return f"{most} labelled sets{f' ({beside})' if beside else ''}"


ALONE = "no other is within"


def best_control(own: Iterable[Found], key: Key | None) -> tuple[str, Against] | None:
    """How an SAE does against the strongest control in the deciding figure; None where nothing is said of it."""
    found = None if key is None else held(list(own), key)
    if found is None or key is None or found[1].value is None:
        return None
    return against.nearest(found[0].result, key[1])


def _l0(own: Iterable[Found]) -> float | None:
    """The L0 of one SAE in a table; that on other text is another."""
    for one in own:
        r = one.result
        if r.task == L0[0] and L0[1] in r.metrics and marks.ranked(r):
            return r.metrics[L0[1]].value
    return None


def figure(value: float | None) -> str:
    """Three significant digits, and whole numbers from 1000 on; a dash for what has no value."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e7 else f"{value + 0.0:.3g}"
