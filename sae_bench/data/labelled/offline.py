"""Probe sets that need no download: made of the corpus, or of the demo world.

The side of a text is that of its document, so what one document gives is on one side. The sets made of a corpus come
from one pass over its first texts.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from itertools import islice

from sae_bench.data.labelled.build import Draft, SetBuilder
from sae_bench.data.labelled.encode import Encoder, LabelledOptions, PartName, Unusable, keyed, side_of
from sae_bench.data.labelled.entries import Base64Set, DemoSet, PhraseSet
from sae_bench.data.sources import Document

MOST_TEXTS = 20_000
FEWEST = 40  # positives, and negatives, that a set made of a corpus must have
FEWEST_OF_DEMO = 8  # of each class in each part
AROUND = 20  # words before and after what a phrase window is about
REACH = 400  # characters on either side in which those words are looked for
PER_DOCUMENT = 4  # pieces of one class that one document may give
PIECE_WORDS = (16, 48)  # shortest and longest piece of text; an encoded piece has a quarter, as many tokens
BLOCK_WORDS = 400  # the pieces of a document come from different blocks
DEMO_SIZES: dict[PartName, int] = {"train": 640, "test": 384}  # at most: the demo has no end, and is to be quick
_WORD = re.compile(r"[^\W\d_]+")

CorpusSet = Base64Set | PhraseSet


def load_corpus_sets(
    entries: Iterable[CorpusSet],
    documents: Iterator[Document] | None,
    corpus_name: str,
    encoder: Encoder,
    options: LabelledOptions,
) -> tuple[list[Draft], dict[str, str]]:
    """The sets that are made of a corpus, and why the others cannot be.

    Of its `documents` the first 20,000 are looked at once; None if there are only token ids. What is of one group is of
    one part.
    """
    wanted = list(entries)
    if documents is None:
        return [], {entry.name: "It is made of the corpus as text, and token ids were given." for entry in wanted}
    builders = {entry.name: SetBuilder(entry.name, encoder, options, balanced=True) for entry in wanted}
    phrases = _Phrases({entry.name: entry.phrase for entry in wanted if isinstance(entry, PhraseSet)})
    encoded = [entry.name for entry in wanted if isinstance(entry, Base64Set)]
    looked_at = 0
    for document, group in islice(documents, MOST_TEXTS) if wanted else ():
        looked_at += 1
        side = side_of(document if group is None else group)
        for name, window, label in phrases.windows(document):
            builders[name].add(side, window, label)
        for piece, label in _pieces(document) if encoded else ():
            for name in encoded:
                builders[name].add(side, piece, label)
    drafts: list[Draft] = []
    skipped: dict[str, str] = {}
    for entry in wanted:
        try:
            drafts.append(_finish(entry, builders[entry.name], corpus_name, looked_at))
        except Unusable as error:
            skipped[entry.name] = f"In the first {looked_at} texts of {corpus_name}, {error}."
    return drafts, skipped


def _finish(entry: CorpusSet, builder: SetBuilder, corpus_name: str, looked_at: int) -> Draft:
    found = builder.distinct("train") + builder.distinct("test")
    if min(found[True], found[False]) < FEWEST:
        raise Unusable(f"{found[True]} positive and {found[False]} negative pieces were found, and {FEWEST} are needed")
    what = "base64 of pieces, and pieces," if isinstance(entry, Base64Set) else f"windows around '{entry.phrase}'"
    notes = {"licence": entry.licence, "paper": entry.source, "texts_looked_at": looked_at}
    return builder.finish(f"{what} of {corpus_name}", **notes)


class _Phrases:
    """Looks for many compounds of two words, and their words alone, in one pass over a text."""

    def __init__(self, phrases: dict[str, str]) -> None:
        self._compounds: dict[str, re.Pattern[str]] = {}
        self._by_word: dict[str, list[str]] = {}
        for name, phrase in phrases.items():
            first, second = phrase.split(" ")
            self._compounds[name] = re.compile(rf"\b{first}[\s-]+{second}\b", re.IGNORECASE)
            for word in (first, second):
                self._by_word.setdefault(word, []).append(name)

    def windows(self, document: str) -> Iterator[tuple[str, str, bool]]:
        """Name of the set, stretch of text, and whether it holds the compound; stretches of one set do not overlap."""
        if not self._by_word:
            return
        ends: dict[str, int] = {}
        given: dict[tuple[str, bool], int] = {}
        for hit in _WORD.finditer(document):
            for name in self._by_word.get(hit[0].lower(), ()):
                if hit.start() < ends.get(name, 0):
                    continue
                compound = self._compounds[name].match(document, hit.start())
                start, end = _window(document, hit.start(), compound.end() if compound else hit.end())
                start = max(start, ends.get(name, 0))
                window = document[start:end].strip()
                label = compound is not None
                # A window of one word alone may still have the compound further on: then it is neither.
                if not label and self._compounds[name].search(window):
                    continue
                if given.get((name, label), 0) < PER_DOCUMENT:
                    given[name, label] = given.get((name, label), 0) + 1
                    ends[name] = end
                    yield name, window, label


def _window(document: str, start: int, end: int) -> tuple[int, int]:
    """Where the twenty words before `start` begin, and where the twenty after `end` stop."""
    left, right = max(0, start - REACH), min(len(document), end + REACH)
    before = [word.start() for word in re.finditer(r"\S+", document[left:start])]
    if left and before:
        before = before[1:]  # the first may be the rest of a word
    after = [word.end() for word in re.finditer(r"\S+", document[end:right])]
    if right < len(document) and after:
        after = after[:-1]
    first = left + before[-AROUND:][0] if before else start
    return first, end + after[:AROUND][-1] if after else end


def _pieces(document: str) -> Iterator[tuple[str, bool]]:
    """Runs of words of a document, or base64 of them: the document decides which, for all its pieces."""
    words = document.split()
    is_encoded = keyed("base64", document) % 2 == 0
    shortest, longest = PIECE_WORDS
    for number, begin in enumerate(range(0, len(words), BLOCK_WORDS)[:PER_DOCUMENT]):
        block = words[begin : begin + BLOCK_WORDS]
        if len(block) < shortest:
            return
        draw = keyed("piece", document, str(number))
        length = min(len(block), shortest + draw % (longest - shortest + 1))
        length = length // 4 if is_encoded else length
        start = (draw >> 16) % (len(block) - length + 1)
        piece = " ".join(block[start : start + length])
        yield base64.b64encode(piece.encode("utf-8", "replace")).decode() if is_encoded else piece, is_encoded


def load_demo(
    attributes: Iterable[DemoSet], base64_sets: Iterable[Base64Set], encoder: Encoder, options: LabelledOptions
) -> tuple[list[Draft], dict[str, str]]:
    """The attributes of the demo world on its first documents, and base64 made of the same documents.

    Train texts are of its split `train`, test texts of `eval`, which have no text in common.
    """
    from sae_bench.demo import DemoDocument, document

    sizes = {part: min(options.limit(part) or size, size) for part, size in DEMO_SIZES.items()}
    documents: dict[PartName, list[DemoDocument]] = {
        "train": [document(index, split="train") for index in range(sizes["train"])],
        "test": [document(index, split="eval") for index in range(sizes["test"])],
    }
    texts = (one.text for part in documents.values() for one in part)
    drafts, skipped = load_corpus_sets(base64_sets, map(Document, texts), "the demo", encoder, options)
    note = "the demo's language model and SAEs were trained on text of the same world"
    for entry in attributes:
        least: dict[PartName, int] = {"train": FEWEST_OF_DEMO, "test": FEWEST_OF_DEMO}
        builder = SetBuilder(entry.name, encoder, options, least=least)
        for part, made in documents.items():
            for one in made:
                spans = tuple((s.start, s.end) for s in one.spans if s.attribute == entry.attribute)
                builder.add(part, one.text, one.attributes[entry.attribute], spans=spans)
        try:
            drafts.append(builder.finish(f"demo: {entry.attribute}", licence=entry.licence, note=note))
        except Unusable as error:
            skipped[entry.name] = f"In the first documents of the demo, {error}."
    return drafts, skipped
