"""Codes of whatever a user has: arrays and tensors of any number of tokens, read and encoded some at a time.

Within a run activations are tensors ``[tokens, d_in]`` on the coder's device, and numbers that are not finite are told
by who made them. Somebody who calls ``encode`` has an array of a file as well, in half precision, on another device, in
batches of sequences; ``checks``, which :func:`sae_bench.load_sae` switches on, says what is wrong with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.modules import as_declared
from sae_bench.saes.protocol import CoderInfo, Codes, indptr_of
from sae_bench.saes.weights import FLOATS

NUMBERS = 1 << 24  # of activations that are converted at once: 64 MiB of float32


class Takes(Protocol):
    """A coder whose ``encode`` and ``decode`` are wrapped by this module."""

    info: CoderInfo
    checks: bool

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...


C = TypeVar("C", bound=Takes)


def of_arrays(encode: Callable[[C, Tensor], Codes]) -> Callable[[C, Any], Codes]:
    """``encode`` of tensors ``[tokens, d_in]`` as one of all that has a shape and can be sliced."""

    @wraps(encode)
    def whole(self: C, x: Any) -> Codes:
        if isinstance(x, Tensor) and x.ndim == 2 and not self.checks:
            return encode(self, x)
        with as_declared():
            return _joined([encode(self, part) for part in _parts(self, x)])

    return whole


def beside_arrays(decode: Callable[[C, Codes, Any], Tensor]) -> Callable[..., Tensor]:
    """``decode`` with activations beside the codes that may be an array of any shape too."""

    @wraps(decode)
    def whole(self: C, codes: Codes, x: Any = None) -> Tensor:
        if self.checks and codes.n_latents != self.info.n_latents:
            raise CoderError(
                f"{self.info.name}: the codes are of {codes.n_latents} latents, but it has {self.info.n_latents}; "
                "decode what it encoded"
            )
        if isinstance(x, Tensor | np.ndarray) and (self.checks or not isinstance(x, Tensor) or x.ndim != 2):
            x = torch.cat(list(_parts(self, x)))
            if len(x) != codes.n_tokens:
                raise CoderError(f"{self.info.name}: the codes are of {codes.n_tokens} tokens, but x has {len(x)}")
        with as_declared():
            return decode(self, codes, x)

    return whole


def _parts(coder: Takes, x: Any) -> Iterator[Tensor]:
    """Tensors ``[some tokens, d_in]`` on the coder's device, at least one. Raises CoderError."""
    name, d_in = coder.info.name, coder.info.d_in
    shape = tuple(getattr(x, "shape", ()))
    if not shape or not hasattr(x, "dtype"):
        raise CoderError(f"{name}: activations must be a tensor or an array [..., {d_in}], but x is {_said(x)}")
    if shape[-1] != d_in:
        raise CoderError(f"{name}: activations must have {d_in} numbers a token, but x has shape {list(shape)}")
    if not (x.dtype in FLOATS if isinstance(x, Tensor) else np.dtype(x.dtype).kind == "f"):
        raise CoderError(f"{name}: activations must be floating-point numbers, but x holds {_kind(x)}")
    if len(shape) == 1:
        x, shape = x[None], (1, *shape)
    within = max(1, int(np.prod(shape[1:])))
    step = max(1, NUMBERS // within)
    for start in range(0, max(shape[0], 1), step):
        part = x[start : start + step]
        part = part.detach() if isinstance(part, Tensor) else torch.from_numpy(_native(part))
        rows = part.reshape(math.prod(part.shape[:-1]), d_in).to(coder.device)
        if not bool(rows.isfinite().all()):
            first = start + int((~rows.isfinite().all(1)).nonzero()[0]) // max(1, within // d_in)
            raise CoderError(
                f"{name}: activations must be finite, but x[{first}] holds NaN or infinite numbers; were they made in "
                "float16, whose largest number is 65504?"
            )
        yield rows


def _native(part: Any) -> Any:
    """An array of numpy's own in memory, in this machine's order of bytes, in a type that torch has."""
    array = np.asarray(part)
    kind = array.dtype.newbyteorder("=")
    kind = kind if kind.itemsize in (2, 4, 8) else np.dtype(np.float64)
    return np.array(array, dtype=kind)


def _joined(parts: list[Codes]) -> Codes:
    if len(parts) == 1:
        return parts[0]
    counts = torch.cat([part.counts() for part in parts])
    indices, values = torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts])
    return Codes(indptr_of(counts), indices, values, parts[0].n_latents)


def _said(x: Any) -> str:
    return f"a {type(x).__name__}" if not hasattr(x, "shape") else f"a single number ({type(x).__name__})"


def _kind(x: Any) -> str:
    return str(x.dtype).removeprefix("torch.")
