"""Labelled texts for probes: a folder of the user, the built-in suite, or the demo."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sae_bench.data.labelled.build import Draft
from sae_bench.data.labelled.encode import PARTS, SHIFTED, Encoded, Encoder, LabelledOptions, PartName
from sae_bench.data.labelled.entries import (
    Base64Set,
    DemoSet,
    Entry,
    HubSet,
    PackageSet,
    PhraseSet,
    UnavailableSet,
    named_lists,
    resolved,
    suite_entries,
)
from sae_bench.data.labelled.folder import load_folder
from sae_bench.data.labelled.hub import load_hub
from sae_bench.data.labelled.offline import load_corpus_sets, load_demo
from sae_bench.data.labelled.package import load_packages
from sae_bench.data.sources import Document
from sae_bench.data.tokens import IntArray, TokenSet
from sae_bench.registry import choose


@dataclass(frozen=True, eq=False)
class Part:
    """The train or test part of a set: `texts` `[examples]`, positions in `Suite.tokens`, and `labels` `[examples]`.

    No text occurs twice in a part, or in both parts of a set. `places` says of each example which tokens of its text
    have the label, as places in the sequence that the model reads, BOS included; None where the set does not say it.
    """

    texts: npt.NDArray[np.int64]
    labels: npt.NDArray[np.bool_]
    places: tuple[IntArray, ...] | None = None


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A binary classification of texts.

    `digest` is 16 hex digits over the texts (as token ids) and labels of both parts, in no order: equal digests mean
    the same set. `source` says in one line where it comes from, `notes` (plain JSON) what was read and left out.
    `token_digest` is that over the labels of tokens too, empty where they have none.
    `shifted` is a test part of another kind of text, if there is one and it was asked for; its digest is in `notes`.
    """

    name: str
    train: Part
    test: Part
    digest: str
    source: str
    notes: dict[str, Any]
    token_digest: str = ""
    shifted: Part | None = None


@dataclass(frozen=True, eq=False)
class Suite:
    """Labelled sets over shared texts.

    `tokens` holds every distinct text once, one sequence and one unit a text. `sets` are in the order of their names;
    `skipped` says for each of the others, in one sentence, why it could not be used. `name` is "demo", "suite", the
    name of a list of sets, or of the user's folder; `chosen` is true where the user named the sets, so that a few are
    what was wanted. `bos` stands before every text, and is in no digest of a set. `definition` is the digest of the
    list. `lacking` says what this machine lacks and how it comes here: without that, no other figures are shown in its
    place.
    """

    tokens: TokenSet
    sets: tuple[LabelledSet, ...]
    skipped: dict[str, str]
    name: str
    chosen: bool = False
    bos: int | None = None
    definition: str | None = None
    lacking: str = ""

    @property
    def coverage(self) -> str:
        """How many of the sets that were asked for there are: "1 of 97"."""
        return f"{len(self.sets)} of {len(self.sets) + len(self.skipped)}"

    @property
    def stands_for_all(self) -> bool:
        """Whether a mean over the sets may be called that of the suite.

        Nothing lacks that another machine may have, and half of the sets are there, or these were named.
        """
        return bool(self.sets) and not self.lacking and (self.chosen or len(self.sets) >= len(self.skipped))

    def groups(self) -> list[list[int]]:
        """Positions in `sets` of the sets that share texts, directly or through others; every set is in one group."""
        leader = list(range(len(self.sets)))

        def find(position: int) -> int:
            while leader[position] != position:
                position = leader[position]
            return position

        owner: dict[int, int] = {}
        for position, one in enumerate(self.sets):
            for text in (*one.train.texts.tolist(), *one.test.texts.tolist()):
                other = find(owner.setdefault(text, position))
                leader[max(other, find(position))] = min(other, find(position))
        groups: dict[int, list[int]] = {}
        for position in range(len(self.sets)):
            groups.setdefault(find(position), []).append(position)
        return list(groups.values())

    @property
    def sha256(self) -> str:
        """Hex digest over the names and digests of all sets, and of their shifted parts."""
        shifted = {one.name: [one.notes[f"{SHIFTED}_digest"]] for one in self.sets if one.shifted is not None}
        content = json.dumps([[one.name, one.digest, *shifted.get(one.name, [])] for one in self.sets])
        return hashlib.sha256(content.encode()).hexdigest()

    def details(self) -> dict[str, Any]:
        """What was loaded, as plain JSON: sizes and base rates of each set, coverage, and why sets are missing."""
        sets = {one.name: {"source": one.source, "digest": one.digest} | one.notes for one in self.sets}
        return {
            "name": self.name,
            **({} if self.definition is None else {"definition": self.definition}),
            "coverage": self.coverage,
            "texts": self.tokens.n_units,
            "tokens": self.tokens.n_tokens,
            "sets": sets,
            "skipped": dict(self.skipped),
        }


