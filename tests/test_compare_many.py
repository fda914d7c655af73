"""Comparisons of any number of sides: A to Z, then AA, in a table a metric with a row a side."""

import json

import numpy as np
import pytest

from sae_bench.cli import compare as verb
from sae_bench.cli.exits import Exit
from sae_bench.errors import UsageError
from sae_bench.results import store
from sae_bench.results.compare_sides import label
from tests.builders.comparisons import documents, save
from tests.builders.verbs import runner


@pytest.fixture
def cli(capsys):
    return runner(verb, "compare", capsys)


def test_places_have_names_as_the_columns_of_a_sheet():
    assert [label(i) for i in (0, 1, 25, 26, 27, 51, 52, 701, 702)] == [
        "A",
        "B",
        "Z",
        "AA",
        "AB",
        "AZ",
        "BA",
        "ZZ",
        "AAA",
    ]
    assert len({label(i) for i in range(2000)}) == 2000


@pytest.fixture(scope="module")
def sixty(tmp_path_factory):
    """Files of 60 SAEs: every other one has half the error of the first, and the rest are equal to it."""
    folder, rng = tmp_path_factory.mktemp("sixty"), np.random.default_rng(0)
    two = documents(rng, 40, (0.2, 0.1), "d")
    return [
        save(folder, "reconstruction", {"document": two[i % 2]}, ["nmse"], f"lab/{'long-' * 8}{i}") for i in range(60)
    ]


@pytest.mark.parametrize("n", [9, 26, 27, 60])
def test_any_number_of_sides_is_a_table_a_metric_with_a_row_a_side(sixty, cli, n):
    code, out, _ = cli(*sixty[:n], "--pairs", "first")
    assert code == 0
    lines = out.splitlines()
    names = [label(i) for i in range(n)]
    assert [line.split(":")[0] for line in lines[:n]] == names
    (start,) = [i for i, line in enumerate(lines) if line.startswith("reconstruction, nmse ↓: A has 0.")]
    rows = lines[start + 4 : start + 3 + n]
    assert [row.split()[0] for row in rows] == names[1:]
    assert ["better" in row for row in rows] == [bool(i % 2) for i in range(1, n)]
    assert max(map(len, lines[start : start + 3 + n])) <= 100
    assert f"not for the number of SAEs, here {n - 1}" in out
    markdown = cli(*sixty[:n], "--pairs", "first", "--format", "markdown")[1]
    assert sum(line.startswith(f"| {names[-1]} ") for line in markdown.splitlines()) == 1


def test_a_side_has_the_same_verdict_beside_any_number_of_others(sixty, cli):
    def of_b(files):
        pairs = json.loads(cli(*files, "--format", "json", "--pairs", "first")[1])["comparisons"]
        return next(pair for pair in pairs if pair["b"] == "B")

    assert of_b(sixty[:2]) == of_b(sixty[:30])


@pytest.mark.parametrize(("n", "more", "pairs"), [
    (26, [], 325), (27, [], 26), (27, ["--pairs", "every"], 351), (26, ["--pairs", "first"], 25),
])  # fmt: skip
def test_pairs_of_many_sides_are_those_with_the_first(sixty, cli, n, more, pairs):
    content = json.loads(cli(*sixty[:n], "--format", "json", *more)[1])
    assert list(content["results"]) == [label(i) for i in range(n)]
    assert len(content["comparisons"]) == pairs
    told = [note for note in content["notes"] if "--pairs every compares all pairs" in note]
    assert len(told) == (n > 26 and not more)


def test_what_many_sides_have_in_common_is_said_once(tmp_path, cli):
    (table,) = documents(np.random.default_rng(0), 40, (0.2,), "d")
    tables = {"document": table}
    files = [save(tmp_path, "reconstruction", tables, ["nmse"], f"s{i}", units=i == 0) for i in range(12)]
    code, out, _ = cli(*files, "--pairs", "first")
    assert code == Exit.NOT_COMPARABLE
    (told,) = [line for line in out.splitlines() if line.startswith("reconstruction nmse, ")]
    assert told == "reconstruction nmse, B, C, D and 8 more: the second has no units, and only units can be compared"


def test_a_folder_of_many_saes_is_refused_before_any_unit_is_read(sixty, cli, monkeypatch):
    monkeypatch.setattr(store, "read_units", lambda *_: pytest.fail("units were read"))
    folder = sixty[0].parents[2]
    with pytest.raises(UsageError, match=r"holds results of 60 SAEs: .* and 50 more; give the folder of one") as caught:
        cli(folder, sixty[0])
    assert len(str(caught.value)) < 1200
