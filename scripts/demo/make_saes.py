"""Make the demo world's SAEs from its model (about 2 minutes each on one core).

Run from the repository root, with the package installed.

::

    python scripts/demo/make_saes.py             # train all, write sae_bench/demo/data/saes, print their figures
    python scripts/demo/make_saes.py relu gated more/topk_k256   # only these
    python scripts/demo/make_saes.py --measure   # only the figures of what is there

Training happens on y = (x - mean) / scale with E|y|^2 = d. Since every activation here is positively homogeneous in
(pre-activation, biases, thresholds), the stored coder for raw x has the same matrices and only its biases scaled.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from make_model import batch_of, encode
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_bench import demo

D, LATENTS, BATCH = 128, 1024, 1024
LAYER = 2
SEED = 2


@dataclass(frozen=True)
class Recipe:
    """How one SAE is trained: its activation, the L0 it aims at, and where it departs from the others.

    ``multi``: a top-k SAE must also reconstruct from so many times its k latents (an eighth of the loss).
    """

    activation: str
    l0: int
    steps: int = 3000
    seed: int = SEED
    layer: int = LAYER
    multi: int = 0
    first_weight: float = 0.05
    unit_norm: bool = True
    apply_b_dec_to_input: bool = True
    notes: str = ""


RECIPES = {
    "topk_k16": Recipe("topk", 16, notes="top-k, unit-norm decoder rows"),
    "topk_k32": Recipe("topk", 32, notes="top-k, unit-norm decoder rows"),
    "relu": Recipe(
        "relu", 28, first_weight=2.0, unit_norm=False, apply_b_dec_to_input=False,
        notes="ReLU with an L1 penalty on f_i * |d_i|; decoder rows are not unit-norm; the input bias is in b_enc",
    ),
    "gated": Recipe("gated", 24, first_weight=2.0, notes="gated, unit-norm decoder rows"),
    "jumprelu": Recipe(
        "jumprelu", 24, first_weight=0.1, apply_b_dec_to_input=False,
        notes="JumpReLU with an L0 penalty through straight-through estimates, unit-norm decoder rows; "
        "the input bias is in b_enc",
    ),
    "topk_k32_undertrained": Recipe("topk", 32, steps=90, notes="topk_k32 stopped after 3 % of its steps"),
    "more/topk_k32_seed3": Recipe("topk", 32, seed=3, notes="topk_k32 from another start and in another order: seed 3"),
    "more/topk_k32_seed4": Recipe("topk", 32, seed=4, notes="topk_k32 from another start and in another order: seed 4"),
    "more/topk_k32_block1": Recipe("topk", 32, seed=5, layer=1, notes="as topk_k32, one block earlier; seed 5"),
    "more/multi_topk_k32": Recipe(
        "topk", 32, seed=6, multi=4,
        notes="Multi-TopK: k = 32, with an eighth of the loss of k = 128 in training; seed 6",
    ),
    "more/topk_k256": Recipe("topk", 256, seed=7, notes="far too large a k, of an activation of 128 numbers; seed 7"),
}  # fmt: skip


@torch.no_grad()
def activations(n: int, *, layer: int = LAYER, seed: int, split: str) -> Tensor:
    """Residual stream after a block at all positions but 0, for n documents: [tokens, D] float32."""
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    rows = encode(tokenizer, [d.text for d in demo.documents(n, seed=seed, split=split)])
    rows.sort(key=len)
    found: list[Tensor] = []
    model.transformer.h[layer].register_forward_hook(lambda _m, _i, out: found.append(out))
    kept = []
    for start in range(0, len(rows), 64):
        ids, labels = batch_of(rows[start : start + 64])
        model.transformer(ids)
        x = found.pop()
        x = x[0] if isinstance(x, tuple) else x
        kept.append(x[:, 1:][labels[:, 1:] != -100])
    return torch.cat(kept)


class _Jump(torch.autograd.Function):
    """value * (value > threshold), and the step itself, with rectangle-kernel gradients for the threshold."""

    BANDWIDTH = 0.4

    @staticmethod
    def forward(ctx, pre, threshold):
        ctx.save_for_backward(pre, threshold)
        on = (pre > threshold).to(pre)
        return pre * on, on

    @staticmethod
    def backward(ctx, grad_value, grad_step):
        pre, threshold = ctx.saved_tensors
        on = (pre > threshold).to(pre)
        window = ((pre - threshold).abs() < _Jump.BANDWIDTH / 2).to(pre) / _Jump.BANDWIDTH
        grad_threshold = -(grad_value * threshold + grad_step) * window
        return grad_value * on, grad_threshold.sum(0)


class Trained(torch.nn.Module):
    """One SAE in training, on normalised activations."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        rows = torch.nn.functional.normalize(torch.randn(LATENTS, D), dim=1)
        self.W_dec = torch.nn.Parameter(rows.clone())
        self.W_enc = torch.nn.Parameter(rows.T.clone())
        self.b_dec = torch.nn.Parameter(torch.zeros(D))
        self.b_enc = torch.nn.Parameter(torch.zeros(LATENTS))
        if recipe.activation == "jumprelu":
            self.log_threshold = torch.nn.Parameter(torch.full((LATENTS,), math.log(0.8)))
        if recipe.activation == "gated":
            self.b_mag = torch.nn.Parameter(torch.zeros(LATENTS))
            self.r_mag = torch.nn.Parameter(torch.zeros(LATENTS))

    def loss(self, y: Tensor, weight: float, idle: Tensor) -> tuple[Tensor, Tensor]:
        """Training loss, and which latents were active: [tokens, LATENTS] bool."""
        pre = (y - self.b_dec) @ self.W_enc + self.b_enc
        kind = self.recipe.activation
        extra = y.new_zeros(())
        if kind == "topk":
            top = pre.topk(self.recipe.l0, dim=1)
            codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
            if self.recipe.multi:
                wider = pre.topk(self.recipe.multi * self.recipe.l0, dim=1)
                wide = torch.zeros_like(pre).scatter(1, wider.indices, wider.values.relu())
                extra = (y - wide @ self.W_dec - self.b_dec).square().sum(1).mean() / 8
        elif kind == "relu":
            codes = pre.relu()
            extra = weight * (codes * self.W_dec.norm(dim=1)).sum(1).mean()
        elif kind == "jumprelu":
            codes, on = _Jump.apply(pre.relu(), self.log_threshold.exp())
            extra = weight * on.sum(1).mean()
        else:
            gate = pre.relu()
            magnitude = ((y - self.b_dec) @ (self.W_enc * self.r_mag.exp()) + self.b_mag).relu()
            codes = magnitude * (gate > 0)
            # The gate alone must reconstruct too, or nothing but the penalty would train it.
            alone = gate @ self.W_dec.detach() + self.b_dec.detach()
            # An idle latent pays no penalty, or the gate's L1 would keep it down for good.
            extra = weight * (gate * ~idle).sum(1).mean() + (y - alone).square().sum(1).mean()
        error = y - codes @ self.W_dec - self.b_dec
        loss = error.square().sum(1).mean() + extra
        if int(idle.sum()) > 0:
            loss = loss + self._revive(pre, error.detach(), idle)
        return loss, codes.detach() > 0

    def _revive(self, pre: Tensor, error: Tensor, idle: Tensor) -> Tensor:
        """Idle latents learn what the others leave over, as in the top-k paper's auxiliary loss."""
        candidates = pre.masked_fill(~idle, -math.inf)
        top = candidates.topk(min(32, int(idle.sum())), dim=1)
        codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        return (error - codes @ self.W_dec).square().sum(1).mean() / 8

    @torch.no_grad()
    def project(self) -> None:
        """Unit-norm decoder rows, where the recipe wants them."""
        if self.recipe.unit_norm:
            self.W_dec.div_(self.W_dec.norm(dim=1, keepdim=True))


