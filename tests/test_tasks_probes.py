"""The two probe tasks on sets made of arrays: what is chosen, on which part, and what the figures then are."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from torch import Tensor

from sae_bench.errors import TaskError
from sae_bench.kernels.probes import Columns, columns
from sae_bench.metrics.labelled import CEILING, FLOOR
from sae_bench.registry import load, tasks
from sae_bench.tasks import probe_recovery
from sae_bench.tasks.labelled import LabelledTask, Rows
from sae_bench.units import Units, nested
from sae_bench.units.bootstrap import quotient, total

PARTS = ("train", "test")
KS = (1, 2, 5, 16)


@dataclass
class Arrays:
    """A labelled set as a coder sees it (`sae_bench.tasks.labelled.LabelledView`), and as the residual (`features`)."""

    z: dict[str, Tensor]  # part -> [examples, latents]
    y: dict[str, Tensor]
    pre: dict[str, Tensor] | None = None
    seed: int = 0
    set_name: str = "made_up"
    asked: list[tuple[str, str]] = field(default_factory=list)
    memo: dict[Any, Any] = field(default_factory=dict)
    weights: Tensor | None = None
    along: Tensor | None = None  # what test texts say along the direction of each latent [examples, latents]

    def written(self, latents: Tensor, pooling: str) -> Tensor:
        return (self.z["test"] if self.along is None else self.along)[:, latents]

    def train_weights(self, count: int) -> Tensor:
        if self.weights is not None:
            return self.weights[:count]
        generator = torch.Generator().manual_seed(1000 + self.seed)
        return -torch.rand(count, len(self.y["train"]), generator=generator, dtype=torch.float64).log()

    def tokens(self, part: str, most: int) -> None:
        return None

    def strongest(self, part: str, directions: Tensor) -> tuple[Tensor, list[Tensor]]:
        raise AssertionError("there are no tokens here")

    def labels(self, part: str) -> Tensor:
        return self.y[part]

    def columns(self, part: str, pooling: str) -> Columns:
        self.asked.append((part, pooling))
        rows, latents = self.z[part].nonzero(as_tuple=True)
        return columns(rows, latents, self.z[part][rows, latents], len(self.z[part]))

    @property
    def n_latents(self) -> int:
        return self.z["train"].shape[1]

    @property
    def dense(self) -> bool:
        return self.pre is not None

    def pre_activations(self, part: str, pooling: str, start: int, stop: int) -> Tensor:
        assert self.pre is not None
        self.asked.append((part, pooling))
        return self.pre[part][:, start:stop]

    def density(self, latents: Tensor) -> Tensor:
        return (self.z["train"][:, latents] != 0).double().mean(0)

    def features(self, part: str, pooling: str) -> Tensor:
        self.asked.append((part, pooling))
        return self.z[part].double()


def task(name: str, **parameters: Any) -> LabelledTask:
    """A shipped task, with other parameters where given."""
    spec = tasks()[name]
    assert set(parameters) <= set(spec.parameters)
    spec = spec.model_copy(update={"parameters": spec.parameters | parameters})
    made: LabelledTask = load(spec.code)(spec)
    return made


def some_labels(n: int, rate: float, seed: int) -> Tensor:
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order < round(n * rate)


def noise(n_train: int, n_test: int, latents: int, *, rate: float = 0.4, seed: int = 0) -> Arrays:
    """Latents that know nothing: active on a third of the examples, never negative."""
    generator = torch.Generator().manual_seed(seed)
    z = {
        part: torch.randn(n, latents, generator=generator, dtype=torch.float64).abs()
        * (torch.rand(n, latents, generator=generator) < 1 / 3)
        for part, n in (("train", n_train), ("test", n_test))
    }
    return Arrays(
        z, {"train": some_labels(n_train, rate, seed), "test": some_labels(n_test, rate, seed + 1)}, seed=seed
    )


def telling(seed: int = 0, latents: int = 12, *, strength: float = 1.5) -> Arrays:
    """Noise, in which the latents 3 and 7 tell something."""
    view = noise(90, 70, latents, seed=seed)
    generator = torch.Generator().manual_seed(seed + 77)
    for latent, sign in ((3, 1.0), (7, -0.7)):
        for part in PARTS:
            drawn = torch.randn(len(view.y[part]), generator=generator, dtype=torch.float64)
            view.z[part][:, latent] = (drawn + strength * sign * view.y[part]).clamp(min=0)
    return view


def perfect(latent: int = 5, *, of: bool = True, seed: int = 0) -> Arrays:
    """Noise, and one latent that is active on the examples of one class and on no other."""
    view = noise(80, 60, 10, seed=seed)
    for part in PARTS:
        view.z[part][:, latent] = (view.y[part] == of).double() * (1 + view.z[part][:, 0])
    return view


def units(made: LabelledTask, view: Arrays, channels: Arrays | None = None) -> tuple[Units, dict[str, Any]]:
    """The table of a set, as a run makes it, and what is shown of the set."""
    view = replace(view, memo={})  # a run makes one for every set and encoder, and has one task of each name
    channels = replace(channels, memo={}) if channels else view
    rows, numbers = made.examples(view)
    shared = {FLOOR: made.examples(channels)[0], CEILING: made.ceiling(channels)}
    parts: list[tuple[str, Rows]] = [("", rows), *shared.items()]
    found = {prefix + name: column for prefix, part in parts for name, column in part.items()}
    n = len(view.y["test"])
    for name, column in found.items():
        assert column.dtype == torch.float64, name
        assert column.shape == (n,), name
    assert all(isinstance(value, float) for value in numbers.values())
    table = Units(tuple(f"one@d:{i}" for i in range(n)), {name: column.numpy() for name, column in found.items()})
    return table, made.set_details(numbers)


def figures(
    made: LabelledTask, view: Arrays, channels: Arrays | None = None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Every metric on one set, and what is shown of it."""
    table, details = units(made, view, channels)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {name: float(quotient(metric(total(table)))[0]) for name, metric in made.metrics.items()}, details


