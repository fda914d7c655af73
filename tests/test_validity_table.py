"""What the table says of metrics whose faults are known, on draws that are made up."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import spearmanr

from sae_bench import registry
from sae_bench.builtin import Entry
from sae_bench.standing import InWorld, Standing
from sae_bench.units import Units
from sae_bench.units.kinds import kind
from sae_bench.validity import printed, sampling, seen, table
from sae_bench.validity.orders import MOST, signal, spearman
from sae_bench.validity.verdict import lost, why_not
from tests.builders import made_up_draws as made_up

EFFORT = seen.Effort(trials=15, resamples=200, nulls=6)
SPEC = made_up.spec()


@pytest.fixture(scope="module", autouse=True)
def tokens() -> Iterator[None]:
    """A kind of unit whose rows are pieces of documents, each drawn alone."""
    with pytest.MonkeyPatch.context() as patch:
        entry = Entry("token", "tests.builders.made_up_draws:TOKENS", "pieces of documents")
        patch.setattr(registry, "UNITS", (*registry.UNITS, entry))
        yield


@pytest.fixture(scope="module")
def draws(tokens: None) -> list[seen.Seen]:
    specs = {"made_up": SPEC}
    return [seen.seen(made_up.measured(i), specs, made_up.CHECKPOINTS, EFFORT, lambda name: True) for i in range(3)]


def of(draws: list[seen.Seen], metric: str) -> table.Measured:
    found = table.Measured.of(f"made_up.{metric}", draws, made_up.CHECKPOINTS)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def standings(draws: list[seen.Seen]) -> dict[str, Standing]:
    return {n: table.standing(SPEC, n, one.claims, {"made up": of(draws, n)}) for n, one in SPEC.metrics.items()}


def said(standings: dict[str, Standing], metric: str) -> InWorld:
    return standings[metric].worlds["made up"]


def test_a_metric_that_sees_the_truth_is_ranked(standings: dict[str, Standing]) -> None:
    for metric in ("seen", "fvu"):
        one = said(standings, metric)
        assert (standings[metric].ranked, standings[metric].why) == (True, None)
        assert one.monotone is not None
        assert one.monotone > 0.9
        assert one.blind == ()
        assert one.beaten_by == ()
        assert (one.rungs, one.draws) == (len(made_up.QUALITY), 3)
    assert said(standings, "seen").features == pytest.approx(0.99, abs=0.011)  # a few SAEs are as good as equal


def test_a_decoder_in_the_wrong_order_that_is_not_seen_is_caught(standings: dict[str, Standing]) -> None:
    """The first mutant: it claims features and sees the encoder alone."""
    one = said(standings, "half_seen")
    assert {"permuted", "noisy_90", "noisy_70", "noisy_50"} <= set(one.blind)
    worse = [name for name in made_up.QUALITY if made_up.truth_of(name).both < 0.95]
    assert one.worse == len(worse)
    assert set(one.blind) <= set(worse)
    assert not standings["half_seen"].ranked
    assert "rho with features" in str(standings["half_seen"].why)
    as_encoder = table.standing(SPEC, "half_seen", "encoder", {}, fragile=False)
    assert "no world" in str(as_encoder.why)


def test_what_sees_the_encoder_alone_may_claim_that(draws: list[seen.Seen]) -> None:
    found = table.standing(SPEC, "half_seen", "encoder", {"made up": of(draws, "half_seen")})
    assert found.ranked
    assert found.worlds["made up"].blind == ()  # those whose decoder alone is wrong are no worse by this truth


def test_a_mean_of_ratios_instead_of_a_ratio_of_sums_is_caught(standings: dict[str, Standing]) -> None:
    """The second mutant: a batch with little in it counts as much as any, and its quotient is of chance."""
    one = said(standings, "fvu_of_batches")
    assert one.signal is not None
    assert one.signal < 3
    assert "random_fit" in one.beaten_by
    assert not standings["fvu_of_batches"].ranked


def test_an_interval_over_tokens_instead_of_documents_is_caught(standings: dict[str, Standing]) -> None:
    """The third mutant: the figures of ``fvu``, and an interval as if the tokens of a document were independent."""
    wrong, right = said(standings, "fvu_of_tokens"), said(standings, "fvu")
    assert (wrong.features, wrong.signal) == (right.features, right.signal)
    assert wrong.coverage is not None
    assert wrong.coverage < 0.9 <= (right.coverage or 0) <= 0.99
    assert not standings["fvu_of_tokens"].ranked
    assert "interval holds the truth" in str(standings["fvu_of_tokens"].why)


def test_what_tells_nothing_is_not_ranked(standings: dict[str, Standing]) -> None:
    assert not standings["noise"].ranked
    assert said(standings, "same").features == 0.0
    assert {"random_fit", "frozen_random"} <= set(said(standings, "same").beaten_by)
    assert not standings["same"].ranked
    assert "claim" in str(standings["same"].why)
    aimless = table.standing(SPEC, "aimless", "features", {})
    assert (aimless.ranked, aimless.why) == (False, "it has no direction")


def test_null_pairs_are_seldom_told_apart(standings: dict[str, Standing]) -> None:
    for metric in ("seen", "fvu", "noise"):
        wrong = said(standings, metric).false_positives
        assert (1.0 if wrong is None else wrong) <= 0.13, metric  # of 72 pairs, 5 %: within three standard errors


def test_without_which_part_the_verdict_would_be_another(draws: list[seen.Seen]) -> None:
    """The decoders in the wrong order are all that keeps a metric of the encoder from being one of features."""
    good = table.standing(SPEC, "seen", "features", {"made up": of(draws, "seen"), "other": of(draws, "seen")})
    assert good.worlds["made up"].fragile == good.worlds["other"].fragile == ()
    alone = table.standing(SPEC, "seen", "features", {"made up": of(draws, "seen")})
    assert alone.worlds["made up"].fragile == (table.THIS_WORLD,)
    two = table.standing(SPEC, "half_seen", "features", {"a": of(draws, "seen"), "b": of(draws, "half_seen")})
    assert not two.ranked
    assert table.THIS_WORLD in two.worlds["b"].fragile
    assert table.THIS_WORLD not in two.worlds["a"].fragile


def test_deleting_the_rung_that_decides_is_said(draws: list[seen.Seen]) -> None:
    whole = of(draws, "seen")
    wrong = whole.values.copy()
    wrong[:, [whole.rungs.index(name) for name in ("perfect", "noisy_90")]] = -5.0, -4.0  # the best look worst
    found = table.standing(SPEC, "seen", "features", {"made up": dataclasses.replace(whole, values=wrong)})
    assert not found.ranked
    wrong[:, whole.rungs.index("noisy_90")] = whole.values[:, whole.rungs.index("noisy_90")]
    wrong[:, whole.rungs.index("split")] = -4.0
    found = table.standing(SPEC, "seen", "features", {"made up": dataclasses.replace(whole, values=wrong)})
    assert not found.ranked
    assert "perfect" in found.worlds["made up"].fragile
    assert "noisy_50" not in found.worlds["made up"].fragile
    noisy = whole.values.copy()
    noisy[1] = np.random.default_rng(0).normal(size=noisy.shape[1])
    found = table.standing(SPEC, "seen", "features", {"made up": dataclasses.replace(whole, values=noisy)})
    assert found.worlds["made up"].fragile == ("draw 1",)


def test_the_table_does_not_hang_on_the_order_or_number_of_draws_rungs_and_metrics(draws: list[seen.Seen]) -> None:
    whole = of(draws, "fvu").said("fidelity")
    turned = [
        dataclasses.replace(one, truths=dict(reversed(one.truths.items())), metrics=dict(reversed(one.metrics.items())))
        for one in reversed(draws)
    ]
    again = of(turned, "fvu").said("fidelity")
    assert set(whole.blind) == set(again.blind)
    assert whole.model_copy(update={"blind": ()}) == again.model_copy(update={"blind": ()})


def test_correlations_are_those_of_scipy_and_equal_figures_are_equal() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        a, b = rng.normal(size=12), rng.integers(0, 5, 12).astype(float)
        assert spearman(a, b) == pytest.approx(spearmanr(a, b).statistic)
    truth = np.arange(6.0)
    value = np.array([0.0, 1.0, 1.0 + 1e-9, 2.0, 3.0, 4.0])
    swapped = np.array([0.0, 1.0 + 1e-9, 1.0, 2.0, 3.0, 4.0])
    assert spearman(value, truth) == spearman(swapped, truth)  # what rounding puts in order says nothing
    assert spearman(np.full(6, 0.3), truth) == 0.0
    assert spearman(truth, np.full(6, 0.3)) is None
    assert spearman(np.array([1.0, 2, 3, 4, math.nan, math.nan]), truth) is None


def test_the_signal_is_what_it_was_made_of_and_its_interval_holds_it() -> None:
    """95 % of intervals should: simulated, whatever shifts a whole draw."""
    rng, sae, held = np.random.default_rng(0), np.linspace(-1, 1, 12), 0
    true = float(sae.std(ddof=1)) / 0.2
    for _ in range(200):
        values = sae + 5 * rng.normal(size=(4, 1)) + 0.2 * rng.normal(size=(4, 12))
        found = signal(values)
        assert found is not None
        held += found.low <= true <= found.high
    assert 180 <= held <= 199
    assert found.low < found.value < found.high
    assert signal(np.tile(sae, (3, 1))) == (MOST, MOST, MOST)
    assert signal(np.ones((3, 12))) == (0.0, 0.0, 0.0)
    assert signal(values[:1]) is None
    assert signal(values[:, :4]) is None


def test_intervals_and_false_positives_are_of_what_is_drawn_as_one() -> None:
    """Whatever a table's rows are: a document goes whole to the other SAE, in all sets that have the example."""
    rng = np.random.default_rng(0)
    names = {
        "document": ("a~1", "a~2", "b"),
        "ablation": ("a~1@3:7", "a~2@1:7", "b@0:1"),
        "example": ("s:x", "t:x", "t:y"),
    }
    for name, ids in names.items():
        a, b = (Units(ids, {"x": np.full(3, value)}) for value in (0.0, 1.0))
        for _ in range(20):
            found = sampling.exchanged(a, b, name, rng)
            assert found is not None
            one, other = (units.columns["x"] for units in found)
            assert one[0] == one[1], name
            assert (one + other == 1).all(), name
    fewer = Units(("a~1@3:7", "b@0:1", "c@0:1"), {"x": np.ones(3)})
    for _ in range(10):  # rows that differ go by document
        found = sampling.exchanged(Units(names["ablation"], {"x": np.zeros(3)}), fewer, "ablation", rng)
        assert found is not None
        assert sorted(len(units) for units in found) in ([2, 3],)
        assert all(
            len({v for u, v in zip(one.ids, one.columns["x"], strict=True) if u[0] == "a"}) == 1 for one in found
        )
    latents = [
        Units((f"{n}/0", f"{n}/1"), {"f1": np.full(2, v), "f1@t": np.full((2, 4), v)})
        for n, v in (("a", 0.0), ("b", 1.0))
    ]
    found = sampling.exchanged(*latents, "latent", rng)
    assert found is not None
    assert (found[0].columns["f1@t"][:, 0] == found[0].columns["f1"]).all()
    other = Units(("b/0",), {"f1": np.zeros(1), "f1@t": np.zeros((1, 4))})
    assert sampling.exchanged(latents[0], other, "latent", rng) is None


