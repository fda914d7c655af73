"""Autointerp: can a language model say, from an explanation alone, where a latent fires?

A judge writes an explanation from windows of the fit documents, and then says of windows of other documents how likely
the latent fires in them: positives of every decile of activation, silent ones, and silent ones with a token that the
latent likes. The answers are set against chance, against a list of tokens (the token rule of the same latent), and
against answers with another latent's explanation, or none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_bench.errors import Deferred, TaskError
from sae_bench.judge import Ratings, read_answers, read_explanation
from sae_bench.judge.words import short
from sae_bench.kernels import detection, rules
from sae_bench.kernels.detection import DECILES
from sae_bench.metrics import autointerp
from sae_bench.schema import TaskSpec
from sae_bench.tasks.autointerp import optional, prompts
from sae_bench.tasks.autointerp.answers import NULLS, Answers, by_rule, number, scores, window_table
from sae_bench.tasks.autointerp.asking import NOT_ASKED, UNREADABLE, Asker, Exporter, Outcome, Reader
from sae_bench.tasks.autointerp.scale import Scale, decided, distrusted, never_likely, ratings
from sae_bench.tasks.autointerp.windows import Case, Sizes, cases
from sae_bench.tasks.judged import JudgedTask
from sae_bench.tasks.tracked import Tracked, TrackedTask
from sae_bench.units import Units, latents
from sae_bench.units.folds import FOLDS

Floats = NDArray[np.float64]
Said = tuple[list[prompts.Question], list[Outcome[Ratings]]]  # what was asked, and what came of each
DEGRADED = 0.05  # share of failed latents above which a result says so
PROMPT, EXPLANATION, ANSWER = 200, 60, 12  # tokens of instructions, of an explanation, of one answer, roughly
UNSCORED = 0.5  # share of the judged latents without a score above which the status says so
AT_ONCE = 8  # latents that are asked about together where money may run out
SHOWN = 20  # latents whose windows a result holds; explanations are there for all
_LIVE = "the same command without --judge-batch and --judge-cache-only asks again"

SCORERS = autointerp.SCORERS


class Autointerp(JudgedTask, TrackedTask):
    """Latent table: a row a latent, with its figures and, for each (``_n``), whether it has one."""

    def __init__(self, spec: TaskSpec) -> None:
        super().__init__(spec)
        p = autointerp.Parameters.of(spec.id, spec.parameters)
        self.latents, self.null_latents, self.most_density = p.latents, p.null_latents, p.most_density
        self.each = p.windows_a_request
        self.sizes = Sizes(p.window_tokens, p.shown, p.contrast, p.positives, p.random, p.matched)
        self.scorers = p.scorers.replace(" ", "").split(",")

    def at_most(self) -> tuple[int, int, int]:
        """Requests for one coder, and roughly the tokens in and out of all of them; second tries not counted."""
        windows = self.sizes.positives + self.sizes.random + self.sizes.matched
        groups = -(-windows // self.each)
        scoring = groups * (self.latents + len(NULLS) * min(self.null_latents, self.latents))
        shown = (self.sizes.shown + self.sizes.contrast) * self.sizes.length
        tokens_in = self.latents * (PROMPT + 2 * shown) + scoring * (PROMPT + 2 * windows * self.sizes.length // groups)
        tokens_out = self.latents * EXPLANATION + scoring * ANSWER * self.each
        extra = {"fuzz": 1, "intruder": min(self.sizes.positives // 4, self.sizes.random)}
        more = sum(n * self.latents for name, n in extra.items() if name in self.scorers)
        tokens_in += more * (PROMPT + 2 * self.sizes.positives * self.sizes.length)
        return self.latents + scoring + more, tokens_in, tokens_out + more * ANSWER * self.each

    def cautions(self, tables: Mapping[str, Units], n_latents: int) -> list[str]:
        """Also that many explained latents have no score, or that no answer is high."""
        scored = tables["latent"].columns["ok"]
        said = [low] if "window" in tables and (low := never_likely(tables["window"])) else []
        if scored.mean() < 1 - DEGRADED:
            lost = f"{int(scored.sum())} of {len(scored)} latents have a score, and means are over these alone"
            said.append(f"{lost}; failed_fraction and detection_worst count the others")
        return [*super().cautions(tables, n_latents), *said]

    def degraded(self, details: Mapping[str, Any]) -> str | None:
        """That the answers are unclear or leave much out, or that most latents which were judged have no score.

        The latter with the first reply that gave none.
        """
        if (doubt := distrusted(details)) is not None:
            return doubt
        statuses = {name: n for name, n in details.get("statuses", {}).items() if name not in NOT_ASKED}
        judged = sum(statuses.values())
        lost = judged - statuses.get("ok", 0)
        if lost <= UNSCORED * judged:
            return None
        names = ", ".join(f"{name} {n}" for name, n in statuses.items() if name != "ok")
        bad = (one for one in details["explanations"] if one["status"] not in ("ok", *NOT_ASKED))
        said = short(next(bad)["raw"]) or "nothing"
        return f"{lost} of {judged} judged latents have no score ({names}); the first reply of them: {said}"

    def explain(self, watched: Tracked, seed: int) -> tuple[dict[str, Units], dict[str, Any]]:
        """Explanations, answers and scores of one coder. Raises JudgeError."""
        assert self.judge is not None, "a run without a judge skips this task"
        found = cases(watched, self.sizes, seed)
        if len(found) < 2:
            return {"latent": Units((), {}), "window": Units((), {})}, {}
        asker = Asker(self.judge, self.progress)
        texts, own_said = self._judged(asker, found, seed)
        own = _explained(texts)
        null_said = self._nulls(asker, found, own, seed)
        fuzzed, odd = self._optional(asker, found, own, seed)
        if asker.waiting and isinstance(self.judge, Exporter):
            raise Deferred("its requests were written for a batch; import the answers and run again")
        beside = [outcome for _, outcomes in (*null_said.values(), fuzzed) for outcome in outcomes]
        scale = decided(ratings(own_said[1]), ratings(beside), self.evidence)
        answers = Answers(found, own_said[0], scale.read(own_said[1]))
        nulls = {name: Answers(found, asked, scale.read(outcomes)) for name, (asked, outcomes) in null_said.items()}
        more = {"fuzz": optional.fuzz_scores(fuzzed[0], scale.read(fuzzed[1]), len(found)), "intruder": odd}
        rule = by_rule(watched, found)
        ok = np.array([_status(text, answers.failure.get(i)) == "ok" for i, text in enumerate(texts)])
        columns = _columns(watched, found, ok, partial(scores, found, answers, nulls, rule), more)
        names = tuple(str(case.latent) for case in found)
        windows = window_table(found, answers.probability, rule)
        details = self._report(asker, found, texts, answers, columns, scale)
        if not details["explained"] and asker.limit is None and not set(NOT_ASKED) & set(details["statuses"]):
            again = "the same command asks again" if self.judge.may_ask else _LIVE
            raise TaskError(f"{self.degraded(details)}; {again}")
        return {"latent": Units(names, columns), "window": windows}, details

    def _judged(self, asker: Asker, found: list[Case], seed: int) -> tuple[list[Outcome[str]], Said]:
        """Explanations and what is answered with them; a few latents at a time where the judge may run out of money.

        Then what there is buys latents with a score, not explanations alone.
        """
        each = AT_ONCE if self.rationed else len(found)
        asked = prompts.questions(found, self.each, seed, "detection")
        texts: list[Outcome[str]] = []
        answered: list[prompts.Question] = []
        outcomes: list[Outcome[Ratings]] = []
        for start in range(0, len(found), each):
            requests = [prompts.explain(case, self.text_of) for case in found[start : start + each]]
            texts += asker.ask(requests, [read_explanation] * len(requests), "explanations")
            own = _explained(texts)
            part = [q for q in asked if start <= q.case < start + each and q.case in own]
            answered += part
            outcomes += self._ask(asker, found, part, own, "detection")
        return texts, (answered, outcomes)

    def _nulls(self, asker: Asker, found: list[Case], own: Mapping[int, str], seed: int) -> dict[str, Said]:
        """Answers to another latent's explanation and to none, on the first latents by a random order."""
        order = np.random.default_rng(seed).permutation(sorted(own))[: self.null_latents].tolist()
        if len(order) < 2:
            return {}
        others = rules.derangement(len(order), seed)
        given = {
            "shuffled": {i: own[order[other]] for i, other in zip(order, others.tolist(), strict=True)},
            "empty": dict.fromkeys(order, ""),
        }
        return {name: self._answers(asker, found, given[name], seed, f"null {name}") for name in NULLS}

    def _optional(
        self, asker: Asker, found: list[Case], own: Mapping[int, str], seed: int
    ) -> tuple[tuple[list[optional.Marked], list[Outcome[Ratings]]], Floats]:
        """What was asked for fuzz with what came of it, and the scores of intruder, NaN for latents without one."""
        marked: list[optional.Marked] = []
        fuzzed: list[Outcome[Ratings]] = []
        scores = np.full(len(found), np.nan)
        if "fuzz" in self.scorers:
            marked = [m for m in optional.fuzz(found, seed, self.text_of) if m.case in own and m.ids]
            requests = [optional.ask_fuzz(m, own[m.case]) for m in marked]
            fuzzed = asker.ask(requests, [partial(read_answers, ids=m.ids) for m in marked], "fuzz")
        if "intruder" in self.scorers:
            trials = optional.intruder(found, seed, self.text_of)
            odd: list[Reader[str]] = [partial(optional.read_odd, ids=t.ids) for t in trials]
            replies = asker.ask([optional.ask_intruder(t) for t in trials], odd, "intruder")
            scores = optional.intruder_scores(trials, [r.value for r in replies], len(found))
        return (marked, fuzzed), scores

    def _answers(self, asker: Asker, found: list[Case], explanations: Mapping[int, str], seed: int, role: str) -> Said:
        """What the judge says of the scored windows of the cases that have an explanation."""
        asked = [q for q in prompts.questions(found, self.each, seed, role) if q.case in explanations]
        return asked, self._ask(asker, found, asked, explanations, role)

    def _ask(
        self,
        asker: Asker,
        found: list[Case],
        asked: Sequence[prompts.Question],
        explanations: Mapping[int, str],
        role: str,
    ) -> list[Outcome[Ratings]]:
        requests = [prompts.detect(q, found[q.case], explanations[q.case], self.text_of) for q in asked]
        return asker.ask(requests, [partial(read_answers, ids=q.ids) for q in asked], role)

    def _report(
        self,
        asker: Asker,
        found: list[Case],
        texts: list[Outcome[str]],
        answers: Answers,
        columns: Mapping[str, Floats],
        scale: Scale,
    ) -> dict[str, Any]:
        status = [_status(text, answers.failure.get(i)) for i, text in enumerate(texts)]
        lost = 1 - status.count("ok") / len(status)
        sums = detection.columns(*answers.flat(found), len(found))
        strata = detection.by_stratum({name: column.sum(0) for name, column in sums.items()})
        names = [*(f"decile {i + 1}" for i in range(DECILES)), "silent", "silent, matched"]
        report: dict[str, Any] = {
            "latents": len(found),
            "latents asked for": self.latents,
            "explained": status.count("ok"),
            "statuses": dict(sorted(Counter(status).items())),
            "right_by_stratum": {n: number(v) for n, v in zip(names, strata.tolist(), strict=True)},
            **answers.by_slot(found),
            "judge": asker.served() | {"scale": scale.words},
            "explanations": [
                self._explained(i, case, texts[i], status[i], answers, columns) for i, case in enumerate(found)
            ],
        }
        if asker.failed:
            report["unanswered"] = asker.failed
        if asker.waiting:
            report["incomplete"] = f"{asker.waiting} requests wait for an answer; the same command goes on"
        if asker.limit is not None:
            report["budget"] = asker.limit
        if lost > DEGRADED:
            report["degraded"] = f"{100 * lost:.0f} % of the latents have no score; see the statuses"
        if answers.left_out:
            report["left_out"] = number(answers.left_out)
        if (doubt := distrusted(report)) is not None:
            report["degraded"] = doubt
        return report

    def _explained(
        self, i: int, case: Case, text: Outcome[str], status: str, answers: Answers, columns: Mapping[str, Floats]
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"latent": case.latent, "status": status, "explanation": text.value}
        for name in ("detection", "auroc", "rule_lift"):
            entry[name] = number(columns[name][i]) if columns[f"{name}_n"][i] else None
        if status != "ok":
            entry["raw"] = answers.failure[i][1] if i in answers.failure else text.raw
        if i < SHOWN:
            strongest = max(float(window.activations.max()) for window in case.scored)
            entry["windows"] = [
                {
                    "stratum": window.stratum,
                    "text": prompts.marked(window, strongest, self.text_of),
                    "p": number(answers.probability[i][k]),
                }
                for k, window in enumerate(case.scored)
            ]
        return entry


