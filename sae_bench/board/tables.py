"""Tables of a run: every score with its interval, between its controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from sae_bench.schema import MetricValue, Result, TaskSpec

ARROWS = {"higher": "↑", "lower": "↓", "none": " "}


def number(value: float | None) -> str:
    """Four significant digits; a dash for what has no value."""
    if value is None:
        return "-"
    return f"{value:.4g}" if abs(value) < 1e5 else f"{value:.3e}"


def with_interval(metric: MetricValue) -> str:
    """A figure as "0.0934 [0.0921, 0.0947]"; a dash where there is no value."""
    if metric.value is None:
        return "-"
    if metric.low is None or metric.high is None:
        return number(metric.value)
    return f"{number(metric.value)} [{number(metric.low)}, {number(metric.high)}]"


def result_tables(results: Sequence[Result], specs: Mapping[str, TaskSpec], *, everything: bool = False) -> str:
    """One table an SAE: a row a metric, the SAE's score with its interval, then the score of every control.

    Only headline metrics unless ``everything``. Metrics without a value, errors and skipped tasks follow with reasons.
    """
    parts = []
    for name in dict.fromkeys(result.sae.name for result in results):
        own = [result for result in results if result.sae.name == name]
        parts.append(_header(own[0]))
        measured = [result for result in own if result.status == "ok"]
        if measured:
            parts.append(_table(measured, specs, everything))
        parts += _notes(own, specs, everything)
    return "\n".join(parts)


def _header(result: Result) -> str:
    sae, p = result.sae, result.provenance
    hooks = sae.hooks_in[0] if sae.hooks_in == sae.hooks_out else f"{sae.hooks_in[0]} -> {sae.hooks_out[0]}"
    return printable(
        f"\n{sae.name}: {sae.architecture}, {sae.n_latents} latents, {hooks} of {p.protocol.model}; "
        f"{p.protocol.n_documents} documents ({p.n_tokens} tokens), mask {p.protocol.mask}, "
        f"protocol {result.protocol[:8]}"
    )


def _table(results: Sequence[Result], specs: Mapping[str, TaskSpec], everything: bool) -> str:
    controls = list(dict.fromkeys(name for result in results for name in result.controls))
    rows = []
    for result in results:
        for name, metric in result.metrics.items():
            spec = specs[result.task].metrics.get(name) if result.task in specs else None
            if spec is not None and not spec.headline and not everything:
                continue
            target = f" (target {spec.target:g})" if spec is not None and spec.target is not None else ""
            row = [result.task, f"{name} {ARROWS[metric.better]}{target}", with_interval(metric)]
            rows.append(row + [_control(result, control, name) for control in controls])
    headers = ["task", "metric", "score [95 % interval]", *controls]
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
    return [printable(note) for note in notes]


def printable(text: str) -> str:
    """Names come from files that we do not trust: no control characters reach a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text)
