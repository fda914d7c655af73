"""Hook points in centred form: what an SAE saw that was trained with TransformerLens' `center_writing_weights`."""

import copy

import pytest
import torch

from sae_bench.errors import ModelError
from sae_bench.models.continuation import Continuation
from sae_bench.models.hooks import Hook, find_blocks, parse_hook
from sae_bench.models.loading import load_subject
from sae_bench.models.transformer_lens import _placeholder_tokenizer
from tests.builders import tiny_models
from tests.builders.marks import slow_but, slow_but_each

SITES = ["hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_mlp_in"]
UNCHANGED = ["attn.hook_z", "mlp.hook_post", "mlp.hook_in", "ln1.hook_out", "ln2.hook_out", "ln2.hook_normalized"]
NAMES = ["hook_embed", *(f"blocks.1.{site}" for site in SITES)]
BACKENDS = ["hf", "tl"]


def subject_of(model, backend="hf"):
    return load_subject(model, backend=backend)[0]


def batch():
    tokens = torch.randint(1, tiny_models.VOCAB, (3, 9), generator=torch.Generator().manual_seed(5))
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def random_like(x, seed=7):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype) + 1


def mean(x):
    return x.mean(-1, keepdim=True)


def hand_centred(model):
    """A GPT-2 whose every weight that writes to the residual stream has lost its mean over the width."""
    model = copy.deepcopy(model)
    rows = [model.transformer.wte.weight, model.transformer.wpe.weight]  # [..., d_model], as Conv1D stores it too
    for block in model.transformer.h:
        for linear in (block.attn.c_proj, block.mlp.c_proj):
            rows += [linear.weight, linear.bias]
    with torch.no_grad():
        for row in rows:
            row -= mean(row)
    return model


def untied_gpt2():
    return tiny_models.tiny_gpt2(tie_word_embeddings=False).double()


