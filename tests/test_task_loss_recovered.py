"""Loss recovered: worked numbers, confident logits, which tokens are replaced, and scores that must not exist."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from sae_bench.engine import loss
from sae_bench.engine.batch import Batch
from sae_bench.engine.loss import clean_scores, score
from sae_bench.engine.rest import Logits
from sae_bench.engine.views import CoderView, SiteView
from sae_bench.engine.workspace import Entry, Workspace
from sae_bench.models.loading import load_subject
from sae_bench.saes.calibration import Calibration, Moments
from sae_bench.saes.controls import identity, mean_only
from sae_bench.saes.linear import LinearCoder, Nonlinearity
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.weights import Weights
from sae_bench.units import Units
from tests.builders.tiny_models import VOCAB, WIDTH, tiny_gpt2
from tests.builders.views import ArrayView, assert_same, cut, figures, measure_all, task

KINDS = ("clean", "spliced", "zero", "mean")
HOOK = "blocks.1.hook_resid_post"
SPECIAL = 0


def view_of(logits, tokens, lengths, kept=None, ids=()):
    x = torch.zeros(len(tokens), 2)
    return ArrayView(x, x, list(lengths), kept=kept, tokens=torch.as_tensor(tokens), logits=logits, ids=list(ids))


def random_view(seed=0, lengths=(16, 12, 0, 19, 1, 15, 17, 14), vocab=11, std=2.0, **changes):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    clean = std * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    logits = {"clean": clean}
    for kind, noise in (("spliced", 0.3), ("mean", 1.0), ("zero", 2.0)):
        logits[kind] = clean + noise * std * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    tokens = clean.argmax(1).roll(1)  # what the clean model would say, so that it is the best
    return view_of(logits, tokens, lengths, **changes)


def measured(view, splits=None):
    made = task("loss_recovered")
    return figures(made, measure_all(made, view, splits))


def from_losses(n=24, **mean_losses):
    """Figures of documents of unequal length that all have these mean losses."""
    predictions = np.random.default_rng(0).integers(20, 120, n).astype(float)
    defaults = {"ce_mean": 9.0, "kl": 0.1, "kl_zero": 3.0, "kl_mean": 2.0}
    columns = {name: value * predictions for name, value in (defaults | mean_losses).items()}
    units = Units(tuple(f"document {i}" for i in range(n)), {"predictions": predictions, **columns})
    made = task("loss_recovered")
    return figures(made, {"document": units})


def test_oracle(references):
    case = json.loads((references / "metrics_oracles.json").read_text())["2.loss"]
    inputs, expected = case["inputs"], case["expected"]
    names = {"clean": "orig", "spliced": "recon", "zero": "zero", "mean": "mean"}
    last = [[9.0, -5.0, 2.0]]  # the last token predicts nothing
    logits = {k: torch.tensor(inputs[f"logits_{v}"] + last, dtype=torch.float64) for k, v in names.items()}
    found = {n: e.value for n, e in measured(view_of(logits, [2, *inputs["targets"]], [3])).items()}
    wanted = {
        "ce_clean": "ce_orig",
        "ce_spliced": "ce_recon",
        "ce_zero": "ce_zero",
        "ce_mean": "ce_mean",
        "delta_ce": "delta_ce",
        "loss_recovered_zero": "loss_recovered_zero",
        "loss_recovered_mean": "loss_recovered_mean",
        "kl": "kl_recon",
        "kl_recovered_zero": "saebench_kl_score",
        "perplexity_difference": "perplexity_diff",
    }
    for mine, theirs in wanted.items():
        assert found[mine] == pytest.approx(expected[theirs], abs=1e-14), mine


def test_published_row(references):
    case = json.loads((references / "metrics_oracles.json").read_text())["2.loss_recovered_gated_paper_row"]
    i = case["inputs"]
    found = from_losses(ce_clean=i["ce_clean"], ce_spliced=i["ce_sae"], ce_zero=i["ce_zero"])
    assert found["loss_recovered_zero"].value == pytest.approx(case["expected"]["loss_recovered"], abs=1e-12)
    assert found["delta_ce"].value == pytest.approx(case["expected"]["delta_ce"], abs=1e-12)


def test_tiny_denominator_gives_a_reason_and_not_a_score(references):
    i = json.loads((references / "metrics_oracles.json").read_text())["2.loss_recovered_tiny_denominator"]["inputs"]
    found = from_losses(ce_clean=i["ce_clean"], ce_spliced=i["ce_sae"], ce_zero=i["ce_zero"])["loss_recovered_zero"]
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason == "the cost of zero ablation in nats is 0.014, and must be above 0.05 to divide by it"


def test_score_exists_from_the_smallest_cost_of_the_definition_on():
    """Below it a thousandth of a nat of noise would move the score by points; the definition says where."""
    floor = task("loss_recovered").spec.parameters["smallest_denominator_nats"]
    below = from_losses(ce_clean=3.0, ce_spliced=3.01, ce_zero=3 + 0.9 * floor, kl=0.01, kl_zero=0.9 * floor)
    above = from_losses(ce_clean=3.0, ce_spliced=3.01, ce_zero=3 + 1.1 * floor, kl=0.01, kl_zero=1.1 * floor)
    for name in ("loss_recovered_zero", "kl_recovered_zero"):
        assert below[name].value is None
        assert f"above {floor:g} " in below[name].reason
        assert above[name].value == pytest.approx(1 - 0.01 / (1.1 * floor))


def test_ablation_that_helps_the_model_gives_a_reason_and_not_a_score():
    """A random model is better off without its activations; (6.001 - 6.022) / (6.001 - 6.263) would read as 0.08."""
    found = from_losses(ce_clean=6.263, ce_spliced=6.022, ce_zero=6.001)
    assert found["loss_recovered_zero"].value is None
    assert "-0.262" in found["loss_recovered_zero"].reason
    assert found["loss_recovered_mean"].value is not None
    assert found["delta_ce"].value == pytest.approx(-0.241)


def test_cost_within_noise_gives_a_reason():
    """Mean cost 0.08 nats, but so different between documents that its sign is not sure."""
    rng = np.random.default_rng(1)
    n, room = 30, rng.normal(0.08, 0.5, 30)
    room += 0.08 - room.mean()
    one = np.ones(n)
    columns = {
        "predictions": one,
        "ce_clean": 3 * one,
        "ce_spliced": 3.02 * one,
        "ce_zero": 3 + room,
        "ce_mean": 3 + room,
    }
    columns |= {"kl": one * 0.1, "kl_zero": one, "kl_mean": one}
    made = task("loss_recovered")
    found = figures(made, {"document": Units(tuple(map(str, range(n))), columns)}, resamples=2000)
    assert found["loss_recovered_zero"].value is None
    assert "within noise" in found["loss_recovered_zero"].reason
    assert found["kl_recovered_zero"].value == pytest.approx(0.9)


def test_perfect_reconstruction_loses_nothing():
    view = random_view()
    view.logits["spliced"] = view.logits["clean"].clone()
    found = {name: e.value for name, e in measured(view).items()}
    assert found["delta_ce"] == found["kl"] == found["perplexity_difference"] == 0.0
    for name in ("loss_recovered_zero", "loss_recovered_mean", "kl_recovered_zero", "kl_recovered_mean"):
        assert found[name] == 1.0


@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_reconstruction_that_equals_an_ablation_recovers_nothing(ablation):
    view = random_view()
    view.logits["spliced"] = view.logits[ablation].clone()
    found = measured(view)
    assert found[f"loss_recovered_{ablation}"].value == 0.0
    assert found[f"kl_recovered_{ablation}"].value == 0.0


def test_worse_than_ablation_is_negative_and_not_clipped():
    found = from_losses(ce_clean=3.0, ce_spliced=8.0, ce_zero=5.0)
    assert found["loss_recovered_zero"].value == pytest.approx(-1.5)
    better = from_losses(ce_clean=3.0, ce_spliced=2.9, ce_zero=5.0)
    assert better["loss_recovered_zero"].value == pytest.approx(1.05)


def test_figures_do_not_depend_on_batches():
    lengths = (6, 2, 0, 9, 1, 5, 7, 3, 4)
    kept = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(0)) > 0.3
    view = random_view(2, lengths, kept=kept)
    whole = measured(view)
    for splits in (cut(9, [1]), cut(9, [2, 3]), [[8, 0], [3, 1, 2, 7], [4, 6, 5]]):
        parts = measured(view, splits)
        for name, e in whole.items():
            assert_same(e, parts[name], 1e-12)


def test_adding_a_constant_to_all_logits_of_a_token_changes_nothing():
    view = random_view(1)
    before = measured(view)
    shift = torch.randn(len(view.x), 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 50
    view.logits = {kind: array + shift for kind, array in view.logits.items()}
    for name, e in measured(view).items():
        assert_same(before[name], e, 1e-11)


def test_no_prediction_gives_reasons():
    for view in (
        random_view(lengths=(1, 1, 0)),
        random_view(lengths=(6, 2, 5), kept=torch.zeros(13, dtype=torch.bool)),
    ):
        for name, e in measured(view).items():
            assert e.value is None, name
            assert "nan" not in e.reason


@pytest.mark.parametrize("std", [1.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_and_kl_equal_the_reference(std, dtype):
    """Very confident logits underflow in log(softmax(...)), where 0 times infinity would be NaN."""
    generator = torch.Generator().manual_seed(0)
    logits, other = (std * torch.randn(3, 7, 200, generator=generator, dtype=torch.float64) for _ in range(2))
    at = torch.rand(3, 7, generator=generator) > 0.3
    targets = torch.randint(200, (int(at.sum()),), generator=generator)
    clean = clean_scores(Logits.of(logits.to(dtype)), at, targets)
    ce, kl, _ = score(Logits.of(other.to(dtype)), at, targets, clean)
    assert ce.dtype == kl.dtype == torch.float64
    reference = torch.nn.functional.cross_entropy(other[at], targets, reduction="none")
    p, q = (np.exp(log_softmax(array[at].numpy(), axis=-1)) for array in (logits, other))
    log_q = log_softmax(other[at].numpy(), axis=-1)
    exact = (p * (np.log(np.maximum(p, 1e-300)) - log_q)).sum(-1)
    assert np.isfinite(kl.numpy()).all()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    assert ce.numpy() == pytest.approx(reference.numpy(), rel=tolerance, abs=tolerance)
    assert kl.numpy() == pytest.approx(exact, rel=tolerance, abs=tolerance)
    if std == 1.0:
        assert kl.numpy() == pytest.approx(rel_entr(p, q).sum(-1), rel=tolerance, abs=tolerance)


def test_bf16_logits_are_scored_in_float32():
    """A mean taken in bf16 rounds cross-entropies near 3 to 1/64: differences of SAEs would vanish."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(2, 300, 50, generator=generator)).to(torch.bfloat16)
    at = torch.ones(2, 300, dtype=torch.bool)
    targets = torch.randint(50, (600,), generator=generator)
    ce, kl, _ = score(Logits.of(logits), at, targets, clean_scores(Logits.of(logits), at, targets))
    reference = torch.nn.functional.cross_entropy(logits.double().flatten(0, 1), targets, reduction="none")
    assert ce.mean().item() == pytest.approx(reference.mean().item(), rel=1e-7)
    assert (kl == 0).all()


