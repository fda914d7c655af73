"""The board as one page that opens from disk: tables, plots and details, with all that it needs inside.

Text from results reaches the page in two ways only: through templates that escape it, and through one block of JSON
that is data, not script. The page's own policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from sae_bench.board import anchors, figures, page_data
from sae_bench.board.collect import Collection
from sae_bench.board.columns import Columns
from sae_bench.board.island import island
from sae_bench.board.layout import Board
from sae_bench.board.overview import overviews
from sae_bench.board.page_details import LARGEST, Details
from sae_bench.board.page_tables import choices, overview_view, table_view, truths
from sae_bench.errors import UsageError
from sae_bench.show.text import line

# One script of these files in this order, each of which may use what stands before it.
_SCRIPTS = ("base", "address", "tables", "filters", "marks", "plots", "pair", "detail", "start")
_STYLES = ("page", "tables")


def as_html(board: Board, collection: Collection, columns: Columns) -> tuple[str, list[str]]:
    """The page, and a sentence for each detail of a result that could not be read.

    Raises UsageError where the extra ``board`` is not installed.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise UsageError(f"the page needs the extra 'board' ({error}); pip install 'sae-bench-suite[board]'") from error
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    library, script = _library(), _script(folder)
    style = "".join((folder / f"{name}.css").read_text(encoding="utf-8") for name in _STYLES)
    names = anchors.of_saes(row.sae for table in board.tables for row in table.rows)
    over, taken = overviews(board), set[str]()
    tables = [table_view(table, names) for table in board.tables]
    given: dict[str, Any] = {
        **{name: Markup(text) for name, text in (("library", library), ("script", script), ("style", style))},
        "policy": _policy(library, script),
        "overviews": [overview_view(one, names, taken) for one in over],
        "tables": tables,
        "parts": [[one for one in tables if one["key"] == key] for key in dict.fromkeys(t["key"] for t in tables)],
        "choices": choices(board),
        "truths": truths(board),
        "problems": [line(problem) for problem in board.problems],
    }
    content = page_data.content(board, collection, columns, over, names)
    shown = Details({key: number for number, key in enumerate(names)})
    problems = shown.read(collection, columns)
    given["problems"] += [line(problem) for problem in problems]
    template = environment.get_template("page.html")
    bare: str = template.render(given | {"data": ""})
    data = shown.fitted(island(content), LARGEST - len(bare.encode()))
    return template.render(given | {"data": Markup(data)}), problems


def _script(folder: Path) -> str:
    """The page's own script, whose parts see each other and nobody else sees."""
    parts = [(folder / "script" / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return "\n".join(['"use strict";', "(() => {", *parts, "})();", ""])


@cache
def _library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that nothing in it can end."""
    script: str = figures.drawer().javascript_bundle(vl_version=figures.VEGA_LITE)
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(*scripts: str) -> str:
    """Only these scripts run, nothing is fetched from anywhere."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
