"""Loading a causal language model and its tokenizer, with one sentence for each way in which that fails."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sae_bench import demo, registry
from sae_bench.errors import ModelError, said
from sae_bench.files import at_home
from sae_bench.models.adapters import adapted_name, adapter_folder, base_of, load_adapted
from sae_bench.models.leftovers import check_leftovers, check_stored_types
from sae_bench.models.placement import check_device, check_whole, check_wrapper, device_name
from sae_bench.models.plausible import check_folder, check_weights
from sae_bench.models.quiet import quiet
from sae_bench.models.subject import Backend, SubjectModel, missing_members
from sae_bench.models.tokenizers import load_tokenizer
from sae_bench.models.weight_files import ADAPTER_CONFIG, folder_of, stored_tensors, weight_files
from sae_bench.modules import same_device
from sae_bench.settings import Settings

_OF_MANY = re.compile(  # what folders of models are called that are told apart by where they lie
    r"(final|last|best|latest|hf|my|the|base|language|saved|trained)?[_-]?"
    r"(lm|models?|llm|checkpoints?|weights|outputs?|out|export(ed)?|hf|final|last|best|latest|main)"
    r"|(checkpoint|ckpt|step|epoch|iter|global_step|v)?[_-]?\d+",
    re.IGNORECASE,
)


def load_subject(
    source: str | Path | torch.nn.Module,
    *,
    backend: str = "hf",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    tokenizer: Any = None,
    before: Callable[[nn.Module], None] = lambda model: None,
) -> tuple[SubjectModel, Any]:
    """Load a causal language model from a local folder, a hub id, or a module in memory.

    A module keeps its own device and dtype: others are refused, as it belongs to somebody else. What is loaded goes to
    the CPU in float32 by default. `backend` is a name in `registry.backends()`. `tokenizer` is a tokenizer
    object or where to load one from, by default the one beside the model. `before` is shown the module before the back
    end takes it, which may rebuild it. Returns the model and its tokenizer, None if there is none. Raises ModelError
    with what is missing, SaeBenchError if the back end cannot be imported.
    """
    known = registry.backends()
    if backend not in known:
        raise ModelError(f"the backend must be {' or '.join(map(repr, known))}, not {backend!r}")
    open_model: Backend = registry.load(known[backend])
    model, tokenizer, name = load_pretrained(source, device=device, dtype=dtype, tokenizer=tokenizer)
    before(model)
    subject = open_model(model, name, copy_model=isinstance(source, nn.Module))
    _check_subject(subject, backend)
    return subject, tokenizer


def _check_subject(subject: SubjectModel, backend: str) -> None:
    """Raise ModelError where a back end lacks members of `SubjectModel`, or writes another name into results."""
    if missing := missing_members(subject):
        raise ModelError(
            f"the subject model of the backend {backend!r} lacks {', '.join(missing)}; add that, or use the backend hf"
        )
    if subject.backend != backend:
        raise ModelError(
            f"the subject model of the backend {backend!r} calls its backend {subject.backend!r}; "
            "results must name the one that made them"
        )


def load_pretrained(
    source: str | Path | nn.Module, *, device: str | None, dtype: torch.dtype | None, tokenizer: Any = None
) -> tuple[nn.Module, Any, str]:
    """Return (causal language model in eval mode, tokenizer or None, name); a module in memory is returned as it is.

    Never runs code from the model's folder or repository. Raises ModelError.
    """
    if isinstance(source, nn.Module):
        model, name = source, _name_of(source)
        check_wrapper(model, name)
    else:
        check_device(device or "cpu")
        ours, dtype = str(source) == str(demo.MODEL_PATH), dtype or torch.float32
        model, name = copy.deepcopy(_demo(dtype)) if ours else _load_whole(str(source), _check_source(source), dtype)
    _check_model(model, name)
    check_whole(model, name)
    if isinstance(source, nn.Module):
        check_asked(source, device, dtype)
    else:
        model = model.to(device or "cpu")
        if tokenizer is None:
            tokenizer = copy.deepcopy(_demo_tokenizer()) if ours else _tokenizer_beside(str(source))
    if isinstance(tokenizer, str | Path):
        loaded = load_tokenizer(str(tokenizer))
        if loaded is None:
            raise ModelError(f"no tokenizer found at {str(tokenizer)!r}; give a folder with tokenizer.json")
        tokenizer = loaded
    _check_tokenizer(model, name, tokenizer)
    return model, tokenizer, name


def device_of(settings: Settings) -> str:
    """Where a run computes: as given, else where a model in memory is, else on a GPU if there is one.

    Raises ModelError for a device that is not here, and for a model in memory that is elsewhere, or of another dtype
    than was asked for.
    """
    model = settings.model
    if not isinstance(model, nn.Module):
        return device_name(settings.device)
    check_asked(model, *asked(settings))
    there = next((str(p.device) for p in model.parameters() if not p.is_meta), "cpu")
    return there if settings.device == "auto" else settings.device


def asked(settings: Settings) -> tuple[str | None, torch.dtype | None]:
    """Device and dtype of the language model; None where a model in memory has its own, and one that is loaded none."""
    own = None if settings.device == "auto" else settings.device  # checked beside where the model is
    device = own if isinstance(settings.model, nn.Module) else device_name(settings.device)
    return device, None if settings.dtype == "auto" else getattr(torch, settings.dtype)


def check_asked(model: nn.Module, device: str | None, dtype: torch.dtype | None) -> None:
    """Raise ModelError where a model in memory lies elsewhere, or is of another dtype, than what is asked for."""
    own = next((p for p in model.parameters() if p.is_floating_point()), None)
    if own is None:
        return
    mine, name = "a model in memory is never moved or converted: leave it out, or give", _name_of(model)
    if dtype not in (None, own.dtype):
        short, is_short = (str(one).removeprefix("torch.") for one in (dtype, own.dtype))
        raise ModelError(f"dtype={short!r} cannot act on model {name!r}, which is {is_short}: {mine} model.to({dtype})")
    if device is not None:
        if device != "meta":  # where no model is that could be used, so it is elsewhere
            check_device(device)
        there = own.device
        if not same_device(torch.device(device), there):
            raise ModelError(
                f"device={device!r} cannot act on model {name!r}, which is on {there}: {mine} model.to({device!r})"
            )


@lru_cache(maxsize=2)
def _demo(dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The language model of the demo, whose files never change, to copy: copying is ten times as fast as reading."""
    source = str(demo.MODEL_PATH)
    return _load_whole(source, _check_source(source), dtype)


