"""Everything about an evaluation except the SAEs: each setting is stated once, with its flag and what hangs on it."""

from sae_bench.settings.checks import check_name, paths
from sae_bench.settings.settings import Settings
from sae_bench.settings.stated import Stated, flag, of
from sae_bench.settings.tiers import (
    ABLATION_TIERS,
    CORE,
    PROBE_TIERS,
    TIERS,
    TRACKED_TIERS,
    Tier,
)
from sae_bench.settings.told import TOLD, Told

DEFAULT_CONTEXT = 128
TEXT_FIELD = of(Settings)["text_field"].default
PATHS = paths(Settings)

__all__ = [
    "ABLATION_TIERS",
    "CORE",
    "DEFAULT_CONTEXT",
    "PATHS",
    "PROBE_TIERS",
    "TEXT_FIELD",
    "TIERS",
    "TOLD",
    "TRACKED_TIERS",
    "Settings",
    "Stated",
    "Tier",
    "Told",
    "check_name",
    "flag",
    "of",
]
