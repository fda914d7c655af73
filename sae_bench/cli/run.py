"""``sae-bench run``: measure SAEs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_bench.cli import run_flags
from sae_bench.cli.exits import Exit
from sae_bench.cli.progress import Bar, bar_of

if TYPE_CHECKING:
    from sae_bench.api import Session
    from sae_bench.schema import Result


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "run",
        help="measure SAEs and write results",
        description="Run the language model once over text and measure every task on every SAE and its controls.",
    )
    p.set_defaults(function=run)
    run_flags.add(p)


def run(args: argparse.Namespace) -> int:
    """Measure, print, and say by the exit code whether an SAE failed, or a limit of the judge was reached."""
    with bar_of(args) as bar:
        if bar.shown:
            print("loading ...", file=sys.stderr)
        return _run(args, bar)


def _run(args: argparse.Namespace, bar: Bar) -> int:
    given = _given(args)
    from sae_bench.api import Session
    from sae_bench.cli import after_run
    from sae_bench.judging import short_of, spent, usage
    from sae_bench.settings import Settings
    from sae_bench.show.text import json_text, printable

    session = Session(run_flags.saes(args), Settings(**given), bar)
    if args.dry_run:
        forecast = session.forecast()
        print(json_text(forecast) if args.json else _listing(forecast))
        return 0
    met = session.meet()
    if not args.quiet:
        _announce(session, met, args.out)
    try:
        results = session.run(bar)
    except BaseException:
        if (used := usage(session.asks)).get("tokens_in"):  # what was paid for is said, however a run ends
            print(spent(used), file=sys.stderr)
        raise
    used = usage(session.asks)
    made = after_run.summary_of(results, session.specs, args.out, args.task_dir)
    if args.json:
        beside = {"judge": used} if used else {}
        content = {"results": [brief(result) for result in results], **beside}
        print(json_text(content | {"summary": [one.to_json() for one in made]}))
    else:
        print(after_run.as_text(results, made, session.specs, args.out, everything=args.all_metrics))
        if used:
            print(spent(used))
    failed = [result for result in results if result.status == "error"]
    for result in results:
        if result.status in ("error", "degraded"):
            how = "degraded: " if result.status == "degraded" else ""
            print(printable(f"sae-bench: {result.sae.name}, {result.task}: {how}{result.reason}"), file=sys.stderr)
    if not args.quiet:
        print(bar.times(), file=sys.stderr)
    cut = short_of(results, used)
    for sentence in cut:
        print(printable(f"sae-bench: {sentence}"), file=sys.stderr)
    return Exit.FAILED if failed else Exit.BUDGET if cut else Exit.DONE


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that were said; what contradicts the suite is refused. Raises UsageError."""
    from sae_bench import defaults
    from sae_bench.suites import keep

    given = run_flags.settings(args)
    known = keep.refuse(given)
    if known is not None:  # before anything large is imported
        defaults.check_there(known, given.get("model"), given.get("data"))
    if "suite" not in given and keep.said(given):
        given["suite"] = keep.NONE
    return given


def _announce(session: Session, met: str | None, out: str) -> None:
    """Who judges, what it will cost, and what is there already."""
    from sae_bench.show.text import printable

    if met is not None:
        print(printable(met), file=sys.stderr)
    if cost := session.stream_cost(announced=True) | session.judge_cost():
        print(_listing(cost), file=sys.stderr)
    if there := [w for w in session.work if w.finished]:
        saes = "1 SAE" if len(there) == 1 else f"{len(there)} SAEs"
        print(f"already there: results of {saes} in {printable(out)}", file=sys.stderr)


def brief(result: Result) -> dict[str, Any]:
    """What scripts read: a result without provenance and details, but for what its figures must not be read without.

    ``cautions``, the ``mark`` of figures that are not whole and ``why``, and of labelled texts ``coverage`` ("1 of
    97") and why each of the other sets is ``left_out``.
    """
    from sae_bench.show import marks

    keep = {"task", "version", "status", "reason", "protocol", "metrics", "controls"}
    beside = {"cautions": result.details["cautions"]} if "cautions" in result.details else {}
    data = result.provenance.data
    beside |= marks.to_json(result)
    if "coverage" in data:
        beside |= {"coverage": data["coverage"], "left_out": data.get("skipped", {})}
    return {"sae": result.sae.name, **result.model_dump(mode="json", include=keep), **beside}


def _listing(forecast: dict[str, Any]) -> str:
    from sae_bench.show.fitted import columns_of_output, wrapped

    lines = []
    for name, value in forecast.items():
        if isinstance(value, dict):
            value = ", ".join(f"{v} {k}" for k, v in value.items()) or "none"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = ", ".join(map(str, value)) or "none"
        lines += wrapped(f"{value}", columns_of_output(None), first=f"{name + ':':<50} ", then=" " * 4)
    return "\n".join(lines)
