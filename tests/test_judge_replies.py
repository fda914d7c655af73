"""Where endpoints put what the model says, and whether it is all there, in every shape that is documented."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_bench.judge import Completion, Judge, JudgeOptions, read_answers
from sae_bench.judge.outcomes import classify
from sae_bench.judge.thoughts import spoken
from tests.builders.judge_asks import FAST, ask
from tests.builders.raw_server import Raw, replying, saying

ANSWER = '{"answers": [{"id": "kq", "p": 85}, {"id": "zx", "p": 3}]}'
DRAFT = '{"answers": [{"id": "kq", "p": 1}, {"id": "zx", "p": 99}]}'
READ = {"kq": 85, "zx": 3}
KEY = "sk-3f9a51c07be2468dQzXw"


def whole(message: dict[str, Any], finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    reply = saying("")
    reply["choices"][0] |= {"message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    return reply | more


def came(reply: dict[str, Any]) -> Completion:
    """What becomes of a reply that is no stream, without a connection."""
    found = classify(200, {}, json.dumps(reply)).completion
    assert found is not None
    return found


def asked(reply: dict[str, Any] | str) -> Completion:
    """What becomes of a reply that comes over a connection."""
    with Raw(replying(reply)) as server, Judge(JudgeOptions("m", server.url, cache=None), FAST) as judge:
        return judge.complete([ask("x")])[0]


def numbers(text: str) -> dict[str, float] | None:
    found = read_answers(text, ["kq", "zx"])
    return dict(getattr(found, "numbers", {})) or None


# ---------------------------------------------------------------- where the answer is


def call(arguments: Any, name: str = "reply") -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


THOUGHT = f"They want numbers. Perhaps {DRAFT}? No, the second is no match at all."
PLACES: dict[str, dict[str, Any]] = {
    "text": {"content": ANSWER},
    "parts": {"content": [{"type": "text", "text": ANSWER}]},
    "parts that split it": {"content": [{"type": "text", "text": ANSWER[:9]}, {"type": "text", "text": ANSWER[9:]}]},
    "parts of the other interface": {"content": [{"type": "output_text", "text": ANSWER, "annotations": []}]},
    "a thought among the parts": {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}], "closed": True},
            {"type": "text", "text": ANSWER},
        ]
    },
    "reasoning among the parts": {
        "content": [{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": {"value": ANSWER}}]
    },
    "texts in a list": {"content": [ANSWER[:20], ANSWER[20:]]},
    "JSON that is no text": {"content": json.loads(ANSWER)},
    "JSON in a text of JSON": {"content": json.dumps(ANSWER)},
    "a call of a tool": {"tool_calls": [call(ANSWER)]},
    "a call with JSON that is no text": {"content": "", "tool_calls": [call(json.loads(ANSWER))]},
    "a call written twice": {"tool_calls": [call(json.dumps(ANSWER))]},
    "a call of a function": {"function_call": {"name": "reply", "arguments": ANSWER}},
    "a call after a thought": {"content": f"<think>{THOUGHT}</think>\n", "tool_calls": [call(ANSWER)]},
    "a call for each entry": {"tool_calls": [call('{"id": "kq", "p": 85}'), call('{"id": "zx", "p": 3}')]},
    "what was taken for a thought": {"content": None, "reasoning_content": ANSWER},
    "the other name of it": {"content": "", "reasoning": f"\n```json\n{ANSWER}\n```"},
    "after the end of a thought in the place of one": {"reasoning_content": f"{THOUGHT}</think>\n{ANSWER}"},
    "beside a thought": {"content": ANSWER, "reasoning_content": THOUGHT, "reasoning": THOUGHT},
    "beside a refusal that says nothing": {"content": ANSWER, "refusal": ""},
}


@pytest.mark.parametrize("name", PLACES)
def test_an_answer_is_read_wherever_the_endpoint_puts_it(name: str) -> None:
    finish = "tool_calls" if "tool_calls" in PLACES[name] else "stop"
    found = asked(whole(PLACES[name], finish))
    assert found.status == "ok"
    assert numbers(found.text) == READ


NOWHERE: dict[str, dict[str, Any]] = {
    "a thought with a draft": {"content": None, "reasoning_content": THOUGHT},
    "a draft at the end of a thought": {"content": "", "reasoning": f"So I say {DRAFT}"},
    "a thought among parts alone": {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": DRAFT}]}]},
    "reasoning in parts alone": {"content": [{"type": "reasoning", "text": DRAFT}]},
    "details of a thought": {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": DRAFT}]},
    "nothing": {},
    "calls without arguments": {"tool_calls": [{"id": "1"}, None, call(None), call("")]},
    "content of no kind that is known": {"content": 7},
}


@pytest.mark.parametrize("name", NOWHERE)
def test_a_draft_in_a_thought_is_never_the_answer(name: str) -> None:
    found = asked(whole(NOWHERE[name]))
    assert (found.status, found.text) == ("ok", "")  # nothing to read: it is asked again


def test_a_thought_that_the_limit_cut_off_is_no_answer_though_it_looks_like_one() -> None:
    assert came(whole({"content": None, "reasoning_content": DRAFT}, "length")).status == "truncated"


# ---------------------------------------------------------------- thoughts

MARKS = {
    "think": ("<think>", "</think>"),
    "thinking": ("<thinking>", "</thinking>"),
    "capitals": ("<Thinking>", "</THINKING>"),
    "attributes": ('<thinking mode="deep">', "</thinking>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "thought": ("<thought>", "</thought>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "brackets": ("[THINK]", "[/THINK]"),
    "triangles": ("◁think▷", "◁/think▷"),
    "begin and end": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "start and end": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "a channel of its own": ("<|channel>thought\n", "<channel|>"),
    "words": ("Here is my thought process:", "\nHere is my response:"),
    "harmony": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "harmony of JSON": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>",
    ),
    "harmony without its marks": ("analysis", "assistantfinal"),
}


@pytest.mark.parametrize("name", MARKS)
def test_thoughts_are_taken_out_and_counted(name: str) -> None:
    begin, end = MARKS[name]
    usage = {"prompt_tokens": 10, "completion_tokens": 100}
    found = asked(whole({"content": f"{begin}{THOUGHT}{end}\n{ANSWER}"}, usage=usage))
    assert (found.status, found.text.strip()) == ("ok", ANSWER)
    share = 1 - len(found.text) / len(f"{begin}{THOUGHT}{end}\n{ANSWER}")
    assert found.reasoning_tokens == round(100 * share) > 50


@pytest.mark.parametrize("finish", ["stop", "length", None])
@pytest.mark.parametrize("name", MARKS)
def test_a_thought_without_an_end_is_truncated_and_its_draft_is_not_read(name: str, finish: str | None) -> None:
    found = came(whole({"content": f"{MARKS[name][0]}{THOUGHT}"}, finish))
    assert (found.status, found.text.strip()) == ("truncated", "")
    assert "inside a thought" in (found.reason or "")


@pytest.mark.parametrize("name", [name for name in MARKS if name not in ("harmony without its marks", "words")])
def test_a_thought_whose_beginning_is_in_the_question_is_taken_out(name: str) -> None:
    """Many chat templates write the mark that begins a thought into the question."""
    found = came(whole({"content": f"{THOUGHT}{MARKS[name][1]}{ANSWER}"}))
    assert found.text.strip() == ANSWER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think></think>\n\n{}", "{}"),
        ("<think>a <think> b</think>{}", "{}"),
        ("<think>say </think> now</think>{}", "{}"),
        ("{} <think>was that right?</think>", "{}"),
        ("<think/>{}", "<think/>{}"),
        ('{"explanation": "the tag <think> in code"}', '{"explanation": "the tag <think> in code"}'),
        ('<think>x</think>{"explanation": "</think>"}', '{"explanation": "</think>"}'),
        (
            '<|channel|>final<|message|>{"explanation": "<|end|> of a turn"}<|return|>',
            '{"explanation": "<|end|> of a turn"}',
        ),
        ('{"explanation": "<|channel|> and <|message|>"}', '{"explanation": "<|channel|> and <|message|>"}'),
        ('{"explanation": "analysis"}', '{"explanation": "analysis"}'),
        ("analysis of the text: none", "analysis of the text: none"),
    ],
)
def test_marks_of_thoughts_inside_an_answer_are_text(text: str, said: str) -> None:
    """A latent may well fire on them."""
    assert spoken(text).text.strip() == said


def test_reasoning_is_counted_as_the_endpoint_counts_it() -> None:
    for usage, expected in [
        ({"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 64}}, 64),
        ({"completion_tokens": 90, "output_tokens_details": {"reasoning_tokens": 60}}, 60),
        ({"completion_tokens": 90, "reasoning_tokens": 50}, 50),
        ({"completion_tokens": 90, "completion_tokens_details": {"reasoning_tokens": 0}}, 0),
        ({"completion_tokens": 90, "completion_tokens_details": None}, None),
        ({"completion_tokens": 90, "reasoning_tokens": "many"}, None),
        ({}, None),
        (None, None),
    ]:
        assert came(whole({"content": ANSWER}, usage=usage)).reasoning_tokens == expected, usage
    beside = whole({"content": "x" * 10, "reasoning_content": "y" * 30}, usage={"completion_tokens": 100})
    assert came(beside).reasoning_tokens == 75
    assert came(whole({"content": "", "reasoning": ANSWER}, usage={"completion_tokens": 9})).reasoning_tokens is None


def test_who_served_it_is_said() -> None:
    assert came(whole({"content": ANSWER}, provider="DeepInfra")).provider == "DeepInfra"
    assert came(whole({"content": ANSWER})).provider is None
    assert came(whole({"content": ANSWER}, provider={"name": "x"})).provider is None


# ---------------------------------------------------------------- complete or not

TEXTS = st.text(alphabet="ab {}[]\"':,\\`\n<>/é", max_size=12)
REPLIES = st.one_of(
    st.fixed_dictionaries({"explanation": TEXTS}),
    st.fixed_dictionaries(
        {"answers": st.lists(st.fixed_dictionaries({"id": TEXTS, "p": st.integers(0, 100)}), min_size=1, max_size=3)}
    ),
    st.dictionaries(
        TEXTS, st.one_of(st.none(), st.integers(), TEXTS, st.lists(TEXTS, max_size=2)), min_size=1, max_size=6
    ),
)


@settings(deadline=None)  # each example is every beginning of a reply
@given(REPLIES, st.sampled_from(["", "Here it is:\n", "```json\n", "<think>hm</think>"]), st.sampled_from([None, 1]))
def test_every_beginning_of_a_reply_that_the_limit_cuts_off_is_truncated_and_all_of_it_is_not(
    reply: dict[str, Any], before: str, indent: int | None
) -> None:
    """Models in JSON mode fill the rest with white space, and the server says that the limit ended it."""
    text = before + json.dumps(reply, indent=indent, ensure_ascii=False)
    for end in range(len(text)):
        assert came(whole({"content": text[:end]}, "length")).status == "truncated", text[:end]
    for after in ("", "\n" * 300, " \t\n", "\n```", "\n``", "```\n"):
        found = came(whole({"content": text + after}, "length"))
        assert (found.status, found.finish_reason, found.reason) == ("ok", "length", None)


@settings(deadline=None)  # every end of every reply is read
@given(REPLIES)
def test_a_reply_that_is_cut_off_is_not_taken_for_complete_whatever_the_server_says(reply: dict[str, Any]) -> None:
    text = json.dumps(reply)
    for end in range(1, len(text)):
        assert came(whole({"content": text[:end]}, "stop")).status == "truncated", text[:end]
        assert came(whole({"tool_calls": [call(text[:end])]}, "tool_calls")).status == "truncated", text[:end]
    assert came(whole({"content": text}, "stop")).status == "ok"


@pytest.mark.parametrize(
    "text",
    [
        ANSWER[:-9],
        f"{ANSWER} and",
        f"{ANSWER}\n{ANSWER[:30]}",
        "[1, 2]",
        "",
        "{'answers': [{'id': 'kq', 'p': 85}]}",
        '{"explanation": "on braces {}',
        '{"explanation": "says "a": {}',
    ],
)
def test_what_is_not_whole_strict_json_stays_truncated(text: str) -> None:
    assert came(whole({"content": text}, "length")).status == "truncated"


@pytest.mark.parametrize("text", ["See {x} and [kq].", "no { here", "[1, 3]", "It's {a} 'b'", "f(x) = {", "a ] b }"])
def test_brackets_in_prose_are_no_json_that_is_cut_off(text: str) -> None:
    expected = "truncated" if text.endswith("{") else "ok"
    assert came(whole({"content": text}, "stop")).status == expected


@pytest.mark.parametrize(
    ("finish", "cut", "complete"),
    [
        ("length", "truncated", "ok"),
        ("MAX_TOKENS", "truncated", "ok"),
        ("model_length", "truncated", "ok"),
        ("max_tokens", "truncated", "ok"),
        ("abort", "truncated", "ok"),
        ("insufficient_system_resource", "truncated", "ok"),
        ("content_filter", "refused", "refused"),
        ("SAFETY", "refused", "refused"),
        ("refusal", "refused", "refused"),
        ("sensitive", "refused", "refused"),
        ("stop", "ok", "ok"),
        ("eos", "ok", "ok"),
        (None, "ok", "ok"),
        ("", "ok", "ok"),
    ],
)
def test_how_a_reply_ended_by_the_names_that_servers_give_it(finish: str | None, cut: str, complete: str) -> None:
    assert came(whole({"content": "Well, I think that"}, finish)).status == cut
    assert came(whole({"content": ANSWER}, finish)).status == complete


@pytest.mark.parametrize(
    "message",
    [
        {"refusal": "I can't help with that."},
        {"content": ANSWER, "refusal": "I can't help with that."},
        {"content": [{"type": "refusal", "refusal": "I can't help with that."}]},
        {"content": [{"type": "text", "text": ""}, {"type": "refusal", "refusal": "I can't help with that."}]},
    ],
)
def test_a_refusal_in_a_field_of_its_own(message: dict[str, Any]) -> None:
    found = asked(whole(message))
    assert found.status == "refused"
    assert found.text


@pytest.mark.parametrize("name", ["parts", "calls", "a field"])
def test_a_key_that_only_the_joined_text_holds_is_taken_out(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    halves = [KEY[:7], KEY[7:14], KEY[14:]]
    message: dict[str, Any] = {"content": [{"type": "text", "text": half} for half in halves]}
    if name == "calls":
        message = {"tool_calls": [call("".join(f"\\u{ord(mark):04x}" for mark in KEY).join(['{"a": "', '"}']))]}
    elif name == "a field":
        message = {"content": [halves[0], {"type": "text", "text": halves[1]}, {"text": halves[2]}]}
    found = asked(whole(message))
    assert KEY not in repr(found)
    assert KEY not in json.dumps(found.text).encode().decode("unicode_escape")


# ---------------------------------------------------------------- streams


def stream(deltas: list[dict[str, Any]], finish: str | None = "stop", **more: Any) -> str:
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "model": "m-1"} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}, **more})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"


def in_two(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


A, B = in_two(ANSWER)
STREAMS: dict[str, list[dict[str, Any]]] = {
    "text": [{"role": "assistant", "content": ""}, {"content": A}, {"content": B}],
    "a call of a tool": [
        {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call("")}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": A}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": B}}]},
    ],
    "a call without places": [{"tool_calls": [call(A)]}, {"tool_calls": [{"function": {"arguments": B}}]}],
    "two calls": [
        {"tool_calls": [{"index": 0, **call('{"id": "kq",')}, {"index": 1, **call('{"id": "zx",')}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": ' "p": 3}'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ' "p": 85}'}}]},
    ],
    "a call that comes whole": [{"tool_calls": [{"index": 0, **call(json.loads(ANSWER))}]}],
    "a call of a function": [
        {"function_call": {"name": "reply", "arguments": A}},
        {"function_call": {"arguments": B}},
    ],
    "parts": [{"content": [{"type": "text", "text": A}]}, {"content": [{"type": "text", "text": B}]}],
    "a thought in parts, then text": [
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}]},
        {"content": A},
        {"content": B},
    ],
    "text, then parts": [{"content": A}, {"content": [{"type": "text", "text": B}]}],
    "a thought, then text": [{"reasoning_content": THOUGHT}, {"reasoning_content": THOUGHT}, {"content": ANSWER}],
    "what was taken for a thought": [{"reasoning": A}, {"reasoning": B}],
    "details": [{"reasoning_details": [{"text": "a"}]}, {"reasoning_details": [{"text": "b"}]}, {"content": ANSWER}],
}


@pytest.mark.parametrize("name", STREAMS)
def test_streams_are_joined_whatever_they_bring(name: str) -> None:
    found = asked(stream(STREAMS[name], "tool_calls" if "call" in name else "stop", provider="Groq"))
    assert found.status == "ok"
    assert numbers(found.text) == READ
    assert (found.model, found.provider, found.prompt_tokens, found.completion_tokens) == ("m-1", "Groq", 7, 3)


def test_a_whole_message_at_the_end_of_a_stream_is_not_added_to_its_pieces() -> None:
    last = {"choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}]}
    text = stream([{"content": A}, {"content": B}], None).replace("data: [DONE]", f"data: {json.dumps(last)}")
    assert asked(text).text == ANSWER


def test_a_stream_that_says_that_it_is_over_is_complete_without_a_reason() -> None:
    assert asked(stream([{"content": ANSWER}], None)).text == ANSWER
    assert asked(stream([{"content": A}], None)).status == "truncated"
    begun = stream([{"content": ANSWER}], None).replace("data: [DONE]", "")
    found = classify(200, {}, begun)
    assert (found.kind, found.completion) == ("transient", None)


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_a_stream_with_a_broken_event_is_not_whole(cut: int) -> None:
    """A piece of the text is lost, and what is left may be read as another number."""
    lines = stream([{"content": A}, {"content": B}]).split("\n")
    lines[2] = lines[2][:-cut]
    found = classify(200, {}, "\n".join(lines))
    assert (found.kind, found.completion) == ("transient", None)


def test_events_over_several_lines_and_what_is_no_object_are_no_loss() -> None:
    chunk = {"choices": [{"index": 0, "delta": {"content": ANSWER}, "finish_reason": "stop"}]}
    spread = "\n".join(f"data: {line}" for line in json.dumps(chunk, indent=1).split("\n"))
    assert asked(f": hello\n\ndata: ping\n\nevent: message\n{spread}\n\ndata: [DONE]\n\n").text == ANSWER
    assert asked(f"data: ping\ndata: {json.dumps(chunk)}\ndata: [DONE]\n").text == ANSWER


def test_a_stream_whose_last_event_is_an_error_is_one() -> None:
    text = stream([{"content": ANSWER}]) + f"data: {json.dumps({'error': {'message': 'overloaded', 'code': 503}})}\n\n"
    assert classify(200, {}, text).kind == "transient"


@given(
    st.sampled_from(["content", "reasoning_content", "refusal"]),
    st.text(alphabet='ab{}"é\n', min_size=1, max_size=30),
    st.lists(st.integers(0, 30), max_size=5),
)
def test_a_stream_is_read_as_the_same_reply_in_one_piece(name: str, text: str, cuts: list[int]) -> None:
    ends = [0, *sorted(cuts), len(text)]
    pieces = [{name: text[a:b]} for a, b in pairwise(ends)]
    joined, one = classify(200, {}, stream(pieces)).completion, came(whole({name: text}))
    assert joined is not None
    assert (joined.status, joined.text) == (one.status, one.text)
