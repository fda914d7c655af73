"""Figures of the task token_rules, as functions of its sums. See tasks/token_rules/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from sae_bench.parameters import Share, TaskParameters
from sae_bench.show.blocks import Block, quoted, table
from sae_bench.units.bootstrap import Metric, Ratio, Sums


class Parameters(TaskParameters):
    """Parameters of the task."""

    latents: int = Field(500, ge=2, description="latents to explain, at most")
    fewest_firings: int = Field(10, ge=1, description="firings that a latent needs on each half of the documents")
    most_density: Share = Field(0.5, description="latents that fire on more of the calibration tokens are left out")
    max_tokens: int = Field(64, ge=0, description="tokens of a rule, at most")
    max_pairs: int = Field(64, ge=0, description="pairs of a rule, at most")
    least_pair: int = Field(3, ge=1, description="how often a pair must be seen to be in a rule")
    trie_examples: int = Field(0, ge=0, description="firings from which an n-gram explanation is made (0: none)")


def _mean(column: str) -> Metric:
    """The mean over latents of a figure of each."""
    return lambda s: Ratio(getattr(s, column), s.latents, "the number of explained latents")


def _of_tries(column: str) -> Metric:
    """The mean over latents for which there is a trie, and, for its precision, one that matches."""
    count = "trie_matching" if column == "precision" else "tries"
    what = "the number of latents with a trie that matches (--param token_rules.trie_examples=16 makes tries)"
    return lambda s: Ratio(getattr(s, f"trie_{column}"), getattr(s, count), what)


def rule_precision(s: Sums) -> Ratio:
    """Mean precision, over the latents whose rule matches at all on the scored documents."""
    return Ratio(s.precision, s.matching, "the number of latents whose rule matches on the scored documents")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "rule_f1": _mean("f1"),
        "rule_precision": rule_precision,
        "rule_recall": _mean("recall"),
        "rule_auprc": _mean("auprc"),
        "rule_mass": _mean("mass_recalled"),
        "rule_size": _mean("size"),
        "rule_entropy": _mean("entropy"),
        "rule_f1_null": _mean("f1_null"),
        "rule_base_rate": _mean("base_rate"),
        **{f"trie_{name}": _of_tries(name) for name in ("f1", "precision", "recall")},
    }


TOKENS = 12  # tokens and pairs that are shown of a rule
_SCORES = {
    "density": "density",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "auprc": "AUPRC",
    "size": "size",
}


def blocks(details: Mapping[str, Any]) -> list[Block]:
    """A row a latent: scores of its rule on other documents, its tokens, and the pairs added and left out."""
    if "rules" not in details:
        return []
    rows = []
    for one in details["rules"]:
        tokens = " ".join(quoted(token) for token in one["tokens"][:TOKENS]) or "no token alone"
        pairs = [
            ", ".join(f"{quoted(a)} {quoted(b)}" for a, b in one[side][:TOKENS])
            for side in ("added_pairs", "removed_pairs")
        ]
        rows.append([one["latent"], *(one.get(name) for name in _SCORES), tokens, *pairs])
    head = ["latent", *_SCORES.values(), "tokens", "pairs added", "pairs left out"]
    title = "Rules: tokens on which latents fire, and pairs (previous token, token) added and left out"
    return [table(title, head, rows)]
