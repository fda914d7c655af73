"""Where the judge is, how it is asked, and what it may cost."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from sae_bench.errors import UsageError
from sae_bench.files import cache_folder
from sae_bench.judge import prices
from sae_bench.judge.flags import told
from sae_bench.judge.secrets import Scrubber

DEFAULT_URL = "https://api.openai.com/v1"


def default_cache() -> Path:
    """Where completions are kept, unless told otherwise: one file for all runs of a user."""
    before = Path.home() / ".cache" / "sae-bench" / "judge.sqlite"  # what was paid for there is not paid for again
    folder = None if before.exists() else cache_folder()
    return folder / before.name if folder else before


@dataclass(frozen=True)
class JudgeOptions:
    """A model behind an endpoint, and the limits of one run.

    Attributes:
        model: name of the model, as the endpoint lists it.
        base_url: address before ``/chat/completions``; from ``OPENAI_BASE_URL``, else OpenAI. May end in
            ``?api-version=...``, as Azure wants it; the key then goes in the header ``api-key``.
        api_key_env: name of the environment variable that holds the key; the key itself is never an option.
        endpoint_id: stands for the endpoint in the keys of the cache and in protocols; host and path of the address,
            unless given. Give one where the address changes and the model behind it does not.
        timeout: seconds until one try is given up.
        concurrency: requests under way at once, at most; fewer while the endpoint asks for it.
        temperature: 0 to 2, or None to send none (some models take only their own).
        seed: sent with every request, plus its ``sample_index``; None sends none.
        params: more of the body of every request, by name; None leaves out what would be sent.
        headers: more headers of every request, by name. Their values are secrets: nothing shows or keeps them.
        reply_tokens: length limit of every reply, thoughts included; None takes what each request needs, and once more
            with room for thoughts where a reply was cut off.
        fingerprint: whether another ``system_fingerprint`` is another judge: "one" says yes, "any" no, "auto" yes for
            a server of one's own (a private address); a service answers from many machines, with a fingerprint each.
        cache: SQLite file with one row a completion; None keeps completions in memory only.
        cache_only: answer from the cache alone and never open a connection.
        max_requests: HTTP requests of this run at most, retries included.
        max_tokens: tokens in and out of this run at most.
        max_cost: cost of this run at most, in the currency of the prices; needs both prices, if they are not known.
        price_in: price of a million tokens in; where neither price is given, the known one of :mod:`.prices`.
        price_out: price of a million tokens out.

    Raises UsageError for a value that cannot be used.
    """

    model: str
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    endpoint_id: str | None = None
    timeout: float = 60.0
    concurrency: int = 16
    temperature: float | None = 0.0
    seed: int | None = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    reply_tokens: int | None = None
    fingerprint: Literal["auto", "one", "any"] = "auto"
    cache: Path | None = field(default_factory=default_cache)
    cache_only: bool = False
    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        _text("model", self.model)
        if self.endpoint_id is not None:
            _text("endpoint_id", self.endpoint_id)
        object.__setattr__(self, "base_url", _address(self.base_url))
        if not isinstance(self.api_key_env, str) or not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", self.api_key_env):
            raise UsageError(
                "--judge-key-env must be the name of an environment variable in capitals, such as OPENAI_API_KEY; "
                "put the key itself into that variable"
            )
        _parameters(self.params)
        _headers(self.headers)
        if self.fingerprint not in ("auto", "one", "any"):
            raise UsageError(f"--judge-fingerprint must be auto, one or any, but is {self.fingerprint!r}")
        self._hold_no_key()
        _integer("reply_tokens", self.reply_tokens, least=1 if self.reply_tokens is not None else 0)
        _number("timeout", self.timeout, above=0.0)
        _integer("concurrency", self.concurrency, least=1, most=1024)
        _number("temperature", self.temperature, most=2.0)
        _integer("seed", self.seed)
        _integer("max_requests", self.max_requests)
        _integer("max_tokens", self.max_tokens)
        for name in ("max_cost", "price_in", "price_out"):
            _number(name, getattr(self, name))
        if self.max_cost is not None and self.price is None:
            raise UsageError(
                "--max-cost needs --price-in and --price-out, the prices of a million tokens, which are not known of "
                "this judge; give all three"
            )
        if self.cache is not None:
            if not isinstance(self.cache, str | os.PathLike):
                raise UsageError(f"--judge-cache must be the path of a file or None, but is {self.cache!r}")
            object.__setattr__(self, "cache", Path(self.cache).expanduser())
        if self.cache_only and self.cache is None:
            raise UsageError(
                "--judge-cache-only answers from a cache, but there is none; give its file with --judge-cache"
            )

    def _hold_no_key(self) -> None:
        """All options but the headers are kept and printed. Raises UsageError."""
        scrub = Scrubber(*self.secrets)
        for name in ("model", "base_url", "endpoint_id", "params"):
            value = getattr(self, name)
            if value is not None and scrub.text(f"{value}") != f"{value}":
                raise UsageError(
                    f"{told(name)} holds the key that is in {self.api_key_env}, or a value of --judge-header, and "
                    "would be kept with every result; leave it out there"
                )

    @property
    def secret(self) -> str:
        """The key, as the environment has it now; empty without one."""
        return os.environ.get(self.api_key_env, "").strip()

    @property
    def secrets(self) -> tuple[str, ...]:
        """What nothing may show or keep: the key, and the values of headers that are no mere names."""
        return (self.secret, *(value for name, value in self.headers.items() if name.lower() not in _OPEN_HEADERS))

    @property
    def url(self) -> str:
        """Address of the endpoint, without a slash at its end."""
        return self.base_url or DEFAULT_URL

    @property
    def endpoint(self) -> str:
        """What stands for the endpoint in the keys of the cache."""
        return self.endpoint_id or self.url

    @property
    def place(self) -> str:
        """What stands for the endpoint in protocols and messages: host and path, unless it has a name."""
        if self.endpoint_id is not None:
            return self.endpoint_id
        parts = urlsplit(self.url)
        port = "" if parts.port in (None, {"http": 80, "https": 443}[parts.scheme.lower()]) else f":{parts.port}"
        version = f"?{parts.query}" if parts.query else ""
        return f"{parts.hostname}{port}{parts.path}{version}"

    @property
    def fingerprints(self) -> bool:
        """Whether another fingerprint is another judge."""
        return self.fingerprint == "one" or (self.fingerprint == "auto" and _is_private(urlsplit(self.url).hostname))

    def limit(self, tokens: int) -> int:
        """Length limit of a reply that needs so many tokens, without room for thoughts."""
        return tokens if self.reply_tokens is None else self.reply_tokens

    @property
    def price(self) -> prices.Price | None:
        """The prices that were given, else the known ones; None where both are lacking."""
        return prices.of((self.price_in, self.price_out), self.url, self.model, self.params)

    def cost(self, tokens_in: float, tokens_out: float) -> float | None:
        """Price of so many tokens, or None without both prices."""
        price = self.price
        return None if price is None else (tokens_in * price.price_in + tokens_out * price.price_out) / 1e6


def _text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise UsageError(f"{told(name)} must be a printable text that is not empty, but is {value!r}")


def _address(value: str | None) -> str:
    """The address, from the environment where none is given. Shows none: it may hold a password, or be a key."""
    given = value if value is not None else os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    source = told("base_url") if value is not None else "OPENAI_BASE_URL"
    if not isinstance(given, str):
        raise UsageError(
            f"{source} must be a text such as http://localhost:8000/v1, but it is a {type(given).__name__}"
        )
    given, _, query = given.strip().partition("?")
    named = parse_qsl(query, keep_blank_values=True)
    if any(mark in unquote(given) for mark in "@?#") or "#" in query or {name for name, _ in named} - {"api-version"}:
        raise UsageError(
            f"{source} must be an address without user name, password or query (but for api-version); put the key into "
            "an environment variable and name it with --judge-key-env, and other credentials in --judge-header"
        )
    if (fault := _fault(given)) is not None:
        raise UsageError(f"{source} must look like http://localhost:8000/v1, but {fault}")
    if any(not re.fullmatch(r"[\w.-]{1,64}", version) for _, version in named):
        raise UsageError(f"the api-version in {source} must be letters, digits, dots and dashes, such as 2024-10-21")
    address = given.rstrip("/").removesuffix("/chat/completions")
    return f"{address}?api-version={named[-1][1]}" if named else address


def _parameters(params: Mapping[str, Any]) -> None:
    """Refuse what is no part of a body, or has a setting of its own. Raises UsageError."""
    for name, value in params.items():
        if name in _OWN:
            raise UsageError(f"--judge-param cannot set {name!r}: {_OWN[name]}")
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w.-]{0,63}", name):
            raise UsageError(f"--judge-param needs NAME=VALUE with a name such as top_p, but the name is {name!r}")
        try:
            json.dumps(value, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"the value that --judge-param gives {name} is not JSON; give a number, text or list"
            ) from error


def _headers(headers: Mapping[str, str]) -> None:
    """Refuse what no header can be; shows no value. Raises UsageError."""
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", name):
            raise UsageError("--judge-header needs NAME=VALUE with the name of a header, such as X-Title=sae-bench")
        if name.lower() in ("host", "content-length", "content-type", "transfer-encoding", "connection"):
            raise UsageError(f"--judge-header cannot set {name}: it belongs to the connection")
        if not isinstance(value, str) or not value.strip() or not (value.isascii() and value.isprintable()):
            raise UsageError(f"the value of --judge-header {name} is empty or has a character that no header has")


_OWN = {
    "model": "give --judge-model",
    "messages": "they are what is asked",
    "max_tokens": "give --reply-tokens",
    "max_completion_tokens": "give --reply-tokens",
    "n": "one reply to a request is read",
}
_OPEN_HEADERS = ("x-title", "http-referer", "referer", "user-agent", "accept", "accept-language")  # not secret


def _is_private(host: str | None) -> bool:
    """Whether a host is this machine or in a network of one's own."""
    try:
        return ip_address(host or "").is_private
    except ValueError:
        return "." not in (host or "") or (host or "").endswith((".local", ".internal", ".lan", ".localhost"))


