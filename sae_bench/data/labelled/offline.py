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
BEFORE = 20  # words before the pair of words with which a phrase window ends
REACH = 400  # characters in which those words are looked for
NEAR = 64  # and those in which the word before one is
PER_DOCUMENT = 4  # pieces of one class that one document may give
PIECE_WORDS = (16, 48)  # shortest and longest piece of text; an encoded piece has a quarter, as many tokens
BLOCK_WORDS = 400  # the pieces of a document come from different blocks
DEMO_SIZES: dict[PartName, int] = {"train": 640, "test": 384}  # at most: the demo has no end, and is to be quick
_WORD = re.compile(r"[^\W\d_]+")
_BETWEEN = r"[\s-]+"  # the words of a compound
_LAST_WORD = re.compile(rf"([^\W\d_]+){_BETWEEN}$")
_NEXT_WORD = re.compile(rf"{_BETWEEN}[^\W\d_]+")
_KINDS = ("first", "second")  # which word of the compound a negative window has, beside another

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
    builders = {
        entry.name: SetBuilder(entry.name, encoder, options, balanced=True)
        if isinstance(entry, Base64Set)
        else SetBuilder(entry.name, encoder, options, balanced=True, keep="end", kinds=_KINDS)
        for entry in wanted
    }
    phrases = _Phrases({entry.name: entry.phrase for entry in wanted if isinstance(entry, PhraseSet)})
    encoded = [entry.name for entry in wanted if isinstance(entry, Base64Set)]
    looked_at = 0
    for document, group, _ in islice(documents, MOST_TEXTS) if wanted else ():
        looked_at += 1
        side = side_of(document if group is None else group)
        for name, window, kind in phrases.windows(document):
            builders[name].add(side, window, not kind, kind=kind)
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
    found = builder.even("train") + builder.even("test")
    if min(found[True], found[False]) < FEWEST:
        half = "" if isinstance(entry, Base64Set) else " (as many with either word)"
        counts = f"{found[True]} positive and {found[False]} negative pieces{half} were found"
        raise Unusable(f"{counts}, and {FEWEST} are needed")
    what = "base64 of pieces, and pieces," if isinstance(entry, Base64Set) else f"windows before '{entry.phrase}'"
    notes = {"licence": entry.licence, "paper": entry.source, "texts_looked_at": looked_at}
    return builder.finish(f"{what} of {corpus_name}", **notes)


class _Phrases:
    """Looks for many compounds of two words, and their words beside others, in one pass over a text."""

    def __init__(self, phrases: dict[str, str]) -> None:
        self._words = {name: tuple(phrase.split(" ")) for name, phrase in phrases.items()}
        self._compounds = {
            name: re.compile(rf"\b{first}{_BETWEEN}{second}\b", re.IGNORECASE)
            for name, (first, second) in self._words.items()
        }
        self._by_word: dict[str, list[str]] = {}
        for name, words in self._words.items():
            for word in words:
                self._by_word.setdefault(word, []).append(name)

    def windows(self, document: str) -> Iterator[tuple[str, str, str]]:
        """Name of the set, stretch of text, and "" if it ends with the compound, else which of its words it ends with.

        "first" is the first word before another one, "second" the second word behind another one. A stretch ends with
        its pair of words. One that ends with another pair and holds the compound before that is left out; stretches of
        one set do not overlap.
        """
        if not self._by_word:
            return
        ends: dict[str, int] = {}
        given: dict[tuple[str, str], int] = {}
        for hit in _WORD.finditer(document):
            for name in self._by_word.get(hit[0].lower(), ()):
                pair = self._pair(name, document, hit)
                if pair is None or given.get((name, pair[2]), 0) == PER_DOCUMENT:
                    continue
                start, end, kind = pair
                begin = _begin(document, start)
                window = document[begin:end].strip()
                if begin < ends.get(name, 0) or (kind and self._compounds[name].search(window)):
                    continue
                given[name, kind] = given.get((name, kind), 0) + 1
                ends[name] = end
                yield name, window, kind

    def _pair(self, name: str, document: str, hit: re.Match[str]) -> tuple[int, int, str] | None:
        """Where the pair of words at a hit begins and ends, and its kind; None inside a compound, or for no pair."""
        first, _ = self._words[name]
        if hit[0].lower() == first:
            if compound := self._compounds[name].match(document, hit.start()):
                return hit.start(), compound.end(), ""
            after = _NEXT_WORD.match(document, hit.end())
            return None if after is None else (hit.start(), after.end(), "first")
        before = _LAST_WORD.search(document[max(0, hit.start() - NEAR) : hit.start()])
        if before is None or before[1].lower() == first:
            return None
        return hit.start() - len(before[0]), hit.end(), "second"


def _begin(document: str, start: int) -> int:
    """Where the twenty words before `start` begin."""
    left = max(0, start - REACH)
    before = [word.start() for word in re.finditer(r"\S+", document[left:start])]
    if left and before:
        before = before[1:]  # the first may be the rest of a word
    return left + before[-BEFORE:][0] if before else start


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
