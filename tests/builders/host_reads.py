"""What makes the host wait for a device, found on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sae_bench.kernels import waiting

# operations whose result, or its shape, the host must know before it can go on
_READS = (
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "histc"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "allclose", "argwhere"),
)
_METHODS = ("tolist", "numpy", "__array__", "item", "__bool__", "__int__", "__float__", "__index__", "cpu", "__iter__")


class HostRead(AssertionError):
    """Something waited."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
            isinstance(t, Tensor) and t.dtype in (torch.bool, torch.uint8) for t in tree_leaves(args[1])
        )
        repeats = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in _READS or by_mask or repeats:
            raise HostRead(f"{func} waits for the device")
        return func(*args, **kwargs)


class _Methods(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _METHODS:
            raise HostRead(f"Tensor.{func.__name__} waits for the device")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_host_reads() -> Iterator[list[int]]:
    """Raises HostRead for every read but those through ``waiting.read``, whose sizes are listed."""
    reads: list[int] = []

    def read(values: Tensor) -> Any:
        reads.append(values.numel())
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return values.tolist()

    with pytest.MonkeyPatch.context() as patch, _Methods(), _Operations():
        patch.setattr(waiting, "read", read)
        yield reads
