"""``sae-bench run``: measure SAEs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sae_bench.cli import judge_flags
from sae_bench.cli.exits import Exit
from sae_bench.cli.pairs import named
from sae_bench.cli.saes import BACKEND_HELP, SAE_HELP, add_told
from sae_bench.errors import UsageError
from sae_bench.settings import TOLD

if TYPE_CHECKING:
    from sae_bench.api import Session
    from sae_bench.schema import Result

FIELDS = (
    *(
        "name",
        "model",
        "data",
        "tasks",
        "task_dir",
        "tier",
        "limit",
        "tokens",
        "group_field",
        "text_field",
        "split",
        "context",
        "packed",
        "bos",
        "mask",
    ),
    *("mean_from", "controls", "backend", "device", "dtype", "sae_dtype", "seed", "resamples"),
    *("batch_tokens", "out", "overwrite", "probe_data", "probe_sets", "select_in", "calibration_cache", *TOLD),
)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says defaults, but not that nothing is the default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def add(verbs: Any) -> None:
    """Register the verb."""
    p = verbs.add_parser(
        "run",
        help="measure SAEs and write results",
        description="Run the language model once over text and measure every task on every SAE and its controls.",
        formatter_class=Help,
    )
    p.set_defaults(function=run)
    _what(p.add_argument_group("what to measure"))
    add_told(p.add_argument_group("what the files of the SAE leave open"))
    _model(p.add_argument_group("language model"))
    _text(p.add_argument_group("text"))
    _labels(p.add_argument_group("labelled texts (probe_recovery, sparse_probing)"))
    limits = (
        "All SAEs share the limits in rounds; at a limit a run ends with exit code 4, and the same command goes on."
    )
    judge_flags.add(p.add_argument_group("judge (autointerp)", limits))
    _run(p.add_argument_group("run"))


def _what(what: Any) -> None:
    what.add_argument(
        "--sae", action="append", required=True, metavar="SAE",
        help=f"{SAE_HELP}; may be repeated",
    )  # fmt: skip
    what.add_argument("--name", metavar="NAME", help="what results are called, of a single SAE (default: as its files "
                      "say, else as its folder or module.factory is called; equal names in a run get how their paths "
                      "or weights differ)")  # fmt: skip
    what.add_argument(
        "--tasks", default="all", help="all, ids separated by commas, or a glob (see: sae-bench ls tasks)"
    )
    what.add_argument("--task-dir", metavar="DIR", help="folder with further task definitions")
    what.add_argument("--controls", default="default", help="none, default, all, or names (see: sae-bench ls controls)")
    what.add_argument("--tier", default="standard", choices=["smoke", "standard", "full"],
                      help="evaluation documents: 32, 512 or all; of the first two at most as many tokens as so many "
                      "full sequences, so that long documents are cut")  # fmt: skip
    what.add_argument("--limit", type=int, metavar="N", help="evaluation documents, instead of what the "
                      "tier says; calibration reads at most as many")  # fmt: skip
    what.add_argument("--tokens", type=int, metavar="N", help="evaluation tokens, instead of what the tier says, or "
                      "beside --limit; spread over documents (or groups), long ones are cut; calibration reads "
                      "at most as many")  # fmt: skip


def _model(model: Any) -> None:
    model.add_argument("--model", metavar="M", help="folder of a saved model, hub id, or demo (default: the SAE's own)")
    model.add_argument("--backend", default="hf", metavar="NAME", help=BACKEND_HELP)
    model.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    model.add_argument("--dtype", default="auto", choices=["auto", "float32", "float64", "bfloat16", "float16"],
                       help="of the language model (auto: float32); SAEs: float32, float64 with float64")  # fmt: skip

    model.add_argument("--sae-dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                       help="of SAEs that are loaded; bfloat16: weights, activations and latents in it, for SAEs that "
                       "are run so. It is in the protocol: results of other types are not compared")  # fmt: skip


def _text(text: Any) -> None:
    text.add_argument("--data", metavar="D", help=".txt, .jsonl[.gz], .parquet, data set folder, hub id, or token ids "
                      "in .npy or .safetensors, padded on the right or with an attention_mask (default for the demo "
                      "model: demo)")  # fmt: skip
    text.add_argument("--text-field", default="text", metavar="NAME", help="column that holds the text")
    text.add_argument("--group-field", metavar="NAME", help="column that says what each text belongs to (its source, "
                      "its author), or tensor beside the ids in .safetensors (the document of each row): what "
                      "intervals resample (default: the document)")  # fmt: skip
    text.add_argument("--split", metavar="NAME", help="split of a data set that has several")
    text.add_argument("--context", type=int, metavar="N",
                      help="tokens of a sequence (default: the SAE's, at most the model's)")  # fmt: skip
    text.add_argument("--packed", action="store_true",
                      help="join documents into full sequences; the unit is then the sequence, and its group the "
                      "document that holds most of it")  # fmt: skip
    text.add_argument("--bos", default="auto", choices=["auto", "yes", "no"],
                      help="start every sequence with the BOS token; auto: as the SAE was trained")  # fmt: skip
    text.add_argument("--mask", default="special", choices=["special", "first", "none"],
                      help="tokens left out everywhere: BOS, EOS and whatever stands at position 0; position 0 alone; "
                      "none")  # fmt: skip
    text.add_argument("--mean-from", default="calibration", choices=["calibration", "evaluation"],
                      help="where the mean of mean ablation comes from")  # fmt: skip


def _labels(labels: Any) -> None:
    labels.add_argument("--probe-data", metavar="DIR", help="folder of sets <set>/{train,test}.{parquet,jsonl,csv} "
                        "with columns text and label (0 or 1), instead of the built-in suite")  # fmt: skip
    labels.add_argument("--probe-sets", default="all", metavar="NAMES",
                        help="sets of the built-in suite: all (no score if most are missing), names separated by "
                        "commas, or globs")  # fmt: skip


def _run(other: Any) -> None:
    other.add_argument("--param", action="append", default=[], metavar="TASK.NAME=VALUE",
                       help="another value of a task parameter; it changes the protocol; may be repeated")  # fmt: skip
    other.add_argument("--out", default="runs", metavar="DIR", help="folder for results")
    other.add_argument("--overwrite", default="missing", choices=["missing", "always", "never"],
                       help="missing: what is not there or failed; always: all; never: keep what is there")  # fmt: skip
    other.add_argument("--seed", type=int, default=0, help="of all random choices")
    other.add_argument(
        "--resamples", type=int, default=2000, metavar="N", help="bootstrap replicates behind an interval"
    )
    other.add_argument("--batch-tokens", type=int, metavar="N",
                       help="tokens in one batch; changes memory and time, and figures by rounding alone (at most 1e-5 "
                       "of them; 1e-3 of full_residual), as do threads and the order of "
                       "SAEs")  # fmt: skip
    other.add_argument("--select-in", default="exact", choices=["exact", "bfloat16"],
                       help="bfloat16: wide TopK SAEs select by certified bfloat16 products, which gives the same "
                       "latents and is faster where the machine multiplies bfloat16 faster")  # fmt: skip
    other.add_argument("--no-calibration-cache", dest="calibration_cache", action="store_false", default=True,
                       help="measure calibration and losses without an SAE anew, and keep nothing of them; else they "
                       "are kept for later runs on the same model, text and machine, in at most 2 GiB of "
                       "~/.cache/sae-bench/calibration")  # fmt: skip
    other.add_argument("--dry-run", action="store_true", help="say what would be measured and what it costs, and stop")
    other.add_argument("--all-metrics", action="store_true", help="show every metric in the table, not only headlines")
    other.add_argument("--json", action="store_true", help="print results as JSON instead of a table")
    other.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and say by the exit code whether an SAE failed, or a limit of the judge was reached."""
    show_progress = not args.quiet
    if show_progress:
        print("loading ...", file=sys.stderr)
    from sae_bench.api import Session
    from sae_bench.judging import short_of, spent, usage
    from sae_bench.settings import Settings
    from sae_bench.show.results import result_tables
    from sae_bench.show.text import json_text, printable

    session = Session(
        args.sae,
        Settings(
            **{name: getattr(args, name) for name in FIELDS},
            **judge_flags.settings(args),
            parameters=_parameters(args.param),
        ),
    )
    if args.dry_run:
        forecast = session.forecast()
        print(json_text(forecast) if args.json else _listing(forecast))
        return 0
    met = session.meet()
    if show_progress:
        _announce(session, met, args.out)
    try:
        with Bar(show_progress) as bar:
            results = session.run(bar)
    except BaseException:
        if (used := usage(session.asks)).get("tokens_in"):  # what was paid for is said, however a run ends
            print(spent(used), file=sys.stderr)
        raise
    used = usage(session.asks)
    if args.json:
        beside = {"judge": used} if used else {}
        print(json_text({"results": [brief(result) for result in results]} | beside))
    else:
        print(result_tables(results, session.specs, everything=args.all_metrics))
        place = printable(str(args.out))
        print(f"\nresults are in {place}; a score stands between its controls ('sae-bench ls controls')")
        if used:
            print(spent(used))
    failed = [result for result in results if result.status == "error"]
    for result in results:
        if result.status in ("error", "degraded"):
            how = "degraded: " if result.status == "degraded" else ""
            print(printable(f"sae-bench: {result.sae.name}, {result.task}: {how}{result.reason}"), file=sys.stderr)
    cut = short_of(results, used)
    for sentence in cut:
        print(printable(f"sae-bench: {sentence}"), file=sys.stderr)
    return Exit.FAILED if failed else Exit.BUDGET if cut else Exit.DONE


