"""Tensors made from numbers: zeros, ranges, windows, lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import (
    BOOL,
    FLOAT,
    INT,
    dtype_of,
    fixed,
    ints,
    is_value,
    number,
    result_type,
)
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


def filled(b: Builder, sizes: Any, item: Any, dtype: np.dtype[Any]) -> Any:
    """A tensor of one number."""
    value = number(b, item, dtype)
    if not is_value(sizes) and not len(sizes):
        return value
    return b.op("Expand", value, ints(b, sizes))


def tensor(b: Builder, item: Any, dtype: Any, *, float_for_numbers: bool = False) -> Any:
    """A tensor of a number, or of lists of numbers and tensors of one element."""
    wanted = None if dtype is None else dtype_of(dtype)
    if isinstance(item, list | tuple):
        if not _holds_values(item):
            array = np.array(item)
            inferred = {"f": FLOAT, "b": BOOL}.get(array.dtype.kind, INT) if array.size else FLOAT
            return b.constant(array.astype(wanted or inferred))
        parts = [tensor(b, part, dtype) for part in item]
        common = wanted or result_type(b, *parts)
        rows = [b.op("Unsqueeze", b.cast(part, common), [0]) for part in parts]
        return b.op("Concat", *rows, axis=0)
    natural = FLOAT if float_for_numbers else result_type(b, item)
    return number(b, item, wanted or natural)


def _holds_values(item: Any) -> bool:
    if isinstance(item, list | tuple):
        return any(_holds_values(part) for part in item)
    return isinstance(item, Scalar) or is_value(item)


@rules("aten::zeros", "aten::ones", "aten::empty")
def zeros(b: Builder, node: Node, sizes: Any, dtype: Any = None, *_: Any) -> Any:
    """Zeros or ones; what is called empty is zero here."""
    return filled(b, sizes, int(node.op == "aten::ones"), dtype_of(dtype))


@rules("aten::new_zeros", "aten::new_ones", "aten::new_empty")
def new_zeros(b: Builder, node: Node, x: Any, sizes: Any, dtype: Any = None, *_: Any) -> Any:
    """Zeros or ones of another tensor's type."""
    return filled(b, sizes, int(node.op == "aten::new_ones"), dtype_of(dtype, b.dtype(x)))


@rules("aten::zeros_like", "aten::ones_like", "aten::empty_like")
def zeros_like(b: Builder, node: Node, x: Any, dtype: Any = None, *_: Any) -> Any:
    """Zeros or ones of another tensor's shape."""
    return filled(b, b.sizes(x), int(node.op == "aten::ones_like"), dtype_of(dtype, b.dtype(x)))


@rules("aten::full")
def full(b: Builder, node: Node, sizes: Any, item: Any, dtype: Any = None, *_: Any) -> Any:
    """A tensor of one number."""
    return filled(b, sizes, item, dtype_of(dtype, result_type(b, item)))


@rules("aten::new_full")
def new_full(b: Builder, node: Node, x: Any, sizes: Any, item: Any, dtype: Any = None, *_: Any) -> Any:
    """A tensor of one number, of another tensor's type."""
    return filled(b, sizes, item, dtype_of(dtype, b.dtype(x)))


@rules("aten::full_like")
def full_like(b: Builder, node: Node, x: Any, item: Any, dtype: Any = None, *_: Any) -> Any:
    """A tensor of one number, of another tensor's shape."""
    return filled(b, b.sizes(x), item, dtype_of(dtype, b.dtype(x)))


@rules("aten::fill", "aten::zero")
def fill(b: Builder, node: Node, x: Any, item: Any = 0) -> Any:
    """The tensor with every element replaced."""
    return (
        b.op("Expand", number(b, item, b.dtype(x)), b.sizes(x)) if b.rank(x) else number(b, item, b.dtype(x))
    )


@rules("aten::copy")
def copy(b: Builder, node: Node, x: Any, source: Any, *_: Any) -> Any:
    """The tensor with its content replaced by another's, repeated where that is smaller."""
    source = number(b, source, b.dtype(x))
    same = b.shape(source) == b.shape(x) and all(dim is not None for dim in b.shape(x))
    return source if same else b.op("Expand", source, b.sizes(x))


@rules("aten::arange")
def arange(b: Builder, node: Node, *arguments: Any) -> Any:
    """Numbers in steps."""
    count = {"": 1, "start": 2, "start_step": 3}.get(node.overload)
    if count is None:
        raise UnsupportedError(f"the form {node.overload!r}")
    limits, dtype = arguments[:count], arguments[count]
    start, end = (0, limits[0]) if count == 1 else limits[:2]
    step = limits[2] if count == 3 else 1
    natural = INT if all(_is_int(item) for item in limits) else FLOAT
    wanted = dtype_of(dtype, natural)
    if not any(isinstance(item, Scalar) or is_value(item) for item in limits):
        return b.constant(_range(start, end, step, wanted))
    computed = INT if natural == INT else np.dtype(np.float64)
    found = b.op("Range", *(number(b, item, computed) for item in (start, end, step)))
    return b.cast(found, wanted)


def _is_int(item: Any) -> bool:
    if is_value(item):
        return bool(item.dtype.numpy().kind in "iu")
    return (item.kind if isinstance(item, Scalar) else type(item)) is int


def _range(start: Any, end: Any, step: Any, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    if (end - start) / step > 10_000_000:
        raise UnsupportedError("a range of more than 10,000,000 numbers")
    return np.arange(
        start, end, step, dtype=np.float64 if isinstance(start + end + step, float) else None
    ).astype(dtype)


@rules("aten::linspace")
def linspace(b: Builder, node: Node, start: Any, end: Any, steps: Any, dtype: Any = None, *_: Any) -> Any:
    """Numbers at equal distances, both ends included."""
    start, end, steps = (fixed(item, "range") for item in (start, end, steps))
    return b.constant(np.linspace(start, end, steps, dtype=np.float64).astype(dtype_of(dtype)))


@rules("aten::eye")
def eye(b: Builder, node: Node, rows: Any, *rest: Any) -> Any:
    """Ones on the diagonal."""
    columns, dtype = (rest[0], rest[1]) if node.overload == "m" else (rows, rest[0])
    return b.constant(np.eye(fixed(rows, "size"), fixed(columns, "size")).astype(dtype_of(dtype)))


@rules("aten::hann_window", "aten::hamming_window", "aten::blackman_window")
def window(b: Builder, node: Node, length: Any, *rest: Any) -> Any:
    """A window for a spectrum."""
    if node.overload not in {"", "periodic"}:
        raise UnsupportedError(f"the form {node.overload!r}")
    periodic, dtype = (rest[0], rest[1]) if node.overload == "periodic" else (True, rest[0])
    count = int(fixed(length, "length"))
    make = {"han": np.hanning, "ham": np.hamming, "bla": np.blackman}[node.op.removeprefix("aten::")[:3]]
    array = make(count + 1)[:-1] if periodic and count > 1 else make(count)
    return b.constant(array.astype(dtype_of(dtype)))


@rules("aten::rand", "aten::randn", "aten::randint", "aten::bernoulli", "aten::multinomial", "aten::randperm",
       "aten::normal", "aten::uniform", "aten::rand_like", "aten::randn_like")  # fmt: skip
def random(b: Builder, node: Node, *_: Any) -> Any:
    """Random numbers, which no two runtimes draw alike."""
    raise UnsupportedError("it draws random numbers")
