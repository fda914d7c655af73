"""Tiny valid SAEs in every layout on disk, with the names, shapes and orientations in which their libraries store them.

A layout is a mapping from paths to contents, so a test can change one content, or one byte, and write the rest as is.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import Tensor

from sae_bench.settings import Told
from tests.builders.layout_parts import HOOK, HOOK_OUT, D, K, Layout, M, Random, renamed
from tests.builders.layouts_saelens import saelens

LAYOUTS: dict[str, Layout] = saelens()


def write(name: str, folder: Path) -> Path:
    """Write the layout called ``name`` into ``folder``; returns what the user gives as ``--sae``."""
    for path, content in LAYOUTS[name].files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(stored(path, content))
    return folder / LAYOUTS[name].sae


def told(name: str) -> Told:
    """What the files of the layout leave open."""
    return Told(**LAYOUTS[name].told)


def stored(path: str, content: Any) -> bytes:
    """The bytes of a file, by its suffix."""
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        return save({name: tensor.contiguous().clone() for name, tensor in content.items()})
    if suffix == ".json":
        return json.dumps(content).encode()
    if suffix == ".yaml":
        return yaml.safe_dump(content).encode()
    buffer = io.BytesIO()
    if suffix == ".npz":
        np.savez(buffer, **{name: tensor.numpy() for name, tensor in content.items()})
    else:
        torch.save(content, buffer)
    return buffer.getvalue()


def _add(name: str, layout: str, files: dict[str, Any], **more: Any) -> None:
    LAYOUTS[name] = Layout(layout, files, **more)


def _native() -> None:
    for activation in ("relu", "topk", "abstopk", "jumprelu", "gated", "skip"):
        random = Random(f"native_{activation}")
        tensors = random.common()
        config: dict[str, Any] = {"format": "sae-bench", "format_version": 1, "name": f"my {activation}"}
        config |= {"activation": "relu" if activation == "skip" else activation, "d_in": D, "n_latents": M}
        config |= {"hook_in": HOOK, "model": "gpt2", "prepend_bos": True, "context_size": 128, "notes": "tiny"}
        config |= {"apply_b_dec_to_input": activation != "skip", "normalize_activations": "none"}
        config |= {"k": K, "rescale_acts_by_decoder_norm": True} if activation in ("topk", "abstopk") else {}
        if activation == "gated":
            del tensors["b_enc"]
            tensors |= {part: random.normal(M, scale=0.2) for part in ("b_gate", "b_mag", "r_mag")}
        if activation == "jumprelu":
            tensors["threshold"] = random.threshold()
            config["prefix_widths"] = [8, 16]
        if activation == "skip":
            tensors["W_skip"] = random.normal(D, D)
            config |= {"hook_out": HOOK_OUT, "d_out": D}
        _add(f"native_{activation}", "native", {"sae_bench.json": config, "weights.safetensors": tensors})


def _sparsify() -> None:
    for name, place in (
        ("topk", "layers.3"),
        ("groupmax", "h.3"),
        ("transcoder", "layers.3.mlp"),
        ("bf16", "layers.3"),
    ):
        random, transcode = Random(f"sparsify_{name}"), name == "transcoder"
        names = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "W_dec", "b_dec": "b_dec"}
        tensors = renamed(random.common(), names) | ({"W_skip": random.normal(D, D)} if transcode else {})
        config = {"activation": "groupmax" if name == "groupmax" else "topk", "expansion_factor": 3, "num_latents": M}
        config |= {"normalize_decoder": not transcode, "k": K, "multi_topk": False, "d_in": D}
        config |= {"skip_connection": transcode, "transcode": transcode}
        if name == "bf16":
            tensors = {key: tensor.bfloat16() for key, tensor in tensors.items()}
        files = {f"{place}/cfg.json": config, f"{place}/sae.safetensors": tensors}
        _add(f"sparsify_{name}", "sparsify", files, sae=place)


def _openmoss() -> None:
    for name in ("topk", "jumprelu", "transcoder"):
        random, out = Random(f"lm_saes_{name}"), HOOK_OUT if name == "transcoder" else HOOK
        names = {"W_enc": "W_E", "W_dec": "W_D", "b_enc": "b_E", "b_dec": "b_D"}
        tensors = renamed(random.common(), names)
        norms = {f"dataset_average_activation_norm.{hook}": torch.tensor(7.0) for hook in (HOOK, out)}
        if name == "jumprelu":
            tensors["activation_function.log_jumprelu_threshold"] = random.threshold().log()
        config = {"sae_type": "sae", "d_model": D, "expansion_factor": M / D, "use_decoder_bias": True, "top_k": K}
        config |= {"act_fn": "jumprelu" if name == "jumprelu" else "topk", "norm_activation": "dataset-wise"}
        config |= {"sparsity_include_decoder_norm": True, "use_triton_kernel": False, "use_glu_encoder": False}
        config |= {"jumprelu_threshold_window": 2.0, "hook_point_in": HOOK, "hook_point_out": out}
        files = {"config.json": config, "sae_weights.safetensors": tensors | norms}
        _add(f"lm_saes_{name}", "lm_saes", files)
    names = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T", "b_dec": "decoder.bias"}
    config = {"hook_point_in": HOOK, "hook_point_out": HOOK, "use_decoder_bias": True, "expansion_factor": M // D}
    config |= {"apply_decoder_bias_to_pre_encoder": False, "d_model": D, "d_sae": M, "norm_activation": "dataset-wise"}
    config |= {"dataset_average_activation_norm": {"in": 7.0, "out": 7.0}, "act_fn": "jumprelu", "top_k": K}
    config |= {"jump_relu_threshold": 0.45, "sparsity_include_decoder_norm": True}
    folder = "Llama3_1-8B-Base-L1R-8x"
    tensors = renamed(Random("llama_scope").common(), names)
    files = {f"{folder}/hyperparams.json": config, f"{folder}/checkpoints/final.safetensors": tensors}
    _add("llama_scope", "llama_scope", files, sae=folder)


_LINEAR = {"W_enc": "encoder.weight.T", "b_enc": "encoder.bias", "W_dec": "decoder.weight.T"}
_PLAIN = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}


def _dictionary_learning() -> None:
    def state(name: str) -> dict[str, Tensor]:
        random = Random(f"dl_{name}")
        common = random.common()
        scalars = {"k": torch.tensor(K, dtype=torch.int32), "threshold": torch.tensor(0.3)}
        if name == "GatedAutoEncoder":
            names = {key: value for key, value in _LINEAR.items() if key != "b_enc"} | {"b_dec": "decoder_bias"}
            vectors = {part: random.normal(M, scale=0.2) for part in ("r_mag", "gate_bias", "mag_bias")}
            return renamed(common, names) | vectors
        if name == "JumpReluAutoEncoder":
            return common | {"threshold": random.threshold()}
        if name == "MatryoshkaBatchTopKSAE":
            return common | scalars | {"group_sizes": torch.tensor([4, 8, 12])}
        bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias"}.get(name, "b_dec")
        return renamed(common, _LINEAR | {"b_dec": bias}) | (scalars if bias == "b_dec" else {})

    classes = ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder", "AutoEncoderTopK")
    for name in (*classes, "BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        trainer: dict[str, Any] = {"dict_class": name, "trainer_class": "ATrainer", "activation_dim": D, "dict_size": M}
        trainer |= {"lr": 1e-4, "steps": 1000, "seed": 0, "device": "cpu", "layer": 1, "lm_name": "example/tiny-gpt2"}
        trainer |= {"wandb_name": "t", "submodule_name": "resid_post_layer_1"} | ({"k": K} if "TopK" in name else {})
        trainer |= {"group_sizes": [4, 8, 12]} if "Matryoshka" in name else {}
        config = {"trainer": trainer, "buffer": {"d_submodule": D, "io": "out", "ctx_len": 128, "device": "cpu"}}
        _add(f"dl_{name}", "dictionary_learning", {"config.json": config, "ae.pt": state(name)})
        if name == "BatchTopKSAE":
            backup = {"step": 500, "ae": state(name), "optimizer": {}, "config": trainer, "norm_factor": 3.7}
            _add("dl_backup", "dictionary_learning", {"config.json": config, "ae.pt": backup})
    bare = {"sae": "bare.pt", "told": {"hook_in": HOOK}}
    _add("dl_bare", "dictionary_learning", {"bare.pt": state("AutoEncoder")}, **bare)


def _gemma() -> None:
    place = "layer_3/width_16k/average_l0_40"
    for name, folder in (
        ("res", f"gemma-scope-2b-pt-res/{place}"),
        ("att", f"gemma-scope-2b-pt-att/{place}"),
        ("transcoders", f"gemma-scope-2b-pt-transcoders/{place}"),
        ("embedding", "gemma-scope-2b-pt-res/embedding/width_4k/average_l0_21"),
        ("bare", "mine"),
    ):
        random = Random(f"gemma_scope_{name}")
        files = {f"{folder}/params.npz": random.common() | {"threshold": random.threshold()}}
        told = {"hook_in": HOOK} if name == "bare" else {}
        _add(f"gemma_scope_{name}", "gemma_scope", files, sae=folder, told=told)
    for name, folder in (("resid", "resid_post/layer_7_l0_medium"), ("affine", "transcoder/layer_7_l0_medium_affine")):
        random = Random(f"gemma_scope_2_{name}")
        names = {"W_enc": "w_enc", "W_dec": "w_dec", "b_enc": "b_enc", "b_dec": "b_dec"}
        tensors = renamed(random.common(), names) | {"threshold": random.threshold()}
        config: dict[str, Any] = {"architecture": "jump_relu", "model_name": "gemma-v3-1b-pt"}
        config["hf_hook_point_in"] = "model.layers.7.output"
        if name == "affine":
            config["hf_hook_point_in"] = "model.layers.7.pre_feedforward_layernorm.output"
            config["hf_hook_point_out"] = "model.layers.7.post_feedforward_layernorm.output"
            config["affine_connection"] = True
            tensors["affine_skip_connection"] = random.normal(D, D)
        files = {f"{folder}/config.json": config, f"{folder}/params.safetensors": tensors}
        _add(f"gemma_scope_2_{name}", "gemma_scope_2", files, sae=folder)


def _single_files() -> None:
    for kind in ("batchtopk", "topk", "jumprelu"):
        random = Random(f"batchtopk_{kind}")
        config: dict[str, Any] = {"sae_type": kind, "act_size": D, "dict_size": M, "top_k": K, "input_unit_norm": True}
        config |= {"hook_point": HOOK, "model_name": "gpt2-small", "layer": 1, "site": "resid_post", "seq_len": 128}
        config |= {"dtype": "torch.float32", "device": "cpu", "seed": 49, "l1_coeff": 0, "name": "tiny"}
        threshold = {"jumprelu.log_threshold": random.threshold().log()} if kind == "jumprelu" else {}
        files = {"config.json": config, "sae.pt": random.common() | threshold}
        _add(f"batchtopk_{kind}", "batchtopk", files, told={"threshold": 0.5} if kind == "batchtopk" else {})
    yaml_config = {"model_kind": "transcoder_set", "feature_input_hook": "mlp.hook_in", "scan": "qwen3-0.6b"}
    yaml_config |= {"feature_output_hook": "hook_mlp_out", "model_name": "Qwen/Qwen3-0.6B"}
    for kind in ("relu", "jumprelu"):
        random = Random(f"circuit_tracer_{kind}")
        tensors = renamed(random.common(), _PLAIN | {"W_enc": "W_enc.T"})
        if kind == "jumprelu":
            tensors |= {"activation_function.threshold": random.threshold(), "W_skip": random.normal(D, D)}
        _add(f"circuit_tracer_{kind}", "circuit_tracer", {"config.yaml": yaml_config, "layer_3.safetensors": tensors})
    for kind, postact in (("v1", None), ("v5", "ReLU"), ("v5_identity", "Identity")):
        random = Random(f"openai_{kind}")
        names = {"b_dec": "pre_bias", "b_enc": "latent_bias", "W_enc": "encoder.weight.T", "W_dec": "decoder.weight.T"}
        content: dict[str, Any] = dict(renamed(random.common(), names))
        content |= {"stats_last_nonzero": torch.zeros(M, dtype=torch.int64), "latents_mean_square": random.threshold()}
        content |= {"latents_activation_frequency": random.threshold()}
        content |= {"activation": "TopK" if postact else "ReLU"}
        content |= {"activation_state_dict": {"k": K, "postact_fn": postact} if postact else {}}
        folder = f"gpt2-small/resid_post_mlp{'_v5_32k' if postact else ''}/autoencoders"
        _add(f"openai_{kind}", "openai", {f"{folder}/6.pt": content}, sae=f"{folder}/6.pt")
    names = {"W_enc": "encoder_linear.weight.T", "b_enc": "encoder_linear.bias"}
    names |= {"W_dec": "decoder_linear.weight.T", "b_dec": "decoder_linear.bias"}
    file = "Llama-3.1-8B-Instruct-SAE-l19.pth"
    _add("goodfire", "goodfire", {file: renamed(Random("goodfire").common(), names)}, sae=file)
    file = "gpt2-small_L3_Hcat_z_lr1.20e-03_v9"
    config = {"act_name": "blocks.3.attn.hook_z", "act_size": D, "dict_size": M, "layer": 3, "site": "z"}
    files = {f"{file}_cfg.json": config, f"{file}.pt": Random("connor_rob").common()}
    _add("connor_rob", "connor_rob", files, sae=f"{file}.pt")
    tensors = renamed(Random("qwen_scope").common(), _PLAIN | {"W_enc": "W_enc.T", "W_dec": "W_dec.T"})
    _add("qwen_scope", "qwen_scope", {"layer5.sae.pt": tensors}, sae="layer5.sae.pt", told={"k": K})
    file = "DeepSeek-R1-Distill-Llama-8B-SAE-l19.pt"
    tensors = renamed(Random("deepseek").common(), _LINEAR | {"b_dec": "decoder.bias"})
    _add("deepseek", "deepseek", {file: tensors}, sae=file)


def _refused() -> None:
    random = Random("refused")
    temporal = {"D": random.normal(M, D), "E": random.normal(D, M), "b": random.normal(M)}
    files = {"conf.yaml": {"sae": {"dimin": D, "width": M}}, "latest_ckpt.safetensors": temporal}
    _add("refused_temporal", "refused", files, refused=True)
    enc = {"W_enc_1": random.normal(M, D), "b_enc_1": random.normal(M), "b_dec_1": random.normal(D)}
    files = {"W_enc_1.safetensors": enc, "W_dec_1.safetensors": {"W_dec_1": random.normal(M, 3, D)}}
    _add("refused_clt", "refused", {"config.yaml": {"model_kind": "cross_layer_transcoder"}} | files, refused=True)
    config = {"activation_dim": D, "dict_size": M, "num_encoder_layers": 2, "code_normalization": "CROSSCODER", "k": K}
    cross = {"encoder.weight": random.normal(2, D, M), "encoder.bias": random.normal(M)}
    cross |= {"decoder.weight": random.normal(2, M, D), "decoder.bias": random.normal(2, D)}
    _add("refused_crosscoder", "refused", {"config.json": config, "model.safetensors": cross}, refused=True)


for _family in (_native, _sparsify, _openmoss, _dictionary_learning, _gemma, _single_files, _refused):
    _family()
