"""Where dictionary_learning puts its files, and which hook point its configuration means."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sae_bench.errors import CoderError
from sae_bench.saes.config import Config, shown
from sae_bench.saes.hook_names import from_module, from_submodule, is_lens_name
from sae_bench.saes.reading import Question
from sae_bench.saes.source import Source
from sae_bench.settings import Told

CONFIG, WEIGHTS = "config.json", "ae.pt"


@dataclass(frozen=True)
class Found:
    """What the files hold: tensors, configurations of the trainer and its buffer, and the factor of a backup."""

    tensors: dict[str, Tensor]
    files: tuple[str, ...]  # that of the tensors first
    trainer: Config | None
    buffer: Config
    factor: float = 1.0
    step: Any = None


def find(source: Source) -> Found:
    """The files of a folder, or the file that the user gave and the configuration near it. Raises CoderError."""
    weights = WEIGHTS if source.main is None else source.path.name
    beside = config_near(source)
    trainer, buffer = None, Config(source.folder / CONFIG, {}, "buffer")
    files: tuple[str, ...] = (weights,)
    if beside is not None:
        trainer, buffer = source.config(beside).section("trainer"), source.config(beside).section("buffer")
        files = (weights, beside)
    content = source.content(weights)
    if not {"ae", "norm_factor"} <= set(content):
        return Found(source.tensors(weights), files, trainer, buffer)
    backup = Config(source.folder / weights, content)
    tensors = {str(name): value for name, value in backup.section("ae").values.items() if isinstance(value, Tensor)}
    trainer = backup.section("config") if content.get("config") is not None else trainer
    return Found(tensors, files, trainer, buffer, _factor(backup), content.get("step"))


def config_near(source: Source) -> str | None:
    """The library's configuration: in the folder, or above ``checkpoints``. Raises CoderError if it cannot be read."""
    places = [CONFIG, f"../{CONFIG}"] if source.folder.name == "checkpoints" else [CONFIG]
    found = (name for name in places if (source.folder / name).is_file())
    return next((name for name in found if source.main is None or "trainer" in source.config(name).values), None)


def _factor(backup: Config) -> float:
    """What activations were divided by in training; 1 where they were not."""
    factor = backup.number("norm_factor") if backup.get("norm_factor") is not None else 1.0
    if not (math.isfinite(factor) and factor > 0):
        raise CoderError(f"{backup.where('norm_factor')} must be a positive number, but it is {factor}")
    return factor


def hook(found: Found, told: Told) -> tuple[str | None, tuple[str, ...], tuple[Question, ...]]:
    """The hook point that the configuration means, with what is assumed and asked. Raises CoderError."""
    trainer, buffer = found.trainer, found.buffer
    if trainer is None:
        return None, (), ()
    side = buffer.choice("io", ("in", "out", "in_and_out"), "out")
    name = trainer.optional("submodule_name", str)
    if side == "in_and_out":
        asked = "it was trained from the input of a module to its output, and its files do not name them"
        return None, (), (Question(asked, ("hook_in",)), Question(asked, ("hook_out",)))
    if name:
        return _named(trainer, name, buffer, told.layer)
    layer = trainer.values.get("layer") if told.layer is None else told.layer
    if isinstance(layer, bool) or not isinstance(layer, int) or layer < 0:
        return None, (), (Question(f"{trainer.file} names neither a submodule nor a layer", ("layer", "hook_in")),)
    site = "hook_resid_post" if side == "out" else "hook_resid_pre"
    assumed = (
        f"the SAE reads the residual stream {'after' if side == 'out' else 'before'} block {layer}: the configuration "
        "has the layer and no submodule_name"
    )
    return f"blocks.{layer}.{site}", () if told.hook_in else (assumed,), ()


def _named(
    trainer: Config, name: str, buffer: Config, layer: int | None
) -> tuple[str | None, tuple[str, ...], tuple[Question, ...]]:
    """The hook point of a ``submodule_name``, which is text that the library's user chose."""
    side = buffer.choice("io", ("in", "out"), "out")
    place = from_submodule(name) or (from_module(name, side) if "." in name else None)
    if place is None:
        asked = f"{trainer.where('submodule_name')} is {shown(name)}, which names no hook point that sae-bench knows"
        return None, (), (Question(asked, ("hook_in",)),)
    if not is_lens_name(place):
        told_side = "io" in buffer.values or place == from_submodule(name)
        assumed = f"the output of {shown(name)} was read: the configuration has no buffer.io"
        return place, () if told_side else (assumed,), ()
    if side == "in" and not is_lens_name(name):
        asked = f"{trainer.file} says that the input of {shown(name)} was read, and that names an output"
        return None, (), (Question(asked, ("hook_in",)),)
    return place if layer is None else re.sub(r"^blocks\.\d+", f"blocks.{layer}", place), (), ()
