"""Selection by bfloat16 products keeps the latents that float32 keeps, or says that it cannot."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_bench.kernels import candidates, product, topk
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.weights import Weights
from tests.builders.kernel_inputs import LargestAllocation, normal, tiling
from tests.builders.tiny_saes import coder_of, tiny_rule

D, N, K = 24, 400, 7


def select(u: Tensor, w: Tensor, bias: Tensor | None, k: int = K) -> candidates.Selected:
    encoder = candidates.Encoder(lambda a, b: w[:, a:b], lambda i, a, b: candidates.columns(w, i), bias, w.shape[1])
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


def test_numbers_too_small_for_their_squares_are_not_certified_wrongly():
    """Norms in float32 would be 0 here, and with them every bound."""
    c = 30 * normal(D, 1, seed=2)
    w = (0.1 * normal(D, 5000, seed=1) + c).float()
    x = normal(40, D)
    x = x - (x @ c) / (c * c).sum() * c.T
    for scale in (1e-21, 1e-23, 1e-24, 1e-26):
        u = (scale * x).float()
        found = select(u, w, None)
        assert torch.equal(found.indices[found.certified], in_float64(u, w, None)[found.certified]), scale


def test_products_that_vanish_in_bfloat16_are_not_certified_wrongly():
    """A sum of 48 parts that are each below the smallest normal number is the largest pre-activation."""
    u, w = torch.full((8, 48), 2.0**-60), torch.zeros(48, 400)
    w[:, 7] = 2.0**-67
    w[0, 20:30] = 2.0**-65 * torch.linspace(1, 1.5, 10)
    found = select(u, w, None, k=1)
    assert torch.equal(found.indices[found.certified], in_float64(u, w, None, 1)[found.certified])


HOPELESS = {
    "a bias that drowns everything": lambda w: w | {"b_enc": 1000 + w["b_enc"]},
    "one huge direction": lambda w: w | {"W_enc": torch.cat([300 * w["W_enc"][:, :1], w["W_enc"][:, 1:]], 1)},
    "no bias": lambda w: {name: tensor for name, tensor in w.items() if name != "b_enc"},
}
TOKENS = {
    "as usual": normal(30, D, seed=9, dtype=torch.float32),
    "zeros": torch.zeros(3, D),
    "not a number": torch.full((3, D), torch.nan),
    "infinite": torch.full((3, D), torch.inf),
    "huge": torch.full((3, D), 3e38),
}


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("what", HOPELESS)
def test_what_bfloat16_cannot_tell_apart_is_selected_as_ever(what, tokens):
    n = 2 * topk.TILE_LATENTS + 100
    w = {"W_enc": normal(D, n, seed=1), "W_dec": normal(n, D, seed=2), "b_dec": torch.zeros(D), "b_enc": normal(n)}
    weights = Weights(**HOPELESS[what]({name: tensor.float() for name, tensor in w.items()}))
    coder = coder_of(weights, tiny_rule("topk", k=K))
    exact = coder.encode(TOKENS[tokens])
    coder.select_in = "bfloat16"
    fast = coder.encode(TOKENS[tokens])
    assert torch.equal(exact.indptr, fast.indptr)
    assert torch.equal(exact.indices, fast.indices)
    assert torch.allclose(exact.values, fast.values, rtol=1e-5, atol=1e-3, equal_nan=True)


def test_rows_that_are_given_up_hold_no_memory():
    n, tokens = 8 * topk.TILE_LATENTS, 200
    coder = coder_of(
        Weights(normal(4, n).float(), normal(n, 4).float(), torch.zeros(4), 1e4 + normal(n).float()),
        tiny_rule("topk", k=K),
    )
    coder.select_in = "bfloat16"
    with LargestAllocation() as seen:
        coder.encode(normal(tokens, 4).float())
    assert coder.uncertified == tokens
    assert seen.numbers <= 2 * tokens * topk.TILE_LATENTS, seen.by


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


Product = Callable[[Tensor, Tensor], Tensor]


def in_turn(u: Tensor, w: Tensor) -> Tensor:
    """One number after the other, as a GPU's float32 product of one block adds them."""
    out = u.new_zeros(len(u), w.shape[1])
    for i in range(len(w)):
        out += u[:, i : i + 1] * w[i]
    return out


