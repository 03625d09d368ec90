"""Picking elements: gathers, scatters, choices, the largest, and matrices' bands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.attributes import dtype
from raceline.convert.formats.tensorflow.values import (
    Variable,
    axis_of,
    fixed_ints,
    fixed_rank,
    vector,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("Gather")
def _gather(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value) -> Any:
    return b.op("Gather", x, places, axis=0)


@rules("GatherV2")
def _gather_v2(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value, axis: ir.Value) -> Any:
    (along,) = fixed_ints(b, axis, "axis")
    return _gathered(b, x, places, along, int(node.attributes.get("batch_dims", 0)))


@rules("ResourceGather")
def _resource_gather(b: Builder, node: SourceNode, variable: Any, places: ir.Value) -> Any:
    x = variable.read(b) if isinstance(variable, Variable) else variable
    batch = int(node.attributes.get("batch_dims", 0))
    return _gathered(b, x, places, batch, batch)


def _gathered(b: Builder, x: ir.Value, places: ir.Value, axis: int, batch: int) -> Any:
    rank, count = fixed_rank(b, x), fixed_rank(b, places)
    axis = axis_of(axis, rank)
    if batch < 0:
        batch += count
    if batch == 0:
        return b.op("Gather", x, places, axis=axis)
    # Axes between the batch and the gathered one move behind it, and back in the result.
    middle, rest = list(range(batch, axis)), list(range(axis + 1, rank))
    turned = b.transpose(x, [*range(batch), axis, *middle, *rest])
    found = b.op("GatherND", turned, b.op("Unsqueeze", b.cast(places, np.int64), [-1]), batch_dims=batch)
    new = count - batch
    moved = [*range(count, count + len(middle)), *range(batch, batch + new)]
    total = rank - 1 + new
    return b.transpose(found, [*range(batch), *moved, *range(count + len(middle), total)])


@rules("GatherNd")
def _gather_nd(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value) -> Any:
    return b.op("GatherND", x, b.cast(places, np.int64))


@rules("ResourceGatherNd")
def _resource_gather_nd(b: Builder, node: SourceNode, variable: Any, places: ir.Value) -> Any:
    x = variable.read(b) if isinstance(variable, Variable) else variable
    return b.op("GatherND", x, b.cast(places, np.int64))


@rules("OneHot")
def _one_hot(
    b: Builder, node: SourceNode, places: ir.Value, depth: ir.Value, on: ir.Value, off: ir.Value
) -> Any:
    """By comparison: ONNX's OneHot counts negative places from the end, TensorFlow's has nothing there."""
    axis = int(node.attributes.get("axis", -1))
    rank = fixed_rank(b, places)
    axis = axis_of(axis, rank + 1)
    wide = b.op("Unsqueeze", b.cast(places, np.int64), [axis])
    steps = b.op("Range", np.int64(0), b.reshape(b.cast(depth, np.int64), []), np.int64(1))
    steps = b.reshape(steps, [-1 if place == axis else 1 for place in range(rank + 1)])
    return b.op("Where", b.op("Equal", wide, steps), on, off)


@rules("SelectV2")
def _select_v2(b: Builder, node: SourceNode, chosen: ir.Value, x: ir.Value, y: ir.Value) -> Any:
    return b.op("Where", chosen, x, y)


@rules("Select")
def _select(b: Builder, node: SourceNode, chosen: ir.Value, x: ir.Value, y: ir.Value) -> Any:
    missing = fixed_rank(b, x) - fixed_rank(b, chosen)
    if fixed_rank(b, chosen) == 1 and missing > 0:  # chooses whole rows
        chosen = b.op("Unsqueeze", chosen, list(range(1, missing + 1)))
    return b.op("Where", chosen, x, y)


@rules("Where")
def _where(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    found = b.op("NonZero", x if b.dtype(x) != np.bool_ else b.cast(x, np.int32))
    return b.transpose(found, [1, 0])


@rules("ScatterNd")
def _scatter_nd(b: Builder, node: SourceNode, places: ir.Value, updates: ir.Value, shape: ir.Value) -> Any:
    empty = b.op("Expand", b.scalar(0, updates), vector(b, shape))
    return b.op("ScatterND", empty, b.cast(places, np.int64), updates, reduction="add")


_SCATTER = {
    "TensorScatterUpdate": "none", "TensorScatterAdd": "add", "TensorScatterMax": "max",
    "TensorScatterMin": "min", "ScatterNdNonAliasingAdd": "add",
}  # fmt: skip


@rules(*_SCATTER)
def _tensor_scatter(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value, updates: ir.Value) -> Any:
    return b.op("ScatterND", x, b.cast(places, np.int64), updates, reduction=_SCATTER[node.op])


@rules("TensorScatterSub")
def _tensor_scatter_sub(
    b: Builder, node: SourceNode, x: ir.Value, places: ir.Value, updates: ir.Value
) -> Any:
    return b.op("ScatterND", x, b.cast(places, np.int64), b.op("Neg", updates), reduction="add")


@rules("TopKV2")
def _top_k(b: Builder, node: SourceNode, x: ir.Value, k: ir.Value) -> Any:
    ordered = bool(node.attributes.get("sorted", True))
    return _largest(b, x, vector(b, k), dtype(node, "index_type", "int32"), ordered=ordered)


@rules("TopK")
def _top_k_old(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    ordered = bool(node.attributes.get("sorted", True))
    return _largest(b, x, b.constant(np.array([node.attributes["k"]], np.int64)), np.int32, ordered=ordered)


def _largest(b: Builder, x: ir.Value, k: ir.Value, kind: Any, *, ordered: bool) -> tuple[Any, Any]:
    values, places = b.op("TopK", x, k, outputs=2, axis=-1, largest=1, sorted=int(ordered))
    return values, b.cast(places, kind)


@rules("InTopKV2")
def _in_top_k(b: Builder, node: SourceNode, scores: ir.Value, targets: ir.Value, k: ir.Value) -> Any:
    wanted = b.op("Unsqueeze", b.cast(targets, np.int64), [-1])
    own = b.op("GatherElements", scores, wanted, axis=1)
    better = b.cast(b.op("Greater", scores, own), np.int64)
    return b.op("Less", b.op("ReduceSum", better, [1], keepdims=0), b.cast(k, np.int64))


@rules("UniqueWithCounts", "UniqueWithCountsV2")
def _unique_with_counts(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value | None = None) -> Any:
    values, places = _unique(b, node, x, axis)
    _, _, _, counts = b.op("Unique", x, outputs=4, sorted=0)
    return values, places, b.cast(counts, dtype(node, "out_idx", "int32"))


@rules("Bucketize")
def _bucketize(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """How many boundaries are at most each element."""
    boundaries = np.array(node.attributes["boundaries"], np.float32)
    wide = b.op("Unsqueeze", b.cast(x, np.float32), [-1])
    above = b.cast(b.op("GreaterOrEqual", wide, boundaries), np.int32)
    return b.op("ReduceSum", above, [-1], keepdims=0)


@rules("Unique", "UniqueV2")
def _unique(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value | None = None) -> Any:
    if axis is not None and b.array(axis) is not None and (fixed_ints(b, axis, "axis") or [0]) != [0]:
        raise UnsupportedError("along an axis but the first")
    if fixed_rank(b, x) != 1:
        raise UnsupportedError("of more than one axis")
    values, _, places = b.op("Unique", x, outputs=3, sorted=0)
    return values, b.cast(places, dtype(node, "out_idx", "int32"))


@rules("SegmentSum", "UnsortedSegmentSum", "UnsortedSegmentMax", "UnsortedSegmentMin")
def _segments(
    b: Builder, node: SourceNode, x: ir.Value, places: ir.Value, count: ir.Value | None = None
) -> Any:
    if count is None:
        listed = b.array(places)
        if listed is None or not listed.size:
            raise UnsupportedError("with a number of segments that the data decides")
        count = b.constant(np.int64(listed.max() + 1))
    if fixed_rank(b, places) != 1:
        raise UnsupportedError("with places of more than one axis")
    kind = b.dtype(x)
    least = np.finfo(kind).min if kind.kind == "f" else np.iinfo(kind).min
    most = np.finfo(kind).max if kind.kind == "f" else np.iinfo(kind).max
    start = {"Sum": 0, "Max": least, "Min": most}[node.op[-3:]]
    rows = vector(b, count)
    spare = b.op("Concat", b.op("Add", rows, [1]), b.op("Shape", x, start=1), axis=0)
    empty = b.op("Expand", b.scalar(start, x), spare)
    wide = b.cast(places, np.int64)  # what has a negative place goes to a row that is cut off
    wide = b.op("Where", b.op("Less", wide, np.int64(0)), rows, wide)
    way = {"Sum": "add", "Max": "max", "Min": "min"}[node.op[-3:]]
    total = b.op("ScatterND", empty, b.op("Unsqueeze", wide, [-1]), x, reduction=way)
    return b.op("Slice", total, [0], rows, [0])
