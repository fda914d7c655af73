"""The world whose features hang on earlier words: its truth twice, its SAEs, and a judge that only reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from sae_bench.judge import Judge, JudgeOptions, Request
from sae_bench.judge.here import answering, sender
from sae_bench.judge.secrets import Scrubber
from sae_bench.judge.transport import Transport
from sae_bench.saes import conformance
from sae_bench.tasks.autointerp import prompts
from sae_bench.validity import context, judge
from sae_bench.validity.context_known import KnownInContext, Plan, Read, plans
from sae_bench.validity.context_subject import model, tokenizer
from sae_bench.validity.context_words import Term, everywhere, holds, places, read, rows, terms, whats
from sae_bench.validity.context_world import FEATURES, WIDTH, World, text, true, world
from sae_bench.validity.ladder import Rung
from sae_bench.validity.measure import Draw
from tests.builders import context_by_hand

Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def made() -> World:
    return world(0)


@pytest.fixture(scope="module")
def rungs(made: World) -> dict[str, Rung]:
    return context.ladder(made)


def test_truth_follows_from_the_words_alone(made: World) -> None:
    ids = made.ids(40, "test")
    assert true(ids).tolist() == [context_by_hand.features(one) for one in text(ids)]


@pytest.mark.parametrize("seed", [0, 3])
def test_every_feature_occurs_and_no_two_are_one(seed: int) -> None:
    has = true(world(seed).sample).reshape(-1, len(FEATURES))
    assert (has.mean(0) > 0.002).all()
    assert len({column.tobytes() for column in has.T}) == len(FEATURES) == len(set(FEATURES))


def test_a_plain_pass_of_the_model_gives_the_sum_of_what_holds(made: World) -> None:
    texts = text(made.ids(6, "plain"))
    seen: list[torch.Tensor] = []
    network, words = model(made), tokenizer()
    network.model.layers[0].register_forward_hook(
        lambda _m, _a, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    tokens = words(texts, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        network(tokens)
    ids = tokens[:, 1:].numpy()
    assert [words.decode(row) for row in ids] == texts
    for i, one in enumerate(texts):
        has = np.array(context_by_hand.features(one))
        expected = made.spelling[ids[i]] + made.mean
        for j in range(len(FEATURES)):
            expected = expected + (has[:, j] * made.strengths[ids[i], j])[:, None] * made.directions[j]
        assert np.allclose(seen[0][i, 1:].numpy(), expected, atol=1e-5)


def test_what_a_word_has_does_not_hang_on_later_words(made: World) -> None:
    ids = made.ids(4, "causal")
    assert (true(ids)[:, :30] == true(ids[:, :30])).all()


def test_rules_can_say_exactly_the_features_that_claim_it(made: World) -> None:
    """Those that a word and the one before decide are the same wherever these two stand; the others are not."""
    ids = made.sample
    pairs = np.concatenate([ids[:, :-1, None], ids[:, 1:, None]], 2).reshape(-1, 2)
    code = pairs[:, 0] * 1000 + pairs[:, 1]
    has = true(ids)[:, 1:].reshape(-1, len(FEATURES))
    _, where = np.unique(code, return_inverse=True)
    share = np.stack([np.bincount(where, column) / np.bincount(where) for column in has.T])[:, where]
    mixed = ((share > 0) & (share < 1)).any(1)
    assert not mixed[[term.expressible for term in FEATURES]].any()
    assert mixed[[not term.expressible for term in FEATURES]].all()
    assert 14 <= sum(not term.expressible for term in FEATURES) <= 18


def test_the_perfect_sae_has_all_and_others_less(rungs: dict[str, Rung]) -> None:
    perfect = rungs["perfect"].truth
    assert (perfect.both, perfect.encoder, perfect.decoder) == pytest.approx((1, 1, 1))
    encoders = [rung.truth.encoder for rung in rungs.values()]
    assert len(rungs) >= 24
    assert min(encoders) < 0.2
    assert max(encoders) <= 1 + 1e-12
    assert len({round(one, 1) for one in encoders}) >= 8
    assert rungs["duplicates"].truth == perfect
    assert rungs["permuted"].truth.encoder == pytest.approx(1)
    assert rungs["permuted"].truth.both < 0.3
    for name in ("split_2", "missed_20", "false_firings_1", "blind_half"):
        assert rungs[name].truth.encoder < 0.95, name
    for less, more in (("missed_50", "missed_20"), ("merged_4", "merged_2"), ("blind", "blind_far"), ("k_1", "k_2")):
        assert rungs[less].truth.encoder < rungs[more].truth.encoder


@pytest.mark.parametrize("name", ["split_2", "blind", "false_firings_1", "tied_k4"])
def test_truth_is_the_best_matching_of_firing(made: World, rungs: dict[str, Rung], name: str) -> None:
    has = np.concatenate([context_by_hand.features(one) for one in text(made.sample[:60])]).astype(float)
    rung = rungs[name]
    x = torch.from_numpy(made.activations(made.sample[:60]).reshape(-1, WIDTH))
    fires = (rung.coder.encode(x).dense().numpy() != 0).astype(float)
    f1 = np.zeros((has.shape[1], fires.shape[1]))
    for i in range(has.shape[1]):
        for j in range(fires.shape[1]):
            f1[i, j] = 2 * (has[:, i] * fires[:, j]).sum() / max(has[:, i].sum() + fires[:, j].sum(), 1)
    best = f1[linear_sum_assignment(-f1)].mean()
    assert rung.truth.encoder == pytest.approx(best, abs=0.03)  # of another amount of text


def test_context_blind_latents_do_not_see_the_words_before(made: World) -> None:
    """Of two texts with one word in common a blind latent says the same of it, a seeing one does not."""
    quiet, spoken = rows([["the", "dog", "sees"], ["“", "dog", "sees"]])
    x = torch.from_numpy(made.activations(np.stack([quiet, spoken]))[:, 1])
    own = plans(made)
    codes = {name: own[name].codes(Read(x, made)) != 0 for name in ("blind", "hash_of_word", "perfect")}
    assert not (codes["perfect"][0] == codes["perfect"][1]).all()
    for name in ("blind", "hash_of_word"):
        placed = [i for i, term in enumerate(FEATURES) if term.where or name != "blind"]
        assert (codes[name][0, placed] == codes[name][1, placed]).all(), name


@pytest.mark.parametrize("name", list(plans(world(0))))
def test_codes_hang_on_the_activation_alone(made: World, name: str) -> None:
    """Another batch, and rounding as in another order of sums, change no latent."""
    coder = KnownInContext(name, plans(made)[name], made)
    x = torch.from_numpy(made.activations(made.ids(6, "batches")).reshape(-1, WIDTH)).float()
    whole = coder.encode(x).dense()
    parts = torch.cat([coder.encode(part).dense() for part in (x[:7], x[7:100], x[100:])])
    again = coder.encode(x * (1 + 1e-7)).dense()
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.equal(whole != 0, parts != 0)
    assert ((whole != 0) == (again != 0)).float().mean() > 0.9999


@pytest.mark.parametrize("name", ["perfect", "blind", "missed_50", "tied_k4"])
def test_permuting_and_rescaling_latents_changes_no_truth(made: World, rungs: dict[str, Rung], name: str) -> None:
    plan, order = plans(made)[name], np.random.default_rng(0).permutation(len(FEATURES))
    scale = torch.linspace(0.5, 3, len(FEATURES)).double()
    turned = torch.from_numpy(order)
    other = Plan(lambda r: plan.codes(r)[:, turned] * scale, plan.decoder[order] / scale.numpy()[:, None])
    assert astuple(context.rung("other", other, made).truth) == pytest.approx(astuple(rungs[name].truth))


@pytest.mark.parametrize("name", ["perfect", "half_dead", "hash_of_all"])
def test_latents_that_never_fire_add_no_truth(made: World, rungs: dict[str, Rung], name: str) -> None:
    """Even where they write exactly what a feature is."""
    plan = plans(made)[name]
    more = Plan(
        lambda r: torch.nn.functional.pad(plan.codes(r), (0, len(FEATURES))), np.vstack([plan.decoder, made.directions])
    )
    assert astuple(context.rung("more", more, made).truth) == pytest.approx(astuple(rungs[name].truth))


def test_coders_keep_the_protocol(made: World) -> None:
    x = torch.from_numpy(made.activations(made.ids(8, "protocol")).reshape(-1, WIDTH)).float()
    for name in ("perfect", "blind", "tied_k4"):
        conformance.check(KnownInContext(name, plans(made)[name], made), x)


def test_every_description_can_be_read_back_and_is_no_feature_for_the_most_part() -> None:
    assert all(read(str(term)) == [term] for term in FEATURES)
    assert len(terms()) > 1000 * len(FEATURES)
    two = Term("colours", "right after", "the word 'the'")
    assert read(f"{two}; or nonsense; or animals") == [two, Term("animals")]


def test_all_places_at_once_are_those_one_by_one(made: World) -> None:
    ids = made.ids(3, "places")
    found = everywhere(ids)
    assert len(found) == len(places())
    for i in range(0, len(places()), 7):
        where, of = places()[i]
        assert (found[i] == holds(Term("any word", where, of), ids)).all(), places()[i]


MARKED = """Excerpts on which it fires:
1. the very<< red>>(9) dog sees a white cat
2. a quite<< blue>>(5) cat ( two river )
3. boris likes a too<< green>>(9) cake and a red saw

