"""Encode, select and decode on a GPU: its share of the card's matrix product, and the ratio to the dense bfloat16 path.

``python benchmarks/gpu.py`` prints a Markdown table a case: TopK, JumpReLU and Gated SAEs (``--only topk`` takes those
of one kind, ``--latents 65536`` those of one width), d = 2304, 64 latents active, random unit directions, activations
that are sums of 64 of them and noise. ``--json FILE`` writes all seconds, so that several calls can share the cases.
Contenders take turns in one process; a ratio compares two of them within one round (minimum / median / maximum over 9).
The share is how much of an encode's time the bare product ``x @ W_enc`` would take, in bfloat16 and in float32 (TF32 is
off). "Host" keeps both matrices in host memory; "waiting" is the path on which the host reads what was found
(``LinearCoder(waits=True)``). Memory is what a call allocates on the device at its peak. It stops unless exact and
certified selection find the same latents, and the whole product those but for near ties. ``--quick`` is small and
``--device cpu`` needs no GPU: together they check that the benchmark runs.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from harness import head, plain, ratios, row, spread
from torch import Tensor

from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights

DENSE = "dense bfloat16 (relu, topk, scatter, product)"
MOST_APART = 1e-3  # share of entries that near ties may exchange


class Case(NamedTuple):
    tokens: int
    width: int
    latents: int
    k: int
    activation: str = "topk"


CASES = [
    Case(4096, 2304, 65_536, 64),
    Case(16_384, 2304, 65_536, 64),
    Case(16_384, 2304, 32_768, 64),
    Case(8192, 2304, 262_144, 64),
    Case(2048, 2304, 1 << 20, 64),
    *(Case(16_384, 2304, n, 64, kind) for kind in ("jumprelu", "gated") for n in (65_536, 262_144)),
]
QUICK = [Case(256, 128, 20_000, 16), Case(256, 128, 20_000, 16, "jumprelu"), Case(256, 128, 20_000, 16, "gated")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, two rounds: a check, no measurement")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu (default cuda)")
    parser.add_argument("--rounds", type=int, help="rounds to time (default 9, with --quick 2)")
    parser.add_argument("--only", choices=["topk", "jumprelu", "gated"], help="the cases of one activation function")
    parser.add_argument("--latents", type=int, help="the cases of so many latents")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write cases and seconds there")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU that PyTorch can use; --device cpu --quick checks that the benchmark runs")
    torch.set_float32_matmul_precision("highest")
    found = []
    for case in QUICK if options.quick else CASES:
        if options.only in (None, case.activation) and options.latents in (None, case.latents):
            seconds = measure(case, device, options.rounds or (2 if options.quick else 9))
            found.append({"case": case._asdict(), "seconds": seconds})
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"\n{time.strftime('%Y-%m-%d')}, {name}, torch {torch.__version__}.")
    if options.json is not None:
        said = {"date": time.strftime("%Y-%m-%d"), "device": name, "torch": torch.__version__, "cases": found}
        options.json.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


def measure(case: Case, device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds of all contenders on one case, after a table of them."""
    sae, x = made(case, device)
    ways = contenders(case, sae, x)
    for way in ways.values():
        clocked(way, device)
    memory = {name: peak(way, device) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name].append(clocked(way, device))
    tokens = f"{case.activation}, {case.tokens:,} tokens, d {case.width}, {case.latents:,} latents, k {case.k}"
    print(f"\n**{tokens}** ({rounds} rounds)\n")
    head("", "ms", "share of the bfloat16 product", "of the float32 product", f"faster than {DENSE}", "MiB at the peak")
    short, full = (seconds[f"x @ W_enc in {kind}"] for kind in ("bfloat16", "float32"))
    dense = seconds[f"{DENSE}: encode and decode"]
    for name, own in seconds.items():
        encodes = name.endswith("encode")
        row(
            name,
            plain(1e3 * median(own)),
            spread(ratios(short, own)) if encodes else "",
            spread(ratios(full, own)) if encodes else "",
            spread(ratios(dense, own)) if name.endswith("decode") else "",
            "-" if memory[name] is None else plain(memory[name] / 2**20),
        )
    print("\n" + alike(case, sae, x))
    return seconds


