"""Which documents are first where some stand for all of a text: by a hash of what each holds, whatever the order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def first_for_controls(ids: Sequence[str], n: int, seed: int) -> list[int]:
    """The places of the first ``n`` of the units ``ids``, on which controls are measured; of all if they are fewer."""

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{seed} control document {ids[index]}".encode()).digest()

    return sorted(range(len(ids)), key=place)[:n]
