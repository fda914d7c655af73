"""Sparsity of downstream effects: cases with a known score, an independent slow loop, and what a user is shown."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import Tensor

from sae_bench.models.unembedding import direct_logits
from sae_bench.saes.linear import LinearCoder
from sae_bench.saes.weights import Weights
from sae_bench.schema import Result
from sae_bench.units import Units
from tests.builders.ablations import HOOK, MLP, TASK, ablated, documents_of, module_of, passed, places
from tests.builders.marks import slow_but
from tests.builders.tiny_models import VOCAB, WIDTH, TinyTokenizer, linear_llama, number_texts, tiny_gpt2, tiny_llama
from tests.builders.tiny_saes import coder_of, tiny_coder, tiny_rule

HORIZON = 16
NOISE = 6e14  # times rounding in float64: some effects of a tiny model stand out of it and some do not


# ---------------------------------------------------------------- the slow loop


def by_hand(coder: LinearCoder, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Dense latents ``[tokens, n]``, the scale of each token ``[tokens, 1]``, and the reconstruction."""
    w, rule = coder.weights, coder.rule
    scale, mean = torch.ones(len(x), 1, dtype=x.dtype), torch.zeros(len(x), 1, dtype=x.dtype)
    u = x
    if rule.normalise == "layer_norm":
        scale, mean = x.std(1, keepdim=True), x.mean(1, keepdim=True)
        u = (x - mean) / (scale + 1e-5)
    if rule.apply_b_dec_to_input:
        u = u - w.b_dec
    assert w.b_enc is not None
    pre = u @ w.W_enc + w.b_enc
    signed = rule.activation == "abstopk"
    if rule.k is not None:
        kept = (pre.abs() if signed else pre).topk(rule.k, dim=1).indices
        pre = torch.zeros_like(pre).scatter(1, kept, pre.gather(1, kept))
    f = pre if signed else pre.relu()
    return f, scale, (f @ w.W_dec + w.b_dec) * scale + mean


def slow(
    model: Any, coder: LinearCoder, ids: Tensor, position: int, latent: int, *, vocabulary: int = VOCAB, **given: Any
) -> dict[str, Any]:
    """One ablation by two full passes. ``base``: "reconstruction" puts it at all tokens but those of id 0."""
    read, write = (module_of(model, hooks[0]) for hooks in (coder.info.hooks_in, coder.info.hooks_out))
    f, scale, reconstruction = by_hand(coder, passed(model, ids, read)[1])
    start = passed(model, ids, write)[1]
    if given.get("base") == "reconstruction":
        start = torch.where((ids != 0)[:, None], reconstruction, start)
    removed = f[position, latent] * coder.weights.W_dec[latent] * scale[position]
    after = start.clone()
    after[position] -= removed
    clean, changed = (
        passed(model, ids, write, lambda _, x=x: x)[0][position : position + HORIZON, :vocabulary].numpy()
        for x in (start, after)
    )
    difference = changed - clean
    d = difference - np.median(difference, axis=1, keepdims=True)
    l1, l2_squared = np.abs(d).sum(), (d**2).sum()
    return {
        "tokens": len(d),
        "entries": d.size,
        "l1": l1,
        "l2_squared": l2_squared,
        "sparsity": l1**2 / (l2_squared * d.size),
        "token_share": np.abs(d[0]).sum() ** 2 / ((d[0] ** 2).sum() * vocabulary),
        "token_l1": np.abs(d[0]).sum(),
        "token_l2_squared": (d[0] ** 2).sum(),
        "kl": rel_entr(softmax(clean, axis=1), softmax(changed, axis=1)).sum(),
        "value": float(f[position, latent]),
        "norm": float(removed.norm()),
        "output": -d[0],
    }


CASES: dict[str, tuple[Callable[..., Any], dict[str, Any], dict[str, Any]]] = {
    "relu": (tiny_gpt2, {"activation": "relu"}, {}),
    "on reconstruction": (tiny_llama, {"activation": "topk"}, {"base": "reconstruction"}),
    "transcoder": (tiny_llama, {"activation": "topk", **MLP}, {}),
    "transcoder on reconstruction": (tiny_gpt2, {"activation": "relu", **MLP}, {"base": "reconstruction"}),
    "signed": (tiny_llama, {"activation": "abstopk"}, {}),
    "scaled by the token": (tiny_gpt2, {"activation": "topk", "normalise": "layer_norm"}, {}),
    "scaled, on reconstruction": (
        tiny_llama,
        {"activation": "topk", "normalise": "layer_norm"},
        {"base": "reconstruction"},
    ),
}


