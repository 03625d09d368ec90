"""What a graph's own arithmetic on shapes comes to: sizes, and dimensions that only a run will tell."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING

from raceline.convert.graph import (
    attribute,
    constant,
    is_op,
    known,
    operand,
    rank,
    shape_of,
)

if TYPE_CHECKING:
    import onnx_ir as ir

Dim = int | str | tuple[int, int]
"""A size; the name of a dynamic axis; or (identity of a value, its axis) where the axis has no name."""

MOST_ELEMENTS = 16  # no tensor has more axes
_DEPTH = 24
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
}


def dims_of_shape(value: ir.Value | None) -> list[Dim] | None:
    """The dimensions of a tensor; None where its rank is unknown."""
    shape = shape_of(value)
    if shape is None or value is None:
        return None
    return [dim if dim is not None and known(dim) else (id(value), axis) for axis, dim in enumerate(shape)]


def dims_in(value: ir.Value | None, depth: int = _DEPTH) -> list[Dim] | None:
    """The elements of an integer tensor of rank 0 or 1, as far as shapes and constants determine them."""
    array = constant(value)
    if array is not None:
        fits = array.dtype.kind == "i" and array.ndim <= 1 and array.size <= MOST_ELEMENTS
        return [int(element) for element in array.reshape(-1)] if fits else None
    node = value.producer() if value is not None else None
    if node is None or depth == 0 or node.domain not in {"", "ai.onnx"}:
        return None
    follow = _FOLLOW.get(node.op_type)
    return follow(node, depth - 1) if follow else _computed(node, depth - 1)


def spatial_sizes(sizes: ir.Value, start: int, end: int) -> list[int | None]:
    """Some elements of a shape that a model puts together: numbers where they are known, None elsewhere."""
    dims = dims_in(sizes)
    if dims is None or len(dims) < end:
        return [None] * (end - start)
    return [dim if isinstance(dim, int) and dim > 0 else None for dim in dims[start:end]]


def _shape(node: ir.Node, depth: int) -> list[Dim] | None:
    dims = dims_of_shape(operand(node, 0))
    return None if dims is None else dims[attribute(node, "start", 0) : attribute(node, "end", None)]


def _gather(node: ir.Node, depth: int) -> list[Dim] | None:
    dims, where = dims_in(operand(node, 0), depth), constant(operand(node, 1))
    if dims is None or where is None or attribute(node, "axis", 0) != 0:
        return None
    places = [int(place) for place in where.reshape(-1)]
    return [dims[place] for place in places] if all(-len(dims) <= p < len(dims) for p in places) else None


def _slice(node: ir.Node, depth: int) -> list[Dim] | None:
    dims = dims_in(operand(node, 0), depth)
    bounds = [_bound(node, name, index) for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)]
    starts, ends, axes, steps = bounds
    if dims is None or starts is None or ends is None or len(starts) != 1 or axes not in (None, [0]):
        return None
    if (steps is None) != (operand(node, 4) is None):
        return None  # steps that a run computes
    return dims[slice(starts[0], ends[0], steps[0] if steps else 1)] if ends[0] >= -len(dims) else []


def _bound(node: ir.Node, name: str, index: int) -> list[int] | None:
    listed = attribute(node, name)
    array = constant(operand(node, index))
    return listed if listed is not None else None if array is None else [int(e) for e in array.reshape(-1)]


def _concat(node: ir.Node, depth: int) -> list[Dim] | None:
    parts = [dims_in(value, depth) for value in node.inputs]
    return None if any(part is None for part in parts) else [dim for part in parts for dim in part or ()]


def _size(node: ir.Node, depth: int) -> list[Dim] | None:
    """How many elements a tensor has, where every axis has a size."""
    sizes = [dim for dim in dims_of_shape(operand(node, 0)) or [""] if isinstance(dim, int)]
    return [math.prod(sizes)] if len(sizes) == rank(operand(node, 0)) else None


def _same(node: ir.Node, depth: int) -> list[Dim] | None:
    """The elements of the input: with at most one axis these operators only dress it anew."""
    import onnx_ir as ir

    if is_op(node, "Cast") and attribute(node, "to") not in {
        ir.DataType.INT32.value,
        ir.DataType.INT64.value,
    }:
        return None
    return dims_in(operand(node, 0), depth)


def _computed(node: ir.Node, depth: int) -> list[Dim] | None:
    """Sums, differences and products of sizes that are known."""
    compute = _ARITHMETIC.get(node.op_type)
    if compute is None:
        return None
    left, right = (dims_in(value, depth) for value in node.inputs)
    if not left or not right or {len(left), len(right)} - {1, max(len(left), len(right))}:
        return None
    count = max(
        len(left), len(right)
    )  # not by np.array: an axis without a name is a pair, and would be two elements
    pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
    known_pairs = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return [compute(a, b) for a, b in known_pairs] if len(known_pairs) == count else None


_FOLLOW: dict[str, Callable[[ir.Node, int], list[Dim] | None]] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _same,
    "Identity": _same,
    "Reshape": _same,
    "Squeeze": _same,
    "Unsqueeze": _same,
}
