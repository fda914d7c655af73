"""What can be done to one module for the length of a call: read or replace what passes, and take its norm apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count, product
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import Hook
from sae_bench.models.layouts import Side

# What one place does with the tensor that passes: return another one, or None to leave it alone.
Edit = Callable[[Tensor], Tensor | None]
# Takes a check whose outcome is still on the device, bool, and the error where something of it is true.
Later = Callable[[Tensor, ModelError], None]

# Largest difference of two ways to compute the same, relative to the largest value. RMSNorm modules and rotary tables
# are float32 also in a float64 model.
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


def attach(stack: ExitStack, module: nn.Module, io: Side, edit: Edit) -> None:
    """Apply `edit` to the first tensor that enters or leaves `module`, until the stack closes."""

    def on_input(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        old = first_tensor(args, kwargs)
        new = edit(old)
        if new is None:
            return None
        return tuple(new if a is old else a for a in args), {k: new if v is old else v for k, v in kwargs.items()}

    def on_output(module: nn.Module, _args: Any, out: Any) -> Any:
        # most blocks return a tensor, some a tuple or a list: `out[0]` of a tensor would be the first batch row
        first = out[0] if isinstance(out, tuple | list) and out else out
        if not isinstance(first, Tensor):
            raise ModelError(f"the output of {type(module).__name__} is {type(out).__name__}, not a tensor to replace")
        new = edit(first)
        return new if new is None or first is out else type(out)([new, *out[1:]])

    if io == "in":
        stack.callback(module.register_forward_pre_hook(on_input, with_kwargs=True).remove)
    else:
        stack.callback(module.register_forward_hook(on_output).remove)


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the tensor that a module is called on: the first positional one, else `hidden_states`."""
    for value in (*args, kwargs.get("hidden_states"), *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise ModelError("a module at a hook point is called without a tensor")


def fit(new: Tensor, old: Tensor, name: str) -> Tensor:
    """Return a copy of `new` on the device and in the dtype of `old`; ModelError unless the shapes agree.

    A copy, because the model may write into what it is given (Falcon adds attention to the MLP's output in place).
    """
    if new.shape != old.shape:
        raise ModelError(
            f"the activation for {name!r} must have the shape {list(old.shape)} that the model has there, "
            f"not {list(new.shape)}"
        )
    return new.to(device=old.device, dtype=old.dtype, copy=True)


def only(edit: Edit, call: int | None) -> Edit:
    """Return an edit that leaves alone what passes but for one run of the module, numbered from 0; None: every run."""
    if call is None:
        return edit
    runs = count()
    return lambda x: edit(x) if next(runs) == call else None


def scaled(edit: Edit, scale: float) -> Edit:
    """Return an edit that sees what passes times `scale`, and whose result is divided by it."""
    if scale == 1:
        return edit

    def on(x: Tensor) -> Tensor | None:
        new = edit(x * scale)
        return None if new is None else new / scale

    return on


def centre(x: Tensor) -> Tensor:
    """Return `x` minus its mean over the last axis, computed in at least float32."""
    y = x.to(_at_least_float32(x.dtype))
    return (y - y.mean(-1, keepdim=True)).to(x.dtype)


def written(new: Tensor, old: Tensor, hook: Hook) -> Tensor:
    """Return what stands at `hook` once it carries `new` instead of `old`; ModelError unless the shapes agree.

    In centred form the mean of `old` over the last axis stays, so writing what was captured changes nothing.
    """
    if not hook.centered:
        return fit(new, old, hook.name)
    y = old.to(_at_least_float32(old.dtype))
    return (fit(new, y, hook.name) + y.mean(-1, keepdim=True)).to(old.dtype)


class ResidualMid:
    """The four edits that set the residual stream between attention and MLP.

    The block's input becomes zero and the attention branch carries the stream: the block adds both, and nothing behind
    that sum reads either of them, so the sum is exact in every dtype. Attention itself still reads the block's input,
    at its norm, so that `put` gets the stream that stood there.
    """

    def __init__(self, put: Edit, hook: Hook, later: Later | None = None) -> None:
        self._put, self._hook = put, hook  # `hook.scale`: by how much the block multiplies what attention returns
        self._later = later  # takes what `verify` finds, if the host does not wait for it
        self._entered: Tensor | None = None
        self._stream: Tensor | None = None

    def block_input(self, x: Tensor) -> Tensor:
        """Keep what enters the block; return zeros."""
        self._entered = x
        return torch.zeros_like(x)

    def norm_input(self, _x: Tensor) -> Tensor | None:
        """Return what entered the block."""
        return self._entered

    def branch_output(self, x: Tensor) -> Tensor | None:
        """Return the new stream in the place of what attention adds."""
        x = x if self._hook.scale == 1 else x * self._hook.scale
        self._stream = self._put(x if self._entered is None else self._entered + x)
        if self._stream is None or self._hook.scale == 1:
            return self._stream
        branch = self._stream / self._hook.scale
        self._stream = branch * self._hook.scale  # what the block will make of it, rounding included
        return branch

    def verify(self, x: Tensor) -> None:
        """Raise ModelError unless the stream `x` is the new one."""
        exact = self._hook.scale == 1  # else the factor is known to some digits
        error = ModelError(
            f"hook point {self._hook.name!r} cannot be replaced: the blocks of this model do not simply add "
            "attention to the residual stream; use hook_resid_pre or hook_resid_post"
        )
        if self._stream is None or x.shape != self._stream.shape:
            raise error
        if self._later is not None:
            self._later((x != self._stream).any() if exact else differs(x, self._stream), error)
        elif not (torch.equal(x, self._stream) if exact else close(x, self._stream)):
            raise error


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two results of the same computation agree to the rounding of their dtype."""
    scale = max(float(b.abs().max()), 1e-6)
    return float((a - b).abs().max()) <= TOLERANCE.get(a.dtype, 5e-2) * scale


def differs(a: Tensor, b: Tensor) -> Tensor:
    """Whether two results are not :func:`close`, bool `[]`, on their device."""
    scale = b.abs().max().clamp(min=1e-6)
    return ((a - b).abs().max() <= TOLERANCE.get(a.dtype, 5e-2) * scale).logical_not()


class AffineFreeNorm:
    """A LayerNorm or RMSNorm taken apart: the norm without gain and bias, and the gain and bias alone.

    Which of the two it is, whether the gain is `weight` or `1 + weight`, and epsilon where the module does not tell it,
    is found by comparing with the module's own output; ModelError if nothing fits. `like` is an input `[..., d]`.
    """

    def __init__(self, module: nn.Module, name: str, like: Tensor) -> None:
        weight, self.bias = getattr(module, "weight", None), getattr(module, "bias", None)
        gains = [None] if weight is None else [weight.detach(), 1 + weight.detach()]
        told = [getattr(module, k) for k in ("eps", "variance_epsilon", "epsilon") if hasattr(module, k)]
        noise = torch.randn(4, like.shape[-1], generator=torch.Generator().manual_seed(0)).to(like)
        x = noise * 2 + 1
        x[2:] *= 1e-3  # small enough for eps to matter
        expected = _normed(module, x)
        for self.centred, self.gain, self.eps in product((True, False), gains, told or _USUAL_EPS):
            if expected is not None and self._fits(x, expected):
                return
        raise ModelError(
            f"hook point {name!r} needs a LayerNorm or RMSNorm, and {type(module).__name__} computes neither; "
            "use hook_resid_mid or a module path"
        )

    def normalize(self, x: Tensor) -> Tensor:
        """Return the affine-free norm of `x` over the last axis, computed in at least float32."""
        y = x.to(_at_least_float32(x.dtype))
        if self.centred:
            y = y - y.mean(-1, keepdim=True)
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def scale(self, x: Tensor) -> Tensor:
        """Apply gain and bias to a normalized activation."""
        y = x.to(_at_least_float32(x.dtype))
        y = y if self.gain is None else y * self.gain.to(y)
        return (y if self.bias is None else y + self.bias.detach().to(y)).to(x.dtype)

    def _fits(self, x: Tensor, expected: Tensor) -> bool:
        with torch.no_grad():
            made = self.scale(self.normalize(x))
        return made.shape == expected.shape and close(made, expected)


_USUAL_EPS = (0.0, 1e-5, 1e-6, 1e-8, 1e-12)


def _normed(module: nn.Module, x: Tensor) -> Tensor | None:
    """Return what a module of a norm makes of `x`, None where it takes more than that or another width."""
    try:
        with torch.no_grad():
            out = module.forward(x)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return None
    return out if isinstance(out, Tensor) else None


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
