"""Tables for LaTeX: text that pdflatex prints as it stands, and a ``table`` with the rules of booktabs.

Names come from files that we do not trust: nothing in them is a command, ends an argument or starts a comment.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sae_bench.errors import UsageError
from sae_bench.show.text import line

Intervals = Literal["yes", "no", "subscript"]
PACKAGES = "% needs \\usepackage{booktabs,graphicx}"
LABEL = "tab:sae-bench"
LONGEST_CAPTION = 2000


def _letter(size: str, name: str) -> str:
    return unicodedata.lookup(f"GREEK {size} LETTER {name.upper()}")


def _command(name: str) -> str:
    return name.replace("lamda", "lambda")  # as Unicode writes it


BOLD = "\\textbf{Bold}: no other is surely better, and some other surely is not as good; several are a tie."
_SMALL = "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi pi rho sigma tau upsilon phi chi psi"
_LARGE = "gamma delta theta lamda xi pi sigma upsilon phi psi omega"  # the others look as Latin ones
_GREEK = {_letter("SMALL", name): rf"$\{_command(name)}$" for name in (*_SMALL.split(), "omega")}
_GREEK |= {_letter("CAPITAL", name): rf"$\{_command(name).capitalize()}$" for name in _LARGE.split()}
_LATEX = _GREEK | {
    "µ": r"$\mu$",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''",
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "←": r"$\leftarrow$", "±": r"$\pm$",
    "…": r"\ldots{}", "×": r"$\times$", "-": "-{}", "'": "'{}", "`": "`{}", "[": "{[}", "]": "{]}", "²": "$^2$",
    "³": "$^3$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "∞": r"$\infty$", "·": r"$\cdot$", "−": "$-$",
    "–": "--", "—": "---", "’": "'{}", "‘": "`{}", "“": "``{}", "”": "''{}", "‖": r"$\|$",
}  # fmt: skip


@dataclass(frozen=True)
class Options:
    """What a user chooses of tables in LaTeX; None is left to the table. ``controls``: "all", "none" or names."""

    ranks: bool = True
    intervals: Intervals = "yes"
    controls: str = "all"
    caption: str | None = None
    label: str = LABEL
    notes: bool = True


def escaped(text: str) -> str:
    """Text that pdflatex prints as it stands; letters beyond Latin-1 that it has no sign for become "?"."""
    return "".join(_LATEX.get(c) or (c if c.isascii() or (c.isalpha() and ord(c) < 256) else "?") for c in line(text))


def figure(text: str) -> str:
    """Minus signs as such; the dash of a range of ranks stays one."""
    return re.sub(r"(?<!\d)-(?=\d)|(?<=e)-", "$-$", text)


def with_interval(shown: str, *, bold: bool, intervals: Intervals) -> str:
    """A figure such as "0.0934 [0.0921, 0.0947]*", the figure bold where it is among the best."""
    value, bracket, rest = shown.partition(" [")
    value = figure(value)
    value = f"\\textbf{{{value}}}" if bold else value
    if not bracket or intervals == "no":
        return value
    inside, _, sign = rest.partition("]")
    if intervals == "yes":
        return f"{value} {{[}}{figure(inside)}{{]}}{sign}"
    plain = inside.replace(", ", r",\,")
    return f"{value}$_{{[{plain}]{'*' if sign else ''}}}$"


def label(text: str) -> str:
    """A label, if ``\\ref`` takes it. Raises UsageError."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9:._/+-]{0,79}", text):
        return text
    raise UsageError(
        f"--label must be up to 80 of the letters a-z, digits and : . _ / + -, such as {LABEL}; got {line(text)[:80]!r}"
    )


def caption(text: str) -> str:
    """A caption as text: a percent sign is one, and no comment. Raises UsageError for one that is empty or too long."""
    if not text.strip() or len(text) > LONGEST_CAPTION:
        raise UsageError(f"--caption must be a text of up to {LONGEST_CAPTION} characters; got {len(text)}")
    return escaped(text)


def row(cells: Sequence[str]) -> str:
    """A row of a table, of cells that are LaTeX already."""
    return " & ".join(cells) + r" \\"


def table(
    head: Sequence[str],
    blocks: Sequence[Sequence[Sequence[str]]],
    align: str,
    texts: tuple[str, str],
    notes: Sequence[str],
) -> list[str]:
    """The lines of one ``table``: blocks of rows with a rule between them, ``texts`` its caption and label.

    All is LaTeX already. It is made smaller where it is wider than the text, and never larger.
    """
    lines = ["\\begin{table}[tb]", "\\centering", f"\\caption{{{texts[0]}}}", f"\\label{{{texts[1]}}}"]
    lines += ["\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%"]
    lines += [f"\\begin{{tabular}}{{@{{}}{align}@{{}}}}", "\\toprule", row(head)]
    for block in blocks:
        if block:
            lines += ["\\midrule", *map(row, block)]
    lines += ["\\bottomrule", "\\end{tabular}}"]
    if notes:
        lines += ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize"]
        lines += [f"{note}\\par" for note in notes]
        lines += ["\\end{minipage}"]
    return [*lines, "\\end{table}"]


def commented(notes: Sequence[str]) -> list[str]:
    """Sentences as comments."""
    return [f"% {line(note)}" for note in notes]
