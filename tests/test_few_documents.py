"""How much text is enough: what the sentence asks for is exactly sufficient, and less is refused."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench import evaluate
from sae_bench.data.documents import Corpus
from sae_bench.errors import DataError
from tests.builders import tiny_models
from tests.builders.grouped_texts import groups_of, load, text_of
from tests.builders.tiny_saes import tiny_coder

DOCUMENT = [2, 3, 4, 5, 6, 7, 8, 9]


def documents(n: int, start: int = 0) -> list[list[int]]:
    return [[2 + (start + number) % 50, 3 + (start + number) // 50, *DOCUMENT] for number in range(n)]


def asked_for(error: DataError) -> int:
    return int(re.search(r"give at least (\d+) (documents|rows|groups)", str(error))[1])  # type: ignore[index]


SOURCES: dict[str, Any] = {
    "documents": lambda n, start: ([text_of(ids) for ids in documents(n, start)], {}),
    "rows": lambda n, start: (np.array(documents(n, start)), {}),
    "groups": lambda n, start: (
        [text_of(ids) for ids in documents(3 * n, start)],
        {"groups": [number % n for number in range(3 * n)]},
    ),
    "packed": lambda n, start: ([text_of(ids) for ids in documents(n, start)], {"packed": True, "context": 8}),
}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.95])
@pytest.mark.parametrize("mean_from_evaluation", [False, True])
@pytest.mark.parametrize("form", SOURCES)
@given(start=st.integers(0, 200), seed=st.integers(0, 3))
def test_as_many_as_are_asked_for_are_enough(
    form: str, mean_from_evaluation: bool, share: float, start: int, seed: int
) -> None:
    """Whatever the texts are, and so on whichever side their hashes put them."""
    options = {"seed": seed, "calibration_share": share, "mean_from_evaluation": mean_from_evaluation}
    least = 1 if mean_from_evaluation else 2
    source, more = SOURCES[form](least, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        corpus: Corpus = load(source, **more, **options)
    assert corpus.evaluation.n_units
    assert corpus.calibration.n_units
    if not mean_from_evaluation:
        assert not set(groups_of(corpus.evaluation)) & set(groups_of(corpus.calibration))
        source, more = SOURCES[form](least - 1, start)
        with pytest.raises(DataError) as caught:
            load(source, **more, **options)
        assert asked_for(caught.value) == least
        assert "--mean-from evaluation" in str(caught.value)


def test_texts_that_are_all_alike_are_one() -> None:
    with pytest.raises(
        DataError, match=r"4 documents, all alike, so there is no .* text beside it: give at least 2 doc"
    ):
        load([text_of(DOCUMENT)] * 4)


def test_one_side_is_filled_with_the_group_that_is_nearest_to_it_and_only_then() -> None:
    texts = [text_of(ids) for ids in documents(40)]
    whole = load(texts, calibration_share=0.2)
    aside = set(groups_of(whole.calibration))
    left = [
        text_of(ids)
        for ids in documents(40)
        if set(groups_of(load([text_of(ids)], mean_from_evaluation=True).evaluation)).isdisjoint(aside)
    ]
    assert len(left) == 40 - len(aside)
    with pytest.warns(UserWarning, match="fall on the evaluation side, so one is moved to the other"):
        few = load(left, calibration_share=0.2)
    assert (few.evaluation.n_groups, few.calibration.n_groups) == (len(left) - 1, 1)
    (moved,) = groups_of(few.calibration)
    nearest = load(texts, calibration_share=0.2 + 0.15)
    assert moved in groups_of(nearest.calibration) or len(nearest.calibration.unit_ids) == len(aside)


@pytest.mark.parametrize("labelled", [False, True])
def test_what_has_no_tokens_asks_for_as_much(labelled: bool) -> None:
    groups = {"groups": ["a", "b"]} if labelled else {}
    with pytest.raises(
        DataError, match=r"only documents of less than 2 tokens \(2 of them\); give at least 2 documents"
    ):
        load(["w1", "w2"], **groups)


def test_a_run_goes_through_on_two_documents() -> None:
    texts = [text for text in tiny_models.number_texts(2, shortest=20, longest=30)]
    given_: dict[str, Any] = {
        "model": tiny_models.tiny_gpt2(),
        "tokenizer": tiny_models.TinyTokenizer(),
        "resamples": 20,
    }
    tasks = "reconstruction,sparsity,loss_recovered"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = evaluate(tiny_coder(), data=texts, tasks=tasks, controls="permuted", **given_)
    for result in results:
        assert result.status == "ok"
        assert all(metric.low is None for metric in result.metrics.values()), "of one document there is no interval"
    with pytest.raises(DataError, match=r"1 document, so there is no .* give at least 2 documents that differ"):
        evaluate(tiny_coder(), data=texts[:1], tasks=tasks, controls="permuted", **given_)
