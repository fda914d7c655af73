"""Figures of the task token_rules, as functions of its sums. See tasks/token_rules/README.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_bench.units.bootstrap import Metric, Ratio, Sums


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
