"""Sending many requests: tried again where that helps, stored one by one, stopped where going on is pointless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace

from sae_bench.judge.cache import Cache, Row
from sae_bench.judge.endpoint import Endpoint, Patience
from sae_bench.judge.errors import KEPT, JudgeError, refused
from sae_bench.judge.ledger import Hold, Ledger
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.outcomes import Outcome
from sae_bench.judge.records import Completion, Request, body, canonical, described
from sae_bench.judge.transport import Transport

Arrived = Callable[[], None]

_KNOCKS = 3  # tries at an address where nothing listens and nothing ever answered


class Dispatcher:
    """Sends one list of requests and stores what comes back. Lives on the shared loop."""

    def __init__(
        self,
        options: JudgeOptions,
        patience: Patience,
        cache: Cache,
        ledger: Ledger,
        endpoint: Endpoint,
        transport: Transport,
    ) -> None:
        self._options = options
        self._patience = patience
        self._cache = cache
        self._ledger = ledger
        self._endpoint = endpoint
        self._transport = transport
        self._under_way: set[asyncio.Task[Outcome]] = set()
        self._failed_in_a_row = 0

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
            for task in self._under_way:
                task.cancel()
            raise
        finally:
            for worker in workers:
                worker.cancel()
            ends = await asyncio.gather(*workers, return_exceptions=True)
            await asyncio.gather(*self._under_way, return_exceptions=True)
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
        if found := self._cache.read([key]):
            self._ledger.replayed(found.values())
            return found[key]
        flying[key] = asyncio.get_running_loop().create_future()
        try:
            return await self._pursue(key, request)
        finally:
            flying.pop(key).set_result(None)

    async def _pursue(self, key: str, request: Request) -> Completion:
        """Try until a completion comes, patience ends or a limit of the run is reached."""
        failures = busy = tries = 0
        while True:
            outcome = await self._try(key, request, first=tries == 0)
            if isinstance(outcome, Completion):
                return outcome
            tries += 1
            if outcome.completion is not None:
                self._failed_in_a_row = 0
                return outcome.completion
            self._refuse(outcome)
            if outcome.kind == "rate_limit":
                busy += 1
            elif outcome.kind == "transient":
                failures += 1
            nobody = outcome.foreign and outcome.status == 0 and not self._endpoint.answered
            most = min(_KNOCKS, self._patience.attempts) if nobody else self._patience.attempts
            if failures >= most or busy >= self._patience.rate_limits:
                return self._give_up(outcome, tries)
            if outcome.kind == "transient":
                await asyncio.sleep(max(self._patience.delay(failures, key), outcome.wait or 0.0))

    async def _try(self, key: str, request: Request, first: bool) -> Outcome | Completion:
        """One try in its place among the others, or the completion that says which limit forbids it."""
        limiter = self._endpoint.limiter
        generation = await limiter.acquire()
        try:
            hold = await self._ledger.reserve(request)
        except asyncio.CancelledError:
            limiter.release()
            raise
        if isinstance(hold, str):
            limiter.release()
            return Completion("budget", reason=hold)
        if first:
            self._ledger.sent()
        task = asyncio.create_task(self._exchange(key, request, hold, generation))
        self._under_way.add(task)
        task.add_done_callback(lambda ended: self._land(ended, hold))
        return await asyncio.shield(task)  # a stop elsewhere does not cut off what is being paid for

    def _land(self, task: asyncio.Task[Outcome], hold: Hold) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, so that asyncio does not print one that a stopped worker leaves behind
        self._ledger.settle(hold, None, billed=True)  # only where the exchange was cut off before it settled
        self._endpoint.limiter.release()

    async def _exchange(self, key: str, request: Request, hold: Hold, generation: int) -> Outcome:
        """Send, settle, store."""
        clock = asyncio.get_running_loop().time
        sent, chosen = self._endpoint.prepare(self._options.model, body(request, self._options))
        started = clock()
        outcome = await self._transport.send(sent)
        self._ledger.settle(hold, outcome.completion, outcome.billed)
        if outcome.completion is not None:
            digested = canonical(described(request, self._options))
            self._cache.store([Row(key, outcome.completion, digested, chosen, "live", clock() - started)])
            self._ledger.received(outcome.completion, chosen)
            self._endpoint.answered = True
            self._endpoint.limiter.succeeded()
        elif outcome.kind == "rate_limit":
            limiter = self._endpoint.limiter
            pause = outcome.wait or self._patience.delay(limiter.busy + 1, key)
            limiter.throttle(generation, pause if pause <= self._patience.longest_asked else 0.0)
        elif outcome.kind == "format" and not self._endpoint.refuse_format(self._options.model, chosen):
            return replace(outcome, kind="fatal")
        elif outcome.kind == "long_name":
            if "max_completion_tokens" in sent:
                return replace(outcome, kind="fatal")
            self._endpoint.want_long_name(self._options.model)
        return outcome

    def _refuse(self, outcome: Outcome) -> None:
        """Raise JudgeError where no other try would help."""
        if outcome.kind == "fatal":
            raise refused(outcome, self._options, self._transport.has_key)
        if outcome.wait is not None and outcome.wait > self._patience.longest_asked:
            raise JudgeError(
                f"the endpoint {self._options.url} asks to wait {outcome.wait:.0f} s ({outcome.reason}); "
                f"run again after that: {KEPT}"
            )

    def _give_up(self, outcome: Outcome, tries: int) -> Completion:
        """A request has failed in all its tries. Raises JudgeError where the endpoint as a whole has."""
        url = self._options.url
        self._failed_in_a_row += 1
        if outcome.foreign and not self._endpoint.answered:
            if outcome.cure is not None:
                raise refused(outcome, self._options, self._transport.has_key)
            raise JudgeError(
                f"no endpoint of the chat-completions protocol answers at {url} ({outcome.reason}); "
                "give the address before /chat/completions, and start the server if it is yours"
            )
        if self._failed_in_a_row >= self._patience.in_a_row:
            raise JudgeError(
                f"the endpoint {url} has failed {self._failed_in_a_row} requests in a row, {tries} tries each "
                f"({outcome.reason}); run again later: {KEPT}"
            )
        return Completion("transport_failed", reason=f"failed {tries} times, last: {outcome.reason}")
