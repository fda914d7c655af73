"""Seeded damage to the files of every layout in :mod:`tests.builders.layouts`: one file of an SAE changed.

A case is fixed by its layout, file, kind and the seed, so one that fails can be planted again.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tests.builders.fuzz_archives import NPZ, Mutators
from tests.builders.fuzz_configs import JSON, TEXT, YAML, configs
from tests.builders.fuzz_pickles import TORCH
from tests.builders.layouts import LAYOUTS, stored

ABSURD = ("huge", "bomb", "many", "deep")  # words in the kinds of cases that claim more than they hold
_PLACES = ("directory", "loop", "pipe", "missing")
SHARE = 3  # of all cases one in so many is tried, others of every layout, so that every kind is


@dataclass(frozen=True)
class Case:
    """One changed file of one layout. ``make`` gives its bytes, None for a place where there is no file."""

    layout: str
    path: str
    kind: str
    make: Callable[[], bytes | None]

    @property
    def absurd(self) -> bool:
        """Whether it claims far more than it holds."""
        return any(word in self.kind for word in ABSURD)


def plant(case: Case, folder: Path) -> Path:
    """Write the SAE with its one changed file; returns what the user gives as ``--sae``."""
    for path, content in _files(case.layout).items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        changed = case.make() if path == case.path else content
        if changed is not None:
            file.write_bytes(changed)
        elif case.kind.endswith("directory"):
            file.mkdir()
        elif case.kind.endswith("loop"):
            file.symlink_to(file.name)
        elif case.kind.endswith("pipe"):
            os.mkfifo(file)
    return folder / LAYOUTS[case.layout].sae


@functools.cache
def _files(layout: str) -> dict[str, bytes]:
    return {path: stored(path, content) for path, content in LAYOUTS[layout].files.items()}


def chosen(layout: str, seed: int = 0, share: int = SHARE) -> list[Case]:
    """The cases of a layout that are tried, one in ``share``; of the usual share all that are in YAML."""
    first = list(LAYOUTS).index(layout) % share
    numbered = enumerate(all_cases(layout, seed))
    return [c for i, c in numbered if i % share == first or (share == SHARE and c.kind.startswith("yaml: "))]


def all_cases(layout: str, seed: int = 0) -> list[Case]:
    """Every kind of damage to every file of a layout; what chance decides in one depends on the seed and its name."""
    found = []
    for path, content in LAYOUTS[layout].files.items():
        suffix = path.rpartition(".")[2].replace("pth", "pt")
        found += [Case(layout, path, f"place: {place}", lambda: None) for place in _PLACES]
        for kind, mutate in (BYTES | _BY_SUFFIX.get(suffix, TORCH)).items():
            found.append(_case(layout, path, f"{suffix}: {kind}", seed, functools.partial(_mutated, mutate)))
        changes = configs(content) if suffix in ("json", "yaml") else _TENSOR_CASES
        for number, (kind, change) in enumerate(changes):
            found.append(_case(layout, path, kind, f"{seed} {number}", functools.partial(_changed, change)))
    return found


Make = Callable[[random.Random, str, str], bytes]


def _case(layout: str, path: str, kind: str, seed: int | str, make: Make) -> Case:
    return Case(layout, path, kind, lambda: make(random.Random(f"{seed} {layout} {path} {kind}"), layout, path))


def _mutated(mutate: Callable[[random.Random, bytes], bytes], rng: random.Random, layout: str, path: str) -> bytes:
    return mutate(rng, _files(layout)[path])


def _changed(change: Callable[[random.Random, Any], Any], rng: random.Random, layout: str, path: str) -> bytes:
    """The file with its content changed before it is written."""
    copied = copy.deepcopy(LAYOUTS[layout].files[path])
    change(rng, copied)
    if path.endswith(".json"):
        return json.dumps(copied).encode()
    return yaml.safe_dump(copied, allow_unicode=True).encode() if path.endswith(".yaml") else stored(path, copied)


def _truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(1, len(content))]


def _flipped(rng: random.Random, content: bytes, start: int = 0, stop: int | None = None, bits: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(bits):
        changed[rng.randrange(start, stop or len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


BYTES: Mutators = {
    "empty": lambda rng, content: b"",
    "truncated": _truncated,
    "truncated elsewhere": _truncated,
    "last byte lost": lambda rng, content: content[:-1],
    "bytes appended": lambda rng, content: content + rng.randbytes(40),
    "bytes before": lambda rng, content: rng.randbytes(7) + content,
    "one bit flipped": _flipped,
    "one other bit flipped": _flipped,
    "ten bits flipped": lambda rng, content: _flipped(rng, content, bits=10),
    "noise": lambda rng, content: rng.randbytes(len(content)),
    "zeros": lambda rng, content: bytes(len(content)),
}


# safetensors: eight bytes of header length, a header in JSON, the numbers


def _with_length(change: Callable[[int], int]) -> Callable[[random.Random, bytes], bytes]:
    return lambda rng, content: struct.pack("<Q", change(struct.unpack("<Q", content[:8])[0])) + content[8:]


def _with_header(
    change: Callable[[random.Random, dict[str, Any], str], Any],
) -> Callable[[random.Random, bytes], bytes]:
    """``change`` edits the header, or returns another; it is given one tensor's name."""

    def mutate(rng: random.Random, content: bytes) -> bytes:
        length = struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8 : 8 + length])
        name = rng.choice([key for key in header if key != "__metadata__"])
        returned = change(rng, header, name)
        text = json.dumps(header if returned is None else returned).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    return mutate


def _field(key: str, *values: Any) -> Callable[[random.Random, bytes], bytes]:
    def change(rng: random.Random, header: dict[str, Any], name: str) -> None:
        header[name][key] = rng.choice(values)

    return _with_header(change)


