"""A preflight of one SAE: everything that was measured, and how it is shown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sae_bench.engine.workspace import CoderFailure, Entry
from sae_bench.models.subject import selftests_of
from sae_bench.modules import as_declared
from sae_bench.preflight import evidence
from sae_bench.preflight.case import Case
from sae_bench.preflight.hypotheses import Outcome, not_tried, outcomes
from sae_bench.preflight.text import Activations
from sae_bench.preflight.verdict import Finding, findings
from sae_bench.session.trained import Scored, differences


@dataclass(frozen=True)
class Preflight:
    """What was measured, found, tried and not tried. ``broken``: what of the contract does not hold.

    ``selftests``: what the language model's own numbers said of the hook points.
    """

    measured: Mapping[str, Any]
    findings: tuple[Finding, ...]
    broken: tuple[str, ...] = ()
    tried: tuple[Outcome, ...] = ()
    not_tried: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    selftests: tuple[str, ...] = ()

    @property
    def healthy(self) -> bool:
        """Whether the contract holds and no cause is likely."""
        return not self.broken and not any(finding.confidence == "likely" for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """Everything as plain JSON."""
        return {
            "measured": {name: _finite(value) for name, value in self.measured.items()},
            "healthy": self.healthy,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "breaks_the_contract": list(self.broken),
            "tried": [
                {
                    "cause": o.hypothesis.cause,
                    "if": o.claim,
                    "settle": o.settle,
                    "fvu": _finite(o.score.fvu),
                    "l0": _finite(o.score.l0),
                    "gain": _finite(o.gain),
                }
                for o in self.tried
            ],
            "not_tried": list(self.not_tried),
            "notes": list(self.notes),
            "selftests": list(self.selftests),
        }


@as_declared()
def preflight(entry: Entry, activations: Activations) -> Preflight:
    """Measure an SAE on a text and look for usual mistakes; changes nothing. Raises ModelError."""
    case = Case.of(entry, activations)
    if not case.fits:
        return Preflight({"hook_in": entry.hook_in, "hook_out": entry.hook_out}, (evidence.width(case),))
    broken = evidence.contract(case)
    try:
        alone = not any(evidence.DEPENDS in problem for problem in broken)  # else every trial depends on its batch
        tried = outcomes(case) if alone else []
        known = [evidence.broken_contract(problem) for problem in broken[:1]] + (evidence.known(case) if alone else [])
        found = findings(case, tried, known) if alone else known
        numbers = evidence.measured(case)
    except CoderFailure as failure:
        return Preflight({}, (Finding("fails", "likely", f"it fails: {failure}"),), (*broken, str(failure)))
    return Preflight(
        numbers,
        tuple(found),
        tuple(broken),
        tuple(tried),
        tuple(not_tried(case)),
        tuple(_notes(case, found)),
        tuple(_selftests(case)),
    )


def _selftests(case: Case) -> list[str]:
    """What the self-tests found at the hook points of the SAE, with the name of each."""
    hooks = dict.fromkeys((case.entry.hook_in, case.entry.hook_out))
    return [f"{hook}: {says}" for hook in hooks for says in selftests_of(case.activations.subject, hook)]


def _finite(value: Any) -> Any:
    """None for what JSON has no number for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _notes(case: Case, found: list[Finding]) -> list[str]:
    """What is worth knowing and no finding."""
    notes: list[str] = []
    text = case.activations.text
    read = [np.array(ids) for ids in case.activations.inputs(text.begins_with_bos)]
    notes += differences(case.info, Scored.of(read, text.mask, text.special, None, text.bos))
    promised, l0 = case.promised_l0, case.base.l0
    if promised and l0 > 0 and not 1 / evidence.L0_OFF < l0 / promised < evidence.L0_OFF and not found:
        notes.append(f"L0 is {l0:.1f}, but the files promise {promised:g}")
    if l0 > case.info.d_in:
        notes.append(f"L0 {l0:.1f} exceeds the {case.info.d_in} numbers that are explained: this is not sparse")
    return notes


def lines(report: Preflight) -> list[str]:
    """The report as lines of text: what was measured, then findings."""
    out = _measured(report.measured) if "fvu" in report.measured else []
    out += [_line("self-test", says) for says in report.selftests]
    out += [_line("note", note) for note in report.notes]
    for finding in report.findings:
        out.append(_line(finding.confidence, finding.says))
        out += [_line("", f"to settle: {finding.settle}")] if finding.settle else []
    if not report.findings:
        out.append(_line("findings", f"none: {len(report.tried)} usual mistakes tried, none explains the SAE better"))
    if report.not_tried:
        out.append(_line("not tried", f"{', '.join(report.not_tried)}: weights are not seen"))
    return out


def _measured(m: Mapping[str, Any]) -> list[str]:
    declared = f" (declared: {m['declared_l0']:g})" if m["declared_l0"] else ""
    hooks = m["hook_in"] if m["hook_in"] == m["hook_out"] else f"{m['hook_in']} -> {m['hook_out']}"
    bos = "with" if m["begins_with_bos"] else "without"
    few = f" (without {n} that hold the variance)" if (n := m["tokens_that_hold_the_variance"]) else ""
    variance, tokens = m["variance_share_of_position_0"], m["token_share_of_position_0"]
    return [
        _line("measured on", f"{m['tokens']} tokens of {m['documents']} documents{few}, {bos} BOS, at {hooks}"),
        _line("FVU", f"{m['fvu']:.4g}; {m['fvu_as_a_run_counts']:.4g} on the tokens that a run counts"),
        _line("L0", f"{m['l0']:.4g}{declared}"),
        _line("output factor", f"{m['slope']:.4g} would be best (1: calibrated)"),
        *_skip(m["skip_share"]),
        _line(
            "position 0",
            f"{m['norm_of_position_0_over_median']:.3g} times the median norm, {variance:.1%} of the variance in "
            f"{tokens:.1%} of the tokens",
        ),
    ]


def _skip(share: float | None) -> list[str]:
    if share is None:
        return []
    return [
        _line("skip connection", f"carries {share:.1%} of the variance of the reconstruction, the latents the rest")
    ]


def _line(name: str, value: str) -> str:
    return f"{name + ':' if name else '':<20} {value}"
