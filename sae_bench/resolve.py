"""From settings to what they name: tasks, the language model, conditions of the text."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from sae_bench import defaults, demo, hub
from sae_bench.data import roles as data_roles
from sae_bench.data.calibration import limits, warn_of_little
from sae_bench.data.chats import Chats
from sae_bench.data.documents import Corpus, DataOptions, load_corpus
from sae_bench.data.labelled import LabelledOptions, Suite, load_suite
from sae_bench.data.readers import open_source
from sae_bench.data.roles import Roles
from sae_bench.data.rows import RowOptions
from sae_bench.data.sources import TextSource
from sae_bench.engine.plan import Options
from sae_bench.errors import DataError, UsageError
from sae_bench.files import at_home
from sae_bench.models.digests import ModelDigests, digests
from sae_bench.models.loading import asked, load_subject
from sae_bench.models.subject import SubjectModel
from sae_bench.models.tokenizer_identity import tokenizer_sha256
from sae_bench.models.tokenizers import check_tokens, text_of, token_text
from sae_bench.saes.model_names import hub_id
from sae_bench.session import trained
from sae_bench.settings import ABLATION_TIERS, DEFAULT_CONTEXT, PROBE_TIERS, TEXT_FIELD, TIERS, TRACKED_TIERS, Settings
from sae_bench.streams import Inputs, stream
from sae_bench.suites.record import Known
from sae_bench.tasks.base import Context, Task


@dataclass(frozen=True)
class Opened:
    """The language model of a run with what belongs to it; ``tokenizer`` is None where there is none."""

    source: Any
    subject: SubjectModel
    tokenizer: Any
    digests: ModelDigests

    @property
    def is_demo(self) -> bool:
        """Whether it is the model of the demo, for which there is text and labelled sets."""
        return bool(self.source == demo.MODEL_PATH)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """BOS and EOS ids."""
        return special_ids(self.tokenizer, self.subject)

    @cached_property
    def tokenizer_sha256(self) -> str | None:
        """Digest of what the tokenizer does, None where there is none."""
        return tokenizer_sha256(self.tokenizer)

    @cached_property
    def context(self) -> Context:
        """What tasks are told of it."""
        return Context(token_text(self.tokenizer), text_of(self.tokenizer), padding_token(self.tokenizer, self.subject))


def opened(settings: Settings, source: Any, known: Known | None = None) -> Opened:
    """Load the language model that is meant, of a suite at its revision. Raises UsageError, ModelError."""
    place = defaults.model_place(source, known)
    found: list[ModelDigests] = []
    device, dtype = asked(settings)
    of_hub = any(defaults.repository(one) is not None for one in (place.where, settings.tokenizer))
    with hub.patiently(needed=of_hub):
        subject, tokenizer = load_subject(
            place.where,
            backend=settings.backend,
            device=device,
            dtype=dtype,
            tokenizer=settings.tokenizer,
            before=lambda model: found.append(digests(model, in_memory=isinstance(source, torch.nn.Module))),
        )
    made = Opened(source, subject, tokenizer, *found)
    if made.is_demo or place.name is not None:
        subject.name = place.name or "demo"
    return made


def model_source(model: Any, infos: Sequence[Any]) -> Any:
    """The language model: what the user gave, else what all SAEs declare. Raises UsageError.

    A name of another library is taken for the id on the hub that it stands for, with a warning.
    """
    if model is None:
        found = [_declared_model(info) for info in infos]
        declared = set(found)
        if len(declared) != 1 or None in declared:
            listed = ", ".join(sorted(name or "none" for name in declared))
            silent = ", ".join(info.name for info, name in zip(infos, found, strict=True) if name is None)
            who = f"{silent} declares none" if silent and len(declared) == 1 else f"They declare {listed}"
            raise UsageError(f"which model do the SAEs read? {who}; give --model FOLDER, a hub id or demo")
        model = declared.pop()
    return demo.MODEL_PATH if isinstance(model, str) and model == "demo" else model


def _declared_model(info: Any) -> str | None:
    """The model that an SAE declares, else the registry that lists it; as its id on the hub where that is known."""
    name: str | None = info.model or info.provenance.get("registry_model")
    if name is None or at_home(name).is_dir():
        return name
    known = hub_id(name) or name
    if known != name:
        warnings.warn(
            f"{info.name} declares the model {name!r}, which is taken to be {known!r} of the hub; if it is another, "
            "give --model",
            stacklevel=2,
        )
    return known


def context_length(settings: Settings, infos: Sequence[Any], subject: SubjectModel) -> int:
    """Tokens of a sequence: as given, else the shortest that an SAE declares; at most what the model takes."""
    declared = [info.context_size for info in infos if info.context_size]
    wanted = settings.context or min(declared, default=DEFAULT_CONTEXT)
    return min(wanted, subject.context_length or wanted)


def prepend_bos(settings: Settings, infos: Sequence[Any], tokenizer: Any) -> bool:
    """Whether texts start with BOS: as given, else as the SAEs declare, else if there is one. Raises UsageError."""
    if settings.bos != "auto":
        return settings.bos == "yes"
    declared = {info.prepend_bos for info in infos if info.prepend_bos is not None}
    if len(declared) > 1:
        raise UsageError(
            "some of these SAEs were trained with a BOS token before the text and some without; run them apart, or "
            "settle it for all with --bos yes or --bos no"
        )
    has_bos = getattr(tokenizer, "bos_token_id", None) is not None
    return declared.pop() if declared else has_bos


def roles(tokenizer: Any, subject: SubjectModel) -> Roles:
    """Which ids begin a text, end it, or fill rows up, from the tokenizer and the model's configuration."""
    return data_roles.roles(tokenizer, getattr(subject.model, "config", None))


