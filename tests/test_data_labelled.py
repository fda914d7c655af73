"""Probe sets in a folder: what is wrong is one sentence, and what is chosen depends on the texts alone."""

import csv
import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from sae_bench.data import DataOptions, load_corpus
from sae_bench.data.labelled import LabelledOptions, Suite, load_suite
from sae_bench.data.labelled.build import quotas
from sae_bench.errors import DataError, UsageError
from tests.builders.labelled_texts import VOCABULARY, WORDS, Words, texts_of

Rows = list[tuple[str, Any]]


def load(folder: Path, tokenizer: Any = WORDS, vocab_size: int = VOCABULARY, **options: Any) -> Suite:
    return load_suite(
        probe_data=folder,
        demo=False,
        corpus=None,
        corpus_name="corpus",
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        options=LabelledOptions(**({"context": 16, "prepend_bos": True} | options)),
    )


def write(file: Path, rows: Iterable[tuple[Any, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    listed = list(rows)
    if file.suffix == ".parquet":
        columns = {"number": range(len(listed)), "label": [y for _, y in listed], "text": [x for x, _ in listed]}
        pq.write_table(pa.table({name: pa.array(list(values)) for name, values in columns.items()}), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps({"label": y, "text": x}) + "\n" for x, y in listed))
    else:
        with file.open("w", newline="", encoding="utf-8-sig") as opened:
            csv.writer(opened).writerows([("label", "text"), *((y, x) for x, y in listed)])
    return file


def rows(number: int, start: int = 0, share: float = 0.5) -> Rows:
    """Different texts, of which the first `share` are positive."""
    return [(f"text number {start + i} of, many", int(i < share * number)) for i in range(number)]


def make(folder: Path, name: str = "one", suffix: str = ".parquet", **parts: Rows) -> Path:
    """A set whose parts are valid unless given."""
    for part, examples in ({"train": rows(20), "test": rows(8, start=500)} | parts).items():
        write(folder / name / f"{part}{suffix}", examples)
    return folder


# ---------------------------------------------------------------- what is loaded


def test_all_formats_give_the_same_set(tmp_path: Path) -> None:
    suites = [load(make(tmp_path / suffix[1:], suffix=suffix)) for suffix in (".parquet", ".jsonl", ".csv")]
    assert len({suite.sha256 for suite in suites}) == 1
    assert texts_of(suites[0], suites[0].sets[0]) == {(text, bool(label)) for text, label in rows(20)}
    assert suites[2].name == "csv"
    one = suites[0].sets[0]
    assert one.source == str(tmp_path / "parquet" / "one")
    assert one.notes["train"] == {
        "read": 20,
        "used": 20,
        "base_rate": 0.5,
        "truncated": 0,
        "bad_texts_left_out": 0,
        "duplicates_left_out": 0,
        "texts_with_both_labels_left_out": 0,
        "texts_of_the_test_part_left_out": 0,
    }
    assert one.notes["files"] == ["train.parquet", "test.parquet"]


@pytest.mark.parametrize("labels", [(False, True), ("0", "1"), (0.0, 1.0)])
def test_labels_may_be_bools_strings_or_floats(tmp_path: Path, labels: tuple[Any, Any]) -> None:
    parts = {"train": rows(20), "test": rows(8, start=500)}
    same = {part: [(text, labels[label]) for text, label in examples] for part, examples in parts.items()}
    assert load(make(tmp_path / "a", **same)).sha256 == load(make(tmp_path / "b")).sha256


def test_the_digest_sees_texts_labels_and_parts_but_not_the_order(tmp_path: Path) -> None:
    train, test = rows(20), rows(8, start=500)
    base = load(make(tmp_path / "base")).sets[0]
    again = load(make(tmp_path / "again", name="other", train=train[::-1], test=test[::-1]), seed=5).sets[0]
    assert base.digest == again.digest
    assert len(base.digest) == 16
    changed = [
        {"train": [(train[0][0], 0), *train[1:]]},
        {"train": train[1:]},
        {"train": [("another text", 1), *train[1:]]},
        {"train": [*train, test[0]], "test": test[1:]},
    ]
    digests = {load(make(tmp_path / str(i), **parts)).sets[0].digest for i, parts in enumerate(changed)}
    assert len(digests | {base.digest}) == 5
    names = [load(make(tmp_path / "base")).sha256, load(make(tmp_path / "again2", name="other")).sha256]
    assert names[0] != names[1]


def test_tokens_hold_each_text_once_with_the_ids_that_a_corpus_would_have(tmp_path: Path) -> None:
    make(tmp_path, name="a", train=[("<s> x y z", 0), *rows(20)])
    make(tmp_path, name="b", train=[("x y z", 1), *rows(20)], test=[("p " * 40, 1), *rows(8, start=900)])
    suite = load(tmp_path)
    assert suite.tokens.n_units == len(suite.tokens) == 1 + 20 + 8 + 1 + 8
    assert all(sequence.ids[0] == 0 and sequence.ids[1] != 0 for sequence in suite.tokens)
    assert suite.tokens.longest == 16
    assert suite.sets[1].notes["test"]["truncated"] == 1
    texts = ["x y z", *(text for text, _ in rows(20))]
    options = DataOptions(context=16, mean_from_evaluation=True)
    corpus = load_corpus(texts, tokenizer=WORDS, vocab_size=VOCABULARY, options=options).evaluation
    assert set(corpus.unit_ids) <= set(suite.tokens.unit_ids)
    bare = load(tmp_path, prepend_bos=False, context=15)
    assert sum(int(sequence.ids[0]) == 0 for sequence in bare.tokens) == 1


def test_copies_in_a_part_are_left_out_and_counted(tmp_path: Path) -> None:
    long = " ".join(f"w{i}" for i in range(15))
    train = [*rows(20), *rows(20)[:5], (f"{long} one", 1), (f"{long} two", 1)]
    one = load(make(tmp_path, train=train)).sets[0]
    assert len(one.train.texts) == len(set(one.train.texts.tolist())) == 21
    assert one.notes["train"]["duplicates_left_out"] == 6
    assert one.notes["train"]["truncated"] == 1


def test_sets_that_share_texts_are_one_group(tmp_path: Path) -> None:
    draw = random.Random(0)
    members = {f"s{i}": draw.sample(range(60), 2) for i in range(12)}
    for position, (name, shared) in enumerate(members.items()):
        train = [*rows(16, start=1000 + 100 * position), *((f"shared {i}", 1) for i in shared)]
        make(tmp_path, name=name, train=train, test=rows(8, start=10_000 + 100 * position))
    suite = load(tmp_path)
    pairs = [(i, int(t)) for i, one in enumerate(suite.sets) for t in (*one.train.texts, *one.test.texts)]
    rows_, columns = np.array(pairs).T
    size = len(suite.sets) + suite.tokens.n_units
    graph = coo_array((np.ones(len(pairs)), (rows_, len(suite.sets) + columns)), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(suite.sets)]
    expected = [np.flatnonzero(component == c).tolist() for c in dict.fromkeys(component.tolist())]
    assert suite.groups() == expected
    assert 1 < len(expected) < 12


def test_details_are_plain(tmp_path: Path) -> None:
    details = json.loads(json.dumps(load(make(tmp_path / "mine")).details()))
    assert details["coverage"] == "1 of 1"
    assert details["name"] == "mine"
    assert details["sets"]["one"]["test"]["base_rate"] == 0.5
    assert details["skipped"] == {}


def test_names_choose_sets_and_do_not_change_them(tmp_path: Path) -> None:
    for name in ("news", "spam", "spoken", ".hidden"):
        make(tmp_path, name=name, train=rows(60))
    (tmp_path / "README.md").write_text("about")
    whole, part = load(tmp_path, train_limit=16), load(tmp_path, train_limit=16, names="spam, sp*")
    assert [one.name for one in whole.sets] == ["news", "spam", "spoken"]
    assert [(one.name, one.digest) for one in part.sets] == [(one.name, one.digest) for one in whole.sets[1:]]
    with pytest.raises(UsageError, match=r"no probe set is named 'spon'; did you mean"):
        load(tmp_path, names="spon")


# ---------------------------------------------------------------- the choice


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 3), st.randoms(use_true_random=False), st.integers(8, 40))
def test_the_choice_does_not_depend_on_the_order_of_the_rows(
    tmp_path_factory: pytest.TempPathFactory, seed: int, shuffle: random.Random, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("order")
    train = [*rows(60, share=0.3), *rows(60, share=0.3)[:10]]
    first = load(make(folder / "a", suffix=".jsonl", train=train), train_limit=limit, seed=seed)
    shuffle.shuffle(train)
    second = load(make(folder / "b", suffix=".jsonl", train=train), train_limit=limit, seed=seed)
    assert first.sha256 == second.sha256
    assert first.tokens.unit_ids == second.tokens.unit_ids
    assert len(first.sets[0].train.texts) == limit


def test_the_choice_is_the_smallest_keys_of_each_class(tmp_path: Path) -> None:
    train = rows(200, share=0.25)
    suite = load(make(tmp_path, train=train), train_limit=40, seed=7)

    def key(text: str) -> int:
        content = f"7\0{text}".encode()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8, person=b"probe choice").digest(), "little")

    expected: set[tuple[str, bool]] = set()
    for label, quota in ((True, 10), (False, 30)):
        expected |= {(text, label) for text in sorted((x for x, y in train if y == label), key=key)[:quota]}
    assert texts_of(suite, suite.sets[0]) == expected
    more = load(tmp_path, train_limit=80, seed=7)
    assert expected < texts_of(more, more.sets[0])
    other = load(tmp_path, train_limit=40, seed=8)
    assert texts_of(other, other.sets[0]) != expected


