"""Whether SAEs may be ranked by a metric, from what the worlds say of it: the rules, and nothing else.

A metric that claims *features*, the *encoder* or the *decoder* has to put the SAEs of every world that speaks of it in
about the order of that truth, beyond noise. One that claims *fidelity* has to tell SAEs apart beyond noise, its
interval must hold the truth about as often as it says, and the trained SAE must beat ``random_fit`` in pairs. Rules
read what is written in the lock, rounded, so that whoever reads the lock comes to the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from sae_bench.schema import TaskSpec
from sae_bench.standing import Claims, InWorld
from sae_bench.validity.seen import FITTED

RHO, SIGNAL = 0.7, 3.0
COVERAGE = (0.90, 0.99)  # of intervals at 95 %
MOST = 4  # reasons in a sentence
TRUTHS: Mapping[Claims, str] = {"features": "features", "encoder": "encoder", "decoder": "decoder"}


def why_not(spec: TaskSpec, metric: str, claims: Claims | None, worlds: Mapping[str, InWorld]) -> str | None:
    """Why nobody is ranked by a metric, in a sentence without its dot; None where SAEs may be."""
    barred = bar(spec, metric, claims)
    if claims is None or barred is not None:
        return barred
    speaking = {name: one for name, one in worlds.items() if speaks(claims, one)}
    if not speaking:
        return "no world speaks of it"
    said = [reason for name, one in speaking.items() for reason in lacking(claims, name, one)]
    more = [f"and {len(said) - MOST} more"] if len(said) > MOST else []
    return "; ".join([*said[:MOST], *more]) or None


def bar(spec: TaskSpec, metric: str, claims: Claims | None) -> str | None:
    """Why nobody is ranked by a metric, whatever worlds say of it; None where they decide."""
    if claims is None:
        return "it does not claim to measure features, a half of the SAE, or fidelity"
    if spec.metrics[metric].better == "none":
        return "it has no direction"
    return "no replay of a real judge is there to measure it with" if spec.judge else None


def speaks(claims: Claims, one: InWorld) -> bool:
    """Whether a world knows the truth that a metric claims: of a model that was trained, nobody knows the decoder's.

    Every world knows one of them: where the metric follows none, it had figures of too few SAEs, which excuses nothing.
    """
    if claims not in TRUTHS or getattr(one, TRUTHS[claims]) is not None:
        return True
    return all(getattr(one, truth) is None for truth in TRUTHS.values())


def lacking(claims: Claims, world: str, one: InWorld) -> Iterator[str]:
    """What a metric lacks in a world, a phrase each."""
    truth = TRUTHS.get(claims)
    if truth is not None:
        rho: float | None = getattr(one, truth)
        if rho is None or rho < RHO:
            yield f"its rho with {truth} is {_said(rho)} in {world}, not {RHO}"
    if one.signal is None or one.signal < SIGNAL:
        yield f"its signal over noise is {_said(one.signal)} in {world}, not {SIGNAL:g}"
    if claims == "fidelity":
        low, high = COVERAGE
        if one.coverage is None:
            yield f"nothing says how often its interval holds the truth in {world}"
        elif not low <= one.coverage <= high:
            yield f"its interval holds the truth {_said(one.coverage)} of the time in {world}, not {low:g} to {high:g}"
        if FITTED in one.beaten_by:
            yield f"the trained SAE does not beat {FITTED} in {world}"


def lost(claims: Claims, locked: InWorld, measured: InWorld) -> Iterator[str]:
    """What a few draws show that a metric no longer has, though the lock, of more draws, says so; a phrase each.

    Fewer draws of less text are noisier, so a rule is broken only by what lies beyond noise: a rho whose mean is below
    the limit by more than two standard errors, with the larger spread over draws of the two, but by ``SLACK`` at least;
    a signal whose whole 95 % interval is below; a coverage that is off by more than two standard errors of counting.
    """
    truth = TRUTHS.get(claims)
    if not speaks(claims, locked):
        return
    if truth is not None:
        rho: float | None = getattr(measured, truth)
        spread = max(locked.spread or 0.0, measured.spread or 0.0)
        slack = max(SLACK, 2 * spread / math.sqrt(max(1, measured.draws)))
        if rho is None or rho < RHO - slack:
            yield f"its rho with {truth} is {_said(rho)}, below {RHO} by more than {slack:.2f}"
    if measured.signal_high is None or measured.signal_high < SIGNAL:
        yield f"its signal over noise is {_said(measured.signal)}, and surely below {SIGNAL:g}"
    if claims == "fidelity":
        low, high = COVERAGE
        slack = 2 * (measured.coverage_error or 0.0)
        if measured.coverage is None or not low - slack <= measured.coverage <= high + slack:
            yield f"its interval holds the truth {_said(measured.coverage)} of the time, beyond {low:g} to {high:g}"
        if FITTED in measured.beaten_by:
            yield f"the trained SAE does not beat {FITTED}"


SLACK = 0.05  # of rho


def _said(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2g}"
