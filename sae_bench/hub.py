"""Whether the Hugging Face hub answers, and what of it is on this machine: nobody waits for a hub that is out of reach.

The libraries that load models, texts and labelled sets each ask the hub on their own, again and again, for half a
minute and more. So it is asked here first, once and for at most :data:`PATIENCE` seconds; where it does not answer, the
libraries are told that there is no network, and read what their cache holds.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sae_bench.errors import SaeBenchError, named
from sae_bench.files import KIB, read_text

PATIENCE = 1.5  # seconds; HF_HUB_ETAG_TIMEOUT, if it is set, says another number
AGAIN = 30.0  # seconds for which an answer is believed
Kind = Literal["model", "dataset"]
# What a language model needs of its repository: nothing of other frameworks, and nothing in folders below.
OF_MODEL = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")

_state = threading.Lock()
_asked: dict[str, tuple[float, str | None]] = {}  # by endpoint: when, and why it does not answer


@dataclass(frozen=True)
class Repository:
    """A repository of the hub at a branch, a tag or a commit."""

    id: str
    kind: Kind = "model"
    revision: str = "main"

    def __str__(self) -> str:
        what = "model" if self.kind == "model" else "data set"
        return f"the {what} {self.id}" + ("" if self.revision == "main" else f" at {self.revision[:12]}")

    @property
    def command(self) -> str:
        """What brings it into the cache, where there is a network."""
        kind = "" if self.kind == "model" else " --repo-type dataset"
        return f"hf download {self.id}{kind}" + ("" if self.revision == "main" else f" --revision {self.revision}")

    @property
    def cached(self) -> Path | None:
        """Its snapshot in the cache of the hub, None where there is none."""
        from huggingface_hub import constants

        folder = Path(constants.HF_HUB_CACHE, f"{self.kind}s--{self.id.replace('/', '--')}")
        named_by = folder / "refs" / self.revision
        commit = read_text(named_by, SaeBenchError, KIB).strip() if named_by.is_file() else self.revision
        snapshot = folder / "snapshots" / commit
        return snapshot if commit and "/" not in commit and snapshot.is_dir() and any(snapshot.iterdir()) else None


def silent() -> str | None:
    """Why the hub does not answer, None where it does: asked at most once in :data:`AGAIN` seconds."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return "HF_HUB_OFFLINE is set"
    with _state:
        when, why = _asked.get(constants.ENDPOINT, (-AGAIN, None))
        if time.monotonic() - when >= AGAIN:
            why = _ask(constants.ENDPOINT)
            _asked[constants.ENDPOINT] = time.monotonic(), why
    return why


def _ask(endpoint: str) -> str | None:
    """One request, in a thread of its own: looking up a name may wait longer than any timeout says."""
    patience, found = _patience(), list[str | None]()
    thread = threading.Thread(target=lambda: found.append(_request(endpoint, patience)), daemon=True)
    thread.start()
    thread.join(patience)
    return found[0] if found else f"{endpoint} did not answer within {patience:g} s (HF_HUB_ETAG_TIMEOUT waits longer)"


def _request(endpoint: str, patience: float) -> str | None:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=patience, follow_redirects=False)
    except Exception as error:  # noqa: BLE001 - the errors of what sends requests have no common base
        return f"{endpoint} cannot be reached ({named(error, file=False)})"
    return None


def _patience() -> float:
    try:
        return max(float(os.environ["HF_HUB_ETAG_TIMEOUT"]), 0.1)
    except (KeyError, ValueError):
        return PATIENCE


@contextmanager
def without() -> Iterator[None]:
    """As long as this lasts no library asks the hub: what is not in its cache is missing at once."""
    places = [(module, name) for module, name in _switches() if hasattr(module, name)]
    before = [getattr(module, name) for module, name in places]
    for module, name in places:
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


def _switches() -> list[tuple[Any, str]]:
    """Where the libraries keep whether there is a network: they read the environment once, when they are imported."""
    import datasets
    from huggingface_hub import constants

    return [
        (constants, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_HUB_OFFLINE"),
        (datasets.config, "HF_DATASETS_OFFLINE"),
    ]


@contextmanager
def patiently(*, needed: bool) -> Iterator[None]:
    """Ask the hub once if it is ``needed``; where it does not answer, no library asks it as long as this lasts."""
    why = silent() if needed else None
    if why is None:
        yield
        return
    with without():
        yield


def lacking(needed: Sequence[Repository], who: str, instead: str, raises: type[SaeBenchError]) -> None:
    """Refuse what is neither in the cache nor to be had, all of it in one sentence. Raises ``raises``.

    ``who`` needs it; ``instead`` says what else can be given.
    """
    absent = [one for one in needed if one.cached is None]
    if not absent or (why := silent()) is None:
        return
    listed = " and ".join(map(str, absent))
    commands = " && ".join(one.command for one in absent)
    raise raises(
        f"{who} needs {listed} of the hub, {'which is' if len(absent) == 1 else 'which are'} not on this machine, and "
        f"{why}: run '{commands}' where there is a network, or give {instead}"
    )


def folder(of: Repository, patterns: Sequence[str], raises: type[SaeBenchError]) -> tuple[Path, str]:
    """The local snapshot of a repository, fetched unless it is there, and its commit. Raises ``raises``.

    ``patterns`` are globs of the files that are wanted; of a model only files that lie at the root.
    """
    import huggingface_hub

    lacking([of], "this", "a local folder", raises)
    if (why := silent()) is not None:
        there = of.cached
        assert there is not None
        if there.name != of.revision:  # a commit is what it is
            warnings.warn(f"{of} is taken from the cache, at commit {there.name[:12]}: {why}", stacklevel=2)
        return there, there.name
    try:
        found = huggingface_hub.snapshot_download(
            of.id,
            repo_type=of.kind,
            revision=of.revision,
            allow_patterns=list(patterns),
            ignore_patterns=["*/*"] if of.kind == "model" else None,
        )
    except Exception as error:  # those of huggingface_hub have no common base
        raise raises(
            f"{of} cannot be had of the hub: {named(error, file=False)}; run '{of.command}' where it can, or give a "
            "local folder (--model, --data)"
        ) from error
    return Path(found), Path(found).name
