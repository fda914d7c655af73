"""Tensors in the files that the model has no place for: refused, but for the kinds that change no logit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

from sae_bench.errors import ModelError
from sae_bench.models.digests import weights_sha256
from sae_bench.models.leftovers import HARMLESS
from sae_bench.models.loading import load_subject
from sae_bench.models.weight_files import weight_files
from tests.builders import tiny_models
from tests.builders.marks import slow_but_each
from tests.builders.tokenizer_files import change_file

TOKENS = torch.tensor([[1, 2, 3, 4, 5, 6]])


def saved(model: Any, folder: Path, add: dict[str, Tensor] | None = None, **config: Any) -> Path:
    """A model's folder with more tensors in its file and another configuration."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file(load_file(file) | (add or {}), file, metadata={"format": "pt"})
    change_file(folder / "config.json", lambda content: content.update(config))
    return folder


def logits(source: Any) -> Tensor:
    subject, _ = load_subject(source)
    return subject.splice(TOKENS, torch.ones_like(TOKENS, dtype=torch.bool), {})


def neo() -> Any:
    options = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 50, "max_position_embeddings": 32}
    torch.manual_seed(0)
    return GPTNeoForCausalLM(GPTNeoConfig(**options, attention_types=[[["global", "local"], 1]])).eval()