FIRST = sorted(CASES, key=("relu", "scaled, on reconstruction").__contains__, reverse=True)
ON_BOTH = [
    ("transcoder", "tl"),
    *(
        pytest.param(case, "tl", marks=pytest.mark.slow)
        for case in ("relu", "on reconstruction", "scaled, on reconstruction")
    ),
]


@pytest.mark.parametrize(("case", "backend"), [*slow_but(1, ((c, "hf") for c in FIRST)), *ON_BOTH])
def test_every_ablation_is_that_of_two_full_passes(case: str, backend: str, tmp_path: Path) -> None:
    make, options, given = CASES[case]
    coder, model = tiny_coder(**options, dtype=torch.float64), make().double()
    parameters = {f"{TASK}.{name}": value for name, value in given.items()}
    texts = number_texts(5)
    result, tables = ablated(coder, tmp_path, model=model, backend=backend, parameters=parameters, data=texts)
    kind = "cached" if backend == "hf" else "full"
    assert result.provenance.counters[f"ablation_{kind}"] > 0
    table, documents = tables["ablation"], documents_of(texts)
    assert len(table) > 25
    plain = make().double()
    # transformers computes norms of Llama in float32 whatever the model's type, TransformerLens in a formula of its own
    tolerance = 1e-5 if (make, backend) == (tiny_llama, "tl") else 1e-6
    for row, (document, position, latent) in enumerate(places(table)):
        expected = slow(plain, coder, documents[document], position, latent, **given)
        assert expected["value"] != 0
        assert (table.columns["position"][row], table.columns["latent"][row]) == (position, latent)
        for name in set(expected) - {"output"}:
            found = table.columns[name][row]
            assert found == pytest.approx(expected[name], rel=tolerance, abs=1e-13), (name, table.ids[row])
    assert table.columns["scored"].all()
    assert table.columns["token_scored"].all()
    for name, column in (("effect_sparsity", "sparsity"), ("effect_sparsity_token", "token_share")):
        assert result.metrics[name].value == pytest.approx(table.columns[column].mean(), rel=1e-12)
    kl = result.metrics["effect_kl"].value
    assert kl == pytest.approx(table.columns["kl"].sum() / table.columns["tokens"].sum(), rel=1e-12)


# ---------------------------------------------------------------- a model in which the score is known


def linear_case(vocab: int, dtype: torch.dtype, n_latents: int = 3) -> tuple[Any, LinearCoder]:
    """Latents 0, 1 and 2 move one logit, all logits by +-c, and all logits by the same amount."""
    generator = torch.Generator().manual_seed(0)
    unembedding = torch.randn(WIDTH, vocab, generator=generator, dtype=torch.float64) * 0.3
    unembedding[0] = 0.0
    unembedding[0, 7] = 0.5
    unembedding[1] = 0.5 * (-1.0) ** torch.arange(vocab)
    unembedding[2] = 0.5
    axes = torch.eye(n_latents, WIDTH, dtype=torch.float64)
    weights = Weights(axes.T.clone(), 2 * axes, torch.zeros(WIDTH), torch.full((n_latents,), 4.0))
    return linear_llama(unembedding).to(dtype), coder_of(weights, tiny_rule("relu"), dtype=dtype)


@pytest.mark.parametrize(
    ("vocab", "horizon", "dtype"),
    slow_but(
        2,
        [
            *((50, 16, "float64"), (51, 1, "float64"), (51, 16, "float32"), (50, 3, "float32")),
            *((50, 16, "float32"), (51, 1, "float32"), (51, 16, "float64"), (50, 3, "float64")),
        ],
    ),
)
def test_a_linear_model_scores_what_is_known(tmp_path: Path, vocab: int, horizon: int, dtype: str) -> None:
    """Only the ablated token's logits move, so the joint score is that of one token over the tokens that there are.

    A median of an odd number of logits +-c is one of them: then it is the rarer ones that stand out.
    """
    model, coder = linear_case(vocab, getattr(torch, dtype))
    given = {"model": model, "dtype": dtype, "tokenizer": TinyTokenizer(vocab)}
    result, tables = ablated(coder, tmp_path, **given, parameters={f"{TASK}.horizon": horizon})
    table, documents = tables["ablation"], documents_of(number_texts(8))
    signs = np.where(np.arange(vocab) % 2, -1.0, 1.0)
    d = signs - np.median(signs)
    of_pattern = np.abs(d).sum() ** 2 / ((d**2).sum() * vocab)
    of_one = {0: 1 / vocab, 1: of_pattern, 2: 0.0}
    tolerance = 1e-4 if dtype == "float32" else 1e-12
    tokens = set()
    for row, (document, position, latent) in enumerate(places(table)):
        left = min(horizon, len(documents[document]) - position)
        tokens.add(left)
        own = {name: column[row] for name, column in table.columns.items()}
        assert (own["tokens"], own["entries"]) == (left, left * vocab)
        assert own["scored"] == (latent != 2)
        assert own["sparsity"] == pytest.approx(of_one[latent] / left, rel=tolerance), (latent, left)
        assert own["token_share"] == pytest.approx(of_one[latent], rel=tolerance)
    assert len(tokens) == 1 if horizon == 1 else len(tokens) > 2
    assert sorted(set(table.columns["latent"])) == [0, 1, 2]
    assert result.metrics["noise_fraction"].value == pytest.approx(1 / 3)
    assert result.details["scored"] == 2 / 3 * len(table)
    assert result.metrics["effect_sparsity"].value is None  # a third of the effects are none
    constant = next(one for one in result.details["outputs"] if one["latent"] == 2)
    assert constant["effect_sparsity_token"] is None
    alone, tables = ablated(linear_case(vocab, model.dtype, 2)[1], tmp_path / "alone", **given)
    assert set(tables["ablation"].columns["latent"]) == {0, 1}
    assert alone.metrics["effect_sparsity"].value == pytest.approx(tables["ablation"].columns["sparsity"].mean())


