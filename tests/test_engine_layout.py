"""What the host knows of a batch from tokens and masks: who passes the model for whom, held against activations."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.engine.layout import Layout


@st.composite
def layouts(draw: Any) -> Layout:
    """A few short texts of very few tokens, padded on the right, with a mask that leaves some out."""
    n, longest = draw(st.integers(1, 7)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, longest), min_size=n, max_size=n))
    cells = st.lists(st.lists(st.integers(0, 2), min_size=longest, max_size=longest), min_size=n, max_size=n)
    tokens = torch.tensor(draw(cells))
    attention = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
    if draw(st.booleans()):  # as a run masks: special tokens are left alone
        tokens[:, 0] = 0
        keep = tokens != 0
    else:
        keep = torch.tensor(draw(cells)) > 0
    return Layout.of(tokens, attention, keep & attention)


def carried(layout: Layout) -> list[list[tuple[int, ...]]]:
    """What each position of a causal model carries under ablation: nothing of its own, or the tokens up to it."""
    return [
        [() if layout.keep[i, p] else tuple(layout.tokens[i, : p + 1].tolist()) for p in range(layout.lengths[i])]
        for i in range(len(layout.tokens))
    ]


def kinds_by_value(layout: Layout) -> list[int]:
    """The first sequence that carries the same, each continued behind its end by what it carries last."""
    longest = layout.tokens.shape[1]
    full = [row + [row[-1]] * (longest - len(row)) for row in carried(layout)]
    return [full.index(row) for row in full]


@given(layouts())
def test_who_passes_for_whom(layout: Layout) -> None:
    """It carries the same as far as the other goes, is as long, and nothing that activations would tell is missed."""
    rows, (firsts, kind) = carried(layout), layout.alike
    of = firsts[kind]
    assert firsts.tolist() == sorted(set(of.tolist()))
    for i, first in enumerate(of):
        assert of[first] == first, "who passes for others passes for itself"
        assert layout.lengths[first] >= layout.lengths[i]
        assert rows[i] == rows[first][: len(rows[i])]
    by_value = kinds_by_value(layout)
    assert len(firsts) <= len(set(by_value))
    for i, j in zip(*np.triu_indices(len(rows), 1), strict=True):
        assert by_value[i] != by_value[j] or of[i] == of[j]


def test_equal_tokens_behind_different_ones_are_not_equal() -> None:
    """The special token in the middle of a text is left alone, and what it carries depends on the text before it."""
    tokens = torch.tensor([[0, 1, 2, 0, 3], [0, 1, 2, 0, 4], [0, 1, 3, 0, 3], [0, 2, 2, 2, 1]])
    layout = Layout.of(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens != 0)
    assert layout.alike.firsts.tolist() == [0, 2, 3]
    assert layout.alike.kind.tolist() == [0, 0, 1, 2]


def test_the_first_of_the_longest_passes_for_shorter_ones() -> None:
    tokens = torch.tensor([[0, 1, 0, 0], [0, 1, 2, 3], [0, 4, 4, 4]])
    attention = torch.arange(4) < torch.tensor([[2], [4], [4]])
    layout = Layout.of(tokens, attention, attention & (tokens != 0))
    assert layout.alike.firsts.tolist() == [1]
    assert layout.alike.kind.tolist() == [0, 0, 0]


@given(layouts())
def test_places_are_those_of_masks(layout: Layout) -> None:
    tokens, attention, keep = (torch.from_numpy(x) for x in (layout.tokens, layout.attention, layout.keep))
    x = torch.arange(tokens.numel()).reshape(tokens.shape)
    real = x.flatten()[layout.real]
    assert torch.equal(real, x[attention])
    assert torch.equal(real[layout.kept_tokens], x[keep])
    assert torch.equal(x.flatten()[layout.kept_places], x[keep])
    assert torch.equal(real[layout.first_tokens], x[:, 0])
    assert real[torch.from_numpy(layout.first)].tolist() == x[:, 0].tolist()
    assert [layout.sequence_of(i) for i in range(len(real))] == attention.nonzero()[:, 0].tolist()
    predicts = torch.from_numpy(layout.predicts)
    assert not predicts[:, -1].any()
    assert torch.equal(predicts[:, :-1], keep[:, :-1] & attention[:, 1:])
    assert layout.targets.tolist() == tokens[:, 1:][predicts[:, :-1]].tolist()
    assert layout.predictions.tolist() == predicts.sum(1).tolist()
