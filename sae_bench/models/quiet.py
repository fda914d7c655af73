"""transformers without its progress bars, reports and warnings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sae_bench.switches import shared, without_warnings


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers prints and warns of, and give back the settings that were there."""
    with _without_reports(), without_warnings():
        yield


@shared
def _without_reports() -> Callable[[], None]:
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()

    def give_back() -> None:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

    return give_back
