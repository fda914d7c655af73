"""Where an SAE comes from: a local path, the Hugging Face hub, or the registry of SAELens."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sae_bench.saes import hub, releases
from sae_bench.settings import Told

REMOTE = ("hf:", "saelens:")


@dataclass(frozen=True)
class Fetched:
    """Files on this machine.

    ``label`` is where they come from in the words of their author (repository and path), ``origin`` goes into the
    provenance, ``told`` is what a registry says about the SAE.
    """

    path: Path
    label: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    told: Told = field(default_factory=Told)


def fetch(source: str) -> Fetched:
    """The files that ``source`` names: a path, ``hf:owner/repo[/path][@revision]`` or ``saelens:release/id``.

    A local path need not exist. Raises CoderError.
    """
    if not os.path.exists(source):
        if source.startswith("hf:"):
            return _from_hub(hub.parse(source.removeprefix("hf:")))
        if source.startswith("saelens:"):
            return _from_release(releases.find(source.removeprefix("saelens:")))
    return Fetched(Path(os.path.expanduser(source)))


def _from_hub(place: hub.Place) -> Fetched:
    path, commit = hub.download(place)
    origin = {"repository": place.repository, "revision": place.revision, "commit": commit}
    return Fetched(path, place.label, origin | ({"path": place.path} if place.path else {}))


def _from_release(listed: releases.Listed) -> Fetched:
    fetched = _from_hub(listed.place)
    return Fetched(
        fetched.path, fetched.label, {**fetched.origin, **listed.origin}, releases.told(listed, fetched.path)
    )
