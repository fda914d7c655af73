"""What a run will do and what it will cost, before anything is measured: plain JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sae_bench.data.documents import Corpus
from sae_bench.data.labelled import Suite
from sae_bench.engine.plan import Batches
from sae_bench.engine.workspace import Entry
from sae_bench.models.continuation import reuses
from sae_bench.models.subject import SubjectModel
from sae_bench.schema import CoderRecord
from sae_bench.tasks.downstream_sparsity import DownstreamSparsity

LOGIT_COPIES = 3  # copies of a batch's logits: a run was seen to need two at its peak


def of_text(corpus: Corpus, suite: Suite | None, batch_tokens: int) -> dict[str, Any]:
    """How much text there is."""
    tokens = corpus.evaluation
    return {
        "data": corpus.source,
        "documents": tokens.n_units,
        "sequences": len(tokens),
        "tokens": tokens.n_tokens,
        "labelled sets": len(suite.sets) if suite else 0,
        "labelled texts": suite.tokens.n_units if suite else 0,
        "labelled tokens": suite.tokens.n_tokens if suite else 0,
        "calibration documents": corpus.calibration.n_units,
        "batches": len(Batches.of(tokens, batch_tokens)),
    }


def of_model(subject: SubjectModel, saes: Sequence[Entry], controls: Sequence[str], *, loss: bool) -> dict[str, Any]:
    """How often the model runs over a document; ``loss``: whether it runs on reconstructions."""
    suffixes = {
        "clean": 1,
        "zero and mean, at most": 2 * len({entry.hook_out for entry in saes}),
        "spliced (SAEs)": len(saes),
        "spliced (controls, at most)": len(saes) * len(controls),
    }
    return {
        "model": subject.name,
        "forwards of the first part of the model, a document": 1 if saes else 0,
        "forwards of the rest of the model, a document": suffixes if loss else {},
    }


def of_ablations(
    task: DownstreamSparsity,
    subject: SubjectModel,
    saes: Sequence[Entry],
    controls: Sequence[str],
    lengths: Sequence[int],
) -> dict[str, Any]:
    """How many ablations there will be in sequences of these lengths, and how many tokens of the model each takes."""
    hooks = list(dict.fromkeys(entry.hook_out for entry in saes))
    coders = len(saes) * (2 + len(controls)) + len(hooks)  # an SAE, random directions, controls; all channels
    longest = max(lengths, default=1)
    floors = len(hooks)  # one change by rounding alone at each position, for each thing that the model carries there
    if task.base == "reconstruction":
        floors += len(saes) * (1 + len(controls))
    whole = [hook for hook in hooks if not reuses(subject, hook, longest)]
    cost = {
        "documents with ablations": len(lengths),
        "ablations, at most": len(lengths) * task.positions * (coders * task.latents + floors),
        "tokens of the rest of the model, an ablation": longest if whole else min(task.horizon, longest),
    }
    return cost | ({"hook points where each ablation is a run over the whole sequence": whole} if whole else {})


def memory(saes: Sequence[CoderRecord], batch_tokens: int, vocab_size: int) -> int:
    """Roughly the memory beside the model, MiB: the SAEs' weights, and copies of a batch's logits."""
    weights = sum(sae.n_latents * (sae.d_in + sae.d_out) * 4 for sae in saes)
    return round((weights + LOGIT_COPIES * 4 * batch_tokens * vocab_size) / 2**20)