def special_ids(tokenizer: Any, subject: SubjectModel) -> frozenset[int]:
    """BOS and EOS ids. Padding is a place in a batch and no id: see :mod:`sae_bench.data.roles`."""
    return roles(tokenizer, subject).special


def row_options(settings: Settings, infos: Sequence[Any], subject: SubjectModel, tokenizer: Any) -> RowOptions:
    """How rows of ids that came tokenised are read, and which flags were given that cannot act on them."""
    told = [settings.context] if settings.context else [info.context_size for info in infos if info.context_size]
    limits = [(length, "--context" if settings.context else "the SAE") for length in told]
    limits += [(subject.context_length, "the model")] if subject.context_length else []
    longest, limited_by = min(limits, default=(None, ""))
    flags = {
        "--packed": settings.packed,
        f"--bos {settings.bos}": settings.bos != "auto",
        "--text-field": settings.text_field != TEXT_FIELD,
        "--split": settings.split is not None,
    }
    given = tuple(flag for flag, is_given in flags.items() if is_given)
    return RowOptions(roles(tokenizer, subject), longest, limited_by, settings.context, given)


def vocabulary(tokenizer: Any, subject: SubjectModel) -> int:
    """How many of the model's output rows belong to tokens: those behind the tokenizer's last id are padding."""
    known = max(tokenizer.get_vocab().values(), default=-1) + 1 if tokenizer is not None else 0
    return min(known, subject.vocab_size) or subject.vocab_size


def padding_token(tokenizer: Any, subject: SubjectModel) -> int:
    """A token that stands for "nothing" in a text: " _" (Gao et al. 2024), else BOS or EOS, else the padding."""
    known = tokenizer.get_vocab() if tokenizer is not None else {}
    for name in ("\u0120_", "\u2581_"):  # as byte-level BPE and as SentencePiece write it
        if known.get(name, subject.vocab_size) < subject.vocab_size:
            return int(known[name])
    known_as = roles(tokenizer, subject)
    return min(known_as.special, default=known_as.pad or 0)


def inputs(
    settings: Settings,
    infos: Sequence[Any],
    model: Opened,
    tasks: Mapping[str, Task],
    controls: tuple[str, ...],
    place: defaults.Place,
) -> Inputs:
    """What the tasks read; ``place`` is where the text lies. Raises DataError."""
    options = Options(
        mask=settings.mask,
        controls=controls,
        seed=settings.seed,
        resamples=settings.resamples,
        batch_tokens=settings.batch_tokens,
        checkpoint_seconds=settings.checkpoint_seconds,
        special_ids=model.special_ids,
        vocabulary=vocabulary(model.tokenizer, model.subject),
        ablation_documents=ABLATION_TIERS[settings.tier],
        tracked_documents=TRACKED_TIERS[settings.tier],
    )
    text = _text(settings, infos, model, place)
    trained.warn(infos, text.evaluation, settings.mask, model.special_ids, model.tokenizer)
    labels = any(stream(task.stream).labels for task in tasks.values())
    with hub.patiently(needed=labels and settings.probe_data is None and not model.is_demo):
        suite = labelled_suite(settings, infos, model, (place.where, text.source)) if labels else None
    return Inputs(text, suite, options)


