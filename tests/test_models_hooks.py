"""Hook names find the right module, and names that cannot be placed are refused with a hint."""

import pytest
from torch import nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import Hook, find_blocks, known_names, parse_hook
from sae_bench.models.loading import load_subject
from tests.builders import tiny_models

# The table of hook points, written out once more by hand: (site, path below the block, side, form).
GPT2 = [
    ("hook_resid_pre", "", "in", "raw"),
    ("hook_resid_post", "", "out", "raw"),
    ("hook_resid_mid", "ln_2", "in", "residual_mid"),
    ("hook_attn_out", "attn", "out", "raw"),
    ("hook_mlp_out", "mlp", "out", "raw"),
    ("attn.hook_z", "attn.c_proj", "in", "raw"),
    ("mlp.hook_post", "mlp.c_proj", "in", "raw"),
    ("mlp.hook_in", "mlp", "in", "raw"),
    ("ln2.hook_normalized", "ln_2", "in", "normalized"),
    ("hook_mlp_in", "ln_2", "in", "raw"),
    ("ln1.hook_normalized", "ln_1", "in", "normalized"),
    ("ln1.hook_out", "ln_1", "out", "raw"),
    ("ln2.hook_out", "ln_2", "out", "raw"),
]
LLAMA = [
    ("hook_resid_mid", "post_attention_layernorm", "in", "residual_mid"),
    ("hook_attn_out", "self_attn", "out", "raw"),
    ("hook_mlp_out", "mlp", "out", "raw"),
    ("attn.hook_z", "self_attn.o_proj", "in", "raw"),
    ("mlp.hook_post", "mlp.down_proj", "in", "raw"),
    ("mlp.hook_in", "mlp", "in", "raw"),
    ("ln2.hook_normalized", "post_attention_layernorm", "in", "normalized"),
    ("hook_mlp_in", "post_attention_layernorm", "in", "raw"),
    ("ln1.hook_out", "input_layernorm", "out", "raw"),
    ("ln2.hook_out", "post_attention_layernorm", "out", "raw"),
]
GEMMA2 = [
    ("hook_resid_mid", "pre_feedforward_layernorm", "in", "residual_mid"),
    ("hook_attn_out", "post_attention_layernorm", "out", "raw"),
    ("hook_mlp_out", "post_feedforward_layernorm", "out", "raw"),
    ("attn.hook_z", "self_attn.o_proj", "in", "raw"),
    ("mlp.hook_post", "mlp.down_proj", "in", "raw"),
    ("mlp.hook_in", "mlp", "in", "raw"),
    ("ln2.hook_normalized", "pre_feedforward_layernorm", "in", "normalized"),
    ("hook_mlp_in", "pre_feedforward_layernorm", "in", "raw"),
    ("ln1.hook_normalized", "input_layernorm", "in", "normalized"),
    ("ln1.hook_out", "input_layernorm", "out", "raw"),
    ("ln2.hook_out", "pre_feedforward_layernorm", "out", "raw"),
]
NEOX = [
    ("hook_attn_out", "attention", "out", "raw"),
    ("hook_mlp_out", "mlp", "out", "raw"),
    ("attn.hook_z", "attention.dense", "in", "raw"),
    ("mlp.hook_post", "mlp.dense_4h_to_h", "in", "raw"),
    ("mlp.hook_in", "mlp", "in", "raw"),
    ("ln2.hook_normalized", "post_attention_layernorm", "in", "normalized"),
    ("ln1.hook_out", "input_layernorm", "out", "raw"),
]
TABLE = [
    *(("gpt2", "transformer.h.1", *row) for row in GPT2),
    *(("llama", "model.layers.1", *row) for row in LLAMA),
    *(("qwen2", "model.layers.1", *row) for row in LLAMA),
    *(("gemma2", "model.layers.1", *row) for row in GEMMA2),
    *(("neox", "gpt_neox.layers.1", *row) for row in NEOX),
]


