"""Element types of the format, and the arrays that lie in the file of weights."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np

from raceline.convert.formats.openvino.net import size_of
from raceline.core.errors import BadModelError

Array = np.ndarray[Any, Any]

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(dtype)
    for name, dtype in {
        "f16": np.float16, "f32": np.float32, "f64": np.float64, "bf16": ml_dtypes.bfloat16,
        "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
        "u8": np.uint8, "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "boolean": np.bool_,
        "i4": ml_dtypes.int4, "u4": ml_dtypes.uint4,
        "f8e4m3": ml_dtypes.float8_e4m3fn, "f8e5m2": ml_dtypes.float8_e5m2,
    }.items()
}  # fmt: skip
"""Element types that ONNX has too, by the format's name."""

_PRECISIONS = {"FP16": "f16", "FP32": "f32", "FP64": "f64", "BF16": "bf16", "BOOL": "boolean"}
# Indices of a weight of type nf4, from the QLoRA paper (Dettmers et al., 2023, appendix E).
_NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
     0.7229568362236023, 1.0], np.float32
)  # fmt: skip


def dtype_of(name: str) -> np.dtype[Any]:
    """The NumPy dtype of an element type.

    Raises:
        BadModelError: ONNX has no such type.
    """
    if name not in DTYPES:
        raise BadModelError(f"the element type {name[:40]!r} is unknown", "ONNX has no such type")
    return DTYPES[name]


def dtype_of_precision(precision: str) -> np.dtype[Any] | None:
    """The dtype of a port's precision, such as FP32; None where it says nothing."""
    return DTYPES.get(_PRECISIONS.get(precision, precision.lower()))


def shape_of(text: str) -> list[int | None]:
    """The shape in an attribute, such as `1,3,?`.

    Raises:
        BadModelError: it is none, or has no known number of axes.
    """
    if "..." in text:
        raise BadModelError(
            "a shape has no known number of axes", next_step="Give the model a fixed rank (reshape)."
        )
    try:
        return [size_of(part) for part in text.replace("[", "").replace("]", "").split(",") if part.strip()]
    except ValueError as error:
        raise BadModelError(f"{text[:80]!r} is no shape") from error


class Weights:
    """The bytes beside the XML; arrays are views of them where they can be."""

    def __init__(self, data: bytes, source: str) -> None:
        self._data, self._source = memoryview(data), source

    def array(self, element_type: str, shape: str, offset: str, size: str) -> Array:
        """The array that an operation Const declares.

        Raises:
            BadModelError: it lies outside the file, or its size is not that of its shape and type.
        """
        dims = shape_of(shape)
        if any(dim is None for dim in dims):
            raise BadModelError("a weight has an open shape")
        sizes = [dim for dim in dims if dim is not None]
        count, start, length = math.prod(sizes), int(offset), int(size)
        if start < 0 or length < 0 or start + length > len(self._data):
            why = f"bytes {start} to {start + length} of {len(self._data)}"
            raise BadModelError(
                f"a weight lies outside {self._source}",
                why,
                "Copy the .bin file again; it belongs to the .xml.",
            )
        if not count:  # the format gives even these a byte
            return np.zeros(sizes, np.float32 if element_type == "nf4" else dtype_of(element_type))
        raw = np.frombuffer(self._data[start : start + length], np.uint8)
        if element_type in {"u4", "i4", "nf4"}:
            return _nibbles(raw, count, element_type).reshape(sizes)
        if element_type == "u1":
            _require(length == -(-count // 8), length, count, element_type)
            return np.unpackbits(raw, count=count).reshape(sizes)
        dtype = dtype_of(element_type)
        _require(length == count * dtype.itemsize, length, count, element_type)
        if start % dtype.itemsize:
            raw = raw.copy()
        array = raw.view(dtype).reshape(sizes)
        return array != 0 if element_type == "boolean" else array


def _nibbles(raw: Array, count: int, element_type: str) -> Array:
    """4-bit elements, the first in the low half of a byte."""
    _require(raw.size == -(-count // 2), raw.size, count, element_type)
    halves = np.empty(raw.size * 2, np.uint8)
    halves[0::2], halves[1::2] = raw & 15, raw >> 4
    halves = halves[:count]
    if element_type == "nf4":
        return _NF4[halves]
    if element_type == "u4":
        return halves.astype(ml_dtypes.uint4)
    return ((halves ^ 8).astype(np.int8) - 8).astype(ml_dtypes.int4)


def _require(fits: bool, length: int, count: int, element_type: str) -> None:
    if not fits:
        raise BadModelError(f"a weight of {length} bytes cannot hold {count} elements of {element_type}")
