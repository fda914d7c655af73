"""Which windows latents are explained from and scored on: what they hold, what they give away, what is never shared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from sklearn.metrics import roc_auc_score

from sae_bench.kernels.detection import DECILES, MATCHED, RANDOM
from sae_bench.kernels.token_counts import Firings
from sae_bench.tasks.autointerp.windows import SHINGLE, Case, Sizes, Window, cases, check
from sae_bench.tasks.tracked import Text, Tracked
from tests.builders.windows import (
    LENGTH,
    RULES,
    SIZES,
    Ints,
    Rule,
    after,
    planted,
    sometimes,
)


def positives(case: Case) -> list[Window]:
    return [window for window in case.scored if window.stratum < DECILES]


def silent(case: Case, kind: int | None = None) -> list[Window]:
    kinds = (RANDOM, MATCHED) if kind is None else (kind,)
    return [window for window in case.scored if window.stratum in kinds]


def loop_peaks(text: Text, fires: dict[int, float], length: int = LENGTH) -> list[int]:
    """The strongest firing of every block of a text, from weak to strong, one token at a time."""
    best: dict[tuple[int, int], int] = {}
    start = 0
    for place, document in enumerate(text.document.tolist()):
        if place and document != text.document[place - 1]:
            start = place
        block = (document, (place - start) // length)
        if place in fires and (block not in best or fires[place] > fires[best[block]]):
            best[block] = place
    return sorted(best.values(), key=lambda place: fires[place])


def runs(window: Window, width: int = SHINGLE) -> set[tuple[int, ...]]:
    tokens = window.tokens.tolist()
    width = min(width, len(tokens))
    return {tuple(tokens[i : i + width]) for i in range(len(tokens) - width + 1)}


def overlap(one: Window, other: Window) -> bool:
    return one.start < other.stop and other.start < one.stop


def places(found: Firings, slot: int) -> dict[int, float]:
    own = found.latent == slot
    return dict(zip(found.position[own].tolist(), found.activation[own].tolist(), strict=True))


@pytest.fixture(scope="module")
def watched() -> Tracked:
    return planted()


@pytest.fixture(scope="module")
def found(watched: Tracked) -> list[Case]:
    made = cases(watched, SIZES, 0)
    assert [case.latent for case in made] == list(RULES)
    return made


# ---------------------------------------------------------------- what windows hold


def test_positives_hold_a_peak_of_their_decile_from_weak_to_strong(watched: Tracked, found: list[Case]) -> None:
    """Else recall by decile is about other activations than it says."""
    for slot, case in enumerate(found):
        fires = places(watched.test_firings, slot)
        deciles = np.array_split(np.array(loop_peaks(watched.test, fires)), DECILES)
        assert [window.stratum for window in positives(case)] == list(range(DECILES))
        for window, members in zip(positives(case), deciles, strict=True):
            assert any(window.start <= place < window.stop for place in members)
            assert window.activations.max() > 0


def test_windows_are_slices_of_their_half_with_the_activations_there(watched: Tracked, found: list[Case]) -> None:
    """Shown ones of the fit documents, scored ones of the others: the bug of explaining what is then scored."""
    halves = ((watched.fit, watched.fit_firings), (watched.test, watched.test_firings))
    for slot, case in enumerate(found):
        for (text, own), windows in zip(halves, ((*case.shown, *case.contrast), case.scored), strict=True):
            fires = places(own, slot)
            for window in windows:
                assert window.tokens.tolist() == text.tokens[window.start : window.stop].tolist()
                expected = [fires.get(place, 0.0) for place in range(window.start, window.stop)]
                assert window.activations.tolist() == expected
                assert (max(expected) > 0) == (window.stratum < DECILES)
                assert len(set(text.document[window.start : window.stop].tolist())) == 1, "two documents"
                assert len(window.tokens) == LENGTH


def test_random_windows_hold_no_token_of_a_peak_and_matched_ones_do(watched: Tracked, found: list[Case]) -> None:
    """Else the hard negatives are easy, or the easy ones hard, and the two figures mean something else."""
    for slot, case in enumerate(found):
        peaks = loop_peaks(watched.test, places(watched.test_firings, slot))
        liked = {int(watched.test.tokens[place]) for place in peaks}
        assert not any(set(window.tokens.tolist()) & liked for window in silent(case, RANDOM))
        assert all(set(window.tokens.tolist()) & liked for window in silent(case, MATCHED))
        fit = {int(watched.fit.tokens[place]) for place in loop_peaks(watched.fit, places(watched.fit_firings, slot))}
        assert all(set(window.tokens.tolist()) & fit for window in case.contrast)
        if case.latent == 3:  # fires on every 7: nothing can be matched
            assert not silent(case, MATCHED)
            assert len(silent(case)) == 5
        elif case.latent == 40:  # likes every token
            assert not silent(case, RANDOM)
        else:
            assert (len(silent(case, RANDOM)), len(silent(case, MATCHED))) == (5, 5)


def test_the_shown_windows_are_the_strongest_and_then_all_strengths(watched: Tracked, found: list[Case]) -> None:
    for slot, case in enumerate(found):
        fires = places(watched.fit_firings, slot)
        peaks = loop_peaks(watched.fit, fires)
        strength = [window.activations.max() for window in case.shown]
        assert strength == sorted(strength, reverse=True)
        assert len(case.shown) == SIZES.shown
        top = set(peaks[-(len(peaks) // DECILES) :])
        held = [any(window.start <= place < window.stop for place in top) for window in case.shown]
        assert sum(held) >= min(len(top), SIZES.shown // 2)
        weak = set(peaks[: len(peaks) // 2])
        assert any(window.activations.max() <= max(fires[place] for place in weak) for window in case.shown)
        assert not any(overlap(a, b) for i, a in enumerate(case.shown) for b in case.shown[:i])


def test_sizes_count_every_block_of_the_text_once(watched: Tracked, found: list[Case]) -> None:
    """Else precision at natural rates is about a text that does not exist."""
    lengths = np.bincount(watched.test.document)
    blocks = int(np.ceil(lengths / LENGTH).sum())
    for slot, case in enumerate(found):
        fires = places(watched.test_firings, slot)
        peaks = loop_peaks(watched.test, fires)
        assert case.sizes.sum() == blocks
        assert case.sizes[:DECILES].sum() == len(peaks)
        assert np.ptp(case.sizes[:DECILES]) <= 1
        liked = {int(watched.test.tokens[place]) for place in peaks}
        n_matched = 0
        for document in range(watched.test.n_documents):
            own = np.flatnonzero(watched.test.document == document).tolist()
            for start in range(0, len(own), LENGTH):
                block = own[start : start + LENGTH]
                hit = bool({int(watched.test.tokens[place]) for place in block} & liked)
                n_matched += hit and not any(place in fires for place in block)
        assert case.sizes[MATCHED] == n_matched


def test_random_windows_are_found_where_the_text_has_any() -> None:
    """A latent that likes many tokens still has easy negatives; without them it has no F1 at natural rates."""
    other = tuple(np.random.default_rng(i).integers(21, 30, 4 * LENGTH) for i in range(4))
    noise = {latent: lambda t, before, draw: (t <= 20) & (draw.random(len(t)) < 0.03) for latent in range(8)}
    for case in cases(planted(noise, n=900, shared=other), SIZES, 0):
        assert case.sizes[RANDOM] >= 16
        assert len(silent(case, RANDOM)) == SIZES.random


def test_fewer_than_ten_positives_still_span_weak_to_strong(watched: Tracked) -> None:
    """A user who saves requests must not get the score of the weakest firings alone."""
    for case in cases(watched, replace(SIZES, positives=4), 0):
        strata = sorted(window.stratum for window in positives(case))
        assert len(strata) == 4
        assert strata[0] <= 2
        assert strata[-1] >= 7, f"only the deciles {strata}"


def test_more_than_ten_positives_are_spread_evenly() -> None:
    for case in cases(planted(n=400), replace(SIZES, positives=25), 0):
        counts = np.bincount([window.stratum for window in positives(case)], minlength=DECILES)
        assert counts.sum() == 25
        assert set(counts.tolist()) == {2, 3}


def test_latents_with_too_few_firings_on_either_half_are_left_out() -> None:
    """A score from three windows would stand beside those from twenty."""
    rare = {1: after((1,), 2), 2: RULES[3], 5: lambda tokens, before, draw: tokens == 99}
    few = planted(rare, n=60)
    n = [len(loop_peaks(few.fit, places(few.fit_firings, slot))) for slot in range(3)]
    assert n[0] < SIZES.shown < n[1]
    assert [case.latent for case in cases(few, SIZES, 0)] == [2]
    assert [case.latent for case in cases(few, replace(SIZES, shown=2, positives=2), 0)] == [1, 2]


# ---------------------------------------------------------------- what windows give away


def test_where_documents_are_long_lengths_say_nothing() -> None:
    """A judge that looks only at the length of an excerpt must not beat chance."""
    for case in cases(planted(shortest=LENGTH, longest=60), SIZES, 0):
        assert {len(window.tokens) for window in case.scored} == {LENGTH}


def test_where_documents_are_short_lengths_say_little() -> None:
    """A window is then the whole document: long ones fire more often, which the null without explanation also shows."""
    fires, lengths = [], []
    for seed in range(6):
        for case in cases(planted(n=600, shortest=4, longest=30, seed=seed), SIZES, seed):
            fires += [window.stratum < DECILES for window in case.scored]
            lengths += [len(window.tokens) for window in case.scored]
    assert len(set(lengths)) > 5
    assert 2 * abs(roc_auc_score(fires, lengths) - 0.5) < 0.2


def test_the_peak_lies_at_any_place_of_the_window() -> None:
    """With the firing always in the middle, or always last, a judge could tell without an explanation."""
    rare = {latent: sometimes(latent, 0.2) for latent in range(1, 20)}
    slots = []
    text = planted(rare, n=300, shortest=200, longest=300)
    for case in cases(text, SIZES, 0):
        slots += [int(window.activations.argmax()) for window in positives(case)]
    counts = np.bincount(slots, minlength=LENGTH)
    assert len(slots) > 150
    assert chisquare(counts).pvalue > 0.001


def test_scored_windows_of_one_kind_do_not_overlap(found: list[Case]) -> None:
    """Twenty windows that are all the same text are one answer, not twenty."""
    for case in found:
        for kind in (positives(case), silent(case, RANDOM), silent(case, MATCHED)):
            assert not any(overlap(a, b) for i, a in enumerate(kind) for b in kind[:i])


# ---------------------------------------------------------------- shown and scored share nothing


def boilerplate(seed: int) -> tuple[Ints, ...]:
    """Sixty documents of which each holds the same 24 tokens, around which the latents fire as elsewhere."""
    draw = np.random.default_rng(seed)
    same = draw.integers(1, 21, 24)
    return tuple(np.concatenate([draw.integers(1, 21, 30), same, draw.integers(1, 21, 10)]) for _ in range(60))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_scored_window_shares_eight_tokens_in_a_row_with_a_shown_one(seed: int) -> None:
    """Licences and headers are in both halves; a judge that has seen them in the prompt would know the answer."""
    made = cases(planted(n=60, shared=boilerplate(seed), seed=seed), SIZES, seed)
    assert len(made) >= 3
    for case in made:
        shown = set().union(*(runs(window) for window in (*case.shown, *case.contrast)))
        assert not any(shown & runs(window) for window in case.scored)
        check(case)


@pytest.mark.parametrize("kind", [RANDOM, 9])
def test_a_scored_window_among_the_shown_stops_the_run(found: list[Case], kind: int) -> None:
    """The assertion that the scorer never sees what the explainer saw must fire, wherever the window comes from."""
    case = found[1]
    leaked = next(window for window in case.scored if window.stratum == kind)
    for planted_in in (replace(case, shown=(*case.shown, leaked)), replace(case, contrast=(*case.contrast, leaked))):
        with pytest.raises(AssertionError, match=f"latent {case.latent} was shown"):
            check(planted_in)
    shifted = Window(0, LENGTH, np.concatenate([leaked.tokens[8:], np.arange(30, 38)]), leaked.activations, 0)
    with pytest.raises(AssertionError, match="was shown"):
        check(replace(case, shown=(*case.shown, shifted)))
    apart = replace(shifted, tokens=np.concatenate([leaked.tokens[9:], np.arange(30, 39)]))
    check(replace(case, shown=(*case.shown, apart)))


def test_short_windows_are_compared_whole() -> None:
    """Documents shorter than eight tokens are also text that was seen."""
    same = np.array([7, 1, 2])
    few = planted({3: RULES[3]}, n=200, shortest=3, longest=7, shared=(same,) * 30)
    case = cases(few, SIZES, 0)[0]
    shown = {tuple(window.tokens.tolist()) for window in (*case.shown, *case.contrast)}
    assert not shown & {tuple(window.tokens.tolist()) for window in case.scored}


# ---------------------------------------------------------------- the draw


def same(one: list[Case], other: list[Case]) -> bool:
    def key(found: list[Case]) -> list[object]:
        return [(c.latent, [(w.start, w.stop, w.stratum) for w in (*c.shown, *c.contrast, *c.scored)]) for c in found]

    return key(one) == key(other)


def test_the_same_seed_gives_the_same_windows_and_another_others(watched: Tracked, found: list[Case]) -> None:
    """Otherwise a killed run asks other questions, and pays again."""
    assert same(cases(watched, SIZES, 0), found)
    assert not same(cases(watched, SIZES, 1), found)


def test_windows_of_a_latent_do_not_depend_on_what_else_is_watched(watched: Tracked, found: list[Case]) -> None:
    """So a run with fewer latents is answered from the cache of one with more."""
    keep = [1, 4]

    def only(own: Firings) -> Firings:
        there = np.isin(own.latent, keep)
        return Firings(np.searchsorted(keep, own.latent[there]), own.position[there], own.activation[there])

    fewer = replace(
        watched,
        latents=watched.latents[keep],
        density=watched.density[keep],
        fit_firings=only(watched.fit_firings),
        test_firings=only(watched.test_firings),
    )
    assert same(cases(fewer, SIZES, 0), [found[slot] for slot in keep])


def test_the_order_of_firings_changes_nothing(watched: Tracked, found: list[Case]) -> None:
    def shuffled(own: Firings) -> Firings:
        order = np.random.default_rng(5).permutation(len(own.latent))
        return Firings(own.latent[order], own.position[order], own.activation[order])

    mixed = replace(watched, fit_firings=shuffled(watched.fit_firings), test_firings=shuffled(watched.test_firings))
    assert same(cases(mixed, SIZES, 0), found)


def test_another_numbering_changes_the_draw_but_neither_who_is_explained_nor_what_windows_stand_for(
    watched: Tracked, found: list[Case]
) -> None:
    """The draw is keyed by the number of the latent in its dictionary: other windows, of the same strata."""
    renamed = cases(replace(watched, latents=watched.latents + 1000), SIZES, 0)
    assert [case.latent - 1000 for case in renamed] == [case.latent for case in found]
    assert all(np.array_equal(a.sizes, b.sizes) for a, b in zip(renamed, found, strict=True))
    strata = [[[window.stratum for window in case.scored] for case in made] for made in (renamed, found)]
    assert strata[0] == strata[1]


@settings(max_examples=30, deadline=None)
@for_all(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    longest=st.integers(1, 50),
    vocabulary=st.integers(1, 12),
    length=st.integers(4, 40),
    shown=st.integers(2, 8),
    wanted=st.tuples(st.integers(1, 12), st.integers(0, 4), st.integers(0, 4)),
)
def test_the_laws_hold_for_any_text(
    seed: int, n: int, longest: int, vocabulary: int, length: int, shown: int, wanted: tuple[int, int, int]
) -> None:
    """Tiny, dense and repetitive texts give fewer windows or no case, never a wrong window."""
    rules: dict[int, Rule] = {
        0: sometimes(1, 0.5),
        1: lambda tokens, before, draw: draw.random(len(tokens)) < 0.2,
        2: lambda tokens, before, draw: tokens > 0,
        3: lambda tokens, before, draw: tokens < 0,
    }
    made = planted(rules, n=n, shortest=1, longest=longest, vocabulary=vocabulary, seed=seed)
    sizes = Sizes(length, shown, 2, *wanted)
    for case in cases(made, sizes, seed):
        check(case)
        fires = places(made.test_firings, case.latent)
        assert len(positives(case)) <= wanted[0]
        assert len(silent(case)) <= wanted[1] + wanted[2]
        assert len(case.shown) <= shown
        for window in case.scored:
            assert 0 < len(window.tokens) <= length
            assert any(place in fires for place in range(window.start, window.stop)) == (window.stratum < DECILES)
            assert len(set(made.test.document[window.start : window.stop].tolist())) == 1
        lengths = np.bincount(made.test.document)
        assert case.sizes.sum() == np.ceil(lengths / length).sum()
