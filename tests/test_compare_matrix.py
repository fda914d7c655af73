"""Comparisons of several SAEs as a matrix: two share a letter exactly where they cannot be told apart."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_bench.cli import compare as verb
from sae_bench.cli.exits import Exit
from sae_bench.errors import UsageError
from sae_bench.results.compare_letters import groups, letters
from sae_bench.show.fitted import width
from tests.builders.boards import HOSTILE
from tests.builders.comparisons import documents, save
from tests.builders.summaries import SNAPSHOTS
from tests.builders.verbs import runner

ERRORS = (0.2, 0.2, 0.1, 0.1, 0.4, 0.11)


@pytest.fixture
def cli(capsys):
    return runner(verb, "compare", capsys)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Files of six SAEs on the same documents, with errors as ERRORS has them and noise of their own."""
    folder, rng = tmp_path_factory.mktemp("six"), np.random.default_rng(0)
    tables = documents(rng, 120, ERRORS, "d")
    return [
        save(folder, "reconstruction", {"document": table}, ["nmse"], f"lab/sae-{i}", n_documents=120)
        for i, table in enumerate(tables)
    ]


# ---------------------------------------------------------------- letters

Graphs = st.integers(1, 9).flatmap(
    lambda n: st.tuples(st.just(n), st.sets(st.sampled_from([*combinations(range(n), 2)] or [(0, 0)])))
)


@given(Graphs)
def test_two_share_a_letter_exactly_where_they_are_alike(graph):
    n, alike = graph
    own = letters(n, lambda i, j: (i, j) in alike)
    for i, j in combinations(range(n), 2):
        assert bool(set(own[i]) & set(own[j])) == ((i, j) in alike)
    assert all(own)


@given(Graphs)
def test_no_group_can_grow_and_none_is_idle(graph):
    n, alike = graph
    made = groups(n, lambda i, j: (i, j) in alike)
    assert len(set(made)) == len(made)
    for one in made:
        assert all(pair in alike for pair in combinations(one, 2))
        for more in set(range(n)) - set(one):
            assert not all(tuple(sorted((more, i))) in alike for i in one)
        rest = {pair for other in made if other != one for pair in combinations(other, 2)}
        assert len(one) == 1 or not set(combinations(one, 2)) <= rest


def test_a_chain_has_two_letters_in_its_middle():
    assert letters(3, lambda i, j: (i, j) != (0, 2)) == ["a", "ab", "b"]
    assert letters(4, lambda i, j: j - i == 1) == ["a", "ab", "bc", "c"]
    assert letters(3, lambda i, j: True) == ["a", "a", "a"]
    assert letters(3, lambda i, j: False) == ["a", "b", "c"]


def test_more_groups_than_letters_have_numbers():
    own = letters(60, lambda i, j: j - i == 1)
    assert own[0] == "1"
    assert own[30] == "30,31"
    assert len(letters(52, lambda i, j: False)[-1]) == 1


# ---------------------------------------------------------------- the matrix


def rows_of(text):
    """Name, figure and letters of each row of the table of one metric."""
    found = re.findall(r"^[A-Z]+  (\S+) +(\S+) ([a-z]+)$", text, re.MULTILINE)
    return {name: (figure, own) for name, figure, own in found}


def test_a_matrix_looks_as_it_did(six, cli):
    head, rest = cli(*six)[1].split("\n\n", 1)  # how paths are broken depends on where the folder of the test is
    text = re.sub(r", in ?\S+lab__", ", in lab__", re.sub(r"\n +", "", head)) + "\n\n" + rest
    kept = SNAPSHOTS / "matrix.txt"
    if not kept.exists():
        kept.write_text(text)
        pytest.fail(f"{kept} was missing and is written anew: read it, then run again")
    assert text == kept.read_text()


def test_the_letters_are_those_of_the_pairs(six, cli):
    code, out, _ = cli(*six)
    assert code == 0
    rows = rows_of(out)
    assert len(rows) == 6
    best = min(rows, key=lambda name: float(rows[name][0]))
    assert "a" in rows[best][1]
    shared = {pair: bool(set(rows[pair[0]][1]) & set(rows[pair[1]][1])) for pair in combinations(sorted(rows), 2)}
    content = json.loads(cli(*six, "--format", "json")[1])
    names = {key: one["sae"] for key, one in content["results"].items()}
    assert content["letters"]["reconstruction.nmse"] == {key: rows[name][1] for key, name in names.items()}
    for pair in content["comparisons"]:
        p = pair["differences"][0]["p"]
        both = tuple(sorted((names[pair["a"]], names[pair["b"]])))
        assert shared[both] or p < 0.05, "told apart among all pairs is told apart by itself"
        assert p > 1e-6 or not shared[both], "what is far apart is told apart among 15 pairs too"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_order_of_saes_changes_no_letter(six, cli, seed):
    order = np.random.default_rng(seed).permutation(6)
    assert rows_of(cli(*(six[i] for i in order))[1]) == rows_of(cli(*six)[1])


