"""Collecting where latents fire: its cost and bounds, that figures do not depend on how work is cut, command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from torch import Tensor

from sae_bench.api import evaluate
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.results import store
from sae_bench.saes.calibration import Moments
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import CoderInfo, Codes, codes_from_dense
from sae_bench.saes.weights import Weights
from sae_bench.schema import Result
from sae_bench.show.text import number
from sae_bench.streams.tracked import TRACKED
from sae_bench.streams.watched import choose_latents, is_fit, tracked_units
from sae_bench.units import Units
from tests.builders.said import complaints
from tests.builders.tiny_models import TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import LATENTS, coder_of, tiny_coder, tiny_rule, tiny_weights, write_native
from tests.builders.token_rules import (
    TASK,
    Planted,
    content_of,
    everything,
    measured,
    now_and_then,
    on,
    pair,
    planted_texts,
    rows_of,
    ruled,
    settings_of,
)
from tests.conftest import ON_TEXT, Run

TEXTS = number_texts(54, shortest=10, longest=30, vocab=15, seed=3)
ROUNDED = {"mass_recalled", "strength"}  # activations are kept in float32


def tiny(**changes: Any) -> dict[str, Any]:
    """Settings of a run on the tiny random model."""
    few = {f"{TASK}.fewest_firings": 3}
    return {"model": tiny_gpt2().double(), "data": TEXTS, "context": 16, "tier": "full", "parameters": few} | changes


def coder(seed: int = 0, activation: str = "relu", **changes: Any) -> LinearCoder:
    weights = tiny_weights(activation, seed=seed, storage=torch.float64)
    return coder_of(weights, tiny_rule(activation), dtype=torch.float64, **({"name": f"sae {seed}"} | changes))


def assert_same_latents(one: Units, other: Units, rename: dict[str, str] | None = None, skip: str = "") -> None:
    """The same figures of the same latents, whatever their numbers are."""
    rename = rename or {i: i for i in one.ids}
    assert {rename[i] for i in one.ids} == set(other.ids)
    assert len(one) > 10
    rows = [one.ids.index({new: old for old, new in rename.items()}[i]) for i in other.ids]
    for name in (name for name in one.columns if not skip or name.partition("@")[0] != skip):
        tolerance = 1e-6 if name in ROUNDED else 1e-12
        np.testing.assert_allclose(other.columns[name], one.columns[name][rows], rtol=tolerance, err_msg=name)


def values(result: Result) -> dict[str, Any]:
    """All figures of a result and of its controls."""
    return {
        f"{control} {name}": metric.value
        for control, metrics in [("", result.metrics), *result.controls.items()]
        for name, metric in metrics.items()
        if metric.value is not None
    }


# ---------------------------------------------------------------- which documents


@for_all(n=st.integers(1, 30), asked=st.integers(0, 32), seed=st.integers(0, 1000))
def test_fewer_tracked_documents_are_a_part_of_more(n: int, asked: int, seed: int) -> None:
    """So a smaller tier is a part of a larger one, and adding text changes few of them."""

    def tokens(k: int) -> TokenSet:
        units = np.arange(k, dtype=np.int32)
        return TokenSet(units, np.arange(k + 1), units, tuple(f"document {i}" for i in range(k)))

    few, more = (tracked_units(tokens(n), k, seed) for k in (asked, asked + 1))
    assert set(few) <= set(more)
    assert len(few) == min(n, asked)
    assert tracked_units(tokens(n), None, seed) == list(range(n))
    beside = tracked_units(tokens(n + 5), asked, seed)
    assert {unit for unit in beside if unit < n} <= set(few)


def test_another_seed_watches_other_documents() -> None:
    """Else the spread between seeds would leave out that of the text."""
    units = np.arange(200, dtype=np.int32)
    tokens = TokenSet(units, np.arange(201), units, tuple(content_of([i]) for i in range(200)))
    one, other = (tracked_units(tokens, 50, seed) for seed in (0, 1))
    assert 2 < len(set(one) & set(other)) < 30


def test_halves_are_halves_and_differ_between_seeds() -> None:
    names = [content_of([i]) for i in range(2000)]
    sides = np.array([[is_fit(name, seed) for name in names] for seed in (0, 1)])
    assert (abs(sides.mean(axis=1) - 0.5) < 0.05).all()
    assert 0.4 < (sides[0] == sides[1]).mean() < 0.6
    assert all(is_fit(f"{name}#{k}", 0) == is_fit(name, 0) for name in names[:50] for k in (2, 3, 11))


def test_a_tier_bounds_the_documents_and_the_memory_of_a_run() -> None:
    """What is kept grows with the firings of watched latents on watched documents, and with no other text."""
    sae = Planted(on(7), on(5, 6), now_and_then(0.2), everything, on(1))
    given: dict[str, Any] = {"tier": "smoke", "controls": "random,identity", "batch_tokens": 200}
    given["parameters"] = {f"{TASK}.latents": 3, f"{TASK}.fewest_firings": 1}
    kept = {}
    for limit in (60, 200):
        found_of = measured(sae, data=planted_texts(400), limit=limit, **given)
        run, reader = found_of.run, found_of.readers[TASK]
        assert run.inputs.corpus.evaluation.n_units == limit
        assert len(reader.units) == 32
        found = reader.tracked(run.cast.saes[0], run.checkpoint.rows(run.state, {(TRACKED, "planted")}), TASK)
        rows = {}
        for entry in run.cast.entries:
            own = run.checkpoint.rows(run.state, {(TRACKED, entry.key)})
            rows[entry.label] = {key[2]: column for key, column in own.items() if key[0] == TRACKED}
        assert len(found.latents) == 3
        assert 3 not in found.latents  # it fires on every token
        firings = len(found.fit_firings.latent) + len(found.test_firings.latent)
        assert {len(column) for column in rows["planted"].values()} == {firings}
        assert sum(column.dtype.itemsize for column in rows["planted"].values()) <= 20  # bytes
        assert all(len(column) == 0 for column in rows["identity"].values())
        assert sum(d.n_documents for d in (found.fit, found.test)) == 32
        kept[limit] = firings
    assert kept[60] < 32 * 22 * 3
    assert kept[200] < 1.5 * kept[60]  # other documents, as many of them


def test_the_population_of_a_result_is_what_is_watched(tmp_path: Path) -> None:
    given: dict[str, Any] = {"tier": "smoke", "limit": 60, "tasks": f"{TASK},sparsity", "data": planted_texts()}
    result, _ = ruled(Planted(on(7), on(5), on(1, 2)), tmp_path, **(given | {"tasks": TASK}))
    assert result.provenance.protocol.n_documents == 32
    assert 32 * 10 <= result.provenance.n_tokens <= 32 * 23
    both = evaluate(Planted(on(7), on(5), on(1, 2)), **settings_of(given))
    assert [r.provenance.protocol.n_documents for r in both if r.task == "sparsity"] == [60]
    assert next(r for r in both if r.task == TASK).protocol == result.protocol


# ---------------------------------------------------------------- which latents


class AsGiven:
    """A coder whose codes are its input, with decoder rows of given norms."""

    def __init__(self, norms: Tensor) -> None:
        self.info = CoderInfo("as given", len(norms), len(norms), 1, ("x",), ("x",))
        self.norms = norms

    def encode(self, x: Tensor) -> Codes:
        return codes_from_dense(x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return self.norms[latents].unsqueeze(1)


def chosen(sample: Tensor, norms: Tensor, n: int, most: float, seed: int = 0) -> tuple[list[int], list[float]]:
    """The latents that are watched of a coder with these codes ``[tokens, latents]`` on calibration tokens."""
    width = sample.shape[1]
    moments = Moments(torch.zeros(width), torch.eye(width), sample, 1.0, len(sample))
    work = Workspace(SimpleNamespace(device=torch.device("cpu")), ("x",), {"x": moments})  # type: ignore[arg-type]
    coder = AsGiven(norms)
    found = choose_latents(Entry("as given", "as given", coder), work, n, most, seed)  # type: ignore[arg-type]
    return found.latents.tolist(), found.density.tolist()


def calibration_codes(seed: int, tokens: int = 40, latents: int = 60) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    rates = torch.rand(latents, generator=draw) ** 3
    codes = torch.rand(tokens, latents, generator=draw, dtype=torch.float64) + 0.1
    return codes * (torch.rand(tokens, latents, generator=draw) < rates)


def test_latents_that_are_active_twice_and_on_no_more_than_the_share_are_eligible() -> None:
    codes = torch.zeros(10, 6)
    for latent, active in enumerate((0, 1, 2, 5, 6, 10)):
        codes[:active, latent] = 1
    for most, expected in ((0.5, [2, 3]), (0.6, [2, 3, 4]), (0.59, [2, 3]), (1.0, [2, 3, 4, 5]), (0.1, [])):
        latents, density = chosen(codes, torch.ones(6), 100, most)
        assert latents == expected
        assert density == [pytest.approx({2: 0.2, 3: 0.5, 4: 0.6, 5: 1}[i]) for i in expected]


@for_all(seed=st.integers(0, 1000), n=st.integers(1, 70))
def test_the_choice_is_spread_over_rates_and_does_not_know_numbers_or_scales(seed: int, n: int) -> None:
    """A sorted dictionary, or one with larger activations and smaller decoder rows, has the same latents explained."""
    codes, norms = calibration_codes(seed), torch.ones(60, dtype=torch.float64)
    latents, density = chosen(codes, norms, n, 0.5, seed)
    count = (codes != 0).sum(0)
    eligible = [i for i in range(60) if 2 <= count[i] <= 20]
    assert latents == sorted(set(latents))
    assert set(latents) <= set(eligible)
    assert len(latents) == min(n, len(eligible))
    ranked = sorted(eligible, key=lambda i: (int(count[i]), float(codes[:, i].sum())))
    places = sorted(ranked.index(i) for i in latents)
    step = len(eligible) / len(latents)
    assert all(place in (int(i * step), int((i + 1) * step) - 1, *range(int(i * step), int((i + 1) * step) + 1))
               for i, place in enumerate(places))  # fmt: skip
    assert density == [int(count[i]) / len(codes) for i in latents]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed))
    moved, _ = chosen(codes[:, order], norms, n, 0.5, seed)
    assert sorted(int(order[i]) for i in moved) == latents
    scale = 2.0 ** torch.arange(60, dtype=torch.float64).remainder(7)
    assert chosen(codes * scale, norms / scale, n, 0.5, seed)[0] == latents


# ---------------------------------------------------------------- what must change nothing


def moved_weights(weights: Weights, order: Tensor) -> Weights:
    """The same dictionary, its latents in another order."""
    return Weights(
        **{
            name: tensor[:, order] if name == "W_enc" else tensor if name == "b_dec" else tensor[order]
            for name, tensor in weights.items()
        }
    )


@pytest.mark.parametrize("latents", [200, 15])
@pytest.mark.slow
def test_the_order_of_latents_changes_nothing(tmp_path: Path, latents: int) -> None:
    """Also not where only some latents are sampled; which latent is the null of which is settled by what they do."""
    weights = tiny_weights(storage=torch.float64)
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(3))
    given = tiny(parameters={f"{TASK}.fewest_firings": 3, f"{TASK}.latents": latents})
    (one, plain), (other, moved) = (
        ruled(coder_of(w, tiny_rule(), dtype=torch.float64), tmp_path / name, **given)
        for name, w in (("plain", weights), ("moved", moved_weights(weights, order)))
    )
    rename = {str(int(old)): str(new) for new, old in enumerate(order)}
    rename = {i: rename[i] for i in plain["latent"].ids}
    assert_same_latents(plain["latent"], moved["latent"], rename, skip="f1_null")
    shown = {rule["latent"]: rule for rule in other.details["rules"]}
    for rule in one.details["rules"]:
        assert rule | {"latent": int(rename[str(rule["latent"])])} == shown[int(rename[str(rule["latent"])])]
    found = values(other)
    for name, value in values(one).items():
        assert found[name] == pytest.approx(value, rel=1e-6), name


@pytest.mark.slow
def test_the_scale_of_latents_changes_nothing(tmp_path: Path) -> None:
    w = tiny_weights("relu", storage=torch.float64)
    scale = 0.2 + 5 * torch.rand(LATENTS, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert w.b_enc is not None
    scaled = Weights(w.W_enc * scale, w.W_dec / scale[:, None], w.b_dec, w.b_enc * scale)
    (one, plain), (other, moved) = (
        ruled(coder_of(x, tiny_rule("relu"), dtype=torch.float64), tmp_path / name, **tiny())
        for name, x in (("plain", w), ("scaled", scaled))
    )
    assert_same_latents(plain["latent"], moved["latent"])
    for a, b in zip(one.details["rules"], other.details["rules"], strict=True):
        assert a == b
    assert values(other) == pytest.approx(values(one), rel=1e-6)


@pytest.mark.parametrize("activation", ["topk", "relu", "abstopk"])
@pytest.mark.slow
def test_no_figure_changes_with_the_batch_size(tmp_path: Path, activation: str) -> None:
    sae = coder(activation=activation)
    (one, first), (other, second) = (
        ruled(sae, tmp_path / str(n), **tiny(batch_tokens=n, controls="permuted,random")) for n in (1, 100_000)
    )
    assert_same_latents(first["latent"], second["latent"])
    assert one.details["rules"] == other.details["rules"]
    assert one.controls.keys() == other.controls.keys() == {"random"}
    assert values(other) == pytest.approx(values(one), rel=1e-6)


def test_other_tasks_and_their_order_change_nothing(tmp_path: Path) -> None:
    folders = []
    results = []
    for tasks in (TASK, f"{TASK},sparsity,reconstruction", f"reconstruction,{TASK}", f"downstream_sparsity,{TASK}"):
        folders.append(tmp_path / tasks.replace(",", " "))
        given = settings_of(tiny(tasks=tasks, controls="permuted,random"))
        if "downstream" in tasks:
            given["parameters"] |= {f"downstream_sparsity.{name}": 2 for name in ("positions", "latents", "horizon")}
        found = evaluate(coder(), out=folders[-1], **given)
        results += [r for r in found if r.task == TASK]
    for result in results:
        assert result.protocol == results[0].protocol
        for part in ("metrics", "controls", "details"):
            assert getattr(result, part) == getattr(results[0], part)
    units = [next(f for f in folder.rglob(f"{TASK}@*.safetensors")).read_bytes() for folder in folders]
    assert len(set(units)) == 1


def test_two_saes_at_once_are_two_runs(tmp_path: Path) -> None:
    """Each is watched in its own latents, and the random control is made and watched once."""
    given = settings_of(tiny(controls="permuted,random"))
    beside = evaluate([coder(0, "topk"), coder(1, "topk")], **given)
    for seed, found in enumerate(beside):
        alone = evaluate(coder(seed, "topk"), **given)[0]
        assert (found.metrics, found.controls, found.details) == (alone.metrics, alone.controls, alone.details)


@pytest.mark.slow
def test_token_rules_make_no_pass_of_their_own() -> None:
    def counters(tasks: str) -> dict[str, int]:
        given = settings_of(tiny(tasks=tasks, controls="default", parameters={}))
        return evaluate([coder(0), coder(1)], **given)[0].provenance.counters

    with_rules, without = counters(f"{ON_TEXT},{TASK}"), counters(ON_TEXT)
    only_sample = {name for name in without if with_rules[name] != without[name]}
    assert only_sample == {f"calibration_{name}" for name in ("encode_tokens", "code_entries", "code_bytes")}
    assert with_rules.keys() == without.keys()
    alone = counters(TASK)
    documents = sum(len(sequences) for sequences in rows_of(TEXTS, 16)[0])
    assert alone["prefix"] == documents
    assert not [name for name in alone if "suffix" in name or "decode" in name]
    assert alone["encode"] <= counters("sparsity")["encode"]


# ---------------------------------------------------------------- a run that is cut short


class Killed(BaseException):
    """Stands for the end of the process."""


def files_of(folder: Path) -> dict[Path, bytes]:
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def plain_saes() -> list[LinearCoder]:
    return [coder_of(tiny_weights(seed=i), tiny_rule(), name=f"sae {i}") for i in range(2)]


def cut_short(dtype: str) -> dict[str, Any]:
    """Settings of a run in many batches, each of which is saved."""
    few = {f"{TASK}.fewest_firings": 3, f"{TASK}.latents": 12}
    given = tiny(model=tiny_gpt2().to(getattr(torch, dtype)), dtype=dtype, parameters=few, tasks=f"sparsity,{TASK}")
    return settings_of(given | {"controls": "permuted,random,identity", "batch_tokens": 48, "checkpoint_seconds": 0})


def killed_and_resumed(folder: Path, at: tuple[str, int], given: dict[str, Any]) -> list[tuple[str, int]]:
    """A run that is killed, and one that goes on in the folder ``killed``; returns the steps that that takes."""

    def kill(what: str, done: int, total: int) -> None:
        if (what, done) == at:
            assert total > done
            shutil.copytree(folder / "first", folder / "killed")
            raise Killed

    with pytest.raises(Killed):
        evaluate(plain_saes(), out=folder / "first", progress=kill, **given)
    steps: list[tuple[str, int]] = []
    evaluate(plain_saes(), out=folder / "killed", progress=lambda what, done, _: steps.append((what, done)), **given)
    return steps


@pytest.mark.parametrize(
    ("phase", "kill_at"), [("evaluation", 9), ("intervals", 1), ("evaluation", 1), ("intervals", 0)]
)
@pytest.mark.parametrize("dtype", ["float64", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, phase: str, kill_at: int, dtype: str) -> None:
    """The folder of a run is copied, as a kill there would leave it; going on watches the same latents."""
    given = cut_short(dtype)
    evaluate(plain_saes(), out=tmp_path / "whole", **given)
    steps = killed_and_resumed(tmp_path, (phase, kill_at), given)
    if phase == "evaluation":
        assert next(done for what, done in steps if what == "evaluation") == kill_at
    whole, resumed = (files_of(tmp_path / name) for name in ("whole", "killed"))
    assert len(whole) == 2 * (2 * 2 + 1)
    assert resumed == whole


@pytest.mark.slow
def test_a_run_killed_behind_the_last_result_of_an_sae_leaves_nothing_behind(tmp_path: Path) -> None:
    """What is collected is as large as a result; left over from every killed run it would fill a disk."""
    given = cut_short("float64")
    killed_and_resumed(tmp_path, ("intervals", 2), given)
    assert not (tmp_path / "killed" / ".partial").exists()
    evaluate(plain_saes(), out=tmp_path / "whole", **given)
    found = {name: [store.read(f) for f in store.find(tmp_path / name)] for name in ("whole", "killed")}
    assert len(found["killed"]) == 4
    for one, other in zip(*found.values(), strict=True):
        assert (one.metrics, one.controls, one.details) == (other.metrics, other.controls, other.details)


# ---------------------------------------------------------------- controls and failures


def test_controls_are_explained_too_where_they_have_latents_to_explain(tmp_path: Path) -> None:
    result, tables = ruled(coder(activation="topk"), tmp_path, **tiny(controls="all"))
    codes = {"permuted", "random_l0", "random_fit", "permuted_fit", "pursuit"}  # are all that is read
    assert not codes & set(result.controls)
    assert "random" in result.controls
    assert not {"identity", "pca", "mean"} & set(result.controls)  # active on every token, or without latents
    assert result.controls["random"] != result.metrics
    assert len(tables["control/random/latent"]) > 10


class Faulty:
    """Gives what ``change`` makes of the codes of another coder, from the n-th call on."""

    def __init__(self, change: Callable[[Codes], Codes], on_call: int = 1) -> None:
        self.inner, self.change, self.left = coder(1, name="faulty"), change, on_call
        self.info = self.inner.info

    def encode(self, x: Tensor) -> Codes:
        self.left -= 1
        codes = self.inner.encode(x)
        return self.change(codes) if self.left <= 0 else codes

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        return self.inner.decode(codes, x)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        return self.inner.decoder_rows(latents)


def raises(codes: Codes) -> Codes:
    raise RuntimeError("out of luck")


def with_value(value: float) -> Callable[[Codes], Codes]:
    return lambda codes: codes._replace(values=torch.where(codes.indices % 3 == 0, value, codes.values))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (raises, "out of luck"),
        (with_value(float("nan")), "finite|NaN"),
        (with_value(float("inf")), "finite"),
    ],
    ids=["raises", "nan", "inf"],
)
@pytest.mark.parametrize("on_call", [7, 1, 6, 12])
@pytest.mark.slow
def test_an_sae_that_fails_is_an_error_and_the_others_go_on(change: Any, says: str, on_call: int) -> None:
    """Call 1 is the SAE's digest, 2 to 4 its self-check, 5 its controls, 6 the choice of latents, 7 the first batch."""
    given = settings_of(tiny(batch_tokens=48, controls="permuted"))
    bad, good = evaluate([Faulty(change, on_call), coder(0)], **given)
    assert (bad.status, bad.metrics) == ("error", {})
    assert re.search(says, str(bad.reason))
    alone = evaluate(coder(0), **given)[0]
    assert (good.metrics, good.controls, good.details) == (alone.metrics, alone.controls, alone.details)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_very_small_and_very_large_activations_are_firings(tmp_path: Path, scale: float) -> None:
    """They are kept in single precision, where these are 0 and infinite."""

    def scaled(codes: Codes) -> Codes:
        return codes._replace(values=codes.values * scale)

    _, whole = ruled(coder(1, name="faulty"), tmp_path / "plain", **tiny())
    result, tables = ruled(Faulty(scaled), tmp_path / "scaled", **tiny())
    assert result.status == "ok"
    assert_same_latents(whole["latent"], tables["latent"])