def test_only_rows_that_name_documents_are_sampled() -> None:
    assert {n for n in ("document", "ablation", "latent", "fold", "example") if kind(n).text} == {
        "document",
        "ablation",
    }


def test_rules_of_the_verdict() -> None:
    good = {"features": 0.7, "signal": 3.0, "signal_high": 4.0, "rungs": 9, "draws": 2}
    fit = {"signal": 3.0, "signal_high": 4.0, "coverage": 0.9, "coverage_error": 0.01, "rungs": 9, "draws": 2}

    def why(claims: str | None, spec: object = SPEC, metric: str = "seen", **fields: object) -> str | None:
        return why_not(spec, metric, claims, {"w": InWorld(**((fit if claims == "fidelity" else good) | fields))})  # type: ignore[arg-type]

    assert why("features") is None
    assert why("fidelity") is None
    assert "0.69" in str(why("features", features=0.69))
    assert why("encoder") == "no world speaks of it"
    assert "signal" in str(why("features", signal=2.9))
    assert "signal" in str(why("fidelity", signal=None))
    assert why("fidelity", coverage=0.99) is None
    for coverage in (0.899, 0.991, None):
        assert "interval" in str(why("fidelity", coverage=coverage))
    assert "random_fit" in str(why("fidelity", beaten_by=("permuted", "random_fit")))
    assert why("features", beaten_by=("random_fit",)) is None
    assert "claim" in str(why(None))
    assert "judge" in str(why("features", SPEC.model_copy(update={"judge": True})))
    assert "direction" in str(why("features", metric="aimless"))
    bad = InWorld(rungs=9, draws=2, beaten_by=("random_fit",))
    many = why_not(SPEC, "seen", "fidelity", dict.fromkeys("abcdefgh", bad))
    assert len(table.Standing(digest="x", ranked=False, why=many).why or "") < 500  # the lock takes no longer one
    two = {"w": InWorld(**good), "v": InWorld(**(good | {"features": 0.1}))}  # type: ignore[arg-type]
    assert "in v" in str(why_not(SPEC, "seen", "features", two))  # every world has to say so


