"""What belongs together stays together: through packing, cutting and labels, on one side, whatever the order."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from sae_bench.data import Corpus, TokenSet
from sae_bench.data.groups import content_of, name_of
from sae_bench.errors import DataError, UsageError
from tests.builders.grouped_texts import (
    BOS,
    EOS,
    IDS,
    TEXTS,
    VOCABULARY,
    WIDTH,
    groups_of,
    ids_of,
    load,
    text_of,
    unit_contents,
)

SIDES = ("evaluation", "calibration")
DOCUMENTS = st.lists(st.lists(st.integers(2, VOCABULARY - 1), min_size=2, max_size=25), min_size=1, max_size=25)
IDS_OF_TEXTS = ids_of(80)
LABELS = [number % 13 for number in range(80)]


def sides_of_groups(corpus: Corpus) -> dict[str, set[str]]:
    return {side: set(groups_of(getattr(corpus, side))) for side in SIDES}


def texts_by_group(tokens: TokenSet) -> dict[str, Counter[tuple[int, ...]]]:
    found: dict[str, Counter[tuple[int, ...]]] = {}
    for group, ids in zip(groups_of(tokens), unit_contents(tokens), strict=True):
        found.setdefault(group, Counter())[ids] += 1
    return found


def load_if_enough(source: Any, **options: Any) -> Corpus | None:
    """None where a side would be empty."""
    try:
        return load(source, **options)
    except DataError as error:
        if "so there is no" not in str(error) and "one sequence needs" not in str(error):
            raise
        return None


# ---------------------------------------------------------------- packing


@given(DOCUMENTS, st.integers(4, 9), st.integers(0, 3))
def test_a_packed_sequence_is_of_the_document_that_holds_most_of_it(
    documents: list[list[int]], context: int, seed: int
) -> None:
    """By another way: the stream of each side with the number of the document beside every id."""
    texts, share = [text_of(ids) for ids in documents], 0.5
    whole = load_if_enough(texts, calibration_share=share, seed=seed)
    packed = load_if_enough(texts, calibration_share=share, seed=seed, packed=True, context=context)
    if whole is None or packed is None:
        return
    for side in SIDES:
        ids = [[*own] for own in unit_contents(getattr(whole, side))]
        names = [content_of(np.array(own, dtype=np.int32)) for own in ids]
        stream: list[int] = []
        of: list[str | None] = []
        for own, name in zip(ids, names, strict=True):
            stream += [EOS, *own] if stream else own
            of += [None, *([name] * len(own))] if of else [name] * len(own)
        room, tokens = context - 1, getattr(packed, side)
        assert [sequence.ids.tolist()[1:] for sequence in tokens] == [
            stream[at : at + room] for at in range(0, len(stream) - room + 1, room)
        ]
        for number, group in enumerate(groups_of(tokens)):
            here = [name for name in of[number * room : (number + 1) * room] if name is not None]
            most = max(Counter(here).values())
            assert group == next(name for name in here if here.count(name) == most)
    assert sides_of_groups(packed)["evaluation"] <= sides_of_groups(whole)["evaluation"]
    assert sides_of_groups(packed)["calibration"] <= sides_of_groups(whole)["calibration"]


def test_no_token_of_a_document_is_packed_on_the_other_side() -> None:
    """A sequence of the one side that ends in a document of the other would be seen by what it is compared with."""
    documents = [[2 + number] * 10 for number in range(50)]  # a word each
    corpus = load([text_of(ids) for ids in documents], packed=True, context=8)
    words = [set(getattr(corpus, side).ids.tolist()) - {BOS, EOS} for side in SIDES]
    assert min(map(len, words)) > 10
    assert not words[0] & words[1]


def test_packed_labels_count_together() -> None:
    """Two short documents of one source hold more of a sequence than a longer one of another."""
    texts = [text_of([2] * 4), text_of([3] * 3), text_of([4] * 3)]
    corpus = load(texts, packed=True, context=13, groups=["a", "b", "b"], mean_from_evaluation=True)
    assert groups_of(corpus.evaluation) == [name_of("b")]
    tied = load([text_of([2] * 4), text_of([3] * 4)], packed=True, context=10, mean_from_evaluation=True)
    assert groups_of(tied.evaluation) == [content_of(np.full(4, 2, dtype=np.int32))], "the first on ties"


# ---------------------------------------------------------------- labels, however they come


@pytest.mark.parametrize("packed", [False, True], ids=["documents", "packed"])
@pytest.mark.parametrize("form", TEXTS)
def test_every_form_of_texts_gives_the_same_groups(form: str, packed: bool, tmp_path: Path) -> None:
    options: dict[str, Any] = {"packed": packed, "context": 8}
    source, told = TEXTS[form](tmp_path, IDS_OF_TEXTS, LABELS)
    plain = load([text_of(ids) for ids in IDS_OF_TEXTS], groups=[str(label) for label in LABELS], **options)
    corpus = load(source, **told, **options)
    for side in SIDES:
        assert getattr(corpus, side).unit_ids == getattr(plain, side).unit_ids
        assert getattr(corpus, side).sha256 == getattr(plain, side).sha256
    found = sides_of_groups(corpus)
    assert not found["evaluation"] & found["calibration"]
    assert found["evaluation"] | found["calibration"] <= {name_of(str(label)) for label in LABELS}


@pytest.mark.parametrize("form", IDS)
def test_every_form_of_ids_gives_the_same_groups(form: str, tmp_path: Path) -> None:
    source, told = IDS[form](tmp_path, IDS_OF_TEXTS, LABELS)
    corpus = load(source, **told)
    for side in SIDES:
        for group, texts in texts_by_group(getattr(corpus, side)).items():
            (label,) = (label for label in set(LABELS) if name_of(str(label)) == group)
            own = [tuple(ids) for ids, of in zip(IDS_OF_TEXTS, LABELS, strict=True) if of == label]
            assert texts == Counter(own), "all of its rows, so that it is on no other side"
    assert corpus.evaluation.n_groups + corpus.calibration.n_groups == 13
    plain = load(np.array(IDS_OF_TEXTS))
    assert plain.evaluation.n_groups == plain.evaluation.n_units


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), min_size=12, max_size=60),
    st.sampled_from(["documents", "pieces", "packed", "rows"]),
    st.integers(0, 3),
)
def test_no_group_and_no_text_is_on_both_sides(which: list[tuple[int, int]], form: str, seed: int) -> None:
    """Also where one text bears several labels: copies are one group."""
    known = ids_of(7)
    ids, labels = [known[text] for text, _ in which], [label for _, label in which]
    source = np.array(ids) if form == "rows" else [text_of(one) for one in ids]
    options = {"packed": form == "packed", "context": 4 if form == "pieces" else 16}
    if (corpus := load_if_enough(source, groups=labels, seed=seed, **options)) is None:
        return
    found = sides_of_groups(corpus)
    assert not found["evaluation"] & found["calibration"]
    if form == "packed":
        return
    evaluation, calibration = (unit_contents(getattr(corpus, side)) for side in SIDES)
    assert not set(evaluation) & set(calibration)
    both = Counter(evaluation) + Counter(calibration)
    assert both == Counter(map(tuple, ids)), "no text is lost"
    groups = {**texts_by_group(corpus.evaluation), **texts_by_group(corpus.calibration)}
    assert all(sum(text in own for own in groups.values()) == 1 for text in both)


@given(st.sets(st.integers(0, 79), min_size=40), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_documents_changes_neither_groups_nor_sides(
    chosen: set[int], shuffle: random.Random, labelled: bool
) -> None:
    order = sorted(chosen)
    shuffle.shuffle(order)

    def read(numbers: list[int], **options: Any) -> Corpus:
        labels = [LABELS[number] for number in numbers]
        return load(
            [text_of(IDS_OF_TEXTS[number]) for number in numbers], groups=labels if labelled else None, **options
        )

    whole, part, again = read(list(range(80))), read(sorted(chosen)), read(order)
    for side in SIDES:
        assert texts_by_group(getattr(part, side)) == texts_by_group(getattr(again, side))
        assert set(getattr(part, side).unit_ids) <= set(getattr(whole, side).unit_ids)
    packed = [sides_of_groups(read(numbers, packed=True, context=8)) for numbers in (sorted(chosen), order)]
    for one, other in ((0, 1), (1, 0)):
        assert not packed[one]["evaluation"] & (packed[other]["calibration"] | sides_of_groups(whole)["calibration"])


_ANOTHER = """
import sys
from tests.builders.grouped_texts import ids_of, load, text_of
texts = [text_of(ids) for ids in ids_of(80)]
for options in ({}, {"packed": True, "context": 8}, {"groups": [n % 13 for n in range(80)], "tokens": 90}):
    corpus = load(texts, **options)
    print(corpus.evaluation.sha256, corpus.calibration.sha256, *corpus.evaluation.unit_ids)
