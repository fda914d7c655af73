"""A dictionary that stays in host memory gives what one on the device gives."""

from __future__ import annotations

import pytest
import torch

from sae_bench.kernels import stream
from sae_bench.kernels.stream import Streamed
from sae_bench.saes.linear import LinearCoder
from tests.builders.kernel_inputs import normal, tiling
from tests.builders.tiny_saes import ACTIVATIONS, activations, tiny_coder

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 0, 1], [3, 1, 1, 0, 2], [0, 0]])
def test_tiles_are_the_columns_in_any_order(device, order):
    matrix = normal(5, 37)
    tiles = Streamed(matrix, device)
    for which in order:
        start, stop = 10 * which, min(10 * which + 10, 37)
        assert torch.equal(tiles.tile(start, stop).cpu(), matrix[:, start:stop])


def test_the_next_tile_is_on_its_way_while_one_is_used():
    asked: list[tuple[int, int]] = []
    tiles = Streamed(normal(5, 30), CPU)
    copied = tiles._copied
    tiles._copied = lambda a, b: asked.append((a, b)) or copied(a, b)  # type: ignore[method-assign,func-returns-value]
    for start in (0, 10, 20, 0):
        tiles.tile(start, start + 10)
    assert asked == [(0, 10), (10, 20), (20, 30), (0, 10), (10, 20)], "every tile once, one ahead, and round again"


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_coder_with_matrices_in_host_memory_gives_the_same(activation, device, monkeypatch):
    whole, x = tiny_coder(activation), activations(20)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "fits", lambda tensors, target: False)
        weights = whole.weights.to(device)
    streamed = LinearCoder(whole.info, weights, whole.rule)
    streamed._encoder = Streamed(weights.W_enc, device)  # on a CPU nothing else tells it to
    with tiling(16, 1 << 10):
        codes = streamed.encode(x.to(device))
        expected = whole.encode(x)
    for ours, theirs in zip(codes[:3], expected[:3], strict=True):
        assert torch.allclose(ours.cpu(), theirs, rtol=1e-5)
    assert torch.allclose(streamed.decode(codes, x.to(device)).cpu(), whole.decode(expected, x), atol=1e-5)
    latents = torch.tensor([3, 0, 3])
    assert torch.allclose(streamed.decoder_rows(latents.to(device)).cpu(), whole.decoder_rows(latents))


def test_rows_from_host_memory_are_copied_once_each():
    matrix, latents = normal(50, 4), torch.tensor([7, 3, 7, 7, 40])
    rows, local = stream.rows(matrix, latents)
    assert len(rows) == 3
    assert torch.equal(rows[local], matrix[latents])
