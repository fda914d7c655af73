"""The demo as a witness: how well latents fire where the grammar says that attributes hold."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch

from sae_bench import demo
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import load_sae
from sae_bench.saes.protocol import CoderInfo, codes_from_dense
from sae_bench.validity import witness


@cache
def documents() -> list[demo.DemoDocument]:
    return demo.documents(50, seed=7)


@cache
def counted() -> witness.Census:
    return witness.census(documents())


@cache
def some() -> LinearCoder:
    coder = load_sae(f"demo/{witness.OF}")
    assert isinstance(coder, LinearCoder)
    return coder


class Told:
    """A coder that is told which latents fire: an activation is the number of its token."""

    def __init__(self, fires: np.ndarray) -> None:
        self.info = CoderInfo("told", fires.shape[1], 1, 1, (demo.HOOK,), (demo.HOOK,))
        self._fires = torch.from_numpy(fires).float()

    def encode(self, x):
        return codes_from_dense(self._fires[x[:, 0].long()])


def score(fires: np.ndarray) -> float:
    has = counted().has
    numbered = witness.Census({demo.HOOK: torch.arange(len(has)).float()[:, None]}, has)
    return witness.truth(Told(fires), numbered).encoder  # type: ignore[arg-type]


def test_activations_are_those_of_the_model_alone_and_labels_those_of_the_tokens():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    first = min(documents(), key=lambda one: len(tokenizer(one.text)["input_ids"]))  # the census goes by length
    encoded = tokenizer(first.text, return_offsets_mapping=True)
    n = len(encoded["input_ids"])
    with torch.no_grad():
        hidden = model(torch.tensor([[0, *encoded["input_ids"]]]), output_hidden_states=True).hidden_states
    for block in (1, 2):
        assert torch.allclose(counted().x[f"blocks.{block}.hook_resid_post"][:n], hidden[block + 1][0, 1:], atol=1e-4)
    spans = [[s for s in first.spans if s.attribute == attribute] for attribute in demo.ATTRIBUTES]
    for token, (start, end) in enumerate(encoded["offset_mapping"]):
        inside = {at for at in range(start, end) if not first.text[at].isspace()}
        for column, own in enumerate(spans):
            assert counted().has[token, column] == any(inside & set(range(s.start, s.end)) for s in own)


def test_latents_that_fire_by_the_labels_are_perfect_whatever_their_order_and_whatever_is_beside_them():
    has = counted().has
    assert score(has) == 1
    order = np.random.default_rng(0).permutation(has.shape[1])
    dead = np.zeros((len(has), 3), dtype=bool)
    assert score(np.hstack([dead, has[:, order]])) == 1


def test_an_attribute_without_a_latent_counts_nothing_and_one_latent_serves_one_attribute():
    has = counted().has
    assert score(has[:, 1:]) < 1 - 0.9 / has.shape[1]
    assert score(np.hstack([has[:, :1]] * has.shape[1])) < 0.5, "copies of one latent say one thing"


def test_the_truth_is_the_mean_of_the_best_one_to_one_match_in_plain_loops():
    attributes, latents = [17, 24, 30], [3, 40, 177, 700]
    rows = [[bool(v) for v in row] for row in counted().has[:, attributes]]
    codes = some().encode(counted().x[demo.HOOK]).dense()[:, latents]
    fires = [[float(v) != 0 for v in row] for row in codes]

    def plain(attribute: int, latent: int) -> float:
        both = sum(has[attribute] and on[latent] for has, on in zip(rows, fires, strict=True))
        total = sum(has[attribute] for has in rows) + sum(on[latent] for on in fires)
        return 2 * both / total if total else 0.0

    table = [[plain(a, j) for j in range(len(latents))] for a in range(len(attributes))]
    found = witness.f1(some(), counted())[np.ix_(attributes, latents)]
    assert np.allclose(found, table)
    best = max(
        sum(table[a][j] for a, j in enumerate(order)) for order in permutations(range(len(latents)), len(attributes))
    )
    assert witness.matched(found) == pytest.approx(best / len(attributes))


def test_what_changes_no_firing_changes_no_truth():
    own = some().weights
    base = witness.truth(some(), counted())
    scaled = witness.changed(some(), W_enc=own.W_enc * 4, b_enc=own.b_enc * 4, W_dec=own.W_dec / 4)
    other = witness.changed(some(), W_dec=own.W_dec.flip(0))
    for coder in (scaled, other):
        assert witness.truth(coder, counted()).encoder == base.encoder
    assert math.isnan(base.decoder)
    assert math.isnan(base.both)


def test_the_start_of_the_training_is_the_start_of_the_run_that_was_stopped_early():
    start = witness.untrained(some(), counted().x[demo.HOOK].mean(0))
    early = load_sae("demo/topk_k32_undertrained")
    assert isinstance(early, LinearCoder)
    cosines = torch.nn.functional.cosine_similarity(start.weights.W_dec, early.weights.W_dec)
    assert cosines.median() > 0.5


def test_training_and_noise_order_the_saes_as_they_must():
    found = {name: witness.truth(coder, counted()).encoder for name, coder in witness.saes(0, counted()).items()}
    assert set(witness.CHECKPOINTS) <= set(found)
    assert len(found) == len(demo.SAE_NAMES) + len(demo.MORE_SAES) + 7
    assert found[witness.OF] == found["permuted"]
    assert found[witness.OF] > found["noisy_encoder_90"] > found["noisy_encoder_70"] > found["noisy_encoder_50"]
    assert found[witness.OF] > found["half_dead"] > found["topk_k256"]
    assert found[witness.OF] > found["frozen_random"] == found["random_fit"]


def test_a_fitted_decoder_reconstructs_better_than_the_random_one():
    x = counted().x[demo.HOOK]
    start = witness.untrained(some(), x.mean(0))
    fit = witness.fitted(start, x)
    errors = [float((x - one.decode(one.encode(x))).square().sum()) for one in (start, fit)]
    assert errors[1] < 0.5 * errors[0]
    assert torch.equal(start.encode(x).indptr, fit.encode(x).indptr)


def test_sets_are_balanced_and_other_in_each_draw(tmp_path):
    size = replace(witness.QUICK, sets=3, examples=40)
    seen = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        witness.labelled(folder, seed, size)
        assert len(list(folder.iterdir())) == 3
        with (folder / "code_comment" / "train.csv").open(newline="") as file:
            seen.append(list(csv.DictReader(file)))
    assert not {row["text"] for row in seen[0]} & {row["text"] for row in seen[1]}
    for row in seen[0]:
        found = [row["text"][start:end] for start, end in json.loads(row["spans"])]
        assert bool(found) == bool(int(row["label"])) == ("# " in row["text"])
        assert all(text.startswith("# ") for text in found)
    rows = witness.balanced("mentions_color", 0, "eval", 40)
    assert [one.attributes["mentions_color"] for one in rows] == [True, False] * 20


@pytest.mark.slow
def test_a_draw_is_measured_as_a_user_would():
    draw = witness.measured(0, quick=True, tasks="sparsity")
    assert draw.world == "demo"
    assert set(draw.rungs) == set(draw.results)
    assert draw.results["topk_k16"]["sparsity"].metrics["l0"].value == pytest.approx(16, abs=0.1)
    assert draw.results["topk_k32_block1"]["sparsity"].sae.hooks_in == ("blocks.1.hook_resid_post",)