@pytest.mark.parametrize(
    ("family", "others"),  # whether the library does all of its processing, or centres the weights only
    slow_but(2, [("gpt2", True), ("neox", False), ("llama", True), ("gpt2", False), ("neox", True), ("llama", False)]),
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_are_those_of_a_model_that_transformer_lens_has_centred(family, others, backend, tmp_path):
    from transformer_lens.model_bridge import TransformerBridge

    options = {} if family == "gpt2" else {"tie_word_embeddings": False}
    tiny_models.FAMILIES[family](**options).save_pretrained(tmp_path)
    subject = subject_of(tmp_path, backend)
    processed = TransformerBridge.boot_transformers(
        "local-model",
        hf_model=load_subject(tmp_path)[0].model,
        tokenizer=_placeholder_tokenizer(),
        device="cpu",
        dtype=torch.float32,
    )
    processed.enable_compatibility_mode(
        center_writing_weights=True, fold_ln=others, center_unembed=others, fold_value_biases=others
    )
    tokens, mask = batch()
    _, cache = processed.run_with_cache(tokens)
    names = [name for name in NAMES if not name.endswith("hook_mlp_in")]  # off in TransformerLens by default
    names = [name for name in names if not (family == "neox" and name.endswith("resid_mid"))]
    raw = subject.capture(tokens, mask, names).activations
    found = subject.capture(tokens, mask, [f"{name}:centered" for name in names]).activations
    for name in names:
        torch.testing.assert_close(found[f"{name}:centered"], cache[name], atol=1e-5, rtol=1e-5, msg=name)
        assert ((raw[name] - cache[name]).abs().max() > 0.01) == (family != "llama"), name
    if not others:  # `fold_ln` and `fold_value_biases` change these, centring does not
        names = [f"blocks.1.{site}:centered" for site in UNCHANGED]
        found = subject.capture(tokens, mask, names).activations
        for name in names:
            expected = cache[name.removesuffix(":centered")].flatten(2)
            torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", slow_but_each(2, NAMES))
def test_what_is_written_acts_as_in_the_hand_centred_model(name, backend):
    """Any value, zero (which leaves the mean, and the next LayerNorm removes it), and the value that was read."""
    model = untied_gpt2()
    subject, reference = subject_of(model, backend), subject_of(hand_centred(model))
    tokens, mask = batch()
    centred = f"{name}:centered"
    x = subject.capture(tokens, mask, [centred]).activations[centred]
    torch.testing.assert_close(x, reference.capture(tokens, mask, [name]).activations[name])
    clean = subject.splice(tokens, mask, {})
    torch.testing.assert_close(subject.splice(tokens, mask, {centred: x}), clean)
    for new in (torch.zeros_like(x), random_like(x)):
        expected = reference.splice(tokens, mask, {name: new})
        assert (expected - clean).abs().max() > 0.1
        torch.testing.assert_close(subject.splice(tokens, mask, {centred: new}), expected)


class Sees:
    """Keeps what enters the last block and the MLP of block 1: the logits of a LayerNorm model do not show a mean."""

    def __init__(self, model):
        last, norm = find_blocks(model)[1][2], find_blocks(model)[1][1].ln_2
        last.register_forward_pre_hook(lambda _m, a, k: self.keep("last", (*a, *k.values())), with_kwargs=True)
        norm.register_forward_pre_hook(lambda _m, a: self.keep("mid", a))

    def keep(self, key, args):
        setattr(self, key, args[0].clone())


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"])
def test_the_mean_that_was_there_stays_in_splice_resume_and_single_changes(site):
    model = untied_gpt2()
    subject = subject_of(model)
    tokens, mask = batch()
    plain, name = f"blocks.1.{site}", f"blocks.1.{site}:centered"
    capture = subject.capture(tokens, mask, [name, plain])
    raw = capture.activations[plain]
    torch.testing.assert_close(capture.activations[name], raw - mean(raw))
    new = random_like(raw)
    assert subject.can_resume(name)
    sees = Sees(model)
    subject.splice(tokens, mask, {plain: new + mean(raw)})
    expected = sees.last, sees.mid
    for write in (
        lambda: subject.splice(tokens, mask, {name: new}),
        lambda: subject.resume(capture, name, new),
    ):
        write()
        torch.testing.assert_close(sees.last, expected[0])
        if site != "hook_resid_post":
            torch.testing.assert_close(sees.mid, expected[1])

    one = raw.clone()
    one[2, 4] = new[2, 4] + mean(raw)[2, 4]
    subject.splice(tokens, mask, {plain: one})
    expected = sees.last[2:, 4:8]
    continuation = Continuation(subject, capture, name)
    assert continuation.cached
    continuation.ablated(torch.tensor([2]), torch.tensor([4]), new[2, 4][None], 4)
    torch.testing.assert_close(sees.last, expected)


@pytest.mark.parametrize("family", slow_but(1, ["gpt2", "neox"]))
@pytest.mark.parametrize("backend", BACKENDS)
def test_resume_and_single_changes_are_splices(family, backend):
    model = tiny_models.FAMILIES[family]()
    subject = subject_of(model, backend)
    tokens, mask = batch()
    names = [f"{name}:centered" for name in NAMES if not (family == "neox" and name.endswith("resid_mid"))]
    capture = subject.capture(tokens, mask, names)
    sequence, position = torch.tensor([1]), torch.tensor([3])
    for name in names:
        x = capture.activations[name]
        assert subject.width(name) == x.shape[-1]
        new = random_like(x)
        spliced = subject.splice(tokens, mask, {name: new})
        torch.testing.assert_close(subject.resume(capture, name, new), spliced, atol=2e-5, rtol=1e-4, msg=name)
        assert subject.can_resume(name) == (backend == "hf" and not name.startswith("hook_embed"))
        changed = x.clone()
        changed[1, 3] = new[1, 3]
        expected = subject.splice(tokens, mask, {name: changed})[1, 3:8]
        found, _ = Continuation(subject, capture, name).ablated(sequence, position, new[1, 3][None], 5)
        torch.testing.assert_close(found[0], expected, atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("backend", BACKENDS)
def test_several_places_at_once_as_in_the_hand_centred_model(backend):
    model = untied_gpt2()
    subject, reference = subject_of(model, backend), subject_of(hand_centred(model))
    tokens, mask = batch()
    names = ["blocks.0.hook_attn_out", "blocks.1.hook_resid_mid", "blocks.2.hook_mlp_out"]
    new = {name: random_like(torch.empty(3, 9, 16).double(), seed) for seed, name in enumerate(names)}
    torch.testing.assert_close(
        subject.splice(tokens, mask, {f"{name}:centered": x for name, x in new.items()}),
        reference.splice(tokens, mask, new),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_keeps_the_identity_and_is_not_refused(dtype):
    subject = subject_of(tiny_models.tiny_gpt2().to(dtype))
    tokens, mask = batch()
    clean = subject.splice(tokens, mask, {})
    for name in (f"{name}:centered" for name in NAMES):
        x = subject.capture(tokens, mask, [name]).activations[name]
        assert x.dtype == dtype
        again = subject.splice(tokens, mask, {name: x})
        torch.testing.assert_close(again, clean, atol=0.05 * float(clean.abs().max()), rtol=0)


def test_the_model_of_the_fixtures_takes_centred_names(shared):
    for dtype in (torch.float32, torch.bfloat16):
        subject, _ = load_subject(shared / "lm" / "model", dtype=dtype)
        assert subject.width("blocks.3.hook_resid_post:centered") == 256
        assert set(subject.counters) == {"prefix", "suffix", "full", "selftest"}
        assert subject.counters["full"] == subject.counters["prefix"] == 0


# --- names -----------------------------------------------------------------------------------------------------------


def test_names_of_the_same_place_and_form_are_equal():
    model = tiny_models.tiny_gpt2()
    name = "blocks.1.hook_resid_pre:centered"
    hook = parse_hook(name, model)
    assert hook == Hook("transformer.h.1", "in", "centered", 1)
    assert hook.name == name
    by_path = parse_hook("transformer.h.1:in:centered", model)
    assert (by_path, by_path.name) == (hook, name)
    assert hook != parse_hook("blocks.1.hook_resid_pre", model)
    assert parse_hook("blocks.1.hook_resid_mid:centered", model).form == "residual_mid_centered"
    assert parse_hook("hook_embed:centered", model) == Hook("transformer.wte", "out", "centered")
    for site in UNCHANGED:
        found = parse_hook(f"blocks.1.{site}:centered", model)
        assert found == parse_hook(f"blocks.1.{site}", model)
        assert found.name == f"blocks.1.{site}:centered"


@pytest.mark.parametrize("family", slow_but(1, ["gemma2", "llama", "qwen2"]))
def test_models_without_mean_subtracting_norms_have_only_the_raw_form(family):
    """TransformerLens does not centre their weights: RMSNorm would see the difference."""
    model = tiny_models.FAMILIES[family]()
    for name in NAMES:
        assert parse_hook(f"{name}:centered", model) == parse_hook(name, model)
    tokens, mask = batch()
    for backend in BACKENDS:
        subject = subject_of(model, backend)
        found = subject.capture(tokens, mask, ["blocks.1.hook_resid_mid:centered", "blocks.1.hook_resid_mid"])
        assert torch.equal(*found.activations.values())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blocks.1.hook_resid_pre:centred", "it is blocks.1.hook_resid_pre or blocks.1.hook_resid_pre:centered"),
        ("blocks.1.hook_resid_pre:centered:centered", "':centered' goes with names such as"),
        ("transformer.h.1.attn.c_attn:out:centered", "':centered' goes with names such as"),
        ("transformer.ln_f:out:centered", "':centered' goes with names such as"),
        ("transformer.h.1:centered", "neither a TransformerLens name"),
        ("hook_embed:raw", "it is hook_embed or hook_embed:centered"),
        ("blocks.7.hook_resid_pre:centered", "needs block 7"),
    ],
)
def test_other_suffixes_and_places_are_refused(name, says):
    with pytest.raises(ModelError, match=says):
        parse_hook(name, tiny_models.tiny_gpt2())


def test_a_model_whose_norms_and_numbers_disagree_is_refused():
    """Norms behind the branches (GPT-1) let the mean through; Cohere's LayerNorms are of a class of their own."""
    from transformers import CohereConfig, CohereForCausalLM, OpenAIGPTConfig, OpenAIGPTLMHeadModel

    torch.manual_seed(0)
    post = OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=50, n_positions=32, n_embd=16, n_layer=3, n_head=4)).eval()
    own = CohereForCausalLM(CohereConfig(**tiny_models._LLAMA)).eval()
    for model, says in ((post, "have LayerNorms, but its logits depend"), (own, "have no .* do not depend")):
        subject = subject_of(model)
        where = find_blocks(model)[0]
        for name in ("blocks.1.hook_resid_pre:centered", f"{where}.1:in:centered"):
            with pytest.raises(ModelError, match=says):
                subject.width(name)
        assert subject.width("blocks.1.hook_resid_pre") == 16


def test_transformer_lens_back_end_takes_centred_module_paths():
    subject = subject_of(tiny_models.tiny_gpt2(), "tl")
    names = ["transformer.h.1:in:centered", "blocks.1.hook_resid_pre:centered"]
    found = subject.capture(*batch(), names).activations
    assert torch.equal(*found.values())
