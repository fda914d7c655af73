"""Calling modules that belong to somebody else, in a process that does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from sae_bench.precision import in_full

_WRAPPERS = {
    "DataParallel": "it is copied to several devices; give its .module",
    "DistributedDataParallel": "it is copied to several processes; give its .module",
    "FullyShardedDataParallel": "its parameters are sharded; give its .module, with whole parameters on one device",
    "FSDPModule": "its parameters are sharded; load it whole on one device",
    "DeepSpeedEngine": "it may be sharded over processes; give its .module, with whole parameters on one device",
    "OptimizedModule": "hooks may not act in compiled code; give the module that was compiled (._orig_mod)",
}


def wrapped_in(module: Any) -> str | None:
    """In what a module is wrapped, why it cannot be used so, and what to give instead; None where it is not."""
    found = next((kind.__name__ for kind in type(module).__mro__ if kind.__name__ in _WRAPPERS), None)
    return None if found is None else f"wrapped in {found}: {_WRAPPERS[found]}"


def same_device(one: torch.device, other: torch.device) -> bool:
    """Whether two names are of one device: "cuda" is whichever GPU the other one says."""
    indices = {device.index for device in (one, other) if device.index is not None} - {0 if one.type == "cpu" else None}
    return one.type == other.type and len(indices) <= 1


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Switch off gradients and, in a ``torch.nn.Module``, dropout for one call; every part gets its own mode back."""
    training = [part for part in module.modules() if part.training] if isinstance(module, nn.Module) else []
    for part in training:
        part.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def as_declared() -> Iterator[None]:
    """Compute in the dtype of the tensors and where they are, whatever a training loop around this has set.

    Autocast would run a float32 model in half precision, and other switches too (:mod:`sae_bench.precision`); a result
    that says float32 would then not be one. What is made anew lies on the CPU, also where ``torch.set_default_device``
    names another. All are as before afterwards.
    """
    with ExitStack() as stack:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(in_full())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield
