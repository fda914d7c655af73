"""How much a run reads, by tier, and what it measures without a word about tasks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """The most that a tier reads: documents, and tokens as those of so many sequences of the context (None: all).

    Tokens grow with the context, since what makes a figure sure is the number of documents, not their length: a run
    takes a sequence of each of 512 documents rather than all of a few.
    """

    documents: int | None
    sequences: int | None
    calibration_documents: int
    calibration_sequences: int


TIERS = {
    "smoke": Tier(32, 32, 16, 128),
    "standard": Tier(512, 512, 128, 1024),
    "full": Tier(None, None, 512, 4096),
}
# examples of the train and test part of every labelled set, by tier
PROBE_TIERS: dict[str, tuple[int | None, int | None]] = {
    "smoke": (128, 128),
    "standard": (1024, 512),
    "full": (None, None),
}
ABLATION_TIERS: dict[str, int | None] = {"smoke": 8, "standard": 64, "full": 512}  # documents with ablations
TRACKED_TIERS: dict[str, int | None] = {"smoke": 32, "standard": 512, "full": 2048}  # documents to explain from
# What is measured without a word about tasks: what costs least beside the pass over the text (docs/suites.md).
CORE = ("reconstruction", "sparsity", "loss_recovered", "token_rules")
