"""Labelled texts for probes: which sets there are, how they are loaded and become token ids."""

from sae_bench.data.labelled.encode import LabelledOptions
from sae_bench.data.labelled.suite import LabelledSet, Part, Suite, load_suite

__all__ = ["LabelledOptions", "LabelledSet", "Part", "Suite", "load_suite"]