def test_without_the_median_a_constant_is_the_densest_effect(tmp_path: Path) -> None:
    """The declared variant scores what the definition takes off: why the median is the default."""
    model, coder = linear_case(50, torch.float64)
    given = {f"{TASK}.centre": "none", f"{TASK}.horizon": 1}
    _, tables = ablated(coder, tmp_path, model=model, parameters=given)
    of_constant = tables["ablation"].columns["sparsity"][tables["ablation"].columns["latent"] == 2]
    assert of_constant == pytest.approx(1)


# ---------------------------------------------------------------- beside random directions


def test_the_gain_is_that_over_random_directions_row_by_row(tmp_path: Path) -> None:
    """The same positions, paired: the mean of differences, not the difference of two means over other rows."""
    coder = tiny_coder("topk", dtype=torch.float64)
    result, tables = ablated(coder, tmp_path, controls="permuted")
    rows = tables["ablation"].columns
    gain, own = result.metrics["effect_sparsity_token_gain"], result.metrics["effect_sparsity_token"]
    random = result.controls["random_directions"]["effect_sparsity_token"]
    assert gain.value == pytest.approx(rows["gain"].mean())
    assert gain.value == pytest.approx(random.value - own.value, rel=1e-9)  # all rows are scored, so both are the same
    assert gain.low < gain.value < gain.high
    assert gain.high - gain.low < 2 * ((own.high - own.low) + (random.high - random.low))
    assert rows["paired"].all()
    control = tables["control/permuted/ablation"].columns
    assert not control.get("paired", np.ones(1)).any()


def test_latents_that_move_one_logit_gain_and_those_that_move_all_lose(tmp_path: Path) -> None:
    model, _ = linear_case(50, torch.float64)
    axes, made = torch.eye(2, WIDTH, dtype=torch.float64), {}
    for name, latent in (("one logit", 0), ("all logits", 1)):
        weights = Weights(axes[:1].T.clone(), 2 * axes[latent : latent + 1], torch.zeros(WIDTH), torch.full((1,), 4.0))
        coder = coder_of(weights, tiny_rule("relu"), dtype=torch.float64)
        result, _ = ablated(coder, tmp_path / name, model=model, tokenizer=TinyTokenizer(50))
        made[name] = result.metrics["effect_sparsity_token_gain"].value
    assert made["one logit"] > 0.4
    assert made["all logits"] < -0.2


def test_later_tokens_do_not_move_the_headline(tmp_path: Path) -> None:
    """It is that of the ablated token: the same with any horizon, and with one of 1 it is the joint figure."""
    found = {}
    for horizon in (1, 16):
        given = {f"{TASK}.horizon": horizon}
        result, _ = ablated(tiny_coder("topk", dtype=torch.float64), tmp_path / str(horizon), parameters=given)
        found[horizon] = {name: metric.value for name, metric in result.metrics.items()}
    for name in ("effect_sparsity_token", "effect_sparsity_token_gain"):
        assert found[16][name] == pytest.approx(found[1][name], rel=1e-9)
    assert found[1]["effect_sparsity"] == pytest.approx(found[1]["effect_sparsity_token"], rel=1e-12)
    assert found[16]["effect_sparsity"] < 0.7 * found[1]["effect_sparsity"]


# ---------------------------------------------------------------- noise


