"""The judge of a run: made from the settings, tried before anything is measured, given to the tasks that ask it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from sae_bench.errors import UsageError
from sae_bench.judge import Completion, Judge, JudgeError, JudgeOptions, Ratings, read_answers
from sae_bench.judge.abilities import Abilities
from sae_bench.judge.cache import Cache, Known
from sae_bench.judge.secrets import Scrubber
from sae_bench.judge.words import short
from sae_bench.schema import Result
from sae_bench.settings import Settings, flag, of
from sae_bench.streams.base import Progress
from sae_bench.tasks.autointerp import prompts
from sae_bench.tasks.autointerp.asking import Exporter
from sae_bench.tasks.base import Task
from sae_bench.tasks.judged import JudgedTask


def asking_of(tasks: Mapping[str, Task]) -> list[JudgedTask]:
    """The tasks that ask a judge."""
    return [cast(JudgedTask, task) for task in tasks.values() if task.spec.judge]


def judge_options(settings: Settings) -> JudgeOptions | None:
    """Where the judge is and what it may cost, or None without one. Raises UsageError."""
    if settings.judge_model is None:
        for name in (*_PASSED, "judge_batch", "judge_cache", "null"):
            if getattr(settings, name) not in (None, False, "none", "auto", {}):
                raise UsageError(
                    f"{flag(Settings, name)} is about the judge, and there is none; give --judge-model too"
                )
        return None
    if settings.judge_batch is not None and settings.judge_cache_only:
        raise UsageError(
            "give --judge-batch or --judge-cache-only, not both: a batch is for what the cache does not have"
        )
    passed = {option: getattr(settings, name) for name, option in _PASSED.items()}
    given = {option: value for option, value in passed.items() if value is not None}
    given["params"], unseeded = _own_fields(given["params"])
    options = JudgeOptions(model=settings.judge_model, **given | unseeded)
    return options if settings.judge_cache is None else replace(options, cache=Path(settings.judge_cache).expanduser())


_PASSED = {name: stated.judge for name, stated in of(Settings).items() if stated.judge is not None}
_FEW = 16  # tokens of a reply that was cut off, of which our limits are many times more


def _own_fields(params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters apart from those that an option of their own holds: temperature and seed."""
    own = {name: params[name] for name in ("temperature", "seed") if name in params}
    return {name: value for name, value in params.items() if name not in own}, own


def configure(tasks: Mapping[str, Task], settings: Settings, controls: tuple[str, ...]) -> JudgeOptions | None:
    """The options of the judge, if there is a task that asks one; tells such tasks what else the settings say."""
    options = judge_options(settings)
    asking = asking_of(tasks)
    if settings.null == "untrained" and "random" not in controls:
        raise UsageError("--null untrained judges the control random; add it to --controls")
    for task in asking:
        task.null = settings.null
    return options if asking else None


def known(options: JudgeOptions | None) -> Known | None:
    """Who answered last, as the cache says, without writing to it."""
    if options is None or options.cache is None or not options.cache.is_file():
        return None
    try:
        cache = Cache(options.cache, read_only=True, scrub=Scrubber(*options.secrets))
    except JudgeError:
        return None  # it is opened again, and refused, where it is needed
    try:
        last = cache.last(options.endpoint, options.model)
    finally:
        cache.close()
    return None if last is None else replace(last, served=last.served.judge(options.fingerprints))


def parameters(task: Task, options: JudgeOptions | None, who: Known | None) -> dict[str, Any]:
    """What of the judge belongs to the protocol of a task: who judges where and how, not at what cost."""
    if not task.spec.judge or options is None:
        return {}
    dropped = who.takes.get("dropped", ()) if who is not None else ()
    said: dict[str, Any] = {"judge": options.model, "judge_endpoint": options.place}
    said["temperature"] = None if "temperature" in dropped else options.temperature
    if options.params:
        said["judge_params"] = dict(options.params)
    return said | ({} if who is None else who.served.parameters)


def provenance(options: JudgeOptions, who: Known | None) -> dict[str, Any]:
    """Who was asked, who answered, and what the endpoint takes: plain JSON."""
    said: dict[str, Any] = {"asked": options.model, "endpoint": options.place}
    if options.headers:
        said["headers"] = sorted(options.headers)  # their names: values are secrets
    if who is None:
        return said
    takes = {"takes": Abilities(**who.takes).words} if who.takes else {}
    return said | who.served.parameters | takes


