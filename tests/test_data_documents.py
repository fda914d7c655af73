"""Documents and token streams: every source gives the same units, limits give prefixes, nothing is on both sides."""

import gzip
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_bench.data import Corpus, DataOptions, TokenSet, load_corpus
from sae_bench.errors import DataError

BOS, EOS, WORDS = 0, 1, 60
VOCABULARY = 2 + WORDS
QUICK = settings(max_examples=40, deadline=None)


def make_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    vocabulary = {"<s>": BOS, "</s>": EOS} | {f"w{number}": 2 + number for number in range(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special)


TOKENIZER = make_tokenizer(bos_token="<s>", eos_token="</s>")
DOCUMENTS = st.lists(st.lists(st.integers(2, VOCABULARY - 1), max_size=25), min_size=1, max_size=25)


def text_of(ids: list[int]) -> str:
    return " ".join(f"w{token - 2}" for token in ids)


def sentences(number: int, seed: int = 0, length: int = 12) -> list[str]:
    draw = random.Random(seed)
    return [text_of([draw.randrange(2, VOCABULARY) for _ in range(length)]) for _ in range(number)]


def load(source: Any, tokenizer: Any = TOKENIZER, vocab_size: int = VOCABULARY, **options: Any) -> Corpus:
    return load_corpus(source, tokenizer=tokenizer, vocab_size=vocab_size, options=DataOptions(**options))


def load_all(source: Any, **options: Any) -> TokenSet:
    return load(source, mean_from_evaluation=True, **options).evaluation


def contents(tokens: TokenSet) -> list[tuple[int, ...]]:
    """The ids of each unit, without the BOS of its sequences."""
    units: list[tuple[int, ...]] = [()] * tokens.n_units
    for sequence in tokens:
        assert sequence.ids[0] == BOS
        units[sequence.unit] += tuple(sequence.ids[1:].tolist())
    return units


# ---------------------------------------------------------------- laws


@QUICK
@given(DOCUMENTS, st.integers(3, 9))
def test_a_long_document_loses_no_token_and_stays_one_unit(documents: list[list[int]], context: int) -> None:
    kept = [tuple(ids) for ids in documents if len(ids) >= 2]
    if not kept:
        with pytest.raises(DataError, match="less than 2 tokens"):
            load_all([text_of(ids) for ids in documents], context=context)
        return
    corpus = load([text_of(ids) for ids in documents], context=context, mean_from_evaluation=True)
    assert contents(corpus.evaluation) == kept
    assert max(len(sequence.ids) for sequence in corpus.evaluation) == corpus.evaluation.longest <= context
    assert corpus.details["documents_skipped_as_too_short"] == len(documents) - len(kept)
    assert corpus.details["evaluation_units_of_several_sequences"] == sum(len(ids) > context - 1 for ids in kept)


@QUICK
@given(DOCUMENTS, st.integers(3, 9), st.booleans())
def test_packed_sequences_put_together_are_the_stream(
    documents: list[list[int]], context: int, prepend_bos: bool
) -> None:
    stream: list[int] = []
    for ids in filter(None, documents):
        stream += [EOS, *ids] if stream else ids
    room = context - prepend_bos
    texts = [text_of(ids) for ids in documents]
    options: dict[str, Any] = {
        "context": context,
        "packed": True,
        "prepend_bos": prepend_bos,
        "mean_from_evaluation": True,
    }
    if len(stream) < room:
        with pytest.raises(DataError, match=f"{len(stream)} tokens and one sequence needs {room}|no document|2 tokens"):
            load(texts, **options)
        return
    corpus = load(texts, **options)
    rows = [sequence.ids.tolist() for sequence in corpus.evaluation]
    assert {len(row) for row in rows} == {context}
    joined = [token for row in rows for token in row[prepend_bos:]]
    assert joined == stream[: len(joined)]
    assert corpus.details["tokens_left_over"] == len(stream) - len(joined) < room
    assert corpus.evaluation.n_units == len(corpus.evaluation)


@QUICK
@given(DOCUMENTS, st.integers(1, 12), st.integers(1, 6), st.integers(0, 3))
def test_limits_give_a_prefix_of_each_side(documents: list[list[int]], limit: int, spare: int, seed: int) -> None:
    texts = [text_of(ids) for ids in [*documents, *([[2, 3, token] for token in range(2, 40)])]]
    options: dict[str, Any] = {"seed": seed, "context": 8, "calibration_share": 0.4}
    whole = load(texts, calibration_limit=None, **options)
    part = load(texts, limit=limit, calibration_limit=spare, **options)
    for side, most in (("evaluation", limit), ("calibration", spare)):
        big, small = getattr(whole, side), getattr(part, side)
        assert small.unit_ids == big.unit_ids[:most]
        assert contents(small) == contents(big)[:most]


@QUICK
@given(st.lists(st.integers(0, 4), min_size=30, max_size=120), st.integers(0, 5))
def test_duplicates_never_end_up_on_both_sides(which: list[int], seed: int) -> None:
    texts = [*sentences(30), *(sentences(5, seed=9)[number] for number in which)]
    corpus = load(texts, calibration_limit=None, calibration_share=0.5, seed=seed)
    evaluation, calibration = contents(corpus.evaluation), contents(corpus.calibration)
    assert not set(evaluation) & set(calibration)
    assert len(evaluation) + len(calibration) == len(texts)
    assert len(set(corpus.evaluation.unit_ids) | set(corpus.calibration.unit_ids)) == len(texts)
    duplicates = corpus.details["evaluation_duplicates"] + corpus.details["calibration_duplicates"]
    assert duplicates == len(texts) - len(set(texts))


@QUICK
@given(st.sets(st.integers(0, 79), min_size=40), st.randoms(use_true_random=False))
def test_the_side_of_a_document_does_not_depend_on_the_others(chosen: set[int], shuffle: random.Random) -> None:
    texts = sentences(80)
    some = [texts[number] for number in chosen]
    shuffle.shuffle(some)
    whole = load(texts, calibration_limit=None, calibration_share=0.5)
    part = load(some, calibration_limit=None, calibration_share=0.5)
    assert set(part.evaluation.unit_ids) <= set(whole.evaluation.unit_ids)
    assert set(part.calibration.unit_ids) <= set(whole.calibration.unit_ids)


def test_the_share_is_met_and_the_seed_changes_who_is_set_aside() -> None:
    texts = sentences(3000)
    first, second = (load(texts, calibration_limit=None, seed=seed) for seed in (0, 1))
    assert first.calibration.n_units / 3000 == pytest.approx(0.2, abs=0.03)
    common = set(first.calibration.unit_ids) & set(second.calibration.unit_ids)
    assert len(common) / 3000 == pytest.approx(0.04, abs=0.015)


# ---------------------------------------------------------------- token sets


def test_a_token_set_is_a_sequence_of_sequences() -> None:
    tokens = load_all([text_of([2, 3, 4, 5, 6]), text_of([7, 8])], context=4)
    assert [(s.unit, s.ids.tolist()) for s in tokens] == [(0, [0, 2, 3, 4]), (0, [0, 5, 6]), (1, [0, 7, 8])]
    assert (len(tokens), tokens.n_units, tokens.n_tokens, tokens.longest) == (3, 2, 10, 4)
    assert tokens[-1].ids.tolist() == [0, 7, 8]
    assert tokens[0].ids.dtype == np.int32
    with pytest.raises(IndexError):
        tokens[3]


def test_the_digest_sees_ids_and_boundaries() -> None:
    texts = [text_of([2, 3, 4, 5]), text_of([6, 7])]
    assert load_all(texts).sha256 == load_all(tuple(texts)).sha256
    assert load_all(texts).sha256 != load_all(texts[::-1]).sha256
    six = text_of([2, 3, 4, 5, 6, 7])
    whole, sooner = (load_all([six], prepend_bos=False, context=context) for context in (3, 4))
    halves = load_all([text_of([2, 3, 4]), text_of([5, 6, 7])], prepend_bos=False, context=3)
    assert whole.ids.tolist() == sooner.ids.tolist() == halves.ids.tolist()
    assert len({whole.sha256, sooner.sha256, halves.sha256}) == 3
    assert len(load_all(texts).sha256) == 64


def test_unit_ids_name_the_content_whatever_the_context() -> None:
    texts = [*sentences(5), sentences(5)[0]]
    short, long = load_all(texts, context=4), load_all(texts, context=64, prepend_bos=False)
    assert short.unit_ids == long.unit_ids
    assert short.unit_ids[5] == short.unit_ids[0] + "#2"
    assert all(len(name) == 16 for name in short.unit_ids[:5])


def test_a_text_that_begins_with_bos_does_not_get_two() -> None:
    tokens = load_all(["<s> w1 w2", "<s> <s> w3 w4", "w5 <s> w6"])
    assert [s.ids.tolist() for s in tokens] == [[0, 3, 4], [0, 5, 6], [0, 7, 0, 8]]
    assert load_all(["<s> w1 w2"], prepend_bos=False)[0].ids.tolist() == [0, 3, 4]
    packed = load_all(["<s> w1 w2 </s>", "w3 w4 w5"], packed=True, context=7)
    assert packed[0].ids.tolist() == [0, 3, 4, EOS, 5, 6, 7]


def test_mean_from_evaluation_sets_nothing_aside() -> None:
    corpus = load(sentences(7), mean_from_evaluation=True)
    assert corpus.calibration is corpus.evaluation
    assert corpus.evaluation.n_units == 7


def test_details_are_plain_and_say_when_there_was_less_than_asked() -> None:
    corpus = load([*sentences(50), "", "w1"], limit=1000, calibration_limit=2)
    details = json.loads(json.dumps(corpus.details))
    assert details["evaluation_fewer_units_than_asked"] is True
    assert details["calibration_fewer_units_than_asked"] is False
    assert details["documents_read"] == 52
    assert details["documents_skipped_as_too_short"] == 2
    assert details["read_to_the_end"] is True


# ---------------------------------------------------------------- sources


def write_jsonl(path: Path, texts: list[str]) -> Path:
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": text, "source": "x"}) + "\n" for text in texts)
    return path


def write_parquet(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"number": list(range(len(texts))), "text": texts}), path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def save_dataset(path: Path, texts: list[str]) -> Path:
    datasets.Dataset.from_dict({"text": texts, "n": list(range(len(texts)))}).save_to_disk(str(path))
    return path


