"""One pass of the model's first part for what two streams read: the sequences in which latents are ablated.

They stand in batches of their own in the pass over the documents, the same batches that the ablations take, whether or
not anything is ablated. So what the model carried there can be handed on, to the bit, and no figure depends on which
tasks run beside it. At most ``MOST_BYTES`` are held, on the model's device, until the ablations have read them; what is
beyond that passes the model again.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

from sae_bench.data.tokens import TokenSet
from sae_bench.engine.batch import Batch
from sae_bench.engine.plan import Batches, Options
from sae_bench.models.subject import Capture
from sae_bench.randomness import random_bytes
from sae_bench.units.sample import in_turns

MOST_BYTES = 256 << 20
Group = tuple[int, ...]  # the sequences of a batch


def sampled_sequences(tokens: TokenSet, n: int | None, seed: int) -> list[int]:
    """One sequence of each of ``n`` documents (None: of all), of all groups alike, first by a hash of their content."""
    by_unit: dict[int, list[int]] = {}
    for index, unit in enumerate(tokens.units.tolist()):
        by_unit.setdefault(unit, []).append(index)

    def place(unit_id: str) -> bytes:
        return random_bytes(seed, f"ablated document {unit_id}")

    chosen = [(by_unit[unit], place(tokens.unit_ids[unit])) for unit in in_turns(tokens.unit_ids, place)[:n]]
    return sorted(own[int.from_bytes(drawn[-4:], "big") % len(own)] for own, drawn in chosen)


def of_ablations(tokens: TokenSet, options: Options, size: int) -> Batches:
    """The batches of up to ``size`` tokens in which latents are ablated."""
    return Batches.of(tokens, size, sampled_sequences(tokens, options.ablation_documents, options.seed))


def of_documents(tokens: TokenSet, options: Options, size: int) -> Batches:
    """All sequences in batches of up to ``size`` tokens, longest first; those of ablations are among them."""
    apart = of_ablations(tokens, options, size).groups
    others = sorted(set(range(len(tokens))).difference(*apart))
    groups = [*apart, *Batches.of(tokens, size, others).groups]
    return Batches(tokens, tuple(sorted(groups, key=lambda group: (-len(tokens[group[0]].ids), group[0]))))


class Captures:
    """What the model carried in batches that somebody will read again: in the first of them, up to ``most`` bytes.

    Which these are depends on the batches alone, so that a run that was killed and goes on counts as one that was not.
    """

    def __init__(self, most: int = MOST_BYTES) -> None:
        self._most = most
        self._readers: Counter[Group] = Counter()  # of those that are still to come
        self._padded: dict[Group, int] = {}  # tokens with padding, in the order of the batches
        self._fitting: frozenset[Group] | None = None
        self._kept: dict[Group, Capture] = {}

    def expect(self, batches: Batches) -> None:
        """Somebody will read these batches, and say with :meth:`release` of each that it was read."""
        self._readers.update(batches.groups)
        self._padded |= {group: len(group) * len(batches.tokens[group[0]].ids) for group in batches.groups}

    def offer(self, group: Group, batch: Batch) -> None:
        """Hold what the model carried in a batch that has been read, if somebody will read it again and it fits."""
        capture = batch.capture_made
        if capture is not None and self._readers[group] > 0 and self._fits(group, capture):
            self._kept.setdefault(group, capture)

    def lend(self, group: Group, batch: Batch, *, was_read: bool) -> None:
        """Give a batch what is held of it. ``was_read``: another reader has offered all that fits.

        Where that was before the run was killed the model passes again, uncounted, like all that such a run repeats.
        """
        if (kept := self._kept.get(group)) is not None:
            batch.captured(kept)
        elif was_read and self._fits(group, batch.capture):
            batch.work.counters["prefix"] -= len(batch.tokens)
            if not batch.work.counters["prefix"]:
                del batch.work.counters["prefix"]  # a count that is not there is another than 0
            self.offer(group, batch)

    def release(self, group: Group) -> None:
        """One of those who were expected has read it; the last one frees the memory."""
        self._readers[group] -= 1
        if self._readers[group] <= 0:
            self._kept.pop(group, None)

    def _fits(self, group: Group, capture: Capture) -> bool:
        if self._fitting is None:
            a_token = _bytes(capture) / capture.tokens.numel()
            ends = accumulate(self._padded.values())
            fitting = zip(self._padded, ends, strict=True)
            self._fitting = frozenset(one for one, end in fitting if end * a_token <= self._most)
        return group in self._fitting


def _bytes(capture: Capture) -> int:
    """What the arrays of a capture take, each once: the input of a block is also what the one before it puts out."""
    arrays = [capture.tokens, capture.attention_mask, *capture.activations.values(), *capture.carry.values()]
    return sum({array.data_ptr(): array.nbytes for array in arrays}.values())
