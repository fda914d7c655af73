"""The registry of pretrained SAEs that SAELens ships: from a release and an id to files on the hub, and what it says.

Only its table (``pretrained_saes.yaml`` in the installed package) is read; the library is not imported.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sae_bench.errors import CoderError
from sae_bench.files import MIB, read_bytes
from sae_bench.saes.formats.saelens_config import shaped
from sae_bench.saes.formats.saelens_subject import CENTERING
from sae_bench.saes.hook_names import centered, is_lens_name
from sae_bench.saes.hub import Place, parse
from sae_bench.saes.source import Source
from sae_bench.settings import Told

_TABLE = "pretrained_saes.yaml"
_MOST_LISTED = 4
# Which of our formats the files have that a conversion function of SAELens reads; of other functions detection decides.
_FORMATS = {
    None: "saelens",
    "sae_lens": "saelens",
    "connor_rob_hook_z": "connor_rob",
    "deepseek_r1": "deepseek",
    "dictionary_learning_1": "dictionary_learning",
    "gemma_2": "gemma_scope",
    "gemma_2_transcoder": "gemma_scope",
    "gemma_3": "gemma_scope_2",
    "goodfire": "goodfire",
    "llama_scope": "llama_scope",
    "llama_scope_r1_distill": "lm_saes",
    "mwhanna_transcoder": "circuit_tracer",
    "qwen_scope": "qwen_scope",
    "sparsify": "sparsify",
}
_REFUSED = {
    "mntss_clt_layer_transcoder": "it is one layer of a cross-layer transcoder, which reconstructs nothing by itself",
    "temporal": "it needs the whole sequence, and sae-bench gives an SAE one token at a time",
}
# Formats whose files hold the factor of the normalisation themselves.
_OWN_FACTOR = frozenset({"llama_scope"})
# Fields of an override that change no number: the model goes into the origin, the rest is about the training.
_PROSE = frozenset({"dataset_path", "model_name", "neuronpedia_id"})
_TOLD = {"hook_name": "hook_in", "hook_name_out": "hook_out", "k": "k"}


@dataclass(frozen=True)
class Listed:
    """An SAE in the registry. ``conversion`` is the function that SAELens reads it with, ``overrides`` what it changes
    in the configuration, ``norm_factor`` what activations are multiplied with if the configuration asks for a factor.
    """

    release: str
    id: str
    place: Place
    model: str | None
    conversion: str | None
    l0: float | None
    norm_factor: float | None
    overrides: Mapping[str, Any]

    @property
    def origin(self) -> dict[str, Any]:
        """What the registry says, for the provenance."""
        said = {
            "saelens_release": self.release,
            "saelens_id": self.id,
            "declared_l0": self.l0,
            "registry_model": self.model,
            "registry_norm_factor": self.norm_factor,
            "registry_overrides": dict(self.overrides) or None,
        }
        return {name: value for name, value in said.items() if value is not None}


def find(text: str) -> Listed:
    """The SAE that ``release/id`` names; both may contain slashes. Raises CoderError."""
    file = _file()
    table = _read(file)
    parts = text.split("/")
    heads = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
    known = [release for release in heads if release in table]
    if not known:
        raise CoderError(
            f"the table of SAELens has no release {parts[0]!r} (SAEs of other repositories are given as "
            f"hf:owner/repo/path){_nearest(parts[0], table)}"
        )
    try:
        ids = {release: {str(sae["id"]): sae for sae in table[release]["saes"]} for release in known}
        release = next((r for r in known if text[len(r) + 1 :] in ids[r]), known[0])
        sae_id = text[len(release) + 1 :]
        if sae_id not in ids[release]:
            raise CoderError(
                f"in the table of SAELens, saelens:{release}/id has no id {sae_id!r}{_nearest(sae_id, ids[release])}"
            )
        return _listed(release, sae_id, table[release], ids[release][sae_id])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CoderError(
            f"{file}: the release {known[0]} is not written as SAELens 4 to 6 do it ({error!r})"
        ) from error


def _listed(release: str, sae_id: str, entry: Mapping[str, Any], sae: Mapping[str, Any]) -> Listed:
    factor, l0 = sae.get("norm_scaling_factor"), sae.get("l0")
    return Listed(
        release=release,
        id=sae_id,
        place=parse(f"{entry['repo_id']}/{str(sae['path']).strip('/')}@main"),
        model=entry.get("model"),
        conversion=_callable(release, sae_id, entry.get("conversion_func")),
        l0=None if l0 is None else float(l0),
        norm_factor=None if factor is None else float(factor),
        overrides=dict(entry.get("config_overrides") or {}),
    )


def _callable(release: str, sae_id: str, conversion: str | None) -> str | None:
    """The conversion function, unless no SAE can be made of what it reads. Raises CoderError."""
    if conversion in _REFUSED:
        raise CoderError(f"saelens:{release}/{sae_id} cannot be measured: {_REFUSED[conversion]}")
    return conversion


def told(listed: Listed, path: Path) -> Told:
    """What the registry says about the SAE with files at ``path``. Raises CoderError, and warns.

    As in SAELens, the factor counts only where the configuration asks for one, and an override replaces what the
    configuration says. One that cannot be expressed is refused.
    """
    format_name = _FORMATS.get(listed.conversion)
    config, subject = _configuration(path) if format_name == "saelens" else ({}, {})
    said: dict[str, Any] = {"format": format_name, "norm_factor": _norm_factor(listed, format_name, config)}
    said |= {flag: listed.overrides[key] for key, flag in _TOLD.items() if key in listed.overrides}
    hooks = {flag: said.get(flag) or subject.get(key) for key, flag in _TOLD.items() if key != "k"}
    lens_names = {flag: name for flag, name in hooks.items() if isinstance(name, str) and is_lens_name(name)}
    for key, value in listed.overrides.items():
        if key == "model_from_pretrained_kwargs" and value == {CENTERING: True} and "hook_in" in lens_names:
            said |= {flag: centered(name) for flag, name in lens_names.items()}
        elif key not in _PROSE and key not in _TOLD and (config | subject).get(key) != value:
            raise CoderError(
                f"for {listed.release} the table of SAELens sets {key} to {value!r}, over what the files say, and no "
                f"flag does that: set it in a copy of {listed.place.label}, and give the folder"
            )
    return Told(**said)


def _configuration(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of ``cfg.json`` on the SAE and on its training, in the shape of SAELens v6; none without the file."""
    source = Source(path)
    if not source.has("cfg.json"):
        return {}, {}
    shape = shaped(source.config("cfg.json"))
    return dict(shape.config.values), dict(shape.metadata.values)


