"""In whatever words an endpoint refuses one thing in a request, that is left out or replaced, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_bench.judge import Judge, JudgeOptions, Request
from sae_bench.tasks.autointerp import prompts
from tests.builders.explainers import oracle
from tests.builders.judge_asks import FAST
from tests.judge_servers.base import restored
from tests.judge_servers.worded import COSTS, REFUSALS, Worded, asks_for, has, has_role

ASKED = ("response_format", "seed", "temperature", "system message", "max_tokens")


def question() -> Request:
    excerpts = prompts.listed(["bc", "df"], ["1 2 3", "4 5"])
    return prompts.request(prompts._DETECT % "fires on 3", excerpts, prompts.ANSWERS, 2)


def taken(body: dict[str, Any]) -> list[str]:
    """What of a question of ours an endpoint has taken."""
    found = [name for name in ASKED if has(name)(body)]
    return found + ["system message"] * has_role(body) + ["a schema"] * asks_for("json_schema")(body)


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_is_left_out_or_replaced_and_nothing_else(tmp_path: Path, name: str) -> None:
    with Worded(lambda messages: oracle()(restored(messages)), refusal=name) as server:
        options = JudgeOptions("m", server.url, cache=tmp_path / "judge.sqlite", concurrency=1)
        with Judge(options, FAST) as judge:
            reply = judge.meet(question())
            again = judge.complete([question()])[0]
        assert (reply.status, again.status) == ("ok", "ok"), reply.reason
        assert reply.text == oracle()(question().messages).text  # type: ignore[arg-type]
        offends, _ = REFUSALS[name]
        first, last = server.bodies[0], server.bodies[-1]
        assert offends(first)
        assert not offends(last)
        assert set(taken(first)) - set(taken(last)) <= COSTS.get(offends, set())
