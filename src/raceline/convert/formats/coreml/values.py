"""Constants of an ML program: written into the message, or in a file of blobs (version 2)."""

from __future__ import annotations

import math
import struct
from typing import Any

import ml_dtypes
import numpy as np

from raceline.convert.formats.coreml.package import Source
from raceline.core.errors import BadModelError

Array = np.ndarray[Any, Any]
STRING = 2
DTYPES: dict[int, np.dtype[Any]] = {
    number: np.dtype(dtype)
    for number, dtype in {
        1: np.bool_, 10: np.float16, 11: np.float32, 12: np.float64, 13: ml_dtypes.bfloat16, 21: np.int8,
        22: np.int16, 23: np.int32, 24: np.int64, 25: ml_dtypes.int4, 31: np.uint8, 32: np.uint16,
        33: np.uint32, 34: np.uint64, 35: ml_dtypes.uint4, 36: np.uint8, 37: np.uint8, 38: np.uint8, 39: np.uint8,
        40: ml_dtypes.float8_e4m3fn, 41: ml_dtypes.float8_e5m2,
    }.items()
}  # fmt: skip
"""NumPy dtype of each of the format's; indices of 1, 2, 3 and 6 bits become bytes."""

NAMES: dict[str, np.dtype[Any]] = {
    "bool": np.dtype(bool), "fp16": np.dtype(np.float16), "fp32": np.dtype(np.float32),
    "int8": np.dtype(np.int8), "int16": np.dtype(np.int16), "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64), "uint8": np.dtype(np.uint8), "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
}  # fmt: skip
"""NumPy dtype of a type's name in `cast`."""

_BITS = {25: 4, 35: 4, 36: 2, 37: 1, 38: 6, 39: 3}
_METADATA = struct.Struct("<IIQQ")
_SENTINEL = 0xDEADBEEF


def size_of(dimension: Any) -> int | None:
    """A size, or None for an open one."""
    return int(dimension.constant.size) if dimension.HasField("constant") else None


def type_of(value_type: Any) -> tuple[np.dtype[Any], list[int | None]]:
    """Element type and shape of a tensor's type.

    Raises:
        BadModelError: it is no tensor's, or of a type that ONNX lacks.
    """
    kind = value_type.WhichOneof("type")
    if kind == "stateType":
        return type_of(value_type.stateType.wrappedType)
    if kind != "tensorType":
        raise BadModelError("a value is no tensor", f"it is a {kind}")
    tensor = value_type.tensorType
    if tensor.dataType not in DTYPES:
        raise BadModelError("a tensor has an unknown element type", f"number {tensor.dataType}")
    if any(d.HasField("unknown") and d.unknown.variadic for d in tensor.dimensions):
        raise BadModelError("a tensor has no known number of axes")
    return DTYPES[tensor.dataType], [size_of(d) for d in tensor.dimensions]


def constant(value: Any, source: Source) -> Any:
    """What a value holds: an array, a text, or a list of such.

    Raises:
        BadModelError: its size is not that of its type, or it lies outside its file.
    """
    if value.WhichOneof("value") == "blobFileValue":
        return _blob(value, source)
    kind = value.immediateValue.WhichOneof("value")
    if kind in {"list", "tuple"}:
        return [constant(item, source) for item in getattr(value.immediateValue, kind).values]
    if kind != "tensor":
        raise BadModelError("a constant holds nothing that can be read", f"a {kind}")
    return _immediate(value)


def _immediate(value: Any) -> Any:
    tensor = value.immediateValue.tensor
    kind = tensor.WhichOneof("value")
    number = value.type.tensorType.dataType
    if kind == "strings" or number == STRING:
        return tensor.strings.values[0] if tensor.strings.values else ""
    dtype, dims = type_of(value.type)
    sizes = _whole(dims)
    if kind == "bytes":
        return _unpacked(tensor.bytes.values, number, math.prod(sizes)).reshape(sizes)
    numbers = getattr(tensor, kind).values if kind else []
    if len(numbers) != math.prod(sizes):
        raise BadModelError(f"a constant of shape {sizes} holds {len(numbers)} elements")
    if dtype.kind in "iu" and numbers and not _fits(dtype, numbers):
        raise BadModelError(f"a constant holds numbers that {dtype.name} cannot")
    return np.array(numbers, dtype=dtype).reshape(sizes)


def _fits(dtype: np.dtype[Any], numbers: Any) -> bool:
    info: Any = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return bool(info.min <= min(numbers) and max(numbers) <= info.max)


def _whole(dims: list[int | None]) -> list[int]:
    if any(dim is None for dim in dims):
        raise BadModelError("a constant has an open shape")
    return [dim for dim in dims if dim is not None]


def _blob(value: Any, source: Source) -> Array:
    """An array behind a record: sentinel, type, size in bytes, offset of the data."""
    place = value.blobFileValue
    data = source.blob(place.fileName)
    _, dims = type_of(value.type)
    sizes = _whole(dims)
    if place.offset + _METADATA.size > len(data):
        raise _outside(place, len(data))
    sentinel, _, length, start = _METADATA.unpack_from(data, place.offset)
    if sentinel != _SENTINEL:
        raise BadModelError(f"{place.fileName[:200]} is broken", f"there is no weight at {place.offset}")
    if start + length > len(data):
        raise _outside(place, len(data))
    raw = memoryview(data)[start : start + length]
    return _unpacked(raw, value.type.tensorType.dataType, math.prod(sizes)).reshape(sizes)


def _outside(place: Any, length: int) -> BadModelError:
    return BadModelError(
        f"a weight lies outside {place.fileName[:200]}",
        f"at {place.offset} of {length} bytes",
        "Copy it again.",
    )


def _unpacked(raw: Any, number: int, count: int) -> Array:
    """Elements from bytes, also those of less than eight bits, the first in the lowest bits."""
    dtype = DTYPES[number]
    bits = _BITS.get(number, 8 * dtype.itemsize)
    if len(raw) != -(-count * bits // 8):
        raise BadModelError(f"a weight of {len(raw)} bytes cannot hold {count} elements of {bits} bits")
    flat = np.frombuffer(raw, np.uint8)
    if number not in _BITS:
        return flat.copy().view(dtype) if count else np.zeros(0, dtype)
    if count > 1 << 28:
        raise BadModelError(f"a weight of {count} elements of {bits} bits is too large")
    spread = np.unpackbits(flat, bitorder="little")[: count * bits].reshape(count, bits)
    found = np.packbits(spread, axis=1, bitorder="little").reshape(count)
    if number == 25:
        return ((found ^ 8).astype(np.int8) - 8).astype(ml_dtypes.int4)
    return found.astype(dtype)
