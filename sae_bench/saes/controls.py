"""SAEs that we make ourselves, to show what a score means. They are coders like any other.

A control is a function ``(sae, calibration, seed) -> coder | None``; None where it makes no sense (a transcoder has no
identity), and :class:`NoControl` with the reason where it cannot be what it claims to be. ``calibration`` holds what is
known of the activations from calibration documents, never from the documents that are scored, and the SAE's L0.

Controls that are matched in L0 stand on a grid of it (:func:`on_grid`), so fine that they are within half a percent of
the SAE, and SAEs of a hook point share them (:func:`shared_by`). What a control is made of (random directions,
principal components, the encoding) is made once for all of the grid. Where an L0 cannot be had, there is no control.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_bench.randomness import generator
from sae_bench.saes.calibration import Calibration, shared_by
from sae_bench.saes.control_coders import ChannelCoder, PermutedDecoder
from sae_bench.saes.graded import Family, Graded, GradedLinear, Most, Turns, may_share
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo, Needs, SparseCoder
from sae_bench.saes.weights import Weights

MAX_RANDOM_LATENTS = 32_768  # wider random dictionaries change little and would double the memory of a run


@shared_by()
def mean_only(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """No latent at all: always the mean activation."""
    mean = calibration.targets.mean
    empty = mean.new_zeros(sae.info.d_in, 0), mean.new_zeros(0, len(mean))
    weights = Weights(W_enc=empty[0], W_dec=empty[1], b_dec=mean, b_enc=mean.new_zeros(0))
    return _linear(info_of(sae, "mean", 0), weights, Nonlinearity("relu", apply_b_dec_to_input=False), calibration)


@shared_by()
def identity(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The activation itself, to the last bit."""
    return _channels(sae, calibration, "identity", sae.info.d_in)


