"""What an object in memory and its configuration say of themselves, in the words of several libraries."""

from __future__ import annotations

from typing import Any

_LONGEST = 200  # characters of a text of a configuration


def _config_of(sae: Any) -> list[Any]:
    config = getattr(sae, "cfg", getattr(sae, "config", None))
    return [sae, config, getattr(config, "metadata", None)]


def trained_as(sae: Any) -> str | None:
    """The architecture of training, where a configuration names it: an object may be of the class of inference."""
    values = (getattr(owner, "training_architecture", None) for owner in _config_of(sae))
    return next((v for v in values if isinstance(v, str) and 0 < len(v) <= _LONGEST and v.isprintable()), None)


def hook_of(sae: Any) -> str | None:
    """The hook point that an object or its configuration declares."""
    values = (getattr(owner, key, None) for owner in _config_of(sae) for key in ("hook_in", "hook_name", "hook_point"))
    return next((value for value in values if isinstance(value, str)), None)


def d_in_of(sae: Any) -> int | None:
    """The width that an object or its configuration declares."""
    names = ("d_in", "activation_dim", "d_model", "input_dim")
    values = (getattr(owner, key, None) for owner in _config_of(sae) for key in names)
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
