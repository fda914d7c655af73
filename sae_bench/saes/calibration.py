"""What controls are made from: what is known of the activations on calibration text, and what SAEs share.

Nothing here is of the documents that are scored but one number: how many latents of an SAE are active there, where that
differs from token to token, so that its controls have as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from sae_bench.kernels.outliers import outlier_bound, top_channels
from sae_bench.saes.protocol import CoderInfo, SparseCoder

GRID = 72  # points of the grid of L0 in an octave: the nearest is within 0.5 %
LEAST_L0 = 2.0**-10  # the first point of the grid: what has fewer active latents is matched by nothing

T = TypeVar("T")
Control = Callable[..., "SparseCoder | None"]
C = TypeVar("C", bound=Control)
Alike = Literal["l0", "width"]


def on_grid(l0: float) -> float:
    """The nearest point of the grid of L0: powers of two, and points at equal ratios between each and the next."""
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


class NoControl(Exception):
    """Why an SAE has no such control: its message stands where the figures would."""


class Text(Protocol):
    """The calibration text, which controls may read again: ``n_tokens`` of it are kept."""

    @property
    def n_tokens(self) -> int:
        """How many tokens there are."""
        ...

    def pairs(self, hook_in: str, hook_out: str, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Activations at two hook points, in parts ``[tokens, d_in]``, ``[tokens, d_out]``: ``most`` tokens at most."""
        ...


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
    """Moments at the hook that the SAE reads and at the one that it predicts, and the SAE's mean L0.

    Of a control that is shared, ``l0`` is that of the grid. ``shared`` keeps what several controls of a run are made
    of; see :meth:`once`. ``text`` is more of the calibration text than the samples of the moments hold.
    """

    inputs: Moments
    targets: Moments
    l0: float
    shared: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    text: Text | None = field(default=None, repr=False, compare=False)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made under ``key`` before, in this run, or is made now."""
        if key not in self.shared:
            self.shared[key] = make()
        found: T = self.shared[key]
        return found

    @property
    def n_tokens(self) -> int:
        """How many tokens :meth:`pairs` can give."""
        return len(self.inputs.sample) if self.text is None else self.text.n_tokens

    def pairs(self, info: CoderInfo, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Calibration activations that a coder reads and that it predicts, at most ``most`` tokens of them."""
        if self.text is not None:
            yield from self.text.pairs(info.hooks_in[0], info.hooks_out[0], most)
        else:
            step = max(1, -(-len(self.inputs.sample) // max(most, 1)))
            yield self.inputs.sample[::step], self.targets.sample[::step]

    def of(self, what: str, most: int) -> float:
        """The L0 as a number of ``what``, which need not be whole. Raises NoControl where there are not as many."""
        if self.l0 < LEAST_L0:
            raise NoControl("the SAE has no active latent on calibration text, so that no L0 can be matched")
        if self.l0 > most:
            raise NoControl(f"the SAE has an L0 of {self.l0:.4g}, and there are {most} {what}")
        return self.l0

    @property
    def k(self) -> int:
        """The SAE's L0 as a number of latents: at least 1, at most the width of its input."""
        return max(1, min(round(self.l0), len(self.inputs.mean)))
