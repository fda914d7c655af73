"""Selection and decoding equal a dense reference for every tile size, and never make an array of tokens x latents."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.protocol import Codes, codes_from_dense, indptr_of
from tests.builders.kernel_inputs import LargestAllocation, normal, tiling
from tests.builders.marks import slow_but
from tests.builders.tiny_saes import ACTIVATIONS, coder_of, tiny_rule, tiny_weights

TILINGS = [(1, 1), (3, 1), (7, 20), (16, 64), (1000, 1 << 22)]


def lowest_index_first(keys: Tensor, k: int) -> Tensor:
    """Independent reference in plain Python: the k largest keys of every row, ties to the lowest index, ascending."""
    rows = [sorted(sorted(range(len(row)), key=lambda i, row=row: (-row[i], i))[:k]) for row in keys.tolist()]
    return torch.tensor(rows, dtype=torch.int64).reshape(len(keys), min(k, keys.shape[1]))


@pytest.mark.parametrize(("latents", "elements"), TILINGS)
@pytest.mark.parametrize("by_magnitude", [False, True])
@pytest.mark.parametrize("k", [1, 4, 9, 50])
def test_top_k_equals_dense_top_k_for_every_tiling(latents, elements, by_magnitude, k):
    pre = normal(13, 50)
    keys = pre.abs() if by_magnitude else pre
    columns = keys.topk(k, dim=1).indices.sort(dim=1).values
    with tiling(latents, elements):
        values, indices = topk.top_k(lambda a, b: pre[:, a:b], 50, k, by_magnitude=by_magnitude)
    assert torch.equal(indices, columns)
    assert torch.equal(values, pre.gather(1, columns))


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(-2, 2), min_size=9, max_size=9), min_size=0, max_size=5),
    k=st.integers(1, 12),
    latents=st.integers(1, 10),
    by_magnitude=st.booleans(),
)
def test_ties_go_to_the_lowest_index_in_every_tiling(rows, k, latents, by_magnitude):
    pre = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), 9)
    with tiling(latents, 1 << 22):
        values, indices = topk.top_k(lambda a, b: pre[:, a:b], 9, k, by_magnitude=by_magnitude)
    expected = lowest_index_first(pre.abs() if by_magnitude else pre, k)
    assert torch.equal(indices, expected)
    assert torch.equal(values, pre.gather(1, expected))


def test_magnitude_keeps_the_sign():
    pre = torch.tensor([[1.0, -5.0, 0.5, 4.0, -0.1]])
    values, indices = topk.top_k(lambda a, b: pre[:, a:b], 5, 2, by_magnitude=True)
    assert indices.tolist() == [[1, 3]]
    assert values.tolist() == [[-5.0, 4.0]]


@pytest.mark.parametrize("latents", [1, 4, 100])
@pytest.mark.parametrize("k", [10, 11, 1000])
def test_k_of_all_latents_keeps_everything(latents, k):
    pre = normal(4, 10)
    with tiling(latents, 1 << 22):
        values, indices = topk.top_k(lambda a, b: pre[:, a:b], 10, k)
    assert torch.equal(values, pre)
    assert torch.equal(indices, torch.arange(10).expand(4, 10))


@pytest.mark.parametrize(("tokens", "latents"), [(0, 7), (5, 0), (0, 0)])
def test_no_tokens_and_no_latents_give_empty_results(tokens, latents):
    pre = normal(tokens, latents)
    with tiling(3, 1 << 22):
        values, indices = topk.top_k(lambda a, b: pre[:, a:b], latents, 2)
        counts, columns, entries = topk.active(lambda a, b: pre[:, a:b], latents)
    assert values.shape == indices.shape == (tokens, min(2, latents))
    assert counts.tolist() == [0] * tokens
    assert columns.shape == entries.shape == (0,)


@pytest.mark.parametrize(("latents", "elements"), TILINGS)
def test_active_equals_dense_nonzeros_in_row_order(latents, elements):
    dense = normal(11, 50).sub(1).relu()
    dense[3] = 0
    with tiling(latents, elements):
        counts, indices, values = topk.active(lambda a, b: dense[:, a:b], 50)
    rows, columns = dense.nonzero(as_tuple=True)
    assert torch.equal(counts, (dense != 0).sum(1))
    assert torch.equal(indices, columns)
    assert torch.equal(values, dense[rows, columns])


@pytest.mark.parametrize(("tokens", "latents", "k"), [(10, 7, 0), (1000, 30, 0), (1000, 30, 64), (3, 0, 0), (0, 5, 0)])
def test_row_chunks_cover_all_tokens_once_and_bound_the_tile(tokens, latents, k):
    with tiling(16, 100):
        chunks = list(topk.row_chunks(tokens, latents, k))
        widest = max(k, min(latents, 16), 1)
        assert all(c.stop - c.start == 1 or (c.stop - c.start) * widest <= 100 for c in chunks)
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(tokens))


def ragged(tokens: int = 23, n: int = 40, seed: int = 0) -> Codes:
    """Codes with empty rows at both ends and in the middle, and one row in which every latent is active."""
    dense = normal(tokens, n, seed=seed)
    dense = dense * (dense > 1.2)
    dense[[0, 7, tokens - 1]] = 0
    dense[4] = normal(n, seed=seed + 1)
    return codes_from_dense(dense)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("elements", [1, 25, 60, 400, 1 << 22])
def test_decode_equals_a_dense_product_for_every_type_and_tile(stored, elements):
    codes, directions = ragged(), normal(40, 6, seed=5, dtype=stored)
    with tiling(8, elements):
        out = sparse_decode(codes.indptr, codes.indices, codes.values, directions)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, codes.dense() @ directions.double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_decode_of_a_token_does_not_depend_on_its_batch(stored):
    codes, directions = ragged(), normal(40, 6, seed=5, dtype=stored)
    codes = codes._replace(values=codes.values.float())
    with tiling(8, 60):
        together = sparse_decode(codes.indptr, codes.indices, codes.values, directions)
        for i in range(codes.n_tokens):
            one = codes.select(torch.arange(codes.n_tokens) == i)
            assert torch.equal(sparse_decode(one.indptr, one.indices, one.values, directions)[0], together[i])


@pytest.mark.parametrize("stored", [torch.float16, torch.float64])
@pytest.mark.parametrize("tokens", [0, 3])
def test_decode_of_no_entries_is_zero(stored, tokens):
    empty = torch.zeros(0, dtype=torch.int64)
    counts = torch.zeros(tokens, dtype=torch.int64)
    out = sparse_decode(indptr_of(counts), empty, torch.zeros(0), normal(5, 4, dtype=stored))
    assert torch.equal(out, torch.zeros(tokens, 4))


def test_the_recorder_sees_a_dense_array_and_ignores_views():
    x = normal(300, 10)
    with LargestAllocation() as seen:
        x.T[:5].expand(2, 5, 300)
    assert seen.numbers == 0
    with LargestAllocation() as seen:
        codes_from_dense(x @ x.T)
    assert seen.numbers >= 300 * 300


WIDE, D = 65_536, 96
CASES = [
    *(pytest.param(activation, torch.bfloat16, 2048, False, marks=pytest.mark.slow) for activation in ACTIVATIONS),
    *((activation, torch.float16, 300, False) for activation in ACTIVATIONS),
    *(pytest.param(activation, torch.float32, 300, False, marks=pytest.mark.slow) for activation in ACTIVATIONS),
    *slow_but(1, ((activation, torch.float16, 300, True) for activation in ("topk", "abstopk"))),
]


@pytest.mark.parametrize(("activation", "stored", "tokens", "rescale"), CASES)
def test_a_wide_dictionary_never_costs_more_than_a_tile(activation, stored, tokens, rescale):
    """Neither tokens x latents (20 or 134 million numbers) nor a converted copy of a weight matrix (6.3 million)."""
    weights = tiny_weights(activation, d_in=D, n_latents=WIDE, storage=stored)
    shifted = {"relu": "b_enc", "gated": "b_gate", "jumprelu": "threshold"}.get(activation)
    if shifted:  # about 20 of 65536 latents fire
        sign = 1 if shifted == "threshold" else -1
        tensors = dict(weights.items())
        weights = type(weights)(**(tensors | {shifted: torch.full((WIDE,), 3.5 * sign, dtype=stored)}))
    x = normal(tokens, D, seed=9, dtype=torch.float32)
    with LargestAllocation() as seen:
        coder = coder_of(weights, tiny_rule(activation, k=20, by_decoder_norm="latents" if rescale else "no"))
        codes = coder.encode(x)
        out = coder.decode(codes, x)
        coder.decoder_rows(codes.indices[:100])
    assert 1 <= len(codes.indices) / tokens < 100
    assert out.shape == (tokens, D)
    assert seen.numbers <= topk.TILE_ELEMENTS, f"{seen.by} wrote {seen.numbers} numbers"
    few = slice(0, 4)
    assert torch.equal(coder.encode(x[few]).indices, codes.indices[: int(codes.indptr[4])])


def test_one_token_with_every_latent_active_is_converted_in_parts():
    """BOS tokens can have tens of thousands of active latents: their directions are the whole decoder."""
    n = 500
    codes = codes_from_dense(normal(3, n))
    directions = normal(n, 8, dtype=torch.bfloat16)
    with tiling(16, 400), LargestAllocation() as seen:
        out = sparse_decode(codes.indptr, codes.indices, codes.values, directions)
    assert seen.numbers <= n < directions.numel()
    torch.testing.assert_close(out, codes.dense() @ directions.double())


def test_a_large_k_makes_smaller_groups_of_tokens():
    coder = coder_of(tiny_weights("abstopk", n_latents=400), tiny_rule("abstopk", k=300))
    x = normal(60, 16, dtype=torch.float32)
    groups: list[int] = []
    pre = coder._pre
    coder._pre = lambda u, *rest: groups.append(len(u)) or pre(u, *rest)  # type: ignore[method-assign, func-returns-value]
    with tiling(16, 1000):
        codes = coder.encode(x)
    assert max(groups) == 3, "3 tokens of 300 entries fit into 1000"
    assert torch.equal(coder.encode(x).indices, codes.indices)
