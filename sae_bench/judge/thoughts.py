"""Thoughts that a model writes before its answer, in the marks of its family: taken out, and counted.

A draft inside a thought is no answer. Marks inside the texts of whole JSON are text: a latent may fire on ``<think>``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sae_bench.judge.lenient import pieces

_NAMES = "(?:ant|seed:)?(?:think(?:ing)?|thoughts?|reasoning|reflection|scratchpad)"
_MARK = re.compile(
    rf"(?P<begin><{_NAMES}(?:\s[^<>]{{0,99}})?>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|START_THINKING\|>"
    r"|<\|channel>thought\b|^[ \t]*Here(?:'s| is) my thought process:)"
    rf"|(?P<end></{_NAMES}\s?>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|END_THINKING\|>|<channel\|>"
    r"|^[ \t]*Here(?:'s| is) my response:)",
    re.IGNORECASE | re.MULTILINE,
)
_CHANNEL = re.compile(r"<\|(channel|message|constrain|start|end|return|call)\|>")
_BARE = re.compile(r"\s*analysis(?=[A-Z{\[\"'])")  # channels whose marks the server has left out of the text
_BARE_FINAL = "assistantfinal"


@dataclass(frozen=True)
class Spoken:
    """What a model said aloud.

    Attributes:
        text: all that stands outside thoughts.
        thought: characters of the thoughts, with their marks.
        open: the text ends inside a thought, so there is no answer yet.
    """

    text: str
    thought: int = 0
    open: bool = False


def spoken(text: str) -> Spoken:
    """``text`` without the thoughts in it.

    What stands before a mark that ends a thought is thought also where nothing marks its beginning: many templates
    write that mark into the question.
    """
    channels = list(_CHANNEL.finditer(text)) if "<|channel|>" in text else []
    marks = list(_MARK.finditer(text))
    inside = list(_quoted(text)) if channels or marks else []
    channels = _outside(channels, inside)
    if any(mark.group(1) == "channel" for mark in channels):
        return _final(text, channels)
    if (bare := _BARE.match(text)) is not None:
        _, found, rest = text[bare.end() :].rpartition(_BARE_FINAL)
        return Spoken(rest, len(text) - len(rest)) if found else Spoken("", len(text), open=True)
    return _untagged(text, _outside(marks, inside))


def _untagged(text: str, marks: list[re.Match[str]]) -> Spoken:
    kept: list[str] = []
    at, thinking = 0, False
    for mark in marks:
        if mark.group("end") is not None:
            if not thinking:
                kept = []
            at, thinking = mark.end(), False
        elif not thinking:
            kept.append(text[at : mark.start()])
            thinking = True
    said = "".join(kept if thinking else [*kept, text[at:]])
    return Spoken(said, len(text) - len(said), thinking)


def _final(text: str, marks: list[re.Match[str]]) -> Spoken:
    """The last message in the channel "final" of the harmony format; without one all is thought."""
    said, channel = None, ""
    for mark, stop in zip(marks, [*(mark.start() for mark in marks[1:]), len(text)], strict=True):
        if mark.group(1) == "channel":
            channel = next(iter(text[mark.end() : stop].split()), "")
        elif mark.group(1) == "message" and channel == "final":
            said = text[mark.end() : stop]
    return Spoken("", len(text), open=True) if said is None else Spoken(said, len(text) - len(said))


def _quoted(text: str) -> Iterator[tuple[int, int]]:
    """Where whole JSON begins and ends."""
    return ((piece.start, piece.stop) for piece in pieces(text, strict=True))


def _outside(marks: list[re.Match[str]], inside: list[tuple[int, int]]) -> list[re.Match[str]]:
    return [mark for mark in marks if not any(start < mark.start() < stop for start, stop in inside)]
