"""The key is nowhere in what is kept, printed or raised, however an endpoint writes it."""

from __future__ import annotations

import base64
import html
import json
import logging
import pickle
import re
import sqlite3
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.errors import UsageError
from sae_bench.judge import Completion, Judge, JudgeError, JudgeOptions
from sae_bench.judge.cache import Cache, Row
from sae_bench.judge.secrets import NO_KEY, Scrubber
from tests.builders.judge_asks import FAST, ask
from tests.builders.marks import slow_but_each
from tests.builders.raw_server import Raw, Respond, head, replying, saying

KEY = "sk-3f9a51c0/7be2+468d=Qz"


def per_char(pattern: str, every: int = 1) -> Callable[[str], str]:
    """Every n-th character written in another way."""
    return lambda key: "".join(pattern % ord(c) if i % every == 0 else c for i, c in enumerate(key))


def based(before: str, after: str = "", safe: bool = False) -> Callable[[str], str]:
    encode = base64.urlsafe_b64encode if safe else base64.b64encode
    return lambda key: encode(f"{before}{key}{after}".encode()).decode()


WRITTEN: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in capitals": str.upper,
    "as JSON": json.dumps,
    "as JSON in JSON in JSON": lambda key: json.dumps(json.dumps(json.dumps(key + '"'))),
    "escaped": per_char("\\u%04x"),
    "escaped in capitals": per_char("\\u%04X"),
    "escaped in part": per_char("\\u%04x", 3),
    "escaped twice": lambda key: json.dumps(per_char("\\u%04x")(key)),
    "in braces": per_char("\\u{%x}"),
    "in long escapes": per_char("\\U%08x"),
    "in hexadecimal escapes": per_char("\\x%02x"),
    "in octal escapes": per_char("\\%03o"),
    "with escaped slashes": lambda key: key.replace("/", "\\/"),
    "per cent": per_char("%%%02x"),
    "per cent in capitals": per_char("%%%02X"),
    "per cent in part": lambda key: quote(key, safe=""),
    "per cent twice": lambda key: quote(per_char("%%%02x", 2)(key)),
    "per cent u": per_char("%%u%04x"),
    "HTML": per_char("&#%d;"),
    "HTML in hexadecimal": per_char("&#x%x;", 2),
    "HTML twice": lambda key: html.escape(per_char("&#%03d;")(key)),
    "HTML names": lambda key: key.replace("/", "&sol;").replace("+", "&plus;").replace("=", "&equals;"),
    "base64": based(""),
    "base64 after one byte": based("a"),
    "base64 after two bytes": based("ab", "cd"),
    "base64 of a password": based("user:"),
    "base64 in the middle of a text": based("Authorization: Bearer ", " was refused"),
    "base64 for addresses": based("Bearer ", safe=True),
    "base64 on lines": lambda key: "\n".join(based("user:")(key)[i : i + 10] for i in range(0, 60, 10)),
    "digits": lambda key: key.encode().hex(),
    "digits in capitals": lambda key: key.encode().hex().upper(),
    "on lines": lambda key: "\r\n ".join((key[:7], key[7:])),
    "spread": lambda key: " ".join(key),
    "with invisible marks": lambda key: "\u200b".join(key),
    "its first half": lambda key: key[: len(key) // 2],
    "its second half": lambda key: key[len(key) // 2 :],
    "in an address": lambda key: f"https://user:{quote(key, safe='')}@host/v1?api-key={key}",
    "as bytes": lambda key: repr({"x": key.encode()}),
}


def plain(text: str) -> list[str]:
    """A text as it is, and with what can be undone of it undone, by other means than those that are tested."""
    found = [text]
    for _ in range(4):
        found.append(html.unescape(unquote(text)))
        known = re.sub(r"%u(....)", r"\\u\1", re.sub(r"\\u\{(..)\}", r"\\x\1", found[-1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an escape that Python does not know
            text = known.encode("ascii", "backslashreplace").decode("unicode_escape", "replace").replace("\\/", "/")
        found.append(text)
    return [one for each in found for one in (each, "".join(each.split()).replace("\u200b", ""))]


def leaks(text: str) -> list[str]:
    """What of the key can be read in a text."""
    wanted = [KEY.lower(), KEY[:12].lower(), KEY[12:].lower(), KEY.encode().hex()]
    own = [f"{before}{KEY}".encode() for before in ("", "a", "ab")]
    exact = [base64.b64encode(one).decode()[4:-4] for one in own]
    exact += [base64.urlsafe_b64encode(one).decode()[4:-4] for one in own]
    return [w for one in plain(text) for w in wanted if w in one.lower()] + [
        w for w in exact if w in "".join(text.split())
    ]


@pytest.mark.parametrize("how", WRITTEN)
def test_the_key_is_found_however_it_is_written(how: str) -> None:
    written = WRITTEN[how](KEY)
    for before, after in (
        ("", ""),
        ("said: ", " end"),
        ('{"a": "', '"}'),
        ("\u0130 ", "%"),
        ("\\", "\\u12"),
        ("&", ";"),
    ):
        cleaned = Scrubber(KEY).text(before + written + after)
        assert not leaks(cleaned), cleaned
        assert "[key]" in cleaned
        if before not in ("\\", "&"):
            assert cleaned.startswith(before)
            assert cleaned.endswith(after)


def test_a_leak_is_seen() -> None:
    """The other tests can fail."""
    assert not leaks("nothing of it")
    assert not [how for how, write in WRITTEN.items() if not leaks(f'{{"a": "{write(KEY)}"}}')]


@given(st.text(), st.text(), st.sampled_from([str, per_char("\\u%04x"), per_char("%%%02x"), based("x:")]))
def test_all_else_in_a_text_stays(before: str, after: str, write: Callable[[str], str]) -> None:
    scrub = Scrubber(KEY)
    assert scrub.text(before + after) == before + after
    assert not leaks(scrub.text(before + " " + write(KEY) + " " + after))


@pytest.mark.parametrize("short", ["", "none", "EMPTY", "sk-1234"])
def test_a_placeholder_is_no_key(short: str) -> None:
    """Else every "none" in a reply became "[key]"."""
    assert Scrubber(short).text("none EMPTY sk-1234") == "none EMPTY sk-1234"


def test_of_a_short_key_only_the_whole_goes() -> None:
    """Its pieces are words."""
    scrub = Scrubber("no-key-needed")
    assert scrub.text("a key is no-key, or no-key-needed") == "a key is no-key, or [key]"


def test_a_scrubber_shows_nothing() -> None:
    scrub = Scrubber(KEY)
    assert not leaks(repr(scrub))
    assert not hasattr(scrub, "__dict__")
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(scrub)
    assert NO_KEY.text(KEY) == KEY


# ---------------------------------------------------------------- through the judge


def everything(folder: Path) -> str:
    """All that the cache keeps, in every column, and the bytes of its files."""
    rows: list[Any] = []
    with sqlite3.connect(folder / "judge.sqlite") as db:
        rows += db.execute("SELECT * FROM completions").fetchall()
    return repr(rows) + "".join(file.read_bytes().decode("latin-1") for file in sorted(folder.iterdir()))


def outcome(folder: Path, respond: Respond) -> tuple[str, list[Completion]]:
    """What is kept, printed and raised by a judge whose endpoint answers like this."""
    shown, done = "", list[Completion]()
    with Raw(respond) as server:
        options = JudgeOptions("m", server.url, cache=folder / "judge.sqlite", timeout=10)
        with Judge(options, FAST) as judge:
            try:
                done = judge.complete([ask("x")])
            except JudgeError as error:
                shown += str(error) + "".join(traceback.format_exception(error))
            shown += repr((done, judge, judge.options, judge.usage, vars(judge)))
            shown += repr([vars(it) for it in vars(judge).values() if hasattr(it, "__dict__")])
        assert any(KEY.encode() in request for request in server.requests), "the key was not sent"
    return shown + everything(folder), done


@pytest.fixture(autouse=True)
def _with_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def in_chunks(body: str, size: int) -> Respond:
    """The same reply in pieces of so many bytes, by chunked transfer."""
    raw = body.encode()
    pieces = [raw[i : i + size] for i in range(0, len(raw), size)]
    sent = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    return lambda connection, request: connection.sendall(head(Transfer_Encoding="chunked") + sent)


def streamed(pieces: list[str], whole: bool = True) -> str:
    """The same reply as server-sent events."""
    chunks: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "model": "m-2026"}
    chunks += [end, {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}] if whole else []
    return ": hello\n\n" + "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n" * whole


SAID = ["base64 of a password", "escaped in part", "per cent", "as it is", "HTML", "as JSON in JSON in JSON"]


@pytest.mark.parametrize("how", SAID)
@pytest.mark.parametrize(
    "place", slow_but_each(2, ["text", "refusal", "model", "fingerprint", "names", "message of an error", "page"])
)
def test_what_an_endpoint_repeats_is_kept_and_printed_nowhere(tmp_path: Path, how: str, place: str) -> None:
    echo = f"you sent {WRITTEN[how](KEY)} to us"
    reply, status = saying("fine"), "200 OK"
    if place == "text":
        reply = saying(echo)
    elif place == "refusal":
        reply["choices"][0]["message"] |= {"refusal": echo, "content": None}
    elif place == "names":
        reply[echo] = {echo: [echo]}
    elif place == "message of an error":
        reply, status = {"error": {"message": echo, "code": echo}}, "401 Unauthorized"
    else:
        reply["model" if place == "model" else "system_fingerprint"] = echo
    respond = replying(f"<p>{echo}</p>") if place == "page" else replying(reply, status)
    seen, done = outcome(tmp_path, respond)
    assert not leaks(seen)
    if place == "text":
        assert "[key]" in done[0].text


@pytest.mark.parametrize("size", [1, 7, 64])
def test_chunks_of_the_transfer_are_joined_first(tmp_path: Path, size: int) -> None:
    seen, done = outcome(tmp_path, in_chunks(json.dumps(saying(f"key {KEY} end")), size))
    assert not leaks(seen)
    assert done[0].text == "key [key] end"


@pytest.mark.parametrize("size", [1, 3, 11])
def test_a_stream_of_events_is_joined_first(tmp_path: Path, size: int) -> None:
    pieces = [KEY[i : i + size] for i in range(0, len(KEY), size)]
    seen, done = outcome(tmp_path, replying(streamed(["the key ", *pieces, " end"]), Content_Type="text/event-stream"))
    assert not leaks(seen)
    assert (done[0].status, done[0].text, done[0].model) == ("ok", "the key [key] end", "m-2026")
    assert (done[0].prompt_tokens, done[0].completion_tokens) == (7, 3)
    assert KEY[:size] not in seen or size < 4


def test_of_a_stream_that_is_cut_off_nothing_is_shown(tmp_path: Path) -> None:
    seen, done = outcome(tmp_path, replying(streamed([KEY[:9], KEY[9:17], KEY[17:]], whole=False)))
    assert done[0].status == "transport_failed"
    assert not [piece for piece in (KEY[:9], KEY[9:17]) if piece in seen]


def test_a_key_in_two_fields_is_kept_in_neither(tmp_path: Path) -> None:
    reply = saying(f"it begins with {KEY[:12]}")
    reply["choices"][0]["message"]["reasoning_content"] = f"and ends with {KEY[12:]}"
    seen, done = outcome(tmp_path, replying(reply))
    assert not leaks(seen)
    assert done[0].text == "it begins with [key]"


@pytest.mark.parametrize("kind", ["parts", "tokens", "bytes", "parts of an error", "events of another kind"])
def test_a_key_in_many_small_pieces_is_kept_in_none(tmp_path: Path, kind: str) -> None:
    """Each alone is no key: what holds them is not kept at all."""
    pieces = [KEY[i : i + 5] for i in range(0, len(KEY), 5)]
    reply = saying("fine")
    if kind == "parts":
        reply["choices"][0]["message"]["parts"] = [{"type": "text", "text": piece} for piece in pieces]
    elif kind == "tokens":
        reply["choices"][0]["logprobs"] = {"content": [{"token": piece, "logprob": -1.5} for piece in pieces]}
    elif kind == "bytes":
        reply["choices"][0]["logprobs"] = [{"bytes": list(piece.encode()), "rank": 1} for piece in pieces]
    elif kind == "parts of an error":
        reply = {"error": {"message": [{"text": piece} for piece in pieces]}}
    respond = replying(reply, "500 No" if kind == "parts of an error" else "200 OK")
    if kind == "events of another kind":
        chunks = [{"choices": [{"index": 0, "delta": {"parts": [piece]}}]} for piece in pieces]
        end = {"choices": [{"index": 0, "delta": {"content": "fine"}, "finish_reason": "stop"}]}
        respond = replying("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, end]))
    seen, done = outcome(tmp_path, respond)
    assert done[0].text == "fine" or kind == "parts of an error"
    assert not [piece for piece in pieces[:-1] if piece in seen or json.dumps(list(piece.encode()))[1:-1] in seen]


@pytest.mark.parametrize("level", [logging.DEBUG, logging.WARNING])
@pytest.mark.parametrize("how", ["as it is", "per cent", "base64 of a password"])
def test_headers_reasons_and_redirects_show_no_key(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str, level: int
) -> None:
    """Nor do the libraries underneath, which log headers as they came."""
    caplog.set_level(level)
    echo = WRITTEN[how](KEY)
    headers = {"X_Echo": echo, "Retry_After": echo, "Set_Cookie": f"k={echo}", "WWW_Authenticate": f"Bearer {echo}"}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    seen, _ = outcome(tmp_path / "a", replying({"error": {"message": "no"}}, f"401 Key {echo}", **headers))
    where = f"https://user:{quote(KEY, safe='')}@other/{echo}/v1?key={echo}"
    more, _ = outcome(tmp_path / "b", replying("", "307 Moved", Location=where))
    assert "a redirect to https://other/[key]/v1" in more or how == "base64 of a password"
    assert not leaks(seen + more + caplog.text)


def test_a_cache_that_holds_the_key_already_gives_it_to_nobody(tmp_path: Path) -> None:
    """Earlier versions stored what was escaped."""
    old = Cache(tmp_path / "judge.sqlite")
    old.store([Row("a" * 64, Completion("ok", f"the key is {KEY}", raw=per_char("\\u%04x")(KEY)))])
    old.close()
    new = Cache(tmp_path / "judge.sqlite", scrub=Scrubber(KEY))
    found = new.read(["a" * 64])["a" * 64]
    new.close()
    assert (found.text, found.raw) == ("the key is [key]", "[key]")


@pytest.mark.parametrize("how", ["as it is", "escaped in part", "base64 of a password"])
def test_a_batch_is_cleaned_too(tmp_path: Path, how: str) -> None:
    back = tmp_path / "back.jsonl"
    row = {"custom_id": "a" * 64, "response": {"status_code": 200, "body": saying(f"is {WRITTEN[how](KEY)}")}}
    back.write_text(json.dumps(row) + "\n")
    with Judge(JudgeOptions("m", "http://h/v1", cache=tmp_path / "judge.sqlite")) as judge:
        assert judge.import_batch(back) == (1, 0)
    back.unlink()
    assert not leaks(everything(tmp_path))


SECRET_ADDRESSES = [
    f"https://user:{quote(KEY, safe='')}@host/v1",
    f"https://{quote(KEY, safe='')}@host/v1",
    f"https://host/v1?api-key={KEY}",
    f"https://host:port/v1?api-key={KEY}",
    f"https:/host/v1?api-key={KEY}",
    f"https://host/v1#{KEY}",
    f"https://user:{quote(KEY, safe='')}%40host/v1",
    f"https://host/{quote(KEY)}/v1",
    f"https://{KEY.split('/')[0]}.host:x/v1",
    KEY,
]


@pytest.mark.parametrize("address", SECRET_ADDRESSES)
@pytest.mark.parametrize("by", ["option", "environment"])
def test_an_address_that_holds_a_key_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, address: str, by: str
) -> None:
    """Also a key that is nowhere else: nobody can know it then."""
    for name in ("OPENAI_API_KEY", "OTHER"):
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        monkeypatch.setenv(name, KEY)
        if name == "OTHER" and address.endswith(f"{quote(KEY)}/v1"):
            continue  # a path like any other
        monkeypatch.setenv("OPENAI_BASE_URL", address)
        with pytest.raises(UsageError) as refusal:
            JudgeOptions("m", address if by == "option" else None)
        assert not leaks(str(refusal.value))
        assert KEY[:8] not in str(refusal.value)


@pytest.mark.parametrize(("field", "flag"), [("model", "model"), ("endpoint_id", "endpoint"), ("params", "param")])
def test_an_option_that_holds_the_key_is_refused(field: str, flag: str) -> None:
    value = {"user": f"x{KEY}"} if field == "params" else f"x{KEY}"
    with pytest.raises(UsageError, match=f"--judge-{flag} holds the key that is in OPENAI_API_KEY") as refusal:
        JudgeOptions(**{"model": "m", field: value})
    assert not leaks(str(refusal.value))