def compare(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), name


# ---------------------------------------------------------------- probe recovery


def test_a_perfect_latent_is_found_and_scores_as_such() -> None:
    found, details = figures(task("probe_recovery"), perfect())
    assert details["latent"] == 5
    assert details["sign"] == 1
    assert found["probe_r"] > 0.93
    assert found["probe_auroc"] == 1
    assert found["probe_f1"] == 1


def test_a_latent_that_speaks_against_the_label_is_found_with_its_sign() -> None:
    found, details = figures(task("probe_recovery"), perfect(of=False))
    assert (details["latent"], details["sign"]) == (5, -1)
    assert details["weight"] < 0
    assert found["probe_r"] > 0.93
    assert (found["probe_auroc"], found["probe_f1"]) == (1, 1)


def test_choosing_among_many_noise_latents_is_not_rewarded() -> None:
    """On the train part the best of 200 latents that know nothing looks good; scored there, a wide SAE would win."""
    made = task("probe_recovery")
    seen = []
    for seed in range(0, 60, 3):
        view = noise(60, 200, 200, seed=seed)
        rows, numbers = made.examples(view)
        table = Units(tuple(map(str, range(200))), {name: column.numpy() for name, column in rows.items()})
        wanted = ("probe_r", "probe_auroc", "probe_r_shuffled")
        scores = {name: float(quotient(made.metrics[name](total(table)))[0]) for name in wanted}
        base = numbers["train_base_rate"]
        entropy = -base * math.log(base) - (1 - base) * math.log(1 - base)
        seen.append((scores, 1 - numbers["train_loss"] / entropy))
    assert np.mean([on_train for _, on_train in seen]) > 0.1
    assert np.mean([scores["probe_r"] for scores, _ in seen]) < 0
    assert np.mean([scores["probe_r_shuffled"] for scores, _ in seen]) < 0
    assert np.mean([scores["probe_auroc"] for scores, _ in seen]) == pytest.approx(0.5, abs=0.03)


