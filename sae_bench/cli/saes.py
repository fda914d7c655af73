"""What verbs that read an SAE have in common: help, and how warnings look."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What libraries log, as far as it is no error, is about their own ways; read when they are imported.
_LOGGERS = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error", "DATASETS_VERBOSITY": "error"}
_FUTURE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning)
_DEPRECATED = re.compile(r"\bdeprecat|\bwill be removed\b|\bfuture (version|release)s?\b", re.IGNORECASE)
_OWN = os.path.realpath(os.path.dirname(os.path.dirname(__file__))) + os.sep
_INSTALLED, _PYTHON = (
    tuple({os.path.realpath(sysconfig.get_path(name)) + os.sep for name in names})
    for names in (("purelib", "platlib"), ("stdlib", "platstdlib"))
)

SAE_HELP = (
    "folder or file of an SAE, demo, demo/NAME, 'demo/*', hf:OWNER/REPO[/PATH][@REVISION], saelens:RELEASE/ID or "
    "module:factory; '#16' behind it: the nested dictionary of 16 latents, '#*': all of them"
)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings as single lines on standard error, each once; none of what a library of others will change some day.

    Such a line is for who wrote the call, which is no user of this command, unless it is in code of their own.
    """
    from sae_bench.show.text import line

    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        text = str(message)
        if text in said or _of_the_future(text, category, filename):
            return
        said.add(text)
        _print(line(f"sae-bench: {text}"))

    for name, level in _LOGGERS.items():
        os.environ.setdefault(name, level)
    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def _print(text: str) -> None:
    """A line on standard error, above a bar of progress that stands there."""
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)


def _of_the_future(text: str, category: type[Warning], filename: str) -> bool:
    """Whether a library says that something of it will change or go, be it to its caller here.

    torch says so by plain UserWarnings too, which are told by their words. What is said of code of the user's own
    stands, and so does what that says itself.
    """
    path = os.path.realpath(filename)
    if issubclass(category, _FUTURE):
        return path.startswith((*_INSTALLED, *_PYTHON, _OWN)) or not os.path.isfile(path)
    return path.startswith(_INSTALLED) and not path.startswith(_OWN) and _DEPRECATED.search(text) is not None
