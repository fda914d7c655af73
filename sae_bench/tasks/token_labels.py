"""Token labels: does a latent fire on the tokens that a label is on, and on no others?

For each labelled set that says where in its texts the label is, the latent whose firing has the best F1 on the tokens
of the train part, scored on those of the test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from sae_bench.kernels.firing import Array, Ints, Tokens, curve, groups_of, pseudo_values
from sae_bench.metrics import token_labels
from sae_bench.schema import TaskSpec
from sae_bench.tasks.firing import PartTokens, TokenView, choose
from sae_bench.tasks.hierarchy import gap
from sae_bench.tasks.labelled import LabelledTask, LabelledView, Rows
from sae_bench.units import Units


class _Scored(NamedTuple):
    """A latent on the test texts: hits and firings ``[texts]``; the figures of all and without each group."""

    hits: Array
    fired: Array
    auprc: Array
    recall_p90: Array


class TokenLabels(LabelledTask):
    """Example table: hits, firings and labelled tokens of each test text, and how its other figures move with it."""

    stream = "token_labels"
    on_tokens = True
    references = False

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = token_labels.Parameters.of(spec.id, spec.parameters)
        self.n_refits, self.n_sets, self.pooling = p.refits, p.random_sets, ""

    def wants_control(self, name: str) -> bool:
        """Not the activation itself: its channels are above 0 on half of all tokens, whatever these are."""
        return name != "identity" and super().wants_control(name)

    def examples(self, view: LabelledView) -> tuple[Rows, dict[str, float]]:
        """The chosen latent on every test text."""
        tokens = cast(TokenView, view.firing)
        train, test, codes = tokens.train, tokens.test, tokens.codes
        hits, fired = codes.counts(train.numbers[train.labels]), codes.counts(train.numbers)
        choice = choose(codes, train, np.ones(len(train.labels), dtype=bool), train.labels, hits, fired)
        weights = view.train_weights(self.n_refits).numpy()
        positives = test.of_texts(test.labels)
        groups, n_groups = groups_of(positives > 0)
        again = choice.latents[choice.under(weights)] if choice.latent >= 0 else np.full(self.n_refits, -1)
        scored = _scored(tokens, np.unique([choice.latent, *again]), groups, n_groups)
        own = scored[choice.latent]
        rows = {
            "examples": np.ones(test.n_texts),
            "positives": positives,
            "true_positive": own.hits,
            "fired": own.fired,
            "auprc": pseudo_values(own.auprc, groups),
            "recall_p90": pseudo_values(own.recall_p90, groups),
            "pair": np.zeros(test.n_texts),
            "gap": np.zeros(test.n_texts),
        }
        sums = {
            "true_positive": [scored[int(i)].hits.sum() for i in again],
            "fired": [scored[int(i)].fired.sum() for i in again],
            "auprc": [test.n_texts * scored[int(i)].auprc[0] for i in again],
            "recall_p90": [test.n_texts * scored[int(i)].recall_p90[0] for i in again],
            "gap": [0.0] * self.n_refits,
        }
        numbers = {"number": float(tokens.number), "latent": float(choice.latent), "train_f1": choice.f1}
        numbers |= _sizes(train, "train") | _sizes(test, "test")
        numbers |= dict.fromkeys(("parent", "parent_latent"), -1.0) | dict.fromkeys(("outside", "within", "null"), 0.0)
        if tokens.parent is not None:
            found = gap(tokens, groups, n_groups, weights, self.n_sets, view.seed, view.set_name)
            if found is not None and found.latent >= 0:  # a gap of a latent that is silent everywhere would say nothing
                rows |= {"pair": np.ones(test.n_texts), "gap": pseudo_values(found.value, groups)}
                sums["gap"] = list(test.n_texts * found.refits)
            if found is not None:
                numbers |= {"parent": float(tokens.parent), "parent_latent": float(found.latent)}
                numbers |= {"outside": found.outside, "within": found.within, "null": found.null}
        view.memo[self.spec.id] = sums
        return {name: torch.from_numpy(column) for name, column in rows.items()}, numbers

    def refits(self, view: LabelledView) -> Rows:
        """The same columns by latents that are chosen among the best under other weights."""
        return {name: torch.tensor(own, dtype=torch.float64) for name, own in view.memo[self.spec.id].items()}

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """One entry a set; the set that it lies inside by name."""
        found, table = super().details(tables), tables["dataset"]
        names = {int(number): unit.partition("@")[0] for number, unit in
                 zip(table.columns["number"], table.ids, strict=True)}  # fmt: skip
        for one in found["sets"].values():
            one["parent"] = names.get(one["parent"])
        return found

    def set_details(self, numbers: Mapping[str, float]) -> dict[str, Any]:
        """Whole numbers as such; nothing of a parent where there is none."""
        counts = tuple(name for name in numbers if name.endswith(("tokens", "labelled")))
        shown: dict[str, Any] = {"latent": _latent(numbers["latent"]), "train_f1": numbers["train_f1"]}
        shown |= {name: int(numbers[name]) for name in counts}
        shown |= {"parent": int(numbers["parent"]), "parent_latent": _latent(numbers["parent_latent"])}
        has = numbers["parent"] >= 0
        named = (("outside", "recall_outside"), ("within", "recall_inside"), ("null", "gap_of_random_sets"))
        return shown | {name: numbers[column] if has else None for column, name in named}


def _latent(number: float) -> int | None:
    return int(number) if number >= 0 else None


def _sizes(part: PartTokens, name: str) -> dict[str, float]:
    return {f"{name}_tokens": float(len(part.labels)), f"{name}_labelled": float(part.labels.sum())}


def _scored(view: TokenView, latents: Ints, groups: Ints, n_groups: int) -> dict[int, _Scored]:
    """Some latents on the test part; -1 is one that never fires."""
    test = view.test
    tokens = Tokens(test.labels, groups[test.rows], n_groups)
    there = latents[latents >= 0]
    firings = view.codes.firings(test.numbers, there)
    found = {}
    for latent in latents.tolist():
        own = firings.latents == (np.searchsorted(there, latent) if latent >= 0 else -1)
        places, rows = firings.tokens[own], test.rows[firings.tokens[own]]
        hits, fired = (
            np.bincount(rows[which], minlength=test.n_texts).astype(np.float64)
            for which in (test.labels[places], slice(None))
        )
        found[latent] = _Scored(hits, fired, *curve(tokens, places, firings.values[own]))
    return found
