"""Usual mistakes about how an SAE computes: its bias, its selection of latents, its threshold.

Each function yields :class:`Trial` objects for the table in :mod:`sae_bench.preflight.hypotheses`, and needs to see the
weights and the rule of a linear coder.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from sae_bench.preflight.case import Case, Trial, best, if_made
from sae_bench.preflight.measure import threshold_for
from sae_bench.saes.linear import LinearCoder


def decoder_bias(case: Case) -> Iterator[Trial]:
    """b_dec is subtracted from the input where it was not, or is not."""
    assert case.linear is not None
    if case.linear.rule.apply_b_dec_to_input:
        claim, settle = "b_dec is not subtracted from the input", "apply_b_dec_to_input: false"
    else:
        claim, settle = "b_dec is subtracted from the input", "apply_b_dec_to_input: true"
    coder = case.variant(rule={"apply_b_dec_to_input": not case.linear.rule.apply_b_dec_to_input})
    yield from if_made(claim, f"{settle} in its configuration", coder)


def selection(case: Case) -> Iterator[Trial]:
    """Latents are selected by what they write, ``pre * ||W_dec||``, or not."""
    assert case.linear is not None
    if case.linear.rule.activation == "relu" or _unit_norm(case.linear):
        return
    for other in ("no", "latents", "selection"):
        if other != case.linear.rule.by_decoder_norm:
            what = "by their pre-activation alone" if other == "no" else "by pre-activation times decoder norm"
            settle = f"rescale_acts_by_decoder_norm: {str(other != 'no').lower()} in its configuration"
            if other == "selection" and case.linear.rule.by_decoder_norm == "no":
                continue  # selects as "latents" does
            yield from if_made(f"latents are selected {what}", settle, case.variant(rule={"by_decoder_norm": other}))


def folded_norms(case: Case) -> Iterator[Trial]:
    """Decoder norms were folded into the encoder, but not into the threshold, or although TopK selects without them.

    The norms are gone with the fold; those of the encoder's columns hold them still, as far as these were alike before.
    """
    linear = case.linear
    assert linear is not None
    if not _unit_norm(linear) or linear.rule.activation not in ("topk", "jumprelu"):
        return
    folded = torch.linalg.vector_norm(linear.weights.W_enc, dim=0, dtype=linear.dtype)
    folded = folded / folded.median()
    if linear.rule.activation == "jumprelu":
        assert linear.weights.threshold is not None
        threshold = linear.weights.threshold.double().expand(len(folded))
        if float(threshold.std()) > 1e-3 * float(threshold.mean().abs()):
            return
        coder = case.variant(threshold=threshold * folded)
    else:
        b_enc = None if linear.weights.b_enc is None else linear.weights.b_enc / folded
        coder = case.variant(
            rule={"by_decoder_norm": "no"},
            W_enc=linear.weights.W_enc / folded,
            b_enc=b_enc,
            W_dec=linear.weights.W_dec * folded.unsqueeze(1),
        )
    yield from if_made(
        "decoder norms were folded into the encoder, and latents are selected as if they had not been",
        "use the weights as they were trained, or fold the norms into the threshold too",
        coder,
    )


def activation(case: Case) -> Iterator[Trial]:
    """Another activation function with the same k: signs kept or lost."""
    assert case.linear is not None
    rule, set_it = case.linear.rule, "in its configuration"
    if rule.activation == "topk":
        yield from if_made("the k largest magnitudes are kept with their signs", f"activation abstopk {set_it}",
                            case.variant(rule={"activation": "abstopk", "keep_negative": False}))  # fmt: skip
        if case.base.l0 == rule.k and not rule.keep_negative:
            return  # all k are positive
        other = not rule.keep_negative
        claim = "negative latents among the k largest are kept" if other else "negative latents are dropped (relu)"
        yield from if_made(claim, f"{'no relu' if other else 'relu'} behind the k largest",
                            case.variant(rule={"keep_negative": other}))  # fmt: skip
    if rule.activation == "abstopk":
        yield from if_made("the k largest are kept, by value", f"activation topk {set_it}",
                            case.variant(rule={"activation": "topk"}))  # fmt: skip


def another_k(case: Case) -> Iterator[Trial]:
    """Another number of latents is kept of a token, where the files do not say how many.

    The trained one is where more of them begin to be worth little.
    """
    assert case.linear is not None
    k = case.linear.rule.k
    if k is None or case.promised_l0 is not None:
        return
    others = [other for power in range(-4, 5) if power and 1 <= (other := int(k * 2.0**power)) <= case.info.n_latents]
    trials = {
        other: Trial(f"about {other} latents are kept of a token", f"--k {other}", coder=coder)
        for other in others
        if (coder := case.variant(rule={"k": other})) is not None
    }
    if trials:
        yield trials[best(case.thin, trials)]


def threshold(case: Case) -> Iterator[Trial]:
    """The threshold is another one: unset, in other units, or of another SAE."""
    linear = case.linear
    if linear is None or linear.rule.activation != "jumprelu" or linear.weights.threshold is None:
        return
    own = linear.weights.threshold
    if case.target_l0 is not None or bool((own <= 0).all()):
        levels = [case.target_l0] if case.target_l0 else [2.0**power for power in range(2, 9)]
        found = [threshold_for(linear, case.thin.x, l0) for l0 in levels if l0 < case.base.l0 or case.target_l0]
        trials = {
            value: Trial(f"the threshold is {value:.4g}", f"--threshold {value:.4g}", coder=coder)
            for value in found
            if value is not None and (coder := case.variant(threshold=own.new_tensor(value))) is not None
        }
    else:
        trials = {
            factor: Trial(
                f"thresholds are {factor:g} times as large", f"multiply the thresholds with {factor:g}", coder=coder
            )
            for factor in (0.25, 0.5, 2.0, 4.0)
            if (coder := case.variant(threshold=own * factor)) is not None
        }
    if trials:
        yield trials[best(case.thin, trials)]


def skip(case: Case) -> Iterator[Trial]:
    """The skip connection is stored the other way round."""
    assert case.linear is not None
    W = case.linear.weights.W_skip
    if W is not None and W.shape[0] == W.shape[1]:
        yield from if_made("W_skip is transposed", "transpose W_skip", case.variant(W_skip=W.T))


def _unit_norm(linear: LinearCoder) -> bool:
    """Whether all decoder directions have the norm 1."""
    norms = torch.linalg.vector_norm(linear.weights.W_dec, dim=1, dtype=linear.dtype)
    return float((norms - 1).abs().max()) < 1e-2
