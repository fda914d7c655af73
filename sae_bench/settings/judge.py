"""What is said of the judge: the language model that explains latents, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sae_bench.settings.stated import stated
from sae_bench.settings.told import Told


@dataclass(frozen=True)
class OfJudge(Told):
    """Settings about the judge; see :class:`sae_bench.judge.JudgeOptions` for what most of them mean.

    ``judge_model`` and ``judge_base_url``: the language model that explains latents (autointerp), and where it is.
    ``judge_batch``: a file to which requests are written instead of being sent. ``null="untrained"``: judge the control
    "random" too.
    """

    judge_model: str | None = stated(
        None, "language model that explains latents and is asked where they fire; its key is read from OPENAI_API_KEY",
        "judge", "NAME", suite="fixed", repeats=True)  # fmt: skip
    judge_key_env: str | None = stated(
        None, "environment variable that holds the key (default: OPENAI_API_KEY)", "judge", "NAME",
        judge="api_key_env")  # fmt: skip
    judge_base_url: str | None = stated(
        None, "endpoint that speaks the OpenAI chat protocol (default: OPENAI_BASE_URL, else OpenAI); with "
        "?api-version=... as Azure wants it", "judge", "URL", suite="fixed", judge="base_url")  # fmt: skip
    judge_params: Mapping[str, Any] = stated(
        {}, "more of the body of every request; the value none leaves out what is sent otherwise, as temperature=none; "
        "may be repeated", "judge", many="--judge-param", suite="said", judge="params")  # fmt: skip
    judge_headers: Mapping[str, str] = stated(
        {}, "more headers, never shown; $VARIABLE as value is read from the environment; may be repeated", "judge",
        many="--judge-header", judge="headers")  # fmt: skip
    judge_timeout: float | None = stated(
        None, "for a whole reply (default: 60)", "judge", "SECONDS", judge="timeout")  # fmt: skip
    reply_tokens: int | None = stated(
        None, "length limit of every reply, thoughts included (default: what it needs, and 4096 more where it was cut "
        "off)", "judge", "N", judge="reply_tokens")  # fmt: skip
    judge_endpoint: str | None = stated(
        None, "stands for the address in results and cache, where that changes and the model behind it does not "
        "(default: host and path)", "judge", "NAME", judge="endpoint_id")  # fmt: skip
    judge_fingerprint: Literal["auto", "one", "any"] = stated(
        "auto", "one: another system_fingerprint is another judge; any: it is not; auto: one for a server of your own, "
        "any for services, which answer from many machines", "judge", judge="fingerprint")  # fmt: skip
    judge_cache: str | Path | None = stated(
        None, "completions that were paid for (default: ~/.cache/sae-bench/judge.sqlite)", "judge", "FILE")  # fmt: skip
    judge_cache_only: bool = stated(
        False, "answer from the cache alone, without a network", "judge", judge="cache_only")  # fmt: skip
    judge_batch: str | Path | None = stated(
        None, "write the requests for a batch API instead of sending them (see: sae-bench judge)", "judge",
        "FILE")  # fmt: skip
    null: Literal["none", "untrained"] = stated(
        "none", "untrained: judge the control random as well, for twice the cost", "judge", suite="said")  # fmt: skip
    max_requests: int | None = stated(
        None, "requests of this run at most, retries included", "judge", "N", judge="max_requests")  # fmt: skip
    max_tokens: int | None = stated(
        None, "tokens in and out of this run at most", "judge", "N", judge="max_tokens")  # fmt: skip
    max_cost: float | None = stated(
        None, "cost of this run at most; needs both prices, where they are not known", "judge", "X",
        judge="max_cost")  # fmt: skip
    price_in: float | None = stated(
        None, "price of a million tokens in (default: the known one, of a few models of OpenAI, Anthropic and Google "
        "at their own hosts)", "judge", "X", judge="price_in")  # fmt: skip
    price_out: float | None = stated(
        None, "price of a million tokens out", "judge", "X", judge="price_out")  # fmt: skip
