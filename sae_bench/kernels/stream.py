"""Columns of a matrix in host memory on a device, tile by tile, for dictionaries that do not fit there.

Two pinned buffers take turns: while the device multiplies with one tile, the next is copied into the other. The copy of
a tile hides behind the product with it once there are about ``F s / 2 W`` tokens (``F`` FLOP/s of the device, ``W``
bytes/s of the link, ``s`` bytes of a number), so give large batches. Without a GPU nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROOM = 0.6  # share of a device's free memory that weights may take


def fits(tensors: list[Tensor], device: torch.device) -> bool:
    """Whether the tensors can lie on ``device`` with room left for the model's batches; always on a CPU."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) < ROOM * free


class Streamed:
    """``tile(start, stop)`` ``[rows, stop - start]`` on ``device`` of a ``matrix`` in host memory.

    Tiles are asked for in ascending order, over and over; any other order works too, without the overlap. A tile is
    valid until the next but one is asked for.
    """

    def __init__(self, matrix: Tensor, device: torch.device) -> None:
        self.matrix, self.device = matrix, device
        self._copying = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pinned: list[Tensor | None] = [None, None]
        self._done: list[torch.cuda.Event | None] = [None, None]
        self._turn = 0
        self._ahead: tuple[tuple[int, int], Tensor] | None = None

    def tile(self, start: int, stop: int) -> Tensor:
        """The columns ``start:stop``; the copy of those that follow begins."""
        if self._ahead is not None and self._ahead[0] == (start, stop):
            tile = self._ahead[1]
        else:
            tile = self._copied(start, stop)
        if self._copying is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._copying)
            tile.record_stream(torch.cuda.current_stream(self.device))
        n = self.matrix.shape[1]
        follows = stop % n, min(stop % n + stop - start, n)
        self._ahead = (follows, self._copied(*follows))
        return tile

    def _copied(self, start: int, stop: int) -> Tensor:
        part = self.matrix[:, start:stop]
        if self._copying is None:
            return part.to(self.device)
        turn, self._turn = self._turn, 1 - self._turn
        if (done := self._done[turn]) is not None:
            done.synchronize()  # the buffer's last copy has left it
        buffer = self._pinned[turn]
        if buffer is None or buffer.numel() < part.numel():
            buffer = torch.empty(part.numel(), dtype=part.dtype, pin_memory=True)
            self._pinned[turn] = buffer
        staged = buffer[: part.numel()].view(part.shape)
        staged.copy_(part)
        with torch.cuda.stream(self._copying):
            tile = staged.to(self.device, non_blocking=True)
            self._done[turn] = self._copying.record_event()
        return tile


def rows(matrix: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of ``matrix`` (in host memory) that ``latents`` name, where they are, and their index in them."""
    used, local = torch.unique(latents, return_inverse=True)
    return matrix[used.to(matrix.device)].to(latents.device), local
