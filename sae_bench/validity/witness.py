"""The demo as a witness: SAEs of a trained language model, on text whose attributes the grammar has written down.

Truth is known of the encoder alone. *encoder* is how well latents fire where attributes hold: the F1 of every latent
with every attribute of the demo over the tokens of a large sample of documents, each attribute matched with one latent
of its own so that the sum is largest, and the mean over all attributes. Nothing but the labels that the grammar gives,
the tokenizer, the model and ``encode`` are used.

*decoder* and *both* are NaN. Which direction stands for an attribute in a model that was trained, nobody knows: the
difference of means between tokens with and without it would be a guess, since attributes come together (a letter has a
name, an equation numbers) and most are said by single words, so that the difference holds what else those tokens have
in common. And 1024 latents find much that is no attribute, so that an SAE's truth is far below 1 even if it is good.

A draw is another set of documents: the SAEs that ship and those that are made of them by a draw's noise stay what they
are, but the text on which truth is counted and that on which tasks are measured are others.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_bench import demo
from sae_bench.demo.world import Split
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import load_sae
from sae_bench.saes.protocol import SparseCoder
from sae_bench.saes.weights import Weights
from sae_bench.validity import sets
from sae_bench.validity.measure import Draw, Rung, run
from sae_bench.validity.truth import Truth, matched

NAME = "demo"
DRAWS = 2  # sets of documents; what is trained is the same in each
# What claims the encoder or fidelity: of features and decoders nothing is known here.
TASKS = "reconstruction,loss_recovered,token_labels"
OF = "topk_k32"  # the SAE of which those of known faults are made
UNTRAINED = "frozen_random"
CHECKPOINTS = (UNTRAINED, "topk_k32_undertrained", OF)
SEED_OF_TRAINING = 2  # of OF, in scripts/demo/make_saes.py
COUNTED, MEASURED, LABELLED = 100, 200, 300  # added to the seed of a draw: other documents
FITTED_ON = 20_000  # tokens
SPLITS: dict[str, Split] = {"train": "train", "test": "eval"}

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Size:
    """Documents on which truth is counted, documents that are measured, examples of a labelled set, resamples, tier."""

    counted: int
    documents: int
    sets: int
    examples: int
    resamples: int
    tier: str


WHOLE, QUICK = (
    Size(2000, 400, 24, 300, 1000, "standard"),
    Size(500, 96, 24, 120, 200, "smoke"),
)  # few attributes are another truth


@dataclass(frozen=True, eq=False)
class Census:
    """Tokens of documents: ``x`` ``[tokens, width]`` by hook point, and ``has`` ``[tokens, attributes]``; no BOS."""

    x: Mapping[str, Tensor]
    has: Flags


def measured(seed: int, *, quick: bool = False, tasks: str | None = None, task_dir: str | Path | None = None) -> Draw:
    """One draw: other documents for each ``seed``, of which there are :data:`DRAWS`. Raises SaeBenchError.

    ``tasks`` as in :class:`sae_bench.Settings`, by default :data:`TASKS`; ``task_dir`` a folder of other tasks.
    """
    size = QUICK if quick else WHOLE
    counted = census(demo.documents(size.counted, seed=COUNTED + seed))
    rungs = {name: Rung(name, coder, truth(coder, counted)) for name, coder in saes(seed, counted).items()}
    texts = [document.text for document in demo.documents(2 * size.documents, seed=MEASURED + seed)]
    with tempfile.TemporaryDirectory() as folder:
        labelled(Path(folder), seed, size)
        return run(
            NAME, seed, rungs, model="demo", data=texts, tasks=tasks or TASKS, task_dir=task_dir, probe_data=folder,
            limit=size.documents, resamples=size.resamples, tier=size.tier,
        )  # fmt: skip


@torch.no_grad()
def census(documents: list[demo.DemoDocument]) -> Census:
    """What every token of some documents has, and the activations at it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    found: dict[str, list[Tensor]] = {f"blocks.{block}.hook_resid_post": [] for block in (1, 2)}
    for hook, rows in found.items():
        block = model.transformer.h[int(hook.split(".")[1])]
        block.register_forward_hook(
            lambda _m, _i, out, rows=rows: rows.append(out[0] if isinstance(out, tuple) else out)
        )
    has: list[Flags] = []
    encoded = [tokenizer(document.text, return_offsets_mapping=True) for document in documents]
    order = sorted(range(len(documents)), key=lambda i: len(encoded[i]["input_ids"]))
    for start in range(0, len(order), 64):
        some = order[start : start + 64]
        lengths = [len(encoded[i]["input_ids"]) for i in some]
        ids = torch.zeros(len(some), 1 + max(lengths), dtype=torch.long)  # BOS and padding are both 0
        there = torch.arange(ids.shape[1]) <= torch.tensor(lengths)[:, None]
        for row, i in enumerate(some):
            ids[row, 1 : 1 + lengths[row]] = torch.tensor(encoded[i]["input_ids"])
            has.append(labels(documents[i], encoded[i]["offset_mapping"]))
        model.transformer(ids, attention_mask=there.long())
        for rows in found.values():
            x = rows.pop()
            rows.extend(x[row, 1 : 1 + length].clone() for row, length in enumerate(lengths))
    return Census({hook: torch.cat(rows) for hook, rows in found.items()}, np.concatenate(has))


def labels(document: demo.DemoDocument, offsets: list[tuple[int, int]]) -> Flags:
    """Which attributes hold on each token: ``[tokens, attributes]``."""
    found = np.zeros((len(offsets), len(demo.ATTRIBUTES)), dtype=np.bool_)
    for column, attribute in enumerate(demo.ATTRIBUTES):
        if document.attributes[attribute]:
            found[:, column] = demo.token_labels(document, offsets, attribute)
    return found


