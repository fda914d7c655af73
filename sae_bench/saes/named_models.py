"""The language model of an SAE, wherever its files name it: what the layout says, other fields, the card of a release.

Layouts have a field of their own, and many have none. Authors write the name elsewhere then: under another key of the
configuration, or as ``base_model`` at the head of ``README.md``, as the hub does. Such a name is taken if it is one of
the hub, and two that disagree are said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sae_bench.errors import CoderError
from sae_bench.saes.model_names import hub_id
from sae_bench.saes.source import Source

_CONFIGS = ("cfg.json", "config.json", "hyperparams.json", "lm_config.json", "config.yaml")
_KEYS = (
    *("model_name", "model", "lm_name", "base_model", "base_model_name", "model_name_or_path", "model_id"),
    *("base_model_name_or_path", "hf_model_name", "llm_name", "language_model", "subject_model"),
)
_SECTIONS = ("metadata", "trainer", "buffer", "cfg", "config", "lm", "lm_config", "train_config", "training")
_CARD = "README.md"
_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")  # on the hub; a path is a place on somebody's machine


def model_of(source: Source, own: str | None) -> tuple[str | None, tuple[str, ...]]:
    """The model: what the layout's reader found, else the first that the files name; and what contradicts it."""
    found = [(where, name) for where, name in _named(source) if _ID.fullmatch(name) and hub_id(name) is not None]
    chosen = own or next((name for _, name in found), None)
    if chosen is None:
        return None, ()
    others = {name: where for where, name in reversed(found) if _same(name) != _same(chosen)}
    said = tuple(
        f"the files name two language models: {chosen!r}, which is taken, and {name!r} in {where}; --model settles it"
        for name, where in others.items()
    )
    return chosen, said


def _named(source: Source) -> Iterator[tuple[str, str]]:
    """Where the files name a model, and which; in the order in which they are believed."""
    names = [f"{source.main.stem}_cfg.json", *_CONFIGS] if source.main else _CONFIGS
    for name in names:
        try:
            content = source.config(name).values if source.file(name).is_file() else {}
        except CoderError:  # whoever needs it refuses it
            continue
        parts = {"": content} | {f"{part}.": content[part] for part in _SECTIONS if isinstance(content.get(part), dict)}
        for part, values in parts.items():
            yield from ((f"{part}{key} of {name}", text) for key in _KEYS if (text := _text(values, key)))
    for card in (_CARD, f"../{_CARD}"):
        if text := _text(source.front_matter(card), "base_model"):
            yield f"base_model of {card}", text


def _text(values: Mapping[str, Any], key: str) -> str | None:
    """The name under ``key``, alone or in a list of one."""
    value = values.get(key)
    value = value[0] if isinstance(value, list) and len(value) == 1 else value
    return value if isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable() else None


def _same(name: str) -> str:
    """What two names of one model have in common: the last part of the id on the hub."""
    return (hub_id(name) or name).rstrip("/").rpartition("/")[2].lower().removeprefix("meta-")
