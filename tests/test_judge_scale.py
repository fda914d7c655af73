"""In what a judge counts, decided over all that it answered: no answer is guessed, and no doubt is hidden."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.judge import Completion, Ratings, Refused, read_answers
from sae_bench.tasks.autointerp import optional, prompts
from sae_bench.tasks.autointerp.asking import Outcome
from sae_bench.tasks.autointerp.scale import ENOUGH, Scale, decided, doubted

IDS = ["aa", "bb", "cc", "dd"]


def said(*numbers: object) -> Ratings:
    """A reply with these numbers, read as one of a judge."""
    written = ", ".join(f'"{name}": {number}' for name, number in zip(IDS, numbers, strict=False))
    found = read_answers(f"{{{written}}}", IDS)
    assert isinstance(found, Ratings), found
    return found


def read(scale: Scale, one: Ratings) -> list[float] | None:
    found = scale.probabilities(one)
    return None if found is None else list(found.values())


def test_percentages_are_percentages() -> None:
    scale = decided([said(85, 3), said(0, 40)])
    assert scale.words == "0 to 100"
    assert read(scale, said(85, 3)) == [0.85, 0.03]
    assert doubted(scale.words) is None


@pytest.mark.parametrize(
    "replies",
    [
        [said(0.85, 0.03), said(1, 0)],
        [said(1, 0), said(0, 0), said(1, 1)],
        [said("true", "false"), said("false", "false")],
        [said('"yes"', '"no"')],
        [said("true", "false"), said(0.5, 0)],
    ],
)
def test_without_any_percentage_it_is_0_to_1(replies: list[Ratings]) -> None:
    """Verdicts of 0 and 1 were read as 0 % and 1 %: nothing ever fired, and the status was ok."""
    scale = decided(replies)
    assert scale.words == "0 to 1"
    assert read(scale, said(1, 0)) == [1, 0]
    assert read(scale, said(0.25, 1)) == [0.25, 1]
    assert read(scale, said("true", "false")) == [1, 0]


def test_beside_percentages_what_may_count_to_1_is_left_out() -> None:
    """A reply of zeros and a one may be verdicts, or percentages of a judge who is sure that nothing fires."""
    scale = decided([said(85, 3)] * 40, beside=[said(1, 0), said(0, 0), said(0.5, 0), said("true", "false")])
    assert read(scale, said(1, 0)) is None
    assert read(scale, said(0.5, 0)) is None
    assert read(scale, said("true", "false")) is None
    assert read(scale, said(0, 0)) == [0, 0], "0 is 0 in any scale"
    assert read(scale, said("false", "false")) == [0, 0]
    assert read(scale, said('"1%"', 0)) == [0.01, 0]
    assert read(scale, said(1, 90)) == [0.01, 0.9]
    assert scale.words == "0 to 100; 3 of 44 replies, which may count to 1, are left out"
    assert doubted(scale.words) is None, "what is left is certain"


def test_a_percent_sign_is_enough() -> None:
    scale = decided([said('"1%"', '"0%"')] * 9, beside=[said(1, 0)])
    assert read(scale, said('"1%"', '"0%"')) == [0.01, 0]
    assert read(scale, said(1, 0)) is None


def test_a_known_answer_tells_what_the_others_leave_open() -> None:
    verdicts = [said(1, 0), said(0, 0)]
    assert read(decided(verdicts), said(1, 0)) == [1, 0]
    assert read(decided(verdicts, evidence=[said(1, 0)]), said(1, 0)) == [1, 0]
    assert read(decided(verdicts, evidence=[said(0.97, 0.1)]), said(1, 0)) == [1, 0]
    percent = decided(verdicts, evidence=[said(97, 2)])
    assert percent.full == 100
    assert read(percent, said(1, 0)) is None
    assert read(percent, said(0, 0)) == [0, 0]


def low(numbers: list[int]) -> list[Ratings]:
    return [said(*numbers[i : i + 4]) for i in range(0, len(numbers), 4)]


@pytest.mark.parametrize("top", [10, 5, 4])
def test_a_judge_on_another_scale_is_doubted(top: int) -> None:
    """On a scale of 0 to 10 nothing reaches 50, so nothing would ever fire."""
    scale = decided(low([(i * 7) % (top + 1) for i in range(40)]))
    assert scale.words.startswith("unclear: none of 40 numbers is above 10")
    assert "--judge-model" in (doubted(scale.words) or "")


def test_low_answers_are_only_low_where_the_judge_is_known_to_count_to_100() -> None:
    rows = low([(i * 7) % 11 for i in range(40)])
    assert decided(rows, evidence=[said(90, 5)]).words == "0 to 100"
    assert doubted(decided(rows, evidence=[said(90, 5)]).words) is None
    assert doubted(decided(rows, evidence=[said(9, 1)]).words) is not None, "9 for what surely fires is no percentage"
    assert doubted(decided(rows, evidence=[said(40, 1)]).words) is not None


def test_few_low_answers_are_no_reason_to_doubt() -> None:
    assert decided(low([2] * (ENOUGH - 4))).words == "0 to 100"
    assert doubted(decided(low([2] * ENOUGH)).words) is not None


def test_one_slip_does_not_hide_another_scale() -> None:
    numbers = [(i * 7) % 11 for i in range(200)]
    assert doubted(decided(low([*numbers, 80])).words) is not None
    assert doubted(decided(low([*numbers, *[80] * 20])).words) is None


@pytest.mark.parametrize("wild", [[-40, 60], [850, 30], [-1, 1]])
def test_many_numbers_that_are_no_percentages_are_doubted(wild: list[int]) -> None:
    """-100 to 100 or 0 to 1000: what happens to lie between 0 and 100 means something else there."""
    scale = decided([said(*wild, 20, 70) for _ in range(10)])
    assert scale.words.startswith("unclear: 10 of 40 numbers are below 0 or above 100")
    assert doubted(scale.words) is not None
    few = decided([said(101, 20, 70, 5), *[said(90, 20, 70, 5)] * 10])
    assert few.words == "0 to 100"


def test_more_than_a_few_replies_left_out_are_a_doubt() -> None:
    """They are not drawn by chance: a judge who is sure that nothing fires says 0 and 1."""
    few, many = [said(85, 3)] * 19 + [said(1, 0)], [said(85, 3)] * 8 + [said(1, 0)]
    assert decided(few).words == "0 to 100; 1 of 20 replies, which may count to 1, are left out"
    assert decided(many).words == "unclear: 1 of 9 replies hold no number above 1 beside percentages"
    assert read(decided(many), said(1, 0)) is None
    assert doubted(decided([said(85, 3)] * 8, beside=[said(1, 0)] * 8).words) is None, "of nulls it is to be expected"
    assert doubted(decided([said(85, 3)] * 8 + [said(0, 0)] * 8).words) is None


def test_nothing_said_is_no_scale() -> None:
    assert decided([]).words == "unknown: there is no answer"
    assert doubted(decided([]).words) is None


def test_what_a_scale_leaves_out_is_unreadable_and_failures_stay_what_they_are() -> None:
    replied = (Completion("ok", "x"),)
    outcomes = [
        Outcome("ok", said(85, 3), replied),
        Outcome("ok", said(1, 0), replied),
        Outcome[Ratings]("refused", None, replied),
        Outcome[Ratings]("truncated", None, replied),
    ]
    found = decided([said(85, 3)] * 20, [said(1, 0)]).read(outcomes)
    assert [one.status for one in found] == ["ok", "unreadable", "refused", "truncated"]
    assert [one.value for one in found] == [{"aa": 0.85, "bb": 0.03}, None, None, None]
    assert all(one.completions == replied for one in found)


P = st.lists(st.integers(0, 100), min_size=4, max_size=4)


@given(st.lists(P, min_size=1, max_size=6))
def test_no_number_is_ever_read_as_another(rows: list[list[int]]) -> None:
    """Whatever the mixture: a percentage is that percentage, or left out; a share is that share, or left out."""
    replies = [said(*row) for row in rows]
    percent = any(max(row) > 1 for row in rows)
    scale = decided(replies)
    for row, reply in zip(rows, replies, strict=True):
        assert read(scale, reply) in ([p / (100 if percent else 1) for p in row], *([None] if max(row) == 1 else []))
    shares = [said(*[p / 100 for p in row]) for row in rows]
    scale = decided(shares)
    for row, reply in zip(rows, shares, strict=True):
        assert read(scale, reply) == pytest.approx([p / 100 for p in row])


@pytest.mark.parametrize("name", ["_DETECT", "_FUZZ"])
def test_the_question_says_in_what_to_count(name: str) -> None:
    text = vars(prompts if name == "_DETECT" else optional)[name]
    for words in ("whole number from 0", "to 100", "percentage", "100 means surely", "1 means 1 percent"):
        assert words in text


def test_a_refusal_has_no_numbers() -> None:
    assert isinstance(read_answers("I'm sorry, but I can't help with that.", IDS), Refused)
