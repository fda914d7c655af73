"""Models that are not whole, not in one place or not in plain numbers are refused by their cause, before the pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from sae_bench.errors import ModelError
from sae_bench.models.loading import load_subject
from tests.builders import tiny_models


def refused(model: nn.Module, pattern: str) -> None:
    with pytest.raises(ModelError, match=pattern) as caught:
        load_subject(model)
    assert "\n" not in str(caught.value)


def test_parameters_that_were_never_filled():
    with torch.device("meta"):
        model = tiny_models.LlamaForCausalLM(tiny_models.LlamaConfig(**tiny_models._LLAMA))
    refused(model, r"tensors on the meta device \(first model.embed_tokens.weight\).*without device_map")


def test_one_tensor_on_the_meta_device():
    model = tiny_models.tiny_llama()
    model.model.layers[1].mlp.up_proj.to("meta")
    refused(model, r"has 1 tensors on the meta device \(first model.layers.1.mlp.up_proj.weight\)")
    model = tiny_models.tiny_llama()
    model.model.rotary_emb.inv_freq = model.model.rotary_emb.inv_freq.to("meta")
    refused(model, "first model.rotary_emb.inv_freq")


def test_offloaded_by_accelerate():
    accelerate = pytest.importorskip("accelerate")
    refused(accelerate.cpu_offload(tiny_models.tiny_llama(), torch.device("cpu")), "meta device.*offloaded")


def test_offloaded_to_disk(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    device_map = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    device_map["model.rotary_emb"] = "cpu"
    model = accelerate.dispatch_model(
        tiny_models.tiny_llama(), device_map, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True
    )
    refused(model, r"meta device \(first model.layers.0.*offloaded")


def test_weights_that_are_fetched_for_each_pass():
    hooks = pytest.importorskip("accelerate.hooks")
    model = tiny_models.tiny_llama()
    hook = hooks.SequentialHook(hooks.ModelHook(), hooks.AlignDevicesHook(offload=True))
    hooks.add_hook_to_module(model.model.norm, hooks.ModelHook())
    load_subject(model)
    model.model.norm._hf_hook = hook
    refused(model, "1 modules are offloaded, first model.norm")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_several_devices():
    model = tiny_models.tiny_llama()
    model.model.layers[2].to("cuda")
    refused(model, "lies on several devices .cpu, cuda:0.")


def test_sharded():
    from torch.distributed import HashStore, destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        model = tiny_models.tiny_llama()
        part = model.model.layers[0].mlp.up_proj
        part.weight = nn.Parameter(distribute_tensor(part.weight.detach(), mesh, [Shard(0)]))
        refused(model, r"has sharded tensors \(model.layers.0.mlp.up_proj.weight is a DTensor\)")
    finally:
        destroy_process_group()


def test_copied_to_several_devices():
    refused(nn.DataParallel(tiny_models.tiny_llama()), r"wrapped in DataParallel.*give its \.module")


@pytest.mark.slow  # the import of the compiler takes seconds
def test_compiled():
    refused(torch.compile(tiny_models.tiny_llama()), r"wrapped in OptimizedModule.*_orig_mod")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "model.layers.1"])
def test_compiled_in_place(where):
    model = tiny_models.tiny_llama()
    plain = copy.deepcopy(model)
    model.get_submodule(where).compile()
    refused(model, "is compiled.*give it before compiling")
    load_subject(plain)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_quantised_parameters(dtype):
    model = tiny_models.tiny_llama()
    part = model.model.layers[0].mlp.up_proj
    part.weight = nn.Parameter(part.weight.detach().to(dtype), requires_grad=False)
    refused(model, "is quantised .model.layers.0.mlp.up_proj.weight is ")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantised_modules():
    refused(torch.ao.quantization.quantize_dynamic(tiny_models.tiny_llama(), {nn.Linear}, torch.qint8), "is quantised")


class Odd(torch.Tensor):
    """Numbers behind a class of their own, as libraries of quantisation have them."""


def test_tensors_of_another_class():
    model: Any = tiny_models.tiny_llama()
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().as_subclass(Odd))
    refused(model, r"quantised or otherwise not plain tensors \(lm_head.weight is a Odd\)")
