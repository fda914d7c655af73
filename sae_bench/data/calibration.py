"""How much text calibrates a run: what its tier says, and never more documents than the user has limited it to."""

from __future__ import annotations

import warnings

from sae_bench.data.documents import Corpus

LEAST_TOKENS = 256  # the mean of so many is accurate to a sixteenth of a standard deviation


def most_documents(of_tier: int | None, limit: int | None) -> int | None:
    """The most documents that calibration reads (None: all there are)."""
    return min((given for given in (of_tier, limit) if given is not None), default=None)


def warn_of_little(corpus: Corpus, limit: int | None, tokens: int | None) -> None:
    """Say where a limit leaves so little calibration text that the mean is one of a few tokens."""
    found = corpus.calibration
    if found is corpus.evaluation or found.n_tokens >= LEAST_TOKENS:
        return
    if tokens is not None and tokens < LEAST_TOKENS:
        flag, value = "--tokens", tokens
    elif found.n_units == limit:
        flag, value = "--limit", limit
    else:
        return
    warnings.warn(
        f"{flag} {value} leaves {found.n_tokens} calibration tokens ({found.n_units} documents), so mean "
        f"ablation, controls and top tokens rest on a few tokens, and no interval says so; give a larger {flag} "
        f"({LEAST_TOKENS} tokens or more are good)",
        stacklevel=2,
    )