def _shifted(rng: random.Random, header: dict[str, Any], name: str) -> None:
    start, stop = header[name]["data_offsets"]
    step = rng.choice([-4, 4, 8, 1 << 40])
    header[name]["data_offsets"] = [start + step, stop + step]


def _overlapping(rng: random.Random, header: dict[str, Any], name: str) -> None:
    for entry in header.values():
        if "data_offsets" in entry:
            entry["data_offsets"] = header[name]["data_offsets"]


def _many_tensors(rng: random.Random, header: dict[str, Any], name: str) -> None:
    end = max(entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry)
    header |= {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]} for i in range(3000)}


SAFETENSORS: Mutators = {
    "header length zero": _with_length(lambda n: 0),
    "header length huge": _with_length(lambda n: (1 << 63) - 1),
    "header length over": _with_length(lambda n: n + 100),
    "header length short": _with_length(lambda n: n - 3),
    "header bit flipped": lambda rng, c: _flipped(rng, c, 8, 8 + struct.unpack("<Q", c[:8])[0]),
    "header another bit flipped": lambda rng, c: _flipped(rng, c, 8, 8 + struct.unpack("<Q", c[:8])[0]),
    "shape huge": _field("shape", [1 << 40], [1 << 31, 1 << 31], [2**62, 4], [10**30], [1 << 20, 1 << 20]),
    "shape odd": _field("shape", [-1, -8], [], None, "x", [8.5], [True], [[8]], {}, [0]),
    "dtype odd": _field("dtype", "F64", "I64", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "X", None, 7, "U16"),
    "offsets odd": _field("data_offsets", [0, 1 << 40], [8, 4], None, [], [-8, 0], "x", [0, 1.5], [1 << 63, 1 << 64]),
    "offsets shifted": _with_header(_shifted),
    "offsets overlapping": _with_header(_overlapping),
    "header a list": _with_header(lambda rng, header, name: [header]),
    "header empty": _with_header(lambda rng, header, name: {}),
    "metadata odd": _with_header(lambda rng, header, name: header.update(__metadata__={"a": {"b": 1}})),
    "many tensors": _with_header(_many_tensors),
    "name long": _with_header(lambda rng, header, name: header.update({"n" * 5000: header.pop(name)})),
    "name with lines": _with_header(lambda rng, header, name: header.update({"a\nb\x1b[2J": header.pop(name)})),
}


# tensors that are valid, and wrong


def _on_a_tensor(change: Callable[[dict[str, Any], str], Any]) -> Callable[[random.Random, dict[str, Any]], None]:
    """``change`` on a tensor chosen by chance, also one in a nested dictionary."""

    def edit(rng: random.Random, content: dict[str, Any]) -> None:
        places = [content, *(value for value in content.values() if isinstance(value, dict))]
        named = [(place, name) for place in places for name, value in place.items() if isinstance(value, Tensor)]
        change(*rng.choice(named))

    return edit


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.permute(tuple(range(tensor.ndim - 1, -1, -1))).contiguous()


def _cast(dtype: torch.dtype) -> Callable[[dict[str, Any], str], None]:
    return lambda place, name: place.update({name: place[name].to(dtype)})


def _filled(value: float) -> Callable[[dict[str, Any], str], None]:
    def change(place: dict[str, Any], name: str) -> None:
        place[name] = place[name].clone()
        place[name].view(-1)[:1] = value if place[name].is_floating_point() else -1

    return change


def _all(change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Any], str], None]:
    return lambda place, name: place.update({k: change(t) for k, t in place.items() if isinstance(t, Tensor)})


TENSORS: dict[str, Callable[[dict[str, Any], str], None]] = {
    "missing": lambda place, name: place.pop(name),
    "renamed": lambda place, name: place.update({f"{name}_": place.pop(name)}),
    "extra": lambda place, name: place.update({"extra": place[name].clone()}),
    "transposed": lambda place, name: place.update({name: _transposed(place[name])}),
    "flattened": lambda place, name: place.update({name: place[name].flatten()}),
    "a row more": lambda place, name: place.update({name: torch.cat([place[name].flatten(), torch.ones(8)])}),
    "halved": lambda place, name: place.update({name: place[name].flatten()[: place[name].numel() // 2]}),
    "0-d": lambda place, name: place.update({name: torch.tensor(0.5)}),
    "1-d of one": lambda place, name: place.update({name: place[name].flatten()[:1]}),
    "5-d": lambda place, name: place.update({name: place[name][(None,) * (5 - place[name].ndim)]}),
    "empty": lambda place, name: place.update({name: place[name].new_zeros(0)}),
    "empty matrix": lambda place, name: place.update({name: torch.zeros(0, 8)}),
    "no latents": _all(lambda t: t.new_zeros([0 if n == 24 else n for n in t.shape])),
    "no channels": _all(lambda t: t.new_zeros([0 if n in (6, 8) else n for n in t.shape])),
    "ints": _cast(torch.int64),
    "bools": _cast(torch.bool),
    "bytes": _cast(torch.uint8),
    "halves": _cast(torch.float16),
    "doubles": _cast(torch.float64),
    "NaN": _filled(float("nan")),
    "infinite": _filled(float("inf")),
    "enormous": _filled(3e38),
    "negative": _filled(-5.0),
    "zeros": lambda place, name: place.update({name: torch.zeros_like(place[name])}),
    "all enormous": _all(lambda t: torch.full_like(t, 3e38) if t.is_floating_point() else t),
}


_BY_SUFFIX = {"safetensors": SAFETENSORS, "npz": NPZ, "json": TEXT | JSON, "yaml": TEXT | YAML}
_TENSOR_CASES = [(f"tensor: {kind}", _on_a_tensor(change)) for kind, change in TENSORS.items()]
