"""Logits after an ablation at one position: reused keys and values against one full forward pass per ablation.

``python benchmarks/ablations.py`` prints a Markdown table; ``--quick`` takes a smaller model and fewer rounds. A model
of GPT-2 small's shape with random weights, one text of 128 tokens, changes at position 64 of block 7's output, logits
of 16 tokens. Every round times all ways one after the other; a ratio compares two ways within one round. The time of
the cached way holds all that it needs: keys and values of the text, and the clean continuation of each position. The
model's first run up to the hook point, which every way but the first needs once a text, is not counted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from statistics import median

import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from sae_bench.kernels.effects import effect_sparsity
from sae_bench.models.continuation import Continuation
from sae_bench.models.loading import load_subject

SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}
POSITION, HORIZON, TOKENS = 64, 16, 128
PER_FULL, PER_BATCH = 2, 8  # ablations timed in a round
CACHED = ((128, 4), (32, 1), (8, 1), (1, 1))  # ablations timed together, and positions that they are spread over


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="4 layers of width 256, 3 rounds")
    parser.add_argument("--rounds", type=int, help="rounds to time (default 5, with --quick 3)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    shape = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 4096, **SPECIAL} if options.quick else {}
    layer = 1 if options.quick else 7
    model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    run(model, layer, options.rounds or (3 if options.quick else 5))


def run(model: GPT2LMHeadModel, layer: int, rounds: int) -> None:
    subject, _ = load_subject(model)
    hook = f"blocks.{layer}.hook_resid_post"
    tokens = torch.randint(subject.vocab_size, (1, TOKENS))
    capture = subject.capture(tokens, torch.ones_like(tokens, dtype=torch.bool), [hook])
    clean = capture.activations[hook]
    changed = clean[0, POSITION] - clean.std() * torch.randn(max(n for n, _ in CACHED), clean.shape[2])

    def full(n: int) -> Iterator[Tensor]:
        return (full_forward(model, layer, tokens, x) for x in changed[:n])

    def batched(n: int) -> Tensor:
        rows = capture.rows(torch.zeros(n, dtype=torch.int64))
        x = rows.activations[hook].clone()
        x[:, POSITION] = changed[:n]
        return subject.resume(rows, hook, x)[:, POSITION : POSITION + HORIZON]

    def cached(n: int, n_positions: int = 1) -> Iterator[Tensor]:
        continuation = Continuation(subject, capture, hook)
        assert continuation.cached
        sequences, positions = torch.zeros(n, dtype=torch.int64), POSITION + torch.arange(n) % n_positions
        return (diff for _, diff, _ in continuation.differences(sequences, positions, changed[:n], HORIZON))

    reference = torch.stack(list(full(8))) - full_forward(model, layer, tokens, clean[0, POSITION])
    found = torch.cat(list(cached(8)))
    ways: list[tuple[str, Callable[[int], Iterable[Tensor]], int]] = [
        ("full forward with a hook, one per ablation", full, PER_FULL),
        (f"rest of the model, batches of {PER_BATCH} (`resume`)", batched, PER_BATCH),
        *(
            (f"keys and values reused, {n} ablations / {k} position(s)", partial(cached, n_positions=k), n)
            for n, k in CACHED
        ),
        ("the statistic alone (`effect_sparsity`)", lambda n: effect_sparsity(found[:n]).sparsity, 8),
    ]
    times: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for (_, way, n), into in zip(ways, times, strict=True):
            into.append(seconds(way, n) / n * 1e3)
    print_table([name for name, _, _ in ways], times)
    scale, error = float(reference.abs().max()), float((found - reference).abs().max())
    a, b = (effect_sparsity(d).sparsity for d in (found, reference))
    print(
        f"\nReused against full, 8 ablations: largest difference of a logit change {error:.1e} (largest change "
        f"{scale:.2g}), of the statistic {float((a - b).abs().max()):.1e} (mean {float(b.mean()):.4f}). "
        f"{rounds} rounds, {torch.get_num_threads()} threads, torch {torch.__version__}."
    )


@torch.no_grad()
def full_forward(model: GPT2LMHeadModel, layer: int, tokens: Tensor, activation: Tensor) -> Tensor:
    """Logits behind the position, from a pass over the whole text with a hook that puts `activation` there."""

    def put(_module: torch.nn.Module, _args: object, out: Tensor) -> Tensor:
        out = out.clone()
        out[0, POSITION] = activation
        return out

    handle = model.transformer.h[layer].register_forward_hook(put)
    try:
        return model(tokens, use_cache=False).logits[0, POSITION : POSITION + HORIZON].clone()
    finally:
        handle.remove()


def seconds(way: Callable[[int], Iterable[Tensor]], n: int) -> float:
    start = time.perf_counter()
    for _ in way(n):  # one batch of logits at a time, as a task reads them
        pass
    return time.perf_counter() - start


def print_table(names: list[str], times: list[list[float]]) -> None:
    print("| way | ms per ablation: min / median / max | times faster than full: min / median / max |")
    print("|---|---|---|")
    for name, ms in zip(names, times, strict=True):
        ratios = [full / own for full, own in zip(times[0], ms, strict=True)]
        print(f"| {name} | {spread(ms)} | {spread(ratios) if ms is not times[0] else '1'} |")


def spread(values: list[float]) -> str:
    return " / ".join(f"{x:.3g}" for x in (min(values), median(values), max(values)))


if __name__ == "__main__":
    main()
