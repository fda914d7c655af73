"""What a run will do: options, which coders, which sequences in which batch."""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sae_bench import registry
from sae_bench.data.mask import Mask, inside
from sae_bench.data.tokens import TokenSet
from sae_bench.engine.selfcheck import SelfCheck, selfcheck
from sae_bench.engine.workspace import CoderFailure, Entry, Workspace, guarded
from sae_bench.errors import CoderError, SaeBenchError
from sae_bench.saes.calibration import Calibration, NoControl, Text, on_grid
from sae_bench.saes.controls import MAX_RANDOM_LATENTS
from sae_bench.saes.protocol import SparseCoder
from sae_bench.units.bootstrap import RESAMPLES

# One copy of the logits of a batch stays below these bytes, and a batch below these tokens: more costs memory and saves
# no time.
LOGIT_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
LOGIT_COPIES = 3  # copies of a batch's logits: a run was seen to need two at its peak
MOST_TOKENS = {"cpu": 2048, "cuda": 16_384}
L0_ELEMENTS = 1 << 27  # tokens times latents on which an L0 is measured that differs from token to token


@dataclass(frozen=True)
class Options:
    """Choices of a run that change numbers (``mask``, ``seed``, ``controls``) or only its cost.

    ``batch_tokens`` None: what :func:`batch_tokens` finds good for the vocabulary and the device. ``vocabulary``: how
    many of the model's output rows belong to tokens (None: all); the rest is padding. ``ablation_documents``: on how
    many documents latents are ablated, ``tracked_documents``: on how many it is kept where they fire (None: on all).
    """

    mask: Mask = "special"
    controls: tuple[str, ...] = registry.DEFAULT_CONTROLS
    seed: int = 0
    resamples: int = RESAMPLES
    batch_tokens: int | None = None
    checkpoint_seconds: float = 5.0
    special_ids: frozenset[int] = frozenset()
    vocabulary: int | None = None
    ablation_documents: int | None = None
    tracked_documents: int | None = None


@dataclass(frozen=True)
class Batches:
    """Sequences grouped by similar length, longest first, so that a run that does not fit in memory fails at once."""

    tokens: TokenSet
    groups: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(tokens: TokenSet, batch_tokens: int, only: Sequence[int] | None = None) -> Batches:
        """Groups of sequences (all, or ``only`` these) of a padded size up to ``batch_tokens``; one may exceed it."""
        chosen = range(len(tokens)) if only is None else only
        lengths = {i: len(tokens[i].ids) for i in chosen}
        order = sorted(chosen, key=lambda i: (-lengths[i], i))
        groups: list[list[int]] = []
        for i in order:
            if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= batch_tokens:
                groups[-1].append(i)
            else:
                groups.append([i])
        return Batches(tokens, tuple(tuple(group) for group in groups))

    def __len__(self) -> int:
        return len(self.groups)

    def tensors(self, index: int, options: Options) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``tokens`` int64, ``attention``, ``keep`` and ``target`` bool, each ``[batch, seq]``, padded on the right.

        They are on the host.

        Padding is where ``attention`` is not, whatever its id; ``target`` is what a prediction may be scored on.
        """
        ids = [self.tokens[i].ids for i in self.groups[index]]
        tokens = _padded([torch.from_numpy(row.astype("int64")) for row in ids])
        attention = _padded([torch.ones(len(row), dtype=torch.bool) for row in ids])
        keep = _padded([torch.from_numpy(inside(row, options.mask, options.special_ids)) for row in ids])
        target = attention.clone()
        for row, i in enumerate(self.groups[index]):
            if i in self.tokens.padded_ends:
                target[row, len(ids[row]) - 1] = False
        return tokens, attention, keep, target

    def names(self, index: int) -> tuple[str, ...]:
        """A name for every sequence of a batch, by its document's content and its place in the document."""
        return tuple(self.tokens.sequence_name(i) for i in self.groups[index])

    def units(self, index: int) -> list[int]:
        """The unit of every sequence of a batch, as an index into the unit ids."""
        return [self.tokens[i].unit for i in self.groups[index]]