@given(st.integers(4, 400), st.integers(4, 400), st.none() | st.integers(8, 500), st.integers(1, 8), st.booleans())
def test_quotas_keep_the_shares_and_the_rare_class(
    positive: int, negative: int, limit: int | None, least: int, balanced: bool
) -> None:
    found = quotas(Counter({True: positive, False: negative}), limit, least, balanced)
    assert 1 <= found[True] <= positive
    assert 1 <= found[False] <= negative
    total = positive + negative
    if balanced:
        assert found[True] == found[False] == min(positive, negative, total if limit is None else limit // 2)
        return
    wanted = total if limit is None else min(limit, total)
    assert found[True] + found[False] == wanted
    floor = min(least, positive, negative, wanted // 2)
    assert min(found.values()) >= floor
    if min(found.values()) > least:
        assert abs(found[True] - wanted * positive / total) <= 0.5


# ---------------------------------------------------------------- what is refused


TRAIN, TEST = rows(20), rows(8, start=500)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": rows(20, share=0)}, r"train part has 0 positive and 20 negative .* at least 4; add .*train\.jsonl"),
        ({"test": rows(8, share=1, start=500)}, r"test part has 8 positive and 0 negative .* at least 2"),
        ({"train": rows(20, share=0.15)}, "train part has 3 positive and 17 negative"),
        ({"test": rows(8, share=0.1, start=500)}, "test part has 1 positive"),
        ({"train": []}, "train part has 0 positive and 0 negative"),
        ({"train": [*TRAIN, (" \n", 1)]}, r"train\.jsonl line 21 is empty; remove the row"),
        ({"train": [*TRAIN, ("<s> <s>", 1)]}, r"train\.jsonl line 21 gives no tokens"),
        ({"train": [*TRAIN, ("half \ud800", 1)]}, r"train\.jsonl line 21 cannot be tokenised \("),
        ({"test": [*TEST, ("t", 2)]}, r"test\.jsonl line 9: the label must be 0 or 1, got '2'"),
        ({"test": [*TEST, ("t", None)]}, "label must be 0 or 1, got 'None'"),
        ({"test": [*TEST, ("t", "true")]}, "label must be 0 or 1, got 'true'"),
        ({"test": [*TEST, ("t", [1])]}, r"label must be 0 or 1, got '\[1\]'"),
        ({"test": [*TEST, ("t", float("nan"))]}, "label must be 0 or 1, got 'nan'"),
        ({"test": [*TEST, (7, 1)]}, r"test\.jsonl line 9: the text must be a string, got int"),
        (
            {"test": [*TEST, TRAIN[4]]},
            r"train\.jsonl line 5 and .*test\.jsonl line 9 hold the same text, and .* one part",
        ),
        (
            {"train": [*TRAIN, (TRAIN[2][0], 0)]},
            r"line 3 and .*line 21 hold the same text with different labels; remove",
        ),
        (
            {"train": [*TRAIN, ("t " * 30, 0)], "test": [*TEST, ("t " * 15, 0)]},
            r"line 21 and .*test\.jsonl line 9 hold",
        ),
        (
            {"train": [*TRAIN, ("t " * 15, 0), ("t " * 30, 1)]},
            r"line 22 hold .* \(cut to 15 tokens\) .* longer context",
        ),
    ],
)
def test_a_bad_set_is_one_sentence(tmp_path: Path, parts: dict[str, Rows], message: str) -> None:
    make(tmp_path, name="a")
    make(tmp_path, name="bad.set", suffix=".jsonl", **parts)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value).startswith("Probe set 'bad.set': ")
    assert "\n" not in str(caught.value)
    assert load(tmp_path, names="a").sets[0].name == "a"


