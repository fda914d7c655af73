"""What the page says of an SAE beyond its scores: every result with its controls and blocks, as long as fits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.collect import Collection, Entry
from sae_bench.board.columns import Columns
from sae_bench.board.details import on_page, read
from sae_bench.board.island import island
from sae_bench.board.layout import hook_of
from sae_bench.errors import ResultError
from sae_bench.results.heads import whole
from sae_bench.schema import Result
from sae_bench.show import marks, trust
from sae_bench.show.blocks import AnyBlock
from sae_bench.show.results import bounded_cautions, sampled
from sae_bench.show.text import line, number, with_interval

LARGEST = 4_800_000  # bytes of the page; details are shortened until it fits
SHORTER = (20, 10, 5, 2, 1, 0)  # rows of a detail that are tried, from the most to none


class Details:
    """What the page says of every result beside its score, at each length at which all of it may still fit.

    A result is read when it is its turn, and what stays of it is text for the page: no more than LARGEST bytes a
    length, but for the shortest.
    """

    def __init__(self, numbers: dict[SaeKey, int]) -> None:
        self._numbers = numbers
        self._made: dict[int, list[list[str]]] = {most: [[] for _ in numbers] for most in SHORTER}
        self._sizes = dict.fromkeys(SHORTER, 0)

    def read(self, collection: Collection, columns: Columns) -> list[str]:
        """Take the details of all results; returns a sentence for each that could not be read."""
        tasks = list(dict.fromkeys(column.task for group in columns.groups for column in group.columns))
        places = {task: place for place, task in enumerate(tasks)}
        problems: list[str] = []
        for e in sorted(collection.entries, key=lambda e: places.get(e.result.task, len(tasks))):
            try:
                result = whole(e.file, e.result)
            except ResultError as error:
                problems.append(f"{error}; its details are not shown")
                continue
            found, own = read(e.file, result, collection.installed)
            problems += own
            if (number := self._numbers.get(key_of(e.result.sae))) is not None:
                self._add(number, e, result, found)
        return problems

    def _add(self, number: int, e: Entry, result: Result, found: Sequence[AnyBlock]) -> None:
        head = _result(e, result)
        for most in list(self._made):
            text = island(head | {"blocks": [on_page(block, most) for block in found]})
            self._made[most][number].append(text)
            self._sizes[most] += len(text.encode()) + 1
            if self._sizes[most] > LARGEST and most != SHORTER[-1]:
                del self._made[most]

    def fitted(self, content: str, room: int) -> str:
        """The page's data, with the details as long as fits into ``room`` bytes. ``content`` is the rest of it."""
        for most, made in self._made.items():
            details = ",".join(f"[{','.join(own)}]" for own in made)
            shortened = "true" if most < SHORTER[0] else "false"
            data = f'{content[:-1]},"details":[{details}],"shortened":{shortened}}}'
            if len(data.encode()) <= room:
                break
        return data


def _result(e: Entry, whole_result: Result) -> dict[str, Any]:
    """Heading, metrics with their controls, and what they must not be read without."""
    r, p = whole_result.model_copy(update={"metrics": e.result.metrics}), whole_result.provenance
    controls, own, marked = list(r.controls)[:12], marks.of(r), marks.of_controls(r)
    rows = []
    for name, metric in r.metrics.items():
        shown = with_interval(metric) if metric.reason is None else f"- ({line(metric.reason)[:200]})"
        shown = marks.beside(shown, own)
        beside = [
            marks.beside(number(r.controls[c][name].value), marked.get(c)) if name in r.controls[c] else ""
            for c in controls
        ]
        rows.append([line(name), shown, line(metric.unit)[:60], metric.n_units, *beside])
    figures_of = list(r.metrics.items())
    trusted = trust.legend(figures_of, signs=True)
    trusted += trust.without_interval([(name, metric.no_interval) for name, metric in figures_of])
    trusted += trust.counted([(r.task, metric.n_units, metric.design_effect) for metric in r.metrics.values()])
    about = (
        f"{p.protocol.model}, {hook_of(p.protocol)}; {p.protocol.n_documents} documents, {p.n_tokens} tokens, mask "
        f"{p.protocol.mask}, {p.protocol.dtype}, protocol {r.protocol[:12]}; {p.device}, {p.platform}; {e.checked}"
    )
    return {
        "title": f"{r.task} v{r.version}",
        "about": line(about)[:600],
        "controls": [line(c) for c in controls],
        "rows": rows,
        "said": [line(one) for one in (*marks.sentences(r), *trusted, *bounded_cautions(r), *sampled([r]))],
    }
