"""From settings to what a preflight needs: the language model and a few hundred tokens, each loaded once."""

from __future__ import annotations

from typing import Any

import torch

from sae_bench import demo, given, resolve
from sae_bench.data.documents import DataOptions, load_corpus
from sae_bench.data.rows import RowOptions
from sae_bench.errors import DataError
from sae_bench.files import at_home
from sae_bench.models.loading import load_subject
from sae_bench.models.placement import device_name
from sae_bench.models.subject import SubjectModel
from sae_bench.models.tokenizers import token_text
from sae_bench.modules import as_declared
from sae_bench.preflight.text import LEAST_LENGTH, SEQUENCES, Activations, Text, sample
from sae_bench.saes.protocol import CoderInfo, SparseCoder
from sae_bench.saes.wrap import Unsized
from sae_bench.settings import Settings


class Loader:
    """Language models and activations for several SAEs; equal ones are shared.

    Of ``settings`` it reads ``model``, ``data``, ``tokenizer``, ``text_field``, ``split``, ``context``, ``bos``,
    ``mask``, ``backend``, ``device`` and ``dtype``; ``n_tokens`` ids of text are read.
    """

    def __init__(self, settings: Settings, n_tokens: int) -> None:
        self.settings, self.n_tokens = settings, n_tokens
        self._subjects: dict[str, tuple[SubjectModel, Any]] = {}
        self._read: dict[tuple[Any, ...], Activations] = {}

    def why_not(self, info: CoderInfo) -> str | None:
        """Why this SAE cannot be measured unless more is given; None if it can be tried."""
        told, own = self.settings, self._own(info)
        if len(info.hooks_in) != 1 or len(info.hooks_out) != 1:
            return "it reads or predicts several hook points at once, which sae-bench does not measure"
        if told.model is None and told.data is None and own is None:
            return "give --model and --data to measure the SAE and to look for usual mistakes"
        if told.model is None and told.data is None and own != "demo":
            return f"give --data to measure the SAE on {own} and to look for usual mistakes"
        if told.data is None and told.model != "demo" and "width_of" in info.provenance:  # what the model is given for
            return f"give --data to measure the SAE on {told.model} and to look for usual mistakes"
        return None

    def sized(self, coder: SparseCoder | Unsized) -> SparseCoder:
        """The SAE, as wide as its language model where it does not say. Raises CoderError, ModelError."""
        if not isinstance(coder, Unsized):
            return coder
        if self.settings.model is None:
            raise coder.no_width()
        return given.sized(coder, self._subject(resolve.model_source(self.settings.model, [coder.info]))[0])

    @as_declared()
    def activations(self, info: CoderInfo) -> Activations:
        """What the SAE's language model does on the text. Raises UsageError, ModelError, DataError."""
        source = resolve.model_source(self.settings.model or self._own(info), [info])
        data = self.settings.data
        if data is None and source != demo.MODEL_PATH:
            raise DataError("text to measure on is needed: give --data FILE, a folder, or a data set's hub id")
        subject, tokenizer = self._subject(source)
        context = resolve.context_length(self.settings, [info], subject)
        bos = resolve.prepend_bos(self.settings, [info], tokenizer)
        rows = resolve.row_options(self.settings, [info], subject, tokenizer)
        key = (str(source), context, bos, rows)
        if key not in self._read:
            text = self._text("demo" if data is None else data, subject, tokenizer, (context, bos, rows))
            self._read[key] = Activations(subject, text)
        return self._read[key]

    def _own(self, info: CoderInfo) -> str | None:
        """The model that the SAE declares, if it is here: the demo, or a folder."""
        name = info.model
        return name if name and (name == "demo" or (at_home(name) / "config.json").is_file()) else None

    def _subject(self, source: Any) -> tuple[SubjectModel, Any]:
        key = str(source)
        if key not in self._subjects:
            self._subjects[key] = load_subject(
                source,
                backend=self.settings.backend,
                device=device_name(self.settings.device),
                dtype=None if self.settings.dtype == "auto" else getattr(torch, self.settings.dtype),
                tokenizer=self.settings.tokenizer,
            )
            if source == demo.MODEL_PATH:
                self._subjects[key][0].name = "demo"
        return self._subjects[key]

    def _text(self, data: Any, subject: SubjectModel, tokenizer: Any, read: tuple[int, bool, RowOptions]) -> Text:
        context, prepend_bos, rows = read
        options = DataOptions(
            text_field=self.settings.text_field,
            split=self.settings.split,
            context=context,
            prepend_bos=prepend_bos,
            limit=max(SEQUENCES, -(-self.n_tokens // LEAST_LENGTH)),
            mean_from_evaluation=True,
            rows=rows,
        )
        tokens = load_corpus(data, tokenizer=tokenizer, vocab_size=subject.vocab_size, options=options).evaluation
        special = resolve.special_ids(tokenizer, subject)
        bos = _bos(tokenizer, subject)
        begins = sum(int(sequence.ids[0]) == bos for sequence in tokens) > len(tokens) / 2
        sequences = sample(tokens, self.n_tokens, bos, context)
        return Text(tuple(sequences), begins, bos, special, self.settings.mask, token_text(tokenizer))


def _bos(tokenizer: Any, subject: SubjectModel) -> int | None:
    owner = tokenizer if tokenizer is not None else getattr(subject.model, "config", None)
    found = getattr(owner, "bos_token_id", None)
    return found if isinstance(found, int) else None
