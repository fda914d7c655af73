"""Who judged a result: what makes two results those of one judge, and the judge in words.

Results of this version name asked and returned model, endpoint and parameters in their protocol; older ones name the
asked model there, and the returned ones in their details. What an older result does not say is not guessed: it is of
another judge than a result that says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae_bench.schema import Result
from sae_bench.show.text import line, shortened

ASKED = "judge"  # of the protocol's parameters: the mark of a result that was judged
SAID = ("judge",)  # name in the details: what older results say of their judge
FIELDS = {
    "judge": "asked for as",
    "judge_endpoint": "at",
    "judge_model": "answered by",
    "judge_fingerprint": "with the fingerprint",
    "judge_provider": "from the provider",
    "judge_params": "with the parameters",
    "temperature": "at temperature",
}
_FIRST = ("judge", "judge_endpoint", "judge_model")
_MOST = 4  # models that are listed


def judged(result: Result) -> bool:
    """Whether a judge made the figures."""
    return ASKED in result.provenance.protocol.parameters


def identity(result: Result) -> tuple[str, ...]:
    """Equal for two results of one judge; empty where nobody judged."""
    if not judged(result):
        return ()
    said = _said(result)
    return tuple(repr(_plain(said.get(name))) for name in FIELDS)


def differ(a: Result, b: Result) -> bool:
    """Whether two results were made by different judges, or one of them does not say by whom."""
    return identity(a) != identity(b)


def in_words(result: Result, *, also: tuple[str, ...] = ()) -> str:
    """The judge as "gpt-4o-2024-08-06 (asked for as gpt-4o) at api.openai.com/v1", with the fields ``also``."""
    said = _said(result)
    if not said:
        return "nobody that the result names"
    asked, model = _text(said.get("judge")), _text(said.get("judge_model"))
    name = asked if model in ("", asked) else f"{model} (asked for as {asked})"
    where = _text(said.get("judge_endpoint"))
    parts = [name, f"at {where}" if where else "at an endpoint that the result does not name"]
    parts += [f"{FIELDS[field]} {_text(said.get(field)) or 'none'}" for field in also if field not in _FIRST]
    return " ".join(parts)


def both_in_words(a: Result, b: Result) -> tuple[str, str]:
    """Two judges that differ, each with what it differs in."""
    one, other = _said(a), _said(b)
    also = tuple(name for name in FIELDS if _plain(one.get(name)) != _plain(other.get(name)))
    first, second = in_words(a, also=also), in_words(b, also=also)
    if first == second:  # one says which model answered, and it is the one that was asked
        first, second = (
            word if said.get("judge_model") else f"{word} (the result does not say which model answered)"
            for word, said in ((first, one), (second, other))
        )
    return first, second


def without_judge(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a protocol that are not about the judge."""
    return {name: value for name, value in parameters.items() if name not in FIELDS}


def _said(result: Result) -> dict[str, Any]:
    """What the result says of its judge, by the names of FIELDS."""
    parameters = result.provenance.protocol.parameters
    said = {name: parameters[name] for name in FIELDS if name in parameters}
    if not said.get("judge_model"):
        served = result.details.get("judge")
        models = served.get("models") if isinstance(served, dict) else None
        if isinstance(models, list) and models:
            said["judge_model"] = sorted(str(one) for one in models)
    return said


def _plain(value: Any) -> Any:
    """Equal for values that say the same: nothing in any form, and one model alone or in a list."""
    if isinstance(value, list) and len(value) == 1:
        return value[0]
    return None if value in ("", [], {}) else value


def _text(value: Any) -> str:
    """A value in words, on one bounded line."""
    if value is None:
        return ""
    if isinstance(value, dict):
        value = ", ".join(f"{name}={one}" for name, one in sorted(value.items()))
    elif isinstance(value, list):
        more = f" and {len(value) - _MOST} more" if len(value) > _MOST else ""
        value = f"{' and '.join(map(str, value[:_MOST]))}{more}"
    return shortened(line(str(value)))
