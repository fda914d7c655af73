"""Thousands of results: what is kept of each in memory, and that nothing is asked of all pairs of them."""

import gc
import json
import sys
import tracemalloc

import numpy as np
import pytest

from sae_bench.board import collect, columns, layout, page, ranks
from sae_bench.cli.main import main
from sae_bench.errors import ResultError
from sae_bench.files import NotFinite, json_levels, strict_json
from sae_bench.registry import tasks
from sae_bench.results import store, unit_files
from sae_bench.results.heads import SAID, Heads, whole
from sae_bench.schema import MetricValue, Result
from sae_bench.show import judges, marks
from sae_bench.show.details import Said, found
from sae_bench.show.results import bounded_cautions
from sae_bench.units import Units
from tests.builders.boards import COLUMNS, put
from tests.builders.marks import slow_but
from tests.builders.results import changed

LONG = {"outputs": [{"latent": i, "text": "x" * 100, "n": i / 7} for i in range(200)]}  # 30 kB of JSON
VALUES = {"l0": 32.0, "dead_fraction": 0.25, "l1": 3.0}


def copies(folder, n, task="sparsity", **more):
    """``n`` results of as many SAEs at one hook point, with long details and eight controls."""
    file = put(folder, "lab/sae_0", task, VALUES, details=LONG, **more)
    content = json.loads(file.read_text())
    content["controls"] = {f"control{i}": content["metrics"] for i in range(8)}
    for i in range(n):
        content["sae"] |= {"name": f"lab/sae_{i}", "weights_sha256": f"{i:064x}"}
        own = folder / f"sae_{i}" / "0" / file.name
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps(content))
    file.unlink()
    return folder


def alive():
    """Results in memory that hold all of their details, of those made since the last ``gc.freeze``."""
    return sum(type(one) is Result and not isinstance(one.details, Said) for one in gc.get_objects())