def deepseek(**changes: Any) -> Any:
    small = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "moe_intermediate_size": 8}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 4}
    small |= {"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8}
    small |= {"q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 4}
    torch.manual_seed(0)
    return DeepseekV3ForCausalLM(DeepseekV3Config(**(small | {"max_position_embeddings": 32} | changes))).eval()


def biases() -> dict[str, Tensor]:
    widths = {"q_proj": 16, "k_proj": 8, "v_proj": 8, "o_proj": 16}
    return {f"model.layers.0.self_attn.{name}.bias": torch.ones(width) for name, width in widths.items()}


REFUSED: dict[str, tuple[Any, dict[str, Tensor], dict[str, Any], str]] = {
    "biases of attention": (
        tiny_models.tiny_llama,
        biases(),
        {},
        "hold 4 tensors.*first model.layers.0.self_attn.k_pro",
    ),
    "a layer more": (tiny_models.tiny_llama, {}, {"num_hidden_layers": 2}, "hold 9 tensors.*first model.layers.2"),
    "a bias of the head": (tiny_models.tiny_llama, {"lm_head.bias": torch.ones(50)}, {}, "first lm_head.bias"),
    "scales of a quantisation": (
        tiny_models.tiny_llama,
        {"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1, 1)},
        {},
        "first model.layers.0.mlp.up_proj.weight_scale_inv",
    ),
    "frequencies of another base": (
        tiny_models.tiny_llama,
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.tensor([1.0, 0.5])},
        {},
        "first model.layers.0.self_attn.rotary_emb.inv_freq",
    ),
    "a trained vector named as a mask": (tiny_models.tiny_gpt2, {"h.0.attn.bias": torch.ones(48)}, {}, "h.0.attn.bias"),
    "a plain layer where others keep further tokens": (
        lambda: deepseek(),
        {"model.layers.61.input_layernorm.weight": torch.ones(16)},
        {},
        "first model.layers.61",
    ),
    "norms of queries": (
        tiny_models.tiny_qwen2,
        {"model.layers.0.self_attn.q_norm.weight": torch.ones(4)},
        {},
        "q_norm",
    ),
}

MASK = torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()
ALLOWED: dict[str, tuple[Any, dict[str, Tensor], dict[str, Any]]] = {
    "masks of GPT-2": (tiny_models.tiny_gpt2, {"transformer.h.0.attn.bias": MASK}, {}),
    "masks of GPT-2 without a prefix": (tiny_models.tiny_gpt2, {"h.1.attn.bias": MASK}, {}),
    "masks of GPT-Neo": (
        neo,
        {"transformer.h.0.attn.attention.bias": MASK, "transformer.h.0.attn.attention.masked_bias": torch.tensor(-1e9)},
        {},
    ),
    "masks of NeoX": (
        tiny_models.tiny_neox,
        {
            "gpt_neox.layers.0.attention.bias": MASK,
            "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
            "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.tensor([1.0]),
        },
        {},
    ),
    "frequencies as the configuration has them": (
        tiny_models.tiny_llama,
        {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.tensor([1.0, 0.01], dtype=torch.bfloat16)},
        {},
    ),
    "layers for further tokens": (
        lambda: deepseek(),
        {"model.layers.2.eh_proj.weight": torch.ones(16, 32), "model.layers.2.input_layernorm.weight": torch.ones(16)},
        {},
    ),
    "layers for further tokens by name": (tiny_models.tiny_qwen2, {"mtp.layers.0.fc.weight": torch.ones(4)}, {}),
    "an encoder of images": (tiny_models.tiny_llama, {"model.vision_tower.patch.weight": torch.ones(4)}, {}),
    "a value head": (tiny_models.tiny_llama, {"v_head.summary.weight": torch.ones(1, 16)}, {}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_configuration_has_no_place_for_is_refused(tmp_path, case):
    make, add, config, pattern = REFUSED[case]
    with pytest.raises(ModelError, match=pattern) as caught:
        load_subject(saved(make(), tmp_path, add, **config))
    assert "no place for" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", slow_but_each(2, ALLOWED))
def test_what_changes_no_logit_is_allowed(tmp_path, case):
    make, add, config = ALLOWED[case]
    model = make()
    with torch.no_grad():
        right = model(TOKENS).logits
    torch.testing.assert_close(logits(saved(model, tmp_path, add, **config)), right, rtol=1e-5, atol=1e-5)


def test_each_kind_of_harmless_tensor_has_a_reason():
    assert all(len(kind.reason.split()) > 3 for kind in HARMLESS)


def test_a_head_of_its_own_under_tied_embeddings_is_the_one_in_use(tmp_path):
    model = tiny_models.tiny_llama()
    with torch.no_grad():
        right = model(TOKENS).logits
    torch.testing.assert_close(logits(saved(model, tmp_path, tie_word_embeddings=True)), right)


def test_integers_without_a_scale_are_refused(tmp_path):
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ModelError, match=f"quantised .{name} is stored as I8"):
        load_subject(saved(tiny_models.tiny_llama(), tmp_path, {name: torch.ones(40, 16, dtype=torch.int8)}))


def sharded(folder: Path) -> Path:
    tiny_models.tiny_llama().save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


def test_a_tensor_that_two_shards_hold_is_refused(tmp_path):
    first, second, *_ = sorted(sharded(tmp_path).glob("*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor * 2}, second, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"hold {name} twice, in {first.name} and {second.name}"):
        load_subject(tmp_path)


def test_a_shard_that_is_not_there_is_refused(tmp_path):
    sorted(sharded(tmp_path).glob("*.safetensors"))[1].unlink()
    with pytest.raises(ModelError, match=r"model-00002-of"):
        load_subject(tmp_path)


def test_the_digest_is_of_the_files_that_are_loaded(tmp_path):
    """An optimizer's state or old weights beside them are no part of the model, shards in a subfolder are."""
    sharded(tmp_path)
    before = weights_sha256(load_subject(tmp_path)[0].model)
    (tmp_path / "optimizer.bin").write_bytes(b"state")
    (tmp_path / "pytorch_model.bin").write_bytes(b"old")
    save_file({"a": torch.ones(1)}, tmp_path / "stale.safetensors")
    assert weights_sha256(load_subject(tmp_path)[0].model) == before
    assert not {file.name for file in weight_files(tmp_path)} & {"optimizer.bin", "stale.safetensors"}
    (tmp_path / "shards").mkdir()
    names = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    for name in set(names.values()):
        (tmp_path / name).rename(tmp_path / "shards" / name)
    moved = {tensor: f"shards/{name}" for tensor, name in names.items()}
    change_file(tmp_path / "model.safetensors.index.json", lambda content: content.update(weight_map=moved))
    assert weights_sha256(load_subject(tmp_path)[0].model) == before