def test_divergence_of_float32_logits_is_right_to_a_millionth_of_a_nat():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 20, 50_000, generator=generator)
    other = logits + 0.01 * torch.randn(1, 20, 50_000, generator=generator)
    at = torch.ones(1, 20, dtype=torch.bool)
    targets = torch.zeros(20, dtype=torch.int64)
    _, kl, _ = score(Logits.of(other), at, targets, clean_scores(Logits.of(logits), at, targets))
    _, exact, _ = score(Logits.of(other.double()), at, targets, clean_scores(Logits.of(logits.double()), at, targets))
    assert kl.numpy() == pytest.approx(exact.numpy(), abs=1e-6)  # log Z of 50,000 logits has an ulp of 1e-6


def test_tokens_that_the_model_cannot_say_count_as_nothing():
    """Padded rows of the vocabulary carry logits of minus infinity, in all runs alike."""
    view = random_view()
    before = measured(view)
    never = torch.full((len(view.x), 3), -torch.inf, dtype=torch.float64)
    view.logits = {kind: torch.cat([array, never], 1) for kind, array in view.logits.items()}
    for name, e in measured(view).items():
        assert_same(before[name], e, 1e-13)


def test_chunks_of_rows_give_the_same(monkeypatch):
    view = random_view(5, lengths=(30, 30))
    whole = measured(view)
    monkeypatch.setattr(loss, "CHUNK_ELEMENTS", 20)
    for name, e in measured(view).items():
        assert_same(whole[name], e, 1e-13)


