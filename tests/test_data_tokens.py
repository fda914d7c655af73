"""``--tokens``: never more, spread over groups, the same for every order of work, and less is a part of more."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench import resolve
from sae_bench.api import Session
from sae_bench.data import TokenSet, sides
from sae_bench.errors import DataError, UsageError
from sae_bench.settings import TIERS, Settings
from tests.builders.grouped_texts import (
    BOS,
    VOCABULARY,
    groups_of,
    ids_of,
    load,
    text_of,
    tokens_of_groups,
    unit_contents,
)
from tests.builders.tiny_models import TinyTokenizer, number_texts, tiny_gpt2
from tests.builders.tiny_saes import tiny_coder
from tests.conftest import Run

FORMS = ["documents", "labelled", "packed", "rows"]
LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=40)


def evaluated(form: str, lengths: list[int], tokens: int | None, **options: Any) -> TokenSet:
    """Documents of these lengths, all different, or rows of 8 ids, in one of the forms."""
    draw = random.Random(7)
    ids = [[draw.randrange(2, VOCABULARY) for _ in range(n)] for n in lengths]
    labels = None if form in ("documents", "packed") else [n % 5 for n in lengths]
    source: Any = [text_of(one) for one in ids]
    if form == "rows":
        source = np.array([(one * 8)[:8] for one in ids])
    more: dict[str, Any] = {"context": 8, "packed": form == "packed", "mean_from_evaluation": True}
    return load(source, groups=labels, tokens=tokens, **more | options).evaluation


def sequences(tokens: TokenSet) -> set[tuple[str, tuple[int, ...]]]:
    """Every sequence with its unit."""
    return {(tokens.unit_ids[s.unit], tuple(s.ids.tolist())) for s in tokens}


@given(st.sampled_from(FORMS), LENGTHS, st.integers(9, 400), st.integers(9, 400))
def test_never_more_than_asked_and_less_is_a_part_of_more(form: str, lengths: list[int], n: int, m: int) -> None:
    """Of one sequence, the one that the smaller limit cuts, a beginning is a part."""
    few, many = min(n, m), max(n, m)
    lengths = [*lengths, 40]
    small, large, whole = (evaluated(form, lengths, tokens) for tokens in (few, many, None))
    assert small.n_tokens <= few
    assert large.n_tokens <= many
    assert small.n_tokens == whole.n_tokens or small.n_tokens > few - 9, "a sequence less at most"
    for part, more in ((small, large), (large, whole)):
        there = sequences(more)
        left = [one for one in sequences(part) if one not in there]
        assert len(left) <= 1
        assert all(any(unit == name and ids[: len(own)] == own for name, ids in there) for unit, own in left)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", [3, 40, 700])
def test_no_group_has_more_than_its_share_where_there_are_others(form: str, groups: int) -> None:
    """Rows sorted by group, as they often come, of very unequal groups; 100 documents of one context are asked for."""
    sizes = [200 if group % 7 == 0 else 3 for group in range(groups)]
    if form in ("documents", "packed"):
        ids = [[2 + group % 60] * (8 * size) + ids_of(1, 6, group)[0] for group, size in enumerate(sizes)]
        labels = None
    else:
        labels = [group for group, size in enumerate(sizes) for _ in range(size)]
        ids = ids_of(len(labels), 7 if form == "labelled" else 8)
    source: Any = np.array(ids) if form == "rows" else [text_of(one) for one in ids]
    tokens, context = 800, 8
    options: dict[str, Any] = {"context": context, "packed": form == "packed", "mean_from_evaluation": True}
    found = load(source, groups=labels, tokens=tokens, **options)
    of_groups = tokens_of_groups(found.evaluation)
    assert sum(of_groups.values()) == found.evaluation.n_tokens <= tokens
    assert found.evaluation.n_tokens > tokens - context
    if groups == 700:
        assert max(of_groups.values()) <= context
        assert found.details["evaluation_most_tokens_of_a_group"] == context
    else:  # evenly: whoever has less than another has nothing more
        most = max(of_groups.values())
        whole = tokens_of_groups(load(source, groups=labels, **options).evaluation)
        assert all(n >= most - 2 * context or n == whole[group] for group, n in of_groups.items())
        assert len(of_groups) >= (groups if form != "packed" else 0.9 * groups)


def test_of_a_long_document_are_taken_sequences_from_all_of_it() -> None:
    """Its beginning alone would be another kind of text."""
    documents = [[2 + place // 7 for place in range(7 * 50)] for _ in range(60)]  # the word says the place
    for number, ids in enumerate(documents):
        ids[3] = 2 + number
    found = load([text_of(ids) for ids in documents], context=8, tokens=60 * 8, mean_from_evaluation=True).evaluation
    places = [int(sequence.ids[-1]) - 2 for sequence in found]
    assert len(found) == found.n_units == 60, "one of each"
    assert len(set(places)) > 25
    assert 15 < np.mean(places) < 35
    more = load([text_of(ids) for ids in documents], context=8, tokens=240 * 8, mean_from_evaluation=True).evaluation
    of_unit: dict[int, list[int]] = {}
    for sequence in more:
        of_unit.setdefault(sequence.unit, []).append(int(sequence.ids[-1]))
    assert all(own == sorted(own) for own in of_unit.values()), "in the order of the text"


def oracle(rows: list[tuple[int, int]], tokens: int, width: int) -> Counter[int]:
    """How many rows of each group are taken of (group, number), by the definition and with everything in memory."""
    share = max(width, tokens // sides.SPREAD)
    taken: Counter[int] = Counter()
    for group, _ in rows:
        if sum(taken.values()) * width + width <= tokens and (taken[group] + 1) * width <= share:
            taken[group] += 1
    there = Counter(group for group, _ in rows)
    places = {group: [place for place, (own, _) in enumerate(rows) if own == group] for group in there}
    first = {group: own[taken[group]] for group, own in places.items() if taken[group] < len(own)}  # of what is left
    while sum(taken.values()) * width + width <= tokens:
        left = [group for group in there if taken[group] < there[group]]
        if not left:
            break
        taken[min(left, key=lambda group: (taken[group], first[group]))] += 1
    return taken


@given(
    st.lists(st.integers(0, 8), min_size=2, max_size=300),
    st.integers(1, 60),
    st.booleans(),
)
def test_what_is_taken_is_what_the_definition_says(groups: list[int], n: int, by_group: bool) -> None:
    """Also where most of what came had to be forgotten, since no more than twice the limit waits."""
    groups = sorted(groups) if by_group else groups
    rows = np.array(ids_of(len(groups), 8))
    found = load(rows, groups=groups, tokens=n * 8, mean_from_evaluation=True).evaluation
    names = {tuple(row): group for row, group in zip(rows.tolist(), groups, strict=True)}
    assert Counter(names[own] for own in unit_contents(found)) == oracle(
        list(zip(groups, range(len(groups)), strict=True)), n * 8, 8
    )


def test_a_group_is_of_many_documents_before_it_has_much_of_one() -> None:
    """A source of two long documents and one of fifty: each has half, and the second a sequence of every document."""
    texts = [text_of(ids) for ids in (*ids_of(2, 700), *ids_of(50, 70, seed=1))]
    labels = ["two"] * 2 + ["fifty"] * 50
    found = load(texts, groups=labels, context=8, tokens=800, mean_from_evaluation=True).evaluation
    assert sorted(tokens_of_groups(found).values()) == [400, 400]
    assert found.n_units == 52


def test_what_waits_does_not_grow_with_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    most = []
    forget = sides.Side._forget
    monkeypatch.setattr(sides.Side, "_forget", lambda side: (most.append(side._spare), forget(side))[1])
    rows = np.array(ids_of(4000, 8))
    found = load(rows, groups=[number // 400 for number in range(4000)], tokens=400, mean_from_evaluation=True)
    assert Counter(groups_of(found.evaluation)).most_common(1)[0][1] == 5
    assert len(most) > 5
    assert max(most) <= 400 * 5 // 4 + 8


def test_a_text_is_looked_through_for_further_groups_only_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of few sources has no end."""
    monkeypatch.setattr(sides, "LOOKED_THROUGH", 1600)
    texts = [text_of(ids) for ids in ids_of(3000, 7)]
    found = load(texts, groups=[number % 3 for number in range(3000)], context=8, tokens=80, mean_from_evaluation=True)
    assert 3 + 1600 // 8 <= found.details["documents_read"] < 300, "texts of full groups are not even tokenised"
    assert found.details["read_to_the_end"] is False
    assert sorted(tokens_of_groups(found.evaluation).values()) == [24, 24, 32]
    late = [number % 3 if number < 150 else 7 for number in range(3000)]
    assert load(texts, groups=late, context=8, tokens=80, mean_from_evaluation=True).evaluation.n_groups == 4


