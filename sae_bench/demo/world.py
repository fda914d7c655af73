"""Documents of the demo world, with every attribute known by construction.

Document i of a split is written from a generator keyed by (seed, split, i): a subset equals the same rows of the whole.
The splits are disjoint by construction: a text belongs to the split that the parity of its hash names.
"""

from __future__ import annotations

import hashlib
import random
from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Literal

from sae_bench.demo import english, french, german, spanish
from sae_bench.demo.grammar import Rules, Span, Writer
from sae_bench.demo.lexicon import MARKS
from sae_bench.demo.structured import write_arithmetic, write_code
from sae_bench.errors import DataError

Split = Literal["train", "eval"]

ATTRIBUTE_MEANINGS: dict[str, str] = {
    "language_en": "English prose (all of the document)",
    "language_fr": "French prose (all of the document)",
    "language_de": "German prose (all of the document)",
    "language_es": "Spanish prose (all of the document)",
    "kind_news": "a news item (all of the document)",
    "kind_dialogue": "two people who speak in turn (all of the document)",
    "kind_letter": "a letter (all of the document)",
    "kind_review": "a product review (all of the document)",
    "kind_recipe": "a recipe (all of the document)",
    "kind_code": "Python-like code (all of the document)",
    "kind_arithmetic": "equations or word problems (all of the document)",
    "has_question": "a question, up to its question mark",
    "has_exclamation": "an exclamation mark",
    "has_negation": "a word of negation (not, never, ne ... pas, nicht, no)",
    "positive_sentiment": "a sentence of praise",
    "negative_sentiment": "a sentence of blame",
    "mentions_animal": "the name of an animal",
    "mentions_color": "the name of a colour",
    "mentions_city": "the name of a city",
    "mentions_weekday": "the name of a day of the week",
    "mentions_profession": "the name of a profession",
    "mentions_food": "the name of a food",
    "mentions_weather": "a word for the weather",
    "mentions_price": "an amount of money",
    "contains_number": "a whole number in digits",
    "contains_even_number": "an even number in digits",
    "contains_large_number": "a number of 100 or more in digits",
    "past_tense": "a verb in the past tense",
    "future_tense": "a verb in the future tense",
    "quoted_speech": "speech in quotation marks, the marks included",
    "parenthesis": "round brackets and what is between them",
    "female_person": "a woman's name or a pronoun for her",
    "male_person": "a man's name or a pronoun for him",
    "uppercase_word": "a word of two or more capital letters",
    "code_loop": "a for or while loop with its body",
    "code_comment": "a comment in code",
}
ATTRIBUTES: tuple[str, ...] = tuple(ATTRIBUTE_MEANINGS)

_GRAMMARS: dict[str, Rules] = {
    "en": english.RULES,
    "fr": french.RULES,
    "de": german.RULES,
    "es": spanish.RULES,
}

# (kind, language, share of the documents)
_MIX: tuple[tuple[str, str, float], ...] = (
    ("code", "", 0.18),
    ("arithmetic", "", 0.12),
    ("recipe", "en", 0.115),
    ("news", "en", 0.07),
    ("dialogue", "en", 0.07),
    ("letter", "en", 0.06),
    ("review", "en", 0.055),
    *((kind, language, 0.031) for language in ("fr", "de", "es") for kind in ("news", "dialogue", "letter", "review")),
)
KINDS: tuple[str, ...] = tuple(dict.fromkeys(kind for kind, _, _ in _MIX))
_MIX_SUMS = tuple(accumulate(share for _, _, share in _MIX))

# In characters; keeps every document, with its BOS, inside the 128 tokens of the demo model.
_LONGEST = {"dialogue": 270, "letter": 300, "news": 300, "arithmetic": 160, "code": 380}

# What a document may mention at all: how often each is on.
_SWITCHES: dict[str, float] = {
    "color": 0.5,
    "animal": 0.5,
    "city": 0.5,
    "number": 0.5,
    "quote": 0.75,
    "paren": 0.5,
    "question": 0.45,
    "negation": 0.4,
    "upper": 0.4,
    "weather": 0.75,
    "weekday": 0.5,
    "food": 0.6,
    "exclaim": 0.4,
    "price": 0.85,
    "job": 0.6,
    "loop": 0.97,
    "comment": 0.95,
    "story": 0.5,
    "small": 0.5,
}


