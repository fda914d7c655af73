"""What ``run`` prints of its results: the summary, with ``--all-metrics`` every figure too, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from sae_bench.board.summary import summaries
from sae_bench.board.summary_columns import DECIDING, L0
from sae_bench.board.summary_parts import others_in
from sae_bench.files import at_home
from sae_bench.results import store
from sae_bench.schema import Result, TaskSpec
from sae_bench.show.fitted import WIDE, columns_of_output, command, for_output
from sae_bench.show.results import result_tables
from sae_bench.show.summary import Summary, shown
from sae_bench.show.text import line

MOST_COMPARED = 6  # SAEs that a suggested comparison names


def summary_of(
    results: Sequence[Result], specs: Mapping[str, TaskSpec], out: str, task_dir: str | None
) -> list[Summary]:
    """The summaries of a run, its SAEs ranked also among those that lie in the folder under the same protocols."""
    files = {_file(one, out): one for one in results}
    measured = {one.task for one in results}
    deciding = {task for task, _ in DECIDING} & measured or measured  # of others no more is read than ranks need
    tasks = deciding | {L0[0]}
    return summaries(files, specs, others=others_in(out, results, tasks), task_dir=task_dir)


def _file(result: Result, out: str) -> Path:
    return store.path_of(out, result.sae, result.task, result.version, result.protocol)


def as_text(
    results: Sequence[Result], made: Sequence[Summary], specs: Mapping[str, TaskSpec], out: str, *, everything: bool
) -> str:
    """The whole of it. A summary keeps to 100 columns, tables of all figures to the terminal if there is one."""
    wide = columns_of_output(WIDE)
    parts = [shown(made, min(WIDE, wide or WIDE))]
    if everything:
        parts.append(result_tables(results, specs, everything=True, columns=columns_of_output(None)).strip("\n"))
    return for_output("\n\n".join([*parts, "\n".join(next_steps(results, made, out))]))


def next_steps(results: Sequence[Result], made: Sequence[Summary], out: str) -> list[str]:
    """Commands that can be pasted as they stand, each with what it gives."""
    folders = {(one.sae.name, one.sae.weights_sha256): _file(one, out).parent for one in results if one.measured}
    if not folders:
        return []
    steps = [
        (command("show", str(next(iter(folders.values())))), "every figure of the first, with intervals and controls")
    ]
    alike = max(made, key=lambda one: len(one.lines))
    together = [folder for (_, sha), folder in folders.items() if sha in {line.weights_sha256 for line in alike.lines}]
    if len(together) > 1:
        chosen = together[:MOST_COMPARED]
        which = "which of them differ" if len(chosen) == len(together) else f"which of the first {len(chosen)} differ"
        steps.append((command("compare", *map(str, chosen)), f"{which}, and how sure that is"))
    steps.append(
        (command("card", out, options={"--out": str(at_home(out) / "CARD.md")}), "this table for a model card")
    )
    steps.append((command("board", out), "a table of all results there"))
    return [
        f"Results are in {line(out)}. Next:",
        *(piece for step, what in steps for piece in (f"  {step}", f"    {what}")),
    ]