def _padded(rows: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def batch_tokens(options: Options, vocab_size: int, device: torch.device, longest: int) -> int:
    """Tokens of one batch."""
    if options.batch_tokens is not None:
        return options.batch_tokens
    kind = "cuda" if device.type == "cuda" else "cpu"
    return max(longest, min(LOGIT_BYTES[kind] // (4 * vocab_size), MOST_TOKENS[kind]))


@dataclass
class Cast:
    """All coders of a run: ``saes``, then controls, each once; ``controls_of`` maps an SAE's key to its controls.

    ``unmade`` says by SAE why it lacks a control that was asked for, ``checked`` what was seen of it before.
    """

    saes: list[Entry]
    controls: list[Entry] = field(default_factory=list)
    controls_of: dict[str, dict[str, str]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    unmade: dict[str, dict[str, str]] = field(default_factory=dict)
    checked: dict[str, SelfCheck] = field(default_factory=dict)

    @property
    def entries(self) -> list[Entry]:
        """SAEs and controls."""
        return [*self.saes, *self.controls]


def entry_of(coder: SparseCoder, name: str | None = None) -> Entry:
    """An SAE that is called ``name``, by default what it calls itself. Raises CoderError for several hook points."""
    info = coder.info
    if len(info.hooks_in) != 1 or len(info.hooks_out) != 1:
        raise CoderError(f"{info.name} reads or writes several hook points at once; only one of each can be evaluated")
    return Entry(name or info.name, name or info.name, coder)


def with_controls(
    saes: list[Entry], work: Workspace, options: Options, text: Text | None = None, scored: Text | None = None
) -> Cast:
    """The cast of a run: controls made for each SAE, those that do not depend on the SAE only once.

    ``text`` is calibration text beyond the samples of the moments, ``scored`` that on which controls are measured: what
    is taken of it is how many latents of an SAE are active there, so that controls have as many. SAEs of one hook point
    are taken one after the other, so that a text is read once for each.
    """
    cast = Cast(saes)
    made: dict[str, Entry] = {}
    shared: dict[Hashable, Any] = {}
    places = {(entry.hook_in, entry.hook_out): i for i, entry in reversed([*enumerate(saes)])}
    for entry in sorted(saes, key=lambda entry: places[entry.hook_in, entry.hook_out]):
        inputs, targets = work.moments[entry.hook_in], work.moments[entry.hook_out]
        checked = cast.checked[entry.key] = selfcheck(entry, inputs.sample, targets.sample)
        if checked.refused is not None:
            cast.failures[entry.key] = checked.refused
            continue
        cast.controls_of[entry.key] = {}
        if not options.controls:
            continue
        try:
            l0 = _mean_l0(entry, work, inputs.sample, scored)
        except CoderFailure as failure:
            cast.failures[entry.key] = f"encode failed on calibration text: {failure}"
            continue
        _add_controls(cast, entry, Calibration(inputs, targets, l0, shared, text), options, made)
    cast.controls = list(made.values())
    return cast


def _mean_l0(entry: Entry, work: Workspace, sample: Tensor, text: Text | None) -> float:
    """Active latents of a token: of the sample where each has as many, else of as much of ``text`` as is affordable.

    Those of an SAE with thresholds were seen to differ by 4 % between calibration text and other documents.
    """
    counts = work.encode(entry, sample).counts()
    most = L0_ELEMENTS // max(entry.coder.info.n_latents, 1)
    if text is None or len(counts) == 0 or most <= len(sample) or bool((counts == counts[0]).all()):
        return float(counts.double().mean()) if len(counts) else 0.0
    parts = [work.encode(entry, x).counts() for x, _ in text.pairs(entry.hook_in, entry.hook_in, most)]
    return float(torch.cat(parts).double().mean())


def _add_controls(cast: Cast, entry: Entry, calibration: Calibration, options: Options, made: dict[str, Entry]) -> None:
    """The controls of an SAE, of which ``made`` has those of other SAEs that it shares, and why it lacks some."""
    known = registry.controls()
    for name in options.controls:
        key, on = _shared_as(known[name], entry, calibration)
        if key not in made:
            try:
                coder = guarded(entry, partial(_control, known[name], entry, on, options.seed))
            except CoderFailure as failure:
                if isinstance(failure.__cause__, NoControl):
                    why = str(failure.__cause__)
                else:
                    why = f"it cannot be made: {failure}"
                    warnings.warn(f"the control {name} of {entry.label} cannot be made: {failure}", stacklevel=2)
                cast.unmade.setdefault(entry.key, {})[name] = why
                continue
            if coder is None:
                cast.unmade.setdefault(entry.key, {})[name] = "it does not apply to this SAE"
                continue
            made[key] = Entry(key, name, coder)
        cast.controls_of[entry.key][name] = key


def _control(control: registry.Entry, entry: Entry, calibration: Calibration, seed: int) -> SparseCoder | None:
    """A control of an SAE, None where it makes no sense. Raises whatever its code raises, and TypeError, ValueError."""
    coder = registry.load(control)(entry.coder, calibration, seed)
    if coder is None:
        return None
    if not isinstance(coder, SparseCoder):
        raise TypeError(f"it must be a coder or None, not {type(coder).__name__}")
    own, info = entry.coder.info, coder.info
    if (info.hooks_in, info.hooks_out) != (own.hooks_in, own.hooks_out):
        raise ValueError(f"it must read and predict {own.hooks_in[0]} and {own.hooks_out[0]} as the SAE does")
    return coder


def _shared_as(control: registry.Entry, entry: Entry, calibration: Calibration) -> tuple[str, Calibration]:
    """A key, equal for SAEs that share this control, and the calibration from which it is made for all of them."""
    key = f"control {control.name} at {entry.hook_in} -> {entry.hook_out}"
    try:
        alike = getattr(registry.load(control), "shared_by", None)
    except SaeBenchError:  # whoever makes it says so
        alike = None
    if not isinstance(alike, frozenset):
        return f"{key} of {entry.key}", calibration
    if "width" in alike:
        key += f" n={min(entry.coder.info.n_latents, MAX_RANDOM_LATENTS)}"
    if "l0" in alike:
        calibration = replace(calibration, l0=on_grid(calibration.l0))
        key += f" l0={calibration.l0:.6g}"
    return key, calibration


def memory(weights: Sequence[int], batch_tokens: int, vocab_size: int) -> int:
    """Roughly the memory beside the model, MiB: the SAEs' ``weights`` (numbers of each), and a batch's logits."""
    return round(4 * (sum(weights) + LOGIT_COPIES * batch_tokens * vocab_size) / 2**20)
