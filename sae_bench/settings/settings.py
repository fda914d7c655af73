"""Everything about an evaluation except the SAEs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sae_bench.registry import BACKENDS
from sae_bench.settings import checks
from sae_bench.settings.judge import OfJudge
from sae_bench.settings.stated import stated

DTYPES = ("auto", "float32", "float64", "bfloat16", "float16")
# without entry points, which --help need not look for
BACKEND_HELP = f"{', '.join(f'{e.name} ({e.description})' for e in BACKENDS)}, or another (see: sae-bench ls backends)"


@dataclass(frozen=True)
class Settings(OfJudge):
    """Everything about an evaluation except the SAEs. The command line has a flag for each.

    ``model``: a folder, a hub id, "demo", or a ``transformers`` model in memory; by default what the SAE declares.
    ``name``: what the results of a single SAE are called; see :mod:`sae_bench.given` for what they are called without.
    ``suite``: the frozen suite that the run keeps to, by name or file; what contradicts it is refused. "auto": that of
    the model if nothing else is said of what is measured, "none": none. See :mod:`sae_bench.suites`.
    ``tasks``: "core" (the default: :data:`CORE`), "all" that the inputs allow, or names and globs.
    ``data``: a file, folder, hub id, "demo", a list of texts, or token ids ``[sequences, length]``; by default the text
    of a suite of the model, else what the SAE says that it was trained on.
    Ids are read as they are, less padding on the right: ``packed``, ``bos``, ``text_field``, ``split`` and a
    ``context`` beyond their length are refused; a shorter one, that of the SAE or the model cuts rows, with a warning.
    ``mask``: what is left out everywhere: "special" BOS and EOS ids, and position 0 of every sequence; "first" position
    0; "none" nothing. Padding never counts, and is a place and no id: a padding token inside a text is scored.
    ``limit``: evaluation documents, ``tokens``: evaluation tokens, and the most that calibration reads of each; if
    neither is given the ``tier`` decides. Tokens are spread over groups: see :mod:`sae_bench.data.sides`.
    ``group_field``: the column (of ids in .safetensors the tensor) that says what each text or row belongs to: its
    source, its document. ``groups`` says it of texts in memory and of rows: one label each, a text or an integer.
    Groups are what intervals resample, and are on one side of the calibration split; without labels a document is its
    own, packed or not.
    ``controls``: "none", "default", "all" or names.
    ``probe_data``: folder of labelled sets, instead of the built-in suite; ``probe_sets``: names or globs of sets.
    ``parameters``: task parameters other than those of the definitions, as {"task.name": value}; they change the
    protocol.
    The language model that explains latents: see :class:`OfJudge`.
    What is told of an SAE (:class:`Told`) settles what its files leave open, and overrides what they say.
    ``backend``: what runs the model, "hf" (``transformers``), "tl" (TransformerLens) or one of another package.
    ``device`` and ``dtype`` of the language model: "auto" takes a GPU if there is one, and float32; a model in memory
    keeps its own, and others are refused, as it is never moved or converted. SAEs that are loaded compute in float32,
    or float64 where that is asked for; one in memory as it does. ``sae_dtype``: what they compute in instead, which is
    in the protocol if it is not the default; "bfloat16" is for SAEs that are run so (weights, activations and latents
    in it, sums as the library makes them).
    ``select_in="bfloat16"``: TopK selects by certified bfloat16 products (the same latents); see
    :mod:`sae_bench.kernels.candidates`.
    ``calibration_cache``: take what earlier runs measured of this model on this text without an SAE, and keep it for
    later ones; see :mod:`sae_bench.session.keeping`. ``overwrite="always"`` takes nothing.
    ``out``: folder for result files, None to write none. Paths are texts or ``pathlib.Path``, and ``~`` in them is the
    home folder; a ``Path`` is never taken for a name such as "demo".
    """

    name: str | None = stated(
        None, "what results are called, of a single SAE (default: as its files say, else as its folder or "
        "module.factory is called; equal names in a run get how their paths or weights differ)", "what",
        "NAME")  # fmt: skip
    suite: str | Path = stated(
        "auto", "frozen suite, which fixes all that is measured: a name (see: sae-bench ls suites) or a file; none "
        "keeps to no suite (default: that of the model, if nothing else is said of what is measured)", "what",
        "NAME")  # fmt: skip
    tasks: str | None = stated(
        None, "core, all that the inputs allow, ids separated by commas, or a glob (see: sae-bench ls tasks; default: "
        "those of the suite, else core)", "what", suite="said")  # fmt: skip
    task_dir: str | Path | None = stated(
        None, "folder with further task definitions", "what", "DIR", suite="fixed")  # fmt: skip
    controls: str = stated(
        "default", "none, default, all, or names (see: sae-bench ls controls)", "what", suite="fixed")  # fmt: skip
    tier: Literal["smoke", "standard", "full"] = stated(
        "standard", "evaluation documents: 32, 512 or all; of the first two at most as many tokens as so many full "
        "sequences, so that long documents are cut", "what", suite="fixed", repeats=True)  # fmt: skip
    limit: int | None = stated(
        None, "evaluation documents, instead of what the tier says; calibration reads at most as many", "what", "N",
        least=1, suite="fixed", repeats=True)  # fmt: skip
    tokens: int | None = stated(
        None, "evaluation tokens, instead of what the tier says, or beside --limit; spread over documents (or groups), "
        "long ones are cut; calibration reads at most as many", "what", "N", least=2, suite="fixed",
        repeats=True)  # fmt: skip
    data: Any = stated(
        None, ".txt, .jsonl[.gz], .csv[.gz], .tsv[.gz], .parquet, data set folder, hub id, or token ids in .npy or "
        ".safetensors, padded on the right or with an attention_mask (default: that of a suite of the model, else what "
        "the SAE was trained on)", "text", "D", suite="said")  # fmt: skip
    text_field: str = stated(
        "text", "column that holds the text, or chats as lists of {role, content}, which the tokenizer's chat template "
        "writes", "text", "NAME", suite="reads", repeats=True)  # fmt: skip
    group_field: str | None = stated(
        None, "column that says what each text belongs to (its source, its author), or tensor beside the ids in "
        ".safetensors (the document of each row): what intervals resample (default: the document)", "text", "NAME",
        suite="reads", repeats=True)  # fmt: skip
    groups: Any = stated(None, suite="fixed")
    split: str | None = stated(
        None, "split of a data set that has several", "text", "NAME", suite="reads", repeats=True)  # fmt: skip
    context: int | None = stated(
        None, "tokens of a sequence (default: the SAE's, at most the model's)", "text", "N", least=3, suite="fixed",
        repeats=True)  # fmt: skip
    packed: bool = stated(
        False, "join documents into full sequences; the unit is then the sequence, and its group the document that "
        "holds most of it", "text", suite="fixed", repeats=True)  # fmt: skip
    bos: Literal["auto", "yes", "no"] = stated(
        "auto", "start every sequence with the BOS token; auto: as the SAE was trained", "text", suite="fixed",
        repeats=True)  # fmt: skip
    mask: Literal["special", "first", "none"] = stated(
        "special", "tokens left out everywhere: BOS, EOS and whatever stands at position 0; position 0 alone; none",
        "text", suite="fixed", repeats=True)  # fmt: skip
    mean_from: Literal["calibration", "evaluation"] = stated(
        "calibration", "where the mean of mean ablation comes from", "text", suite="fixed", repeats=True)  # fmt: skip
    probe_data: str | Path | None = stated(
        None, "folder of sets <set>/{train,test}.{parquet,jsonl,csv} with columns text, label (0 or 1), "
        "if known spans; instead of the built-in suite", "labels", "DIR", suite="fixed")  # fmt: skip
    probe_sets: str = stated(
        "all", "sets of the built-in suite: all (no score if most are missing), names separated by commas, or globs",
        "labels", "NAMES", suite="fixed", repeats=True)  # fmt: skip
    parameters: Mapping[str, Any] = stated(
        {}, "another value of a task parameter; it changes the protocol; may be repeated", "run", "TASK.NAME=VALUE",
        many="--param", suite="fixed", repeats=True)  # fmt: skip
    model: Any = stated(
        None, "folder of a saved model, hub id, or demo (default: the SAE's own)", "model", "M")  # fmt: skip
    tokenizer: Any = stated(None)
    backend: str = stated("hf", BACKEND_HELP, "model", "NAME", suite="fixed", repeats=True)
    device: str = stated("auto", "cpu, cuda, cuda:1, ...; auto takes a GPU if there is one", "model")
    dtype: str = stated(
        "auto", "of the language model (auto: float32); SAEs: float32, float64 with float64", "model", choices=DTYPES,
        suite="fixed", repeats=True)  # fmt: skip
    sae_dtype: Literal["auto", "float32", "bfloat16"] = stated(
        "auto", "of SAEs that are loaded; bfloat16: weights, activations and latents in it, for SAEs that are run so. "
        "It is in the protocol: results of other types are not compared", "model", suite="fixed",
        repeats=True)  # fmt: skip
    out: str | Path | None = stated(None, "folder for results", "run", "DIR")
    overwrite: Literal["missing", "always", "never"] = stated(
        "missing", "missing: what is not there or failed; always: all; never: keep what is there", "run")  # fmt: skip
    seed: int = stated(0, "of all random choices", "run", least=0, suite="fixed", repeats=True)
    resamples: int = stated(
        2000, "bootstrap replicates behind an interval", "run", "N", least=20, suite="fixed", repeats=True)  # fmt: skip
    batch_tokens: int | None = stated(
        None, "tokens in one batch; changes memory and time, and figures by rounding alone (at most 1e-5 of them; 1e-3 "
        "of full_residual), as do threads and the order of SAEs", "run", "N", least=1)  # fmt: skip
    select_in: Literal["exact", "bfloat16"] = stated(
        "exact", "bfloat16: wide TopK SAEs select by certified bfloat16 products, which gives the same latents and is "
        "faster where the machine multiplies bfloat16 faster", "run", repeats=True)  # fmt: skip
    checkpoint_seconds: float = stated(5.0)
    calibration_cache: bool = stated(
        True, "measure calibration and losses without an SAE anew, and keep nothing of them; else they are kept for "
        "later runs on the same model, text and machine, in at most 2 GiB of ~/.cache/sae-bench/calibration",
        "run")  # fmt: skip

    def __post_init__(self) -> None:
        checks.check(self)
