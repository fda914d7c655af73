"""The one coder that every layout on disk turns into: linear encoder, activation function, linear decoder.

With ``u = norm(x) - b_dec`` (where ``apply_b_dec_to_input``) and ``pre = u W_enc + b_enc``:

============  =================================================================================================
relu          ``max(pre, 0)``
topk          the k largest ``pre`` of a token, then relu: fewer than k may fire
abstopk       the k largest ``|pre|`` of a token, sign kept
jumprelu      ``relu(pre)`` where ``pre > threshold``; also BatchTopK, whose threshold is a constant at inference
gated         ``relu(u (W_enc exp(r_mag)) + b_mag)`` where ``u W_enc + b_gate > 0`` (Rajamanoharan et al. 2024)
============  =================================================================================================

Reconstruction ``f W_dec + b_dec``, then the normalisation undone. Arithmetic is in ``dtype`` (float32, or float64);
large weights keep the type in which they are stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.kernels import topk
from sae_bench.kernels.decode import sparse_decode
from sae_bench.saes.protocol import CoderInfo, Codes, indptr_of

Activation = Literal["relu", "topk", "abstopk", "jumprelu", "gated"]
Normalisation = Literal["none", "layer_norm", "constant_norm_rescale"]


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

    def items(self) -> list[tuple[str, Tensor]]:
        """Name and tensor of what is there."""
        return [(name, tensor) for name, tensor in vars(self).items() if tensor is not None]

    def to(self, device: str | torch.device) -> Weights:
        """The same tensors on another device."""
        return Weights(**{name: tensor.to(device) for name, tensor in self.items()})


@dataclass(frozen=True)
class Nonlinearity:
    """How pre-activations become latents, and how activations are normalised around the coder."""

    activation: Activation
    k: int | None = None
    apply_b_dec_to_input: bool = True
    rescale_by_decoder_norm: bool = False
    normalise: Normalisation = "none"


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Converted once if it is no larger than a tile; other weights stay as they are stored, converted tile by tile."""
    return tensor.to(dtype) if tensor.numel() <= topk.TILE_ELEMENTS else tensor


