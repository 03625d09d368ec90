"""Paddle's weight files: tensors one after another (.pdiparams, __params__), or one file a tensor.

A tensor is: version (uint32, 0); levels of detail (uint64 count, each uint64 bytes and as many bytes); version
(uint32, 0); length of its description (int32) and the description (TensorDesc); the elements, little-endian.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import files
from raceline.convert.formats.paddle.program import DTYPES, Variable, message
from raceline.core.errors import BadModelError
from raceline.ir import Limits

Array = np.ndarray[Any, Any]
_MOST_LEVELS = 64
_MOST_DESCRIPTION_BYTES = 4096
_AGAIN = "Download or export it again, the program together with its weights."


def combined(path: Path, variables: Iterable[Variable], limits: Limits) -> dict[str, Array]:
    """The weights of a file that holds all of them, in order of name; mapped, not copied.

    Raises:
        BadModelError: the file is damaged or was not written for this program.
    """
    data = _mapped(path, limits)
    found, place = {}, 0
    for variable in sorted(variables, key=lambda v: v.name):
        found[variable.name], place = _tensor(data, place, variable, path.name)
    if place != len(data):
        why = f"{len(data) - place} bytes are left after the program's {len(found)} weights"
        raise BadModelError(f"{path.name} does not belong to this program", why, _AGAIN)
    return found


def separate(folder: Path, variables: Iterable[Variable], limits: Limits) -> dict[str, Array]:
    """The weights of a folder that has a file for each.

    Raises:
        BadModelError: a file is absent, leads outside the folder, is damaged or of another shape.
    """
    found = {}
    for variable in variables:
        path = files.inside(folder, variable.name)
        data = _mapped(path, limits)
        found[variable.name], stop = _tensor(data, 0, variable, path.name)
        if stop != len(data):
            raise BadModelError(f"{path.name} is damaged", f"{len(data) - stop} bytes are left over", _AGAIN)
    return found


def _mapped(path: Path, limits: Limits) -> memoryview:
    if files.refuse_strange(path, limits) == 0:
        raise BadModelError(f"{path.name} is empty", next_step=_AGAIN)
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _tensor(data: memoryview, place: int, variable: Variable, source: str) -> tuple[Array, int]:
    """A tensor that begins at `place`, and where it ends."""
    try:
        dtype, shape, start = _head(data, place)
    except (struct.error, ValueError) as error:
        why = f"the weight {variable.name!r} does not begin at byte {place} as expected: {error}"
        raise BadModelError(f"{source} is damaged or incomplete", why, _AGAIN) from error
    size = math.prod(shape)
    stop = start + size * dtype.itemsize
    if stop > len(data):
        why = f"the weight {variable.name!r} of shape {list(shape)} ends beyond the file"
        raise BadModelError(f"{source} is damaged or incomplete", why, _AGAIN)
    _compare(variable, dtype, shape, source)
    return np.frombuffer(data, dtype, size, start).reshape(shape), stop


def _head(data: memoryview, place: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    """Element type and shape, and where the elements begin."""
    from google.protobuf.message import DecodeError

    version, num_levels = struct.unpack_from("<IQ", data, place)
    place += 12
    if version != 0 or num_levels > _MOST_LEVELS:
        raise ValueError(f"version {version}, {num_levels} levels of detail")
    for _ in range(num_levels):
        (length,) = struct.unpack_from("<Q", data, place)
        place += 8 + length
        if place > len(data):
            raise ValueError("a level of detail ends beyond the file")
    version, length = struct.unpack_from("<Ii", data, place)
    place += 8
    if version != 0 or not 0 <= length <= _MOST_DESCRIPTION_BYTES or place + length > len(data):
        raise ValueError(f"version {version}, a description of {length} bytes")
    try:
        description = message("TensorDesc").FromString(bytes(data[place : place + length]))
    except DecodeError as error:
        raise ValueError(str(error)) from error
    dtype, shape = DTYPES.get(description.data_type), tuple(description.dims)
    if dtype is None or any(dim < 0 for dim in shape):
        raise ValueError(f"element type {description.data_type}, shape {list(shape)}")
    return dtype, shape, place + length


def _compare(variable: Variable, dtype: np.dtype[Any], shape: tuple[int, ...], source: str) -> None:
    declared = variable.shape
    fits = len(declared) == len(shape) and all(
        want in (-1, have) for want, have in zip(declared, shape, strict=True)
    )
    if not fits or (variable.dtype is not None and variable.dtype != dtype):
        why = (
            f"weight {variable.name!r} is {dtype.name}{list(shape)} in the file and "
            f"{variable.dtype}{list(declared)} in the program"
        )
        raise BadModelError(f"{source} does not belong to this program", why, _AGAIN)


def serialised(array: Array) -> bytes:
    """A tensor as Paddle writes it."""
    numbers = {dtype: number for number, dtype in DTYPES.items()}
    description = message("TensorDesc")(data_type=numbers[array.dtype], dims=array.shape).SerializeToString()
    head = struct.pack("<IQIi", 0, 0, 0, len(description))
    elements: bytes = np.ascontiguousarray(array).tobytes()
    return head + bytes(description) + elements


def weights_of(variables: Mapping[str, Variable]) -> list[Variable]:
    """The variables that a weight file holds: kept between runs, and tensors (not feed and fetch lists)."""
    return [v for v in variables.values() if v.persistable and v.dtype is not None]
