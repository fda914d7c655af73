"""``sae-bench show``: a task's card, or a result in full."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from sae_bench import registry
from sae_bench.errors import UsageError

SHOWN_LATENTS = 20  # latents that are shown as text


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "show", help="show a task or a result", description="Show a task's definition and card, or a result in full."
    )
    p.set_defaults(function=run)
    p.add_argument("name", metavar="TASK|RESULT", help="task id, result file, or folder of results")
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the task or the result."""
    known = registry.tasks(args.task_dir)
    path = Path(args.name)
    if args.name in known:
        print(_task(args.name, known, args))
    elif path.exists():
        print(_results(path, known, args.json))
    else:
        raise UsageError(f"{args.name} is neither a task nor a result file; {registry.suggest(args.name, known)}")
    return 0


def _task(name: str, known: Any, args: argparse.Namespace) -> str:
    from tabulate import tabulate

    spec = known[name]
    if args.json:
        content: str = spec.model_dump_json(indent=1)
        return content
    rows = [(m, s.unit, s.better, s.target if s.target is not None else "", s.table, s.description)
            for m, s in spec.metrics.items()]  # fmt: skip
    table = tabulate(rows, headers=["metric", "unit", "better", "target", "unit of table", "what"], tablefmt="simple")
    folders = [registry.data_folder("tasks"), *([Path(args.task_dir)] if args.task_dir else [])]
    card = next((f / name / "README.md" for f in folders if (f / name / "README.md").is_file()), None)
    text = card.read_text(encoding="utf-8").rstrip() + "\n\n" if card else f"{spec.title}: {spec.question}\n\n"
    return f"{text}{table}"


def _results(path: Path, known: Any, as_json: bool) -> str:
    from sae_bench.results import store
    from sae_bench.show.results import result_tables
    from sae_bench.show.text import printable

    results = [store.read(file) for file in store.results_below(path)]
    if as_json:
        return json.dumps({"results": [r.model_dump(mode="json") for r in results]}, indent=1, ensure_ascii=False)
    parts = [result_tables(results, known, everything=True)]
    for result in results:
        parts.append(printable(f"\n{result.task}, what else it holds:"))
        parts += [printable(line) for line in _details(result.details)]
        parts += [
            printable(f"  skipped: {name}: {why}") for name, why in result.provenance.data.get("skipped", {}).items()
        ]
    return "\n".join(parts)


def _details(details: dict[str, Any]) -> list[str]:
    """Plain values as lines; the density histogram as bars."""
    lines = []
    for name, value in details.items():
        if name == "density_histogram":
            lines += ["  log10 of the share of tokens on which a latent is active:"]
            top = max(value["latents"], default=0) or 1
            edges = value["log10_edges"]
            for low, high, count in zip(edges, edges[1:], value["latents"], strict=False):
                if count:
                    lines.append(f"  {low:6.2f} to {high:6.2f} {count:>8} {'#' * max(1, round(40 * count / top))}")
        elif name == "sets":
            lines += _sets(value)
        elif name in ("by_activation", "by_density"):
            lines += _bins(name, value)
        elif name == "outputs":
            lines += _outputs(value)
        elif name == "rules":
            lines += _rules(value)
        elif name == "explanations":
            lines += _explanations(value)
        elif name in ("statuses", "judge", "right_by_stratum", "right_by_slot", "fires_by_slot"):
            pairs = value.items() if isinstance(value, dict) else enumerate(value, 1)
            lines.append(f"  {name.replace('_', ' ')}: " + ", ".join(f"{key} {_plain(one)}" for key, one in pairs))
        elif isinstance(value, int | float | str):
            lines.append(f"  {name.replace('_', ' ')}: {value}")
    return lines


def _bins(name: str, bins: list[dict[str, Any]]) -> list[str]:
    """A row a tenth of the ablations."""
    from tabulate import tabulate

    from sae_bench.show.text import span

    what = {
        "by_activation": "norm of what was taken away",
        "by_density": "share of tokens on which the latent is active",
    }[name]
    rows = [(f"{b['from']:.3g} to {b['to']:.3g}", b["ablations"], span(b["value"], b["low"], b["high"])) for b in bins]
    headers = [what, "ablations", "effect_sparsity"]
    table: str = tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True)
    return table.splitlines()