@dataclass(frozen=True)
class DemoDocument:
    """One document.

    ``attributes`` has an entry for each of ATTRIBUTES, true where a span of the attribute exists.
    """

    text: str
    kind: str
    attributes: dict[str, bool]
    spans: tuple[Span, ...]


def documents(n: int, *, seed: int = 0, split: Split = "eval") -> list[DemoDocument]:
    """The first n documents of a split; the same for every call with the same seed.

    Raises DataError when n is negative or the split is neither ``train`` nor ``eval``.
    """
    if split not in ("train", "eval"):
        raise DataError(f"split must be 'train' or 'eval', got {split!r}")
    if n < 0:
        raise DataError(f"the number of documents must be 0 or more, got {n}")
    return [document(i, seed=seed, split=split) for i in range(n)]


def document(index: int, *, seed: int = 0, split: Split = "eval") -> DemoDocument:
    """Document ``index`` of a split."""
    written = _document(index, seed, split)
    return replace(written, attributes=dict(written.attributes))  # what a caller changes is the caller's


@lru_cache(maxsize=8192)  # a process that measures several times reads the same text each time
def _document(index: int, seed: int, split: Split) -> DemoDocument:
    attempt = 0
    while True:
        written = _write(random.Random(f"{seed}/{split}/{index}/{attempt}"))
        if split_of(written.text) == split and len(written.text) <= _LONGEST.get(written.kind, 320):
            return written
        attempt += 1


def split_of(text: str) -> Split:
    """The only split in which this text can occur, whatever the seed."""
    return "eval" if hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 2 else "train"


def token_labels(document: DemoDocument, offsets: Sequence[tuple[int, int]], attribute: str) -> list[bool]:
    """Whether the attribute holds on each token, given the (start, end) characters of each token.

    A token counts when it shares at least one character other than white space with a span; special tokens, whose
    offsets are empty, never do. Raises DataError for an unknown attribute.
    """
    if attribute not in ATTRIBUTE_MEANINGS:
        raise DataError(f"the demo world has no attribute {attribute!r}; it has {', '.join(ATTRIBUTES)}")
    inside = bytearray(len(document.text))
    for span in document.spans:
        if span.attribute == attribute:
            inside[span.start : span.end] = b"\1" * (span.end - span.start)
    for at, char in enumerate(document.text):
        if char.isspace():
            inside[at] = 0
    return [any(inside[start:end]) for start, end in offsets]


def _write(rng: random.Random) -> DemoDocument:
    kind, language, _ = _MIX[min(bisect(_MIX_SUMS, rng.random() * _MIX_SUMS[-1]), len(_MIX) - 1)]
    switches = frozenset(name for name, share in _SWITCHES.items() if rng.random() < share)
    state = {
        "gender": "f" if rng.random() < 0.5 else "m",
        "mood": "pos" if rng.random() < 0.5 else "neg",
        "tense": ("past", "pres", "fut")[int(rng.random() * 3)],
        "topic": ("home", "sea", "farm", "office", "art")[int(rng.random() * 5)],
    }
    if kind == "arithmetic":
        language = "en" if "story" in switches else ""
    writer = Writer(rng, _GRAMMARS[language or "en"], MARKS, state, switches)
    with writer.mark(f"kind_{kind}"):
        if kind == "code":
            write_code(writer)
        elif kind == "arithmetic":
            write_arithmetic(writer)
        else:
            _write_prose(writer, kind)
    text = writer.text.rstrip()
    if language:
        writer.spans.append(Span(0, len(text), f"language_{language}"))
    kept = [
        Span(span.start, min(span.end, len(text)), span.attribute) for span in writer.spans if span.start < len(text)
    ]
    present = {span.attribute for span in kept}
    spans = tuple(sorted(kept, key=lambda span: (span.start, span.end, span.attribute)))
    return DemoDocument(text, kind, {name: name in present for name in ATTRIBUTES}, spans)


def _write_prose(writer: Writer, kind: str) -> None:
    target = writer.integer(150, 200 if kind == "dialogue" else 260)
    writer.write(f"^{{OPEN_{kind}}}")
    while writer.length < target:
        writer.expand(f"SENT_{kind}")
    writer.expand(f"CLOSE_{kind}")
