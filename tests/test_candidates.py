"""Selection by bfloat16 products keeps the latents that float32 keeps, or says that it cannot."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_bench.kernels import candidates, topk
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.weights import Weights
from tests.test_kernels import normal, tiling
from tests.tiny_saes import coder_of, tiny_rule

D, N, K = 24, 400, 7


def select(u: Tensor, w: Tensor, bias: Tensor | None, k: int = K) -> candidates.Selected:
    encoder = candidates.Encoder(lambda a, b: w[:, a:b], lambda i: candidates.columns(w, i), bias, w.shape[1])
    with tiling(64, 64 * 6):  # six tokens at a time
        return candidates.top_k(u, encoder, k, candidates.Rounding())


def in_float64(u: Tensor, w: Tensor, bias: Tensor | None, k: int = K) -> Tensor:
    pre = u.double() @ w.double() + (0 if bias is None else bias.double())
    return pre.topk(k, dim=1).indices.sort(dim=1).values


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.floats(0, 3),
    shift=st.floats(-2, 2),
    scale=st.floats(1e-3, 1e3),
    biased=st.booleans(),
)
def test_every_certified_row_has_the_latents_of_exact_arithmetic(seed, spread, shift, scale, biased):
    """Columns of very unequal norm, correlated columns, activations of any scale, large biases."""
    u = scale * (normal(20, D, seed=seed, dtype=torch.float32) + shift)
    w = normal(D, N, seed=seed + 1) * torch.exp(spread * normal(1, N, seed=seed + 2)) + shift * normal(D, 1, seed=seed)
    w = w.float()
    bias = scale * 5 * normal(N, seed=seed + 3, dtype=torch.float32) if biased else None
    found = select(u, w, bias)
    sure = found.certified
    assert torch.equal(found.indices[sure], in_float64(u, w, bias)[sure])
    pre = u @ w + (0 if bias is None else bias)
    largest = pre.abs().max()
    assert torch.allclose(found.values[sure], pre.gather(1, found.indices)[sure], rtol=1e-5, atol=float(1e-5 * largest))


def test_most_rows_of_an_ordinary_dictionary_are_certified():
    u, w = normal(200, 64, dtype=torch.float32), normal(64, 4000, seed=1, dtype=torch.float32)
    assert float(select(u, w / w.norm(dim=0), None, k=16).certified.float().mean()) > 0.9


def test_equal_latents_are_never_certified():
    """Which of two equal latents is kept is the exact path's affair: the lowest index."""
    u, w = normal(10, D, dtype=torch.float32), normal(D, N, seed=1, dtype=torch.float32)
    twice = torch.cat([w, w], 1)
    assert not bool(select(u, twice, None).certified.any())


def wide(select_in: str, k: int = K, **changes: Tensor) -> LinearCoder:
    n = 2 * topk.TILE_LATENTS + 100
    w = {
        "W_enc": normal(D, n, seed=1, dtype=torch.float32),
        "W_dec": normal(n, D, seed=2, dtype=torch.float32),
        "b_dec": normal(D, seed=3, dtype=torch.float32),
        "b_enc": normal(n, seed=4, dtype=torch.float32),
    }
    coder = coder_of(Weights(**(w | changes)), tiny_rule("topk", k=k))
    return LinearCoder(coder.info, coder.weights, coder.rule, select_in=select_in)  # type: ignore[arg-type]


@pytest.mark.parametrize("tokens", [0, 1, 50])
def test_a_coder_gives_the_same_latents_either_way(tokens):
    x = normal(tokens, D, seed=9, dtype=torch.float32)
    exact, fast = wide("exact").encode(x), wide("bfloat16").encode(x)
    assert torch.equal(exact.indptr, fast.indptr)
    assert torch.equal(exact.indices, fast.indices)
    assert torch.allclose(exact.values, fast.values, rtol=1e-5, atol=1e-5)


def test_rows_without_a_certificate_take_the_exact_path_and_are_counted():
    n = 2 * topk.TILE_LATENTS + 100
    same = normal(D, 1, seed=1, dtype=torch.float32).expand(D, n).contiguous()
    coder = wide("bfloat16", W_enc=same, b_enc=torch.zeros(n))
    x = normal(30, D, seed=9, dtype=torch.float32)
    codes = coder.encode(x)
    assert coder.uncertified == 30
    assert torch.equal(codes.indices, wide("exact", W_enc=same, b_enc=torch.zeros(n)).encode(x).indices)
    assert set(codes.indices.tolist()) <= set(range(K)), "ties go to the lowest index"


@pytest.mark.parametrize("stored", ["a direction a column", "a direction a row"])
def test_directions_are_found_however_the_matrix_lies_in_memory(stored):
    w = normal(D, N, dtype=torch.float32)
    w = w if stored == "a direction a column" else w.T.contiguous().T
    which = torch.tensor([0, 3, 4, N - 1])
    assert torch.equal(candidates.columns(w, which), torch.stack([w[:, i] for i in which]))


@pytest.fixture(params=[True, False])
def reduced_precision(request):
    """Whether the user lets a GPU add parts of a sum in bfloat16, as PyTorch does unless told otherwise."""
    options = torch.backends.cuda.matmul
    before = options.allow_bf16_reduced_precision_reduction
    options.allow_bf16_reduced_precision_reduction = request.param
    yield request.param
    options.allow_bf16_reduced_precision_reduction = before


def test_a_gpu_adds_in_float32_while_candidates_are_chosen_and_as_it_did_afterwards(reduced_precision, monkeypatch):
    options, product, seen = torch.backends.cuda.matmul, torch.mm, []

    def watched(*matrices, **options_of_product):
        seen.append(options.allow_bf16_reduced_precision_reduction)
        return product(*matrices, **options_of_product)

    monkeypatch.setattr(torch, "mm", watched)
    select(normal(3, D, dtype=torch.float32), normal(D, N, seed=1, dtype=torch.float32), None)
    assert seen
    assert not any(seen)
    assert options.allow_bf16_reduced_precision_reduction == reduced_precision
