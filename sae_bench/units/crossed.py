"""Figures over rows that belong to a document and to a latent at once: both are resampled.

A row's id is ``<document>@<position>:<latent>``. Rows of one document share its text, rows of one latent its direction,
and a new sample would have other documents and other latents. A replicate therefore draws a weight for every document
and one for every latent, and a row counts with their product (the pigeonhole bootstrap; Owen 2007, "The pigeonhole
bootstrap"). The noise of a row that neither shares then counts three times; ``trust.narrowed`` takes that back.
Resampling latents alone would be too narrow wherever the text matters more than the latent: see the card of
downstream_sparsity.
Documents of one group have one weight.
"""

from __future__ import annotations

import numpy as np

from sae_bench.units.adding import grouped, total
from sae_bench.units.bootstrap import Array, Draws, Sums, resample_weights, sample_of
from sae_bench.units.groups import group_of
from sae_bench.units.table import Units

CHUNK = 1 << 22  # weights of rows in memory at once


def document_of(unit: str) -> str:
    """The document of a row ``<document>@<position>:<latent>``."""
    return unit.partition("@")[0]


def text_of(unit: str) -> str:
    """The group of the document of a row."""
    return group_of(document_of(unit))


def latent_of(unit: str) -> str:
    """The latent of a row, by a name that no document has."""
    return f"latent {unit.rpartition(':')[2]}"


def of_sae(unit: str, weights: str) -> str:
    """The row with its latent named by its SAE."""
    place, _, latent = unit.rpartition(":")
    return f"{place}:{weights}/{latent}"


def draw(units: Units, *, seed: int, resamples: int) -> Draws:
    """Everything that figures of this table are made of, as of so many units as there are groups or latents.

    The smaller number counts, so that the Wilson interval of a share of rows, which are not independent, is a wide one.
    """
    documents, of_document = _groups([text_of(unit) for unit in units.ids])
    latents, of_latent = _groups([latent_of(unit) for unit in units.ids])
    by_document, by_latent = (resample_weights(names, seed, resamples) for names in (documents, latents))
    sums: dict[str, list[Array]] = {name: [] for name in units.columns}
    step = max(1, CHUNK // max(1, len(units)))
    for start in range(0, resamples, step):
        part = slice(start, start + step)
        weights = (by_document[part][:, of_document] * by_latent[part][:, of_latent]).astype(np.float64)  # below 256
        for name, column in units.columns.items():
            sums[name].append(weights @ column)
    replicates = Sums({name: np.concatenate(parts) for name, parts in sums.items()})
    sample = sample_of(units, grouped(units, text_of), text=True, crossed=grouped(units, latent_of))
    return Draws(total(units), replicates, min(len(documents), len(latents)), sample)


def _groups(names: list[str]) -> tuple[tuple[str, ...], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """The different names, and the place of each row's among them."""
    found, group = np.unique(np.array(names, dtype=object), return_inverse=True)
    return tuple(found.tolist()), group
