"""Hook points that may be meant in place of the one that an SAE names."""

from __future__ import annotations

from torch import nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import Hook, find_blocks, parse_hook
from sae_bench.models.layouts import CENTERED_SITES
from sae_bench.models.subject import SubjectModel

SITES = (
    *("hook_resid_post", "hook_resid_mid", "hook_attn_out", "hook_mlp_out", "ln1.hook_normalized", "ln1.hook_out"),
    *("ln2.hook_normalized", "mlp.hook_in", "attn.hook_z", "mlp.hook_post"),
)
FEW_BLOCKS = 8  # in a model with no more, every block is a candidate
WINDOW = 3  # else those up to this distance


def candidates(subject: SubjectModel, hook: str) -> list[str]:
    """Names of other places: the residual stream and the same site at other blocks, other sites of the same block.

    A place is listed once, the one of ``hook`` not at all. The width of the activations is not looked at.
    """
    model = subject.model
    try:
        own = parse_hook(hook, model)
        n_blocks = len(find_blocks(model)[1])
    except ModelError:
        return []
    layer = own.layer if own.layer is not None else 0
    near = [b for b in range(n_blocks) if n_blocks <= FEW_BLOCKS or abs(b - layer) <= WINDOW]
    site = own.name.removeprefix(f"blocks.{own.layer}.").removesuffix(":centered")
    names = [f"blocks.{b}.hook_resid_post" for b in near]
    names += ["blocks.0.hook_resid_pre"] if near[0] == 0 else [f"blocks.{near[0] - 1}.hook_resid_post"]
    names += [f"blocks.{layer}.{other}" for other in SITES]
    names += [f"blocks.{b}.{site}" for b in near] if own.name.startswith("blocks.") else []
    if own.centered:
        names = [f"{name}:centered" if name.rpartition(".")[2] in CENTERED_SITES else name for name in names]
    names += [final] if (final := _final_norm(model)) else []
    seen: set[Hook] = {own}
    found = []
    for name in names:
        place = _parsed(name, model)
        if place is not None and place not in seen and not _same_stream(place, seen, model):
            seen.add(place)
            found.append(name)
    return found


def _same_stream(place: Hook, seen: set[Hook], model: nn.Module) -> bool:
    """Whether a block's input was seen as the output of the block before it, or the other way round."""
    if place.name.endswith(".hook_resid_pre") and place.layer:
        twin = _parsed(f"blocks.{place.layer - 1}.hook_resid_post", model)
    elif place.name.endswith(".hook_resid_post") and place.layer is not None:
        twin = _parsed(f"blocks.{place.layer + 1}.hook_resid_pre", model)
    else:
        return False
    return twin in seen


def _parsed(name: str, model: nn.Module) -> Hook | None:
    try:
        return parse_hook(name, model)
    except ModelError:
        return None


def _final_norm(model: nn.Module) -> str | None:
    """The norm behind the last block, as a place: what a model returns as its last hidden state has passed it."""
    path, _ = find_blocks(model)
    above = path.rpartition(".")[0]
    children = dict(model.get_submodule(above).named_children())
    behind = list(children)[list(children).index(path.rpartition(".")[2]) + 1 :]
    for name in behind:
        if "norm" in type(children[name]).__name__.lower():
            return f"{above}.{name}:out".removeprefix(".")
    return None
