"""The tensors of a linear coder, and what must hold of them before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.kernels import stream, topk

if TYPE_CHECKING:
    from sae_bench.saes.nonlinearity import Nonlinearity
    from sae_bench.saes.protocol import CoderInfo

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Weights:
    """Tensors of a linear coder. ``W_enc`` ``[d_in, n_latents]``, ``W_dec`` ``[n_latents, d_out]``, rest vectors."""

    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    b_enc: Tensor | None = None
    threshold: Tensor | None = None  # [n_latents] or [] (jumprelu)
    b_gate: Tensor | None = None  # gated
    b_mag: Tensor | None = None  # gated
    r_mag: Tensor | None = None  # gated
    W_skip: Tensor | None = None  # [d_out, d_in]: x @ W_skip.T is added to the reconstruction

    def items(self) -> list[tuple[str, Tensor]]:
        """Name and tensor of what is there."""
        return [(name, tensor) for name, tensor in vars(self).items() if tensor is not None]

    def to(self, device: str | torch.device) -> Weights:
        """The same tensors on another device; encoder and decoder stay where they are if they do not fit there."""
        target = torch.device(device)
        stays = () if stream.fits([self.W_enc, self.W_dec], target) else ("W_enc", "W_dec")
        return Weights(**{name: t if name in stays else t.to(target) for name, t in self.items()})

    def divided(self, divisor: float, *names: str) -> Weights:
        """The same with the vectors ``names``, those that are there, divided; tensors of a wrong type stay."""
        parts = {name: t.double() / divisor for name, t in self.items() if name in names and t.dtype in FLOATS}
        return replace(self, **parts)

    def prefix(self, width: int) -> Weights:
        """The first ``width`` latents, as views: a nested dictionary of a Matryoshka SAE."""
        parts = {name: tensor for name, tensor in self.items() if name in ("b_dec", "W_skip") or tensor.ndim == 0}
        parts |= {name: t[:width] for name, t in self.items() if name not in parts and name != "W_enc"}
        return Weights(W_enc=self.W_enc[:, :width], **parts)


def chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Groups of rows of a tile's size: weights may be mapped from a file that is larger than the memory."""
    if tensor.ndim == 0:
        return (tensor,)
    return torch.split(tensor, max(1, topk.TILE_ELEMENTS // max(1, tensor[:1].numel())))


def check_shapes(name: str, weights: Weights, n_latents: int, d_in: int, d_out: int) -> None:
    """Shapes and types that fit together, and finite numbers. Raises CoderError."""
    shapes = {"W_enc": (d_in, n_latents), "W_dec": (n_latents, d_out), "b_dec": (d_out,), "W_skip": (d_out, d_in)}
    for tensor_name, tensor in weights.items():
        allowed = [shapes.get(tensor_name, (n_latents,))] + ([()] if tensor_name == "threshold" else [])
        if tuple(tensor.shape) not in allowed:
            raise CoderError(
                f"{name}: {tensor_name} must have shape {list(allowed[0])} (d_in={d_in}, n_latents={n_latents}, "
                f"d_out={d_out}), but it has {list(tensor.shape)}; check the sizes in the configuration"
            )
        if tensor.dtype not in FLOATS:
            raise CoderError(
                f"{name}: {tensor_name} must hold floating-point numbers of 16, 32 or 64 bits, but it holds "
                f"{str(tensor.dtype).removeprefix('torch.')}"
            )
        if not all(bool(chunk.isfinite().all()) for chunk in chunks(tensor)):
            raise CoderError(
                f"{name}: {tensor_name} holds NaN or infinite numbers; the file is damaged or training diverged"
            )


def check_weights(info: CoderInfo, weights: Weights, rule: Nonlinearity) -> None:
    """Shapes, finite numbers, and what each activation function needs. Raises CoderError."""
    n = info.n_latents
    check_shapes(info.name, weights, n, info.d_in, info.d_out)
    needed = {"jumprelu": ["threshold"], "gated": ["b_gate", "b_mag", "r_mag"]}.get(rule.activation, [])
    missing = [name for name in needed if getattr(weights, name) is None]
    if missing:
        raise CoderError(
            f"{info.name}: a {rule.activation} SAE needs {', '.join(needed)}, but lacks {', '.join(missing)}"
        )
    if rule.selects_k and not (rule.k and 1 <= rule.k <= max(n, 1)):
        raise CoderError(f"{info.name}: k must lie between 1 and the number of latents ({n}), but it is {rule.k}")
    if rule.activation == "groupmax" and n % (rule.k or 1):
        raise CoderError(f"{info.name}: {n} latents cannot be parted into k={rule.k} equal groups")
    if rule.by_decoder_norm != "no" and rule.activation == "gated":
        raise CoderError(f"{info.name}: rescale_acts_by_decoder_norm has no meaning for a gated SAE; set it to false")
    if rule.apply_b_dec_to_input and info.d_in != info.d_out:
        raise CoderError(
            f"{info.name}: b_dec cannot be subtracted from the input, d_in={info.d_in} and d_out={info.d_out} differ"
        )
    scales = (rule.input_scale, rule.output_scale)
    if not all(math.isfinite(scale) and scale > 0 for scale in scales):
        raise CoderError(f"{info.name}: factors of activations must be positive numbers, but they are {scales}")