class LinearCoder:
    """A :class:`~sae_bench.saes.protocol.SparseCoder` with weights in memory (or mapped from a file)."""

    def __init__(
        self, info: CoderInfo, weights: Weights, rule: Nonlinearity, *, dtype: torch.dtype = torch.float32
    ) -> None:
        check_weights(info, weights, rule)
        self.info = info
        self.weights = Weights(**{name: _converted(tensor.detach(), dtype) for name, tensor in weights.items()})
        self.rule = rule
        self.dtype = dtype
        self._norms = self._decoder_norms() if rule.rescale_by_decoder_norm else None

    @torch.no_grad()
    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[tokens, d_in]``."""
        parts = [self._encode_rows(x[rows]) for rows in topk.row_chunks(len(x), self.info.n_latents, self.rule.k or 0)]
        if len(parts) == 1:
            return parts[0]
        if not parts:
            empty = torch.zeros(0, dtype=torch.int64, device=x.device)
            return Codes(indptr_of(empty), empty, x.new_zeros(0, dtype=self.dtype), self.info.n_latents)
        counts = torch.cat([part.counts() for part in parts])
        return Codes(
            indptr_of(counts),
            torch.cat([part.indices for part in parts]),
            torch.cat([part.values for part in parts]),
            self.info.n_latents,
        )

    @torch.no_grad()
    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``; ``x`` is needed with per-token normalisation."""
        out = sparse_decode(codes.indptr, codes.indices, self._decoder_values(codes), self.weights.W_dec)
        out = out + self.weights.b_dec.to(self.dtype)
        if self.rule.normalise == "none":
            return out
        if x is None:
            raise ValueError("this coder normalises every token: decode needs x")
        return self._denormalise(out, x.to(self.dtype))

    @torch.no_grad()
    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        rows = self.weights.W_dec[latents].to(self.dtype)
        return rows if self._norms is None else rows / self._divisors(latents).unsqueeze(1)

    @torch.no_grad()
    def pre_activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What the activation function of the latents ``start:stop`` sees ``[tokens, stop - start]``, all of it."""
        return self._pre(self._input(x), start, stop)

    def _input(self, x: Tensor) -> Tensor:
        u = self._normalise(x.to(self.dtype))
        return u - self.weights.b_dec.to(self.dtype) if self.rule.apply_b_dec_to_input else u

    def _encode_rows(self, x: Tensor) -> Codes:
        u = self._input(x)
        n = self.info.n_latents
        if self.rule.k is None:
            counts, indices, values = topk.active(lambda a, b: self._activate(u, a, b), n)
            return Codes(indptr_of(counts), indices, values, n)
        signed = self.rule.activation == "abstopk"
        kept, columns = topk.top_k(lambda a, b: self._pre(u, a, b), n, self.rule.k, by_magnitude=signed)
        if not signed:
            kept = kept.relu()
        fires = kept != 0
        return Codes(indptr_of(fires.sum(1)), columns[fires], kept[fires], n)

    def _pre(self, u: Tensor, start: int, stop: int) -> Tensor:
        pre = u @ self.weights.W_enc[:, start:stop].to(self.dtype)
        if self.weights.b_enc is not None:
            pre += self.weights.b_enc[start:stop].to(self.dtype)
        return pre if self._norms is None else pre * self._norms[start:stop]

    def _activate(self, u: Tensor, start: int, stop: int) -> Tensor:
        pre, w = self._pre(u, start, stop), self.weights
        if self.rule.activation == "relu":
            return pre.relu_()
        if self.rule.activation == "jumprelu":
            assert w.threshold is not None
            threshold = w.threshold.to(self.dtype)
            return pre.relu() * (pre > (threshold[start:stop] if threshold.ndim else threshold))
        assert w.b_gate is not None
        assert w.b_mag is not None
        assert w.r_mag is not None
        part = slice(start, stop)
        magnitude = pre * w.r_mag[part].to(self.dtype).exp() + w.b_mag[part].to(self.dtype)
        return magnitude.relu() * (pre + w.b_gate[part].to(self.dtype) > 0)

    def _decoder_values(self, codes: Codes) -> Tensor:
        values = codes.values.to(self.dtype)
        return values if self._norms is None else values / self._divisors(codes.indices)

    def _divisors(self, latents: Tensor) -> Tensor:
        assert self._norms is not None
        norms = self._norms[latents]
        return norms.where(norms > 0, 1)  # a direction of zeros stays one

    def _decoder_norms(self) -> Tensor:
        return torch.cat([chunk.to(self.dtype).norm(dim=1) for chunk in _chunks(self.weights.W_dec)])

    def _normalise(self, x: Tensor) -> Tensor:
        if self.rule.normalise == "layer_norm":
            return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
        if self.rule.normalise == "constant_norm_rescale":
            return torch.nn.functional.normalize(x, dim=1) * math.sqrt(x.shape[1])  # a token of zeros stays zero
        return x

    def _denormalise(self, out: Tensor, x: Tensor) -> Tensor:
        if self.rule.normalise == "layer_norm":
            return out * x.std(1, keepdim=True) + x.mean(1, keepdim=True)
        scale: Tensor = x.norm(dim=1, keepdim=True) / math.sqrt(x.shape[1])
        return out * scale


_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def _chunks(tensor: Tensor) -> tuple[Tensor, ...]:
    """Groups of rows of a tile's size: weights may be mapped from a file that is larger than the memory."""
    if tensor.ndim == 0:
        return (tensor,)
    return torch.split(tensor, max(1, topk.TILE_ELEMENTS // max(1, tensor[:1].numel())))


def check_weights(info: CoderInfo, weights: Weights, rule: Nonlinearity) -> None:
    """Shapes, finite numbers, and what each activation function needs. Raises CoderError."""
    n, d_in, d_out = info.n_latents, info.d_in, info.d_out
    shapes = {"W_enc": (d_in, n), "W_dec": (n, d_out), "b_dec": (d_out,)}
    for name, tensor in weights.items():
        allowed = [shapes.get(name, (n,))] + ([()] if name == "threshold" else [])
        if tuple(tensor.shape) not in allowed:
            raise CoderError(
                f"{info.name}: {name} must have shape {list(allowed[0])} (d_in={d_in}, n_latents={n}, d_out={d_out}), "
                f"but it has {list(tensor.shape)}; check the sizes in the configuration"
            )
        if tensor.dtype not in _TYPES:
            raise CoderError(
                f"{info.name}: {name} must hold floating-point numbers of 16, 32 or 64 bits, but it holds "
                f"{str(tensor.dtype).removeprefix('torch.')}"
            )
        if not all(bool(chunk.isfinite().all()) for chunk in _chunks(tensor)):
            raise CoderError(
                f"{info.name}: {name} holds NaN or infinite numbers; the file is damaged or training diverged"
            )
    needed = {"jumprelu": ["threshold"], "gated": ["b_gate", "b_mag", "r_mag"]}.get(rule.activation, [])
    missing = [name for name in needed if getattr(weights, name) is None]
    if missing:
        raise CoderError(
            f"{info.name}: a {rule.activation} SAE needs {', '.join(needed)}, but lacks {', '.join(missing)}"
        )
    if rule.activation in ("topk", "abstopk") and not (rule.k and 1 <= rule.k <= max(n, 1)):
        raise CoderError(f"{info.name}: k must lie between 1 and the number of latents ({n}), but it is {rule.k}")
    if rule.rescale_by_decoder_norm and rule.activation == "gated":
        raise CoderError(f"{info.name}: rescale_acts_by_decoder_norm has no meaning for a gated SAE; set it to false")
    if rule.apply_b_dec_to_input and d_in != d_out:
        raise CoderError(
            f"{info.name}: b_dec cannot be subtracted from the input, d_in={d_in} and d_out={d_out} differ"
        )
