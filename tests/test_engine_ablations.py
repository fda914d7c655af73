"""The pass over ablations: what is sampled, that figures do not depend on how work is cut up, and the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st

from sae_bench.api import Session, evaluate
from sae_bench.data.tokens import TokenSet
from sae_bench.results import store
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.protocol import Codes
from sae_bench.saes.weights import Weights
from sae_bench.session.run import measure
from sae_bench.settings import Settings
from sae_bench.streams import outputs
from sae_bench.streams.captures import sampled_sequences
from sae_bench.units import Units
from tests.builders.ablations import HOOK, TASK, ablated, documents_of, module_of, passed, places
from tests.builders.marks import slow_but
from tests.builders.said import complaints
from tests.builders.tiny_models import VOCAB, TinyTokenizer, number_texts, tiny_gpt2, tiny_llama
from tests.builders.tiny_saes import LATENTS, coder_of, tiny_coder, tiny_rule, tiny_weights, write_native
from tests.conftest import Run

TEXTS = number_texts(16, seed=1)
# what differs with the shape of a matrix product, as rounding does
ROUNDING = {"noise_l2_squared", "noise_token_l2_squared", "scored", "token_scored", "paired"}


def assert_same_rows(one: Units, other: Units, relative: float = 1e-8, skip: set[str] = ROUNDING) -> None:
    """The same ablations with the same sums; in float64 what is left is rounding."""
    assert one.ids == other.ids
    for name in set(one.columns) - skip:
        np.testing.assert_allclose(one.columns[name], other.columns[name], rtol=relative, atol=1e-12, err_msg=name)


def in_common(one: Units, other: Units) -> tuple[Units, Units]:
    """The rows of the documents that both have."""
    both = {p[0] for p in places(one)} & {p[0] for p in places(other)}
    kept = [t.select([i for i, p in enumerate(places(t)) if p[0] in both]) for t in (one, other)]
    return kept[0], kept[1]


# ---------------------------------------------------------------- what is sampled


@for_all(
    sequences=st.lists(st.integers(1, 4), min_size=1, max_size=12),
    seed=st.integers(0, 1000),
    n=st.integers(0, 12),
)
def test_fewer_documents_are_a_part_of_more_and_each_gives_one_sequence(
    sequences: list[int], seed: int, n: int
) -> None:
    units = np.repeat(np.arange(len(sequences)), sequences).astype(np.int32)
    ids = np.arange(2 * len(units), dtype=np.int32)
    tokens = TokenSet(ids, np.arange(len(units) + 1) * 2, units, tuple(f"document {i}" for i in range(len(sequences))))
    few, more, everything = (sampled_sequences(tokens, k, seed) for k in (n, n + 1, None))
    assert set(few) <= set(more) <= set(everything)
    assert len(few) == min(n, len(sequences))
    assert [int(units[i]) for i in everything] == list(range(len(sequences)))


def test_a_long_document_is_ablated_in_one_of_its_sequences(tmp_path: Path) -> None:
    """Else a book would count as much as a library; a run of more documents takes the same one."""
    texts = number_texts(20, shortest=40, longest=60, seed=2)
    coder = tiny_coder("topk", dtype=torch.float64)
    result, tables = ablated(coder, tmp_path, data=texts, context=16)
    in_document: dict[str, set[int]] = {}
    for document, position, _ in places(tables["ablation"]):
        in_document.setdefault(document, set()).add(position)
    assert all(len(positions) <= 4 and max(positions) < 16 for positions in in_document.values())
    assert result.details["documents"] == len(in_document) == result.provenance.protocol.n_documents
    assert result.provenance.n_tokens <= 16 * len(in_document)


@pytest.mark.parametrize("mask", slow_but(1, ["special", "none"]))
def test_rows_are_few_different_and_at_active_latents_inside_the_mask(tmp_path: Path, mask: str) -> None:
    coder = tiny_coder("relu", dtype=torch.float64)
    texts = [text.replace(" ", " 0 ", 1) for text in TEXTS]  # a special token in every document
    parameters = {f"{TASK}.positions": 6, f"{TASK}.latents": 3}
    result, tables = ablated(coder, tmp_path, data=texts, mask=mask, parameters=parameters)
    table, documents = tables["ablation"], documents_of(texts)
    assert len(set(table.ids)) == len(table) == result.details["ablations"]
    assert (table.columns["value"] != 0).all()
    of_place: dict[tuple[str, int], set[int]] = {}
    for document, position, latent in places(table):
        of_place.setdefault((document, position), set()).add(latent)
    assert max(map(len, of_place.values())) == 3
    per_document = [sum(d == document for d, _ in of_place) for document in {d for d, _ in of_place}]
    assert max(per_document) == 6
    special = [int(documents[d][p]) == 0 for d, p in of_place]
    assert any(special) == (mask == "none")
    model = tiny_gpt2().double()
    for (document, position), latents in list(of_place.items())[:20]:
        x = passed(model, documents[document], module_of(model, HOOK))[1]
        active = coder.encode(x[position : position + 1]).indices.tolist()
        assert latents <= set(active)
        assert len(latents) == min(3, len(active))  # a position with few active latents has all of them


@pytest.mark.slow
def test_the_seed_changes_the_sample(tmp_path: Path) -> None:
    coder = tiny_coder("topk", dtype=torch.float64)
    one, other = (ablated(coder, tmp_path, seed=seed, mean_from="evaluation")[1]["ablation"] for seed in (0, 1))
    assert {p[0] for p in places(one)} == {p[0] for p in places(other)}
    assert {p[:2] for p in places(one)} != {p[:2] for p in places(other)}
    again = ablated(coder, tmp_path, seed=0, mean_from="evaluation", overwrite="always")[1]["ablation"]
    assert again.ids == one.ids


@pytest.mark.slow
def test_fewer_documents_give_the_same_rows(tmp_path: Path) -> None:
    coder = tiny_coder("topk", dtype=torch.float64)
    whole = ablated(coder, tmp_path / "whole", data=TEXTS)[1]["ablation"]
    for given in ({"limit": 5}, {"tier": "smoke"}, {"tier": "smoke", "limit": 12}):
        result, tables = ablated(coder, tmp_path / "part", data=TEXTS, **given)
        part, same = in_common(tables["ablation"], whole)
        assert len(part) == len(tables["ablation"]) < len(whole)
        assert_same_rows(part, same)
        assert result.provenance.protocol.n_documents == min(given.get("limit", 8), 8)


@pytest.mark.parametrize("base", ["reconstruction", "activation"])
@pytest.mark.slow
def test_no_row_changes_with_the_batch_size(tmp_path: Path, base: str) -> None:
    given: dict[str, Any] = {"data": TEXTS, "controls": "permuted", "parameters": {f"{TASK}.base": base}, "limit": 6}
    coder = tiny_coder("relu", dtype=torch.float64)
    (first, one), (second, many) = (ablated(coder, tmp_path / str(n), batch_tokens=n, **given) for n in (1, 100_000))
    assert_same_rows(one["ablation"], many["ablation"])
    np.testing.assert_allclose(one["latent"].columns["density"], many["latent"].columns["density"])
    for control in first.controls:
        for name, metric in first.controls[control].items():
            expected = None if metric.value is None else pytest.approx(metric.value, rel=1e-8)
            assert second.controls[control][name].value == expected, (control, name)
    for a, b in zip(first.details["outputs"], second.details["outputs"], strict=True):
        assert a["promoted"] == b["promoted"]
        assert a["positions"] == b["positions"]


@pytest.mark.slow
def test_saes_at_two_hook_points_at_once_are_two_runs(tmp_path: Path) -> None:
    """Their ablations share keys and values of the model, and nothing else."""
    saes = [
        coder_of(
            tiny_weights(seed=i, storage=torch.float64), tiny_rule(), dtype=torch.float64, name=f"sae {i}",
            hooks_in=(hook,), hooks_out=(hook,),
        )
        for i, hook in enumerate((HOOK, "blocks.0.hook_resid_post", HOOK))
    ]  # fmt: skip
    given: dict[str, Any] = {"data": TEXTS, "tier": "smoke", "controls": "identity,permuted"}
    ablated(saes, tmp_path, **given)
    files = {store.read(file).sae.name: file for file in store.find(tmp_path)}
    assert len(files) == 3
    for sae in saes:
        alone, tables = ablated(sae, tmp_path / "alone", **given)
        assert_same_rows(store.read_units(files[sae.info.name])["ablation"], tables["ablation"])
        beside = store.read(files[sae.info.name])
        for name in ("all_channels", "random_directions", "identity", "permuted"):
            value = alone.controls[name]["effect_sparsity"].value
            assert beside.controls[name]["effect_sparsity"].value == pytest.approx(value, rel=1e-8), name


# ---------------------------------------------------------------- what must change nothing


@pytest.mark.parametrize("activation", ["topk", "relu", "jumprelu", "gated"])
@pytest.mark.slow
def test_the_order_of_latents_changes_nothing(tmp_path: Path, activation: str) -> None:
    weights = tiny_weights(activation, storage=torch.float64)
    order = torch.randperm(LATENTS, generator=torch.Generator().manual_seed(3))
    moved = Weights(
        **{
            name: tensor[:, order] if name == "W_enc" else tensor if name == "b_dec" else tensor[order]
            for name, tensor in weights.items()
        }
    )
    rule = tiny_rule(activation)
    plain, permuted = (
        ablated(coder_of(w, rule, dtype=torch.float64), tmp_path / name, data=TEXTS, limit=8)
        for name, w in (("plain", weights), ("permuted", moved))
    )
    rename = {int(old): new for new, old in enumerate(order)}
    table = plain[1]["ablation"]
    expected = {(d, p, rename[latent]): row for row, (d, p, latent) in enumerate(places(table))}
    other = permuted[1]["ablation"]
    assert set(places(other)) == set(expected)
    rows = [expected[place] for place in places(other)]
    for name in set(table.columns) - ROUNDING - {"latent"}:
        np.testing.assert_allclose(other.columns[name], table.columns[name][rows], rtol=1e-9, atol=1e-13)
    outputs = {rename[one["latent"]]: one for one in plain[0].details["outputs"]}
    for one in permuted[0].details["outputs"]:
        assert one["promoted"] == outputs[one["latent"]]["promoted"]
        assert one["direct_suppressed"] == outputs[one["latent"]]["direct_suppressed"]
    for name, metric in plain[0].metrics.items():
        assert permuted[0].metrics[name].value == pytest.approx(metric.value, rel=1e-12)


@pytest.mark.slow  # as the order of latents
def test_the_scale_of_latents_changes_nothing_but_their_values(tmp_path: Path) -> None:
    """What is taken away is f_i d_i, and latents are drawn by its size: f_i twice and d_i half is the same."""
    w = tiny_weights("relu", storage=torch.float64)
    scale = 0.2 + 5 * torch.rand(LATENTS, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert w.b_enc is not None
    scaled = Weights(w.W_enc * scale, w.W_dec / scale[:, None], w.b_dec, w.b_enc * scale)
    one, other = (
        ablated(coder_of(x, tiny_rule("relu"), dtype=torch.float64), tmp_path / name, data=TEXTS, limit=8)[1]
        for name, x in (("plain", w), ("scaled", scaled))
    )
    assert_same_rows(one["ablation"], other["ablation"], skip=ROUNDING | {"value"})
    by_latent = scale.numpy()[one["ablation"].columns["latent"].astype(int)]
    np.testing.assert_allclose(other["ablation"].columns["value"], by_latent * one["ablation"].columns["value"])


@pytest.mark.parametrize("backend", slow_but(1, ["hf", "tl"]))
def test_padded_rows_of_the_vocabulary_are_left_out(tmp_path: Path, backend: str) -> None:
    """Models pad their output to a round size; those logits move too, and belong to no token."""
    found = []
    for factor in (1.0, 1e3):
        model = tiny_llama().double()
        with torch.no_grad():
            model.lm_head.weight[40:] *= factor
        coder = tiny_coder("topk", dtype=torch.float64)
        given = {"model": model, "tokenizer": TinyTokenizer(40), "data": number_texts(12, vocab=40)}
        found.append(ablated(coder, tmp_path / str(factor), backend=backend, **given))
    (result, tables), (_, other) = found
    assert_same_rows(tables["ablation"], other["ablation"])
    assert (tables["ablation"].columns["entries"] == 40 * tables["ablation"].columns["tokens"]).all()
    assert result.details["vocabulary"] == 40
    assert result.provenance.protocol.parameters == {"vocabulary": 40}
    shown = [entry["id"] for one in found[1][0].details["outputs"] for entry in (*one["promoted"], *one["suppressed"])]
    assert max(shown) < 40


# ---------------------------------------------------------------- what stands beside a score


def test_random_directions_are_as_long_and_at_the_same_places(tmp_path: Path) -> None:
    coder = tiny_coder("relu", dtype=torch.float64)
    settings = Settings(
        model=tiny_gpt2().double(), data=TEXTS, tokenizer=TinyTokenizer(), tasks=TASK, dtype="float64",
        controls="none", tier="smoke",
    )  # fmt: skip
    session = Session(coder, settings)
    entries = [work.entry for work in session.work]
    measured = measure(session.subject, session.inputs, entries, session.tasks)
    reader, task = measured.readers[TASK], session.tasks[TASK]
    own, beside = reader.tables(task, entries[0])["ablation"], reader.references(task, entries[0])
    turned = beside["random_directions"]["ablation"]
    assert_same_rows(own, turned, skip=set(own.columns) - {"norm", "position", "latent", "value", "tokens"})
    assert np.isclose(own.columns["l1"], turned.columns["l1"], rtol=1e-3).mean() < 0.02
    channels = beside["all_channels"]["ablation"]
    assert {p[:2] for p in places(channels)} == {p[:2] for p in places(own)}
    documents, model, means = documents_of(TEXTS), tiny_gpt2().double(), {}
    for row, (document, position, channel) in enumerate(places(channels)):
        x = passed(model, documents[document], module_of(model, HOOK))[1][position, channel]
        means.setdefault(channel, []).append(float(x) - channels.columns["value"][row])
        assert channels.columns["norm"][row] == pytest.approx(abs(channels.columns["value"][row]))
    assert max(np.ptp(values) for values in means.values()) < 1e-12  # a channel is moved to its mean over other text


def test_anchors_and_controls(tmp_path: Path) -> None:
    coder = tiny_coder("relu", dtype=torch.float64)
    result, _ = ablated(coder, tmp_path, data=TEXTS, tier="smoke", controls="all")
    assert {"gaussian", "all_channels", "random_directions", "identity", "permuted", "random"} <= set(result.controls)
    assert "mean" not in result.controls  # it has no latent that could be ablated
    gain = {control: of.pop("effect_sparsity_token_gain", None) for control, of in result.controls.items()}
    assert result.controls["all_channels"] == result.controls["identity"]
    for name in ("effect_sparsity", "effect_sparsity_token"):
        gaussian = result.controls["gaussian"][name]
        assert (gaussian.value, gaussian.n_units) == (pytest.approx(2 / np.pi, abs=1e-15), 0)
    assert set(result.controls["gaussian"]) == {"effect_sparsity", "effect_sparsity_token"}
    assert all(metric.value is not None for of in result.controls.values() for metric in of.values())
    assert gain["all_channels"] is gain["random_directions"] is None
    assert "SAEs have one, controls none" in str(gain["permuted"].reason)


def test_a_transcoder_has_no_identity_and_all_channels_of_what_it_predicts(tmp_path: Path) -> None:
    coder = tiny_coder("topk", dtype=torch.float64, hook="blocks.1.mlp.hook_in", hook_out="blocks.1.hook_mlp_out")
    result, _ = ablated(coder, tmp_path, controls="default")
    assert result.status == "ok"
    assert "identity" not in result.controls
    assert result.controls["all_channels"]["effect_sparsity"].value is not None


def test_a_permuted_decoder_loses_the_same_latents(tmp_path: Path) -> None:
    """Else the control would differ from the SAE in what is sampled too, and not in its directions alone."""
    coder = tiny_coder("relu", dtype=torch.float64)  # rows of unequal norm
    _, tables = ablated(coder, tmp_path, data=TEXTS, limit=8, controls="permuted")
    own, control = tables["ablation"], tables["control/permuted/ablation"]
    assert control.ids == own.ids
    assert "value" not in control.columns  # equal columns are stored once
    assert not np.isclose(control.columns["l1"], own.columns["l1"], rtol=1e-3).all()


# ---------------------------------------------------------------- a run that is cut short


class Killed(BaseException):
    """Stands for the end of the process."""


def files_of(folder: Path) -> dict[Path, bytes]:
    return {f.relative_to(folder): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize(
    ("phase", "kill_at"),
    [("ablations", 3), ("evaluation", 1), ("ablations, first pass", 2), ("ablations", 0)],
)
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, phase: str, kill_at: int) -> None:
    """The folder of a run is copied at each step, as a kill there would leave it; going on gives the same files."""
    settings: dict[str, Any] = {
        "model": tiny_gpt2(), "data": TEXTS, "tokenizer": TinyTokenizer(), "tasks": f"sparsity,{TASK}",
        "resamples": 20, "batch_tokens": 48, "checkpoint_seconds": 0, "tier": "smoke", "controls": "permuted,identity",
    }  # fmt: skip

    def saes() -> list[LinearCoder]:
        return [coder_of(tiny_weights(seed=i), tiny_rule(), name=f"sae {i}") for i in range(2)]

    def kill(what: str, done: int, total: int) -> None:
        if (what, done) == (phase, kill_at):
            assert total > kill_at
            shutil.copytree(tmp_path / "first", tmp_path / "killed")
            raise Killed

    evaluate(saes(), out=tmp_path / "whole", **settings)
    with pytest.raises(Killed):
        evaluate(saes(), out=tmp_path / "first", progress=kill, **settings)
    steps: list[tuple[str, int]] = []
    evaluate(saes(), out=tmp_path / "killed", progress=lambda what, done, _: steps.append((what, done)), **settings)
    if phase == "ablations":
        assert next(done for what, done in steps if what == "ablations") == kill_at
    whole, resumed = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert len(whole) == 2 * (2 * 2 + 1)
    assert resumed.keys() == whole.keys()
    for name, content in whole.items():
        assert resumed[name] == content, name


class Raises:
    """Fails from the n-th call of a method on."""

    def __init__(self, inner: LinearCoder, method: str, on_call: int) -> None:
        self.inner, self.info, self.method, self.left = inner, inner.info, method, on_call

    def _count(self, method: str) -> None:
        self.left -= method == self.method
        if method == self.method and self.left <= 0:
            raise RuntimeError("out of luck")

    def encode(self, x: torch.Tensor) -> Codes:
        self._count("encode")
        return self.inner.encode(x)

    def decode(self, codes: Codes, x: torch.Tensor | None = None) -> torch.Tensor:
        self._count("decode")
        return self.inner.decode(codes, x)

    def decoder_rows(self, latents: torch.Tensor) -> torch.Tensor:
        self._count("decoder_rows")
        return self.inner.decoder_rows(latents)


@pytest.mark.parametrize(
    ("method", "on_call", "base"),
    [
        ("decode", 3, "reconstruction"),
        ("encode", 11, "activation"),  # in the second pass
        ("decoder_rows", -1, "activation"),  # the last call: outputs are put together, after all ablations
        ("encode", 3, "activation"),  # in the first pass
        ("encode", 10, "reconstruction"),
        ("decoder_rows", 2, "activation"),  # the norms of all directions
        ("decoder_rows", 10, "activation"),
    ],
)
@pytest.mark.slow
def test_an_sae_that_raises_is_an_error_and_the_others_go_on(method: str, on_call: int, base: str) -> None:
    settings: dict[str, Any] = {
        "model": tiny_gpt2().double(), "data": TEXTS, "tokenizer": TinyTokenizer(), "tasks": TASK, "dtype": "float64",
        "resamples": 20, "batch_tokens": 48, "tier": "smoke", "controls": "permuted",
        "parameters": {f"{TASK}.base": base, f"{TASK}.positions": 2, f"{TASK}.horizon": 4},
    }  # fmt: skip

    def coder(seed: int) -> LinearCoder:
        weights = tiny_weights(seed=seed, storage=torch.float64)
        return coder_of(weights, tiny_rule(), dtype=torch.float64, name=f"sae {seed}")

    alone = evaluate(coder(0), **settings)[0]
    if on_call < 0:
        whole = Raises(coder(1), method, 10**6)
        evaluate([whole, coder(0)], **settings)
        on_call += 10**6 - whole.left + 1
    bad, good = evaluate([Raises(coder(1), method, on_call), coder(0)], **settings)
    assert (bad.status, bad.metrics) == ("error", {})
    assert "out of luck" in str(bad.reason)
    assert good.status == "ok"
    assert good.details == alone.details
    assert good.metrics == alone.metrics
    assert good.controls == alone.controls


@pytest.mark.parametrize("number", slow_but(1, [float("nan"), float("inf")]))
def test_a_direction_that_is_not_finite_is_an_error_and_not_an_effect_below_noise(number: float) -> None:
    """A comparison with NaN is false: the ablation would be passed over, and the figure be that of the others."""
    coder = tiny_coder("topk", dtype=torch.float64)
    settings: dict[str, Any] = {"model": tiny_gpt2().double(), "data": TEXTS, "tokenizer": TinyTokenizer()}
    settings |= {"tasks": TASK, "dtype": "float64", "resamples": 20, "tier": "smoke", "controls": "none"}
    latent = evaluate(coder, **settings)[0].details["outputs"][0]["latent"]
    coder.weights.W_dec[latent, 3] = number
    found = evaluate(coder, **settings)[0]
    assert (found.status, found.metrics) == ("error", {})
    assert "NaN or infinite" in str(found.reason)


@pytest.mark.slow
def test_a_run_goes_on_after_a_kill_behind_the_failure_of_an_sae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many outputs are kept depends on how many SAEs there are, not on how many are left."""
    monkeypatch.setattr(outputs, "OUTPUT_BYTES", 8 * VOCAB * 20)
    settings: dict[str, Any] = {
        "model": tiny_gpt2(), "data": TEXTS, "tokenizer": TinyTokenizer(), "tasks": TASK, "resamples": 20,
        "batch_tokens": 48, "checkpoint_seconds": 0, "tier": "smoke", "controls": "none",
    }  # fmt: skip

    def saes() -> list[Any]:
        one, other = (coder_of(tiny_weights(seed=i), tiny_rule(), name=f"sae {i}") for i in range(2))
        return [one, Raises(other, "encode", 11)]

    def kill(what: str, done: int, total: int) -> None:
        if (what, done) == ("ablations", 3):
            raise Killed

    whole = evaluate(saes(), **settings)
    assert [result.status for result in whole] == ["ok", "error"]
    assert len(whole[0].details["outputs"]) == 10
    with pytest.raises(Killed):
        evaluate(saes(), out=tmp_path, progress=kill, **settings)
    resumed = evaluate(saes(), out=tmp_path, **settings)
    assert [result.status for result in resumed] == ["ok", "error"]
    assert resumed[0].details == whole[0].details
    assert resumed[0].metrics == whole[0].metrics


