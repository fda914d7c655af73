"""The first question of a run: who answers, and what the endpoint takes, found out before anything is paid for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

from sae_bench.judge.abilities import Abilities
from sae_bench.judge.errors import JudgeError, refused
from sae_bench.judge.exchange import Exchange, Kept
from sae_bench.judge.outcomes import Outcome
from sae_bench.judge.records import Completion, Request, body
from sae_bench.judge.served import NOBODY, Served

KNOCKS = 3  # tries at an address where nothing listens and nothing ever answered
STEPS = 16  # of words that are tried for one request, at most
_BROKEN = 2  # failures with status 500 after which it may be the request that breaks the server
_UNEXPLAINED = frozenset({400, 404, 405, 415, 422, 501})


@dataclass(frozen=True)
class First:
    """What came of the first question: the reply, and what the endpoint takes."""

    completion: Completion
    abilities: Abilities


async def ask(exchange: Exchange, request: Request) -> First:
    """The reply to ``request``, in words that the endpoint takes. A limit of the run may forbid it: status "budget".

    Raises JudgeError where there is no reply in any words.
    """
    exchange.endpoint.limiter.admit(exchange.options.concurrency)
    learned = exchange.learned
    learned.abilities, learned.room, learned.settled = Abilities(), 0, False  # a server that was mended is asked anew
    found = await _until(exchange, request)
    if isinstance(found, Outcome) and found.status in _UNEXPLAINED and found.quota is False:
        found = await _climb(exchange, request, found)
    if isinstance(found, Outcome):
        raise refused(found, exchange.options, exchange.transport.has_key)
    if found.status == "refused" and not found.text and Served.of(found) == NOBODY:  # whoever answers is not met
        raise JudgeError(
            f"a filter before {exchange.options.model} at {exchange.options.url} refuses the first question, on a cat "
            f"and the rain ({found.reason}); loosen it, or give another --judge-model or --judge-base-url"
        )
    learned.settled = found.status != "budget"
    return First(found, learned.abilities)


async def _until(exchange: Exchange, request: Request) -> Completion | Outcome:
    """A completion, or the outcome that no other try in the same words would change. Raises JudgeError."""
    patience, failures, room, steps = exchange.patience, 0, 0, 0
    doubted: Abilities | None = None
    while True:
        outcome = await exchange.attempt("first", request, room, first=failures + steps == 0, keep=_nothing)
        if isinstance(outcome, Completion):
            return outcome
        if outcome.kind == "quota":
            exchange.ledger.exhausted = exhausted(exchange, outcome)
            return Completion("budget", reason=exchange.ledger.exhausted)
        steps += outcome.kind in ("adapted", "short")
        if outcome.kind == "short":
            room = exchange.room_after(room)
        elif outcome.completion is not None:
            return outcome.completion if doubted is None else await _blame(exchange, request, room, outcome, doubted)
        elif outcome.kind == "fatal" or steps > STEPS:
            return outcome
        elif outcome.kind == "adapted":
            room = exchange.room_of(room)
        elif outcome.kind == "transient":
            failures += 1
            if failures >= _most(exchange, outcome):
                raise silent(exchange, outcome, failures)
            if outcome.status == 500 and failures >= _BROKEN:
                doubted = doubted or exchange.learned.abilities
                exchange.learned.abilities = _lesser(exchange, request)
            await asyncio.sleep(max(patience.delay(failures, "first"), outcome.wait or 0.0))


def _most(exchange: Exchange, outcome: Outcome) -> int:
    """How many tries may fail."""
    nobody = outcome.foreign and outcome.status == 0 and not exchange.endpoint.answered
    return min(KNOCKS, exchange.patience.attempts) if nobody else exchange.patience.attempts


def _lesser(exchange: Exchange, request: Request) -> Abilities:
    """Less of what breaks servers without a word: first the format, then the system message in a chat template."""
    now, fixed = exchange.learned.abilities, exchange.options.params
    asked = "response_format" in body(request, exchange.options) and "response_format" not in fixed
    weaker = now.weaker() if asked else None
    return weaker or replace(now, system=False)


async def _blame(exchange: Exchange, request: Request, room: int, found: Outcome, doubted: Abilities) -> Completion:
    """The reply in the fullest words that break nothing: it may have been one of those left out, or none of them."""
    least = exchange.learned.abilities
    full = replace(least, format=doubted.format, system=doubted.system)
    for words in dict.fromkeys((full, replace(full, system=least.system), replace(full, format=least.format))):
        for _ in range(_BROKEN if words != least else 0):
            exchange.learned.abilities = words
            again = await exchange.attempt("first", request, room, first=False, keep=_nothing)
            reply = again if isinstance(again, Completion) else again.completion
            if reply is not None and reply.status != "budget":
                exchange.learned.abilities = words
                return reply
    exchange.learned.abilities = least
    assert found.completion is not None
    return found.completion


async def _climb(exchange: Exchange, request: Request, first: Outcome) -> Completion | Outcome:
    """What comes where refusals name nothing: less and less is asked for, then only what had to go is left out."""
    start = exchange.learned.abilities
    before = start
    fixed = frozenset(exchange.options.params)
    for after in start.ladder(body(request, exchange.options), fixed):
        exchange.learned.abilities = after
        found = await _until(exchange, request)
        if isinstance(found, Completion):
            exchange.learned.abilities = start.alone(before, after)
            again = await _until(exchange, request) if exchange.learned.abilities != after else found
            if isinstance(again, Outcome):
                exchange.learned.abilities = after
                return found
            return again
        before = after
    exchange.learned.abilities = start
    return first


def silent(exchange: Exchange, outcome: Outcome, tries: int) -> JudgeError:
    """The sentence for an endpoint that gives no reply to the first question."""
    options = exchange.options
    if outcome.foreign and not exchange.endpoint.answered:
        return nobody(exchange, outcome)
    return JudgeError(
        f"the judge {options.model} at {options.url} does not answer: failed {tries} times, last: {outcome.reason}; "
        "run again when it does, give more time with --judge-timeout, or answer from the cache with --judge-cache-only"
    )


def nobody(exchange: Exchange, outcome: Outcome) -> JudgeError:
    """The sentence for an address where nothing speaks the protocol."""
    if outcome.cure is not None:
        return refused(outcome, exchange.options, exchange.transport.has_key)
    return JudgeError(
        f"no endpoint of the chat-completions protocol answers at {exchange.options.url} ({outcome.reason}); give "
        "--judge-base-url the address before /chat/completions, start the server if it is yours, or answer from the "
        "cache alone with --judge-cache-only"
    )


def exhausted(exchange: Exchange, outcome: Outcome) -> str:
    """Why nothing more comes in this run, where the endpoint has a limit of its own."""
    return f"a limit of the endpoint {exchange.options.url} is used up ({outcome.reason})"


def _nothing(kept: Kept) -> None:
    """The first question is asked anew in every run: its reply is not stored."""
