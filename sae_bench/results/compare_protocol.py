"""What may be compared: results of one protocol, and why others may not."""

from __future__ import annotations

from typing import Any

from sae_bench.errors import SaeBenchError
from sae_bench.results.compare_load import Loaded
from sae_bench.show import judges
from sae_bench.units.kinds import kind

COVERAGE = {"data_sha256", "n_documents"}  # of labelled tasks: which sets were covered; each set has its own digest
OTHER_TEXT = COVERAGE | {"calibration_sha256"}  # what differs when the same is measured on other documents
# The names under which model and data were found; and the number of replicates of the stored intervals, since a
# comparison draws its own.
NOT_COMPARED = {"model", "data", "resamples"}
SHOWN = 20  # characters of a value in a message


class NotComparable(SaeBenchError):
    """Results that were not measured under the same conditions (exit code 3)."""


def differing(a: Loaded, b: Loaded) -> list[str]:
    """The fields of the protocol that differ, without those that a comparison does not rest on."""
    one, other = (x.result.provenance.protocol.model_dump(exclude=NOT_COMPARED) for x in (a, b))
    return [name for name in one if one[name] != other[name]]


def unknown(a: Loaded, b: Loaded) -> list[str]:
    """The fields that differ because an older sae-bench wrote one of the results and did not know them.

    The back end is the mark of that: every protocol names it since there are fields that may be missing.
    """
    old = [x.result.provenance.protocol.backend is None for x in (a, b)]
    if old[0] == old[1]:
        return []
    without = (a if old[0] else b).result.provenance.protocol
    return [name for name in differing(a, b) if getattr(without, name) is None]


def by_sets(loaded: Loaded) -> bool:
    """Whether all figures are over labelled sets, so that those which two results have in common can be compared."""
    return all(kind(loaded.spec.metrics[name].table).nested for name in loaded.result.metrics)


def comparable(a: Loaded, b: Loaded, *, other_text: bool = False) -> bool:
    """Whether nothing differs but what may: the covered labelled sets, and with ``other_text`` the documents.

    Results of different judges are never comparable, also where the protocols of older ones do not tell them apart.
    """
    if judges.differ(a.result, b.result):
        return False
    if a.result.protocol == b.result.protocol:
        return True
    if unknown(a, b):
        return False
    allowed = COVERAGE if by_sets(a) and by_sets(b) else OTHER_TEXT if other_text else set()
    return set(differing(a, b)) <= allowed


def refusal(a: Loaded, b: Loaded) -> NotComparable:
    """The sentence that names the fields that differ."""
    fields = differing(a, b)
    if judges.differ(a.result, b.result):
        return NotComparable(_by_judges(a, b, fields))
    if set(fields) == set(lacking := unknown(a, b)):
        older = a if a.result.provenance.protocol.backend is None else b
        return NotComparable(
            f"{str(a.file)!r} and {str(b.file)!r} cannot be compared: {str(older.file)!r} is of an older sae-bench, "
            f"and its protocol does not say {', '.join(lacking)}; measure it again"
        )
    hint = "measure both under the same conditions"
    if set(fields) <= OTHER_TEXT:
        hint = "measure both on the same text, or see 'sae-bench compare --other-text'"
    return NotComparable(
        f"{str(a.file)!r} and {str(b.file)!r} cannot be compared: their protocols differ in {_listed(a, b, fields)}; "
        f"{hint}"
    )


def _by_judges(a: Loaded, b: Loaded, fields: list[str]) -> str:
    """The sentence that names both judges, and what differs besides."""
    first, second = judges.both_in_words(a.result, b.result)
    own, others = (judges.without_judge(x.result.provenance.protocol.parameters) for x in (a, b))
    besides = [name for name in fields if name != "parameters" or own != others]
    also = f"; their protocols differ in {_listed(a, b, besides)} too" if besides else ""
    return (
        f"{str(a.file)!r} and {str(b.file)!r} cannot be compared: they have different judges; the first was judged by "
        f"{first}, and the second by {second}{also}; have both judged by one"
    )


def _listed(a: Loaded, b: Loaded, fields: list[str]) -> str:
    """The fields with both values; of the parameters those that differ."""
    one, other = (x.result.provenance.protocol for x in (a, b))
    said = [
        f"{name} ({_short(getattr(one, name))} and {_short(getattr(other, name))})"
        for name in fields
        if name != "parameters"
    ]
    if "parameters" in fields:
        own, others = (judges.without_judge(x.parameters) for x in (one, other))
        for name in (name for name in sorted(own | others) if own.get(name) != others.get(name)):
            first, second = (_short(x[name]) if name in x else "as defined" for x in (own, others))
            said.append(f"parameters.{name} ({first} and {second})")
    return ", ".join(said)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]}...{text[-1]}"
