"""In what a module is not what its configuration builds: changed by hand, hooked, or run by code from elsewhere.

A module in memory is compared with one that is built from its configuration, of the same version of transformers, so
the comparison holds for every version. What differs cannot be written down in general (a hook is any function), so the
module is then named by what it answers. That digest is of one machine: on another one the same module may have another
name, which keeps results apart that may be alike, and never the other way round.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from sae_bench.errors import ModelError, said
from sae_bench.modules import as_declared, evaluating
from sae_bench.switches import shared, without_warnings

_KNOWN = ("torch", "transformers")  # whose code is named by a version, which stands in the environment
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_NOT_COMPARED = ("training", "name_or_path", "config", "generation_config")
_SEQUENCES, _LENGTH = 2, 16
_BUILDS = threading.Lock()  # one at a time: random numbers are those of the process
_BUILT: dict[tuple[type, str], nn.Module] = {}  # modules to compare with, parameters without values; the last few
_KEPT = 4
_CLOSE = 1e-5  # relative; values of two builds of one thing differ by rounding alone


def departures(model: nn.Module, *, in_memory: bool) -> list[str]:
    """What the module has that its configuration does not say, in words; empty where there is nothing."""
    found = list(dict.fromkeys(_foreign(model)))
    if not in_memory:
        return found
    built = _built(model)
    return [*found, *(["it cannot be built from its configuration"] if built is None else _differences(model, built))]


@as_declared()
def behaviour_sha256(model: Any) -> str:
    """Digest of the logits of two fixed sequences of 16 tokens, to the bit: of one machine. Raises ModelError."""
    config = model.config.get_text_config()
    generator = torch.Generator().manual_seed(0)
    length = min(_LENGTH, getattr(config, "max_position_embeddings", None) or _LENGTH)
    tokens = torch.randint(int(config.vocab_size), (_SEQUENCES, length), generator=generator)
    tokens = tokens.to(model.get_input_embeddings().weight.device)
    try:
        with evaluating(model):
            logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    except Exception as error:
        raise ModelError(f"the model cannot run on token ids: {said(error)}") from error
    return hashlib.sha256(logits.detach().float().cpu().contiguous().numpy().data).hexdigest()


def _foreign(model: nn.Module) -> Iterator[str]:
    """Code that is neither of torch nor of transformers, and hooks."""
    for path, module in model.named_modules():
        where = f"{path or type(model).__name__}"
        code = {type(module).__module__, getattr(type(module).forward, "__module__", "")}
        for name in sorted(code):
            if name.partition(".")[0] not in _KNOWN:
                yield f"{where} runs code of {name}"
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            yield f"{where} has hooks"
        for name, value in vars(module).items():
            if callable(value) and callable(getattr(type(module), name, None)):
                yield f"{where} has a {name} of its own"


def _built(model: Any) -> nn.Module | None:
    """The module that the configuration builds: buffers with their values, parameters without; None if it cannot.

    A training loop measures one model many times in a process, so the module is kept.
    """
    try:
        of = type(model), _in_full(model.config)
    except TypeError:  # it holds what cannot be written down in full
        return _build(model)
    made = _BUILT[of] if of in _BUILT else _build(model)
    if made is not None:
        with _BUILDS:
            _BUILT[of] = made
            while len(_BUILT) > _KEPT:
                del _BUILT[next(iter(_BUILT))]
    return made


def _in_full(value: Any) -> str:
    """A configuration with all that it holds, private attributes too: equal texts build equal modules.

    Raises TypeError where it holds what is no plain value.
    """
    if hasattr(value, "to_json_string"):  # a configuration, or one inside another
        return f"{type(value)!r} {_in_full(vars(value))}"
    if isinstance(value, dict):
        return "{" + ", ".join(sorted(f"{key!r}: {_in_full(one)}" for key, one in value.items())) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{', '.join(map(_in_full, value))}]"
    if isinstance(value, str | int | float | torch.dtype | type | None):
        return repr(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


def _build(model: Any) -> nn.Module | None:
    builder = threading.get_ident()

    def without_values(module: nn.Module, name: str, parameter: Any) -> Any:
        if parameter is None or parameter.device.type == "meta" or threading.get_ident() != builder:
            return None  # as it is: the hook is one of the process, and another thread may make a module meanwhile
        return nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)

    handle = register_module_parameter_registration_hook(without_values)
    try:
        with _BUILDS, _float32_by_default(), torch.random.fork_rng(devices=[]), without_warnings():
            made: nn.Module = type(model)(copy.deepcopy(model.config))
            return made
    except Exception:  # noqa: BLE001 - whatever a class of somebody else's raises: then it is not built
        return None
    finally:
        handle.remove()


@shared
def _float32_by_default() -> Callable[[], None]:
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    return lambda: torch.set_default_dtype(default)


def _differences(model: nn.Module, built: nn.Module) -> Iterator[str]:
    ours, theirs = dict(model.named_modules()), dict(built.named_modules())
    for path in sorted(ours.keys() ^ theirs.keys()):
        yield f"{path} is {'added' if path in ours else 'missing'}"
    for path in sorted(ours.keys() & theirs.keys()):
        a, b = ours[path], theirs[path]
        where = path or type(model).__name__
        if type(a) is not type(b):
            yield f"{where} is {type(a).__name__}, not {type(b).__name__}"
            continue
        yield from (f"{where}.{name} is another" for name in _other_values(a, b))


def _other_values(module: nn.Module, built: nn.Module) -> Iterator[str]:
    """Attributes and buffers of a module whose values are not those of the built one."""
    own = vars(module)
    for name, value in vars(built).items():
        if not name.startswith("_") and name not in _NOT_COMPARED and not _same(own.get(name), value):
            yield name
    for name in built._non_persistent_buffers_set:
        if not _same(module._buffers.get(name), built._buffers.get(name)):
            yield name


def _same(a: Any, b: Any) -> bool:
    """Whether two values of an attribute make a module do the same; objects are compared by their class."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.shape != b.shape or "meta" in (a.device.type, b.device.type):
            return a.shape == b.shape
        return bool(torch.allclose(a.detach().cpu().double(), b.detach().cpu().double(), rtol=_CLOSE, atol=0))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(b, bool | int | float | str | torch.dtype | None):
        return bool(a == b)
    if hasattr(b, "__qualname__"):  # a function or a class
        return a is b or (getattr(a, "__qualname__", None) == b.__qualname__ and a.__module__ == b.__module__)
    return type(a) is type(b)
