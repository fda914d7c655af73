"""Texts with sources, in every form in which they come, read by a tokenizer of words."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sae_bench.data import Corpus, DataOptions, TokenSet, load_corpus
from sae_bench.data.roles import Roles
from sae_bench.data.rows import RowOptions
from sae_bench.units.groups import group_of

BOS, EOS, WORDS = 0, 1, 60
VOCABULARY = 2 + WORDS
WIDTH = 6  # ids of a row
Labelled = tuple[Any, dict[str, Any]]  # a source, and the options that say its groups


def tokenizer() -> PreTrainedTokenizerFast:
    """A word is an id."""
    vocabulary = {"<s>": BOS, "</s>": EOS} | {f"w{number}": 2 + number for number in range(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


TOKENIZER = tokenizer()


def text_of(ids: Sequence[int]) -> str:
    """The text of these ids."""
    return " ".join(f"w{token - 2}" for token in ids)


def ids_of(n: int, length: int = WIDTH, seed: int = 0) -> list[list[int]]:
    """Documents of ``length`` ids, all different."""
    draw = random.Random(seed)
    return [[draw.randrange(2, VOCABULARY) for _ in range(length)] for _ in range(n)]


def load(source: Any, **options: Any) -> Corpus:
    """The source, with all of its calibration units."""
    rows = RowOptions(Roles(frozenset({BOS}), frozenset({EOS})))
    given = {"calibration_limit": None, "calibration_share": 0.4, "rows": rows} | options
    return load_corpus(source, tokenizer=TOKENIZER, vocab_size=VOCABULARY, options=DataOptions(**given))


def groups_of(tokens: TokenSet) -> list[str]:
    """The group of each unit."""
    return [group_of(unit) for unit in tokens.unit_ids]


def unit_contents(tokens: TokenSet) -> list[tuple[int, ...]]:
    """The ids of each unit, without the BOS of its sequences."""
    units: list[tuple[int, ...]] = [()] * tokens.n_units
    for sequence in tokens:
        own = sequence.ids.tolist()
        units[sequence.unit] += tuple(own[1:] if own[0] == BOS else own)
    return units


def tokens_of_groups(tokens: TokenSet) -> dict[str, int]:
    """How many ids each group has, BOS included."""
    found: dict[str, int] = {}
    of_unit = groups_of(tokens)
    for sequence in tokens:
        found[of_unit[sequence.unit]] = found.get(of_unit[sequence.unit], 0) + len(sequence.ids)
    return found


# ---------------------------------------------------------------- how labels come


def _table(ids: list[list[int]], labels: list[Any]) -> dict[str, list[Any]]:
    return {"text": [text_of(one) for one in ids], "source": labels, "n": list(range(len(ids)))}


def _lines(ids: list[list[int]], labels: list[Any]) -> str:
    rows = zip(ids, labels, strict=True)
    return "".join(json.dumps({"text": text_of(one), "source": label}) + "\n" for one, label in rows)


def _jsonl(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    (folder / "a.jsonl").write_text(_lines(ids, labels))
    return folder / "a.jsonl", {"group_field": "source"}


def _gzipped(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(_lines(ids, labels).encode()))
    return folder / "a.jsonl.gz", {"group_field": "source"}


def _parquet(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    pq.write_table(pa.table(_table(ids, labels)), folder / "a.parquet")
    return folder / "a.parquet", {"group_field": "source"}


def _saved(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    datasets.Dataset.from_dict(_table(ids, labels)).save_to_disk(str(folder / "saved"))
    return folder / "saved", {"group_field": "source"}


def _folder(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    (folder / "files").mkdir()
    half = len(ids) // 2
    (folder / "files" / "a.jsonl").write_text(_lines(ids[:half], labels[:half]))
    pq.write_table(pa.table(_table(ids[half:], labels[half:])), folder / "files" / "b.parquet")
    return folder / "files", {"group_field": "source"}


def _texts(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    return [text_of(one) for one in ids], {"groups": labels}


def _array(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    return np.array(ids), {"groups": tuple(labels)}


def _npy(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    np.save(folder / "a.npy", np.array(ids))
    return folder / "a.npy", {"groups": np.array(labels)}


def _tensors(folder: Path, ids: list[list[int]], labels: list[Any]) -> Labelled:
    save_file({"input_ids": np.array(ids), "source": np.array(labels, dtype=np.int64)}, folder / "a.safetensors")
    return folder / "a.safetensors", {"group_field": "source"}


TEXTS: dict[str, Callable[[Path, list[list[int]], list[Any]], Labelled]] = {
    "jsonl": _jsonl,
    "jsonl.gz": _gzipped,
    "parquet": _parquet,
    "saved data set": _saved,
    "folder": _folder,
    "texts": _texts,
}
IDS: dict[str, Callable[[Path, list[list[int]], list[Any]], Labelled]] = {
    "array": _array,
    "npy": _npy,
    "safetensors": _tensors,
}
