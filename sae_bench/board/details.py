"""What a result holds besides its metrics, as small tables for the page.

A block is ``{"title", "head", "rows", "more"}`` of texts and numbers, or ``{"title", "bins"}`` for a histogram. What a
result holds here has no schema and comes from elsewhere: a block that cannot be read is left out with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_bench.schema import Result
from sae_bench.show.text import line, number, span

LONGEST_TEXT = 240  # characters of a token, an explanation or a window
WINDOWS = 4  # windows shown for an explanation
TOKENS = 12  # tokens and pairs shown of a rule
OUTPUTS = 5  # tokens shown of what a latent promotes or suppresses

Block = dict[str, Any]


def blocks(file: Path, result: Result, most: int, problems: list[str]) -> list[Block]:
    """All blocks of a result with at most ``most`` rows each; what cannot be read goes to ``problems``."""
    made = []
    plain = []
    for name, content in result.details.items():
        if name in _READERS:
            try:
                made += _READERS[name](content, most)
            except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
                problems.append(
                    f"{file}: 'details.{name}' is not what this sae-bench writes ({type(error).__name__}: {error}); "
                    "it is left out of the page"
                )
        elif isinstance(content, int | float | str):
            plain.append([_text(name.replace("_", " ")), _text(content)])
    if plain:
        made.append(_block("Counts", ["what", "value"], plain, most))
    return made


def _text(value: Any) -> str:
    """Anything as one bounded line."""
    text = number(value) if isinstance(value, float) else line(str(value))
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _figure(value: Any) -> str:
    return number(None if value is None else float(value))


def _block(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], most: int) -> Block:
    return {
        "title": title,
        "head": list(head),
        "rows": [list(r) for r in rows[:most]],
        "more": max(0, len(rows) - most),
    }


def _histogram(content: Mapping[str, Any], most: int) -> list[Block]:
    """The bins from the first to the last that holds a latent."""
    edges = [float(edge) for edge in content["log10_edges"]]
    counts = [int(count) for count in content["latents"]]
    used = [i for i, count in enumerate(counts) if count]
    if not used or most == 0:
        return []
    bins = [[edges[i], edges[i + 1], counts[i]] for i in range(used[0], used[-1] + 1)]
    return [{"title": "On which share of tokens latents are active", "bins": bins[:200]}]


def _sets(content: Mapping[str, Mapping[str, Any]], most: int) -> list[Block]:
    """A row a labelled set."""
    metrics = list(dict.fromkeys(name for one in content.values() for name in one["metrics"]))[:8]
    rows = []
    for name, one in content.items():
        latent = one.get("latent", one.get("latents", "-"))
        scores = [one["metrics"].get(metric, {}) for metric in metrics]
        shown = [span(s.get("value"), s.get("low"), s.get("high")) for s in scores]
        rows.append([_text(name), _text(latent), *shown])
    return [_block("Labelled sets", ["set", "latent", *map(_text, metrics)], rows, 3 * most)]


def _bins(what: str) -> Callable[[Sequence[Mapping[str, Any]], int], list[Block]]:
    def read(content: Sequence[Mapping[str, Any]], most: int) -> list[Block]:
        rows = [
            [
                f"{_figure(one['from'])} to {_figure(one['to'])}",
                _text(one["ablations"]),
                span(one["value"], one["low"], one["high"]),
            ]
            for one in content
        ]
        return [_block(f"Effect sparsity by {what}", [what, "ablations", "effect sparsity"], rows, most)]

    return read


def _outputs(content: Sequence[Mapping[str, Any]], most: int) -> list[Block]:
    """A row a latent: what it promotes and suppresses, by ablation and by its direction alone."""
    head = ["latent", "density", "effect sparsity", "KL, nats a token", "promotes", "suppresses"]
    rows = []
    for one in content[:most]:
        tokens = [
            " ".join(f"{_quoted(t['token'])} {float(t['logit']):+.2g}" for t in one.get(side, ())[:OUTPUTS])
            for side in ("promoted", "suppressed", "direct_promoted", "direct_suppressed")
        ]
        figures = [_figure(one[name]) for name in ("density", "effect_sparsity", "kl")]
        rows.append([_text(one["latent"]), *figures, *map(_text, tokens)])
    head += ["direction alone promotes", "direction alone suppresses"]
    block = _block("Outputs: next tokens that latents make likelier or less likely, in logits", head, rows, most)
    return [block | {"more": max(0, len(content) - most)}]


def _quoted(token: Any) -> str:
    return f'"{_text(token)}"'


def _rules(content: Sequence[Mapping[str, Any]], most: int) -> list[Block]:
    """A row a latent: scores of its rule, its tokens, and the pairs added and left out."""
    rows = []
    for one in content[:most]:
        pairs = [
            ", ".join(f"{_quoted(a)} {_quoted(b)}" for a, b in one[side][:TOKENS])
            for side in ("added_pairs", "removed_pairs")
        ]
        figures = [_figure(one[name]) for name in ("density", "f1", "precision", "recall")]
        tokens = " ".join(_quoted(token) for token in one["tokens"][:TOKENS])
        rows.append([_text(one["latent"]), *figures, _text(tokens), *map(_text, pairs)])
    head = ["latent", "density", "F1", "precision", "recall", "tokens", "pairs added", "pairs left out"]
    block = _block("Rules: tokens on which latents fire", head, rows, most)
    return [block | {"more": max(0, len(content) - most)}]


def _explanations(content: Sequence[Mapping[str, Any]], most: int) -> list[Block]:
    """A row a latent: what the judge wrote and how well it did; then some windows with the judge's answers."""
    rows, windows = [], []
    for one in content[:most]:
        said = one["explanation"] if one["status"] == "ok" else f"{one['status']}: {one.get('raw') or ''}"
        figures = [_figure(one[name]) for name in ("detection", "auroc", "rule_lift")]
        rows.append([_text(one["latent"]), _text(said), *figures])
        for window in one.get("windows", ())[:WINDOWS]:
            windows.append([_text(one["latent"]), _figure(window["p"]), _text(window["text"])])
    made = _block("Explanations", ["latent", "explanation", "detection", "AUROC", "lift over rule"], rows, most)
    made["more"] = max(0, len(content) - most)
    head = ["latent", "judge's p", "window (<< >> where it fires)"]
    return [made, *([_block("Windows", head, windows, WINDOWS * most)] if windows else [])]


def _pairs(title: str) -> Callable[[Any, int], list[Block]]:
    def read(content: Any, most: int) -> list[Block]:
        items = content.items() if isinstance(content, Mapping) else enumerate(content, 1)
        return [_block(title, ["what", "value"], [[_text(key), _text(value)] for key, value in items], max(most, 1))]

    return read


_READERS: dict[str, Callable[[Any, int], list[Block]]] = {
    "density_histogram": _histogram,
    "sets": _sets,
    "by_activation": _bins("norm of what was taken away"),
    "by_density": _bins("share of tokens on which the latent is active"),
    "outputs": _outputs,
    "rules": _rules,
    "explanations": _explanations,
    "statuses": _pairs("Outcomes"),
    "judge": _pairs("Judge"),
    "right_by_stratum": _pairs("Share of right answers, by stratum"),
    "right_by_slot": _pairs("Share of right answers, by place in the prompt"),
}