"""


def test_two_processes_agree() -> None:
    """Names are no hashes of Python, which differ from process to process."""
    said = [
        subprocess.run(
            [sys.executable, "-c", _ANOTHER],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1] != ""


def test_documents_alone_are_read_as_before_groups_were() -> None:
    """Digests of the version before: ids, sides, copies, prefixes."""
    ids = ids_of(60, length=20)
    texts = [text_of(one) for one in (*ids, *ids[:7])]
    few: dict[str, Any] = {"calibration_share": 0.2, "calibration_limit": 256}
    found = [
        load(texts, context=8, **few),
        load(texts, context=8, limit=9, seed=3, **few | {"calibration_limit": 5}),
        load(np.array(ids), limit=20, **few),
    ]
    assert [(c.evaluation.sha256[:16], c.calibration.sha256[:16], c.evaluation.unit_ids[-1]) for c in found] == [
        ("c0e7c8cfca76e391", "7b00254b31983c0c", "86afb96d95c92311#2"),
        ("accab5c69f09f6ea", "ba97e16e17261801", "b771cd819692110b"),
        ("ee260c021ec9152e", "fbfca4eea397970c", "1fb330a87ce85a7d"),
    ]


def test_groups_are_part_of_what_identifies_a_text() -> None:
    """Intervals depend on them, so results of other groups are never compared as one."""
    texts = [text_of(ids) for ids in IDS_OF_TEXTS]
    made = [None, list(range(80)), LABELS, [label + 1 for label in LABELS]]
    digests = {load(texts, groups=labels, mean_from_evaluation=True).evaluation.sha256 for labels in made}
    assert len(digests) == 4
    packed = [load(texts, groups=labels, packed=True, context=8).evaluation.sha256 for labels in (None, LABELS)]
    assert packed[0] != packed[1]


# ---------------------------------------------------------------- labels are untrusted


STRANGE = ["a~b", "a@3:7", "x#2", "../../etc", "<script>", "né", "a" * 5000, "00ff00ff00ff00ff", " spaced "]


def test_no_label_can_be_taken_for_something_else() -> None:
    texts = [text_of(ids) for ids in ids_of(len(STRANGE) * 3)]
    corpus = load(texts, groups=STRANGE * 3, mean_from_evaluation=True)
    assert set(groups_of(corpus.evaluation)) == {name_of(label) for label in STRANGE}
    assert all(len(unit) == 33 and unit[16] == "~" for unit in corpus.evaluation.unit_ids)
    shown = {row["group"] for row in corpus.details["largest_groups"]}
    assert len(json.dumps(corpus.details)) < 3000
    assert shown.isdisjoint(STRANGE[:7]), "what is long or not plain is shown by its name"


def test_details_say_which_groups_are_largest() -> None:
    labels = ["news"] * 30 + ["web/2024"] * 20 + list(range(30))
    corpus = load([text_of(ids) for ids in IDS_OF_TEXTS], groups=labels, mean_from_evaluation=True)
    details = json.loads(json.dumps(corpus.details))
    assert details["group"] == "label"
    assert details["evaluation_groups"] == 32
    assert details["largest_groups"][:2] == [
        {"group": "news", "units": 30, "tokens": 30 * (WIDTH + 1)},
        {"group": "web/2024", "units": 20, "tokens": 20 * (WIDTH + 1)},
    ]
    assert len(details["largest_groups"]) == 8


def test_a_number_and_its_text_are_one_label() -> None:
    """A column is read as numbers from one file and as text from another."""
    texts = [text_of(ids) for ids in IDS_OF_TEXTS]
    made: list[Any] = [
        LABELS,
        [str(label) for label in LABELS],
        np.array(LABELS, dtype=np.uint8),
        torch.tensor(LABELS),
        [np.int32(label) for label in LABELS],
    ]
    assert len({load(texts, groups=labels).evaluation.sha256 for labels in made}) == 1


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (None, "the group of row 1 must be a text or an integer, got NoneType"),
        (1.0, "must be a text or an integer, got float"),
        (float("nan"), "must be a text or an integer, got float"),
        (True, "must be a text or an integer, got bool"),
        (b"a", "must be a text or an integer, got bytes"),
        (["a"], "must be a text or an integer, got list"),
        (10**5000, "got one of thousands of digits"),
        ("", "must be a printable text and not empty"),
        ("  ", "must be a printable text and not empty"),
        ("a\nb", "must be a printable text and not empty"),
        ("\ud800", "must be a printable text and not empty"),
        ("\x00", "must be a printable text and not empty"),
    ],
    ids=range(12),
)
def test_what_is_no_label_is_a_sentence(bad: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        load(["w1 w2", "w3 w4", "w5 w6"], groups=["a", bad, "b"])
    assert "\n" not in str(caught.value)


def test_labels_that_do_not_fit_are_a_sentence(tmp_path: Path) -> None:
    texts = ["w1 w2", "w3 w4", "w5 w6"]
    for source, labels in ((texts, ["a", "b"]), (np.array([[2, 3], [4, 5]]), ["a"] * 3)):
        with pytest.raises(DataError, match=r"a label for each of the [23] (texts|rows) of .*, got [23]"):
            load(source, groups=labels)
    for labels in ("abc", {"a": 1}, 7, {1, 2, 3}):
        with pytest.raises(UsageError, match="groups must be a list of one label"):
            load(texts, groups=labels)
    with pytest.raises(UsageError, match="give one of them"):
        load(texts, groups=["a", "b", "c"], group_field="source")
    (tmp_path / "a.txt").write_text("w1 w2\n\nw3 w4")
    for source in ("demo", tmp_path / "a.txt"):
        with pytest.raises(UsageError, match=r"groups cannot act on"):
            load(source, groups=["a", "b"])
    with pytest.raises(UsageError, match=r"--group-field source cannot act on .*, whose texts have no fields"):
        load(tmp_path / "a.txt", group_field="source")
    np.save(tmp_path / "a.npy", np.array(IDS_OF_TEXTS))
    with pytest.raises(UsageError, match=r"holds ids alone: give a .safetensors file .* groups= in Python"):
        load(tmp_path / "a.npy", group_field="source")


def test_columns_that_are_not_there_or_no_labels_are_a_sentence(tmp_path: Path) -> None:
    for form in ("jsonl", "parquet", "saved data set", "folder"):
        (tmp_path / form).mkdir()
        source, _ = TEXTS[form](tmp_path / form, IDS_OF_TEXTS, LABELS)
        with pytest.raises(DataError, match=r"no field 'author' .found: .*'source'.*name the field of the group"):
            load(source, group_field="author")
    (tmp_path / "some.jsonl").write_text('{"text": "w1 w2", "source": "a"}\n{"text": "w3 w4"}\n')
    with pytest.raises(DataError, match=r"some\.jsonl line 2 has no field 'source'"):
        load(tmp_path / "some.jsonl", group_field="source")
    (tmp_path / "null.jsonl").write_text('{"text": "w1 w2", "source": null}\n')
    with pytest.raises(DataError, match=r"null\.jsonl line 1, field 'source', must be a text or an integer, got NoneT"):
        load(tmp_path / "null.jsonl", group_field="source")
    pq.write_table(pa.table({"text": ["w1 w2", "w3 w4"], "source": [0.5, 1.5]}), tmp_path / "floats.parquet")
    with pytest.raises(DataError, match=r"row 0, field 'source', must be a text or an integer, got float"):
        load(tmp_path / "floats.parquet", group_field="source")


@pytest.mark.parametrize("bad", [np.zeros(80), np.zeros((80, 1), dtype=int), np.zeros(79, dtype=int)])
def test_a_tensor_of_groups_that_does_not_fit_is_a_sentence(bad: Any, tmp_path: Path) -> None:
    save_file({"tokens": np.array(IDS_OF_TEXTS), "source": bad}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="source must hold 80 integers, one for each row"):
        load(tmp_path / "a.safetensors", group_field="source")
    with pytest.raises(DataError, match=r"no tensor 'author' .found: 'source', 'tokens'"):
        load(tmp_path / "a.safetensors", group_field="author")


# ---------------------------------------------------------------- rows that look packed


def test_rows_that_look_packed_are_not_taken_as_independent_in_silence(recwarn: pytest.WarningsRecorder) -> None:
    rows = np.array(ids_of(40, length=12))
    load(rows)
    assert not recwarn.list, "plain rows"
    begun, ended = rows.copy(), rows.copy()
    begun[:, 0], ended[:, -1] = BOS, EOS
    load(begun)
    load(ended)
    assert not recwarn.list, "a text a row"
    packed = rows.copy()
    packed[::10, 5] = EOS
    load(packed, groups=list(range(40)))
    assert not recwarn.list, "somebody has said what they belong to"
    with pytest.warns(UserWarning, match=r"4 of 40 rows of .* as packed rows do: .*--group-field .* groups="):
        found = load(packed)
    assert found.details["rows_of_several_texts"] == 4
