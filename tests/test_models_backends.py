"""The subject model: capture, splice and resume say the same as an independent forward pass, on both back ends."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import known_names
from sae_bench.models.loading import load_subject
from sae_bench.models.subject import Capture, SubjectModel
from tests.builders import tiny_models
from tests.builders.marks import slow_but, slow_but_each

FAMILIES = sorted(tiny_models.FAMILIES)
FEW = slow_but(1, sorted(FAMILIES, key=("gemma2", "gpt2").__contains__, reverse=True))  # what differs most
SITES = [
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "attn.hook_z",
    "mlp.hook_post",
    "mlp.hook_in",
    "ln2.hook_normalized",
    "hook_mlp_in",
]


def subject_of(model, backend="hf"):
    return load_subject(model, backend=backend)[0]


def batch(rows=3, seq=9, seed=5):
    tokens = torch.randint(1, tiny_models.VOCAB, (rows, seq), generator=torch.Generator().manual_seed(seed))
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


def perturbed(x, seed=7):
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


def parts(model):
    """Blocks, and of block 1 the modules of attention, MLP and the norm before the MLP."""
    blocks = (
        model.transformer.h
        if hasattr(model, "transformer")
        else (model.gpt_neox.layers if hasattr(model, "gpt_neox") else model.model.layers)
    )
    block = blocks[1]
    attention = next(getattr(block, n) for n in ("attn", "self_attn", "attention") if hasattr(block, n))
    names = ("ln_2", "pre_feedforward_layernorm", "post_attention_layernorm")
    norm = next(getattr(block, n) for n in names if hasattr(block, n))
    return blocks, attention, block.mlp, norm


@pytest.mark.parametrize("family", FAMILIES)
def test_residual_stream_is_that_of_output_hidden_states(family):
    model = tiny_models.FAMILIES[family]()
    tokens, mask = batch()
    hidden = model(tokens, output_hidden_states=True).hidden_states
    names = [f"blocks.{i}.hook_resid_pre" for i in range(3)] + [f"blocks.{i}.hook_resid_post" for i in range(3)]
    found = subject_of(model).capture(tokens, mask, names).activations
    for layer in range(3):
        torch.testing.assert_close(found[f"blocks.{layer}.hook_resid_pre"], hidden[layer])
    for layer in range(2):
        torch.testing.assert_close(found[f"blocks.{layer}.hook_resid_post"], hidden[layer + 1])
    last = found["blocks.2.hook_resid_post"]  # the block's output: the last of `hidden_states` is behind the final norm
    assert not torch.allclose(last, hidden[3], atol=1e-2)
    final = next(m for n, m in model.named_modules() if n.endswith(("ln_f", "model.norm", "final_layer_norm")))
    torch.testing.assert_close(final(last), hidden[3])


@pytest.mark.parametrize("family", FAMILIES)
def test_inner_activations_are_those_of_plain_forward_hooks_and_add_up(family):
    model = tiny_models.FAMILIES[family]()
    _, attention, mlp, norm = parts(model)
    tokens, mask = batch()
    seen = {}
    handles = [
        mlp.register_forward_hook(lambda _m, a, out: seen.update(mlp_in=a[0], mlp_raw=out)),
        norm.register_forward_hook(lambda _m, a, out: seen.update(norm_in=a[0], norm_out=out)),
        attention.register_forward_hook(lambda _m, _a, out: seen.update(attn_raw=out[0])),
    ]
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    sites = [s for s in SITES if not (family == "neox" and s == "hook_resid_mid")]
    found = subject_of(model).capture(tokens, mask, [f"blocks.1.{s}" for s in sites]).activations
    x = {site: found[f"blocks.1.{site}"] for site in sites}

    torch.testing.assert_close(x["mlp.hook_in"], seen["mlp_in"])
    torch.testing.assert_close(x["hook_mlp_in"], seen["norm_in"])
    torch.testing.assert_close(x["mlp.hook_in"], seen["norm_out"])
    if family != "gemma2":  # there, what enters the stream has passed one more norm
        torch.testing.assert_close(x["hook_attn_out"], seen["attn_raw"])
        torch.testing.assert_close(x["hook_mlp_out"], seen["mlp_raw"])
    if family == "neox":
        torch.testing.assert_close(
            x["hook_resid_pre"] + x["hook_attn_out"] + x["hook_mlp_out"], x["hook_resid_post"], atol=1e-5, rtol=1e-5
        )
    else:
        torch.testing.assert_close(x["hook_resid_pre"] + x["hook_attn_out"], x["hook_resid_mid"])
        torch.testing.assert_close(x["hook_resid_mid"] + x["hook_mlp_out"], x["hook_resid_post"])
    # affine-free: unit mean square over the width, whatever the gains are
    ones = x["ln2.hook_normalized"].pow(2).mean(-1)
    torch.testing.assert_close(ones, torch.ones_like(ones), atol=1e-3, rtol=1e-3)
    assert (seen["norm_out"] - x["ln2.hook_normalized"]).abs().max() > 0.1


@pytest.mark.parametrize("family", slow_but_each(2, FAMILIES))
def test_splice_of_the_captured_activation_changes_nothing(family):
    model = tiny_models.FAMILIES[family]()
    subject = subject_of(model)
    tokens, mask = batch()
    with torch.no_grad():
        clean = model(tokens).logits
    torch.testing.assert_close(subject.splice(tokens, mask, {}), clean)
    names = known_names(model)
    found = subject.capture(tokens, mask, names).activations
    for name in names:
        again = subject.splice(tokens, mask, {name: found[name]})
        torch.testing.assert_close(again, clean, atol=2e-5, rtol=1e-4, msg=f"{family} {name}")


@pytest.mark.parametrize("family", FEW)
def test_resume_is_splice_at_every_hook_point(family):
    model = tiny_models.FAMILIES[family]()
    subject = subject_of(model)
    tokens, mask = batch()
    names = known_names(model)
    capture = subject.capture(tokens, mask, names)
    clean = subject.splice(tokens, mask, {})
    for name in names:
        new = perturbed(capture.activations[name])
        spliced = subject.splice(tokens, mask, {name: new})
        assert (spliced - clean).abs().max() > 0.1, f"{family} {name}: the replacement has no effect"
        torch.testing.assert_close(subject.resume(capture, name, new), spliced, msg=f"{family} {name}")
        assert subject.can_resume(name) == (name != "hook_embed")


@pytest.mark.parametrize("family", slow_but(2, ["gpt2", "gemma2", "llama", "qwen2"]))
@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_residual_mid_changes_the_stream_and_mlp_in_only_the_branch(family, backend):
    model = tiny_models.FAMILIES[family]()
    subject = subject_of(model, backend)
    tokens, mask = batch()
    mid, mlp_out, mlp_in = "blocks.2.hook_resid_mid", "blocks.2.hook_mlp_out", "blocks.2.hook_mlp_in"
    x = subject.capture(tokens, mask, [mid]).activations[mid]
    new = perturbed(x)
    silent = {mlp_out: torch.zeros_like(x)}  # without the MLP, the block's output is the stream itself
    both = subject.splice(tokens, mask, {mid: new, **silent})
    torch.testing.assert_close(
        both, subject.splice(tokens, mask, {"blocks.2.hook_resid_post": new}), atol=1e-5, rtol=1e-4
    )
    branch = subject.splice(tokens, mask, {mlp_in: new, **silent})
    torch.testing.assert_close(branch, subject.splice(tokens, mask, silent), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", slow_but_each(2, FAMILIES))
@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_right_padding_changes_no_real_position(family, backend):
    subject = subject_of(tiny_models.FAMILIES[family](), backend)
    tokens, mask = batch(rows=2, seq=12)
    tokens[0, 5:], mask[0, 5:] = 0, False
    name = "blocks.1.hook_resid_post"
    padded, alone = subject.capture(tokens, mask, [name]), subject.capture(tokens[:1, :5], mask[:1, :5], [name])
    torch.testing.assert_close(padded.activations[name][:1, :5], alone.activations[name], atol=1e-5, rtol=1e-4)
    logits = subject.splice(tokens, mask, {})
    torch.testing.assert_close(logits[:1, :5], subject.splice(tokens[:1, :5], mask[:1, :5], {}), atol=1e-5, rtol=1e-4)
    assert torch.equal(padded.attention_mask, mask)


def state_of(model):
    return {
        name: (dict(m._forward_hooks), dict(m._forward_pre_hooks), "forward" in m.__dict__, m.training)
        for name, m in model.named_modules()
    }


@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_nothing_is_left_behind_on_the_model(backend):
    model = tiny_models.tiny_llama()
    model.train()  # dropout or not, the owner's mode comes back
    before, tree, attention = state_of(model), str(model), model.config._attn_implementation
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    subject = subject_of(model, backend)
    tokens, mask = batch()
    capture = subject.capture(tokens, mask, SITE_NAMES := [f"blocks.1.{s}" for s in SITES])
    for name in SITE_NAMES:
        subject.resume(capture, name, capture.activations[name])
        with pytest.raises(ModelError, match="must have the shape"):
            subject.splice(tokens, mask, {name: torch.zeros(1, 1, 3)})
        with pytest.raises(ModelError, match="must have the shape"):
            subject.resume(capture, name, torch.zeros(1, 1, 3))
    assert state_of(model) == before
    assert (str(model), model.config._attn_implementation) == (tree, attention)
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_forward_that_fails_in_the_middle_restores_the_model():
    model = tiny_models.tiny_gpt2()
    subject = subject_of(model)
    tokens, mask = batch()
    name = "blocks.1.hook_resid_post"
    capture = subject.capture(tokens, mask, [name])
    expected = subject.resume(capture, name, capture.activations[name])
    before = state_of(model)

    def fail(*_args):
        raise RuntimeError("out of memory")

    handle = model.transformer.ln_f.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        subject.resume(capture, name, capture.activations[name])
    with pytest.raises(RuntimeError, match="out of memory"):
        subject.splice(tokens, mask, {name: capture.activations[name]})
    handle.remove()
    assert state_of(model) == before
    torch.testing.assert_close(subject.resume(capture, name, capture.activations[name]), expected)


def test_capture_stops_at_the_deepest_hook_and_resume_skips_the_prefix():
    model = tiny_models.tiny_llama()
    subject = subject_of(model)
    for name in ("blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"):
        subject.can_resume(name)
    ran = []
    for layer, block in enumerate(model.model.layers):
        block.mlp.register_forward_hook(lambda *_args, layer=layer: ran.append(layer))
    model.lm_head.register_forward_hook(lambda *_args: ran.append("head"))
    tokens, mask = batch()
    capture = subject.capture(tokens, mask, ["blocks.0.hook_resid_pre", "blocks.1.hook_mlp_out"])
    assert ran == [0, 1]
    assert set(capture.carry) == {1}
    ran.clear()
    subject.resume(capture, "blocks.1.hook_mlp_out", capture.activations["blocks.1.hook_mlp_out"])
    assert ran == [1, 2, "head"]


def test_counters_count_sequences_by_kind_of_pass():
    subject = subject_of(tiny_models.tiny_gpt2())
    tokens, mask = batch(rows=3)
    name = "blocks.1.hook_resid_post"
    capture = subject.capture(tokens, mask, [name])
    subject.splice(tokens, mask, {})
    subject.resume(capture, name, capture.activations[name])
    tested = subject.counters["selftest"]
    subject.resume(capture.rows(torch.tensor([0, 0])), name, capture.activations[name][[0, 0]])
    assert {k: subject.counters[k] for k in ("prefix", "full", "suffix")} == {"prefix": 3, "full": 3, "suffix": 5}
    assert subject.counters["selftest"] == tested > 0, "the equality test runs once for a hook point"
    embedded = subject.capture(tokens, mask, ["hook_embed"])
    subject.resume(embedded, "hook_embed", embedded.activations["hook_embed"])
    assert subject.counters["full"] == 6

    bridge = subject_of(tiny_models.tiny_gpt2(), "tl")
    capture = bridge.capture(tokens, mask, [name])
    bridge.resume(capture, name, capture.activations[name])
    assert (bridge.counters["prefix"], bridge.counters["full"], bridge.counters["suffix"]) == (3, 3, 0)


class SkipsToTheEmbedding(nn.Module):
    """A last block that also reads what the first block saw, like models that share state between layers."""

    def __init__(self, block, model):
        super().__init__()
        self.block = block
        self.__dict__["model"] = model

    def forward(self, hidden_states, *args, **kwargs):
        return self.block(hidden_states, *args, **kwargs) + self.model.model.layers[0].mlp.seen


def test_resume_falls_back_to_splice_where_later_blocks_read_earlier_state():
    model = tiny_models.tiny_llama()
    first = model.model.layers[0].mlp
    first.register_forward_hook(lambda m, _a, out: m.__dict__.update(seen=out))
    model.model.layers[2] = SkipsToTheEmbedding(model.model.layers[2], model)
    subject = subject_of(model)
    tokens, mask = batch()
    name = "blocks.1.hook_resid_post"
    capture = subject.capture(tokens, mask, [name])
    new = perturbed(capture.activations[name])
    assert not subject.can_resume(name)
    torch.testing.assert_close(subject.resume(capture, name, new), subject.splice(tokens, mask, {name: new}))
    assert subject.counters["suffix"] == 0


def test_blocks_that_return_tuples_are_spliced_and_resumed_too():
    """Blocks of other transformers versions return `(hidden_states, ...)`."""

    class ReturnsTuple(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, hidden_states, *args, **kwargs):
            return (self.block(hidden_states, *args, **kwargs), None)

    class TakesTuple(ReturnsTuple):
        def forward(self, hidden_states, *args, **kwargs):
            return super().forward(hidden_states[0], *args, **kwargs)[0]

    plain, model = tiny_models.tiny_llama(), tiny_models.tiny_llama()
    model.model.layers[0] = ReturnsTuple(model.model.layers[0])
    model.model.layers[1] = TakesTuple(model.model.layers[1])
    tokens, mask = batch()
    name = "blocks.0.hook_resid_post"
    reference, subject = subject_of(plain), subject_of(model)
    x = reference.capture(tokens, mask, [name]).activations[name]
    capture = subject.capture(tokens, mask, [name])
    torch.testing.assert_close(capture.activations[name], x)
    new = perturbed(x)
    expected = reference.splice(tokens, mask, {name: new})
    torch.testing.assert_close(subject.splice(tokens, mask, {name: new}), expected)
    assert subject.can_resume(name)
    torch.testing.assert_close(subject.resume(capture, name, new), expected)


@pytest.mark.parametrize("family", FEW)
def test_both_back_ends_agree_on_activations_and_spliced_logits(family):
    model = tiny_models.FAMILIES[family]()
    hf, tl = subject_of(model), subject_of(model, "tl")
    assert (tl.vocab_size, tl.n_layers, tl.context_length) == (hf.vocab_size, hf.n_layers, hf.context_length)
    tokens, mask = batch()
    tokens[0, 6:], mask[0, 6:] = 0, False
    for name in known_names(model):
        x = hf.capture(tokens, mask, [name]).activations[name]
        torch.testing.assert_close(
            tl.capture(tokens, mask, [name]).activations[name], x, atol=1e-5, rtol=1e-4, msg=f"capture {name}"
        )
        assert hf.width(name) == tl.width(name) == x.shape[-1]
        new = perturbed(x)
        torch.testing.assert_close(
            tl.splice(tokens, mask, {name: new}), hf.splice(tokens, mask, {name: new}), atol=2e-5, rtol=1e-4, msg=name
        )


def test_transformer_lens_understands_module_paths_that_have_a_name_there():
    model = tiny_models.tiny_gpt2()
    tl = subject_of(model, "tl")
    tokens, mask = batch()
    path, name = "transformer.h.1.mlp:out", "blocks.1.hook_mlp_out"
    found = tl.capture(tokens, mask, [path, name]).activations
    assert torch.equal(found[path], found[name])
    with pytest.raises(ModelError, match="no TransformerLens name"):
        tl.capture(tokens, mask, ["transformer.h.1.attn.c_attn:out"])


@pytest.mark.slow
def test_transformer_lens_writes_nothing_to_standard_output(tmp_path):
    tiny_models.tiny_gpt2().save_pretrained(tmp_path)
    code = (
        "import sys; from sae_bench.models.loading import load_subject; import torch\n"
        f"assert 'transformer_lens' not in sys.modules\nm, _ = load_subject({str(tmp_path)!r}, backend='tl')\n"
        "m.splice(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool), {})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("backend", ["hf", "tl"])
@pytest.mark.parametrize("family", slow_but(1, ["gemma2", "llama", "gpt2"]))
def test_float64_stays_float64(family, backend):
    model = tiny_models.FAMILIES[family]().double()
    subject = subject_of(model, backend)
    tokens, mask = batch()
    assert subject.dtype == torch.float64
    for name in known_names(model)[-9:]:
        capture = subject.capture(tokens, mask, [name])
        assert capture.activations[name].dtype == torch.float64
        logits = subject.resume(capture, name, capture.activations[name])
        torch.testing.assert_close(logits, model(tokens).logits, atol=5e-6, rtol=1e-5)  # RMSNorm is float32
        assert logits.dtype == torch.float64


def test_bfloat16_residual_mid_is_set_exactly():
    model = tiny_models.tiny_gpt2().bfloat16()
    subject = subject_of(model)
    tokens, mask = batch()
    name = "blocks.1.hook_resid_mid"
    new = perturbed(subject.capture(tokens, mask, [name]).activations[name] * 100)
    assert subject.can_resume(name)
    silent = {"blocks.1.hook_mlp_out": torch.zeros_like(new)}
    expected = subject.splice(tokens, mask, {"blocks.1.hook_resid_post": new})
    assert torch.equal(subject.splice(tokens, mask, {name: new, **silent}), expected)


def test_what_comes_back_is_free_of_the_graph_and_can_be_used_in_one():
    subject = subject_of(tiny_models.tiny_gpt2())
    tokens, mask = batch()
    x = subject.capture(tokens, mask, ["blocks.0.hook_resid_post"]).activations["blocks.0.hook_resid_post"]
    logits = subject.splice(tokens, mask, {})
    assert not x.requires_grad
    assert not logits.requires_grad
    weight = torch.zeros(x.shape[-1], requires_grad=True)
    (x @ weight).sum().backward()  # a probe trained on the activations
    logits -= logits.logsumexp(-1, keepdim=True)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: (t.float(), m), "must be integers"),
        (lambda t, m: (t[0], m[0]), r"integers \[batch, seq\]"),
        (lambda t, m: (t, m[:, 1:]), "must have the shape"),
        (lambda t, m: (t + 50, m), "token ids must be from 0 to 49"),
        (lambda t, m: (t - 50, m), "token ids must be from 0 to 49"),
        (lambda t, m: (t.repeat(1, 4), m.repeat(1, 4)), "36 tokens, but the model takes at most 32"),
        (lambda t, m: (t, m & (torch.arange(9) > 2)), "padding must be on the right"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change, says):
    subject = subject_of(tiny_models.tiny_gpt2())
    with pytest.raises(ModelError, match=says):
        subject.capture(*change(*batch()), ["blocks.0.hook_resid_post"])


def test_resume_needs_the_capture_of_its_hook():
    subject = subject_of(tiny_models.tiny_gpt2())
    tokens, mask = batch()
    capture = subject.capture(tokens, mask, ["blocks.0.hook_resid_post"])
    with pytest.raises(ModelError, match="needs a capture of that hook point"):
        subject.resume(capture, "blocks.1.hook_mlp_out", torch.zeros(3, 9, 16))


# --- loading ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    tiny_models.tiny_llama(tie_word_embeddings=False).save_pretrained(tmp_path / "tiny-llama")
    return tmp_path / "tiny-llama"


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("backend", ["hf", "tl"])
def test_local_folder_gives_the_model_that_was_saved(folder, backend):
    subject, tokenizer = load_subject(str(folder), backend=backend, dtype=torch.float64)
    assert isinstance(subject, SubjectModel)
    assert (subject.name, subject.backend, subject.dtype, tokenizer) == ("tiny-llama", backend, torch.float64, None)
    tokens, mask = batch()
    expected = tiny_models.tiny_llama(tie_word_embeddings=False).double()(tokens).logits
    torch.testing.assert_close(subject.splice(tokens, mask, {}), expected, atol=5e-6, rtol=1e-5)


def test_loading_leaves_the_settings_of_transformers_alone(folder, capsys):
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_subject(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capsys.readouterr().out == ""


def damage(name):
    def weights(folder, keep):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])

    return {
        "no config": lambda f: (f / "config.json").unlink(),
        "config is not json": lambda f: (f / "config.json").write_text("{"),
        "unknown type": lambda f: edit_config(f, model_type="zzz"),
        "no weights": lambda f: (f / "model.safetensors").unlink(),
        "half the weights": lambda f: weights(f, 1000),
        "no bytes": lambda f: weights(f, 0),
        "more layers": lambda f: edit_config(f, num_hidden_layers=5),
        "another width": lambda f: edit_config(f, hidden_size=32),
        "encoder-decoder": lambda f: edit_config(f, model_type="t5"),
        "damaged tokenizer": lambda f: (f / "tokenizer.json").write_text("{"),
        "code of its own": lambda f: edit_config(f, model_type="zzz", auto_map={"AutoConfig": "x.C"}),
    }[name]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no config", "has no config.json"),
        ("config is not json", "is not valid JSON"),
        ("unknown type", "cannot be loaded"),
        ("no weights", "no readable config or weights"),
        ("half the weights", "is damaged"),
        ("no bytes", "is damaged"),
        ("more layers", r"lack what its config.json asks for \(18 tensors"),
        ("another width", "in another shape"),
        ("encoder-decoder", "not a causal language model"),
        ("damaged tokenizer", "tokenizer of .* cannot be loaded"),
        ("code of its own", "never run here"),
    ],
)
def test_unusable_folders_are_refused_in_one_sentence(folder, name, says):
    damage(name)(folder)
    with pytest.raises(ModelError, match=says) as caught:
        load_subject(folder)
    assert "\n" not in str(caught.value)


def test_base_model_without_head_is_refused(folder, tmp_path):
    base = tiny_models.tiny_llama().model
    with pytest.raises(ModelError, match="no language-model head"):
        load_subject(base)
    tiny_models.tiny_llama(tie_word_embeddings=False).model.save_pretrained(tmp_path / "base")
    with pytest.raises(ModelError, match=r"lack .*lm_head.*without a language-model head"):
        load_subject(tmp_path / "base")


def test_bidirectional_and_broken_models_are_refused():
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(ModelError, match="not causal"):
        load_subject(BertLMHeadModel(config))
    broken = tiny_models.tiny_gpt2()
    with torch.no_grad():
        broken.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        load_subject(broken)
    with pytest.raises(ModelError, match="must be a transformers causal language model, not Linear"):
        load_subject(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("./nowhere", "does not exist"),
        ("", "empty name"),
        ("somebody/no-such-model", "neither a local folder nor in the local cache.*give a local folder"),
    ],
)
def test_sources_that_are_not_there(source, says, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=says):
        load_subject(source)


def test_wrong_backend_device_and_tokenizer(folder):
    with pytest.raises(ModelError, match="must be 'hf'"):
        load_subject(folder, backend="jax")
    with pytest.raises(ModelError, match="no device is called 'nonsense'"):
        load_subject(folder, device="nonsense")
    with pytest.raises(ModelError, match="no tokenizer found"):
        load_subject(folder, tokenizer=folder)


def test_real_model_and_tokenizer(shared, tmp_path):
    source = shared / "lm" / "model"
    subject, tokenizer = load_subject(source)
    assert (subject.n_layers, subject.context_length, subject.vocab_size) == (4, 256, 4096)
    ids = tokenizer("The whale, the sea.", return_tensors="pt").input_ids
    mask = torch.ones_like(ids, dtype=torch.bool)
    name = "blocks.1.hook_resid_post"
    capture = subject.capture(ids, mask, [name])
    torch.testing.assert_close(subject.resume(capture, name, capture.activations[name]), subject.splice(ids, mask, {}))
    bridge, _ = load_subject(source, backend="tl")
    torch.testing.assert_close(
        bridge.capture(ids, mask, [name]).activations[name], capture.activations[name], atol=1e-4, rtol=1e-4
    )

    tiny_models.tiny_gpt2().save_pretrained(tmp_path)
    for file in source.glob("tokenizer*.json"):
        shutil.copy(file, tmp_path)
    with pytest.raises(ModelError, match="tokenizer does not belong to model"):
        load_subject(tmp_path)


@pytest.mark.parametrize("backend", slow_but(1, ["hf", "tl"]))
def test_token_losses_are_those_of_the_independent_reference(shared, backend):
    """Clean, and with the residual stream replaced by zero, against figures that other code computed in float64."""
    subject, _ = load_subject(shared / "lm" / "model", backend=backend, dtype=torch.float64)
    tokens = torch.from_numpy(np.load(shared / "lm" / "reference_tokens.npy"))[:2]
    expected = np.load(shared / "lm" / "reference_token_ce.npz")
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def losses(logits):
        return torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")

    def reference(key):
        return torch.from_numpy(expected[key][:2])

    torch.testing.assert_close(losses(subject.splice(tokens, mask, {})), reference("clean"))
    for name in ("blocks.1.hook_resid_post", "blocks.2.hook_resid_post"):
        capture = subject.capture(tokens, mask, [name])
        resumed = subject.resume(capture, name, torch.zeros_like(capture.activations[name]))
        torch.testing.assert_close(losses(resumed), reference(f"{name}|zero|set_all"))


def test_capture_rows_selects_and_repeats_sequences():
    x = torch.arange(6.0).reshape(2, 3, 1)
    tokens = torch.arange(6).reshape(2, 3)
    rows = Capture(tokens, tokens >= 0, {"a": x}, {0: x}).rows(torch.tensor([1, 1, 0]))
    assert rows.tokens[:, 0].tolist() == [3, 3, 0]
    assert torch.equal(rows.activations["a"], rows.carry[0])