def write_folder(path: Path, texts: list[str]) -> Path:
    path.mkdir()
    write_parquet(path / "train-00000-of-00002.parquet", texts[:20])
    write_jsonl(path / "train-00001-of-00002.jsonl", texts[20:])
    write_text(path / "README.md", "about")
    return path


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", lambda path, texts: write_text(path, "\n\n".join(texts))),
        ("windows.txt", lambda path, texts: write_text(path, "\r\n \r\n\r\n".join(texts) + "\r\n")),
        ("marked.txt", lambda path, texts: write_text(path, "\n<|endoftext|>\n".join(texts) + "<|endoftext|>\n")),
        ("a.jsonl", write_jsonl),
        ("a.jsonl.gz", write_jsonl),
        ("a.parquet", write_parquet),
        ("disk", save_dataset),
        ("folder", write_folder),
    ],
)
def test_every_source_gives_the_same_units(tmp_path: Path, name: str, write: Callable[[Path, list[str]], Path]) -> None:
    texts = sentences(40)
    path = write(tmp_path / name, texts)
    expected, found = load(texts), load(path)
    assert found.evaluation.sha256 == expected.evaluation.sha256
    assert found.calibration.unit_ids == expected.calibration.unit_ids
    assert found.source == str(path)
    assert load(str(path)).evaluation.sha256 == expected.evaluation.sha256