def test_documents_are_cut_to_the_last_token_and_rows_are_not() -> None:
    texts, rows = [text_of(ids) for ids in ids_of(50, 20)], np.array(ids_of(50, 8))
    for n in (5, 8, 37, 100):
        assert load(texts, context=8, tokens=n, mean_from_evaluation=True).evaluation.n_tokens in (n, n - 1, n - 2)
    assert load(rows, tokens=37, mean_from_evaluation=True).evaluation.n_tokens == 32
    for source, packed in ((rows, False), (texts, True)):
        with pytest.raises(DataError, match=r"7 tokens are less than one (row|sequence) of .*: give a larger --tokens"):
            load(source, tokens=7, context=8, packed=packed, mean_from_evaluation=True)


def test_both_limits_hold() -> None:
    texts = [text_of(ids) for ids in ids_of(50, 20)]
    found = load(texts, context=8, tokens=200, limit=4, mean_from_evaluation=True)
    assert found.evaluation.n_units == 4
    assert max(tokens_of_groups(found.evaluation).values()) <= 50
    assert load(texts, context=8, tokens=20, limit=4, mean_from_evaluation=True).evaluation.n_tokens <= 20


# ---------------------------------------------------------------- settings


TEXTS = number_texts(700, shortest=40, longest=60, seed=3)


