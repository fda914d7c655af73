"""The attention SAEs of Kissane et al. (2024): ``NAME.pt`` with ``NAME_cfg.json`` beside it.

``W_enc [d, n_latents]``, ``W_dec [n_latents, d]``, ``b_enc``, ``b_dec``; ReLU, and ``b_dec`` is subtracted from the
input.
``act_name`` is the hook point, for most of them ``blocks.N.attn.hook_z`` with its heads laid side by side.
"""

from __future__ import annotations

import re

from sae_bench.saes import bare
from sae_bench.saes.config import Config, take
from sae_bench.saes.linear import Nonlinearity
from sae_bench.saes.reading import Reading
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.settings import Told

_CONVENTION = "the encoder is a plain ReLU and subtracts b_dec from the input, as in all SAEs of Kissane et al."


def matches(source: Source) -> bool:
    """Whether the file has this layout. In a folder every such file is an SAE of its own."""
    return bare.keys(source) == bare.MATRICES and (source.folder / _beside(source)).is_file()


def read(source: Source, told: Told) -> Reading:
    """What is in the file and its configuration, if there is one (``told.format`` names this layout). CoderError."""
    found = bare.tensors(source, "an SAE of Kissane et al.")
    tensors = take(found, sorted(bare.MATRICES), source.path)
    name = _beside(source)
    config = source.config(name) if (source.folder / name).is_file() else None
    model = _model(source, config)
    return Reading(
        weights=Weights(**tensors),
        rule=Nonlinearity("relu"),
        files=(source.path.name, *([name] if config else [])),
        hook_in=config.optional("act_name", str) if config else None,
        n_latents=config.integer("dict_size") if config else None,
        d_in=config.integer("act_size") if config else None,
        model=model,
        context_size=config.optional("seq_len", int) if config else None,
        assumptions=(_CONVENTION,),
    )


def _beside(source: Source) -> str:
    return f"{source.path.stem}_cfg.json"


def _model(source: Source, config: Config | None) -> str | None:
    """The configuration's, else the file's name up to the layer: ``gpt2-small_L3_...``."""
    if config and (declared := config.optional("model_name", str)):
        return declared
    named = re.match(r"([\w.-]+?)_L\d+_", source.path.name)
    return named[1] if named and config else None
