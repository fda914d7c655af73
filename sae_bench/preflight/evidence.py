"""What is measured of an SAE as it is, and what is wrong with it without any trial."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Any

import torch
from torch import Tensor

from sae_bench.engine.workspace import CoderFailure, guarded
from sae_bench.preflight.case import Case
from sae_bench.preflight.measure import Score, score, threshold_for
from sae_bench.preflight.verdict import Finding, change
from sae_bench.saes.conformance import check
from sae_bench.saes.decoding import skip_share
from sae_bench.saes.protocol import skips_itself
from sae_bench.schema import INFERENCE

CHECKED = 32  # tokens of the conformance test
POSITION_0_MOVES = 0.15  # of log FVU
L0_OFF = 2.0  # factor
MOST_NAMED = 3  # tokens
DEPENDS = "rows are not independent"
_BATCH_TOPK = re.compile(r"batch.?top.?k", re.IGNORECASE)
_TOPK = re.compile(r"top.?k", re.IGNORECASE)


def contract(case: Case) -> list[str]:
    """What the coder breaks of the contract on real activations."""
    if case.info.decode_needs == "skip" and torch.equal(case.x, case.y):
        return [skips_itself(case.info.name, case.entry.hook_in, case.entry.hook_out)]
    x = case.x[:: max(1, len(case.x) // CHECKED)][:CHECKED]
    try:
        return guarded(case.entry, lambda: check(case.entry.coder, x))
    except CoderFailure as failure:
        return [str(failure)]


def measured(case: Case) -> dict[str, Any]:
    """Plain numbers about the SAE as it is.

    Everything is measured on the compared tokens, less those few that hold the variance, but for ``as a run counts``.
    """
    base, text = case.base, case.activations.text
    first, x = case.activations.first.to(case.x.device), case.activations.everywhere(case.entry.hook_in)
    norms = x.double().norm(dim=1)
    squares = (x.double() - x.double().mean(0)).square().sum(1)
    return {
        "documents": len(text.sequences),
        "tokens": len(case.x),
        "tokens_that_hold_the_variance": len(case.activations.ids) - len(case.x),
        "begins_with_bos": text.begins_with_bos,
        "hook_in": case.entry.hook_in,
        "hook_out": case.entry.hook_out,
        "fvu": base.fvu,
        "fvu_as_a_run_counts": counted(case).fvu,
        "l0": base.l0,
        "declared_l0": case.promised_l0,
        "slope": base.slope,
        "skip_share": guarded(case.entry, lambda: skip_share(case.entry.coder, case.x)),
        "norm_of_position_0_over_median": float(norms[first].mean() / norms[~first].median()),
        "variance_share_of_position_0": float(squares[first].sum() / squares.sum()),
        "token_share_of_position_0": float(first.double().mean()),
    }


def counted(case: Case, *, first: bool = True) -> Score:
    """The score on the tokens that a run with this mask counts, with or without the first of every sequence."""
    kept = case.activations.counted if first else case.activations.counted & ~case.activations.first
    kept = kept.to(case.x.device)
    x, y = (case.activations.everywhere(hook)[kept] for hook in (case.entry.hook_in, case.entry.hook_out))
    return score(case.entry, case.entry.coder, x, y, torch.zeros(len(x), dtype=torch.int64, device=x.device))


def width(case: Case) -> Finding:
    """The hook points are not as wide as the SAE expects; a place that fits and that it explains is named."""
    names = {case.entry.hook_in: case.x.shape[1], case.entry.hook_out: case.y.shape[1]}
    are = ", ".join(f"{hook} has {size}" for hook, size in names.items())
    found = []
    for hook in case.places if case.autoencodes else ():
        x = case.at(hook)
        if x.shape[1] == case.info.d_in == case.info.d_out:
            found.append((score(case.entry, case.entry.coder, x, x, case.half).fvu, hook))
    best = min(found, default=None)
    says = f"it reads {case.info.d_in} and predicts {case.info.d_out} numbers a token, but {are}"
    if best is not None and best[0] < 0.7:
        return Finding("other_place", "likely", f"it reads {best[1]} (FVU {best[0]:.3g} there): {says}",
                       f"--hook-in {best[1]}")  # fmt: skip
    fitting = ", ".join(hook for _, hook in sorted(found)) or "none"
    return Finding("width", "likely", f"it is an SAE of another model or hook point: {says}",
                   f"--hook-in; places near it of the right width: {fitting}")  # fmt: skip


def known(case: Case) -> list[Finding]:
    """What needs no trial, the surest first."""
    looked = (_silent(case), _threshold(case), _few_tokens(case), _activation(case), _position_0(case))
    return [finding for finding in looked if finding is not None]


def broken_contract(problem: str) -> Finding:
    """The finding for what :func:`contract` says first."""
    settle = "use a threshold in place of a top k over the batch, and normalisation as in evaluation"
    return Finding("contract", "likely", f"the contract is broken: {problem}", settle if DEPENDS in problem else "")


def _silent(case: Case) -> Finding | None:
    if not math.isfinite(case.base.fvu):
        says = f"FVU cannot be computed: the activations at {case.entry.hook_out} do not vary, or are not finite"
        return Finding("no_fvu", "likely", says, "other text, or --dtype float32")
    if case.base.l0 == 0:
        return Finding("silent", "likely", "no latent is active on any token", "look at threshold and scale")
    return None


def _threshold(case: Case) -> Finding | None:
    """A threshold of 0 or -1 is one that training never set."""
    linear = case.linear
    if linear is None or linear.rule.activation != "jumprelu" or linear.weights.threshold is None:
        return None
    if bool((linear.weights.threshold > 0).any()):
        return None
    says = (
        f"the threshold was never set: it is {float(linear.weights.threshold.max()):g}, so every positive latent is "
        f"active (L0 {case.base.l0:.1f} of {case.info.n_latents}), and FVU {case.base.fvu:.3g} looks better than it is"
    )
    return Finding("threshold_unset", "likely", says, _suggested(case))


def _activation(case: Case) -> Finding | None:
    """The files name another selection of latents, or another k, than the one that is used."""
    if case.linear is None:
        return None
    words, origin = case.info.architecture, case.info.provenance
    batch, rule = bool(_BATCH_TOPK.search(words)), case.linear.rule
    if rule.activation == "topk" and batch:
        return Finding(
            "per_token_topk",
            "likely",
            f"k={rule.k} latents are kept of every token, but the files say {words}, which keeps those over a "
            "threshold",
            _suggested(case, rule.k) or "--threshold X",
        )
    k = round(case.promised_l0 or 0)
    stored = INFERENCE in origin and "threshold" not in origin.get("told", {})  # the files themselves hold a JumpReLU
    if k and rule.activation == "jumprelu" and _TOPK.search(words) and not batch and not stored:
        says = f"latents over a threshold are kept, but the files say {words}"
        return _with_k(case, "threshold_for_topk", says, {"activation": "topk", "k": k})
    if k and rule.k not in (None, k):
        return _with_k(case, "another_k", f"{rule.k} latents are kept of a token, but the files promise {k}", {"k": k})
    return None


def _with_k(case: Case, cause: str, says: str, rule: dict[str, Any]) -> Finding | None:
    coder = case.variant(rule=rule)
    if coder is None:
        return None
    made = score(case.entry, coder, case.x, case.y, case.half)
    return Finding(cause, "likely", f"{says}: {change(case.base, made)} if so", f"--k {rule['k']}")


def _suggested(case: Case, k: int | None = None) -> str:
    """``--threshold X`` with the X that gives the promised L0 on these tokens; empty where none is promised."""
    l0 = k or case.promised_l0
    value = threshold_for(case.linear, case.x, l0) if case.linear and l0 else None
    return "" if value is None else f"--threshold {value:.4g} (gives L0 {l0:g} on these tokens)"


def _few_tokens(case: Case) -> Finding | None:
    """A few tokens whose activations are unlike all others hold the variance: everything else is measured without."""
    if case.kept is None or bool(case.kept.all()):
        return None
    activations, few = case.activations, ~case.kept
    x, y = (activations.at(hook) for hook in (case.entry.hook_in, case.entry.hook_out))
    whole = score(case.entry, case.entry.coder, x, y, torch.zeros(len(x), dtype=torch.int64, device=x.device))
    squares = (y.double() - y.double().mean(0)).square().sum(1)
    says = (
        f"{int(few.sum())} of {len(few)} tokens hold {float(squares[few].sum() / squares.sum()):.1%} of the variance: "
        f"FVU {whole.fvu:.3g} with them and {case.base.fvu:.3g} without; they are {_named(case, few)}"
    )
    settle = "read fvu_without_top_tokens of a run: fvu says how these few are given back, and not the others"
    return Finding("few_tokens", "likely", says, settle)


def _named(case: Case, few: Tensor) -> str:
    """The tokens ``few`` bool ``[compared]`` by text, id, count and position, the commonest first."""
    text, few = case.activations.text, few.cpu()
    ids, positions = case.activations.ids[few], case.activations.positions[few] + text.begins_with_bos
    found = []
    for token, count in Counter(ids.tolist()).most_common(MOST_NAMED):
        at = positions[ids == token]
        places = f"position {int(at.min())}" if at.min() == at.max() else f"positions {at.min()} to {at.max()}"
        found.append(f"{text.token_text(token)!r} (id {token}, {count} of {int(case.activations.ids.eq(token).sum())} "
                     f"times, {places})")  # fmt: skip
    more = len(set(ids.tolist())) - len(found)
    return ", ".join(found) + (f" and {more} others" if more else "")


def _position_0(case: Case) -> Finding | None:
    """Whether the first token of every sequence decides FVU."""
    with_it, without = counted(case), counted(case, first=False)
    if with_it.tokens == without.tokens or not without.fvu > 0:
        return None
    if abs(torch.tensor(with_it.fvu / without.fvu).log().item()) < POSITION_0_MOVES:
        return None
    return Finding(
        "position_0",
        "likely",
        f"position 0 decides the figures: FVU {with_it.fvu:.3g} with it and {without.fvu:.3g} without",
        "--mask special if it is the BOS token, else --mask first",
    )
