"""``sae-bench inspect``: what an SAE is, what was assumed, whether it keeps the contract, and a preflight."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any

from sae_bench.cli import flags
from sae_bench.cli.exits import Exit
from sae_bench.cli.saes import SAE_HELP
from sae_bench.errors import UsageError
from sae_bench.settings import TOLD, Settings, Told

TOKENS = 512
TEXT = ("model", "data", "text_field", "split", "context", "bos", "mask", "backend", "device", "dtype")
SAID = {  # where help of a preflight says something else than that of a run
    "model": "folder of a saved model, hub id, or demo (default: the SAE's own, if it is the demo's or a folder); "
    "gives an SAE of your own code its width",
    "data": "text or token ids, as for run (default for the demo model: demo)",
    "context": "tokens of a sequence at most (default: the SAE's)",
    "mask": "tokens that a run leaves out: BOS, EOS and whatever stands at position 0; position 0 alone; none",
    "dtype": "of the language model; auto: float32",
}


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "inspect",
        help="say what an SAE is, and whether it is evaluated as it was trained",
        description="Say what was found in the files of an SAE and whether it keeps the contract. With a language "
        "model, also measure it on a few hundred tokens as it is and as if each of the usual mistakes had been made "
        "(hook point, BOS, b_dec, scale, normalisation, threshold, k, decoder norms, ...), and report the likely "
        "cause if one explains the SAE clearly better. Nothing is changed or written. Exit code 1: the contract is "
        "broken, or a cause is likely. '--threshold 0' prints the threshold for a BatchTopK SAE that stores none.",
    )
    p.set_defaults(function=run)
    p.add_argument("sae", metavar="SAE", nargs="+", help=SAE_HELP)
    flags.add(p.add_argument_group("what the files of the SAE leave open"), Told, TOLD)
    where = p.add_argument_group("preflight")
    flags.add(where, Settings, TEXT, SAID)
    where.add_argument("--tokens", type=int, default=TOKENS, metavar="N", help=f"tokens of text (default {TOKENS})")
    p.add_argument("--json", action="store_true", help="print JSON, with every number")


def run(args: argparse.Namespace) -> int:
    """Print what was found; exit code 1 if the contract is broken or a cause is likely."""
    if args.tokens < 32:
        raise UsageError(f"--tokens must be at least 32, but it is {args.tokens}")
    from sae_bench.show.text import json_text, printable

    reports = _reports(args)
    if args.json:
        print(json_text({"saes": [found for found, _ in reports]}, default=str))
    else:
        for found, preflight_lines in reports:
            print("\n".join(printable(line) for line in [*_described(found), *preflight_lines]) + "\n")
    broken = [str(found["name"]) for found, _ in reports if found["breaks_the_contract"]]
    if broken:
        print(printable(f"sae-bench: {', '.join(broken)} cannot be evaluated as it is"), file=sys.stderr)
    ill = [str(found["name"]) for found, _ in reports if (found["preflight"] or {}).get("healthy") is False]
    if ill:
        print(printable(f"sae-bench: {', '.join(ill)} may not be evaluated as trained"), file=sys.stderr)
    return Exit.FAILED if broken or ill else Exit.DONE


def _reports(args: argparse.Namespace) -> list[tuple[dict[str, Any], list[str]]]:
    """Of every SAE what was found as plain JSON, and the lines of its preflight."""
    from sae_bench.models.placement import device_name
    from sae_bench.preflight.load import Loader
    from sae_bench.saes.load import load_saes

    told = Told(**flags.given(args, Told))
    settings = Settings(**{name: value for name, value in flags.given(args, Settings).items() if name in TEXT})
    loader = Loader(settings, args.tokens)
    device = device_name(settings.device)
    found = []
    for _, coder in load_saes(args.sae, device=device, told=told):
        coder = loader.sized(coder)
        found.append(_with_preflight(coder, _described_record(coder, device), loader))
    return found


def _described_record(coder: Any, device: str) -> dict[str, Any]:
    """What an SAE says of itself, and whether it keeps the contract on noise."""
    import torch

    from sae_bench.engine.workspace import CoderFailure, Entry, guarded
    from sae_bench.saes.conformance import check

    info = coder.info
    x = torch.randn(16, info.d_in, generator=torch.Generator().manual_seed(0)).to(device) * 3
    entry = Entry(info.name, info.name, coder)
    try:
        problems = guarded(entry, lambda: check(coder, x))
        codes = guarded(entry, lambda: coder.encode(x))
        l0: float | None = len(codes.indices) / len(x)
    except CoderFailure as failure:
        problems, l0 = [str(failure)], None
    found = {name: value for name, value in dataclasses.asdict(info).items() if value is not None}
    return {**found, "l0_on_gaussian_noise": l0, "breaks_the_contract": problems, "preflight": None}


def _with_preflight(coder: Any, found: dict[str, Any], loader: Any) -> tuple[dict[str, Any], list[str]]:
    from sae_bench.engine.plan import entry_of
    from sae_bench.preflight import lines, preflight

    if (why := loader.why_not(coder.info)) is not None:
        return {**found, "not_measured": why}, [_line("not measured", why)]
    report = preflight(entry_of(coder), loader.activations(coder.info))
    problems = [*dict.fromkeys([*found["breaks_the_contract"], *report.broken])]
    return {**found, "breaks_the_contract": problems, "preflight": report.plain()}, lines(report)


def _described(found: Mapping[str, Any]) -> list[str]:
    """One line for every field; of the provenance too, and for every assumption and warning."""
    described = []
    for name, value in found.items():
        if name in ("provenance", "preflight", "not_measured"):
            continue
        described.append(
            _line(name, ", ".join(map(str, value)) or "none" if isinstance(value, list | tuple) else value)
        )
    for name, value in found["provenance"].items():
        if name in ("assumptions", "warnings"):
            described += [_line(name.removesuffix("s"), sentence) for sentence in value]
        elif isinstance(value, dict):
            described.append(_line(name, json.dumps(value, ensure_ascii=False, default=str)))
        else:
            described.append(_line(name, ", ".join(map(str, value)) if isinstance(value, list | tuple) else value))
    return described


def _line(name: str, value: Any) -> str:
    return f"{name.replace('_', ' ') + ':':<20} {value}"