def _outputs(outputs: list[dict[str, Any]]) -> list[str]:
    """For each latent the tokens that it makes likelier and less likely, by ablation and by its direction alone."""
    lines = [
        "  latents and the next tokens that they promote (+) and suppress (-): measured by ablation | direction alone"
    ]
    for one in outputs[:SHOWN_LATENTS]:
        share = one["effect_sparsity"]
        lines.append(
            f"  latent {one['latent']}: {one['positions']} positions, density {one['density']:.2g}, "
            f"effect sparsity {'-' if share is None else f'{share:.3g}'}, KL {one['kl']:.2g} nats a token"
        )
        for sign, what in (("+", "promoted"), ("-", "suppressed")):
            sides = [_tokens(one[key]) if key in one else "-" for key in (what, f"direct_{what}")]
            lines.append(f"    {sign} {sides[0]} | {sides[1]}")
    return lines + _more(outputs)


def _rules(rules: list[dict[str, Any]]) -> list[str]:
    """For each latent the most frequent tokens and pairs of its rule, with its scores on other documents."""
    lines = ["  rules: tokens on which a latent fires, then pairs (previous token, token) added (+) and left out (-)"]
    for one in rules[:SHOWN_LATENTS]:
        lines.append(
            f"  latent {one['latent']}: F1 {one['f1']:.2f}, precision {one['precision']:.2f}, "
            f"recall {one['recall']:.2f}, AUPRC {one['auprc']:.2f}, density {one['density']:.2g}, "
            f"{one['size']:.0f} tokens and pairs"
        )
        lines.append("    " + (" ".join(_quoted(token) for token in one["tokens"]) or "no token alone"))
        for sign, what in (("+", "added_pairs"), ("-", "removed_pairs")):
            if one[what]:
                lines.append(f"    {sign} " + ", ".join(f"{_quoted(a)} {_quoted(b)}" for a, b in one[what][:6]))
    return lines + _more(rules)


def _explanations(explanations: list[dict[str, Any]]) -> list[str]:
    """For each latent what the judge wrote of it, how well it then did, and the windows with its answers."""
    lines = [
        "  explanations; windows with p, the judge's answer, and << >> around the tokens on which the latent fires"
    ]
    for one in explanations[:SHOWN_LATENTS]:
        said = one["explanation"] if one["status"] == "ok" else f"{one['status']}: {one.get('raw') or ''}"
        scores = [f"{m} {one[m]:.2f}" for m in ("detection", "auroc", "rule_lift") if one[m] is not None]
        lines.append(_one_line(f"  latent {one['latent']}: {', '.join([*scores, said])}"))
        for window in one.get("windows", ()):
            kind = f"decile {window['stratum'] + 1}" if window["stratum"] < 10 else _SILENT[window["stratum"] - 10]
            p = "-" if window["p"] is None else f"{window['p']:.2f}"
            lines.append(_one_line(f"    p {p:>4}  {kind:<9} {window['text']}"))
    return lines + _more(explanations)


_SILENT = ("silent", "matched")


def _one_line(text: str) -> str:
    return text.replace("\n", "?").replace("\r", "?")


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _more(shown: list[dict[str, Any]]) -> list[str]:
    n = len(shown) - SHOWN_LATENTS
    return [f"  and {n} more latents (--json shows them)"] if n > 0 else []


def _quoted(token: str) -> str:
    return json.dumps(token, ensure_ascii=False)


def _tokens(tokens: list[dict[str, Any]]) -> str:
    return " ".join(f"{_quoted(one['token'])} {one['logit']:+.2g}" for one in tokens[:5])


def _sets(sets: dict[str, dict[str, Any]]) -> list[str]:
    """A row a labelled set: what was found there, and its figures with intervals over the test examples."""
    from tabulate import tabulate

    from sae_bench.show.text import span

    rows = []
    for name, found in sets.items():
        row: dict[str, Any] = {"set": name, "test texts": found["test_examples"]}
        if "latents" in found:
            row["latents"] = " ".join(map(str, found["latents"][:5]))
        if "latent" in found:
            row |= {"base rate": f"{found['test_base_rate']:.3f}", "latent": found["latent"]}
            row |= {"density": f"{found['density']:.2g}", "sign": f"{found['sign']:+d}"}
        rows.append(row | {name: span(m["value"], m["low"], m["high"]) for name, m in found["metrics"].items()})
    table: str = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    reasons: dict[tuple[str, str], list[str]] = {}
    for name, found in sets.items():
        for metric, m in found["metrics"].items():
            if m.get("reason"):
                reasons.setdefault((metric, m["reason"]), []).append(name)
    return [*table.splitlines(), *(f"  no {m} of {', '.join(names)}: {why}" for (m, why), names in reasons.items())]
