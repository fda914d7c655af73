"""Prices of a few known judges, as data with a date: what a run costs where nobody gives its prices.

A price belongs to a model at one host. Elsewhere the same name may cost something else, and on a machine of one's own
it costs what nobody knows here: then there is no price, and never 0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from sae_bench.errors import SaeBenchError
from sae_bench.parsing import read_toml

FILE = Path(__file__).with_name("prices.toml")
OVERRIDE = "--price-in and --price-out override"
_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")  # a snapshot of a model, as its name ends


@dataclass(frozen=True)
class Price:
    """A million tokens in and out: US dollars on the day ``as_of`` (YYYY-MM-DD); of given prices the day is None."""

    price_in: float
    price_out: float
    as_of: str | None

    @property
    def said(self) -> str:
        """What stands beside a cost that is made of it; empty where the prices were given."""
        return "" if self.as_of is None else f"prices of {self.as_of} in US dollars; {OVERRIDE}"


@cache
def listed() -> dict[tuple[str, str], Price]:
    """All prices, by host and model."""
    return {
        (block["host"], model): Price(float(price_in), float(price_out), block["as_of"].isoformat())
        for block in read_toml(FILE, SaeBenchError)["prices"]
        for model, (price_in, price_out) in block["models"].items()
    }


def known(host: str, model: str) -> Price | None:
    """The price of a model at a host, None where it is not known. A dated snapshot has that of its family."""
    every = listed()
    host = host.lower().rstrip(".")
    return every.get((host, model)) or every.get((host, _DATE.sub("", model)))


def of(given: tuple[float | None, float | None], url: str, model: str, params: Mapping[str, object]) -> Price | None:
    """The prices that were ``given``, else the known ones of a model at an address; None where both are lacking.

    One given price is not completed by a known one, and another service tier has other prices than those listed.
    """
    price_in, price_out = given
    if price_in is not None and price_out is not None:
        return Price(price_in, price_out, None)
    if price_in is not None or price_out is not None or params.get("service_tier", "default") != "default":
        return None
    return known(urlsplit(url).hostname or "", model)
