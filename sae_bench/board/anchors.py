"""Names of places on the page that stay: of an SAE by the digest of its weights, of a table by what it holds.

What is in a file from elsewhere never stands in a name as it is: a digest that is none is digested.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from sae_bench.board.alike import SaeKey, key_of
from sae_bench.board.layout import Table
from sae_bench.schema import CoderRecord

_SHORT = 12  # digits of the digest of weights, as in the folders of results
_DIGEST = re.compile(r"[0-9a-f]{12,128}")


def of_saes(saes: Iterable[CoderRecord]) -> dict[SaeKey, str]:
    """A name for each SAE, in their order: twelve digits of its weights, however it is called.

    Only of several SAEs with the same digits do all but the first by name have more of a name.
    """
    made = {key_of(sae): "" for sae in saes}
    taken: set[str] = set()
    for key in sorted(made):
        name, weights = key
        short = (weights if _DIGEST.fullmatch(weights) else _digest(weights))[:_SHORT]
        made[key] = short if short not in taken else f"{short}-{_digest(name, weights)[:_SHORT]}"
        taken.add(made[key])
    return made


def of_table(table: Table) -> str:
    """A name for a table: of its suite, place, group and protocols."""
    return _digest(table.suite, table.model, table.hook, table.group, *sorted(table.protocols))[:_SHORT]


def of_place(suite: str, model: str, hook: str) -> str:
    """A name for a place of a suite."""
    return _digest(suite, model, hook)[:_SHORT]


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()
