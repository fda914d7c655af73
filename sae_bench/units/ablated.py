"""Ids of rows that are one latent taken away at one position of a document: ``<document>@<position>:<latent>``.

Documents are what is resampled, by their group. The latents of an SAE are all there are: another sample of text would
be of the same dictionary, and which of its latents are active, and taken away, comes with the text. Drawing latents too
made intervals that held the truth of 98 to 100 % of samples.
"""

from __future__ import annotations

from sae_bench.units.groups import group_of


def document_of(unit: str) -> str:
    """The document of a row."""
    return unit.partition("@")[0]


def text_of(unit: str) -> str:
    """The group of the document of a row."""
    return group_of(document_of(unit))