def train(recipe: Recipe, y: Tensor) -> Trained:
    """Adam with warmup and a linear decay; the sparsity weight is steered to the wanted L0."""
    torch.manual_seed(recipe.seed)
    sae = Trained(recipe)
    optimizer = torch.optim.Adam(sae.parameters(), lr=1.5e-3, betas=(0.9, 0.999))
    # An undertrained SAE is the same run stopped early: the schedule is that of the whole run.
    whole = max(recipe.steps, Recipe.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / 100, 1.0) * min(1.0, (whole - s) / (0.3 * whole))
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    weight, last_active = recipe.first_weight, torch.zeros(LATENTS, dtype=torch.long)
    began = time.monotonic()
    for step in range(recipe.steps):
        rows = torch.randint(len(y), (BATCH,), generator=generator)
        # The last fifth leaves the idle alone, so that revival does not disturb the final fit.
        idle = (step - last_active > 150) & (step < 0.8 * recipe.steps)
        loss, active = sae.loss(y[rows], weight, idle)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 50.0)
        optimizer.step()
        schedule.step()
        sae.project()
        last_active[active.any(0)] = step
        l0 = float(active.sum(1).float().mean())
        if step > 100:
            weight *= math.exp(max(-0.01, min(0.01, 0.02 * math.log((l0 + 0.1) / recipe.l0))))
        if step % 1000 == 0 or step == recipe.steps - 1:
            idle_now = int((step - last_active > 150).sum())
            print(
                f"  step {step} loss {loss.item():.3f} L0 {l0:.1f} weight {weight:.4f} idle {idle_now} "
                f"{time.monotonic() - began:.0f}s",
                flush=True,
            )
    return sae


