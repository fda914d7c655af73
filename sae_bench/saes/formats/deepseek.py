"""qresearch's SAEs on DeepSeek-R1: one ``.pt`` file with ``encoder.*`` and ``decoder.*``, and no configuration.

Plain ReLU; ``b_dec`` is not subtracted from the input. The tensors are named like those of dictionary_learning's
``AutoEncoderNew``, which computes the same. The layer is in the name of the file.
"""

from __future__ import annotations

from sae_bench.saes import bare
from sae_bench.saes.config import take
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

TENSORS = ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"]


def matches(source: Source) -> bool:
    """Whether the file has this layout."""
    return bare.keys(source) == set(TENSORS)


def read(source: Source, told: Told) -> Reading:
    """What is in the file. Raises CoderError."""
    tensors = take(bare.tensors(source, "an SAE of qresearch"), TENSORS, source.path)
    W_enc, W_dec = bare.linear(tensors, "encoder.weight", "decoder.weight", source.path)
    model, assumed, layer = bare.released(source, "deepseek-ai", "DeepSeek-")
    hook, assumptions, questions = bare.residual_stream(layer, told, "qresearch")
    plain = (
        "the encoder is a plain ReLU and b_dec is not subtracted from the input, as in the SAEs of qresearch and in "
        "dictionary_learning's AutoEncoderNew, whose tensors have the same names"
    )
    return Reading(
        weights=Weights(W_enc=W_enc, W_dec=W_dec, b_enc=tensors["encoder.bias"], b_dec=tensors["decoder.bias"]),
        rule=Nonlinearity("relu", apply_b_dec_to_input=False),
        files=(source.path.name,),
        hook_in=hook,
        model=model,
        assumptions=(*assumptions, *assumed, plain),
        questions=questions,
    )
