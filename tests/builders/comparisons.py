"""Pairs of results with tables of units, for comparisons."""

from __future__ import annotations

import hashlib

import numpy as np

from sae_bench import registry
from sae_bench.metrics import metrics_of
from sae_bench.results import store
from sae_bench.schema import MetricValue
from sae_bench.units import Units
from sae_bench.units.bootstrap import quotient
from sae_bench.units.kinds import kind
from tests.builders.results import result as bare


def save(folder, task, tables, metrics, name="a", sha=None, units=True, **protocol):
    """Write a result whose figures are what its units give; returns its file."""
    spec = registry.tasks()[task]
    values = {}
    for metric in metrics:
        one, table = spec.metrics[metric], tables[spec.metrics[metric].table]
        function, of = metrics_of(spec)[metric], kind(one.table)
        value = float(quotient(of.point(of.totals(table), function))[0])
        values[metric] = MetricValue(value=value, low=None, high=None, unit=one.unit, better=one.better, n_units=9)
    sha = sha or hashlib.sha256(name.encode()).hexdigest()
    return store.write(folder, bare(name, sha, values, task=task, **protocol), tables if units else {})


def frame(ids, **columns):
    return Units(tuple(ids), {key: np.asarray(c, dtype=float) for key, c in columns.items()})


def documents(rng, n, errors, tag):
    """The table of reconstruction for some SAEs: documents of unequal length and difficulty, and noise of each SAE."""
    tokens = rng.integers(20, 200, n).astype(float)
    hard = rng.lognormal(0, 0.5, n)
    return [
        frame([f"{tag}{i}" for i in range(n)], error=tokens * hard * rng.lognormal(np.log(e), 0.3, n), energy=tokens)
        for e in errors
    ]


def examples(rng, tag, n_sets=20, size=12, shift=0.0):
    """Two SAEs on labelled sets: sets differ in level, and each SAE has its own noise by set and by example."""
    ids = [f"s{i}@{tag}:{tag}t{i}-{j}" for i in range(n_sets) for j in range(size)]
    level = np.repeat(rng.normal(0.5, 0.2, n_sets), size)
    tables = []
    for add in (0.0, shift):
        own = np.repeat(rng.normal(0, 0.05, n_sets), size) + rng.normal(0, 0.1, len(ids))
        tables.append({"example": frame(ids, examples=np.ones(len(ids)), loss=level + own + add)})
    return tables


HOSTILE = "a|b `x` <img src=x onerror=alert(1)> [l](http://e.example) @someone\n| row |\x1b[31m"