def _text(settings: Settings, infos: Sequence[Any], model: Opened, place: defaults.Place) -> Corpus:
    """The text of a run, under the name of its place. Raises DataError."""
    name = defaults.of_hub(place.where)
    with hub.patiently(needed=name is not None):
        try:
            text = corpus(settings, infos, model.subject, model.tokenizer, place.where)
        except DataError as error:
            if name is not None and (why := hub.silent()) is not None:
                raise DataError(defaults.no_text(name, why)) from error
            raise
    return text if place.name is None else replace(text, source=place.name)


def corpus(settings: Settings, infos: Sequence[Any], subject: SubjectModel, tokenizer: Any, data: Any) -> Corpus:
    """The text of a run. Raises DataError, UsageError for flags that cannot act on it."""
    if settings.context and settings.context > (subject.context_length or settings.context):
        warnings.warn(
            f"--context {settings.context} is more than the {subject.context_length} tokens that the model takes, so "
            f"sequences hold {subject.context_length} at most",
            stacklevel=2,
        )

    def texts() -> Iterable[str]:
        return getattr(open_source(data, settings.text_field, settings.split, chats=Chats(tokenizer)), "texts", ())

    check_tokens(tokenizer, texts)
    loaded = load_corpus(
        data,
        tokenizer=tokenizer,
        vocab_size=subject.vocab_size,
        options=DataOptions(
            text_field=settings.text_field,
            split=settings.split,
            context=context_length(settings, infos, subject),
            packed=settings.packed,
            prepend_bos=prepend_bos(settings, infos, tokenizer),
            **limits(TIERS[settings.tier], settings.limit, settings.tokens),
            group_field=settings.group_field,
            groups=settings.groups,
            mean_from_evaluation=settings.mean_from == "evaluation",
            seed=settings.seed,
            rows=row_options(settings, infos, subject, tokenizer),
        ),
    )
    if short := loaded.details["documents_skipped_as_too_short"]:
        what = "rows" if loaded.details["unit"] == "row" else "documents"
        read = loaded.details[f"{what}_read"]
        warnings.warn(
            f"{short} of {read} {what} of {loaded.source} are left out: they have fewer than 2 tokens", stacklevel=2
        )
    warn_of_little(loaded, settings.limit, settings.tokens)
    return loaded


def labelled_suite(settings: Settings, infos: Sequence[Any], model: Opened, data: tuple[Any, str]) -> Suite | None:
    """The labelled sets of a run, None without a tokenizer. ``data`` is the text and its name. Raises DataError."""
    subject, tokenizer = model.subject, model.tokenizer
    if tokenizer is None:
        return None
    source, name = data
    columns = settings.text_field, settings.split, settings.group_field, settings.groups
    opened = open_source(source, *columns, Chats(tokenizer))
    train, test = PROBE_TIERS[settings.tier]
    suite = load_suite(
        probe_data=settings.probe_data,
        demo=model.is_demo,
        corpus=opened.documents if isinstance(opened, TextSource) else None,
        corpus_name=name,
        tokenizer=tokenizer,
        vocab_size=subject.vocab_size,
        options=LabelledOptions(
            context=context_length(settings, infos, subject),
            prepend_bos=prepend_bos(settings, infos, tokenizer),
            seed=settings.seed,
            train_limit=train,
            test_limit=test,
            names=settings.probe_sets,
            mask=settings.mask,
            special_ids=model.special_ids,
        ),
    )
    if suite.lacking:
        warnings.warn(f"{suite.coverage} labelled sets are available: {suite.lacking}", stacklevel=2)
    elif suite.skipped:
        warnings.warn(
            f"{suite.coverage} labelled sets are available; why each of the others is not stands in the results (show "
            "RESULT) and under left_out of run --json",
            stacklevel=2,
        )
    return suite
