"""The model that is measured is the model that was given: self-tests of hook points, against hooks of torch alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import parse_hook
from sae_bench.models.loading import load_subject
from tests.builders import architectures, tiny_models

TOKENS = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(3))
MASK = torch.ones_like(TOKENS, dtype=torch.bool)


def passed(model: Any, path: str, side: str = "out") -> list[Tensor]:
    """What goes in or out of a module at every run of it, by a hook of torch."""
    seen: list[Tensor] = []
    module = model.get_submodule(path)

    def keep(x: Any) -> None:
        seen.append((x[0] if isinstance(x, tuple | list) else x).clone())  # a model may go on writing into it

    if side == "out":
        handle = module.register_forward_hook(lambda _m, _a, out: keep(out))
    else:
        handle = module.register_forward_pre_hook(lambda _m, args: keep(args))
    plain(model)
    handle.remove()
    return seen


def plain(model: Any) -> Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, use_cache=False).logits


def captured(subject: Any, name: str) -> Tensor:
    return subject.capture(TOKENS, MASK, [name]).activations[name]


# --- a module that runs more than once ------------------------------------------------------------------------------


def phi() -> Any:
    """Its blocks apply one dropout module to the attention's and to the MLP's output."""
    return architectures.tiny("phi")


def test_a_module_that_runs_twice_in_a_pass_is_refused_with_the_way_out():
    subject, _ = load_subject(phi())
    with pytest.raises(ModelError, match=r"runs 2 times in a pass.*resid_dropout:out:call=0"):
        subject.width("model.layers.1.resid_dropout:out")


@pytest.mark.parametrize("call", [0, 1])
def test_one_run_of_it_can_be_chosen(call: int):
    model = phi()
    name = f"model.layers.1.resid_dropout:out:call={call}"
    subject, _ = load_subject(model)
    x = captured(subject, name)
    torch.testing.assert_close(x, passed(model, f"model.layers.1.{('self_attn', 'mlp')[call]}")[0])
    torch.testing.assert_close(subject.splice(TOKENS, MASK, {name: x}), plain(model))
    runs = iter(range(2))
    handle = model.model.layers[1].resid_dropout.register_forward_hook(
        lambda _m, _a, out: torch.zeros_like(out) if next(runs) == call else None
    )
    expected = plain(model)
    handle.remove()
    zeros = torch.zeros_like(x)
    torch.testing.assert_close(subject.splice(TOKENS, MASK, {name: zeros}), expected)
    torch.testing.assert_close(subject.resume(subject.capture(TOKENS, MASK, [name]), name, zeros), expected)


def test_a_run_that_there_is_not_is_refused():
    with pytest.raises(ModelError, match="runs 2 times in a pass, numbered from 0"):
        load_subject(phi())[0].width("model.layers.1.resid_dropout:out:call=2")


def test_a_block_that_stands_in_the_list_twice_is_refused_by_either_name_and_chosen_by_its_run():
    model = tiny_models.tiny_llama()
    model.model.layers[2] = model.model.layers[1]
    subject, _ = load_subject(model)
    for layer in (1, 2):
        with pytest.raises(ModelError, match="runs 2 times in a pass"):
            subject.width(f"blocks.{layer}.hook_resid_post")
    runs = passed(model, "model.layers.1")
    for call in (0, 1):
        name = f"blocks.1.hook_resid_post:call={call}"
        torch.testing.assert_close(captured(subject, name), runs[call])
        assert not subject.can_resume(name)
    assert subject.width("blocks.0.hook_resid_post") == tiny_models.WIDTH


def test_a_stack_of_blocks_that_runs_twice_is_refused():
    """Looped models: the same blocks are applied again to what they returned."""
    model = tiny_models.tiny_gpt2()
    once = model.transformer.h[2].forward

    def twice(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        for block in list(model.transformer.h)[:2]:
            x = block(x, *args, **kwargs)
            x = x[0] if isinstance(x, tuple) else x
        return once(x, *args, **kwargs)

    model.transformer.h[2].forward = twice
    subject, _ = load_subject(model)
    with pytest.raises(ModelError, match="runs 2 times in a pass"):
        subject.width("blocks.0.hook_resid_post")
    assert subject.width("blocks.2.hook_resid_post") == tiny_models.WIDTH


class Remembering(nn.Module):
    """A block that adds something of the pass before: what was captured, written, gives other logits."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block, self.before = block, 0.0

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = self.block(x, *args, **kwargs)
        self.before += 1.0
        return out * (1 + 0.1 * self.before)


def test_a_model_that_remembers_the_pass_before_is_refused():
    model = tiny_models.tiny_llama()
    model.model.layers[1] = Remembering(model.model.layers[1])
    with pytest.raises(ModelError, match=r"writing what was captured there changes the logits"):
        load_subject(model)[0].width("blocks.0.hook_resid_post")