def test_a_folder_of_several_saes_is_each_of_them(six, cli):
    folder = six[0].parents[2]
    assert rows_of(cli(folder)[1]) == rows_of(cli(*six)[1])
    with pytest.raises(UsageError, match="2 or more results, not 1"):
        cli(six[0])
    with pytest.raises(UsageError, match="2 or more results, not 1"):
        cli(six[0].parent)


def test_two_saes_stay_a_table_and_the_first_against_all_is_one_too(six, cli):
    for arguments in (six[:2], [*six, "--pairs", "first"]):
        out = cli(*arguments)[1]
        assert "95 % interval" in out
        assert "share a letter" not in out


def test_every_pair_of_two_or_of_many_can_be_asked_for(six, cli):
    assert "share a letter" in cli(*six[:3], "--pairs", "every")[1]
    assert "95 % interval" in cli(*six[:2], "--pairs", "every")[1]


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_a_matrix_keeps_to_its_width(six, cli, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    out = cli(*six, "--all-metrics")[1]
    assert max(map(width, out.splitlines())) <= columns


def test_hostile_names_stay_names(tmp_path, cli):
    tables = documents(np.random.default_rng(0), 30, (0.2,) * len(HOSTILE), "d")
    files = [
        save(tmp_path, "reconstruction", {"document": table}, ["nmse"], name)
        for name, table in zip(HOSTILE, tables, strict=True)
    ]
    text, marked = cli(*files)[1], cli(*files, "--format", "markdown")[1]
    assert all(c.isprintable() or c == "\n" for c in text + marked)
    assert max(map(width, text.splitlines())) <= 100
    assert "<script>" not in marked
    assert sum(line.startswith("| ") for line in marked.splitlines()) == len(HOSTILE) + 1


def test_an_sae_without_units_has_a_figure_and_no_letter(six, tmp_path, cli):
    (table,) = documents(np.random.default_rng(5), 120, (0.3,), "d")
    bare = save(tmp_path, "reconstruction", {"document": table}, ["nmse"], "lab/bare", units=False, n_documents=120)
    code, out, _ = cli(*six, bare)
    assert code == 0
    assert rows_of(out) == rows_of(cli(*six)[1]), "letters of the others stay"
    assert re.search(r"^G  lab/bare +\d\S+$", out, re.MULTILINE)
    assert "nmse, not compared: A and G, B and G, C and G and 3 more: the second has no units" in out


def test_a_matrix_without_letters_does_not_say_how_to_read_them(tmp_path, cli):
    """That no two share a letter would say that all can be told apart."""
    tables = documents(np.random.default_rng(0), 20, ERRORS[:3], "d")
    files = [
        save(tmp_path, "reconstruction", {"document": table}, ["nmse"], f"lab/{i}", units=False)
        for i, table in enumerate(tables)
    ]
    code, text, _ = cli(*files)
    assert code == Exit.NOT_COMPARABLE
    assert "share" not in text
    assert "not compared: A and B" in text
    assert not any("letters" in note for note in json.loads(cli(*files, "--format", "json")[1])["notes"])


def test_json_says_why_letters_and_verdicts_may_differ(six, cli):
    assert any("letters are by p adjusted" in one for one in json.loads(cli(*six, "--format", "json")[1])["notes"])


def test_where_nothing_can_be_compared_it_is_refused(tmp_path, cli):
    tables = documents(np.random.default_rng(0), 30, (0.2, 0.2, 0.2), "d")
    files = [
        save(tmp_path, "reconstruction", {"document": table}, ["nmse"], f"s{i}", units=False)
        for i, table in enumerate(tables)
    ]
    assert cli(*files)[0] == Exit.NOT_COMPARABLE
    other = save(tmp_path, "reconstruction", {"document": tables[0]}, ["nmse"], "other", seed=9)
    code, out, err = cli(*files, other)
    assert (code, out) == (Exit.NOT_COMPARABLE, "")
    assert "seed" in err
