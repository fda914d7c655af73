"""The one coder that nearly every layout on disk turns into: linear encoder, activation function, linear decoder.

With ``u = norm(x * input_scale) - b_dec`` (where ``apply_b_dec_to_input``) and ``pre = u W_enc + b_enc``:

============  =================================================================================================
relu          ``max(pre, 0)``
topk          the k largest ``pre`` of a token, then relu: fewer than k may fire (``keep_negative``: without relu)
abstopk       the k largest ``|pre|`` of a token, sign kept
groupmax      the largest ``pre`` of each of k contiguous groups of latents, then relu
jumprelu      ``relu(pre)`` where ``pre > threshold``; also BatchTopK, whose threshold is a constant at inference
gated         ``relu(u (W_enc exp(r_mag)) + b_mag)`` where ``u W_enc + b_gate > 0`` (Rajamanoharan et al. 2024)
============  =================================================================================================

``by_decoder_norm``: "latents" takes ``pre * ||W_dec||`` for ``pre`` and divides the latents back when decoding;
"selection" only selects by it. Reconstruction ``f W_dec + b_dec``, then the normalisation undone, times
``output_scale``, plus ``x W_skip^T`` where there is a skip connection. Arithmetic is in ``dtype`` (float32,
float64, or bfloat16 for SAEs that are run in it); large weights keep the type in which they are stored.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import torch
from torch import Tensor

from sae_bench.kernels import candidates, fixed, product, stream, topk, waiting
from sae_bench.kernels.candidates import Rounding
from sae_bench.kernels.decode import sparse_decode
from sae_bench.kernels.stream import Streamed
from sae_bench.modules import as_declared
from sae_bench.saes.inference import beside_arrays, of_arrays
from sae_bench.saes.nonlinearity import SELECTS_K, Activation, Nonlinearity, Normalisation
from sae_bench.saes.protocol import CoderInfo, Codes, TokenScale, indptr_of
from sae_bench.saes.weights import Weights, check_weights, chunks

SelectIn = Literal["exact", "bfloat16"]
CHUNKS_OF_CANDIDATES = 4  # of tokens for which a tile is rounded once
__all__ = ["SELECTS_K", "Activation", "LinearCoder", "Nonlinearity", "Normalisation", "SelectIn"]


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Converted once if it is no larger than a tile; other weights stay as they are stored, converted tile by tile."""
    return tensor.to(dtype) if tensor.numel() <= topk.TILE_ELEMENTS else tensor


