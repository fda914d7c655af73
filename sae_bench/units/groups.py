"""Groups: what is resampled where several rows of a table come from one source of text.

A document that is not alone names its group before itself, ``<group>~<document>``, so that whoever reads a table knows
its groups without another file. Documents of equal content (``x``, ``x#2``) are one group: a new sample of texts would
hold all copies or none of them.
"""

from __future__ import annotations

BEFORE = "~"


def in_group(group: str, document: str) -> str:
    """The id of a document that belongs to a group. Raises ValueError for a name of a group that could not be read."""
    if not group or BEFORE in group or "@" in group or ":" in group:
        raise ValueError(f"a group's name must not be empty or hold {BEFORE}, @ or :, but it is {group!r}")
    return f"{group}{BEFORE}{document}"


def group_of(document: str) -> str:
    """The group of a document; one that stands alone is a group of its own, with its copies."""
    group, found, _ = document.partition(BEFORE)
    return group if found else document.partition("#")[0]
