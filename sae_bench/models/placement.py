"""Whether all of a model is here, on one device, in plain tensors: what every back end takes for granted."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sae_bench.errors import ModelError, said
from sae_bench.modules import wrapped_in

_CHOICE = "cpu, cuda, cuda:1 and so on, mps, or auto, which takes a GPU if there is one"
_QUANTISED = ("bitsandbytes.", "torchao.", "torch.ao.", "auto_gptq.", "gptqmodel.", "awq.", "hqq.")


def device_name(name: str) -> str:
    """The device that "auto" stands for, or ``name``. Raises ModelError where it cannot be used here."""
    if name != "auto":
        check_device(name)
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_device(device: str) -> None:
    """Raise ModelError for a device on which nothing can be computed here, in words that blame nothing else."""
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"no device is called {device!r}: give {_CHOICE}") from error
    if named.type == "meta":
        raise ModelError(f"nothing is computed on the device {device!r}: give {_CHOICE}")
    if named.type == "cuda" and (why := _no_cuda(named.index)) is not None:
        raise ModelError(f"the device {device!r} cannot be used here: {why}")
    try:
        torch.empty(1, device=named).add_(1)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        why = said(error) if named.type == "cuda" else "this machine or its PyTorch has none"
        raise ModelError(f"the device {device!r} cannot be used here: {why}; give {_CHOICE}") from error


def _no_cuda(index: int | None) -> str | None:
    """Why there is no such GPU, and what to do; None where there is."""
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this PyTorch ({torch.__version__}) was built without CUDA; install one with it, or give --device cpu"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU or no driver for it; give --device cpu"
    n = torch.cuda.device_count()
    there = "cuda:0 is the only GPU" if n == 1 else f"there are cuda:0 to cuda:{n - 1}"
    return f"{there}; give one that is here" if index is not None and index >= n else None


def check_wrapper(model: nn.Module, name: str) -> None:
    """Raise ModelError for a module that is wrapped around a language model."""
    if (wrapped := wrapped_in(model)) is not None:
        raise ModelError(f"model {name!r} is {wrapped}")
    if type(model).__module__.startswith("peft."):
        raise ModelError(
            f"model {name!r} carries an adapter ({type(model).__name__}), which renames its modules; give what its "
            "merge_and_unload() returns"
        )


def check_whole(model: nn.Module, name: str) -> None:
    """Raise ModelError where parts of a model are elsewhere, on several devices, sharded, quantised or compiled."""
    tensors = dict(_tensors(model))
    if absent := [key for key, tensor in tensors.items() if tensor.is_meta]:
        raise ModelError(
            f"model {name!r} has {len(absent)} tensors on the meta device (first {absent[0]}), as it is offloaded or "
            "was never filled; load it whole on one device, without device_map"
        )
    if offloaded := [key for key, module in model.named_modules() if _offloads(module)]:
        raise ModelError(
            f"model {name!r} moves its weights while it runs ({len(offloaded)} modules are offloaded, first "
            f"{offloaded[0] or 'the whole'}); load it whole on one device, without device_map"
        )
    for key, tensor in tensors.items():
        _check_plain(key, tensor, name)
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if len(devices) > 1:
        raise ModelError(f"model {name!r} lies on several devices ({', '.join(devices)}); load it whole on one")
    for key, module in model.named_modules():
        _check_module(key, module, name)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _offloads(module: nn.Module) -> bool:
    """Whether accelerate fetches the weights of a module for each pass; a sequence of hooks holds several."""
    hook = getattr(module, "_hf_hook", None)
    return any(getattr(each, "offload", False) for each in (hook, *getattr(hook, "hooks", ())))


def _check_plain(key: str, tensor: Tensor, name: str) -> None:
    if type(tensor) not in (Tensor, nn.Parameter):
        kind = type(tensor).__name__
        why = "sharded" if kind == "DTensor" else "quantised or otherwise not plain"
        raise ModelError(f"model {name!r} has {why} tensors ({key} is a {kind}); load it whole, in plain numbers")
    if isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() and tensor.itemsize > 1):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise ModelError(
            f"model {name!r} is quantised ({key} is {dtype}); give it as it was before quantisation, or dequantised"
        )


def _check_module(key: str, module: nn.Module, name: str) -> None:
    kind = type(module)
    where = key or "the whole"
    if kind.__module__.startswith(_QUANTISED) or bool(getattr(module, "is_quantized", False)):
        raise ModelError(
            f"model {name!r} is quantised ({where} is a {kind.__module__}.{kind.__name__}); give it as it was before "
            "quantisation, or dequantised"
        )
    if kind.__module__.startswith("peft."):
        raise ModelError(
            f"model {name!r} carries an adapter that is not merged ({where} is a {kind.__name__}); give what peft's "
            "merge_and_unload() returns"
        )
    if getattr(module, "_compiled_call_impl", None) is not None or isinstance(module, torch.jit.ScriptModule):
        raise ModelError(
            f"model {name!r} is compiled ({where}), and hooks may not act in compiled code; give it before compiling"
        )
