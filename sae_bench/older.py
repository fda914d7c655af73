"""What results of older releases say otherwise, brought into the words of today before their records are made."""

from __future__ import annotations

from typing import Any


def as_trained(sae: Any, inference: str) -> Any:
    """The record of an SAE from SAELens, whose architecture was the stored one and not that of its training.

    ``inference`` is the name in its provenance under which the stored one stands today.
    """
    if not isinstance(sae, dict) or sae.get("format") != "saelens":
        return sae
    origin, stored = sae.get("provenance"), sae.get("architecture")
    if not isinstance(origin, dict):
        return sae
    said = origin.get("metadata")
    trained = said.get("training_architecture") if isinstance(said, dict) else None
    if not isinstance(trained, str) or trained in ("", stored) or inference in origin:
        return sae
    return {**sae, "architecture": trained, "provenance": {**origin, inference: stored}}


def without_ranks(result: Any) -> Any:
    """A result whose definition said of each metric whether it is ranked, which is earned and stands in no file."""
    spec = result.get("definition") if isinstance(result, dict) else None
    metrics = spec.get("metrics") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(metrics, dict):
        return result
    own = {
        name: {k: v for k, v in one.items() if k != "ranked"} if isinstance(one, dict) else one
        for name, one in metrics.items()
    }
    return {**result, "definition": {**spec, "metrics": own}}