@pytest.mark.parametrize("what", ["directions of zeros", "a floor above all effects"])
def test_effects_below_noise_have_no_score_and_a_reason(tmp_path: Path, what: str) -> None:
    coder, given = tiny_coder("topk", dtype=torch.float64), {f"{TASK}.noise_factor": 1e18}
    if what == "directions of zeros":
        coder.weights.W_dec.zero_()
        given = {}
    result, tables = ablated(coder, tmp_path, parameters=given, controls="permuted,identity")
    assert result.status == "ok"
    for name in ("effect_sparsity", "effect_sparsity_token", "effect_sparsity_token_gain"):
        assert result.metrics[name].value is None
        assert "noise" in str(result.metrics[name].reason)
    assert result.metrics["noise_fraction"].value == 1
    assert not tables["ablation"].columns["scored"].any()
    assert result.details["scored"] == 0
    assert {one["value"] for one in result.details["by_activation"]} == {None}
    assert (result.metrics["effect_kl"].value == 0) == (what == "directions of zeros")


@pytest.mark.slow
def test_half_precision_hides_more_effects_and_single_precision_none_that_it_scores(tmp_path: Path) -> None:
    found = {}
    for dtype in ("bfloat16", "float32", "float64"):
        of_coder = torch.float64 if dtype == "float64" else torch.float32
        coder = tiny_coder("topk", dtype=of_coder)
        model = tiny_gpt2().to(getattr(torch, dtype))
        found[dtype] = ablated(coder, tmp_path / dtype, model=model, dtype=dtype)
    hidden = {dtype: result.metrics["noise_fraction"].value or 0 for dtype, (result, _) in found.items()}
    assert hidden["bfloat16"] > 0.2 > hidden["float32"]
    assert hidden["float64"] == 0
    single, double = (found[dtype][1]["ablation"] for dtype in ("float32", "float64"))
    exact = dict(zip(double.ids, double.columns["sparsity"], strict=True))
    scored = [i for i, unit in enumerate(single.ids) if single.columns["scored"][i] and unit in exact]
    assert len(scored) > 0.9 * len(double)
    for i in scored:
        assert single.columns["sparsity"][i] == pytest.approx(exact[single.ids[i]], rel=0.01)


# ---------------------------------------------------------------- outputs and deciles


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, dict[str, Units], LinearCoder]:
    """Signed latents, whose direction counts with its sign; fewer effects than latents are above the floor."""
    coder = tiny_coder("abstopk", dtype=torch.float64, n_latents=24)
    given = {f"{TASK}.noise_factor": NOISE}
    result, tables = ablated(coder, tmp_path_factory.mktemp("shown"), data=number_texts(24), parameters=given)
    return result, tables, coder


@pytest.mark.parametrize(("backend", "activation"), slow_but(1, [("hf", "abstopk"), ("tl", "topk")]))
def test_outputs_are_means_over_positions_beside_the_direct_path(tmp_path: Path, backend: str, activation: str) -> None:
    """What a latent with negative activations promotes, its direction alone suppresses."""
    model = tiny_llama().double()
    coder = tiny_coder(activation, dtype=torch.float64, n_latents=24)
    tokenizer = TinyTokenizer(decoded=lambda i: f"<{i}>")
    result, tables = ablated(coder, tmp_path, model=model, backend=backend, tokenizer=tokenizer)
    documents, plain = documents_of(number_texts(8)), tiny_llama().double()
    logits: dict[int, list[Any]] = {}
    signs: dict[int, float] = {}
    for document, position, latent in places(tables["ablation"]):
        found = slow(plain, coder, documents[document], position, latent)
        logits.setdefault(latent, []).append(found["output"])
        signs[latent] = signs.get(latent, 0) + found["value"]
    assert (min(signs.values()) < 0) == (activation == "abstopk")
    assert [one["latent"] for one in result.details["outputs"]] == sorted(logits)
    unembedding = plain.lm_head.weight.detach()
    for one in result.details["outputs"]:
        assert one["positions"] == len(logits[one["latent"]])
        direct = (unembedding @ coder.weights.W_dec[one["latent"]]).numpy() * np.sign(signs[one["latent"]])
        for prefix, values in (("", np.mean(logits[one["latent"]], axis=0)), ("direct_", direct - direct.mean())):
            order = np.argsort(values)
            for what, best in (("promoted", order[::-1][:5]), ("suppressed", order[:5])):
                entries = one[f"{prefix}{what}"]
                assert [entry["id"] for entry in entries] == best.tolist(), (one["latent"], prefix, what)
                assert [entry["logit"] for entry in entries] == pytest.approx(values[best], rel=1e-3)
                assert [entry["token"] for entry in entries] == [f"<{i}>" for i in best]


