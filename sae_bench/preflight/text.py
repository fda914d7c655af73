"""The few hundred tokens of a preflight, and what the language model does on them at every place that may be meant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from collections.abc import Sequence as AnySequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_bench.data.mask import Mask, inside
from sae_bench.data.tokens import Sequence
from sae_bench.errors import DataError, ModelError
from sae_bench.models.subject import SubjectModel

SEQUENCES = 8  # at least so many documents share the tokens, where there are so many
LEAST_LENGTH = 16  # tokens of a sequence
AT_ONCE = 4096  # tokens in one pass of the model


@dataclass(frozen=True)
class Text:
    """Sequences of token ids without the BOS token before them.

    ``begins_with_bos``: whether the model is given one before each; ``special`` ids are never compared; ``mask`` says,
    as in a run, which positions count; ``token_text`` how a token reads.
    """

    sequences: tuple[tuple[int, ...], ...]
    begins_with_bos: bool
    bos: int | None = None
    special: frozenset[int] = frozenset()
    mask: Mask = "special"
    token_text: Callable[[int], str] = str

    @property
    def n_tokens(self) -> int:
        """Number of ids."""
        return sum(map(len, self.sequences))


def sample(tokens: Iterable[Sequence], n_tokens: int, bos: int | None, context: int) -> list[tuple[int, ...]]:
    """Beginnings of sequences without BOS, about ``n_tokens`` ids in all. Raises DataError.

    With the BOS token before it, a sequence is no longer than ``context``.
    """
    length = min(max(LEAST_LENGTH, -(-n_tokens // SEQUENCES)), context - 1)
    found: list[tuple[int, ...]] = []
    for sequence in tokens:
        ids = [int(i) for i in sequence.ids]
        ids = ids[1:] if ids[0] == bos else ids
        ids = ids[: min(length, n_tokens - sum(map(len, found)))]
        if len(ids) > 1:
            found.append(tuple(ids))
        if sum(map(len, found)) >= n_tokens - 1:
            break
    if not found:
        raise DataError("a preflight needs sequences of at least two tokens; give longer text")
    return found


class Activations:
    """What passes at hook points of ``subject`` on ``text``, captured once, with and without BOS.

    Compared are the tokens of the text from the second of a sequence on, less special ones: these are the same with
    and without BOS, and none is a sequence's first, whose activation is often of another size. ``half`` int64
    ``[compared]`` parts them by sequences; ``ids`` and ``positions`` ``[compared]`` are those of the text without BOS.
    """

    def __init__(self, subject: SubjectModel, text: Text) -> None:
        self.subject, self.text = subject, text
        self._taken: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        position = torch.cat([torch.arange(len(ids)) for ids in text.sequences])
        ids = torch.tensor([token for ids in text.sequences for token in ids])
        special = torch.isin(ids, torch.tensor(sorted(text.special), dtype=torch.int64))
        self._compared = (position > 0) & ~special
        self.ids, self.positions = ids[self._compared], position[self._compared]
        number = torch.repeat_interleave(torch.arange(len(text.sequences)), torch.tensor([*map(len, text.sequences)]))
        half = number % 2 if len(text.sequences) > 1 else (position >= len(ids) // 2).long()
        self.half = half[self._compared].to(subject.device)
        if len(self.half) < 2:
            raise DataError("no token is left to compare beside special ones; give more text")

    @property
    def first(self) -> Tensor:
        """Whether a token of :meth:`everywhere` is the first of its sequence, bool ``[tokens]``."""
        return torch.cat([torch.arange(len(ids)) == 0 for ids in self.inputs(self.text.begins_with_bos)])

    @property
    def counted(self) -> Tensor:
        """Whether a run with this mask counts a token of :meth:`everywhere`, bool ``[tokens]``."""
        inputs = self.inputs(self.text.begins_with_bos)
        return torch.from_numpy(
            np.concatenate([inside(np.array(ids), self.text.mask, self.text.special) for ids in inputs])
        )

    def take(self, hooks: AnySequence[str], *, bos: bool | None = None) -> list[str]:
        """Capture at ``hooks`` what is not there yet, in one pass; returns those that the model has."""
        bos = self.text.begins_with_bos if bos is None else bos
        missing = [hook for hook in dict.fromkeys(hooks) if hook not in self._taken[bos]]
        try:
            self._capture(missing, bos)
        except ModelError:
            self._capture([hook for hook in missing if self._is_there(hook)], bos)
        return [hook for hook in hooks if hook in self._taken[bos]]

    def at(self, hook: str, *, bos: bool | None = None) -> Tensor:
        """Activations of the compared tokens ``[compared, d]``, float32 or as exact as the model. Raises ModelError."""
        bos = self.text.begins_with_bos if bos is None else bos
        own = torch.cat([torch.arange(len(ids)) >= bos for ids in self.inputs(bos)])  # all but the BOS before them
        return self._all(hook, bos)[own.to(self.subject.device)][self._compared.to(self.subject.device)]

    def everywhere(self, hook: str) -> Tensor:
        """Activations of all tokens, an added BOS included, ``[tokens, d]``. Raises ModelError."""
        return self._all(hook, self.text.begins_with_bos)

    def _all(self, hook: str, bos: bool) -> Tensor:
        if hook not in self._taken[bos]:
            self._capture([hook], bos)
        return self._taken[bos][hook]

    def inputs(self, bos: bool) -> list[tuple[int, ...]]:
        """The sequences as the model reads them, with or without BOS."""
        if not bos:
            return list(self.text.sequences)
        assert self.text.bos is not None
        return [(self.text.bos, *ids) for ids in self.text.sequences]

    def _is_there(self, hook: str) -> bool:
        try:
            self.subject.width(hook)
        except ModelError:
            return False
        return True

    def _capture(self, hooks: list[str], bos: bool) -> None:
        if not hooks:
            return
        inputs = [torch.tensor(ids) for ids in self.inputs(bos)]
        parts: dict[str, list[Tensor]] = {hook: [] for hook in hooks}
        step = max(1, AT_ONCE // max(map(len, inputs)))
        for start in range(0, len(inputs), step):
            rows = inputs[start : start + step]
            tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.subject.device)
            lengths = torch.tensor([len(row) for row in rows], device=tokens.device)
            real = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(1)
            captured = self.subject.capture(tokens, real, hooks).activations
            for hook in hooks:
                parts[hook].append(captured[hook][real])
        for hook in hooks:
            whole = torch.cat(parts[hook])
            self._taken[bos][hook] = whole.to(torch.promote_types(whole.dtype, torch.float32))