def test_an_sae_given_twice_has_the_same_figures_twice() -> None:
    """The codes are the same object's, and collected once."""
    sae = coder(0)
    one, other = evaluate({"one": sae, "other": sae}, **settings_of(tiny(controls="permuted")))
    assert one.metrics == other.metrics
    assert one.controls == other.controls


def test_an_sae_without_decoder_rows_given_twice_is_an_error_twice() -> None:
    class NoRows(Faulty):
        def decoder_rows(self, latents: Tensor) -> Tensor:
            raise RuntimeError("no rows")

    sae = NoRows(lambda codes: codes)
    for found in evaluate({"one": sae, "other": sae}, **settings_of(tiny())):
        assert (found.status, found.reason) == ("error", "RuntimeError: no rows")


def test_an_sae_without_latents_is_an_error() -> None:
    class Empty(Planted):
        def encode(self, x: Tensor) -> Codes:
            return codes_from_dense(x.new_zeros(len(x), 0))

    found = evaluate([Empty(name="empty"), Planted(on(7), on(5))], **settings_of({"tasks": f"{TASK},sparsity"}))
    assert [r.status for r in found if r.task == TASK] == ["error", "ok"]


# ---------------------------------------------------------------- the command line


@pytest.fixture
def files(tmp_path: Path) -> list[Any]:
    """Arguments of a run on a tiny model, ids and an SAE on disk."""
    tiny_gpt2().save_pretrained(tmp_path / "model")
    rows = np.random.default_rng(0).integers(1, 15, (80, 20))
    rows[:, 0] = 0
    np.save(tmp_path / "ids.npy", rows)
    write_native(tiny_coder("topk"), tmp_path / "sae", model=str(tmp_path / "model"), name="alive")
    return ["run", "--sae", tmp_path / "sae", "--data", tmp_path / "ids.npy", "--quiet", "--resamples", 20]


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("latents=1", "latents must be a whole number of at least 2, not 1"),
        ("latents=0", "latents must be a whole number of at least 2, not 0"),
        ("latents=many", "must be of type int"),
        ("latents=2.5", "must be of type int"),
        ("latents=true", "must be of type int"),
        ("fewest_firings=0", "fewest_firings must be a whole number of at least 1, not 0"),
        ("max_tokens=-1", "max_tokens must be a whole number of at least 0, not -1"),
        ("max_pairs=-1", "max_pairs must be a whole number of at least 0, not -1"),
        ("least_pair=0", "least_pair must be a whole number of at least 1, not 0"),
        ("most_density=0", "most_density must be a share above 0 and up to 1, not 0.0"),
        ("most_density=1.01", "most_density must be a share above 0 and up to 1, not 1.01"),
        ("most_density=nan", "most_density must be a share above 0 and up to 1"),
        ("most_density=inf", "most_density must be a share above 0 and up to 1"),
        ("latent=3", "did you mean 'latents'"),
    ],
)
def test_parameters_that_cannot_work_are_one_sentence(cli: Run, files: list[Any], parameter: str, says: str) -> None:
    code, out, error = cli(*files, "--tasks", TASK, "--param", f"{TASK}.{parameter}")
    assert (code, out) == (2, "")
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("runs").exists()


