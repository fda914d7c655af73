"""Every hook point of a model against plain torch hooks: what is refused, and what is measured wrongly.

Nothing here asks the code under test for a number that it is then compared with: what passes through a module, the
plain logits and the logits behind an edit come from hooks of torch alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import SaeBenchError
from sae_bench.models.hooks import find_blocks
from sae_bench.models.loading import load_subject
from sae_bench.models.subject import SubjectModel

INNER = (
    *("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_mlp_in"),
    *("attn.hook_z", "mlp.hook_post", "ln1.hook_normalized", "ln2.hook_normalized"),
)
ENOUGH = 1e-4  # of the size of what is compared, in float32


@dataclass
class Sweep:
    """What was found for one model: names that are measured rightly, refusals by name, and faults."""

    right: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def names(model: nn.Module, layer: int = 1) -> list[str]:
    """Return hook points to try: TransformerLens names of one block and the sides of modules in it."""
    found = ["hook_embed", *(f"blocks.{layer}.{site}" for site in INNER)]
    found += [f"blocks.{layer}.{site}:centered" for site in ("hook_resid_post", "hook_mlp_out")]
    try:
        path, blocks = find_blocks(model)
    except SaeBenchError:
        return found
    block = blocks[min(layer, len(blocks) - 1)]
    children = [name for name, child in block.named_children() if next(child.parameters(), None) is not None]
    return found + [f"{path}.{layer}.{child}:{io}" for child in children for io in ("in", "out")]


def sweep(model: nn.Module, backend: str = "hf") -> Sweep:
    """Try all `names` of `model`; an exception that is no refusal is a fault."""
    made = Sweep()
    tokens = torch.randint(
        3, model.config.get_text_config().vocab_size, (3, 12), generator=torch.Generator().manual_seed(5)
    )
    plain = _logits(model, tokens)
    try:
        subject, _ = load_subject(model, backend=backend)
    except SaeBenchError as refusal:
        made.refused["every name"] = str(refusal)
        return made
    for name in names(model):
        try:
            wrong = list(_faults(subject, model, name, tokens, plain))
        except SaeBenchError as refusal:
            made.refused[name] = str(refusal)
        except Exception as error:  # noqa: BLE001 - whatever it is, a user would see a traceback
            made.faults.append(f"{name}: {type(error).__name__}: {error}")
        else:
            made.faults += [f"{name}: {what}" for what in wrong]
            made.right += [] if wrong else [name]
    return made


def _faults(subject: SubjectModel, model: nn.Module, name: str, tokens: Tensor, plain: Tensor) -> Iterator[str]:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    capture = subject.capture(tokens, mask, [name])
    x = capture.activations[name]
    place = subject._hook(name)  # type: ignore[attr-defined]
    plain = plain[..., : subject.vocab_size]
    if x.shape[:2] != tokens.shape or x.ndim != 3:
        yield f"captured {list(x.shape)}"
    if not _same(subject.splice(tokens, mask, {name: x}), plain):
        yield "what was captured, written, changes the logits"
    new = torch.zeros_like(x)
    spliced = subject.splice(tokens, mask, {name: new})
    if not _same(subject.resume(capture, name, new), spliced):
        yield "resume is not splice"
    if subject.backend != "hf" or place.form not in ("raw", "residual_mid"):
        return
    seen, edited = _by_hand(model, place.path, place.io, tokens, new)
    if len(seen) != 1 or not _same(x, seen[0] * (1.0 if place.residual_mid else place.scale)):
        yield f"captured is not what passes through {place.path}"
    if place.form == "raw" and not _same(spliced, edited[..., : subject.vocab_size]):
        yield "zero spliced is not zero by hand"
    yield from _sums(subject, name, place.layer, tokens, mask)


def _sums(subject: SubjectModel, name: str, layer: int | None, tokens: Tensor, mask: Tensor) -> Iterator[str]:
    """What the branches add is the difference of the stream before and behind them: by the names' own meaning."""
    sites = {"hook_attn_out", "hook_mlp_out", "hook_resid_mid"}
    if layer is None or name.removeprefix(f"blocks.{layer}.") not in sites:
        return

    def at(site: str) -> Tensor | None:
        try:
            return subject.capture(tokens, mask, [f"blocks.{layer}.{site}"]).activations[f"blocks.{layer}.{site}"]
        except SaeBenchError:
            return None

    pre, mid, post, attn, mlp = (
        at(f"hook_{site}") for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    )
    if pre is None or post is None:
        return
    if mid is not None and attn is not None and not _same(pre + attn, mid):
        yield "pre + attn_out is not mid"
    if mid is not None and mlp is not None and not _same(mid + mlp, post):
        yield "mid + mlp_out is not post"
    if attn is not None and mlp is not None and not _same(pre + attn + mlp, post):
        yield "pre + attn_out + mlp_out is not post"


def _by_hand(model: nn.Module, path: str, io: str, tokens: Tensor, new: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return what passes at a side of a module, and the logits where `new` passes there instead."""
    seen: list[Tensor] = []
    with hooked(model, path, io, lambda x: seen.append(x.clone())):
        _logits(model, tokens)
    with hooked(model, path, io, lambda x: new.reshape(x.shape).clone()):
        return seen, _logits(model, tokens)


@contextmanager
def hooked(model: nn.Module, path: str, io: str, edit: Callable[[Tensor], Any]) -> Iterator[None]:
    module = model.get_submodule(path)

    def on_output(_module: nn.Module, _args: Any, out: Any) -> Any:
        several = isinstance(out, tuple | list)
        new = edit(out[0] if several else out)
        return type(out)([new, *out[1:]]) if several and new is not None else new

    def on_input(_module: nn.Module, args: Any, kwargs: Any) -> Any:
        if args:
            new = edit(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)
        new = edit(kwargs["hidden_states"])
        return None if new is None else (args, {**kwargs, "hidden_states": new})

    if io == "out":
        handle = module.register_forward_hook(on_output)
    else:
        handle = module.register_forward_pre_hook(on_input, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(input_ids=tokens, use_cache=False).logits
    return logits


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= ENOUGH * max(float(b.abs().max()), 1e-6)
