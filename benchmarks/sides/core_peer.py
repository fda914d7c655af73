"""The core metrics by the peer's own ``run_evals``, on its own kinds of model and SAE; and the same figures mended.

Its activation store is replaced by one that hands out the given ids: the real one reads a data set from the hub.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sae_bench.custom_saes.topk_sae import TopKSAE
from sae_bench.evals.core.eval_config import CoreEvalConfig
from sae_bench.evals.core.main import get_recons_loss, run_evals
from safetensors.torch import load_file
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
from transformers import GPT2LMHeadModel

_state: dict[str, Any] = {}


class Store:
    """What ``run_evals`` asks of an activation store."""

    def __init__(self, ids: Tensor, prompts: int) -> None:
        self.ids, self.store_batch_size_prompts, self.context_size, self.at = ids, prompts, ids.shape[1], 0

    def get_batch_tokens(self, prompts: int) -> Tensor:
        self.at += prompts
        return self.ids[self.at - prompts : self.at]

    def reset_input_dataset(self) -> None:
        self.at = 0


def load(folder: str, model: str, hook: str, latents: int, rows: int, k: int) -> None:
    """The language model and all SAEs of that width, which share encoder and decoder."""
    plain = GPT2LMHeadModel.from_pretrained(model, dtype=torch.float32).eval()
    tensors = load_file(f"{folder}/sae_{latents}.safetensors")
    W_enc, W_dec = (torch.nn.Parameter(tensors[name]) for name in ("W_enc", "W_dec"))
    saes = []
    for b_enc, b_dec in zip(tensors["b_enc"], tensors["b_dec"], strict=True):
        layer = int(hook.split(".")[1])
        sae = TopKSAE(1, 1, k, "gpt2", layer, torch.device("cpu"), torch.float32, hook_name=hook)
        sae.cfg.d_in, sae.cfg.d_sae = W_enc.shape
        sae.W_enc, sae.W_dec = W_enc, W_dec
        sae.b_enc, sae.b_dec = torch.nn.Parameter(b_enc), torch.nn.Parameter(b_dec)
        saes.append(sae)
    special = {plain.config.bos_token_id, plain.config.eos_token_id}
    ids = torch.from_numpy(np.load(f"{folder}/tokens_{latents}.npy"))[:rows].long()
    _state.update(model=_hooked(plain), saes=saes, ids=ids, special=special)


@torch.no_grad()
def _hooked(plain: GPT2LMHeadModel) -> HookedTransformer:
    """What ``from_pretrained_no_processing`` makes, which knows models of the hub only."""
    of = plain.config
    config = HookedTransformerConfig(
        d_model=of.n_embd,
        d_head=of.n_embd // of.n_head,
        n_heads=of.n_head,
        d_mlp=4 * of.n_embd,
        n_layers=of.n_layer,
        n_ctx=of.n_positions,
        eps=of.layer_norm_epsilon,
        d_vocab=of.vocab_size,
        act_fn=of.activation_function,
        normalization_type="LN",
        device="cpu",
    )
    model = HookedTransformer(config)
    model.load_and_process_state_dict(
        convert_gpt2_weights(plain, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def run(saes: int, prompts: int, loss_rows: int) -> dict[str, Any]:
    """``run_evals`` on each of the first ``saes`` SAEs, with the switches of its command line; scalar figures."""
    config = CoreEvalConfig(
        batch_size_prompts=prompts,
        n_eval_reconstruction_batches=loss_rows // prompts,
        n_eval_sparsity_variance_batches=len(_state["ids"]) // prompts,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
        compute_featurewise_density_statistics=True,
        exclude_special_tokens_from_reconstruction=True,
    )
    figures = []
    for sae in _state["saes"][:saes]:
        store = Store(_state["ids"], prompts)
        scalars, _ = run_evals(sae, store, _state["model"], config, ignore_tokens=_state["special"])
        figures.append({name: value for group in scalars.values() for name, value in group.items()})
    return {"figures": figures}


@torch.no_grad()
def mended(sae: int, prompts: int, loss_rows: int) -> dict[str, Any]:
    """The figures of one SAE with the definitions of this repository, from the peer's model, SAE and loss function."""
    losses: dict[str, list[Tensor]] = {}
    energy: dict[str, list[Tensor]] = {}
    for start in range(0, len(_state["ids"]), prompts):
        ids = _state["ids"][start : start + prompts]
        kept = ~torch.isin(ids, torch.tensor(sorted(_state["special"])))
        if start < loss_rows:
            for name, value in _losses(_state["saes"][sae], ids, kept).items():
                losses.setdefault(name, []).append(value[:, : ids.shape[1] - 1][kept[:, :-1]].double())
        for name, value in _activations(_state["saes"][sae], ids, kept).items():
            energy.setdefault(name, []).append(value)
    m = {name: float(torch.cat(parts).mean()) for name, parts in losses.items()}
    x, x_hat = (torch.cat(energy[name]) for name in ("x", "x_hat"))
    error = (x - x_hat).square()
    return m | {
        "kl_div_score": 1 - m["kl_div_with_sae"] / m["kl_div_with_ablation"],
        "ce_loss_score": (m["ce_loss_with_ablation"] - m["ce_loss_with_sae"])
        / (m["ce_loss_with_ablation"] - m["ce_loss_without_sae"]),
        "explained_variance": float(1 - error.sum() / (x - x.mean(0)).square().sum()),
        "mse": float(error.mean()),
        "relative_reconstruction_bias": float(x_hat.square().sum() / (x * x_hat).sum()),
    }


@torch.no_grad()
def entries(path: str) -> None:
    """Which latents of the first SAE are active on all tokens but BOS."""
    sae, ids = _state["saes"][0], _state["ids"]
    kept = torch.ones_like(ids, dtype=torch.bool)
    kept[:, 0] = False
    token, latent = sae.encode(_activations(sae, ids, kept)["x"].float()).nonzero(as_tuple=True)
    np.save(path, (token * sae.cfg.d_sae + latent).numpy())


def _losses(sae: TopKSAE, ids: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Its own values of every position, but for ablation: zero where the SAE is spliced, and nowhere else."""
    model = _state["model"]
    given = {"compute_kl": True, "compute_ce_loss": True, "exclude_special_tokens_from_reconstruction": True}
    found: dict[str, Tensor] = get_recons_loss(sae, model, ids, None, ignore_tokens=_state["special"], **given)
    zero = [(sae.cfg.hook_name, lambda x, hook: x.masked_fill(kept.unsqueeze(2), 0))]
    logits, loss = model.run_with_hooks(ids, return_type="both", fwd_hooks=zero, loss_per_token=True)
    clean = model(ids).log_softmax(2)
    divergence = (clean.exp() * (clean - logits.log_softmax(2))).sum(2)
    return found | {"ce_loss_with_ablation": loss, "kl_div_with_ablation": divergence}


def _activations(sae: TopKSAE, ids: Tensor, kept: Tensor) -> dict[str, Tensor]:
    hook = sae.cfg.hook_name
    _, cache = _state["model"].run_with_cache(ids, names_filter=[hook], stop_at_layer=sae.cfg.hook_layer + 1)
    x = cache[hook][kept]
    return {"x": x.double(), "x_hat": sae.decode(sae.encode(x)).double()}