def test_the_latent_is_chosen_on_the_train_part() -> None:
    """A latent that is perfect on the test part only is luck, and the test part must not choose."""
    view = telling()
    view.z["test"][:, 1] = view.y["test"].double() * 3
    for name in ("probe_recovery", "sparse_probing"):
        details = figures(task(name), view)[1]
        assert details.get("latent", details.get("latents", [None])[0]) == 3


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_scikit_learn_for_the_chosen_latent(seed: int) -> None:
    view = telling(seed)
    found, details = figures(task("probe_recovery"), view)
    labels = view.y["test"].numpy()
    p = torch.sigmoid(details["weight"] * view.z["test"][:, details["latent"]] + details["bias"]).numpy()
    assert found["probe_loss"] == pytest.approx(log_loss(labels, p), rel=1e-9)
    assert found["probe_auroc"] == pytest.approx(roc_auc_score(labels, p), rel=1e-12)
    assert found["probe_f1"] == pytest.approx(f1_score(labels, p > 0.5), rel=1e-12)
    base = labels.mean()
    assert found["probe_r"] == pytest.approx(
        1 - found["probe_loss"] / log_loss(labels, np.full(len(p), base)), rel=1e-9
    )


def test_the_probe_is_the_best_ridge_probe_of_all_latents_on_the_train_part() -> None:
    view, ridge = telling(1), 1e-3
    details = figures(task("probe_recovery", ridge=ridge), view)[1]
    losses = []
    for z in view.z["train"].T.numpy():
        u = ((z - z.mean()) / z.std())[:, None]
        labels = view.y["train"].numpy()
        fit = LogisticRegression(C=1 / (len(u) * ridge), solver="newton-cholesky", tol=1e-12).fit(u, labels)
        losses.append(log_loss(labels, fit.predict_proba(u)[:, 1]))
        if len(losses) == details["latent"] + 1:
            assert details["weight"] == pytest.approx(fit.coef_[0, 0] / z.std(), rel=1e-6)
    assert details["latent"] == int(np.argmin(losses))
    assert details["train_loss"] == pytest.approx(min(losses), rel=1e-9)


def test_what_is_shown_of_a_set() -> None:
    view = telling()
    details = figures(task("probe_recovery"), view)[1]
    z = view.z["train"][:, details["latent"]]
    assert details["density"] == pytest.approx((z != 0).double().mean().item())
    assert (details["train_examples"], details["test_examples"]) == (90, 70)
    assert details["train_base_rate"] == pytest.approx(view.y["train"].double().mean().item())
    assert details["test_base_rate"] == pytest.approx(view.y["test"].double().mean().item())
    json.dumps(details, allow_nan=False)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_a_dictionary_without_information_scores_the_base_rate(value: float) -> None:
    view = noise(60, 40, 5)
    view.z = {part: torch.full_like(z, value) for part, z in view.z.items()}
    view.y["test"] = some_labels(40, 0.25, 3)
    found, details = figures(task("probe_recovery"), view)
    rate = view.y["train"].double().mean().item()
    assert found["probe_loss"] == pytest.approx(log_loss(view.y["test"].numpy(), np.full(40, rate)), rel=1e-9)
    assert found["probe_r"] < 0  # the base rate of the train part is that of the test part but for sampling
    assert (found["probe_auroc"], found["probe_f1"]) == (0.5, 0)
    assert (details["latent"] is None) == (value == 0)
    assert (details["sign"], details["weight"]) == (0, 0)
    sparse, shown = figures(task("sparse_probing"), view)
    assert [sparse[f"auroc_k{k}"] for k in KS] == [0.5] * 4
    assert [sparse[f"accuracy_k{k}"] for k in KS] == pytest.approx([0.75] * 4)
    assert len(shown["latents"]) == (0 if value == 0 else 5)
    json.dumps([details, shown], allow_nan=False)


