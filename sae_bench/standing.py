"""What known truth says of each metric: ``tasks/validity.lock``, which decides who may be ranked by what.

``sae-bench validate`` measures SAEs of known quality and writes it; see :mod:`sae_bench.validity`. An entry counts only
for the definition that it was measured with, whose digest it names.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, FiniteFloat

from sae_bench.schema import Record

Claims = Literal["features", "encoder", "decoder", "fidelity"]  # what a metric says that it measures


class InWorld(Record):
    """What one world says of a metric; numbers are rounded, and absent where they could not be had.

    ``features``, ``encoder``, ``decoder``: Spearman's correlation with that truth over the SAEs of the ladder, signed
    so that 1 is a metric that orders them as the truth does; the mean over draws. ``monotone``: the same over the
    checkpoints of one training alone. ``signal``: standard deviation over SAEs divided by that over draws, with its
    95 % interval. ``blind``: SAEs that are worse than the perfect one and that the metric does not tell from it.
    ``beaten_by``: controls that are not worse than the trained SAE. ``fragile``: without which SAE or draw the verdict
    would be another one.
    """

    features: FiniteFloat | None = None
    encoder: FiniteFloat | None = None
    decoder: FiniteFloat | None = None
    monotone: FiniteFloat | None = None
    signal: FiniteFloat | None = None
    signal_low: FiniteFloat | None = None
    signal_high: FiniteFloat | None = None
    coverage: FiniteFloat | None = None
    false_positives: FiniteFloat | None = None
    blind: tuple[str, ...] = ()
    beaten_by: tuple[str, ...] = ()
    fragile: tuple[str, ...] = ()
    rungs: int = Field(ge=0)
    draws: int = Field(ge=0)


class Standing(Record):
    """Whether SAEs may be ranked by a metric, and why not (``why``, one sentence) where they may not."""

    digest: str
    claims: Claims | None = None
    ranked: bool
    why: str | None = None
    worlds: dict[str, InWorld] = Field(default_factory=dict)  # by name: "tokens", "context", "demo"
