"""Token ids that come tokenised: arrays, `.npy` and `.safetensors` files."""

from pathlib import Path
from typing import Any

import numpy as np

from sae_bench.data.sources import RowSource, quoted, reading
from sae_bench.errors import DataError
from sae_bench.files import regular

ATTENTION = "attention_mask"
INTEGERS = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"}


def open_npy(path: Path) -> RowSource:
    """Ids in a `.npy` file, mapped; never unpickles. Raises DataError."""
    with reading(str(path), SyntaxError, OverflowError):
        try:
            array = np.load(regular(path, DataError), mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "pickle" not in str(error) and "Python objects" not in str(error):
                raise
            raise DataError(
                f"{path} holds pickled objects, which are never loaded; save an integer array [sequences, length]."
            ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive and not a single array; save it with numpy.save.")
    return row_source(array, str(path), "npy")


def open_safetensors(path: Path, group_field: str | None = None) -> RowSource:
    """Ids in a `.safetensors` file with one tensor, or one named `tokens` or `input_ids`. Raises DataError.

    A tensor `attention_mask` beside it says which ids are real, one named `group_field` what each row belongs to.
    """
    from safetensors import SafetensorError, safe_open

    with reading(str(path), SafetensorError):
        # Slices keep the file mapped after the handle is closed, so rows can be read later.
        with safe_open(regular(path, DataError), framework="np") as file:
            keys = list(file.keys())
            named = [key for key in keys if key not in (ATTENTION, group_field)]
            chosen = named if len(named) == 1 else [key for key in ("tokens", "input_ids") if key in keys][:1]
            if not chosen:
                raise DataError(f"{path} must hold one tensor, or one named tokens or input_ids; found {quoted(keys)}.")
            view = file.get_slice(chosen[0])
            mask = file.get_slice(ATTENTION) if ATTENTION in keys else None
            if group_field is not None and group_field not in keys:
                raise DataError(
                    f"{path} has no tensor {group_field!r} (found: {quoted(keys)}); name that of the group."
                )
            group = None if group_field is None else file.get_slice(group_field)
        shape, dtype = tuple(view.get_shape()), str(view.get_dtype())
    if dtype not in INTEGERS:
        raise DataError(f"{path} must hold integer token ids, got {dtype}; save ids as int32 or int64.")
    if mask is not None and (tuple(mask.get_shape()) != shape or str(mask.get_dtype()) not in {*INTEGERS, "BOOL"}):
        got = f"{list(mask.get_shape())} of {mask.get_dtype()}"
        raise DataError(f"{path}: {ATTENTION} must hold integers of the shape {list(shape)} of the ids, got {got}.")
    rows = _row_shape(shape, str(path))
    if group is None:
        return RowSource(str(path), "safetensors", view, rows, attention=mask)
    if tuple(group.get_shape()) != rows[:1] or str(group.get_dtype()) not in INTEGERS:
        got = f"{list(group.get_shape())} of {group.get_dtype()}"
        raise DataError(f"{path}: {group_field} must hold {rows[0]} integers, one for each row of ids, got {got}.")
    return RowSource(
        str(path),
        "safetensors",
        view,
        rows,
        attention=mask,
        labels=lambda where: [str(value) for value in np.asarray(group[where]).tolist()],
        notes={"group_field": group_field},
    )


def row_source(array: Any, name: str, how: str) -> RowSource:
    """Ids in an array `[sequences, length]`. Raises DataError."""
    if array.dtype.kind not in "iu":
        raise DataError(f"Token ids must be integers: {name} has dtype {array.dtype}; save ids as int32 or int64.")
    return RowSource(name, how, array, _row_shape(array.shape, name))


def _row_shape(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    if len(shape) != 2:
        raise DataError(f"Token ids must have the shape [sequences, length]: {name} has {list(shape)}; reshape them.")
    if shape[0] < 1 or shape[1] < 2:
        raise DataError(f"Token ids must be at least one sequence of two ids: {name} has the shape {list(shape)}.")
    return shape[0], shape[1]
