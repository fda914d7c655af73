"""Pooling over the tokens of a text: the sparse and the dense way agree with a loop, however the work is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_bench.kernels import pool as kernel
from sae_bench.kernels.pool import POOLINGS, Entries, pool, pool_dense


def loop(x: Tensor, size: list[int], how: str) -> Tensor:
    """One text after the other, one latent after the other."""
    out = torch.zeros(len(size), x.shape[1], dtype=torch.float64)
    start = 0
    for text, n in enumerate(size):
        for latent in range(x.shape[1]):
            values = [float(v) for v in x[start : start + n, latent]]
            if not values:
                continue
            if how == "last":
                out[text, latent] = values[-1]
            elif how == "mean":
                out[text, latent] = sum(values) / n
            else:
                largest = max(abs(v) for v in values)
                out[text, latent] = largest if largest in values else -largest
        start += n
    return out


def sparse(x: Tensor, size: list[int], how: str) -> Entries:
    """The entries that are not zero, as the engine hands them over: for "last" those of last tokens alone."""
    text = torch.arange(len(size)).repeat_interleave(torch.tensor(size, dtype=torch.int64))
    token, latent = x.nonzero(as_tuple=True)
    if how == "last":
        last = torch.tensor([i for i in range(len(text)) if i + 1 == len(text) or text[i + 1] != text[i]])
        here = torch.isin(token, last)
        token, latent = token[here], latent[here]
    return Entries(text[token], latent, x[token, latent])


def dense(entries: Entries, n_texts: int, n_latents: int) -> Tensor:
    out = torch.zeros(n_texts, n_latents, dtype=torch.float64)
    out[entries.texts, entries.latents] = entries.values.double()
    return out


def some_codes(size: list[int], n_latents: int, *, seed: int = 0, signed: bool = True) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(size), n_latents, generator=generator)
    x = x * (torch.rand(x.shape, generator=generator) < 0.3)
    return x if signed else x.abs()


def assert_in_order(entries: Entries, n_latents: int) -> None:
    """By text and latent, each at most once: what the probes take for granted."""
    key = entries.texts * n_latents + entries.latents
    assert bool((key.diff() > 0).all())
    assert bool((entries.values != 0).all())


SIZES = [[1], [3, 1, 4], [0, 2, 0, 0, 5, 1, 0], [0], [0, 0], [7, 7, 7, 7]]


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("signed", [False, True])
def test_sparse_and_dense_pooling_equal_a_loop(how: str, size: list[int], signed: bool) -> None:
    x = some_codes(size, 9, signed=signed)
    expected = loop(x, size, how)
    found = pool(sparse(x, size, how), how, 9, torch.tensor(size))
    assert_in_order(found, 9)
    torch.testing.assert_close(dense(found, len(size), 9), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(pool_dense(x, torch.tensor(size), how), expected, rtol=1e-12, atol=0)


def test_the_mean_is_over_all_tokens_and_not_only_active_ones() -> None:
    x = torch.tensor([[0.0], [6.0], [0.0], [2.0]])
    assert dense(pool(sparse(x, [3, 1], "mean"), "mean", 1, torch.tensor([3, 1])), 2, 1).tolist() == [[2.0], [2.0]]


def test_the_maximum_keeps_its_sign_and_a_tie_is_positive() -> None:
    x = torch.tensor([[1.0, -1.0, 2.0, -5.0], [-3.0, 0.0, -2.0, -4.0]])
    expected = [[-3.0, -1.0, 2.0, -5.0]]
    assert dense(pool(sparse(x, [2], "max"), "max", 4, torch.tensor([2])), 1, 4).tolist() == expected
    assert pool_dense(x, torch.tensor([2]), "max").tolist() == expected


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("scratch", [1, 9, 10, 20, 27])
def test_any_size_of_the_scratch_array_gives_the_same(monkeypatch: pytest.MonkeyPatch, how: str, scratch: int) -> None:
    size = [2, 0, 3, 1, 0, 0, 4, 2]
    entries = sparse(some_codes(size, 9), size, how)
    whole = pool(entries, how, 9, torch.tensor(size))
    monkeypatch.setattr(kernel, "SCRATCH", scratch)
    part = pool(entries, how, 9, torch.tensor(size))
    for one, other in zip(whole, part, strict=True):
        assert torch.equal(one, other)


@settings(max_examples=60, deadline=None)
@given(
    size=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    n_latents=st.integers(1, 5),
    how=st.sampled_from(POOLINGS),
    scratch=st.sampled_from([1, 6, 1 << 22]),
    data=st.data(),
)
def test_random_codes_pool_as_a_loop_does(
    size: list[int], n_latents: int, how: str, scratch: int, data: st.DataObject
) -> None:
    value = st.sampled_from([0.0, 0.0, 0.0, -2.0, -0.5, 0.5, 1.0, 2.0])
    n = sum(size) * n_latents
    x = torch.tensor(data.draw(st.lists(value, min_size=n, max_size=n))).view(sum(size), n_latents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "SCRATCH", scratch)
        found = pool(sparse(x, size, how), how, n_latents, torch.tensor(size))
    assert_in_order(found, n_latents)
    expected = loop(x, size, how)
    torch.testing.assert_close(dense(found, len(size), n_latents), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(pool_dense(x, torch.tensor(size), how), expected, rtol=1e-12, atol=0)


def test_the_mean_of_many_float32_values_is_summed_in_float64() -> None:
    x = torch.full((20_000, 1), 0.1)
    x[0] = 1e6
    expected = x.double().mean().item()
    size = torch.tensor([len(x)])
    assert pool(sparse(x, [len(x)], "mean"), "mean", 1, size).values.item() == pytest.approx(expected, rel=1e-13)
    assert pool_dense(x, size, "mean").item() == pytest.approx(expected, rel=1e-13)


def test_no_active_latent_gives_no_entries() -> None:
    none = Entries(*(torch.empty(0, dtype=t) for t in (torch.int64, torch.int64, torch.float32)))
    for how in POOLINGS:
        assert [len(part) for part in pool(none, how, 3, torch.tensor([2, 0]))] == [0, 0, 0]


def test_an_unknown_pooling_is_refused() -> None:
    none = Entries(*(torch.empty(0, dtype=torch.int64) for _ in range(3)))
    with pytest.raises(ValueError, match="max, mean, last"):
        pool(none, "sum", 3, torch.tensor([1]))
