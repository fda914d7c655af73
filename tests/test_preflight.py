"""Parts of a preflight: its numbers against plain ones, the tokens that it compares, places, and what it says."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score
from torch import Tensor

from sae_bench import demo
from sae_bench.data.tokens import Sequence
from sae_bench.engine.workspace import Entry
from sae_bench.errors import DataError, ModelError
from sae_bench.models.hooks import parse_hook
from sae_bench.models.loading import load_subject
from sae_bench.models.subject import SubjectModel
from sae_bench.preflight import Activations, Preflight, Text, lines, preflight, sample
from sae_bench.preflight.case import Case
from sae_bench.preflight.measure import Score, score, threshold_for
from sae_bench.preflight.places import candidates
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.load import load_sae
from sae_bench.saes.wrap import as_coder
from tests.builders import tiny_models
from tests.builders.marks import slow_but
from tests.builders.planted_saes import at_hooks, changed, seeded
from tests.builders.tiny_saes import HOOK, activations, tiny_coder

IDS = tuple(tuple(range(3 + 7 * i, 9 + 7 * i)) for i in range(6))


@pytest.fixture(scope="module")
def tiny() -> SubjectModel:
    return load_subject(tiny_models.tiny_gpt2())[0]


@pytest.fixture(scope="module")
def demo_model() -> SubjectModel:
    return load_subject(demo.MODEL_PATH)[0]


@pytest.fixture(scope="module")
def on_demo(demo_model: SubjectModel) -> Activations:
    documents = demo.documents(8)
    tokenizer = load_subject(demo.MODEL_PATH)[1]
    ids = [tuple(tokenizer(d.text, add_special_tokens=False)["input_ids"][:24]) for d in documents]
    return Activations(demo_model, Text(tuple(ids), begins_with_bos=True, bos=0, special=frozenset({0})))


def text(**changes: Any) -> Text:
    """Six sequences of six tokens."""
    return dataclasses.replace(Text(IDS, begins_with_bos=True, bos=0, special=frozenset({0, 12})), **changes)


def look(coder: Any, activations: Activations) -> Preflight:
    """A preflight of a coder in memory."""
    return preflight(Entry("sae", "sae", coder), activations)


def made(coder: Any, x: Tensor, half: Tensor, **more: Any) -> Score:
    """The score of a coder on its own input."""
    return score(Entry("sae", "sae", coder), coder, x, x, half, **more)


def test_fvu_l0_and_slope_are_those_of_plain_formulas() -> None:
    coder, x = tiny_coder("topk"), activations(40)
    half = torch.arange(40) % 2
    found = made(coder, x, half)
    codes = coder.encode(x)
    y_hat = coder.decode(codes).numpy()
    assert found.fvu == pytest.approx(1 - r2_score(x.numpy(), y_hat, multioutput="variance_weighted"), rel=1e-5)
    assert found.l0 == len(codes.indices) / 40
    slope = np.linalg.lstsq(y_hat.reshape(-1, 1), x.numpy().reshape(-1), rcond=None)[0][0]
    assert found.slope == pytest.approx(float(slope), rel=1e-5)


def test_a_fitted_factor_is_measured_on_the_other_half() -> None:
    coder, x = tiny_coder("relu"), activations(40)
    half = (torch.arange(40) >= 20).long()
    y_hat = coder.decode(coder.encode(x)).double()
    error = 0.0
    for fit, test in ((0, 1), (1, 0)):
        own, other = x.double()[half == fit], y_hat[half == fit]
        factor = (own * other).sum() / other.square().sum()
        error += float((x.double()[half == test] - factor * y_hat[half == test]).square().sum())
    whole = (x.double() - x.double().mean(0)).square().sum()
    assert made(coder, x, half).sloped.fvu == pytest.approx(error / float(whole), rel=1e-6)


@given(st.floats(0.01, 100), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_a_gain_does_not_depend_on_units_and_is_that_of_the_worse_half(unit: float, seed: int) -> None:
    x, half = activations(40, seed=seed), torch.arange(40) % 2
    coders = (tiny_coder("topk", k=3), tiny_coder("topk", k=8))
    gain = made(coders[0], x, half).gain(made(coders[1], x, half), None)
    scaled = [changed(c, b_dec=c.weights.b_dec * unit, b_enc=c.weights.b_enc * unit) for c in coders]
    assert made(scaled[0], x * unit, half).gain(made(scaled[1], x * unit, half), None) == pytest.approx(gain, abs=1e-3)
    halves = []
    for which in (0, 1):
        own = [made(c, x, half) for c in coders]
        halves.append(own[0].cost(which, None) - own[1].cost(which, None))
    assert gain == min(halves)


def test_an_l0_near_the_promised_one_costs_nothing_more_and_one_far_off_does() -> None:
    numbers = {"error": (1.0, 1.0), "variance": (10.0, 10.0), "tokens": (10.0, 10.0)}
    rest = {"xy": (1.0, 1.0), "xx": (1.0, 1.0), "yy": (1.0, 1.0)}
    near, far = (Score(active=(l0 * 10, l0 * 10), **numbers, **rest) for l0 in (40.0, 320.0))
    assert near.cost(0, 32.0) == near.cost(0, None)
    assert far.cost(0, 32.0) - far.cost(0, None) == pytest.approx(0.4 * math.log(10 / 1.5))


@pytest.mark.parametrize("l0", [1, 4, 7.5])
def test_a_suggested_threshold_gives_the_promised_l0(l0: float) -> None:
    coder, x = tiny_coder("topk"), activations(64)
    level = threshold_for(coder, x, l0)
    assert level is not None
    over = changed(coder, rule={"activation": "jumprelu", "k": None}, threshold=torch.tensor(level))
    assert len(over.encode(x).indices) == round(l0 * 64)


def test_no_threshold_is_suggested_where_none_can_give_that_l0() -> None:
    coder, x = tiny_coder("topk"), activations(64)
    assert threshold_for(coder, x, coder.info.n_latents) is None
    assert threshold_for(coder, x, coder.info.n_latents - 1) is None, "not so many are positive"


def test_the_same_tokens_are_compared_with_and_without_bos(tiny: SubjectModel) -> None:
    own, without = Activations(tiny, text()), Activations(tiny, text(begins_with_bos=False))
    ids = [token for ids in IDS for token in ids[1:] if token != 12]
    hook = "hook_embed"
    assert len(own.half) == len(ids)
    embedded = tiny.model.transformer.wte.weight[torch.tensor(ids)]
    for there in (own.at(hook), own.at(hook, bos=False), without.at(hook), without.at(hook, bos=True)):
        assert torch.equal(there, embedded)
    assert not torch.equal(own.at(HOOK), own.at(HOOK, bos=False))
    assert torch.equal(own.at(HOOK), without.at(HOOK, bos=True))


def test_what_a_run_counts_follows_its_mask(tiny: SubjectModel) -> None:
    counts = {mask: int(Activations(tiny, text(mask=mask)).counted.sum()) for mask in ("special", "first", "none")}
    assert counts == {"special": 35, "first": 36, "none": 42}
    assert len(Activations(tiny, text()).everywhere(HOOK)) == 42


def test_halves_are_of_different_documents(tiny: SubjectModel) -> None:
    assert Activations(tiny, text(special=frozenset())).half.tolist() == [i % 2 for i in range(6) for _ in range(5)]
    one = Activations(tiny, text(sequences=IDS[:1], special=frozenset()))
    assert one.half.tolist() == [0, 0, 1, 1, 1]


def test_nothing_to_compare_is_one_sentence(tiny: SubjectModel) -> None:
    with pytest.raises(DataError, match="give more text"):
        Activations(tiny, text(special=frozenset(range(50))))
    with pytest.raises(DataError, match="at least two tokens"):
        sample([Sequence(0, np.array([0, 5], dtype=np.int32))], 100, 0, 16)


def test_a_sample_has_the_tokens_asked_for_from_many_documents() -> None:
    documents = [Sequence(i, np.arange(0, 40, dtype=np.int32)) for i in range(30)]
    found = sample(documents, 200, 0, 128)
    assert sum(map(len, found)) == 200
    assert len(found) == 8
    assert found[0][0] == 1, "the BOS token before the text is no part of it"
    assert max(map(len, sample(documents, 200, 0, 16))) == 15, "with BOS it still fits the context"


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "neox"])
@pytest.mark.parametrize(
    "hook", slow_but(1, ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.0.hook_resid_pre"])
)
def test_places_exist_and_are_listed_once(name: str, hook: str) -> None:
    subject = load_subject(getattr(tiny_models, f"tiny_{name}")())[0]
    names = candidates(subject, hook)
    places = [parse_hook(n, subject.model) for n in names]
    assert parse_hook(hook, subject.model) not in places
    assert len(set(places)) == len(places)
    assert sum("norm" in n or "ln_f" in n for n in names if not n.startswith("blocks.")) == 1, "the final norm"
    tokens = torch.tensor([[1, 2, 3]])
    assert set(subject.capture(tokens, torch.ones_like(tokens, dtype=torch.bool), names).activations) == set(names)


def test_the_neighbourhood_of_a_deep_model_is_a_window() -> None:
    subject = load_subject(tiny_models.tiny_gpt2(n_layer=12))[0]
    streams = [n for n in candidates(subject, "blocks.6.hook_resid_post") if n.endswith("resid_post")]
    assert streams == [f"blocks.{b}.hook_resid_post" for b in (3, 4, 5, 7, 8, 9, 2)]


def test_the_language_model_runs_once_for_every_token_policy(demo_model: SubjectModel, on_demo: Activations) -> None:
    fresh = Activations(demo_model, on_demo.text)
    before = demo_model.counters["prefix"]
    look(load_sae("demo/topk_k32"), fresh)
    assert demo_model.counters["prefix"] - before == 2 * len(on_demo.text.sequences)
    look(load_sae("demo/relu"), fresh)
    assert demo_model.counters["prefix"] - before == 2 * len(on_demo.text.sequences)


def test_nothing_is_changed_and_two_preflights_agree(on_demo: Activations) -> None:
    coder = load_sae("demo/jumprelu")
    assert isinstance(coder, LinearCoder)
    before = {name: tensor.clone() for name, tensor in coder.weights.items()}
    rule, state = coder.rule, torch.get_rng_state()
    first, second = look(coder, on_demo), look(coder, on_demo)
    assert first.plain() == second.plain()
    assert coder.rule == rule
    assert all(torch.equal(tensor, before[name]) for name, tensor in coder.weights.items())
    assert torch.equal(torch.get_rng_state(), state)


class _Dense(torch.nn.Module):
    """A demo SAE as code of one's own."""

    def __init__(self, coder: LinearCoder, scale: float = 1.0) -> None:
        super().__init__()
        self.coder, self.scale = coder, scale

    def encode(self, x: Tensor) -> Tensor:
        return self.coder.encode(x).dense()

    def decode(self, latents: Tensor) -> Tensor:
        return self.scale * (latents @ self.coder.weights.W_dec + self.coder.weights.b_dec)


