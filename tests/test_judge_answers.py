"""Replies as models write them: what is plain is read, what is not is missing, and nothing hangs or crashes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.judge import REFUSED, Ratings, Refused, read_answers, read_explanation, read_json
from tests.builders.marks import slow_but_each

IDS = ["kq", "zx", "ab"]
FULL = {"kq": 85, "zx": 3}


def read(text: str, ids: list[str] = IDS) -> Ratings | Refused | None:
    return read_answers(text, ids)


def numbers(text: str, ids: list[str] = IDS) -> dict[str, float]:
    found = read_answers(text, ids)
    return dict(found.numbers) if isinstance(found, Ratings) else {}


READABLE = {
    "plain": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3}]}',
    "code fence": '```json\n{"answers": [{"id": "kq", "p": 85}, {"id": "zx", "p": 3}]}\n```',
    "prose around": 'Sure! Here it is:\n{"answers":[{"id":"kq","p":85},{"id":"zx","p":3}]}\nHope [this] helps {x}.',
    "prose with brackets before": 'For [kq] and {zx}: {"answers":[{"id":"kq","p":85},{"id":"zx","p":3}]}',
    "trailing commas": '{"answers":[{"id":"kq","p":85,},{"id":"zx","p":3},],}',
    "single quotes": "{'answers': [{'id': 'kq', 'p': 85}, {'id': 'zx', 'p': 3}]}",
    "curly quotes": "{“answers”: [{“id”: “kq”, “p”: 85}, {“id”: “zx”, “p”: 3}]}",
    "no quotes": "{answers: [{id: kq, p: 85}, {id: zx, p: 3}]}",
    "comments": '{"answers":[{"id":"kq","p":85}, // surely\n{"id":"zx","p":3}]}',
    "numbers as texts": '{"answers":[{"id":"kq","p":"85"},{"id":"zx","p":" 3 "}]}',
    "percent signs": '{"answers":[{"id":"kq","p":"85%"},{"id":"zx","p":"3 %"}]}',
    "bare percent signs": '{"answers":[{"id":"kq","p":85%},{"id":"zx","p":3%}]}',
    "other capitals": '{"answers":[{"ID":"KQ","P":85},{"id":"Zx","p":3}]}',
    "ids in brackets": '{"answers":[{"id":"[kq]","p":85},{"id":"zx:","p":3}]}',
    "floats": '{"answers":[{"id":"kq","p":85.0},{"id":"zx","p":3.0e0}]}',
    "a thought first": '<think>{"answers":[{"id":"kq"}]}</think>{"answers":[{"id":"kq","p":85},{"id":"zx","p":3}]}',
    "a draft first": '{"answers":[{"id":"kq","p":50}]} wait, no: {"answers":[{"id":"kq","p":85},{"id":"zx","p":3}]}',
    "a bare list": '[{"id":"kq","p":85},{"id":"zx","p":3}]',
    "an entry a line": '{"id":"kq","p":85}\n{"id":"zx","p":3}',
    "a mapping": '{"kq": 85, "zx": 3}',
    "a mapping inside": '{"answers": {"kq": 85, "zx": "3%"}}',
    "unknown ids": '{"answers":[{"id":"qq","p":50},{"id":"kq","p":85},{"id":"zx","p":3}]}',
    "the same twice": '{"answers":[{"id":"kq","p":85},{"id":"kq","p":"85%"},{"id":"zx","p":3}]}',
    "more in an entry": '{"answers":[{"id":"kq","p":85,"why":"it\'s a [cat]"},{"id":"zx","p":3,"why":null}]}',
    "quotes inside": '{"answers":[{"id":"kq","p":85,"why":"has "cat" in it"},{"id":"zx","p":3}]}',
    "line breaks in texts": '{"answers":[{"id":"kq","p":85,"why":"a\nb"},{"id":"zx","p":3}]}',
    "cut off in the next entry": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":9',
    "cut off in an id": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"a',
    "cut off in a fence": '```json\n{"answers":[{"id":"kq","p":85},{"id":"zx","p":3}',
    "one out of range": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":101}]}',
    "one below range": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":-1}]}',
    "two that differ": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":1},{"id":"AB","p":99}]}',
    "one name twice in an entry": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":1,"p":99}]}',
    "one yes": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":true}]}',
    "one in words": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"about 50"}]}',
    "one null, one NaN": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":NaN},{"id":"ab","p":null}]}',
    "a huge number": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":1' + "0" * 400 + "}]}",
    "out of a hundred": '{"answers":[{"id":"kq","p":"85 out of 100"},{"id":"zx","p":"3/100"}]}',
    "percent in words": '{"answers":[{"id":"kq","p":"85 percent"},{"id":"zx","p":"3 percent."}]}',
    "one out of ten": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"8/10"}]}',
    "one in a level": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"high"}]}',
    "one as a range": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"80-90"}]}',
    "one as a bound": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":">90"}]}',
    "one with a decimal comma": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"0,85"}]}',
    "one in a list": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":[50]}]}',
    "one yes as a text": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"Yes."}]}',
    "infinity": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":Infinity}]}',
    "a thought in other marks": '[THINK]{"answers":[{"id":"kq","p":1}]}[/THINK]{"kq": 85, "zx": 3}',
    "a longer number": '{"answers":[{"id":"kq","p":85},{"id":"zx","p":3},{"id":"ab","p":"1' + "0" * 40 + '"}]}',
}

UNREADABLE = {
    "empty": "",
    "none": "None",
    "refusal": "I'm sorry, but I can't help with that.",
    "words": "Windows kq and zx, I should say: 85 and 3.",
    "numbers": "[1, 3]",
    "empty list": '{"answers": []}',
    "not a list": '{"answers": "kq"}',
    "only unknown ids": '{"answers":[{"id":"qq","p":85}]}',
    "a thought without an end": '<think> maybe {"answers":[{"id":"kq","p":85}]}',
    "levels": '{"answers":[{"id":"kq","p":"high"},{"id":"zx","p":"low"}]}',
    "the example of the question": '{"answers": [{"id": "<id>", "p": <number>}, ...]}',
    "the schema": '{"answers": {"type": "array", "items": {"properties": {"id": {"type": "string"}, "p": {}}}}}',
    "all out of range": '{"answers":[{"id":"kq","p":850},{"id":"zx","p":-30}]}',
    "an expression": "{'answers': [dict(id='kq', p=85)]}",
    "code": "__import__('os').system('true')",
    "a cut number alone": '{"answers":[{"id":"kq","p":8',
}


@pytest.mark.parametrize("name", READABLE)
def test_answers_that_are_plain_are_read(name: str) -> None:
    assert numbers(READABLE[name]) == FULL
    found = read(READABLE[name])
    assert isinstance(found, Ratings)
    assert found.counts == "percent"


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_answer_is_missing(name: str) -> None:
    assert read(UNREADABLE[name]) in (None, REFUSED)
    assert (read(UNREADABLE[name]) is REFUSED) == (name == "refusal")


def test_ids_that_differ_in_capitals_only_are_not_guessed() -> None:
    assert numbers('{"answers":[{"id":"KQ","p":85},{"id":"zx","p":3}]}', ["kq", "KQ", "zx"]) == {"zx": 3}


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ('{"kq": 0.5, "zx": 90}', Ratings({"kq": 0.5, "zx": 90}, "percent")),
        ('{"kq": "0.5%", "zx": "0%"}', Ratings({"kq": 0.5, "zx": 0}, "percent")),
        ('{"kq": "1%", "zx": 0}', Ratings({"kq": 1, "zx": 0}, "percent")),
        ('{"kq": 0.85, "zx": 0.03, "ab": 1}', Ratings({"kq": 0.85, "zx": 0.03, "ab": 1}, "unit")),
        ('{"kq": "0.85", "zx": 0}', Ratings({"kq": 0.85, "zx": 0}, "unit")),
        ('{"kq": true, "zx": false}', Ratings({"kq": 1, "zx": 0}, "unit")),
        ('{"kq": "yes", "zx": "No."}', Ratings({"kq": 1, "zx": 0}, "unit")),
        ('{"kq": "TRUE", "zx": 0.2}', Ratings({"kq": 1, "zx": 0.2}, "unit")),
        ("{'kq': True, 'zx': False}", Ratings({"kq": 1, "zx": 0}, "unit")),
        ('{"kq": 1, "zx": 0}', Ratings({"kq": 1, "zx": 0}, "unclear")),
        ('{"kq": 1.0, "zx": 0.0}', Ratings({"kq": 1, "zx": 0}, "unclear")),
        ('{"kq": 0}', Ratings({"kq": 0}, "unclear")),
        ('{"kq": 101, "zx": 1}', Ratings({"zx": 1}, "percent", 1)),
        ('{"kq": -1, "zx": 1}', Ratings({"zx": 1}, "unclear", 1)),
        ('{"kq": -1, "zx": 0.5, "ab": "-7"}', Ratings({"zx": 0.5}, "unit", 2)),
        ('{"kq": true, "zx": 85}', Ratings({"zx": 85}, "percent")),
        ('{"kq": "yes", "zx": 101}', None),
        ('{"qq": 85, "kq": 1}', Ratings({"kq": 1}, "unclear")),
    ],
)
def test_what_a_reply_says_of_its_scale(reply: str, expected: Ratings | None) -> None:
    """0 and 1 may be verdicts or percentages: one reply alone does not tell, and is not read as if it did."""
    assert read(reply) == expected


def test_ids_called_like_fields_are_ids() -> None:
    reply = '{"answers":[{"id":"id","p":85},{"id":"p","p":3}]}'
    assert numbers(reply, ["id", "p"]) == {"id": 85, "p": 3}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"explanation": "names  of\\ncities"}', "names of cities"),
        ('```json\n{"explanation": "names of cities"}\n```', "names of cities"),
        ("{'explanation': 'the cat's name'}", "the cat's name"),
        ('{"explanation": "the word "cat" after "black""}', 'the word "cat" after "black"'),
        ('{"explanation": "caf\\u00e9s"', "cafés"),
        ('{"Explanation": "names of cities"}', "names of cities"),
        ("**Explanation:** names of cities\n\nLet me know!", "names of cities"),
        ("[EXPLANATION]: names of cities", "names of cities"),
        ("<think>hm</think>Explanation: names of cities", "names of cities"),
        ('{"explanation": ""}', None),
        ('{"explanation": null}', None),
        ('{"explanation": ["a"]}', None),
        ('{"explanation": "names of ci', None),
        ("I cannot explain this.", REFUSED),
        ('{"explanation": "I cannot explain this."}', REFUSED),
        ('{"explanation": "..."}', None),
        ('{"explanation": "…"}', None),
        ('{"explanation": "<explanation>"}', None),
        ('{"explanation": "[Your explanation here.]"}', None),
        ('{"explanation": "string"}', None),
        ('{"explanation": "N/A"}', None),
        ('{"explanation": "None"}', None),
        ('{"explanation": {"type": "string"}}', None),
        ('{"type": "object", "properties": {"explanation": {"type": "string"}}}', None),
        ('Answer with JSON only: {"explanation": "..."}', None),
        ('{"explanation": "' + "the word cat " * 200 + '"}', None),
        ('{"explanation": "the word cat' + " " * 5000 + '"}', "the word cat"),
        ('{"explanation": "No clear pattern"}', "No clear pattern"),
        ('{"explanation": "the tag <think> in code"}', "the tag <think> in code"),
        ('{"explanation": "the tag </think> after text"}', "the tag </think> after text"),
        ('<think>the tag?</think>{"explanation": "the tag </think>"}', "the tag </think>"),
        ('<think>{"explanation": "a draft"}', None),
        ('{"explanation": "...", "note": "I\'m sorry, but I can\'t help with that."}', REFUSED),
        ("Explanation:", None),
        ("", None),
    ],
)
def test_explanations(text: str, expected: str | Refused | None) -> None:
    assert read_explanation(text) == expected


def test_read_json_gives_the_last_object_or_none() -> None:
    assert read_json('{"a": 1} then {"b": {"c": [1, "x", null]}}') == {"b": {"c": [1, "x", None]}}
    assert read_json("[1, 2]") is None
    assert read_json('{"a": 1, "b": tru') == {"a": 1}
    assert read_json("no { here") is None


@given(
    st.dictionaries(st.text(max_size=5), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=5))
)
def test_valid_json_is_read_as_json_reads_it(value: dict[str, object]) -> None:
    assert read_json(json.dumps(value)) == value


ENTRIES = st.lists(st.tuples(st.sampled_from(IDS), st.integers(0, 100)), unique_by=lambda entry: entry[0])


@given(ENTRIES, st.integers(0, 200))
def test_a_reply_cut_anywhere_never_gives_a_wrong_number(entries: list[tuple[str, int]], cut: int) -> None:
    reply = json.dumps({"answers": [{"id": name, "p": p} for name, p in entries]})
    assert numbers(reply[:cut]).items() <= dict(entries).items()


@given(st.text(alphabet="{}[]\"':,\\ap01%/ \n\ud800", max_size=200))
def test_no_text_crashes_the_readers(text: str) -> None:
    read_json(text)
    read_explanation(text)
    assert all(0 <= p <= 100 for p in numbers(text).values())


HOSTILE = [
    "</think>",
    "<|channel|>",
    "<|channel|>final",
    "<thinking ",
    "I can't ",
    "sorry, ",
    "'a ",
    '"',
    "`",
    "analysis",
]


@pytest.mark.parametrize(
    "piece",
    slow_but_each(2, ["{", "[", '{"a":', "[1,", '{"a": "" ', "\n", "explanation", "<think>", "//", "\\u", *HOSTILE]),
)
def test_hostile_replies_are_read_in_bounded_depth_and_work(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    read_json(text)
    read_explanation(text)
    assert read(text) is None
