"""Whether parts of a block add up to another, and with which factor a part enters: by the model's numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# Largest error of a sum of two or three numbers, relative to the largest number of a token.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_VISIBLE = 30  # a part smaller than this many roundings of the sum says nothing about its factor
_DIGITS = 6


@dataclass(frozen=True)
class Sum:
    """`total` is the sum of `factors` times parts, found to `error` of its size."""

    total: str
    factors: Mapping[str, float]
    error: float

    @property
    def says(self) -> str:
        """The sum as a sentence."""
        parts = " + ".join(f"{_WORDS[p]}" if f == 1 else f"{f:g} x {_WORDS[p]}" for p, f in self.factors.items())
        return f"{_WORDS[self.total]} = {parts}, to {self.error:.1g}"


_WORDS = {
    "pre": "the block's input",
    "post": "the block's output",
    "attn": "the attention's output",
    "mlp": "the MLP's output",
    "first": "the first norm's input",
    "second": "the second norm's input",
    "branch": "the branch's output",
    "last": "its last module's output",
}


def added(numbers: Mapping[str, Tensor], total: str, base: str, *branches: str) -> Sum | None:
    """Return how `total` is `base` plus `branches`, each `[batch, seq, d]`, times a factor; None where it is not.

    A factor is 1 unless the numbers say otherwise; one that the model's rounding hides is taken for 1. None also where
    a number is missing.
    """
    if any(part not in numbers for part in (total, base, *branches)):
        return None
    target, start, *parts = (numbers[part].double() for part in (total, base, *branches))
    if any(part.shape != target.shape for part in (start, *parts)):
        return None
    rounding = _ROUNDING.get(numbers[total].dtype, 3e-2)
    size = torch.stack([x.abs().amax(-1) for x in (target, start, *parts)]).amax(0).clamp_min(1e-30)[..., None]
    rest = (target - start) / size
    scaled = [part / size for part in parts]
    ones = [1.0] * len(parts)
    for factors in (ones, _fitted(rest, scaled, rounding)):
        error = float((rest - sum(f * part for f, part in zip(factors, scaled, strict=True))).abs().max())
        if error <= rounding and all(factors):
            return Sum(total, {base: 1.0, **dict(zip(branches, factors, strict=True))}, error)
    return None


def _fitted(rest: Tensor, parts: list[Tensor], rounding: float) -> list[float]:
    """Return the factors of least squares; 1 for a part that is lost in rounding."""
    seen = [float(part.abs().amax(-1).median()) > _VISIBLE * rounding for part in parts]
    hidden = sum((part for part, s in zip(parts, seen, strict=True) if not s), torch.zeros_like(rest))
    shown = [part.flatten() for part, s in zip(parts, seen, strict=True) if s]
    if not shown:
        return [1.0] * len(parts)
    found = torch.linalg.lstsq(torch.stack(shown, 1), (rest - hidden).flatten()[:, None]).solution.flatten().tolist()
    factors = iter(float(f"{factor:.{_DIGITS}g}") for factor in found)
    return [next(factors) if s else 1.0 for s in seen]
