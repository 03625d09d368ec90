"""Operations that choose, order or replace elements by index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.settings import (
    as_int64,
    as_list,
    fixed,
    fixed_ints,
    flag,
    integer,
    ints,
    opset,
    sizes,
    skip,
    word,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_REDUCTIONS = {"none": None, "sum": "add", "prod": "mul", "min": "min", "max": "max"}


@rules("Gather")
def gather(b: Builder, node: SourceNode, x: ir.Value, indices: ir.Value, axis: ir.Value) -> Any:
    """Slices of one axis; with `batch_dims`, of each item's own."""
    (along,) = fixed_ints(b, axis, "axis")
    batch = integer(node, "batch_dims", 0)
    rank = b.rank(indices)
    batch = batch + rank if batch < 0 else batch
    if batch == 0:
        return b.op("Gather", x, as_int64(b, indices), axis=along)
    along = along % b.rank(x)
    if along == batch == rank - 1:  # one index a row and one axis of it
        return _rows(b, x, as_int64(b, indices), along)
    return _batched(b, x, as_int64(b, indices), along, batch)


def _rows(b: Builder, x: ir.Value, indices: ir.Value, axis: int) -> Any:
    """Gather with one axis of indices behind the axes of the batch: the axes behind are copied along."""
    behind = b.rank(x) - axis - 1
    if behind:
        indices = b.op("Unsqueeze", indices, [*range(axis + 1, axis + 1 + behind)])
        tail = b.op("Shape", x, start=axis + 1)
        indices = b.op("Expand", indices, b.op("Concat", [1] * (axis + 1), tail, axis=0))
    return b.op("GatherElements", x, indices, axis=axis)


def _batched(b: Builder, x: ir.Value, indices: ir.Value, axis: int, batch: int) -> ir.Value:
    """Gather within each item: index axes are made one, then given their shape again."""
    shape_x, shape_i = sizes(b, x, "input with batch_dims"), sizes(b, indices, "indices with batch_dims")
    head = shape_x[:batch]
    order = [*range(batch), axis, *(a for a in range(batch, len(shape_x)) if a != axis)]
    moved = b.transpose(x, order)  # batch, axis, rest
    flat = b.reshape(indices, [*head, int(np.prod(shape_i[batch:]))])
    picked = _rows(b, moved, flat, batch)  # batch, all indices, rest
    rest = [shape_x[a] for a in order[batch + 1 :]]
    whole = b.reshape(picked, [*head, *shape_i[batch:], *rest])
    count, before = len(shape_i) - batch, axis - batch
    first = [*range(batch + count, batch + count + before)]
    last = [*range(batch + count + before, batch + count + len(rest))]
    return b.transpose(whole, [*range(batch), *first, *range(batch, batch + count), *last])


@rules("GatherElements")
def gather_elements(b: Builder, node: SourceNode, x: ir.Value, indices: ir.Value) -> Any:
    """One element for each index."""
    return b.op("GatherElements", x, as_int64(b, indices), axis=integer(node, "axis") % b.rank(x))


@rules("GatherND")
def gather_nd(b: Builder, node: SourceNode, x: ir.Value, indices: ir.Value) -> Any:
    """Slices by indices of several axes; the fifth set flattens the axes of the batch."""
    batch = integer(node, "batch_dims", 0)
    found = b.op("GatherND", x, as_int64(b, indices), batch_dims=batch)
    if opset(node) >= 8 or batch < 2:
        return found
    tail = b.op("Shape", found, start=batch)
    return b.op("Reshape", found, b.op("Concat", [-1], tail, axis=0))


@rules("ScatterUpdate")
def scatter_update(
    b: Builder, node: SourceNode, x: ir.Value, indices: ir.Value, updates: ir.Value, axis: ir.Value
) -> ir.Value:
    """Replace whole slices of one axis."""
    (along,) = fixed_ints(b, axis, "axis")
    rank, own = b.rank(x), b.rank(indices)
    along %= rank
    indices = as_int64(b, indices)
    order = [*range(along, along + own), *range(along), *range(along + own, b.rank(updates))]
    moved_x = b.transpose(x, [along, *(a for a in range(rank) if a != along)])
    written = b.op("ScatterND", moved_x, b.op("Unsqueeze", indices, [own]), b.transpose(updates, order))
    return b.transpose(written, [*range(1, along + 1), 0, *range(along + 1, rank)])


