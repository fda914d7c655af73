"""A kind of unit: windows of a document. Those of one document share its text, so documents are what is resampled."""

from __future__ import annotations

from sae_bench.units import Units, bootstrap, merge
from sae_bench.units.kinds import Kind, sharing


def document_of(unit: str) -> str:
    """The document of a window ``<document>@<first token>``."""
    return unit.partition("@")[0]


def draw(units: Units, *, seed: int, resamples: int) -> bootstrap.Draws:
    """Column sums and their replicates, in which the windows of a document always come together."""
    of_documents = merge(Units(tuple(map(document_of, units.ids)), units.columns))
    return bootstrap.draw(of_documents, seed=seed, resamples=resamples)


WINDOW = Kind(
    "window",
    "<document>@<first token>",
    draw=draw,
    common=lambda a, b: sharing(a, b, document_of),
    group=document_of,
    independent=False,
)
