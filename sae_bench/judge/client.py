"""The judge: requests in, completions out, nothing paid for twice."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from sae_bench.errors import UsageError
from sae_bench.judge import batch, survey
from sae_bench.judge.abilities import Abilities
from sae_bench.judge.asked import Asked
from sae_bench.judge.cache import Cache, Known
from sae_bench.judge.dispatch import Dispatcher
from sae_bench.judge.endpoint import Patience, endpoint, run
from sae_bench.judge.exchange import Exchange
from sae_bench.judge.here import sender
from sae_bench.judge.ledger import Ledger
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.records import Completion, Forecast, Request, Usage, guessed_tokens_in, key
from sae_bench.judge.secrets import Scrubber
from sae_bench.judge.served import Served
from sae_bench.judge.transport import Sender

Progress = Callable[[int, int], None]
_TEMPLATE = 4  # tokens that a chat template adds to a message, about


class Judge:
    """A language model behind an endpoint, with a cache of its completions.

    ::

        with Judge(JudgeOptions(model="...")) as judge:
            completions = judge.complete(requests)

    The connection is opened when the first request is sent, so what the cache holds needs neither network nor key.
    Opening raises JudgeError for a cache that cannot be used.
    """

    def __init__(self, options: JudgeOptions, patience: Patience | None = None, *, by_hand: bool = False) -> None:
        """``by_hand``: what the cache does not have is carried to the endpoint by a batch, and not by this judge."""
        self._options = options
        self._patience = patience or Patience()
        self._scrub = Scrubber(*options.secrets)
        self._ledger = Ledger(options)
        self._asked = Asked(options.fingerprints, all_of_it=options.cache_only and not by_hand, batch=by_hand)
        self._known: Known | None = None
        self._cache: Cache | None = None
        self._transport: Sender | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._cache = Cache(self._options.cache, self._options.cache_only, self._scrub)
        self._remember(self._cache)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        transport, self._transport = self._transport, None
        cache, self._cache = self._cache, None
        try:
            if transport is not None:
                run(transport.close())
        finally:
            if cache is not None:
                cache.close()

    def __repr__(self) -> str:
        return f"Judge({self._options.model!r} at {self._options.url})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a judge holds open connections and cannot be pickled; pickle its JudgeOptions")

    @property
    def options(self) -> JudgeOptions:
        """What the judge was made with."""
        return self._options

    @property
    def usage(self) -> Usage:
        """Totals since the judge was made."""
        return self._ledger.usage()

    @property
    def may_ask(self) -> bool:
        """Whether a request may be sent at all."""
        return not self._options.cache_only

    @property
    def limited(self) -> bool:
        """Whether a limit may forbid a request."""
        limits = (self._options.max_requests, self._options.max_tokens, self._options.max_cost)
        return not self._options.cache_only and limits != (None, None, None)

    def divide(self, into: int) -> None:
        """Cut what the limits leave now into so many portions, for :meth:`turn`; nothing may be under way."""
        self._ledger.divide(into)

    def turn(self) -> None:
        """Let what is asked from now on spend one portion, until the next turn or division."""
        self._ledger.turn()

    @property
    def known(self) -> Known | None:
        """Who judges and what the endpoint takes, as the first question or the cache says; None if neither does."""
        return self._known

    def judges(self) -> list[tuple[str, str, Known]]:
        """Of every judge that the cache knows its endpoint, the model that was asked for, and who answered."""
        return self._opened().judges()

    def meet(self, request: Request) -> Completion:
        """Ask the first question of a run: who answers now, and in which words the endpoint takes a request.

        It is always sent, unless only the cache may answer, and its reply is no answer to anything else: status
        "missing" or "budget" where it was not sent. From then on the cache answers for this judge alone.

        Raises JudgeError where the endpoint gives no reply in any words, UsageError where there is no key.
        """
        cache = self._opened()
        if self._options.cache_only:
            return Completion("missing", reason="only the cache may answer")
        first = run(survey.ask(self._exchange(), request))
        if first.completion.status == "budget":
            return first.completion
        known = Known(Served.of(first.completion), asdict(first.abilities), first.completion.text)
        cache.note(self._options.endpoint, self._options.model, known)
        self._know(known)
        return first.completion

    def _remember(self, cache: Cache) -> None:
        """Take who answered last for the judge, until somebody answers."""
        if self._asked.served is None and (known := cache.last(self._options.endpoint, self._options.model)):
            self._know(known)

    def _know(self, known: Known) -> None:
        judge = known.served.judge(self._options.fingerprints)
        self._known, self._asked.served = replace(known, served=judge), judge

    def complete(
        self, requests: Iterable[Request], progress: Progress | None = None, fresh: bool = False
    ) -> list[Completion]:
        """One completion a request, in their order; equal requests are sent once.

        What the cache answers is what this judge has said completely; what failed is asked again, once in a run.

        Args:
            requests: what to ask.
            progress: called with how many distinct requests are answered and how many there are; after the first call
                from the thread of the judge.
            fresh: ask also where there is a complete reply of an earlier run: it could not be read.

        Raises:
            JudgeError: the endpoint refuses for a reason that no retry mends, another judge answers, or the cache
                cannot be written. What was paid for is in the cache.
            UsageError: there is no key, or the judge is not open.
        """
        keys, distinct = self._distinct(requests)
        cache = self._opened()
        fresh = fresh and not self._options.cache_only
        found = self._asked.replayed(cache, distinct, fresh)
        self._ledger.replayed(found.values())
        wanted = {name: request for name, request in distinct.items() if name not in found}
        done = len(found)

        def arrived() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, len(distinct))

        if progress is not None:
            progress(done, len(distinct))
        if self._options.cache_only:
            of = "" if self._asked.served is None else f" by {self._asked.served}"
            reason = f"the cache {self._options.cache} has no completion of it{of}, and only the cache may answer"
            found |= dict.fromkeys(wanted, Completion("missing", reason=reason))
        elif wanted:
            found |= run(Dispatcher(self._exchange(), cache, self._asked, fresh).send(wanted, arrived))
        return [found[name] for name in keys]

    def plan(self, requests: Iterable[Request], tokens: Callable[[str], int] | None = None) -> Forecast:
        """What ``complete`` would send and cost at most; opens no connection.

        ``tokens`` counts the tokens of a text; without it four characters are taken as one.
        """
        _, distinct = self._distinct(requests)
        found = self._asked.replayed(self._opened(), distinct)
        wanted = [request for name, request in distinct.items() if name not in found]
        if tokens is None:
            tokens_in = sum(map(guessed_tokens_in, wanted))
            low, high = math.floor(0.75 * tokens_in), math.ceil(1.25 * tokens_in)
            counted = "tokens guessed as characters / 4, give or take 25 %"
        else:
            messages = [message for request in wanted for message in request.messages]
            tokens_in = sum(tokens(message["content"]) + _TEMPLATE for message in messages)
            low = high = tokens_in
            counted = "tokens counted by a tokenizer"
        tokens_out = sum(self._options.limit(request.max_tokens) for request in wanted)
        cost = self._options.cost(high, tokens_out)
        return Forecast(len(distinct), len(found), len(wanted), tokens_in, low, high, tokens_out, cost, counted)

    def export_batch(self, requests: Iterable[Request], path: Path) -> int:
        """Write those that the cache does not have as JSON lines for a batch; returns how many.

        Raises JudgeError for more than a batch holds, ResultError for a file that cannot be written.
        """
        _, distinct = self._distinct(requests)
        cache = self._opened()
        self._spare(path)
        found = self._asked.replayed(cache, distinct)
        wanted = {name: request for name, request in distinct.items() if name not in found}
        judge = self._asked.served
        before = {} if judge is None else cache.kept(wanted, judge, self._asked.fingerprints)
        cut = {name for name, row in before.items() if row.completion.status == "truncated"}
        abilities = Abilities(**self._known.takes) if self._known is not None else Abilities()
        batch.write(wanted, path, self._options, abilities, cut)
        return len(wanted)

    def import_batch(self, path: Path) -> tuple[int, int]:
        """Put the replies of a batch into the cache: how many there were, and how many requests failed.

        Replies to requests that nobody here has asked are stored too: their key says what they answer. A complete reply
        that the cache has stays. Raises JudgeError with the number of a malformed line; nothing is stored then.
        """
        cache = self._opened()
        if self._options.cache_only:
            raise UsageError(
                "import_batch writes to the cache, and with --judge-cache-only nothing does; open the judge without"
            )
        rows, failed = batch.read(path, self._scrub)
        cache.store(rows)
        self._remember(cache)
        return len(rows), failed

    def export_replay(self, path: Path, model: str | None = None) -> int:
        """Write the complete replies of the cache for others, see :mod:`sae_bench.judge.replay`; returns how many."""
        from sae_bench.judge import replay  # it imports pydantic

        cache = self._opened()
        self._spare(path)
        return replay.write(cache, path, model)

    def import_replay(self, path: Path) -> int:
        """Put the replies of somebody's cache into this one; returns how many there were. Raises JudgeError."""
        from sae_bench.judge import replay

        rows, judges = replay.read(path, self._scrub)
        replay.keep(self._opened(), rows, judges)
        return len(rows)

    def _spare(self, path: Path) -> None:
        """Refuse to write over the cache. Raises UsageError."""
        cache = self._options.cache
        if cache is not None and cache.exists() and path.exists() and path.samefile(cache):
            raise UsageError(f"{path} is the cache itself, and what was paid for is in it; give another file")

    def _distinct(self, requests: Iterable[Request]) -> tuple[Sequence[str], dict[str, Request]]:
        """The key of each request, and the distinct ones by key, in order."""
        keys: list[str] = []
        distinct: dict[str, Request] = {}
        for request in requests:
            keys.append(key(request, self._options))
            distinct.setdefault(keys[-1], request)
        return keys, distinct

    def _opened(self) -> Cache:
        if self._cache is None:
            raise UsageError("the judge is not open; use it inside `with Judge(...) as judge`")
        return self._cache

    def _exchange(self) -> Exchange:
        with self._lock:
            if self._transport is None:
                self._transport = sender(self._options, self._scrub)
            transport = self._transport
        return Exchange(self._options, self._patience, self._ledger, endpoint(self._options.url), transport)
