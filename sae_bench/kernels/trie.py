"""Patterns of tokens with wildcards that explain a latent: Neuron-to-Graph as simplified for sparse autoencoders.

Gao et al. 2024, "Scaling and evaluating sparse autoencoders", after Foote et al. 2023, "Neuron to Graph": each example
of a firing is cut down to the shortest suffix that keeps half of the activation; a token of it that can be replaced by
padding without losing half becomes a wildcard. The patterns make a trie that is read from the firing token to the
left. An exact token is preferred to a wildcard, and there is no way back: beside "x b c" the pattern "a * c" does not
match "a b c". A short pattern hides the longer ones that end with it, and of two examples with one pattern the later
sets the value.

A suffix loses its place in the text, and with it a beginning-of-text token: what `Activation` runs decides whether that
token is put in front again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sae_bench.kernels.ranks import exceeds

Floats = NDArray[np.float64]
Tokens = Sequence[int]
Activation = Callable[[list[list[int]]], Sequence[float]]

WILDCARD = -1
START = -2
KEPT = 0.5  # share of an activation that counts as keeping it, up to rounding


class _Node:
    __slots__ = ("children", "value")

    def __init__(self) -> None:
        self.children: dict[int, _Node] = {}
        self.value: float | None = None


class Trie:
    """Patterns of token ids, each with the activation that it predicts."""

    def __init__(self) -> None:
        self._root = _Node()

    def insert(self, pattern: Tokens, value: float) -> None:
        """Add a pattern in reading order: token ids and ``WILDCARD``, and ``START`` in front if a text begins there.

        Raises ValueError for an empty pattern and a ``START`` elsewhere.
        """
        if not len(pattern) or START in pattern[1:] or pattern[-1] == START or min(pattern) < START:
            raise ValueError(f"a pattern is token ids and wildcards, behind START or not, but this is {list(pattern)}")
        node = self._root
        for token in reversed(pattern):
            node = node.children.setdefault(int(token), _Node())
        node.value = float(value)

    def predict(self, texts: Sequence[Tokens]) -> list[Floats]:
        """The predicted activation of every token of every text, 0 where no pattern ends.

        Raises ValueError for a negative token id.
        """
        return [self._predict([int(token) for token in text]) for text in texts]

    def _predict(self, text: list[int]) -> Floats:
        if text and min(text) < 0:
            raise ValueError(f"token ids must be 0 or more, but a text has {min(text)}")
        predicted = np.zeros(len(text))
        first = self._root.children
        anything = first.get(WILDCARD)
        for i, token in enumerate(text):
            node = first.get(token, anything)
            place = i
            while node is not None and node.value is None:
                place -= 1
                if place < 0:
                    node = node.children.get(START)
                    break
                node = node.children.get(text[place]) or node.children.get(WILDCARD)
            if node is not None and node.value is not None:
                predicted[i] = node.value
        return predicted

    def patterns(self) -> Iterator[tuple[tuple[int, ...], float]]:
        """All patterns in reading order with their values, by the token they end with, then the one before it, ..."""

        def below(node: _Node, pattern: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], float]]:
            if node.value is not None:
                yield pattern, node.value
            for token in sorted(node.children):
                yield from below(node.children[token], (token, *pattern))

        return below(self._root, ())

    @property
    def size(self) -> int:
        """Number of nodes: tokens, wildcards and starts, each shared by the patterns that go on from it."""
        waiting = [self._root]
        n = 0
        while waiting:
            children = waiting.pop().children.values()
            n += len(children)
            waiting += children
        return n

    def render(self, token_text: Callable[[int], str]) -> list[str]:
        """One line a pattern: ``^`` for the start of a text, ``*`` for any token, others as ``token_text`` has them."""
        marks = {START: "^", WILDCARD: "*"}
        return [
            f"{' '.join(marks.get(token) or repr(token_text(token)) for token in pattern)} -> {value:.3g}"
            for pattern, value in self.patterns()
        ]


class Explanation(NamedTuple):
    """A trie, and what it took: calls of ``activation`` and sequences in them.

    ``unreached`` counts the examples of which not even the whole sequence kept half of the activation; their pattern is
    the whole sequence with the activation that was given.
    """

    trie: Trie
    calls: int
    sequences: int
    unreached: int


class _Counted:
    """The caller's ``activation``, checked and counted."""

    def __init__(self, activation: Activation) -> None:
        self._activation = activation
        self.calls = self.sequences = 0

    def __call__(self, sequences: list[list[int]]) -> list[float]:
        if not sequences:
            return []
        self.calls += 1
        self.sequences += len(sequences)
        found = [float(value) for value in self._activation(sequences)]
        if len(found) != len(sequences) or not np.isfinite(found).all():
            raise ValueError(f"activation must give a finite number for each of {len(sequences)} sequences")
        return found


