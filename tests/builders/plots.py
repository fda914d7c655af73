"""Results for figures: a sweep of thirty SAEs, and one over layers; made by hand."""

import math

import numpy as np

from sae_bench.registry import tasks
from sae_bench.results import store
from sae_bench.schema import MetricValue
from tests.builders import boards
from tests.builders.boards import figure
from tests.builders.comparisons import documents, save
from tests.builders.results import changed, result

ARCHITECTURES = ("batchtopk", "jumprelu", "relu", "topk", "matryoshka")
WORSE = {"batchtopk": 1.0, "jumprelu": 1.05, "relu": 1.9, "topk": 1.1, "matryoshka": 1.35}


def put(
    folder, name, task, values, *, architecture="topk", width=16384, controls=None, details=None, suite=None, **changes
):
    """Write a result with these figures (numbers get an interval) and controls; returns its file."""
    metrics = {k: v if isinstance(v, MetricValue) else figure(task, k, v, 0.04) for k, v in values.items()}
    sha = f"{name}{changes.get('hooks_in', '')}".encode().hex()[-64:].ljust(64, "0")
    one = result(name=name, sha=sha, task=task, metrics=metrics, details=details, **changes)
    sae = one.sae.model_copy(update={"architecture": architecture, "n_latents": width})
    made = {c: {k: figure(task, k, v) for k, v in own.items()} for c, own in (controls or {}).items()}
    return store.write(folder, one.model_copy(update={"sae": sae, "controls": made, "suite": suite}), {})


def bare(task, metric, value):
    """A figure without an interval."""
    spec = tasks()[task].metrics[metric]
    return MetricValue(
        value=value, low=None, high=None, unit=spec.unit, better=spec.better, n_units=9, no_interval="too few groups"
    )


def narrow(task, metric, value):
    """A figure whose interval is too narrow."""
    return figure(task, metric, value, 0.04).model_copy(update={"optimistic": "few groups (9)"})


def exact(task, metric, value):
    """A figure with an interval of next to nothing."""
    return figure(task, metric, value, 1e-4)


def measured(folder, errors, l0=32.0):
    """The folders of SAEs with units of reconstruction and an L0, by name and size of their error."""
    rng, folders = np.random.default_rng(0), []
    for i, (name, table) in enumerate(zip(errors, documents(rng, 60, errors.values(), "d"), strict=True)):
        sha = f"{i}" * 64
        file = save(folder / str(i), "reconstruction", {"document": table}, ["nmse"], name=name, sha=sha)
        changed(file, "controls", value={"mean": {"nmse": exact("reconstruction", "nmse", 1.0).model_dump()}})
        boards.put(folder / str(i), name, "sparsity", {"l0": l0}, sha=sha)
        folders.append(file.parent)
    return folders


def histogram(at, n=16384, dead=100):
    """Details of sparsity with latents around a log10 frequency."""
    edges = [-7 + 0.25 * i for i in range(29)]
    shares = [math.exp(-((edge + 0.125 - at) ** 2)) for edge in edges[:-1]]
    counts = [round((n - dead) * share / sum(shares)) for share in shares]
    return {"tokens": 10**7, "never_active": dead, "density_histogram": {"log10_edges": edges, "latents": counts},
            "dead_by_tokens": {"latents": n, "tokens": [1], "expected": [1.0], "at_twice": None}}  # fmt: skip


def thirty(folder, **changes):
    """Thirty SAEs of five architectures and six L0, with a control beside each."""
    for architecture in ARCHITECTURES:
        for i, k in enumerate((12, 20, 33, 52, 85, 140)):
            l0 = k * (1.0 if "topk" in architecture else 1.07)
            fvu = WORSE[architecture] * 0.9 / l0**0.45
            name, of = f"lab/sweep/{architecture}_k{k}", {"architecture": architecture, **changes}
            put(
                folder,
                name,
                "sparsity",
                {"l0": l0, "dead_fraction": 0.02 * (i + 1)},
                details=histogram(-2.8 - 0.2 * i),
                **of,
            )
            controls = {"mean": {"fvu": 1.0}, "random_fit": {"fvu": 2.4 / l0**0.4}, "identity": {"fvu": 0.0}}
            put(folder, name, "reconstruction", {"fvu": fvu}, controls=controls, **of)
            put(folder, name, "loss_recovered", {"kl": 0.8 * fvu**1.3, "delta_ce": 0.7 * fvu**1.3}, **of)
    return folder


def layers(folder, n=12, families=("topk", "jumprelu"), **changes):
    """An SAE of each of some architectures in every layer, and one control."""
    for architecture in families:
        for layer in range(n):
            hook = (f"blocks.{layer}.hook_resid_post",)
            fvu = WORSE[architecture] * (0.05 + 0.2 * math.sin(0.3 + layer / 5) ** 2)
            of = {"architecture": architecture, "hooks_in": hook, "hooks_out": hook, **changes}
            controls = {"random_fit": {"fvu": 0.3 + 0.01 * layer}}
            put(folder, f"lab/{architecture}/layer_{layer}", "reconstruction", {"fvu": fvu}, controls=controls, **of)
    return folder
