"""From the words of other libraries for a place in a model to the two that sae-bench reads.

These are TransformerLens names (``blocks.8.hook_resid_post``), and a module path with a side (``layers.3.mlp:out``),
the path being that of the model or of its base model. No model is needed here: :mod:`sae_bench.models.hooks` places a
name in a model, and refuses one that the model does not have.
"""

from __future__ import annotations

import re

_LENS = re.compile(r"blocks\.\d+\.[\w.]+|hook_embed")

# dictionary_learning calls sub-modules by these names (its `submodule_name`)
_NUMBERED = (
    (re.compile(r"resid_post(?:_layer)?_?(\d+)"), "blocks.{}.hook_resid_post"),
    (re.compile(r"resid_pre(?:_layer)?_?(\d+)"), "blocks.{}.hook_resid_pre"),
    (re.compile(r"(?:attn_out|attention_out|attn)(?:_layer)?_?(\d+)"), "blocks.{}.hook_attn_out"),
    (re.compile(r"(?:mlp_out|mlp)(?:_layer)?_?(\d+)"), "blocks.{}.hook_mlp_out"),
)
# where OpenAI's SAEs on GPT-2 lie in their store
OPENAI_LOCATIONS = {
    "mlp_post_act": "mlp.hook_post",
    "resid_delta_attn": "hook_attn_out",
    "resid_post_attn": "hook_resid_mid",
    "resid_delta_mlp": "hook_mlp_out",
    "resid_post_mlp": "hook_resid_post",
}
# where TransformerLens' `center_writing_weights` changes the value; elsewhere ":centered" would be the same place
_WRITTEN = re.compile(r"(blocks\.\d+\.)hook_(resid_(pre|mid|post)|attn_out|mlp_out|mlp_in)|hook_embed")


def is_lens_name(name: str) -> bool:
    """Whether ``name`` is shaped like a TransformerLens name."""
    return _LENS.fullmatch(name) is not None


def centered(name: str) -> str:
    """The hook point in a model loaded with ``center_writing_weights``: with ":centered" where its value differs."""
    return f"{name}:centered" if _WRITTEN.fullmatch(name) else name


def from_submodule(name: str) -> str | None:
    """The hook point of a ``submodule_name`` of dictionary_learning ("resid_post_layer_8"); None if it is no such."""
    for pattern, place in _NUMBERED:
        if match := pattern.fullmatch(name):
            return place.format(int(match[1]))
    return name if is_lens_name(name) else from_module(name)


def from_module(name: str, side: str | None = None) -> str | None:
    """The hook point of a module path in the ways that libraries write one; None if ``name`` is not one.

    "model.layers.7.mlp.output" (Gemma Scope 2), "model.transformer.h[8].output[0]" (nnsight), or, with ``side``, a bare
    path ("layers.3.mlp", sparsify).
    """
    path = re.sub(r"\[(\d+)\]", r".\1", name.strip())
    if match := re.fullmatch(r"([\w.]+?)\.(?:(output)(?:\.0)?|inputs?(?:\.0){0,2})", path):
        path, side = match[1], "out" if match[2] else "in"
    if side is None or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", path):
        return None
    return f"{path}:{side}"
