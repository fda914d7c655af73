"""What all these endpoints have in common: an address, models, a key, counts of what was paid for, faults on request.

The judge behind each is a function of two messages, the instructions and the question
(``tests/builders/explainers.py`` has such judges). An endpoint may get the same words in another form: in one
message, in content parts, under another role. ``restored`` undoes that, so that a judge answers the same through
every endpoint.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, ClassVar

from tests.builders.judge_server import Answer, Fault, Messages, Reply, Response, Sent, Server, at_random

_QUESTION = re.compile(r"^(Excerpts on which it fires:|\[[a-z]{2}\] )", re.MULTILINE)  # how the user's message begins
_PER_TOKEN = 4  # characters


class Stub(Server):
    """One endpoint, with one model behind it.

    Args:
        answer: the judge: messages to text or ``Reply``.
        key: what a request must bear; None takes anything.
        faults: how often a request fails in one of the ways of ``failures``, decided by content.
        model: the name in the replies; may be changed while it runs, or by ``switch``.
        switch: after so many answers, another name in the replies.
        thinks: tokens of thoughts before each reply.
        context: tokens that fit.
        set: what the class says of itself otherwise, by name.

    Counters as in ``Server``; ``answered`` counts what was paid for, by what was asked and with which length limit.
    """

    path: ClassVar[str] = "/v1"
    models: ClassVar[tuple[str, ...]] = ()  # as a request names them
    served: ClassVar[str] = ""  # as a reply names the first of them
    fingerprint: ClassVar[str | None] = None
    failures: ClassVar[tuple[Fault | Response, ...]] = ()
    counts_thoughts: ClassVar[bool] = False  # whether usage says how many tokens were thoughts

    def __init__(
        self,
        answer: Answer,
        key: str | None = None,
        faults: float = 0.0,
        model: str | None = None,
        switch: tuple[int, str] | None = None,
        thinks: int = 0,
        context: int = 1_000_000,
        hold: float = 0.0,
        most: int = 10_000,
        **set: Any,
    ) -> None:
        for name, value in set.items():
            assert hasattr(type(self), name), name
            setattr(self, name, value)
        self.model, self.switch, self.thinks, self.context = model or self.served, switch, thinks, context
        passing = (*self.failures, Fault("drop"), Fault("half_sent"))
        super().__init__(answer, at_random(faults, 7, passing), hold=hold, most=most, key=key)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"

    def named(self, body: dict[str, Any]) -> str:
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        asked = json.dumps([restored(body["messages"]), limit])
        return hashlib.sha256(asked.encode()).hexdigest()

    def admit(self, sent: Sent) -> Response | None:
        if sent.path != f"{self.path}/chat/completions":
            return self.lost(sent)
        if self.key is not None and sent.bearer != self.key:
            return self.stranger(sent)
        return self.missing(sent) if self.models and sent.body.get("model") not in self.models else None

    def reply(self, body: dict[str, Any]) -> Response:
        if self.switch is not None and sum(self.answered.values()) > self.switch[0]:
            self.model = self.switch[1]
        said = self.answer(restored(body["messages"]))
        return self.wrapped(body, self.limited(body, said if isinstance(said, Reply) else Reply(said)))

    def limited(self, body: dict[str, Any], said: Reply) -> Reply:
        """What is left of it where thoughts have eaten the length limit."""
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        needed = self.thinks + tokens(said.text or "") if self.thinks else 0
        return Reply("", None, "length") if limit is not None and needed > limit else said

    def wrapped(self, body: dict[str, Any], said: Reply) -> Response:
        """The body of a completion in the form of the protocol, with the fields that this endpoint adds."""
        return Response(200, self.completion(body, said))

    def completion(self, body: dict[str, Any], said: Reply) -> dict[str, Any]:
        """A completion in the form of the protocol."""
        came, cut = tokens(words(body["messages"])), said.finish_reason == "length"
        limit = body.get("max_completion_tokens", body.get("max_tokens"))
        thought = min(self.thinks, limit) if cut and limit is not None else self.thinks
        went = thought + tokens(said.text or "")
        usage: dict[str, Any] = {"prompt_tokens": came, "completion_tokens": went, "total_tokens": came + went}
        if self.counts_thoughts:
            usage["completion_tokens_details"] = {"reasoning_tokens": thought, "audio_tokens": 0}
        message = {"role": "assistant", "content": said.text, "refusal": said.refusal}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": said.finish_reason}
        found: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1_700_000_000}
        found |= {"model": self.model, "choices": [choice], "usage": usage}
        return found if self.fingerprint is None else found | {"system_fingerprint": self.fingerprint}

    def lost(self, sent: Sent) -> Response:
        """To a request to another path."""
        return Response(404, {"detail": "Not Found"})

    def stranger(self, sent: Sent) -> Response:
        """To a request without the key."""
        raise NotImplementedError

    def missing(self, sent: Sent) -> Response:
        """To a request for a model that is not there."""
        raise NotImplementedError


def words(messages: Sequence[dict[str, Any]]) -> str:
    """All that is said, whatever its form."""
    return "\n\n".join(text_of(message) for message in messages)


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def restored(messages: Sequence[dict[str, Any]]) -> Messages:
    """Instructions and question as two messages, wherever they stood; what follows them (asking again) as it is."""
    plain = [{"role": message["role"], "content": text_of(message)} for message in messages]
    users = [i for i, message in enumerate(plain) if message["role"] == "user"]
    head = plain[: users[0] + 1] if users else plain
    whole = "\n\n".join(message["content"] for message in head)
    question = _QUESTION.search(whole)
    if question is None:
        return plain
    parts = whole[: question.start()].strip(), whole[question.start() :].strip()
    rest = plain[len(head) :]
    return [{"role": "system", "content": parts[0]}, {"role": "user", "content": parts[1]}, *rest]


def tokens(text: str) -> int:
    """How many tokens a text has, about."""
    return -(-len(text) // _PER_TOKEN)


def streamed(completion: dict[str, Any], between: Sequence[str] = (), size: int = 7) -> Response:
    """A completion as server-sent events: its message in pieces, then the end, then the usage.

    ``between`` are lines that are no data, sent before and in the middle, as some endpoints keep connections open.
    """
    choice = completion["choices"][0]
    head = {name: value for name, value in completion.items() if name not in ("choices", "usage")}
    head["object"] = "chat.completion.chunk"
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for name, text in choice["message"].items():
        if isinstance(text, str) and name != "role":
            deltas += [{name: text[i : i + size]} for i in range(0, len(text), size)]
    chunks = [head | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    chunks.append(head | {"choices": [], "usage": completion["usage"]})
    comments = [f"{line}\n\n" for line in between]
    lines = [*comments, *(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)]
    middle = len(lines) // 2
    return Response(200, "".join([*lines[:middle], *comments, *lines[middle:], "data: [DONE]\n\n"]), kind=EVENTS)


EVENTS = "text/event-stream"