def test_a_dead_dictionary_has_figures_with_the_l1_penalty_too() -> None:
    view = noise(60, 40, 5)
    view.z = {part: torch.zeros_like(z) for part, z in view.z.items()}
    found = figures(task("sparse_probing", penalty="l1"), view)[0]
    assert [found[f"auroc_k{k}"] for k in KS] == [0.5] * 4


def test_a_latent_that_is_active_on_the_train_part_only_scores_as_a_constant() -> None:
    view = perfect()
    view.z["test"] = torch.zeros_like(view.z["test"])
    found, details = figures(task("probe_recovery"), view)
    assert details["latent"] == 5
    assert found["probe_auroc"] == 0.5
    assert found["probe_r"] < 0


def test_shuffled_labels_leave_nothing_to_find() -> None:
    made = task("probe_recovery")
    found = [figures(made, perfect(seed=seed))[0] for seed in range(8)]
    assert all(one["probe_r"] > 0.9 for one in found)
    assert np.mean([one["probe_r_shuffled"] for one in found]) < 0.02
    assert all(one["probe_r_shuffled"] < 0.25 for one in found)


def test_labels_are_shuffled_by_seed_and_by_set() -> None:
    made, view = task("probe_recovery"), telling()
    one, again, other, elsewhere = (
        figures(made, v)[0]["probe_r_shuffled"]
        for v in (view, view, replace(view, seed=9), replace(view, set_name="another"))
    )
    assert one == again
    assert other != one
    assert elsewhere != one


def test_pre_activations_are_searched_where_they_are_asked_for_and_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """They tell more than codes where a threshold hides the latent; cut in tiles, they tell the same."""
    view = noise(80, 60, 10)
    generator = torch.Generator().manual_seed(5)
    view.pre = {p: torch.randn(len(view.y[p]), 10, generator=generator, dtype=torch.float64) - 3 for p in PARTS}
    for part in PARTS:
        view.pre[part][:, 8] -= 6 * view.y[part].double()
    made = task("probe_recovery", source="pre_activations")
    found, details = figures(made, view, perfect())
    assert (details["latent"], details["sign"]) == (8, -1)
    assert found["probe_auroc"] > 0.99
    p = torch.sigmoid(details["weight"] * view.pre["test"][:, 8] + details["bias"])
    assert found["probe_loss"] == pytest.approx(log_loss(view.y["test"].numpy(), p.numpy()), rel=1e-9)
    for tile in (1, 3, 10):
        monkeypatch.setattr(probe_recovery, "TILE", tile)
        compare(figures(made, view, perfect())[0], found)
    codes = figures(task("probe_recovery"), view, perfect())[0]
    compare(figures(made, replace(view, pre=None), perfect())[0], codes)
    assert codes["probe_auroc"] < 0.8


def test_what_a_latent_writes_has_the_sign_of_its_probe() -> None:
    """One that speaks against the label, and writes against it, knows the label; one that writes for it does not."""
    for of in (True, False):
        view = perfect(of=of)
        along = view.z["test"]
        for towards, wanted in ((along, 1.0), (-along, 0.0)):
            found = figures(task("probe_recovery"), replace(view, along=towards))[0]
            assert (found["probe_auroc"], found["probe_write"]) == (1, wanted)
            assert found["probe_features"] == (1 if wanted else -1)


def test_only_the_directions_of_chosen_latents_are_asked_for() -> None:
    view, made = telling(), task("probe_recovery")
    asked: list[int] = []

    class Listening(Arrays):
        def written(self, latents: Tensor, pooling: str) -> Tensor:
            assert pooling == "max"
            asked.extend(latents.tolist())
            return super().written(latents, pooling)

    view = Listening(**vars(view))
    named = made.directions(view).tolist()
    made.examples(view)
    made.refits(view)
    assert set(asked) == set(named)
    assert named == sorted(set(named))
    assert 3 in named
    assert len(named) < view.n_latents


