"""``sae-bench inspect``: what an SAE is, what was assumed, and whether it keeps the contract."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import Any


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "inspect",
        help="say what an SAE is and whether it keeps the contract",
        description="Load an SAE without a language model, say what was found, and run the conformance test on it.",
    )
    p.set_defaults(function=run)
    p.add_argument("sae", metavar="SAE", help="folder, demo/NAME, or module:factory")
    p.add_argument("--hook-in", metavar="HOOK", help="hook point that the SAE reads")
    p.add_argument("--hook-out", metavar="HOOK", help="hook point that the SAE predicts")
    p.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if the contract is broken."""
    from sae_bench.board.tables import printable
    from sae_bench.saes.load import expand, load_sae
    from sae_bench.saes.reading import Told

    told = Told(hook_in=args.hook_in, hook_out=args.hook_out)
    reports = [_report(load_sae(source, told=told)) for source in expand([args.sae])]
    if args.json:
        print(json.dumps({"saes": reports}, indent=1, ensure_ascii=False, default=str))
    else:
        for report in reports:
            for name, value in report.items():
                if isinstance(value, dict):
                    value = json.dumps(value, ensure_ascii=False, default=str)
                elif isinstance(value, list | tuple):
                    value = ", ".join(map(str, value)) or "none"
                print(printable(f"{name.replace('_', ' ') + ':':<20} {value}"))
            print()
    broken = [r["name"] for r in reports if r["breaks_the_contract"]]
    if broken:
        print(printable(f"sae-bench: {', '.join(broken)} cannot be evaluated as it is"), file=sys.stderr)
    return 1 if broken else 0


def _report(coder: Any) -> dict[str, Any]:
    import torch

    from sae_bench.engine.batch import CoderFailure, Entry, guarded
    from sae_bench.saes.conformance import check

    info = coder.info
    x = torch.randn(16, info.d_in, generator=torch.Generator().manual_seed(0)) * 3
    entry = Entry(info.name, info.name, coder)
    try:
        problems = guarded(entry, lambda: check(coder, x))
        codes = guarded(entry, lambda: coder.encode(x))
        l0: float | None = len(codes.indices) / len(x)
    except CoderFailure as failure:
        problems, l0 = [str(failure)], None
    found = {name: value for name, value in dataclasses.asdict(info).items() if value is not None}
    return {**found, "l0_on_gaussian_noise": l0, "breaks_the_contract": problems}