def load_suite(
    *,
    probe_data: str | Path | None,
    demo: bool,
    corpus: Iterator[Document] | None,
    corpus_name: str,
    tokenizer: Any,
    vocab_size: int,
    options: LabelledOptions,
) -> Suite:
    """The labelled sets of a run.

    With `probe_data`, exactly the sets of that folder, `<set>/{train,test}.{parquet,jsonl,csv}` with the columns
    `text` and `label`; whatever is wrong with them raises `DataError`. Otherwise the built-in suite: the attributes
    of the demo world and base64 if `demo`, else the default list of sets, or those among all other entries that
    `options.names` chooses, by their names, by globs, or as a list. `corpus` are the documents of the corpus, from
    which some sets are made (None: only token ids are there), and `corpus_name` is what to call it. What the suite
    cannot provide is in `Suite.skipped`; a suite may have no set at all.

    `tokenizer` is a Hugging Face tokenizer, `vocab_size` the number of ids that the language model knows. Raises
    `UsageError` if `options.names` names no set that there is.
    """
    encoder = Encoder(tokenizer, vocab_size, options)
    if probe_data is not None:
        folder = Path(probe_data).expanduser()
        return _assemble(load_folder(folder, encoder, options), {}, folder.resolve().name, encoder, chosen=True)
    if demo:
        known: dict[str, Entry] = _of_kind(DemoSet | Base64Set)
        wanted = [known[name] for name in choose(options.names, known, "probe set")]
        attributes = [entry for entry in wanted if isinstance(entry, DemoSet)]
        encoded = [entry for entry in wanted if isinstance(entry, Base64Set)]
        drafts, skipped = load_demo(attributes, encoded, encoder, options)
        return _assemble(drafts, skipped, "demo", encoder, chosen=len(wanted) < len(known))
    known = _of_kind(HubSet | PackageSet | Base64Set | PhraseSet | UnavailableSet)
    lists = {name: one.sets for name, one in named_lists().items()}
    asked = resolved(options.names)
    chosen = [known[name] for name in choose(asked, known, "probe set", lists)]
    drafts, skipped, lacking = load_packages([e for e in chosen if isinstance(e, PackageSet)], encoder, options)
    of_hub, not_there = load_hub([entry for entry in chosen if isinstance(entry, HubSet)], encoder, options)
    made = [entry for entry in chosen if isinstance(entry, Base64Set | PhraseSet)]
    of_corpus, not_made = load_corpus_sets(made, corpus, corpus_name, encoder, options)
    skipped |= not_there | not_made
    skipped |= {entry.name: f"{entry.reason}." for entry in chosen if isinstance(entry, UnavailableSet)}
    found = _assemble(
        [*drafts, *of_hub, *of_corpus],
        skipped,
        asked if asked in lists else "suite",
        encoder,
        chosen=asked not in lists and len(chosen) < len(known),
    )
    definition = named_lists()[asked].sha256 if asked in lists else None
    return replace(found, definition=definition, lacking=lacking)


def _of_kind(kinds: Any) -> dict[str, Entry]:
    return {name: entry for name, entry in suite_entries().items() if isinstance(entry, kinds)}


class _Texts:
    """A growing `TokenSet` in which every text is there once."""

    def __init__(self, bos: int | None) -> None:
        self._start = np.array([] if bos is None else [bos], dtype=np.int32)
        self.begins = len(self._start)  # where the first token of a text stands in its sequence
        self._ids, self._offsets = array("i"), array("q", [0])
        self._positions: dict[str, int] = {}

    def position(self, encoded: Encoded) -> int:
        """Where the text is, after adding it if it is new."""
        place = self._positions.setdefault(encoded.unit, len(self._positions))
        if place == len(self._offsets) - 1:
            self._ids.frombytes(np.concatenate([self._start, encoded.ids]).tobytes())
            self._offsets.append(len(self._ids))
        return place

    def finish(self) -> TokenSet:
        ids, offsets = np.array(self._ids, dtype=np.int32), np.array(self._offsets, dtype=np.int64)
        return TokenSet(ids, offsets, np.arange(len(self._positions), dtype=np.int32), tuple(self._positions))


def _assemble(drafts: Iterable[Draft], skipped: dict[str, str], name: str, encoder: Encoder, *, chosen: bool) -> Suite:
    texts = _Texts(encoder.bos)
    sets = tuple(_set_of(draft, texts) for draft in sorted(drafts, key=lambda draft: draft.name))
    return Suite(texts.finish(), sets, dict(sorted(skipped.items())), name, chosen, encoder.bos)


def _set_of(draft: Draft, texts: _Texts) -> LabelledSet:
    parts = {part: _part(draft, part, texts) for part in draft.examples}
    content = [_content(draft, part) for part in PARTS]
    digest, of_tokens, notes = _digest(content), "", draft.notes
    if draft.places is not None:
        located = [
            sorted(
                (encoded.unit, place.tolist()) for (encoded, _), place in zip(draft.examples[part], places, strict=True)
            )
            for part in PARTS
            if (places := parts[part].places) is not None
        ]
        of_tokens = _digest([digest, located])
    if SHIFTED in parts:
        notes = notes | {f"{SHIFTED}_digest": _digest([_content(draft, SHIFTED)])}
    return LabelledSet(
        draft.name, parts["train"], parts["test"], digest, draft.source, notes, of_tokens, parts.get(SHIFTED)
    )


def _part(draft: Draft, part: PartName, texts: _Texts) -> Part:
    examples = draft.examples[part]
    positions = np.array([texts.position(encoded) for encoded, _ in examples], dtype=np.int64)
    labels = np.array([label for _, label in examples], dtype=np.bool_)
    places = None if draft.places is None else tuple(place + texts.begins for place in draft.places[part])
    return Part(positions, labels, places)


def _content(draft: Draft, part: PartName) -> list[tuple[str, bool]]:
    return sorted((encoded.unit, label) for encoded, label in draft.examples[part])


def _digest(content: Any) -> str:
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=8).hexdigest()