def test_a_quick_look_takes_a_rank_only_beyond_noise() -> None:
    def world(**fields: object) -> InWorld:
        base = {"features": 0.75, "spread": 0.02, "signal": 5.0, "signal_high": 7.0, "rungs": 9, "draws": 2}
        return InWorld(**(base | fields))  # type: ignore[arg-type]

    was = world(draws=4)
    assert list(lost("features", was, world())) == []
    assert list(lost("features", was, world(features=0.66))) == []  # within the least slack
    assert len(list(lost("features", was, world(features=0.64)))) == 1
    assert list(lost("features", world(spread=0.1), world(features=0.60))) == []  # the lock knows that it spreads
    assert list(lost("features", was, world(signal=2.0, signal_high=3.1))) == []
    assert len(list(lost("features", was, world(signal=2.0, signal_high=2.9)))) == 1
    fit = {"coverage": 0.95, "coverage_error": 0.01}
    assert list(lost("fidelity", was, world(coverage=0.885, coverage_error=0.01))) == []
    assert len(list(lost("fidelity", was, world(coverage=0.87, coverage_error=0.01)))) == 1
    assert len(list(lost("fidelity", was, world(**fit, beaten_by=("random_fit",))))) == 1


def test_what_is_measured_nowhere_has_no_row() -> None:
    assert table.Measured.of("made_up.seen", [], ()) is None


