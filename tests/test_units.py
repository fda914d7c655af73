"""Tables of units: rows of one unit add up, order does not matter, and a file holds exactly what was measured."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from sae_bench.units import Units, concatenate, merge, pack, unpack


def table(ids, **columns):
    return Units(tuple(ids), {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()})


def through_a_file(tables):
    arrays, metadata = pack(tables)
    content = save(arrays, metadata)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return unpack(load(content), header["__metadata__"])


def assert_equal(a: Units, b: Units) -> None:
    assert a.ids == b.ids
    assert a.columns.keys() == b.columns.keys()
    for name, column in a.columns.items():
        assert column.dtype == b.columns[name].dtype == np.float64
        assert column.shape == b.columns[name].shape
        assert (column == b.columns[name]).all()


def test_sequences_of_one_document_are_added():
    merged = merge(table("abab", n=[1, 2, 3, 4], x=[[1, 0], [0, 1], [5, 5], [2, 2]]))
    assert_equal(merged, table("ab", n=[4, 6], x=[[6, 5], [2, 3]]))


def test_nothing_to_merge_sorts_the_rows():
    assert_equal(merge(table("cab", n=[1, 2, 3])), table("abc", n=[2, 3, 1]))
    assert len(merge(Units((), {"n": np.zeros(0)}))) == 0


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-9, 9)), min_size=1), order=st.randoms())
def test_merging_does_not_depend_on_order(rows, order):
    shuffled = list(rows)
    order.shuffle(shuffled)
    one, other = (merge(table([i for i, _ in r], n=[n for _, n in r])) for r in (rows, shuffled))
    assert_equal(one, other)
    assert one.columns["n"].sum() == sum(n for _, n in rows)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from("abcde"), st.integers(-9, 9)), min_size=2), data=st.data())
def test_parts_can_be_merged_before_or_after_they_are_joined(rows, data):
    at = data.draw(st.integers(1, len(rows) - 1))
    whole, left, right = (table([i for i, _ in r], n=[n for _, n in r]) for r in (rows, rows[:at], rows[at:]))
    assert_equal(merge(whole), merge(concatenate([merge(left), merge(right)])))


def test_tables_with_other_columns_are_not_joined():
    """A column that only some parts have would be lost, or its rows moved."""
    with pytest.raises(ValueError, match="different columns"):
        concatenate([table("a", n=[1]), table("b", n=[1], m=[2])])
    assert concatenate([]).ids == ()


def test_a_column_of_another_length_is_refused():
    with pytest.raises(ValueError, match="column n has shape"):
        table("ab", n=[1, 2, 3])
    with pytest.raises(ValueError, match="column n has shape"):
        table("a", n=1)


def test_rows_can_be_chosen():
    assert_equal(table("abc", n=[1, 2, 3]).select([2, 0]), table("ca", n=[3, 1]))
    assert len(table("abc", n=[1, 2, 3]).select([])) == 0


def test_round_trip_through_a_file():
    tables = {
        "document": table(["b", "a/ü", "", "\x00"], n=[0.1, 1e-300, -0.0, 3], x=np.arange(8).reshape(4, 2) / 3),
        "latent": table(map(str, range(1000)), n=np.linspace(0, 1, 1000)),
        "control/mean/document": table("ba", n=[1, 2]),
        "control/mean/latent": Units((), {"n": np.zeros(0)}),
        "control/identity/document": Units(("b", "a"), {}),  # every column is that of the SAE itself
    }
    found = through_a_file(tables)
    assert found.keys() == tables.keys()
    for key, one in tables.items():
        assert_equal(one, found[key])


def test_arrays_in_another_memory_order_are_written_right():
    """safetensors writes the bytes as they lie: a transposed or strided array would come back scrambled, silently."""
    x = np.arange(12.0).reshape(3, 4)
    tables = {"t": Units(tuple("abcd"), {"x": x.T, "strided": np.arange(8.0)[::2], "reversed": np.arange(4.0)[::-1]})}
    assert_equal(tables["t"], through_a_file(tables)["t"])


def test_counting_ids_are_not_stored_and_others_are():
    counting, named = pack({"latent": table("012", n=[1, 2, 3])})[1], pack({"latent": table("021", n=[1, 2, 3])})[1]
    assert json.loads(counting["ids"]) == {"latent": 3}
    assert json.loads(named["ids"]) == {"latent": ["0", "2", "1"]}


def test_a_column_that_could_not_be_read_back_is_refused():
    with pytest.raises(ValueError, match="no / in its name"):
        pack({"t": table("a", **{"x/y": [1]})})


SCRIPT = """
import hashlib, numpy as np
from safetensors.numpy import save
from sae_bench.units import Units, pack
columns = {name: np.arange(4.0) * i for i, name in enumerate(["x", "b", "n", "a", "tokens"])}
tables = {key: Units(tuple("dcba"), columns) for key in ["document", "latent", "control/mean/document"]}
print(hashlib.sha256(save(*pack(tables))).hexdigest())
"""


def test_the_same_tables_are_the_same_bytes_in_every_process():
    """Python's string hashes differ between processes; the order of keys in a file must not."""
    found = set()
    for seed in ("0", "1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", SCRIPT], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        found.add(out.stdout)
    assert len(found) == 1


def test_order_of_tables_and_columns_does_not_change_the_bytes():
    a, b = table("yx", n=[1, 2], m=[3, 4]), table("yx", m=[3, 4], n=[1, 2])
    one, other = save(*pack({"p": a, "q": a})), save(*pack({"q": b, "p": b}))
    assert hashlib.sha256(one).hexdigest() == hashlib.sha256(other).hexdigest()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ({"t": 10**12}, "claims 1000000000000 rows"),
        ({"t": -1}, "claims -1 rows"),
        ({"t": [1, 2]}, "must be strings"),
        ({"t": "ab"}, "must be strings"),
        ({"t": ["a"]}, "column n has shape"),
        ([], "must be an object"),
    ],
)
def test_a_file_that_lies_about_its_ids_is_refused_before_memory_is_taken(ids, message):
    with pytest.raises(ValueError, match=message):
        unpack({"t/n": np.zeros(2)}, {"ids": json.dumps(ids)})
