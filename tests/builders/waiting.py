"""Every place where the host would wait for a device, found on a CPU: what is read, and what has a size of its own.

Within :class:`NoWaiting` every tensor counts as one of the device but those that :meth:`NoWaiting.host` names, so what
the host works out for itself must be NumPy. Raises Waited where a value would have to come to the host first: reads
(``item``, ``bool``, ``tolist``, ``numpy``, ``cpu``), operations whose result has a size that values decide
(``nonzero``, ``unique``, indexing by a mask, ``repeat_interleave`` of unknown size), and comparisons that return a
Python bool.
"""

from __future__ import annotations

import traceback
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

_SIZED_BY_VALUES = (
    "nonzero", "masked_select", "unique_dim", "_unique", "_unique2", "unique_consecutive", "unique_dim_consecutive",
    "bincount", "histc", "_local_scalar_dense", "is_nonzero", "equal", "item", "argwhere", "allclose",
)  # fmt: skip
_READS = (
    "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__",
    "__contains__", "is_nonzero", "equal", "allclose",
)  # fmt: skip
_INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")


class Waited(BaseException):
    """The host would have waited; nobody who catches what a coder or a task raises catches this."""


class NoWaiting(TorchDispatchMode):
    """See the module; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._host: set[int] = set()
        self._calls = _Calls(self)

    def host(self, *tensors: Tensor) -> None:
        """Tensors that the host has."""
        self._host |= {tensor.untyped_storage().data_ptr() for tensor in tensors}

    def is_host(self, tensor: Any) -> bool:
        return isinstance(tensor, Tensor) and tensor.untyped_storage().data_ptr() in self._host

    def __enter__(self) -> NoWaiting:
        self._calls.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._calls.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name in _SIZED_BY_VALUES:
            raise waited(name)
        if name in _INDEXING and any(i.dtype in (torch.bool, torch.uint8) for i in tree_leaves(args[1]) if _is(i)):
            raise waited(f"{name} by a mask")
        if name == "repeat_interleave" and kwargs.get("output_size") is None:
            raise waited("repeat_interleave without output_size")
        if name.endswith("segment_reduce") and not kwargs.get("unsafe", False):
            raise waited("segment_reduce that checks its lengths")
        return func(*args, **kwargs)


class _Calls(TorchFunctionMode):
    """Reads of a CPU's tensor are no operations; they are seen as calls."""

    def __init__(self, owner: NoWaiting) -> None:
        super().__init__()
        self._owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READS and args and not self._owner.is_host(args[0]):
            raise waited(name)
        if name == "to" and not self._owner.is_host(args[0]) and _to_host(args[1:], kwargs or {}):
            raise waited("to the host")
        return func(*args, **(kwargs or {}))


def _is(x: Any) -> bool:
    return isinstance(x, Tensor)


def _to_host(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return "cpu" in (*args[:1], kwargs.get("device"))


def waited(what: str) -> Waited:
    where = [f"{f.filename.rpartition('/')[2]}:{f.lineno} {f.line}" for f in traceback.extract_stack()[-14:-2]]
    return Waited(f"{what}: " + " < ".join(reversed([w for w in where if "waiting.py" not in w])))


@contextmanager
def no_host_reads() -> Iterator[list[int]]:
    """:class:`NoWaiting`, but for what goes through ``kernels.waiting.read``; the sizes of these reads are listed."""
    reads: list[int] = []

    def read(values: Tensor) -> Any:
        reads.append(values.numel())
        with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
            return values.tolist()

    with pytest.MonkeyPatch.context() as patch, NoWaiting():
        patch.setattr(waiting, "read", read)
        yield reads
