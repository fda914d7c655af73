"""Random numbers that depend on the seed and on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def random_bytes(seed: int, role: str) -> bytes:
    """32 random bytes for one use of the seed: no two roles share them, and every machine gives the same."""
    return hashlib.sha256(f"{seed} {role}".encode()).digest()


def generator(seed: int, role: str) -> torch.Generator:
    """A generator for one use of the seed: no two roles share their numbers. On the CPU, on any machine."""
    return torch.Generator().manual_seed(int.from_bytes(random_bytes(seed, role)[:7], "big"))


class Noise:
    """Draws for every token, keyed by seed, role and sequence: a run on fewer documents draws the same numbers.

    ``lengths`` counts the tokens of each of the sequences ``names``, in the order of the batch. Every call draws anew
    from the beginning: for numbers of another kind, take another role.
    """

    def __init__(
        self, seed: int, role: str, names: Sequence[str], lengths: Sequence[int], device: torch.device
    ) -> None:
        if len(names) != len(lengths):
            raise ValueError("noise is keyed by sequence, and this batch does not name its sequences")
        self._seed, self._role, self._names, self._lengths, self._device = seed, role, names, lengths, device

    def generator(self, sequence: int) -> torch.Generator:
        """The generator of one sequence of the batch, at its beginning, on the CPU."""
        return generator(self._seed, f"{self._role} in {self._names[sequence]}")

    def normal(self, width: int) -> Tensor:
        """Standard normal numbers, float64 ``[T, width]``."""
        return self._drawn(lambda n, draw: torch.randn(n, width, generator=draw, dtype=torch.float64))

    def uniform(self, width: int) -> Tensor:
        """Numbers in [0, 1), float64 ``[T, width]``."""
        return self._drawn(lambda n, draw: torch.rand(n, width, generator=draw, dtype=torch.float64))

    def _drawn(self, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        parts = [draw(n, self.generator(i)) for i, n in enumerate(self._lengths)]
        return torch.cat(parts).to(self._device)
