"""The names by which a user of the command line knows the options of a judge: what every message calls them."""

from __future__ import annotations

FLAGS = {
    "model": "--judge-model",
    "base_url": "--judge-base-url",
    "api_key_env": "--judge-key-env",
    "endpoint_id": "--judge-endpoint",
    "timeout": "--judge-timeout",
    "temperature": "--judge-param temperature",
    "seed": "--judge-param seed",
    "params": "--judge-param",
    "headers": "--judge-header",
    "reply_tokens": "--reply-tokens",
    "fingerprint": "--judge-fingerprint",
    "cache": "--judge-cache",
    "cache_only": "--judge-cache-only",
    "max_requests": "--max-requests",
    "max_tokens": "--max-tokens",
    "max_cost": "--max-cost",
    "price_in": "--price-in",
    "price_out": "--price-out",
}


def told(name: str) -> str:
    """What a message calls an option: its flag, or its own name where only Python has it (``concurrency``)."""
    return FLAGS.get(name, name)
