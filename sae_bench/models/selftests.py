"""Self-tests of a hook point on the model's own numbers: a wrong place gives finite, plausible, wrong figures.

They cost a few passes over a few tokens, once for a model and hook point: the module runs once in a pass and carries
`[batch, seq, d]`; the name means what the model adds up; writing what was captured leaves the plain model's logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.edits import close
from sae_bench.models.hooks import Hook, find_blocks
from sae_bench.models.layouts import block_layout
from sae_bench.models.sums import Sum, added

TOKENS = (2, 8)  # sequences, and tokens of each: random ones

# By what a name promises: the numbers that must agree. A block adds both branches one after the other, or both to its
# input; a name that needs neither says only what one module reads or returns.
_OF_ATTENTION = ("hook_attn_out", "hook_resid_mid")
_OF_MLP = ("hook_mlp_out",)
_SECOND_NORM = ("ln2.hook_normalized", "ln2.hook_out", "hook_mlp_in")
_FIRST_NORM = ("ln1.hook_normalized", "ln1.hook_out", "ln1.hook_in")


class Tested(Protocol):
    """What the self-tests ask of a back end. Tokens are those of :func:`random_tokens`."""

    name: str
    plain: Tensor  # logits [batch, seq, vocab_size] of the model that nothing was attached to

    def watch(self, places: Sequence[Hook]) -> Mapping[Hook, Sequence[Tensor]]:
        """Return what passed at `places` in one whole pass, a tensor for each run of the module, unscaled."""

    def put(self, hook: Hook, new: Tensor) -> Tensor:
        """Return the logits of a pass in which `hook` carries `new`."""

    def captured(self, hook: Hook, passed: Tensor) -> Tensor:
        """Return what capturing at `hook` gives where `passed` went through its module."""


@dataclass(frozen=True)
class Found:
    """A hook point that passed, and what was found there, as sentences for people."""

    hook: Hook
    says: tuple[str, ...]


def random_tokens(vocab_size: int, context_length: int | None, device: torch.device) -> Tensor:
    """Return the tokens of the self-tests, int64 `[2, 8]`, or shorter ones where the model takes no more."""
    batch, seq = TOKENS
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocab_size, (batch, min(seq, context_length or seq)), generator=generator).to(device)


def settle(subject: Tested, written: str, hook: Hook, model: nn.Module) -> Found:
    """Return `hook` as the model's numbers show it, with the factor of a scaled branch. Raises ModelError.

    `written` is the name as the user wrote it. Two passes: one that is watched, one with what was captured written.
    """
    parts = _parts(hook, model)
    passed = subject.watch(list(dict.fromkeys([hook, *parts.values()])))
    runs = passed.get(hook, ())
    x = _one_run(hook, runs)
    says = [
        f"runs {len(runs)} times in a pass, of which {hook.call} is taken" if len(runs) > 1 else "runs once in a pass"
    ]
    _check_shape(hook, x, subject.plain)
    numbers = {name: passed[place][0] for name, place in parts.items() if len(passed.get(place, ())) == 1}
    hook, what = _meant(hook, written, numbers)
    says += what
    moved = subject.put(hook, subject.captured(hook, x))
    if not close(moved, subject.plain):
        raise ModelError(
            f"hook point {written!r} cannot be replaced: writing what was captured there changes the logits of model "
            f"{subject.name!r} by {_relative(moved, subject.plain):.2g} of their size, so the model uses the value in "
            "another way; name another hook point"
        )
    says.append(f"what was captured, written: the plain model's logits to {_relative(moved, subject.plain):.1g}")
    return Found(hook, tuple(says))


def _one_run(hook: Hook, runs: Sequence[Tensor]) -> Tensor:
    if not runs:
        raise ModelError(f"hook point {hook.name!r} is never reached: the forward pass does not use its module")
    if hook.call is not None and hook.call >= len(runs):
        raise ModelError(
            f"hook point {hook.name!r} does not exist: {hook.path} runs {len(runs)} times in a pass, numbered from 0"
        )
    if hook.call is None and len(runs) > 1:
        shapes = " and ".join(dict.fromkeys(str(list(x.shape)) for x in runs))
        raise ModelError(
            f"hook point {hook.name!r} is ambiguous: {hook.path} runs {len(runs)} times in a pass (on {shapes}), and "
            f"each run carries other activations; choose one, numbered from 0, for example {hook.name}:call=0, or name "
            "a module that runs once"
        )
    return runs[hook.call or 0]


def _check_shape(hook: Hook, x: Tensor, plain: Tensor) -> None:
    if x.ndim == 3 and x.shape[:2] == plain.shape[:2] and x.is_floating_point():
        return
    what = f"carries {list(x.shape)}" if x.is_floating_point() else f"carries {x.dtype}"
    why = "the stream of this model has several parallel copies" if x.ndim == 4 else "no row for every token"
    batch, seq = plain.shape[:2]
    raise ModelError(
        f"hook point {hook.name!r} {what} for {batch} sequences of {seq} tokens, not [{batch}, {seq}, d]: "
        f"{why if x.is_floating_point() else 'no activations'}; name another hook point"
    )


def _parts(hook: Hook, model: nn.Module) -> dict[str, Hook]:
    """Return what must be watched beside `hook`: the places that the block adds up, where its name speaks of one."""
    if hook.layer is None or hook.site is None:
        return {}
    path, blocks = find_blocks(model)
    block = f"{path}.{hook.layer}"
    layout = block_layout(blocks[hook.layer])
    if layout is None or hook.site in ("hook_resid_pre", "hook_resid_post"):
        return {}

    def at(name: str, below: str, io: str) -> Hook:
        return Hook(f"{block}.{below}" if below else block, "in" if io == "in" else "out", layer=hook.layer, name=name)

    stem = f"blocks.{hook.layer}"
    if hook.site in ("attn.hook_z", "mlp.hook_post"):
        owner, of = (layout.attention, "attn") if hook.site == "attn.hook_z" else (layout.mlp, "mlp")
        last = layout.sites[hook.site][0]
        return {"last": at(f"{stem}.{of}.last:out", last, "out"), "branch": at(f"{stem}.{of}.hook_out", owner, "out")}
    return {
        "pre": at(f"{stem}.hook_resid_pre", "", "in"),
        "post": at(f"{stem}.hook_resid_post", "", "out"),
        "attn": at(f"{stem}.hook_attn_out", *layout.sites["hook_attn_out"]),
        "mlp": at(f"{stem}.hook_mlp_out", *layout.sites["hook_mlp_out"]),
        "first": at(f"{stem}.ln1.hook_in", layout.first_norm, "in"),
        "second": at(f"{stem}.ln2.hook_in", layout.second_norm, "in"),
    }


def _identity(hook: Hook, numbers: Mapping[str, Tensor]) -> Sum | None:
    """Return the sum in which the value at `hook` takes part, None where its name promises none.

    Raises ModelError where the model's numbers do not add up to what the name promises.
    """
    if {"last", "branch"} <= set(numbers):
        total = added(numbers, "branch", "last")
        return _sure(hook, total, f"what {hook.path} returns is not what its branch returns")
    if not {"pre", "post", "attn", "mlp", "first", "second"} <= set(numbers):
        return None  # a back end may have no hook point for one of them
    if hook.site in _FIRST_NORM:
        return _sure(hook, added(numbers, "first", "pre"), "the first norm does not read the residual stream")
    after = added(numbers, "second", "pre", "attn")
    parallel = None if after else added(numbers, "post", "pre", "attn", "mlp")
    if hook.site in _OF_ATTENTION:
        total = after or (parallel if hook.site == "hook_attn_out" else None)
        return _sure(hook, total, "what attention returns is not what is added to the residual stream")
    if hook.site in _OF_MLP:
        total = (added(numbers, "post", "second", "mlp") if after else None) or parallel
        return _sure(hook, total, "what the MLP returns is not what is added to the residual stream")
    if hook.site in _SECOND_NORM:
        total = after or (added(numbers, "second", "pre") if parallel else None)
        return _sure(hook, total, "the second norm does not read the residual stream")
    return None


def _sure(hook: Hook, total: Sum | None, otherwise: str) -> Sum:
    if total is None:
        raise ModelError(
            f"hook point {hook.name!r} does not carry in this model what its name means: by the model's own numbers "
            f"{otherwise}; use hook_resid_pre or hook_resid_post of the block, or a module path for what one module "
            f"reads or returns, here {hook.path}:{hook.io}"
        )
    return total


def _meant(hook: Hook, written: str, numbers: Mapping[str, Tensor]) -> tuple[Hook, list[str]]:
    """Return `hook` as what its name means, and what was found.

    A TransformerLens name means what the block adds, the path of a module what that returns: a path has no such name
    where the two differ. Raises ModelError for a name that means what the model does not have.
    """
    by_name = written.startswith("blocks.") and not written.endswith(("attn.hook_out", "mlp.hook_out"))
    try:
        total = _identity(hook, numbers)
    except ModelError:
        if by_name:
            raise
        return replace(hook, name=written), []
    if total is None:
        return hook, []
    part = {"hook_attn_out": "attn", "hook_mlp_out": "mlp", "hook_resid_mid": "attn"}.get(hook.site or "", "")
    scale = total.factors.get(part, 1.0)
    if scale != 1 and not by_name:
        return replace(hook, name=written), [total.says]
    return replace(hook, scale=scale), [total.says]


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30))