def _fault(address: str) -> str | None:
    """What keeps a text from being an address."""
    if not address.lower().startswith(("http://", "https://")):
        return "it does not begin with http:// or https://"
    if not address.isprintable() or " " in address:
        return "it has a space or a character that cannot be printed in it"
    try:
        parts = urlsplit(address)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        return "its host or port cannot be read"
    if not port_is_fine or not re.fullmatch(r"[\w.:-]+", parts.hostname or ""):
        return "its host or port cannot be read"
    return None


def _number(name: str, value: float | None, above: float | None = None, most: float = math.inf) -> None:
    """A finite number from 0, or more than ``above``, to ``most``; None stays None."""
    if value is None and above is None:
        return
    least = 0.0 if above is None else above
    fine = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fine or value is None or not least <= value <= most or value == above:
        bound = f"more than {above:g}" if above is not None else "at least 0"
        until = "" if math.isinf(most) else f" and at most {most:g}"
        raise UsageError(f"{told(name)} must be a number {bound}{until}, but is {value!r}")


def _integer(name: str, value: int | None, least: int = 0, most: int = 2**53) -> None:
    """A whole number from ``least`` to ``most``; None stays None where the least is 0."""
    if value is None and least == 0:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise UsageError(f"{told(name)} must be a whole number from {least} to {most}, but is {value!r}")