def peak(function):
    """Bytes of Python objects at the peak of a call."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    return copies(tmp_path_factory.mktemp("hundred"), 100)


# --- memory ----------------------------------------------------------------------------------------------------------


def most_alive(monkeypatch, run):
    """The most whole results that are in memory while results are read."""
    counts, read = [], store.read

    def counted(file):
        counts.append(alive() + 1)
        return read(file)

    monkeypatch.setattr(store, "read", counted)
    gc.freeze()  # what other tests and imports have made is not walked through at every read
    run()
    assert len(counts) >= 12
    return max(counts)


COMMANDS = [
    ["ls", "results", "--out", "FOLDER"],
    ["ls", "results", "--json", "--out", "FOLDER"],
    ["show", "FOLDER"],
    ["show", "--json", "FOLDER"],
    ["board", "FOLDER"],
    ["board", "FOLDER", "--format", "csv"],
    ["board", "FOLDER", "--format", "json"],
    ["board", "FOLDER", "--format", "html"],
    ["submit", "FOLDER", "--check-only"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_holds_few_whole_results_at_once(tmp_path, monkeypatch, capsys, words):
    if "html" in words:
        pytest.importorskip("vl_convert")
    copies(tmp_path, 12)
    command = [str(tmp_path) if word == "FOLDER" else word for word in words]
    assert most_alive(monkeypatch, lambda: main(command)) <= 3
    assert capsys.readouterr()


@pytest.mark.parametrize("words", slow_but(1, COMMANDS[:2] + COMMANDS[4:5]), ids=" ".join)
def test_what_a_further_result_costs_is_a_small_part_of_its_file(tmp_path, hundred, capsys, words):
    few, size = copies(tmp_path, 20), next(store.find(hundred)).stat().st_size

    def run(folder):
        return lambda: main([str(folder) if word == "FOLDER" else word for word in words])

    run(few)()
    each = (peak(run(hundred)) - peak(run(few))) / 80
    assert each < size / 2, f"{each:.0f} bytes of {size}"


def test_a_head_keeps_what_stands_beside_figures_and_shares_the_rest(tmp_path):
    told = {
        "cautions": ["read this"],
        "unanswered": 3,
        "judge": {"models": ["m"]},
        "controls_marked": {"mean": {"mark": "partial", "why": "x"}},
    }
    files = [put(tmp_path, name, "sparsity", VALUES, details={**told, **LONG}) for name in "ab"]
    heads, results = Heads(tasks()), [store.read(file) for file in files]
    a, b = (heads.read(file) for file in files)
    for ask in (marks.of, marks.of_controls, marks.to_json, marks.ranked, judges.identity, bounded_cautions):
        assert ask(a) == ask(results[0])
    assert set(a.details) == set(told) <= SAID
    assert (a.controls, a.definition) == ({}, None)
    assert a.provenance is b.provenance
    assert whole(files[0], a) == results[0]
    with pytest.raises(TypeError, match="read the result file again"):
        found(a, tasks())


def test_a_definition_is_kept_only_of_tasks_that_are_not_installed(tmp_path):
    file = put(tmp_path, "a", "sparsity", VALUES)
    result = store.read(file).model_copy(update={"definition": tasks()["sparsity"]})
    assert Heads(tasks()).of(result).definition is None
    heads = Heads({})
    assert (
        heads.of(result).definition
        is heads.of(store.read(file).model_copy(update={"definition": tasks()["sparsity"].model_copy()})).definition
    )


@pytest.mark.parametrize(
    ("path", "value"), [(("metrics", "l0", "value"), 32.5), (("sae", "name"), "other"), (("status",), "degraded")]
)
def test_a_file_that_changes_while_results_are_read_is_no_mixture(tmp_path, path, value):
    file = put(tmp_path, "a", "sparsity", VALUES)
    head = Heads(tasks()).read(file)
    changed(file, *path, value=value)
    with pytest.raises(ResultError, match="was changed while results were read"):
        whole(file, head)


def test_the_page_tells_of_such_a_file(tmp_path):
    pytest.importorskip("vl_convert")
    file = put(tmp_path, "a", "sparsity", VALUES, details=LONG)
    collection, wanted = collect.collect(tmp_path, tasks()), columns.read_columns(COLUMNS, tasks())
    board = layout.make(collection, wanted)
    changed(file, "metrics", "l0", "value", value=32.5)
    made, (problem,) = page.as_html(board, collection, wanted)
    assert problem.startswith(f"{file} was changed while results were read")
    assert "its details are not shown" in made


# --- nothing is asked of all pairs --------------------------------------------------------------------------------


def calls(run):
    """Calls of Python functions, which count work without a clock."""
    n = 0

    def count(_frame, event, _argument):
        nonlocal n
        n += event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return n


@pytest.mark.parametrize("words", [COMMANDS[0], *COMMANDS[2:7]], ids=" ".join)
@pytest.mark.parametrize("what", slow_but(1, ["SAEs", "hook points", "seeds of one SAE"]))
def test_four_times_the_results_are_four_times_the_work(tmp_path, capsys, words, what):
    def folder(n):
        for i in range(n):
            name, hook = ("a", "blocks.0") if what == "seeds of one SAE" else (f"s{i}", "blocks.0")
            hooks = (f"blocks.{i}",) if what == "hook points" else (hook,)
            seed = i if what == "seeds of one SAE" else 0
            put(tmp_path / f"{n}", name, "sparsity", VALUES, hooks_in=hooks, hooks_out=hooks, seed=seed)
        return str(tmp_path / f"{n}")

    few, many = folder(15), folder(60)
    work = []
    for one in (few, few, many):
        work.append(calls(lambda one=one: main([one if word == "FOLDER" else word for word in words])))
    assert work[2] < 4.6 * work[1]


def test_ranks_of_many_take_no_table_of_all_pairs():
    values = [
        MetricValue(value=i, low=i - 2.5, high=i + 2.5, unit="1", better="lower", n_units=9) for i in range(20_000)
    ]
    assert peak(lambda: ranks.from_intervals(values, "lower")) < 200 * len(values)
    assert ranks.from_intervals(values[:9], "lower") == [(max(1, i - 4), min(9, i + 6)) for i in range(9)]


# --- one pass over the text ------------------------------------------------------------------------------------------


def test_a_whole_result_is_not_walked_through(tmp_path, monkeypatch):
    file = put(tmp_path, "a", "sparsity", VALUES, details=LONG)
    monkeypatch.setattr(store, "_not_finite", lambda *_: pytest.fail("walked"))
    assert store.read(file).details == LONG


@pytest.mark.parametrize("text", ["NaN", "[1, -Infinity]", '{"a": {"b": 1e999}}', "-1e400", "9" * 400 + ".0"])
def test_a_number_that_is_none_is_seen_while_it_is_read(text):
    with pytest.raises(NotFinite):
        strict_json(text, finite=True)
    strict_json(text)


@pytest.mark.parametrize(("content", "levels"), [
    (1, 0), ([], 1), ({"a": []}, 2), ([[], {"b": [1]}], 3), ({'"[[[': ['\\"]', "\\", {"{": "]}"}]}, 3), ("[[[", 0),
    ({"ü[": "\u2028["}, 1),
])  # fmt: skip
def test_levels_are_counted_in_the_text(content, levels):
    for ascii_only in (True, False):
        assert json_levels(json.dumps(content, ensure_ascii=ascii_only), 100) == levels


@pytest.mark.parametrize(("n", "said"), [(90, None), (101, "nested deeper than 100 levels"), (5000, "nested")])
def test_details_that_are_nested_too_deeply_are_refused(tmp_path, n, said):
    file = put(tmp_path, "a", "sparsity", VALUES, details={"deep": "DEEP"})
    file.write_text(file.read_text().replace('"DEEP"', "[" * n + "1" + "]" * n))
    if said is None:
        assert store.read(file)
        return
    with pytest.raises(ResultError, match=said):
        store.read(file)


@pytest.mark.parametrize("words", [COMMANDS[0], COMMANDS[4]], ids=" ".join)
def test_units_are_not_opened_where_nobody_asks_for_them(tmp_path, monkeypatch, capsys, words):
    for i in range(14):  # more than a board compares by pairs
        put(tmp_path, f"s{i}", "sparsity", VALUES, tables={"document": Units(("a",), {"n": np.ones(1)})})
    for module, name in ((store, "read_units"), (store, "check_units"), (unit_files, "check"), (unit_files, "sha256")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("units were opened"))
    assert main([str(tmp_path) if word == "FOLDER" else word for word in words]) == 0
    assert "s13" in capsys.readouterr().out


def test_a_damaged_file_among_many_is_passed_over_with_its_sentence(tmp_path, capsys):
    copies(tmp_path, 3)
    bad = sorted(store.find(tmp_path))[1]
    bad.write_text(bad.read_text().replace('"latent": 7,', '"latent": 7, "latent": 8,'))
    for command in (["ls", "results", "--out", str(tmp_path)], ["show", str(tmp_path)], ["board", str(tmp_path)]):
        assert main(command) == 0
        out, err = capsys.readouterr()
        assert f"{bad} is not valid JSON (the key 'latent' stands twice in one object)" in err
        assert "sae_0" in out
        assert "sae_2" in out
    assert main(["check", str(bad)]) == 2


def test_what_is_printed_of_a_folder_is_one_document_of_json(tmp_path, capsys):
    copies(tmp_path, 2)
    assert main(["show", "--json", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    content = json.loads(out)
    assert out == json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    assert [one["details"] for one in content["results"]] == [LONG, LONG]
    assert [len(content[name]) for name in ("results", "blocks", "marks")] == [2, 2, 2]
