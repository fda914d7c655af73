"""Goodfire's SAEs on Llama 3: a ``.pth`` file with ``encoder_linear.*`` and ``decoder_linear.*``, no configuration.

Plain ReLU; ``b_dec`` is not subtracted from the input. Model and layer are in the name of the file or its repository.
"""

from __future__ import annotations

from sae_bench.saes import bare
from sae_bench.saes.config import take
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

_TENSORS = ["encoder_linear.weight", "encoder_linear.bias", "decoder_linear.weight", "decoder_linear.bias"]


def matches(source: Source) -> bool:
    """Whether the file has this layout."""
    return bare.keys(source) >= set(_TENSORS)


def read(source: Source, told: Told) -> Reading:
    """What is in the file. Raises CoderError."""
    tensors = take(bare.tensors(source, "an SAE of Goodfire"), _TENSORS, source.path)
    W_enc, W_dec = bare.linear(tensors, "encoder_linear.weight", "decoder_linear.weight", source.path)
    model, assumed, layer = bare.released(source, "meta-llama", "Llama-")
    hook, assumptions, questions = bare.residual_stream(layer, told, "Goodfire")
    return Reading(
        weights=Weights(
            W_enc=W_enc, W_dec=W_dec, b_enc=tensors["encoder_linear.bias"], b_dec=tensors["decoder_linear.bias"]
        ),
        rule=Nonlinearity("relu", apply_b_dec_to_input=False),
        files=(source.path.name,),
        hook_in=hook,
        model=model,
        assumptions=(*assumptions, *assumed, "b_dec is not subtracted from the input, as in all SAEs of Goodfire"),
        questions=questions,
    )
