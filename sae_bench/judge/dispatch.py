"""Sending many requests: tried again where that helps, stored one by one, stopped where going on is pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

from sae_bench.judge.asked import Asked
from sae_bench.judge.cache import Cache, Row, Source
from sae_bench.judge.errors import KEPT, JudgeError, another, refused
from sae_bench.judge.exchange import Exchange, Kept
from sae_bench.judge.outcomes import Outcome
from sae_bench.judge.records import Completion, Request, canonical, described
from sae_bench.judge.served import NOBODY, Served
from sae_bench.judge.survey import KNOCKS, STEPS, exhausted, nobody

Arrived = Callable[[], None]


class Dispatcher:
    """Sends one list of requests and stores what comes back. Lives on the shared loop."""

    def __init__(self, exchange: Exchange, cache: Cache, asked: Asked, fresh: bool = False) -> None:
        self._exchange, self._cache, self._asked, self._fresh = exchange, cache, asked, fresh
        self._options, self._patience = exchange.options, exchange.patience
        self._ledger, self._endpoint = exchange.ledger, exchange.endpoint
        self._failed_in_a_row = 0
        self._other: Served | None = None  # who has answered in place of the judge

    async def send(self, wanted: dict[str, Request], arrived: Arrived) -> dict[str, Completion]:
        """The completions of ``wanted`` by key; calls ``arrived`` after each.

        Raises JudgeError where no other try would help. What is under way then is waited for and stored first.
        """
        self._endpoint.limiter.admit(self._options.concurrency)
        done: dict[str, Completion] = {}
        left = iter(wanted.items())
        workers = [
            asyncio.create_task(self._work(left, done, arrived))
            for _ in range(min(self._options.concurrency, len(wanted)))
        ]
        try:
            await asyncio.wait(workers, return_when=asyncio.FIRST_EXCEPTION)
        except asyncio.CancelledError:
            self._exchange.cancel()
            raise
        finally:
            for worker in workers:
                worker.cancel()
            ends = await asyncio.gather(*workers, return_exceptions=True)
            await self._exchange.ended()
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, asyncio.CancelledError):
                raise end
        return done

    async def _work(self, left: Iterator[tuple[str, Request]], done: dict[str, Completion], arrived: Arrived) -> None:
        for key, request in left:
            done[key] = await self._alone(key, request)
            arrived()

    async def _alone(self, key: str, request: Request) -> Completion:
        """Pursue a request, unless another call or process has stored its completion, or is at it in this process."""
        flying = self._endpoint.flying
        while (other := flying.get(key)) is not None:
            await asyncio.wait([other])
        if self._asked.served is None and (known := self._cache.last(self._options.endpoint, self._options.model)):
            self._asked.served = known.served.judge(self._asked.fingerprints)
        if found := self._asked.replayed(self._cache, [key], self._fresh):
            self._ledger.replayed(found.values())
            return found[key]
        flying[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._pursue(key, request)
        finally:
            flying.pop(key).set_result(None)

    async def _pursue(self, key: str, request: Request) -> Completion:
        """Try until a completion comes, patience ends or a limit of the run is reached."""
        failures = tries = steps = 0
        room = self._exchange.learned.room
        while True:
            outcome = await self._exchange.attempt(key, request, room, tries == 0, partial(self._keep, key, request))
            if isinstance(outcome, Completion):
                return outcome
            if self._other is not None:
                raise another(self._options, self._asked.served, self._other)
            tries += 1
            steps += outcome.kind in ("adapted", "short")
            if outcome.kind == "short":
                room = self._exchange.room_after(room)
                continue
            if outcome.completion is not None:
                self._failed_in_a_row = 0
                return outcome.completion
            if outcome.kind == "quota":
                self._ledger.exhausted = exhausted(self._exchange, outcome)
                return Completion("budget", reason=self._ledger.exhausted)
            if outcome.kind == "fatal" or steps > STEPS:
                raise refused(outcome, self._options, self._exchange.transport.has_key)
            room = self._exchange.room_of(room)
            if outcome.kind == "transient":
                failures += 1
                if failures >= self._most(outcome):
                    return self._give_up(outcome, tries)
                await asyncio.sleep(max(self._patience.delay(failures, key), outcome.wait or 0.0))

    def _keep(self, key: str, request: Request, kept: Kept) -> None:
        """Store a completion under whoever gave it; it counts only if that is the judge of this run."""
        served = Served.of(kept.completion)
        if served == NOBODY and kept.completion.status == "refused":  # a filter before the model names nobody
            if self._asked.served is None:
                return
            served = self._asked.served
        judge = served.judge(self._asked.fingerprints)
        self._asked.served = self._asked.served or judge
        digested = canonical(described(request, self._options))
        source: Source = "again" if self._fresh else "live"
        self._cache.store([Row(key, kept.completion, digested, kept.format, source, kept.latency, served=served)])
        if judge == self._asked.served:
            self._asked.mine.add(key)
        else:
            self._other = judge

    def _most(self, outcome: Outcome) -> int:
        """Tries after which such a failure is given up."""
        most = self._patience.attempts
        unheard = outcome.foreign and outcome.status == 0 and not self._endpoint.answered
        return min(KNOCKS, most) if unheard else most

    def _give_up(self, outcome: Outcome, tries: int) -> Completion:
        """A request has failed in all its tries. Raises JudgeError where the endpoint as a whole has."""
        self._failed_in_a_row += 1
        if outcome.foreign and not self._endpoint.answered:
            raise nobody(self._exchange, outcome)
        if self._failed_in_a_row >= self._patience.in_a_row:
            raise JudgeError(
                f"the endpoint {self._options.url} has failed {self._failed_in_a_row} requests in a row, {tries} tries "
                f"each ({outcome.reason}); run again later, or give more time with --judge-timeout: {KEPT}"
            )
        return Completion("transport_failed", reason=f"failed {tries} times, last: {outcome.reason}")
