"""Token rules: how far do lists of tokens, and of pairs of tokens, say where a latent fires?

For every watched latent a set of tokens with pairs as exceptions is fitted to the F1 of "fires" on one half of the
documents and scored on the other half, where the latent fires as often as it does. No language model explains anything
here. See the card: more is not simply better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sae_bench.kernels import graded_rules, rules, trie
from sae_bench.kernels.token_counts import token_entropy
from sae_bench.metrics import token_rules
from sae_bench.randomness import generator
from sae_bench.schema import TaskSpec
from sae_bench.tasks import rule_noise
from sae_bench.tasks.tracked import Text, Tracked, TrackedTask
from sae_bench.units import Units
from sae_bench.units.folds import FOLDS

LONGEST = 32  # tokens of an example of the n-gram explanation
SHOWN_ITEMS = 12  # tokens and pairs of a rule that a result shows, the most frequent ones first


class TokenRules(TrackedTask):
    """Latent table: a row an explained latent, with the scores of its rule on documents that it was not fitted on."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = token_rules.Parameters.of(spec.id, spec.parameters)
        self.latents, self.fewest, self.most_density = p.latents, p.fewest_firings, p.most_density
        self.bounds = {"max_tokens": p.max_tokens, "max_pairs": p.max_pairs, "least_pair": p.least_pair}
        self.trie_examples = p.trie_examples

    def explain(self, watched: Tracked, seed: int) -> tuple[dict[str, Units], dict[str, Any]]:
        """Fit a rule to every watched latent, and score those that fire often enough on both halves."""
        n = len(watched.latents)
        often = [np.bincount(f.latent, minlength=n) for f in (watched.fit_firings, watched.test_firings)]
        chosen = np.flatnonzero(np.minimum(*often) >= self.fewest)
        if len(chosen) < 2:  # the null needs another latent
            return {"latent": Units((), {}), "item": Units((), {})}, {}
        # in an order that does not depend on how latents are numbered
        ordered = sorted(chosen.tolist(), key=lambda i: _where(watched, i))
        others = [ordered[other] for other in rules.derangement(len(ordered), seed).tolist()]
        null = dict(zip(ordered, others, strict=True))
        found, own, of_null = self._scored(watched, null)
        total = own.total()
        entropy, _ = token_entropy(watched.fit.tokens, watched.fit_firings, n)
        columns: dict[str, NDArray[Any]] = {
            "latents": np.ones(n),
            "sampled": np.full(n, watched.sampled),
            **_figures(found, own, of_null),
            "matching": (total.predicted > 0).astype(np.float64),
            "auprc": self._auprc(watched)["auprc"],
            "entropy": entropy,
            "base_rate": total.firing / total.tokens,
            "fit_firings": often[0].astype(np.float64),
            "density": watched.density,
        }
        columns |= rule_noise.of_counts(own, of_null) | rule_noise.of_some(watched, chosen, "test", self._auprc)
        columns |= rule_noise.of_some(watched, chosen, "fit", self._refitted) | rule_noise.texts(watched)
        columns |= self._tries(watched, chosen.tolist(), seed)
        table = Units(_names(watched.latents[chosen]), {name: column[chosen] for name, column in columns.items()})
        items = _items([found[i] for i in chosen], watched.latents[chosen], watched.fit)
        tables = {"latent": table, "item": items}
        return tables, self.details(tables)

    def _scored(
        self, watched: Tracked, null: Mapping[int, int]
    ) -> tuple[list[rules.TokenRule], rules.Scores, rules.Scores]:
        """A rule of every latent, its scores by fold of the test documents, and those of the one that ``null`` says."""
        fit, test, n = watched.fit, watched.test, len(watched.latents)
        found = rules.fit(fit.tokens, fit.previous, watched.fit_firings, n, **self.bounds)
        where = (test.tokens, test.previous, watched.test_firings, test.fold, FOLDS)
        other = [found[null.get(i, i)] for i in range(n)]
        return found, rules.score(found, *where), rules.score(other, *where)

    def _refitted(self, watched: Tracked) -> dict[str, NDArray[np.float64]]:
        """What hangs on the fit documents; of the null, which is a rule in the next place, that too."""
        n = len(watched.latents)
        scored = self._scored(watched, {i: (i + 1) % n for i in range(n)})
        entropy, _ = token_entropy(watched.fit.tokens, watched.fit_firings, n)
        return {**_figures(*scored), **self._auprc(watched), "entropy": entropy}

    def _auprc(self, watched: Tracked) -> dict[str, NDArray[np.float64]]:
        fit, test = watched.fit, watched.test
        grades = graded_rules.grade(fit.tokens, fit.previous, watched.fit_firings, len(watched.latents))
        found = graded_rules.average_precision(grades, test.tokens, test.previous, watched.test_firings)
        return {"auprc": found}

    def _tries(self, watched: Tracked, chosen: list[int], seed: int) -> dict[str, NDArray[np.float64]]:
        """Scores of the n-gram explanation of each chosen latent, with passes of the model of its own; zeros if off."""
        names = ("tries", "trie_matching", "trie_f1", "trie_precision", "trie_recall")
        columns: dict[str, NDArray[Any]] = {name: np.zeros(len(watched.latents)) for name in names}
        hangs = {f"{name}@test": np.zeros((len(watched.latents), FOLDS), dtype=np.float32) for name in names[2:]}
        if not self.trie_examples or self.activation is None:
            return columns
        texts = np.split(watched.test.tokens, np.flatnonzero(np.diff(watched.test.document)) + 1)
        for slot in chosen:
            examples, original = _examples(watched, slot, self.trie_examples, seed)
            run = partial(self.activation, int(watched.latents[slot]))
            made = trie.explain(examples, original, run, self.padding).trie
            activations = np.zeros(len(watched.test.tokens))
            own = watched.test_firings.latent == slot
            activations[watched.test_firings.position[own]] = watched.test_firings.activation[own]
            predicted = np.concatenate(made.predict([text.tolist() for text in texts]))
            found = trie.agreement(activations, predicted)
            for name, hang in rule_noise.of_matches(activations > 0, predicted > 0, watched.test.fold).items():
                hangs[f"trie_{name}@test"][slot] = hang
            scores = (1.0, float(found.predicted > 0), found.f1, np.nan_to_num(found.precision), found.recall)
            for name, value in zip(names, scores, strict=True):
                columns[name][slot] = value
        return columns | hangs

    def details(self, tables: Mapping[str, Units]) -> dict[str, Any]:
        """Every rule in words, with its scores."""
        table, items = tables["latent"], tables["item"].columns
        explained = []
        for row, latent in enumerate(table.ids):
            own = items["latent"] == int(latent)
            scores = {
                name: float(f"{table.columns[name][row]:.4g}")
                for name in ("density", "f1", "precision", "recall", "auprc", "size", "entropy")
            }
            explained.append({"latent": int(latent)} | scores | self._words({n: c[own] for n, c in items.items()}))
        return {"latents": len(table), "latents asked for": self.latents, "rules": explained}

    def _words(self, items: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
        """Tokens, and pairs as [previous, token], as text."""
        tokens = [self.token_text(int(t)) for t in items["token"][items["kind"] == 0]]
        found: dict[str, Any] = {"tokens": tokens[:SHOWN_ITEMS]}
        for kind, name in ((1, "added_pairs"), (2, "removed_pairs")):
            pairs = zip(items["previous"][items["kind"] == kind], items["token"][items["kind"] == kind], strict=True)
            found[name] = [
                ["" if before < 0 else self.token_text(int(before)), self.token_text(int(token))]
                for before, token in list(pairs)[:SHOWN_ITEMS]
            ]
        return found


def _figures(found: list[rules.TokenRule], own: rules.Scores, null: rules.Scores) -> dict[str, NDArray[np.float64]]:
    """What rules are scored by, from counts by fold; zero where there is nothing to divide by."""
    total = own.total()
    return {
        "f1": total.f1,
        "precision": np.nan_to_num(total.precision),
        "recall": total.recall,
        "mass_recalled": total.mass_recalled,
        "size": np.array([rule.size for rule in found], dtype=np.float64),
        "f1_null": null.total().f1,
    }


def _examples(watched: Tracked, slot: int, n: int, seed: int) -> tuple[list[list[int]], list[float]]:
    """Up to ``n`` firings on the fit documents, at random, each with the tokens of its document before it."""
    text, firings = watched.fit, watched.fit_firings
    own = np.flatnonzero(firings.latent == slot)
    draw = generator(seed, f"examples of latent {watched.latents[slot]}")
    chosen = own[torch.randperm(len(own), generator=draw).numpy()[:n]]
    examples = []
    for position in firings.position[chosen].tolist():
        start = max(position + 1 - LONGEST, int(np.searchsorted(text.document, text.document[position])))
        examples.append(text.tokens[start : position + 1].tolist())
    return examples, firings.activation[chosen].tolist()


def _where(watched: Tracked, slot: int) -> bytes:
    """The positions at which a latent fires on the fit documents."""
    own = np.sort(watched.fit_firings.position[watched.fit_firings.latent == slot])
    return bytes(own.astype(">i8").tobytes())


def _names(latents: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(map(str, latents.tolist()))


def _items(found: list[rules.TokenRule], latents: NDArray[np.int64], text: Text) -> Units:
    """The rules as a table: ``kind`` 0 a token, 1 an added pair, 2 a removed pair; what is frequent comes first."""
    count = Counter(text.tokens.tolist())
    often = Counter(zip(text.previous.tolist(), text.tokens.tolist(), strict=True))
    rows: list[tuple[int, int, int, int]] = []
    for latent, rule in zip(latents.tolist(), found, strict=True):
        rows += [(latent, 0, -1, t) for t in sorted(rule.tokens.tolist(), key=lambda t: (-count[t], t))]
        for kind, pairs in ((1, rule.added_pairs), (2, rule.removed_pairs)):
            ordered = sorted(map(tuple, pairs.tolist()), key=lambda pair: (-often[pair], pair))
            rows += [(latent, kind, before, token) for before, token in ordered]
    array = np.array(rows, dtype=np.float64).reshape(-1, 4)
    names = ("latent", "kind", "previous", "token")
    ids = tuple(map(str, range(len(array))))
    return Units(ids, {name: array[:, i].copy() for i, name in enumerate(names)})