def test_text_of_special_tokens_only_is_a_reason_and_no_crash() -> None:
    """A document of BOS and EOS alone has no position inside the mask."""
    rows = np.random.default_rng(0).integers(2, VOCAB, (20, 8))
    rows[0] = [0, 1] * 4
    model = tiny_gpt2(eos_token_id=1, pad_token_id=None)
    given: dict[str, Any] = {"model": model, "data": rows, "limit": 1, "controls": "none", "resamples": 20}
    assert Session(tiny_coder("topk"), Settings(**given)).inputs.corpus.evaluation.ids.max() == 1
    found = evaluate(tiny_coder("topk"), tasks=TASK, **given)[0]
    assert found.status == "error"
    assert "no latent is active" in str(found.reason)


# ---------------------------------------------------------------- the command line


@pytest.fixture
def files(tmp_path: Path) -> list[Any]:
    """Arguments of a run on a tiny model, ids and an SAE on disk."""
    tiny_gpt2().save_pretrained(tmp_path / "model")
    rows = np.random.default_rng(0).integers(1, VOCAB, (16, 20))
    rows[:, 0] = 0
    np.save(tmp_path / "ids.npy", rows)
    write_native(tiny_coder("topk"), tmp_path / "sae", model=str(tmp_path / "model"))
    common = ["run", "--sae", tmp_path / "sae", "--data", tmp_path / "ids.npy", "--quiet", "--resamples", 20]
    return [*common, "--tasks", TASK, "--json"]


