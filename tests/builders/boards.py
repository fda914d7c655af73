"""Results of a board, made by hand."""

import argparse
import sys
from pathlib import Path

import numpy as np

from sae_bench.board import collect, columns, layout
from sae_bench.cli import board as verb
from sae_bench.errors import SaeBenchError
from sae_bench.registry import data_folder, tasks
from sae_bench.results import store
from sae_bench.schema import MetricValue
from sae_bench.units import Units
from tests.builders.results import result

SNAPSHOTS = Path(__file__).parents[1] / "snapshots" / "board"


COLUMNS = data_folder("leaderboard") / "columns.toml"


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><script>alert(1)</script>",
    "\x1b[31mred\x1b[0m",
    "=HYPERLINK(1)",
    "a|b\n| c | `d` [e](javascript:alert(1)) @everyone https://evil.example #12 \\| www.evil.example",
    r"\input{/etc/passwd} $x$ & # ^ _ ~ % {",
    "{{ 7 * 7 }}{% raw %}\u2028\u202e",
]


def figure(task, metric, value, half=0.1):
    """A value with an interval of a share ``half`` of it to either side."""
    spec, margin = tasks()[task].metrics[metric], half * abs(value)
    return MetricValue(
        value=value, low=value - margin, high=value + margin, unit=spec.unit, better=spec.better, n_units=9
    )


def put(
    folder,
    name,
    task,
    values,
    *,
    sha=None,
    tables=None,
    architecture="topk",
    width=1024,
    details=None,
    suite=None,
    **changes,
):
    """Write a result with the given figures; returns its file."""
    metrics = {k: v if isinstance(v, MetricValue) else figure(task, k, v) for k, v in values.items()}
    one = result(
        name=name,
        sha=sha or name.encode().hex()[:64].ljust(64, "0"),
        task=task,
        metrics=metrics,
        details=details,
        **changes,
    )
    controls = {"mean": {k: figure(task, k, 1.0) for k in metrics}}
    sae = one.sae.model_copy(update={"architecture": architecture, "n_latents": width})
    return store.write(folder, one.model_copy(update={"sae": sae, "controls": controls, "suite": suite}), tables or {})


def measured(folder, name, l0, fvu):
    """Results of an SAE with units: FVU and, where it is known, L0."""
    ids = tuple(f"d{i}" for i in range(30))
    draw = np.random.default_rng(3).uniform(0.9, 1.1, 30)
    base = {"tokens": np.full(30, 10.0), "energy": 100 * draw, "x": np.zeros((30, 2)), "rounding": np.zeros(30)}
    columns = base | {"error": 100 * fvu * draw**2}
    value = float(columns["error"].sum() / columns["energy"].sum())
    put(folder, name, "reconstruction", {"fvu": value}, tables={"document": Units(ids, columns)})
    if l0 is not None:
        active = {"tokens": np.full(30, 10.0), "active": np.full(30, 10 * l0)}
        put(folder, name, "sparsity", {"l0": l0}, tables={"document": Units(ids, active)})
    return next(folder.glob(f"{name}*"))


def of_one_l0(folder, names, l0=32.0, **changes):
    """An L0 for each of some SAEs, so that they are ranked by their fidelity."""
    for name in names:
        put(folder, name, "sparsity", {"l0": l0}, **changes)


def small(folder):
    """Three SAEs at one hook point, of which two of about one L0 cannot be told apart in FVU, and one elsewhere."""
    for name, architecture, l0, fvu, delta in (
        ("lab/a_1", "topk", 32.0, 0.1, 0.05),
        ("lab/b_2", "jumprelu", 34.5, 0.11, 0.02),
        ("lab/c_3", "relu", 64.0, 0.5, 0.4),
    ):
        put(folder, name, "sparsity", {"l0": l0, "dead_fraction": 0.25}, architecture=architecture)
        put(folder, name, "reconstruction", {"fvu": fvu, "norm_ratio": 0.9}, architecture=architecture)
        put(folder, name, "loss_recovered", {"delta_ce": delta, "kl": 0.9 * delta}, architecture=architecture)
    place = {"hooks_in": ("blocks.1.hook_resid_post",), "hooks_out": ("blocks.1.hook_resid_post",)}
    put(folder, "lab/d_4", "reconstruction", {"fvu": 0.3}, width=4096, **place)
    return folder


def make(folder, *, models=None, metrics=None, everything=False):
    wanted = columns.read_columns(COLUMNS, tasks(), everything=everything)
    wanted = columns.chosen(wanted, metrics) if metrics else wanted
    return layout.make(collect.collect(folder, tasks()), wanted, models=models)


def main_board(folder, *more):
    """The verb, with the exit code that the command gives."""
    parser = argparse.ArgumentParser()
    verb.add(parser.add_subparsers())
    args = parser.parse_args(["board", str(folder), *more])
    try:
        return verb.run(args)
    except SaeBenchError as error:
        sys.stderr.write(f"sae-bench: {error}\n")
        return 2
