"""What a result was measured with, beside what was measured: versions, machine, device.

None of it decides what a figure means, so none of it is in the protocol and nothing is refused for it. It moves figures
by rounding, sometimes by an error of one of these packages, so whoever holds two results together is told of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from sae_bench.schema import Provenance, Result

_ONLY_WITH = {"transformer-lens": "tl"}  # packages of one back end


def environment(provenance: Provenance) -> dict[str, str]:
    """By name: versions of packages that took part, platform, device, and what the result says besides."""
    backend = provenance.backend
    packages = {name: v for name, v in provenance.versions.items() if _ONLY_WITH.get(name, backend) == backend}
    return packages | {"platform": provenance.platform, "device": provenance.device} | provenance.environment


def differing(results: Sequence[Result]) -> dict[str, list[str]]:
    """What differs between results, with its values in their order; what one of them does not say is passed over."""
    found = [environment(result.provenance) for result in results]
    names = [name for name in (found[0] if found else {}) if all(name in one for one in found)]
    values = {name: list(dict.fromkeys(one[name] for one in found)) for name in names}
    return {name: several for name, several in values.items() if len(several) > 1}


def sentence(results: Sequence[Result], what: str = "these results") -> list[str]:
    """That they were measured in different environments, as a list of one sentence; empty where they were not."""
    differ = differing(results)
    listed = "; ".join(f"{name} {', '.join(values)}" for name, values in differ.items())
    return [f"{what} were measured in different environments ({listed}), which moves figures by rounding"] * bool(
        differ
    )
