"""The first question of a run: who answers, and what the endpoint takes, found out before anything is paid for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sae_bench.judge.abilities import Abilities
from sae_bench.judge.errors import JudgeError, refused
from sae_bench.judge.exchange import Exchange, Kept
from sae_bench.judge.outcomes import Outcome
from sae_bench.judge.records import Completion, Request, body

KNOCKS = 3  # tries at an address where nothing listens and nothing ever answered
_STEPS = 16  # of words that are tried, at most
_BROKEN = 2  # failures with status 500 or more after which it may be the format that breaks the server
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
    exchange.learned.abilities, exchange.learned.room = Abilities(), 0  # a server that was mended is asked anew
    found = await _until(exchange, request)
    if isinstance(found, Outcome) and found.status in _UNEXPLAINED and found.quota is False:
        found = await _climb(exchange, request, found)
    if isinstance(found, Outcome):
        raise refused(found, exchange.options, exchange.transport.has_key)
    return First(found, exchange.learned.abilities)


async def _until(exchange: Exchange, request: Request) -> Completion | Outcome:
    """A completion, or the outcome that no other try in the same words would change. Raises JudgeError."""
    patience, failures, room, steps = exchange.patience, 0, 0, 0
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
            return outcome.completion
        elif outcome.kind == "fatal" or steps > _STEPS:
            return outcome
        elif outcome.kind == "adapted":
            room = exchange.room_of(room)
        elif outcome.kind == "transient":
            failures += 1
            _break(exchange, outcome, failures, "response_format" in body(request, exchange.options))
            await asyncio.sleep(max(patience.delay(failures, "first"), outcome.wait or 0.0))


def _break(exchange: Exchange, outcome: Outcome, failures: int, asked: bool) -> None:
    """After failures that may come from the format: ask for a weaker one. Raises JudgeError at the end of patience."""
    nobody = outcome.foreign and outcome.status == 0 and not exchange.endpoint.answered
    if failures >= (min(KNOCKS, exchange.patience.attempts) if nobody else exchange.patience.attempts):
        raise silent(exchange, outcome, failures)
    weaker = exchange.learned.abilities.weaker()
    if outcome.status >= 500 and failures % _BROKEN == 0 and asked and weaker is not None:
        exchange.learned.abilities = weaker


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
        "run again when it does, or give more time with --judge-timeout"
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
