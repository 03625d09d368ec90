"""Operators that reduce, find, look up and scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.asking import (
    axes_of,
    fixed,
    int64,
    is_float,
    known,
    known_ints,
    option,
    target,
)
from raceline.convert.formats.tflite.quantise import turned
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_REDUCTIONS = {
    "SUM": "ReduceSum", "REDUCE_PROD": "ReduceProd", "REDUCE_MAX": "ReduceMax", "REDUCE_MIN": "ReduceMin",
}  # fmt: skip
_SEGMENTS = {
    "UNSORTED_SEGMENT_SUM": "add", "UNSORTED_SEGMENT_PROD": "mul",
    "UNSORTED_SEGMENT_MAX": "max", "UNSORTED_SEGMENT_MIN": "min",
}  # fmt: skip


@rules(*_REDUCTIONS)
def reduction(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> ir.Value:
    """Over axes; over none it changes nothing."""
    where = axes_of(b, x, axes, "axes")
    if not where:
        return x
    return b.op(_REDUCTIONS[node.op], x, where, keepdims=option(node, "keep_dims"))  # type: ignore[no-any-return]


@rules("MEAN")
def mean(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> ir.Value:
    """Over axes; of integers the sum divided towards zero."""
    where, keep = axes_of(b, x, axes, "axes"), option(node, "keep_dims")
    if not where:
        return x
    if is_float(b, x):
        found = turned(b, x)
        if found is None:
            return b.op("ReduceMean", x, where, keepdims=keep)  # type: ignore[no-any-return]
        perm, (inner,) = found
        y = b.op("ReduceMean", inner, sorted(perm[axis] for axis in where), keepdims=keep)
        left = [axis for axis in perm if keep or axis not in {perm[i] for i in where}]
        return b.transpose(y, [sorted(left).index(axis) for axis in left])
    count = int(np.prod([fixed(b, x, axis, "an axis") for axis in where]))
    return b.op("Div", b.op("ReduceSum", x, where, keepdims=keep), b.scalar(count, x))  # type: ignore[no-any-return]


@rules("REDUCE_ANY", "REDUCE_ALL")
def logical_reduction(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> ir.Value:
    """Whether any, or all, hold."""
    name = "ReduceMax" if node.op == "REDUCE_ANY" else "ReduceMin"
    where = axes_of(b, x, axes, "axes")
    if not where:
        return x
    return b.cast(b.op(name, b.cast(x, np.int32), where, keepdims=option(node, "keep_dims")), np.bool_)


@rules("ARG_MAX", "ARG_MIN")
def arg(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> ir.Value:
    """The first place of the largest or smallest."""
    name = "ArgMax" if node.op == "ARG_MAX" else "ArgMin"
    found = b.op(name, x, axis=axes_of(b, x, axis)[0], keepdims=0)
    return b.cast(found, np.int64 if target(node).dtype == "INT64" else np.int32)


@rules("TOPK_V2")
def top_k(b: Builder, node: SourceNode, x: ir.Value, count: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The largest along the last axis, in order."""
    wanted = b.op("Reshape", int64(b, count), [1])
    values, places = b.op("TopK", x, wanted, axis=-1, largest=1, sorted=1, outputs=2)
    return values, b.cast(places, np.int32)


@rules("GATHER")
def gather(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value) -> ir.Value:
    """Slices of an axis, by item where there are batch axes."""
    rank, num_places, batch = b.rank(x), b.rank(places), option(node, "batch_dims")
    axis = option(node, "axis")
    axis += rank if axis < 0 else 0
    batch += num_places if batch < 0 else 0
    if batch == 0:
        return b.op("Gather", x, places, axis=axis)  # type: ignore[no-any-return]
    if not 0 <= batch <= axis < rank or batch > num_places:
        raise ValueError(f"{batch} batch axes and axis {axis} of {rank}")
    middle = list(range(batch, axis))
    moved = b.transpose(x, [*range(batch), axis, *middle, *range(axis + 1, rank)])
    y = b.op("GatherND", moved, b.op("Unsqueeze", int64(b, places), [num_places]), batch_dims=batch)
    extra = num_places - batch
    first = [batch + extra + i for i in range(len(middle))]
    tail = range(batch + extra + len(middle), b.rank(y))
    return b.transpose(y, [*range(batch), *first, *range(batch, batch + extra), *tail])


@rules("EMBEDDING_LOOKUP")
def embedding_lookup(b: Builder, node: SourceNode, places: ir.Value, table: ir.Value) -> ir.Value:
    """Rows of a table; they are picked before they are dequantised where the table has one scale."""
    producer = table.producer()
    if producer is not None and producer.op_type == "DequantizeLinear" and "axis" not in producer.attributes:
        stored, *scheme = producer.inputs
        return b.op("DequantizeLinear", b.op("Gather", stored, places, axis=0), *scheme)  # type: ignore[no-any-return]
    return b.op("Gather", table, places, axis=0)  # type: ignore[no-any-return]


@rules("GATHER_ND")
def gather_nd(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value) -> ir.Value:
    """Elements or slices by their coordinates."""
    return b.op("GatherND", x, int64(b, places))  # type: ignore[no-any-return]


