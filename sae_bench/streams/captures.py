"""One pass of the model's first part for what two streams read: the sequences in which latents are ablated.

They stand in batches of their own in the pass over the documents, the same batches that the ablations take, whether or
not anything is ablated. So what the model carried there can be handed on, to the bit, and no figure depends on which
tasks run beside it. At most ``MOST_BYTES`` are held, on the model's device, until the ablations have read them; what is
beyond that passes the model again.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch
from sae_bench.engine.plan import Batches, Options
from sae_bench.models.subject import Capture
from sae_bench.randomness import random_bytes

MOST_BYTES = 256 << 20
Group = tuple[int, ...]  # the sequences of a batch


def sampled_sequences(tokens: TokenSet, n: int | None, seed: int) -> list[int]:
    """One sequence of each of ``n`` documents (None: of all), those first by a hash of their content."""
    by_unit: dict[int, list[int]] = {}
    for index, unit in enumerate(tokens.units.tolist()):
        by_unit.setdefault(unit, []).append(index)

    def place(unit: int) -> bytes:
        return random_bytes(seed, f"ablated document {tokens.unit_ids[unit]}")

    chosen = sorted(by_unit, key=place)[:n]
    return sorted(by_unit[unit][int.from_bytes(place(unit)[-4:], "big") % len(by_unit[unit])] for unit in chosen)


def of_ablations(tokens: TokenSet, options: Options, size: int) -> Batches:
    """The batches of up to ``size`` tokens in which latents are ablated."""
    return Batches.of(tokens, size, sampled_sequences(tokens, options.ablation_documents, options.seed))


def of_documents(tokens: TokenSet, options: Options, size: int) -> Batches:
    """All sequences in batches of up to ``size`` tokens, longest first; those of :func:`of_ablations` are among them."""
    apart = of_ablations(tokens, options, size).groups
    others = sorted(set(range(len(tokens))).difference(*apart))
    groups = [*apart, *Batches.of(tokens, size, others).groups]
    return Batches(tokens, tuple(sorted(groups, key=lambda group: (-len(tokens[group[0]].ids), group[0]))))


class Captures:
    """What the model carried in the batches that somebody will read again, as far as ``most`` bytes go."""

    def __init__(self, most: int = MOST_BYTES) -> None:
        self.most, self.held = most, 0
        self._readers: dict[Group, int] = {}  # how many are still to come
        self._kept: dict[Group, Capture] = {}

    def expect(self, groups: Iterable[Group]) -> None:
        """Somebody will read these batches, and say with :meth:`release` that they have."""
        for group in groups:
            self._readers[group] = self._readers.get(group, 0) + 1

    def lend(self, group: Group, batch: Batch) -> None:
        """Give a batch what the model carried in it before, if that is held."""
        if (kept := self._kept.get(group)) is not None:
            batch.captured(kept)

    def offer(self, group: Group, batch: Batch) -> None:
        """Hold what the model carried in a batch that has been read, if somebody will read it again and it fits."""
        if group in self._kept or not self._readers.get(group) or (capture := batch.capture_made) is None:
            return
        if self.held + (size := _bytes(capture)) <= self.most:
            self._kept[group] = capture
            self.held += size

    def release(self, group: Group) -> None:
        """One of those who were expected has read it; the last one frees the memory."""
        self._readers[group] = self._readers.get(group, 1) - 1
        if self._readers[group] <= 0 and (kept := self._kept.pop(group, None)) is not None:
            self.held -= _bytes(kept)


def _bytes(capture: Capture) -> int:
    """What the arrays of a capture take, each once: the input of a block is also what the one before it puts out."""
    arrays: list[Tensor] = [capture.tokens, capture.attention_mask]
    arrays += [*capture.activations.values(), *capture.carry.values()]
    stored = {array.untyped_storage().data_ptr(): array.untyped_storage().nbytes() for array in arrays}
    return sum(stored.values())
