"""Moments as arrays and back, to the bit: what a killed run goes on with, and what later runs take from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sae_bench.engine.rows import Arrays
from sae_bench.saes.calibration import Moments

_TENSORS = ("mean", "covariance", "sample")


def packed(moments: Mapping[str, Moments]) -> tuple[Arrays, dict[str, Any]]:
    """Arrays under ("", hook point, name), and the rest as plain JSON by hook point."""
    arrays: Arrays = {}
    rest = {}
    for hook, of in moments.items():
        dtypes = []
        for name in _TENSORS:
            tensor: Tensor = getattr(of, name)
            dtypes.append(str(tensor.dtype).removeprefix("torch."))
            wide = tensor if tensor.dtype == torch.float64 else tensor.float()  # NumPy has no bfloat16
            arrays["", hook, name] = wide.cpu().numpy()
        rest[hook] = {"rms": of.rms, "n_tokens": of.n_tokens, "dtypes": dtypes}
    return arrays, rest


def unpacked(arrays: Arrays, rest: Mapping[str, Any], device: torch.device) -> dict[str, Moments]:
    """The moments that :func:`packed` was given. Raises KeyError, TypeError, ValueError for what it has not made."""
    found = {}
    for hook, of in rest.items():
        tensors = []
        for name, dtype in zip(_TENSORS, of["dtypes"], strict=True):
            # a copy: what is computed from memory that lies otherwise may round otherwise
            tensors.append(torch.from_numpy(arrays["", hook, name]).to(device, getattr(torch, str(dtype)), copy=True))
        mean, covariance, sample = tensors
        width = len(mean)
        if (mean.ndim, covariance.shape, sample.shape[1:]) != (1, (width, width), (width,)):
            raise ValueError(f"the moments at {hook} do not fit one another")
        found[hook] = Moments(mean, covariance, sample, float(of["rms"]), int(of["n_tokens"]))
    return found
