"""Layouts of blocks: which module and side each TransformerLens name of a block means.

The layout is read off the names of a block's sub-modules, never off the model's type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

Side = Literal["in", "out"]
Form = Literal["raw", "normalized", "residual_mid", "centered", "residual_mid_centered"]

# A block's input and output; these need no knowledge of what is inside.
OUTER: dict[str, Side] = {"hook_resid_pre": "in", "hook_resid_post": "out"}

# Other names of TransformerLens 3 and 4 for the same places; there they are the hook points, and ours are its aliases.
# `ln2.hook_in` is what the norm alone reads: a hook function there does not change the residual stream.
ALIASES = {
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "attn.o.hook_in": "attn.hook_z",
    "mlp.out.hook_in": "mlp.hook_post",
    "ln2.hook_in": "hook_mlp_in",
}

# Where TransformerLens' `center_writing_weights` changes the value: W_E, W_pos, W_O, b_O, W_out and b_out lose their
# mean over the width, and so does every sum of what they write. It leaves the other names alone: a LayerNorm removes
# the mean anyhow, and heads and neurons read its output. (`hook_z` changes with `fold_value_biases`, another option.)
CENTERED_SITES = frozenset(
    (
        "hook_embed",
        "hook_resid_pre",
        "hook_resid_mid",
        "hook_resid_post",
        "hook_attn_out",
        "hook_mlp_out",
        "hook_mlp_in",
    )
)


@dataclass(frozen=True)
class Layout:
    """One kind of block: its sub-modules, the norms that its two branches read through, and where each name lives."""

    title: str
    children: frozenset[str]
    first_norm: str
    second_norm: str
    sites: dict[str, tuple[str, Side]]

    def resolve(self, site: str) -> tuple[str, Side, Form] | None:
        """Return (path below the block, side, form) of a TransformerLens site name, None if it is not one."""
        if site in self.sites:
            path, io = self.sites[site]
            return path, io, "raw"
        return self._norm_sites.get(site) or self._module_sites.get(site)

    @property
    def names(self) -> list[str]:
        """All site names of this layout; of several for one place the one that is used in results comes first."""
        return [*OUTER, *self.sites, *self._norm_sites, *self._module_sites]

    @property
    def attention(self) -> str:
        """The path of the attention module below the block."""
        return self.sites["attn.hook_z"][0].rpartition(".")[0]

    @property
    def mlp(self) -> str:
        """The path of the MLP below the block."""
        return self.sites["mlp.hook_post"][0].rpartition(".")[0]

    @property
    def _module_sites(self) -> dict[str, tuple[str, Side, Form]]:
        """Names of TransformerLens 3 and 4 for what a module reads and returns, also where a norm stands behind it."""
        return {
            "attn.hook_in": (self.attention, "in", "raw"),
            "attn.hook_out": (self.attention, "out", "raw"),
            "mlp.hook_out": (self.mlp, "out", "raw"),
            "ln1.hook_in": (self.first_norm, "in", "raw"),
        }

    @property
    def _norm_sites(self) -> dict[str, tuple[str, Side, Form]]:
        """Names that are places of a norm: `hook_normalized` is before its gain, `hook_mlp_in` before the norm."""
        first, second = self.first_norm, self.second_norm
        return {
            "hook_resid_mid": (second, "in", "residual_mid"),
            "ln2.hook_normalized": (second, "in", "normalized"),
            "hook_mlp_in": (second, "in", "raw"),
            "ln1.hook_normalized": (first, "in", "normalized"),
            "ln1.hook_out": (first, "out", "raw"),
            "ln2.hook_out": (second, "out", "raw"),
        }


def _layout(title: str, children: str, norms: str, sites: str) -> Layout:
    """Build a layout; `sites` gives attn_out, mlp_out, hook_z, hook_post and mlp.hook_in as five `path:side`."""
    names = ("hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post", "mlp.hook_in")
    places: dict[str, tuple[str, Side]] = {}
    for name, place in zip(names, sites.split(), strict=True):
        path, side = place.split(":")
        places[name] = (path, "in" if side == "in" else "out")
    first, second = norms.split()
    return Layout(title, frozenset(children.split()), first, second, places)


LAYOUTS = (
    _layout("GPT-2-like", "ln_1 attn ln_2 mlp", "ln_1 ln_2", "attn:out mlp:out attn.c_proj:in mlp.c_proj:in mlp:in"),
    _layout(
        "Llama-like",
        "input_layernorm self_attn post_attention_layernorm mlp",
        "input_layernorm post_attention_layernorm",
        "self_attn:out mlp:out self_attn.o_proj:in mlp.down_proj:in mlp:in",
    ),
    # Norms after attention and MLP: what enters the residual stream is the norm's output.
    _layout(
        "Gemma-2-like",
        "input_layernorm self_attn post_attention_layernorm pre_feedforward_layernorm mlp post_feedforward_layernorm",
        "input_layernorm pre_feedforward_layernorm",
        "post_attention_layernorm:out post_feedforward_layernorm:out self_attn.o_proj:in mlp.down_proj:in mlp:in",
    ),
    _layout(
        "GPT-NeoX-like",
        "input_layernorm attention post_attention_layernorm mlp",
        "input_layernorm post_attention_layernorm",
        "attention:out mlp:out attention.dense:in mlp.dense_4h_to_h:in mlp:in",
    ),
)


def block_layout(block: nn.Module) -> Layout | None:
    """Return the layout of a block from the names of its sub-modules; None if it is none of the known ones."""
    silent = (nn.Dropout, nn.Identity)
    children = {name for name, child in block.named_children() if not isinstance(child, silent)}
    return next((layout for layout in LAYOUTS if layout.children == children), None)
