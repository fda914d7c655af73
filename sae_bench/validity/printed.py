"""The table of validity as text for a terminal: what is claimed alike stands together, and below it what is wrong."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from sae_bench.show.text import shortened, some
from sae_bench.standing import Claims, InWorld, Standing
from sae_bench.validity.verdict import COVERAGE, RHO, SIGNAL

WIDTH = 100
MOST = 8  # SAEs that a note names
ORDERS = f"rho with that truth at least {RHO}, signal over noise at least {SIGNAL:g}"
HEADINGS: Mapping[Claims | None, str] = {
    "features": f"claims features: {ORDERS}",
    "encoder": f"claims encoder: {ORDERS}",
    "decoder": f"claims decoder: {ORDERS}",
    "fidelity": f"claims fidelity: signal over noise at least {SIGNAL:g}, intervals that hold the truth in "
    f"{100 * COVERAGE[0]:g} to {100 * COVERAGE[1]:g} %, better than random_fit",
    None: "claims nothing: nobody is ranked by it",
}
COLUMNS = ("", "rho f", "e", "d", "train", "signal [95 %]", "holds", "false", "blind", "ranked")
LONGEST = 24  # characters of a metric's name
LEGEND = (
    "rho: Spearman's with the truth of features, encoder, decoder; train: with the order of checkpoints; signal: SD "
    "over SAEs over that of noise; holds: intervals at 95 % that hold the truth; false: null pairs told apart; blind: "
    "SAEs that are worse than the perfect one and do not look worse, of those that are; - where none is perfect."
)


def table(standings: Mapping[str, Standing]) -> list[str]:
    """The lines, none wider than 100 columns."""
    lines: list[str] = []
    for claims, heading in HEADINGS.items():
        own = {name: one for name, one in standings.items() if one.claims == claims}
        if own:
            lines += [*textwrap.wrap(heading, WIDTH), "", *_by_world(own), *_notes(own), ""]
    return [*lines, *textwrap.wrap(LEGEND, WIDTH)] if lines else ["no metric was asked about"]


def _by_world(standings: Mapping[str, Standing]) -> Iterator[str]:
    """A table a world, a row a metric."""
    for world in dict.fromkeys(world for one in standings.values() for world in one.worlds):
        own = {name: one for name, one in standings.items() if world in one.worlds}
        rows = [
            [shortened(name.partition(".")[2], LONGEST), *_cells(one.worlds[world]), "yes" if one.ranked else "no"]
            for name, one in own.items()
        ]
        rows = [[f"in {shortened(world, LONGEST - 3)}", *COLUMNS[1:]], *rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        yield from ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        yield ""
    if nowhere := [name for name, one in standings.items() if not one.worlds]:
        yield from textwrap.wrap(f"no world speaks of {', '.join(nowhere)}", WIDTH, break_on_hyphens=False)
        yield ""


def _cells(said: InWorld) -> list[str]:
    rhos = [_number(value) for value in (said.features, said.encoder, said.decoder, said.monotone)]
    strength = "-"
    if said.signal is not None:
        strength = f"{said.signal:g} [{said.signal_low or 0:g}, {said.signal_high or 0:g}]"
    blind = f"{len(said.blind)} of {said.worse}" if said.worse else "-"
    return [*rhos, strength, _number(said.coverage), _number(said.false_positives), blind]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _notes(standings: Mapping[str, Standing]) -> Iterator[str]:
    """What is to be known, each once, with the metrics of which it holds."""
    found: dict[str, list[str]] = {}
    for name, one in standings.items():
        for note in notes(one):
            found.setdefault(note, []).append(name.partition(".")[2])
    for note, names in found.items():
        text = f"{', '.join(names)}: {note}"
        yield from textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def notes(one: Standing) -> Iterator[str]:
    """What is to be known of a metric that claims something: why it is not ranked, and where it is blind or fragile."""
    if one.claims is None:
        return
    if one.why is not None:
        yield f"not ranked: {one.why}"
    for world, said in one.worlds.items():
        found: Sequence[tuple[str, tuple[str, ...]]] = (
            ("does not see", said.blind),
            ("the trained SAE is not better than", said.beaten_by),
            ("another verdict without", said.fragile),
        )
        for what, names in found:
            if names:
                yield f"{what} {some(names, MOST)} ({world})"
