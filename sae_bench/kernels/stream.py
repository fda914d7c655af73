"""Matrices in host memory for a device, tile by tile or row by row, for dictionaries that do not fit there.

A thread takes the next tile out of the matrix into one of two pinned buffers and sends it, while the host gives the
device its product with this one: so the copy hides behind the product once there are about ``F s / 2 W`` tokens (``F``
FLOP/s of the device, ``W`` bytes/s of the link, ``s`` bytes of a number). Give large batches. Without a GPU nothing is
copied. What a GPU does is behind :class:`Link`, so that a test can be one.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import torch
from torch import Tensor

ROOM = 0.6  # share of a device's free memory that weights may take
SLAB = 1 << 25  # bytes of rows that are sent at once


def fits(tensors: list[Tensor], device: torch.device) -> bool:
    """Whether the tensors can lie on ``device`` with room left for the model's batches; always on a CPU."""
    if device.type != "cuda":
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) < ROOM * free


class Link(Protocol):
    """The way to a device. What ``send`` returns says when that copy is done."""

    def buffer(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Host memory ``[numel]`` that can be sent from."""
        ...

    def send(self, staged: Tensor, out: Tensor | None = None) -> tuple[Tensor, Any]:
        """Begin to copy ``staged`` to the device, into ``out`` if given: the copy, and what says when it is done."""
        ...

    def wait(self, sent: Any) -> None:
        """Make the host wait until a copy is done."""
        ...

    def receive(self, copy: Tensor, sent: Any) -> None:
        """Make the device wait until a copy is done, before it uses it."""
        ...


class CudaLink:
    """A stream of its own for copies to a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def buffer(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Pinned memory."""
        return torch.empty(numel, dtype=dtype, pin_memory=True)

    def send(self, staged: Tensor, out: Tensor | None = None) -> tuple[Tensor, Any]:
        """Copy on the stream; ``out`` may have been in use until now."""
        if out is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            copy = staged.to(self._device, non_blocking=True) if out is None else out.copy_(staged, non_blocking=True)
            return copy, self._stream.record_event()

    def wait(self, sent: Any) -> None:
        """Until the event has happened."""
        sent.synchronize()

    def receive(self, copy: Tensor, sent: Any) -> None:
        """The current stream waits, and the memory is its own until it is done with it."""
        current = torch.cuda.current_stream(self._device)
        current.wait_event(sent)
        copy.record_stream(current)


def link(device: torch.device) -> Link | None:
    """The way to ``device``, None for the host itself."""
    return CudaLink(device) if device.type == "cuda" else None


class _Buffers:
    """Two of them take turns; one is written again when its last copy has left it."""

    def __init__(self, way: Link) -> None:
        self._way = way
        self._memory: list[Tensor | None] = [None, None]
        self._sent: list[Any] = [None, None]
        self._turn = 0

    def next(self, numel: int, dtype: torch.dtype) -> Tensor:
        """Memory ``[numel]`` for what is sent next."""
        self._turn = 1 - self._turn
        if self._sent[self._turn] is not None:
            self._way.wait(self._sent[self._turn])
        memory = self._memory[self._turn]
        if memory is None or memory.numel() < numel:
            memory = self._memory[self._turn] = self._way.buffer(numel, dtype)
        return memory[:numel]

    def send(self, staged: Tensor, out: Tensor | None = None) -> tuple[Tensor, Any]:
        """Send what was written into the memory that :meth:`next` gave."""
        copy, self._sent[self._turn] = self._way.send(staged, out)
        return copy, self._sent[self._turn]


class Streamed:
    """``tile(start, stop)`` ``[rows, stop - start]`` on a device of a ``matrix`` in host memory.

    Tiles are asked for in ascending order, over and over; any order other works too, without the overlap. ``way`` None:
    the matrix is where it is used.
    """

    def __init__(self, matrix: Tensor, way: Link | None) -> None:
        self.matrix, self._way = matrix, way
        self._buffers = None if way is None else _Buffers(way)
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[tuple[int, int], Future[tuple[Tensor, Any]]] | None = None

    def tile(self, start: int, stop: int) -> Tensor:
        """The columns ``start:stop``; those that follow are on their way when it returns."""
        if self._way is None:
            return self.matrix[:, start:stop]
        if self._ahead is None or self._ahead[0] != (start, stop):
            self._ahead = self._begun(start, stop)
        tile, sent = self._ahead[1].result()
        n = self.matrix.shape[1]
        self._ahead = self._begun(stop % n, min(stop % n + stop - start, n))
        self._way.receive(tile, sent)
        return tile

    def _begun(self, start: int, stop: int) -> tuple[tuple[int, int], Future[tuple[Tensor, Any]]]:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "sae-bench-stream")  # one: buffers take turns
        return (start, stop), self._thread.submit(self._copied, start, stop)

    def _copied(self, start: int, stop: int) -> tuple[Tensor, Any]:
        part, buffers = self.matrix[:, start:stop], self._buffers
        assert buffers is not None
        return buffers.send(buffers.next(part.numel(), part.dtype).view(part.shape).copy_(part))


def rows(matrix: Tensor, latents: Tensor, way: Link | None = None) -> tuple[Tensor, Tensor]:
    """The rows of ``matrix`` (in host memory) that ``latents`` name, where they are, and their index in them.

    Every row is gathered once, some while those before are on their way.
    """
    used, local = torch.unique(latents, return_inverse=True)
    where = used.to(matrix.device)
    if way is None or not len(where):
        return matrix[where].to(latents.device), local
    out = torch.empty(len(where), matrix.shape[1], dtype=matrix.dtype, device=latents.device)
    buffers = _Buffers(way)
    step = max(1, SLAB // max(1, matrix.shape[1] * matrix.element_size()))
    for start in range(0, len(where), step):
        some = where[start : start + step]
        staged = buffers.next(len(some) * matrix.shape[1], matrix.dtype).view(len(some), -1)
        torch.index_select(matrix, 0, some, out=staged)
        _, sent = buffers.send(staged, out[start : start + step])
    way.receive(out, sent)  # copies are made in the order in which they are sent
    return out, local
