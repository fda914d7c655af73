"""Everything about an evaluation except the SAEs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sae_bench import registry
from sae_bench.errors import UsageError
from sae_bench.files import check_folder, check_place, possible
from sae_bench.schema import MOST_RESAMPLES


@dataclass(frozen=True)
class Tier:
    """The most that a tier reads: documents, and tokens as those of so many sequences of the context (None: all).

    Tokens grow with the context, since what makes a figure sure is the number of documents, not their length: a run
    takes a sequence of each of 512 documents rather than all of a few.
    """

    documents: int | None
    sequences: int | None
    calibration_documents: int
    calibration_sequences: int


TIERS = {
    "smoke": Tier(32, 32, 16, 128),
    "standard": Tier(512, 512, 128, 1024),
    "full": Tier(None, None, 512, 4096),
}
# examples of the train and test part of every labelled set, by tier
PROBE_TIERS: dict[str, tuple[int | None, int | None]] = {
    "smoke": (128, 128),
    "standard": (1024, 512),
    "full": (None, None),
}
ABLATION_TIERS: dict[str, int | None] = {"smoke": 8, "standard": 64, "full": 512}  # documents with ablations
TRACKED_TIERS: dict[str, int | None] = {"smoke": 32, "standard": 512, "full": 2048}  # documents to explain from
# What is measured without a word about tasks: what costs least beside the pass over the text (docs/suites.md).
CORE = ("reconstruction", "sparsity", "loss_recovered", "token_rules")
DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")
DEFAULT_CONTEXT = 128
TEXT_FIELD = "text"


@dataclass(frozen=True)
class Told:
    """What the user says about an SAE, over what its files say or where they are silent.

    ``layer`` is the block where the files name a site but no layer; ``threshold`` one number for all latents, in units
    of the pre-activations; ``norm_factor`` what activations are multiplied with before the encoder (and the
    reconstruction is divided by); ``k`` the latents kept of a token.
    """

    format: str | None = None
    hook_in: str | None = None
    hook_out: str | None = None
    layer: int | None = None
    threshold: float | None = None
    norm_factor: float | None = None
    k: int | None = None

    def given(self) -> dict[str, Any]:
        """What was told, by name."""
        return {name: value for name in TOLD if (value := getattr(self, name)) is not None}


PATHS = ("model", "data", "tokenizer", "task_dir", "suite", "probe_data", "judge_cache", "judge_batch", "out")
TOLD = tuple(f.name for f in fields(Told))


@dataclass(frozen=True)
class Settings(Told):
    """Everything about an evaluation except the SAEs. The command line has a flag for each.

    ``model``: a folder, a hub id, "demo", or a ``transformers`` model in memory; by default what the SAE declares.
    ``name``: what the results of a single SAE are called; see :mod:`sae_bench.given` for what they are called without.
    ``suite``: the frozen suite that the run keeps to, by name or file; what contradicts it is refused. "auto": that of
    the model if nothing else is said of what is measured, "none": none. See :mod:`sae_bench.suites`.
    ``tasks``: "core" (the default: :data:`CORE`), "all" that the inputs allow, or names and globs.
    ``data``: a file, folder, hub id, "demo", a list of texts, or token ids ``[sequences, length]``; by default the text
    of a suite of the model, else what the SAE says that it was trained on.
    Ids are read as they are, less padding on the right: ``packed``, ``bos``, ``text_field``, ``split`` and a
    ``context`` beyond their length are refused; a shorter one, that of the SAE or the model cuts rows, with a warning.
    ``mask``: what is left out everywhere: "special" BOS and EOS ids, and position 0 of every sequence; "first" position
    0; "none" nothing. Padding never counts, and is a place and no id: a padding token inside a text is scored.
    ``limit``: evaluation documents, ``tokens``: evaluation tokens, and the most that calibration reads of each; if
    neither is given the ``tier`` decides. Tokens are spread over groups: see :mod:`sae_bench.data.sides`.
    ``group_field``: the column (of ids in .safetensors the tensor) that says what each text or row belongs to: its
    source, its document. ``groups`` says it of texts in memory and of rows: one label each, a text or an integer.
    Groups are what intervals resample, and are on one side of the calibration split; without labels a document is its
    own, packed or not.
    ``controls``: "none", "default", "all" or names.
    ``probe_data``: folder of labelled sets, instead of the built-in suite; ``probe_sets``: names or globs of sets.
    ``parameters``: task parameters other than those of the definitions, as {"task.name": value}; they change the
    protocol. ``judge_model`` and ``judge_base_url``: the language model that explains latents (autointerp), and where
    it is; see :class:`sae_bench.judge.JudgeOptions` for what else is said of it (``judge_endpoint`` is its
    ``endpoint_id``, ``judge_key_env`` its ``api_key_env``), for its cache, limits and prices. ``judge_batch``: a file
    to which requests are written instead of being sent. ``null="untrained"``: judge the control "random" too.
    What is told of an SAE (:class:`Told`) settles what its files leave open, and overrides what they say.
    ``backend``: what runs the model, "hf" (``transformers``), "tl" (TransformerLens) or one of another package.
    ``device`` and ``dtype`` of the language model: "auto" takes a GPU if there is one, and float32; a model in memory
    keeps its own, and others are refused, as it is never moved or converted. SAEs that are loaded compute in float32,
    or float64 where that is asked for; one in memory as it does. ``sae_dtype``: what they compute in instead, which is
    in the protocol if it is not the default; "bfloat16" is for SAEs that are run so (weights, activations and latents
    in it, sums as the library makes them).
    ``select_in="bfloat16"``: TopK selects by certified bfloat16 products (the same latents); see
    :mod:`sae_bench.kernels.candidates`.
    ``calibration_cache``: take what earlier runs measured of this model on this text without an SAE, and keep it for
    later ones; see :mod:`sae_bench.session.keeping`. ``overwrite="always"`` takes nothing.
    ``out``: folder for result files, None to write none. Paths are texts or ``pathlib.Path``, and ``~`` in them is the
    home folder; a ``Path`` is never taken for a name such as "demo".
    """

    model: Any = None
    data: Any = None
    tokenizer: Any = None
    name: str | None = None
    tasks: str | None = None
    suite: str | Path = "auto"
    task_dir: str | Path | None = None
    tier: Literal["smoke", "standard", "full"] = "standard"
    limit: int | None = None
    tokens: int | None = None
    probe_data: str | Path | None = None
    probe_sets: str = "all"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    judge_model: str | None = None
    judge_base_url: str | None = None
    judge_params: Mapping[str, Any] = field(default_factory=dict)
    judge_headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    judge_timeout: float | None = None
    judge_key_env: str | None = None
    judge_endpoint: str | None = None
    judge_fingerprint: Literal["auto", "one", "any"] = "auto"
    reply_tokens: int | None = None
    judge_cache: str | Path | None = None
    judge_cache_only: bool = False
    judge_batch: str | Path | None = None
    null: Literal["none", "untrained"] = "none"
    max_requests: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None
    price_in: float | None = None
    price_out: float | None = None
    text_field: str = TEXT_FIELD
    group_field: str | None = None
    groups: Any = None
    split: str | None = None
    context: int | None = None
    packed: bool = False
    bos: Literal["auto", "yes", "no"] = "auto"
    mask: Literal["special", "first", "none"] = "special"
    mean_from: Literal["calibration", "evaluation"] = "calibration"
    controls: str = "default"
    select_in: Literal["exact", "bfloat16"] = "exact"
    backend: str = "hf"
    device: str = "auto"
    dtype: str = "auto"
    sae_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = 0
    resamples: int = 2000
    batch_tokens: int | None = None
    out: str | Path | None = None
    overwrite: Literal["missing", "always", "never"] = "missing"
    checkpoint_seconds: float = 5.0
    calibration_cache: bool = True

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UsageError(f"{name} must be one of {', '.join(allowed)}, but it is {getattr(self, name)!r}")
        known = list(registry.backends())
        if self.backend not in known:
            raise UsageError(f"no backend is named {self.backend!r}; {registry.suggest(str(self.backend), known)}")
        if self.name is not None:
            check_name(self.name)
        self._check_types()
        for name in PATHS:
            object.__setattr__(self, name, _resolved(getattr(self, name)))
        if self.sae_dtype == "bfloat16" and self.select_in == "bfloat16":
            raise UsageError(
                "select_in='bfloat16' finds the latents that float32 selects, and sae_dtype='bfloat16' asks for those "
                "of bfloat16: give one of them"
            )
        self._check_places()
        self._check_numbers()

    def _check_types(self) -> None:
        """Refuse a setting of another type than its field's, such as a list of names, before anything asks it."""
        for name, types in _types().items():
            value = getattr(self, name)
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                kinds = " or ".join(_CALLED[one] for one in types if one in _CALLED)
                raise UsageError(f"{name} must be {kinds}, but it is {str(value)[:80]!r} ({type(value).__name__})")

    def _check_places(self) -> None:
        """Refuse where nothing can be written, before anything is loaded."""
        for name in ("out", "judge_cache", "judge_batch"):
            if getattr(self, name) is not None:
                possible(getattr(self, name))
        if self.out is not None:
            check_folder(Path(self.out))
        if self.judge_batch is not None:
            check_place(Path(self.judge_batch))

    def _check_numbers(self) -> None:
        for name, least in (
            ("limit", 1),
            ("tokens", 2),
            ("context", 3),
            ("batch_tokens", 1),
            ("resamples", 20),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}, but it is {value}")
        if self.resamples > MOST_RESAMPLES:
            raise UsageError(f"resamples must be at most {MOST_RESAMPLES}, but it is {self.resamples}")