@lru_cache(maxsize=1)
def _demo_tokenizer() -> Any:
    """The tokenizer of the demo, to copy."""
    return _tokenizer_beside(str(demo.MODEL_PATH))


def _folder_name(folder: Path) -> str:
    """How a model in a folder is called: by more than a name that many have, and by its id in the cache of the hub."""
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name.removeprefix("models--").replace("--", "/")
    if _OF_MANY.fullmatch(folder.name) and folder.parent.name:
        return f"{folder.parent.name}/{folder.name}"
    return folder.name


def _check_source(source: str | Path) -> str:
    """Return the model's name: that of the folder, or the hub id."""
    if not str(source):
        raise ModelError("the model must be a folder or a hub id, not an empty name")
    path = Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file() and not (path / ADAPTER_CONFIG).is_file():
            raise ModelError(f"the model folder {source} has no config.json; give a folder that save_pretrained wrote")
        return _folder_name(path.resolve())
    text = str(source)
    if path.exists():
        raise ModelError(f"the model must be a folder or a hub id, but {text} is a file")
    if isinstance(source, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ModelError(f"the model folder {text!r} does not exist")
    return text


def _load_whole(source: str, name: str, dtype: torch.dtype) -> tuple[nn.Module, str]:
    """The model with the adapter that lies beside it or names it as its base, and a name that says so."""
    where = str(at_home(source)) if at_home(source).is_dir() else source
    with quiet():
        folder = adapter_folder(where)
        if folder is None:
            return _load_model(source, dtype, where), name
        return load_adapted(folder, dtype, _load_model), adapted_name(name, folder)


def _tokenizer_beside(source: str) -> Any:
    """The tokenizer of a model, which with an adapter may be that of its base."""
    found = load_tokenizer(source)
    folder = folder_of(source) if found is None else None
    base = base_of(folder) if folder is not None else None
    return load_tokenizer(base) if base is not None else found


def _load_model(source: str, dtype: torch.dtype, where: str) -> nn.Module:
    """The model at `where`, called `source` in sentences, if its files hold what its configuration describes."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    if (folder := folder_of(where)) is not None:
        check_folder(folder)
        check_weights(folder, weight_files(folder), source)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except SafetensorError as error:
        raise ModelError(f"the weights of model {source!r} are damaged: {said(error)}") from error
    except OSError as error:
        raise ModelError(_explain_missing(source, where, error)) from error
    except ValueError as error:
        if "Unrecognized configuration class" in str(error) or "AutoModelForCausalLM" in str(error):
            raise ModelError(f"model {source!r} is not a causal language model that transformers knows") from error
        if "custom code" in str(error):
            raise ModelError(f"model {source!r} needs code from its own folder, which is never run here") from error
        raise ModelError(f"model {source!r} cannot be loaded: {said(error)}") from error
    except Exception as error:  # whatever a class of transformers makes of a strange configuration
        raise ModelError(f"model {source!r} cannot be loaded: {said(error)}") from error
    # transformers fills what does not fit with random numbers; such a model would be measured as if it were trained
    for kind, fault in (("missing_keys", "lack"), ("mismatched_keys", "have in another shape")):
        keys = sorted(key if isinstance(key, str) else str(key[0]) for key in info.get(kind) or ())
        if keys:
            raise ModelError(
                f"the weights of model {source!r} {fault} what its config.json asks for ({len(keys)} tensors, first "
                f"{keys[0]}); they may be incomplete, or of a model without a language-model head"
            )
    stored = stored_tensors(weight_files(where), source)
    check_leftovers(model, info.get("unexpected_keys") or (), stored, source)
    if getattr(model.config, "quantization_config", None) is None:
        check_stored_types(model, stored, source)
    return model.eval()  # type: ignore[no-any-return]


def _explain_missing(source: str, where: str, error: Exception) -> str:
    if Path(where).is_dir():
        return f"model folder {source} has no readable config or weights: {said(error)}"
    return (
        f"model {source!r} is neither a local folder nor in the local cache, and the hub did not provide it; "
        "give a local folder, or run once with network and check the id"
    )


def _check_model(model: nn.Module, name: str) -> None:
    config = getattr(model, "config", None)
    get_head = getattr(model, "get_output_embeddings", None)
    if not hasattr(config, "get_text_config") or not callable(get_head):
        raise ModelError(f"the model must be a transformers causal language model, not {type(model).__name__}")
    if get_head() is None:
        raise ModelError(
            f"model {name!r} ({type(model).__name__}) has no language-model head; load it with AutoModelForCausalLM"
        )


def _check_tokenizer(model: Any, name: str, tokenizer: Any) -> None:
    if tokenizer is None:
        return
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise ModelError(
            f"the tokenizer does not belong to model {name!r}: it has ids up to {largest}, the model embeds {rows}"
        )


def _name_of(model: nn.Module) -> str:
    path = getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__
    return _folder_name(Path(path).resolve()) if Path(path).is_dir() else str(path)
