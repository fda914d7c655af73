"""Tables of a run: every score with its interval, between its controls."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from sae_bench.schema import LOST, MEASURED, NO_LATENTS, MetricValue, Result, TaskSpec
from sae_bench.show import against, judges, marks, trust
from sae_bench.show.fitted import table, wrapped
from sae_bench.show.text import ARROWS, line, number, shortened, with_interval

DESIGN = "design effect"
MOST_CAUTIONS, MOST_SAID = 8, 400  # sentences beside a result, and characters of each


def result_tables(
    results: Sequence[Result],
    specs: Mapping[str, TaskSpec],
    *,
    everything: bool = False,
    columns: int | None = None,
) -> str:
    """One table an SAE: a row a metric, the SAE's score with its interval, then the score of every control.

    Only headline metrics unless ``everything``. Lines keep to so many ``columns``; None: to none. Metrics without a
    value, errors and skipped tasks follow with reasons, and so does what must not be read without.
    Results of one SAE on other data, another model or another mask are another table.
    """
    tables = tables_of(results).values()
    parts = [part for own in tables for part in table_of(own, specs, everything=everything, columns=columns)]
    return "\n".join([*parts, *_sentences(without_figures(results), columns)])


def _sentences(said: Sequence[str], columns: int | None) -> list[str]:
    return [piece for one in said for piece in wrapped(one, columns, then="  ")]


def without_figures(results: Sequence[Result], shown: Container[str] | None = None) -> list[str]:
    """Why controls stand in none of the tables: a column that is not there says nothing of itself.

    ``shown`` are those that do, which heads of results do not say. That `mean` has no latents, nobody needs to be told.
    """
    shown = {name for result in results for name in result.controls} if shown is None else shown
    found: dict[str, list[str]] = {}
    for result in results:
        for name, why in lost_controls(result).items():
            if name not in shown:
                found.setdefault(f"control {name} has no figures: {why}", []).append(result.sae.name)
    return [line(f"{said} ({few(list(dict.fromkeys(names)))})") for said, names in found.items()]


def lost_controls(result: Result) -> dict[str, str]:
    """Why controls have no figures, by name, but for those that have no latents in a task that measures these."""
    lost = result.details.get(LOST)
    return {
        str(name): shortened(str(why), MOST_SAID)
        for name, why in (lost.items() if isinstance(lost, Mapping) else ())
        if why != NO_LATENTS
    }


Key = tuple[str, str, str]


def tables_of(results: Sequence[Result]) -> dict[Key, list[Result]]:
    """The results of each table, in the order of the first of each; heads of results will do."""
    found: dict[Key, list[Result]] = {}
    for result in results:
        found.setdefault(_key(result), []).append(result)
    return found


def table_of(
    results: Sequence[Result],
    specs: Mapping[str, TaskSpec],
    *,
    everything: bool = False,
    columns: int | None = None,
) -> list[str]:
    """One of the tables, with its header and notes."""
    measured = [result for result in results if result.measured]
    drawn = _table(measured, specs, everything, columns) if measured else []
    shown = [(name, metric) for _, name, metric in _shown(measured, specs, everything)]
    below = [*against.sentences(measured, specs), *trusted(shown), *sampled(results)]
    said = _sentences([*below, *_notes(results, specs, everything)], columns)
    return ["", *_sentences([_header(results)], columns), *drawn, *said]


def _key(result: Result) -> Key:
    """Equal for results that one header describes: the same SAE, and the same protocol but for the task."""
    conditions = result.provenance.protocol.model_dump_json(exclude={"task", "version", "task_sha256"})
    return result.sae.name, result.sae.weights_sha256, conditions


def _header(results: Sequence[Result]) -> str:
    sae, p = results[0].sae, results[0].provenance
    protocols = ", ".join(f"{result.task} {result.protocol[:8]}" for result in results)
    hooks = sae.hooks_in[0] if sae.hooks_in == sae.hooks_out else f"{sae.hooks_in[0]} -> {sae.hooks_out[0]}"
    return line(
        f"{sae.name}: {sae.architecture}, {sae.n_latents} latents, {hooks} of {p.protocol.model}; "
        f"{population(results[0])}{_calibration(results[0])}, mask {p.protocol.mask}, protocol {protocols}"
    )


def _calibration(result: Result) -> str:
    """On how many documents mean and controls rest; nothing where none were measured."""
    p = result.provenance
    documents, tokens = p.n_calibration_documents, p.n_calibration_tokens
    return (
        f", {documents} more to calibrate ({tokens} tokens)"
        if documents and p.protocol.mean_from != "evaluation"
        else ""
    )


def population(result: Result) -> str:
    """What was measured on: documents, or labelled sets, and of how many."""
    p = result.provenance
    if "coverage" in p.data:
        return f"{p.data['coverage']} labelled sets ({p.protocol.n_documents} texts, {p.n_tokens} tokens)"
    short = p.data.get("documents_skipped_as_too_short", 0)
    left_out = f", {short} left out as too short" if isinstance(short, int) and short > 0 else ""
    return f"{p.protocol.n_documents} documents ({p.n_tokens} tokens{left_out})"


def _table(
    results: Sequence[Result], specs: Mapping[str, TaskSpec], everything: bool, columns: int | None
) -> list[str]:
    controls = list(dict.fromkeys(name for result in results for name in result.controls))
    shown = _shown(results, specs, everything)
    every = trust.all_marked(metric for _, _, metric in shown)
    clustered = any(metric.design_effect is not None for _, _, metric in shown)
    rows = []
    for result, name, metric in shown:
        spec = specs[result.task].metrics.get(name) if result.task in specs else None
        target = f" (target {spec.target:g})" if spec is not None and spec.target is not None else ""
        score = marks.beside(with_interval(metric, plain=every), marks.of(result))
        row = [result.task, f"{name} {ARROWS[metric.better]}".rstrip() + target, score, str(metric.n_units)]
        row += [trust.effect(metric.design_effect)] if clustered else []
        rows.append([*row, *(_control(result, control, name) for control in controls)])
    headers = ["task", "metric", "score [95 % interval]", "groups", *([DESIGN] if clustered else []), *controls]
    return table([[header] for header in headers], rows, columns=columns, left=frozenset(range(len(headers))), keep=2)


def _shown(
    results: Sequence[Result], specs: Mapping[str, TaskSpec], everything: bool
) -> list[tuple[Result, str, MetricValue]]:
    """The figures of a table: headline ones, unless ``everything``, and those of tasks that are not installed."""
    return [
        (result, name, metric)
        for result in results
        for name, metric in result.metrics.items()
        if everything or result.task not in specs or name not in specs[result.task].metrics
        or specs[result.task].metrics[name].headline
    ]  # fmt: skip


def trusted(shown: Sequence[tuple[str, MetricValue]]) -> list[str]:
    """What stands once below a table: which intervals are too narrow, what has none, and what a design effect is."""
    clustered = any(metric.design_effect is not None for _, metric in shown)
    said = trust.legend(shown) + trust.without_interval([(name, metric.no_interval) for name, metric in shown])
    return said + ([trust.DESIGN] if clustered else [])


def _control(result: Result, control: str, metric: str) -> str:
    values = result.controls.get(control, {})
    if metric not in values:
        return ""
    return marks.beside(number(values[metric].value), marks.of_controls(result).get(control))


def bounded_cautions(result: Result) -> list[str]:
    """The sentences that a result must not be read without, as many and as long as may stand beside it."""
    return [shortened(caution, MOST_SAID) for caution in result.cautions[:MOST_CAUTIONS]]


def cautioned(results: Sequence[Result]) -> list[str]:
    """The cautions of several results, each once, with the SAEs that it is said of."""
    found: dict[str, list[str]] = {}
    for result in results:
        for caution in bounded_cautions(result):
            found.setdefault(f"{result.task}: {caution}", []).append(result.sae.name)
    return [f"{said} ({few(list(dict.fromkeys(names)))})" for said, names in found.items()]


def sampled(results: Sequence[Result]) -> list[str]:
    """That controls stand on fewer documents than the SAEs beside them; heads of results will do."""
    found: dict[tuple[int, int], list[str]] = {}
    for result in results:
        beside = result.details.get(MEASURED)
        for own in beside.values() if isinstance(beside, Mapping) else ():
            n = own.get("documents") if isinstance(own, Mapping) else None
            of_all = result.provenance.protocol.n_documents
            if isinstance(n, int) and 0 < n < of_all:
                found.setdefault((n, of_all), []).append(result.task)
    return [
        f"Controls of {', '.join(dict.fromkeys(tasks))}: measured on {n} of the {of_all} documents, and on all where "
        "an SAE cannot be told from one."
        for (n, of_all), tasks in found.items()
    ]


def few(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _notes(results: Sequence[Result], specs: Mapping[str, TaskSpec], everything: bool) -> list[str]:
    notes = []
    for result in results:
        if not result.measured:
            notes.append(f"{result.task}: {result.status}: {result.reason}")
        notes += [f"{result.task}: {said}" for said in (*marks.sentences(result), *bounded_cautions(result))]
        if judges.judged(result):
            notes.append(f"{result.task}: judged by {judges.in_words(result)}")
        for name, metric in result.metrics.items():
            spec = specs[result.task].metrics.get(name) if result.task in specs else None
            shown = everything or spec is None or spec.headline
            if metric.reason and shown:
                notes.append(f"{name}: no value, because {metric.reason}")
    return [line(note) for note in notes]