@pytest.mark.parametrize(("family", "block", "site", "below", "io", "form"), TABLE)
def test_every_name_of_the_table_finds_its_module(family, block, site, below, io, form):
    hook = parse_hook(f"blocks.1.{site}", tiny_models.FAMILIES[family]())
    path = f"{block}.{below}" if below else block
    assert hook == Hook(path, io, form, 1)
    assert hook.name == f"blocks.1.{site}"


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("gpt2", "transformer.wte"),
        ("llama", "model.embed_tokens"),
        ("gemma2", "model.embed_tokens"),
        ("neox", "gpt_neox.embed_in"),
    ],
)
def test_hook_embed_is_the_token_embedding(family, path):
    assert parse_hook("hook_embed", tiny_models.FAMILIES[family]()) == Hook(path, "out", layer=None)


def test_module_path_is_the_same_hook_as_its_transformer_lens_name():
    model = tiny_models.tiny_llama()
    raw = parse_hook("model.layers.2:out", model)
    assert raw == parse_hook("blocks.2.hook_resid_post", model)
    assert raw.name == "blocks.2.hook_resid_post"
    assert raw == parse_hook("layers.2:out", model)  # relative to the base model, as sparsify writes it
    assert parse_hook("model.layers.0.self_attn.q_proj:out", model).name == "model.layers.0.self_attn.q_proj:out"
    assert parse_hook("model.norm:in", model).layer is None


def test_module_path_of_the_norm_is_not_the_residual_stream():
    model = tiny_models.tiny_gpt2()
    norm = parse_hook("transformer.h.1.ln_2:in", model)
    assert norm == parse_hook("blocks.1.hook_mlp_in", model)
    assert norm != parse_hook("blocks.1.hook_resid_mid", model)


def test_parallel_blocks_have_no_residual_mid():
    with pytest.raises(ModelError, match=r"blocks\.0\.hook_resid_mid.*parallel.*no residual stream between"):
        parse_hook("blocks.0.hook_resid_mid", tiny_models.tiny_neox())
    sequential = tiny_models.tiny_neox(use_parallel_residual=False)
    assert parse_hook("blocks.0.hook_resid_mid", sequential).form == "residual_mid"
    assert "blocks.0.hook_resid_mid" not in known_names(tiny_models.tiny_neox())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("blocks.3.hook_resid_post", "needs block 3, but the model has 3 layers"),
        ("blocks.1.hook_residpost", r"did you mean .*blocks\.1\.hook_resid_post"),
        ("blocks.1.mlp.hook_pots", r"did you mean .*blocks\.1\.mlp\.hook_post"),
        ("blocks.1.attn.hook_q", "unknown for GPT-2-like blocks"),
        ("transformer.h.1.mpl:out", r"did you mean .*(transformer\.h\.1\.mlp:out|blocks\.1\.hook_mlp_out)"),
        ("transformer.h.1", r"neither a TransformerLens name nor path.to.module:in\|out"),
        ("", "neither"),
    ],
)
def test_unknown_names_are_refused_with_a_hint(name, says):
    with pytest.raises(ModelError, match=says):
        load_subject(tiny_models.tiny_gpt2())[0].width(name)


def test_unknown_block_layout_keeps_its_outside_and_refuses_to_guess_inside():
    """A block with one more norm than Llama's puts something else into the residual stream; a guess would be silent."""
    model = tiny_models.tiny_llama()
    for block in find_blocks(model)[1]:
        block.post_self_attn_layernorm = nn.LayerNorm(tiny_models.WIDTH)
    assert parse_hook("blocks.1.hook_resid_post", model).path == "model.layers.1"
    with pytest.raises(ModelError, match="no layout that sae-bench knows"):
        parse_hook("blocks.1.hook_attn_out", model)
    assert parse_hook("model.layers.1.self_attn:out", model).layer == 1


def test_lists_inside_the_blocks_are_not_the_blocks():
    """A mixture of experts with as many experts as layers has several lists of the right length."""
    model = tiny_models.tiny_llama()
    for block in find_blocks(model)[1]:
        block.mlp.experts = nn.ModuleList(nn.Linear(2, 2) for _ in range(tiny_models.LAYERS))
    assert find_blocks(model)[0] == "model.layers"
