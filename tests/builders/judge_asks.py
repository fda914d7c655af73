"""Questions to a judge that answers at once."""

from pathlib import Path
from typing import Any

from sae_bench.judge import JudgeOptions, Patience, Request
from tests.builders.judge_server import Server

FAST = Patience(base=0.005, longest=0.05)


SCHEMA = {"type": "object"}


def ask(text: object, **more: Any) -> Request:
    return Request([{"role": "user", "content": str(text)}], SCHEMA, 20, **more)


def echo(messages: list[dict[str, str]]) -> str:
    return f"reply to {messages[-1]['content']}"


def options(server: Server, folder: Path, **more: Any) -> JudgeOptions:
    return JudgeOptions("m", server.url, cache=folder / "judge.sqlite", **{"timeout": 20, **more})
