"""Which token ids begin a text, end it, or fill a row up: from the tokenizer and the language model's configuration.

Padding is a place and no id: what fills a row up is never read, and the same id inside a text is a token like others.
So a padding id that is a word of the vocabulary is scored wherever it stands in a text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Roles:
    """``bos`` and ``eos`` are the ids that begin and end a text; ``pad`` is what rows are filled up with, if known."""

    bos: frozenset[int] = frozenset()
    eos: frozenset[int] = frozenset()
    pad: int | None = None

    @property
    def special(self) -> frozenset[int]:
        """What the mask "special" leaves out wherever it stands."""
        return self.bos | self.eos


def roles(tokenizer: Any | None, config: Any | None) -> Roles:
    """The roles that a tokenizer and a configuration give; either may be None.

    An id of the configuration that is an ordinary word of the tokenizer has no role: defaults of a class stand there
    that nobody chose. The tokenizer's padding goes before that of the configuration.
    """
    bos, eos = (
        frozenset(_ids(tokenizer, name)) | {i for i in _ids(config, name) if not _is_word(tokenizer, i)}
        for name in ("bos_token_id", "eos_token_id")
    )
    pads = [*_ids(tokenizer, "pad_token_id"), *_ids(config, "pad_token_id")]
    return Roles(bos, eos, pads[0] if pads else None)


def _ids(owner: Any | None, name: str) -> list[int]:
    """One id, several, or none; some configurations say -1 for none."""
    found = getattr(owner, name, None)
    listed = found if isinstance(found, list | tuple) else [found]
    return [int(i) for i in listed if isinstance(i, int) and not isinstance(i, bool) and i >= 0]


def _is_word(tokenizer: Any | None, token: int) -> bool:
    """Whether the tokenizer has this id, and not as a special token; False where it cannot tell."""
    special = getattr(tokenizer, "all_special_ids", None)
    if special is None or token in special:
        return False
    added = getattr(tokenizer, "added_tokens_decoder", {})
    if token in added:
        return not getattr(added[token], "special", True)
    return token < len(tokenizer)  # type: ignore[arg-type]
