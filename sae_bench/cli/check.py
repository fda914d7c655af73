"""``sae-bench check``: the gate for continuous integration."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_bench.cli.compare import refused
from sae_bench.cli.exits import Exit
from sae_bench.cli.places import RUNS, RUNS_HELP, results_in
from sae_bench.files import at_home

if TYPE_CHECKING:
    from sae_bench.results.compare import Loaded
    from sae_bench.results.gate import Outcome


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "check",
        help="fail when a result got worse than a baseline",
        description="Hold a result against a baseline: a metric regresses when the whole 95 % interval of its paired "
        "loss lies beyond what leaderboard/gates.toml allows. Exit code 0 ok, 1 regression, 2 usage, 3 not comparable.",
    )
    p.set_defaults(function=run)
    p.add_argument("new", metavar="NEW", nargs="?", default=RUNS,
                   help=f"result file, or folder of one SAE's results {RUNS_HELP}")  # fmt: skip
    p.add_argument("--baseline", metavar="OLD", help="result file, or folder with results of the SAE of the same name; "
                   "without it only floors and ceilings are checked")  # fmt: skip
    p.add_argument("--sae-name", metavar="NAME", help="the SAE in the baseline folder, if it has another name")
    p.add_argument("--gates", metavar="FILE", help="limits by metric (default: the file gates.toml that is shipped)")
    p.add_argument("--strict", action="store_true", help="also fail where it is not shown that nothing got worse")
    p.add_argument("--allow-missing", action="store_true", help="pass over what the baseline has and NEW lacks")
    p.add_argument("--junit", metavar="FILE", help="write a JUnit XML report, a test case a metric")
    p.add_argument("--markdown", metavar="FILE", help="write a Markdown summary; - prints it instead of the table")
    p.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")


def run(args: argparse.Namespace) -> int:
    """Check, report, and return 0, 1 or 3."""
    from sae_bench import registry
    from sae_bench.results import gate
    from sae_bench.results.compare import NotComparable
    from sae_bench.results.compare_sides import read_side
    from sae_bench.results.environment import sentence
    from sae_bench.show import trust
    from sae_bench.show.results import cautioned
    from sae_bench.show.text import line

    gates = gate.read_gates(at_home(args.gates) if args.gates else None, registry.tasks(args.task_dir))
    new = read_side(results_in(args.new), args.task_dir)
    name = f"{new.sae.name} ({new.sae.weights_sha256[:12]})"
    try:
        pairs, notes = gate.baselines(
            new,
            at_home(args.baseline) if args.baseline is not None else None,
            sae_name=args.sae_name,
            allow_missing=args.allow_missing,
            task_dir=args.task_dir,
        )
        outcomes = gate.check(pairs, gates)
    except NotComparable as error:
        _write(args, name, [], [], str(error))
        return refused(error)
    failures = gate.failed(outcomes, strict=args.strict)
    held = [loaded.result for one, old in pairs if old is not None for loaded in (old, one)]
    notes += trust.legend([(o.metric, o) for o in outcomes])
    notes += [trust.DESIGN] if any(o.design_effect is not None for o in outcomes) else []
    notes += [*_at_l0(pairs, outcomes), *sentence(held, "the baseline and the new results"), *cautioned(held)]
    _write(args, name, outcomes, failures, "", [*notes, *new.failed])
    if args.markdown != "-":
        print("\n".join([_table(outcomes, failures, markdown=False), "", *map(line, [*notes, *new.failed])]).rstrip())
        print(line(f"{name}: {_summary(outcomes, failures)}"))
    return Exit.FAILED if failures else 0


def _at_l0(pairs: Sequence[tuple[Loaded, Loaded | None]], outcomes: Sequence[Outcome]) -> list[str]:
    """That the L0 has left that of the baseline, where metrics were held that are better with more active latents."""
    from sae_bench.results.at_l0 import l0_of, said

    specs = {new.result.task: new.spec for new, _ in pairs}
    held = [o.metric for o in outcomes if o.loss is not None and specs[o.task].metrics[o.metric].at_equal_l0]
    l0s = l0_of(old.result for _, old in pairs if old is not None), l0_of(new.result for new, _ in pairs)
    text = said(("the baseline", "the new result"), l0s, held)
    return [text] if text else []


def _write(
    args: argparse.Namespace,
    name: str,
    outcomes: Sequence[Outcome],
    failures: Sequence[Outcome],
    refusal: str,
    notes: Sequence[str] = (),
) -> None:
    """The reports that were asked for; ``refusal`` says why there was nothing to compare."""
    from sae_bench.files import write_atomically

    if args.junit:
        write_atomically(at_home(args.junit), junit(name, outcomes, failures, refusal))
    if args.markdown:
        text = markdown(name, outcomes, failures, refusal, notes)
        if args.markdown == "-":
            print(text, end="")
        else:
            write_atomically(at_home(args.markdown), text.encode())


def _summary(outcomes: Sequence[Outcome], failures: Sequence[Outcome]) -> str:
    unsure = sum(o.state in ("not shown", "not compared") for o in outcomes)
    said = f"{len(failures)} of {len(outcomes)} metrics fail" if failures else f"{len(outcomes)} metrics, none fails"
    return f"{said}; of {unsure} it is not shown that they are no worse (--strict fails on them)" if unsure else said


def _table(outcomes: Sequence[Outcome], failures: Sequence[Outcome], *, markdown: bool) -> str:
    from tabulate import tabulate

    from sae_bench.show import trust
    from sae_bench.show.marks import beside
    from sae_bench.show.text import line, number, span
    from sae_bench.show.text import markdown as escaped

    plain, clustered = trust.all_marked(outcomes), any(o.design_effect is not None for o in outcomes)
    rows = []
    for o in outcomes:
        verdict = "FAIL" if o in failures else "ok" if o.state == "ok" else "warning"
        old, new = (beside(number(value), mark) for value, mark in zip((o.old, o.new), o.marks, strict=True))
        loss = trust.signed(span(o.loss, o.low, o.high), o, plain=plain)
        groups = ["-" if o.n_units is None else str(o.n_units), *([trust.effect(o.design_effect)] if clustered else [])]
        shown = [old, new, loss, *groups, number(o.gate.allowed_loss)]
        rows.append([verdict, o.task, o.metric, *shown, o.why])
    groups = ["groups", *(["design effect"] if clustered else [])]
    headers = ["", "task", "metric", "baseline", "new", "loss [95 % interval]", *groups, "allowed", "why"]
    safe = escaped if markdown else line
    headers, rows = [safe(h) for h in headers], [[safe(cell) for cell in row] for row in rows]
    table: str = tabulate(rows, headers=headers, tablefmt="pipe" if markdown else "simple", disable_numparse=True)
    return table


def markdown(
    name: str, outcomes: Sequence[Outcome], failures: Sequence[Outcome], refusal: str, notes: Sequence[str]
) -> str:
    """A summary for a pull request or a job's page."""
    from sae_bench.show.text import code
    from sae_bench.show.text import markdown as escaped

    parts = [f"**sae-bench check** of {code(name)}: "]
    if refusal:
        parts[0] += f"not comparable: {escaped(refusal)}"
    else:
        parts[0] += escaped(_summary(outcomes, failures))
        parts += ["", _table(outcomes, failures, markdown=True), "", *(f"- {escaped(note)}" for note in notes)]
    return "\n".join(parts).rstrip() + "\n"