def meet(judge: Judge) -> str:
    """Ask the first question; says in a line who answers and what the endpoint takes.

    Raises JudgeError, UsageError where the judge cannot be asked.
    """
    reply = judge.meet(prompts.first())
    options, who = judge.options, judge.known
    if reply.status in ("budget", "missing"):
        return f"judge: {options.model} at {options.place} was not asked: {reply.reason}"
    assert who is not None
    if reply.status == "truncated":
        say = f"its reply to the first question was cut off; {_longer(reply, options)}"
    elif reply.status != "ok":
        say = f"it did not answer the first question ({reply.reason})"
    else:
        say = (
            ""
            if evidence(judge)
            else f"its reply to the first question cannot be read: {short(reply.text) or 'nothing'}"
        )
    if say:
        warnings.warn(f"the judge {options.model} at {options.place}: {say}", stacklevel=2)
    if not who.served.is_asked(options.model):
        warnings.warn(_otherwise(options, who), stacklevel=2)
    takes = ", ".join(f"{name}: {value}" for name, value in Abilities(**who.takes).words.items())
    return f"judge: {options.model} at {options.place} answers as {who.served}; {takes}"


def evidence(judge: Judge) -> list[Ratings]:
    """What the judge said to the first question, whose answers are known; nothing where that cannot be read."""
    said = None if judge.known is None else read_answers(judge.known.said, list(prompts.CERTAIN))
    return [said] if isinstance(said, Ratings) else []


def _longer(reply: Completion, options: JudgeOptions) -> str:
    """What to do about a reply that was cut off: some servers cut the question without a word, which leaves no room."""
    written = reply.completion_tokens
    if written is not None and written < _FEW and options.reply_tokens is None:
        return f"it ended after {written} tokens, so serve the model with a longer context"
    return "give --reply-tokens a larger number"


def _otherwise(options: JudgeOptions, who: Known) -> str:
    return (
        f"{options.model} was asked for, and {options.place} answers as {who.served.model}, which the result names "
        "as its judge; if that is not the one that you want, give --judge-model or --judge-base-url another value"
    )


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


def usage(judge: Judge | None) -> dict[str, Any]:
    """What the judge was asked in this run and what it took, plain JSON; empty without a judge."""
    if judge is None:
        return {}
    found = judge.usage
    return {
        "requests": found.requests,
        "tries": found.attempts,
        "tokens_in": found.prompt_tokens,
        "tokens_out": found.completion_tokens,
        "tokens_of_thoughts": found.reasoning_tokens,
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
    thoughts = f" ({used['tokens_of_thoughts']} of them thoughts)" if used["tokens_of_thoughts"] else ""
    cost += f" ({used['prices']})" if "prices" in used else ""
    tokens = f"{used['tokens_in']} tokens in and {used['tokens_out']} out{thoughts}{unknown}"
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
        stuck = limit.startswith("--") and used.get("requests", 0) <= 1  # the first question is asked in every run
        goes_on = (
            "that holds no more than the first question: give a larger limit" if stuck else "the same command goes on"
        )
        found.append(f"{name}: {limit}: {judged} of {latents} latents judged, {cost} spent; {goes_on}")
    return found


def made(options: JudgeOptions | None, batch: str | Path | None) -> Judge | None:
    """The judge of a run. With ``batch`` it sends nothing: what has no answer yet is to be written there."""
    if options is None:
        return None
    return Judge(options) if batch is None else Exporter(replace(options, cache_only=True))


def check_cached(judge: Judge) -> None:
    """Refuse a cache that is to answer alone and holds nothing of this judge. Raises JudgeError."""
    options = judge.options
    if judge.may_ask or isinstance(judge, Exporter):
        return
    with judge:
        if judge.known is not None:
            return
        held = [f"{asked} at {endpoint}" for endpoint, asked, _ in judge.judges()]
    listed = "; it has answers of " + ", ".join(held[:4]) + (" and others" if len(held) > 4 else "") if held else ""
    raise JudgeError(
        f"the cache {options.cache} has no answer of {options.model} at {options.endpoint}, and only the cache may "
        f"answer{listed}; give --judge-model and --judge-base-url or --judge-endpoint as they were given then"
    )


@contextmanager
def opened(
    tasks: Mapping[str, Task], judge: Judge | None, batch: str | Path | None, progress: Progress
) -> Iterator[None]:
    """Open the judge for the tasks that ask it. Raises JudgeError.

    With ``batch`` the requests that have no answer yet are written to that file at the end.
    """
    if judge is None:
        yield
        return
    if batch is not None:
        with Judge(replace(judge.options, cache_only=False)):  # makes the cache, if there is none yet
            pass
    with judge:
        for task in asking_of(tasks):
            task.judge, task.progress, task.evidence = judge, progress, evidence(judge)
        yield
        if isinstance(judge, Exporter) and batch is not None:
            judge.export_batch(judge.wanted, Path(batch))