# --- branches that are scaled before they are added -----------------------------------------------------------------


@pytest.mark.parametrize("backend", ["hf", "tl"])
@pytest.mark.parametrize("site", ["hook_attn_out", "hook_mlp_out"])
def test_a_scaled_branch_is_what_enters_the_stream(backend: str, site: str):
    """Granite multiplies both branches by 0.22 before it adds them."""
    model = architectures.tiny("granite")
    raw = passed(model, f"model.layers.1.{'self_attn' if site == 'hook_attn_out' else 'mlp'}")[0]
    logits = plain(model)
    subject, _ = load_subject(copy.deepcopy(model), backend=backend)
    name = f"blocks.1.{site}"
    x = captured(subject, name)
    torch.testing.assert_close(x, 0.22 * raw, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(subject.splice(TOKENS, MASK, {name: x}), logits, rtol=1e-4, atol=1e-5)
    halved = model.model.layers[1].get_submodule("self_attn" if site == "hook_attn_out" else "mlp")
    handle = halved.register_forward_hook(lambda _m, _a, o: (o[0] / 2, *o[1:]) if isinstance(o, tuple) else o / 2)
    expected = plain(model)
    handle.remove()
    torch.testing.assert_close(subject.splice(TOKENS, MASK, {name: x / 2}), expected, rtol=1e-4, atol=1e-5)


def test_the_path_of_a_scaled_branch_means_what_the_module_returns_and_has_its_own_name():
    model = architectures.tiny("granite")
    subject, _ = load_subject(model)
    path = "model.layers.1.self_attn:out"
    torch.testing.assert_close(captured(subject, path), passed(model, "model.layers.1.self_attn")[0])
    both = subject.capture(TOKENS, MASK, [path, "blocks.1.hook_attn_out"]).activations
    torch.testing.assert_close(0.22 * both[path], both["blocks.1.hook_attn_out"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["granite", "minicpm3"])
def test_the_stream_between_scaled_branches_is_written_exactly(name: str):
    """With the MLP silent the block returns the stream itself."""
    model = architectures.tiny(name)
    subject, _ = load_subject(model)
    mid, mlp = "blocks.1.hook_resid_mid", "blocks.1.hook_mlp_out"
    x = captured(subject, mid)
    torch.testing.assert_close(x, passed(model, "model.layers.1.post_attention_layernorm", "in")[0])
    new = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    both = subject.splice(TOKENS, MASK, {mid: new, mlp: torch.zeros_like(x)})
    torch.testing.assert_close(
        both, subject.splice(TOKENS, MASK, {"blocks.1.hook_resid_post": new}), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize("name", ["minimax", "doge"])
def test_where_the_stream_itself_is_scaled_the_names_of_branches_are_refused_and_paths_stay(name: str):
    model = architectures.tiny(name)
    subject, _ = load_subject(model)
    for site in ("hook_attn_out", "hook_mlp_out", "hook_resid_mid"):
        with pytest.raises(ModelError, match="by the model's own numbers"):
            subject.width(f"blocks.1.{site}")
    path = "model.layers.1.self_attn:out"
    torch.testing.assert_close(captured(subject, path), passed(model, "model.layers.1.self_attn")[0])


# --- blocks of another kind -----------------------------------------------------------------------------------------


def test_a_block_with_norms_behind_its_sums_has_no_stream_between_them():
    """OpenAI's first GPT has the names of GPT-2's modules, but its second norm reads the sum with the MLP."""
    model = architectures.tiny("openai-gpt")
    subject, _ = load_subject(model)
    for site in ("hook_resid_mid", "ln2.hook_normalized", "hook_mlp_in", "ln1.hook_normalized"):
        with pytest.raises(ModelError, match="by the model's own numbers"):
            subject.width(f"blocks.1.{site}")
    post = "blocks.1.hook_resid_post"  # its blocks return a list
    torch.testing.assert_close(captured(subject, post), passed(model, "transformer.h.1")[0])
    capture = subject.capture(TOKENS, MASK, [post])
    zeros = torch.zeros_like(capture.activations[post])
    torch.testing.assert_close(subject.resume(capture, post, zeros), subject.splice(TOKENS, MASK, {post: zeros}))


def test_a_norm_without_weights_is_taken_apart():
    """OLMo's first version: LayerNorms without gain and bias, whose epsilon stands in their code alone."""
    model = architectures.tiny("olmo")
    subject, _ = load_subject(model)
    x = passed(model, "model.layers.1.post_attention_layernorm", "in")[0]
    expected = torch.nn.functional.layer_norm(x, x.shape[-1:])
    torch.testing.assert_close(captured(subject, "blocks.1.ln2.hook_normalized"), expected, rtol=1e-5, atol=1e-5)


def test_a_stream_of_several_copies_is_refused_by_its_shape():
    subject, _ = load_subject(architectures.tiny("gemma3n_text"))
    for site in ("hook_resid_pre", "hook_resid_post"):
        with pytest.raises(ModelError, match=r"carries \[4, 2, 8, 32\].*several parallel copies"):
            subject.width(f"blocks.1.{site}")


def test_a_module_that_sees_tokens_in_a_row_is_refused():
    """Experts of a mixture get the tokens of all sequences behind one another."""
    model = architectures.tiny("mixtral")
    subject, _ = load_subject(model)
    with pytest.raises(ModelError, match=r"carries \[16, 32\] for 2 sequences of 8 tokens.*no row for every token"):
        subject.width("model.layers.1.mlp.experts:out")


def test_what_is_written_is_left_alone_where_the_model_adds_to_it_in_place():
    """Falcon adds attention to the MLP's output in place: neither the caller's tensor nor what is captured changes."""
    model = architectures.tiny("falcon")
    subject, _ = load_subject(model)
    name = "transformer.h.1.mlp:out"
    x = captured(subject, name)
    torch.testing.assert_close(x, passed(model, "transformer.h.1.mlp")[0])
    zeros = torch.zeros_like(x)
    spliced = subject.splice(TOKENS, MASK, {name: zeros})
    assert not zeros.any()
    torch.testing.assert_close(subject.splice(TOKENS, MASK, {name: zeros}), spliced)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("embed.hook_out", "hook_embed"),
        ("blocks.1.hook_in", "blocks.1.hook_resid_pre"),
        ("blocks.1.hook_out", "blocks.1.hook_resid_post"),
        ("blocks.1.attn.hook_out", "blocks.1.hook_attn_out"),
        ("blocks.1.mlp.hook_out", "blocks.1.hook_mlp_out"),
        ("blocks.1.attn.o.hook_in", "blocks.1.attn.hook_z"),
        ("blocks.1.mlp.out.hook_in", "blocks.1.mlp.hook_post"),
        ("blocks.1.ln2.hook_in", "blocks.1.hook_mlp_in"),
    ],
)
@pytest.mark.parametrize("make", [tiny_models.tiny_llama, tiny_models.tiny_gpt2])
def test_names_of_transformer_lens_3_and_4_are_the_same_places(alias: str, name: str, make: Any):
    model = make()
    assert parse_hook(alias, model) == parse_hook(name, model)
    assert parse_hook(alias, model).name == name


def test_behind_a_norm_the_output_of_attention_is_not_what_it_adds():
    model = tiny_models.tiny_gemma2()
    subject, _ = load_subject(model)
    for name, path in (
        ("blocks.1.attn.hook_out", "model.layers.1.self_attn"),
        ("blocks.1.hook_attn_out", "model.layers.1.post_attention_layernorm"),
    ):
        torch.testing.assert_close(captured(subject, name), passed(model, path)[0])


@pytest.mark.parametrize("name", ["bloom", "falcon", "opt"])
def test_a_refusal_never_points_to_a_module_that_carries_something_else(name: str):
    """BLOOM's MLP returns the whole stream; a path that is named as the way out would be measured as the branch."""
    with pytest.raises(ModelError, match=r"did you mean blocks\.1\.hook_resid_pre or blocks\.1\.hook_resid_post\?"):
        load_subject(architectures.tiny(name))[0].width("blocks.1.hook_mlp_out")


def test_suggestions_are_of_the_same_block_and_side_and_pass_their_own_tests():
    subject, _ = load_subject(architectures.tiny("openai-gpt"))
    with pytest.raises(ModelError) as refused:
        subject.width("blocks.1.hook_resid_mod")
    said = str(refused.value).partition("did you mean")[2]
    assert "blocks.1." in said
    assert "hook_resid_mid" not in said  # which this model has not
    with pytest.raises(ModelError) as refused:
        subject.width("transformer.h.2.ln_3:in")
    said = str(refused.value).partition("did you mean")[2]
    assert ".2." in said
    assert ":out" not in said


# --- what it costs, and what is shown -------------------------------------------------------------------------------


def test_a_hook_point_costs_at_most_8_passes_of_64_tokens_once():
    model = tiny_models.tiny_llama()
    subject, _ = load_subject(model)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True)
    before = subject.counters["selftest"]
    for _ in range(2):
        subject.width("blocks.1.hook_mlp_out")
        assert subject.can_resume("blocks.1.hook_mlp_out")
    assert len(sizes) <= 8
    assert max(sizes) <= 64
    assert subject.counters["selftest"] - before >= len(sizes)


@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_self_tests_say_what_they_found(backend: str):
    subject, _ = load_subject(architectures.tiny("granite"), backend=backend)
    says = " | ".join(subject.selftests("blocks.1.hook_attn_out"))
    assert "runs once in a pass" in says
    assert "the second norm's input = the block's input + " in says
    assert ("0.22 x the attention's output" in says) == (backend == "hf")  # there the bridge has multiplied already
    assert "the plain model's logits" in says