def made(case: Case, device: torch.device) -> tuple[Weights, Tensor]:
    """Weights on the device, and activations ``[tokens, width]``."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(case.latents, case.width, generator=generator), dim=1)
    active = torch.randint(case.latents, (case.tokens, case.k), generator=generator)
    sizes = torch.randn(case.tokens, case.k, generator=generator).mul_(0.3).add_(0.8).exp_()
    x = torch.nn.functional.embedding_bag(active, directions, per_sample_weights=sizes, mode="sum")
    x += 0.05 * torch.randn(x.shape, generator=generator)
    b_enc = 0.02 * torch.randn(case.latents, generator=generator)
    own = {"W_enc": directions.T.contiguous(), "W_dec": directions, "b_dec": torch.zeros(case.width), "b_enc": b_enc}
    if case.activation != "topk":  # about as many latents are active as TopK keeps
        threshold = float((x[:64] @ own["W_enc"] + b_enc).topk(case.k, dim=1).values[:, -1].mean())
        own["threshold"] = torch.full((case.latents,), threshold)
    if case.activation == "gated":
        own |= {"b_gate": b_enc - own.pop("threshold"), "b_mag": own.pop("b_enc"), "r_mag": torch.zeros(case.latents)}
    return Weights(**own).to(device), x.to(device)


def coder(case: Case, weights: Weights, select_in: str = "exact", waits: bool | None = None) -> LinearCoder:
    info = CoderInfo("sae", case.latents, case.width, case.width, ("hook",), ("hook",))
    rule = Nonlinearity(case.activation, k=case.k if case.activation == "topk" else None)  # type: ignore[arg-type]
    return LinearCoder(info, weights, rule, select_in=select_in, waits=waits)  # type: ignore[arg-type]


def contenders(case: Case, weights: Weights, x: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    short = {name: tensor.bfloat16() for name, tensor in weights.items()}
    x16 = x.bfloat16()
    products = {x.dtype: x.new_empty(case.tokens, case.latents), x16.dtype: x16.new_empty(case.tokens, case.latents)}
    ways: dict[str, Callable[[], object]] = {
        "x @ W_enc in bfloat16": lambda: torch.mm(x16, short["W_enc"], out=products[x16.dtype]),
        "x @ W_enc in float32": lambda: torch.mm(x, weights.W_enc, out=products[x.dtype]),
        f"{DENSE}: encode": lambda: dense(case, x16, short),
        f"{DENSE}: encode and decode": lambda: dense(case, x16, short) @ short["W_dec"] + short["b_dec"],
    }
    places: dict[str, tuple[Weights, bool | None]] = {"": (weights, None)}
    if x.device.type != "cpu":
        places[", waiting"] = weights, True
        host = {name: t.cpu() if name in ("W_enc", "W_dec") else t for name, t in weights.items()}
        places[", host"] = Weights(**host), None
    for place, (held, waits) in places.items():
        for select_in in ("exact", "bfloat16") if case.activation == "topk" else ("exact",):
            own = coder(case, held, select_in, waits)
            name = f"this repository, {select_in}{place}"
            ways[f"{name}: encode"] = lambda own=own: own.encode(x)  # type: ignore[misc]
            ways[f"{name}: encode and decode"] = lambda own=own: own.decode(own.encode(x))  # type: ignore[misc]
    return ways


def dense(case: Case, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Latents ``[tokens, n_latents]``, as SAEs are usually written."""
    if case.activation == "gated":
        pre = x @ w["W_enc"]
        return (pre * w["r_mag"].exp() + w["b_mag"]).relu_() * (pre + w["b_gate"] > 0)
    pre = torch.addmm(w["b_enc"], x, w["W_enc"])
    if case.activation == "jumprelu":
        return pre * (pre > w["threshold"])
    values, indices = pre.relu_().topk(case.k, dim=1)
    return torch.zeros(len(x), w["W_enc"].shape[1], dtype=x.dtype, device=x.device).scatter_(1, indices, values)


def alike(case: Case, weights: Weights, x: Tensor) -> str:
    """What the ways select, as a sentence. Stops if they differ by more than near ties."""
    if case.activation != "topk":
        return alike_above_thresholds(case, weights, x)
    exact = coder(case, weights).encode(x)
    fast_coder = coder(case, weights, "bfloat16")
    fast = fast_coder.encode(x)
    pre = torch.cat([rows @ weights.W_enc + weights.b_enc for rows in x.split(1024)])
    plain_topk = torch.zeros_like(pre, dtype=torch.bool).scatter_(1, pre.topk(case.k, dim=1).indices, True)
    plain_topk &= pre > 0
    found = torch.zeros_like(plain_topk)
    found[exact.token_of_entry(), exact.indices] = True
    by_ties = int((found != plain_topk).sum())
    found[fast.token_of_entry(), fast.indices] ^= True
    by_certificate = int(found.sum())
    n = len(exact.indices)
    if by_certificate or by_ties > MOST_APART * n:
        raise SystemExit(f"not the same latents: {by_ties} and {by_certificate} of {n:,} differ")
    return (
        f"Of {n:,} entries {by_ties} differ between exact selection and torch.topk, 0 between exact and certified "
        f"selection, which left {fast_coder.uncertified} of {case.tokens:,} tokens to the exact path."
    )


def alike_above_thresholds(case: Case, weights: Weights, x: Tensor) -> str:
    """The same for JumpReLU and Gated, of which the float32 product says what is active."""
    codes, w, differ = coder(case, weights).encode(x), dict(weights.items()), 0
    start = 0
    for rows in x.split(1024):
        active = dense(case, rows, w) > 0
        part = slice(int(codes.indptr[start]), int(codes.indptr[start + len(rows)]))
        active[codes.token_of_entry()[part] - start, codes.indices[part]] ^= True
        differ, start = differ + int(active.sum()), start + len(rows)
    n = len(codes.indices)
    if differ > MOST_APART * n:
        raise SystemExit(f"not the same latents: {differ} of {n:,} differ")
    return f"Of {n:,} entries {differ} differ from those of the whole product."


def clocked(way: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call: of the clock on a GPU, of the processor on a CPU."""
    if device.type == "cpu":
        start = time.process_time()
        way()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    way()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak(way: Callable[[], object], device: torch.device) -> float | None:
    """Bytes that a call allocates on the device beyond what was there; unknown on a CPU."""
    if device.type == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    way()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - before)


if __name__ == "__main__":
    with torch.no_grad():
        main()
