"""What a judge costs where nobody gives its prices: known prices have a date and a host, and are never guessed."""

import datetime
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sae_bench import judging
from sae_bench.cli.main import main, parser
from sae_bench.errors import UsageError
from sae_bench.judge import JudgeOptions, prices
from sae_bench.judge.prices import Price, known
from sae_bench.parsing import read_toml
from sae_bench.settings import Settings
from tests.builders.judged_runs import make, run_of

OPENAI = "api.openai.com"


def options(**given: Any) -> JudgeOptions:
    made = judging.judge_options(Settings(judge_model=given.pop("model", "gpt-4o-mini"), **given))
    assert made is not None
    return made


def said(made: JudgeOptions) -> str:
    """What stands beside the forecast of a cost."""
    price = made.price
    return "" if price is None else price.said


@pytest.fixture(autouse=True)
def without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_a_known_judge_has_a_price_with_its_date() -> None:
    assert known(OPENAI, "gpt-4o-mini") == Price(0.15, 0.60, "2026-06-04")
    assert known("API.OpenAI.com.", "gpt-4.1") == Price(2.0, 8.0, "2026-06-04"), "hosts have no case"


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("o4-mini-2025-04-16", "o4-mini"),
        ("gpt-5-2025-08-07", "gpt-5"),
    ],
)
def test_a_dated_snapshot_has_the_price_of_its_family(model: str, family: str) -> None:
    assert known(OPENAI, model) == known(OPENAI, family) is not None


def test_a_snapshot_with_a_price_of_its_own_has_that() -> None:
    first = known(OPENAI, "gpt-4o-2024-05-13")
    assert first is not None
    assert (first.price_in, first.price_out) == (5.0, 15.0)


@pytest.mark.parametrize(
    ("host", "model"),
    [
        ("localhost", "gpt-4o-mini"),
        ("127.0.0.1", "gpt-4o-mini"),
        ("openrouter.ai", "gpt-4o-mini"),
        ("mine.openai.azure.com", "gpt-4o-mini"),
        ("eu.api.openai.com", "gpt-4o-mini"),
        ("api.openai.com.evil.example", "gpt-4o-mini"),
        (OPENAI, "ft:gpt-4o-mini-2024-07-18:me::1"),
        (OPENAI, "gpt-4o-mini-search-preview"),
        (OPENAI, "gpt-4o-audio-preview-2024-12-17"),
        (OPENAI, "openai/gpt-4o-mini"),
        (OPENAI, "gpt-4o-mini-2024-07"),
        (OPENAI, "GPT-4o"),
        (OPENAI, ""),
        ("", ""),
        ("api.anthropic.com", "gpt-4o-mini"),
    ],
)
def test_what_is_not_known_has_no_price_rather_than_a_near_one(host: str, model: str) -> None:
    assert known(host, model) is None


def test_every_price_has_a_source_a_date_in_the_past_and_more_for_what_comes_out() -> None:
    content = read_toml(prices.FILE, UsageError)["prices"]
    pairs = [(block["host"], model) for block in content for model in block["models"]]
    assert len(set(pairs)) == len(pairs), "a model is listed once"
    for block in content:
        assert block["source"].startswith("https://")
        assert datetime.date(2025, 1, 1) < block["as_of"] <= datetime.date.today()
        for model, (into, out) in block["models"].items():
            assert 0 < into < out < 1000, model


def test_a_run_takes_the_known_price_and_says_of_when_it_is() -> None:
    made = options()
    assert made.cost(1e6, 1e6) == pytest.approx(0.75)
    assert said(made) == "prices of 2026-06-04 in US dollars; --price-in and --price-out override"


def test_given_prices_stand_above_the_known_ones() -> None:
    made = options(price_in=1.0, price_out=2.0)
    assert made.cost(1e6, 1e6) == 3.0
    assert said(made) == ""
    assert options(price_in=0.0, price_out=0.0).cost(1e6, 1e6) == 0.0, "0 is a price too"


@pytest.mark.parametrize("one", [{"price_in": 1.0}, {"price_out": 1.0}])
def test_one_given_price_is_not_completed_by_a_known_one(one: dict[str, float]) -> None:
    assert options(**one).cost(1e6, 1e6) is None


def test_a_limit_of_cost_needs_no_flags_where_the_price_is_known() -> None:
    assert options(max_cost=1.0).max_cost == 1.0
    for elsewhere in ({"judge_base_url": "http://localhost:8000/v1"}, {"model": "my-model"}):
        with pytest.raises(UsageError, match="--price-in and --price-out"):
            options(max_cost=1.0, **elsewhere)


def test_a_local_judge_costs_something_unknown_and_never_nothing() -> None:
    made = options(judge_base_url="http://localhost:8000/v1")
    assert made.cost(1e6, 1e6) is None
    assert said(made) == ""


def test_the_end_of_a_run_says_which_prices_its_cost_is_made_of() -> None:
    used: dict[str, Any] = {"requests": 2, "tries": 2, "tokens_in": 10, "tokens_out": 5, "tokens_of_thoughts": 0}
    used |= {
        "tries_without_count": 0,
        "cost": 0.25,
        "prices": "prices of 2026-06-04 in US dollars; --price-in and --price-out override",
    }
    assert judging.spent(used).endswith(
        "cost 0.2500 (prices of 2026-06-04 in US dollars; --price-in and --price-out override)"
    )
    assert "prices of" not in judging.spent({name: value for name, value in used.items() if name != "prices"})


def test_the_sentence_beside_a_cost_names_flags_that_exist() -> None:
    args = parser().parse_args(["run", "--sae", "x", "--price-in", "1", "--price-out", "2"])
    assert re.findall(r"--[\w-]+", prices.OVERRIDE) == ["--price-in", "--price-out"]
    assert (args.price_in, args.price_out) == (1.0, 2.0)


def test_another_service_tier_has_no_known_price() -> None:
    """Flex costs half, priority twice as much."""
    url = "https://api.openai.com/v1"
    assert prices.of((None, None), url, "gpt-4o", {"service_tier": "default"}) == known(OPENAI, "gpt-4o")
    assert prices.of((None, None), url, "gpt-4o", {"service_tier": "flex"}) is None
    assert prices.of((1.0, 2.0), url, "gpt-4o", {"service_tier": "flex"}) == Price(1.0, 2.0, None)


def test_the_options_of_another_judge_do_not_keep_the_price_of_the_first() -> None:
    assert replace(options(), model="my-model").price is None
    assert JudgeOptions("gpt-4.1", max_cost=1.0).cost(1e6, 0) == 2.0, "from Python as from the command line"


def test_a_dry_run_prices_a_known_judge_and_says_of_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path)
    given = [*run_of(tmp_path), "--dry-run", "--out", tmp_path / "runs", "--judge-cache", tmp_path / "judge.sqlite"]
    given += ["--judge-model", "gpt-4o-mini-2024-07-18", "--max-cost", "1"]
    assert main([str(one) for one in given]) == 0
    out = capsys.readouterr().out
    cost = re.search(r"^cost of the judge, roughly: +(\S+)$", out, re.MULTILINE)
    assert cost is not None
    assert float(cost[1]) > 0
    assert re.search(r"^prices of the judge: +prices of 2026-06-04 in US dollars; --price-in and", out, re.MULTILINE)
    assert main([*map(str, given), "--price-in", "1", "--price-out", "1"]) == 0
    assert "prices of the judge" not in capsys.readouterr().out