AT_MOST = "ablations, at most"
WHOLE = "hook points where each ablation is a run over the whole sequence"


@pytest.mark.parametrize(
    ("controls", "base", "backend"),
    slow_but(
        1,
        [
            ("default", "reconstruction", "hf"),
            ("none", "activation", "tl"),
            ("none", "activation", "hf"),
            ("none", "reconstruction", "hf"),
            ("default", "activation", "hf"),
        ],
    ),
)
def test_the_cost_is_said_before_and_bounds_the_run(
    cli: Run, files: list[Any], controls: str, base: str, backend: str
) -> None:
    few = [f"{TASK}.base={base}", f"{TASK}.positions=2", f"{TASK}.latents=1", f"{TASK}.horizon=4"]
    given = [*files, "--tier", "smoke", "--controls", controls, "--backend", backend]
    given += [part for one in few for part in ("--param", one)]
    code, out, _ = cli(*given, "--dry-run")
    assert code == 0
    forecast = json.loads(out)
    assert forecast["documents with ablations"] == 8
    assert forecast["tokens of the rest of the model, an ablation"] == (4 if backend == "hf" else 20)
    assert forecast.get(WHOLE) == (None if backend == "hf" else [HOOK])
    code, _, error = cli(*given)
    assert (code, complaints(error)) == (0, [])
    counters = store.read(next(iter(store.find(Path("runs"))))).provenance.counters
    made = counters.get("ablation_cached", 0) + counters.get("ablation_full", 0)
    assert made == counters["ablation_cached" if backend == "hf" else "ablation_full"]
    assert 0.5 * forecast[AT_MOST] < made <= forecast[AT_MOST]