def test_rows_of_parquet_and_csv_count_from_zero(tmp_path: Path) -> None:
    for suffix in (".parquet", ".csv"):
        folder = make(tmp_path / suffix[1:], suffix=suffix, train=[*TRAIN, ("", 1)])
        with pytest.raises(DataError, match=rf"train\{suffix} row 20 is empty"):
            load(folder)
        folder = make(tmp_path / suffix[1:], suffix=suffix, test=[*TEST, TRAIN[3]])
        with pytest.raises(DataError, match=rf"train\{suffix} row 3 and .*test\{suffix} row 8 hold the same text"):
            load(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "train.csv",
            "text,label\na,b,1\n",
            r"train\.csv row 0 has 3 columns and the header 2; put .* quotation marks",
        ),
        ("train.csv", "text,label\nx,1\ny\n", r"train\.csv row 1 has 1 columns and the header 2"),
        ("train.csv", "sentence,label\n", r"no column 'text' \(found: 'sentence', 'label'\)"),
        ("train.csv", "text,text,label\n", "several columns 'text'"),
        ("train.csv", "", r"no column 'text' \(found: none\)"),
        ("train.csv", 'text,label\n"x,1\n', r"train\.csv cannot be read \(Error: unexpected end of data"),
        ("train.csv", b"text,label\n\xff,1\n", r"is not UTF-8: byte 0xff at offset 11"),
        ("train.jsonl", '{"text": "x", "y": 1}\n', r"line 1 has no column 'label' \(found: 'text', 'y'\)"),
        ("train.jsonl", "{\n", r"train\.jsonl line 1 is not JSON \(JSONDecodeError"),
        ("train.jsonl", "[1]\n", "line 1 must be an object with 'text' and 'label', got list"),
        ("train.jsonl", b'\n{"text": "\xff"}\n', r"line 2 is not UTF-8"),
        ("train.parquet", b"PAR1 no", r"train\.parquet cannot be read \(ArrowInvalid"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    make(tmp_path, suffix=".csv")
    (tmp_path / "one" / "train.csv").unlink()
    (tmp_path / "one" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(caught.value).startswith("Probe set 'one': ")
    assert "\n" not in str(caught.value)


def test_parquet_with_other_columns_says_which(tmp_path: Path) -> None:
    make(tmp_path)
    pq.write_table(pa.table({"sentence": ["x"], "label": [1]}), tmp_path / "one" / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet has no column 'text' \(found: 'sentence', 'label'\)"):
        load(tmp_path)
    pq.write_table(pa.table({"text": [None], "label": [1]}), tmp_path / "one" / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet row 0: the text must be a string, got NoneType"):
        load(tmp_path)


def test_a_bad_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no probe set; give a folder that holds <set>/train"):
        load(tmp_path)
    make(tmp_path / "x")
    with pytest.raises(DataError, match="holds no probe set; give the folder above it"):
        load(tmp_path / "x" / "one")
    write(tmp_path / "x" / "one" / "train.csv", TRAIN)
    with pytest.raises(DataError, match=r"Probe set 'one': .* has both train\.parquet and train\.csv; keep one"):
        load(tmp_path / "x")
    (tmp_path / "x" / "one" / "train.csv").unlink()
    (tmp_path / "x" / "one" / "test.parquet").unlink()
    with pytest.raises(DataError, match=r"no test part \(found: 'train\.parquet'\); it needs test\.parquet or test\."):
        load(tmp_path / "x")
    (tmp_path / "x" / "one" / "test.csv").mkdir()
    with pytest.raises(DataError, match=r"one/test\.csv is not a regular file"):
        load(tmp_path / "x")
    for name in ("a b", "x@y", "x:y", "line\nend", "-rf"):
        make(tmp_path / hashlib.md5(name.encode()).hexdigest(), name=name)
        with pytest.raises(DataError, match="the name of a probe set may hold") as caught:
            load(tmp_path / hashlib.md5(name.encode()).hexdigest())
        assert "\n" not in str(caught.value)


def test_options_and_tokenizers_that_cannot_work_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    for options, message in (
        ({"context": 1}, "context must be at least 2"),
        ({"train_limit": 7}, "train_limit must be at least 8 examples, got 7"),
        ({"test_limit": 3}, "test_limit must be at least 4"),
    ):
        with pytest.raises(DataError, match=message):
            load(tmp_path, **options)
    with pytest.raises(DataError, match="need a tokenizer"):
        load(tmp_path, tokenizer=None)
    with pytest.raises(DataError, match=r"below the vocabulary size 5: .* that begins 'text number"):
        load(tmp_path, vocab_size=5)
    bare = Words()
    bare.bos_token_id = None
    with pytest.raises(DataError, match="no BOS token"):
        load(tmp_path, tokenizer=bare)
    assert load(tmp_path, tokenizer=bare, prepend_bos=False).tokens.n_units == 28
    bare.bos_token_id = VOCABULARY
    with pytest.raises(DataError, match="BOS id 100000 is not below"):
        load(tmp_path, tokenizer=bare)


# ---------------------------------------------------------------- real sets


@pytest.mark.slow
def test_the_shared_probe_sets_load(shared: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared / "lm" / "model")
    suite = load(shared / "lm" / "probes", tokenizer, len(tokenizer), context=128, train_limit=256, test_limit=64)
    assert len(suite.sets) == 12
    assert suite.name == "probes"
    for one in suite.sets:
        table = pq.read_table(shared / "lm" / "probes" / one.name / "train.parquet").to_pydict()
        assert (len(one.train.texts), len(one.test.texts)) == (256, 64)
        assert one.train.labels.mean() == pytest.approx(np.mean(table["label"]), abs=1 / 256)
        assert not set(one.train.texts.tolist()) & set(one.test.texts.tolist())
    with pytest.raises(
        DataError, match=r"'code_python'.* hold the same text \(cut to 63 tokens\), and a text may be in"
    ):
        load(shared / "lm" / "probes", tokenizer, len(tokenizer), context=64, names="code*")


def test_labelled_data_do_not_import_torch() -> None:
    code = "import sys, sae_bench.data.labelled; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
