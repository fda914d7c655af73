"""Selection with shapes known beforehand selects the same to the bit, and reads nothing from the device on its way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sae_bench.kernels import fixed, product, topk
from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import codes_from_dense
from tests.builders.kernel_inputs import LargestAllocation, normal, tiling
from tests.builders.marks import slow_but
from tests.builders.tiny_saes import ACTIVATIONS, activations, coder_of, tiny_coder, tiny_rule, tiny_weights
from tests.builders.waiting import Waited, no_host_reads

N = 700  # some tiles of 300 latents, and one that is no whole number of groups
TILE = 300


def with_nan(x: Tensor) -> Tensor:
    x = x.clone()
    x[1, 5] = x[2] = x[3, [4, 600]] = torch.nan
    x[4, [7, 400]], x[5, 8] = torch.inf, -torch.inf
    return x


INPUTS: dict[str, Callable[[], Tensor]] = {
    "random": lambda: normal(9, N),
    "tied": lambda: normal(9, N).round(),
    "few different": lambda: (normal(9, N) > 1.5).double(),
    "zeros": lambda: torch.zeros(9, N, dtype=torch.float64),
    "zeros of both signs": lambda: torch.zeros(9, N, dtype=torch.float64) * normal(9, N).sign(),
    "few are positive": lambda: normal(9, N) - 2.5,
    "not finite": lambda: with_nan(normal(9, N)),
    "not finite and tied": lambda: with_nan(normal(9, N).round()),
    "nothing but NaN": lambda: torch.full((9, N), torch.nan, dtype=torch.float64),
    "subnormal": lambda: (normal(9, N).float() * 1e-44).double(),
    "one token": lambda: normal(1, N),
    "no token": lambda: normal(0, N),
}


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.nan_to_num(9e9), other.nan_to_num(9e9))


def tile_of(pre: Tensor) -> topk.TileFunction:
    return lambda a, b: pre[:, a:b].contiguous()


@pytest.mark.parametrize("what", INPUTS)
@pytest.mark.parametrize("k", slow_but(4, [1, 9, 500, N + 50, 2, N]))
@pytest.mark.parametrize("by_magnitude", [False, True])
@pytest.mark.parametrize("dtype", slow_but(2, [torch.float32, torch.float64, torch.bfloat16]))
def test_the_k_largest_are_the_same(what, k, by_magnitude, dtype):
    pre = INPUTS[what]().to(dtype)
    with tiling(TILE, 1 << 22):
        expected = topk.top_k(tile_of(pre), N, k, by_magnitude=by_magnitude)
        with no_host_reads() as reads:
            values, indices = fixed.top_k(tile_of(pre), N, k, by_magnitude=by_magnitude)
    assert reads == []
    assert torch.equal(indices, expected[1])
    assert same(values, expected[0])


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    levels=st.integers(1, 40),
    k=st.integers(1, 40),
    latents=st.integers(1, 300),
    n=st.integers(1, 600),
)
def test_ties_go_to_the_lowest_index_whatever_the_tiles(seed, levels, k, latents, n):
    pre = torch.randint(levels, (5, n), generator=torch.Generator().manual_seed(seed)).double()
    with tiling(latents, 1 << 22):
        values, indices = fixed.top_k(tile_of(pre), n, k)
    kept = pre.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    assert torch.equal(indices, kept)
    assert torch.equal(values, pre.gather(1, kept))


def test_integers_are_in_the_order_of_the_numbers():
    x = torch.tensor([-torch.inf, -3e38, -1.0, -1e-45, -0.0, 0.0, 1e-45, 1.0, 3e38, torch.inf, torch.nan])
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        found = fixed.order(x.to(dtype))
        assert found[4] == found[5], "0 is 0"
        assert torch.equal(found, found.sort().values)
    assert len(fixed.order(x.double()).unique()) == len(x) - 1
    assert fixed.order(-x[-1:])[0] == fixed.order(x[-1:])[0], "NaN has a sign that means nothing"


FLOORS = {
    "none": None,
    "one for all": torch.tensor(0.8, dtype=torch.float64),
    "one a latent": 0.5 + normal(N, seed=3).abs().round(decimals=1),
    "one that nothing reaches": torch.tensor(1e9, dtype=torch.float64),
}


def whole(pre: Tensor, floor: Tensor | None, room: fixed.Room) -> tuple[Tensor, Tensor, Tensor]:
    found = fixed.active(tile_of(pre), pre.shape[1], floor, len(pre), room)
    n, groups = found.met.tolist()
    assert (n, groups) <= found.held
    return found.counts, found.indices[:n], found.values[:n]


@pytest.mark.parametrize("what", [name for name in INPUTS if name != "no token"])
@pytest.mark.parametrize("floor", FLOORS)
def test_what_is_above_a_floor_is_the_same(what, floor):
    pre, limit = INPUTS[what]().round(decimals=1), FLOORS[floor]
    with tiling(TILE, 1 << 22):
        expected = topk.active(tile_of(pre), N, limit)
        with no_host_reads():
            fixed.active(tile_of(pre), N, limit, len(pre), fixed.Room(N, N))
        found = whole(pre, limit, fixed.Room(N, N))
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert same(found[2], expected[2])


@pytest.mark.parametrize("room", [fixed.Room(0, 0), fixed.Room(0, 99), fixed.Room(99, 0), fixed.Room(20, 2)])
def test_too_little_room_is_told_and_the_next_room_is_enough(room):
    pre, floor = normal(50, N), torch.tensor(0.8, dtype=torch.float64)
    with tiling(TILE, 1 << 22):
        expected = topk.active(tile_of(pre), N, floor)
        tries = 0
        while True:
            tries += 1
            found = fixed.active(tile_of(pre), N, floor, 50, room)
            n, groups = found.met.tolist()
            room.met(50, n, groups)
            if n <= found.held[0] and groups <= found.held[1]:
                break
        assert 1 < tries <= 3
        assert torch.equal(found.indices[:n], expected[1])


def wide(activation: str, **options: object) -> LinearCoder:
    coder = coder_of(tiny_weights(activation, n_latents=1000), tiny_rule(activation))
    return LinearCoder(coder.info, coder.weights, coder.rule, **options)  # type: ignore[arg-type]


RULES = [(a, n, b) for a in ACTIVATIONS for n in ("none", "layer_norm") for b in ("no", "latents", "selection")]


@pytest.mark.parametrize(("activation", "normalise", "norms"), [r for r in RULES if r[0] != "gated" or r[2] == "no"])
def test_a_coder_gives_the_same_codes_with_one_read_a_call(activation, normalise, norms):
    coder = coder_of(
        tiny_weights(activation, n_latents=1000), tiny_rule(activation, normalise=normalise, by_decoder_norm=norms)
    )
    ahead = LinearCoder(coder.info, coder.weights, coder.rule, waits=False)
    x = activations(60)
    with tiling(TILE, 20 * TILE):
        expected = coder.encode(x)
        ahead.encode(x)  # finds out how much room it takes
        with no_host_reads() as reads:
            codes = ahead.encode(x)
            out = ahead.decode(codes, x)
    assert len(reads) == 1, "one read, of all groups of tokens together"
    assert torch.equal(codes.indptr, expected.indptr)
    assert torch.equal(codes.indices, expected.indices)
    torch.testing.assert_close(codes.values, expected.values)
    torch.testing.assert_close(out, coder.decode(expected, x))


def test_groupmax_reads_once_too():
    coder = coder_of(tiny_weights("topk"), tiny_rule("topk"))
    rule = Nonlinearity("groupmax", k=6)
    ahead, behind = (LinearCoder(coder.info, coder.weights, rule, waits=waits) for waits in (False, True))
    with no_host_reads() as reads:
        codes = ahead.encode(activations(30))
    assert len(reads) == 1
    assert torch.equal(codes.indices, behind.encode(activations(30)).indices)


def test_the_path_that_waits_is_found_out():
    """Else the tests above would pass whatever they run."""
    for activation in ACTIVATIONS:
        with pytest.raises(Waited), no_host_reads():
            wide(activation, waits=True).encode(activations(30))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tokens", [0, 1])
def test_no_tokens_and_tokens_that_are_not_finite(activation, tokens):
    x = activations(tokens)
    if tokens:
        x[0, 3] = torch.nan
    codes, expected = (wide(activation, waits=waits).encode(x) for waits in (False, True))
    assert torch.equal(codes.indptr, expected.indptr)
    assert torch.equal(codes.indices, expected.indices)
    assert same(codes.values, expected.values)


def test_a_batch_with_many_more_entries_than_the_last_is_selected_once_more():
    coder, ahead = wide("jumprelu", waits=True), wide("jumprelu", waits=False)
    x = activations(60)
    ahead._room = fixed.Room(1, 1)
    assert torch.equal(ahead.encode(100 * x).indices, coder.encode(100 * x).indices)
    with no_host_reads() as reads:
        ahead.encode(100 * x)
    assert len(reads) == 1, "and the room stays"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("elements", [1, 60, 1 << 20])
def test_directions_in_a_short_type_are_summed_without_a_read(stored, elements):
    dense = normal(23, 40).float()
    dense = dense * (dense > 0.5)
    dense[[0, 7, 22]] = 0
    codes, directions = codes_from_dense(dense), normal(40, 6, seed=5, dtype=stored)
    with tiling(8, elements), no_host_reads(), LargestAllocation() as seen:
        out = sparse_decode(codes.indptr, codes.indices, codes.values, directions, waits=False)
    torch.testing.assert_close(out, dense @ directions.float())
    assert seen.numbers <= max(elements, 23 * 6, len(codes.indices))


def test_no_array_of_tokens_and_latents_is_made():
    n, tokens = 4 * topk.TILE_LATENTS, 100
    for activation in ("topk", "jumprelu"):
        weights = tiny_weights(activation, n_latents=n)
        if activation == "jumprelu":
            weights.threshold.fill_(3.5)  # type: ignore[union-attr]
        whole = coder_of(weights, tiny_rule(activation))
        coder = LinearCoder(whole.info, weights, whole.rule, waits=False)
        x = activations(tokens)
        coder.encode(x)
        with LargestAllocation() as seen:
            coder.encode(x)
        assert seen.numbers <= product.ROWS * topk.TILE_LATENTS, seen.by


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_a_product_never_depends_on_how_many_tokens_there_are(activation):
    """What a GPU's library does to sums, emulated: another number of rows, another order of summation."""
    coder = wide(activation, waits=False)
    shapes: set[int] = set()

    def by_shape(u: Tensor, matrix: Tensor, out: Tensor | None = None) -> Tensor:
        shapes.add(len(u))
        order = torch.randperm(u.shape[1], generator=torch.Generator().manual_seed(len(u)))
        return torch.mm(u[:, order], matrix[order], out=out)

    coder._product = by_shape
    x = activations(product.ROWS + 30)
    together = coder.encode(x)
    alone = coder.encode(x[-7:])
    assert shapes == {product.ROWS}
    ends = together.indptr[-8:]
    assert torch.equal(together.values[ends[0] :], alone.values)


def test_a_coder_on_a_cpu_waits_unless_told():
    assert tiny_coder("topk").waits
    assert not wide("topk", waits=False).waits
