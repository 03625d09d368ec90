"""Operators that move elements: reshaping, cutting, joining, padding, blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.channels_last import channels_first, channels_last
from raceline.convert.formats.tflite.asking import (
    INT64_MAX,
    INT64_MIN,
    axes_of,
    fixed,
    int64,
    known,
    known_ints,
    option,
    source,
    target,
)
from raceline.convert.formats.tflite.quantise import activated, turned
from raceline.convert.graph import Array
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_LARGEST_MASK = 1 << 24  # elements


@rules("RESHAPE")
def reshape(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value | None = None) -> ir.Value:
    """To a shape given as a tensor, as an option, or by the result's own record."""
    if shape is not None:
        # An old file gives [0] for a scalar.
        array = b.array(shape)
        scalar = array is not None and array.shape == (1,) and array[0] == 0 and target(node).shape == ()
        sizes = b.constant(np.zeros(0, np.int64)) if scalar else int64(b, shape)
        return b.op("Reshape", x, sizes, allowzero=_allow_zero(b, sizes))  # type: ignore[no-any-return]
    given = node.attributes.get("new_shape")
    sizes_now = list(given if given is not None else target(node).shape or ())
    if sizes_now == [0] and target(node).shape == ():
        sizes_now = []
    return b.op("Reshape", x, np.array(sizes_now, np.int64))  # type: ignore[no-any-return]


def _allow_zero(b: Builder, sizes: ir.Value) -> int | None:
    array = b.array(sizes)
    return 1 if array is not None and (array == 0).any() and not (array < 0).any() else None


