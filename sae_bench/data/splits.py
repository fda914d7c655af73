"""Which files of a folder belong to which split of a data set, by their names.

As the hub lays files out: ``train/part.parquet``, ``data/train-00000-of-00002.parquet``, ``c4-validation.jsonl``. Test
data that is read as if it were more training data would be a wrong figure that nobody sees, so that splits are asked
about where there are several.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path

from sae_bench.data.sources import quoted
from sae_bench.errors import DataError

# Names of splits, with what each is short or long for.
_WORDS = {
    **{"train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation"},
    **{"dev": "validation", "test": "test", "testing": "test", "eval": "eval", "evaluation": "eval"},
    "heldout": "heldout",
}
_WORD = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(_WORDS)})(?![^\W\d_])", re.IGNORECASE)
_SHARD = re.compile(r"(.+?)[-._]\d{3,}-of-\d{3,}(?!\d)")


def of_split(files: Sequence[Path], split: str | None, name: str) -> list[Path]:
    """The ``files``, relative to the folder ``name``, that are of ``split``; all of them where there are no splits.

    Raises DataError where their names are those of several splits and none is chosen, or one that is not there.
    """
    words = _words(files)
    several = len(_kinds(words)) > 1
    if several and split not in words:
        found = sorted(set(words) - {""}, key=_order)
        asked = "choose its split" if split is None else f"it has no split {split!r}"
        raise DataError(f"{name} has the splits {quoted(found)}: {asked}; set `split` to one of them.")
    if split is not None:
        # What is named by another split is not meant, even where its folder begins with the word: test_set/train.txt.
        begins = re.compile(re.escape(split) + r"(?![^\W_])")
        whole = zip(files, words, strict=True)
        return [
            file
            for file, word in whole
            if word == split or (not several and any(begins.match(part) for part in file.parts))
        ]
    if (named := next(filter(None, words), None)) and "" in words:
        other = files[words.index("")]
        warnings.warn(
            f"{name} is read whole: files of the split {named!r}, and others such as {other}; --split {named} reads "
            "the former alone",
            stacklevel=2,
        )
    return list(files)


def _words(files: Sequence[Path]) -> list[str]:
    """The split of every file as its path names it, "" where it does not.

    The outermost folders that tell several splits apart say it, else the name of the file, else the nearest folder.
    """
    own = [_word(file.name) or _shard(file.name) for file in files]
    near = [next(filter(None, map(_word, reversed(file.parts[:-1]))), "") for file in files]
    for level in range(max((len(file.parts) - 1 for file in files), default=0)):
        words = [_word(file.parts[level]) if level < len(file.parts) - 1 else "" for file in files]
        if len(_kinds(words)) > 1:
            return [word or name for word, name in zip(words, own, strict=True)]
    return [name or folder for name, folder in zip(own, near, strict=True)]


def _kinds(words: Sequence[str]) -> set[str]:
    return {_WORDS.get(word, word) for word in words} - {""}


def _word(part: str) -> str:
    found = _WORD.search(part)
    return found[0].lower() if found else ""


def _shard(part: str) -> str:
    """What stands before the number of a shard, which the hub takes for the name of a split."""
    found = _SHARD.match(part)
    return found[1] if found else ""


def _order(word: str) -> tuple[int, str]:
    return list(_WORDS).index(word) if word in _WORDS else len(_WORDS), word
