"""How a run keeps to a suite: its values become settings, and what contradicts them is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from numbers import Number
from types import MappingProxyType
from typing import Any

from sae_bench import registry
from sae_bench.errors import UsageError
from sae_bench.schema import Protocol, TaskSpec
from sae_bench.settings import CORE, Settings, of
from sae_bench.settings import flag as called
from sae_bench.suites.claims import differences
from sae_bench.suites.record import Known, Suite, every, find

AUTO, NONE = "auto", "none"
NEUTRAL = {"bos": "auto", "dtype": "auto"}  # values that leave it to something else, and so to the suite
SILENT = {"null": "none"}  # values that ask for nothing, and so say nothing of what is measured
# How the text's files are read: digests say whether it is the suite's.
READ = tuple(name for name, stated in of(Settings).items() if stated.suite == "reads")
Named = Callable[[str], str]  # how a setting is called where it was given


def values(suite: Suite) -> dict[str, Any]:
    """What a suite fixes, by the names of settings."""
    text = suite.text
    judge = suite.judge
    return {
        **{name: getattr(text, name) for name in ("tier", "limit", "tokens", "context", "packed", "bos", *READ)},
        **{name: getattr(suite, name) for name in ("mask", "mean_from", "controls", "seed", "resamples")},
        "groups": None,
        "backend": suite.model.backend,
        "dtype": suite.model.dtype,
        "sae_dtype": "auto",
        "parameters": dict(suite.parameters),
        "probe_data": None,
        "probe_sets": suite.labelled.sets,
        "judge_model": judge.model if judge else None,
        "judge_base_url": judge.base_url if judge else None,
        "task_dir": None,
    }


def said(given: Mapping[str, Any]) -> list[str]:
    """Which of some settings say what is measured: with one of them a run without ``suite`` keeps to none."""
    known = of(Settings)
    own = {name: value for name, value in given.items() if name in known and known[name].suite is not None}
    return [name for name, value in own.items() if not (_nothing(value) or _is(value, SILENT.get(name)))]


def _nothing(value: Any) -> bool:
    """Whether a setting that was given says nothing, as programs do that hand on what they were not given."""
    return value is None or (isinstance(value, Mapping) and not value)


def flag(name: str) -> str:
    """How the command line calls a setting."""
    return called(Settings, name)


def setting(name: str) -> str:
    """How Python calls a setting."""
    return name


def refuse(given: Mapping[str, Any], named: Named = flag) -> Known | None:
    """Refuse what contradicts the suite that ``given`` names, of settings that were said; returns it. UsageError."""
    name = given.get("suite", AUTO)
    if name in (AUTO, NONE):
        return None
    known = find(name)
    fixed = values(known.suite)
    text_given = given.get("data") is not None
    for one, value in given.items():
        if one == "tasks":
            _subset(known.suite, value, named)
        if one not in fixed or _nothing(value) or _is(value, fixed[one]) or _is(value, NEUTRAL.get(one)):
            continue
        if text_given and one in READ:
            continue
        raise UsageError(
            f"{_said(named, one, value)} contradicts the suite {known.suite.name}, which fixes {_shown(fixed[one])}: "
            f"leave it out, or run without {named('suite')} (such results are unofficial)"
        )
    return known


def _is(value: Any, fixed: Any) -> bool:
    """Whether a value is what is fixed; labels in an array, which compare one by one, are nothing that is."""
    return value is fixed or (isinstance(value, str | Number | Mapping) and bool(value == fixed))


def _said(named: Named, name: str, value: Any) -> str:
    """A setting with its value, as it was given; a switch has none."""
    return named(name) if value is True else f"{named(name)} {_shown(value)}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={one}" for name, one in value.items()) or "none"
    return "none" if value is None or value is False else " ".join(str(value).split())[:80]


def _subset(suite: Suite, tasks: str | None, named: Named) -> list[str]:
    """The tasks of a suite that were chosen, all by default. Raises UsageError for others."""
    if tasks is None:
        return list(suite.tasks)
    known = registry.tasks()
    chosen = registry.choose(tasks, known, "task", {"core": CORE})
    if others := [name for name in chosen if name not in suite.tasks]:
        raise UsageError(
            f"{named('tasks')} {tasks}: {others[0]} is no task of the suite {suite.name}, whose tasks are "
            f"{', '.join(suite.tasks)}; run without {named('suite')} (such results are unofficial)"
        )
    return chosen


def explicit(settings: Settings) -> tuple[Settings, Known | None]:
    """The settings of a run with those of the suite that it names. Raises UsageError for what contradicts it."""
    if settings.suite in (AUTO, NONE):
        return settings, None
    changed = {name: getattr(settings, name) for name in defaults() if not _is_default(settings, name)}
    refuse(changed | {"suite": settings.suite}, setting)
    return _applied(settings, known := find(settings.suite)), known


def adopted(settings: Settings, model: str | None) -> tuple[Settings, Known | None]:
    """The settings with those of the suite of a model, where nothing was said of what is measured; else as they are."""
    if settings.suite != AUTO or any(
        not _is_default(settings, name) for name, stated in of(Settings).items() if stated.suite is not None
    ):
        return settings, None
    known = of_model(model)
    return (settings, None) if known is None else (_applied(settings, known), known)


def _applied(settings: Settings, known: Known) -> Settings:
    chosen = ",".join(_subset(known.suite, settings.tasks, setting))
    fixed = values(known.suite)
    if settings.data is not None:  # which says how its files are read
        fixed |= {name: getattr(settings, name) for name in READ}
    return dataclasses.replace(settings, **fixed, tasks=chosen)


def of_model(model: str | None) -> Known | None:
    """The suite of a model by its name: a sealed one before others, then the last by name; None where there is none."""
    if model is None:
        return None
    found = [k for k in every().values() if model in (k.suite.model.id, *k.suite.model.also)]
    return max(found, key=lambda known: (known.sealed, known.suite.name), default=None)


def check(known: Known, protocols: Sequence[Protocol], specs: Mapping[str, TaskSpec], what: str) -> None:
    """Refuse what was loaded where it is not what the suite fixes. Raises UsageError."""
    for protocol in protocols:
        if found := differences(known, protocol, specs):
            raise UsageError(
                f"{what} is not what the suite {known.suite.name} fixes: {found[0]}; measure on the suite's own, or "
                "without it (such results are unofficial)"
            )


def check_model(known: Known, digests: Any, tokenizer_sha256: str | None) -> None:
    """Refuse another language model than the suite's, as soon as it is loaded. Raises UsageError."""
    if (seal := known.suite.seal) is None:
        return
    pairs = (
        ("weights", digests.weights, seal.weights_sha256),
        ("configuration", digests.config, seal.config_sha256),
        ("tokenizer", tokenizer_sha256, seal.tokenizer_sha256),
    )
    for what, here, sealed in pairs:
        if here != sealed:
            raise UsageError(
                f"the model is not that of the suite {known.suite.name}: the digest of its {what} is {_digest(here)}, "
                f"and of the suite's {_digest(sealed)}; give {known.suite.model.id} as it was sealed, or run without "
                "--suite (such results are unofficial)"
            )


def _digest(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]


@cache
def defaults() -> Mapping[str, Any]:
    """The default of every setting."""
    blank = Settings()
    return MappingProxyType({f.name: getattr(blank, f.name) for f in dataclasses.fields(Settings)})


def _is_default(settings: Settings, name: str) -> bool:
    value, default = getattr(settings, name), defaults()[name]
    return value is default or (isinstance(value, type(default)) and bool(value == default))