@pytest.mark.filterwarnings("ignore:.*_Dense is wrapped")
def test_code_of_ones_own_is_measured_as_far_as_it_can_be_seen(on_demo: Activations) -> None:
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    report = look(as_coder(_Dense(coder), d_in=128, hook=demo.HOOK), on_demo)
    assert report.healthy
    assert "b_dec subtracted from the input, or not" in report.not_tried
    assert any(line.startswith("not tried") for line in lines(report))
    for place in ("blocks.1.hook_resid_post", "blocks.2.hook_mlp_out"):
        moved = look(as_coder(_Dense(coder), d_in=128, hook=place), on_demo)
        assert moved.findings[0].cause == "other_place"
        assert demo.HOOK in moved.findings[0].says
    scaled = look(as_coder(_Dense(coder, 0.2), d_in=128, hook=demo.HOOK), on_demo)
    assert scaled.findings[0].cause == "output_scale"
    assert "multiplied with 4.99" in scaled.findings[0].says


def test_a_finding_has_both_numbers_and_the_flag_that_settles_it(on_demo: Activations) -> None:
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    report = look(at_hooks(coder, "blocks.1.hook_resid_post"), on_demo)
    finding = report.findings[0]
    assert (finding.cause, finding.confidence) == ("other_place", "likely")
    right = look(coder, on_demo).measured
    assert f"FVU {report.measured['fvu']:.3g} -> {right['fvu']:.3g}" in finding.says
    assert finding.settle == f"--hook-in {demo.HOOK}"
    assert not report.healthy


