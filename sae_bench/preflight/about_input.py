"""Usual mistakes about what an SAE is given: hook points, tokens, scale, normalisation.

Each function yields :class:`Trial` objects for the table in :mod:`sae_bench.preflight.hypotheses`. None needs to see
weights, except to know what the SAE does already.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from sae_bench.preflight.case import Case, Trial, best, if_made
from sae_bench.preflight.measure import HEALTHY_FACTOR

_NORMALISATIONS = {
    "none": "activations are not normalised token by token",
    "layer_norm": "every token is normalised (layer_norm) before the encoder, and the reconstruction scaled back",
    "constant_norm_rescale": "every token is scaled to the norm sqrt(d) (constant_norm_rescale), and the "
    "reconstruction scaled back",
}


def other_place(case: Case) -> Iterator[Trial]:
    """The SAE reads or predicts another place; a transcoder's places are exchanged, or it is none."""
    at, entry = case.at, case.entry
    flag = "--hook-in" if case.autoencodes else "--hook-in {} --hook-out " + entry.hook_out
    if case.autoencodes:
        for hook in case.places:
            yield Trial(f"it reads {hook}", f"{flag} {hook}", x=at(hook), y=at(hook))
        yield from _transcoders(case)
        return
    swapped = f"--hook-in {entry.hook_out} --hook-out {entry.hook_in}"
    yield Trial("its input and output hooks are exchanged", swapped, x=case.y, y=case.x)
    for hook in (entry.hook_in, entry.hook_out):
        yield Trial(f"it reads and predicts {hook}", f"--hook-in {hook} --hook-out {hook}", x=at(hook), y=at(hook))
    for hook in case.places:
        yield Trial(f"it reads {hook}", flag.format(hook), x=at(hook))
        yield Trial(f"it predicts {hook}", f"--hook-in {entry.hook_in} --hook-out {hook}", y=at(hook))


def _transcoders(case: Case) -> Iterator[Trial]:
    """An SAE that is said to read one end of an MLP is a transcoder from its input to its output."""
    places = (case.entry.hook_in, *case.places)
    for out in places:
        block, dot, site = out.rpartition(".hook_mlp_out")
        for hook in (f"{block}.mlp.hook_in", f"{block}.ln2.hook_normalized") if dot and not site else ():
            if hook in places and case.entry.hook_in in (hook, out):
                x, y = case.at(hook), case.at(out)
                yield Trial(f"it reads {hook} and predicts {out}", f"--hook-in {hook} --hook-out {out}", x=x, y=y)


def other_tokens(case: Case) -> Iterator[Trial]:
    """The model is run with a BOS token before the text where it was without, or without one."""
    text = case.activations.text
    if text.bos is None:
        return
    bos = not text.begins_with_bos
    hooks = dict.fromkeys((case.entry.hook_in, case.entry.hook_out))
    case.activations.take([*hooks], bos=bos)
    x, y = (case.at(hook, bos=bos) for hook in (case.entry.hook_in, case.entry.hook_out))
    claim = "texts begin with the BOS token" if bos else "texts begin without the BOS token"
    yield Trial(claim, f"--bos {'yes' if bos else 'no'}", x=x, y=y)


def centred(case: Case) -> Iterator[Trial]:
    """The SAE reads activations less their mean over the width, or those as they are."""
    at, entry = case.at, case.entry
    plain = entry.hook_in.removesuffix(":centered")
    if plain != entry.hook_in:
        raw = at(plain)
        yield Trial("activations keep their mean over the width", f"--hook-in {plain}", x=raw, y=raw)
        return
    x = _less_mean(case.x)
    y = x if case.autoencodes else case.y
    yield Trial(
        "activations are without their mean over the width (center_writing_weights)",
        f"--hook-in {plain}:centered",
        x=x,
        y=y,
    )


