"""Replies as models write them: what is plain is read, what is not is missing, and nothing hangs or crashes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.judge import read_answers, read_explanation, read_json

IDS = ["kq", "zx", "ab"]
FULL = {"kq": 0.85, "zx": 0.03}

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
    "shares of one": '{"answers":[{"id":"kq","p":0.85},{"id":"zx","p":0.03},{"id":"ab","p":1}]}',
    "an expression": "{'answers': [dict(id='kq', p=85)]}",
    "code": "__import__('os').system('true')",
    "a cut number alone": '{"answers":[{"id":"kq","p":8',
}


@pytest.mark.parametrize("name", READABLE)
def test_answers_that_are_plain_are_read(name: str) -> None:
    assert read_answers(READABLE[name], IDS) == FULL


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_is_no_answer_is_missing(name: str) -> None:
    assert read_answers(UNREADABLE[name], IDS) == {}


def test_ids_that_differ_in_capitals_only_are_not_guessed() -> None:
    assert read_answers('{"answers":[{"id":"KQ","p":85},{"id":"zx","p":3}]}', ["kq", "KQ", "zx"]) == {"zx": 0.03}


def test_a_small_share_beside_larger_ones_is_in_percent() -> None:
    assert read_answers('{"kq": 0.5, "zx": 90}', IDS) == {"kq": 0.005, "zx": 0.9}


def test_ids_called_like_fields_are_ids() -> None:
    reply = '{"answers":[{"id":"id","p":85},{"id":"p","p":3}]}'
    assert read_answers(reply, ["id", "p"]) == {"id": 0.85, "p": 0.03}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"explanation": "names  of\\ncities"}', "names of cities"),
        ('```json\n{"explanation": "names of cities"}\n```', "names of cities"),
        ("{'explanation': 'the cat's name'}", "the cat's name"),
        ('{"explanation": "the word "cat" after "black""}', 'the word "cat" after "black"'),
        ('{"explanation": "caf\\u00e9s"', "cafés"),
        ("**Explanation:** names of cities\n\nLet me know!", "names of cities"),
        ("[EXPLANATION]: names of cities", "names of cities"),
        ("<think>hm</think>Explanation: names of cities", "names of cities"),
        ('{"explanation": ""}', None),
        ('{"explanation": null}', None),
        ('{"explanation": ["a"]}', None),
        ('{"explanation": "names of ci', None),
        ("I cannot explain this.", None),
        ("Explanation:", None),
        ("", None),
    ],
)
def test_explanations(text: str, expected: str | None) -> None:
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
    found = read_answers(reply[:cut], IDS)
    assert found.items() <= {name: p / 100 for name, p in entries}.items()


@given(st.text(alphabet="{}[]\"':,\\ap01%/ \n\ud800", max_size=200))
def test_no_text_crashes_the_readers(text: str) -> None:
    read_json(text)
    read_explanation(text)
    assert all(0 <= p <= 1 for p in read_answers(text, IDS).values())


@pytest.mark.parametrize("piece", ["{", "[", '{"a":', "[1,", '{"a": "" ', "\n", "explanation", "<think>", "//", "\\u"])
def test_hostile_replies_are_read_in_bounded_depth_and_work(piece: str) -> None:
    text = piece * (200_000 // len(piece))
    read_json(text)
    read_explanation(text)
    assert read_answers(text, IDS) == {}
