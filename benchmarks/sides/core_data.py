"""A language model, tokens that it wrote itself, and SAEs that reconstruct some of it: everything from a seed.

The model has random weights. Its output rows are larger than at initialisation, and its texts are samples from it: so
it predicts them (its loss is its own entropy) and loses when it is ablated, as a trained model does. SAEs are random
directions, with a mean and a scale fitted to activations; they share encoder and decoder, and differ in their biases.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sae_bench.data.documents import DataOptions, load_corpus
from sae_bench.kernels import topk
from sae_bench.models.loading import load_subject

K = 32
SHARPNESS = 0.12  # standard deviation of output weights: logits of about 3.3
CALIBRATION = 4  # evaluation rows for one calibration row, as in the tier "standard"
SPARE = 2.5  # rows that are sampled for one that is needed: a hash decides the side, and near ties are left out
NEAR = 1e-5  # relative: the k-th and the next pre-activation of a token, which the rounding of activations could swap


def make(folder: str, rows: int, context: int, model: str | None, layer: int | None, quick: bool) -> dict[str, Any]:
    """The model in ``folder/model``, ids of both sides with activations in ``pool.npz``; where, and which hook."""
    root = Path(folder)
    path = Path(model) if model else root / "model"
    if not model:
        _random_model(quick).save_pretrained(path)
    lm = GPT2LMHeadModel.from_pretrained(path, dtype=torch.float32).eval()
    if lm.config.model_type != "gpt2":
        raise SystemExit(f"{model} is no GPT-2: the peer's copy of the weights is made for that architecture alone")
    layer = (2 * lm.config.n_layer - 1) // 3 if layer is None else layer
    hook = f"blocks.{layer}.hook_resid_post"
    ids = _sampled(lm, int(SPARE * rows) + 32, context)
    parted = load_corpus(
        ids, tokenizer=None, vocab_size=lm.config.vocab_size, options=DataOptions(calibration_limit=None)
    )
    sides = {side: getattr(parted, side).ids.reshape(-1, context) for side in ("evaluation", "calibration")}
    x = {f"x_{side}": _activations(lm, torch.from_numpy(found).long(), hook) for side, found in sides.items()}
    np.savez(root / "pool.npz", **sides, **x)
    return {"model": str(path), "hook": hook, "layer": layer}


def _random_model(quick: bool) -> GPT2LMHeadModel:
    shape = {"n_layer": 3, "n_embd": 128, "n_head": 4, "vocab_size": 2048} if quick else {}
    special = {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**shape, **special, n_positions=256, tie_word_embeddings=False))
    torch.nn.init.normal_(model.lm_head.weight, std=SHARPNESS * (768 / model.config.n_embd) ** 0.5)
    return model


@torch.no_grad()
def _sampled(model: GPT2LMHeadModel, rows: int, context: int) -> Tensor:
    """``[rows, context]`` ids that the model wrote after BOS, which does not come again."""
    generator = torch.Generator().manual_seed(1)
    bos = model.config.bos_token_id
    ids = torch.full((rows, 1), bos)
    names = inspect.signature(model.forward).parameters
    name, cache = "cache" if "cache" in names else "past_key_values", None  # transformers 5.24 calls it cache
    for _ in range(context - 1):
        out = model(ids[:, -1:], use_cache=True, **{name: cache})
        cache = getattr(out, name)
        logits = out.logits[:, -1]
        logits[:, [bos, model.config.eos_token_id]] = float("-inf")
        ids = torch.cat([ids, torch.multinomial(logits.softmax(1), 1, generator=generator)], 1)
    return ids


@torch.no_grad()
def _activations(model: GPT2LMHeadModel, ids: Tensor, hook: str) -> np.ndarray:
    """``[rows, context - 1, d]``: all but BOS, which is not scored."""
    subject, _ = load_subject(model)
    captured = subject.capture(ids, torch.ones_like(ids, dtype=torch.bool), [hook]).activations[hook][:, 1:]
    return np.asarray(captured.numpy())


@torch.no_grad()
def make_saes(folder: str, latents: int, count: int, rows: int) -> dict[str, Any]:
    """``sae_LATENTS.safetensors``: one encoder and decoder, and ``count`` rows of ``b_enc`` and ``b_dec``.

    And ``tokens_LATENTS.npy``: ``rows`` rows to evaluate, and behind them a quarter as many for calibration. Rows with
    a token whose selection hangs on rounding are left out: the sides' models differ in the last bits of activations.
    """
    root = Path(folder)
    pool = np.load(root / "pool.npz")
    x = torch.from_numpy(pool["x_calibration"]).flatten(0, 1)
    generator = torch.Generator().manual_seed(latents)
    mean = x.mean(0)
    W_dec = torch.randn(latents, x.shape[1], generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    W_enc = W_dec.T.contiguous()
    u = (x - mean)[:256]
    values, indices = topk.top_k(lambda start, stop: u @ W_enc[:, start:stop], latents, K)
    raw = torch.einsum("tk,tkd->td", values, W_dec[indices])
    W_dec *= (raw * u).sum() / raw.square().sum()
    size = float(values.std())
    b_enc = 0.1 * size * torch.randn(count, latents, generator=generator)
    b_dec = mean + 0.01 * size * torch.randn(count, x.shape[1], generator=generator)
    save_file({"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}, root / f"sae_{latents}.safetensors")
    x = torch.from_numpy(pool["x_evaluation"]).flatten(0, 1) - b_dec[0]
    values, _ = topk.top_k(lambda start, stop: x @ W_enc[:, start:stop] + b_enc[0, start:stop], latents, K + 1)
    least = values.topk(2, dim=1, largest=False).values
    clear = (least[:, 1] - least[:, 0] > NEAR * least[:, 1]).view(len(pool["evaluation"]), -1).all(1).numpy()
    kept = pool["evaluation"][clear][:rows], pool["calibration"][: -(-rows // CALIBRATION)]
    if [len(part) for part in kept] != [rows, -(-rows // CALIBRATION)]:
        raise SystemExit("too few rows fell on one side, or too many are near ties; raise SPARE")
    np.save(root / f"tokens_{latents}.npy", np.concatenate(kept))
    return {"left_out": int((~clear).sum())}
