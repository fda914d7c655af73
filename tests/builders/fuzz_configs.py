"""Damage to configurations in JSON and YAML: fields with hostile values, fields that are missing, text that is none."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from tests.builders.fuzz_archives import Mutators
from tests.builders.layout_parts import HOOK

LONG = "y" * 100_000
NESTED: list[Any] = []
for _ in range(300):
    NESTED = [NESTED]
HOSTILE = (
    *(None, [], {}, "x", "", -1, 0, 1e308, float("nan"), float("inf"), 10**400, 2**70, True, False, LONG, NESTED),
    *("a\nb\x1b[2J\u202e", 0.5, [None], {"a": []}, ["x"], HOOK, 8.0, "8", [8, -1], 10**9, [8] * 40_000),
)
Path_ = tuple[str, ...]


def configs(config: dict[str, Any]) -> list[tuple[str, Callable[[random.Random, dict[str, Any]], None]]]:
    """Every field, also of nested sections, with a hostile value; and some fields removed, renamed, added."""
    paths: list[Path_] = [(key,) for key in config]
    paths += [(key, below) for key, value in config.items() if isinstance(value, dict) for below in value]
    found = [("config: a hostile value", _edit(_hostile, path)) for path in paths]
    found += [("config: a field removed", _edit(lambda rng, section, key: section.pop(key))) for _ in range(4)]
    found += [("config: a field renamed", _edit(_renamed)) for _ in range(2)]
    found += [("config: a field more", _edit(lambda rng, section, key: section.update({"x" * 3000: 1})))]
    return [*found, ("config: all hostile", lambda rng, c: c.update({key: rng.choice(HOSTILE) for key in c}))]


def _edit(
    change: Callable[[random.Random, dict[str, Any], str], Any], path: Path_ = ()
) -> Callable[[random.Random, dict[str, Any]], None]:
    """``change`` on the field at ``path``, or on one chosen by chance."""

    def edit(rng: random.Random, config: dict[str, Any]) -> None:
        key = path[0] if path else rng.choice(list(config))
        nested = config[key] if isinstance(config[key], dict) and config[key] else None
        below = path[1] if len(path) == 2 else rng.choice(list(nested)) if nested and not path else None
        change(rng, config if below is None else config[key], key if below is None else below)

    return edit


def _hostile(rng: random.Random, section: dict[str, Any], key: str) -> None:
    section[key] = rng.choice(HOSTILE)


def _renamed(rng: random.Random, section: dict[str, Any], key: str) -> None:
    section[f"{key}2"] = section.pop(key)


TEXT: Mutators = {
    "not UTF-8": lambda rng, content: content.replace(b"e", b"\xff\xfe", 1),
    "UTF-16": lambda rng, content: content.decode().encode("utf-16"),
    "with a byte order mark": lambda rng, content: b"\xef\xbb\xbf" + content,
    "a null": lambda rng, content: b"null",
    "a number": lambda rng, content: b"7",
    "a huge number": lambda rng, content: b"9" * 10_000,
    "a list": lambda rng, content: b"[1, 2]",
    "an empty mapping": lambda rng, content: b"{}",
    "deep lists": lambda rng, content: b"[" * 100_000,
    "deep mappings": lambda rng, content: b'{"a":' * 100_000,
    "huge": lambda rng, content: content.rstrip()[:-1] + b" " * (2 << 20),
}
JSON: Mutators = {
    "a comma lost": lambda rng, content: content.replace(b",", b"", 1),
    "the same key twice": lambda rng, content: content.replace(b"{", b'{"d_in": [], "d_in": {}, ', 1),
    "many lists": lambda rng, content: content.rstrip()[:-1] + b', "zz": [' + b"[]," * 100_000 + b"0]}",
}
_LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
_MERGES = "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
YAML: Mutators = {
    "a tab": lambda rng, content: content.replace(b": ", b":\t- ", 1),
    "an object": lambda rng, content: content + b"x: !!python/object/apply:os.system ['true']\n",
    "odd keys": lambda rng, content: content + b"1: 2\nnull: 3\n[a, b]: 4\n2020-01-01: 5\n",
    "odd types": lambda rng, content: content + b"x: !!binary aaaa\ny: !!set {a, b}\nz: 2020-01-01\n",
    "huge hexadecimal": lambda rng, content: content.replace(b": ", b": 0x" + b"f" * 9000 + b" #", 1),
    "alias bomb": lambda rng, content: b"a0: &a0 [x]\n" + _LAUGHS.encode() + content.replace(b": ", b": *a11 #", 1),
    "merge bomb": lambda rng, content: b"m0: &m0 {x: 1}\n" + _MERGES.encode() + content,
}
