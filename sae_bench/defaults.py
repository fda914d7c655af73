"""Which model and text a run reads: those of its suite, else what the SAE says; and where they lie on this machine."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sae_bench import demo, hub
from sae_bench.data.readers import hub_name
from sae_bench.errors import DataError, ModelError, UsageError
from sae_bench.files import at_home
from sae_bench.settings import Settings
from sae_bench.suites import keep
from sae_bench.suites.record import Known

HOW = "give --data FILE, a folder, or a data set's hub id"
_MODEL_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclasses.dataclass(frozen=True)
class Place:
    """What is read: where it lies, and what it is called in results where that says nothing (None: by its place)."""

    where: Any
    name: str | None = None


def repository(source: Any, revision: str | None = None) -> hub.Repository | None:
    """The repository of a model that is neither in memory nor a folder; None for those."""
    if not isinstance(source, str) or not _MODEL_ID.fullmatch(source) or at_home(source).exists():
        return None
    return hub.Repository(source, "model", revision or "main")


def model_place(source: Any, known: Known | None, revision: str | None = None) -> Place:
    """Where the language model lies: of a suite's own model the files at its revision. Raises ModelError."""
    suite = known.suite if known is not None else None
    if suite is None or not isinstance(source, str) or source not in (suite.model.id, *suite.model.also):
        return Place(source)
    if suite.seal is not None:
        revision = suite.seal.model_revision
    if (wanted := repository(suite.model.id, revision)) is None:
        return Place(source)
    return Place(str(hub.folder(wanted, hub.OF_MODEL, ModelError)[0]), suite.model.id)


def suite_model(known: Known, given: Any) -> Any:
    """The model of a suite, or the one that was given for it, of which digests will tell. Raises UsageError."""
    model = known.suite.model
    own = demo.MODEL_PATH if model.id == "demo" else model.id
    if given is None or (isinstance(given, str) and given in ("demo", model.id, *model.also) and given != "demo"):
        return own
    meant = demo.MODEL_PATH if isinstance(given, str) and given == "demo" else given
    if not known.sealed and meant != own:
        raise UsageError(
            f"--model {str(given)[:80]}: the suite {known.suite.name} is not sealed, so nothing says whether that is "
            f"its model, {model.id}: leave it out, or run without --suite"
        )
    return meant


def text_of_suite(known: Known, revision: str | None = None) -> Place:
    """The text of a suite, fetched at its revision. Raises DataError."""
    text = known.suite.text
    if text.source == "demo":
        return Place("demo")
    if known.suite.seal is not None:
        revision = known.suite.seal.text_revision
    if (wanted := text_repository(known, revision)) is None:
        local = at_home(text.source)
        return Place(str(local if local.is_absolute() else known.file.parent / local), text.source)
    return Place(str(hub.folder(wanted, text.files, DataError)[0]), wanted.id)


def suite_text(known: Known, given: Any) -> Place:
    """The text of a suite, or one that was given for it, of which digests will tell. Raises DataError, UsageError."""
    own = _given_text(known, given)
    return text_of_suite(known) if own is None else own


def _given_text(known: Known, given: Any) -> Place | None:
    """The text that was given for a suite's; None for its own. Raises UsageError where nothing can tell them apart."""
    text = known.suite.text
    if given is None or (isinstance(given, str) and given == text.source):
        return None
    if not known.sealed:
        raise UsageError(
            f"--data {str(given)[:80]}: the suite {known.suite.name} is not sealed, so nothing says whether that is "
            f"its text, {text.source}: leave it out, or run without --suite"
        )
    return Place(given)


def text_repository(known: Known, revision: str | None = None) -> hub.Repository | None:
    """The data set on the hub of which a suite's text is read; None of a path and of the demo."""
    text = known.suite.text
    return hub.Repository(text.source, "dataset", revision or "main") if text.files else None


