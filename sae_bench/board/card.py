"""A summary as Markdown for the model card of SAEs: table, verdicts, how it was measured, and what repeats it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sae_bench.builtin import DEFAULT_CONTROLS
from sae_bench.results.environment import sentence, took_part
from sae_bench.schema import Result, TaskSpec
from sae_bench.show import against, judges
from sae_bench.show.fitted import shell
from sae_bench.show.results import population
from sae_bench.show.summary import Column, Line, Summary, as_markdown
from sae_bench.show.text import code, line, markdown, some

TAGS = ("sparse-autoencoder", "sae-bench")
DIGITS = 12  # of a digest
OURS = ("suite", "demo")  # labelled sets that nobody names by a folder, beside the lists, which have a definition


def as_card(summaries: Sequence[Summary], specs: Mapping[str, TaskSpec], *, front_matter: bool = False) -> str:
    """The Markdown of a model card's section; with ``front_matter`` a whole card, whose figures the hub shows too."""
    parts = [_front_matter(summaries, specs)] if front_matter else []
    parts.append("# Evaluation with sae-bench" if front_matter else "## Evaluation with sae-bench")
    for one in summaries:
        parts += _section(one, specs)
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _section(summary: Summary, specs: Mapping[str, TaskSpec]) -> list[str]:
    results = [result for one in summary.lines for result in one.results]
    measured = [result for result in results if result.measured] or results
    return [
        f"### {markdown(summary.title)}",
        "\n".join(as_markdown(summary)),
        "**The SAEs**",
        "\n".join(_saes(summary.lines)),
        *_verdicts(summary, specs),
        "**How it was measured**",
        "\n".join(f"- {one}" for one in (markdown(summary.suite), *_measured(measured))),
        "\n".join(_protocols(measured)),
        "**To repeat it** (a name is that of the file or folder that was read; digests say which)",
        f"```bash\n{command(summary)}\n```",
    ]


def _saes(lines: Iterable[Line]) -> Iterator[str]:
    yield "| # | SAE | architecture | latents | sha256 of the weights |"
    yield "|--:|:--|:--|--:|:--|"
    for one in lines:
        sae = one.results[0].sae
        digest = code(sae.weights_sha256[:DIGITS])
        yield f"| {one.number} | {code(sae.name)} | {markdown(sae.architecture)} | {sae.n_latents} | {digest} |"


def _verdicts(summary: Summary, specs: Mapping[str, TaskSpec]) -> list[str]:
    """Each figure that orders SAEs against its best control, with the interval of the difference."""
    said = []
    for one in summary.lines:
        held = []
        for column in summary.columns:
            spec = specs[column.task].metrics.get(column.metric) if column.task in specs else None
            for result in _of(column, one):
                if spec is None or not spec.measured_as(result.provenance.protocol.task_sha256).orders:
                    continue
                if (best := against.nearest(result, column.metric)) is not None:
                    held.append(f"{column.name} {against.in_words(*best)}")
        if held:
            said.append(f"- line {one.number}: {markdown('; '.join(dict.fromkeys(held)))}")
    return ["**Against the best control, by pairs**", "\n".join(said)] if said else []


def _of(column: Column, one: Line) -> list[Result]:
    """The results of a line that a column shows."""
    wanted = (column.task, column.protocol)
    return [r for r in one.results if r.measured and (r.task, r.protocol) == wanted and column.metric in r.metrics]


def _measured(results: Sequence[Result]) -> Iterator[str]:
    """Model, texts, groups behind intervals, controls, versions and machine."""
    p = results[0].provenance
    yield f"model: {code(p.protocol.model)}, weights {code(p.protocol.model_sha256[:DIGITS])}, {p.protocol.dtype}"
    place = p.protocol.hooks_in if p.protocol.hooks_in == p.protocol.hooks_out else (
        *p.protocol.hooks_in, "to", *p.protocol.hooks_out
    )  # fmt: skip
    yield f"hook point: {code(' '.join(place))}"
    texts = {(r.provenance.protocol.data, r.provenance.protocol.data_sha256, population(r)): None for r in results}
    for data, digest, what in texts:
        yield f"text: {code(data)}, {markdown(what)}, sha256 {code(digest[:DIGITS])}"
    calibration = f"{p.n_calibration_documents} documents ({p.n_calibration_tokens} tokens)"
    yield f"calibration: {calibration}, sha256 {code(p.protocol.calibration_sha256[:DIGITS])}"
    groups: dict[int, list[str]] = {}
    for one in results:
        for metric in one.metrics.values():
            if metric.n_units and one.task not in groups.setdefault(metric.n_units, []):
                groups[metric.n_units].append(one.task)
    said = "; ".join(f"{n} groups of {some(sorted(own))}" for n, own in sorted(groups.items(), reverse=True) if own)
    yield f"intervals: 95 %, over {markdown(said)}"
    yield f"controls: {some([code(one) for one in p.controls], 20) or 'none'}"
    for words in dict.fromkeys(f"{one.task} judged by {judges.in_words(one)}" for one in results if judges.judged(one)):
        yield markdown(words)
    versions = took_part(p.versions, p.backend)
    yield f"versions: {markdown(', '.join(f'{name} {version}' for name, version in sorted(versions.items())))}"
    yield from map(markdown, sentence(results))
    yield f"machine: {markdown(f'{p.platform}, {p.device}')}; back end {code(p.backend)}; seed {p.protocol.seed}"


