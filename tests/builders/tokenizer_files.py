"""Tokenizers as users have them: a `tokenizer.json` beside configurations that name another class, or none."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

WORDS = ("the", "cat", "sat", "on", "a", "Mat", "and", "then", "dog", "ran", "away", "1987", "20231", "Über", "x  y.")
SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}

MODEL_TYPES = (
    *("llama", "qwen2", "qwen3", "gpt2", "gpt_neox", "gemma2", "gemma3_text"),
    *("mistral", "phi3", "olmo2", "gpt_oss", "opt", "deepseek_v3", "phi"),
)
CLASSES = (
    *(None, "PreTrainedTokenizerFast", "LlamaTokenizerFast", "LlamaTokenizer", "GPT2TokenizerFast", "GPT2Tokenizer"),
    *("Qwen2Tokenizer", "Qwen2TokenizerFast", "GPTNeoXTokenizerFast", "GemmaTokenizerFast", "CodeGenTokenizer"),
)


@cache
def documents(n: int = 60) -> tuple[str, ...]:
    """Texts of words with digits, capitals and runs of spaces."""
    draw = random.Random(0)
    return tuple(" ".join(draw.choice(WORDS) for _ in range(draw.randint(8, 25))) for _ in range(n))


def _byte_level(pattern: str | None = None, *, prefix: bool = False, normalizer: Any = None) -> Tokenizer:
    made = Tokenizer(models.BPE())
    first = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*first, pre_tokenizers.ByteLevel(add_prefix_space=prefix)])
    made.decoder = decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet)
    made.train_from_iterator(documents(), trainer)
    return made


def _metaspace(scheme: str, *, normalizer: Any = None, split: bool = True) -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    made.decoder = decoders.Metaspace(prepend_scheme=scheme)
    if normalizer:
        made.normalizer = normalizer
    made.train_from_iterator(documents(), trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL))
    return made


def _words() -> Tokenizer:
    made = Tokenizer(models.WordLevel(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.train_from_iterator(documents(), trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return made


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "bytes": _byte_level,
    "bytes, digits in threes": lambda: _byte_level(r"\p{N}{1,3}"),
    "bytes, digits alone": lambda: _byte_level(r"\p{N}"),
    "bytes, space in front": lambda: _byte_level(prefix=True),
    "bytes, composed": lambda: _byte_level(normalizer=normalizers.NFC()),
    "bytes, lower case": lambda: _byte_level(normalizer=normalizers.Lowercase()),
    "pieces, always a space": lambda: _metaspace("always"),
    "pieces, never a space": lambda: _metaspace("never"),
    "pieces, a space at first": lambda: _metaspace("first"),
    "pieces, unsplit": lambda: _metaspace("never", split=False),
    "pieces, lower case": lambda: _metaspace("always", normalizer=normalizers.Lowercase()),
    "words": _words,
}
COMBINATIONS = tuple(itertools.product(MODEL_TYPES, CLASSES, KINDS))


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """A small trained tokenizer, made once."""
    return KINDS[kind]()


def write_tokenizer(
    folder: Path, kind: str = "bytes, digits in threes", *, model_type: str = "qwen2", **config: Any
) -> Tokenizer:
    """Write `tokenizer.json` and configurations, and return the tokenizer that the file holds.

    `config` changes `tokenizer_config.json`; None leaves a key out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": []}))
    told = {key: value for key, value in (ROLES | config).items() if value is not None}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    tokenizer_of(kind).save(str(folder / "tokenizer.json"))
    return tokenizer_of(kind)


def change_file(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Let `change` edit the content of a JSON file in place."""
    content = json.loads(file.read_text(encoding="utf-8"))
    change(content)
    file.write_text(json.dumps(content), encoding="utf-8")
