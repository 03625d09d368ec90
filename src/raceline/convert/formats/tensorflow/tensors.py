"""Element types, shapes and tensors as TensorFlow's messages hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from raceline.convert.graph import Array
from raceline.convert.lower import UnsupportedError
from raceline.core.errors import BadModelError
from raceline.core.units import format_bytes
from raceline.ir import Limits

STRING, RESOURCE, VARIANT = 7, 20, 21
_REFERENCE = 100  # TensorFlow 1 adds this to the type of what a variable refers to

_DTYPES: dict[int, str] = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 8: "complex64", 9: "int64",
    10: "bool", 11: "int8", 12: "uint8", 13: "int32", 14: "bfloat16", 15: "int16", 16: "uint16",
    17: "uint16", 18: "complex128", 19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_NAMES = {STRING: "text", RESOURCE: "a resource", VARIANT: "a variant"}
# Where a TensorProto keeps elements that are not in tensor_content.
_FIELDS: dict[int, str] = {
    1: "float_val", 2: "double_val", 3: "int_val", 4: "int_val", 5: "int_val", 6: "int_val",
    8: "scomplex_val", 9: "int64_val", 10: "bool_val", 11: "int_val", 12: "int_val", 13: "int_val",
    14: "half_val", 15: "int_val", 16: "int_val", 17: "int_val", 18: "dcomplex_val", 19: "half_val",
    22: "uint32_val", 23: "uint64_val",
}  # fmt: skip


def dtype_of(code: int) -> np.dtype[Any]:
    """The NumPy type of an element type's number; text is objects.

    Raises:
        UnsupportedError: it is no type of numbers or text.
    """
    import ml_dtypes

    code %= _REFERENCE
    if code == STRING:
        return np.dtype(object)
    if code not in _DTYPES:
        raise UnsupportedError(f"its element type is {_NAMES.get(code, f'number {code}')}")
    name = _DTYPES[code]
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def shape_of_proto(proto: Any) -> list[int] | None:
    """Sizes, -1 for an open one; None where the number of axes is unknown."""
    if proto.unknown_rank:
        return None
    return [int(dim.size) for dim in proto.dim]


def array_of(proto: Any, limits: Limits) -> Array:
    """The array that a TensorProto holds; one value for all elements takes no memory for more.

    Raises:
        BadModelError: its elements and its shape disagree, or it is over the limit.
        UnsupportedError: its type has no elements to read.
    """
    code = proto.dtype % _REFERENCE
    dtype = dtype_of(code)
    shape = shape_of_proto(proto.tensor_shape)
    if shape is None or any(size < 0 for size in shape) or len(shape) > limits.max_rank:
        raise BadModelError("a tensor has no proper shape", str(shape)[:200])
    count = math.prod(shape)
    if count * dtype.itemsize > limits.max_model_bytes:
        why = f"a tensor of shape {shape} takes {format_bytes(count * dtype.itemsize)}"
        raise BadModelError("the model is over the limit", why)
    if code == STRING:
        return _repeated(np.array([*proto.string_val, b""][: max(1, len(proto.string_val))], object), shape)
    if proto.tensor_content:
        if len(proto.tensor_content) != count * dtype.itemsize:
            why = f"{len(proto.tensor_content)} bytes for the shape {shape} of {dtype}"
            raise BadModelError("a tensor has another size than it says", why)
        return np.frombuffer(proto.tensor_content, dtype).reshape(shape)
    return _repeated(_listed(proto, code, dtype), shape)


def _listed(proto: Any, code: int, dtype: np.dtype[Any]) -> Array:
    """The elements that are listed one by one."""
    elements = getattr(proto, _FIELDS[code])
    if dtype.kind == "c":
        pairs = np.array(elements, np.float64).reshape(-1, 2)
        listed: Array = (pairs[:, 0] + 1j * pairs[:, 1]).astype(dtype)
    elif _FIELDS[code] == "half_val":
        listed = np.array(elements, np.uint16).view(dtype)
    else:
        listed = np.array(elements, np.int64 if dtype.kind in "ib" and dtype.itemsize < 8 else dtype)
        listed = listed.astype(dtype)
    return listed if listed.size else np.zeros(1, dtype)


def _repeated(listed: Array, shape: list[int]) -> Array:
    """As many elements as the shape has: the last one listed stands for all that follow."""
    count = math.prod(shape)
    if listed.size == 1 or count == 0:
        return np.broadcast_to(listed[0], shape)
    if listed.size > count:
        raise BadModelError("a tensor has more elements than it says", f"{listed.size} for the shape {shape}")
    if listed.size < count:
        listed = np.concatenate([listed, np.broadcast_to(listed[-1], [count - listed.size])])
    return listed.reshape(shape)
