"""Hook points: from the names that people use to a module of the model and a side of it.

TransformerLens names are the public vocabulary (`blocks.8.hook_resid_post`); a module path with a side
(`model.layers.8.mlp:out`) reaches everything else. Which module a TransformerLens name means is read off the
sub-modules of a block, never off the model's type; a block of unknown layout has only its input and output, because a
wrong guess would give finite, plausible, wrong numbers.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from sae_bench.errors import ModelError

Side = Literal["in", "out"]
Form = Literal["raw", "normalized", "residual_mid"]

# A block's input and output; these need no knowledge of what is inside.
_OUTER: dict[str, Side] = {"hook_resid_pre": "in", "hook_resid_post": "out"}


@dataclass(frozen=True)
class Hook:
    """One hook point in canonical form; two names of the same place compare equal.

    `path` is a module path of the Hugging Face model and `io` its side. `form` is "normalized" for the affine-free norm
    of that module's input, and "residual_mid" for the residual stream between attention and MLP: read at the norm's
    input, but written to the stream itself. `layer` is the block's index, None outside the blocks.
    """

    path: str
    io: Side = "out"
    form: Form = "raw"
    layer: int | None = None
    name: str = field(default="", compare=False)


@dataclass(frozen=True)
class Layout:
    """One kind of block: its sub-modules, the norm that the MLP branch reads through, and where each name lives."""

    title: str
    children: frozenset[str]
    norm: str
    sites: dict[str, tuple[str, Side]]

    def resolve(self, site: str) -> tuple[str, Side, Form] | None:
        """Return (path below the block, side, form) of a TransformerLens site name, None if it is not one."""
        if site in self.sites:
            path, io = self.sites[site]
            return path, io, "raw"
        forms: dict[str, Form] = {
            "hook_resid_mid": "residual_mid",
            "ln2.hook_normalized": "normalized",
            "hook_mlp_in": "raw",
        }
        return (self.norm, "in", forms[site]) if site in forms else None

    @property
    def names(self) -> list[str]:
        """All site names of this layout."""
        return [*_OUTER, *self.sites, "hook_resid_mid", "ln2.hook_normalized", "hook_mlp_in"]


def _layout(title: str, children: str, norm: str, sites: str) -> Layout:
    """Build a layout; `sites` gives attn_out, mlp_out, hook_z, hook_post and mlp.hook_in as five `path:side`."""
    names = ("hook_attn_out", "hook_mlp_out", "attn.hook_z", "mlp.hook_post", "mlp.hook_in")
    places: dict[str, tuple[str, Side]] = {}
    for name, place in zip(names, sites.split(), strict=True):
        path, side = place.split(":")
        places[name] = (path, "in" if side == "in" else "out")
    return Layout(title, frozenset(children.split()), norm, places)


LAYOUTS = (
    _layout("GPT-2-like", "ln_1 attn ln_2 mlp", "ln_2", "attn:out mlp:out attn.c_proj:in mlp.c_proj:in mlp:in"),
    _layout(
        "Llama-like",
        "input_layernorm self_attn post_attention_layernorm mlp",
        "post_attention_layernorm",
        "self_attn:out mlp:out self_attn.o_proj:in mlp.down_proj:in mlp:in",
    ),
    # Norms after attention and MLP: what enters the residual stream is the norm's output.
    _layout(
        "Gemma-2-like",
        "input_layernorm self_attn post_attention_layernorm pre_feedforward_layernorm mlp post_feedforward_layernorm",
        "pre_feedforward_layernorm",
        "post_attention_layernorm:out post_feedforward_layernorm:out self_attn.o_proj:in mlp.down_proj:in mlp:in",
    ),
    _layout(
        "GPT-NeoX-like",
        "input_layernorm attention post_attention_layernorm mlp",
        "post_attention_layernorm",
        "attention:out mlp:out attention.dense:in mlp.dense_4h_to_h:in mlp:in",
    ),
)


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the decoder blocks: the outermost `ModuleList` with as many entries as the configuration has layers.

    Returns (module path, blocks). Raises ModelError when there is none, or more than one.
    """
    config: Any = getattr(model, "config", None)
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None) if config is not None else None
    lists = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    outer = [(p, m) for p, m in lists if not any(p.startswith(q + ".") for q, _ in lists)]
    if len(outer) != 1:
        found = ", ".join(p for p, _ in outer) or "none"
        raise ModelError(
            f"the model must have one list of {n_layers} blocks, but {type(model).__name__} has {found}; "
            "name the hook point as a module path instead, for example path.to.module:out"
        )
    return outer[0]


def block_layout(block: nn.Module) -> Layout | None:
    """Return the layout of a block from the names of its sub-modules; None if it is none of the known ones."""
    silent = (nn.Dropout, nn.Identity)
    children = {name for name, child in block.named_children() if not isinstance(child, silent)}
    return next((layout for layout in LAYOUTS if layout.children == children), None)


