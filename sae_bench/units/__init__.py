"""Units: what is resampled when we ask how sure a figure is, and the figures of their sums.

``table`` holds rows of sums, ``adding``, ``weights`` and ``sums`` add them up, ``bootstrap`` resamples groups of them,
``nested`` examples in data sets, ``folds`` text for shares of latents, ``ablated`` reads ids of ablations, ``trust`` is
what a sample says against its own intervals, and ``kinds`` which of these a table asks for, and what two tables have in
common.
"""

from sae_bench.units.table import Column, Common, Units, concatenate, merge, pack, unpack

__all__ = ["Column", "Common", "Units", "concatenate", "merge", "pack", "unpack"]
