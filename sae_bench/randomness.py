"""Random numbers that depend on the seed and on what they are for, and on nothing else."""

from __future__ import annotations

import hashlib

import torch


def random_bytes(seed: int, role: str) -> bytes:
    """32 random bytes for one use of the seed: no two roles share them, and every machine gives the same."""
    return hashlib.sha256(f"{seed} {role}".encode()).digest()


def generator(seed: int, role: str) -> torch.Generator:
    """A generator for one use of the seed: no two roles share their numbers. On the CPU, on any machine."""
    return torch.Generator().manual_seed(int.from_bytes(random_bytes(seed, role)[:7], "big"))