def test_shown_figures_of_a_latent_are_those_of_its_ablations(
    shown: tuple[Result, dict[str, Units], LinearCoder],
) -> None:
    result, tables, coder = shown
    rows, documents = tables["ablation"].columns, documents_of(number_texts(24))
    names = sorted({document for document, _, _ in places(tables["ablation"])})
    kept, model = [], tiny_gpt2().double()
    for name in names:
        ids = documents[name]
        f = by_hand(coder, passed(model, ids, module_of(model, HOOK))[1])[0]
        kept.append(f[ids != 0] != 0)
    density = torch.cat(kept).double().mean(0)
    assert result.details["documents"] == len(names)
    assert 0 < rows["scored"].mean() < 1
    for one in result.details["outputs"]:
        own = rows["latent"] == one["latent"]
        scored = own & (rows["token_scored"] > 0)
        assert one["density"] == pytest.approx(float(density[one["latent"]]))
        assert one["kl"] == pytest.approx(rows["kl"][own].sum() / rows["tokens"][own].sum())
        expected = rows["token_share"][scored].mean() if scored.any() else None
        assert one["effect_sparsity_token"] == pytest.approx(expected)


def test_deciles_hold_every_ablation_once(shown: tuple[Result, dict[str, Units], LinearCoder]) -> None:
    result, tables, _ = shown
    rows = tables["ablation"].columns
    density = dict(zip(map(int, tables["latent"].ids), tables["latent"].columns["density"], strict=True))
    of_row = {"by_activation": rows["norm"], "by_density": np.array([density[int(i)] for i in rows["latent"]])}
    seen = set()
    share = rows["token_l1"] ** 2 / (rows["token_l2_squared"] * VOCAB)
    for name, by in of_row.items():
        bins = result.details[name]
        assert 5 < len(bins) <= 10
        assert sum(one["ablations"] for one in bins) == len(by) == result.details["ablations"]
        assert all(one["to"] < following["from"] for one, following in itertools.pairwise(bins))
        assert (bins[0]["from"], bins[-1]["to"]) == (by.min(), by.max())
        for one in bins:
            members = (by >= one["from"]) & (by <= one["to"])
            assert one["ablations"] == members.sum()
            scored = members & (rows["token_l2_squared"] > NOISE**2 * rows["noise_token_l2_squared"])
            enough = scored.sum() > 0.9 * members.sum()  # the few that stand out of noise are not like the others
            assert one["value"] == (pytest.approx(share[scored].mean()) if enough else None)
            seen.add(enough)
    assert seen == {True, False}
    sizes = [one["ablations"] for one in result.details["by_activation"]]
    assert max(sizes) - min(sizes) <= 2


def subject_with(unembedding: Any) -> Any:
    head = SimpleNamespace(weight=torch.tensor(unembedding).T)
    return SimpleNamespace(model=SimpleNamespace(get_output_embeddings=lambda: head))


def test_direct_attribution_is_that_of_the_oracle(references: Path) -> None:
    oracle = json.loads((references / "metrics_oracles.json").read_text())["15.logit_attribution"]
    subject = subject_with(oracle["inputs"]["W_U"])
    direction = torch.tensor([oracle["inputs"]["decoder_row"]])
    for hook in ("blocks.0.hook_resid_post", "blocks.3.hook_mlp_out", "hook_embed"):
        found = direct_logits(subject, hook, direction, 4)
        assert found is not None
        np.testing.assert_allclose(found[0], oracle["expected"]["centred"], atol=1e-7)
    fewer = direct_logits(subject, "blocks.0.hook_resid_pre", direction, 3)  # the fourth row is padding
    assert fewer is not None
    np.testing.assert_allclose(fewer[0], [2 / 3, 2 / 3, -4 / 3], atol=1e-7)


def test_there_is_no_direct_path_from_inside_a_branch(tmp_path: Path) -> None:
    """The channels of the attention heads are as many as those of the residual stream, and mean something else."""
    subject = subject_with(torch.zeros(WIDTH, VOCAB).tolist())
    for hook in ("blocks.1.attn.hook_z", "blocks.1.mlp.hook_post", "model.layers.1.mlp:out"):
        assert direct_logits(subject, hook, torch.ones(2, WIDTH), VOCAB) is None
    assert direct_logits(subject, HOOK, torch.ones(2, WIDTH + 1), VOCAB) is None
    result, _ = ablated(tiny_coder("topk", dtype=torch.float64, hook="blocks.1.attn.hook_z"), tmp_path)
    for one in result.details["outputs"]:
        assert "promoted" in one
        assert not [key for key in one if key.startswith("direct")]