def test_the_cost_is_printed_before_a_run(cli: Run, files: list[Any]) -> None:
    few = ("--tier", "smoke", "--param", f"{TASK}.positions=2", "--param", f"{TASK}.latents=1")
    _, _, error = cli(*(a for a in files if a != "--quiet"), "--controls", "none", "--backend", "tl", *few)
    assert AT_MOST in error
    assert WHOLE in error
    assert error.index(AT_MOST) < error.index("ablations, first pass")


@pytest.mark.parametrize(
    ("parameter", "says"),
    [
        ("horizon=0", "horizon must be a whole number of at least 1, not 0"),
        ("positions=-4", "positions must be a whole number of at least 1"),
        ("latents=true", "must be of type int"),
        ("base=nonsense", "base must be one of activation, reconstruction, not 'nonsense'"),
        ("centre=mean", "centre must be one of median, none"),
        ("noise_factor=-1", "noise_factor must be a number of at least 0, not -1"),
        ("noise_factor=nan", "noise_factor must be a number of at least 0"),
        ("noise_factor=inf", "noise_factor must be a number of at least 0"),
        ("horizn=4", "did you mean 'horizon'"),
    ],
)
def test_parameters_that_cannot_work_are_one_sentence(cli: Run, files: list[Any], parameter: str, says: str) -> None:
    code, out, error = cli(*files, "--param", f"{TASK}.{parameter}")
    assert (code, out) == (2, "")
    assert says in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("runs").exists()


