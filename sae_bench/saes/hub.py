"""SAEs on the Hugging Face hub: which files of a repository make one, and where they lie on this machine.

Everything goes through huggingface_hub, into its cache and with its settings (``HF_HOME``, ``HF_HUB_OFFLINE``, ...). A
repository may hold terabytes, so only the SAE that was named is fetched, with the configurations above it.
"""

from __future__ import annotations

import difflib
import glob
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import huggingface_hub
from huggingface_hub import constants, errors

from sae_bench import hub
from sae_bench.errors import CoderError
from sae_bench.files import KIB, read_text
from sae_bench.registry import FORMATS
from sae_bench.saes.source import SUFFIXES

_MOST_CONFIG = 4 << 20  # bytes of a configuration
_MOST_UNNAMED = 256 << 20  # bytes that are fetched although no single SAE was named
_CONFIGS = (".json", ".yaml", ".yml")
_MOST_LISTED = 4
_FORM = "owner/repo, owner/repo/path or owner/repo/path@revision"


@dataclass(frozen=True)
class Place:
    """A file or folder of a repository (``path`` "" is its root) at a branch, a tag or a commit."""

    repository: str
    path: str = ""
    revision: str = "main"

    @property
    def label(self) -> str:
        """Owner, repository and path."""
        return f"{self.repository}/{self.path}" if self.path else self.repository

    def source(self, path: str) -> str:
        """What a user writes for another path of this repository."""
        pinned = "" if self.revision == "main" else f"@{self.revision}"
        return f"hf:{self.repository}/{path}{pinned}"


def parse(text: str) -> Place:
    """The place that ``owner/repo[/path][@revision]`` names. Raises CoderError."""
    where, at, revision = text.rpartition("@")
    if not at:
        where, revision = text, "main"
    parts = where.removesuffix("/").split("/")
    unfit = any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in (*parts, *revision.split("/")))
    if unfit or len(parts) < 2 or not all(re.fullmatch(r"[\w.-]+", part) for part in parts[:2]):
        raise CoderError(f"{text!r} is no place on the hub: give {_FORM}, for example hf:google/gemma-scope-2b-pt-res")
    return Place("/".join(parts[:2]), "/".join(parts[2:]), revision)


def download(place: Place) -> tuple[Path, str]:
    """The local file or folder of ``place``, fetched unless it is there, and its commit.

    Without an answer of the hub, what the cache has is used, with a warning; in offline mode without one. Raises
    CoderError.
    """
    if constants.HF_HUB_OFFLINE:
        if found := _cached(place):
            return found
        raise CoderError(
            f"hf:{place.label} at {place.revision} is not in the local cache of the hub{_what_there_is(place)}, and "
            "HF_HUB_OFFLINE is set: run once without it, with network"
        )
    try:
        sizes = _sizes(place)
    except Exception as error:  # those of huggingface_hub and of what it sends requests with have no common base
        why = _explained(place, error)
        if isinstance(error, errors.RevisionNotFoundError):
            raise CoderError(why) from error
        if not (found := _cached(place)):
            raise CoderError(f"{why} (the local cache does not have it either{_what_there_is(place)})") from error
        warnings.warn(f"{why}; the local cache has it at commit {found[1][:12]}, which is used", stacklevel=2)
        return found
    names = chosen(place, sizes)
    patterns = [glob.escape(name) for name in names]
    try:
        fetched = huggingface_hub.snapshot_download(place.repository, revision=place.revision, allow_patterns=patterns)
    except Exception as error:
        raise CoderError(f"{_explained(place, error)} (what was fetched so far is kept)") from error
    folder = Path(fetched)
    if missing := [name for name in names if not (folder / name).is_file()]:
        raise CoderError(f"{_listed(missing)} of {place.repository} did not arrive; run the same once more")
    return folder / place.path, folder.name


