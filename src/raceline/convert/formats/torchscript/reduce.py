"""Reductions over axes, softmaxes, sorting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.math import truth
from raceline.convert.formats.torchscript.operands import (
    BOOL,
    INT,
    as_float,
    axes,
    axis,
    dtype_of,
    fixed,
    ints,
    is_float,
    is_value,
    number,
)
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


def reduced(b: Builder, op: str, x: Any, dims: Any, keep: Any) -> Any:
    """A reduction of the standard over axes; None or none for all."""
    if b.rank(x) == 0:
        return b.op(op, b.reshape(x, [1]), [0], keepdims=0)
    return b.op(op, x, axes(dims, b.rank(x)), keepdims=int(bool(keep)))


@rules("aten::sum", "aten::mean", "aten::prod")
def total(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """Sum, mean or product; of integers in int64."""
    name = node.op.removeprefix("aten::")
    dims, keep, dtype = (None, False, arguments[0] if arguments else None)
    if len(arguments) > 1:
        dims, keep, dtype = arguments[0], arguments[1], arguments[2]
    natural = b.dtype(x) if is_float(b.dtype(x)) or name == "mean" else INT
    x = b.cast(x, dtype_of(dtype, natural))
    return reduced(b, {"sum": "ReduceSum", "mean": "ReduceMean", "prod": "ReduceProd"}[name], x, dims, keep)


@rules("aten::amax", "aten::amin")
def extreme_over(b: Builder, node: Node, x: Any, dims: Any = None, keep: Any = False) -> Any:
    """Largest or smallest element over axes."""
    return reduced(b, "ReduceMax" if "max" in node.op else "ReduceMin", x, dims, keep)


@rules("aten::max", "aten::min")
def largest(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """Largest or smallest: of all, of two tensors, or over an axis with its place."""
    most = "max" in node.op
    if not arguments:
        return reduced(b, "ReduceMax" if most else "ReduceMin", x, None, False)
    if is_value(arguments[0]):
        return b.op("Max" if most else "Min", x, b.cast(arguments[0], b.dtype(x)))
    place, keep = axis(arguments[0], b.rank(x)), arguments[1]
    values = reduced(b, "ReduceMax" if most else "ReduceMin", x, [place], keep)
    where = b.op("ArgMax" if most else "ArgMin", x, axis=place, keepdims=int(bool(keep)))
    return values, where


@rules("aten::argmax", "aten::argmin")
def place_of(b: Builder, node: Node, x: Any, dim: Any = None, keep: Any = False) -> Any:
    """Place of the largest or smallest."""
    op = "ArgMax" if "max" in node.op else "ArgMin"
    if dim is None:
        return b.op(op, b.reshape(x, [-1]), axis=0, keepdims=0)
    return b.op(op, x, axis=axis(dim, b.rank(x)), keepdims=int(bool(keep)))


@rules("aten::any", "aten::all")
def any_or_all(b: Builder, node: Node, x: Any, dims: Any = None, keep: Any = False) -> Any:
    """Whether any or all elements are true."""
    if isinstance(x, list):
        raise UnsupportedError("of a list of numbers that are only known at run time")
    op = "ReduceMax" if "any" in node.op else "ReduceMin"
    return b.cast(reduced(b, op, b.cast(truth(b, x), np.int32), dims, keep), BOOL)


def variance(b: Builder, x: Any, dims: Any, keep: Any, correction: Any) -> Any:
    """Variance over axes, the sum divided by (count - correction)."""
    x = as_float(b, x)
    places = axes(dims, b.rank(x))
    middle = b.op("ReduceMean", x, places, keepdims=1)
    away = b.op("Sub", x, middle)
    squares = b.op("Mul", away, away)
    if not correction:
        return b.op("ReduceMean", squares, places, keepdims=int(bool(keep)))
    sizes = [b.shape(x)[place] for place in places]
    summed = b.op("ReduceSum", squares, places, keepdims=int(bool(keep)))
    if all(isinstance(dim, int) for dim in sizes):
        count = math.prod(dim for dim in sizes if isinstance(dim, int))
        return b.op("Div", summed, b.scalar(max(count - correction, 0), x))
    every = b.op("ReduceProd", b.op("Gather", b.op("Shape", x), places), [0], keepdims=0)
    rest = b.op("Sub", b.cast(every, b.dtype(x)), b.scalar(correction, x))
    return b.op("Div", summed, b.op("Max", rest, b.scalar(0, x)))


@rules("aten::var", "aten::std", "aten::var_mean", "aten::std_mean")
def spread(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """Variance or standard deviation."""
    dims, keep, correction = None, False, 1
    if node.overload == "correction":
        dims, given, keep = arguments
        correction = 1 if given is None else given
    elif node.overload == "dim":
        dims, unbiased, keep = arguments
        correction = int(bool(unbiased))
    elif node.overload:
        raise UnsupportedError(f"the form {node.overload!r}")
    elif arguments:
        correction = int(bool(arguments[0]))
    found = variance(b, x, dims, keep, fixed(correction, "correction"))
    if "std" in node.op:
        found = b.op("Sqrt", found)
    return (found, reduced(b, "ReduceMean", as_float(b, x), dims, keep)) if "mean" in node.op else found


@rules("aten::norm", "aten::linalg_vector_norm", "aten::frobenius_norm", "aten::linalg_norm")
def norm(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """A vector norm over axes."""
    order, dims, keep = 2, None, False
    if node.op == "aten::frobenius_norm":
        dims, keep = arguments
    elif node.op in {"aten::linalg_vector_norm", "aten::linalg_norm"} or len(arguments) >= 3:
        order, dims, keep = arguments[:3]
    elif arguments:
        order = arguments[0]
    order = 2 if order is None else fixed(order, "order")
    if node.op == "aten::linalg_norm" and order != 2 or isinstance(order, str):
        raise UnsupportedError(f"a norm of order {order}")
    x = as_float(b, x)
    if order == 2:
        return reduced(b, "ReduceL2", x, dims, keep)
    if order == 1:
        return reduced(b, "ReduceL1", x, dims, keep)
    if order in {math.inf, -math.inf}:
        return reduced(b, "ReduceMax" if order > 0 else "ReduceMin", b.op("Abs", x), dims, keep)
    if order == 0:
        raise UnsupportedError("a norm of order 0")
    powers = reduced(b, "ReduceSum", b.op("Pow", b.op("Abs", x), b.scalar(order, x)), dims, keep)
    return b.op("Pow", powers, b.scalar(1 / order, x))


@rules("aten::logsumexp")
def logsumexp(b: Builder, node: Node, x: Any, dims: Any, keep: Any = False) -> Any:
    """Logarithm of the sum of exponentials."""
    return reduced(b, "ReduceLogSumExp", as_float(b, x), dims, keep)


@rules("aten::softmax", "aten::_softmax", "aten::log_softmax", "aten::_log_softmax", "aten::softmin")
def softmax(b: Builder, node: Node, x: Any, dim: Any, dtype: Any = None) -> Any:
    """Softmax, or its logarithm, over an axis."""
    x = b.cast(x, dtype_of(dtype)) if dtype is not None and not isinstance(dtype, bool) else as_float(b, x)
    if b.rank(x) == 0:
        raise UnsupportedError("of a single number")
    x = b.op("Neg", x) if "softmin" in node.op else x
    return b.op("LogSoftmax" if "log" in node.op else "Softmax", x, axis=axis(dim, b.rank(x)))


@rules("aten::topk")
def topk(
    b: Builder, node: Node, x: Any, count: Any, dim: Any = -1, largest_: Any = True, in_order: Any = True
) -> Any:
    """The largest or smallest elements of an axis and their places."""
    place = axis(dim, b.rank(x))
    return b.op(
        "TopK",
        x,
        ints(b, [count]),
        outputs=2,
        axis=place,
        largest=int(bool(largest_)),
        sorted=int(bool(in_order)),
    )


@rules("aten::sort", "aten::argsort")
def sort(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """An axis in order, and the old places."""
    stable = node.overload == "stable"
    dim, descending = arguments[1:3] if stable else arguments[:2]
    place = axis(dim, b.rank(x))
    extent = b.op("Shape", x, start=place, end=place + 1)
    values, where = b.op("TopK", x, extent, outputs=2, axis=place, largest=int(bool(descending)), sorted=1)
    return where if node.op == "aten::argsort" else (values, where)


@rules(
    "aten::cumprod",
    "aten::cummax",
    "aten::median",
    "aten::mode",
    "aten::kthvalue",
    "aten::unique_consecutive",
)
def no_counterpart(b: Builder, node: Node, *_: Any) -> Any:
    """Operators that ONNX has no counterpart of."""
    raise UnsupportedError("ONNX has nothing like it")


@rules("aten::normalize", "aten::cosine_similarity")
def cosine_similarity(b: Builder, node: Node, x: Any, y: Any, dim: Any = 1, eps: Any = 1e-8) -> Any:
    """Cosine of the angle between vectors along an axis."""
    rank = max(b.rank(x), b.rank(y))
    place = [axis(dim, rank)]
    floor = number(b, eps, b.dtype(x))
    scaled = [
        b.op("Div", item, b.op("Max", b.op("ReduceL2", item, place, keepdims=1), floor)) for item in (x, y)
    ]
    return b.op("ReduceSum", b.op("Mul", *scaled), place, keepdims=0)


@rules("aten::cdist")
def cdist(b: Builder, node: Node, x: Any, y: Any, order: Any = 2.0, mode: Any = None) -> Any:
    """Distances of all pairs of rows."""
    if order not in {1.0, 2.0}:
        raise UnsupportedError(f"distances of order {order}")
    away = b.op("Sub", b.op("Unsqueeze", x, [-2]), b.op("Unsqueeze", y, [-3]))
    return b.op("ReduceL2" if order == 2.0 else "ReduceL1", away, [-1], keepdims=0)
