"""Tables of a run: every score with its interval, between its controls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tabulate import tabulate

from sae_bench.schema import MetricValue, Result, TaskSpec

ARROWS = {"higher": "↑", "lower": "↓", "none": " "}


def number(value: float | None) -> str:
    """Four significant digits, five for whole numbers that have them; a dash for what has no value."""
    if value is None:
        return "-"
    return f"{value:.0f}" if 9999.5 <= abs(value) < 99999.5 else f"{value + 0.0:.4g}"  # + 0.0: no "-0"


def with_interval(metric: MetricValue) -> str:
    """A figure as "0.0934 [0.0921, 0.0947]"; a dash where there is no value."""
    return span(metric.value, metric.low, metric.high)


def span(value: float | None, low: float | None, high: float | None) -> str:
    """A value with its interval, to two digits of the interval's width; a dash where there is no value."""
    if value is None:
        return "-"
    if low is None or high is None:
        return number(value)
    width = high - low
    if not 1e-6 * max(abs(value), 1.0) < width < 1e5:
        return f"{number(value)} [{number(low)}, {number(high)}]"
    decimals = max(0, 1 - math.floor(math.log10(width)))
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def result_tables(results: Sequence[Result], specs: Mapping[str, TaskSpec], *, everything: bool = False) -> str:
    """One table an SAE: a row a metric, the SAE's score with its interval, then the score of every control.

    Only headline metrics unless ``everything``. Metrics without a value, errors and skipped tasks follow with reasons.
    Results of one SAE on other data, another model or another mask are another table.
    """
    parts = []
    for key in dict.fromkeys(_table_of(result) for result in results):
        own = [result for result in results if _table_of(result) == key]
        parts.append(_header(own))
        measured = [result for result in own if result.status == "ok"]
        if measured:
            parts.append(_table(measured, specs, everything))
        parts += _notes(own, specs, everything)
    return "\n".join(parts)


def _table_of(result: Result) -> tuple[str, str, str]:
    """Equal for results that one header describes: the same SAE, and the same protocol but for the task."""
    conditions = result.provenance.protocol.model_dump_json(exclude={"task", "version", "task_sha256"})
    return result.sae.name, result.sae.weights_sha256, conditions


def _header(results: Sequence[Result]) -> str:
    sae, p = results[0].sae, results[0].provenance
    protocols = ", ".join(f"{result.task} {result.protocol[:8]}" for result in results)
    hooks = sae.hooks_in[0] if sae.hooks_in == sae.hooks_out else f"{sae.hooks_in[0]} -> {sae.hooks_out[0]}"
    return "\n" + line(
        f"{sae.name}: {sae.architecture}, {sae.n_latents} latents, {hooks} of {p.protocol.model}; "
        f"{population(results[0])}, mask {p.protocol.mask}, protocol {protocols}"
    )


def population(result: Result) -> str:
    """What was measured on: documents, or labelled sets, and of how many."""
    p = result.provenance
    if "coverage" in p.data:
        return f"{p.data['coverage']} labelled sets ({p.protocol.n_documents} texts, {p.n_tokens} tokens)"
    return f"{p.protocol.n_documents} documents ({p.n_tokens} tokens)"


def _table(results: Sequence[Result], specs: Mapping[str, TaskSpec], everything: bool) -> str:
    controls = list(dict.fromkeys(name for result in results for name in result.controls))
    rows = []
    for result in results:
        for name, metric in result.metrics.items():
            spec = specs[result.task].metrics.get(name) if result.task in specs else None
            if spec is not None and not spec.headline and not everything:
                continue
            target = f" (target {spec.target:g})" if spec is not None and spec.target is not None else ""
            row = [result.task, f"{name} {ARROWS[metric.better]}".rstrip() + target, with_interval(metric)]
            rows.append([line(cell) for cell in row] + [_control(result, control, name) for control in controls])
    headers = ["task", "metric", "score [95 % interval]", *map(line, controls)]
    table: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return table


def _control(result: Result, control: str, metric: str) -> str:
    values = result.controls.get(control, {})
    return number(values[metric].value) if metric in values else ""


def _notes(results: Sequence[Result], specs: Mapping[str, TaskSpec], everything: bool) -> list[str]:
    notes = []
    for result in results:
        if result.status != "ok":
            notes.append(f"{result.task}: {result.status}: {result.reason}")
        for name, metric in result.metrics.items():
            spec = specs[result.task].metrics.get(name) if result.task in specs else None
            shown = everything or spec is None or spec.headline
            if metric.reason and shown:
                notes.append(f"{name}: no value, because {metric.reason}")
    return [line(note) for note in notes]


def printable(text: str) -> str:
    """Names come from files that we do not trust: no control characters reach a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)


def line(text: str) -> str:
    """Printable and on one line: a name cannot pretend to be a row of its own."""
    return printable(text).replace("\n", "?")