@rules("SQUEEZE")
def squeeze(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Without axes of size 1: those named, or all."""
    named = node.attributes.get("squeeze_dims") or ()
    shape = b.shape(x)
    if not named and any(not isinstance(dim, int) for dim in shape):
        raise UnsupportedError("of all axes, where some are open")
    axes = [axis % len(shape) for axis in named] or [i for i, dim in enumerate(shape) if dim == 1]
    return b.op("Squeeze", x, axes) if axes else x


@rules("EXPAND_DIMS")
def expand_dims(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> ir.Value:
    """With one more axis."""
    return b.op("Unsqueeze", x, known_ints(b, axis, "an axis"))  # type: ignore[no-any-return]


@rules("TRANSPOSE")
def transpose(b: Builder, node: SourceNode, x: ir.Value, perm: ir.Value) -> ir.Value:
    """Axes in another order."""
    rank = b.rank(x)
    order = [axis + rank if axis < 0 else axis for axis in known_ints(b, perm, "an order of axes")]
    if sorted(order) != list(range(rank)):
        raise ValueError(f"{order} is no order of {rank} axes")
    return b.transpose(x, order)


@rules("CONCATENATION")
def concatenation(b: Builder, node: SourceNode, *parts: ir.Value) -> ir.Value:
    """Joined along an axis, then a fused activation."""
    found, axis = turned(b, *parts), option(node, "axis")
    if found is None:
        joined = b.op("Concat", *parts, axis=axis)
    else:
        perm, inner = found
        joined = b.transpose(b.op("Concat", *inner, axis=perm[axis]), perm)
    return activated(b, joined, option(node, "fused_activation_function"), target(node))


@rules("PACK")
def pack(b: Builder, node: SourceNode, *parts: ir.Value) -> ir.Value:
    """Joined along a new axis."""
    axis = option(node, "axis")
    axis += b.rank(parts[0]) + 1 if axis < 0 else 0
    return b.op("Concat", *(b.op("Unsqueeze", part, [axis]) for part in parts), axis=axis)  # type: ignore[no-any-return]


@rules("UNPACK")
def unpack(b: Builder, node: SourceNode, x: ir.Value) -> tuple[ir.Value, ...]:
    """Every slice along an axis, without it."""
    axis = option(node, "axis") % b.rank(x)
    count = len(node.outputs)
    if fixed(b, x, axis, "an unpacked axis") != count or option(node, "num", count) != count:
        raise ValueError(f"{count} outputs for an axis of size {b.shape(x)[axis]}")
    return tuple(b.op("Squeeze", part, [axis]) for part in _split(b, x, [1] * count, axis))


def _split(b: Builder, x: ir.Value, sizes: list[int], axis: int) -> tuple[ir.Value, ...]:
    if len(sizes) == 1:
        return (x,)
    return b.op("Split", x, sizes, axis=axis, outputs=len(sizes))  # type: ignore[no-any-return]


@rules("SPLIT")
def split(b: Builder, node: SourceNode, axis: ir.Value, x: ir.Value) -> tuple[ir.Value, ...]:
    """Equal parts."""
    where = axes_of(b, x, axis)[0]
    count = len(node.outputs)
    size = fixed(b, x, where, "a split axis")
    if size % count:
        raise ValueError(f"an axis of size {size} in {count} equal parts")
    return _split(b, x, [size // count] * count, where)


@rules("SPLIT_V")
def split_v(
    b: Builder, node: SourceNode, x: ir.Value, sizes: ir.Value, axis: ir.Value
) -> tuple[ir.Value, ...]:
    """Parts of given sizes; -1 stands for what is left."""
    where = axes_of(b, x, axis)[0]
    parts = known_ints(b, sizes, "sizes")
    if -1 in parts:
        parts[parts.index(-1)] = fixed(b, x, where, "a split axis") - sum(p for p in parts if p != -1)
    return _split(b, x, parts, where)


@rules("SLICE")
def slice_(b: Builder, node: SourceNode, x: ir.Value, begin: ir.Value, size: ir.Value) -> ir.Value:
    """A box: where it begins and how large it is; -1 stands for all that follows."""
    starts, sizes = int64(b, begin), int64(b, size)
    rest = b.op("Less", sizes, np.int64(0))
    ends = b.op("Where", rest, np.int64(INT64_MAX), b.op("Add", starts, sizes))
    return b.op("Slice", x, starts, ends, list(range(b.rank(x))))  # type: ignore[no-any-return]


@rules("STRIDED_SLICE")
def strided_slice(
    b: Builder, node: SourceNode, x: ir.Value, begin: ir.Value, end: ir.Value, strides: ir.Value
) -> ir.Value:
    """Python's slicing; bits say which entries are open, an ellipsis, a new axis or a single index."""
    steps = known_ints(b, strides, "steps")
    masks = {
        name: {i for i in range(len(steps)) if option(node, f"{name}_mask") >> i & 1}
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    kept, axes, shrunk, new = _entries(len(steps), b.rank(x), masks)
    starts, ends = (b.op("Gather", int64(b, value), kept) for value in (begin, end))
    if option(node, "offset"):
        ends = b.op("Add", starts, ends)
    step = [steps[i] for i in kept]
    backwards = np.array(step) < 0
    open_start = np.array([i in masks["begin"] and i not in masks["shrink_axis"] for i in kept])
    open_end = np.array([i in masks["end"] and i not in masks["shrink_axis"] for i in kept])
    single = np.array([i in masks["shrink_axis"] for i in kept])
    if (np.array(step)[single] != 1).any():
        raise UnsupportedError("a single index with a step")
    starts = _where(b, open_start, np.where(backwards, INT64_MAX, 0), starts)
    ends = _where(b, open_end, np.where(backwards, INT64_MIN, INT64_MAX), ends)
    if single.any():
        after = b.op("Add", starts, np.int64(1))
        after = b.op("Where", b.op("Equal", after, np.int64(0)), np.int64(INT64_MAX), after)
        ends = b.op("Where", single, after, ends)
    result = b.op("Slice", x, starts, ends, axes, step) if kept else x
    result = b.op("Squeeze", result, shrunk) if shrunk else result
    return b.op("Unsqueeze", result, new) if new else result


def _where(b: Builder, mask: Array, fixed_values: Array, value: ir.Value) -> ir.Value:
    return b.op("Where", mask, fixed_values.astype(np.int64), value) if mask.any() else value


def _entries(
    count: int, rank: int, masks: dict[str, set[int]]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Entries that cut, the axis of each, axes that vanish, and places of new axes in the result."""
    if len(masks["ellipsis"]) > 1:
        raise ValueError("two ellipses")
    new_axes = masks["new_axis"] - masks["ellipsis"]
    consumed = count - len(new_axes) - len(masks["ellipsis"])
    kept, axes, shrunk, new = [], [], [], []
    axis = place = 0
    for entry in range(count):
        if entry in masks["ellipsis"]:
            axis, place = axis + rank - consumed, place + rank - consumed
        elif entry in new_axes:
            new.append(place)
            place += 1
        else:
            kept.append(entry)
            axes.append(axis)
            if entry in masks["shrink_axis"]:
                shrunk.append(axis)
            else:
                place += 1
            axis += 1
    if axis > rank:
        raise ValueError(f"{consumed} entries for {rank} axes")
    return kept, axes, shrunk, new


@rules("PAD", "PADV2")
def pad(
    b: Builder, node: SourceNode, x: ir.Value, amounts: ir.Value, value: ir.Value | None = None
) -> ir.Value:
    """With zeros, or with a value."""
    pads = b.op("Reshape", b.op("Transpose", int64(b, amounts), perm=[1, 0]), [-1])
    filling = b.op("Reshape", value, np.zeros(0, np.int64)) if value is not None else None
    return b.op("Pad", x, pads, filling)  # type: ignore[no-any-return]


@rules("MIRROR_PAD")
def mirror_pad(b: Builder, node: SourceNode, x: ir.Value, amounts: ir.Value) -> ir.Value:
    """Mirrored at the edge (REFLECT), or the edge with it (SYMMETRIC)."""
    if option(node, "mode") == 0:
        pads = b.op("Reshape", b.op("Transpose", int64(b, amounts), perm=[1, 0]), [-1])
        return b.op("Pad", x, pads, mode="reflect")  # type: ignore[no-any-return]
    for axis, (before, after) in enumerate(known(b, amounts, "amounts").reshape(-1, 2).tolist()):
        first = [b.op("Slice", x, [before - 1], [INT64_MIN], [axis], [-1])] if before else []
        last = [b.op("Slice", x, [-1], [-1 - after], [axis], [-1])] if after else []
        x = b.op("Concat", *first, x, *last, axis=axis) if before or after else x
    return x


@rules("TILE")
def tile(b: Builder, node: SourceNode, x: ir.Value, repeats: ir.Value) -> ir.Value:
    """Repeated along each axis."""
    return b.op("Tile", x, int64(b, repeats))  # type: ignore[no-any-return]


@rules("SHAPE")
def shape_of(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """The sizes."""
    return b.cast(b.sizes(x), np.int64 if target(node).dtype == "INT64" else np.int32)


@rules("RANK")
def rank_of(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """The number of axes."""
    return b.constant(np.array(b.rank(x), np.int32))


@rules("FILL")
def fill(b: Builder, node: SourceNode, sizes: ir.Value, value: ir.Value) -> ir.Value:
    """One value in a given shape."""
    return b.op("Expand", value, int64(b, sizes))  # type: ignore[no-any-return]


@rules("RANGE")
def range_(b: Builder, node: SourceNode, start: ir.Value, limit: ir.Value, delta: ir.Value) -> ir.Value:
    """Numbers in even steps."""
    scalars = [b.op("Reshape", value, np.zeros(0, np.int64)) for value in (start, limit, delta)]
    return b.op("Range", *scalars)  # type: ignore[no-any-return]


@rules("REVERSE_V2")
def reverse(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> ir.Value:
    """Backwards along axes."""
    where = axes_of(b, x, axes)
    count = len(where)
    return b.op("Slice", x, [-1] * count, [INT64_MIN] * count, where, [-1] * count) if where else x


@rules("REVERSE_SEQUENCE")
def reverse_sequence(b: Builder, node: SourceNode, x: ir.Value, lengths: ir.Value) -> ir.Value:
    """The first elements of each item backwards, along another axis."""
    time, batch, rank = option(node, "seq_dim"), option(node, "batch_dim"), b.rank(x)
    order = [batch, time, *(axis for axis in range(rank) if axis not in {batch, time})]
    y = b.op("ReverseSequence", b.transpose(x, order), int64(b, lengths), batch_axis=0, time_axis=1)
    return b.transpose(y, [order.index(axis) for axis in range(rank)])


@rules("BROADCAST_TO")
def broadcast_to(b: Builder, node: SourceNode, x: ir.Value, sizes: ir.Value) -> ir.Value:
    """Repeated to a shape."""
    return b.op("Expand", x, int64(b, sizes))  # type: ignore[no-any-return]


@rules("BROADCAST_ARGS")
def broadcast_args(b: Builder, node: SourceNode, one: ir.Value, other: ir.Value) -> ir.Value:
    """The shape that two shapes broadcast to."""
    ranks = [b.shape(value)[0] for value in (one, other)]
    if not all(isinstance(rank, int) for rank in ranks):
        raise UnsupportedError("shapes of open rank")
    rank = max(int(r) for r in ranks if isinstance(r, int))
    whole = [
        b.op("Concat", [1] * (rank - int(r)), int64(b, value), axis=0) if r != rank else int64(b, value)
        for r, value in zip(ranks, (one, other), strict=True)
        if isinstance(r, int)
    ]
    larger = b.op("Where", b.op("Equal", whole[0], np.int64(1)), whole[1], whole[0])
    return b.cast(larger, b.dtype(one))


@rules("SPACE_TO_DEPTH")
def space_to_depth(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Blocks of pixels become channels, block by block as in the standard."""
    y = b.op("SpaceToDepth", channels_first(b, x), blocksize=option(node, "block_size"))
    return channels_last(b, y)


@rules("DEPTH_TO_SPACE")
def depth_to_space(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Channels become blocks of pixels."""
    y = b.op("DepthToSpace", channels_first(b, x), blocksize=option(node, "block_size"), mode="DCR")
    return channels_last(b, y)


@rules("SPACE_TO_BATCH_ND")
def space_to_batch(b: Builder, node: SourceNode, x: ir.Value, block: ir.Value, amounts: ir.Value) -> ir.Value:
    """Padded, then every offset inside a block becomes a batch of its own."""
    blocks, pads = known_ints(b, block, "block sizes"), known(b, amounts, "amounts").reshape(-1, 2)
    rank, count = b.rank(x), len(blocks)
    rest = rank - 1 - count
    before, after = ([0, *pads[:, side].tolist(), *[0] * rest] for side in (0, 1))
    x = b.op("Pad", x, [*before, *after]) if pads.any() else x
    spatial = [fixed(b, x, axis, "a spatial axis") for axis in range(1, count + 1)]
    tail = [fixed(b, x, axis, "an axis") for axis in range(count + 1, rank)]
    if any(size % k for size, k in zip(spatial, blocks, strict=True)):
        raise ValueError(f"{spatial} in blocks of {blocks}")
    cut = [part for size, k in zip(spatial, blocks, strict=True) for part in (size // k, k)]
    y = b.reshape(x, [-1, *cut, *tail])
    inner, outer = [2 + 2 * i for i in range(count)], [1 + 2 * i for i in range(count)]
    y = b.transpose(y, [*inner, 0, *outer, *range(1 + 2 * count, 1 + 2 * count + rest)])
    return b.reshape(y, [-1, *cut[::2], *tail])


@rules("BATCH_TO_SPACE_ND")
def batch_to_space(b: Builder, node: SourceNode, x: ir.Value, block: ir.Value, crops: ir.Value) -> ir.Value:
    """Batches become offsets inside blocks, then the edge is cut off."""
    blocks, cuts = known_ints(b, block, "block sizes"), known(b, crops, "amounts").reshape(-1, 2)
    rank, count = b.rank(x), len(blocks)
    sizes = [fixed(b, x, axis, "an axis") for axis in range(1, rank)]
    y = b.reshape(x, [*blocks, -1, *sizes])
    places = [place for i in range(count) for place in (count + 1 + i, i)]
    y = b.transpose(y, [count, *places, *range(2 * count + 1, count + rank)])
    spatial = [size * k for size, k in zip(sizes[:count], blocks, strict=True)]
    y = b.reshape(y, [-1, *spatial, *sizes[count:]])
    if not cuts.any():
        return y
    ends = [size - int(cut) for size, cut in zip(spatial, cuts[:, 1], strict=True)]
    return b.op("Slice", y, cuts[:, 0].tolist(), ends, list(range(1, count + 1)))  # type: ignore[no-any-return]


@rules("MATRIX_DIAG")
def matrix_diag(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Vectors on the diagonals of matrices of zeros."""
    size = fixed(b, x, b.rank(x) - 1, "a diagonal")
    wide = b.op("Unsqueeze", x, [b.rank(x)])
    return b.op("Where", _diagonal(size, size), wide, b.scalar(0, x))  # type: ignore[no-any-return]


@rules("MATRIX_SET_DIAG")
def matrix_set_diag(b: Builder, node: SourceNode, x: ir.Value, diagonal: ir.Value) -> ir.Value:
    """Matrices with other diagonals."""
    rank = b.rank(x)
    rows, columns = (fixed(b, x, axis, "a matrix") for axis in (rank - 2, rank - 1))
    if rows > columns:
        wide = b.op("Unsqueeze", diagonal, [rank - 2])
    else:
        wide = b.op("Unsqueeze", diagonal, [rank - 1])
    return b.op("Where", _diagonal(rows, columns), wide, x)  # type: ignore[no-any-return]


def _diagonal(rows: int, columns: int) -> Array:
    """True on the diagonal; a file may claim any size."""
    if rows * columns > _LARGEST_MASK:
        raise UnsupportedError(f"matrices of {rows} x {columns}")
    return np.eye(rows, columns, dtype=bool)


@rules("DILATE")
def dilate(b: Builder, node: SourceNode, x: ir.Value, steps: ir.Value, filling: ir.Value) -> ir.Value:
    """A value put between neighbours."""
    amounts = known_ints(b, steps, "steps")
    scalar = b.op("Reshape", filling, np.zeros(0, np.int64))
    for axis, step in enumerate(amounts):
        if step > 1:
            rank = b.rank(x)
            size = fixed(b, x, axis, "a dilated axis")
            wide = b.op("Unsqueeze", x, [axis + 1])
            pads = [0] * (rank + 1) + [0] * (axis + 1) + [step - 1] + [0] * (rank - axis - 1)
            wide = b.op("Pad", wide, pads, scalar)
            dims = [d if isinstance(d, int) else -1 for d in b.shape(x)]
            dims[axis] = size * step
            x = b.op("Slice", b.reshape(wide, dims), [0], [size * step - step + 1], [axis])
    return x


@rules("DENSIFY")
def densify(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Sparse weights are filled up when they are read."""
    if source(node).data is None:
        raise UnsupportedError("of what the model computes")
    return x


@rules("DYNAMIC_UPDATE_SLICE")
def dynamic_update_slice(
    b: Builder, node: SourceNode, x: ir.Value, update: ir.Value, starts: ir.Value
) -> ir.Value:
    """A box of other values, moved to lie inside."""
    sizes, inner = b.sizes(x), b.sizes(update)
    room = b.op("Sub", sizes, inner)
    begin = b.op("Min", b.op("Max", int64(b, starts), np.int64(0)), room)
    pads = b.op("Concat", begin, b.op("Sub", room, begin), axis=0)
    placed = b.op("Pad", update, pads)
    ones = b.op("Expand", np.int32(1), inner)
    inside = b.op("Equal", b.op("Pad", ones, pads), np.int32(1))
    return b.op("Where", inside, placed, x)  # type: ignore[no-any-return]
