"""What a run has spent, and what it may still spend."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sae_bench.judge.endpoint import Signal
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.records import Completion, Request, Usage, most_tokens_in


@dataclass(eq=False)
class Hold:
    """The most that a try can cost, kept aside while it is under way."""

    tokens_in: int
    tokens_out: int
    settled: bool = False


class Ledger:
    """Totals of one judge and its limits. Used on the shared loop only, apart from ``usage``.

    A limit is never passed: before a try, the most that it can cost is kept aside. A try that may have been billed but
    gave no count is taken at that most.
    """

    def __init__(self, options: JudgeOptions) -> None:
        self._options = options
        self._spent_in = 0
        self._spent_out = 0
        self._held: set[Hold] = set()
        self._changed = Signal()
        counted = ("requests", "attempts", "unreported", "cached", "cached_tokens")
        self._totals = dict.fromkeys((*counted, "prompt_tokens", "completion_tokens", "reasoning_tokens"), 0)
        self.divide(1)
        self.exhausted: str | None = None  # why the endpoint gives nothing more in this run
        self._names: dict[str, set[str]] = {"models": set(), "fingerprints": set(), "formats": set()}

    def divide(self, into: int) -> None:
        """Cut what the limits leave now into so many portions, for :meth:`turn`."""
        options, spent = self._options, self._spent_in + self._spent_out
        cost = options.cost(self._spent_in, self._spent_out) or 0.0
        limits = {"max_requests": options.max_requests, "max_tokens": options.max_tokens, "max_cost": options.max_cost}
        before = {"max_requests": self._totals["attempts"], "max_tokens": spent, "max_cost": cost}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._portions = {name: (limit - before[name]) / into for name, limit in self._limits.items()}
        self._bounds = dict(self._limits)

    def turn(self) -> None:
        """Let what is asked from now on spend one portion, at least one request, and never more than the limits."""
        spent = self._spent_in + self._spent_out
        cost = self._options.cost(self._spent_in, self._spent_out) or 0.0
        now = {"max_requests": self._totals["attempts"], "max_tokens": spent, "max_cost": cost}
        portions = {
            name: max(1.0, part // 1) if name == "max_requests" else part for name, part in self._portions.items()
        }
        self._bounds = {name: min(limit, now[name] + portions[name]) for name, limit in self._limits.items()}

    async def reserve(self, request: Request, tokens_out: int) -> Hold | str:
        """Keep the most that a try can cost aside; waits while what is under way may leave enough.

        Returns the limit that forbids the try, in words, where nothing under way can change that.
        """
        hold = Hold(most_tokens_in(request), tokens_out)
        if self.exhausted is not None:
            return self.exhausted
        while (limit := self._passed(hold)) is not None:
            if not self._held or limit == "max_requests":
                flag = "--" + limit.replace("_", "-")
                return f"{flag} {getattr(self._options, limit)} of this run is used up"
            await self._changed.wait()
        self._held.add(hold)
        self._totals["attempts"] += 1
        return hold

    def _passed(self, hold: Hold) -> str | None:
        """The limit that this try might pass."""
        most = self._bounds
        if "max_requests" in most and self._totals["attempts"] >= most["max_requests"]:
            return "max_requests"
        tokens_in = self._spent_in + sum(held.tokens_in for held in self._held) + hold.tokens_in
        tokens_out = self._spent_out + sum(held.tokens_out for held in self._held) + hold.tokens_out
        if "max_tokens" in most and tokens_in + tokens_out > most["max_tokens"]:
            return "max_tokens"
        if "max_cost" in most and (self._options.cost(tokens_in, tokens_out) or 0.0) > most["max_cost"]:
            return "max_cost"
        return None

    def settle(self, hold: Hold, completion: Completion | None, billed: bool) -> None:
        """A try has ended: with a completion, or without one and perhaps ``billed``. A second call does nothing."""
        if hold.settled:
            return
        hold.settled = True
        self._held.discard(hold)
        tokens_in = completion.prompt_tokens if completion is not None else None
        tokens_out = completion.completion_tokens if completion is not None else None
        if completion is not None or billed:
            self._totals["unreported"] += tokens_in is None or tokens_out is None
            self._totals["prompt_tokens"] += tokens_in or 0
            self._totals["completion_tokens"] += tokens_out or 0
            self._totals["reasoning_tokens"] += (completion.reasoning_tokens or 0) if completion is not None else 0
            self._spent_in += hold.tokens_in if tokens_in is None else tokens_in
            self._spent_out += hold.tokens_out if tokens_out is None else tokens_out
        self._changed.wake()

    def sent(self) -> None:
        """One more distinct request is being sent."""
        self._totals["requests"] += 1

    def received(self, completion: Completion, chosen: str) -> None:
        """A completion came over the connection, with ``chosen`` as its response format."""
        self._names["formats"].add(chosen)
        self._name(completion)

    def replayed(self, completions: Iterable[Completion]) -> None:
        """The cache answered."""
        for completion in completions:
            self._totals["cached"] += 1
            self._totals["cached_tokens"] += (completion.prompt_tokens or 0) + (completion.completion_tokens or 0)
            self._name(completion)

    def _name(self, completion: Completion) -> None:
        for what, name in (("models", completion.model), ("fingerprints", completion.fingerprint)):
            if name is not None:
                self._names[what].add(name)

    def usage(self) -> Usage:
        """The totals now."""
        names = {name: tuple(sorted(values)) for name, values in self._names.items()}
        cost = self._options.cost(self._totals["prompt_tokens"], self._totals["completion_tokens"])
        return Usage(
            **self._totals,
            cost=cost,
            models=names["models"],
            fingerprints=names["fingerprints"],
            formats=names["formats"],
        )
