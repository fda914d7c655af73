"""What a reader of a layout returns, what a user may tell it, and how both become a coder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from sae_bench.errors import CoderError, said
from sae_bench.saes.config import shown
from sae_bench.saes.linear import SELECTS_K, LinearCoder, Nonlinearity
from sae_bench.saes.named_models import model_of
from sae_bench.saes.protocol import CoderInfo
from sae_bench.saes.pursuit import Pursuit, PursuitCoder
from sae_bench.saes.source import Source
from sae_bench.saes.weights import Weights
from sae_bench.schema import INFERENCE
from sae_bench.settings import Told

Hooks = TypeVar("Hooks", str, tuple[str, ...])
_LONGEST = 200  # characters of a text in a file
Flag = Literal["format", "hook_in", "hook_out", "layer", "threshold", "norm_factor", "k"]


@dataclass(frozen=True)
class Question:
    """What the files leave open, as a sentence, and the flags that settle it; any one of them does."""

    what: str
    flags: tuple[Flag, ...]


@dataclass(frozen=True)
class Reading:
    """What a reader found. ``hook_in`` None: the files do not say; ``hook_out`` None: the same as ``hook_in``.

    ``n_latents``, ``d_in`` and ``d_out`` are what the configuration declares; None takes them from the tensors.

    ``files`` are those whose contents decide the numbers (their digest is the SAE's). ``assumptions`` are sentences on
    what the files do not say and the layout's conventions do; ``warnings`` on what may change numbers. ``declared_l0``
    is the number of active latents that the files promise, where they do. ``architecture`` is how the SAE was trained,
    as far as the files say it, and ``inference`` what they hold where that is another: an SAE trained with BatchTopK is
    stored as a JumpReLU. Without ``architecture`` it is the activation function of the files.
    """

    weights: Weights
    rule: Nonlinearity | Pursuit
    files: tuple[str, ...]
    hook_in: str | None
    hook_out: str | None = None
    architecture: str = ""
    inference: str = ""
    name: str | None = None
    n_latents: int | None = None
    d_in: int | None = None
    d_out: int | None = None
    model: str | None = None
    prepend_bos: bool | None = None
    context_size: int | None = None
    prefix_widths: tuple[int, ...] = ()
    declared_l0: float | None = None
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    questions: tuple[Question, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


def build(
    source: Source, format_name: str, reading: Reading, told: Told, *, device: str | torch.device, dtype: torch.dtype
) -> LinearCoder | PursuitCoder:
    """The coder of what was read and told. Raises CoderError, warns of what may change numbers."""
    name = reading.name or source.name
    unsettled = [q for q in reading.questions if not set(q.flags) & set(told.given())]
    if unsettled:
        flags = " or ".join("--" + flag.replace("_", "-") for flag in unsettled[0].flags)
        raise CoderError(f"{name}: {unsettled[0].what}; settle it with {flags}")
    hook_in = told.hook_in or reading.hook_in
    if hook_in is None:
        raise CoderError(
            f"{name}: the files do not say which hook point the SAE reads; give --hook-in, for example "
            "--hook-in blocks.8.hook_resid_post"
        )
    own_in = reading.hook_in or hook_in
    hook_in, hook_out = hook_points(own_in, reading.hook_out or own_in, told.hook_in, told.hook_out)
    _check_record(source, reading)
    rule, weights, changes = _apply(name, reading, told)
    settled = {"hook_in": reading.hook_in, "hook_out": reading.hook_out}
    model, contradicted = model_of(source, reading.model)
    reading = dataclasses.replace(reading, model=model, warnings=(*reading.warnings, *contradicted))
    declared = {flag: said for flag, said in settled.items() if getattr(told, flag) and said}
    info = CoderInfo(
        name=name,
        n_latents=_size(name, "W_dec", reading.n_latents, weights.W_dec, 0),
        d_in=_size(name, "W_enc", reading.d_in, weights.W_enc, 0),
        d_out=_size(name, "W_dec", reading.d_out, weights.W_dec, 1),
        hooks_in=(hook_in,),
        hooks_out=(hook_out,),
        architecture=reading.architecture or getattr(reading.rule, "activation", "unknown"),
        signed=rule.signed,
        prefix_widths=reading.prefix_widths,
        model=reading.model,
        prepend_bos=reading.prepend_bos,
        context_size=reading.context_size,
        format=format_name,
        provenance={
            "files": list(reading.files),
            "sha256": _digest(source, reading.files, changes),
            **({"told": told.given()} if told.given() else {}),
            **_inference(reading, rule),
            **({"declared_hooks": declared} if declared else {}),
            **({"declared_l0": reading.declared_l0} if reading.declared_l0 is not None else {}),
            **({"assumptions": list(reading.assumptions)} if reading.assumptions else {}),
            **({"warnings": list(reading.warnings)} if reading.warnings else {}),
            **source.origin,
            **reading.extra,
        },
    )
    for warning in reading.warnings:
        warnings.warn(f"{name}: {warning}", stacklevel=2)
    try:
        placed = weights.to(device)
    except (RuntimeError, AssertionError) as error:  # torch asserts where it was built without this kind of device
        raise CoderError(f"{name}: the tensors cannot be put on {device}: {said(error)}") from error
    return rule.coder(info, placed, dtype)


def _inference(reading: Reading, rule: Nonlinearity | Pursuit) -> dict[str, str]:
    """How the SAE is computed, where that is not how it was trained: by its files, or by what was told of it."""
    own, used = (getattr(one, "activation", "") for one in (reading.rule, rule))
    found = used if used != own else reading.inference
    return {INFERENCE: found} if found and found != reading.architecture else {}


def hook_points(own_in: Hooks, own_out: Hooks, told_in: Hooks | None, told_out: Hooks | None) -> tuple[Hooks, Hooks]:
    """Where an SAE reads and writes: what is told goes first, and one that writes where it reads goes on doing so."""
    hook_in = told_in or own_in
    return hook_in, told_out or (hook_in if own_out == own_in else own_out)


def _check_record(source: Source, reading: Reading) -> None:
    """Texts and sizes that go into results and messages as the files have them. Raises CoderError."""
    for field_name in ("name", "hook_in", "hook_out", "model", "architecture", "inference"):
        text = getattr(reading, field_name)
        if text is not None and (len(text) > _LONGEST or not text.isprintable()):
            what = f"the {field_name} must be text of at most {_LONGEST} printable characters"
            raise CoderError(f"{source.path}: {what}, but it is {shown(text)}")
    if reading.context_size is not None and reading.context_size < 1:
        raise CoderError(f"{source.path}: the context size must be positive, but it is {reading.context_size}")


def _size(name: str, what: str, declared: int | None, tensor: Tensor, axis: int) -> int:
    if declared is not None:
        return declared
    if tensor.ndim != 2:
        raise CoderError(f"{name}: {what} must be a matrix, but its shape is {list(tensor.shape)}")
    return tensor.shape[axis]


def _apply(name: str, reading: Reading, told: Told) -> tuple[Nonlinearity | Pursuit, Weights, dict[str, Any]]:
    """The rule and weights with ``told`` in them, and what of it changes numbers. Raises CoderError."""
    rule, weights = reading.rule, reading.weights
    changes = {flag: v for flag in ("threshold", "norm_factor", "k") if (v := getattr(told, flag)) is not None}
    if isinstance(rule, Pursuit):
        if told.threshold is not None or told.k is not None:
            raise CoderError(f"{name}: matching pursuit keeps latents by its own rule, without --k or --threshold")
        if told.norm_factor is not None:
            rule, weights = rule.scaled(weights, _factor(name, told.norm_factor))
        return rule, weights, changes
    if told.threshold is not None and told.k is not None:
        raise CoderError(f"{name}: give --k or --threshold, not both: an SAE keeps k latents or those over a threshold")
    if told.threshold is not None:
        if rule.activation not in ("relu", "topk", "jumprelu"):
            raise CoderError(f"{name}: a {rule.activation} SAE has no threshold to be told")
        rule = dataclasses.replace(rule, activation="jumprelu", k=None, keep_negative=False)
        weights = dataclasses.replace(weights, threshold=torch.tensor(float(told.threshold)))
    if told.k is not None:
        if rule.activation not in SELECTS_K:
            raise CoderError(f"{name}: a {rule.activation} SAE does not keep k latents of a token, so --k says nothing")
        rule = dataclasses.replace(rule, k=told.k)
    if told.norm_factor is not None:
        if rule.normalise != "none":
            raise CoderError(f"{name}: the SAE normalises every token, so --norm-factor says nothing")
        rule, weights = rule.scaled(weights, _factor(name, told.norm_factor))
    return rule, weights, changes


def _factor(name: str, told: float) -> float:
    factor = float(told)
    if not 0 < factor < float("inf"):
        raise CoderError(f"{name}: --norm-factor must be a positive number, not {told}")
    return factor


def _digest(source: Source, files: tuple[str, ...], changes: dict[str, Any]) -> str:
    """Digest of the files, and of what was told where it changes numbers: another coder, another digest."""
    digest = source.sha256(files)
    if not changes:
        return digest
    return hashlib.sha256(f"{digest} {json.dumps(changes, sort_keys=True)}".encode()).hexdigest()
