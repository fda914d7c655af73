"""What controls will cost that are more than a decoder on a sample of documents."""

from __future__ import annotations

from typing import Any

from sae_bench.engine.calibrate import TEXT_TOKENS
from sae_bench.saes.fitted import MAX_FITTED_LATENTS, too_few
from sae_bench.saes.pursued import MOST_L0
from sae_bench.streams.base import Planned
from sae_bench.streams.beside import DOCUMENTS

FITTED = ("random_fit", "permuted_fit")
PURSUIT = "pursuit"


def of_controls(planned: Planned) -> dict[str, Any]:
    """Decoders that are fitted on calibration text, and pursuits; the L0 of an SAE is not known yet."""
    found: dict[str, Any] = {}
    tokens = min(planned.inputs.corpus.calibration.n_tokens, TEXT_TOKENS)
    fits: dict[str, int] = {}
    for name in (name for name in FITTED if name in planned.controls):
        for entry in planned.saes:
            n = entry.coder.info.n_latents
            n = min(n, MAX_FITTED_LATENTS) if name == "random_fit" else n
            what = "none: too few calibration tokens, or too many latents" if too_few(n, 1, tokens) else f"{n} latents"
            fits[f"{name}, {what}"] = fits.get(f"{name}, {what}", 0) + 1
    if fits:
        found[f"decoders fitted on {tokens} calibration tokens, at most"] = fits
    if PURSUIT in planned.controls:
        n = min(DOCUMENTS, planned.inputs.corpus.evaluation.n_units)
        each = f"times its L0 (at most {MOST_L0}), as dear as encodings, on {n} documents"
        found["pursuit, rounds of choice"] = {f"{each}, an SAE": 1}
    return found