FEW = "latents that were asked for fire often enough"  # the tiny SAE has fewer than the task asks for


def test_an_sae_with_nothing_to_explain_fails_alone(cli: Run, files: list[Any], tmp_path: Path) -> None:
    """The other tasks on it, and the other SAE, have the figures that they have without it."""
    dead = tiny_coder("relu")
    assert dead.weights.b_enc is not None
    dead.weights.b_enc.fill_(-1e4)
    write_native(dead, tmp_path / "dead", model=str(tmp_path / "model"), name="dead")
    given = [*files, "--json", "--tasks", f"{TASK},sparsity", "--controls", "permuted,random"]
    code, out, error = cli(*given, "--sae", tmp_path / "dead", "--out", "both")
    assert code == 1
    assert f"sae-bench: dead, {TASK}: no latent is active often enough on the text" in error
    assert "give more text (--tier, --limit)" in error
    assert [line for line in error.strip().splitlines() if FEW not in line] == [error.strip().splitlines()[-1]]
    found = {(r["sae"], r["task"]): r for r in json.loads(out)["results"]}
    assert found["dead", TASK]["status"] == "error"
    assert not found["dead", TASK]["metrics"]
    assert found["dead", "sparsity"]["status"] == "ok"
    code, alone, _ = cli(*given, "--out", "alone")
    assert code == 0
    for one in json.loads(alone)["results"]:
        assert one == found[one["sae"], one["task"]]
    code, listed, _ = cli("show", "both")
    assert code == 0
    assert "no latent is active often enough" in listed


