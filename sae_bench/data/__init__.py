"""Text and token ids: where they come from and how they become evaluation and calibration units."""

from sae_bench.data.documents import Corpus, DataOptions, Sequence, TokenSet, load_corpus

__all__ = ["Corpus", "DataOptions", "Sequence", "TokenSet", "load_corpus"]