Silent excerpts:
1. the red dog and the blue cat runs
2. a very big dog sees a grey cat"""


def test_the_judge_finds_what_is_marked() -> None:
    sharp = judge.ReadingJudge(overlooks=0, errs=0)
    assert sharp.explanation(MARKED) == "colours right after words of degree"
    assert sharp.answers("colours right after words of degree", ["a rather red dog", "a red dog"])[0] > 50
    assert sharp.answers("colours right after words of degree", ["a rather red dog", "a red dog"])[1] < 50


def test_the_judge_hears_nothing_but_the_text_of_a_request(tmp_path: Path) -> None:
    """What reaches it is the messages that an endpoint would get; it answers the first question of a run as asked."""
    heard: list[object] = []

    def listening(messages: object) -> str:
        heard.append(messages)
        return judge.ReadingJudge()(messages)  # type: ignore[arg-type]

    options = JudgeOptions("m", base_url=judge.ADDRESS, cache=tmp_path / "c.sqlite")
    request = Request([{"role": "system", "content": "say"}, {"role": "user", "content": MARKED}], None, 100)
    with answering(judge.ADDRESS, listening), Judge(options) as asked:
        first = asked.meet(prompts.first())
        reply, again = asked.complete([request, request])
    answers = {one["id"]: one["p"] > 50 for one in json.loads(first.text)["answers"]}
    assert answers == prompts.CERTAIN
    assert heard == [list(prompts.first().messages), list(request.messages)]
    assert reply.status == again.status == "ok"
    assert "colours" in reply.text == again.text


def test_the_judge_errs_and_overlooks_as_often_as_it_says() -> None:
    texts = [f"the {word} sees a {other}" for word in ("dog", "cat", "soup") for other in list(whats())[1:40]]
    dim = judge.ReadingJudge(errs=0.2)
    right = [(p >= 50) == any(w in ("dog", "cat") for w in one.split()[1:2]) for one, p in
             zip(texts, dim.answers("the word 'dog'; or the word 'cat'", texts), strict=True)]  # fmt: skip
    assert 0.7 < np.mean(right) < 0.9
    blank = judge.ReadingJudge().answers("", texts)
    assert 30 <= min(blank) < 50 <= max(blank) <= 70


def test_only_its_address_is_answered_in_this_process_and_only_while_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    here, elsewhere = (JudgeOptions("m", base_url=url, cache=None) for url in (judge.ADDRESS, "http://localhost:1/v1"))
    with answering(judge.ADDRESS, judge.ReadingJudge()):
        assert not isinstance(sender(here, Scrubber()), Transport)
        assert isinstance(sender(elsewhere, Scrubber()), Transport)
    assert isinstance(sender(here, Scrubber()), Transport)


@pytest.fixture(scope="module")
def draw() -> Iterator[Draw]:
    kept = ("perfect", "missed_80", "hash_of_all", "blind", "hash_of_word")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context, "plans", lambda w: {name: plan for name, plan in plans(w).items() if name in kept})
        yield context.measured(0, quick=True)


@pytest.mark.slow
def test_a_judge_tells_latents_that_miss_their_feature_from_those_that_do_not(draw: Draw) -> None:
    detection = {name: draw.figures[name]["autointerp.detection"].value or 0 for name in draw.rungs}
    assert detection["perfect"] > max(detection["missed_80"], detection["hash_of_all"]) + 0.2
    for null in ("null_shuffled", "null_empty"):
        assert abs(draw.figures["perfect"][f"autointerp.{null}"].value or 0) < 0.35


@pytest.mark.slow
def test_a_rule_of_tokens_says_what_tokens_explain_and_not_what_is_true(draw: Draw) -> None:
    """Latents that are blind for context have better rules than right ones: who ranked by that would rank wrongly."""
    rule = {name: draw.figures[name]["token_rules.rule_f1"].value or 0 for name in draw.rungs}
    assert rule["blind"] == pytest.approx(1, abs=0.02)
    assert rule["hash_of_word"] == pytest.approx(1, abs=0.02)
    assert rule["perfect"] < 0.9
    assert rule["missed_80"] < rule["perfect"]
    own = {int(i): f1 for i, f1 in _rules(draw, "perfect")}
    kinds = [[own[i] for i, term in enumerate(FEATURES) if i in own and kind(term)] for kind in KINDS]
    assert min(kinds[0]) > 0.99
    assert np.mean(kinds[0]) > np.mean(kinds[1]) > np.mean(kinds[2])


KINDS = (
    lambda term: not term.where,
    lambda term: term.where and term.expressible,
    lambda term: not term.expressible,
)


def _rules(draw: Draw, name: str) -> list[tuple[int, float]]:
    return [(one["latent"], one["f1"]) for one in draw.results[name]["token_rules"].details["rules"]]
