"""Whatever is measured on some documents takes them from all groups alike, and halves of a text are of other groups."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench import verify
from sae_bench.api import evaluate
from sae_bench.data import TokenSet
from sae_bench.data.groups import name_of
from sae_bench.results import store, submit
from sae_bench.results.recompute import differences
from sae_bench.schema import Result
from sae_bench.streams import beside
from sae_bench.streams.captures import sampled_sequences
from sae_bench.streams.watched import is_fit, tracked_units
from sae_bench.units.groups import group_of, in_group
from sae_bench.units.sample import first_for_controls
from tests.builders.tiny_models import tiny_gpt2
from tests.builders.token_rows import coder, token_rows


def tokens_of(names: list[str], sequences: int = 1) -> TokenSet:
    """Units of these ids, each of some sequences of two ids."""
    units = np.repeat(np.arange(len(names)), sequences).astype(np.int32)
    return TokenSet(np.arange(2 * len(units), dtype=np.int32), np.arange(len(units) + 1) * 2, units, tuple(names))


def named(groups: list[int]) -> list[str]:
    """Ids of units in these groups."""
    return [in_group(name_of(str(group)), f"{number:016x}") for number, group in enumerate(groups)]


def controls(ids: list[str], n: int, seed: int) -> list[int]:
    return first_for_controls(ids, n, seed)


def tracked(ids: list[str], n: int, seed: int) -> list[int]:
    return tracked_units(tokens_of(ids), n, seed)


def ablated(ids: list[str], n: int, seed: int) -> list[int]:
    return [place // 3 for place in sampled_sequences(tokens_of(ids, 3), n, seed)]


SAMPLES = [controls, tracked, ablated]


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_is_of_all_groups_alike_and_costs_no_more(sample: Any) -> None:
    """15 sources of 1,000 rows; and more groups than the sample has room for."""
    few = named([number // 1000 for number in range(15_000)])
    chosen = sample(few, 128, 0)
    assert len(chosen) == 128
    sizes = Counter(group_of(few[place]) for place in chosen)
    assert sorted(sizes.values()) == [8] * 7 + [9] * 8
    many = named([number // 5 for number in range(1500)])
    assert len({group_of(many[place]) for place in sample(many, 128, 0)}) == 128
    assert len(sample(many, 450, 0)) == 450
    assert max(Counter(group_of(many[place]) for place in sample(many, 450, 0)).values()) == 2
    assert sample(few, 128, 1) != chosen


@pytest.mark.parametrize("sample", SAMPLES)
@given(groups=st.lists(st.integers(0, 9), min_size=1, max_size=40), n=st.integers(0, 12), data=st.data())
def test_a_sample_does_not_depend_on_order_and_a_smaller_one_is_a_part(
    sample: Any, groups: list[int], n: int, data: st.DataObject
) -> None:
    ids = named(groups)
    order = data.draw(st.permutations(range(len(ids))))
    turned = [ids[place] for place in order]
    chosen = {ids[place] for place in sample(ids, n, 0)}
    assert chosen == {turned[place] for place in sample(turned, n, 0)}
    assert chosen <= {ids[place] for place in sample(ids, n + 1, 0)}
    part = turned[: max(1, len(ids) // 2)]
    assert chosen & set(part) <= {part[place] for place in sample(part, n, 0)}, (
        "what is in the sample of all is here too"
    )


def test_documents_alone_are_sampled_as_before_groups_were() -> None:
    ids = [f"{number:016x}" for number in range(300)]
    places = [hashlib.sha256(f"3 control document {unit}".encode()).digest() for unit in ids]
    assert first_for_controls(ids, 128, 3) == sorted(range(300), key=places.__getitem__)[:128]


@given(st.lists(st.integers(0, 30), min_size=40, max_size=80), st.integers(0, 5))
def test_no_group_is_both_explained_on_and_scored_on(groups: list[int], seed: int) -> None:
    ids = named(groups)
    halves = [{group_of(unit) for unit in ids if is_fit(unit, seed) == half} for half in (True, False)]
    assert not halves[0] & halves[1]
    assert is_fit("00ff#3", seed) == is_fit("00ff", seed)


# ---------------------------------------------------------------- runs


def run(labels: list[Any], **settings: Any) -> dict[str, Result]:
    given: dict[str, Any] = {"model": tiny_gpt2().double(), "data": token_rows(len(labels)), "dtype": "float64"}
    given |= {"resamples": 50, "tasks": "reconstruction", "tier": "full", "groups": labels, "device": "cpu"}
    return {result.task: result for result in evaluate(coder(), **(given | settings))}


def test_controls_of_grouped_rows_are_measured_on_all_groups_and_verified_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beside, "DOCUMENTS", 12)
    labels = [f"source {number // 12}" for number in range(120)]
    run(labels, out=tmp_path, controls="identity,permuted")
    (file,) = store.results_below(tmp_path)
    result, tables = store.read(file), store.read_units(file)
    own, control = tables["document"], tables["control/identity/document"]
    groups = {group_of(unit) for unit in own.ids}
    assert groups < {name_of(label) for label in labels}
    assert {group_of(unit) for unit in control.ids} == groups
    assert len(control) == 12
    assert not differences(result, tables)[1]
    given: dict[str, Any] = {"model": tiny_gpt2().double(), "data": token_rows(120), "device": "cpu"}
    assert not verify.verify(file, coder(), share=0.5, seed=0, groups=labels, **given).wrong
    others = verify.verify(file, coder(), share=0.5, seed=0, groups=labels[::-1], **given)
    assert any("other data_sha256" in said for said in others.wrong)
    few = [said for said in submit.check(file).problems if "groups" in said]
    assert few == [f"its {len(own)} documents are of {len(groups)} groups; the board takes 64 or more"]


def test_text_of_one_group_is_not_explained_and_says_why() -> None:
    result = run([7] * 40, tasks="token_rules", controls="none", mean_from="evaluation")["token_rules"]
    assert result.status == "skipped"
    assert "all of its 1 are on one of these sides; give text of more groups" in (result.reason or "")
