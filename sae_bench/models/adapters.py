"""Models with an adapter: the files of a fine-tuning that lie beside their base or name it.

transformers applies them where peft is installed and measures the base without a word where it is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_bench.errors import ModelError, said
from sae_bench.files import read_json
from sae_bench.models.weight_files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, stored_tensors
from sae_bench.switches import without_warnings

_INSTALL = "pip install 'sae-bench-suite[peft]'"
_FAULTS = (OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError)

Load = Callable[[str, torch.dtype, str], nn.Module]
"""What loads a plain model: its name in sentences, the dtype, and the folder or hub id that is read."""


def adapter_folder(where: str) -> Path | None:
    """The folder with the adapter of the model at a folder or hub id; None where there is no adapter."""
    from transformers.utils import cached_file

    if Path(where).is_dir():
        return Path(where) if (Path(where) / ADAPTER_CONFIG).is_file() else None
    try:
        if not cached_file(where, ADAPTER_CONFIG):
            return None
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(where, allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt"]))
    except (OSError, ValueError):
        return None


def adapter_of(model: nn.Module) -> str | None:
    """Which adapter was merged into a model, in words for provenance; None where none was."""
    return getattr(model, "sae_bench_adapter", None)


def base_of(folder: Path) -> str | None:
    """The folder or hub id that the adapter of a folder names as its base; None without an adapter.

    A base that lies beside the adapter comes before one that is named. Raises ModelError.
    """
    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    if (folder / "config.json").is_file():
        return str(folder)
    base = _config(folder).get("base_model_name_or_path")
    return base if isinstance(base, str) and base else None


def adapted_name(name: str, folder: Path) -> str:
    """A name for a model that says that an adapter is in it, and of which base. Raises ModelError."""
    base = base_of(folder)
    if base is None or base == str(folder):
        return f"{name}+{str(_config(folder).get('peft_type', 'adapter')).lower()}"
    return f"{Path(base).resolve().name if Path(base).is_dir() else base}+{name.rpartition('/')[2]}"


def load_adapted(folder: Path, dtype: torch.dtype, load: Load) -> nn.Module:
    """Load the base with `load`, put the adapter of `folder` into its weights, and return it as a plain model.

    The sums are made in float32 at least, and rounded to `dtype` once. Raises ModelError where peft is missing, where
    the adapter is of a kind that is no change of weights, and where the base has no place for one of its tensors.
    """
    kind = str(_config(folder).get("peft_type", "of no stated kind")).lower()
    what = f"the model folder {str(folder)!r} holds an adapter ({ADAPTER_CONFIG}, {kind})"
    try:
        import peft
    except (ImportError, RuntimeError) as error:
        raise ModelError(
            f"{what}, which needs peft ({said(error)}); {_INSTALL} to measure the adapted model, or remove the "
            "adapter's files to measure its base"
        ) from error
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"{what}, but no {ADAPTER_WEIGHTS}; save the adapter as safetensors")
    plain = _load_base(folder, torch.promote_types(dtype, torch.float32), load, what)
    with without_warnings():  # what they tell of is checked
        try:
            adapted: Any = peft.PeftModel.from_pretrained(plain, str(folder))
            _check_places(adapted, peft.get_peft_model_state_dict(adapted, save_embedding_layers=False), folder, what)
            merged: nn.Module = adapted.merge_and_unload(safe_merge=True)
        except _FAULTS as error:
            raise ModelError(f"{what} that cannot be merged into its base: {said(error)}") from error
    base = base_of(folder) or ""
    origin = Path(base).name if Path(base).is_dir() else base
    merged.sae_bench_adapter = f"{kind} adapter of {folder.name}, merged into {origin}"  # type: ignore[assignment]
    _round(merged, dtype)
    return merged.eval()


def _round(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast what a file holds; buffers that are computed (rotary frequencies) stay as exact as in a plain model."""
    stored = set(model.state_dict())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored and tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / ADAPTER_CONFIG
    found = read_json(file, ModelError)
    if not isinstance(found, dict):
        raise ModelError(f"{file} must hold a table of settings")
    return found


def _load_base(folder: Path, dtype: torch.dtype, load: Load, what: str) -> nn.Module:
    base = base_of(folder)
    if base is None:
        raise ModelError(f"{what}, but neither a base model nor its name; give base_model_name_or_path there")
    if base == str(folder):
        with _without_adapter(folder) as where:
            plain = load(base, dtype, where)
            plain.config._name_or_path = base  # type: ignore[union-attr]
            return plain
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise ModelError(f"{what} whose base {base!r} holds an adapter too; merge that one first")
    try:
        return load(base, dtype, base)
    except ModelError as error:
        raise ModelError(f"{what} whose base cannot be loaded: {error}") from error


def _check_places(adapted: Any, placed: dict[str, Any], folder: Path, what: str) -> None:
    """Raise ModelError unless the adapter is a change of weights, and its file and the model have the same tensors."""
    if not hasattr(adapted, "merge_and_unload"):
        raise ModelError(f"{what} that is no change of weights, so its modules cannot be measured as those of a base")
    held = set(stored_tensors([folder / ADAPTER_WEIGHTS], str(folder)))
    unplaced, lacking = held - set(placed) - set(adapted.state_dict()), set(placed) - held
    for names, fault in ((unplaced, "has no place for {} of its tensors"), (lacking, "asks for {} tensors more")):
        if names:
            raise ModelError(
                f"{what} that does not fit its base, which {fault.format(len(names))} (first {min(names)}); give the "
                "base that it was trained on"
            )


@contextmanager
def _without_adapter(folder: Path) -> Iterator[str]:
    """A folder of links to all files of `folder` but the adapter's, as transformers would apply it unchecked."""
    with tempfile.TemporaryDirectory() as made:
        try:
            for file in folder.iterdir():
                if not file.name.startswith("adapter_"):
                    (Path(made) / file.name).symlink_to(file.resolve())
        except OSError as error:
            raise ModelError(f"no links to the files of {str(folder)!r} can be made here: {said(error)}") from error
        yield made