def test_an_sae_without_active_latents_fails_alone(cli: Run, files: list[Any], tmp_path: Path) -> None:
    """The other tasks on it, and the other SAE, have the figures that they have without it."""
    dead = tiny_coder("relu")
    assert dead.weights.b_enc is not None
    dead.weights.b_enc.fill_(-1e4)
    write_native(dead, tmp_path / "dead", model=str(tmp_path / "model"), name="dead")
    given = [*files[:-3], "--json", "--tasks", f"{TASK},sparsity,reconstruction", "--controls", "identity,permuted"]
    given += ["--tier", "smoke", "--param", f"{TASK}.positions=2"]
    code, out, error = cli(*given, "--sae", tmp_path / "dead", "--out", "both")
    assert code == 1
    assert f"sae-bench: dead, {TASK}: no latent is active at any of the sampled positions" in error
    assert "sae-bench: reconstruction of dead: fvu says nothing about the latents" in error
    assert len(error.strip().splitlines()) == 2
    found = {(r["sae"], r["task"]): r for r in json.loads(out)["results"]}
    assert found["dead", TASK]["status"] == "error"
    assert not found["dead", TASK]["metrics"]
    assert found["dead", "sparsity"]["status"] == found["dead", "reconstruction"]["status"] == "ok"
    assert found["dead", "sparsity"]["metrics"]["l0"]["value"] == 0
    code, alone, _ = cli(*given, "--out", "alone")
    assert code == 0
    for one in json.loads(alone)["results"]:
        assert one == found[one["sae"], one["task"]]
    code, listed, _ = cli("show", "both")
    assert code == 0
    assert "no latent is active" in listed


