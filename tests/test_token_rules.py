"""Token rules: planted latents whose rule is known, an independent slow loop, and what a user is shown."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from torch import Tensor

from sae_bench.api import evaluate
from sae_bench.saes.protocol import codes_from_dense
from sae_bench.schema import Result
from sae_bench.tasks.tracked import Text
from sae_bench.units import Units
from tests.builders.ablations import module_of, passed
from tests.builders.marks import slow_but
from tests.builders.rule_scores import loop_scores
from tests.builders.tiny_models import number_texts, tiny_gpt2
from tests.builders.tiny_saes import HOOK, tiny_coder
from tests.builders.token_rules import (
    TASK,
    TOKENS,
    Plant,
    Planted,
    content_of,
    everything,
    now_and_then,
    on,
    pair,
    planted_texts,
    rows_of,
    ruled,
    settings_of,
    watched,
)


def nothing(token: Tensor, before: Tensor, noise: Tensor) -> Tensor:
    return token < -1000


# ---------------------------------------------------------------- documents and their halves, written down once more


def is_fit(content: str, seed: int = 0) -> bool:
    return hashlib.sha256(f"{seed} explained on {content}".encode()).digest()[0] < 128


def explained_on(document: list[list[int]]) -> bool:
    """Whether rules are made on a document, whose sequences start with BOS."""
    return is_fit(content_of([token for sequence in document for token in sequence[1:]]))


def inside_mask(sequences: list[list[int]], mask: str = "special") -> list[tuple[int, int]]:
    """(previous, token) of every position inside the mask, in order; -1 at the start of a sequence."""
    found = []
    for ids in sequences:
        for place, token in enumerate(ids):
            if (mask == "special" and token == 0) or (mask != "none" and place == 0):
                continue
            found.append((ids[place - 1] if place else -1, token))
    return found


def documents_in(text: Text) -> list[list[tuple[int, int]]]:
    """(previous, token) of the positions of every document."""
    pairs = list(zip(text.previous.tolist(), text.tokens.tolist(), strict=True))
    return [[p for p, d in zip(pairs, text.document, strict=True) if d == i] for i in range(text.n_documents)]


# ---------------------------------------------------------------- planted latents

NAMED: dict[str, Plant] = {
    "a token": on(7),
    "a token after another": pair(4, 9),
    "nothing": nothing,
    "everything": everything,
    "at random": now_and_then(0.1),
    "two tokens": on(3, 11),
    "a token but not after another": lambda t, b, u: (t == 12) & (b != 5),
    "a token at the start": pair(0, 6),  # BOS is outside the mask, and still the token before
    "a token and all that is masked": on(2, 0),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Units]]:
    return ruled(Planted(*NAMED.values()), tmp_path_factory.mktemp("planted"))


def row(tables: dict[str, Units], name: str) -> dict[str, float]:
    table = tables["latent"]
    place = table.ids.index(str(list(NAMED).index(name)))
    return {column: float(values[place]) for column, values in table.columns.items() if values.ndim == 1}


def test_the_rules_of_planted_latents_are_found_and_named(planted: tuple[Result, dict[str, Units]]) -> None:
    result, tables = planted
    shown = {list(NAMED)[rule["latent"]]: rule for rule in result.details["rules"]}
    assert set(NAMED) - set(shown) == {"nothing", "everything"}
    assert result.details["latents"] == len(shown) == 7
    expected: dict[str, tuple[Any, Any, Any]] = {
        "a token": (["7"], [], []),
        "a token after another": ([], [["4", "9"]], []),
        "a token but not after another": (["12"], [], [["5", "12"]]),
        "a token at the start": ([], [["0", "6"]], []),
        "a token and all that is masked": (["2"], [], []),
    }
    for name, rule in expected.items():
        assert tuple(shown[name][part] for part in ("tokens", "added_pairs", "removed_pairs")) == rule, name
        found = row(tables, name)
        for figure in ("f1", "precision", "recall", "auprc", "mass_recalled", "matching"):
            assert found[figure] == pytest.approx(1, abs=1e-12), (name, figure)
        assert (found["entropy"], found["size"]) == (0, len([*rule[0], *rule[1], *rule[2]]))
        assert shown[name]["f1"] == 1
    assert sorted(shown["two tokens"]["tokens"]) == ["11", "3"]
    assert row(tables, "two tokens")["entropy"] == pytest.approx(math.log(2), abs=0.01)


def test_a_latent_that_fires_at_random_has_a_rule_no_better_than_its_rate(
    planted: tuple[Result, dict[str, Units]],
) -> None:
    """Noise can be learned by heart on the fit documents; on the others that is worth nothing."""
    found = row(planted[1], "at random")
    assert found["base_rate"] == pytest.approx(0.1, abs=0.02)
    assert found["precision"] == pytest.approx(found["base_rate"], abs=0.03)
    assert found["auprc"] == pytest.approx(found["base_rate"], abs=0.03)
    assert found["f1"] < 0.2
    assert found["mass_recalled"] == pytest.approx(found["recall"], abs=0.03)
    assert found["entropy"] == pytest.approx(math.log(len(TOKENS)), abs=0.1)


def test_metrics_are_means_over_latents(planted: tuple[Result, dict[str, Units]]) -> None:
    result, tables = planted
    columns = tables["latent"].columns
    for name, metric in result.metrics.items():
        if name.startswith("trie_"):
            continue  # off by default
        column = name.removeprefix("rule_").replace("mass", "mass_recalled")
        assert metric.value == pytest.approx(columns[column].mean(), rel=1e-12), name
        assert metric.n_units == 32, "folds: all latents that can be explained are"
        assert metric.low is not None


def test_rates_are_shares_of_the_tokens_inside_the_mask(planted: tuple[Result, dict[str, Units]]) -> None:
    evaluation, calibration = rows_of(planted_texts(), 24)
    scored = [p for d in evaluation if not explained_on(d) for p in inside_mask(d)]
    fitted = [p for d in evaluation if explained_on(d) for p in inside_mask(d)]
    seen = [p for d in calibration for p in inside_mask(d)]
    assert min(len(scored), len(fitted)) > 1500
    for name, fires in (
        ("a token", lambda b, t: t == 7),
        ("a token after another", lambda b, t: (b, t) == (4, 9)),
        ("a token at the start", lambda b, t: (b, t) == (0, 6)),
        ("a token and all that is masked", lambda b, t: t == 2),
    ):
        found = row(planted[1], name)
        assert found["base_rate"] == sum(fires(*p) for p in scored) / len(scored), name
        assert found["fit_firings"] == sum(fires(*p) for p in fitted), name
        assert found["density"] == sum(fires(*p) for p in seen) / len(seen), name


def test_the_null_is_the_rule_of_another_latent_and_of_the_size_of_the_base_rate(tmp_path: Path) -> None:
    """Latents on 4 of 12 tokens each: own rules are perfect, and those of others hit one time in three."""
    draw = np.random.default_rng(0)
    sets = [on(*draw.choice(TOKENS, 4, replace=False).tolist()) for _ in range(60)]
    metrics = ruled(Planted(*sets), tmp_path)[0].metrics
    assert metrics["rule_f1"].value == pytest.approx(1)
    base, null = metrics["rule_base_rate"].value, metrics["rule_f1_null"].value
    assert base == pytest.approx(1 / 3, abs=0.01)
    assert null == pytest.approx(base, abs=0.08)


def test_rules_are_bounded_as_the_parameters_say(tmp_path: Path) -> None:
    sae = Planted(on(1, 2, 3, 4), pair(4, 9), lambda t, b, u: (t == 12) & (b != 5))

    def found(**parameters: int) -> tuple[Result, dict[str, Any]]:
        given = {f"{TASK}.{name}": value for name, value in parameters.items()}
        result, _ = ruled(sae, tmp_path, parameters=given)
        return result, {rule["latent"]: rule for rule in result.details["rules"]}

    result, rules = found(max_tokens=2, max_pairs=0)
    assert [len(rules[i]["tokens"]) for i in range(3)] == [2, 1, 1]
    assert not any(rule["added_pairs"] or rule["removed_pairs"] for rule in rules.values())
    assert rules[0]["recall"] < 0.6
    _, rules = found(least_pair=10_000)  # no pair is that frequent
    assert [rules[i]["tokens"] for i in range(1, 3)] == [["9"], ["12"]]
    result, rules = found(max_tokens=0, max_pairs=0)
    assert (result.status, result.metrics["rule_f1"].value, result.metrics["rule_size"].value) == ("ok", 0, 0)
    assert result.metrics["rule_precision"].value is None
    assert "whose rule matches" in str(result.metrics["rule_precision"].reason)


def test_shown_rules_are_short_and_hold_what_is_frequent(tmp_path: Path) -> None:
    """A result is read by people; the whole rule is in the table of units."""
    weights = np.array([2.0**-i for i in range(30)]) + 0.05
    rng = np.random.default_rng(0)
    texts = [" ".join(map(str, 1 + rng.choice(30, 20, p=weights / weights.sum()))) for _ in range(300)]
    result, tables = ruled(
        Planted(on(*range(2, 20)), on(1)), tmp_path, data=texts, parameters={f"{TASK}.most_density": 1.0}
    )
    shown, items = result.details["rules"][0], tables["item"].columns
    evaluation, _ = rows_of(texts, 24)
    fitted = [d for d in evaluation if explained_on(d)]
    often = Counter(t for d in fitted for _, t in inside_mask(d))
    own = items["token"][items["latent"] == 0].astype(int).tolist()
    assert sorted(own) == list(range(2, 20))
    assert shown["tokens"] == [str(t) for t in sorted(own, key=lambda t: (-often[t], t))[:12]]
    assert shown["size"] == 18


# ---------------------------------------------------------------- the slow loop


def loop_rules(items: Units, latent: int) -> Callable[[int, int], bool]:
    """Whether the written rule of a latent matches (previous, token)."""
    of = items.columns
    own = of["latent"] == latent
    rows = list(zip(of["kind"][own], of["previous"][own], of["token"][own], strict=True))
    tokens = {t for kind, _, t in rows if kind == 0}
    added, removed = ({(p, t) for kind, p, t in rows if kind == wanted} for wanted in (1, 2))
    return lambda p, t: (p, t) in added or (t in tokens and (p, t) not in removed)


class Encoded:
    """Every token inside the mask of some documents, each encoded by itself: ``pairs`` and ``codes`` [T, latents]."""

    def __init__(self, documents: list[list[list[int]]], model: Any, coder: Any) -> None:
        self.pairs: list[tuple[int, int]] = []
        kept = []
        for sequence in (s for d in documents for s in d):
            x = passed(model, torch.tensor(sequence), module_of(model, HOOK))[1]
            dense = coder.encode(x).dense().abs().numpy()
            kept += [dense[place] for place, token in enumerate(sequence) if token != 0]
            self.pairs += inside_mask([sequence])
        self.codes = np.array(kept)
        self.previous, self.tokens = np.array(self.pairs).T


@pytest.mark.parametrize("activation", ["relu", pytest.param("abstopk", marks=pytest.mark.slow)])
def test_every_figure_is_that_of_a_slow_loop(tmp_path: Path, activation: str) -> None:
    """Documents one by one through transformers and the SAE, with nothing of the engine; scores by scikit-learn."""
    texts = number_texts(60, shortest=10, longest=40, vocab=15, seed=3)
    coder, model = tiny_coder(activation, dtype=torch.float64), tiny_gpt2().double()
    result, tables = ruled(coder, tmp_path, model=model, data=texts, context=16, tier="full", batch_tokens=100)
    evaluation, calibration = rows_of(texts, 16)
    assert max(map(len, evaluation)) > 2  # long documents have several sequences
    halves: tuple[list[Any], list[Any]] = ([], [])
    for document in evaluation:
        halves[explained_on(document)].append(document)
    test, fit, seen = (Encoded(part, model, coder) for part in (*halves, calibration))
    assert len(seen.tokens) < 4096
    count = (seen.codes != 0).sum(0)
    eligible = (count >= 2) & (count <= 0.5 * len(seen.tokens))
    often = np.minimum((fit.codes != 0).sum(0), (test.codes != 0).sum(0)) >= 10
    table, items = tables["latent"], tables["item"]
    assert [int(latent) for latent in table.ids] == np.flatnonzero(eligible & often).tolist()
    assert 10 < len(table) < coder.info.n_latents
    chosen = [int(latent) for latent in table.ids]
    rules = [loop_rules(items, i) for i in chosen]
    predicted = np.array([[rule(*p) for p in test.pairs] for rule in rules])
    fires = (test.codes != 0).T[chosen]
    scores = loop_scores(fit.tokens, fit.previous, (fit.codes != 0).T[chosen], test.tokens, test.previous, 1.0, 1)
    others = []
    for place, latent in enumerate(chosen):
        own = {name: column[place] for name, column in table.columns.items()}
        y, guess, size = fires[place], predicted[place], test.codes[:, latent]
        assert own["f1"] == pytest.approx(f1_score(y, guess))
        assert own["precision"] == pytest.approx(precision_score(y, guess, zero_division=0))
        assert own["recall"] == pytest.approx(recall_score(y, guess))
        assert own["auprc"] == pytest.approx(average_precision_score(y, scores[place].round(12)))
        assert own["mass_recalled"] == pytest.approx(size[guess].sum() / size.sum(), rel=1e-6)
        assert own["base_rate"] == pytest.approx(y.mean())
        assert own["matching"] == guess.any()
        assert own["fit_firings"] == (fit.codes[:, latent] != 0).sum()
        assert own["density"] == pytest.approx(count[latent] / len(seen.tokens))
        assert own["size"] == (items.columns["latent"] == latent).sum()
        assert own["entropy"] == pytest.approx(entropy(np.bincount(fit.tokens[fit.codes[:, latent] != 0])), abs=1e-12)
        of_others = [f1_score(y, predicted[j]) for j in range(len(chosen)) if j != place]
        assert min(abs(own["f1_null"] - f) for f in of_others) < 1e-12
        others.append(own["f1_null"])
    assert result.metrics["rule_f1_null"].value == pytest.approx(np.mean(others))
    matching = table.columns["precision"][predicted.any(axis=1)]
    assert result.metrics["rule_precision"].value == pytest.approx(matching.mean())


# ---------------------------------------------------------------- which tokens, on which side


def test_the_same_text_is_never_on_both_sides() -> None:
    """Else a rule would be scored on the text that it was made of, and noise learned by heart would be a score."""
    texts = planted_texts(80)
    found = watched(Planted(on(7), now_and_then(0.3)), data=[*texts, *texts[::2], *texts[::4]])
    sides = [Counter(map(tuple, documents_in(text))) for text in (found.fit, found.test)]
    assert not set(sides[0]) & set(sides[1])
    evaluation, _ = rows_of([*texts, *texts[::2], *texts[::4]], 24)
    assert sides[0] + sides[1] == Counter(tuple(inside_mask(d)) for d in evaluation)
    assert max(sides[0].values()) == max(sides[1].values()) == 3
    assert all(explained_on(d) == (tuple(inside_mask(d)) in sides[0]) for d in evaluation)


@pytest.mark.parametrize("mask", ["special", "first", "none"])
@pytest.mark.parametrize("bos", slow_but(1, ["yes", "no"]))
def test_masked_tokens_are_not_scored_and_are_still_the_token_before(mask: str, bos: str) -> None:
    """Also at the start of the second sequence of a long document, where the model sees nothing of the first."""
    texts = planted_texts(60, shortest=10, longest=40)
    plants = (on(7), now_and_then(0.3), on(0, 5))
    found = watched(Planted(*plants), data=texts, context=12, mask=mask, bos=bos, batch_tokens=100)
    evaluation, _ = rows_of(texts, 12, bos == "yes")
    expected = sorted(inside_mask(document, mask) for document in evaluation)
    assert sorted(documents_in(found.fit) + documents_in(found.test)) == expected
    starts = {p for d in expected for p, _ in d} & {-1, 0}
    assert starts == ({-1, 0} if mask == "none" else {0})
    for text, firings in ((found.fit, found.fit_firings), (found.test, found.test_firings)):
        assert (0 in text.tokens) == (mask != "special")
        for slot, fires in ((0, text.tokens == 7), (2, np.isin(text.tokens, [0, 5]))):
            at = firings.position[firings.latent == slot]
            np.testing.assert_array_equal(np.sort(at), np.flatnonzero(fires))
        assert (np.diff(text.document) >= 0).all()


def test_activations_are_those_at_the_place() -> None:
    """The share of activation that is recalled would be that of another token."""
    sae = Planted(on(7), now_and_then(0.3))
    sae.encode = lambda x: codes_from_dense(  # type: ignore[method-assign]
        torch.stack([(x[:, 0].round() == 7) * (2 + x[:, 1]), 1.0 * (x[:, 2] < 0.3)], dim=1)
    )
    found = watched(sae, batch_tokens=100)
    for text, firings in ((found.fit, found.fit_firings), (found.test, found.test_firings)):
        own = firings.latent == 0
        assert own.sum() > 50
        np.testing.assert_array_equal(firings.activation[own], 2 + text.previous[firings.position[own]])


# ---------------------------------------------------------------- which latents


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> tuple[Planted, dict[str, Units]]:
    """Latents on 1 to 6 of 12 tokens, and on three pairs."""
    plants = [on(*range(1, 2 + i)) for i in range(6)] + [pair(1, 2), pair(3, 4), pair(5, 6)]
    sae = Planted(*plants)
    parameters = {f"{TASK}.fewest_firings": 1, f"{TASK}.most_density": 1.0}
    return sae, ruled(sae, tmp_path_factory.mktemp("rare"), parameters=parameters)[1]


def test_the_bounds_of_the_population_are_inclusive(rare: tuple[Planted, dict[str, Units]], tmp_path: Path) -> None:
    sae, tables = rare
    whole = tables["latent"]
    assert whole.ids == tuple(map(str, range(9)))
    density = whole.columns["density"]

    def ids(**parameters: float) -> tuple[str, ...]:
        given = {f"{TASK}.fewest_firings": 1} | {f"{TASK}.{name}": value for name, value in parameters.items()}
        return ruled(sae, tmp_path, parameters=given)[1]["latent"].ids

    edge = float(density[4])
    assert ids(most_density=edge) == tuple(i for i, d in zip(whole.ids, density, strict=True) if d <= edge)
    assert ids(most_density=edge - 1e-4) == tuple(i for i, d in zip(whole.ids, density, strict=True) if d < edge)
    evaluation, _ = rows_of(planted_texts(), 24)
    scored = sum(len(inside_mask(d)) for d in evaluation if not explained_on(d))
    fewest = np.minimum(whole.columns["fit_firings"], np.rint(whole.columns["base_rate"] * scored)).astype(int)
    edge = int(np.sort(fewest)[2])
    for least in (edge, edge + 1):
        kept = [i for i, n in zip(whole.ids, fewest, strict=True) if n >= least]
        assert ids(fewest_firings=least, most_density=1.0) == tuple(kept)
        assert len(kept) < len(whole)


def test_the_rule_of_a_latent_does_not_depend_on_the_others(
    rare: tuple[Planted, dict[str, Units]], tmp_path: Path
) -> None:
    """A latent that is left out, or sampled, changes nothing but the null of the others."""
    sae, tables = rare
    whole = tables["latent"]
    parameters = {f"{TASK}.fewest_firings": 1, f"{TASK}.most_density": 1.0, f"{TASK}.latents": 4}
    result, few = ruled(sae, tmp_path, parameters=parameters)
    part = few["latent"]
    assert len(part) == result.details["latents"] == 4
    same = whole.select([whole.ids.index(i) for i in part.ids])
    for name in set(whole.columns) - {"sampled", "f1_null", "f1_null@test", "f1_null@fit"}:
        np.testing.assert_array_equal(part.columns[name], same.columns[name], err_msg=name)


@pytest.mark.parametrize("plants", [(nothing, everything), (nothing, nothing), (on(7), everything)])
def test_an_sae_without_two_latents_to_explain_fails_alone(plants: tuple[Plant, ...]) -> None:
    """The null needs another latent; the other tasks and the other SAE have the figures that they have without it."""
    settings = settings_of({"tasks": f"{TASK},sparsity", "data": planted_texts(120)})
    good = Planted(on(7), on(5, 6), now_and_then(0.2), name="good")
    found = {(r.sae.name, r.task): r for r in evaluate([Planted(*plants, name="bad"), good], **settings)}
    assert {key: r.status for key, r in found.items() if r.status != "ok"} == {("bad", TASK): "error"}
    bad = found["bad", TASK]
    assert (bad.metrics, bad.controls, bad.details) == ({}, {}, {})
    assert str(bad.reason).startswith("no latent is active often enough on the text")
    for alone in evaluate(good, **settings):
        beside = found["good", alone.task]
        assert (beside.metrics, beside.details) == (alone.metrics, alone.details)


# ---------------------------------------------------------------- n-gram explanations


def test_the_n_gram_explanation_finds_planted_patterns(tmp_path: Path) -> None:
    changes = {f"{TASK}.trie_examples": 8, f"{TASK}.fewest_firings": 3}
    sae = Planted(on(7), pair(5, 6), now_and_then(0.2))
    result, tables = ruled(sae, tmp_path, parameters=changes)
    table = tables["latent"]
    found = dict(zip(table.ids, table.columns["trie_f1"], strict=True))
    assert found["0"] > 0.95
    assert found["1"] > 0.95
    assert found["2"] < 0.5  # what fires at random has no pattern
    assert set(table.columns["tries"]) == {1.0}
    assert result.metrics["trie_f1"].value == pytest.approx(np.mean(list(found.values())), rel=1e-12)


def test_without_being_asked_there_is_no_n_gram_explanation_and_a_reason(tmp_path: Path) -> None:
    result, _ = ruled(Planted(on(7), on(5), on(3)), tmp_path, parameters={f"{TASK}.fewest_firings": 3})
    for name in ("trie_f1", "trie_precision", "trie_recall"):
        assert result.metrics[name].value is None
        assert "token_rules.trie_examples=16" in str(result.metrics[name].reason)
