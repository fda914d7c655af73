"""Units: what is resampled when we ask how sure a figure is, and the figures of their sums.

``table`` holds rows of sums, ``weights`` and ``sums`` add them up, ``bootstrap`` resamples independent units,
``nested`` examples in data sets, ``crossed`` documents and latents, and ``kinds`` says which of these a table asks for,
and what two tables have in common.
"""

from sae_bench.units.table import Column, Common, Units, concatenate, merge, pack, unpack

__all__ = ["Column", "Common", "Units", "concatenate", "merge", "pack", "unpack"]
