"""How much text a run reads: what its tier says, and never more than the user has limited it to."""

from __future__ import annotations

import warnings
from typing import TypedDict

from sae_bench.data.documents import Corpus
from sae_bench.settings import Tier

LEAST_TOKENS = 256  # the mean of so many is accurate to a sixteenth of a standard deviation


class Limits(TypedDict):
    """Those of :class:`~sae_bench.data.documents.DataOptions`; None: all there are."""

    limit: int | None
    tokens: int | None
    sequences: int | None
    calibration_limit: int | None
    calibration_tokens: int | None
    calibration_sequences: int | None


def limits(tier: Tier, limit: int | None, tokens: int | None) -> Limits:
    """What of a text is read.

    A limit of the user's, of documents or of tokens, stands in the place of what the tier says of evaluation, and
    beside what it says of calibration.
    """
    told = limit is not None or tokens is not None
    return {
        "limit": limit if told else tier.documents,
        "tokens": tokens,
        "sequences": None if told else tier.sequences,
        "calibration_limit": min(tier.calibration_documents, limit or tier.calibration_documents),
        "calibration_tokens": tokens,
        "calibration_sequences": tier.calibration_sequences,
    }


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
