"""A layout: ``plain_sae.npz`` with ``W_enc [d, n]``, ``b_enc [n]``, ``W_dec [n, d]``, ``b_dec [d]`` of a ReLU SAE.

The file does not say where the SAE reads the model, so that is asked for (``--hook-in``) and never guessed.
"""

from __future__ import annotations

from sae_bench.saes.config import take
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

FILE = "plain_sae.npz"


def matches(source: Source) -> bool:
    """Whether the folder has this layout."""
    return source.has(FILE)


def read(source: Source, told: Told) -> Reading:
    """What is in the folder. Raises CoderError."""
    tensors = take(source.tensors(FILE), ["W_enc", "b_enc", "W_dec", "b_dec"], source.file(FILE))
    return Reading(
        weights=Weights(**tensors),
        rule=Nonlinearity("relu", apply_b_dec_to_input=False),
        files=(FILE,),
        hook_in=None,
        assumptions=("the encoder reads activations as they are, without the decoder's bias",),
    )
