"""Flags of ``sae-bench run``, a function for each group of its help."""

from __future__ import annotations

import argparse
from typing import Any

from sae_bench.cli import progress
from sae_bench.cli.places import RUNS
from sae_bench.cli.saes import BACKEND_HELP, SAE_HELP
from sae_bench.errors import UsageError


def what(what: Any) -> None:
    """What to measure: SAEs, tasks, controls and how much text."""
    what.add_argument("saes", nargs="*", metavar="SAE", help=f"{SAE_HELP}; several, and globs, may be given")
    what.add_argument("--sae", action="append", default=[], metavar="SAE", help="the same as a flag; may be repeated")
    what.add_argument("--name", metavar="NAME", help="what results are called, of a single SAE (default: as its files "
                      "say, else as its folder or module.factory is called; equal names in a run get how their paths "
                      "or weights differ)")  # fmt: skip
    what.add_argument("--suite", metavar="NAME", help="frozen suite, which fixes all that is measured: a name (see: "
                      "sae-bench ls suites) or a file; none keeps to no suite (default: that of the model, if nothing "
                      "else is said of what is measured)")  # fmt: skip
    what.add_argument("--tasks", help="core, all that the inputs allow, ids separated by commas, or a glob (see: "
                      "sae-bench ls tasks; default: those of the suite, else core)")  # fmt: skip
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


def model(model: Any) -> None:
    """The language model: which, by which back end, where and in which types."""
    model.add_argument("--model", metavar="M", help="folder of a saved model, hub id, or demo (default: the SAE's own)")
    model.add_argument("--backend", default="hf", metavar="NAME", help=BACKEND_HELP)
    model.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ...; auto takes a GPU if there is one")
    model.add_argument("--dtype", default="auto", choices=["auto", "float32", "float64", "bfloat16", "float16"],
                       help="of the language model (auto: float32); SAEs: float32, float64 with float64")  # fmt: skip

    model.add_argument("--sae-dtype", default="auto", choices=["auto", "float32", "bfloat16"],
                       help="of SAEs that are loaded; bfloat16: weights, activations and latents in it, for SAEs that "
                       "are run so. It is in the protocol: results of other types are not compared")  # fmt: skip


def text(text: Any) -> None:
    """The text and how it is cut into sequences."""
    text.add_argument("--data", metavar="D", help=".txt, .jsonl[.gz], .csv[.gz], .tsv[.gz], .parquet, data set folder, "
                      "hub id, or token ids in .npy or .safetensors, padded on the right or with an attention_mask "
                      "(default: that of a suite of the model, else what the SAE was trained on)")  # fmt: skip
    text.add_argument("--text-field", default="text", metavar="NAME", help="column that holds the text, or chats as "
                      "lists of {role, content}, which the tokenizer's chat template writes")  # fmt: skip
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


def labels(labels: Any) -> None:
    """Labelled texts of the probe tasks."""
    labels.add_argument("--probe-data", metavar="DIR", help="folder of sets <set>/{train,test}.{parquet,jsonl,csv} "
                        "with columns text, label (0 or 1), if known spans; instead of the built-in suite")  # fmt: skip
    labels.add_argument("--probe-sets", default="all", metavar="NAMES",
                        help="sets of the built-in suite: all (no score if most are missing), names separated by "
                        "commas, or globs")  # fmt: skip


def how(other: Any) -> None:
    """How the run goes and what it prints."""
    other.add_argument("--param", action="append", default=[], metavar="TASK.NAME=VALUE",
                       help="another value of a task parameter; it changes the protocol; may be repeated")  # fmt: skip
    other.add_argument("--out", default=RUNS, metavar="DIR", help="folder for results")
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
    progress.add_flags(other)


def saes(args: argparse.Namespace) -> list[str]:
    """What was given as SAEs, with the flag or without it. Raises UsageError for none."""
    if not (given := [*args.saes, *args.sae]):
        raise UsageError("give at least one SAE: sae-bench run PATH, a folder or file, or 'demo'; see --help for more")
    return given