def _protocols(results: Sequence[Result]) -> Iterator[str]:
    yield "| task | version | protocol |"
    yield "|:--|--:|:--|"
    for task, version, protocol in dict.fromkeys(sorted((r.task, r.version, r.protocol) for r in results)):
        yield f"| {code(task)} | {version} | {code(protocol)} |"


def command(summary: Summary) -> str:
    """The command that measures the SAEs of a summary again, over several lines; every argument quoted for a shell."""
    results = [result for one in summary.lines for result in one.results]
    lines = ["sae-bench run"]
    lines += [_flag("--sae", source) for source in dict.fromkeys(result.sae.source for result in results)]
    suite = results[0].suite
    if suite is not None and summary.official:
        return " \\\n  ".join([*lines, _flag("--suite", suite.partition("@")[0])])
    lines.append(_flag("--model", results[0].provenance.protocol.model))
    of_sets = [one for one in results if "coverage" in one.provenance.data]
    texts = [one for one in results if one not in of_sets]
    lines += [_flag("--data", one.provenance.protocol.data) for one in texts[:1]]
    listed = {one.provenance.protocol.data for one in of_sets if "definition" in one.provenance.data}
    names = {one.provenance.protocol.data for one in of_sets} - listed - set(OURS)
    lines += [_flag("--probe-data", name) for name in sorted(names)]
    lines.append(_flag("--tasks", ",".join(sorted({one.task for one in results}))))
    if set(controls := results[0].provenance.controls) != set(DEFAULT_CONTROLS):
        lines.append(_flag("--controls", ",".join(controls) or "none"))
    settings: dict[str, Any] = {}
    for one in results:
        settings |= one.provenance.settings
    for name, value in sorted(settings.items()):
        lines += _setting(name, value)
    return " \\\n  ".join(lines)


def _setting(name: str, value: Any) -> list[str]:
    """The flags of a setting that a result keeps."""
    if name == "parameters" and isinstance(value, Mapping):
        return [_flag("--param", f"{key}={one}") for key, one in sorted(value.items())]
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [_flag(flag, str(value))]


def _flag(name: str, value: str) -> str:
    """A flag with its value; one that begins with a dash is no flag of its own."""
    return f"{name}={shell(value)}" if value.startswith("-") else f"{name} {shell(value)}"


def _front_matter(summaries: Sequence[Summary], specs: Mapping[str, TaskSpec]) -> str:
    """Tags and the figures as the hub's ``model-index``: one model an SAE, a metric with its interval in ``args``."""
    import yaml

    index = []
    for summary in summaries:
        for one in summary.lines:
            results = _indexed(summary, one, specs)
            if results:
                index.append({"name": line(one.name), "results": results})
    content: dict[str, Any] = {"tags": list(TAGS)} | ({"model-index": index} if index else {})
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{text}---"


def _indexed(summary: Summary, one: Line, specs: Mapping[str, TaskSpec]) -> list[dict[str, Any]]:
    """The figures of one line that have a value, by their results."""
    made: dict[str, dict[str, Any]] = {}
    for column in summary.columns:
        for result in _of(column, one):
            value, p = result.metrics[column.metric], result.provenance.protocol
            if value.value is None:
                continue
            spec = specs.get(result.task) or result.definition
            title, name = (result.task, column.name) if spec is None else (spec.title, column.metric)
            if spec is not None and column.metric in spec.metrics:
                name = spec.metrics[column.metric].name
            data = {"name": line(p.data) or "text", "type": line(p.data) or "text", "args": {"sha256": p.data_sha256}}
            place = {"task": {"type": "other", "name": line(title)}, "dataset": data, "metrics": []}
            args = {"low": value.low, "high": value.high, "groups": value.n_units, "protocol": result.protocol}
            metric = {"type": column.metric, "name": line(name), "value": value.value, "args": args}
            made.setdefault(result.protocol, place)["metrics"].append(metric)
    return list(made.values())
