"""What an endpoint takes of a request: found out by asking, one parameter dropped or replaced after each refusal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

FORMATS = ("json_schema", "json_schema, loosely", "json_object", "none")
ROOM = 4096  # tokens for thoughts beside the reply, once a reply was cut off

_CONTEXT = re.compile(
    r"context.{0,3}(length|size|window)|maximum context|max_model_len|max(_completion)?_tokens.{0,60}"
    r"(too large|exceed|at most|greater|less than|maximum)|(too large|exceed|at most).{0,60}max(_completion)?_tokens"
)
_FORMAT = re.compile(
    r"response.?format|response.?schema|json.?(schema|object|mode)|structured.?output|guided|grammar|outlines"
    r"|additional.?properties|\bschema\b"
)
_LOOSELY = re.compile(r"additional.?properties|\bstrict\b")
_STREAM = re.compile(r"(only|must|require|enable|need|set)\w*\b.{0,60}\bstream|\bstream\w*\b.{0,60}(only|must|require)")
_SYSTEM = re.compile(
    r"(system|developer)\W{0,3}(role|message|prompt|instruction)|role.{0,60}\W(system|developer)\W|(system|developer)\W"
    r".{0,60}\brole|roles? must alternate|only user and assistant"
)


@dataclass(frozen=True)
class Abilities:
    """What is known of one model behind one endpoint.

    Attributes:
        format: the strictest of ``FORMATS`` that was not refused.
        dropped: parameters that are left out.
        system: whether a system message is sent; else it stands at the head of the user's message.
        long_name: whether the length limit is called ``max_completion_tokens``.
        stream: whether the reply is asked for as a stream.
        most_room: tokens for thoughts that the context still holds, at most.
    """

    format: str = FORMATS[0]
    dropped: tuple[str, ...] = ()
    system: bool = True
    long_name: bool = False
    stream: bool = False
    most_room: int = ROOM

    def __post_init__(self) -> None:
        if not isinstance(self.dropped, list | tuple) or not all(isinstance(name, str) for name in self.dropped):
            raise ValueError(f"what is left out is a list of names, not {self.dropped!r:.40}")
        object.__setattr__(self, "dropped", tuple(self.dropped))  # a list, where it was read from JSON
        if self.format not in FORMATS:
            raise ValueError(f"an endpoint takes one of {', '.join(FORMATS)}, not {self.format!r:.40}")
        flags = (self.system, self.long_name, self.stream)
        if not all(isinstance(flag, bool) for flag in flags) or type(self.most_room) is not int or self.most_room < 0:
            raise ValueError("what an endpoint takes is said in true and false, and room in whole tokens")

    def prepare(self, body: Mapping[str, Any], room: int = 0) -> dict[str, Any]:
        """``body`` in the words that the endpoint takes, its length limit grown by ``room``."""
        sent = {name: value for name, value in body.items() if name not in self.dropped}
        if "response_format" in sent:
            sent |= {"response_format": _weakened(sent["response_format"], self.format)}
            if sent["response_format"] is None:
                del sent["response_format"]
        if not self.system:
            sent["messages"] = merged(sent["messages"])
        if "max_tokens" in sent:
            limit = sent.pop("max_tokens") + room
            sent["max_completion_tokens" if self.long_name else "max_tokens"] = limit
        if self.stream:
            sent["stream"] = True
            if "stream_options" not in self.dropped:
                sent["stream_options"] = {"include_usage": True}
        return sent

    def adapted(
        self, words: str, sent: Mapping[str, Any], fixed: frozenset[str] = frozenset(), grown: bool = False
    ) -> Abilities | None:
        """What the endpoint may take after it has refused ``sent`` in these words; None where they name nothing.

        ``fixed`` are parameters that the user has given: they are never dropped. ``grown`` says that more tokens were
        asked for than the reply needs. Words are in small letters.
        """
        droppable = [name for name in ("stream_options", "seed", "temperature") if name in sent and name not in fixed]
        if "max_completion_tokens" in words and "max_tokens" in sent and not self.long_name:
            return replace(self, long_name=True)
        if grown and _CONTEXT.search(words):
            return replace(self, most_room=self.most_room // 4 if self.most_room >= 1024 else 0)
        named = next((name for name in droppable if re.search(rf"\b{name}\b", words)), None)
        if named is not None:
            return self.without(named)
        if "response_format" in sent and "response_format" not in fixed and _FORMAT.search(words):
            loosely = self.format == FORMATS[0] and _LOOSELY.search(words)
            return replace(self, format=FORMATS[1]) if loosely else self.weaker()
        if self.system and _SYSTEM.search(words) and any(m["role"] == "system" for m in sent["messages"]):
            return replace(self, system=False)
        if not self.stream and "stream" not in fixed and _STREAM.search(words):
            return replace(self, stream=True)
        return None

    def is_within(self, other: Abilities) -> bool:
        """Whether it differs from ``other`` at most in what may depend on a single request: schema and length."""
        return self == replace(other, format=self.format, most_room=self.most_room)

    def weaker(self) -> Abilities | None:
        """With the next weaker format that is another request; None after the last."""
        rest = [name for name in FORMATS[FORMATS.index(self.format) + 1 :] if name != FORMATS[1]]
        return replace(self, format=rest[0]) if rest else None

    def without(self, name: str) -> Abilities:
        """Without one parameter more."""
        return replace(self, dropped=tuple(sorted({*self.dropped, name})))

    def ladder(self, sent: Mapping[str, Any], fixed: frozenset[str] = frozenset()) -> Iterator[Abilities]:
        """What to try, one after another, where a refusal names nothing: each takes less than the one before."""
        now = self
        while "response_format" in sent and "response_format" not in fixed and (weaker := now.weaker()):
            yield (now := weaker)
        for name in ("seed", "temperature"):
            if name in sent and name not in fixed:
                yield (now := now.without(name))
        if now.system and any(m["role"] == "system" for m in sent["messages"]):
            yield (now := replace(now, system=False))
        if "max_tokens" in sent and "max_tokens" not in fixed:
            yield (now := replace(now, long_name=True))

    def alone(self, before: Abilities, after: Abilities) -> Abilities:
        """With what changed between two steps of the ladder, and nothing else."""
        changed = {name: value for name, value in vars(after).items() if value != getattr(before, name)}
        if "dropped" in changed:
            changed["dropped"] = tuple(sorted({*self.dropped, *set(after.dropped) - set(before.dropped)}))
        return replace(self, **changed)

    @property
    def words(self) -> dict[str, Any]:
        """What a result says of it, plain JSON."""
        found: dict[str, Any] = {"format": self.format}
        if self.dropped:
            found["not taken"] = list(self.dropped)
        if not self.system:
            found["system message"] = "merged into the user's"
        if self.long_name:
            found["length limit"] = "max_completion_tokens"
        if self.stream:
            found["reply"] = "a stream"
        return found


@dataclass
class Learned:
    """What the process knows by now of one model behind one endpoint; changed as replies come.

    ``settled``: the first question of a run was answered in these words, and the result says so.
    """

    abilities: Abilities = field(default_factory=Abilities)
    settled: bool = False
    room: int = 0  # tokens beside the reply that its thoughts have needed


def merged(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Messages without a system message: what it says stands at the head of the user's first."""
    said = [message["content"] for message in messages if message["role"] in ("system", "developer")]
    rest = [dict(message) for message in messages if message["role"] not in ("system", "developer")]
    if not said:
        return rest
    if not rest or rest[0]["role"] != "user":
        return [{"role": "user", "content": "\n\n".join(said)}, *rest]
    return [{"role": "user", "content": "\n\n".join([*said, rest[0]["content"]])}, *rest[1:]]


def _weakened(asked: Any, form: str) -> Any:
    if form == "json_object":
        return {"type": "json_object"}
    if form == "none":
        return None
    if form == FORMATS[1] and isinstance(asked, dict) and isinstance(asked.get("json_schema"), dict):
        inner = {name: value for name, value in asked["json_schema"].items() if name != "strict"}
        return asked | {"json_schema": inner | {"schema": _open(inner.get("schema"))}}
    return asked


def _open(schema: Any) -> Any:
    """A schema that says nothing of further properties, which some endpoints cannot read."""
    if isinstance(schema, dict):
        return {name: _open(value) for name, value in schema.items() if name != "additionalProperties"}
    return [_open(one) for one in schema] if isinstance(schema, list) else schema