def test_an_sae_of_another_width_is_told_where_it_fits(on_demo: Activations) -> None:
    other = look(tiny_coder("topk", d_in=512, n_latents=64, hook=demo.HOOK), on_demo)
    assert [finding.cause for finding in other.findings] == ["width"]
    assert "512" in other.findings[0].says
    assert "blocks.2.mlp.hook_post" in other.findings[0].settle
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    moved = look(at_hooks(coder, "blocks.2.mlp.hook_post"), on_demo)
    assert moved.findings[0].cause == "other_place"
    assert moved.findings[0].settle == f"--hook-in {demo.HOOK}"


def test_a_hook_point_that_the_model_has_not_is_an_error(on_demo: Activations) -> None:
    with pytest.raises(ModelError, match=r"blocks\.9"):
        look(tiny_coder("topk", d_in=128, hook="blocks.9.hook_resid_post"), on_demo)


class _Fails:
    info = dataclasses.replace(tiny_coder("topk", d_in=128, hook=demo.HOOK).info)

    def encode(self, x: Tensor) -> Any:
        raise RuntimeError("out of order")

    def decode(self, codes: Any, x: Tensor | None = None) -> Tensor:
        raise RuntimeError("out of order")

    def decoder_rows(self, latents: Tensor) -> Tensor:
        raise RuntimeError("out of order")


