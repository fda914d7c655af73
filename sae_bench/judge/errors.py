"""What stops a judge, in one sentence each."""

from __future__ import annotations

from sae_bench.errors import SaeBenchError
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.outcomes import Outcome
from sae_bench.judge.served import Served

KEPT = "what was paid for is in the cache, and the same command goes on from there"

PROXY_PASSWORD = (
    "put name and password for the proxy into the variable that names it, as http://name:password@host:port"
)


class JudgeError(SaeBenchError):
    """An endpoint or a cache of completions that cannot be used. What was paid for before it stays in the cache."""


def refused(outcome: Outcome, options: JudgeOptions, has_key: bool) -> JudgeError:
    """The sentence for what no second try would change."""
    where, status, reason = f"the endpoint {options.url}", outcome.status, outcome.reason
    if outcome.cure is not None:
        return JudgeError(f"{where} cannot be reached ({reason}); {outcome.cure}")
    if outcome.quota or status == 402:
        return JudgeError(f"{where} says that the account has no credit left ({reason}); add credit: {KEPT}")
    if status == 401:
        wrong = f"the key in {options.api_key_env} is wrong (--judge-key-env names another variable)"
        cure = wrong if has_key else f"put a key into {options.api_key_env}, or name its variable with --judge-key-env"
        return JudgeError(f"{where} did not accept the request ({reason}); {cure}")
    if status == 403:
        return JudgeError(f"{where} does not allow this key to use {options.model} ({reason}); ask for access to it")
    if status == 404 and "model" in reason.lower():
        return JudgeError(
            f"{where} has no model {options.model!r} ({reason}); give --judge-model a name as the endpoint lists it"
        )
    if 300 <= status < 400:
        return JudgeError(
            f"{where} answers with {reason}, and no redirect is followed: the key goes to nobody else; give that "
            "address, if you trust it"
        )
    if status == 407:
        return JudgeError(f"{where} cannot be reached ({reason}); {PROXY_PASSWORD}")
    if status in (404, 405) or status < 300:
        return JudgeError(
            f"{where} does not speak the chat-completions protocol (status {status}: {reason}); "
            "give the address before /chat/completions: most end in /v1"
        )
    return JudgeError(f"{where} refused the request (status {status}: {reason}); {_advice(outcome, options)}; {KEPT}")


def another(options: JudgeOptions, judge: Served | None, now: Served) -> JudgeError:
    """The sentence for an endpoint that answers as somebody else in the middle of a run."""
    if judge is not None and judge.model == now.model and judge.provider == now.provider:
        cure = "where one model is served by several machines, --judge-fingerprint any takes them as one judge"
    elif judge is not None and judge.model == now.model:
        one = f'{{order = ["{judge.provider}"], allow_fallbacks = false}}'
        cure = f"--judge-param 'provider={one}' names one provider"
    else:
        cure = "give --judge-model a name that stands for one model, such as that of a dated snapshot"
    return JudgeError(
        f"the endpoint {options.url} has answered as {judge} and now answers as {now}, and one result has one judge; "
        f"{cure}, or give the same command again: it begins anew with whoever answers then, and what each has said "
        "is in the cache"
    )


def _advice(outcome: Outcome, options: JudgeOptions) -> str:
    """What to do about a request that is refused in any words."""
    given = next((name for name in options.params if name.lower() in outcome.words), None)
    if given is not None:
        return f"leave out --judge-param {given}, or give it another value"
    for name in ("temperature", "seed", "response_format"):
        if name in outcome.words:
            return f"leave it out with --judge-param {name}=none"
    if "context" in outcome.words or "max_tokens" in outcome.words or outcome.status == 413:
        return (
            "serve the model with a longer context, give --reply-tokens a smaller number, or show less with --param "
            "autointerp.windows_a_request=5 --param autointerp.shown=10"
        )
    return "correct --judge-model, or give what the endpoint asks for with --judge-param or --judge-header"