@pytest.mark.parametrize("left", [0, 1, 4])
@pytest.mark.parametrize("claims", ["features", "encoder", "decoder", "fidelity"])
def test_a_world_in_which_few_saes_have_a_figure_takes_the_rank(draws: list[seen.Seen], claims: str, left: int) -> None:
    """It was asked, and that it could not be told is no excuse: the other worlds do not decide without it."""
    has = set([*made_up.QUALITY][:left])

    def few(one: seen.Seen) -> seen.Seen:
        was = one.metrics["made_up.seen"]
        values = {name: value if name in has else math.nan for name, value in was.values.items()}
        return dataclasses.replace(one, metrics={"made_up.seen": seen.MetricSeen(values)})

    row = of([few(one) for one in draws], "seen")
    assert len(row.rungs) == left
    both = {"made up": of(draws, "seen"), "empty": row}
    found = table.standing(SPEC, "seen", claims, both)  # type: ignore[arg-type]
    assert not found.ranked
    assert "unknown in empty" in str(found.why)
    assert found.worlds["empty"].rungs == left
    good = table.standing(SPEC, "seen", "features", {"made up": of(draws, "seen")}).worlds["made up"]
    assert len(list(lost("features", good, found.worlds["empty"]))) == 2


def test_a_world_that_does_not_know_a_truth_does_not_speak_of_what_claims_it(draws: list[seen.Seen]) -> None:
    """The witness knows where attributes are, and not which direction stands for one."""

    def blinded(one: seen.Seen) -> seen.Seen:
        truths = {name: own | {"features": math.nan, "decoder": math.nan} for name, own in one.truths.items()}
        return dataclasses.replace(one, truths=truths)

    witness = {name: of([blinded(one) for one in draws], name) for name in ("seen", "half_seen", "fvu")}
    alone = table.standing(SPEC, "seen", "features", {"witness": witness["seen"]})
    assert (alone.ranked, alone.why) == (False, "no world speaks of it")
    assert alone.worlds["witness"].features is None
    beside = {"made up": of(draws, "seen"), "witness": witness["seen"]}
    assert table.standing(SPEC, "seen", "features", beside).ranked
    assert table.standing(SPEC, "half_seen", "encoder", {"witness": witness["half_seen"]}).ranked
    assert table.standing(SPEC, "fvu", "fidelity", {"witness": witness["fvu"]}).ranked
    assert list(lost("features", alone.worlds["witness"], InWorld(rungs=9, draws=2))) == []


