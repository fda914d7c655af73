"""Arithmetic as the numbers' own type promises it, whatever a process has allowed itself, and on how many threads.

The only place that touches these switches of PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sae_bench.switches import shared

_REDUCED = (  # of torch.backends.cuda.matmul; parts of a sum in half precision
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction",
    "allow_fp16_accumulation",
)


@shared
def in_full() -> Callable[[], None]:
    """Products and convolutions of float32 in float32, sums of half precision in float32; as before afterwards.

    ``torch.set_float32_matmul_precision("high")`` multiplies float32 in TF32 or bfloat16, convolutions on a GPU do
    unless told otherwise, and sums of bfloat16 there may be added up in bfloat16, which no bound here allows for.
    """
    restore: list[tuple[Any, str, Any]] = []

    def switch(place: Any, name: str, value: Any, before: Any) -> None:
        restore.append((place, name, before))
        setattr(place, name, value)

    def give_back() -> None:
        for place, name, before in reversed(restore):
            setattr(place, name, before)

    try:
        matmul: Any = torch.backends.cuda.matmul
        for name in _REDUCED:
            if (before := getattr(matmul, name, None)) is not None:
                split_k = getattr(matmul, f"{name}_split_k", None)  # set together
                switch(matmul, name, False, before if split_k is None else (before, split_k))
        _switch_products(switch)
        _switch_convolutions(switch)
    except BaseException:
        give_back()
        raise
    return give_back


@shared
def one_thread() -> Callable[[], None]:
    """For thousands of small fits: a second thread would mostly wait, and slow them down where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return lambda: torch.set_num_threads(threads)


def _switch_products(switch: Any) -> None:
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the attributes that came with PyTorch 2.9, which do not mix with the function
        backends: Any = torch.backends
        for place in (backends.cuda.matmul, backends.mkldnn.matmul):
            switch(place, "fp32_precision", "ieee", place.fp32_precision)
        return
    switch(_ByFunction(), "precision", "highest", before)


def _switch_convolutions(switch: Any) -> None:
    backends: Any = torch.backends
    kinds: list[Any] = [
        getattr(getattr(backends, of), kind, None) for of in ("cudnn", "mkldnn") for kind in ("conv", "rnn")
    ]
    if all(hasattr(place, "fp32_precision") for place in kinds):
        for place in kinds:
            switch(place, "fp32_precision", "ieee", place.fp32_precision)
    else:
        switch(backends.cudnn, "allow_tf32", False, backends.cudnn.allow_tf32)


class _ByFunction:
    """``torch.set_float32_matmul_precision`` as an attribute."""

    def __setattr__(self, name: str, value: Any) -> None:
        torch.set_float32_matmul_precision(value)