def _sizes(place: Place) -> dict[str, int]:
    """Bytes of every file of the repository, by path. Raises what huggingface_hub raises."""
    from huggingface_hub.hf_api import RepoFile

    if (why := hub.silent()) is not None:
        raise ConnectionError(why)
    api = huggingface_hub.HfApi()
    # Unlike the listing, this request is not tried again and again, so a hub that is out of reach costs no minute.
    info = api.repo_info(place.repository, revision=place.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    entries = api.list_repo_tree(place.repository, recursive=True, revision=info.sha)
    return {entry.path: entry.size for entry in entries if isinstance(entry, RepoFile)}


def chosen(place: Place, sizes: Mapping[str, int]) -> list[str]:
    """The files that ``place`` needs, out of those of its repository. Raises CoderError.

    A file comes with the small configurations beside it and in the folders above, a folder with those above. A folder
    whose files are large must hold one SAE.
    """
    path = PurePosixPath(place.path)
    if place.path in sizes:
        own = {f"{path.stem}_cfg.json", f"{path.name}_cfg.json"}
        beside = [
            name
            for name in _configs(sizes, [str(path.parent)])
            if not name.endswith("_cfg.json") or PurePosixPath(name).name in own
        ]
        wanted = [place.path, *beside, *_configs(sizes, map(str, path.parent.parents))]
    else:
        below = {n: size for n, size in sizes.items() if not place.path or n.startswith(f"{place.path}/")}
        if not below:
            raise CoderError(f"{place.repository} has no {place.path}{_nearest(place.path, sizes)}")
        wanted = [*_of_folder(place, below), *(_configs(sizes, map(str, path.parents)) if place.path else [])]
    return sorted(set(wanted))


def _configs(sizes: Mapping[str, int], folders: Iterable[str]) -> list[str]:
    """Small configurations that lie directly in the folders; "." is the root."""
    among = set(folders)
    return [
        name
        for name, size in sizes.items()
        if name.endswith(_CONFIGS) and size <= _MOST_CONFIG and str(PurePosixPath(name).parent) in among
    ]


def _of_folder(place: Place, below: Mapping[str, int]) -> list[str]:
    """What of the files below a folder is fetched: all if they are small, else one SAE. Raises CoderError."""
    total = sum(below.values())
    if total <= _MOST_UNNAMED:
        return list(below)
    folder = place.path or "."
    weights = [name for name in below if name.endswith(SUFFIXES)]
    direct = [name for name in weights if str(PurePosixPath(name).parent) == folder]
    if any(_is_whole(PurePosixPath(name).relative_to(folder)) for name in weights):
        wanted = direct or [name for name in weights if _sae_of(name) == place.path]
    elif len(weights) == 1:
        wanted = weights
    else:
        saes = sorted({_sae_of(name) for name in weights})
        raise CoderError(
            f"hf:{place.label} has {total / 2**30:.1f} GiB in {len(weights)} files of weights, so name one SAE of it"
            + (f", such as {_listed([place.source(name) for name in saes])}" if saes else "")
            + "; or fetch it with 'hf download' and give the local folder"
        )
    return [*wanted, *_configs(below, [folder])]


def _sae_of(name: str) -> str:
    """The SAE of a file of weights: its folder if there is one SAE in it, else the file; "" is the root."""
    path = PurePosixPath(name)
    for parent in list(path.parents)[:2]:
        if _is_whole(path.relative_to(parent)):
            return "" if str(parent) == "." else str(parent)
    return name


def _is_whole(below: PurePosixPath) -> bool:
    """Whether a folder with this file below it is one SAE in some layout."""
    return any(str(below) in layout.weights for layout in FORMATS)


def _nearest(path: str, names: Iterable[str]) -> str:
    """Which path may have been meant, as the end of a sentence."""
    known = {str(part) for name in names for part in (PurePosixPath(name), *PurePosixPath(name).parents)} - {"."}
    meant = sorted(name for name in known if name.endswith(f"/{path}"))
    above = next((str(p) for p in PurePosixPath(path).parents if str(p) in known), ".")
    inside = {PurePosixPath(name).name: name for name in known if str(PurePosixPath(name).parent) == above}
    wrong = PurePosixPath(path).relative_to(above).parts[0]
    close = difflib.get_close_matches(wrong, inside, n=_MOST_LISTED)
    meant = meant or [inside[name] for name in close]
    if meant:
        return f"; did you mean {_listed(meant, ' or ')}?"
    where = "there" if above == "." else f"in {above}"
    return f"; {where} it has {_listed(sorted(inside.values()))}"


def _listed(names: list[str], join: str = ", ") -> str:
    return join.join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")


def _snapshots(place: Place) -> Path:
    return Path(constants.HF_HUB_CACHE, f"models--{place.repository.replace('/', '--')}", "snapshots")


def _cached(place: Place) -> tuple[Path, str] | None:
    """File or folder of ``place`` and its commit in the cache of the hub, None unless its weights are there."""
    snapshots = _snapshots(place)
    named = snapshots.parent / "refs" / place.revision
    commit = read_text(named, CoderError, KIB).strip() if named.is_file() else place.revision
    path = snapshots / commit / place.path
    if "/" in commit or not commit or not path.exists():
        return None
    files = path.rglob("*") if path.is_dir() else [path]
    return (path, commit) if any(file.suffix in SUFFIXES and file.is_file() for file in files) else None


def _what_there_is(place: Place) -> str:
    """Which commits of the repository the cache has, as a part of a sentence; nothing without one."""
    snapshots = _snapshots(place)
    commits = sorted(p.name for p in snapshots.iterdir() if p.is_dir()) if snapshots.is_dir() else []
    return f"; of this repository it has files of commit {_listed(commits)}" if commits else ""


def _explained(place: Place, error: Exception) -> str:
    """What went wrong on the hub, in a sentence without credentials."""
    page = f"{constants.ENDPOINT}/{place.repository}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return f"{place.repository} is gated: accept its terms at {page} and run 'hf auth login'"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{place.repository} has no branch, tag or commit {place.revision!r} (it goes last, behind the path)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no model repository {page}, or it is private: check the name, or run 'hf auth login'"
    if isinstance(error, errors.HFValidationError):
        return f"{place.repository!r} cannot be the name of a repository; give {_FORM}"
    if status in (401, 403):
        return f"the hub refuses access to {place.repository} ({status}): see its terms at {page}, run 'hf auth login'"
    if status is not None:
        return f"the hub answers a request for {place.repository} with status {status}; try again later"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError | TimeoutError):
        return f"{place.repository} cannot be stored in the cache of the hub: {error.strerror}"
    lines = str(error).strip().splitlines() or [""]
    said = re.sub(r"hf_\w+|Bearer\s+\S+", "***", lines[0])[:200]
    return f"the Hugging Face hub cannot be reached for {place.repository} ({type(error).__name__}: {said})"