def head_order(case: Case) -> Iterator[Trial]:
    """The heads of hook_z are interleaved: the axis within a head comes first."""
    config = getattr(case.activations.subject.model, "config", None)
    heads = getattr(config.get_text_config(), "num_attention_heads", 0) if config is not None else 0
    if "hook_z" not in case.entry.hook_in or heads < 2 or case.info.d_in % heads:
        return

    def interleaved(x: Tensor) -> Tensor:
        return x.view(len(x), heads, -1).transpose(1, 2).reshape(len(x), -1)

    x = interleaved(case.x)
    yield Trial(
        "the heads of hook_z are flattened with the axis within a head first",
        "reorder the rows of W_enc and the columns of W_dec: sae-bench flattens head by head",
        x=x,
        y=x if case.autoencodes else case.y,
    )


def scale(case: Case) -> Iterator[Trial]:
    """Activations are scaled before the encoder, and the reconstruction back."""
    if _normalises(case):
        return

    def trial(case: Case, factor: float) -> Trial:
        told = factor * (case.linear.rule.input_scale if case.linear else 1.0)
        return Trial(
            f"activations are multiplied with {told:.4g} before the encoder, and the reconstruction divided by it",
            f"--norm-factor {told:.4g}" if case.linear else f"multiply x with {told:.4g} in encode, divide in decode",
            x=case.x * factor,
            undo=lambda y: y / factor,
        )

    yield _best_factor(case, trial)


def input_scale(case: Case) -> Iterator[Trial]:
    """Activations are scaled before the encoder, and the output is right as it is."""
    if _normalises(case):
        return

    def trial(case: Case, factor: float) -> Trial:
        told = factor * (case.linear.rule.input_scale if case.linear else 1.0)
        return Trial(
            f"activations are multiplied with {told:.4g} before the encoder and the reconstruction is left as it is",
            f"multiply W_enc with {factor:.4g}: only the output is scaled now",
            x=case.x * factor,
        )

    yield _best_factor(case, trial)


def output_scale(case: Case) -> Iterator[Trial]:
    """The reconstruction is off by a constant factor: scaled in, but not out."""
    slope = case.base.slope
    if slope == slope and slope > 0:
        yield Trial(
            f"the reconstruction is multiplied with {slope:.4g}",
            f"scale the output too: W_dec and b_dec times {slope:.4g}",
            measured=case.base.sloped,
        )


def normalisation(case: Case) -> Iterator[Trial]:
    """Every token is normalised before the encoder where it was not, in another way, or not at all."""
    own = case.linear.rule.normalise if case.linear else "none"
    if own != "none":
        for other in ("none", "layer_norm", "constant_norm_rescale"):
            if other != own:
                settle = f"normalize_activations: {other} in its configuration"
                yield from if_made(_NORMALISATIONS[other], settle, case.variant(rule={"normalise": other}))
        return
    x = case.x
    centre, spread = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
    length = x.norm(dim=1, keepdim=True).clamp(min=1e-9) / x.shape[1] ** 0.5
    for other, shift, size in (
        ("layer_norm", centre, spread),
        ("constant_norm_rescale", torch.zeros_like(centre), length),
    ):
        yield Trial(
            _NORMALISATIONS[other],
            f"normalize_activations: {other} in its configuration",
            x=(x - shift) / size,
            undo=partial(torch.addcmul, shift.double(), tensor2=size.double()) if case.autoencodes else None,
        )


def _normalises(case: Case) -> bool:
    return case.linear is not None and case.linear.rule.normalise != "none"


def _less_mean(x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def _best_factor(case: Case, trial: Callable[[Case, float], Trial]) -> Trial:
    """The trial of the best factor of a grid around 1 that has the usual factor in it, refined twice."""
    thin = case.thin
    usual = math.sqrt(case.info.d_in) / float(case.x.norm(dim=1).mean().clamp(min=1e-9))
    own = case.linear.rule.input_scale if case.linear else 1.0
    grid = {4.0**power for power in range(-4, 5)} | {usual / own, 1 / own, own, usual, 1 / usual}
    found = best(thin, {factor: trial(thin, factor) for factor in sorted(grid) if _differs(factor)})
    for step in (2.0, 2.0**0.5):
        near = (found / step, found, found * step)
        found = best(thin, {factor: trial(thin, factor) for factor in near if _differs(factor)})
    return trial(case, found)


def _differs(factor: float) -> bool:
    """Whether a factor is none by which a healthy SAE may be off."""
    return abs(math.log(factor)) > math.log(HEALTHY_FACTOR)