def test_a_refit_that_chooses_another_latent_has_what_that_one_writes() -> None:
    """Two latents that tell the train part alike, of which one writes the label and one writes nothing."""
    view, made = telling(), task("probe_recovery")
    for part in PARTS:
        view.z[part][:, 7] = view.z[part][:, 3] + 0.5 * view.z[part][:, 1]
    noise = torch.randn(len(view.y["test"]), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    view.along = view.z["test"].clone()
    view.along[:, 3], view.along[:, 7] = view.y["test"].double(), noise
    sums = made.refits(view)
    chosen = {int(x) for x in made._probed(view)[0].best.latents[made._probed(view)[0].refits.column]}  # type: ignore[attr-defined]
    of_noise = len(noise) * roc_auc_score(view.y["test"].numpy(), noise.numpy())
    assert sums is not None
    assert chosen == {3, 7}
    seen = {round(float(x), 6) for x in sums["write"]}
    assert seen == {float(len(noise)), round(of_noise, 6)}


def test_a_dead_or_constant_dictionary_writes_nothing() -> None:
    for value in (0.0, 2.5):
        view = noise(60, 40, 5)
        along = torch.randn(40, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        view = replace(view, z={part: torch.full_like(z, value) for part, z in view.z.items()}, along=along)
        made = task("probe_recovery")
        found = figures(made, view)[0]
        assert (found["probe_write"], found["probe_features"], found["probe_write_shuffled"]) == (0.5, 0, 0.5)
        sums = made.refits(view)
        assert sums is not None
        assert sums["write"].tolist() == [20.0] * 20


# ---------------------------------------------------------------- floor and ceiling


def separable(seed: int = 0, gap: float = 6.0) -> Arrays:
    """A residual stream whose channels together tell all, and alone little."""
    view = noise(120, 80, 16, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(16, generator=generator, dtype=torch.float64), dim=0)
    for part in PARTS:
        x = torch.randn(len(view.y[part]), 16, generator=generator, dtype=torch.float64)
        x -= (x @ direction)[:, None] * direction
        view.z[part] = x + gap * (view.y[part].double() - 0.5)[:, None] * direction
    return view


def test_the_ceiling_is_near_1_where_the_residual_separates_and_near_chance_where_it_does_not() -> None:
    for name, metric in (("probe_recovery", "probe_auroc"), ("sparse_probing", "auroc_k5")):
        made = task(name)
        column = metric.removeprefix("probe_")
        assert made.ceiling(separable())[column].mean() > 0.999
        chance = [made.ceiling(noise(120, 80, 16, seed=s))[column].mean().item() for s in (0, 10, 20, 30)]
        assert np.mean(chance) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("pooling", ["max", "mean", "last"])
def test_the_ceiling_sees_all_tokens_or_the_last_one(pooling: str) -> None:
    seen = ["last"] if pooling == "last" else ["mean", "high", "low"]
    for name in ("probe_recovery", "sparse_probing"):
        view = separable()
        task(name, pooling=pooling).ceiling(view)
        assert set(view.asked) == {(part, how) for part in PARTS for how in seen}


def test_the_share_is_0_at_the_best_channel_and_1_at_the_residual() -> None:
    channels = separable()
    for name, metric in (("probe_recovery", "probe_share"), ("sparse_probing", "share_k1")):
        made = task(name)
        assert figures(made, channels, channels)[0][metric] == 0
        best = noise(120, 80, 3)
        best.y = channels.y
        for part in PARTS:
            best.z[part][:, 2] = channels.y[part].double()
        found = figures(made, best, channels)[0][metric]
        assert found == pytest.approx(1, abs=1e-9)
        no_better = nested.estimate(nested.draw(units(made, best, best)[0], seed=0, resamples=30), made.metrics[metric])
        assert no_better.value is None
        assert "full residual stream above" in str(no_better.reason)


def test_the_same_folds_are_drawn_for_any_number_of_sets_and_saes() -> None:
    made, view = task("probe_recovery"), separable()
    first, second = made.ceiling(view), made.ceiling(view)
    assert all(torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- sparse probing


def test_the_chosen_latents_are_those_of_the_oracle(references: Path) -> None:
    entry = json.loads((references / "metrics_oracles.json").read_text())["16.sparse_probe_selection"]
    z = torch.tensor(entry["inputs"]["Z"], dtype=torch.float64)
    labels = torch.tensor(entry["inputs"]["y"]) == 1
    details = figures(task("sparse_probing"), Arrays({"train": z, "test": z}, {"train": labels, "test": labels}))[1]
    order = np.argsort(-np.array(entry["expected"]["normalised"]), kind="stable")
    assert details["latents"] == order.tolist()
    assert details["latents"][:2] == entry["expected"]["top2_normalised"]


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_scikit_learn_on_the_same_latents_with_the_same_penalty(seed: int) -> None:
    view = telling(seed, latents=20, strength=0.8)
    found, details = figures(task("sparse_probing"), view)
    assert len(details["latents"]) == 16
    for k in KS:
        chosen = details["latents"][:k]
        train, test = (view.z[part][:, chosen].numpy() for part in PARTS)
        mean, scale = train.mean(0), train.std(0)
        model = LogisticRegression(
            C=1 / (len(train) * details[f"strength_k{k}"]), solver="newton-cholesky", tol=1e-12, max_iter=500
        )
        model.fit((train - mean) / scale, view.y["train"].numpy())
        scores = model.decision_function((test - mean) / scale)
        labels = view.y["test"].numpy()
        assert found[f"auroc_k{k}"] == pytest.approx(roc_auc_score(labels, scores), rel=1e-9)
        assert found[f"accuracy_k{k}"] == pytest.approx(accuracy_score(labels, scores > 0), rel=1e-9)


def test_fewer_active_latents_than_k_are_all_used() -> None:
    view = telling()
    for part in PARTS:
        view.z[part][:, [i for i in range(12) if i not in (3, 7, 9)]] = 0
    found, details = figures(task("sparse_probing"), view)
    assert sorted(details["latents"]) == [3, 7, 9]
    assert found["auroc_k5"] == found["auroc_k16"]
    assert details["strength_k5"] == details["strength_k16"]
    assert found["auroc_k5"] > 0.6


def test_more_latents_tell_more_where_each_tells_a_part() -> None:
    view = separable(gap=2.5)
    found = figures(task("sparse_probing"), view)[0]
    assert found["auroc_k1"] < found["auroc_k5"] < found["auroc_k16"]
    assert found["auroc_k16"] > 0.9


# ---------------------------------------------------------------- laws


def perfect_channels(view: Arrays) -> Arrays:
    """Channels beside a set of `telling`, in the order of its examples: together they tell all, alone nothing."""
    z = {}
    for part in PARTS:
        shift = view.z[part][:, :2] - view.z[part][:, :2].mean(0)
        z[part] = torch.stack([shift[:, 0], shift[:, 0] - 0.1 * (view.y[part].double() - 0.5), shift[:, 1]], 1)
    return replace(view, z=z)


def quick(name: str) -> Any:
    """With little cross-validation, which is not what the laws are about."""
    strengths = {"ceiling_strengths": [0.1]} | ({"strengths": [0.01, 0.1]} if name == "sparse_probing" else {})
    return task(name, folds=2, **strengths)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 50), exponents=st.lists(st.floats(-4, 4), min_size=12, max_size=12))
@pytest.mark.slow
def test_the_scale_of_latents_changes_no_figure(seed: int, exponents: list[float]) -> None:
    """Latents have no unit: an SAE whose latents are ten times as large is the same SAE."""
    view, channels = telling(seed), separable(3)
    view.y = channels.y = telling(seed).y
    channels.z = {part: channels.z[part][: len(view.y[part])] for part in PARTS}
    factors = 10.0 ** torch.tensor(exponents, dtype=torch.float64)
    scaled = replace(view, z={part: z * factors for part, z in view.z.items()})
    for name in ("probe_recovery", "sparse_probing"):
        made = quick(name)
        (one, shown), (other, again) = figures(made, view, channels), figures(made, scaled, channels)
        compare(one, other)
        assert shown.get("latents", shown.get("latent")) == again.get("latents", again.get("latent"))


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 50), order=st.permutations(range(12)))
@pytest.mark.slow
def test_the_order_of_latents_changes_no_figure(seed: int, order: list[int]) -> None:
    view = telling(seed)
    permuted = replace(view, z={part: z[:, order] for part, z in view.z.items()})
    for name in ("probe_recovery", "sparse_probing"):
        (one, shown), (other, again) = (figures(quick(name), v, view) for v in (view, permuted))
        compare(one, other)
        before, after = (s.get("latents", [s.get("latent")]) for s in (shown, again))
        assert [order[i] for i in after] == before


