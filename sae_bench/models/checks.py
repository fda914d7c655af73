"""Checks of a hook point against the model's own numbers, where the module tree alone could mislead.

A wrong place gives finite, plausible, wrong numbers; the checks cost a few passes over a few tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.hooks import Hook, UnknownHook, parse_hook
from sae_bench.models.layouts import CENTERED_SITES
from sae_bench.models.selftests import Tested
from sae_bench.models.subject import SubjectModel

_FIRST = "blocks.0.hook_resid_pre"
# Effect on the logits of moving the residual stream along its mean, relative to that of another direction: 1 with
# RMSNorm, 0.008 with LayerNorms behind the branches and random weights, else rounding: in 48 blocks 1e-6 of float32,
# 0.005 of float16, 0.04 of bfloat16.
_LARGEST_EFFECT = {torch.float16: 0.03, torch.bfloat16: 0.15}
_SMALLEST_SCALE = 0.02  # rounding of a product in bfloat16 is 0.004


def embedding_scale(subject: Tested, model: nn.Module) -> float:
    """Return the factor by which the model multiplies its token embedding behind the embedding's module, 1 if by none.

    Some versions of Gemma, and Granite, do. Two sequences are compared token by token, so that positions that are added
    to the embedding cancel. Where the embedding passes a norm or a projection on its way to the blocks there is no
    factor, and where the model has no list of blocks nothing to compare with: 1.
    """
    try:
        places = parse_hook("hook_embed", model), parse_hook(_FIRST, model)
        passed = subject.watch(places)
    except ModelError:
        return 1.0
    if any(len(passed[place]) != 1 or passed[place][0].ndim != 3 for place in places):
        return 1.0
    token, stream = (passed[place][0][0].double() - passed[place][0][1].double() for place in places)
    if token.shape != stream.shape:
        return 1.0
    scale = float((token * stream).sum() / token.square().sum())
    proportional = float((stream - scale * token).norm()) <= _SMALLEST_SCALE * float(stream.norm())
    return scale if proportional and abs(scale - 1) > _SMALLEST_SCALE else 1.0


def check_scale(written: str, hook: Hook, scale: float) -> Hook:
    """Return `hook`, under its path where the model multiplies its embedding by `scale`, its `embedding_scale`.

    Raises ModelError for the name `hook_embed` of such a model.
    """
    if not hook.name.startswith("hook_embed") or scale == 1:
        return hook
    if written.startswith(("hook_embed", "embed.")):
        raise ModelError(
            f"hook point {written!r} is ambiguous: this model multiplies what {hook.path} returns by {scale:.4g} "
            f"before its first block; use {_FIRST} for what enters the blocks, or with the backend hf {hook.path}:out "
            "for the value before"
        )
    return replace(hook, name=written)


def parsed(subject: SubjectModel, name: str, model: nn.Module) -> Hook:
    """Return `parse_hook(name, model)`; the ModelError for an unknown name suggests what passes its self-tests."""
    try:
        return parse_hook(name, model)
    except UnknownHook as error:
        raise ModelError(f"{error}{_suggestion(subject, error.near)}") from error


def _suggestion(subject: SubjectModel, near: Sequence[str]) -> str:
    """Return "; did you mean ..." with at most two of the names that pass their self-tests, and the way out else."""
    good = []
    for other in near:
        try:
            subject.width(other)
        except ModelError:
            continue
        good.append(other)
        if len(good) == 2:
            break
    if good:
        return f"; did you mean {' or '.join(good)}?"
    return "; name a module path with its side, path.to.module:in or :out"


def check_centering(subject: SubjectModel, hook: Hook) -> None:
    """Raise ModelError where a centred form disagrees with whether logits depend on the mean of the residual stream."""
    site = hook.name.rpartition(".")[2]
    if site.endswith(":centered") and site.removesuffix(":centered") in CENTERED_SITES:
        with _as_selftest(subject):
            _check_centering(subject, hook)


def _check_centering(subject: SubjectModel, hook: Hook) -> None:
    """Raise ModelError unless the form of `hook`, which was read off the model's modules, agrees with its numbers.

    TransformerLens centres weights only where the logits do not depend on the mean.
    """
    tokens, mask = _batch(subject)
    x = subject.capture(tokens, mask, [_FIRST]).activations[_FIRST]
    size = x.abs().float().median(-1, keepdim=True).values
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(size)
    noise -= noise.mean(-1, keepdim=True)
    clean = subject.splice(tokens, mask, {}).double()

    def effect(direction: Tensor) -> float:
        return float((subject.splice(tokens, mask, {_FIRST: x + direction.to(x)}).double() - clean).norm())

    ignored = effect(size.expand_as(x)) <= _LARGEST_EFFECT.get(x.dtype, 1e-3) * effect(size * noise)
    if ignored != hook.centered:
        norms, depend = ("have", "depend") if hook.centered else ("have no", "do not depend")
        raise ModelError(
            f"hook point {hook.name!r} cannot be placed: the blocks of model {subject.name!r} {norms} LayerNorms, but "
            f"its logits {depend} on the mean of the residual stream, so it is not known whether TransformerLens would "
            "centre its weights; leave ':centered' out, or subtract the mean in the SAE's own code"
        )


@contextmanager
def _as_selftest(subject: SubjectModel) -> Iterator[None]:
    before = dict(subject.counters)
    try:
        yield
    finally:
        spent = sum(subject.counters.values()) - sum(before.values())
        subject.counters.update(before)
        subject.counters["selftest"] += spent


def _batch(subject: SubjectModel) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(subject.vocab_size, (2, min(4, subject.context_length or 4)), generator=generator)
    return tokens, torch.ones_like(tokens, dtype=torch.bool)
