"""One try: in its place among others, within the limits of the run, in the words that the endpoint takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from sae_bench.judge.abilities import Abilities, Learned
from sae_bench.judge.endpoint import Endpoint, Patience
from sae_bench.judge.ledger import Hold, Ledger
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.outcomes import Outcome
from sae_bench.judge.records import Completion, Request, body
from sae_bench.judge.transport import Sender

REFUSALS = frozenset({400, 404, 405, 413, 415, 422, 500, 501})  # by which endpoints say that they take no parameter


@dataclass(frozen=True)
class Kept:
    """A completion that came: in which format it was asked for, and after how many seconds."""

    completion: Completion
    format: str
    latency: float


Keep = Callable[[Kept], None]


class Exchange:
    """Tries of one judge at one endpoint. Lives on the shared loop."""

    def __init__(
        self, options: JudgeOptions, patience: Patience, ledger: Ledger, endpoint: Endpoint, transport: Sender
    ) -> None:
        self.options, self.patience, self.ledger = options, patience, ledger
        self.endpoint, self.transport = endpoint, transport
        self._fixed = frozenset(options.params)
        self._under_way: set[asyncio.Task[Outcome]] = set()

    @property
    def learned(self) -> Learned:
        """What is known by now of the model."""
        return self.endpoint.learned(self.options.model)

    def cancel(self) -> None:
        """Cut off what is under way."""
        for task in self._under_way:
            task.cancel()

    async def ended(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def attempt(self, key: str, request: Request, room: int, first: bool, keep: Keep) -> Outcome | Completion:
        """What one try came to, or the completion that says which limit forbids it; ``keep`` gets what came of it."""
        limiter = self.endpoint.limiter
        generation = await limiter.acquire()
        try:
            hold = await self.ledger.reserve(request, self.options.limit(request.max_tokens) + room)
        except asyncio.CancelledError:
            limiter.release()
            raise
        if isinstance(hold, str):
            limiter.release()
            return Completion("budget", reason=hold)
        if first:
            self.ledger.sent()
        task = asyncio.create_task(self._exchange(key, request, room, hold, generation, keep))
        self._under_way.add(task)
        task.add_done_callback(lambda ended: self._land(ended, hold))
        return await asyncio.shield(task)  # a stop elsewhere does not cut off what is being paid for

    def _land(self, task: asyncio.Task[Outcome], hold: Hold) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not print one that a stopped worker leaves behind
        self.ledger.settle(hold, None, billed=True)  # only where the exchange was cut off before it settled
        self.endpoint.limiter.release()

    async def _exchange(
        self, key: str, request: Request, room: int, hold: Hold, generation: int, keep: Keep
    ) -> Outcome:
        """Send, settle, keep; learn from what is refused or cut off."""
        clock = asyncio.get_running_loop().time
        abilities = self.learned.abilities
        sent = abilities.prepare(body(request, self.options), room)
        started = clock()
        outcome = await self.transport.send(sent)
        self.ledger.settle(hold, outcome.completion, outcome.billed)
        if outcome.completion is not None:
            self.endpoint.answered = True
            self.endpoint.limiter.succeeded()
            cut = outcome.completion.status == "truncated" and outcome.completion.finish_reason == "length"
            if cut and self.room_after(room) > room:
                return replace(outcome, kind="short")
            asked = abilities.format if "response_format" in sent else "none"
            self.ledger.received(outcome.completion, asked)
            keep(Kept(outcome.completion, asked, clock() - started))
            self.learned.room = max(self.learned.room, room if outcome.completion.status == "ok" else 0)
        elif outcome.kind == "rate_limit":
            return self._busy(key, outcome, generation)
        elif outcome.status in REFUSALS and outcome.words:
            return self._refused(outcome, abilities, sent, room)
        return outcome

    def room_after(self, room: int) -> int:
        """Tokens beside the reply for another try of what was cut off with ``room``."""
        if self.options.reply_tokens is not None:
            return 0  # the user has said how long replies may be
        return max(room, self.learned.abilities.most_room)

    def room_of(self, room: int) -> int:
        """``room``, as far as the context holds it."""
        return min(room, self.learned.abilities.most_room)

    def _busy(self, key: str, outcome: Outcome, generation: int) -> Outcome:
        limiter, longest = self.endpoint.limiter, self.patience.longest_asked
        if outcome.wait is not None and outcome.wait > longest:
            return replace(outcome, kind="quota", reason=f"it asks to wait {outcome.wait:.0f} s: {outcome.reason}")
        limiter.throttle(generation, outcome.wait or self.patience.delay(limiter.busy + 1, key))
        if limiter.busy >= self.patience.rate_limits:
            said = f"it was busy {limiter.busy} times, one after another: {outcome.reason}"
            return replace(outcome, kind="quota", reason=said)
        return outcome

    def _refused(self, outcome: Outcome, before: Abilities, sent: dict[str, object], room: int) -> Outcome:
        """The refusal, or that the next try is in other words."""
        if self.learned.abilities != before:
            return replace(outcome, kind="adapted")  # another request has found out already
        if outcome.status == 404 and not any(
            word in outcome.words for word in ("parameter", "support", "no endpoints")
        ):
            return outcome
        adapted = before.adapted(outcome.words, sent, self._fixed, grown=room > 0)
        if adapted is None or (self.learned.settled and not _sound(before, adapted, outcome)):
            return outcome
        self.learned.abilities = adapted
        return replace(outcome, kind="adapted")


def _sound(before: Abilities, after: Abilities, outcome: Outcome) -> bool:
    """Whether words that were taken before may be given up in the middle of a run.

    Only what depends on a single request, its schema and its length: a refusal of anything else repeats the words of a
    prompt. A server that fails refuses nothing.
    """
    return after.is_within(before) and (outcome.status < 500 or after.most_room != before.most_room)
