"""Figures of the task autointerp, as functions of its sums. See tasks/autointerp/README.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from sae_bench.parameters import Share, TaskParameters
from sae_bench.show.blocks import Block, Context, Contexts, pairs, table
from sae_bench.units.bootstrap import Metric, Ratio, Sums

SCORERS = ("detection", "fuzz", "intruder")


class Parameters(TaskParameters):
    """Parameters of the task."""

    latents: int = Field(200, ge=2, description="latents to explain, at most")
    null_latents: int = Field(40, ge=2, description="latents judged with another's explanation, and with none")
    most_density: Share = Field(0.5, description="latents that fire on more of the calibration tokens are left out")
    window_tokens: int = Field(32, ge=4, description="tokens of a window")
    shown: int = Field(20, ge=2, description="windows from which an explanation is made")
    contrast: int = Field(4, ge=0, description="silent windows beside them")
    positives: int = Field(10, ge=2, description="windows to judge in which the latent fires")
    random: int = Field(5, ge=0, description="silent windows to judge")
    matched: int = Field(5, ge=0, description="silent windows to judge that hold a token which the latent likes")
    windows_a_request: int = Field(10, ge=2, description="windows that are judged in one request")
    scorers: str = Field("detection", description="detection, and fuzz and intruder if wanted, separated by commas")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.random + self.matched < 1:
            raise ValueError("random and matched must not both be 0; without silent windows all fires")
        chosen = self.scorers.replace(" ", "").split(",")
        if "detection" not in chosen or not set(chosen) <= set(SCORERS):
            raise ValueError(f"scorers must be detection, and may be detection,fuzz,intruder too, not {self.scorers!r}")
        return self


_FIGURES = {
    "detection": "an answered window of both kinds",
    "auroc": "an answered window of both kinds",
    "brier": "an answered window",
    "detection_random": "an answered random silent window",
    "detection_matched": "an answered matched silent window",
    "precision_natural": "a window that the judge takes for a positive",
    "f1_natural": "answered windows in all strata of the text",
    "rule_lift": "an answered window of both kinds",
    "null_shuffled": "answers to another latent's explanation",
    "null_empty": "answers to an empty explanation",
    "fuzz": "a fuzz score (--param autointerp.scorers)",
    "intruder": "an intruder score (--param autointerp.scorers)",
}


def _mean(name: str) -> Metric:
    """The mean over the latents that have the figure."""
    return lambda s: Ratio(getattr(s, name), getattr(s, f"{name}_n"), f"the number of latents with {_FIGURES[name]}")


def worst(s: Sums) -> Ratio:
    """Detection with every failed latent at chance, 0, and unanswered windows of the others wrong."""
    return Ratio(s.worst, s.latents, "the number of latents")


def failed(s: Sums) -> Ratio:
    """Share of latents without a score."""
    return Ratio(s.latents - s.ok, s.latents, "the number of latents")


def metrics(parameters: Mapping[str, Any]) -> dict[str, Metric]:
    """All metrics by id."""
    return {
        "detection": _mean("detection"),
        "detection_worst": worst,
        "rule_lift": _mean("rule_lift"),
        "detection_auroc": _mean("auroc"),
        "detection_brier": _mean("brier"),
        "detection_random": _mean("detection_random"),
        "detection_matched": _mean("detection_matched"),
        "detection_precision_natural": _mean("precision_natural"),
        "detection_f1_natural": _mean("f1_natural"),
        "null_shuffled": _mean("null_shuffled"),
        "null_empty": _mean("null_empty"),
        "fuzz": _mean("fuzz"),
        "intruder": _mean("intruder"),
        "failed_fraction": failed,
    }


_PAIRS = {
    "statuses": "Outcomes",
    "judge": "Judge",
    "right_by_stratum": "Share of right answers, by stratum",
    "right_by_slot": "Share of right answers, by place in the prompt",
    "fires_by_slot": 'Share of answers "fires", by place in the prompt',
}
_SILENT = {10: "silent", 11: "silent, matched"}
_MARKS = re.compile(r"<<(.*?)>>(?:\((\d)\))?")


def blocks(details: Mapping[str, Any]) -> list[Block]:
    """What the judge wrote of each latent and how well it did; windows with its answers; how its answers came out."""
    made: list[Block] = [pairs(title, details[name]) for name, title in _PAIRS.items() if name in details]
    if "explanations" not in details:
        return made
    found = details["explanations"]
    rows = [[one["latent"], _said(one), *(one[name] for name in ("detection", "auroc", "rule_lift"))] for one in found]
    made.append(table("Explanations", ["latent", "explanation", "detection", "AUROC", "lift over rule"], rows))
    windows = tuple(_window(one, window) for one in found for window in one.get("windows", ()))
    title = "Windows: p, the judge's answer, and the tokens on which the latent fires"
    return [*made, *([Contexts(title=title, rows=windows)] if windows else [])]


def _said(one: Mapping[str, Any]) -> str:
    return str(one["explanation"]) if one["status"] == "ok" else f"{one['status']}: {one.get('raw') or ''}"


def _window(one: Mapping[str, Any], window: Mapping[str, Any]) -> Context:
    """A window of a latent, whose text has <<token>>(strength) where the latent fires."""
    text, tokens, strengths, end = str(window["text"]), [], [], 0
    for mark in _MARKS.finditer(text):
        tokens += [text[end : mark.start()], mark[1]]
        strengths += [0.0, int(mark[2] or 9) / 9]
        end = mark.end()
    tokens, strengths = [*tokens, text[end:]], [*strengths, 0.0]
    kept = [i for i, token in enumerate(tokens) if token or strengths[i]]
    p, stratum = window["p"], int(window["stratum"])
    return Context(
        group=f"latent {one['latent']}",
        caption=f"p {'-' if p is None else format(float(p), '.2f')}, {_SILENT.get(stratum, f'decile {stratum + 1}')}",
        tokens=tuple(tokens[i] for i in kept),
        strengths=tuple(strengths[i] for i in kept),
    )
