"""The tensors of a linear coder, and what must hold of them before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.kernels import stream, topk

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