def session(**settings: Any) -> Session:
    given = {
        "model": tiny_gpt2(),
        "tokenizer": TinyTokenizer(),
        "data": TEXTS,
        "context": 16,
        "controls": "none",
        "tasks": "sparsity",
    }
    return Session(tiny_coder("topk"), Settings(**(given | settings)))


def test_a_tier_takes_a_sequence_of_each_of_many_documents() -> None:
    """Documents no longer than the context are read as before; of longer ones each tier reads as many tokens."""
    tokens = session(tier="smoke").inputs.corpus
    assert tokens.evaluation.n_units == len(tokens.evaluation) == TIERS["smoke"].documents == 32
    assert tokens.evaluation.n_tokens <= 32 * 16
    assert tokens.calibration.n_units == 16
    assert len(tokens.calibration) > 16, "what calibrates is cheap: documents are whole up to eight sequences"
    assert session(tier="smoke", limit=32).inputs.corpus.evaluation.n_tokens > 3 * 32 * 16, "--limit: they are whole"
    few = {"data": number_texts(100, shortest=4, longest=9), "tier": "smoke"}
    told, limited = (session(**few, **more).inputs.corpus.evaluation for more in ({}, {"limit": 32}))
    assert told.sha256 == limited.sha256


def test_tokens_are_in_what_identifies_and_repeats_a_run() -> None:
    one, other = session(tokens=300), session(tokens=400)
    protocols = [made.work[0].protocols["sparsity"][0] for made in (one, other)]
    assert protocols[0] != protocols[1]
    assert 298 <= (n := one.forecast()["tokens"]) <= 300
    assert one.inputs.corpus.calibration.n_tokens <= 300
    (result,) = one.run(lambda what, done, total: None)
    assert result.provenance.settings["tokens"] == 300
    assert result.provenance.data["evaluation_most_tokens"] == 300
    assert result.provenance.data["evaluation_units_cut"] > 0
    assert result.provenance.n_tokens == n
    with pytest.raises(UsageError, match="tokens must be at least 2, but it is 1"):
        Settings(tokens=1)
    with pytest.warns(UserWarning, match=r"--tokens 90 leaves \d+ calibration tokens"):
        session(tokens=90)


def test_the_batch_size_changes_nothing_of_what_is_read() -> None:
    digests = {session(tokens=300, batch_tokens=size).inputs.corpus.evaluation.sha256 for size in (16, 100, None)}
    assert len(digests) == 1


def test_a_dry_run_shows_what_is_read(cli: Run, tmp_path: Path) -> None:
    lines = [f'{{"text": "the cat sat on the mat {n}", "source": {n % 6}}}' for n in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    command = ("run", "--sae", "demo", "--tasks", "sparsity", "--controls", "none", "--dry-run", "--quiet")
    code, out, err = cli(*command, "--data", tmp_path / "a.jsonl", "--tokens", 300, "--out", tmp_path / "out")
    assert code == 0, err
    found = dict(line.replace(" ", "").split(":", 1) for line in out.splitlines())
    assert 290 <= int(found["tokens"]) <= 300
    assert found["groups"] == found["documents"]
    code, out, err = cli(
        *command, "--data", tmp_path / "a.jsonl", "--tokens", 300, "--out", tmp_path / "out", "--group-field", "source"
    )
    assert code == 0, err
    assert 1 <= int(dict(line.replace(" ", "").split(":", 1) for line in out.splitlines())["groups"]) <= 5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--group-field", "author"), "has no field 'author'"),
        (("--group-field", "n"), "line 1, field 'n', must be a text or an integer, got float"),
        (("--tokens", "1"), "tokens must be at least 2"),
        (("--data", "demo", "--group-field", "source"), "have the field 'kind' to group by, not 'source'"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(flags: tuple[str, ...], said: str, cli: Run, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "the cat sat", "n": 0.5}\n' * 5)
    out = tmp_path / "out"
    command = ("run", "--sae", "demo", "--data", tmp_path / "a.jsonl", "--out", out, "--quiet")
    code, _, err = cli(*command, *flags)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not out.exists()


def test_the_shares_of_a_side_are_what_its_limits_give() -> None:
    assert sides.Most.of(None, None, None, 128).share(128) is None
    assert sides.Most.of(512, None, 512, 128).share(128) == 128
    assert sides.Most.of(None, 1 << 20, None, 128).share(128) == 2048
    assert sides.Most.of(128, 10**9, 1024, 128).share(128) == 1024
    assert resolve.TIERS is TIERS
    assert BOS == 0
