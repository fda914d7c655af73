"""Asking the judge, with one more try for a reply that cannot be read, and what became of every request.

What an earlier run could not read is asked anew, once in a run: the model behind the endpoint may have been mended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sae_bench.judge import Completion, Judge, JudgeOptions, Request
from sae_bench.tasks.autointerp.prompts import again

T = TypeVar("T")
UNREADABLE = "unreadable"
NOT_ASKED = ("budget", "missing")
WAITING = ("budget", "transport_failed", "missing")  # what another run may still get


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """``status`` is "ok" with a ``value``, "unreadable", or what the judge says of a request that got no reply."""

    status: str
    value: T | None
    completions: tuple[Completion, ...]

    @property
    def raw(self) -> str:
        """What the judge wrote last, at most 500 characters, or why it wrote nothing."""
        last = self.completions[-1]
        return (last.text or last.reason or "")[:500]


class Asker:
    """Asks a judge, and remembers what became of every request of one coder."""

    def __init__(self, judge: Judge, progress: Callable[[str, int, int], None]) -> None:
        self.judge, self.progress = judge, progress
        self.outcomes: list[Outcome[Any]] = []

    def ask(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T | None]], what: str
    ) -> list[Outcome[T]]:
        """The outcome of every request; ``readers[i]`` reads the reply to request i, None for one that is no answer.

        Raises JudgeError, as :meth:`Judge.complete` does.
        """
        first = self.judge.complete(requests, lambda done, total: self.progress(f"judge, {what}", done, total))
        outcomes = self._read_twice(requests, readers, first)
        failed = [i for i, outcome in enumerate(outcomes) if outcome.status not in ("ok", *WAITING)]
        if failed and self.judge.may_ask:
            wanted = [requests[i] for i in failed]
            anew = self._read_twice(wanted, [readers[i] for i in failed], self.judge.complete(wanted, fresh=True))
            for i, outcome in zip(failed, anew, strict=True):
                # what was not asked, for want of budget, stays what it was
                outcomes[i] = outcome if outcome.completions[0].status not in WAITING else outcomes[i]
        self.outcomes += outcomes
        return outcomes

    def _read_twice(
        self, requests: Sequence[Request], readers: Sequence[Callable[[str], T | None]], replies: Sequence[Completion]
    ) -> list[Outcome[T]]:
        """What the replies say; those that cannot be read are asked for once more, with the reason."""
        outcomes = [_read(reader, (reply,)) for reader, reply in zip(readers, replies, strict=True)]
        unread = [i for i, outcome in enumerate(outcomes) if outcome.status == UNREADABLE]
        why = "no JSON of the right form was found in it"
        second = self.judge.complete([again(requests[i], replies[i].text, why) for i in unread]) if unread else []
        for i, reply in zip(unread, second, strict=True):
            outcomes[i] = _read(readers[i], (replies[i], reply))
        return outcomes

    @property
    def waiting(self) -> int:
        """How many requests another run may still get an answer to."""
        return sum(outcome.completions[-1].status in WAITING for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        """How many requests were asked and have no complete, readable answer; the same command asks them again."""
        return sum(outcome.status not in ("ok", *WAITING) for outcome in self.outcomes)

    @property
    def limit(self) -> str | None:
        """Which limit of the run forbade a request, in words; None if none did."""
        last = (outcome.completions[-1] for outcome in self.outcomes)
        return next((reply.reason for reply in last if reply.status == "budget"), None)

    def served(self) -> dict[str, Any]:
        """Which models answered, and the tokens of all replies, whenever they were paid for."""
        replies = [reply for outcome in self.outcomes for reply in outcome.completions]
        return {
            "replies": len(replies),
            "models": sorted({reply.model for reply in replies if reply.model}),
            "fingerprints": sorted({reply.fingerprint for reply in replies if reply.fingerprint}),
            "providers": sorted({reply.provider for reply in replies if reply.provider}),
            "reasoning_tokens": sum(reply.reasoning_tokens or 0 for reply in replies),
            "prompt_tokens": sum(reply.prompt_tokens or 0 for reply in replies),
            "completion_tokens": sum(reply.completion_tokens or 0 for reply in replies),
        }


def _read(reader: Callable[[str], T | None], replies: tuple[Completion, ...]) -> Outcome[T]:
    last = replies[-1]
    if last.status != "ok":
        # what could not be read stays unreadable if the second try was not allowed or did not come through
        return Outcome(last.status if len(replies) == 1 else UNREADABLE, None, replies)
    value = reader(last.text)
    return Outcome(UNREADABLE if value is None else "ok", value, replies)


class Exporter(Judge):
    """A judge that sends nothing: what the cache does not have is kept in ``wanted``, to be written as a batch."""

    def __init__(self, options: JudgeOptions) -> None:
        super().__init__(options, by_hand=True)
        self.wanted: list[Request] = []

    def complete(
        self, requests: Iterable[Request], progress: Callable[[int, int], None] | None = None, fresh: bool = False
    ) -> list[Completion]:
        """What the cache has; the others are missing."""
        asked = list(requests)
        replies = super().complete(asked, progress, fresh)
        self.wanted += [request for request, reply in zip(asked, replies, strict=True) if reply.status == "missing"]
        return replies