@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 50), at=st.permutations(range(70)))
def test_the_order_of_test_examples_changes_no_figure(seed: int, at: list[int]) -> None:
    """Folds and shuffled labels are dealt by position in the train part; the test part has no order at all."""
    view = telling(seed)
    other = replace(
        view, z=view.z | {"test": view.z["test"][at]}, y=view.y | {"test": view.y["test"][torch.tensor(at)]}
    )
    for name in ("probe_recovery", "sparse_probing"):
        made = quick(name)
        found = (figures(made, one, perfect_channels(one))[0] for one in (view, other))
        # the share is a quotient of rounding here, floor and ceiling being both perfect
        first, second = ({n: v for n, v in each.items() if "share" not in n} for each in found)
        compare(first, second)


def test_a_latent_that_is_never_active_changes_no_figure() -> None:
    view = telling()
    wider = replace(view, z={part: torch.cat([z, torch.zeros(len(z), 3)], 1) for part, z in view.z.items()})
    for name in ("probe_recovery", "sparse_probing"):
        compare(figures(task(name), view, view)[0], figures(task(name), wider, view)[0])


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("name", ["probe_recovery", "sparse_probing"])
@pytest.mark.parametrize("how", ["max", "mean", "last"])
def test_the_pooling_that_is_asked_for_is_used(name: str, how: str) -> None:
    made, view = task(name, pooling=how), telling()
    made.examples(view)
    assert set(view.asked) == {(part, how) for part in PARTS}


