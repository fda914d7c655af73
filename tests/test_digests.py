"""Digests of a language model: one function has one, wherever it lies, and another function has another."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from sae_bench import registry
from sae_bench.errors import ModelError, TaskError
from sae_bench.models.digests import digests, effective
from sae_bench.models.huggingface import HuggingFaceSubject
from sae_bench.models.subject import canonical_name
from tests.builders.tiny_models import FAMILIES, tiny_llama


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_in_memory_is_the_one_that_it_is_saved_as(family: str, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    found = {digests(model, in_memory=True), digests(loaded, in_memory=False), digests(loaded, in_memory=True)}
    assert len(found) == 1
    assert found.pop().departures == ()


def _halved(model: Any) -> None:
    model.model.rotary_emb.inv_freq.mul_(0.5)


def _swapped(model: Any) -> None:
    layers = model.model.layers
    layers[0].mlp.gate_proj, layers[0].mlp.up_proj = layers[0].mlp.up_proj, layers[0].mlp.gate_proj


class Mine(nn.Linear):
    """A layer of somebody's own, which may do anything."""


CHANGES: dict[str, Callable[[Any], Any]] = {
    "an activation function": lambda m: setattr(m.model.layers[0].mlp, "act_fn", nn.ReLU()),
    "an epsilon": lambda m: setattr(m.model.norm, "variance_epsilon", 0.1),
    "a scale of attention": lambda m: setattr(m.model.layers[1].self_attn, "scaling", 9.0),
    "frequencies of rotary positions": _halved,
    "half precision of all buffers too": lambda m: m.to(torch.bfloat16),
    "a forward hook": lambda m: m.model.layers[0].register_forward_hook(lambda *args: 2 * args[-1]),
    "a pre-hook": lambda m: m.model.norm.register_forward_pre_hook(lambda module, args: (2 * args[0],)),
    "a forward of its own": lambda m: setattr(m.model.layers[0].mlp, "forward", torch.zeros_like),
    "a block less": lambda m: m.model.layers.__delitem__(2),
    "weights that changed places": _swapped,
    "the configuration that is read while it runs": lambda m: setattr(m.config, "rms_norm_eps", 0.1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_changed_in_memory_is_another_model(name: str) -> None:
    model = tiny_llama()
    plain = digests(model, in_memory=True)
    with torch.no_grad():
        CHANGES[name](model)
    changed = digests(model, in_memory=True)
    assert (changed.weights, changed.config) != (plain.weights, plain.config)
    assert digests(model, in_memory=True) == changed


def test_two_hooks_of_one_name_are_two_models() -> None:
    def steered(by: float) -> Any:
        model = tiny_llama()
        model.model.layers[0].register_forward_hook(lambda module, args, out: by * out)
        return digests(model, in_memory=True).config

    assert steered(2.0) != steered(3.0)
    assert steered(2.0) == steered(2.0)


def test_code_of_ones_own_is_named_by_what_it_answers() -> None:
    model = tiny_llama()
    model.lm_head.__class__ = Mine
    assert digests(model, in_memory=False).departures == (f"lm_head runs code of {__name__}",)


HARMLESS: list[Callable[[Any], Any]] = [
    lambda m: m.train(),
    lambda m: setattr(m, "note", "mine"),
    lambda m: m.requires_grad_(False),
    lambda m: m.set_attn_implementation("eager"),
]


@pytest.mark.parametrize("change", HARMLESS)
def test_what_changes_no_function_changes_no_digest(change: Callable[[Any], Any]) -> None:
    model = tiny_llama()
    plain = digests(model, in_memory=True)
    change(model)
    assert digests(model, in_memory=True) == plain


def test_building_the_configured_model_leaves_nothing_behind() -> None:
    model = tiny_llama()
    state, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    digests(model, in_memory=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() == dtype
    assert nn.Linear(2, 2).weight.device.type == "cpu"


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(ModelError, match="on the meta device"):
        digests(tiny_llama().to("meta"), in_memory=False)


def test_names_and_books_are_no_part_of_the_configuration() -> None:
    plain = effective(LlamaConfig())
    told = {"use_cache": False, "architectures": ["X"], "dtype": "bfloat16", "output_hidden_states": True}
    assert effective(LlamaConfig(**told, name_or_path="elsewhere", id2label={0: "a"})) == plain
    config = LlamaConfig()
    config._attn_implementation = "eager"
    assert effective(config) == plain


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (LlamaConfig, {"rms_norm_eps": 1e-5}),
        (LlamaConfig, {"hidden_act": "gelu"}),
        (LlamaConfig, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
        (LlamaConfig, {"attention_bias": True}),
        (GPT2Config, {"scale_attn_weights": False}),
        (LlamaConfig, {"a_key_that_nobody_knows": 1}),
    ],
)
def test_what_decides_the_function_is_part_of_the_configuration(kind: Any, changes: dict[str, Any]) -> None:
    assert effective(kind(**changes)) != effective(kind())


def test_a_switch_that_a_newer_version_adds_and_that_is_off_changes_nothing() -> None:
    class Newer(LlamaConfig):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            self.new_switch = given.get("new_switch", False)

    assert effective(Newer()) == effective(LlamaConfig())
    assert effective(Newer(new_switch=True)) != effective(LlamaConfig())


def test_numbers_count_by_their_value() -> None:
    thetas = [{"rope_type": "default", "rope_theta": theta} for theta in (5000, 5000.0)]
    same = [effective(LlamaConfig(rope_parameters=theta)) for theta in thetas]
    assert json.dumps(same[0], sort_keys=True) == json.dumps(same[1], sort_keys=True)


# --- hook points -----------------------------------------------------------------------------------------------------


ALIASES = [
    ("blocks.1.hook_resid_post", ["model.layers.1:out", "layers.1:out", "model.layers.1.output"]),
    ("blocks.1.hook_resid_pre", ["model.layers.1:in"]),
    ("blocks.1.hook_mlp_out", ["model.layers.1.mlp:out", "layers.1.mlp.output"]),
    ("model.layers.1.mlp.gate_proj:in", ["layers.1.mlp.gate_proj:in", "model.layers.1.mlp.gate_proj.input"]),
    ("hook_embed", ["model.embed_tokens:out"]),
    ("blocks.1.hook_resid_post", ["blocks.1.hook_resid_post:centered"]),  # an RMSNorm reads the mean too
    ("blocks.1.hook_resid_mid", ["blocks.1.hook_resid_mid:centered"]),
]


@pytest.mark.parametrize(("name", "others"), ALIASES)
def test_a_place_has_one_name(name: str, others: list[str]) -> None:
    subject = HuggingFaceSubject(tiny_llama(), "tiny")
    assert {canonical_name(subject, other) for other in [name, *others]} == {name}


def test_places_that_differ_have_names_that_differ() -> None:
    subject = HuggingFaceSubject(FAMILIES["gpt2"](), "tiny")
    names = [f"blocks.1.{site}{form}" for site in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post")
             for form in ("", ":centered")]  # fmt: skip
    assert [canonical_name(subject, name) for name in names] == names


# --- tasks -----------------------------------------------------------------------------------------------------------


def _others(default: Any) -> list[Any]:
    """Values of a parameter's type that are not the default."""
    if isinstance(default, str):
        return ["mean", "l1", "pre_activations", "reconstruction", "none", "detection,fuzz"]
    if isinstance(default, list):
        return [copy.copy(default)[:-1]]
    return [not default] if isinstance(default, bool) else [default + 1, default / 2]


@pytest.mark.parametrize(("task", "name"), [(t, n) for t, spec in registry.tasks().items() for n in spec.parameters])
def test_every_parameter_of_a_task_names_another_result(task: str, name: str) -> None:
    spec = registry.tasks()[task]
    found = []
    for value in _others(spec.parameters[name]):
        try:
            found.append(registry.definition_sha256(registry.with_parameters(spec, {name: value})))
        except TaskError:
            continue
    assert found, "no other value is allowed; give one above"
    assert registry.definition_sha256(spec) not in found
