"""What is asked of an SAE on calibration text before it is scored: that its reconstruction is made of its latents."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_bench.engine.workspace import CoderFailure, Entry, guarded
from sae_bench.saes.conformance import NOT_AFFINE, check_affine
from sae_bench.saes.decoding import OFF, remembers, skip_share
from sae_bench.saes.protocol import skips_itself

TOKENS = 32  # on which decode is asked again
SHARE_TOKENS = 1024  # on which the share of a skip is measured


@dataclass(frozen=True)
class SelfCheck:
    """Why an SAE is ``refused``; else ``cautions`` for figures of fidelity, and ``details`` that stand beside them."""

    refused: str | None = None
    cautions: tuple[str, ...] = ()
    details: tuple[tuple[str, object], ...] = ()


def selfcheck(entry: Entry, x: Tensor, y: Tensor) -> SelfCheck:
    """Look at an SAE on activations where it reads, ``x`` ``[tokens, d_in]``, and where it predicts, ``y``."""
    try:
        return guarded(entry, lambda: _selfcheck(entry, x, y))
    except CoderFailure as failure:
        return SelfCheck(refused=f"it fails on calibration text: {failure}")


def _selfcheck(entry: Entry, x: Tensor, y: Tensor) -> SelfCheck:
    coder, few = entry.coder, _spread(x, TOKENS)
    if coder.info.decode_needs == "skip" and torch.equal(x, y):
        return SelfCheck(refused=skips_itself(entry.label, entry.hook_in, entry.hook_out))
    if (why := remembers(coder, few)) is not None:
        return SelfCheck(refused=why)
    cautions, details = [], []
    if check_affine(coder, coder.encode(few), few, OFF):
        cautions.append(f"{NOT_AFFINE}, so that its figures are not what its latents add up to")
    tokens = _spread(x, SHARE_TOKENS)
    if (share := skip_share(coder, tokens)) is not None:
        details.append(("skip_share", {"value": share, "calibration_tokens": len(tokens)}))
        cautions.append(
            f"the skip connection carries {share:.1%} of the variance of the reconstruction ({len(tokens)} calibration "
            "tokens), the latents the rest"
        )
    return SelfCheck(None, tuple(cautions), tuple(details))


def _spread(x: Tensor, most: int) -> Tensor:
    """At most so many tokens from all over ``x``."""
    return x[:: max(1, -(-len(x) // most))]
