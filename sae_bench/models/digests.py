"""What makes a language model the function that it is, as digests: its weights and its effective configuration.

Both are taken from the model that was loaded, not from its files. So a folder, its copy, the hub's cache and the same
model in memory are one model, whatever their files are called; which of several weight files was read shows; and what a
loader fills in counts as if the file had said it. A module in memory may have been changed by hand, which no
configuration tells: see :mod:`sae_bench.models.departures`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError
from sae_bench.models.adapters import adapter_of
from sae_bench.models.departures import behaviour_sha256, departures

# Of a configuration what says how a model is called, stored, returned or run, and not what it computes.
_LEFT_OUT = frozenset(
    (
        *("architectures", "auto_map", "name_or_path", "transformers_version", "tokenizer_class"),
        *("dtype", "torch_dtype"),  # the weights have theirs
        *("use_cache", "return_dict", "output_hidden_states", "output_attentions", "chunk_size_feed_forward"),
        *("id2label", "label2id", "problem_type", "task_specific_params"),
    )
)

_SHOWN = 8  # departures in a result


@dataclass(frozen=True)
class ModelDigests:
    """Digests of a model, and what explains them.

    ``departures`` says in what a module in memory is not what its configuration builds, ``adapter`` which one was
    merged into the weights.
    """

    weights: str
    config: str
    departures: tuple[str, ...] = ()
    adapter: str | None = None

    def details(self) -> dict[str, Any]:
        """What explains the digests, as plain JSON; empty for a model of files alone."""
        shown = {"departures": list(self.departures[:_SHOWN])} if self.departures else {}
        return shown | ({"adapter": self.adapter} if self.adapter else {})


def digests(model: nn.Module, *, in_memory: bool) -> ModelDigests:
    """The digests of a loaded model, before a back end takes it: TransformerLens rebuilds what it is given.

    ``in_memory``: somebody else made the module and may have changed it, as merging an adapter does. The digest of the
    configuration then also covers what the module answers, if it is not what its configuration builds.
    """
    adapter = adapter_of(model)
    found = departures(model, in_memory=in_memory or adapter is not None)
    said = {"class": type(model).__name__, "config": effective(getattr(model, "config", None))}
    if found:
        said["answers"] = behaviour_sha256(model)
    content = json.dumps(said, sort_keys=True).encode()
    return ModelDigests(weights_sha256(model), hashlib.sha256(content).hexdigest(), tuple(found), adapter)


def weights_sha256(model: nn.Module) -> str:
    """Digest of all parameters and stored buffers: names, dtypes, shapes and values. Raises ModelError."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, Tensor):
            digest.update(f"{name} {plain(value)}\n".encode())
            continue
        if value.device.type == "meta":
            raise ModelError(f"the tensor {name} of the model is on the meta device, without values: load its weights")
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def effective(config: Any) -> dict[str, Any]:
    """A configuration as values that decide what the model computes, as plain JSON.

    Effective values count, also where they are defaults: a default that another version of transformers changes is
    another function, though the file is the same. Of defaults only those that switch nothing on (None, False, empty)
    are left out, so that a switch that a newer version adds, and that is off, changes no digest. Unknown keys are kept;
    what is known to be no part of the function is not, nor what begins with an underscore, which is how transformers
    keeps its own books.
    """
    if config is None:
        return {}
    usual = _defaults(type(config))
    kept: dict[str, Any] = {}
    for name, value in vars(config).items():
        if name.startswith("_") or name in _LEFT_OUT:
            continue
        said = plain(value)
        off = said is None or said is False or said in ([], {}, "")
        if not (off and name in usual and usual[name] == said):
            kept[name] = said
    return {"model_type": str(getattr(config, "model_type", "")), **kept}


def _defaults(kind: type) -> dict[str, Any]:
    """The values of a configuration to which nothing was said; empty where it must be said something."""
    try:
        made = kind()
    except Exception:  # noqa: BLE001 - of a configuration that cannot be made of nothing, nothing is known to be usual
        return {}
    return {name: plain(value) for name, value in vars(made).items()}


def plain(value: Any) -> Any:
    """A value as JSON in which equal numbers are written alike; of an object without one, its class."""
    if value is None or isinstance(value, bool | str | int):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return _of_object(value)


def _of_object(value: Any) -> Any:
    if callable(getattr(value, "get_text_config", None)):
        return effective(value)
    if isinstance(value, torch.dtype | torch.device):
        return str(value)
    if callable(getattr(value, "to_dict", None)) and not isinstance(value, type):
        return plain(value.to_dict())
    if isinstance(value, Enum):
        return plain(value.value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
