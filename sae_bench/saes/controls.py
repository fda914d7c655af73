"""SAEs that we make ourselves, to show what a score means. They are coders like any other.

A control is a function ``(sae, calibration, seed) -> coder | None``; None where it makes no sense (a transcoder has no
identity). ``calibration`` holds what is known of the activations from calibration documents, never from the documents
that are scored.

Controls that are matched in L0 stand on a grid of it (:func:`on_grid`), so that SAEs of a hook point share them
(:func:`shared_by`). What a control is made of (random directions, principal components) is made once for all of the
grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from sae_bench.kernels import topk
from sae_bench.kernels.outliers import outlier_bound, top_channels
from sae_bench.randomness import generator
from sae_bench.saes.control_coders import ChannelCoder, PermutedDecoder
from sae_bench.saes.graded import Above, Family, Graded, GradedLinear, Most, Turns, may_share
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo, Needs, SparseCoder
from sae_bench.saes.weights import Weights

MAX_RANDOM_LATENTS = 32_768  # wider random dictionaries change little and would double the memory of a run
GRID = 4  # points of the grid of L0 in an octave
LEAST_L0 = 2.0**-10  # the first point of the grid; an SAE may have no active latent at all

T = TypeVar("T")
Control = Callable[..., "SparseCoder | None"]
C = TypeVar("C", bound=Control)
Alike = Literal["l0", "width"]


def on_grid(l0: float) -> float:
    """The nearest point of the grid of L0: powers of two, and three points between each and the next."""
    return float(2.0 ** (round(GRID * math.log2(max(l0, LEAST_L0))) / GRID))


def shared_by(*alike: Alike) -> Callable[[C], C]:
    """Declare that a control is one and the same for all SAEs of a hook point that are ``alike``: it is measured once.

    "l0": in the nearest point of the grid of L0, which ``calibration.l0`` then is; "width": in the number of latents,
    where all above ``MAX_RANDOM_LATENTS`` are alike. A control without this is each SAE's own. Raises ValueError for
    another word.
    """
    if unknown := set(alike) - {"l0", "width"}:
        raise ValueError(f'a control is shared by "l0" and "width", not by {sorted(unknown)[0]!r}')

    def declared(control: C) -> C:
        control.shared_by = frozenset(alike)  # type: ignore[attr-defined]
        return control

    return declared


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
    def components(self) -> Tensor:
        """Principal components as rows ``[d, d]``, float64, that of the largest variance first."""
        columns: Tensor = torch.linalg.eigh(self.covariance).eigenvectors
        return columns.flip(1).T.contiguous()

    @cached_property
    def far(self) -> float:
        """Squared distance from the mean beyond which the farthest 1 % of the sample lies; see `outlier_bound`."""
        return outlier_bound((self.sample.double() - self.mean).square().sum(1))

    @cached_property
    def top_channels(self) -> Tensor:
        """The three channels of the largest variance; see `kernels.outliers.top_channels`."""
        return top_channels(self.covariance)


@dataclass(frozen=True)
class Calibration:
    """Moments at the hook that the SAE reads and at the one that it predicts, and the SAE's mean L0 on the sample.

    Of a control that is shared, ``l0`` is that of the grid. ``shared`` keeps what several controls of a run are made
    of; see :meth:`once`.
    """

    inputs: Moments
    targets: Moments
    l0: float
    shared: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under ``key`` before, in this run, or is made now."""
        if key not in self.shared:
            self.shared[key] = make()
        found: T = self.shared[key]
        return found

    def up_to(self, most: int) -> float:
        """The L0 as a number of latents that need not be whole: at least 1, at most ``most``."""
        return max(1.0, min(self.l0, float(most)))

    @property
    def k(self) -> int:
        """The SAE's L0 as a number of latents: at least 1, at most the width of its input."""
        return max(1, min(round(self.l0), len(self.inputs.mean)))