def _norm_factor(listed: Listed, format_name: str | None, config: Mapping[str, Any]) -> float | None:
    factor = listed.norm_factor
    if factor is None or format_name in _OWN_FACTOR:
        return None
    if format_name == "saelens" and config.get("normalize_activations") != "expected_average_only_in":
        warnings.warn(
            f"{listed.release}/{listed.id}: the registry has a factor for the activations, {factor:g}, but the "
            "configuration asks for none, so it is left out, as in SAELens (--norm-factor applies it)",
            stacklevel=2,
        )
        return None
    return factor


def _file() -> Path:
    """The table of the installed SAELens. Raises CoderError."""
    try:
        spec = importlib.util.find_spec("sae_lens")
    except ValueError:  # a module that was put together by hand
        spec = None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (file := Path(folder) / _TABLE).is_file():
            return file
    raise CoderError(
        "saelens:release/id is looked up in the table of SAELens, which is not installed: install "
        "sae-bench-suite[saelens], or give the SAE as hf:owner/repo/path"
    )


@functools.cache
def _read(file: Path) -> dict[str, Any]:
    """All releases by name. Raises CoderError."""
    try:
        table = yaml.load(read_bytes(file, CoderError, 64 * MIB), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError) as error:
        raise CoderError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(table, dict):
        raise CoderError(f"{file} must hold a mapping of releases, but it holds a {type(table).__name__}")
    return table


def _nearest(name: str, names: Iterable[str]) -> str:
    """Which name may have been meant, as a part of a sentence."""
    known = [str(n) for n in names]
    if close := difflib.get_close_matches(name, known, n=_MOST_LISTED):
        return f"; did you mean {', or '.join(close)}?"
    return f"; there are {len(known)}, such as {', '.join(known[:_MOST_LISTED])}"
