"""Encode, select and decode of wide SAEs: this repository against the dense paths of sae-bench 0.6.0 and sae-lens.

``python benchmarks/wide.py`` prints a Markdown table a size and activation function; ``--quick`` takes 8k and 32k
latents. ``--only 131072`` takes the sizes of so many latents. All contenders read one file of float32 weights, the
same activations, and compute in float32. Reported: CPU time of the process, as ratios within one round (minimum /
median / maximum over 9 rounds, 5 from one million latents on), and the peak of anonymous memory above what the process
held before (the weights, for who copies them). The bare product is ``x @ W_enc`` into memory that is there already; the
share says how much of an encode's time that takes. It stops if the contenders do not select the same latents: entries
may differ only where two candidates are nearer than float32 can tell. Needs ``benchmarks/peers.sh`` first; writes up to
5 GB below TMPDIR, and takes about 13 GB of memory for the dense peers at one million latents.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import NamedTuple

import harness
import numpy as np
from harness import Answer, Worker, plain, ratios, row, spread

OURS, SAE_BENCH, SAE_LENS = "this repository", "sae-bench", "sae-lens"
SHORT = "the same, certified bfloat16"  # --select-in bfloat16
WARM_UP = 4  # tokens of a first call: it loads what libraries load late and maps all weights


class Case(NamedTuple):
    activation: str
    latents: int
    width: int
    tokens: int


CASES = [
    Case("topk", 1 << 13, 768, 256),
    Case("topk", 1 << 15, 768, 256),
    Case("topk", 1 << 17, 768, 256),
    Case("topk", 1 << 17, 768, 2048),
    Case("topk", 1 << 20, 512, 256),
    Case("jumprelu", 1 << 15, 768, 256),
    Case("jumprelu", 1 << 17, 768, 256),
]
QUICK = [case for case in CASES if case.latents <= 1 << 15]


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--only", type=int, nargs="+", metavar="LATENTS", help="only the sizes of so many latents")
    options = parser.parse_args()
    for case in QUICK if options.quick else CASES:
        if options.only and case.latents not in options.only:
            continue
        rounds = options.rounds or (2 if options.quick else 9 if case.latents < 1 << 20 else 5)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            workers = {name: stack.enter_context(worker) for name, worker in contenders(options, case).items()}
            compare(case, workers, folder, rounds)
    print(harness.environment(options))


def contenders(options: object, case: Case) -> dict[str, Worker]:
    """A process each."""
    own, peer, threads = (getattr(options, name) for name in ("python", "peer_python", "threads"))
    short = {SHORT: Worker("wide_ours", own, own=True, threads=threads)}
    return {
        OURS: Worker("wide_ours", own, own=True, threads=threads),
        **(short if case.activation == "topk" and case.latents > 1 << 14 else {}),
        SAE_BENCH: Worker("wide_peers", peer, own=False, threads=threads),
        SAE_LENS: Worker("wide_peers", peer, own=False, threads=threads),
    }


def loaded(workers: dict[str, Worker], folder: str) -> dict[str, tuple[float, float]]:
    """CPU seconds that loading took, and MiB of anonymous memory that it left, for every contender."""
    found = {}
    for name, worker in workers.items():
        given = {OURS: {}, SHORT: {"select_in": "bfloat16"}}.get(name, {"package": name.replace("-", "_")})
        before = worker.resident()
        answer = worker.call("load", folder=folder, **given)
        worker.call("run", tokens=WARM_UP)
        found[name] = answer.cpu, worker.resident() - before
    return found


def compare(case: Case, workers: dict[str, Worker], folder: str, rounds: int) -> None:
    """The table of one case."""
    data = Path(folder) / "data"
    shape = {"latents": case.latents, "width": case.width, "tokens": case.tokens}
    workers[OURS].call("make", folder=str(data), activation=case.activation, **shape)
    load = loaded(workers, str(data))
    memory = {name: worker.call("run", memory=True, tokens=case.tokens).memory for name, worker in workers.items()}
    agreement = same_latents(workers, folder, case)
    repeats = max(1, min(8, (1 << 25) // (case.latents * case.tokens)))
    found: dict[str, list[Answer]] = {name: [] for name in workers}
    bare: list[float] = []
    for _ in range(rounds):
        for name, worker in workers.items():
            found[name].append(worker.call("run", tokens=case.tokens, repeats=repeats))
        bare.append(workers[OURS].call("bare", tokens=case.tokens, repeats=repeats).part("product"))
    print(
        f"\n**{case.activation}, {case.latents:,} latents, d {case.width}, {case.tokens} tokens** ({rounds} rounds)\n"
    )
    harness.head(
        "",
        "encode, ms",
        "decode, ms",
        "this repository is faster by: min / median / max",
        "MiB beside the weights",
        "MiB after loading",
        "CPU s to load",
        "share of the bare product in encode",
    )
    whole = {name: [a.part("encode") + a.part("decode") for a in answers] for name, answers in found.items()}
    for name, answers in found.items():
        encode = [answer.part("encode") for answer in answers]
        took = memory[name]
        assert took is not None
        row(
            name,
            *(plain(1e3 / repeats * median(a.part(part) for a in answers)) for part in ("encode", "decode")),
            "" if name == OURS else spread(ratios(whole[name], whole[OURS])),
            plain(took.added),
            plain(load[name][1]),
            plain(load[name][0]),
            spread(ratios(bare, encode)),
        )
    print(f"\n{agreement}")


def same_latents(workers: dict[str, Worker], folder: str, case: Case) -> str:
    """Compare the latents that contenders select; raises SystemExit where more than rounding differs."""
    made = {}
    active = 0.0
    for name, worker in workers.items():
        path = f"{folder}/{name.replace(' ', '_')}.npz"
        active = worker.call("save", path=path, tokens=case.tokens).result["active"]
        with np.load(path) as arrays:
            made[name] = {key: arrays[key] for key in arrays.files}
    own, lines = made[OURS], []
    for name in [name for name in workers if name != OURS]:
        other = made[name]
        common, at, there = np.intersect1d(own["entries"], other["entries"], return_indices=True)
        odd = max(len(own["entries"]), len(other["entries"])) - len(common)
        scale = float(np.abs(own["values"]).max())
        if not _within_rounding(own, other, case, 1e-5 * scale):
            raise SystemExit(f"{name} selects other latents than this repository: {odd} entries differ")
        value = float(np.abs(own["values"][at] - other["values"][there]).max()) / scale
        whole = float(np.linalg.norm(own["reconstruction"] - other["reconstruction"]))
        whole /= float(np.linalg.norm(own["reconstruction"]))
        entries = f"{odd} of {len(own['entries'])} entries differ"
        lines.append(f"{name}: {entries}, values by {value:.0e}, reconstruction by {whole:.0e}")
    return f"{active:.1f} active latents a token. Against " + "; ".join(lines) + " (relative)."


def _within_rounding(own: dict[str, np.ndarray], other: dict[str, np.ndarray], case: Case, least: float) -> bool:
    """Whether entries that only one of both has are the smallest of their tokens, by less than ``least``."""
    for one, two in ((own, other), (other, own)):
        lacking = ~np.isin(one["entries"], two["entries"])
        for token in np.unique(one["entries"][lacking] // case.latents):
            values = one["values"][one["entries"] // case.latents == token]
            kept = one["values"][lacking & (one["entries"] // case.latents == token)]
            if case.activation == "topk" and kept.max() - values.min() > least:
                return False
            if case.activation == "jumprelu" and len(kept) > 1:  # thresholds differ: one latent on the edge, no more
                return False
    return True


if __name__ == "__main__":
    main()