def check_there(known: Known, model: Any, data: Any) -> None:
    """That the model and text of a suite are here or can be had, before anything is loaded. Raises UsageError.

    ``model`` and ``data`` were given for them, None where nothing was; what the suite refuses is refused first.
    """
    suite_model(known, model)
    _given_text(known, data)
    seal = known.suite.seal
    needed: list[hub.Repository] = []
    if model is None and known.suite.model.id != "demo":
        own = repository(known.suite.model.id, seal.model_revision if seal is not None else None)
        needed += [own] if own is not None else []
    if data is None:
        text = text_repository(known, seal.text_revision if seal is not None else None)
        needed += [text] if text is not None else []
    instead = "a folder with --model and a text with --data" + ("" if known.sealed else ", without --suite")
    hub.lacking(needed, f"the suite {known.suite.name}", instead, UsageError)


def default_text(settings: Settings, infos: Sequence[Any], model: Any) -> tuple[Settings, Place]:
    """The text of a run that was given none, said in a warning, with the settings that say how it is read.

    That of a suite of the model, else what all SAEs say that they were trained on. Raises DataError.
    """
    if model == demo.MODEL_PATH:
        return settings, Place("demo")
    known = keep.of_model(model if isinstance(model, str) else None)
    if known is not None:
        text = known.suite.text
        read = {n: getattr(text, n) for n in keep.READ if _unsaid(settings, n)}
        read |= {"context": text.context} if settings.context is None else {}
        warnings.warn(
            f"no --data was given: the text is that of the suite {known.suite.name}, {text.source} (of the run's own "
            f"settings, so the results are unofficial; --suite {known.suite.name} keeps to all of it)",
            stacklevel=2,
        )
        return dataclasses.replace(settings, **read), text_of_suite(known)
    declared = {_declared(info) for info in infos} - {None}
    if len(declared) != 1:
        why = "no suite is of its model, and the SAE does not say what it was trained on"
        if declared:
            why = (
                f"no suite is of their model, and the SAEs say different ones ({', '.join(sorted(map(str, declared)))})"
            )
        raise DataError(f"text to evaluate on is needed: {HOW} ({why})")
    source = str(declared.pop())
    if not at_home(source).exists() and not hub_name(source):
        raise DataError(f"text to evaluate on is needed: the SAE names {source[:80]!r}, which is not here; {HOW}")
    warnings.warn(f"no --data was given: the text is what the SAE names in its configuration, {source}", stacklevel=2)
    return settings, Place(source)


def _unsaid(settings: Settings, name: str) -> bool:
    return bool(getattr(settings, name) == keep.defaults()[name])


def _declared(info: Any) -> str | None:
    """The data set that the files of an SAE name, as SAELens does."""
    metadata = info.provenance.get("metadata")
    path = metadata.get("dataset_path") if isinstance(metadata, Mapping) else None
    return path if isinstance(path, str) and path.strip() else None


def of_hub(source: Any) -> str | None:
    """The data set on the hub that is streamed for a text; None for files, folders and what is in memory."""
    if not isinstance(source, str) or source == "demo" or Path(source).expanduser().exists():
        return None
    return hub_name(source)


def no_text(name: str, why: str) -> str:
    """That a data set of the hub cannot be had, and what to do."""
    return (
        f"the text {name} is a data set of the hub that is not on this machine, and {why}: run where there is a "
        f"network, or give a file or folder with --data ('{hub.Repository(name, 'dataset').command}' fetches one)"
    )


def check_model(source: Any, text: Any = None, *, declared: bool = False) -> None:
    """That a model of the hub is here or can be had; if not, the ``text`` is said too that lacks then. ModelError.

    It is said that the name was ``declared`` by the SAE: it may be that of a folder where it was trained.
    """
    if (wanted := repository(source)) is not None:
        name = of_hub(text)
        also = [] if name is None or wanted.cached is not None else [hub.Repository(name, "dataset")]
        instead = "a folder with --model" + (" and a text with --data" if also else "")
        who = "the run (by what the files of the SAE say)" if declared else "the run"
        hub.lacking([wanted, *also], who, instead, ModelError)


def foreseen_text(settings: Settings, infos: Sequence[Any], model: Any) -> Any:
    """What :func:`default_text` will read, as far as that can be said before the model is loaded; else None."""
    if settings.data is not None:
        return settings.data
    if (known := keep.of_model(model if isinstance(model, str) else None)) is not None:
        return known.suite.text.source
    declared = {_declared(info) for info in infos} - {None}
    return declared.pop() if len(declared) == 1 else None
