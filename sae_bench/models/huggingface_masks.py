"""A mask of ones is known to be one: `transformers` need not read it back from a device to choose its attention.

It asks in every pass whether a padding mask is full, and the host then waits for all that the device has still to do.
The answer is known here, since no pass of ours has padding for a model to see. Versions of `transformers` without this
question under this name go on to ask it of the device.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_here = threading.local()


@contextmanager
def masks_are_full() -> Iterator[None]:
    """Answer for the passes of this thread that every padding mask is full, until the context ends."""
    _install()
    before = getattr(_here, "full", False)
    _here.full = True
    try:
        yield
    finally:
        _here.full = before


def _install() -> None:
    """Put our answer before the question; outside :func:`masks_are_full` it is asked as before."""
    from transformers import masking_utils

    asked: Any = getattr(masking_utils, "fast_all", None)
    if asked is None or getattr(asked, "of_sae_bench", False):
        return

    def answered(mask: Any) -> Any:
        return True if getattr(_here, "full", False) else asked(mask)

    answered.of_sae_bench = True  # type: ignore[attr-defined]
    masking_utils.fast_all = answered