@rules("SCATTER_ND")
def scatter_nd(
    b: Builder, node: SourceNode, places: ir.Value, updates: ir.Value, sizes: ir.Value
) -> ir.Value:
    """Zeros with values added at coordinates."""
    zeros = b.op("Expand", b.scalar(0, updates), int64(b, sizes))
    return b.op("ScatterND", zeros, int64(b, places), updates, reduction="add")  # type: ignore[no-any-return]


@rules("SPARSE_TO_DENSE")
def sparse_to_dense(
    b: Builder, node: SourceNode, places: ir.Value, sizes: ir.Value, values: ir.Value, default: ir.Value
) -> ir.Value:
    """One value everywhere, others at coordinates."""
    whole = b.op("Expand", b.op("Reshape", default, np.zeros(0, np.int64)), int64(b, sizes))
    rank, indices = b.rank(places), int64(b, places)
    if rank < 2:
        indices = b.op("Reshape", indices, [-1, 1])
    if b.rank(values) == 0:
        values = b.op("Expand", values, b.op("Slice", b.sizes(indices), [0], [1]))
    return b.op("ScatterND", whole, indices, values)  # type: ignore[no-any-return]


@rules("ONE_HOT")
def one_hot(
    b: Builder, node: SourceNode, places: ir.Value, depth: ir.Value, on: ir.Value, off: ir.Value
) -> ir.Value:
    """One value at each place, another elsewhere; a place outside is nowhere, whereas the standard wraps it."""
    count = known_ints(b, depth, "a depth")[0]
    rank, axis = b.rank(places), option(node, "axis", 0)
    axis += rank + 1 if axis < 0 else 0
    if not 0 <= count <= 1 << 20:
        raise ValueError(f"a depth of {count}")
    numbers = np.arange(count, dtype=b.dtype(places)).reshape([-1] + [1] * (rank - axis))
    return b.op("Where", b.op("Equal", b.op("Unsqueeze", places, [axis]), numbers), on, off)  # type: ignore[no-any-return]


@rules("UNIQUE")
def unique(b: Builder, node: SourceNode, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Different elements in order of appearance, and where each element went."""
    values, _, places, _ = b.op("Unique", x, sorted=0, outputs=4)
    return values, b.cast(places, np.int64 if target(node, 1).dtype == "INT64" else np.int32)


@rules("WHERE")
def where(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Coordinates of what is not zero."""
    return b.op("Transpose", b.op("NonZero", x), perm=[1, 0])  # type: ignore[no-any-return]


@rules("SEGMENT_SUM")
def segment_sum(b: Builder, node: SourceNode, x: ir.Value, segments: ir.Value) -> ir.Value:
    """Sums of rows of equal number; numbers ascend, so the last tells how many there are."""
    last = b.op("ReduceMax", int64(b, segments), [0], keepdims=1)
    return _scattered(b, x, segments, b.op("Add", last, np.int64(1)), "add")


@rules(*_SEGMENTS)
def unsorted_segments(
    b: Builder, node: SourceNode, x: ir.Value, segments: ir.Value, count: ir.Value
) -> ir.Value:
    """Rows of equal number reduced to one."""
    known_segments = known(b, segments, "segment numbers")
    if (known_segments < 0).any():
        raise UnsupportedError("segments of negative number")
    return _scattered(b, x, segments, b.op("Reshape", int64(b, count), [1]), _SEGMENTS[node.op])


def _scattered(b: Builder, x: ir.Value, segments: ir.Value, count: ir.Value, how: str) -> ir.Value:
    rank, num_ids, dtype = b.rank(x), b.rank(segments), b.dtype(x)
    bounds: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    start = {"add": 0, "mul": 1, "max": bounds.min, "min": bounds.max}[how]
    tail = b.op("Slice", b.sizes(x), [num_ids], [rank]) if rank > num_ids else None
    sizes = b.op("Concat", count, tail, axis=0) if tail is not None else count
    initial = b.op("Expand", b.constant(np.array(start, dtype)), sizes)
    indices = b.op("Unsqueeze", int64(b, segments), [num_ids])
    return b.op("ScatterND", initial, indices, x, reduction=how)  # type: ignore[no-any-return]


@rules("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5")
def non_max_suppression(
    b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, most: ir.Value, overlap: ir.Value,
    least: ir.Value, sigma: ir.Value | None = None,
) -> tuple[ir.Value, ...]:  # fmt: skip
    """Boxes that overlap no better one; filled up with zeros to the number asked for."""
    if sigma is not None and float(known(b, sigma, "a sigma").reshape(-1)[0]) != 0:
        raise UnsupportedError("soft suppression (sigma over 0)")
    limit = known_ints(b, most, "a number of boxes")[0]
    chosen = b.op(
        "NonMaxSuppression", b.op("Unsqueeze", boxes, [0]), b.op("Unsqueeze", scores, [0, 1]),
        np.array([limit], np.int64),
        *(b.op("Reshape", b.cast(value, np.float32), [1]) for value in (overlap, least)),
    )  # fmt: skip
    places = b.op("Reshape", b.op("Slice", chosen, [2], [3], [1]), [-1])
    count = b.op("Shape", places)
    pads = b.op("Concat", [0], b.op("Sub", [limit], count), axis=0)
    indices = b.cast(b.op("Pad", places, pads), np.int32)
    total = b.cast(b.op("Squeeze", count, [0]), np.int32)
    if node.op == "NON_MAX_SUPPRESSION_V4":
        return indices, total
    best = b.op("Pad", b.op("Gather", scores, places), pads)
    return indices, best, total
