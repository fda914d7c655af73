"""The core metrics: this repository's ``evaluate`` against ``run_evals`` of sae-bench 0.6.0, digits side by side.

``python benchmarks/core.py`` prints three Markdown tables for 16k and for 65k latents: CPU time and memory for 1, 6 and
36 SAEs on one model and hook point, the cost of an added task, and the figures of one SAE from both. ``--quick`` takes
a tiny model, 2k latents and 1 and 2 SAEs. The model has GPT-2 small's shape and random weights (or ``--model DIR``, a
GPT-2), hook point the output of block 7; 16 rows of 128 tokens that the model wrote; float32, k = 32, both sides the
same rows for every figure (``--loss-rows`` evaluates losses on fewer, as the peer's defaults do: a tenth).

Counted for this repository: all of ``evaluate`` on objects in memory, with digests, calibration on a further quarter of
the rows, mean ablation and intervals, none of which the peer has. Counted for the peer: ``run_evals``, without loading,
with the switches of its command line but for pairwise cosines of weights. It shares nothing between SAEs, so beyond
``--peer-saes`` (default 2) its time is multiplied up. SAEs share encoder and decoder and differ in their biases: 36 of
65k latents do not fit into the memory of a small machine otherwise. Ratios are within one round (minimum / median /
maximum over 3). Rows in which a token's selection hangs on rounding are not taken: both sides' models round activations
differently, and one latent exchanged for another shows in the fifth digit. Needs ``benchmarks/peers.sh`` first.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from statistics import median
from typing import Any

import harness
import numpy as np
from harness import Answer, Worker, plain, ratios, row, spread

ALL = "reconstruction,sparsity,loss_recovered"
ALIKE = 1e-5  # relative: five digits
# the peer's name, this repository's (a difference from 1 with "1-"), and why figures differ
FIGURES = (
    ("ce_loss_without_sae", "ce_clean", ""),
    ("ce_loss_with_sae", "ce_spliced", ""),
    (
        "ce_loss_with_ablation",
        "ce_zero",
        "the peer zeroes every position, BOS too, though it splices the SAE elsewhere",
    ),
    ("ce_loss_score", "loss_recovered_zero", "follows from the ablated loss"),
    ("kl_div_with_sae", "kl", "the peer counts the last position of a row, where nothing is predicted"),
    ("kl_div_with_ablation", "kl_zero", "both of these"),
    ("kl_div_score", "kl_recovered_zero", "follows from both divergences"),
    ("l0", "l0", ""),
    ("l1", "l1", ""),
    ("cossim", "cosine", ""),
    ("l2_ratio", "norm_ratio", ""),
    ("relative_reconstruction_bias", "relative_reconstruction_bias", "the peer averages the ratios of its batches"),
    ("explained_variance", "1-fvu", "the peer subtracts the square of a mean square, not of the mean"),
    ("mse", "mse", "the peer divides a token's squared error by the tokens of its batch, not by d"),
)


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--latents", type=int, nargs="+", help="widths (default 16384 65536)")
    parser.add_argument("--saes", type=int, nargs="+", help="numbers of SAEs (default 1 6 36)")
    parser.add_argument("--rows", type=int, default=16, help="rows of tokens, a multiple of --prompts (default 16)")
    parser.add_argument("--loss-rows", type=int, help="rows on which losses are measured (default: all)")
    parser.add_argument("--prompts", type=int, default=8, help="rows of a batch of the peer (default 8)")
    parser.add_argument("--context", type=int, default=128, help="tokens of a row (default 128)")
    parser.add_argument("--peer-saes", type=int, default=2, help="most SAEs that the peer really runs (default 2)")
    parser.add_argument("--model", help="folder of a GPT-2 (default: random weights)")
    parser.add_argument("--layer", type=int, help="block whose output is read (default: two thirds of the way)")
    options = parser.parse_args()
    options.latents = options.latents or ([2048] if options.quick else [16384, 65536])
    options.saes = sorted(options.saes or ([1, 2] if options.quick else [1, 6, 36]))
    options.rounds = options.rounds or (2 if options.quick else 3)
    options.loss_rows = options.loss_rows or options.rows
    if options.rows % options.prompts or options.loss_rows % options.prompts:
        parser.error("--rows and --loss-rows must be multiples of --prompts")
    with tempfile.TemporaryDirectory() as folder:
        with Worker("core_ours", options.python, own=True, threads=options.threads) as maker:
            names = ("rows", "context", "model", "layer", "quick")
            made = maker.call("make", folder=folder, **{name: getattr(options, name) for name in names}).result
            for latents in options.latents:
                maker.call("make_saes", folder=folder, latents=latents, count=max(options.saes), rows=options.rows)
        for latents in options.latents:
            with ExitStack() as stack:
                ours, peer = both(options, stack)
                where = {name: made[name] for name in ("model", "hook")}
                where |= {"folder": folder, "latents": latents, "rows": options.rows}
                ours.call("load", **where)
                peer.call("load", **where, k=32)
                tokens = f"{options.rows} x {options.context} tokens, losses on {options.loss_rows} rows"
                print(f"\n### {latents:,} latents, {made['hook']}, {tokens}")
                Comparison(options, ours, peer).print()
                print("\n" + same_latents(ours, peer, folder))
                rate = ours.call("bare", tokens=options.rows * options.context).result["rate"]
                print(f"\nThe bare product x @ W_enc runs at {plain(rate)} GFLOP/s.")
    print(harness.environment(options))


def both(options: argparse.Namespace, stack: ExitStack) -> tuple[Worker, Worker]:
    """A process of this repository and one of the peer."""
    ours = Worker("core_ours", options.python, own=True, threads=options.threads)
    peer = Worker("core_peer", options.peer_python, own=False, threads=options.threads)
    return stack.enter_context(ours), stack.enter_context(peer)


def same_latents(ours: Worker, peer: Worker, folder: str) -> str:
    """How many latents of the first SAE are active on one side only."""
    found = []
    for worker in (ours, peer):
        worker.call("entries", path=f"{folder}/entries.npy")
        found.append(np.load(f"{folder}/entries.npy"))
    differ = len(np.setxor1d(*found))
    return f"Entries of the first SAE that are active on one side only: {differ} of {len(found[0])}."


class Comparison:
    """Both contenders, loaded with SAEs of one width."""

    def __init__(self, options: argparse.Namespace, ours: Worker, peer: Worker) -> None:
        self.options, self.ours, self.peer = options, ours, peer

    def own(self, saes: int, tasks: str = ALL, *, memory: bool = False) -> Answer:
        """This repository on some SAEs; in two passes if losses are measured on fewer rows."""
        rows, fewer = self.options.rows, self.options.loss_rows
        passes = [(tasks, rows)]
        if fewer < rows and "loss_recovered" in tasks:
            others = ",".join(task for task in tasks.split(",") if task != "loss_recovered")
            passes = [("loss_recovered", fewer), (others, rows)]
        return self.ours.call("run", memory=memory, saes=saes, passes=passes)

    def theirs(self, saes: int, *, memory: bool = False) -> Answer:
        """The peer on some SAEs."""
        prompts, fewer = self.options.prompts, self.options.loss_rows
        return self.peer.call("run", memory=memory, saes=saes, prompts=prompts, loss_rows=fewer)

    def print(self) -> None:
        """All tables."""
        self.own(1)  # what libraries do once is not counted
        self.theirs(1)
        some = min(6, max(self.options.saes))
        memory = [answer.memory for answer in (self.own(some, memory=True), self.theirs(1, memory=True))]
        own, peer = self._times()
        head = ("SAEs", "this repository, CPU s", "peer, CPU s", "this repository is faster by: min / median / max")
        harness.head(*head, "sequences that passed, by part")
        most = self.options.peer_saes
        for saes, answers in own.items():
            seconds = [answer.cpu for answer in answers]
            work = ", ".join(f"{name} {n}" for name, n in _work(answers[0]).items())
            note = f" ({most} x {saes / most:g})" if saes > most else ""
            row(
                saes,
                plain(median(seconds)),
                plain(median(peer[saes])) + note,
                spread(ratios(peer[saes], seconds)),
                work,
            )
        added = [plain(found.added) for found in memory if found is not None]
        print(f"\nPeak of anonymous memory above what was loaded: this repository with {some} SAE(s) {added[0]} MiB, "
              f"the peer with one {added[1]} MiB.\n")  # fmt: skip
        self._added_task()
        self._digits()

    def _times(self) -> tuple[dict[int, list[Answer]], dict[int, list[float]]]:
        own: dict[int, list[Answer]] = {saes: [] for saes in self.options.saes}
        peer: dict[int, list[float]] = {saes: [] for saes in self.options.saes}
        for _ in range(self.options.rounds):
            run: dict[int, float] = {}
            for saes in self.options.saes:
                own[saes].append(self.own(saes))
                really = min(saes, self.options.peer_saes)
                if really not in run:
                    run[really] = self.theirs(really).cpu
                peer[saes].append(run[really] * saes / really)
        return own, peer

    def _added_task(self) -> None:
        """What sparsity adds to a run without it."""
        harness.head(
            "added to", "SAEs", "CPU s without", "with sparsity / without: min / median / max", "further sequences"
        )
        for tasks in ("reconstruction", "reconstruction,loss_recovered"):
            for saes in sorted({min(self.options.saes), min(6, max(self.options.saes))}):
                without, added, more = [], [], 0
                for _ in range(self.options.rounds):
                    a, b = self.own(saes, tasks), self.own(saes, tasks + ",sparsity")
                    without.append(a.cpu)
                    added.append(b.cpu)
                    more = sum(_work(b).values()) - sum(_work(a).values())
                row(tasks, saes, plain(median(without)), spread(ratios(added, without), 4), more)
        print()

    def _digits(self) -> None:
        """The figures of the first SAE."""
        own = self.own(1).result["figures"][0]
        printed = self.theirs(1).result["figures"][0]
        prompts, fewer = self.options.prompts, self.options.loss_rows
        mended = printed | self.peer.call("mended", sae=0, prompts=prompts, loss_rows=fewer).result
        harness.head(
            "figure", "this repository", "peer, printed", "peer, mended", "five digits agree", "why not as printed"
        )
        for theirs, name, why in FIGURES:
            value = _own(own, name)
            same = _alike(value, mended[theirs])
            as_printed = _alike(value, printed[theirs])
            row(
                f"{theirs} ({name})",
                _shown(value),
                _shown(printed[theirs]),
                "" if as_printed else _shown(mended[theirs]),
                "yes" if as_printed else "yes, once mended" if same else "NO",
                "" if as_printed else why or "unexplained",
            )


def _work(answer: Answer) -> dict[str, int]:
    """Sequences that went through the parts of the model and through SAEs."""
    kinds = ("prefix", "suffix", "encode", "decode", "full")
    counters: dict[str, int] = answer.result["counters"]
    named = {name: n for name, n in counters.items() if any(kind in name.split("_") for kind in kinds)}
    return {name: n for name, n in named.items() if not name.endswith("_tokens")}


def _own(figures: dict[str, Any], name: str) -> float | None:
    """This repository's figure, or what follows from its figures."""
    if name == "kl_zero":  # not printed: from what is
        kl, recovered = figures["kl"], figures["kl_recovered_zero"]
        return None if kl is None or recovered is None else float(kl / (1 - recovered))
    if name.startswith("1-"):
        value = figures[name[2:]]
        return None if value is None else 1 - float(value)
    value = figures[name]
    return None if value is None else float(value)


def _alike(a: float | None, b: float) -> bool:
    return a is not None and abs(a - b) <= ALIKE * abs(b)


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


if __name__ == "__main__":
    main()
