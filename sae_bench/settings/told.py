"""What the user says about an SAE, over what its files say or where they are silent."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sae_bench.settings.stated import stated


@dataclass(frozen=True)
class Told:
    """What the user says about an SAE, over what its files say or where they are silent.

    ``layer`` is the block where the files name a site but no layer; ``threshold`` one number for all latents, in units
    of the pre-activations; ``norm_factor`` what activations are multiplied with before the encoder (and the
    reconstruction is divided by); ``k`` the latents kept of a token.
    """

    format: str | None = stated(
        None, "layout, where it cannot be told (see: sae-bench ls formats)", "told", "NAME", repeats=True
    )
    hook_in: str | None = stated(
        None,
        "hook point that the SAE reads, such as blocks.8.hook_resid_post or model.layers.8.mlp:in",
        "told",
        "HOOK",
        repeats=True,
    )
    hook_out: str | None = stated(None, "hook point that the SAE predicts (transcoders)", "told", "HOOK", repeats=True)
    layer: int | None = stated(None, "block, where the files name a site but no layer", "told", "N", repeats=True)
    threshold: float | None = stated(
        None, "activation threshold of all latents, where none is stored (BatchTopK)", "told", "X", repeats=True
    )
    norm_factor: float | None = stated(
        None,
        "what activations are multiplied with before the encoder; the reconstruction is divided by it",
        "told",
        "X",
        repeats=True,
    )
    k: int | None = stated(None, "latents kept of a token, where it is not stored (TopK)", "told", "N", repeats=True)

    def given(self) -> dict[str, Any]:
        """What was told, by name."""
        return {name: value for name in TOLD if (value := getattr(self, name)) is not None}


TOLD = tuple(f.name for f in fields(Told))