def _explained(texts: Sequence[Outcome[str]]) -> dict[int, str]:
    """The explanations that there are, by case."""
    return {i: outcome.value for i, outcome in enumerate(texts) if outcome.value is not None}


def _columns(
    watched: Tracked,
    found: list[Case],
    ok: NDArray[np.bool_],
    scored: Callable[[NDArray[np.bool_]], dict[str, Floats]],
    more: Mapping[str, Floats],
) -> dict[str, Floats]:
    """The latent table: figures with zeros where there is none, and ``_n`` saying where there is one.

    Beside each stands by how much it hangs on each fold of the scored documents: what it loses without their windows.
    """
    n, text = len(found), watched.test
    fold = np.array([text.fold[window.start] for case in found for window in case.scored])
    whole = scored(np.ones(len(fold), dtype=bool))
    hangs = {name: np.zeros((n, FOLDS)) for name in whole}
    for one in np.unique(fold).tolist():
        for name, values in scored(fold != one).items():
            hangs[name][:, one] = np.nan_to_num(whole[name] - values)
    columns = {"latents": np.ones(n), "ok": ok.astype(np.float64)}
    columns["worst"] = np.where(ok, np.nan_to_num(whole.pop("worst")), 0.0)
    columns[latents.by_fold("worst", "test")] = np.where(ok[:, None], hangs.pop("worst"), 0.0)
    for name, values in {**whole, **more}.items():
        has = np.isfinite(values) & (ok | name.startswith("null_"))
        columns |= {name: np.where(has, values, 0.0), f"{name}_n": has.astype(np.float64)}
        if name in hangs:
            columns[latents.by_fold(name, "test")] = np.where(has[:, None], hangs[name], 0.0)
    columns |= text.columns("test", n)
    return columns


def _status(text: Outcome[str], failure: tuple[str, str] | None) -> str:
    """ok, explain_failed, parse_failed, refused, truncated, transport_failed, budget or missing (from the cache)."""
    if text.status != "ok":
        return "explain_failed" if text.status == UNREADABLE else text.status
    if failure is None:
        return "ok"
    return "parse_failed" if failure[0] == UNREADABLE else failure[0]
