"""What rules share: numbers and lists as tensors, axes, torch's type promotion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.dims import dims_in
from raceline.convert.formats.torchscript.program import DTYPES, Strange, numpy_dtype
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder

FLOAT, INT, BOOL = np.dtype(np.float32), np.dtype(np.int64), np.dtype(np.bool_)
END = 2**63 - 1
"""A slice's end where it has none."""


def is_value(item: Any) -> bool:
    """Whether an operand is a tensor of the graph."""
    import onnx_ir as ir

    return isinstance(item, ir.Value)


def fixed(item: Any, what: str) -> Any:
    """An argument that must be known while translating.

    Raises:
        UnsupportedError: it is only known at run time.
    """
    parts = item if isinstance(item, list | tuple) else [item]
    if any(isinstance(part, Scalar | Strange) or is_value(part) for part in parts):
        raise UnsupportedError(f"its {what} is only known at run time")
    return item


def ints(b: Builder, items: Any) -> Any:
    """Integers, some of them perhaps only known at run time, as an int64 tensor of one axis."""
    if is_value(items):
        return b.cast(items, INT)
    if not any(isinstance(item, Scalar) or is_value(item) for item in items):
        return b.constant(np.array([int(item) for item in items], np.int64))
    parts = [
        item.value if isinstance(item, Scalar) else b.reshape(item, [1]) if is_value(item) else [int(item)]
        for item in items
    ]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=0)


def number(b: Builder, item: Any, dtype: Any) -> Any:
    """A number or tensor as a tensor of this element type; numbers become scalars."""
    if isinstance(item, Scalar):
        return b.cast(b.op("Squeeze", item.value, [0]), dtype)
    if is_value(item):
        return b.cast(item, dtype)
    return b.constant(np.array(item).astype(dtype))


def axis(number_: Any, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        UnsupportedError: there is no such axis, or it is only known at run time.
    """
    place = int(fixed(number_, "axis"))
    span = max(rank, 1)
    if not -span <= place < span:
        raise UnsupportedError(f"it names axis {place} of a tensor of {rank} axes")
    return place % span


def axes(items: Any, rank: int) -> list[int]:
    """Several axes; None or none for all."""
    if items is None:
        return list(range(rank))
    listed = items if isinstance(items, list | tuple) else [items]
    return [axis(item, rank) for item in listed] or list(range(rank))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether elements are floating-point numbers, bfloat16 and 8-bit ones included."""
    return dtype.kind == "f" or "float" in dtype.name


def _category(dtype: np.dtype[Any]) -> int:
    return 2 if is_float(dtype) else 1 if dtype.kind in "iu" else 0


def wider(left: np.dtype[Any], right: np.dtype[Any]) -> np.dtype[Any]:
    """The type that holds both, as torch.promote_types has it."""
    if left == right:
        return left
    if _category(left) != _category(right):
        return left if _category(left) > _category(right) else right
    if is_float(left) and left.itemsize == right.itemsize:
        return FLOAT
    if is_float(left):
        return left if left.itemsize > right.itemsize else right
    return np.promote_types(left, right)


def result_type(b: Builder, *items: Any) -> np.dtype[Any]:
    """The element type in which torch computes with these tensors and numbers.

    Tensors with axes decide; those without, and plain numbers, only raise the category (bool, integer, float).
    """
    levels: list[np.dtype[Any] | None] = [None, None, None]  # with axes, without, plain numbers
    for item in items:
        if is_value(item):
            level = 0 if item.shape is None or len(item.shape) else 1
            dtype = b.dtype(item)
        else:
            kind = item.kind if isinstance(item, Scalar) else type(item)
            level, dtype = 2, {bool: BOOL, int: INT}.get(kind, FLOAT)
        seen = levels[level]
        levels[level] = dtype if seen is None else wider(seen, dtype)
    result: np.dtype[Any] | None = None
    for found in levels:
        if found is not None and (result is None or _category(found) > _category(result)):
            result = found
    assert result is not None
    return result


def promoted(b: Builder, *items: Any) -> list[Any]:
    """The operands as tensors of the type in which torch computes with them."""
    dtype = result_type(b, *items)
    return [number(b, item, dtype) for item in items]


def as_float(b: Builder, x: Any) -> Any:
    """A tensor of floating-point numbers, as torch makes of integers where a function needs them."""
    if not is_value(x):
        return number(b, x, FLOAT)
    return x if is_float(b.dtype(x)) else b.cast(x, FLOAT)


def dtype_of(code: Any, default: Any = FLOAT) -> np.dtype[Any]:
    """The NumPy type of torch's number for a type; a default for None.

    Raises:
        UnsupportedError: ONNX has no such type.
    """
    if code is None:
        default = np.dtype(default)
        return default  # type: ignore[no-any-return]
    name = DTYPES[code] if isinstance(code, int) and 0 <= code < len(DTYPES) else f"number {code}"
    try:
        if name.startswith(("complex", "q", "number")):
            raise ValueError(name)
        element: np.dtype[Any] = numpy_dtype(name)
    except (ValueError, TypeError) as error:
        raise UnsupportedError(f"elements of type {name}") from error
    return element


def code_of(dtype: np.dtype[Any]) -> int:
    """Torch's number for a NumPy type."""
    return DTYPES.index(dtype.name)


def size(b: Builder, x: Any, place: int) -> int | Scalar:
    """The size of an axis: a number where it is fixed."""
    dim = b.shape(x)[place]
    if isinstance(dim, int):
        return dim
    found: int | Scalar = scalar(b.op("Shape", x, start=place, end=place + 1), int)
    return found


def scalar(value: Any, kind: type) -> Any:
    """A number of the graph: a plain one where it is known.

    Args:
        value: a tensor of shape (1,).
        kind: `int`, `float` or `bool`.
    """
    from raceline.convert.graph import constant

    array = constant(value)
    if array is not None:
        return kind(array.reshape(-1)[0])
    dims = dims_in(value) if kind is int else None
    if dims and len(dims) == 1:
        if isinstance(dims[0], int):
            return dims[0]
        return Scalar(value, kind, dims[0] if isinstance(dims[0], str) else "")
    return Scalar(value, kind)


def shaped(b: Builder, x: Any, sizes: Sequence[Any]) -> Any:
    """The tensor in another shape."""
    return b.op("Reshape", x, ints(b, sizes)) if len(sizes) else b.op("Reshape", x, np.zeros(0, np.int64))


def broadcast(b: Builder, x: Any, like: Any) -> Any:
    """The tensor in the shape of another, elements repeated."""
    return x if b.shape(x) == b.shape(like) and None not in b.shape(x) else b.op("Expand", x, b.sizes(like))


def fixed_shape(b: Builder, x: Any, what: str) -> list[int]:
    """All sizes of a tensor.

    Raises:
        UnsupportedError: an axis is open.
    """
    shape = b.shape(x)
    if not all(isinstance(dim, int) for dim in shape):
        raise UnsupportedError(f"{what} needs fixed sizes, and it has {list(shape)}")
    return [int(dim) for dim in shape if isinstance(dim, int)]
