"""Damage to ``.pt`` files: pickles that claim sizes, hold other things than tensors, or would run code."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from tests.builders.fuzz_archives import Mutators, archive, directory, entries_of, entry_header, flip, repacked

MARKER = "SAE_BENCH_FUZZ_MARKER"  # environment variable: the file that code in a pickle would create


class _Storage:
    """Pickled as a reference to the storage of this key."""

    def __init__(self, key: str, numel: int, kind: Any = torch.FloatStorage, place: str = "cpu") -> None:
        self.reference = ("storage", kind, key, place, numel)


class _Rebuilt:
    """Pickled as a call that rebuilds a tensor."""

    def __init__(self, storage: Any, shape: Any, stride: Any, offset: Any = 0, hooks: Any = None) -> None:
        self.arguments = (storage, offset, shape, stride, False, OrderedDict() if hooks is None else hooks)

    def __reduce__(self) -> Any:
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Call:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.call


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return value.reference if isinstance(value, _Storage) else None


def torch_file(content: Any, storages: dict[str, bytes]) -> bytes:
    """A file as ``torch.save`` lays it out, of whatever is given."""
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=2).dump(content)
    return pickled(buffer.getvalue(), storages)


def pickled(instructions: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    """A file as ``torch.save`` lays it out, around these instructions."""
    entries = {"archive/data.pkl": instructions, "archive/byteorder": b"little"}
    entries |= {f"archive/data/{key}": numbers for key, numbers in (storages or {}).items()}
    return archive(entries | {"archive/version": b"3\n", "archive/.data/serialization_id": b"0" * 40})


def _swapped(content: bytes, value: Any, storages: dict[str, bytes]) -> bytes:
    """The file with one tensor, chosen by name, replaced by ``value``."""
    tensors = torch.load(io.BytesIO(content), weights_only=True)
    place = tensors.get("ae", tensors)
    kept: dict[str, Any] = {}
    numbers = dict(storages)
    for i, (name, tensor) in enumerate(place.items()):
        if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32:
            numbers[f"k{i}"] = tensor.contiguous().numpy().tobytes()
            stride = tuple(tensor.contiguous().stride())
            kept[name] = _Rebuilt(_Storage(f"k{i}", tensor.numel()), tuple(tensor.shape), stride)
        elif not isinstance(tensor, torch.Tensor):
            kept[name] = tensor
    kept[next(name for name in ("W_enc", "encoder.weight", "encoder_linear.weight") if name in kept)] = value
    return torch_file(kept | {"ae": kept, "norm_factor": 1.0} if "ae" in tensors else kept, numbers)


def _with(*values: Callable[[], Any], bytes_held: int = 64) -> Callable[[random.Random, bytes], bytes]:
    return lambda rng, content: _swapped(content, rng.choice(values)(), {"s": bytes(bytes_held)})


def _shared_lists(levels: int, width: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made] * width
    return made


def _shadowed() -> bytes:
    """A dictionary whose own methods are hidden by attributes."""
    return torch_file(_Call(OrderedDict, state={"values": 1, "items": 2, "keys": 3, "get": 4}), {})


_HUGE = 1 << 40
TORCH: Mutators = {
    "instructions flipped": repacked(
        lambda rng, e: e.update({k: flip(rng, v, 0, len(v)) for k, v in e.items() if k.endswith("data.pkl")})
    ),
    "instructions flipped again": repacked(
        lambda rng, e: e.update({k: flip(rng, v, 0, len(v)) for k, v in e.items() if k.endswith("data.pkl")})
    ),
    "instructions cut": repacked(
        lambda rng, e: e.update({k: v[: rng.randrange(len(v))] for k, v in e.items() if k.endswith("data.pkl")})
    ),
    "directory flipped": directory,
    "directory flipped again": directory,
    "directory flipped once more": directory,
    "entry flipped": entry_header,
    "compressed": lambda rng, content: archive(entries_of(content), zipfile.ZIP_DEFLATED),
    "compressed bomb": lambda rng, content: archive({"archive/data.pkl": bytes(30 << 20)}, zipfile.ZIP_DEFLATED),
    "a storage missing": repacked(lambda rng, e: e.pop(rng.choice([k for k in e if "/data/" in k]))),
    "a storage short": repacked(lambda rng, e: e.update({rng.choice([k for k in e if "/data/" in k]): b"1234"})),
    "big-endian": repacked(lambda rng, e: e.update({k: b"big" for k in e if k.endswith("byteorder")})),
    "another version": repacked(lambda rng, e: e.update({k: b"999\n" for k in e if k.endswith("/version")})),
    "two pickles": repacked(lambda rng, e: e.update({"other/data.pkl": next(iter(e.values()))})),
    "no pickle": repacked(lambda rng, e: [e.pop(k) for k in list(e) if k.endswith("data.pkl")]),
    "no zip entries": lambda rng, content: archive({}),
    "shape huge": _with(
        lambda: _Rebuilt(_Storage("s", 16), (_HUGE, 8), (8, 1)),
        lambda: _Rebuilt(_Storage("s", 16), (1 << 62, 4), (0, 0)),
        lambda: _Rebuilt(_Storage("s", _HUGE), (24, 8), (8, 1)),
        lambda: _Rebuilt(_Storage("s", _HUGE), (_HUGE,), (1,)),
    ),
    "stride huge": _with(
        lambda: _Rebuilt(_Storage("s", 16), (24, 8), (0, 0)),
        lambda: _Rebuilt(_Storage("s", 16), (24, 8), (_HUGE, _HUGE)),
        lambda: _Rebuilt(_Storage("s", 16), (24, 8), (-8, -1)),
        lambda: _Rebuilt(_Storage("s", 192), (24, 8), (1 << 62, 1 << 62)),
        bytes_held=768,
    ),
    "offset huge": _with(
        lambda: _Rebuilt(_Storage("s", 16), (2, 8), (8, 1), offset=_HUGE),
        lambda: _Rebuilt(_Storage("s", 16), (2, 8), (8, 1), offset=-4),
        lambda: _Rebuilt(_Storage("s", 192), (24, 8), (8, 1), offset=8),
        bytes_held=768,
    ),
    "storage of another kind": _with(
        *(
            lambda kind=kind: _Rebuilt(_Storage("s", 192, kind), (24, 8), (8, 1))
            for kind in (torch.QInt8Storage, torch.ComplexFloatStorage, torch.BoolStorage, torch.LongStorage)
        ),
        bytes_held=1536,
    ),
    "storage on another device": _with(
        *(
            lambda place=place: _Rebuilt(_Storage("s", 192, place=place), (24, 8), (8, 1))
            for place in ("meta", "cuda:0", "xla", "", "nowhere")
        ),
        bytes_held=768,
    ),
    "storage of a negative size": _with(lambda: _Rebuilt(_Storage("s", -192), (24, 8), (8, 1))),
    "storage key odd": _with(
        lambda: _Rebuilt(_Storage("../data.pkl", 192), (24, 8), (8, 1)),
        lambda: _Rebuilt(_Storage("0" * 9000, 192), (24, 8), (8, 1)),
    ),
    "arguments odd": _with(
        lambda: _Rebuilt(None, (24, 8), (8, 1)),
        lambda: _Rebuilt(_Storage("s", 192), "x", None),
        lambda: _Rebuilt(_Storage("s", 192), (24, 8), (8,)),
        lambda: _Rebuilt(_Storage("s", 192), (2.5, 8), (8, 1)),
        lambda: _Rebuilt(_Storage("s", 192), (24, 8), (8, 1), hooks=[1]),
        bytes_held=768,
    ),
    "a dictionary for a tensor": _with(lambda: {"weight": 1}, lambda: OrderedDict(), lambda: {1: {2: {}}}),
    "a list for a tensor": _with(lambda: [1.0, 2.0], lambda: "x" * 9000, lambda: None, lambda: 10**400),
    "a cycle": _with(lambda: _cycle()),
    "shared lists, a bomb": _with(lambda: _shared_lists(14, 40)),
    "deep lists": _with(lambda: _shared_lists(400, 1)),
    "methods shadowed": lambda rng, content: _shadowed(),
    "odd keys": lambda rng, content: torch_file({10**5000: 1, None: 2, (1, 2): 3, "x": 4}, {}),
    "not a dictionary": lambda rng, content: torch_file(rng.choice([[1], "x", 7, None, (), set()]), {}),
    "many instructions": lambda rng, content: pickled(b"\x80\x02" + b"K\x010" * 400_000 + b"}."),
    "an unfinished pickle": lambda rng, content: pickled(b"\x80\x02}q\x00("),
    "an endless text": lambda rng, content: pickled(b"\x80\x02X\xff\xff\xff\x7fabc."),
    "a huge memo": lambda rng, content: pickled(b"\x80\x02}r\xff\xff\xff\xff."),
    "a huge frame": lambda rng, content: pickled(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f}."),
    "code": lambda rng, content: pickled(rng.choice(list(PAYLOADS.values()))),
    "code in a tensor's place": lambda rng, content: _swapped(content, _Call(os.system, _COMMAND), {}),
    "code, protocol 4": lambda rng, content: _replaced_pickle(content, 4),
    "code, without an archive": lambda rng, content: rng.choice(list(PAYLOADS.values())),
}


def _cycle() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


_COMMAND = f'touch "${MARKER}"'
_PYTHON = f"open(__import__('os').environ[{MARKER!r}], 'w')"


def _line(text: str) -> bytes:
    return b"V" + text.encode() + b"\n"


PAYLOADS = {
    "GLOBAL os.system": b"cos\nsystem\n(" + _line(_COMMAND) + b"tR.",
    "GLOBAL posix.system": b"cposix\nsystem\n(" + _line(_COMMAND) + b"tR.",
    "GLOBAL builtins.eval": b"cbuiltins\neval\n(" + _line(_PYTHON) + b"tR.",
    "GLOBAL __builtin__.eval": b"c__builtin__\neval\n(" + _line(_PYTHON) + b"tR.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + _line(_COMMAND) + b"\x85R.",
    "STACK_GLOBAL memo": b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93" + _line(_COMMAND) + b"\x85R.",
    "INST": b"(" + _line(_COMMAND) + b"ios\nsystem\n.",
    "OBJ": b"(cos\nsystem\n" + _line(_COMMAND) + b"o.",
    "NEWOBJ": b"cos\nsystem\n" + _line(_COMMAND) + b"\x85\x81.",
    "BUILD": b"ccollections\nOrderedDict\n)R}V__setstate__\ncos\nsystem\nsb" + _line(_COMMAND) + b"b.",
    "dotted name": b"\x80\x04ctorch\nos.system\n(" + _line(_COMMAND) + b"tR.",
    "storage's module": b"\x80\x04ctorch._utils\n_import_dotted_name\nV os.system\n\x85R" + _line(_COMMAND) + b"\x85R.",
    "runpy": b"crunpy\n_run_code\n(" + _line(_PYTHON) + b"}tR.",
    "EXT": b"\x80\x02\x82\x01" + _line(_COMMAND) + b"\x85R.",
    "PERSID": b"Pcos\nsystem\n.",
}


def _replaced_pickle(content: bytes, protocol: int) -> bytes:
    entries = entries_of(content)
    name = next(key for key in entries if key.endswith("data.pkl"))
    return archive(entries | {name: pickle.dumps({"W_enc": _Call(os.system, _COMMAND)}, protocol=protocol)})
