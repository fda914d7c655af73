"""SAEs that we make ourselves, to show what a score means. They are coders like any other.

A control is a function ``(sae, calibration, seed) -> coder | None``; None where it makes no sense (a transcoder has no
identity). ``calibration`` holds what is known of the activations from calibration documents, never from the documents
that are scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.kernels.outliers import outlier_bound
from sae_bench.randomness import generator
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo, Codes, Needs, SparseCoder, TokenScale, indptr_of
from sae_bench.saes.weights import Weights

MAX_RANDOM_LATENTS = 32_768  # wider random dictionaries change little and would double the memory of a run


@dataclass(frozen=True)
class Moments:
    """First and second moments of the activations at one hook point, over calibration tokens.

    ``mean`` ``[d]`` and ``covariance`` ``[d, d]`` in float64, ``sample`` ``[tokens, d]``, ``rms`` the root mean square
    norm.
    """

    mean: Tensor
    covariance: Tensor
    sample: Tensor
    rms: float
    n_tokens: int

    @cached_property
    def far(self) -> float:
        """Squared distance from the mean beyond which the farthest 1 % of the sample lies; see `outlier_bound`."""
        return outlier_bound((self.sample.double() - self.mean).square().sum(1))


@dataclass(frozen=True)
class Calibration:
    """Moments at the hook that the SAE reads and at the one that it predicts, and the SAE's mean L0 on the sample."""

    inputs: Moments
    targets: Moments
    l0: float

    @property
    def k(self) -> int:
        """The SAE's L0 as a number of latents: at least 1, at most the width of its input."""
        return max(1, min(round(self.l0), len(self.inputs.mean)))


