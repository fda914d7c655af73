"""The board as one page that opens from disk: tables, plots and details, with all that it needs inside.

Text from results reaches the page in two ways only: through templates that escape it, and through one block of JSON
that is data, not script. The page's own policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sae_bench.board import figures
from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.collect import Collection, Entry
from sae_bench.board.columns import L0, Columns
from sae_bench.board.details import on_page, read
from sae_bench.board.layout import Board, Table, hook_of
from sae_bench.board.text import mark_text, protocols, rank_text, reference_text, score_text
from sae_bench.errors import ResultError, UsageError
from sae_bench.results.heads import whole
from sae_bench.schema import CoderRecord, Result
from sae_bench.show import marks, trust
from sae_bench.show.blocks import AnyBlock
from sae_bench.show.results import bounded_cautions, sampled
from sae_bench.show.text import line, number, with_interval

LARGEST = 4_800_000  # bytes of the page; details are shortened until it fits
SHORTER = (20, 10, 5, 2, 1, 0)  # rows of a detail that are tried, from the most to none
_ENDS = re.compile("[<>&\u2028\u2029]")  # characters that could end the element, or a line of script


def island(content: Any) -> str:
    """Strict JSON in which no character can end the element that holds it."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def as_html(board: Board, collection: Collection, columns: Columns) -> tuple[str, list[str]]:
    """The page, and a sentence for each detail of a result that could not be read.

    Raises UsageError where the extra ``board`` is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise UsageError(f"the page needs the extra 'board' ({error}); pip install 'sae-bench-suite[board]'") from error
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    library, script = _library(), (folder / "page.js").read_text(encoding="utf-8")
    numbers = _numbers(board)
    safe = {"library": library, "script": script, "style": (folder / "page.css").read_text(encoding="utf-8")}
    template = environment.get_template("page.html")
    given: dict[str, Any] = {
        **{name: Markup(text) for name, text in safe.items()},
        "policy": _policy(library, script),
        "tables": [_table(table, numbers) for table in board.tables],
        "choices": _choices(board),
        "problems": [line(problem) for problem in board.problems],
    }
    content = _content(board, collection, columns, numbers)
    shown = _Details(numbers)
    problems = shown.read(collection, columns)
    given["problems"] += [line(problem) for problem in problems]
    bare: str = template.render(given | {"data": ""})
    data = shown.fitted(island(content), LARGEST - len(bare.encode()))
    return template.render(given | {"data": Markup(data)}), problems


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that nothing in it can end."""
    script: str = figures.drawer().javascript_bundle(vl_version=figures.VEGA_LITE)
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    """Only these scripts run, nothing is fetched from anywhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _numbers(board: Board) -> dict[SaeKey, int]:
    """A number for every SAE that the board shows."""
    keys = [key_of(row.sae) for table in board.tables for row in table.rows]
    return {key: i for i, key in enumerate(dict.fromkeys(keys))}


def _choices(board: Board) -> dict[str, list[str]]:
    saes = [row.sae for table in board.tables for row in table.rows]
    return {
        "model": sorted({line(table.model) for table in board.tables}),
        "hook": sorted({line(table.hook) for table in board.tables}),
        "architecture": sorted({line(sae.architecture) for sae in saes}),
        "width": [str(width) for width in sorted({sae.n_latents for sae in saes})],
    }


def _table(table: Table, numbers: dict[SaeKey, int]) -> dict[str, Any]:
    """What the template shows of a table; ``sort`` is what a column is ordered by."""
    rows = []
    for row in table.rows:
        cells = [(column, row.cells.get(column.id)) for column in table.columns]
        scores = [
            {
                "text": score_text(cell, column),
                "mark": mark_text(cell),
                "rank": rank_text(cell),
                "sort": figures.rounded(cell.value.value) if cell.may_lead else None,
            }
            if cell
            else {"text": "", "mark": "", "rank": "", "sort": None}
            for column, cell in cells
        ]
        l0 = None if row.l0 is None else row.l0.value
        rows.append(
            {
                "id": numbers[key_of(row.sae)],
                "name": line(row.sae.name),
                "architecture": line(row.sae.architecture),
                "width": row.sae.n_latents,
                "l0": {"text": number(l0), "sort": figures.rounded(l0)},
                "scores": scores,
                "checked": row.checked,
            }
        )
    references = [
        {"name": line(r.name), "cells": [reference_text(r, column) for column in table.columns]}
        for r in table.references
    ]
    return {
        "group": table.group,
        "model": line(table.model),
        "hook": line(table.hook),
        "conditions": line(table.conditions),
        "columns": [
            {
                "heading": c.heading,
                "about": f"{c.id} in {c.spec.unit}: {c.spec.description} (ranked: {c.spec.ranking})",
                "best": _best(c.spec.better),
            }
            for c in table.columns
        ],
        "rows": rows,
        "references": references,
        "notes": [line(note) for note in (*table.notes, protocols(table))],
    }


def _best(better: str) -> str:
    """Which way a column is ordered first."""
    return "down" if better == "higher" else "up"


def _content(board: Board, collection: Collection, columns: Columns, numbers: dict[SaeKey, int]) -> dict[str, Any]:
    """All that the script needs but the details: SAEs, plots, empty figures."""
    places = []
    for place in figures.places(board, collection, columns):
        keys = [key for key in place.saes if key in numbers]
        values = [
            [
                [figures.rounded(v) for v in (m.value, m.low, m.high)] if (m := axis.values.get(key)) else 0
                for axis in place.axes
            ]
            for key in keys
        ]
        places.append(
            {
                "model": line(place.model),
                "hook": line(place.hook),
                "saes": [numbers[key] for key in keys],
                "axes": [_axis(axis) for axis in place.axes],
                "values": values,
                "plots": place.plots,
            }
        )
    return {
        "saes": [_sae(sae) for sae in {key_of(row.sae): row.sae for t in board.tables for row in t.rows}.values()],
        "places": places,
        "pareto": figures.pareto((), ("", "")),
        "histogram": figures.histogram(),
        "plot": figures.lines(),
    }


def _axis(axis: figures.Axis) -> dict[str, Any]:
    about = {"title": axis.title, "id": axis.id, "sign": axis.sign, "target": axis.target}
    return about | {"equal": axis.at_equal_l0, "l0": axis.id == L0}


def _sae(sae: CoderRecord) -> dict[str, Any]:
    texts = {"name": sae.name, "architecture": sae.architecture, "source": sae.source, "format": sae.format}
    bounded = {name: line(text)[:300] for name, text in texts.items()}
    return {**bounded, "width": sae.n_latents, "sha": line(sae.weights_sha256[:12])}


class _Details:
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
