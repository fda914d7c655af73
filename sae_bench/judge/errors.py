"""What stops a judge, in one sentence each."""

from __future__ import annotations

from sae_bench.errors import SaeBenchError
from sae_bench.judge.options import JudgeOptions
from sae_bench.judge.outcomes import Outcome

KEPT = "what was paid for is in the cache, and the same command goes on from there"

PROXY_PASSWORD = (
    "put name and password for the proxy into the variable that names it, as http://name:password@host:port"
)

_PARAMETERS = ("temperature", "seed")


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
        cure = f"the key in {options.api_key_env} is wrong" if has_key else f"put a key into {options.api_key_env}"
        return JudgeError(f"{where} did not accept the request ({reason}); {cure}")
    if status == 403:
        return JudgeError(f"{where} does not allow this key to use {options.model} ({reason}); ask for access to it")
    if status == 404 and "model" in reason.lower():
        return JudgeError(f"{where} has no model {options.model!r} ({reason}); give the name as the endpoint lists it")
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
    named = [name for name in _PARAMETERS if name in reason.lower()]
    cure = f"set {named[0]} to None" if named else "correct the model, the options or the length of the request"
    return JudgeError(f"{where} refused the request (status {status}: {reason}); {cure}; {KEPT}")