def test_a_coder_that_raises_is_reported(on_demo: Activations) -> None:
    report = look(_Fails(), on_demo)
    assert not report.healthy
    assert "out of order" in report.findings[0].says
    assert lines(report)


def test_what_has_no_number_is_said_and_is_null_in_json(tiny: SubjectModel) -> None:
    same = Activations(tiny, text(sequences=((5, 5), (5, 5)), special=frozenset()))
    report = look(tiny_coder("topk", hook="hook_embed"), same)
    assert [finding.cause for finding in report.findings] == ["no_fvu"]
    plain = json.loads(json.dumps(report.plain(), allow_nan=False))
    assert plain["measured"]["fvu"] is None
    assert plain["healthy"] is False


def test_a_silent_sae_is_reported(on_demo: Activations) -> None:
    coder = load_sae("demo/jumprelu")
    assert isinstance(coder, LinearCoder)
    silent = changed(coder, threshold=torch.full_like(coder.weights.threshold, 1e6))  # type: ignore[arg-type]
    assert look(silent, on_demo).findings[0].cause == "silent"


def test_a_threshold_is_suggested_for_a_batch_top_k_sae_that_was_told_k(on_demo: Activations) -> None:
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    told = changed(coder, info={"architecture": "batchtopk", "provenance": {"declared_l0": 32}})
    finding = look(told, on_demo).findings[0]
    assert finding.cause == "per_token_topk"
    level = float(finding.settle.split()[1])
    over = changed(told, rule={"activation": "jumprelu", "k": None}, threshold=torch.tensor(level))
    assert look(over, on_demo).findings == ()
    assert Case.of(Entry("a", "a", over), on_demo).base.l0 == pytest.approx(32, abs=0.2)


def test_what_the_files_say_of_bos_is_noted_where_texts_differ(on_demo: Activations) -> None:
    coder = load_sae("demo/topk_k32")
    assert isinstance(coder, LinearCoder)
    without = Activations(on_demo.subject, dataclasses.replace(on_demo.text, begins_with_bos=False))
    report = look(coder, without)
    assert report.findings[0].settle == "--bos yes"
    assert any("trained with a BOS token" in note and "begin without it" in note for note in report.notes)


def test_a_transposed_skip_connection_is_found(on_demo: Activations) -> None:
    x = on_demo.at("blocks.1.mlp.hook_in").double()
    y = on_demo.at("blocks.1.hook_mlp_out").double()
    u, v = x - x.mean(0), y - y.mean(0)
    W = torch.linalg.solve(u.T @ u + torch.eye(128), u.T @ v)
    b_dec = y.mean(0) - x.mean(0) @ W
    coder = tiny_coder(
        "topk", d_in=128, k=2, hook="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out", apply_b_dec_to_input=False
    )
    parts = {"W_dec": 1e-3 * seeded(48, 128), "b_dec": b_dec.float()}
    skips = changed(coder, W_skip=W.T.float(), **parts)
    assert look(skips, on_demo).healthy
    assert look(changed(skips, W_skip=W.float()), on_demo).findings[0].cause == "skip"
