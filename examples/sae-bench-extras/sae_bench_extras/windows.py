"""A kind of unit: windows of a document. Those of one document share its text, so documents are what is resampled."""

from __future__ import annotations

from functools import partial

from sae_bench.units import bootstrap
from sae_bench.units.groups import group_of
from sae_bench.units.kinds import Kind, sharing


def document_of(unit: str) -> str:
    """The document of a window ``<document>@<first token>``."""
    return unit.partition("@")[0]


def text_of(unit: str) -> str:
    """What is drawn: the document of a window, or the group that it belongs to."""
    return group_of(document_of(unit))


WINDOW = Kind(
    "window",
    "<document>@<first token>",
    draw=partial(bootstrap.draw, group=text_of),
    common=lambda a, b: sharing(a, b, document_of),
    group=document_of,
    independent=False,
)
