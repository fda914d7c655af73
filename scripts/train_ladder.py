"""Train the SAEs of the ladder of known quality: TopK on the world of each draw, kept at some steps of training.

``python scripts/train_ladder.py`` writes ``sae_bench/validity/data/draw<N>.safetensors``, float16.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from sae_bench.validity.numbers import Numbers  # noqa: E402
from sae_bench.validity.trained import CHECKPOINTS, DRAWS, TRAINED, WIDTHS  # noqa: E402
from sae_bench.validity.world import WIDTH, World, world  # noqa: E402

BATCH, RATE = 512, 2e-3


def train(made: World, k: int, steps: int, stop: int | None = None) -> dict[int, dict[str, torch.Tensor]]:
    """Weights after each of the kept steps of a training of ``steps``, which may ``stop`` before.

    The encoder begins as the decoder's transpose.
    """
    x, numbers = torch.from_numpy(made.activations).float(), Numbers(made.seed, "training", k)
    decoder = torch.from_numpy(numbers.directions(WIDTHS, WIDTH)).float()
    mean = torch.from_numpy(made.rates @ made.activations).float()
    ends = made.rates.cumsum()
    w = {"W_enc": decoder.T.clone(), "b_enc": torch.zeros(WIDTHS), "W_dec": decoder, "b_dec": mean}
    for one in w.values():
        one.requires_grad_()
    optimiser = torch.optim.Adam(w.values(), lr=RATE)
    kept = {0: {name: one.detach().clone() for name, one in w.items()}}
    last_fired = torch.zeros(WIDTHS)
    for step in range(1, (stop or steps) + 1):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, 2 * (1 - step / (steps + 1)))
        batch = x[torch.from_numpy(ends.searchsorted(numbers.uniform(BATCH) * ends[-1], side="right"))]
        pre = (batch - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
        top = pre.topk(k, dim=1)
        codes = torch.zeros_like(pre).scatter(1, top.indices, top.values.relu())
        error = codes @ w["W_dec"] + w["b_dec"] - batch
        loss = (error**2).sum(1).mean()
        last_fired = torch.where((codes > 0).any(0), 0.0, last_fired + 1)
        if (last_fired > 100).any():  # revive the dead: they learn what the others leave
            dead = pre.masked_fill(last_fired <= 100, -torch.inf).topk(min(8, int((last_fired > 100).sum())), dim=1)
            again = torch.zeros_like(pre).scatter(1, dead.indices, dead.values.relu())
            loss = loss + ((again @ w["W_dec"] + error.detach()) ** 2).sum(1).mean() / 32
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            w["W_dec"] /= w["W_dec"].norm(dim=1, keepdim=True)
        if step in CHECKPOINTS:
            kept[step] = {name: one.detach().clone() for name, one in w.items()}
    return kept


def main() -> None:
    torch.set_num_threads(1)  # the same sums on every machine
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, nargs="+", default=list(range(DRAWS)))
    for draw in parser.parse_args().draws:
        made = world(draw)
        tensors: dict[str, torch.Tensor] = {}
        for k, steps in TRAINED.items():
            found = train(made, k, max(steps))
            for step in steps:
                tensors |= {f"k{k}/{step}/{name}": one.half().contiguous() for name, one in found[step].items()}
        file = ROOT / "sae_bench" / "validity" / "data" / f"draw{draw}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_file(tensors, file)
        print(file.name, file.stat().st_size)


if __name__ == "__main__":
    main()