@shared_by()
def mean_only(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """No latent at all: always the mean activation."""
    mean = calibration.targets.mean
    empty = mean.new_zeros(sae.info.d_in, 0), mean.new_zeros(0, len(mean))
    weights = Weights(W_enc=empty[0], W_dec=empty[1], b_dec=mean, b_enc=mean.new_zeros(0))
    return _linear(_info(sae, "mean", 0), weights, Nonlinearity("relu", apply_b_dec_to_input=False), calibration)


@shared_by()
def identity(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The activation itself, to the last bit."""
    return _channels(sae, calibration, "identity", sae.info.d_in)


@shared_by("l0")
def channels(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """For each token the channels furthest from their mean, as many as the SAE has active latents."""
    l0 = calibration.up_to(sae.info.d_in)
    base = _channels(sae, calibration, "channels", math.ceil(l0), l0=l0)
    if base is None or base.copies:
        return base
    return Graded(base.info, base, Most(l0, _turns(calibration, seed)))


@shared_by("l0")
def pca(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The first principal components, as many as the SAE's L0; where that is not whole, one more for some tokens."""
    l0 = calibration.up_to(sae.info.d_in)
    base = _principal(sae, calibration, "pca", math.ceil(l0), l0)
    return base and GradedLinear(base.info, base, Most(l0, _turns(calibration, seed), in_order=True))


@shared_by("l0")
def pca_topk(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """All principal components, for each token the k largest coordinates."""
    l0 = calibration.up_to(sae.info.d_in)
    base = _principal(sae, calibration, "pca_topk", sae.info.d_in, l0)
    return base and _of_family(base, Most(l0, _turns(calibration, seed)), calibration, seed)


@shared_by("l0", "width")
def random_init(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """An untrained SAE: random unit directions, encoder their transpose, TopK at the SAE's L0."""
    n = max(1, min(sae.info.n_latents, MAX_RANDOM_LATENTS))
    encoder = _directions(sae.info.d_in, n, calibration, seed, "encoder")
    decoder = encoder if not sae.info.is_transcoder else _directions(sae.info.d_out, n, calibration, seed, "decoder")
    weights = _centred(encoder, decoder, calibration)
    l0 = calibration.up_to(min(n, sae.info.d_in))
    rule = Nonlinearity("topk", k=math.ceil(l0), apply_b_dec_to_input=False)
    base = _linear(_info(sae, "random", n, l0=l0), weights, rule, calibration)
    return _of_family(base, Most(l0, _turns(calibration, seed)), calibration, seed)


@shared_by("l0", "width")
def random_l0(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder:
    """Random encoder and unrelated random decoder, with the threshold that gives the SAE's L0 (Chanin 2026)."""
    n = max(1, min(sae.info.n_latents, MAX_RANDOM_LATENTS))
    encoder = _directions(sae.info.d_in, n, calibration, seed, "encoder")
    decoder = _directions(sae.info.d_out, n, calibration, seed, "unrelated decoder")
    weights = _centred(encoder, decoder, calibration)
    assert weights.b_enc is not None
    l0 = min(calibration.l0, float(n))
    threshold = _cut(calibration.inputs.sample.to(encoder), encoder, weights.b_enc, l0)
    rule = Nonlinearity("jumprelu", apply_b_dec_to_input=False)
    weights = Weights(weights.W_enc, weights.W_dec, weights.b_dec, weights.b_enc, threshold=threshold)
    base = _linear(_info(sae, "random_l0", n, l0=l0), weights, rule, calibration)
    return _of_family(base, Above(threshold), calibration, seed)


def permuted(sae: SparseCoder, calibration: Calibration, seed: int) -> SparseCoder | None:
    """The SAE itself with its decoder rows in another order; None where there is only one."""
    n = sae.info.n_latents
    if n < 2:
        return None
    order = torch.randperm(n, generator=generator(seed, "order"))
    if torch.equal(order, torch.arange(n)):
        order = order.roll(1)
    return PermutedDecoder(_info(sae, "permuted", n, sae.info.signed, sae.info.decode_needs), sae, order)


def _channels(
    sae: SparseCoder, calibration: Calibration, name: str, k: int, l0: float | None = None
) -> ChannelCoder | None:
    if sae.info.is_transcoder:
        return None
    mean = calibration.inputs.mean.to(_dtype(calibration))
    return ChannelCoder(_info(sae, name, sae.info.d_in, signed=True, l0=l0), mean, k)


def _principal(sae: SparseCoder, calibration: Calibration, name: str, components: int, l0: float) -> LinearCoder | None:
    if sae.info.is_transcoder:
        return None
    dtype = _dtype(calibration)
    rows = calibration.once(("components", *sae.info.hooks_in, dtype), lambda: calibration.inputs.components.to(dtype))[
        :components
    ]
    weights = Weights(W_enc=rows.T, W_dec=rows, b_dec=calibration.inputs.mean, b_enc=None)
    rule = Nonlinearity("abstopk", k=math.ceil(l0), apply_b_dec_to_input=True)
    return _linear(_info(sae, name, components, signed=True, l0=l0), weights, rule, calibration)


def _turns(calibration: Calibration, seed: int) -> Turns:
    inputs = calibration.inputs
    return calibration.once(("turns", id(inputs), seed), lambda: Turns(inputs.mean, inputs.covariance, seed))


def _of_family(base: LinearCoder, keeps: Most | Above, calibration: Calibration, seed: int) -> SparseCoder:
    """A control that shares the encoding of its dictionary with those of another L0."""
    if not may_share(base):
        return GradedLinear(base.info, base, keeps)
    info = base.info
    key = ("family", info.architecture, info.hooks_in, info.hooks_out, info.n_latents, base.dtype, seed)
    family = calibration.once(key, Family)
    family.join(base, _selects_more)
    return GradedLinear(base.info, base, keeps, family)


def _selects_more(a: LinearCoder, b: LinearCoder) -> bool:
    if a.weights.threshold is not None and b.weights.threshold is not None:
        return bool(a.weights.threshold < b.weights.threshold)
    return (a.rule.k or 0) > (b.rule.k or 0)


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
    dtype, device = _dtype(calibration), calibration.inputs.sample.device

    def made() -> Tensor:
        rows = torch.randn(n, width, generator=generator(seed, role), dtype=torch.float32).to(dtype)
        return torch.nn.functional.normalize(rows, dim=1).to(device)

    return calibration.once(("directions", n, width, dtype, device, seed, role), made)


def _centred(encoder: Tensor, decoder: Tensor, calibration: Calibration) -> Weights:
    """Encoder on deviations from the mean; decoder bias the mean."""
    bias = -(encoder.double() @ calibration.inputs.mean)
    return Weights(encoder.T, decoder, calibration.targets.mean, bias.to(encoder.dtype))


def _linear(info: CoderInfo, weights: Weights, rule: Nonlinearity, calibration: Calibration) -> LinearCoder:
    dtype = _dtype(calibration)
    return LinearCoder(info, Weights(**{name: t.to(dtype) for name, t in weights.items()}), rule, dtype=dtype)


def _info(
    sae: SparseCoder,
    name: str,
    n_latents: int,
    signed: bool = False,
    needs: Needs = "nothing",
    l0: float | None = None,
) -> CoderInfo:
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
