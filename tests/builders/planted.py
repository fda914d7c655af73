"""The faults of evaluation that tests plant into healthy SAEs.

Every fault is one that people have met (formats of weights on disk, issues of the libraries); it is planted into copies
of weights, rule or record, or into the tokens, never into the files.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_bench.preflight.measure import threshold_for
from sae_bench.preflight.text import Activations
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.wrap import as_coder
from tests.builders.planted_saes import Healthy, at_hooks, changed, in_units, refolded, seeded, with_norms


@dataclass(frozen=True)
class Planted:
    """An SAE with one fault. ``causes``: what a preflight may call it; ``needle``: what its sentence must hold."""

    fault: str
    healthy: Healthy
    coder: Any
    causes: tuple[str, ...]
    needle: str = ""
    activations: Activations | None = None  # where the tokens are at fault


def usual_factor(healthy: Healthy) -> float:
    """sqrt(d) over the mean norm of activations."""
    x = healthy.activations.at(healthy.coder.info.hooks_in[0])
    return math.sqrt(x.shape[1]) / float(x.norm(dim=1).mean())


def _bias(healthy: Healthy) -> Iterator[Planted]:
    subtracting = healthy.coder if healthy.coder.rule.apply_b_dec_to_input else refolded(healthy.coder)
    lost = changed(subtracting, rule={"apply_b_dec_to_input": False})
    yield Planted("b_dec not subtracted", healthy, lost, ("decoder_bias",), "is subtracted")
    twice = changed(refolded(subtracting), rule={"apply_b_dec_to_input": True})
    yield Planted("b_dec subtracted without need", healthy, twice, ("decoder_bias",), "not subtracted")


def _scale(healthy: Healthy) -> Iterator[Planted]:
    if healthy.coder.rule.normalise != "none":
        return
    usual = usual_factor(healthy)
    for fault, factor, powers, cause in (
        ("norm factor ignored", usual, (0, 0), "scale"),
        ("norm factor ignored", 0.1, (0, 0), "scale"),
        ("norm factor applied twice", usual, (2, -2), "scale"),
        ("norm factor applied twice", 8.0, (2, -2), "scale"),
        ("scaled in, not out", usual, (1, 0), "output_scale"),
        ("scaled in, not out", 0.1, (1, 0), "output_scale"),
        ("scaled out, not in", usual, (0, -1), "input_scale"),
    ):
        scaled_in, scaled_out = (factor**power for power in powers)
        coder = in_units(healthy.coder, factor, scaled_in=scaled_in, scaled_out=scaled_out)
        yield Planted(fault, healthy, coder, (cause,))


def _normalisation(healthy: Healthy) -> Iterator[Planted]:
    own = healthy.coder.rule.normalise
    for other in ("none", "layer_norm", "constant_norm_rescale"):
        if other != own and (other == "none" or own == "none"):
            fault = "normalisation of tokens ignored" if other == "none" else "tokens normalised without need"
            needle = "not normalised" if own == "none" else ""
            yield Planted(fault, healthy, changed(healthy.coder, rule={"normalise": other}), ("normalisation",), needle)


def _places(healthy: Healthy) -> Iterator[Planted]:
    """Sites of the same block, and neighbours in the residual stream."""
    info = healthy.coder.info
    own = info.hooks_in[0]
    if info.is_transcoder or own.endswith(":centered"):
        return
    block, site = int(own.split(".")[1]), own.split(".", 2)[2]
    faults = {"hidden state off by one": [f"blocks.{block + step}.{site}" for step in (-1, 1)]}
    if block == 3 and site == "hook_resid_post":
        faults["last block's output taken after the final norm"] = ["transformer.ln_f:out"]
    if site == "hook_resid_post":
        sites = ("hook_attn_out", "hook_mlp_out", "hook_resid_mid", "ln2.hook_normalized")
        faults["another site of the block"] = [f"blocks.{block}.{other}" for other in sites]
    else:
        faults["sublayer fed the residual stream"] = [
            f"blocks.{block}.hook_resid_post",
            f"blocks.{block}.hook_resid_pre",
        ]
    for fault, hooks in faults.items():
        for hook in healthy.activations.take(hooks):
            if healthy.activations.at(hook).shape[1] == info.d_in:
                yield Planted(fault, healthy, at_hooks(healthy.coder, hook), ("other_place",), f"reads {own}")


def _transcoder(healthy: Healthy) -> Iterator[Planted]:
    info = healthy.coder.info
    if not info.is_transcoder:
        return
    own, out = info.hooks_in[0], info.hooks_out[0]
    block = own.split(".")[1]
    swapped = at_hooks(healthy.coder, out, own)
    yield Planted("transcoder's input and output exchanged", healthy, swapped, ("other_place",), "exchanged")
    yield Planted("transcoder taken for an SAE", healthy, at_hooks(healthy.coder, out), ("other_place",), own)
    for site in ("hook_resid_mid", "ln2.hook_normalized"):
        read = f"blocks.{block}.{site}"
        yield Planted("transcoder fed what is before the norm's gain", healthy, at_hooks(healthy.coder, read, out),
                      ("other_place",), own)  # fmt: skip


def _selection(healthy: Healthy) -> Iterator[Planted]:
    norms = (0.5 * seeded(healthy.coder.info.n_latents, seed=7)).exp()
    coder, fault = healthy.coder, "selection without the decoder norms"
    if coder.rule.by_decoder_norm != "no":
        return
    if coder.rule.activation == "topk" and _unit_norm(coder):
        yield Planted(fault, healthy, with_norms(coder, norms), ("selection",), "times decoder norm")
    if coder.rule.activation == "jumprelu" and _unit_norm(coder):
        lost = changed(with_norms(coder, norms), threshold=coder.weights.threshold)
        yield Planted(fault, healthy, lost, ("selection",), "times decoder norm")
    if not _unit_norm(coder):
        own = coder.weights.W_dec.norm(dim=1)
        folded = with_norms(coder, 1 / own)
        if coder.weights.threshold is not None:
            folded = changed(folded, threshold=coder.weights.threshold)
        yield Planted("decoder norms folded, selection not", healthy, folded, ("folded_norms",))


def _activation(healthy: Healthy) -> Iterator[Planted]:
    coder, info = healthy.coder, healthy.coder.info
    rule, k = coder.rule, coder.rule.k
    if rule.activation == "topk" and k is not None:
        signed = changed(coder, rule={"activation": "abstopk"})
        yield Planted("signs of latents", healthy, signed, ("activation",), "by value")
        yield Planted("relu lost", healthy, changed(coder, rule={"keep_negative": True}), ("activation",))
        for other in (k // 4, k * 4):
            told = changed(coder, rule={"k": other}, info={"provenance": {"declared_l0": k}})
            yield Planted("another k than the files say", healthy, told, ("another_k",), f"promise {k}")
            silent = changed(coder, rule={"k": other}, info={"provenance": {}})
            yield Planted("another k, and the files do not say which", healthy, silent, ("another_k",))
        level = threshold_for(coder, healthy.activations.at(info.hooks_in[0]), k)
        over = changed(coder, rule={"activation": "jumprelu", "k": None}, info={"architecture": "topk"},
                       threshold=torch.tensor(level))  # fmt: skip
        yield Planted("a threshold where the file says TopK", healthy, over, ("threshold_for_topk",))
    if rule.activation == "abstopk":
        yield Planted("signs of latents", healthy, changed(coder, rule={"activation": "topk"}), ("activation",),
                      "magnitudes")  # fmt: skip


def _threshold(healthy: Healthy) -> Iterator[Planted]:
    coder = healthy.coder
    own = coder.weights.threshold
    if own is None:
        return
    for value in (0.0, -1.0):
        unset = changed(coder, threshold=torch.full_like(own, value))
        yield Planted("threshold unset", healthy, unset, ("threshold_unset",))
    for factor in (0.3, 3.0):
        yield Planted("threshold in other units", healthy, changed(coder, threshold=own * factor), ("threshold",))
    if own.ndim == 0:
        k = int(coder.info.provenance["declared_l0"])
        kept = changed(
            coder, rule={"activation": "topk", "k": k}, info={"architecture": "BatchTopKSAE"}, threshold=None
        )
        yield Planted("TopK of a token where the file says BatchTopK", healthy, kept, ("per_token_topk",))


def _heads(healthy: Healthy) -> Iterator[Planted]:
    if "hook_z" in healthy.coder.info.hooks_in[0]:
        w = healthy.coder.weights
        order = torch.arange(len(w.b_dec)).view(4, -1).T.reshape(-1)
        coder = changed(healthy.coder, W_enc=w.W_enc[order], W_dec=w.W_dec[:, order], b_dec=w.b_dec[order])
        yield Planted("heads of hook_z interleaved", healthy, coder, ("head_order",))


def _centred(healthy: Healthy) -> Iterator[Planted]:
    own = healthy.coder.info.hooks_in[0]
    if own.endswith(":centered"):
        raw = at_hooks(healthy.coder, own.removesuffix(":centered"))
        yield Planted("centred activations not centred", healthy, raw, ("centred",))


def _foreign(healthy: Healthy) -> Iterator[Planted]:
    w = healthy.coder.weights
    turn_in = torch.linalg.qr(seeded(w.W_enc.shape[0], w.W_enc.shape[0], seed=3))[0]
    turn_out = turn_in if w.W_enc.shape[0] == len(w.b_dec) else torch.linalg.qr(seeded(len(w.b_dec), len(w.b_dec)))[0]
    other = changed(healthy.coder, W_enc=turn_in @ w.W_enc, W_dec=w.W_dec @ turn_out.T, b_dec=turn_out @ w.b_dec)
    yield Planted("SAE of another model", healthy, other, ("nothing_helps",))
    random = changed(
        healthy.coder,
        W_enc=seeded(*w.W_enc.shape, seed=4) / w.W_enc.shape[0] ** 0.5,
        W_dec=torch.nn.functional.normalize(seeded(*w.W_dec.shape, seed=5), dim=1),
        b_dec=torch.zeros_like(w.b_dec),
    )
    yield Planted("untrained SAE", healthy, random, ("nothing_helps",))


def _tokens(healthy: Healthy) -> Iterator[Planted]:
    own = healthy.activations
    other = Activations(own.subject, dataclasses.replace(own.text, begins_with_bos=not own.text.begins_with_bos))
    yield Planted("BOS before texts, or not", healthy, healthy.coder, ("other_tokens",), activations=other)
    if own.text.begins_with_bos:
        kept = Activations(own.subject, dataclasses.replace(own.text, mask="none"))
        yield Planted("position 0 counted", healthy, healthy.coder, ("position_0",), activations=kept)


class _BatchTopK(torch.nn.Module):
    """The k largest of a token on average, chosen among all tokens of the batch."""

    def __init__(self, coder: LinearCoder, k: int) -> None:
        super().__init__()
        self.coder, self.k = coder, k

    def encode(self, x: Tensor) -> Tensor:
        pre = self.coder.pre_activations(x, 0, self.coder.info.n_latents).relu()
        least = pre.flatten().topk(min(self.k * len(x), pre.numel())).values[-1]
        return pre * (pre >= least)

    def decode(self, latents: Tensor) -> Tensor:
        return latents @ self.coder.weights.W_dec + self.coder.weights.b_dec


class _BatchNorm(_BatchTopK):
    """Pre-activations normalised with the mean and spread of the batch, as in training."""

    def encode(self, x: Tensor) -> Tensor:
        pre = self.coder.pre_activations(x, 0, self.coder.info.n_latents)
        return torch.nn.functional.batch_norm(pre, None, None, training=True).relu()


def _batch(healthy: Healthy) -> Iterator[Planted]:
    info = healthy.coder.info
    if info.is_transcoder or healthy.coder.rule.k is None:
        return
    for fault, kind in (("top k of the batch", _BatchTopK), ("BatchNorm in training mode", _BatchNorm)):
        module = kind(healthy.coder, healthy.coder.rule.k)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is wrapped
            coder = as_coder(module, name="module", d_in=info.d_in, hook=info.hooks_in[0])
        yield Planted(fault, healthy, coder, ("contract",))


COMMON: tuple[Callable[[Healthy], Iterator[Planted]], ...] = (_bias, _scale, _activation, _foreign, _batch)
SPECIFIC: tuple[Callable[[Healthy], Iterator[Planted]], ...] = (
    *(_normalisation, _places, _transcoder, _selection, _threshold, _heads, _centred, _tokens),
)


def planted(healthy: Healthy, *, common: bool = True) -> Iterator[Planted]:
    """Every fault that this SAE can have; without ``common`` those that depend on its kind and place."""
    for plant in (*COMMON, *SPECIFIC) if common else SPECIFIC:
        yield from plant(healthy)


def _unit_norm(coder: LinearCoder) -> bool:
    return bool(torch.allclose(coder.weights.W_dec.norm(dim=1), torch.ones(()), atol=1e-2))


def matters(plant: Planted) -> bool:
    """Whether FVU moves by 15 %, or one in five active latents, from those of the healthy SAE on its own tokens."""
    own, other = plant.healthy, plant.activations or plant.healthy.activations
    before, after = _figures(own.coder, own.activations), _figures(plant.coder, other)
    if abs(math.log(after[0] / before[0])) >= math.log(1.15):
        return True
    if before[1].shape != after[1].shape:
        return False
    both = (before[1] & after[1]).sum()
    return bool(both < 0.8 * (before[1] | after[1]).sum())


def _figures(coder: Any, activations: Activations) -> tuple[float, Tensor]:
    """FVU on the tokens that a run counts, and which latents are active."""
    hook_in, hook_out = coder.info.hooks_in[0], coder.info.hooks_out[0]
    x, y = (activations.everywhere(hook)[activations.counted] for hook in (hook_in, hook_out))
    codes = coder.encode(x)
    error = (y - coder.decode(codes, x)).square().sum() / (y - y.mean(0)).square().sum()
    return float(error), codes.dense() != 0