def in_pairs(u: Tensor, w: Tensor) -> Tensor:
    parts = u.unsqueeze(2) * w
    while parts.shape[1] > 1:
        even = parts[:, : parts.shape[1] // 2 * 2]
        parts = torch.cat([even[:, ::2] + even[:, 1::2], parts[:, even.shape[1] :]], 1)
    return parts[:, 0]


def split(n: int) -> Product:
    """Parts of the sum made apart, and added at the end."""

    def summed(u: Tensor, w: Tensor) -> Tensor:
        edges = [len(w) * i // n for i in range(n + 1)]
        parts = [in_turn(u[:, a:b], w[a:b]) for a, b in pairwise(edges)]
        return sum(parts[1:], parts[0])

    return summed


PRODUCTS: dict[str, Product] = {
    "the library's": lambda u, w: u @ w,
    "in turn": in_turn,
    "backwards": lambda u, w: in_turn(u.flip(1), w.flip(0)),
    "in pairs": in_pairs,
    "in four parts": split(4),
    "the smallest first": lambda u, w: in_turn(u[:, by := w.norm(dim=1).argsort()], w[by]),
}


def rounds_up(d: int = 2304) -> tuple[Tensor, Tensor]:
    """Every addition in turn rounds up: latent 1 is larger then, latent 2 is larger in truth."""
    last = 2.0**-23  # of 1
    u, w = torch.full((1, d), 2.0**-10), torch.zeros(d, 300)
    u[0, 0] = 1
    w[0, 1], w[1:, 1] = 1, 0.6 * last / 2.0**-10
    w[0, 2] = 1 + round(0.8 * d) * last
    return u, w


def correlated(scale: float = 1) -> tuple[Tensor, Tensor]:
    """All latents read nearly the same direction: the edge of many tokens is nearer than float32 can tell."""
    near = normal(48, 1, seed=1) + 2e-3 * normal(48, 200, seed=2)
    return (scale * (normal(20, 48) + 1)).float(), near.float()


NEAR: dict[str, Callable[[], tuple[Tensor, Tensor]]] = {
    "made to round in one direction": rounds_up,
    "correlated": correlated,
    "correlated, small": lambda: correlated(1e-18),
    "tiny": lambda: correlated(1e-37),
    "subnormal": lambda: correlated(1e-42),
    "of all sizes": lambda: (normal(20, 48).mul(10 ** (8 * normal(20, 48, seed=1))).float(), normal(48, 400).float()),
    "sums that cancel": lambda: (
        torch.cat([1e6 * (u := normal(20, 24)), -1e6 * u, normal(20, 4)], 1).float(),
        torch.cat([w := normal(24, 400), w, normal(4, 400)], 0).float(),
    ),
    "zeros": lambda: (torch.zeros(3, 48), normal(48, 400).float()),
    "every latent twice": lambda: (normal(20, 48).float(), normal(48, 200).float().repeat(1, 2)),
    "random": lambda: (normal(200, 48).float(), normal(48, 3000, seed=1).float()),
}


@pytest.mark.parametrize("what", NEAR)
@pytest.mark.parametrize("k", [1, 7])
def test_certified_rows_are_those_of_every_order_of_summation(what, k):
    u, w = NEAR[what]()
    found = select(u, w, None, k)
    sure = found.certified
    for name, of in PRODUCTS.items():
        pre = of(u[sure], w)
        values, latents = topk.top_k(lambda a, b, pre=pre: pre[:, a:b], w.shape[1], k)
        assert torch.equal(latents, found.indices[sure]), name
        assert torch.equal(values > 0, found.values[sure] > 0), name
    if what == "random":
        assert float(sure.float().mean()) > 0.9


def test_a_sum_that_rounds_in_one_direction_is_another_latents():
    """The example above is one: with a bound by the square root of the width it was certified."""
    u, w = rounds_up()
    assert int(in_turn(u, w).argmax()) == 1
    assert int((u.double() @ w.double()).argmax()) == int(in_pairs(u, w).argmax()) == 2
    assert not bool(select(u, w, None, 1).certified.any())


def cut_off(self: object, short: Tensor, rounded: Tensor, bias: Tensor | None) -> Tensor:
    """A matrix unit: numbers of 24 bits, every sum of four products and what was there cut off towards zero."""
    out = torch.zeros(len(short), rounded.shape[1], dtype=torch.float64)
    for i in range(0, len(rounded), 4):
        exact = out + short[:, i : i + 4].double() @ rounded[i : i + 4].double()
        nearest = exact.float()
        toward_zero = torch.nextafter(nearest, torch.zeros(()))
        out = torch.where(nearest.double().abs() > exact.abs(), toward_zero, nearest).double()
    return (out if bias is None else out + bias.double()).bfloat16()


@pytest.mark.parametrize("what", ["random", "correlated", "of all sizes", "sums that cancel"])
def test_candidates_hold_the_largest_where_a_matrix_unit_cuts_off(what, monkeypatch):
    monkeypatch.setattr(candidates._Product, "of", cut_off)
    u, w = NEAR[what]()
    u, w = u[:20], w[:, :1000]
    found = select(u, w, None)
    assert torch.equal(found.indices[found.certified], in_float64(u, w, None)[found.certified])


def shaped(u: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
    """A library that sums in another order for every number of rows."""
    order = torch.randperm(len(matrix), generator=torch.Generator().manual_seed(len(u)))
    made = in_turn(u[:, order], matrix[order])
    return made if out is None else out.copy_(made)


def near_ties(waits: bool, select_in: str) -> tuple[LinearCoder, Tensor]:
    n = 1000
    w = normal(D, n, seed=1).float()
    w[:, 600:] = w[:, :400] * (1 + 3e-8 * normal(D, 400, seed=2)).float()  # the edge parts some of the pairs
    coder = coder_of(Weights(w, w.T.contiguous(), torch.zeros(D), torch.zeros(n)), tiny_rule("topk", k=K))
    made = LinearCoder(coder.info, coder.weights, coder.rule, select_in=select_in, waits=waits)  # type: ignore[arg-type]
    made._product = shaped
    return made, normal(300, D, seed=9).float()


@pytest.mark.parametrize("waits", [True, False])
def test_rows_that_are_selected_apart_get_the_sums_that_they_have_among_the_others(waits, monkeypatch):
    """Why certified and exact selection differed on a GPU: a product of fewer rows sums in another order there."""
    monkeypatch.setattr(product, "ROWS", 64)
    with tiling(256, 100 * 256):
        (exact, x), (fast, _) = near_ties(waits, "exact"), near_ties(waits, "bfloat16")
        one, other = exact.encode(x), fast.encode(x)
    assert 0 < fast.uncertified < 300
    if waits:  # as it was
        assert not torch.equal(one.indices, other.indices)
    else:
        assert torch.equal(one.indices, other.indices)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_of_a_hundred_thousand_entries_none_differs(shared, monkeypatch):
    """Random directions, and such as have much in common; products as a GPU makes them, ``product.ROWS`` at a time."""

    def short(self: object, u: Tensor, rounded: Tensor, bias: Tensor | None) -> Tensor:
        return (u.float() @ rounded.float() + (0 if bias is None else bias.float())).bfloat16()

    monkeypatch.setattr(candidates._Product, "of", short)  # many CPUs are slow in bfloat16
    n, d, tokens = 20_000, 128, 3072
    w = torch.nn.functional.normalize(normal(d, n) + shared * normal(d, 1, seed=1), dim=0).float()
    x = (normal(tokens, d, seed=2) + shared * normal(d, 1, seed=1).T).float()
    whole = coder_of(
        Weights(w, w.T.contiguous(), torch.zeros(d), 0.02 * normal(n, seed=4).float()), tiny_rule("topk", k=32)
    )
    exact, fast = (
        LinearCoder(whole.info, whole.weights, whole.rule, select_in=how, waits=False)  # type: ignore[arg-type]
        for how in ("exact", "bfloat16")
    )
    codes = exact.encode(x)
    assert len(codes.indices) > 90_000
    assert torch.equal(codes.indices, fast.encode(x).indices)
    assert fast.uncertified < tokens