# --- the same through the engine, on a real model --------------------------------------------------------------------


class Recorder:
    """A subject model that remembers what was put at the hook point, by every sequence (tests/test_engine_rest.py)."""

    def __init__(self, subject):
        self._subject = subject
        self.seen = []

    def __getattr__(self, name):
        return getattr(self._subject, name)

    def is_bottleneck(self, hook):
        return False

    def resume(self, capture, hook, activation):
        self.seen.append(activation.clone())
        return self._subject.resume(capture, hook, activation)


@pytest.fixture(scope="module")
def subject():
    return load_subject(tiny_gpt2().double())[0]


@pytest.fixture
def work(subject):
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    sample = torch.randn(64, WIDTH, generator=generator, dtype=torch.float64) + mean
    moments = Moments(mean, torch.eye(WIDTH, dtype=torch.float64), sample, rms=5.0, n_tokens=64)
    return Workspace(Recorder(subject), (HOOK,), {HOOK: moments})


def tokens_of():
    """Three sequences of 9, 6 and 2 tokens, with a special token first and one in the middle."""
    tokens = torch.randint(1, VOCAB, (3, 9), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = SPECIAL
    tokens[0, 4] = SPECIAL
    attention = torch.arange(9) < torch.tensor([[9], [6], [2]])
    return tokens, attention, attention & (tokens != SPECIAL)


def sae_of(work, make=None):
    info = CoderInfo("tiny", 24, WIDTH, WIDTH, (HOOK,), (HOOK,))
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(24, WIDTH, generator=generator, dtype=torch.float64)
    rows = rows / rows.norm(dim=1, keepdim=True)
    weights = Weights(rows.T.contiguous(), rows, work.moments[HOOK].mean, torch.zeros(24, dtype=torch.float64))
    coder = LinearCoder(info, weights, Nonlinearity("topk", k=4), dtype=torch.float64)
    if make is not None:
        coder = make(coder, Calibration(work.moments[HOOK], work.moments[HOOK], 4.0), 0)
    return Entry("tiny", "tiny", coder)


def engine_rows(work, entry, tokens, attention, keep):
    batch = Batch(work, tokens, attention, keep)
    made = task("loss_recovered")
    view = CoderView(SiteView(batch, HOOK), entry)
    return made.shared(view.site) | made.measure(view)


def test_engine_replaces_kept_tokens_only(work):
    """Ablation and SAE act at the same positions: special tokens are neither replaced nor ablated."""
    tokens, attention, keep = tokens_of()
    x = work.subject.capture(tokens, attention, [HOOK]).activations[HOOK]
    engine_rows(work, sae_of(work), tokens, attention, keep)
    clean, *replaced = work.subject.seen
    assert (clean == x).all()
    assert len(replaced) == 3  # zero, mean, spliced: each once
    for full in replaced:
        same = (full == x).all(-1)
        assert (same[attention] == ~keep[attention]).all()
    assert any((full[keep] == 0).all() for full in replaced)
    assert any(bool((full[keep] == work.moments[HOOK].mean).all()) for full in replaced)


def test_engine_attributes_predictions_to_the_token_that_makes_them(work, subject):
    """A special token's own prediction does not count, a prediction of a special token does."""
    tokens, attention, keep = tokens_of()
    entry = sae_of(work)
    rows = engine_rows(work, entry, tokens, attention, keep)
    x = subject.capture(tokens, attention, [HOOK]).activations[HOOK]
    replacements = {"clean": x, "zero": torch.zeros_like(x), "mean": work.moments[HOOK].mean.expand_as(x)}
    flat = x.flatten(0, 1)
    replacements["spliced"] = entry.coder.decode(entry.coder.encode(flat), flat).view_as(x)
    logp = {}
    for kind, values in replacements.items():
        full = torch.where(keep.unsqueeze(-1), values, x)
        logp[kind] = subject.splice(tokens, attention, {HOOK: full}).log_softmax(-1)
    made = [[t for t in range(8) if keep[s, t] and attention[s, t + 1]] for s in range(3)]
    assert [len(m) for m in made] == rows["predictions"].tolist() == [6, 4, 0]
    for kind in KINDS:
        ce = [-sum(float(logp[kind][s, t, tokens[s, t + 1]]) for t in made[s]) for s in range(3)]
        assert rows[f"ce_{kind}"].numpy() == pytest.approx(ce, rel=1e-9, abs=1e-12)
        if kind != "clean":
            clean, other = logp["clean"], logp[kind]
            kl = [
                sum(float((clean[s, t].exp() * (clean[s, t] - other[s, t])).sum()) for t in made[s]) for s in range(3)
            ]
            column = "kl" if kind == "spliced" else f"kl_{kind}"
            assert rows[column].numpy() == pytest.approx(kl, rel=1e-9, abs=1e-12)


def test_engine_gives_the_same_rows_in_any_batch(work):
    tokens, attention, keep = tokens_of()
    whole = engine_rows(work, sae_of(work), tokens, attention, keep)
    alone = [engine_rows(work, sae_of(work), tokens[[s]], attention[[s]], keep[[s]]) for s in range(3)]
    for name, column in whole.items():
        assert torch.cat([rows[name] for rows in alone]).numpy() == pytest.approx(column.numpy(), rel=1e-12, abs=1e-12)


def test_engine_with_controls_has_known_scores(work):
    tokens, attention, keep = tokens_of()
    made = task("loss_recovered")

    def found(make):
        rows = engine_rows(work, sae_of(work, make), tokens, attention, keep)
        units = Units(("a", "b", "c"), {name: column.numpy() for name, column in rows.items()})
        return {name: e.value for name, e in figures(made, {"document": units}).items()}

    same, mean = found(identity), found(mean_only)
    assert same["delta_ce"] == pytest.approx(0, abs=1e-12)
    assert same["kl"] == pytest.approx(0, abs=1e-12)
    assert mean["ce_spliced"] == pytest.approx(mean["ce_mean"], abs=1e-12)
    assert mean["kl_recovered_mean"] == pytest.approx(0, abs=1e-12)
    assert math.isfinite(same["kl_recovered_zero"])


def test_every_sum_of_the_engine_leaves_special_tokens_out(work):
    tokens, attention, keep = tokens_of()
    batch = Batch(work, tokens, attention, keep, names=("a", "b", "c"))
    view = CoderView(SiteView(batch, HOOK), sae_of(work))
    kept_by_sequence = keep.sum(1).double()
    for name in ("reconstruction", "sparsity"):
        made = task(name)
        rows = made.shared(view.site) | made.measure(view)
        assert (rows["tokens"] == kept_by_sequence).all()
    assert task("sparsity").totals(view)["active_tokens"].sum() == view.codes.counts()[view.kept].sum()
    first = task("reconstruction").shared(view.site)
    assert first["first_tokens"].tolist() == [1, 1, 1]
