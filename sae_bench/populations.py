"""On what a task is measured: the text of a run, a bounded part of it, or labelled sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sae_bench import resolve
from sae_bench.data.documents import Corpus, DataOptions, load_corpus
from sae_bench.data.labelled import Suite
from sae_bench.engine.plan import Options
from sae_bench.engine.sampling import sampled_sequences
from sae_bench.engine.watch import watched_units
from sae_bench.errors import DataError
from sae_bench.models.subject import SubjectModel
from sae_bench.saes.protocol import CoderInfo
from sae_bench.settings import TIERS, Settings


@dataclass(frozen=True)
class Population:
    """Name and digest of what a task reads, how much of that it is measured on, and what is known of its origin."""

    data: str
    sha256: str
    n_documents: int
    n_tokens: int
    details: dict[str, Any]


def corpus(settings: Settings, infos: Sequence[CoderInfo], subject: SubjectModel, tokenizer: Any, data: Any) -> Corpus:
    """The text of a run. Raises DataError."""
    limit, calibration_limit = TIERS[settings.tier]
    loaded = load_corpus(
        data,
        tokenizer=tokenizer,
        vocab_size=subject.vocab_size,
        options=DataOptions(
            text_field=settings.text_field,
            split=settings.split,
            context=resolve.context_length(settings, infos, subject),
            packed=settings.packed,
            prepend_bos=resolve.prepend_bos(settings, infos, tokenizer),
            limit=settings.limit or limit,
            calibration_limit=calibration_limit,
            mean_from_evaluation=settings.mean_from == "evaluation",
            seed=settings.seed,
        ),
    )
    if subject.context_length and loaded.evaluation.longest > subject.context_length:
        raise DataError(
            f"{loaded.source} has sequences of {loaded.evaluation.longest} tokens, but the model takes at most "
            f"{subject.context_length}; give shorter rows"
        )
    return loaded


def population(stream: str, corpus: Corpus, suite: Suite | None, options: Options) -> Population:
    """The population of a task's ``stream``. Without labelled sets that of labelled tasks is the text."""
    if stream == "labelled" and suite is not None:
        tokens = suite.tokens
        return Population(suite.name, suite.sha256, tokens.n_units, tokens.n_tokens, suite.details())
    tokens = corpus.evaluation
    n_documents, n_tokens = tokens.n_units, tokens.n_tokens
    if stream == "ablations":
        lengths = ablated_lengths(corpus, options)
        n_documents, n_tokens = len(lengths), sum(lengths)
    if stream == "watched":
        units = watched_units(tokens, options.watched_documents, options.seed)
        of_sequence = np.diff(tokens.offsets)
        n_documents, n_tokens = len(units), int(of_sequence[np.isin(tokens.units, units)].sum())
    name = Path(corpus.source).name or corpus.source
    return Population(name, tokens.sha256, n_documents, n_tokens, corpus.details)


def ablated_lengths(corpus: Corpus, options: Options) -> list[int]:
    """Lengths of the sequences in which latents are ablated."""
    tokens = corpus.evaluation
    return [len(tokens[i].ids) for i in sampled_sequences(tokens, options.ablation_documents, options.seed)]
