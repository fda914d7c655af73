"""Hook points: from the names that people use to a module of the model and a side of it.

TransformerLens names are the public vocabulary (`blocks.8.hook_resid_post`); a module path with a side
(`model.layers.8.mlp:out`) reaches everything else. Which module a TransformerLens name means is read off the
sub-modules of a block, never off the model's type; a block of unknown layout has only its input and output, because a
wrong guess would give finite, plausible, wrong numbers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from sae_bench.errors import ModelError
from sae_bench.models.layouts import ALIASES, CENTERED_SITES, OUTER, Form, Side, block_layout

# Levels of module paths by which models of text alone and models around them differ: an SAE trained on
# `model.layers.7` is one of `model.language_model.layers.7` in the multimodal model with the same text part.
_WRAPPERS = ("model", "language_model", "text_model")


@dataclass(frozen=True)
class Hook:
    """One hook point in canonical form; two names of the same place compare equal.

    `path` is a module path of the Hugging Face model and `io` its side. `form` is "normalized" for the affine-free norm
    of that module's input, and "residual_mid" for the residual stream between attention and MLP: read at the norm's
    input, but written to the stream itself. "centered" and "residual_mid_centered" are x minus its mean over the width,
    token by token; what is written there leaves that mean as it was. `layer` is the block's index, None outside the
    blocks. `call` chooses one run of a module that runs several times in a pass, numbered from 0. `scale` is the factor
    by which the model multiplies the module's value before it enters the residual stream: the activation is the
    product. `name` is the TransformerLens name where there is one, else what the user wrote.
    """

    path: str
    io: Side = "out"
    form: Form = "raw"
    layer: int | None = None
    name: str = field(default="", compare=False)
    call: int | None = None
    scale: float = 1.0

    @property
    def centered(self) -> bool:
        """Whether the activation is taken without its mean over the width."""
        return self.form in ("centered", "residual_mid_centered")

    @property
    def residual_mid(self) -> bool:
        """Whether this is the residual stream between attention and MLP."""
        return self.form in ("residual_mid", "residual_mid_centered")

    @property
    def site(self) -> str | None:
        """The TransformerLens name below its block, `hook_attn_out`; None for a place that has only a module path."""
        found = re.fullmatch(r"blocks\.\d+\.([^:]+)(:centered)?", self.name)
        return found[1] if found else None


class UnknownHook(ModelError):
    """A name that no place of the model has; `near` are names that may be meant, best first, none of them tested."""

    def __init__(self, message: str, near: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.near = tuple(near)


def find_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Find the decoder blocks: the outermost `ModuleList` with as many entries as the configuration has layers.

    Of several (an image encoder may have as many) the one whose parent also holds the token embedding. Returns (module
    path, blocks). Raises ModelError when there is none, or more than one.
    """
    config: Any = getattr(model, "config", None)
    n_layers = getattr(config.get_text_config(), "num_hidden_layers", None) if config is not None else None
    lists = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    lists = [(p, m) for p, m in lists if all(any(True for _ in block.children()) for block in m)]  # no projections
    outer = [(p, m) for p, m in lists if not any(p.startswith(q + ".") for q, _ in lists)]
    if len(outer) > 1 and (embedding := _embedding_path(model)) is not None:
        outer = [(p, m) for p, m in outer if embedding.startswith(p.rpartition(".")[0] + ".")]
    if len(outer) != 1:
        found = ", ".join(p for p, _ in outer) or "none"
        raise ModelError(
            f"the model must have one list of {n_layers} blocks, but {type(model).__name__} has {found}; "
            "name the hook point as a module path instead, for example path.to.module:out"
        )
    return outer[0]


