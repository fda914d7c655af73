"""Loading a tokenizer so that it gives the ids of its own file.

transformers takes a tokenizer's class from a name in a configuration or from the type of the model, and many classes
build normalizer and pre-tokenizer anew instead of reading them from `tokenizer.json`. The ids then are not those that
the model was trained on. Where there is a `tokenizer.json`, it is what is used here, whatever the class is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from sae_bench.errors import ModelError, said
from sae_bench.files import at_home, read_json
from sae_bench.models.quiet import quiet
from sae_bench.models.tokenizer_identity import PROBES, encoded

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.model")
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
_TEXTS_COMPARED = 32
_SHOWN = 60  # characters of a text


def load_tokenizer(source: str) -> Any:
    """Return the tokenizer at a folder or hub id, None where there is none.

    Warns where the class that transformers chooses gives other ids than `tokenizer.json`. Never runs code from the
    folder or repository. Raises ModelError.
    """
    folder = at_home(source)
    if folder.is_dir() and not any(any(folder.glob(name)) for name in _FILES):
        return None
    where = str(folder) if folder.is_dir() else source
    with quiet():
        chosen, problem = _as_transformers_does(where)
        file = _own_file(where)
    if file is not None:
        return _of_file(file, where, source, chosen, problem)
    if problem is None:
        return chosen
    if isinstance(problem, OSError) and not folder.is_dir():
        return None
    raise ModelError(f"the tokenizer of {source!r} cannot be loaded: {said(problem)}") from problem


def check_tokens(tokenizer: Any, texts: Callable[[], Iterable[str]]) -> None:
    """Warn where the class that transformers chooses gives one of the first texts other ids than `tokenizer.json`.

    The ids in use are those of the file, here and everywhere. `texts` is called only where the class might differ and
    the probes have not shown it.
    """
    chosen = getattr(tokenizer, "sae_bench_unlike", None)
    if chosen is not None and (found := _difference(chosen, tokenizer, islice(texts(), _TEXTS_COMPARED))):
        warnings.warn(_other_ids(type(chosen).__name__, tokenizer.name_or_path, found), stacklevel=2)


def token_text(tokenizer: Any) -> Callable[[int], str]:
    """How a token is shown: as its text, or by its number without a tokenizer."""
    if tokenizer is None:
        return str
    return lambda token: str(tokenizer.decode([token]))


def text_of(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """How a run of tokens is shown: as text, or by their numbers without a tokenizer."""
    if tokenizer is None:
        return lambda tokens: " ".join(map(str, tokens))
    return lambda tokens: str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def _as_transformers_does(where: str) -> tuple[Any, Exception | None]:
    """The tokenizer of the class that transformers chooses, or why there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False), None
    except Exception as error:  # noqa: BLE001 - tokenizers raises a bare Exception on a damaged file
        return None, error


def _own_file(where: str) -> Path | None:
    """The tokenizer's own file: in the folder, or in the cache of the hub; one for this version where there are any."""
    from transformers.tokenization_utils_base import get_fast_tokenizer_file

    name = "tokenizer.json"
    if config := _cached(where, "tokenizer_config.json"):
        try:
            versions = read_json(config, ModelError).get("fast_tokenizer_files")
            name = get_fast_tokenizer_file(versions) if versions else name
        except (AttributeError, TypeError):  # what is damaged is refused where it is read
            pass
    return _cached(where, name)


def _cached(where: str, name: str) -> Path | None:
    from transformers.utils import cached_file

    try:
        found = cached_file(where, name)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def _of_file(file: Path, where: str, source: str, chosen: Any, problem: Exception | None) -> Any:
    """The tokenizer of `tokenizer.json`, with a warning where transformers' choice does otherwise."""
    from transformers import PreTrainedTokenizerFast

    own = chosen
    try:
        with quiet():
            raw = _Raw(file)
            if type(chosen) is not PreTrainedTokenizerFast:
                own = PreTrainedTokenizerFast.from_pretrained(where, trust_remote_code=False)
    except Exception as error:  # tokenizers raises a bare Exception on a damaged file
        raise ModelError(f"the tokenizer of {source!r} cannot be loaded: {said(error)}") from error
    if raw.dropout:
        raise ModelError(
            f"the tokenizer of {source!r} merges at random (dropout {raw.dropout} in {file.name}), so that a text has "
            "no certain ids; set dropout to null there"
        )
    if found := _difference(own, raw, PROBES):
        raise ModelError(
            f"the tokenizer of {source!r} contradicts its own {file.name}: {found}; remove from tokenizer_config.json "
            "what changes the ids"
        )
    if own is chosen:
        return own
    name = type(chosen).__name__ if chosen is not None else "the class that cannot be loaded"
    own.sae_bench_instead_of = name
    if problem is not None:
        warnings.warn(
            f"transformers cannot load the tokenizer of {source!r} ({said(problem)}); {file.name} is used as it is",
            stacklevel=4,
        )
        return own
    _take_roles(own, chosen)
    if found := _difference(chosen, own, PROBES):
        warnings.warn(_other_ids(name, source, found), stacklevel=4)
    else:
        own.sae_bench_unlike = chosen
    return own


def _other_ids(name: str, source: str, found: str) -> str:
    return (
        f"the class {name}, which transformers chooses for the tokenizer of {source!r}, gives other ids than "
        f"tokenizer.json, which is used: {found}"
    )


class _Raw:
    """A `tokenizer.json` as the library tokenizers reads it, called like a tokenizer of transformers."""

    def __init__(self, file: Path) -> None:
        from tokenizers import Tokenizer

        self.backend = Tokenizer.from_file(str(file))
        self.backend.no_padding()
        self.backend.no_truncation()
        self.dropout: float | None = getattr(self.backend.model, "dropout", None)

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return {"input_ids": self.backend.encode(text, add_special_tokens=False).ids}


def _difference(tokenizer: Any, right: Any, texts: Iterable[str]) -> str | None:
    """The first text to which `tokenizer` gives other ids than `right`, with both; None where there is none."""
    for text in texts:
        ids, right_ids = _ids(tokenizer, text), _ids(right, text)
        if ids == right_ids:
            continue
        if ids is None or right_ids is None:
            return f"{text[:_SHOWN]!r} gets {'no' if ids is None else 'some'} ids"
        pairs = zip(ids, right_ids, strict=False)
        place = next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(right_ids)))
        return (
            f"{text[:_SHOWN]!r} becomes {len(ids)} ids instead of {len(right_ids)}, from place {place} on "
            f"{ids[place : place + 4]} instead of {right_ids[place : place + 4]}"
        )
    return None


def _ids(tokenizer: Any, text: str) -> list[int] | None:
    try:
        return encoded(tokenizer, text)
    except Exception:  # noqa: BLE001 - a tokenizer without an unknown token raises a bare Exception
        return None


def _take_roles(own: Any, chosen: Any) -> None:
    """Give BOS, EOS, padding and unknown tokens that only the class names, if the file knows them."""
    known = own.get_vocab()
    for role in _ROLES:
        token = getattr(chosen, role, None)
        if getattr(own, role, None) is None and token is not None and str(token) in known:
            setattr(own, role, str(token))