def test_a_text_file_says_how_its_documents_were_told_apart(tmp_path: Path) -> None:
    blank = write_text(tmp_path / "a.txt", "w1 w2\nw3\n\n\nw4 w5\n")
    marked = write_text(tmp_path / "b.txt", "\ufeffw1 w2\n\nw3<|endoftext|>w4 w5")
    for path, separator in ((blank, "blank lines"), (marked, "<|endoftext|>")):
        corpus = load(path, mean_from_evaluation=True)
        assert contents(corpus.evaluation) == [(3, 4, 5), (6, 7)]
        assert separator in corpus.details["documents_separated_by"]


def test_a_data_set_with_splits_must_be_told_which(tmp_path: Path) -> None:
    parts = {
        name: datasets.Dataset.from_dict({"text": sentences(9, seed=s)}) for s, name in enumerate(("train", "test"))
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "two"))
    assert contents(load_all(tmp_path / "two", split="test")) == contents(load_all(sentences(9, seed=1)))
    with pytest.raises(DataError, match="'train', 'test': choose its split"):
        load(tmp_path / "two")
    with pytest.raises(DataError, match="no split 'dev'"):
        load(tmp_path / "two", split="dev")
    datasets.DatasetDict(train=parts["train"]).save_to_disk(str(tmp_path / "one"))
    assert load(tmp_path / "one", mean_from_evaluation=True).details["split"] == "train"


