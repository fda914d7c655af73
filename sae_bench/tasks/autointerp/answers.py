"""What the judge, and the token rule, say of every scored window."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sae_bench.kernels import detection, rules
from sae_bench.kernels.detection import DECILES, MATCHED, RANDOM
from sae_bench.tasks.autointerp import prompts
from sae_bench.tasks.autointerp.asking import UNREADABLE, Outcome
from sae_bench.tasks.autointerp.windows import Case
from sae_bench.tasks.tracked import Tracked
from sae_bench.units import Units

Floats = NDArray[np.float64]
NULLS = ("shuffled", "empty")


class Answers:
    """What the judge said of every scored window: ``probability[case][window]``, NaN without an answer.

    ``failure`` has, for a case whose answers do not hold both a positive and a silent window, why and the raw reply.
    ``left_out`` is the share of windows that replies with other answers say nothing of; 0 without such replies.
    """

    def __init__(
        self, found: list[Case], asked: list[prompts.Question], outcomes: list[Outcome[dict[str, float]]]
    ) -> None:
        self.asked, self.outcomes = asked, outcomes
        self.probability = [np.full(len(case.scored), np.nan) for case in found]
        self.failure: dict[int, tuple[str, str]] = {}
        for question, outcome in zip(asked, outcomes, strict=True):
            for name, window in zip(question.ids, question.windows, strict=True):
                self.probability[question.case][window] = (outcome.value or {}).get(name, np.nan)
        read = [(q, outcome.value) for q, outcome in zip(asked, outcomes, strict=True) if outcome.value is not None]
        windows = sum(len(question.ids) for question, _ in read)
        given = sum(len(set(question.ids) & set(value)) for question, value in read)
        self.left_out = 1 - given / windows if windows else 0.0
        of_case: dict[int, list[Outcome[dict[str, float]]]] = {}
        for question, outcome in zip(asked, outcomes, strict=True):
            of_case.setdefault(question.case, []).append(outcome)
        for case, own in of_case.items():
            there = ~np.isnan(self.probability[case])
            fires = np.array([window.stratum < DECILES for window in found[case].scored])
            if not ((there & fires).any() and (there & ~fires).any()):
                bad = next((outcome for outcome in own if outcome.status != "ok"), own[0])
                self.failure[case] = (bad.status if bad.status != "ok" else UNREADABLE, bad.raw)

    def flat(self, found: list[Case]) -> tuple[list[int], list[int], list[float]]:
        """Case, stratum and probability of every window."""
        rows = [
            (i, window.stratum, float(p))
            for i, case in enumerate(found)
            for window, p in zip(case.scored, self.probability[i], strict=True)
        ]
        owners, strata, values = zip(*rows, strict=True)
        return list(owners), list(strata), list(values)

    def by_slot(self, found: list[Case]) -> dict[str, list[float | None]]:
        """Shares of right answers, and of answers "fires", by the place of a window in its request: a bias shows."""
        said: dict[int, list[tuple[bool, bool]]] = {}
        for question in self.asked:
            for slot, window in enumerate(question.windows):
                p = self.probability[question.case][window]
                if not np.isnan(p):
                    fires, answer = found[question.case].scored[window].stratum < DECILES, bool(p >= detection.FIRES)
                    said.setdefault(slot, []).append((answer == fires, answer))
        slots = range(max(said, default=-1) + 1)
        shares = [np.mean(said[slot], axis=0) if slot in said else (np.nan, np.nan) for slot in slots]
        names = ("right_by_slot", "fires_by_slot")
        return {name: [number(float(share[i])) for share in shares] for i, name in enumerate(names)}


def by_rule(watched: Tracked, found: list[Case]) -> list[Floats]:
    """What the token rule of each case says of its scored windows: 1 where it matches anywhere, else 0."""
    fit, test = watched.fit, watched.test
    fitted = rules.fit(fit.tokens, fit.previous, watched.fit_firings, len(watched.latents))
    slots = np.searchsorted(watched.latents, [case.latent for case in found])
    where = rules.matches([fitted[slot] for slot in slots], test.tokens, test.previous)
    bounds = np.searchsorted(where.rule, np.arange(len(found) + 1))
    answers = []
    for i, case in enumerate(found):
        places = where.position[bounds[i] : bounds[i + 1]]
        hits = [np.searchsorted(places, w.stop) > np.searchsorted(places, w.start) for w in case.scored]
        answers.append(np.array(hits, dtype=np.float64))
    return answers


def scores(
    found: list[Case], answers: Answers, nulls: Mapping[str, Answers], rule: list[Floats], kept: NDArray[np.bool_]
) -> dict[str, Floats]:
    """The figures of every latent from those of all scored windows that are ``kept``; NaN where there is none."""
    n, which = len(found), np.flatnonzero(kept)

    def of(owner: list[int], stratum: list[int], p: list[float]) -> dict[str, Floats]:
        return detection.columns([owner[i] for i in which], [stratum[i] for i in which], [p[i] for i in which], n)

    owners, strata, p = answers.flat(found)
    sums = of(owners, strata, p)
    of_rule = of(owners, strata, np.where(np.isnan(p), np.nan, np.concatenate(rule)).tolist())
    natural = sums | detection.natural(sums, np.stack([case.sizes for case in found]))
    figures = {
        "detection": detection.detection(sums),
        "auroc": detection.auroc(sums),
        "brier": detection.brier(sums),
        "detection_random": detection.detection(sums, negatives=[RANDOM]),
        "detection_matched": detection.detection(sums, negatives=[MATCHED]),
        "precision_natural": detection.natural_precision(natural),
        "f1_natural": detection.natural_f1(natural),
        "rule_lift": detection.balanced_accuracy(sums) - detection.balanced_accuracy(of_rule),
        "worst": detection.detection(sums, "wrong"),
    }
    for name in NULLS:
        without = np.full(n, np.nan)
        figures[f"null_{name}"] = detection.detection(of(*nulls[name].flat(found))) if name in nulls else without
    return figures


def window_table(found: list[Case], probability: list[Floats], rule: list[Floats]) -> Units:
    """Every scored window: where it is, its stratum, the judge's answer and the rule's (-1 for no answer)."""
    ids = tuple(f"{case.latent}:{window.start}" for case in found for window in case.scored)
    windows = [window for case in found for window in case.scored]
    columns = {
        "stratum": np.array([float(window.stratum) for window in windows]),
        "start": np.array([float(window.start) for window in windows]),
        "probability": np.nan_to_num(np.concatenate(probability), nan=-1.0),
        "rule": np.concatenate(rule),
    }
    return Units(ids, columns)


def number(value: float) -> float | None:
    """To four digits, for people; None for what is not a number."""
    return float(f"{value:.4g}") if np.isfinite(value) else None