class ChannelCoder:
    """Raw channels as latents: for each token the ``k`` that are furthest from their mean (identity: all of them)."""

    def __init__(self, info: CoderInfo, mean: Tensor, k: int) -> None:
        self.info = info
        self._mean = mean
        self._k = k

    def encode(self, x: Tensor) -> Codes:
        """Deviations from the mean ``[tokens, d]``, sparse."""
        deviation = x.to(self._mean.dtype) - self._mean
        width = self.info.n_latents
        kept, channels = topk.top_k(lambda a, b: deviation[:, a:b], width, self._k, by_magnitude=True)
        fires = kept != 0
        return Codes(indptr_of(fires.sum(1)), channels[fires], kept[fires], width)

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """Mean plus the kept deviations ``[tokens, d]``."""
        return codes.dense() + self._mean.to(codes.values)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Unit vectors ``[len(latents), d]``."""
        rows = self._mean.new_zeros(len(latents), self.info.d_out)
        return rows.scatter_(1, latents.unsqueeze(1), 1.0)


class PermutedDecoder:
    """The SAE's own codes, decoded with decoder rows in another order."""

    def __init__(self, info: CoderInfo, sae: SparseCoder, order: Tensor) -> None:
        self.info = info
        self.sae = sae
        self._order = order

    def encode(self, x: Tensor) -> Codes:
        """The codes of the SAE itself."""
        return self.sae.encode(x)

    def decode(self, codes: Codes, x: Tensor | TokenScale | None = None) -> Tensor:
        """Reconstruction ``[tokens, d_out]`` with the wrong directions."""
        moved = codes._replace(indices=self._order.to(codes.indices.device)[codes.indices])
        return self.sae.decode(moved, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Decoder directions ``[len(latents), d_out]`` in the other order."""
        return self.sae.decoder_rows(self._order.to(latents.device)[latents])


def mean_only(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """No latent at all: always the mean activation."""
    mean = calibration.targets.mean
    empty = mean.new_zeros(sae.info.d_in, 0), mean.new_zeros(0, len(mean))
    weights = Weights(W_enc=empty[0], W_dec=empty[1], b_dec=mean, b_enc=mean.new_zeros(0))
    return _linear(_info(sae, "mean", 0), weights, Nonlinearity("relu", apply_b_dec_to_input=False), calibration)


def identity(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The activation itself."""
    return _channels(sae, calibration, "identity", sae.info.d_in)


def channels(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """For each token the channels furthest from their mean, as many as the SAE has active latents."""
    return _channels(sae, calibration, "channels", calibration.k)


def pca(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The first k principal components, k the SAE's L0."""
    return _principal(sae, calibration, "pca", calibration.k)


def pca_topk(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """All principal components, for each token the k largest coordinates."""
    return _principal(sae, calibration, "pca_topk", sae.info.d_in)


def random_init(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """An untrained SAE: random unit directions, encoder their transpose, TopK at the SAE's L0."""
    n = max(1, min(sae.info.n_latents, MAX_RANDOM_LATENTS))
    encoder = _directions(sae.info.d_in, n, calibration, seed, "encoder")
    decoder = encoder if not sae.info.is_transcoder else _directions(sae.info.d_out, n, calibration, seed, "decoder")
    weights = _centred(encoder, decoder, calibration)
    rule = Nonlinearity("topk", k=min(calibration.k, n), apply_b_dec_to_input=False)
    return _linear(_info(sae, "random", n), weights, rule, calibration)


def random_l0(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """Random encoder and unrelated random decoder, with the threshold that gives the SAE's L0 (Chanin 2026)."""
    n = max(1, min(sae.info.n_latents, MAX_RANDOM_LATENTS))
    encoder = _directions(sae.info.d_in, n, calibration, seed, "encoder")
    decoder = _directions(sae.info.d_out, n, calibration, seed, "unrelated decoder")
    weights = _centred(encoder, decoder, calibration)
    assert weights.b_enc is not None
    threshold = _cut(calibration.inputs.sample.to(encoder), encoder, weights.b_enc, min(calibration.l0, n))
    rule = Nonlinearity("jumprelu", apply_b_dec_to_input=False)
    weights = Weights(weights.W_enc, weights.W_dec, weights.b_dec, weights.b_enc, threshold=threshold)
    return _linear(_info(sae, "random_l0", n), weights, rule, calibration)


def permuted(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The SAE itself with its decoder rows in another order; None where there is only one."""
    n = sae.info.n_latents
    if n < 2:
        return None
    order = torch.randperm(n, generator=generator(seed, "order"))
    if torch.equal(order, torch.arange(n)):
        order = order.roll(1)
    return PermutedDecoder(_info(sae, "permuted", n, sae.info.signed, sae.info.decode_needs), sae, order)


def _channels(sae: SparseCoder, calibration: Calibration, name: str, k: int) -> SparseCoder | None:
    if sae.info.is_transcoder:
        return None
    mean = calibration.inputs.mean.to(_dtype(calibration))
    return ChannelCoder(_info(sae, name, sae.info.d_in, signed=True), mean, k)


def _principal(sae: SparseCoder, calibration: Calibration, name: str, components: int) -> SparseCoder | None:
    if sae.info.is_transcoder:
        return None
    moments = calibration.inputs
    basis = torch.linalg.eigh(moments.covariance).eigenvectors.flip(1)[:, :components].contiguous()
    weights = Weights(W_enc=basis, W_dec=basis.T.contiguous(), b_dec=moments.mean, b_enc=None)
    rule = Nonlinearity("abstopk", k=calibration.k, apply_b_dec_to_input=True)
    return _linear(_info(sae, name, components, signed=True), weights, rule, calibration)


def _dtype(calibration: Calibration) -> torch.dtype:
    return torch.float64 if calibration.inputs.sample.dtype == torch.float64 else torch.float32


def _cut(x: Tensor, encoder: Tensor, bias: Tensor, l0: float) -> Tensor:
    """The threshold above which ``l0`` pre-activations of a token lie on average; at least 0: latents are positive."""
    rank = min(max(1, round(l0 * len(x))), len(x) * len(encoder) - 1)
    largest = x.new_zeros(0)
    step = max(1, topk.TILE_ELEMENTS // max(1, len(x)))
    for start in range(0, len(encoder), step):
        pre = x @ encoder[start : start + step].T + bias[start : start + step]
        largest = torch.cat([largest, pre.flatten()])
        if len(largest) > rank + 1:
            largest = largest.topk(rank + 1, sorted=False).values
    return torch.clamp(largest.min(), min=0)


def _directions(width: int, n: int, calibration: Calibration, seed: int, role: str) -> Tensor:
    """``[n, width]`` random unit vectors, from a generator of their own."""
    rows = torch.randn(n, width, generator=generator(seed, role), dtype=torch.float32).to(_dtype(calibration))
    return torch.nn.functional.normalize(rows, dim=1).to(calibration.inputs.sample.device)


def _centred(encoder: Tensor, decoder: Tensor, calibration: Calibration) -> Weights:
    """Encoder on deviations from the mean; decoder bias the mean."""
    bias = -(encoder.double() @ calibration.inputs.mean)
    return Weights(encoder.T, decoder, calibration.targets.mean, bias.to(encoder.dtype))


def _linear(info: CoderInfo, weights: Weights, rule: Nonlinearity, calibration: Calibration) -> LinearCoder:
    dtype = _dtype(calibration)
    return LinearCoder(info, Weights(**{name: t.to(dtype) for name, t in weights.items()}), rule, dtype=dtype)


def _info(sae: SparseCoder, name: str, n_latents: int, signed: bool = False, needs: Needs = "nothing") -> CoderInfo:
    old = sae.info
    return CoderInfo(
        name=f"control: {name}",
        n_latents=n_latents,
        d_in=old.d_in,
        d_out=old.d_out,
        hooks_in=old.hooks_in,
        hooks_out=old.hooks_out,
        architecture=name,
        decode_needs=needs,
        signed=signed,
        format="control",
    )
