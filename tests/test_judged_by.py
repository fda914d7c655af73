"""Results of different judges are never held against each other in silence: not compared, gated, ranked or plotted."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_bench.cli.main import main
from sae_bench.results import store
from sae_bench.show import judges
from tests.builders.comparisons import save
from tests.builders.judged_results import JUDGE, NEW, TASK, judged, latents, old

Cli = Callable[..., tuple[int, str, str]]
GATE = "[autointerp.detection]\nallowed_loss = 0.5\n"

PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {  # two results, and what names each judge
    "another model": (
        {"parameters": NEW},
        {"parameters": NEW | {"judge": "qwen", "judge_model": "qwen3-8b"}},
        "gpt-4o-2024-08-06 (asked for as gpt-4o) at api.openai.com/v1",
        "qwen3-8b (asked for as qwen) at api.openai.com/v1",
    ),
    "another snapshot": (
        {"parameters": NEW},
        {"parameters": NEW | {"judge_model": "gpt-4o-2024-11-20"}},
        "gpt-4o-2024-08-06 (asked for as gpt-4o) at api.openai.com/v1",
        "gpt-4o-2024-11-20 (asked for as gpt-4o) at api.openai.com/v1",
    ),
    "another endpoint": (
        {"parameters": NEW},
        {"parameters": NEW | {"judge_endpoint": "localhost:8000/v1"}},
        "at api.openai.com/v1",
        "at localhost:8000/v1",
    ),
    "another fingerprint": (
        {"parameters": NEW | {"judge_fingerprint": "fp_1"}},
        {"parameters": NEW | {"judge_fingerprint": "fp_2"}},
        "with the fingerprint fp_1",
        "with the fingerprint fp_2",
    ),
    "another provider": (
        {"parameters": NEW | {"judge_provider": "Azure"}},
        {"parameters": NEW},
        "from the provider Azure",
        "from the provider none",
    ),
    "other parameters": (
        {"parameters": NEW | {"judge_params": {"reasoning_effort": "low"}}},
        {"parameters": NEW | {"judge_params": {"reasoning_effort": "high"}}},
        "with the parameters reasoning_effort=low",
        "with the parameters reasoning_effort=high",
    ),
    "another temperature": (
        {"parameters": NEW},
        {"parameters": NEW | {"temperature": None}},
        "at temperature 0.0",
        "at temperature none",
    ),
    "old, another answered": (
        {"details": old("m-1")},
        {"details": old("m-2")},
        "m-1 (asked for as gpt-4o) at an endpoint that the result does not name",
        "m-2 (asked for as gpt-4o) at an endpoint that the result does not name",
    ),
    "old, one of two answered too": (
        {"details": old("m-1")},
        {"details": old("m-1", "m-2")},
        "by m-1 (",
        "by m-1 and m-2 (",
    ),
    "old, one does not say": (
        {"details": old("gpt-4o")},
        {},
        "judged by gpt-4o at",
        "(the result does not say which model answered)",
    ),
    "old and new": (
        {"details": old("gpt-4o-2024-08-06")},
        {"parameters": NEW},
        "at an endpoint that the result does not name",
        "at api.openai.com/v1",
    ),
}


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: Any) -> tuple[int, str, str]:
        code = main([str(one) for one in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def two(folder: Path, name: str, second: str = "b") -> tuple[Path, Path]:
    one, other, _, _ = PAIRS[name]
    return judged(folder / "a", "a", 1, level=0.4, **one), judged(folder / "b", second, 2, level=0.7, **other)


@pytest.mark.parametrize("name", PAIRS)
def test_compare_refuses_and_names_both_judges(cli: Cli, tmp_path: Path, name: str) -> None:
    a, b = two(tmp_path, name)
    for more in ([], ["--other-text"]):
        code, out, err = cli("compare", a, b, *more)
        assert (code, out) == (3, "")
        assert err.count("\n") == 1
        first, second = PAIRS[name][2:]
        assert "different judges" in err
        assert err.index(first) < err.rindex(second)


@pytest.mark.parametrize("name", PAIRS)
def test_check_refuses_a_baseline_of_another_judge(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "gates.toml").write_text(GATE)
    a, b = two(tmp_path, name, "a")
    for baseline in (a, tmp_path / "a"):
        code, _, err = cli("check", b, "--baseline", baseline, "--gates", tmp_path / "gates.toml")
        assert code == 3
        assert "different judges" in err
        assert all(words in err for words in PAIRS[name][2:])


@pytest.mark.parametrize("name", PAIRS)
def test_the_board_has_a_column_for_each_judge(cli: Cli, tmp_path: Path, name: str) -> None:
    two(tmp_path, name)
    tables = json.loads(cli("board", tmp_path, "--format", "json")[1])["tables"]
    assert sorted([row["sae"] for row in table["rows"]] for table in tables) == [["a"], ["b"]]
    assert all(score["rank"] is None for table in tables for row in table["rows"] for score in row["scores"].values())
    out = cli("board", tmp_path)[1]
    assert out.count("judged by") == 2


@pytest.mark.parametrize("name", PAIRS)
def test_one_sae_of_two_judges_is_no_duplicate_and_has_two_axes(cli: Cli, tmp_path: Path, name: str) -> None:
    pytest.importorskip("jinja2")
    one, other, _, _ = PAIRS[name]
    for folder, given in (("a", one), ("b", other)):
        judged(tmp_path / folder, "same", 1, **given)
        judged(tmp_path / folder, folder, 2, **given)
    tables = json.loads(cli("board", tmp_path, "--format", "json")[1])["tables"]
    assert sorted(sorted(row["sae"] for row in table["rows"]) for table in tables) == [["a", "same"], ["b", "same"]]
    page = cli("board", tmp_path, "--format", "html")[1]
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    axes = [
        axis["title"]
        for place in data["places"]
        for axis in place["axes"]
        if axis["key"].startswith("autointerp.detection")
    ]
    assert len(set(axes)) == 2, axes


@pytest.mark.parametrize("name", PAIRS)
def test_one_judge_is_compared_ranked_and_checked_as_before(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "gates.toml").write_text(GATE)
    for i, given in enumerate(PAIRS[name][:2]):
        folder = tmp_path / str(i)
        a, b = (judged(folder / sae, sae, seed, **given) for sae, seed in (("a", 1), ("b", 2)))
        assert cli("compare", a, b)[0] == 0
        assert cli("check", b, "--baseline", a, "--gates", tmp_path / "gates.toml")[0] == 0
        (table,) = json.loads(cli("board", folder, "--format", "json")[1])["tables"]
        assert [row["scores"]["autointerp.detection"]["rank"] is not None for row in table["rows"]] == [True, True]


def test_what_differs_besides_the_judge_is_said_too(cli: Cli, tmp_path: Path) -> None:
    alike = {"task_sha256": "1" * 64}
    a = judged(tmp_path / "a", "a", 1, parameters=NEW | {"latents": 6}, **alike)
    elsewhere = NEW | {"judge_endpoint": "localhost:1/v1", "latents": 7}
    b = judged(tmp_path / "b", "b", 2, parameters=elsewhere, mask="none", **alike)
    err = cli("compare", a, b)[2]
    assert "at api.openai.com/v1, and the second by" in err
    assert "differ in mask ('special' and 'none'), parameters.latents (6 and 7) too" in err


def test_other_parameters_of_one_judge_are_named_one_by_one(cli: Cli, tmp_path: Path) -> None:
    a = judged(tmp_path / "a", "a", 1, parameters=NEW | {"latents": 6}, task_sha256="1" * 64)
    b = judged(tmp_path / "b", "b", 2, parameters=NEW, task_sha256="1" * 64)
    err = cli("compare", a, b)[2]
    assert "differ in parameters.latents (6 and as defined)" in err
    assert "judge" not in err


def test_results_that_nobody_judged_have_no_judge(tmp_path: Path) -> None:
    one = store.read(save(tmp_path, TASK, latents(1), ("detection",), parameters={"latents": 6}, n_documents=64))
    assert judges.identity(one) == ()
    assert not judges.judged(one)


@pytest.mark.parametrize("served", [None, [], "m", {"models": "m"}, {"models": None}, {"models": [1, None]}, {}])
def test_details_from_elsewhere_name_a_judge_or_none_and_never_raise(tmp_path: Path, served: Any) -> None:
    one = store.read(judged(tmp_path, details={"judge": served}))
    assert judges.identity(one)
    assert judges.in_words(one).isprintable()


def test_words_are_bounded_and_printable(tmp_path: Path) -> None:
    models = [f"m\x1b[31m{i}" + "x" * 300 for i in range(9)]
    one = store.read(judged(tmp_path, parameters=JUDGE | {"judge_endpoint": "a\nb" * 200}, details=old(*models)))
    words = judges.in_words(one, also=tuple(judges.FIELDS))
    assert words.isprintable()
    assert len(words) < 500
