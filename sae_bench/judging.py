"""The judge of a run: made from the settings, tried before anything is measured, given to the tasks that ask it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sae_bench.errors import UsageError
from sae_bench.judge import Judge, JudgeError, JudgeOptions, Request
from sae_bench.schema import Result
from sae_bench.settings import Settings
from sae_bench.streams.base import Progress
from sae_bench.tasks.autointerp.asking import Exporter
from sae_bench.tasks.base import Task
from sae_bench.tasks.judged import JudgedTask

_HELLO = Request([{"role": "user", "content": "Answer with one word: ready"}], None, 64)


def asking_of(tasks: Mapping[str, Task]) -> list[JudgedTask]:
    """The tasks that ask a judge."""
    return [cast(JudgedTask, task) for task in tasks.values() if task.spec.judge]


def judge_options(settings: Settings) -> JudgeOptions | None:
    """Where the judge is and what it may cost, or None without one. Raises UsageError."""
    limits = ("max_requests", "max_tokens", "max_cost", "price_in", "price_out")
    if settings.judge_model is None:
        for name in ("judge_base_url", "judge_batch", "judge_cache", "judge_cache_only", "null", *limits):
            if getattr(settings, name) not in (None, False, "none"):
                flag = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flag} is about the judge, and there is none; give --judge-model too")
        return None
    if settings.judge_batch is not None and settings.judge_cache_only:
        raise UsageError(
            "give --judge-batch or --judge-cache-only, not both: a batch is for what the cache does not have"
        )
    options = JudgeOptions(
        model=settings.judge_model,
        base_url=settings.judge_base_url,
        cache_only=settings.judge_cache_only,
        **{name: getattr(settings, name) for name in limits},
    )
    return options if settings.judge_cache is None else replace(options, cache=Path(settings.judge_cache).expanduser())


def configure(tasks: Mapping[str, Task], settings: Settings, controls: tuple[str, ...]) -> JudgeOptions | None:
    """The options of the judge, if there is a task that asks one; tells such tasks what else the settings say."""
    options = judge_options(settings)
    asking = asking_of(tasks)
    if settings.null == "untrained" and "random" not in controls:
        raise UsageError("--null untrained judges the control random; add it to --controls")
    for task in asking:
        task.null = settings.null
    return options if asking else None


def parameters(task: Task, options: JudgeOptions | None) -> dict[str, Any]:
    """What of the judge belongs to the protocol of a task: who judges, not where, nor at what cost."""
    if not task.spec.judge or options is None:
        return {}
    return {"judge": options.model, "temperature": options.temperature}


def forecast(tasks: Mapping[str, Task], options: JudgeOptions | None, n_saes: int) -> dict[str, Any]:
    """What the judge would be asked for ``n_saes``, without what its cache has; empty without a judge."""
    asking = asking_of(tasks)
    if not asking or options is None or not n_saes:
        return {}
    coders = n_saes * (2 if asking[0].null == "untrained" else 1)
    requests, tokens_in, tokens_out = (coders * sum(n) for n in zip(*(t.at_most() for t in asking), strict=True))
    cost = options.cost(tokens_in, tokens_out)
    return {
        "requests to the judge, at most": requests + 1,
        "tokens to the judge, roughly": tokens_in,
        "tokens from the judge, roughly": tokens_out,
        "cost of the judge, roughly": "unknown (give --price-in and --price-out)" if cost is None else round(cost, 4),
        **_dated("prices of the judge", options),
    }


def usage(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What the judge was asked in this run and what it took, plain JSON; empty without a judge."""
    judge = next((task.judge for task in asking_of(tasks) if task.judge is not None), None)
    if judge is None:
        return {}
    found = judge.usage
    return {
        "requests": found.requests,
        "tries": found.attempts,
        "tokens_in": found.prompt_tokens,
        "tokens_out": found.completion_tokens,
        "tries_without_count": found.unreported,
        "cost": None if found.cost is None else round(found.cost, 6),
        **_dated("prices", judge.options),
    }


def _dated(name: str, options: JudgeOptions) -> dict[str, str]:
    """Of which day the prices are that a cost is made of; empty where they were given, or none is known."""
    return {name: options.price.said} if options.price is not None and options.price.said else {}


def spent(used: Mapping[str, Any]) -> str:
    """What :func:`usage` says, in a line."""
    if not used["tries"]:
        return "judge: 0 requests, cost 0"
    tries = f" in {used['tries']} tries" if used["tries"] != used["requests"] else ""
    unknown = f" (and {used['tries_without_count']} tries without a count)" if used["tries_without_count"] else ""
    cost = "unknown (give --price-in and --price-out)" if used["cost"] is None else f"{used['cost']:.4f}"
    cost += f" ({used['prices']})" if "prices" in used else ""
    tokens = f"{used['tokens_in']} tokens in and {used['tokens_out']} out{unknown}"
    return f"judge: {used['requests']} requests{tries}, {tokens}, cost {cost}"


def short_of(results: Sequence[Result], used: Mapping[str, Any]) -> list[str]:
    """A sentence for every task that a limit of the run has cut short."""
    found = []
    for name in dict.fromkeys(result.task for result in results if "budget" in result.details):
        own = [result.details for result in results if result.task == name and "statuses" in result.details]
        limit = next(details["budget"] for details in own if "budget" in details)
        judged, latents = (sum(details[key] for details in own) for key in ("explained", "latents"))
        sent = f"{used.get('tokens_in', 0) + used.get('tokens_out', 0)} tokens in {used.get('tries', 0)} requests"
        cost = sent if used.get("cost") is None else f"{used['cost']:.4f}"
        found.append(f"{name}: {limit}: {judged} of {latents} latents judged, {cost} spent; the same command goes on")
    return found


@contextmanager
def opened(
    tasks: Mapping[str, Task], options: JudgeOptions | None, batch: str | Path | None, progress: Progress
) -> Iterator[None]:
    """Open the judge for the tasks that ask one, after one small question to it. Raises JudgeError.

    With ``batch`` nothing is sent: the requests that have no answer yet are written to that file at the end.
    """
    asking = asking_of(tasks)
    if not asking or options is None:
        yield
        return
    if batch is not None:
        with Judge(options):  # makes the cache, if there is none yet
            pass
        options = replace(options, cache_only=True)
    judge = Judge(options) if batch is None else Exporter(options)
    with judge:
        if not options.cache_only:
            hello = judge.complete([_HELLO])[0]
            if hello.status == "transport_failed":
                raise JudgeError(f"the judge {options.model} at {options.url} does not answer: {hello.reason}")
        for task in asking:
            task.judge, task.progress = judge, progress
        yield
        if isinstance(judge, Exporter) and batch is not None:
            judge.export_batch(judge.wanted, Path(batch))
