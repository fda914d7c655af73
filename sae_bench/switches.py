"""Switches of the whole process, changed for a while by several threads at once.

Each thread that puts back what it found would put back what another one had set: two runs in one process would leave
its switches changed, and the second would go on without its own. So the first who enters remembers, everybody sets, and
the last who leaves gives back.
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import _GeneratorContextManager, contextmanager, redirect_stdout
from functools import wraps
from weakref import WeakKeyDictionary


def shared(change: Callable[[], Callable[[], object]]) -> Callable[[], _GeneratorContextManager[None]]:
    """A context manager, or decorator, of ``change``, which sets switches and returns what gives back those before."""
    lock = threading.RLock()
    inside: list[Callable[[], object]] = []  # what the first one found, once for everyone inside

    @wraps(change)
    @contextmanager
    def entered() -> Iterator[None]:
        with lock:
            found = change()  # by everyone: code of somebody else may have switched back meanwhile
            inside.append(inside[0] if inside else found)
        try:
            yield
        finally:
            with lock:
                give_back = inside.pop()
                if not inside:
                    give_back()

    return entered


_LOCKS: WeakKeyDictionary[object, threading.RLock] = WeakKeyDictionary()
_MAKES = threading.Lock()


@contextmanager
def alone_with(thing: object) -> Iterator[None]:
    """Let one thread at a time use an object in memory: what it puts on a model acts on everybody's passes."""
    try:
        with _MAKES:
            own = _LOCKS.setdefault(thing, threading.RLock())
    except TypeError:  # a text or None, which names a model that is opened anew
        own = threading.RLock()
    with own:
        yield


@shared
def remarks_on_stderr() -> Callable[[], object]:
    """What libraries print goes to standard error, as standard output is for what was asked for."""
    moved = redirect_stdout(sys.stderr)
    moved.__enter__()
    return lambda: moved.__exit__(None, None, None)


@shared
def without_warnings() -> Callable[[], object]:
    """Show no warning of Python's; for what libraries warn of that is told or checked here."""
    caught = warnings.catch_warnings()
    caught.__enter__()
    warnings.simplefilter("ignore")
    return lambda: caught.__exit__(None, None, None)
