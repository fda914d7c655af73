"""Nested dictionaries of Matryoshka SAEs: the first latents of one stand alone (Bussmann et al. 2025)."""

from __future__ import annotations

import dataclasses
import hashlib

from sae_bench.errors import CoderError
from sae_bench.saes.linear import LinearCoder


def prefix_of(coder: LinearCoder, width: int) -> LinearCoder:
    """The nested dictionary of the first ``width`` latents of a Matryoshka SAE, sharing its weights. CoderError."""
    info = coder.info
    if width not in info.prefix_widths:
        widths = ", ".join(map(str, info.prefix_widths)) or "none"
        raise CoderError(f"{info.name} has no nested dictionary of {width} latents; it declares {widths}")
    if coder.rule.k is not None:
        raise CoderError(f"{info.name} keeps k latents of the whole dictionary: a prefix of it alone would keep others")
    digest = hashlib.sha256(f"{info.provenance.get('sha256')}#{width}".encode()).hexdigest()
    made = dataclasses.replace(
        info,
        name=f"{info.name}#{width}",
        n_latents=width,
        prefix_widths=(),
        provenance={k: v for k, v in info.provenance.items() if k != "declared_l0"}
        | {"sha256": digest, "prefix_of": info.n_latents},
    )
    return LinearCoder(made, coder.weights.prefix(width), coder.rule, dtype=coder.dtype)