def test_a_split_chooses_files_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    write_jsonl(tmp_path / "test" / "part.jsonl", sentences(4, seed=1))
    write_jsonl(tmp_path / "test-00001.jsonl", sentences(4, seed=2))
    write_jsonl(tmp_path / "testing.jsonl", sentences(4, seed=3))
    assert load_all(tmp_path, split="test").n_units == 8
    assert load_all(tmp_path).n_units == 12
    with pytest.raises(DataError, match="of the split 'train'"):
        load(tmp_path, split="train")


def test_reading_stops_when_both_sides_are_full(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", sentences(200))
    with path.open("a") as file:
        file.write("this line is not JSON\n")
    corpus = load(path, limit=20, calibration_limit=5)
    assert (corpus.evaluation.n_units, corpus.calibration.n_units) == (20, 5)
    assert corpus.details["documents_read"] < 100
    assert corpus.details["read_to_the_end"] is False
    with pytest.raises(DataError, match=r"a\.jsonl line 201 is not JSON"):
        load(path)


def test_the_demo_is_a_source() -> None:
    pytest.importorskip("sae_bench.demo")
    small, large = load("demo", limit=5, calibration_limit=3), load("demo", limit=50)
    assert small.source == "demo"
    assert small.evaluation.unit_ids == large.evaluation.unit_ids[:5]
    assert small.calibration.unit_ids == large.calibration.unit_ids[:3]


def test_a_hub_data_set_is_streamed_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    read, asked = [], []

    def rows() -> Iterator[dict[str, str]]:
        for text in sentences(500):
            read.append(text)
            yield {"text": text}

    def load_dataset(*arguments: Any, **options: Any) -> Any:
        asked.append((arguments, options))
        return datasets.IterableDatasetDict(train=datasets.IterableDataset.from_generator(rows))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    corpus = load("org/name:small", limit=10, calibration_limit=2)
    assert asked == [(("org/name", "small"), {"streaming": True})]
    assert corpus.evaluation.sha256 == load(sentences(500), limit=10).evaluation.sha256
    assert len(read) < 60
    with pytest.raises(DataError, match="no field 'body'"):
        load("org/name", text_field="body")


def test_a_hub_id_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"could not be loaded from the hub .* give a local file, or download"
    ) as caught:
        load("nobody/no-such-data")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- ids that come tokenised


ROWS = np.random.default_rng(0).integers(0, VOCABULARY, size=(300, 6))


def save_npy(path: Path) -> Path:
    np.save(path, ROWS.astype(">u2"))
    return path