def parse_hook(name: str, model: nn.Module) -> Hook:
    """Resolve a hook name on a Hugging Face model.

    Accepts TransformerLens names (`blocks.3.hook_resid_post`, `blocks.3.ln2.hook_normalized`, `hook_embed`, ...) and
    `path.to.module:in` or `:out`, the path being that of the model or of its base model. Raises ModelError naming the
    hook and what the model has.
    """
    if name == "hook_embed":
        return Hook(_path_of(model, _embedding(model)), "out", name=name)
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", name):
        return _parse_site(name, int(match[1]), match[2], model)
    if match := re.fullmatch(r"([^:]+):(in|out)", name):
        return _parse_path(name, match[1], "in" if match[2] == "in" else "out", model)
    raise ModelError(
        f"hook point {name!r} is neither a TransformerLens name nor path.to.module:in|out{_suggest(name, model)}"
    )


def known_names(model: nn.Module) -> list[str]:
    """List every TransformerLens name that `parse_hook` can resolve on this model."""
    names = ["hook_embed"]
    for layer, block in enumerate(find_blocks(model)[1]):
        layout = block_layout(block)
        for site in layout.names if layout else _OUTER:
            try:
                names.append(parse_hook(f"blocks.{layer}.{site}", model).name)
            except ModelError:
                continue
    return names


def _parse_site(name: str, layer: int, site: str, model: nn.Module) -> Hook:
    where, blocks = find_blocks(model)
    if layer >= len(blocks):
        raise ModelError(
            f"hook point {name!r} needs block {layer}, but the model has {len(blocks)} layers, numbered from 0 to "
            f"{len(blocks) - 1}"
        )
    block, path = blocks[layer], f"{where}.{layer}"
    if site in _OUTER:
        return Hook(path, _OUTER[site], layer=layer, name=name)
    layout = block_layout(block)
    if layout is None:
        has = ", ".join(child for child, _ in block.named_children())
        raise ModelError(
            f"hook point {name!r} cannot be placed: a block of this model has {has}, which is no layout that sae-bench "
            f"knows; use hook_resid_pre, hook_resid_post, or a module path such as {path}.{has.split(', ')[-1]}:out"
        )
    place = layout.resolve(site)
    if place is None:
        raise ModelError(f"hook point {name!r} is unknown for {layout.title} blocks{_suggest(name, model)}")
    below, io, form = place
    if form == "residual_mid" and getattr(block, "use_parallel_residual", False):
        raise ModelError(
            f"hook point {name!r} does not exist: attention and MLP of this model run in parallel on the same input, "
            "so there is no residual stream between them; use hook_resid_pre, hook_attn_out or hook_mlp_out"
        )
    if not _has(block, below):
        parent = below.rpartition(".")[0]
        has = ", ".join(child for child, _ in block.get_submodule(parent).named_children())
        raise ModelError(f"hook point {name!r} needs the module {path}.{below}, but {path}.{parent} has only {has}")
    return Hook(f"{path}.{below}", io, form, layer, name)


def _parse_path(name: str, path: str, io: Side, model: nn.Module) -> Hook:
    base = getattr(model, "base_model_prefix", "")
    if not _has(model, path) and base and _has(model, f"{base}.{path}"):
        path = f"{base}.{path}"
    if not _has(model, path):
        raise ModelError(f"hook point {name!r} names no module of the model{_suggest(name, model)}")
    try:
        where, blocks = find_blocks(model)
    except ModelError:
        return Hook(path, io, name=name)
    match = re.match(re.escape(where) + r"\.(\d+)(?:\.(.+))?$", path)
    if match is None:
        return Hook(path, io, name="hook_embed" if (path, io) == (_embedding_path(model), "out") else name)
    layer, below = int(match[1]), match[2]
    return Hook(path, io, layer=layer, name=_site_name(blocks[layer], layer, below, io) or name)


def _site_name(block: nn.Module, layer: int, below: str | None, io: Side) -> str | None:
    """Return the TransformerLens name of a place in a block, None where there is none."""
    layout = block_layout(block)
    for site in layout.names if layout else _OUTER:
        place = (None, _OUTER[site], "raw") if site in _OUTER else layout.resolve(site) if layout else None
        if place == (below, io, "raw"):
            return f"blocks.{layer}.{site}"
    return None


def _suggest(name: str, model: nn.Module) -> str:
    """Return "; did you mean ..." over all names of the model, TransformerLens names first."""
    try:
        known = known_names(model)
    except ModelError:
        known = []
    paths = [f"{path}:{io}" for path, _ in model.named_modules() if path for io in ("in", "out")]
    close = difflib.get_close_matches(name, known, 2, 0.6) or difflib.get_close_matches(name, paths, 2, 0.5)
    if close:
        return "; did you mean " + " or ".join(close) + "?"
    return f"; the model has for example {', '.join(known[:3] or paths[:3])}"


def _has(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _embedding(model: nn.Module) -> nn.Module:
    get = getattr(model, "get_input_embeddings", None)
    embedding = get() if callable(get) else None
    if not isinstance(embedding, nn.Module):
        raise ModelError(f"{type(model).__name__} has no token embedding, so it has no hook_embed")
    return embedding


def _path_of(model: nn.Module, module: nn.Module) -> str:
    return next(str(path) for path, candidate in model.named_modules() if candidate is module)


def _embedding_path(model: nn.Module) -> str | None:
    try:
        return _path_of(model, _embedding(model))
    except ModelError:
        return None