HOSTILE = {
    1: "\x1b[2J\x1b[31mred",
    2: "\nfake row  0.01",
    3: "\r\x07\x08over",
    4: '\x9b31m"quoted\\',
    5: "\u202eright to left\u2028",
    6: "\x7f\x00",
}


def test_token_texts_cannot_write_to_the_terminal(cli: Run, tmp_path: Path) -> None:
    """A tokenizer is a file from elsewhere."""
    tokenizer = TinyTokenizer(decoded=lambda i: f"{i}{HOSTILE[1 + i % 6]}")
    coder = tiny_coder("topk", dtype=torch.float64, n_latents=40)
    result, _ = ablated(coder, tmp_path / "out", tokenizer=tokenizer)
    tokens = {entry["token"] for one in result.details["outputs"] for entry in one["promoted"]}
    assert any("\x1b[2J" in token for token in tokens)
    assert any("\u202e" in token for token in tokens)
    code, out, error = cli("show", tmp_path / "out")
    assert (code, complaints(error)) == (0, [])
    assert all(c.isprintable() or c == "\n" for c in out)
    assert not [line for line in out.splitlines() if line.startswith("fake row")]
    shown = result.details["outputs"][0]
    line = next(line for line in out.splitlines() if line.startswith(f"  latent {shown['latent']}: "))
    below = "".join(out.splitlines()[out.splitlines().index(line) + 1 :][:3])
    assert below.startswith("    promotes: ")
    for side in ("promoted", "direct_promoted"):
        assert f"{shown[side][0]['logit']:+.2g}" in below
    assert f"positions {shown['positions']}" in line
    table = [line for line in out.splitlines() if line.startswith("  norm of what was taken away")]
    assert len(table) == 1
