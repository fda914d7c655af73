"""Patterns with wildcards: the published cases, a plain walk after the definition, and planted latents."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.kernels.trie import START, WILDCARD, Trie, agreement, explain

PADDING = 1000
NAMES = {START: "token(^)", WILDCARD: "token(*)"}


def ids(text):
    return [ord(letter) for letter in text.replace(" ", "")]


def trie_of(nested):
    """A trie from the nested form in which the reference writes it: from the last token to the first."""
    trie = Trie()
    back = {name: token for token, name in NAMES.items()}

    def walk(node, pattern):
        for name, below in node.items():
            if name == "<saliency>":
                trie.insert(pattern, below)
            else:
                walk(below, [back[name] if name in back else ord(name), *pattern])

    walk(nested, [])
    return trie


def nested(trie):
    out = {}
    for pattern, value in trie.patterns():
        node = out
        for token in reversed(pattern):
            node = node.setdefault(NAMES.get(token, chr(token) if token >= 0 else None), {})
        node["<saliency>"] = value
    return out


def predict(trie, text):
    return trie.predict([ids(text)])[0].tolist()


def test_cases_of_the_reference(references):
    expected = json.loads((references / "metrics_oracles.json").read_text())["6.n2g"]["expected"]
    c, a_star_c, first = (trie_of(expected[name]) for name in ("trie_c", "trie_a_star_c", "trie_first_position"))
    assert predict(c, "c b c") == expected["c_on_cbc"]
    assert predict(a_star_c, "a e c a c") == expected["astarc_on_aecac"]
    assert predict(first, "a b c") == expected["first_on_abc"]
    assert predict(a_star_c, "a b b c") == expected["known_failure_astarc_on_abbc"]


def test_explanations_of_planted_latents_are_the_tries_of_the_reference(references):
    """On "c"; on "c" with an "a" one or two places before; on whatever is first: found from examples alone."""
    expected = json.loads((references / "metrics_oracles.json").read_text())["6.n2g"]["expected"]
    a, c = ids("a c")

    def on_c(tokens):
        return float(tokens[-1] == c)

    def on_c_after_a(tokens):
        return float(tokens[-1] == c and a in tokens[-3:-1])

    def on_first(tokens):
        return float(len(tokens) == 1)

    for latent, texts, name in (
        (on_c, ("b a c",), "trie_c"),
        (on_c_after_a, ("b a c", "a e c"), "trie_a_star_c"),
        (on_first, ("b", "a"), "trie_first_position"),
    ):
        found = explain([ids(t) for t in texts], [1.0] * len(texts), lambda s, f=latent: list(map(f, s)), PADDING)
        assert nested(found.trie) == expected[name]


def test_precision_and_recall_of_the_reference(references):
    oracle = json.loads((references / "metrics_oracles.json").read_text())["6.n2g_precision_recall"]
    found = agreement(oracle["inputs"]["true"], oracle["inputs"]["pred"])
    assert found.true_positive == oracle["expected"]["tp"]
    for name, key in (("precision",) * 2, ("recall",) * 2, ("f1",) * 2, ("scale", "scale_E_sa_over_E_ss")):
        assert getattr(found, name) == pytest.approx(oracle["expected"][key], rel=1e-14)


def test_a_figure_without_a_meaning_is_nan():
    nothing = agreement([0.0, 0.0], [0.0, 0.0])
    assert all(math.isnan(v) for v in (nothing.precision, nothing.recall, nothing.f1, nothing.scale))
    missed = agreement([1.0, 0.0], [0.0, 0.0])
    assert math.isnan(missed.precision)
    assert (missed.recall, missed.f1) == (0, 0)
    with pytest.raises(ValueError, match=r"the shapes are \(2,\), \(3,\)"):
        agreement([1, 2], [1, 2, 3])


def test_exact_before_wildcard_and_no_way_back():
    trie = Trie()
    trie.insert([*ids("x b c")], 1.0)
    trie.insert([ids("a")[0], WILDCARD, ids("c")[0]], 2.0)
    assert predict(trie, "x b c") == [0, 0, 1]
    assert predict(trie, "a e c") == [0, 0, 2]
    assert predict(trie, "a b c") == [0, 0, 0]  # "b" leads into the first pattern, and stays there


def test_a_short_pattern_hides_longer_ones_and_the_last_value_stays():
    trie = Trie()
    trie.insert(ids("a b"), 2.0)
    trie.insert(ids("b"), 1.0)
    assert predict(trie, "a b") == [0, 1]
    trie.insert(ids("b"), 3.0)
    assert predict(trie, "b") == [3]
    assert trie.size == 2
    trie.insert([START, *ids("c")], 4.0)
    assert trie.size == 4
    assert predict(trie, "c c") == [4, 0]
    assert trie.render(chr) == ["'b' -> 3", "'a' 'b' -> 2", "^ 'c' -> 4"]


def slow(patterns, text):
    """The walk of the definition on nested dicts with text keys."""
    root = {}
    for pattern, value in patterns:
        node = root
        for token in reversed(pattern):
            node = node.setdefault(NAMES.get(token, str(token)), {})
        node["value"] = value
    out = []
    for i in range(len(text)):
        node, predicted = root, 0.0
        for j in range(i, -1, -1):
            key = str(text[j]) if str(text[j]) in node else "token(*)"
            if key not in node:
                break
            node = node[key]
            if "value" in node:
                predicted = node["value"]
                break
            if j == 0 and "token(^)" in node:
                predicted = node["token(^)"]["value"]
        out.append(predicted)
    return out


PATTERN = st.builds(
    lambda start, body: [START] * start + body, st.booleans(), st.lists(st.integers(-1, 3), min_size=1, max_size=4)
)


@given(st.lists(PATTERN, max_size=6), st.lists(st.lists(st.integers(0, 4), max_size=8), max_size=4))
@settings(max_examples=200, deadline=None)
def test_predictions_are_those_of_a_plain_walk(patterns, texts):
    trie = Trie()
    valued = [(pattern, float(i + 1)) for i, pattern in enumerate(patterns)]
    for pattern, value in valued:
        trie.insert(pattern, value)
    assert [found.tolist() for found in trie.predict(texts)] == [slow(valued, text) for text in texts]
    assert {tuple(pattern) for pattern in patterns} == {pattern for pattern, _ in trie.patterns()}
    assert trie.size == len({tuple(p[i:]) for p in patterns for i in range(len(p))})


class Recorded:
    """A latent that fires by a function, and what was asked of it."""

    def __init__(self, latent):
        self.latent, self.batches = latent, []

    def __call__(self, sequences):
        self.batches.append([tuple(s) for s in sequences])
        return [self.latent(s) for s in sequences]


def plain_explanation(examples, original, latent, padding):
    """One example after the other, one token after the other."""
    trie = {}
    for tokens, before in zip(examples, original, strict=True):
        cut, value = list(tokens), before
        for n in range(1, len(tokens) + 1):
            if latent(tokens[-n:]) / before >= 0.5:
                cut, value = tokens[-n:], latent(tokens[-n:])
                break
        pattern = []
        for i, token in enumerate(cut):
            saliency = 1 - latent([*cut[:i], padding, *cut[i + 1 :]]) / value
            pattern.append(WILDCARD if saliency < 0.5 else token)
        if latent([padding, *cut]) / before < 0.5:
            pattern.insert(0, START)
        trie[tuple(pattern)] = value
    return trie


@given(st.integers(0, 10_000), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_explanations_are_those_of_a_plain_loop_in_few_calls(seed, longest):
    """Some latent that depends on all of the last tokens, on their places and on the number of tokens."""
    weights = np.random.default_rng(seed).random((6, longest + 2)) ** 4

    def latent(tokens):
        return float(sum(weights[t % 6, -1 - i] for i, t in enumerate(reversed(tokens)))) + 0.3 / len(tokens)

    rng = np.random.default_rng(seed + 1)
    examples = [rng.integers(0, 6, rng.integers(1, longest + 1)).tolist() for _ in range(5)]
    original = [latent(tokens) * factor for tokens, factor in zip(examples, [1, 1, 1.5, 0.7, 5], strict=True)]
    model = Recorded(latent)
    found = explain(examples, original, model, PADDING)
    assert dict(found.trie.patterns()) == plain_explanation(examples, original, latent, PADDING)
    assert (found.calls, found.sequences) == (len(model.batches), sum(map(len, model.batches)))
    assert found.calls <= math.floor(math.log2(longest)) + 3
    assert found.unreached == sum(
        all(latent(tokens[-n:]) / before < 0.5 for n in range(1, len(tokens) + 1))
        for tokens, before in zip(examples, original, strict=True)
    )


def test_half_of_the_activation_is_enough():
    found = explain([[1, 2, 3]], [1.0], lambda sequences: [0.5 if len(s) == 1 else 1.0 for s in sequences], PADDING)
    assert dict(found.trie.patterns()) == {(WILDCARD,): 0.5}


def test_nothing_is_asked_of_the_model_without_examples():
    found = explain([], [], lambda sequences: 1 / 0, PADDING)
    assert (found.trie.size, found.calls, found.sequences, found.unreached) == (0, 0, 0, 0)
    assert found.trie.predict([[1, 2]])[0].tolist() == [0, 0]


def test_bad_input_is_refused():
    def one(sequences):
        return [1.0] * len(sequences)

    for arguments, message in (
        (([[1], []], [1.0, 1.0], one), "at least one token"),
        (([[1]], [1.0, 1.0], one), "at least one token"),
        (([[1]], [0.0], one), "above 0"),
        (([[1]], [math.nan], one), "above 0"),
        (([[1]], [1.0], lambda sequences: [math.nan] * len(sequences)), "finite number for each of 1"),
        (([[1]], [1.0], lambda sequences: []), "finite number for each of 1"),
    ):
        with pytest.raises(ValueError, match=message):
            explain(*arguments, PADDING)
    for pattern in ([], [1, START], [1, START, 2], [-3]):
        with pytest.raises(ValueError, match="a pattern is token ids"):
            Trie().insert(pattern, 1.0)
    with pytest.raises(ValueError, match="0 or more"):
        Trie().predict([[1, -1]])
