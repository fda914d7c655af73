"""Where in a text a label is: from characters to tokens, and what is wrong with a column of spans."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sae_bench import demo
from sae_bench.data.labelled import LabelledOptions, LabelledSet, Suite, load_suite
from sae_bench.data.labelled.encode import Encoder
from sae_bench.errors import DataError
from tests.builders.labelled_texts import WORDS
from tests.builders.tiny_models import VOCAB, TinyTokenizer
from tests.builders.token_spans import Located, row, texts

Row = dict[str, Any]


def load(folder: Path, tokenizer: Any = None, **options: Any) -> Suite:
    made = LabelledOptions(**({"context": 32, "prepend_bos": True} | options))
    given: dict[str, Any] = {"probe_data": folder, "demo": False, "corpus": None, "corpus_name": "corpus"}
    return load_suite(**given, tokenizer=tokenizer or Located(), vocab_size=VOCAB, options=made)


def rows(n: int = 12, seed: int = 1) -> list[Row]:
    """Texts with the label on the tokens 10 to 19."""
    return [row(text, range(10, 20)) for text in texts(n, seed)]


def write(folder: Path, suffix: str = ".jsonl", **parts: list[Row]) -> Path:
    """A set whose parts are right unless given."""
    (folder / "one").mkdir(parents=True, exist_ok=True)
    for part, found in ({"train": rows(16, 1), "test": rows(12, 2)} | parts).items():
        file = folder / "one" / f"{part}{suffix}"
        names = list(dict.fromkeys(name for one in found for name in one))
        if suffix == ".jsonl":
            file.write_text("".join(json.dumps(one) + "\n" for one in found))
        elif suffix == ".csv":
            with file.open("w", newline="") as lines:
                cells = [[one[n] if n != "spans" else json.dumps(one[n]) for n in names] for one in found]
                csv.writer(lines).writerows([names, *cells])
        else:
            pq.write_table(pa.table({n: [one.get(n) for one in found] for n in names}), file)
    return folder


def changed(n: int, **values: Any) -> list[Row]:
    """The train rows of which the n-th has other values."""
    found = rows(16, 1)
    found[n] |= values
    return found


def labelled_ids(suite: Suite, one: LabelledSet) -> dict[str, set[int]]:
    """Of each part the tokens with the label, by their ids."""
    found = {}
    for name in ("train", "test"):
        part = getattr(one, name)
        found[name] = {
            int(suite.tokens[int(t)].ids[p]) for t, own in zip(part.texts, part.places, strict=True) for p in own
        }
    return found


# ---------------------------------------------------------------- what is loaded


def test_all_formats_give_the_same_tokens(tmp_path: Path) -> None:
    suites = [load(write(tmp_path / suffix[1:], suffix)) for suffix in (".jsonl", ".csv", ".parquet")]
    assert len({suite.sets[0].token_digest for suite in suites}) == 1
    for suite in suites:
        assert labelled_ids(suite, suite.sets[0])["train"] <= set(range(10, 20))
        assert len(labelled_ids(suite, suite.sets[0])["test"]) > 5


def test_every_labelled_word_is_found_where_the_model_reads_it(tmp_path: Path) -> None:
    """The places count BOS; without it they are one less, and no other token has the label."""
    for bos in (True, False):
        suite = load(write(tmp_path), prepend_bos=bos)
        for half in (suite.sets[0].train, suite.sets[0].test):
            assert half.places is not None
            for text, own in zip(half.texts, half.places, strict=True):
                ids = suite.tokens[int(text)].ids
                assert own.tolist() == [i for i, token in enumerate(ids) if 10 <= token < 20]


def test_a_set_without_spans_is_the_set_of_before(tmp_path: Path) -> None:
    plain = [{"text": one["text"], "label": one["label"]} for one in rows(16, 1)]
    with_them = load(write(tmp_path / "a", train=rows(16, 1), test=rows(12, 2)))
    without = load(
        write(tmp_path / "b", train=plain, test=[{k: one[k] for k in ("text", "label")} for one in rows(12, 2)])
    )
    assert without.sets[0].train.places is None
    assert (without.sets[0].token_digest, with_them.sets[0].token_digest) == ("", with_them.sets[0].token_digest)
    assert without.sets[0].digest == with_them.sets[0].digest  # other tasks keep their results
    assert without.sha256 == with_them.sha256


def test_other_spans_are_another_set_of_tokens(tmp_path: Path) -> None:
    """Two results with other labels of tokens are not compared, though texts and labels are the same."""
    fewer = rows(16, 1)
    fewer[0] |= {"spans": fewer[0]["spans"][:1]}
    a, b = load(write(tmp_path / "a")), load(write(tmp_path / "b", train=fewer))
    assert a.sets[0].digest == b.sets[0].digest
    assert a.sets[0].token_digest != b.sets[0].token_digest


@pytest.mark.parametrize("spans", [None, [], ""])
def test_a_negative_text_needs_no_spans(tmp_path: Path, spans: Any) -> None:
    lacks = next(i for i, one in enumerate(rows(16, 1)) if not one["label"])
    assert load(write(tmp_path, train=changed(lacks, spans=spans))).sets[0].train.places is not None


def test_spans_may_overlap_and_come_in_any_order(tmp_path: Path) -> None:
    first = rows(16, 1)[0]
    start, end = first["spans"][0]
    more = [*reversed(first["spans"]), [start, end], [start, end]]
    same = load(write(tmp_path / "b", train=changed(0, spans=more))).sets[0].token_digest
    assert load(write(tmp_path / "a")).sets[0].token_digest == same


def test_what_is_behind_the_cut_has_no_token(tmp_path: Path) -> None:
    suite = load(write(tmp_path), context=6)
    for half in (suite.sets[0].train, suite.sets[0].test):
        assert half.places is not None
        assert all(place < 6 for own in half.places for place in own)
        assert any(label and not len(own) for label, own in zip(half.labels, half.places, strict=True))


def test_a_tokenizer_without_offsets_says_so(tmp_path: Path) -> None:
    suite = load(write(tmp_path), tokenizer=TinyTokenizer())
    assert suite.sets[0].train.places is None
    assert "does not say which characters" in suite.sets[0].notes["spans_left_out"]


def test_copies_that_say_the_same_are_one(tmp_path: Path) -> None:
    twice = [*rows(16, 1), rows(16, 1)[0]]
    assert (
        load(write(tmp_path / "a", train=twice)).sets[0].token_digest
        == load(write(tmp_path / "b")).sets[0].token_digest
    )


# ---------------------------------------------------------------- what is wrong

TEXT = rows(16, 1)[0]["text"]
N = len(TEXT)
WRONG: dict[str, tuple[Any, str]] = {
    "a number": (3, "a list of [start, end) character pairs, got '3'"),
    "an object": ({"start": 0, "end": 2}, "a list of [start, end) character pairs"),
    "a word": ("here", "as JSON, got 'here'"),
    "JSON of no list": ("3", "a list of [start, end) character pairs, got '3'"),
    "one number": ([[3]], "two whole numbers, got '[3]'"),
    "three numbers": ([[0, 2, 4]], "two whole numbers"),
    "no pair": ([3, 4], "two whole numbers, got '3'"),
    "a fraction": ([[0, 1.5]], "two whole numbers"),
    "truth values": ([[False, True]], "two whole numbers"),
    "words": ([["0", "2"]], "two whole numbers"),
    "reversed": ([[2, 0]], "the span [2, 0) must end behind its start"),
    "empty": ([[2, 2]], "the span [2, 2) must end behind its start"),
    "below 0": ([[-1, 2]], "must lie in the text"),
    "beyond the text": ([[0, N + 1]], f"the span [0, {N + 1}) must lie in the text, which has {N} characters"),
    "white space alone": ([[TEXT.index(" "), TEXT.index(" ") + 1]], "nothing but white space"),
    "nothing in a positive text": ([], "has the label 1 and no span that says where"),
    "null in a positive text": (None, "has the label 1 and no span that says where"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, what: str) -> None:
    spans, said = WRONG[what]
    with pytest.raises(DataError) as raised:
        load(write(tmp_path, train=changed(0, spans=spans)))
    assert said in str(raised.value)
    assert "one" in str(raised.value)
    assert "train.jsonl line 1" in str(raised.value)
    assert str(raised.value).count("\n") == 0


@pytest.mark.parametrize("what", ["a number", "a fraction", "one number", "reversed", "beyond the text"])
def test_a_cell_of_a_table_is_held_to_the_same(tmp_path: Path, what: str) -> None:
    spans, said = WRONG[what]
    with pytest.raises(DataError) as raised:
        load(write(tmp_path, ".csv", train=changed(0, spans=spans)))
    assert said.split(",")[0] in str(raised.value)
    assert "train.csv row 0" in str(raised.value)


def test_a_negative_text_with_spans_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1 has the label 0 and spans where it is; remove one"):
        load(write(tmp_path, train=changed(0, label=0)))


def test_copies_that_say_it_differently_are_refused(tmp_path: Path) -> None:
    twice = [*rows(16, 1), rows(16, 1)[0] | {"spans": rows(16, 1)[0]["spans"][:1]}]
    with pytest.raises(DataError, match=r"line 1 and .* line 17 hold the same text with different spans"):
        load(write(tmp_path, train=twice))


def test_a_part_without_spans_beside_one_with_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test\.jsonl line 1 has the label 1 and no span"):
        load(write(tmp_path, test=[{k: one[k] for k in ("text", "label")} for one in rows(12, 2)]))


def test_two_columns_of_spans_are_refused(tmp_path: Path) -> None:
    write(tmp_path, ".csv")
    file = tmp_path / "one" / "train.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([f"{lines[0]},spans", *(f"{line},[]" for line in lines[1:])]))
    with pytest.raises(DataError, match="several columns 'spans'"):
        load(tmp_path)


# ---------------------------------------------------------------- characters and tokens


def places(tokenizer: Any, text: str, *spans: tuple[int, int], context: int = 64, bos: bool = False) -> list[int]:
    encoder = Encoder(tokenizer, 10**6, LabelledOptions(context, bos))
    return [int(place) for place in encoder.places(text, spans)]


def bytes_tokenizer() -> Any:
    """Every byte is a token."""
    alphabet = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(alphabet, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made)


def test_every_byte_of_a_character_has_its_label() -> None:
    """The offsets of a byte are those of its character: all of them share it with a span."""
    text = "a é 🙂 b"
    assert places(bytes_tokenizer(), text, (2, 3)) == [2, 3]
    assert places(bytes_tokenizer(), text, (4, 5)) == [5, 6, 7, 8]
    assert places(bytes_tokenizer(), text, (6, 7)) == [10]


def test_a_cut_within_a_character_leaves_the_bytes_before_it() -> None:
    assert places(bytes_tokenizer(), "a 🙂 b", (2, 3), context=4) == [2, 3]


def test_white_space_shares_no_label() -> None:
    """The space before a word belongs to its token, and a span that ends with a space is not one token longer."""
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    text = "The cat is  red."
    words = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert [words[i] for i in places(tokenizer, text, (4, 7))] == ["Ġcat"]
    assert [words[i] for i in places(tokenizer, text, (3, 8))] == ["Ġcat"]
    assert [words[i] for i in places(tokenizer, text, (5, 6))] == ["Ġcat"]  # a part of a token is enough


def prefixing(kind: str) -> Any:
    """A tokenizer that writes a space before a text that has none, and has no token that joins it with a word."""
    space = "Ġ" if kind == "bytes" else "▁"
    alphabet = sorted({*pre_tokenizers.ByteLevel.alphabet(), "▁", "京", "a", "b"})
    made = Tokenizer(models.BPE({char: i for i, char in enumerate([space, *(c for c in alphabet if c != space)])}, []))
    if kind == "bytes":
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, trim_offsets=False)
        made.post_processor = processors.ByteLevel(trim_offsets=False, add_prefix_space=True)
    elif kind == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, additional_special_tokens=["<x>"])


@pytest.mark.parametrize("kind", ["bytes", "metaspace", "normaliser"])
def test_a_space_that_the_tokenizer_puts_before_a_text_has_no_label(kind: str) -> None:
    """Its offsets are those of the first character, which it does not hold."""
    tokenizer = prefixing(kind)
    words = tokenizer.convert_ids_to_tokens(tokenizer("ab a")["input_ids"])
    assert words == [words[0], "a", "b", words[0], "a"]
    assert words[0] in ("Ġ", "▁")
    assert places(tokenizer, "ab a", (0, 2)) == [1, 2]
    assert places(tokenizer, "ab a", (0, 4)) == [1, 2, 4]


@pytest.mark.parametrize("kind", ["metaspace", "normaliser"])
def test_nor_has_one_behind_a_special_token_within_the_text(kind: str) -> None:
    assert places(prefixing(kind), "ab<x>a", (5, 6)) == [5]


def test_a_character_that_looks_like_such_a_space_has_its_label() -> None:
    assert 0 in places(prefixing("metaspace"), "▁a", (0, 1))


@pytest.mark.parametrize(
    ("normaliser", "text", "span"),
    [
        (normalizers.Lowercase(), "x İb", (2, 3)),  # one character becomes two
        (normalizers.NFKC(), "x ⅷb", (2, 3)),  # and here four
        (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "x éb", (2, 3)),
        (normalizers.Replace("  ", " "), "x  bc", (3, 4)),  # two become one
        (normalizers.Strip(), "  b c", (2, 3)),
    ],
)
def test_a_tokenizer_that_changes_the_text_finds_spans_of_the_text_as_it_stands(
    normaliser: Any, text: str, span: tuple[int, int]
) -> None:
    tokenizer = bytes_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normaliser
    found = places(tokenizer, text, span)
    offsets = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert found
    assert found == [i for i, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]
    assert places(tokenizer, text, (len(text) - 1, len(text)))[-1] == len(offsets) - 1


def test_a_byte_order_of_bos_in_the_text_is_no_token() -> None:
    """What the tokenizer makes of a BOS in the text is left out of the ids, and of the places too."""
    tokenizer = Located()
    assert places(tokenizer, "0 7 8", (2, 3), bos=True) == [0]
    assert places(tokenizer, "0 7 8", (2, 3), bos=False) == [1]


def test_the_demo_agrees_with_its_own_labels_of_tokens() -> None:
    """A second way from spans to tokens, character by character."""
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    for document in demo.documents(24, seed=5):
        offsets = tokenizer(document.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        for attribute in demo.ATTRIBUTES:
            spans = [(s.start, s.end) for s in document.spans if s.attribute == attribute]
            own = np.flatnonzero(demo.token_labels(document, offsets, attribute)).tolist()
            assert places(tokenizer, document.text, *spans, context=512) == own


def test_the_sets_of_the_demo_have_labels_of_tokens() -> None:
    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL_PATH)
    options = LabelledOptions(128, True, names="contains_number,base64,language_fr", train_limit=120, test_limit=80)
    given: dict[str, Any] = {"probe_data": None, "demo": True, "corpus": None, "corpus_name": "demo"}
    suite = load_suite(**given, tokenizer=tokenizer, vocab_size=10**6, options=options)
    digests = {one.name: one.token_digest for one in suite.sets}
    assert {name for name, digest in digests.items() if digest} == {"contains_number", "language_fr"}
    numbers = next(one for one in suite.sets if one.name == "contains_number")
    shown = {tokenizer.decode([i]).strip() for i in labelled_ids(suite, numbers)["test"]}
    assert shown
    assert all(text.isdigit() for text in shown)


def test_words_without_offsets_still_load() -> None:
    """Tokenizers of tests and of users that are a function alone."""
    assert not Encoder(WORDS, 10**6, LabelledOptions(16, True)).locates
