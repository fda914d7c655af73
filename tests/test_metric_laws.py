"""Every metric of every shipped task, held to the same laws on SAEs of which it is known what must come out."""

from __future__ import annotations

import math

import pytest

from sae_bench import MetricValue, Result, registry
from tests.builders import metric_laws
from tests.builders.metric_laws import (
    ANY,
    DEAD,
    ELSEWHERE,
    FAILS,
    LAWS,
    MEAN,
    NULL,
    ON_LABELS,
    PERFECT,
    PERMUTED,
    RANDOM,
    SCALED,
    Law,
    Must,
    Runs,
    Same,
)

ROWS = [(task, metric) for task, row in LAWS.items() for metric in row]
CLOSE = 1e-9

of_every_metric = pytest.mark.parametrize(("task", "metric"), ROWS)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return metric_laws.measure(tmp_path_factory.mktemp("laws"))


def law(task: str, metric: str) -> Law:
    return LAWS[task][metric]


def same(one: MetricValue, other: MetricValue) -> None:
    """Value, interval and number of units; a null stays one."""
    for name in ("value", "low", "high"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert (mine is None) == (theirs is None), name
        assert mine is None or mine == pytest.approx(theirs, rel=CLOSE, abs=CLOSE), name
    assert one.n_units == other.n_units


def held(result: Result, metric: str, must: Must) -> None:
    """Whether a metric is what the table says of such an SAE."""
    if must == FAILS:
        assert (result.status, bool(result.reason)) == ("error", True)
        return
    assert result.status == "ok", result.reason
    found = result.metrics[metric]
    if must == NULL:
        assert found.value is None, found
        assert found.reason
    elif isinstance(must, Same):
        same(found, result.metrics[must.metric])
    elif must == ANY:
        assert found.value is None or math.isfinite(found.value)
    else:
        assert found.value == pytest.approx(must, abs=CLOSE), found


def test_every_metric_has_a_row() -> None:
    """A metric without one would be held to nothing: add what it must be to ``LAWS``."""
    shipped = {task: set(spec.metrics) for task, spec in registry.tasks().items() if task not in ELSEWHERE}
    assert shipped == {task: set(row) for task, row in LAWS.items()}


@of_every_metric
def test_of_a_perfect_sae(runs: Runs, task: str, metric: str) -> None:
    if not law(task, metric).never:
        held(runs.whole[PERFECT, task], metric, law(task, metric).perfect)


@of_every_metric
def test_of_the_mean_alone(runs: Runs, task: str, metric: str) -> None:
    held(runs.whole[MEAN, task], metric, law(task, metric).mean)


@of_every_metric
def test_of_an_sae_without_a_live_latent(runs: Runs, task: str, metric: str) -> None:
    held(runs.whole[DEAD, task], metric, law(task, metric).dead)


@of_every_metric
def test_of_random_directions(runs: Runs, task: str, metric: str) -> None:
    """Within the bounds of its definition, and no better than a perfect SAE where a perfect one is known."""
    found, best = (runs.whole[name, task].metrics[metric] for name in (RANDOM, PERFECT))
    spec = registry.tasks()[task].metrics[metric]
    assert (found.unit, found.better) == (spec.unit, spec.better)
    if law(task, metric).never:
        assert (found.value, bool(found.reason)) == (None, True)
    if found.value is None:
        assert found.reason
        return
    assert spec.lowest is None or found.value >= spec.lowest - CLOSE
    assert spec.highest is None or found.value <= spec.highest + CLOSE
    if law(task, metric).perfect != ANY and best.value is not None:
        assert spec.better != "lower" or found.value >= best.value - CLOSE
        assert spec.better != "higher" or found.value <= best.value + CLOSE


@of_every_metric
def test_the_order_of_latents_is_nothing(runs: Runs, task: str, metric: str) -> None:
    """Latents are resampled by their place, so that intervals over them are of other draws."""
    mine, other = (runs.whole[name, task].metrics[metric] for name in (RANDOM, PERMUTED))
    if registry.tasks()[task].metrics[metric].table == "latent" and mine.value is not None:
        assert (other.value, other.n_units) == (pytest.approx(mine.value, abs=CLOSE), mine.n_units)
    else:
        same(other, mine)


@of_every_metric
def test_the_units_of_latents_are_nothing(runs: Runs, task: str, metric: str) -> None:
    """Each latent in another unit, and its direction in the inverse: only what is defined in latent units moves."""
    mine, other = (runs.whole[name, task].metrics[metric] for name in (RANDOM, SCALED))
    if law(task, metric).scale:
        same(other, mine)
    else:
        assert mine.value != pytest.approx(other.value, rel=0.01)


@of_every_metric
def test_the_batch_is_nothing(runs: Runs, task: str, metric: str) -> None:
    same(runs.small_batches[RANDOM, task].metrics[metric], runs.whole[RANDOM, task].metrics[metric])


@of_every_metric
def test_figures_of_the_model_are_the_same_for_every_sae(runs: Runs, task: str, metric: str) -> None:
    results = {name: result for (name, its), result in runs.whole.items() if its == task and result.status == "ok"}
    values = {round(v, 9) for r in results.values() if (v := r.metrics[metric].value) is not None}
    assert len(values) == 1 if law(task, metric).of_model else True


@pytest.mark.parametrize(("task", "metric"), [row for row in ROWS if row[0] not in ON_LABELS])
def test_of_one_document(runs: Runs, task: str, metric: str) -> None:
    """A number where there is one of more text, and no interval from a single document."""
    result, more = runs.one_document[RANDOM, task], runs.whole[RANDOM, task].metrics[metric]
    if result.status != "ok":
        assert result.reason
        assert task in ("token_rules",)  # one document has too few firings to fit a rule and none to score it on
        return
    found = result.metrics[metric]
    assert found.value is not None or more.value is None, found
    if registry.tasks()[task].metrics[metric].table == "document":
        assert (found.low, found.high, found.n_units) == (None, None, 1)