WRONG = [
    ("probe_recovery", {"pooling": "sum"}, "pooling must be one of max, mean, last, not 'sum'"),
    ("sparse_probing", {"pooling": ""}, "pooling must be one of"),
    ("probe_recovery", {"source": "both"}, "source must be one of codes, pre_activations, not 'both'"),
    ("probe_recovery", {"ridge": 0.0}, "ridge must be positive"),
    ("probe_recovery", {"ridge": -1.0}, "ridge must be positive"),
    ("probe_recovery", {"ridge": math.nan}, "ridge"),
    ("probe_recovery", {"ceiling_strengths": []}, "ceiling_strengths"),
    ("probe_recovery", {"ceiling_strengths": [0.0]}, "ceiling_strengths"),
    ("probe_recovery", {"ceiling_strengths": ["a"]}, "ceiling_strengths"),
    ("sparse_probing", {"penalty": "l3"}, "penalty must be one of l1, l2, not 'l3'"),
    ("sparse_probing", {"folds": 1}, "folds"),
    ("sparse_probing", {"strengths": []}, "strengths"),
    ("sparse_probing", {"strengths": [0.1, -1.0]}, "strengths"),
    ("sparse_probing", {"strengths": ["a"]}, "strengths"),
    ("sparse_probing", {"ceiling_strengths": [0.0]}, "ceiling_strengths"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), WRONG)
def test_parameters_that_cannot_work_are_refused_before_anything_runs(
    name: str, parameters: dict[str, Any], message: str
) -> None:
    """Found later, they would be a traceback after the language model has run over all texts."""
    with pytest.raises(TaskError, match=message) as caught:
        task(name, **parameters)
    assert name in str(caught.value)