def junit(name: str, outcomes: Sequence[Outcome], failures: Sequence[Outcome], refusal: str) -> bytes:
    """A JUnit XML report: a test case a metric; one with an error where nothing could be compared."""
    from xml.etree import ElementTree

    from sae_bench.show.text import line

    skipped = [o for o in outcomes if o.state == "not compared" and o not in failures]
    counts = {"failures": len(failures), "errors": int(bool(refusal)), "skipped": len(skipped)}
    suite = ElementTree.Element("testsuite", name=f"sae-bench check {line(name)}", tests=str(len(outcomes) or 1))
    suite.attrib |= {key: str(count) for key, count in counts.items()}
    for o in outcomes:
        case = ElementTree.SubElement(suite, "testcase", classname=f"sae-bench.{o.task}", name=o.metric)
        why = line(o.why)
        if o in failures:
            ElementTree.SubElement(case, "failure", message=why, type=o.state)
        elif o in skipped:
            ElementTree.SubElement(case, "skipped", message=why)
        else:
            ElementTree.SubElement(case, "system-out").text = f"{o.state}: {why}"
    if refusal:
        case = ElementTree.SubElement(suite, "testcase", classname="sae-bench", name="comparable")
        ElementTree.SubElement(case, "error", message=line(refusal), type="not comparable")
    ElementTree.indent(suite)
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content + b"\n"