def parse_hook(name: str, model: nn.Module) -> Hook:
    """Resolve a hook name on a Hugging Face model.

    Accepts TransformerLens names (`blocks.3.hook_resid_post`, `blocks.3.ln2.hook_normalized`, `hook_embed`, ...) and
    `path.to.module:in` or `:out` (also `path.to.module.input`, `.output`), the path being that of the model, of its
    base model, or of the same text model without or within a multimodal one. `:centered` behind a TransformerLens name
    means the activation of the model that TransformerLens loads with `center_writing_weights=True`, `:call=1` behind
    any name the second run of a module that runs several times in a pass. Raises ModelError naming the hook and what
    the model has, UnknownHook where another name may be meant.
    """
    if match := re.fullmatch(r"(.+):call=(\d+)", name):
        return _called(name, parse_hook(match[1], model), int(match[2]))
    plain = name.removesuffix(":centered")
    if plain != name:
        return _centered(name, parse_hook(plain, model), model)
    if name in ("hook_embed", "embed.hook_out"):
        name = "hook_embed"
        return Hook(_path_of(model, _embedding(model)), "out", name=name)
    if match := re.fullmatch(r"(blocks\.\d+\.[^:]+|hook_embed):(?!in$|out$).*", name):
        raise ModelError(
            f"hook point {name!r} has a suffix that TransformerLens names do not take; it is {match[1]} or "
            f"{match[1]}:centered"
        )
    if match := re.fullmatch(r"blocks\.(\d+)\.([^:]+)", name):
        return _parse_site(name, int(match[1]), match[2], model)
    if match := re.fullmatch(r"([^:]+)(?::(in|out)|\.(?:(input)|output))", name):
        return _parse_path(name, match[1], "in" if match[2] == "in" or match[3] else "out", model)
    raise UnknownHook(
        f"hook point {name!r} is neither a TransformerLens name nor path.to.module:in|out", _near(name, model)
    )


def known_names(model: nn.Module) -> list[str]:
    """List every TransformerLens name that `parse_hook` can resolve on this model."""
    names = ["hook_embed"]
    for layer, block in enumerate(find_blocks(model)[1]):
        layout = block_layout(block)
        for site in layout.names if layout else OUTER:
            try:
                names.append(parse_hook(f"blocks.{layer}.{site}", model).name)
            except ModelError:
                continue
    return list(dict.fromkeys(names))


def _called(name: str, hook: Hook, call: int) -> Hook:
    """Return `hook` at one run of its module."""
    if hook.residual_mid or hook.centered:
        raise ModelError(
            f"hook point {name!r} cannot be placed: ':call=' chooses one run of a module, and {hook.name} is no value "
            "of a module; use a module path such as path.to.module:out:call=0"
        )
    return replace(hook, call=call, name=f"{hook.name}:call={call}")


def canonical_name(hook: Hook) -> str:
    """The one name of a place that passed its self-tests: TransformerLens' where it has one, else its path and side."""
    call = "" if hook.call is None else f":call={hook.call}"
    if hook.site is None and not hook.name.startswith("hook_embed"):
        return f"{hook.path}:{hook.io}{call}"
    return hook.name if hook.centered else hook.name.removesuffix(":centered")  # which says nothing in another form


def _centered(name: str, hook: Hook, model: nn.Module) -> Hook:
    """Return `hook` in centred form, or as it is where centring the weights would not change its value."""
    site = hook.name if hook.layer is None else hook.name.removeprefix(f"blocks.{hook.layer}.")
    if site != "hook_embed" and (site == hook.name or ":" in site):
        raise ModelError(
            f"hook point {name!r} is no place of which TransformerLens would give a centred value; ':centered' goes "
            "with names such as blocks.3.hook_resid_post:centered"
        )
    form = hook.form
    if site in CENTERED_SITES and has_layer_norms(model):
        form = "residual_mid_centered" if hook.residual_mid else "centered"
    return replace(hook, form=form, name=f"{hook.name}:centered")


def has_layer_norms(model: nn.Module) -> bool:
    """Whether the blocks have LayerNorms, which remove the mean of what they read; RMSNorms do not."""
    return any(isinstance(module, nn.LayerNorm) for module in find_blocks(model)[1].modules())


