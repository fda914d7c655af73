"""What every metric must be of SAEs whose quality is known: one table, and the runs that are held to it.

``LAWS`` has a row for every metric of every shipped task; a new metric needs one. The runs are on the demo model in
float64 with few documents, and each serves all metrics: what must not change a figure may change its last digits only.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_bench import Result, SparseCoder, demo, evaluate
from sae_bench.results import store
from sae_bench.saes.weights import Weights
from tests.builders.tiny_saes import coder_of, tiny_rule, tiny_weights

WIDTH = 128  # of the residual stream of the demo model
LATENTS = 48
NEVER = -1e6  # a bias of the encoder with which no latent ever fires

RANDOM, PERMUTED, SCALED = "random", "permuted", "scaled"
PERFECT, MEAN, DEAD = "perfect", "mean-only", "all dead"


@dataclass(frozen=True)
class Same:
    """Equal to another metric of the same result."""

    metric: str


Must = float | Same | str
NULL = "null"  # no value, and the reason for it
FAILS = "fails"  # the task has no result of such an SAE, and says why
ANY = "any"  # what the definition in task.toml allows


@dataclass(frozen=True)
class Law:
    """What a metric must be of a perfect SAE, of one that always gives the mean, and of one without a live latent.

    ``scale``: whether it must stay when latents are measured in other units. ``of_model``: whether it is a figure of
    the language model alone, the same whatever the SAE. ``never``: whether it is null unless a parameter asks for it.
    """

    perfect: Must = ANY
    mean: Must = ANY
    dead: Must = ANY
    scale: bool = True
    of_model: bool = False
    never: bool = False


_OF_LIVE = Law(mean=FAILS, dead=FAILS)  # figures of single latents: without a live one there is nothing to measure
_TRIE = Law(mean=FAILS, dead=FAILS, never=True)
_CHANCE = Law(mean=0.5, dead=0.5)
_FREE = Law()

LAWS: dict[str, dict[str, Law]] = {
    "reconstruction": {
        "fvu": Law(0.0, 1.0, ANY),
        "fvu_rescaled": Law(0.0, 1.0, ANY),
        "top_tokens_variance": Law(of_model=True),
        "fvu_without_top_tokens": Law(0.0),
        "top_channels_variance": Law(of_model=True),
        "top_channels_energy": Law(of_model=True),
        "fvu_without_top_channels": Law(0.0, 1.0, ANY),
        "nmse": Law(0.0, ANY, 1.0),
        "mse": Law(0.0, ANY, ANY),
        "cosine": Law(1.0, ANY, NULL),
        "norm_ratio": Law(1.0, ANY, 0.0),
        "relative_reconstruction_bias": Law(1.0, 1.0, NULL),
        "first_fvu": Law(NULL, NULL, NULL),  # position 0 is the same token in every document: there is no variance
        "first_nmse": Law(0.0, ANY, 1.0),
        "first_mse": Law(0.0, ANY, ANY),
        "first_cosine": Law(1.0, ANY, NULL),
        "first_norm_ratio": Law(1.0, ANY, 0.0),
        "first_relative_reconstruction_bias": Law(1.0, ANY, NULL),
    },
    "sparsity": {
        "l0": Law(float(WIDTH), 0.0, 0.0),  # each channel or its negative
        "l1": Law(Same("l1_contribution"), 0.0, 0.0, scale=False),  # directions of norm 1
        "l1_contribution": Law(Same("l1"), 0.0, 0.0),
        "dead_fraction": Law(0.0, 1.0, 1.0),
        "dense_fraction_1pct": Law(ANY, 0.0, 0.0),
        "dense_fraction_10pct": Law(ANY, 0.0, 0.0),
        "dense_contribution_1pct": Law(ANY, NULL, NULL),
        "dense_contribution_10pct": Law(ANY, NULL, NULL),
    },
    "loss_recovered": {
        "ce_clean": Law(of_model=True),
        "ce_zero": Law(of_model=True),
        "ce_mean": Law(of_model=True),
        "ce_spliced": Law(Same("ce_clean"), Same("ce_mean"), Same("ce_zero")),
        "delta_ce": Law(0.0),
        "loss_recovered_zero": Law(1.0, ANY, 0.0),
        "loss_recovered_mean": Law(1.0, 0.0, ANY),
        "kl": Law(0.0),
        "kl_recovered_zero": Law(1.0, ANY, 0.0),
        "kl_recovered_mean": Law(1.0, 0.0, ANY),
        "perplexity_difference": Law(0.0),
    },
    "probe_recovery": {
        "probe_loss": _FREE,
        "probe_r": _FREE,
        "probe_auroc": _CHANCE,
        "probe_f1": _FREE,
        "probe_write": _CHANCE,
        "probe_features": Law(mean=0.0, dead=0.0),
        "probe_share": _FREE,
        "probe_r_shuffled": _FREE,
        "probe_write_shuffled": _CHANCE,
    },
    "sparse_probing": {
        **{f"auroc_k{k}": _CHANCE for k in (1, 2, 5, 16)},
        **{f"accuracy_k{k}": _FREE for k in (1, 2, 5, 16)},
        **{f"share_k{k}": _FREE for k in (1, 2, 5, 16)},
    },
    "token_labels": {
        "label_f1": Law(mean=0.0, dead=0.0),
        "label_precision": Law(mean=NULL, dead=NULL),
        "label_recall": Law(mean=0.0, dead=0.0),
        "label_auprc": _FREE,
        "label_recall_p90": Law(mean=0.0, dead=0.0),
        "hierarchy_gap": Law(NULL, NULL, NULL),  # neither of the two sets lies inside the other
    },
    "downstream_sparsity": {
        **dict.fromkeys(("effect_sparsity_token", "effect_sparsity_token_gain", "effect_sparsity"), _OF_LIVE),
        **dict.fromkeys(("effect_kl", "noise_fraction"), _OF_LIVE),
    },
    "token_rules": {
        **dict.fromkeys(("rule_f1", "rule_precision", "rule_recall", "rule_auprc", "rule_mass"), _OF_LIVE),
        **dict.fromkeys(("rule_size", "rule_entropy", "rule_f1_null", "rule_base_rate"), _OF_LIVE),
        **dict.fromkeys(("trie_f1", "trie_precision", "trie_recall"), _TRIE),
    },
}
ELSEWHERE = {"autointerp"}  # a judge decides what comes out; test_autointerp.py holds it to judges of known accuracy
ON_LABELS = ("probe_recovery", "sparse_probing", "token_labels")  # units are labelled examples, not documents

_DOCUMENTS = "reconstruction,sparsity,loss_recovered"


def saes() -> dict[str, SparseCoder]:
    """SAEs of which the table says what must come out; the one that gives the mean needs it: see ``mean_only``."""
    w = tiny_weights("relu", d_in=WIDTH, n_latents=LATENTS, storage=torch.float64)
    draw = torch.Generator().manual_seed(7)
    order = torch.randperm(LATENTS, generator=draw)
    by = 2.0 ** torch.randint(-3, 4, (LATENTS,), generator=draw).double()  # powers of two round nothing
    assert w.b_enc is not None
    both = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double()
    zero = torch.zeros(WIDTH, dtype=torch.float64)
    made = {
        RANDOM: w,
        PERMUTED: Weights(w.W_enc[:, order], w.W_dec[order], w.b_dec, w.b_enc[order]),
        SCALED: Weights(w.W_enc * by, w.W_dec / by[:, None], w.b_dec, w.b_enc * by),
        PERFECT: Weights(both.T.contiguous(), both, zero, torch.zeros(2 * WIDTH, dtype=torch.float64)),
        DEAD: _silent(zero),
    }
    return {name: _coder(name, weights) for name, weights in made.items()}


def mean_only(mean: Tensor) -> SparseCoder:
    """No latent ever fires, and the reconstruction is always ``mean``."""
    return _coder(MEAN, _silent(mean))


def _silent(b_dec: Tensor) -> Weights:
    w = tiny_weights("relu", d_in=WIDTH, n_latents=LATENTS, storage=torch.float64)
    return Weights(w.W_enc, w.W_dec, b_dec, torch.full((LATENTS,), NEVER, dtype=torch.float64))


def _coder(name: str, weights: Weights) -> SparseCoder:
    rule, place = tiny_rule("relu", apply_b_dec_to_input=False), (demo.HOOK,)
    return coder_of(weights, rule, dtype=torch.float64, name=name, hooks_in=place, hooks_out=place)


@dataclass(frozen=True)
class Runs:
    """Results by name of the SAE and task."""

    whole: dict[tuple[str, str], Result]
    small_batches: dict[tuple[str, str], Result]
    one_document: dict[tuple[str, str], Result]


def measure(folder: Path) -> Runs:
    """All the runs that the table is held to; ``folder`` is empty."""
    made = saes()
    first = _run([*made.values()], _DOCUMENTS, limit=6, out=folder / "out")
    result = first[DEAD, "reconstruction"]
    file = store.path_of(folder / "out", result.sae, result.task, result.version, result.protocol)
    columns = store.read_units(file)["document"].columns
    mean = torch.from_numpy(np.asarray(columns["x"]).sum(0) / np.asarray(columns["tokens"]).sum())
    everything = {**made, MEAN: mean_only(mean)}

    whole = first | _run([everything[MEAN]], _DOCUMENTS, limit=6)
    small = _run([made[RANDOM]], _DOCUMENTS, limit=6, batch_tokens=64)
    one = _run([made[RANDOM]], _DOCUMENTS, limit=1)

    ablated = {f"downstream_sparsity.{name}": 2 for name in ("positions", "latents")} | {
        "downstream_sparsity.horizon": 8
    }
    fitted = {
        f"{task}.{name}": value
        for task in ("probe_recovery", "sparse_probing")
        for name, value in (("folds", 2), ("ceiling_strengths", [0.1]))
    }
    labelled = {
        "tier": "smoke",
        "probe_data": labelled_texts(folder / "labelled"),
        "parameters": fitted | {"sparse_probing.strengths": [0.1]},
    }
    ways: dict[str, dict[str, Any]] = {
        "downstream_sparsity": {"limit": 3, "parameters": ablated},
        "token_rules": {"limit": 12},
        ",".join(ON_LABELS): labelled,
    }
    for tasks, given in ways.items():
        whole |= _run([*everything.values()], tasks, **given)
        small |= _run([made[RANDOM]], tasks, batch_tokens=64, **given)
        if given is not labelled:
            one |= _run([made[RANDOM]], tasks, **(given | {"limit": 1}))
    return Runs(whole, small, one)


def _run(coders: list[SparseCoder], tasks: str, **given: Any) -> dict[tuple[str, str], Result]:
    settings: dict[str, Any] = {"model": "demo", "data": "demo", "dtype": "float64", "mean_from": "evaluation"}
    settings |= {"controls": "none", "resamples": 20, "context": 48}
    return {(r.sae.name, r.task): r for r in evaluate(coders, tasks=tasks, **(settings | given))}


def labelled_texts(folder: Path) -> Path:
    """Two small labelled sets of demo texts, with where in them the labels are."""
    texts = list({d.text: d for d in demo.documents(120, seed=3)}.values())
    for attribute in ("language_en", "contains_number"):
        rows_of = {has: [d for d in texts if d.attributes[attribute] == has][:20] for has in (True, False)}
        has, lacks = (
            [(d.text, int(y), [(s.start, s.end) for s in d.spans if s.attribute == attribute]) for d in found]
            for y, found in rows_of.items()
        )
        (folder / attribute).mkdir(parents=True)
        for part, rows in (("train", has[:12] + lacks[:12]), ("test", has[12:] + lacks[12:])):
            with (folder / attribute / f"{part}.csv").open("w", newline="", encoding="utf-8") as lines:
                cells = [(text, label, json.dumps(spans)) for text, label, spans in rows]
                csv.writer(lines).writerows([("text", "label", "spans"), *cells])
    return folder