def test_saes_without_a_figure_are_left_out_and_said(draws: list[seen.Seen]) -> None:
    """A dead SAE has no effects: the others are still ordered, and it is neither blind nor beaten."""

    def without(one: seen.Seen) -> seen.Seen:
        was = one.metrics["made_up.seen"]
        gone = {"missed", "frozen_random"}
        kept = {
            field: {k: v for k, v in getattr(was, field).items() if k not in gone}
            for field in ("beside_perfect", "beside_controls")
        }
        metric = dataclasses.replace(was, values=was.values | dict.fromkeys(gone, math.nan), **kept)
        return dataclasses.replace(one, metrics={"made_up.seen": metric})

    found = of([without(one) for one in draws], "seen").said("features")
    assert found.rungs == len(made_up.QUALITY) - 2
    assert (found.features or 0) > 0.97
    assert found.blind == ()
    assert found.beaten_by == ()


def test_the_lock_is_rounded_so_that_other_machines_write_the_same(draws: list[seen.Seen]) -> None:
    one, shaken = of(draws, "fvu"), of(draws, "fvu")
    moved = shaken.values * (1 + 1e-8 * np.random.default_rng(1).normal(size=shaken.values.shape))
    assert dataclasses.replace(shaken, values=moved).said("fidelity") == one.said("fidelity")


def test_where_no_sae_is_perfect_or_none_was_compared_nothing_is_said_of_blindness(draws: list[seen.Seen]) -> None:
    """No number of SAEs that it cannot see is not the number 0."""
    whole = of(draws, "seen")
    bare = [dataclasses.replace(one, beside_perfect={}) for one in whole.seen]
    for row in (whole.without("perfect"), dataclasses.replace(whole, seen=tuple(bare))):
        found = row.said("features")
        assert (found.worse, found.blind) == (0, ())
        lines = printed.table({"t.m": Standing(digest="x", claims="features", ranked=True, worlds={"w": found})})
        assert next(line for line in lines if line.startswith("m ")).split()[-2:] == ["-", "yes"]
    lines = printed.table({"t.m": Standing(digest="x", ranked=False, worlds={"w": whole.said("features")})})
    assert f"0 of {whole.said('features').worse}" in next(line for line in lines if line.startswith("m "))


@pytest.mark.parametrize("lacking", ["random_fit", "every trained SAE", "the comparison"])
def test_fidelity_has_to_be_held_against_random_fit(draws: list[seen.Seen], lacking: str) -> None:
    """What nothing is known of has not been shown; a world without random_fit, or without training, does not ask."""
    gone = {"random_fit": ("random_fit",), "every trained SAE": made_up.CHECKPOINTS, "the comparison": ()}[lacking]

    def without(one: seen.Seen) -> seen.Seen:
        was = one.metrics["made_up.fvu"]
        values = was.values | dict.fromkeys(gone, math.nan)
        metric = dataclasses.replace(was, values=values, beside_controls={})
        return dataclasses.replace(one, metrics={"made_up.fvu": metric})

    row = of([without(one) for one in draws], "fvu")
    found = table.standing(SPEC, "fvu", "fidelity", {"w": row})
    assert (found.ranked, found.worlds["w"].beaten_by) == (False, ("random_fit",))
    assert "random_fit" in str(found.why)
    assert row.without("random_fit").beaten_by(None) == ()
    assert dataclasses.replace(row, checkpoints=()).beaten_by(None) == ()
    whole = table.standing(SPEC, "fvu", "fidelity", {"w": of(draws, "fvu")})
    assert (whole.ranked, whole.worlds["w"].fragile) == (True, (table.THIS_WORLD,))