@torch.no_grad()
def store(name: str, sae: Trained, mean: Tensor, scale: float) -> None:
    """Write the native layout, in float16 and for raw activations."""
    recipe = sae.recipe
    b_dec = mean + scale * sae.b_dec
    weights = {"W_enc": sae.W_enc, "W_dec": sae.W_dec, "b_dec": b_dec}
    if recipe.activation == "gated":
        weights |= {"b_gate": scale * sae.b_enc, "b_mag": scale * sae.b_mag, "r_mag": sae.r_mag}
    else:
        b_enc = scale * sae.b_enc
        weights["b_enc"] = b_enc if recipe.apply_b_dec_to_input else b_enc - b_dec @ sae.W_enc
    if recipe.activation == "jumprelu":
        weights["threshold"] = scale * sae.log_threshold.exp()
    config: dict[str, object] = {
        "format": "sae-bench",
        "format_version": 1,
        "name": name.removeprefix("more/"),
        "activation": recipe.activation,
        "apply_b_dec_to_input": recipe.apply_b_dec_to_input,
        "d_in": D,
        "d_out": D,
        "n_latents": LATENTS,
        "hook_in": f"blocks.{recipe.layer}.hook_resid_post",
        "hook_out": f"blocks.{recipe.layer}.hook_resid_post",
        "model": "demo",
        "prepend_bos": True,
        "context_size": 128,
        "notes": recipe.notes,
    }
    if recipe.activation == "topk":
        config["k"] = recipe.l0
    if recipe.multi:
        config["training_architecture"] = "multi_topk"
    folder = demo.sae_path(name)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in weights.items()}, folder / "weights.safetensors")
    (folder / "sae_bench.json").write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def reconstruct(name: str, x: Tensor) -> tuple[Tensor, Tensor]:
    """Dense codes [tokens, LATENTS] and reconstruction [tokens, D] of a stored SAE."""
    folder = demo.sae_path(name)
    config = json.loads((folder / "sae_bench.json").read_text())
    w = {key: value.float() for key, value in load_file(folder / "weights.safetensors").items()}
    u = x - w["b_dec"] if config["apply_b_dec_to_input"] else x
    if config["activation"] == "gated":
        codes = (u @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]).relu() * (u @ w["W_enc"] + w["b_gate"] > 0)
    else:
        pre = u @ w["W_enc"] + w["b_enc"]
        if config["activation"] == "topk":
            top = pre.topk(config["k"], dim=1)
            codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        elif config["activation"] == "jumprelu":
            codes = pre * (pre > w["threshold"])
        else:
            codes = pre.relu()
    return codes, codes @ w["W_dec"] + w["b_dec"]


@torch.no_grad()
def measure(names: Sequence[str]) -> None:
    """Print L0, FVU and dead latents of SAEs on eval documents, and the FVU of PCA beside them."""
    print("| SAE | L0 | FVU | FVU of PCA with as many components | never active | decoder norm (min, max) |")
    print("|---|---|---|---|---|---|")
    for layer in sorted({RECIPES[name].layer for name in names}, reverse=True):
        x = activations(1000, layer=layer, seed=0, split="eval")
        total = (x - x.mean(0)).square().sum()
        variances = torch.linalg.eigvalsh(torch.cov(x.double().T)).flip(0)
        for name in names:
            if RECIPES[name].layer != layer:
                continue
            codes, x_hat = reconstruct(name, x)
            l0 = float((codes > 0).sum(1).float().mean())
            pca = float(1 - variances[: round(l0)].sum() / variances.sum())
            fvu = float((x - x_hat).square().sum() / total)
            norms = load_file(demo.sae_path(name) / "weights.safetensors")["W_dec"].float().norm(dim=1)
            dead = int((codes > 0).sum(0).eq(0).sum())
            print(f"| `{name}` | {l0:.1f} | {fvu:.3f} | {pca:.3f} | {dead} | {norms.min():.2f}, {norms.max():.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[], help="which SAEs to train (default: all)")
    parser.add_argument("--measure", action="store_true", help="train nothing, print the figures of what is there")
    parser.add_argument("--documents", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names = args.names or [*demo.SAE_NAMES, *demo.MORE_SAES]
    if unknown := set(names) - set(RECIPES):
        parser.error(f"there is no recipe for {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    if not args.measure:
        for layer in sorted({RECIPES[name].layer for name in names}, reverse=True):
            x = activations(args.documents, layer=layer, seed=SEED, split="train")
            mean = x.mean(0)
            scale = float((x - mean).square().sum(1).mean().div(D).sqrt())
            print(f"{len(x)} activations after block {layer}, scale {scale:.3f}", flush=True)
            y = (x - mean) / scale
            for name in names:
                if RECIPES[name].layer == layer:
                    print(name, flush=True)
                    store(name, train(RECIPES[name], y), mean, scale)
    measure(names)


if __name__ == "__main__":
    main()
