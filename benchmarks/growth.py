"""How time and memory grow: exponents in the number of latents, of tokens, and of SAEs.

``python benchmarks/growth.py`` prints a Markdown table a quantity: the CPU time of every size, and the slope of the
least-squares line of log(time) on log(size), round by round (minimum / median / maximum over 5 rounds); the same of
peak anonymous memory above what was loaded, measured once. Latents: 16k, 65k and 262k (``--million`` adds 1M), d 512,
k 32, 128 tokens, encode and decode, beside sae-bench's dense TopKSAE and beside the bare product ``x @ W_enc``. Tokens:
128 to 4096 at 32k latents. SAEs: 1 to 16 of 4k latents on a small random GPT-2, by ``evaluate`` and by the peer's
``run_evals``. ``--quick`` takes small sizes and 2 rounds. Needs ``benchmarks/peers.sh`` first.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Literal

import harness
import numpy as np
from core import ALL
from harness import Memory, Worker, plain, row, spread
from wide import OURS, SAE_BENCH, WARM_UP

PRODUCT = "x @ W_enc"
WIDTH = 512


class Curve:
    """One contender's times and memory by size."""

    def __init__(self) -> None:
        self.seconds: dict[int, list[float]] = {}
        self.memory: dict[int, float] = {}

    def exponents(self) -> list[float]:
        """Slope of log time on log size, of every round."""
        sizes = list(self.seconds)
        return [slope(sizes, seconds) for seconds in zip(*self.seconds.values(), strict=True)]


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--million", action="store_true", help="up to one million latents: 4 GB of files, 9 of memory")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    wide = [1 << 12, 1 << 14] if options.quick else [1 << 14, 1 << 16, 1 << 18] + ([1 << 20] if options.million else [])
    tokens = [128, 512] if options.quick else [128, 512, 2048, 4096]
    saes = [1, 2] if options.quick else [1, 2, 4, 8, 16]
    print_curves("latents", of_latents(options, wide))
    print_curves("tokens", of_tokens(options, 1 << 13 if options.quick else 1 << 15, tokens))
    print_curves("SAEs", of_saes(options, saes))
    print(harness.environment(options))


def of_latents(options: argparse.Namespace, sizes: list[int]) -> dict[str, Curve]:
    """128 tokens through dictionaries of several widths; one of them is on disk and in memory at a time."""
    curves = {OURS: Curve(), SAE_BENCH: Curve(), PRODUCT: Curve()}
    for size in sizes:
        measure_dictionary(options, curves, size, [128], "latents")
    return curves


def of_tokens(options: argparse.Namespace, latents: int, sizes: list[int]) -> dict[str, Curve]:
    """More and more tokens through one dictionary."""
    curves = {OURS: Curve(), SAE_BENCH: Curve(), PRODUCT: Curve()}
    measure_dictionary(options, curves, latents, sizes, "tokens")
    return curves


def measure_dictionary(
    options: argparse.Namespace,
    curves: dict[str, Curve],
    latents: int,
    sizes: list[int],
    by: Literal["latents", "tokens"],
) -> None:
    """Times and memory of one dictionary at several numbers of tokens, which are kept by one of both."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("wide_ours", options.python, own=True, threads=options.threads) as ours,
        Worker("wide_peers", options.peer_python, own=False, threads=options.threads) as peer,
    ):
        data = str(Path(folder) / "data")
        ours.call("make", folder=data, activation="topk", latents=latents, width=WIDTH, tokens=max(sizes))
        ours.call("load", folder=data)
        peer.call("load", folder=data, package="sae_bench")
        for worker in (ours, peer):
            worker.call("run", tokens=WARM_UP)
        for tokens in sizes:
            size = latents if by == "latents" else tokens
            for name, worker in ((OURS, ours), (SAE_BENCH, peer)):
                curves[name].memory[size] = _added(worker.call("run", memory=True, tokens=tokens).memory)
        for _ in range(options.rounds):
            for tokens in sizes:
                size = latents if by == "latents" else tokens
                repeats = max(1, min(16, (1 << 24) // (latents * tokens)))
                calls = {
                    OURS: ours.call("run", tokens=tokens, repeats=repeats),
                    SAE_BENCH: peer.call("run", tokens=tokens, repeats=repeats),
                    PRODUCT: ours.call("bare", tokens=tokens, repeats=repeats),
                }
                for name, answer in calls.items():
                    seconds = sum(answer.result["parts"].values()) / repeats
                    curves[name].seconds.setdefault(size, []).append(seconds)


def of_saes(options: argparse.Namespace, sizes: list[int]) -> dict[str, Curve]:
    """More and more SAEs on one small model."""
    curves = {OURS: Curve(), SAE_BENCH: Curve()}
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker("core_ours", options.python, own=True, threads=options.threads) as ours,
        Worker("core_peer", options.peer_python, own=False, threads=options.threads) as peer,
    ):
        made = ours.call("make", folder=folder, rows=8, context=64, model=None, layer=None, quick=True).result
        ours.call("make_saes", folder=folder, latents=4096, count=max(sizes), rows=8)
        where = {"folder": folder, "latents": 4096, "rows": 8} | {name: made[name] for name in ("model", "hook")}
        ours.call("load", **where)
        peer.call("load", **where, k=32)

        own = {"passes": [(ALL, 8)]}
        theirs = {"prompts": 8, "loss_rows": 8}
        contenders = ((OURS, ours, own), (SAE_BENCH, peer, theirs))
        for name, worker, given in contenders:
            worker.call("run", saes=1, **given)
            for size in sizes:
                curves[name].memory[size] = _added(worker.call("run", memory=True, saes=size, **given).memory)
        for _ in range(options.rounds):
            for size in sizes:
                for name, worker, given in contenders:
                    curves[name].seconds.setdefault(size, []).append(worker.call("run", saes=size, **given).cpu)
    return curves


def _added(memory: Memory | None) -> float:
    assert memory is not None
    return max(memory.added, 0.1)  # a page or none: no exponent can be made of 0


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def print_curves(what: str, curves: dict[str, Curve]) -> None:
    """A row a contender."""
    sizes = list(curves[OURS].seconds)
    print()
    harness.head(f"by {what}", *(f"{size:,}: ms, MiB" for size in sizes), "exponent of time: min / median / max",
                 "exponent of memory")  # fmt: skip
    for name, curve in curves.items():
        cells = [
            plain(1e3 * median(curve.seconds[size])) + (f", {plain(curve.memory[size])}" if curve.memory else "")
            for size in sizes
        ]
        memory = f"{slope(sizes, list(curve.memory.values())):.2f}" if curve.memory else ""
        row(name, *cells, spread(curve.exponents(), 3), memory)


if __name__ == "__main__":
    main()
