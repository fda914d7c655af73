"""Calls in processes of their own, which end with the process that asked for them, however that ends."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from threading import Thread
from typing import Any, TypeVar

from sae_bench.errors import SaeBenchError

T = TypeVar("T")


def results(call: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[T]:
    """What ``call`` makes of each job, as it comes, each process with one thread.

    Whoever stops asking, because a call has failed or the user has had enough, need not wait for the others. Raises
    what a call raises, and SaeBenchError for a process that was ended from outside.
    """
    with tempfile.TemporaryDirectory(prefix="sae-bench-") as folder:
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ready, initargs=(folder,))
        before, whole = set(active_children()), False
        try:
            with _main_set_aside():
                made = [pool.submit(call, *job) for job in jobs]
            for one in as_completed(made):
                yield one.result()
            whole = True
        except BrokenProcessPool as error:
            raise SaeBenchError(
                "a process that measures was ended from outside, as happens where memory runs out; close other "
                "programs, or let fewer run at once: there are as many as cores (taskset)"
            ) from error
        finally:
            for child in () if whole else set(active_children()) - before:
                child.terminate()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _main_set_aside() -> Iterator[None]:
    """Let processes begin without what was started here: they need none of it.

    A script without ``if __name__ == "__main__"`` would be run again by each, and what comes from standard input is no
    file that could be.
    """
    main = sys.modules["__main__"]
    kept = {name: value for name in ("__file__", "__spec__") if (value := getattr(main, name, None)) is not None}
    for name in kept:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _ready(folder: str) -> None:
    """One thread, so that the sums are the same however many processes there are; files where the parent clears up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told too, and says it
    Thread(target=_end_with_parent, args=(folder,), daemon=True).start()
    tempfile.tempdir = folder
    import torch

    torch.set_num_threads(1)


def _end_with_parent(folder: str) -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)
