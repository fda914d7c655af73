"""What the latent of a probe writes: held against every token by hand, wherever that is, however tokens are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_bench import demo
from sae_bench.api import evaluate
from sae_bench.engine.selfcheck import SelfCheck
from sae_bench.kernels.pool import pool_scores
from sae_bench.metrics.probe_recovery import probe_features
from sae_bench.saes.load import load_sae
from sae_bench.saes.protocol import Codes
from sae_bench.schema import Result
from sae_bench.streams import pooled
from sae_bench.units.bootstrap import Sums
from tests.builders.marks import slow_but
from tests.builders.tiny_saes import tiny_coder

QUICK = {"probe_recovery.folds": 2, "probe_recovery.ceiling_strengths": [0.1]}
NEW = ("probe_write", "probe_features", "probe_write_shuffled")
SAE = "demo/topk_k16"


class Changed:
    """The codes of a shipped SAE with other decoder rows, each an SAE of its own."""

    def __init__(self, name: str, change: Any, of: str = SAE) -> None:
        self.inner = load_sae(of)
        self.info = replace(self.inner.info, name=name)
        self.change = change

    def encode(self, x: Tensor) -> Codes:
        return self.inner.encode(x)

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        rows = self.decoder_rows(torch.arange(self.info.n_latents))
        return codes.dense() @ rows.to(codes.values)

    def decoder_rows(self, latents: Tensor) -> Tensor:
        found: Tensor = self.change(self.inner.decoder_rows(latents), latents)
        return found


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of demo texts, of which some are in both."""
    folder = tmp_path_factory.mktemp("data") / "mine"
    texts = list({d.text: d for d in demo.documents(160, seed=3)}.values())
    for name, attribute, own in (("english", "language_en", texts[:80]), ("numbers", "contains_number", texts[40:])):
        has = [(d.text, 1) for d in own if d.attributes[attribute]][:20]
        lacks = [(d.text, 0) for d in own if not d.attributes[attribute]][:20]
        (folder / name).mkdir(parents=True)
        for part, rows in (("train", has[:10] + lacks[:10]), ("test", has[10:] + lacks[10:])):
            lines = [json.dumps({"text": text, "label": label}) + "\n" for text, label in rows]
            (folder / name / f"{part}.jsonl").write_text("".join(lines))
    return folder


def run(saes: Any, sets: Path | None, **given: Any) -> dict[str, Result]:
    """Results by SAE."""
    settings: dict[str, Any] = {"tasks": "probe_recovery", "controls": "none", "tier": "smoke", "limit": 4}
    settings |= {"probe_data": sets, "resamples": 20, "parameters": QUICK, "model": "demo", "data": "demo"}
    found = evaluate(saes, **(settings | given))
    assert [r.reason for r in found if r.status != "ok"] == []
    return {r.sae.name: r for r in found}


def figures(result: Result, names: tuple[str, ...] = NEW) -> dict[str, tuple[float | None, ...]]:
    by_label = {"": result.metrics, **result.controls}
    return {
        f"{label} {name}": (metrics[name].value, metrics[name].low, metrics[name].high)
        for label, metrics in by_label.items()
        for name in names
        if name in metrics
    }


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert values == pytest.approx(other[name], abs=tolerance), name


# ---------------------------------------------------------------- by hand