@shared_by("l0")
def channels(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """For each token the channels furthest from their mean, as many as the SAE has active latents."""
    if sae.info.is_transcoder:
        return None
    l0 = calibration.of("channels", sae.info.d_in)
    base = _channels(sae, calibration, "channels", math.ceil(l0), l0=l0)
    if base is None or base.copies:
        return base
    return Graded(base.info, base, Most(l0, turns(calibration, seed)))


@shared_by("l0")
def pca(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The first principal components, as many as the SAE's L0; where that is not whole, one more for some tokens."""
    if sae.info.is_transcoder:
        return None
    l0 = calibration.of("principal components", sae.info.d_in)
    base = _principal(sae, calibration, "pca", math.ceil(l0), l0)
    return GradedLinear(base.info, base, Most(l0, turns(calibration, seed), in_order=True))


@shared_by("l0")
def pca_topk(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """All principal components, for each token the k largest coordinates."""
    if sae.info.is_transcoder:
        return None
    l0 = calibration.of("principal components", sae.info.d_in)
    base = _principal(sae, calibration, "pca_topk", sae.info.d_in, l0)
    return _of_family(base, Most(l0, turns(calibration, seed)), calibration, seed)


@shared_by("l0", "width")
def random_init(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """An untrained SAE: random unit directions, encoder their transpose, TopK at the SAE's L0."""
    return untrained(sae, calibration, seed, max(1, min(sae.info.n_latents, MAX_RANDOM_LATENTS)), "random")


def untrained(
    sae: SparseCoder, calibration: Calibration, seed: int, n: int, name: str, decoder_of: str = ""
) -> GradedLinear:
    """A random dictionary of ``n`` latents, called ``name``; all of a seed and a width have one encoder.

    Its decoder is the encoder's transpose, or one of its own, drawn as ``decoder_of``. Raises NoControl where its L0
    cannot be the SAE's.
    """
    l0 = calibration.of("latents", n)
    decoder_of = decoder_of or ("decoder" if sae.info.is_transcoder else "")
    encoder = _directions(sae.info.d_in, n, calibration, seed, "encoder")
    decoder = _directions(sae.info.d_out, n, calibration, seed, decoder_of) if decoder_of else encoder
    weights = _centred(encoder, decoder, calibration)
    rule = Nonlinearity("topk", k=math.ceil(l0), apply_b_dec_to_input=False)
    base = _linear(info_of(sae, name, n, l0=l0), weights, rule, calibration)
    return _of_family(base, Most(l0, turns(calibration, seed)), calibration, seed, "random")


@shared_by("l0", "width")
def random_l0(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """The codes of ``random`` with an unrelated random decoder: what an L0 alone scores (Chanin 2026)."""
    n = max(1, min(sae.info.n_latents, MAX_RANDOM_LATENTS))
    return untrained(sae, calibration, seed, n, "random_l0", "unrelated decoder")


def permuted(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The SAE itself with its decoder rows in another order; None where there is only one."""
    n = sae.info.n_latents
    if n < 2:
        return None
    order = torch.randperm(n, generator=generator(seed, "order"))
    if torch.equal(order, torch.arange(n)):
        order = order.roll(1)
    return PermutedDecoder(info_of(sae, "permuted", n, sae.info.signed, sae.info.decode_needs), sae, order)


def _channels(
    sae: SparseCoder, calibration: Calibration, name: str, k: int, l0: float | None = None
) -> ChannelCoder | None:
    if sae.info.is_transcoder:
        return None
    mean = calibration.inputs.mean.to(dtype_of(calibration))
    return ChannelCoder(info_of(sae, name, sae.info.d_in, signed=True, l0=l0), mean, k)


def _principal(sae: SparseCoder, calibration: Calibration, name: str, components: int, l0: float) -> LinearCoder:
    dtype = dtype_of(calibration)
    rows = calibration.once(("components", *sae.info.hooks_in, dtype), lambda: calibration.inputs.components.to(dtype))[
        :components
    ]
    weights = Weights(W_enc=rows.T, W_dec=rows, b_dec=calibration.inputs.mean, b_enc=None)
    rule = Nonlinearity("abstopk", k=math.ceil(l0), apply_b_dec_to_input=True)
    return _linear(info_of(sae, name, components, signed=True, l0=l0), weights, rule, calibration)


def turns(calibration: Calibration, seed: int) -> Turns:
    """Which tokens get one latent more, of a control whose L0 is not whole."""
    inputs = calibration.inputs
    return calibration.once(("turns", id(inputs), seed), lambda: Turns(inputs.mean, inputs.covariance, seed))


def _of_family(base: LinearCoder, keeps: Most, calibration: Calibration, seed: int, name: str = "") -> GradedLinear:
    """A control that shares the encoding of its dictionary with those of another L0, and others of the family."""
    if not may_share(base):
        return GradedLinear(base.info, base, keeps)
    info = base.info
    key = ("family", name or info.architecture, info.hooks_in, info.hooks_out, info.n_latents, base.dtype, seed)
    family = calibration.once(key, Family)
    family.join(base, _selects_more)
    return GradedLinear(base.info, base, keeps, family)


def _selects_more(a: LinearCoder, b: LinearCoder) -> bool:
    return (a.rule.k or 0) > (b.rule.k or 0)


def dtype_of(calibration: Calibration) -> torch.dtype:
    """In what controls compute: float64 where the model does, else float32."""
    return torch.float64 if calibration.inputs.sample.dtype == torch.float64 else torch.float32


def _directions(width: int, n: int, calibration: Calibration, seed: int, role: str) -> Tensor:
    """``[n, width]`` random unit vectors, from a generator of their own."""
    dtype, device = dtype_of(calibration), calibration.inputs.sample.device

    def made() -> Tensor:
        rows = torch.randn(n, width, generator=generator(seed, role), dtype=torch.float32).to(dtype)
        return torch.nn.functional.normalize(rows, dim=1).to(device)

    return calibration.once(("directions", n, width, dtype, device, seed, role), made)


def _centred(encoder: Tensor, decoder: Tensor, calibration: Calibration) -> Weights:
    """Encoder on deviations from the mean; decoder bias the mean."""
    bias = -(encoder.double() @ calibration.inputs.mean)
    return Weights(encoder.T, decoder, calibration.targets.mean, bias.to(encoder.dtype))


def _linear(info: CoderInfo, weights: Weights, rule: Nonlinearity, calibration: Calibration) -> LinearCoder:
    dtype = dtype_of(calibration)
    return LinearCoder(info, Weights(**{name: t.to(dtype) for name, t in weights.items()}), rule, dtype=dtype)


def info_of(
    sae: SparseCoder,
    name: str,
    n_latents: int,
    signed: bool = False,
    needs: Needs = "nothing",
    l0: float | None = None,
) -> CoderInfo:
    """What a control of an SAE says that it is; ``l0`` is that which it was asked for."""
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
        provenance={} if l0 is None else {"l0": l0},
    )