def test_a_control_with_nothing_to_explain_is_absent_and_no_error(cli: Run, files: list[Any]) -> None:
    code, out, error = cli(*files, "--json", "--tasks", TASK, "--controls", "identity,mean,random")
    assert (code, [said for said in complaints(error) if FEW not in said]) == (0, [])
    assert list(json.loads(out)["results"][0]["controls"]) == ["random"]


@pytest.mark.slow
def test_a_larger_tier_or_parameter_is_another_protocol(cli: Run, files: list[Any]) -> None:
    """Rules get better with more text, so these results must not stand in one column."""
    for more in ([], ["--tier", "smoke"], ["--param", f"{TASK}.latents=20"], ["--param", f"{TASK}.most_density=1"]):
        code, _, error = cli(*files, "--tasks", TASK, "--controls", "none", *more)
        assert (code, [said for said in complaints(error) if FEW not in said]) == (0, [])
    results = [store.read(file) for file in store.find(Path("runs"))]
    assert len({result.protocol for result in results}) == len(results) == 4
    assert {result.provenance.protocol.n_documents for result in results} > {32}


def test_show_prints_the_rules(cli: Run, tmp_path: Path) -> None:
    plants = [
        on(7),
        pair(4, 9),
        lambda t, b, u: (t == 12) & (b != 5),
        pair(0, 6),
        *(on(i, i + 1) for i in range(1, 11)),
    ]
    tokenizer = TinyTokenizer(decoded=lambda i: f" word{i}")
    given = {"tokenizer": tokenizer, "parameters": {f"{TASK}.least_pair": 3}}
    result, _ = ruled(Planted(*plants, *(on(i, i + 2) for i in range(1, 11))), tmp_path / "out", **given)
    code, out, error = cli("show", tmp_path / "out")
    assert (code, complaints(error)) == (0, [])
    lines = out.splitlines()
    density = {rule["latent"]: rule["density"] for rule in result.details["rules"]}
    head = next(i for i, line in enumerate(lines) if line.startswith("  latent ") and "AUPRC" in line)
    for latent, found in (
        (0, ['" word7"']),
        (1, ["no token alone", '" word4" " word9"']),
        (2, ['" word12"', '" word5" " word12"']),
        (3, ["no token alone", '" word0" " word6"']),
    ):
        (row,) = [line for line in lines[head + 2 : head + 22] if line.split()[0] == str(latent)]
        size = len([part for part in found if part != "no token alone"])
        assert row.split()[1:7] == [number(density[latent]), "1", "1", "1", "1", str(size)]
        assert re.sub(" {2,}", "  ", row).endswith("  " + "  ".join(found))
    assert "  latents: 24" in lines
    assert lines[head + 22] == "  and 4 more (--json shows them)"
    code, out, _ = cli("show", tmp_path / "out", "--json")
    assert code == 0
    assert len(json.loads(out)["results"][0]["details"]["rules"]) == 24


