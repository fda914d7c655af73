"""The flags of ``sae-bench run`` that are about the judge."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from sae_bench.cli.pairs import named
from sae_bench.errors import UsageError

FIELDS = (
    *("judge_model", "judge_base_url", "judge_key_env", "judge_timeout", "judge_endpoint", "judge_fingerprint"),
    *("reply_tokens", "judge_cache", "judge_cache_only", "judge_batch", "null"),
    *("max_requests", "max_tokens", "max_cost", "price_in", "price_out"),
)


def add(judge: Any) -> None:
    """Add them to a group of the parser."""
    judge.add_argument("--judge-model", metavar="NAME", help="language model that explains latents and is asked where "
                       "they fire; its key is read from OPENAI_API_KEY")  # fmt: skip
    judge.add_argument("--judge-key-env", metavar="NAME", help="environment variable that holds the key (default: "
                       "OPENAI_API_KEY)")  # fmt: skip
    judge.add_argument("--judge-base-url", metavar="URL", help="endpoint that speaks the OpenAI chat protocol "
                       "(default: OPENAI_BASE_URL, else OpenAI); with ?api-version=... as Azure wants it")  # fmt: skip
    judge.add_argument("--judge-param", action="append", default=[], metavar="NAME=VALUE", help="more of the body of "
                       "every request; the value none leaves out what is sent otherwise, as temperature=none; may be "
                       "repeated")  # fmt: skip
    judge.add_argument("--judge-header", action="append", default=[], metavar="NAME=VALUE", help="more headers, never "
                       "shown; $VARIABLE as value is read from the environment; may be repeated")  # fmt: skip
    judge.add_argument("--judge-timeout", type=float, metavar="SECONDS", help="for a whole reply (default: 60)")
    judge.add_argument("--reply-tokens", type=int, metavar="N", help="length limit of every reply, thoughts included "
                       "(default: what it needs, and 4096 more where it was cut off)")  # fmt: skip
    judge.add_argument("--judge-endpoint", metavar="NAME", help="stands for the address in results and cache, where "
                       "that changes and the model behind it does not (default: host and path)")  # fmt: skip
    judge.add_argument("--judge-fingerprint", default="auto", choices=["auto", "one", "any"], help="one: another "
                       "system_fingerprint is another judge; any: it is not; auto: one for a server of your own, any "
                       "for services, which answer from many machines")  # fmt: skip
    judge.add_argument("--judge-cache", metavar="FILE",
                       help="completions that were paid for (default: ~/.cache/sae-bench/judge.sqlite)")  # fmt: skip
    judge.add_argument("--judge-cache-only", action="store_true", help="answer from the cache alone, without a network")
    judge.add_argument("--judge-batch", metavar="FILE", help="write the requests for a batch API instead of sending "
                       "them (see: sae-bench judge)")  # fmt: skip
    judge.add_argument("--null", default="none", choices=["none", "untrained"],
                       help="untrained: judge the control random as well, for twice the cost")  # fmt: skip
    judge.add_argument("--max-requests", type=int, metavar="N", help="requests of this run at most, retries included")
    judge.add_argument("--max-tokens", type=int, metavar="N", help="tokens in and out of this run at most")
    judge.add_argument("--max-cost", type=float, metavar="X", help="cost of this run at most; needs both prices, "
                       "where they are not known")  # fmt: skip
    judge.add_argument("--price-in", type=float, metavar="X", help="price of a million tokens in (default: the known "
                       "one, of a few models of OpenAI, Anthropic and Google at their own hosts)")  # fmt: skip
    judge.add_argument("--price-out", type=float, metavar="X", help="price of a million tokens out")


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What was given, as fields of :class:`sae_bench.settings.Settings`. Raises UsageError."""
    params = named(args.judge_param, "--judge-param")
    nothing = {name: None if value in ("none", "None", "null") else value for name, value in params.items()}
    own = {name: getattr(args, name) for name in FIELDS}
    return own | {"judge_params": nothing, "judge_headers": _headers(args.judge_header)}


def _headers(given: Sequence[str]) -> dict[str, str]:
    """{name: value} from ``name=value`` or ``name=$VARIABLE``; shows no value. Raises UsageError."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = (part.strip() for part in one.partition("="))
        if not equals:
            raise UsageError("--judge-header must be NAME=VALUE, such as X-Title=sae-bench, or NAME=$VARIABLE")
        if value.startswith("$"):
            variable = value.removeprefix("$").strip("{}")
            if not (value := os.environ.get(variable, "").strip()):
                raise UsageError(f"--judge-header {name} is read from ${variable}, and that variable is not set")
        found[name] = value
    return found
