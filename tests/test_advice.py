"""Every advice can be followed: flags and verbs that messages and documents name exist, none is a name of Python."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from sae_bench.cli.main import VERBS, parser
from sae_bench.errors import UsageError
from sae_bench.judge import JudgeOptions
from sae_bench.judge.flags import FLAGS, told
from sae_bench.judge.prices import OVERRIDE
from sae_bench.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted((ROOT / "sae_bench").rglob("*.py"))
DOCUMENTS = sorted(
    [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "tasks").glob("*/*.md")]
    + [*(ROOT / "leaderboard").glob("*.toml")]
    + [path for path in (ROOT / "examples").rglob("*.md") if ".venv" not in path.parts]
)
_PACKAGE = ROOT / "sae_bench"
ABOUT_THE_JUDGE = sorted(
    [
        *(_PACKAGE / "judge").glob("*.py"),
        *(_PACKAGE / "tasks" / "autointerp").glob("*.py"),
        *(_PACKAGE / "cli").glob("judge*.py"),
        _PACKAGE / "judging.py",
    ]
)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
COMMAND = re.compile(r"(?:[`'(]|see: |Start with: |^)sae-bench (?P<rest>[a-z][^`'\n]*)", re.MULTILINE)
HOLE = "\N{OBJECT REPLACEMENT CHARACTER}"  # where an f-string puts a value
PYTHON_ALONE = {"concurrency"}  # options of a judge that no user of the command line can set
OTHER_PROGRAMS = {"--help", "--version"}
OF_PIP = {"--no-deps", "--disable-pip-version-check", "--no-input", "--no-cache-dir", "--only-binary", "--dest"}
OF_HF = {"--repo-type", "--revision"}  # of 'hf download', which messages on a hub out of reach give


def texts(file: Path) -> Iterator[tuple[int, str]]:
    """Every string of a module that is no docstring, with its line; parts of one sentence are one text."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, owners) and node.body and isinstance(node.body[0], ast.Expr)
    }
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (str(v.value) if isinstance(v, ast.Constant) else HOLE for v in node.values)
            yield node.lineno, "".join(parts)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
            yield node.lineno, node.value


@cache
def verbs() -> dict[str, argparse.ArgumentParser]:
    """The parser of every verb, as a user meets it."""
    actions = parser()._actions
    (found,) = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def flags_of(verb: str) -> set[str]:
    """Of a verb, and of the verbs inside it."""
    return {flag for one in (verbs()[verb], *inside(verb).values()) for a in one._actions for flag in a.option_strings}


def inside(verb: str) -> dict[str, argparse.ArgumentParser]:
    """The parsers of verbs of a verb."""
    nested = [a for a in verbs()[verb]._actions if isinstance(a, argparse._SubParsersAction)]
    return {name: one for action in nested for name, one in action.choices.items()}


def every_flag() -> set[str]:
    return {flag for verb in verbs() for flag in flags_of(verb)} | OTHER_PROGRAMS | OF_PIP


def wrong_commands(text: str) -> list[str]:
    """What is wrong with the commands of ours that a text names."""
    found = []
    for command in COMMAND.finditer(text.replace("\\\n", " ")):
        words = command["rest"].split()
        verb = words[0].rstrip(".,:;)")
        if verb not in verbs():
            found.append(f"there is no verb {verb!r}")
            continue
        found += [f"{verb} has no {flag}" for flag in FLAG.findall(command["rest"]) if flag not in flags_of(verb)]
        choices = next((a.choices for a in verbs()[verb]._actions if not a.option_strings and a.choices), None)
        given = words[1].rstrip(".,:;)") if len(words) > 1 else ""
        if choices is not None and re.fullmatch("[a-z]+", given) and given not in choices:
            found.append(f"{verb} has no {given!r}")
    return found


def python_names() -> re.Pattern[str]:
    """Names of options of the judge that only Python has, where a flag exists; those with one word are no names."""
    fields = {field.name for field in (*dataclasses.fields(JudgeOptions), *dataclasses.fields(Settings))}
    ours = {name for name in fields if "_" in name and (name in FLAGS or name.startswith("judge_"))}
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(sorted(ours))})\b|\bto None\b|\bset (?:temperature|seed)\b")


def messages(file: Path) -> Iterator[tuple[int, str]]:
    """The texts that are sentences: of several words, and no SQL."""
    for line, text in texts(file):
        if re.search(r"[a-z]{2}.* | .*[a-z]{2}", text) and not re.match(
            r"\s*(CREATE|SELECT|INSERT|PRAGMA|UPDATE)", text
        ):
            yield line, text


