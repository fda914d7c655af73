"""What is stated of a setting is what its flag, its checks and its suites go by."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest

from sae_bench.cli import run_flags
from sae_bench.cli.main import parser
from sae_bench.errors import UsageError
from sae_bench.settings import Settings, Stated, of
from sae_bench.suites import keep

FLAGS = {name: stated for name, stated in of(Settings).items() if stated.group is not None}
PAIRS = {
    "parameters": ("token_rules.latents=8", {"token_rules.latents": 8}),
    "judge_params": ("top_p=0.5", {"top_p": 0.5}),
    "judge_headers": ("X-Title=t", {"X-Title": "t"}),
}


def said(stated: Stated) -> tuple[list[str], object]:
    """Words of a command line that give the setting a value, and the value that it must have."""
    if stated.many:
        text, value = PAIRS[stated.name]
        return [stated.flag, text], value
    if stated.type is bool:
        return [stated.flag], not stated.default
    if stated.choices:
        return [stated.flag, stated.choices[-1]], stated.choices[-1]
    if stated.type is not None:
        return [stated.flag, "37"], stated.type(37)
    return [stated.flag, "hf"], "hf"  # a back end too


@pytest.mark.parametrize("name", FLAGS)
def test_the_flag_of_a_setting_gives_it_its_value(name: str) -> None:
    words, value = said(FLAGS[name])
    given = run_flags.settings(parser().parse_args(["run", "demo", *words]))
    assert {key: one for key, one in given.items() if key != "out" or name == "out"} == {name: value}
    assert getattr(Settings(**{name: given[name]}), name) == value


@pytest.mark.parametrize("name", [name for name, stated in FLAGS.items() if stated.choices])
def test_words_that_may_not_be_chosen_are_refused_from_python_and_on_the_command_line(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be one of {', '.join(FLAGS[name].choices)}"):
        Settings(**{name: "nothing"})
    with pytest.raises(UsageError, match=f"argument {FLAGS[name].flag}: invalid choice: 'nothing'"):
        parser().parse_args(["run", "demo", FLAGS[name].flag, "nothing"])


@pytest.mark.parametrize("name", [name for name, stated in of(Settings).items() if stated.least is not None])
def test_a_number_below_the_least_is_refused(name: str) -> None:
    least = of(Settings)[name].least
    assert least is not None
    with pytest.raises(UsageError, match=f"{name} must be at least {least}, but it is {least - 1}"):
        Settings(**{name: least - 1})


def test_a_setting_that_is_of_what_is_measured_keeps_a_run_from_the_suite_of_its_model() -> None:
    for name, stated in FLAGS.items():
        words, value = said(stated)
        assert bool(keep.said({name: value})) == (stated.suite is not None), words
    assert not keep.said({"judge_params": {}, "limit": None})


@pytest.mark.parametrize("words", [["--null", "none"], []])
def test_a_judge_that_is_asked_for_nothing_more_leaves_a_run_its_suite(words: list[str]) -> None:
    """As it was before the flag had no default of its own."""
    assert not keep.said(run_flags.settings(parser().parse_args(["run", "demo", *words])))
    assert not keep.said({"null": "none"})
    assert keep.said({"null": "untrained"}) == ["null"]


@pytest.mark.parametrize("name", [name for name, stated in of(Settings).items() if stated.choices])
@pytest.mark.parametrize("value", [np.array(["auto", "none"]), ["auto"], None, 1])
def test_what_is_no_word_is_no_choice(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"{name} must be one of "):
        Settings(**{name: value})


@dataclass(frozen=True)
class More(Settings):
    """Settings of someone's own program, with a field that this package knows nothing of."""

    note: str = "a"
    numbers: tuple[int, ...] = (1,)


def test_settings_may_be_extended_copied_and_sent_to_another_process() -> None:
    one = More(limit=3, parameters={"a.b": 1}, note="b")
    assert (one.limit, one.note, of(More)["note"].group) == (3, "b", None)
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert replace(one, limit=4).limit == 4
    with pytest.raises(UsageError, match="limit must be at least 1"):
        replace(one, limit=0)


def test_what_a_suite_fixes_is_stated_of_the_settings() -> None:
    from sae_bench.suites.record import every

    (first, *_) = every().values()
    fixed = {name for name, stated in of(Settings).items() if stated.suite in ("fixed", "reads")}
    assert set(keep.values(first.suite)) == fixed