def _announce(session: Session, met: str | None, out: str) -> None:
    """Who judges, what it will cost, and what is there already."""
    from sae_bench.show.text import printable

    if met is not None:
        print(printable(met), file=sys.stderr)
    if cost := session.stream_cost(announced=True) | session.judge_cost():
        print(_listing(cost), file=sys.stderr)
    if there := [w for w in session.work if w.finished]:
        print(f"already there: results of {len(there)} SAEs in {printable(out)}", file=sys.stderr)


def _parameters(given: Sequence[str]) -> dict[str, Any]:
    """{"task.name": value} from ``task.name=value``. Raises UsageError."""
    for one in given:
        if "." not in one.partition("=")[0]:
            raise UsageError(f"--param must be TASK.NAME=VALUE, but it is {one!r}; sae-bench show TASK lists the names")
    return named(given, "--param", "TASK.NAME=VALUE")


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


class Bar:
    """Progress on stderr, one bar a phase, with the time left."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Report that ``done`` of ``total`` steps of the phase ``what`` are finished."""
        if not self._shown:
            return
        if what != self._what:
            from tqdm import tqdm

            self._close()
            self._what = what
            self._bar = tqdm(total=total, initial=done, desc=what, file=sys.stderr, dynamic_ncols=True)
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _listing(forecast: dict[str, Any]) -> str:
    from sae_bench.show.text import printable

    lines = []
    for name, value in forecast.items():
        if isinstance(value, dict):
            value = ", ".join(f"{v} {k}" for k, v in value.items()) or "none"
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = ", ".join(map(str, value)) or "none"
        lines.append(printable(f"{name + ':':<50} {value}"))
    return "\n".join(lines)
