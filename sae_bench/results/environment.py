"""What a result was measured with, beside what was measured: versions, machine, device.

None of it decides what a figure means, so none of it is in the protocol and nothing is refused for it. It moves figures
by rounding, sometimes by an error of one of these packages, so whoever holds two results together is told of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sae_bench.schema import Provenance, Result

_ONLY_WITH = {"transformer-lens": "tl"}  # packages of one back end


def environment(provenance: Provenance) -> dict[str, str]:
    """By name: versions of packages that took part, platform, device, and what the result says besides."""
    place = {"platform": provenance.platform, "device": provenance.device}
    return took_part(provenance.versions, provenance.backend) | place | provenance.environment


def took_part(versions: Mapping[str, str], backend: str) -> dict[str, str]:
    """The packages but those of another back end."""
    return {name: version for name, version in versions.items() if _ONLY_WITH.get(name, backend) == backend}


def differing(environments: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """What differs, with its values in their order; what one of them does not say is passed over."""
    first = environments[0] if environments else {}
    names = [name for name in first if all(name in one for one in environments)]
    values = {name: list(dict.fromkeys(one[name] for one in environments)) for name in names}
    return {name: several for name, several in values.items() if len(several) > 1}


def listed(environments: Sequence[Mapping[str, str]]) -> str:
    """What differs as part of a sentence; empty where nothing does."""
    return "; ".join(f"{name} {', '.join(values)}" for name, values in differing(environments).items())


def sentence(results: Sequence[Result], what: str = "these results") -> list[str]:
    """That they were measured in different environments, as a list of one sentence; empty where they were not."""
    differ = listed([environment(result.provenance) for result in results])
    said = f"{what} were measured in different environments ({differ}), which moves figures by rounding"
    return [said] if differ else []