def truth(coder: SparseCoder, counted: Census) -> Truth:
    """Of an SAE of the demo, on the tokens that were counted: of the encoder alone."""
    return Truth(both=math.nan, encoder=matched(f1(coder, counted)), decoder=math.nan)


def f1(coder: SparseCoder, counted: Census) -> Numbers:
    """How well each latent fires where each attribute holds: ``[attributes, latents]``."""
    x = counted.x[coder.info.hooks_in[0]]
    common = np.zeros((counted.has.shape[1], coder.info.n_latents))
    fired = np.zeros(coder.info.n_latents)
    for start in range(0, len(x), 8192):
        fires = coder.encode(x[start : start + 8192]).dense().numpy() != 0
        common += counted.has[start : start + 8192].T.astype(np.float32) @ fires.astype(np.float32)
        fired += fires.sum(0)
    found: Numbers = 2 * common / np.maximum(counted.has.sum(0)[:, None] + fired[None], 1)
    return found


def saes(seed: int, counted: Census) -> dict[str, SparseCoder]:
    """Those that ship, and what is made of one of them, by name."""
    shipped: dict[str, SparseCoder] = {
        name.rpartition("/")[2]: load_sae(f"demo/{name}") for name in (*demo.SAE_NAMES, *demo.MORE_SAES)
    }
    of = shipped[OF]
    assert isinstance(of, LinearCoder)
    x = counted.x[demo.HOOK]
    start = untrained(of, x.mean(0))
    made = {
        UNTRAINED: start,
        "random_fit": fitted(start, x[torch.randperm(len(x), generator=_random(seed, 0))[:FITTED_ON]]),
        "permuted": changed(of, W_dec=of.weights.W_dec[torch.randperm(of.info.n_latents, generator=_random(seed, 1))]),
        "half_dead": half_dead(of, seed),
        **{f"noisy_encoder_{percent}": noisy(of, percent / 100, seed) for percent in (90, 70, 50)},
    }
    return {**shipped, **made}


def changed(coder: LinearCoder, **weights: Tensor) -> LinearCoder:
    """The same with other weights."""
    return LinearCoder(coder.info, replace(coder.weights, **weights), coder.rule)


def untrained(coder: LinearCoder, mean: Tensor) -> LinearCoder:
    """What the training of the SAE began with: random directions, read and written alike, about the mean."""
    rows = torch.randn(coder.weights.W_dec.shape, generator=torch.Generator().manual_seed(SEED_OF_TRAINING))
    rows = torch.nn.functional.normalize(rows, dim=1)
    weights = Weights(W_enc=rows.T.contiguous(), W_dec=rows, b_dec=mean, b_enc=torch.zeros(len(rows)))
    return LinearCoder(coder.info, weights, coder.rule)


def fitted(coder: LinearCoder, x: Tensor) -> LinearCoder:
    """The codes of an SAE with the decoder that reconstructs these activations best."""
    codes = coder.encode(x).dense().double()
    codes = torch.cat([codes, codes.new_ones(len(codes), 1)], dim=1)
    gram = codes.T @ codes
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    found = torch.linalg.solve(gram, codes.T @ x.double()).float()
    own = coder.weights
    shift = (own.b_enc if own.b_enc is not None else 0) - own.b_dec @ own.W_enc  # it still reads what it was made for
    weights = Weights(W_enc=own.W_enc, W_dec=found[:-1], b_dec=found[-1], b_enc=shift)
    return LinearCoder(coder.info, weights, replace(coder.rule, apply_b_dec_to_input=False))


def half_dead(coder: LinearCoder, seed: int) -> LinearCoder:
    """Half of the latents never fire; the others fire as much more."""
    n = coder.info.n_latents
    assert coder.weights.b_enc is not None
    bias = coder.weights.b_enc.clone()
    bias[torch.randperm(n, generator=_random(seed, 2))[: n // 2]] = -1e6
    return changed(coder, b_enc=bias)


def noisy(coder: LinearCoder, cosine: float, seed: int) -> LinearCoder:
    """Each latent reads a direction that has so much of a cosine with the one that it read."""
    own = coder.weights.W_enc
    noise = torch.randn(own.shape, generator=_random(seed, 3))
    noise -= own * (noise * own).sum(0) / own.square().sum(0)
    noise *= own.norm(dim=0) / noise.norm(dim=0)
    return changed(coder, W_enc=cosine * own + math.sqrt(1 - cosine**2) * noise)


def _random(seed: int, which: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + 10 * seed + which)


def labelled(folder: Path, seed: int, size: Size) -> None:
    """Labelled sets of documents, one an attribute: as many with it as without, train and test of other splits.

    The column ``spans`` says on which characters the attribute holds.
    """
    for attribute in chosen(size.sets):
        for part, split in SPLITS.items():
            found = balanced(attribute, seed, split, size.examples)
            spans = ([(span.start, span.end) for span in one.spans if span.attribute == attribute] for one in found)
            sets.write(folder / attribute, part, zip((one.text for one in found), spans, strict=True))


def chosen(n: int) -> list[str]:
    """Attributes of the labelled sets, spread over all."""
    places = np.linspace(0, len(demo.ATTRIBUTES) - 1, min(n, len(demo.ATTRIBUTES))).round().astype(int)
    return [demo.ATTRIBUTES[i] for i in places]


def balanced(attribute: str, seed: int, split: Split, n: int) -> list[demo.DemoDocument]:
    """At most ``n`` documents, every other one of which has the attribute."""
    made = demo.documents(6 * n, seed=LABELLED + seed, split=split)
    there, away = ([one for one in made if one.attributes[attribute] is has] for has in (True, False))
    half = min(n // 2, len(there), len(away))
    return [one for pair in zip(there[:half], away[:half], strict=True) for one in pair]