_CALLED = {
    str: "a text",
    Path: "a path",
    Integral: "a whole number",
    Real: "a number",
    bool: "True or False",
    Mapping: "a mapping",
    type(None): "None",
}


@cache
def _types() -> dict[str, tuple[type, ...]]:
    """What the value of each setting may be an instance of, by its annotation; of those that take anything, nothing.

    A number of another library, such as numpy's, is one. Choices are held against the words that may be chosen.
    """
    wider: dict[Any, type] = {int: Integral, float: Real}
    found = {}
    for name, hint in get_type_hints(Settings).items():
        parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        types = [get_origin(one) or one for one in parts]
        if Any not in types and Literal not in types:
            found[name] = tuple(wider.get(one, one) for one in types)
    return found


def _resolved(given: Any) -> Any:
    """A path in which ``~`` is the home folder; whatever else a setting takes stays as it is.

    Where there is no such home folder the path becomes absolute, so that nobody behind looks for it again.
    """
    if not isinstance(given, str | Path) or not str(given).startswith("~"):
        return given
    found = os.path.expanduser(given)
    return type(given)(os.path.abspath(found) if found.startswith("~") else found)


def check_name(name: Any) -> None:
    """Refuse what no result can be called. Raises UsageError."""
    if not isinstance(name, str) or not name.isprintable() or not any(map(str.isalnum, name)):
        raise UsageError(f"the name of an SAE must be a line of text with a letter or digit in it, but it is {name!r}")


_CHOICES = {
    "tier": tuple(TIERS),
    "bos": ("auto", "yes", "no"),
    "mask": ("special", "first", "none"),
    "mean_from": ("calibration", "evaluation"),
    "dtype": DTYPES,
    "select_in": ("exact", "bfloat16"),
    "sae_dtype": ("auto", "float32", "bfloat16"),
    "null": ("none", "untrained"),
    "overwrite": ("missing", "always", "never"),
}