# ---------------------------------------------------------------- what the checks see


def test_the_checks_see_what_they_must_see(tmp_path: Path) -> None:
    """A test that reads no message passes whatever they say."""
    seen = [(text, file) for file in CODE for _, text in texts(file)]
    assert sum("--" in text for text, _ in seen) > 150
    assert any("raise" not in text and "--max-cost needs" in text for text, _ in seen)
    file = tmp_path / "module.py"
    file.write_text('"""Says --no-docstring."""\nX = f"give {1} --none-such " "or --another"\nY = "--third"\n')
    assert [text for _, text in texts(file)] == [f"give {HOLE} --none-such or --another", "--third"]
    assert wrong_commands("see `sae-bench rum --sae x`") == ["there is no verb 'rum'"]
    assert wrong_commands("(see: sae-bench ls tusks)") == ["ls has no 'tusks'"]
    assert wrong_commands("'sae-bench board --junit x'") == ["board has no --junit"]
    assert wrong_commands("    \nsae-bench run \\\n  --sae x \\\n  --no-such 1") == ["run has no --no-such"]
    assert not wrong_commands("sae-bench run --sae demo --tasks all and `sae-bench compare --other-text`")
    assert not wrong_commands("this sae-bench has version 3")
    names = python_names()
    for bad in ("max_cost needs both", "set temperature to None", "name it with api_key_env", "give judge_batch or"):
        assert names.search(bad), bad
    for fine in (
        "--max-cost needs both",
        "--judge-param temperature=none",
        "the module sae_bench.judge_x",
        "a timeout",
    ):
        assert not names.search(fine), fine


def test_every_verb_of_the_command_line_is_known_here() -> None:
    assert len(verbs()) == len(VERBS)
    assert {"run", "judge", "compare"} <= set(verbs())


# ---------------------------------------------------------------- messages and documents


@pytest.mark.parametrize("file", CODE, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_message_names_flags_and_verbs_that_exist(file: Path) -> None:
    known = every_flag() | OF_HF
    wrong = [f"line {line}: {flag}" for line, text in texts(file) for flag in FLAG.findall(text) if flag not in known]
    wrong += [f"line {line}: {fault}" for line, text in texts(file) for fault in wrong_commands(text)]
    assert not wrong


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_document_names_flags_and_verbs_that_exist(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not wrong_commands(text)
    spans = re.findall(r"(?<!`)`(--[a-z][^`\n]*)`(?!`)", text)  # a span that begins with a flag is about one of ours
    assert not [flag for span in spans for flag in FLAG.findall(span) if flag not in every_flag()]


@pytest.mark.parametrize("file", ABOUT_THE_JUDGE, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_message_about_the_judge_calls_options_by_their_flags(file: Path) -> None:
    """Nobody at a command line can "set temperature to None"."""
    allowed = re.compile(r"\bof a request\b|\bthe schema\b")  # a Request is made in Python alone
    wrong = [
        f"line {line}: {text}"
        for line, text in messages(file)
        if python_names().search(text) and not allowed.search(text)
    ]
    assert not wrong


# ---------------------------------------------------------------- options of the judge


def test_every_option_of_the_judge_has_a_flag_that_exists_or_is_pythons_alone() -> None:
    fields = {field.name for field in dataclasses.fields(JudgeOptions)}
    assert fields - set(FLAGS) == PYTHON_ALONE
    assert set(FLAGS) <= fields
    known = flags_of("run")
    assert not [flag for flag in (*FLAGS.values(), *FLAG.findall(OVERRIDE)) if flag.split()[0] not in known]


BAD = {
    "model": " ", "base_url": "nowhere", "api_key_env": "sk-1", "endpoint_id": " ", "timeout": 0, "temperature": 9,
    "seed": -1, "reply_tokens": 0, "fingerprint": "some", "cache": 7, "max_requests": -1, "max_tokens": -1,
    "max_cost": -1, "price_in": -1, "price_out": -1, "params": {"1": 1}, "headers": {" ": "x"}, "concurrency": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_called_by_its_flag(name: str) -> None:
    with pytest.raises(UsageError) as refusal:
        JudgeOptions(**{"model": "m", name: BAD[name]})  # type: ignore[arg-type]
    said = str(refusal.value)
    assert told(name) in said
    assert not python_names().search(said)


def test_every_option_has_a_bad_value_here() -> None:
    assert set(BAD) | {"cache_only"} == {field.name for field in dataclasses.fields(JudgeOptions)}