def _parse_site(name: str, layer: int, site: str, model: nn.Module) -> Hook:
    where, blocks = find_blocks(model)
    if layer >= len(blocks):
        raise ModelError(
            f"hook point {name!r} needs block {layer}, but the model has {len(blocks)} layers, numbered from 0 to "
            f"{len(blocks) - 1}"
        )
    block, path, asked = blocks[layer], f"{where}.{layer}", name
    site = ALIASES.get(site, site)
    name = f"blocks.{layer}.{site}"
    if site in OUTER:
        return Hook(path, OUTER[site], layer=layer, name=name)
    layout = block_layout(block)
    if layout is None:
        has = ", ".join(child for child, _ in block.named_children())
        raise UnknownHook(
            f"hook point {asked!r} cannot be placed: a block of this model has {has}, which is no layout that "
            "sae-bench knows",
            [f"blocks.{layer}.hook_resid_pre", f"blocks.{layer}.hook_resid_post"],
        )
    place = layout.resolve(site)
    if place is None:
        raise UnknownHook(f"hook point {asked!r} is unknown for {layout.title} blocks", _near(asked, model))
    below, io, form = place
    if form == "residual_mid" and getattr(block, "use_parallel_residual", False):
        raise ModelError(
            f"hook point {asked!r} does not exist: attention and MLP of this model run in parallel on the same input, "
            "so there is no residual stream between them; use hook_resid_pre, hook_attn_out or hook_mlp_out"
        )
    if not _has(block, below):
        parent = below.rpartition(".")[0]
        has = ", ".join(child for child, _ in block.get_submodule(parent).named_children())
        raise ModelError(f"hook point {asked!r} needs the module {path}.{below}, but {path}.{parent} has only {has}")
    own = _site_name(block, layer, below, io) if form == "raw" else None
    return Hook(f"{path}.{below}", io, form, layer, own or name)


def _parse_path(name: str, written: str, io: Side, model: nn.Module) -> Hook:
    path = _locate(written, model)
    if path is None:
        raise UnknownHook(f"hook point {name!r} names no module of the model", _near(name, model))
    if ":" not in name and _locate(name, model) is not None:
        raise ModelError(f"hook point {name!r} may be {name}:out or {written}:{io}, for both modules exist; name one")
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
    for site in layout.names if layout else OUTER:
        place = (None, OUTER[site], "raw") if site in OUTER else layout.resolve(site) if layout else None
        if place == (below, io, "raw"):
            return f"blocks.{layer}.{site}"
    return None


def _locate(path: str, model: nn.Module) -> str | None:
    """Return the path in the model of what `path` names, None if nothing: see `_WRAPPERS` for what may differ."""
    parts = path.split(".")
    while parts and parts[0] in _WRAPPERS:
        parts.pop(0)
    try:
        parents = [getattr(model, "base_model_prefix", ""), find_blocks(model)[0].rpartition(".")[0]]
    except ModelError:
        parents = [getattr(model, "base_model_prefix", "")]
    below = ".".join(parts)
    candidates = [path, f"{parents[0]}.{path}", *(f"{parent}.{below}" for parent in parents), below]
    return next((c for c in candidates if c and not c.startswith(".") and _has(model, c)), None)


def _near(name: str, model: nn.Module) -> list[str]:
    """Return names of the model that may be meant: of the same block and the same side only, the closest first."""
    number = re.search(r"\.\d+\.", name)
    try:
        known = known_names(model)
    except ModelError:
        known = []
    side = "in" if name.endswith((":in", ".input")) else "out"
    paths = [] if name.startswith("blocks.") else [f"{path}:{side}" for path, _ in model.named_modules() if path]
    same_block = [n for n in (*known, *paths) if not number or number[0] in n.replace(":", ".:")]
    return difflib.get_close_matches(name, same_block, 3, 0.5)


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