def written_by_hand(sets: Path, name: str, direction: Tensor, part: Any, pooling: str) -> tuple[Any, Any]:
    """Scores and labels of the test texts, without anything of the engine; ``part`` says what module writes."""
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    seen: list[Tensor] = []
    part(model).register_forward_hook(lambda _, __, out: seen.append(out[0] if isinstance(out, tuple) else out))
    scores, labels = [], []
    for line in (sets / name / "test.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids = [tokenizer.bos_token_id, *tokenizer(row["text"], add_special_tokens=False)["input_ids"]][:128]
        with torch.no_grad():
            model(torch.tensor([ids]))
        x = seen.pop().reshape(len(ids), -1)[1:].double() @ direction.double()  # the mean moves all texts alike
        scores.append(float({"max": x.max(), "mean": x.mean(), "last": x[-1]}[pooling]))
        labels.append(row["label"])
    return np.array(scores), np.array(labels)


@pytest.mark.parametrize("pooling", slow_but(1, ["max", "mean", "last"]))
def test_it_is_the_area_of_what_each_token_says_along_the_direction(sets: Path, pooling: str) -> None:
    result = run(SAE, sets, parameters=QUICK | {"probe_recovery.pooling": pooling})[SAE]
    layer = int(demo.HOOK.split(".")[1])
    for name, shown in result.details["sets"].items():
        direction = load_sae(SAE).decoder_rows(torch.tensor([shown["latent"]]))[0]
        scores, labels = written_by_hand(sets, name, direction, lambda m: m.transformer.h[layer], pooling)
        own = shown["metrics"]
        assert own["probe_write"]["value"] == pytest.approx(roc_auc_score(labels, shown["sign"] * scores), abs=1e-6)
        read, write = (own[metric]["value"] - 0.5 for metric in ("probe_auroc", "probe_write"))
        wanted = 4 * read * write if read > 0 and write > 0 else -4 * abs(read * write)
        assert own["probe_features"]["value"] == pytest.approx(wanted, abs=1e-9)


def test_a_transcoder_is_held_against_what_it_predicts_and_not_against_what_it_reads(sets: Path) -> None:
    places = {"hook": "blocks.1.hook_resid_pre", "hook_out": "blocks.1.hook_mlp_out"}
    d = load_sae(SAE).info.d_in
    coder = tiny_coder("topk", d_in=d, n_latents=128, k=8, apply_b_dec_to_input=False, **places)
    result = next(iter(run(coder, sets, controls="permuted").values()))
    for name, shown in result.details["sets"].items():
        direction = coder.decoder_rows(torch.tensor([shown["latent"]]))[0]
        scores, labels = written_by_hand(sets, name, direction, lambda m: m.transformer.h[1].mlp, "max")
        wanted = roc_auc_score(labels, shown["sign"] * scores)
        assert shown["metrics"]["probe_write"]["value"] == pytest.approx(wanted, abs=1e-6)
    assert result.controls["permuted"]["probe_write"].value != result.metrics["probe_write"].value


def test_a_channel_writes_what_it_is_read_from(sets: Path) -> None:
    """Its codes may be negative, so that both are pooled by magnitude; the whole stream has no direction."""
    controls = run(SAE, sets, controls="identity")[SAE].controls
    for label in ("best_channels", "identity"):
        assert controls[label]["probe_write"].value == pytest.approx(controls[label]["probe_auroc"].value, abs=1e-9)
    assert not set(NEW) & set(controls["full_residual"])


# ---------------------------------------------------------------- how tokens are kept


def test_texts_whose_tokens_are_not_kept_are_read_once_more(sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is bounded, and evenly spaced tokens would not hold the largest: figures are the same, at another cost."""
    given: dict[str, Any] = {"controls": "permuted", "dtype": "float64"}
    kept = run(SAE, sets, **given)[SAE]
    monkeypatch.setattr(pooled, "MOST_BYTES", 0)
    again = run([SAE, "demo/relu"], sets, **given)[SAE]
    assert_close(figures(again), figures(kept))
    tests = sum(one["test_examples"] for one in kept.details["sets"].values())
    before = kept.provenance.counters["labelled_prefix"]
    assert again.provenance.counters["labelled_prefix"] == before + tests  # once for all coders


# ---------------------------------------------------------------- what decoders do to it


def test_the_decoder_alone_changes_what_is_written_and_nothing_that_is_read(sets: Path) -> None:
    order = torch.randperm(load_sae(SAE).info.n_latents, generator=torch.Generator().manual_seed(0))
    permuted = load_sae(SAE).decoder_rows(order)
    saes = [
        SAE,
        Changed("scaled", lambda rows, latents: rows * 2.0 ** (latents % 7 - 3)[:, None]),
        Changed("other", lambda _, latents: permuted[latents]),
        Changed("against", lambda rows, latents: -rows),
        Changed("none", lambda rows, latents: rows * 0),
    ]
    found = run(saes, sets)
    plain = found[SAE]
    read = tuple(name for name in plain.metrics if name not in NEW)
    for name in ("scaled", "other", "against", "none"):
        assert_close(figures(found[name], read), figures(plain, read), 1e-12)
    assert_close(figures(found["scaled"]), figures(plain), 1e-12)
    assert found["other"].metrics["probe_write"].value != plain.metrics["probe_write"].value
    assert found["none"].metrics["probe_write"].value == 0.5
    assert found["none"].metrics["probe_features"].value == 0
    assert found["against"].metrics["probe_features"].value < 0 < plain.metrics["probe_features"].value


@pytest.mark.slow
def test_noise_in_directions_is_seen_in_its_order_and_a_permuted_decoder_is_chance() -> None:
    rows = load_sae("demo/topk_k32").decoder_rows(torch.arange(load_sae("demo/topk_k32").info.n_latents))
    drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    noise = torch.nn.functional.normalize(drawn, dim=1)

    def noisy(cosine: float) -> Any:
        def change(rows: Tensor, latents: Tensor) -> Tensor:
            return cosine * torch.nn.functional.normalize(rows, dim=1) + (1 - cosine**2) ** 0.5 * noise[latents]

        return Changed(f"noisy_{cosine}", change, "demo/topk_k32")

    saes = ["demo/topk_k32", *map(noisy, (0.9, 0.7, 0.5))]
    given = {"probe_sets": "kind_*,contains_number,language_*", "controls": "permuted", "resamples": 200}
    found = run(saes, None, **given)
    write = [r.metrics["probe_write"].value for r in found.values()]
    features = [r.metrics["probe_features"].value for r in found.values()]
    assert write == sorted(write, reverse=True)
    assert features == sorted(features, reverse=True)
    assert len({r.metrics["probe_auroc"].value for r in found.values()}) == 1
    beside = found["demo/topk_k32"].controls["permuted"]
    assert found["demo/topk_k32"].against["permuted"]["probe_features"].verdict == "better"
    assert beside["probe_write"].value == pytest.approx(0.5, abs=0.1)
    assert abs(beside["probe_features"].value) < 0.15 < 0.6 < features[0]
    assert found["demo/topk_k32"].metrics["probe_write_shuffled"].value == pytest.approx(0.5, abs=0.15)


class Broken(Changed):
    """Its decode is in order, and its rows are not what was said."""

    def decode(self, codes: Codes, x: Tensor | None = None) -> Tensor:
        return self.inner.decode(codes, x)


@pytest.mark.parametrize(
    ("change", "said"),
    slow_but(
        1,
        [
            (lambda rows, latents: rows * float("nan"), "NaN or infinite"),
            (lambda rows, latents: rows[:, 1:], "an array of shape"),
            (lambda rows, latents: 1 / 0, "ZeroDivisionError"),
        ],
    ),
)
def test_an_sae_whose_directions_cannot_be_used_is_an_error_and_the_others_go_on(
    sets: Path, change: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The self-check before a run sees some of it first; what it does not see is said by the pass."""
    monkeypatch.setattr("sae_bench.engine.plan.selfcheck", lambda *_: SelfCheck())
    settings: dict[str, Any] = {"tasks": "probe_recovery", "controls": "none", "tier": "smoke", "limit": 4}
    given = settings | {"probe_data": sets, "resamples": 20, "parameters": QUICK}
    found = {r.sae.name: r for r in evaluate([Broken("broken", change), "demo/relu"], **given)}
    assert found["broken"].status == "error"
    assert said in str(found["broken"].reason)
    assert found["demo/relu"].metrics == run("demo/relu", sets)["demo/relu"].metrics


# ---------------------------------------------------------------- the figures


def sums(auroc: float, write: float) -> Sums:
    one = {"auroc": [[auroc]], "write": [[write]], "examples": [[1.0]]}
    return Sums({name: np.array(column[0]) for name, column in one.items()})


@pytest.mark.parametrize(
    ("auroc", "write", "both"),
    [(1, 1, 1), (1, 0.5, 0), (0.75, 0.75, 0.25), (1, 0, -1), (0.25, 0.75, -0.25), (0.25, 0.25, -0.25), (0, 0, -1)],
)
def test_a_product_of_two_that_are_worse_than_chance_is_nothing_good(auroc: float, write: float, both: float) -> None:
    assert probe_features(sums(auroc, write))[0] == pytest.approx(both)


def test_scores_are_pooled_as_codes_are() -> None:
    scores = torch.tensor([[1.0], [-3.0], [2.0], [-4.0], [-5.0]], dtype=torch.float64)
    size = torch.tensor([3, 0, 2])
    for how, signed, wanted in (
        ("max", False, [2.0, 0.0, -4.0]),
        ("max", True, [-3.0, 0.0, -5.0]),
        ("mean", False, [0.0, 0.0, -4.5]),
        ("last", False, [2.0, 0.0, -5.0]),
    ):
        assert pool_scores(scores, size, how, signed=signed).squeeze(1).tolist() == wanted