HOSTILE = [
    "\x1b[2J\x1b[31mred",
    "\nfake row  0.01",
    "\r\x07\x08over",
    '\x9b31m"quoted\\',
    "\u202eright to left\u2028",
    "\x7f\x00",
]


def test_token_texts_cannot_write_to_the_terminal(cli: Run, tmp_path: Path) -> None:
    """A tokenizer is a file from elsewhere."""
    tokenizer = TinyTokenizer(decoded=lambda i: f"{i}{HOSTILE[i % len(HOSTILE)]}")
    plants = [*(on(i, i + 1) for i in range(1, 12)), pair(4, 9), pair(0, 6)]
    result, _ = ruled(Planted(*plants), tmp_path / "out", tokenizer=tokenizer)
    shown = {token for rule in result.details["rules"] for token in rule["tokens"]}
    assert any("\x1b[2J" in token for token in shown)
    assert any("\u202e" in token for token in shown)
    code, out, error = cli("show", tmp_path / "out")
    assert (code, complaints(error)) == (0, [])
    assert all(c.isprintable() or c == "\n" for c in out)
    assert not [line for line in out.splitlines() if line.startswith("fake row")]
    assert len([line for line in out.splitlines() if line.startswith("  latent ")]) == 13


def test_the_card_is_shown(cli: Run) -> None:
    code, out, error = cli("show", TASK)
    assert (code, complaints(error)) == (0, [])
    assert "More is not simply better" in out
    assert "rule_f1_null" in out
