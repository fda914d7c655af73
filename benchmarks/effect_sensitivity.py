"""How the sparsity of downstream effects moves with the choices that the definition leaves open.

``python benchmarks/effect_sensitivity.py --sae demo`` (or ``--sae DIR --model DIR --data FILE``) prints a Markdown
table: a row a variant of one choice, all others as the task declares them. Columns: the SAE's figure of the ablated
token with its interval, by how much it is sparser than random directions, row by row, with its interval, random
directions and all residual channels ablated in the same way, the SAE's joint figure over all tokens and that of random
directions, how large the effects are, and how many could not be told from rounding. Below it: the spread over seeds of
the first and the joint figure, and what another bootstrap unit would give.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sae_bench import evaluate
from sae_bench.metrics.downstream_sparsity import token_share
from sae_bench.results import store
from sae_bench.schema import MetricValue, Result
from sae_bench.units import Units
from sae_bench.units.bootstrap import estimate

TASK = "downstream_sparsity"
TOKEN, JOINT = "effect_sparsity_token", "effect_sparsity"
VARIANTS: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("as declared: 16 tokens, 4 positions, 4 latents", {}, {}),
    ("1 token (the ablated one)", {"horizon": 1}, {}),
    ("2 tokens", {"horizon": 2}, {}),
    ("4 tokens", {"horizon": 4}, {}),
    ("8 tokens", {"horizon": 8}, {}),
    ("32 tokens", {"horizon": 32}, {}),
    ("1 position a document", {"positions": 1}, {}),
    ("16 positions a document", {"positions": 16}, {}),
    ("1 latent a position", {"latents": 1}, {}),
    ("16 latents a position", {"latents": 16}, {}),
    ("the model runs on the reconstruction", {"base": "reconstruction"}, {}),
    ("no median taken off", {"centre": "none"}, {}),
    ("float64", {}, {"dtype": "float64"}),
    ("bfloat16", {}, {"dtype": "bfloat16"}),
    ("bfloat16, effects below noise scored as well", {"noise_factor": 0.0}, {"dtype": "bfloat16"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sae", default="demo")
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--tier", default="standard", choices=["smoke", "standard", "full"])
    parser.add_argument("--seeds", type=int, default=5, help="samples of documents, positions and latents")
    options = parser.parse_args()
    where = {"model": options.model, "data": options.data, "tier": options.tier}
    print("| variant | SAE | gain | random directions | all channels | joint: SAE | random | KL, nats | below noise |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, parameters, settings in VARIANTS:
        print(row(name, measured(options.sae, parameters, where | settings)), flush=True)
    seeds = [measured(options.sae, {}, where | {"seed": s}) for s in range(options.seeds)]
    for metric in (TOKEN, JOINT):
        found = [value(result, metric) for result in seeds]
        spread = f"{' '.join(f'{x:.4f}' for x in found)}; standard deviation {float(np.std(found, ddof=1)):.4f}"
        print(f"\n{metric}, seeds 0 to {options.seeds - 1}: {spread}.")
    widths(options.sae, where)


def measured(sae: str, parameters: dict[str, Any], settings: dict[str, Any], **more: Any) -> Result:
    named = {f"{TASK}.{name}": value for name, value in parameters.items()}
    return evaluate(sae, tasks=TASK, controls="none", parameters=named, **settings, **more)[0]


def value(result: Result, metric: str) -> float:
    found = result.metrics[metric].value
    return float("nan") if found is None else found


def row(name: str, result: Result) -> str:
    own = [shown(result.metrics[metric]) for metric in (TOKEN, f"{TOKEN}_gain")]
    beside = [known(result, label, TOKEN) for label in ("random_directions", "all_channels")]
    joint = result.metrics[JOINT].value
    joints = ["-" if joint is None else f"{joint:.3f}", known(result, "random_directions", JOINT)]
    rest = [f"{value(result, 'effect_kl'):.2g}", f"{100 * value(result, 'noise_fraction'):.1f} %"]
    return f"| {' | '.join([name, *own, *beside, *joints, *rest])} |"


def known(result: Result, label: str, metric: str) -> str:
    found = result.controls[label][metric].value
    return "-" if found is None else f"{found:.3f}"


def shown(metric: MetricValue) -> str:
    if metric.value is None:
        return "no value"
    return f"{metric.value:.4f}" + ("" if metric.low is None else f" [{metric.low:.4f}, {metric.high:.4f}]")


def widths(sae: str, where: dict[str, Any]) -> None:
    """Resample latents alone, documents alone, and both, as the task does."""
    with tempfile.TemporaryDirectory() as folder:
        result = measured(sae, {}, where, out=folder)
        rows = store.read_units(next(store.find(Path(folder))))["ablation"]
    parts = [unit.replace("@", ":").split(":") for unit in rows.ids]
    for unit, of_row in (("latents", [p[2] for p in parts]), ("documents", [p[0] for p in parts])):
        names, group = np.unique(of_row, return_inverse=True)
        sums = {name: np.bincount(group, rows.columns[name]) for name in ("token_share", "token_scored", "ablations")}
        show(f"{len(names)} {unit}", estimate(Units(tuple(map(str, names)), sums), token_share))
    show("both", result.metrics[TOKEN])
    print(f"torch {result.provenance.versions['torch']}, protocol {result.protocol[:8]}.")


def show(what: str, e: Any) -> None:
    print(f"{what} resampled: [{e.low:.4f}, {e.high:.4f}], standard error about {(e.high - e.low) / 3.92:.4f}.")


if __name__ == "__main__":
    main()
