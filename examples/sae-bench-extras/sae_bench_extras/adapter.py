"""An SAE that is code and no file: ``sae-bench run --sae sae_bench_extras.adapter:rotated``.

Whatever has ``info``, ``encode``, ``decode`` and ``decoder_rows`` can be measured. A factory takes no arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_bench import CoderInfo
from sae_bench.saes.protocol import Codes, codes_from_dense

WIDTH, ACTIVE = 128, 16  # the width of the demo's model, and how many latents of a token are active
HOOK = "blocks.2.hook_resid_post"


class Rotated:
    """The residual stream in another orthonormal basis, of which the largest coordinates of a token are kept."""

    def __init__(self, basis: Tensor, k: int) -> None:
        n, d = basis.shape
        self.info = CoderInfo(
            name="rotated",
            n_latents=n,
            d_in=d,
            d_out=d,
            hooks_in=(HOOK,),
            hooks_out=(HOOK,),
            architecture="rotation",
            model="demo",
            signed=True,  # coordinates of either sign
        )
        self._basis, self._k = basis, k

    def encode(self, x: Tensor) -> Codes:
        """The ``k`` largest coordinates of every token of ``x`` ``[tokens, d]``; few latents, so dense will do."""
        z = x @ self._basis.to(x).T
        kept = z.abs().topk(self._k, dim=1).indices
        return codes_from_dense(torch.zeros_like(z).scatter(1, kept, z.gather(1, kept)))

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        """What the coordinates stand for ``[tokens, d]``."""
        return codes.dense() @ self._basis.to(codes.values)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        """Basis vectors ``[len(latents), d]``."""
        return self._basis.to(latents.device)[latents]


def rotated() -> Rotated:
    """A random basis, always the same one."""
    square = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return Rotated(torch.linalg.qr(square).Q.float(), ACTIVE)
