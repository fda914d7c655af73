"""What a tokenizer does, as a digest, and what it is, in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

# Each line differs between tokenizers that are taken for one another: prefix spaces, runs of spaces, digits in ones or
# threes, newlines, tabs, case, composed and decomposed accents, ligatures, scripts without spaces, emoji, code.
PROBES = (
    "the cat sat on the mat",
    " leading, and trailing ",
    "two  spaces,   three    four",
    "1 12 123 1234 12345 1234567890 3.14159 1987 20231",
    "lines\nof text\n\n\nwith\r\nends\n ",
    "\ttabs\t\tand \t spaces",
    "UPPER Mixed camelCase HTTPServer ÜBER É",
    "na\u00efve nai\u0308ve \u212b \u00c5 \ufb01ne \u00bd x\u00b2 \uff21\uff22 \u00a0 \u200b \u2028",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002 \ud55c\uad6d\uc5b4",
    "\u0645\u0631\u062d\u0628\u0627 \u0939\u093f\u0928\u094d\u0926\u0940 \u0e44\u0e17\u0e22",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2603\ufe0f",
    "def f(x_1, *args):\n    return {'a': [x_1 ** 2, -0x1F]}  # it's O(n)!\n\treturn\n",
    "don't we'll I'M they've ''quoted'' \"double\" \u201ccurly\u201d \u2014 \u2026 http://a.b/c?d=e&f",
    "\u2581\u2581metaspace \u0120byte ##piece </w>",
)
_VOCABULARY_STRINGS_AT_ONCE = 64
_ROLES = ("bos_token_id", "eos_token_id", "pad_token_id")


def encoded(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text as every reader of text here asks for them: without special tokens around it, uncut."""
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """Hex digest of what a tokenizer does: which ids a text gets, how ids are shown, which ids are BOS, EOS, padding.

    It does not depend on the tokenizer's class, nor on the version of transformers that built it. Where there is a
    tokenizer of the library `tokenizers` behind it, the digest covers normalizer, pre-tokenizer, model with its
    vocabulary and merges, added tokens and decoder; truncation, padding and what is put around a text are left out, as
    no text is encoded here with them. Of other tokenizers it covers the vocabulary, the ids of `PROBES`, and the ids of
    the vocabulary's own strings. None without a tokenizer.
    """
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    does = _rules(backend) if hasattr(backend, "to_str") else _answers(tokenizer)
    does["roles"] = [getattr(tokenizer, role, None) for role in _ROLES]
    return hashlib.sha256(json.dumps(does, sort_keys=True).encode()).hexdigest()


def tokenizer_kind(tokenizer: Any) -> str | None:
    """What a tokenizer is, for provenance: its class, and the class that its own file stands in for."""
    if tokenizer is None:
        return None
    instead = getattr(tokenizer, "sae_bench_instead_of", None)
    return type(tokenizer).__name__ + (f" of tokenizer.json, instead of {instead}" if instead else "")


def _rules(backend: Any) -> dict[str, Any]:
    """The parts of a `tokenizers.Tokenizer` that decide ids and how they are shown."""
    parts = json.loads(backend.to_str())
    rules = {name: parts.get(name) for name in ("added_tokens", "normalizer", "pre_tokenizer", "model", "decoder")}
    merges = rules["model"].get("merges") or []
    rules["model"]["merges"] = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    rules["specials_are_text"] = bool(getattr(backend, "encode_special_tokens", False))
    vocabulary = rules["model"].pop("vocab", None)
    return {**_stated(rules), "vocabulary": vocabulary}


def _stated(value: Any) -> Any:
    """A configuration without what is null or false, which another version may write or leave out."""
    if isinstance(value, dict):
        return {name: _stated(each) for name, each in value.items() if each is not None and each is not False}
    return [_stated(each) for each in value] if isinstance(value, list) else value


def _answers(tokenizer: Any) -> dict[str, Any]:
    """What a tokenizer without such a file answers."""
    vocabulary = sorted((int(place), str(token)) for token, place in tokenizer.get_vocab().items())
    probes = [*PROBES, *_runs([token for _, token in vocabulary])]
    return {"vocabulary": vocabulary, "answers": [_answer(tokenizer, text) for text in probes]}


def _runs(strings: list[str]) -> Iterator[str]:
    for start in range(0, len(strings), _VOCABULARY_STRINGS_AT_ONCE):
        yield " ".join(strings[start : start + _VOCABULARY_STRINGS_AT_ONCE])


def _answer(tokenizer: Any, text: str) -> list[Any]:
    """The ids of a text and the text of these ids, or that there is none: a tokenizer may know few characters."""
    try:
        ids = encoded(tokenizer, text)
        return [ids, tokenizer.decode(ids)]
    except Exception as error:  # noqa: BLE001 - whatever a tokenizer raises is its answer
        return [type(error).__name__]