def save_tokens(path: Path) -> Path:
    save_file({"tokens": ROWS.astype(np.int32), "other": np.zeros(3, np.float32)}, path)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda folder: ROWS,
        lambda folder: torch.tensor(ROWS),
        lambda folder: ROWS.tolist(),
        lambda folder: save_npy(folder / "a.npy"),
        lambda folder: save_tokens(folder / "a.safetensors"),
    ],
    ids=["array", "tensor", "list", "npy", "safetensors"],
)
def test_rows_of_ids_are_used_as_they_are(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    source = make(tmp_path)
    tokens = load(source, tokenizer=None, context=4, mean_from_evaluation=True).evaluation
    assert np.array_equal(np.stack([s.ids for s in tokens]), ROWS)
    assert tokens.n_units == 300
    corpus = load(source, tokenizer=None, limit=10, calibration_limit=None)
    assert corpus.evaluation.n_units == 10
    assert corpus.calibration.n_units > 30


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros((2, 4)), "must be integers: .* float64"),
        (np.zeros((2, 4), dtype=bool), "must be integers: .* bool"),
        (np.array([[1, None]], dtype=object), "must be integers: .* object"),
        (np.zeros(4, dtype=int), r"shape \[sequences, length\].* \[4\]"),
        (np.zeros((0, 4), dtype=int), "at least one sequence"),
        (np.zeros((4, 1), dtype=int), "at least one sequence of two"),
        (torch.zeros(2, 4), "integers, got a tensor of torch.float32"),
        ([[1, 2], [3]], "equally long rows"),
        (np.array([[1, 2], [3, -1]]), "vocabulary size 62: .* has -1 in row 1, position 1"),
        (np.array([[1, 2], [62, 1]]), "vocabulary size 62: .* has 62 in row 1, position 0"),
        (np.array([[1, 2**64 - 1]], dtype=np.uint64), "has 18446744073709551615 in row 0, position 1"),
    ],
)
def test_unusable_ids_are_refused(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(rows, tokenizer=None, mean_from_evaluation=True)


def test_unusable_id_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    (tmp_path / "raw.npy").write_bytes(b"\x80\x04K\x01.")
    np.save(tmp_path / "cut.npy", ROWS)
    with (tmp_path / "cut.npy").open("r+b") as file:
        file.truncate(1000)
    save_file({"a": ROWS, "b": ROWS}, tmp_path / "two.safetensors")
    save_file({"tokens": ROWS.astype(np.float32)}, tmp_path / "floats.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"\xff" * 64)
    for name, message in {
        "pickled.npy": "pickled objects, which are never loaded",
        "raw.npy": "pickled objects, which are never loaded",
        "cut.npy": r"cannot be read \(",
        "two.safetensors": "one named tokens or input_ids; found 'a', 'b'",
        "floats.safetensors": "integer token ids, got F32",
        "junk.safetensors": r"cannot be read \(",
    }.items():
        with pytest.raises(DataError, match=message):
            load(tmp_path / name, tokenizer=None)


# ---------------------------------------------------------------- what cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xls", b"text\n", "suffix that is not known here"),
        ("a.txt", b"", r"a\.txt is empty"),
        ("b.txt", b" \n\n \n", r"b\.txt holds no document"),
        ("c.txt", b"w1 w2\n\nw1 \xff", r"c\.txt is not UTF-8: byte 0xff at offset 10"),
        ("d.jsonl", b'{"text": "w1 w2"}\n{"text": "\xc3("}\n', "not UTF-8: byte 0xc3 at offset 28"),
        ("e.jsonl", b'{"text": "w1 w2"}\n\n{"text": \n', r"e\.jsonl line 3 is not JSON"),
        ("f.jsonl", b'{"body": "w1", "title": "w2"}\n', "no field 'text' .found: 'body', 'title'"),
        ("g.jsonl", b'{"text": "w1 w2"}\n{"text": null}\n', "line 2, field 'text', must be a string, got NoneType"),
        ("h.jsonl", b"[1]\n", "line 1 must be an object"),
        ("i.jsonl.gz", b"not gzip", r"i\.jsonl\.gz cannot be read"),
        ("j.jsonl.gz", gzip.compress(b'{"text": "w1 w2"}\n' * 99, mtime=0)[:-12], r"j\.jsonl\.gz cannot be read"),
        ("k.parquet", b"not parquet at all", r"k\.parquet cannot be read"),
        ("l.jsonl", b'{"text": "w1 \\ud800"}\n', "Document 1 of .* cannot be tokenised"),
        ("m.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_unusable_files_are_refused_with_the_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_unusable_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["w1"], "text": [3]}), tmp_path / "a.parquet")
    save_dataset(tmp_path / "disk", sentences(4))
    with pytest.raises(DataError, match="row 0, field 'text', must be a string, got int"):
        load(tmp_path / "a.parquet")
    for path, names in ((tmp_path / "a.parquet", "'body', 'text'"), (tmp_path / "disk", "'text', 'n'")):
        with pytest.raises(DataError, match=f"no field 'story' .found: {names}"):
            load(path, text_field="story")
    with pytest.raises(DataError, match="row 0, field 'n', must be a string, got int"):
        load(tmp_path / "disk", text_field="n")


@pytest.mark.parametrize(
    "source", ["no/such/file.txt", "missing", Path("org/name"), "data/text.csv", "x" * 5000, "a\0b"]
)
def test_a_path_that_is_not_there_is_refused(source: str | Path) -> None:
    with pytest.raises(DataError, match=r"There is no file or folder|cannot be read") as caught:
        load(source)
    assert len(str(caught.value)) < 400


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.parquet, \.jsonl or \.jsonl\.gz file"):
        load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", sentences(3))
    path.chmod(0)
    with pytest.raises(DataError, match="permission denied"):
        load(path)


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(DataError, match=r"1 document, so there is no calibration text .*at least 2 .*--mean-from eval"):
        load(["w1 w2"], calibration_share=0.0)
    with pytest.raises(DataError, match="1 document, so there is no evaluation text"):
        load(["w1 w2"], calibration_share=0.9999999)
    with pytest.raises(DataError, match="list of texts is empty"):
        load([])
    with pytest.raises(DataError, match="one sequence needs 99: give at least 2 documents of 99 tokens or more"):
        load(["w1 w2", "w3 w4"], packed=True, context=100)


def test_text_needs_a_tokenizer_that_fits() -> None:
    texts = sentences(30)
    with pytest.raises(DataError, match="needs a tokenizer"):
        load(texts, tokenizer=None)
    with pytest.raises(DataError, match="no BOS token"):
        load(texts, tokenizer=make_tokenizer(eos_token="</s>"))
    with pytest.raises(DataError, match="neither"):
        load(texts, tokenizer=make_tokenizer(), prepend_bos=False, packed=True)
    with pytest.raises(DataError, match=r"vocabulary size 9: the tokenizer gives 61 in document 1, position 2"):
        load(["w1 w2 w59"], vocab_size=9)
    with pytest.raises(DataError, match="text 1 of the given list must be a string, got int"):
        load(["w1 w2", 3], mean_from_evaluation=True)
    with pytest.raises(DataError, match="got generator"):
        load(text for text in texts)
    bos_only = make_tokenizer(bos_token="<s>")
    packed = load(["w1 w2", "w3 w4"], tokenizer=bos_only, packed=True, context=6, mean_from_evaluation=True)
    assert packed.evaluation[0].ids.tolist() == [BOS, 3, 4, BOS, 5, 6]


@pytest.mark.parametrize(
    "options",
    [{"context": 2}, {"calibration_share": 1.0}, {"calibration_share": -0.1}, {"limit": 0}, {"calibration_limit": 0}],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=next(iter(options))):
        DataOptions(**options)


# ---------------------------------------------------------------- the reference corpus


def test_packing_reproduces_the_reference_tokens(shared: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(shared / "lm" / "model"))
    corpus = load(
        shared / "lm" / "corpus" / "corpus_val.jsonl.gz",
        tokenizer=tokenizer,
        vocab_size=4096,
        context=256,
        packed=True,
        mean_from_evaluation=True,
    )
    packed = {sequence.ids.tobytes() for sequence in corpus.evaluation}
    reference = load(shared / "lm" / "reference_tokens.npy", tokenizer=None, vocab_size=4096, mean_from_evaluation=True)
    assert len(reference.evaluation) == 64
    assert {sequence.ids.tobytes() for sequence in reference.evaluation} <= packed


@pytest.mark.slow
def test_real_documents_are_cut_without_loss_or_overlap_of_sides(shared: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(shared / "lm" / "model"))
    path = shared / "lm" / "corpus" / "corpus_val.jsonl.gz"
    corpus = load(path, tokenizer=tokenizer, vocab_size=4096, context=64, calibration_limit=None)
    assert corpus.evaluation.n_units + corpus.calibration.n_units == 182
    assert not set(contents(corpus.evaluation)) & set(contents(corpus.calibration))
    with gzip.open(path, "rt", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    expected = {tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) for text in texts}
    assert set(contents(corpus.evaluation)) | set(contents(corpus.calibration)) == expected
