"""Text and token ids: where they come from and how they become evaluation and calibration units."""

from sae_bench.data.documents import Corpus, DataOptions, load_corpus
from sae_bench.data.tokens import Sequence, TokenSet

__all__ = ["Corpus", "DataOptions", "Sequence", "TokenSet", "load_corpus"]