def explain(examples: Sequence[Tokens], original: Sequence[float], activation: Activation, padding: int) -> Explanation:
    """The trie of ``examples``, token sequences that each end with a firing of activation ``original`` (above 0).

    ``activation`` gives the activations at the last tokens of a list of sequences; it is called with all sequences of a
    step together, some log2(length) + 2 times in all. ``padding`` is the token id that stands for "nothing": results
    depend on it. Raises ValueError for an empty sequence, an activation that is not above 0, or one that is not finite.
    """
    if len(examples) != len(original) or not all(len(tokens) for tokens in examples):
        raise ValueError("every example needs at least one token, and an activation at the last one")
    if not all(0 < value < np.inf for value in original):
        raise ValueError("the activation of an example must be finite and above 0")
    run = _Counted(activation)
    found = _shortest([[int(token) for token in tokens] for tokens in examples], original, run)
    cut = [suffix or (list(tokens), value) for suffix, tokens, value in zip(found, examples, original, strict=True)]
    padded = run([[padding, *tokens] for tokens, _ in cut])
    replaced = iter(run([[*t[:i], padding, *t[i + 1 :]] for t, _ in cut for i in range(len(t))]))
    trie = Trie()
    for (tokens, value), before, behind_padding in zip(cut, original, padded, strict=True):
        pattern = [WILDCARD if exceeds(KEPT, 1 - next(replaced) / value) else token for token in tokens]
        if exceeds(KEPT, behind_padding / before):
            pattern.insert(0, START)
        trie.insert(pattern, value)
    return Explanation(trie, run.calls, run.sequences, sum(suffix is None for suffix in found))


def _shortest(
    examples: list[list[int]], original: Sequence[float], run: _Counted
) -> list[tuple[list[int], float] | None]:
    """The shortest suffix of each example that keeps half of its activation, with what it has; None if there is none.

    Lengths are tried 1, then 2 and 3, then 4 to 7, and so on, for all examples together: at most twice the sequences of
    trying one length after the other, in a few calls.
    """
    found: list[tuple[list[int], float] | None] = [None] * len(examples)
    lengths = range(1, 2)
    waiting = list(range(len(examples)))
    while waiting:
        tries = [(i, examples[i][-n:]) for i in waiting for n in lengths if n <= len(examples[i])]
        for (i, suffix), value in zip(tries, run([suffix for _, suffix in tries]), strict=True):
            if found[i] is None and not exceeds(KEPT, value / original[i]):
                found[i] = suffix, value
        lengths = range(lengths.stop, 2 * lengths.stop)
        waiting = [i for i in waiting if found[i] is None and len(examples[i]) >= lengths.start]
    return found


class Agreement(NamedTuple):
    """Sums over tokens of what fires (above 0) and what is predicted to: add them up, then take the ratios."""

    true_positive: float
    predicted: float
    firing: float
    product: float
    predicted_squared: float

    @property
    def precision(self) -> float:
        """Share of the predicted tokens that fire; NaN if none is predicted."""
        return self.true_positive / self.predicted if self.predicted else np.nan

    @property
    def recall(self) -> float:
        """Share of the firing tokens that are predicted; NaN if none fires."""
        return self.true_positive / self.firing if self.firing else np.nan

    @property
    def f1(self) -> float:
        """Harmonic mean of the two; NaN if nothing fires or is predicted."""
        either = self.predicted + self.firing
        return 2 * self.true_positive / either if either else np.nan

    @property
    def scale(self) -> float:
        """The factor ``E[s a] / E[s^2]`` that fits predictions s to activations a best; NaN without a prediction."""
        return self.product / self.predicted_squared if self.predicted_squared else np.nan


def agreement(activations: ArrayLike, predicted: ArrayLike) -> Agreement:
    """Sums over arrays of one shape. Raises ValueError for shapes that differ."""
    a, s = np.asarray(activations, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if a.shape != s.shape:
        raise ValueError(f"every token needs an activation and a prediction, but the shapes are {a.shape}, {s.shape}")
    fires, predicts = a > 0, s > 0
    sums = ((fires & predicts).sum(), predicts.sum(), fires.sum(), (s * a).sum(), (s * s).sum())
    return Agreement(*[float(value) for value in sums])
