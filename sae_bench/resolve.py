"""From settings to what they name: tasks, the language model, conditions of the text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from sae_bench import demo
from sae_bench.data.documents import Corpus, DataOptions, load_corpus
from sae_bench.data.labelled import LabelledOptions, Suite, load_suite
from sae_bench.data.readers import open_source
from sae_bench.data.sources import TextSource
from sae_bench.errors import CoderError, DataError, UsageError
from sae_bench.files import at_home, sha256
from sae_bench.models.subject import SubjectModel
from sae_bench.saes.model_names import hub_id
from sae_bench.settings import PROBE_TIERS, TIERS, Settings
from sae_bench.tasks.base import Context

if TYPE_CHECKING:
    from sae_bench.engine.workspace import Entry

DEFAULT_CONTEXT = 128
T = TypeVar("T")


def device_name(name: str) -> str:
    """The device that "auto" stands for, or ``name``."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


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


def special_ids(tokenizer: Any, subject: SubjectModel) -> frozenset[int]:
    """BOS, EOS and padding ids, from the tokenizer and the model's configuration."""
    config = getattr(subject.model, "config", None)
    found: set[int] = set()
    for owner in (tokenizer, config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(owner, name, None)
            found.update(v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int))
    return frozenset(found)


def vocabulary(tokenizer: Any, subject: SubjectModel) -> int:
    """How many of the model's output rows belong to tokens: those behind the tokenizer's last id are padding."""
    known = max(tokenizer.get_vocab().values(), default=-1) + 1 if tokenizer is not None else 0
    return min(known, subject.vocab_size) or subject.vocab_size


def token_text(tokenizer: Any) -> Callable[[int], str]:
    """How a token is shown: as its text, or by its number without a tokenizer."""
    if tokenizer is None:
        return str
    return lambda token: str(tokenizer.decode([token]))


def text_of(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """How a run of tokens is shown: as text, or by their numbers without a tokenizer."""
    if tokenizer is None:
        return lambda tokens: " ".join(map(str, tokens))
    return lambda tokens: str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def context(tokenizer: Any, subject: SubjectModel) -> Context:
    """What tasks are told of the run."""
    return Context(token_text(tokenizer), text_of(tokenizer), padding_token(tokenizer, subject))


def padding_token(tokenizer: Any, subject: SubjectModel) -> int:
    """A token that stands for "nothing" in a text: " _" (Gao et al. 2024), else a special one."""
    known = tokenizer.get_vocab() if tokenizer is not None else {}
    for name in ("\u0120_", "\u2581_"):  # as byte-level BPE and as SentencePiece write it
        if known.get(name, subject.vocab_size) < subject.vocab_size:
            return int(known[name])
    return min(special_ids(tokenizer, subject), default=0)


def check_fit(entry: Entry, subject: SubjectModel) -> None:
    """The SAE's hook points exist in the model and are as wide as the SAE expects. Raises CoderError, ModelError."""
    info = entry.coder.info
    for hook, width, side in ((entry.hook_in, info.d_in, "reads"), (entry.hook_out, info.d_out, "writes")):
        actual = subject.width(hook)
        if actual != width:
            raise CoderError(
                f"{entry.label} {side} {width} numbers a token, but {hook} of {subject.name} has {actual}; "
                "is it another model's SAE, or another hook point (--hook-in, --hook-out)?"
            )


def corpus(settings: Settings, infos: Sequence[Any], subject: SubjectModel, tokenizer: Any, data: Any) -> Corpus:
    """The text of a run. Raises DataError."""
    limit, calibration_limit = TIERS[settings.tier]
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


def labelled_suite(
    settings: Settings,
    infos: Sequence[Any],
    subject: SubjectModel,
    tokenizer: Any,
    data: tuple[Any, str],
    *,
    is_demo: bool,
) -> Suite | None:
    """The labelled sets of a run, None without a tokenizer. ``data`` is the text and its name. Raises DataError."""
    if tokenizer is None:
        return None
    source, name = data
    opened = open_source(source, settings.text_field, settings.split)
    train, test = PROBE_TIERS[settings.tier]
    return load_suite(
        probe_data=settings.probe_data,
        demo=is_demo,
        corpus_texts=opened.texts if isinstance(opened, TextSource) else None,
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
        ),
    )


def model_sha256(source: Any, subject: SubjectModel) -> str:
    """Digest of the weight files, or of the parameters of a model in memory."""
    folder = _folder(source)
    files = sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".bin")) if folder else []
    if files:
        return sha256(*files)
    model = source if isinstance(source, torch.nn.Module) else subject.model
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _folder(source: Any) -> Path | None:
    """Where the weight files of a model lie: its folder, or its snapshot in the hub's cache."""
    if not isinstance(source, str | Path):
        return None
    if (folder := at_home(source)).is_dir():
        return folder
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(str(source), "config.json")
    return Path(cached).parent if isinstance(cached, str) else None
