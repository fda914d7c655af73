"""sae-bench: how good are the features of a sparse autoencoder, and how sure are we?

Public names are imported when they are first used, so that ``import sae_bench`` and the command line stay light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sae_bench.api import evaluate
    from sae_bench.errors import SaeBenchError
    from sae_bench.saes.load import load_sae
    from sae_bench.saes.protocol import CoderInfo, Codes, SparseCoder
    from sae_bench.schema import MetricValue, Result
    from sae_bench.settings import Settings, Told

__version__ = "0.1.0"

_LAZY = {
    "CoderInfo": "sae_bench.saes.protocol",
    "Codes": "sae_bench.saes.protocol",
    "MetricValue": "sae_bench.schema",
    "Result": "sae_bench.schema",
    "SaeBenchError": "sae_bench.errors",
    "Settings": "sae_bench.settings",
    "SparseCoder": "sae_bench.saes.protocol",
    "Told": "sae_bench.settings",
    "evaluate": "sae_bench.api",
    "load_sae": "sae_bench.saes.load",
}

__all__ = [
    "CoderInfo",
    "Codes",
    "MetricValue",
    "Result",
    "SaeBenchError",
    "Settings",
    "SparseCoder",
    "Told",
    "evaluate",
    "load_sae",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'sae_bench' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
