"""A judge in this process: a function of the messages under an address, asked as any endpoint, but over no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sae_bench.judge.echo import Echo
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.outcomes import Outcome, classify
from sae_bench.judge.secrets import Scrubber
from sae_bench.judge.transport import Sender, Transport

Answer = Callable[[Sequence[Mapping[str, str]]], str]
_here: dict[str, Answer] = {}


@contextmanager
def answering(url: str, answer: Answer) -> Iterator[None]:
    """Until the context ends, what is asked at ``url`` (as ``--judge-base-url`` has it) is answered by ``answer``.

    It is given the messages of one request and nothing else, as an endpoint is.
    """
    _here[url] = answer
    try:
        yield
    finally:
        del _here[url]


def sender(options: JudgeOptions, scrub: Scrubber) -> Sender:
    """What takes requests to the judge: over the network, unless it is in this process. Raises what Transport does."""
    answer = _here.get(options.url)
    return Transport(options, scrub) if answer is None else _Here(answer, scrub)


class _Here:
    """Puts what the function says into the form of a reply, so that it is read as any other."""

    has_key = True

    def __init__(self, answer: Answer, scrub: Scrubber) -> None:
        self._answer, self._scrub = answer, scrub

    async def send(self, body: dict[str, Any]) -> Outcome:
        """The completion of one request."""
        message = {"role": "assistant", "content": self._answer(body["messages"])}
        content = {"model": body["model"], "choices": [{"message": message, "finish_reason": "stop"}]}
        return classify(200, {}, json.dumps(content), self._scrub, Echo(body["messages"]))

    async def close(self) -> None:
        """There is nothing to close."""
