"""What the files of a model claim, held against each other before anything is built of it.

A configuration of a few lines may ask for more than any memory holds. What it asks for must be about what the files of
weights have, and these are safetensors: pickles can run code when they are opened, so none is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_bench.errors import ModelError
from sae_bench.files import MIB, check_kind, read_json
from sae_bench.models.weight_files import stored_tensors

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads")
_SIZES = ("hidden_size", "n_embd", "d_model", "vocab_size")
_PARTS = ("text_config", "llm_config", "language_config")
_MOST_LAYERS = 200  # of a model whose layers share tensors
_MOST_PACKED = 16  # numbers in one stored element of a quantised model
_SLACK = 1 << 24  # numbers that a model may have beside those of its files
_MOST_BUFFERS = 1 << 32  # numbers that are computed from the configuration
_MOST_CONFIG = 64 * MIB
_READ = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_MOST = dict.fromkeys(_READ, _MOST_CONFIG) | dict.fromkeys(("tokenizer.json", "vocab.json"), 512 * MIB)


def check_folder(folder: Path) -> None:
    """Refuse a folder with pipes or devices in it, or small files that are large. Raises ModelError."""
    for file in sorted(folder.iterdir()):
        if file.is_dir() or not file.exists():
            continue
        check_kind(file, file.stat(), ModelError, _MOST.get(file.name))


def check_weights(folder: Path, files: list[Path], source: str) -> None:
    """Refuse pickles, and a configuration that asks for far more than the files hold. Raises ModelError."""
    pickled = [file for file in files if file.suffix != ".safetensors" and not file.name.startswith("adapter_")]
    if pickled:
        raise ModelError(
            f"the weights of model {source!r} are pickled ({pickled[0].name}), and opening them could run any code, so "
            "sae-bench does not; where you trust them, load the model with transformers and save it again with "
            "model.save_pretrained(FOLDER), which writes safetensors"
        )
    config = folder / "config.json"
    if not files or not config.is_file():
        return
    content = read_json(config, ModelError, _MOST_CONFIG)
    if not isinstance(content, dict):
        raise ModelError(f"{config} must hold a table of settings, but it holds a {type(content).__name__}")
    stored = stored_tensors(files, source)
    for part in _parts(content):
        _check_numbers(config, part, len(stored))
    packed = _MOST_PACKED if "quantization_config" in content else 1
    held = min(sum(prod(one.shape) for one in stored.values()), sum(file.stat().st_size for file in files))
    _check_size(config, folder, held * packed)


def _parts(content: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield content
    for name in _PARTS:
        if isinstance(content.get(name), dict):
            yield content[name]


def _check_numbers(config: Path, part: Mapping[str, Any], tensors: int) -> None:
    for name in (*_LAYERS, *_HEADS, *_SIZES):
        value = part.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 1:
            raise ModelError(f"{config}: {name} must be at least 1, but it is {value}")
    for name in _LAYERS:
        value = part.get(name)
        if isinstance(value, int | float) and value > max(tensors, _MOST_LAYERS):
            raise ModelError(f"{config}: {name} is {value}, but the files of weights hold {tensors} tensors")


def _check_size(config: Path, folder: Path, held: int) -> None:
    """Build the model without memory, and compare its size with that of the files."""
    model = _without_memory(folder)
    if model is None:  # loading says why
        return
    wanted = sum(tensor.numel() for tensor in model.parameters())
    if wanted > 2 * held + _SLACK:
        raise ModelError(
            f"{config} describes a model of {wanted} numbers, but the files of weights hold {held}; one of them is not "
            "this model's"
        )
    if (computed := sum(tensor.numel() for tensor in model.buffers())) > _MOST_BUFFERS:
        raise ModelError(f"{config} describes a model that computes {computed} numbers beside its weights")


def _without_memory(folder: Path) -> nn.Module | None:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        with torch.device("meta"):
            built: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
            return built
    except Exception:  # noqa: BLE001 - transformers raises what it likes of strange configurations
        return None