class LinearCoder:
    """A :class:`~sae_bench.saes.protocol.SparseCoder` with weights in memory, or mapped from a file.

    Matrices may lie in host memory while activations are on a GPU: the encoder is then streamed in tiles, and of the
    decoder only the rows of active latents are copied.

    ``waits``: the host may wait for the device inside a call, which costs nothing on a CPU and is the default there. If
    it may not, the same latents are selected with shapes that are known beforehand, in products of
    :data:`sae_bench.kernels.product.ROWS` tokens; one read at the end of ``encode`` tells how many entries there are.
    ``select_in="bfloat16"``, and weights in host memory wait all the same.
    """

    def __init__(
        self,
        info: CoderInfo,
        weights: Weights,
        rule: Nonlinearity,
        *,
        dtype: torch.dtype = torch.float32,
        select_in: SelectIn = "exact",
        waits: bool | None = None,
    ) -> None:
        check_weights(info, weights, rule)
        self.info = dataclasses.replace(info, decode_needs=rule.needs(weights))
        self.weights = Weights(**{name: _converted(tensor.detach(), dtype) for name, tensor in weights.items()})
        self.rule = rule
        self.dtype = dtype
        self.select_in = select_in
        self.checks = False
        self.uncertified = 0  # rows that the exact path had to take
        self._rounding = Rounding()
        device = self.device
        self.waits = device.type == "cpu" if waits is None else waits
        self._room = fixed.Room()
        self._product: product.Product = torch.mm
        self._link = stream.link(device) if self.weights.W_dec.device != device else None
        elsewhere = self.weights.W_enc.device != device
        self._encoder = Streamed(self.weights.W_enc, stream.link(device)) if elsewhere else None
        self._norms = self._decoder_norms() if rule.by_decoder_norm != "no" else None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.weights.b_dec.device

    @of_arrays
    @as_declared()
    @torch.no_grad()
    def encode(self, x: Tensor) -> Codes:
        """Latent activations of ``x`` ``[..., d_in]``, a tensor or an array; see :func:`sae_bench.load_sae`."""
        elements = topk.tile_elements(x.device) * (CHUNKS_OF_CANDIDATES if self._by_candidates() else 1)
        chunks_of_x = list(topk.row_chunks(len(x), self.info.n_latents, self.rule.k or 0, elements))
        if not self.waits and not self._by_candidates() and x.numel() and self.info.n_latents:
            return self._encode_without_waiting(x, chunks_of_x)
        parts = [self._encode_rows(x[rows]) for rows in chunks_of_x]
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

    @beside_arrays
    @as_declared()
    @torch.no_grad()
    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]``.

        Normalisation by token needs the scale of the activations ``x`` ``[tokens, d_in]``, a skip connection all of
        them; where the scale will do, ``x`` may be either.
        """
        indices, directions = codes.indices, self.weights.W_dec
        if directions.device != indices.device:
            directions, indices = stream.rows(directions, indices, self._link)
        out = sparse_decode(codes.indptr, indices, self._decoder_values(codes), directions, waits=self.waits)
        out = out + self.weights.b_dec.to(self.dtype)
        if self.info.decode_needs == "nothing":
            return out * self.rule.output_scale if self.rule.output_scale != 1 else out
        if x is None:
            raise ValueError("this coder normalises every token, or skips past its latents: decode needs x")
        x = x.to(self.dtype) if isinstance(x, Tensor) else x
        out = self._denormalise(out, x) * self.rule.output_scale
        if self.weights.W_skip is None:
            return out
        if not isinstance(x, Tensor):
            raise ValueError("this coder skips past its latents: decode needs the activations themselves")
        return out + x @ self.weights.W_skip.to(self.dtype).T

    @torch.no_grad()
    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]``."""
        where = self.weights.W_dec.device
        rows = self.weights.W_dec[latents.to(where)].to(latents.device, self.dtype) * self.rule.output_scale
        return rows / self._divisors(latents).unsqueeze(1) if self.rule.by_decoder_norm == "latents" else rows

    @torch.no_grad()
    def pre_activations(self, x: Tensor, start: int, stop: int) -> Tensor:
        """What the activation function of the latents ``start:stop`` sees ``[tokens, stop - start]``, all of it."""
        return self._pre(self._input(x), start, stop)

    def _input(self, x: Tensor) -> Tensor:
        u = x.to(self.dtype)
        u = self._normalise(u if self.rule.input_scale == 1 else u * self.rule.input_scale)
        return u - self.weights.b_dec.to(self.dtype) if self.rule.apply_b_dec_to_input else u

    def _encode_rows(self, x: Tensor) -> Codes:
        u, n, rule = self._input(x), self.info.n_latents, self.rule
        if self._by_candidates():
            return self._encode_by_candidates(u)
        tile = self._tile_function(u)
        if rule.selects_k:
            kept, columns = self._selected(tile)
            fires = kept != 0
            counts, indices, values = fires.sum(1), columns[fires], kept[fires]
        else:
            tile, floor = self._above_floor(tile)
            counts, indices, values = topk.active(tile, n, floor)
        return Codes(indptr_of(counts), indices, self._unscaled(values, indices), n)

    def _encode_without_waiting(self, x: Tensor, chunks_of_x: list[slice]) -> Codes:
        """The same; the host reads once how many entries there are, and again only if there was too little room."""
        parts = [self._padded(x[rows]) for rows in chunks_of_x]
        missing = list(range(len(parts)))
        while missing:
            met = waiting.read(torch.stack([part.met for part in parts]))
            missing = []
            for i, (part, found) in enumerate(zip(parts, met, strict=True)):
                if not self.rule.selects_k:
                    self._room.met(len(part.counts), *found)
                if found[0] > part.held[0] or found[1] > part.held[1]:
                    missing.append(i)
            for i in missing:
                parts[i] = self._padded(x[chunks_of_x[i]])
        counts, indices, values = (
            torch.cat([part.counts for part in parts]),
            torch.cat([part.indices[: found[0]] for part, found in zip(parts, met, strict=True)]),
            torch.cat([part.values[: found[0]] for part, found in zip(parts, met, strict=True)]),
        )
        return Codes(indptr_of(counts), indices, self._unscaled(values, indices), self.info.n_latents)

    def _padded(self, x: Tensor) -> fixed.Padded:
        tile = self._tile_function(self._input(x))
        if self.rule.selects_k:
            return fixed.kept(*self._selected(tile))
        tile, floor = self._above_floor(tile)
        return fixed.active(tile, self.info.n_latents, floor, len(x), self._room)

    def _selected(self, tile: topk.TileFunction) -> tuple[Tensor, Tensor]:
        """Values and latents ``[tokens, k]``; a value of 0 is none."""
        rule, n, k = self.rule, self.info.n_latents, self.rule.k or 0
        if rule.activation == "groupmax":
            kept, columns = topk.group_max(tile, n, k)
        else:
            top_k = topk.top_k if self.waits else fixed.top_k
            kept, columns = top_k(tile, n, k, by_magnitude=rule.activation == "abstopk")
        return (kept if rule.signed else kept.relu()), columns

    def _above_floor(self, tile: topk.TileFunction) -> tuple[topk.TileFunction, Tensor | None]:
        """What is active where it is above a floor, or where it is not 0 if there is none."""
        if self.rule.activation == "gated":
            return lambda a, b: self._gated(tile(a, b), a, b), None
        return tile, self._floor(self.weights.b_dec.device)

    def _by_candidates(self) -> bool:
        plain = self.rule.activation == "topk" and self.rule.by_decoder_norm == "no" and not self.rule.keep_negative
        n, k = self.info.n_latents, self.rule.k or 0
        few = 4 * topk.GROUP * k <= n  # else most groups would hold a candidate
        longer = self.dtype in (torch.float32, torch.float64)
        return self.select_in == "bfloat16" and longer and plain and few and n > 2 * topk.TILE_LATENTS

    def _encode_by_candidates(self, u: Tensor) -> Codes:
        """The same latents as of the exact path, which takes the rows that are not certified."""
        k, n = self.rule.k or 0, self.info.n_latents
        bias = None if self.weights.b_enc is None else self.weights.b_enc.to(self.dtype)
        encoder = candidates.Encoder(self._encoder_tile, self._encoder_directions, bias, n)
        found = candidates.top_k(u, encoder, k, self._rounding)
        values, columns = found.values, found.indices
        left = (~found.certified).nonzero().squeeze(1)
        self.uncertified += len(left)
        if len(left):
            values[left], columns[left] = topk.top_k(self._tile_function(u[left]), n, k)
        fires = values.relu() != 0  # NaN too
        return Codes(indptr_of(fires.sum(1)), columns[fires], values[fires], n)

    def _encoder_tile(self, start: int, stop: int) -> Tensor:
        if self._encoder is not None:
            return self._encoder.tile(start, stop).to(self.dtype)
        return self.weights.W_enc[:, start:stop].to(self.dtype)

    def _encoder_directions(self, latents: Tensor, start: int, stop: int) -> Tensor:
        """Columns of the encoder as rows ``[latents, d_in]``; from host memory the tile comes once more, in order."""
        if self._encoder is not None:
            return candidates.columns(self._encoder.tile(start, stop), latents - start).to(self.dtype)
        return candidates.columns(self.weights.W_enc, latents).to(self.dtype)

    def _floor(self, device: torch.device) -> Tensor:
        """What a pre-activation must exceed: 0 for relu, the threshold or 0 for jumprelu."""
        if self.rule.activation == "relu":
            return torch.zeros((), dtype=self.dtype, device=device)
        assert self.weights.threshold is not None
        return self.weights.threshold.to(self.dtype).clamp(min=0)

    def _unscaled(self, values: Tensor, latents: Tensor) -> Tensor:
        return values / self._divisors(latents) if self.rule.by_decoder_norm == "selection" else values

    def _tile_function(self, u: Tensor) -> topk.TileFunction:
        """Pre-activations of ``u`` tile by tile, every tile in the same memory."""
        n_tokens = len(u)
        u = u if self.waits else product.padded(u)
        memory = u.new_empty(len(u) * min(topk.TILE_LATENTS, self.info.n_latents))

        def tile(start: int, stop: int) -> Tensor:
            size = len(u) * (stop - start)
            out = memory[:size].view(len(u), -1) if size <= len(memory) else u.new_empty(len(u), stop - start)
            if self.waits:
                return self._pre(u, start, stop, out)
            products = product.in_blocks(u, self._encoder_tile(start, stop), out, self._product)
            return self._from_product(products[:n_tokens], start, stop)

        return tile

    def _pre(self, u: Tensor, start: int, stop: int, out: Tensor | None = None) -> Tensor:
        return self._from_product(self._product(u, self._encoder_tile(start, stop), out=out), start, stop)

    def _from_product(self, pre: Tensor, start: int, stop: int) -> Tensor:
        """Pre-activations from the product, in the same memory."""
        if self.weights.b_enc is not None:
            pre += self.weights.b_enc[start:stop].to(self.dtype)
        return pre if self._norms is None else pre.mul_(self._norms[start:stop])

    def _gated(self, pre: Tensor, start: int, stop: int) -> Tensor:
        w, part = self.weights, slice(start, stop)
        assert w.b_gate is not None
        assert w.b_mag is not None
        assert w.r_mag is not None
        magnitude = pre * w.r_mag[part].to(self.dtype).exp() + w.b_mag[part].to(self.dtype)
        return magnitude.relu() * (pre + w.b_gate[part].to(self.dtype) > 0)

    def _decoder_values(self, codes: Codes) -> Tensor:
        values = codes.values.to(self.dtype)
        return values / self._divisors(codes.indices) if self.rule.by_decoder_norm == "latents" else values

    def _divisors(self, latents: Tensor) -> Tensor:
        assert self._norms is not None
        norms = self._norms[latents]
        return norms.where(norms > 0, 1)  # a direction of zeros stays one

    def _decoder_norms(self) -> Tensor:
        norms = torch.cat([chunk.to(self.dtype).norm(dim=1) for chunk in chunks(self.weights.W_dec)])
        return norms.to(self.weights.b_dec.device)

    def _normalise(self, x: Tensor) -> Tensor:
        if self.rule.normalise == "layer_norm":
            return (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
        if self.rule.normalise == "constant_norm_rescale":
            return torch.nn.functional.normalize(x, dim=1) * math.sqrt(x.shape[1])  # a token of zeros stays zero
        return x

    def _denormalise(self, out: Tensor, x: Tensor | TokenScale) -> Tensor:
        if self.rule.normalise == "none" or not self.rule.undo_normalisation:
            return out
        scale = TokenScale.of(x) if isinstance(x, Tensor) else x
        mean, std, norm = (part.to(self.dtype) * self.rule.input_scale for part in scale)
        if self.rule.normalise == "layer_norm":
            return out * std + mean
        return out * (norm / math.sqrt(self.info.d_in))