@rules("ScatterElementsUpdate")
def scatter_elements(
    b: Builder, node: SourceNode, x: ir.Value, indices: ir.Value, updates: ir.Value, axis: ir.Value
) -> Any:
    """Replace, or combine with, single elements."""
    (along,) = fixed_ints(b, axis, "axis")
    kind = word(node, "reduction", "none", _REDUCTIONS)
    if not flag(node, "use_init_val", True) and kind != "none":
        raise UnsupportedError("use_init_val=false")
    return b.op("ScatterElements", x, as_int64(b, indices), updates, axis=along, reduction=_REDUCTIONS[kind])


@rules("ScatterNDUpdate")
def scatter_nd(b: Builder, node: SourceNode, x: ir.Value, indices: ir.Value, updates: ir.Value) -> Any:
    """Replace, or combine with, slices by indices of several axes."""
    kind = word(node, "reduction", "none", _REDUCTIONS)
    return b.op("ScatterND", x, as_int64(b, indices), updates, reduction=_REDUCTIONS[kind])


@rules("NonZero")
def non_zero(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Where elements are not zero."""
    skip(node, "output_type")
    return b.op("NonZero", x)


@rules("Bucketize")
def bucketize(b: Builder, node: SourceNode, x: ir.Value, edges: ir.Value) -> Any:
    """The number of edges below each element."""
    skip(node, "output_type")
    right = flag(node, "with_right_bound", True)
    return _counted(b, x, edges, "Greater" if right else "GreaterOrEqual")


def _counted(b: Builder, x: ir.Value, edges: ir.Value, comparison: str) -> Any:
    if b.dtype(x) != b.dtype(edges):
        x, edges = b.cast(x, np.float64), b.cast(edges, np.float64)
    passed = b.op(comparison, b.op("Unsqueeze", x, [-1]), edges)
    return b.op("ReduceSum", b.cast(passed, np.int64), [-1], keepdims=0)


@rules("SearchSorted")
def search_sorted(b: Builder, node: SourceNode, edges: ir.Value, x: ir.Value) -> Any:
    """Where each element would go among sorted ones."""
    skip(node, "output_type")
    comparison = "GreaterOrEqual" if flag(node, "right_mode", False) else "Greater"
    return _counted(b, x, edges if b.rank(edges) == 1 else b.op("Unsqueeze", edges, [-2]), comparison)


@rules("TopK")
def top_k(b: Builder, node: SourceNode, x: ir.Value, count: ir.Value) -> Any:
    """The largest or smallest elements, ordered by value, by place or not at all."""
    axis = integer(node, "axis") % b.rank(x)
    largest = word(node, "mode", "max", ("max", "min")) == "max"
    order = word(node, "sort", "value", ("value", "index", "none"))
    skip(node, "index_element_type", "stable")
    values, places = b.op("TopK", x, as_list(b, count), axis=axis, largest=int(largest), sorted=1, outputs=2)
    if order == "index":
        places, _ = b.op("TopK", places, as_list(b, count), axis=axis, largest=0, sorted=1, outputs=2)
        values = b.op("GatherElements", x, places, axis=axis)
    return values, places


@rules("Unique")
def unique(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value | None = None) -> Any:
    """Elements without repetition, in order of value or of first appearance."""
    skip(node, "index_element_type", "count_element_type")
    along = None if axis is None else fixed_ints(b, axis, "axis")[0]
    return b.op("Unique", x, axis=along, sorted=int(flag(node, "sorted", True)), outputs=4)


def _mask(node: SourceNode, name: str, count: int) -> list[bool]:
    """A mask of bits; missing ones are 0."""
    given = [bool(bit) for bit in ints(node, name, [])]
    return (given + [False] * count)[:count]


@rules("StridedSlice")
def strided_slice(
    b: Builder,
    node: SourceNode,
    x: ir.Value,
    begin: ir.Value,
    end: ir.Value,
    steps: ir.Value | None = None,
) -> ir.Value:
    """NumPy's x[begin:end:step, ..., None, 3] with all five masks."""
    (count,) = b.shape(begin)
    if not isinstance(count, int):
        raise UnsupportedError("an open number of axes")
    masks = {
        key: _mask(node, f"{key}_mask", count)
        for key in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")
    }
    plan = _plan(masks, count, b.rank(x))
    given = [value for entry, axis in plan["slices"] for value in (entry,)]
    stride = [1] * count if steps is None else fixed_ints(b, steps, "strides")
    axes = [axis for _, axis in plan["slices"]]
    if axes:
        starts, stops = _ends(b, begin, end, given, masks, stride)
        x = b.op(
            "Slice",
            x,
            starts,
            stops,
            axes,
            [stride[entry] if not masks["shrink_axis"][entry] else 1 for entry in given],
        )
    if plan["shrink"]:
        x = b.op("Squeeze", x, plan["shrink"])
    return b.op("Unsqueeze", x, plan["new"]) if plan["new"] else x


def _plan(masks: dict[str, list[bool]], count: int, rank: int) -> dict[str, Any]:
    """Which entry slices which axis, which axes go, and where new ones are in the result."""
    taken = sum(not masks["new_axis"][i] and not masks["ellipsis"][i] for i in range(count))
    slices: list[tuple[int, int]] = []
    shrink, new = [], []
    axis = place = 0
    for entry in range(count):
        if masks["ellipsis"][entry]:
            axis += rank - taken
            place += rank - taken
        elif masks["new_axis"][entry]:
            new.append(place)
            place += 1
        else:
            slices.append((entry, axis))
            if masks["shrink_axis"][entry]:
                shrink.append(axis)
            else:
                place += 1
            axis += 1
    return {"slices": slices, "shrink": shrink, "new": new}


def _ends(
    b: Builder,
    begin: ir.Value,
    end: ir.Value,
    entries: list[int],
    masks: dict[str, list[bool]],
    stride: list[int],
) -> tuple[Any, Any]:
    """Starts and stops; a mask of 1 opens an end, an axis that goes has one element."""
    known = b.array(begin), b.array(end)
    if known[0] is not None and known[1] is not None:
        starts, stops = [], []
        for i in entries:
            first, last = int(known[0][i]), int(known[1][i])
            if masks["shrink_axis"][i]:
                last = first + 1 if first != -1 else 2**62
            else:
                first = (0 if stride[i] > 0 else 2**62) if masks["begin"][i] else first
                last = (2**62 if stride[i] > 0 else -(2**62)) if masks["end"][i] else last
            starts.append(first)
            stops.append(last)
        return starts, stops
    picked = [b.op("Gather", as_int64(b, value), entries) for value in (begin, end)]
    if any(masks["shrink_axis"][i] for i in entries):
        goes = np.array([masks["shrink_axis"][i] for i in entries])
        after = b.op("Add", picked[0], [1])
        after = b.op("Where", b.op("Equal", after, [0]), [2**62], after)
        picked[1] = b.op("Where", goes, after, picked[1])
    for side, key in ((0, "begin"), (1, "end")):
        is_open = np.array([masks[key][i] and not masks["shrink_axis"][i] for i in entries])
        if is_open.any():
            forward, backward = ((0, 2**62), (2**62, -(2**62)))[side]
            fill = np.array([forward if stride[i] > 0 else backward for i in entries], np.int64)
            picked[side] = b.op("Where", is_open, fill, picked[side])
    return picked[0], picked[1]


@rules("Slice")
def slice_(
    b: Builder,
    node: SourceNode,
    x: ir.Value,
    start: ir.Value,
    stop: ir.Value,
    step: ir.Value,
    axes: ir.Value | None = None,
) -> Any:
    """ONNX's own."""
    chosen = None if axes is None else as_list(b, axes)
    return b.op("Slice", x, as_list(b, start), as_list(b, stop), chosen, as_list(b, step))


@rules("NonMaxSuppression")
def non_max_suppression(
    b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, *more: ir.Value
) -> Any:
    """Best boxes that do not overlap: (batch, class, box), their scores, and how many."""
    centre = word(node, "box_encoding", "corner", ("corner", "center")) == "center"
    ordered = flag(node, "sort_result_descending", True)
    skip(node, "output_type")
    most, overlap, least, sigma = (*more, None, None, None, None)[:4]
    if sigma is not None and float(fixed(b, sigma, "soft_nms_sigma").reshape(-1)[0]) != 0:
        raise UnsupportedError("soft_nms_sigma over 0")
    if most is None:
        most = b.constant(np.array(0, np.int64))
    limits = [value if value is None else b.op("Reshape", value, [1]) for value in (overlap, least)]
    found = b.op(
        "NonMaxSuppression", b.cast(boxes, np.float32), b.cast(scores, np.float32),
        as_list(b, most), *(value if value is None else b.cast(value, np.float32) for value in limits),
        center_point_box=int(centre),
    )  # fmt: skip
    picked = b.op("GatherND", scores, b.op("Gather", found, [0, 1, 2], axis=1))
    total = b.op("Shape", found, start=0, end=1)
    if ordered:
        picked, order = b.op("TopK", picked, total, axis=0, outputs=2)
        found = b.op("Gather", found, order, axis=0)
    labels = b.op("Gather", found, [0, 1], axis=1)
    table = b.op("Concat", b.cast(labels, b.dtype(scores)), b.op("Unsqueeze", picked, [1]), axis=1)
    return found, table, total
