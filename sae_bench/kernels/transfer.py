"""Numbers on their way between the host and a device, for which neither waits.

On a CPU nothing is copied. That a GPU does not wait here follows from what is called (pinned memory, copies that do not
block, an event for each copy back); it was not measured.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def onto(values: NDArray[Any] | Tensor, device: torch.device) -> Tensor:
    """What the host has, on ``device``: the copy takes its turn there, and the host goes on."""
    tensor = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if tensor.device.type != "cpu" or device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device) -> int | None:
    """Memory of ``device`` that is not in use, None for a CPU; what PyTorch keeps for later counts as free."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


class Fetch:
    """Tensors that are brought to the host together: one copy for each dtype, however many there are.

    With ``waits`` each is read when it is added, as is best on a CPU, where reading costs nothing.
    """

    def __init__(self, waits: bool) -> None:
        self._waits = waits
        self._tensors: list[Tensor] = []
        self._read: dict[int, NDArray[Any]] = {}
        self._staged: list[tuple[list[int], Tensor]] = []
        self._event: torch.cuda.Event | None = None

    def add(self, tensor: Tensor) -> int:
        """Remember a tensor, which nobody may write into from now on; the number under which it can be read."""
        number = len(self._read) if self._waits else len(self._tensors)
        if self._waits:
            self._read[number] = _array(tensor)
        else:
            self._tensors.append(tensor.detach())
        return number

    def start(self) -> None:
        """Begin to copy all that was added."""
        groups: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for number, tensor in enumerate(self._tensors):
            groups.setdefault((tensor.device, tensor.dtype), []).append(number)
        for (device, dtype), numbers in groups.items():
            flat = torch.cat([self._tensors[number].reshape(-1) for number in numbers])
            staged = torch.empty(flat.shape, dtype=dtype, device="cpu", pin_memory=device.type == "cuda")
            self._staged.append((numbers, staged.copy_(flat, non_blocking=True)))
            if device.type == "cuda":
                self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
                self._event.record(torch.cuda.current_stream(device))

    def read(self, number: int) -> NDArray[Any]:
        """What was added under ``number``; waits until it is there."""
        if self._staged:
            self._settle()
        return self._read[number]

    def _settle(self) -> None:
        if self._event is not None:
            self._event.synchronize()
        for numbers, staged in self._staged:
            values, start = _array(staged), 0
            for number in numbers:
                shape = tuple(self._tensors[number].shape)
                stop = start + int(np.prod(shape, dtype=np.int64))
                self._read[number] = values[start:stop].reshape(shape)
                start = stop
        self._staged, self._tensors = [], []


def _array(tensor: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = tensor.detach().cpu().numpy()
    return array
