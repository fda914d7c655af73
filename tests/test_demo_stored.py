"""What the demo has measured or written once: losses of its model's checkpoints, minimal pairs, kinds of documents."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_bench import demo
from sae_bench.data.documents import DataOptions, load_corpus
from sae_bench.engine.plan import Options
from sae_bench.errors import DataError
from sae_bench.streams.base import Inputs, some_documents


@cache
def tokenizer():
    return AutoTokenizer.from_pretrained(demo.MODEL_PATH)


@cache
def model():
    return AutoModelForCausalLM.from_pretrained(demo.MODEL_PATH, dtype=torch.float32).eval()


def ids_of(text: str) -> list[int]:
    return [0, *tokenizer()(text)["input_ids"]]


# ------------------------------------------------------------------------------------------------------ minimal pairs


def test_there_are_forty_pairs_of_prompts_the_same_but_for_the_tokens_that_they_name():
    assert len(demo.pairs()) == len({(pair.a, pair.b) for pair in demo.pairs()}) == 40
    assert set(Counter(pair.family for pair in demo.pairs()).values()) == {8}
    for pair in demo.pairs():
        a, b = ids_of(pair.a), ids_of(pair.b)
        assert len(a) == len(b), pair
        assert tuple(at for at, (one, other) in enumerate(zip(a, b, strict=True)) if one != other) == pair.positions
        assert pair.attribute in demo.ATTRIBUTES
        assert pair.answer_a != pair.answer_b
        assert len(ids_of(pair.answer_a)) == len(ids_of(pair.answer_b)) == 2, pair


@torch.no_grad()
def margins(pair: demo.Pair) -> tuple[float, float]:
    """Logit of a's answer less that of b's, behind a and behind b, by the model alone."""
    logits = model()(torch.tensor([ids_of(pair.a), ids_of(pair.b)])).logits[:, -1]
    found = logits[:, ids_of(pair.answer_a)[1]] - logits[:, ids_of(pair.answer_b)[1]]
    return float(found[0]), float(found[1])


def test_the_model_goes_on_as_expected_behind_each_half_of_most_pairs():
    found = [margins(pair) for pair in demo.pairs()]
    assert all(a > b for a, b in found), "the prompt that has the attribute speaks for its own answer"
    assert sum(a - b > 0.5 for a, b in found) >= 36, "too small a difference can be swapped by nothing"
    assert sum(a > 0 > b for a, b in found) >= 34


# ----------------------------------------------------------------------------------------------- losses of checkpoints


def test_the_ladder_falls_to_the_loss_of_the_model_that_ships():
    ladder = demo.ladder()
    assert len(ladder.steps) == len(ladder.training_tokens) == len(ladder.losses) == 6
    assert all(one < other for one, other in pairwise(ladder.training_tokens.tolist()))
    assert all(one > other for one, other in pairwise(ladder.losses.tolist()))
    assert ladder.ce.shape == (6, 2000)
    assert ladder.losses[-1] == pytest.approx(1.348, abs=0.001)  # what the README says


@torch.no_grad()
def test_the_last_checkpoint_has_the_losses_that_the_model_has_on_each_document():
    ladder, documents = demo.ladder(), demo.documents(2000)
    for at in (0, 17, 333, 1999):
        ids = torch.tensor([ids_of(documents[at].text)])
        assert ladder.predictions[at] == ids.shape[1] - 1
        logits = model()(ids).logits[0, :-1].double()
        own = float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
        assert ladder.ce[-1, at] == pytest.approx(own, rel=1e-5)


# ------------------------------------------------------------------------------------------------- kinds of documents


def corpus(source="demo", **options):
    asked = {"limit": 60, "calibration_limit": 8} | options
    return load_corpus(source, tokenizer=tokenizer(), vocab_size=1536, options=DataOptions(**asked))


def test_documents_of_the_demo_say_their_kind_and_are_resampled_one_by_one_all_the_same():
    kinds = {tuple(ids_of(document.text)): document.kind for document in demo.documents(200)}
    found = corpus()
    for side in (found.evaluation, found.calibration):
        assert len(side.sources) == side.n_units == side.n_groups
        for sequence in side:
            assert side.sources[sequence.unit] == kinds[tuple(sequence.ids.tolist())]
    texts = corpus([document.text for document in demo.documents(200)])
    assert texts.evaluation.sources == ()
    assert texts.evaluation.sha256 == found.evaluation.sha256
    assert texts.evaluation.unit_ids == found.evaluation.unit_ids


def test_kinds_stay_with_their_documents_where_tokens_are_limited():
    kinds = {tuple(ids_of(document.text)): document.kind for document in demo.documents(200)}
    side = corpus(limit=None, tokens=3000).evaluation
    whole = [s for s in side if tuple(s.ids.tolist()) in kinds]
    assert len(whole) > 20
    assert all(side.sources[s.unit] == kinds[tuple(s.ids.tolist())] for s in whole)


def test_packed_sequences_have_no_kind():
    assert corpus(packed=True, limit=4, calibration_limit=2).evaluation.sources == ()


def test_kinds_are_groups_for_who_asks_for_it():
    found = corpus(group_field="kind", limit=400, calibration_limit=100)
    kinds = set(found.evaluation.sources) | set(found.calibration.sources)
    assert kinds <= set(demo.KINDS)
    assert found.evaluation.n_groups == len(set(found.evaluation.sources)) < 8
    assert not set(found.evaluation.sources) & set(found.calibration.sources)
    assert found.details["group_field"] == "kind"
    assert {one["group"] for one in found.details["largest_groups"]} <= set(demo.KINDS)


def test_a_field_that_the_demo_has_not_is_a_sentence():
    with pytest.raises(DataError, match="The texts of the demo have the field 'kind' to group by, not 'author'"):
        corpus(group_field="author")


def test_a_part_of_the_documents_keeps_their_kinds():
    inputs = Inputs(corpus(), None, Options())
    part = some_documents(inputs, [5, 2, 40]).corpus.evaluation
    whole = inputs.corpus.evaluation
    assert part.sources == tuple(whole.sources[at] for at in (5, 2, 40))
    assert part.unit_ids == tuple(whole.unit_ids[at] for at in (5, 2, 40))
