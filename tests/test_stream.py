"""A dictionary that stays in host memory gives what one on the device gives."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_bench.kernels import stream, topk
from sae_bench.kernels.stream import Streamed
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.weights import Weights
from tests.builders.kernel_inputs import normal, tiling
from tests.builders.tiny_saes import ACTIVATIONS, activations, coder_of, tiny_coder, tiny_rule

CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


class Emulated:
    """A device whose copies are done only when somebody waits for them: what is used or overwritten early shows."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.under_way: list[tuple[int, Tensor, Tensor]] = []
        self.may_send = threading.Event()
        self.may_send.set()
        self.lock = threading.Lock()  # the thread sends while the host receives
        self.n = 0

    def buffer(self, numel: int, dtype: torch.dtype) -> Tensor:
        self.events.append("buffer")
        return torch.full((numel,), 77, dtype=dtype)

    def send(self, staged: Tensor, out: Tensor | None = None) -> tuple[Tensor, Any]:
        assert self.may_send.wait(10)
        copy = torch.full_like(staged, torch.nan) if out is None else out
        with self.lock:
            self.n += 1
            self.events.append(f"send {self.n}")
            self.under_way.append((self.n, staged, copy))
            return copy, self.n

    def _done(self, sent: int) -> None:
        with self.lock:
            for _, staged, copy in (way for way in self.under_way if way[0] <= sent):
                copy.copy_(staged)
            self.under_way = [way for way in self.under_way if way[0] > sent]

    def wait(self, sent: Any) -> None:
        self.events.append(f"wait {sent}")
        self._done(sent)

    def receive(self, copy: Tensor, sent: Any) -> None:
        self.events.append(f"receive {sent}")
        self._done(sent)


def way_to(device: torch.device) -> Any:
    return Emulated() if device.type == "cpu" else stream.link(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 0, 1], [3, 1, 1, 0, 2], [0, 0]])
def test_tiles_are_the_columns_in_any_order(device, order):
    matrix = normal(5, 37)
    for way in (way_to(device), None):
        tiles = Streamed(matrix, way)
        for which in order:
            start, stop = 10 * which, min(10 * which + 10, 37)
            assert torch.equal(tiles.tile(start, stop).cpu(), matrix[:, start:stop])


def test_a_tile_is_there_while_the_next_is_still_being_read():
    """Else the device would have nothing to do until the host has copied a tile that nobody needs yet."""
    way = Emulated()
    tiles = Streamed(normal(5, 30), way)
    first = tiles.tile(0, 10)
    assert tiles._ahead is not None
    tiles._ahead[1].result()
    way.may_send.clear()
    second = tiles.tile(10, 20)  # sent before; the third cannot be
    assert torch.equal(first, tiles.matrix[:, :10])
    assert torch.equal(second, tiles.matrix[:, 10:20])
    assert "send 3" not in way.events
    way.may_send.set()
    assert torch.equal(tiles.tile(20, 30), tiles.matrix[:, 20:])


def test_every_tile_is_read_once_one_ahead_and_round_again():
    way, asked = Emulated(), []
    tiles = Streamed(normal(5, 30), way)
    copied = tiles._copied
    tiles._copied = lambda a, b: asked.append((a, b)) or copied(a, b)  # type: ignore[method-assign,func-returns-value]
    for start in (0, 10, 20, 0):
        tiles.tile(start, start + 10)
    assert tiles._ahead is not None
    tiles._ahead[1].result()
    assert asked == [(0, 10), (10, 20), (20, 30), (0, 10), (10, 20)]
    assert way.events.count("buffer") == 2


def test_what_fails_in_the_thread_is_raised_where_the_tile_is_asked_for():
    way = Emulated()
    tiles = Streamed(normal(5, 30), way)
    way.send = lambda staged, out=None: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    with pytest.raises(ZeroDivisionError):
        tiles.tile(0, 10)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_coder_with_matrices_in_host_memory_gives_the_same(activation, device, monkeypatch):
    whole, x = tiny_coder(activation), activations(20)
    with monkeypatch.context() as patch:
        patch.setattr(stream, "fits", lambda tensors, target: False)
        weights = whole.weights.to(device)
    streamed = LinearCoder(whole.info, weights, whole.rule)
    streamed._encoder = Streamed(weights.W_enc, way_to(device))  # on a CPU nothing else tells it to
    with tiling(16, 1 << 10):
        codes = streamed.encode(x.to(device))
        expected = whole.encode(x)
    dense = codes._replace(indptr=codes.indptr.cpu(), indices=codes.indices.cpu(), values=codes.values.cpu()).dense()
    assert torch.allclose(dense, expected.dense(), atol=1e-5), (
        "a latent near 0 may fire by rounding on one device alone"
    )
    assert torch.allclose(streamed.decode(codes, x.to(device)).cpu(), whole.decode(expected, x), atol=1e-5)
    latents = torch.tensor([3, 0, 3])
    assert torch.allclose(streamed.decoder_rows(latents.to(device)).cpu(), whole.decoder_rows(latents))


@pytest.mark.parametrize("slab", [1, 70, 1 << 25])
@pytest.mark.parametrize("device", DEVICES)
def test_rows_from_host_memory_are_copied_once_each(device, slab, monkeypatch):
    monkeypatch.setattr(stream, "SLAB", slab)
    matrix, latents = normal(50, 4), torch.tensor([7, 3, 7, 7, 40, 12, 3])
    for way in (way_to(device), None):
        rows, local = stream.rows(matrix, latents.to(device), way)
        assert len(rows) == 4
        assert torch.equal(rows[local].cpu(), matrix[latents])
        assert len(stream.rows(matrix, latents[:0].to(device), way)[0]) == 0


def test_certified_selection_from_host_memory_reads_tiles_and_no_single_columns(monkeypatch):
    """Columns of a matrix in host memory are gathered number by number: fifteen times what the link takes."""
    n = 3 * topk.TILE_LATENTS
    w = normal(24, n, seed=1).float()
    whole = coder_of(Weights(w, w.T.contiguous(), torch.zeros(24), torch.zeros(n)), tiny_rule("topk"))
    coder = LinearCoder(whole.info, whole.weights, whole.rule, select_in="bfloat16")
    way = Emulated()
    coder._encoder = Streamed(w, way)
    x = activations(40, width=24)
    monkeypatch.setattr(Weights, "W_enc", property(lambda self: pytest.fail("read past the tiles")), raising=False)
    codes = coder.encode(x)
    monkeypatch.undo()
    assert torch.equal(codes.indices, whole.encode(x).indices)
    assert any(event.startswith("receive") for event in way.events)
