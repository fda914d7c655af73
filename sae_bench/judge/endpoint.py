"""What all judges of a process share: one event loop, and for each endpoint one pace and what it has said of itself."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from sae_bench.judge.abilities import Learned

T = TypeVar("T")

_CLEAN_CALLS = 20  # between two steps up


@dataclass(frozen=True)
class Patience:
    """How long a failing request is tried again.

    Attributes:
        attempts: tries that fail in a way that another may mend (a lost connection, status 500), at most.
        rate_limits: times that the endpoint is found busy, one after another without a reply, at most.
        base: seconds before the second try; each further wait is twice as long, less a random part.
        longest: seconds of such a wait at most.
        longest_asked: seconds that an endpoint may ask to wait; where it asks for more, that counts as a limit that is
            used up.
        in_a_row: requests that may fail in all their tries, one after another, before the run stops.
    """

    attempts: int = 6
    rate_limits: int = 20
    base: float = 0.5
    longest: float = 30.0
    longest_asked: float = 600.0
    in_a_row: int = 10

    def delay(self, tries: int, role: str) -> float:
        """Seconds to wait after so many failed tries; requests that failed together do not return together."""
        return min(self.longest, self.base * 2.0 ** min(tries - 1, 60)) * Random(f"{role} {tries}").uniform(0.5, 1.0)


class Signal:
    """Wakes everyone who waits, again and again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def wake(self) -> None:
        """Wake those who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Until the next ``wake``."""
        await self._event.wait()


class Limiter:
    """How many requests may be under way at one endpoint, from all judges of the process.

    Halved when the endpoint says that it is busy (once for all requests that were under way together), never below
    one; one more after every 20 completions, up to the most that a judge asked for.
    """

    def __init__(self) -> None:
        self.limit = 0
        self.busy = 0  # times it was halved since the last completion
        self._most = 0
        self._active = 0
        self._clean = 0
        self._generation = 0
        self._resume = 0.0
        self._changed = Signal()

    def admit(self, most: int) -> None:
        """Let ``most`` requests be under way; a limit that was halved stays so."""
        if most > self._most:
            self.limit = most if self.limit == self._most else self.limit
            self._most = most

    async def acquire(self) -> int:
        """Wait for a place, and for the end of a pause; returns the generation of the limit, for ``throttle``."""
        while True:
            pause = self._resume - asyncio.get_running_loop().time()
            if pause > 0:
                await asyncio.sleep(pause)
            elif self._active < self.limit:
                self._active += 1
                return self._generation
            else:
                await self._changed.wait()

    def release(self) -> None:
        """Give a place back."""
        self._active -= 1
        self._changed.wake()

    def throttle(self, generation: int, pause: float) -> None:
        """The endpoint is busy: no new request of anyone for ``pause`` seconds, and half as many at once."""
        self._resume = max(self._resume, asyncio.get_running_loop().time() + pause)
        if generation == self._generation:
            self._generation += 1
            self.busy += 1
            self._clean = 0
            self.limit = max(1, self.limit // 2)

    def succeeded(self) -> None:
        """A completion came."""
        self.busy = 0
        self._clean += 1
        if self._clean >= _CLEAN_CALLS:
            self._clean = 0
            self.limit = min(self._most, self.limit + 1)
            self._changed.wake()


class Endpoint:
    """What the process knows of one endpoint."""

    def __init__(self) -> None:
        self.limiter = Limiter()
        self.answered = False  # it has given a completion, so what it cannot do later is a passing fault
        self.flying: dict[str, asyncio.Future[None]] = {}
        self._learned: dict[str, Learned] = {}

    def learned(self, model: str) -> Learned:
        """What is known by now of one model behind it."""
        return self._learned.setdefault(model, Learned())


class _Shared:
    """The event loop of this process, in a thread of its own, and the endpoints."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.endpoints: dict[str, Endpoint] = {}
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="sae-bench judge", daemon=True).start()


_lock = threading.Lock()
_shared: _Shared | None = None


def shared() -> _Shared:
    """Made when first used; anew in a forked process, which has no such thread."""
    global _shared
    with _lock:
        if _shared is None or _shared.process != os.getpid():
            _shared = _Shared()
        return _shared


def endpoint(url: str) -> Endpoint:
    """The one ``Endpoint`` of this address in this process."""
    return shared().endpoints.setdefault(url, Endpoint())


def run(work: Coroutine[Any, Any, T]) -> T:
    """Wait for ``work``, done on the shared loop: also from code that runs on a loop itself, such as a notebook."""
    finished = threading.Event()

    async def watched() -> T:
        try:
            return await work
        finally:
            finished.set()

    future = asyncio.run_coroutine_threadsafe(watched(), shared().loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        finished.wait(10)
        raise
