"""Shapes: asking for them, making tensors of them, and moving elements without computing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.attributes import dtype
from raceline.convert.formats.tensorflow.values import (
    DEAD,
    Dead,
    Variable,
    axis_of,
    fixed,
    fixed_ints,
    fixed_rank,
    part,
    vector,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
PASSING = (
    "Identity", "IdentityN", "Snapshot", "StopGradient", "PreventGradient", "CheckNumerics", "CheckNumericsV2",
    "EnsureShape", "PlaceholderWithDefault", "DebugIdentityV2", "Switch", "Merge", "RefSwitch", "LoopCond",
)  # fmt: skip
"""Operators that pass on anything, tensors or not."""

_MOST_KEPT_BYTES = 1 << 20
_FAR = np.iinfo(np.int64).max


@rules("Const", "HostConst")
def _const(b: Builder, node: SourceNode) -> Any:
    dtype(node, "dtype")
    array = node.attributes["value"].array()
    if array.dtype.kind == "c":
        from raceline.convert.formats.tensorflow.values import Complex

        real, imaginary = np.ascontiguousarray(array.real), np.ascontiguousarray(array.imag)
        return Complex(b.constant(real), b.constant(imaginary))
    if array.nbytes > _MOST_KEPT_BYTES and array.size and not any(array.strides):
        return b.op("Expand", b.constant(array.reshape(-1)[:1].reshape(())), list(array.shape))
    if array.dtype.kind == "O":
        return b.constant(
            np.array([t.decode("utf-8", "replace") for t in array.reshape(-1)], object).reshape(array.shape)
        )
    return b.constant(array, name=node.name if array.size > 16 else "")


@rules("Identity", "Snapshot", "StopGradient", "PreventGradient", "LoopCond")
def _identity(b: Builder, node: SourceNode, x: Any) -> Any:
    return x


@rules("CheckNumerics", "CheckNumericsV2", "DebugIdentityV2")
def _checked(b: Builder, node: SourceNode, x: Any) -> Any:
    for name in list(node.attributes):
        node.attributes.get(name)
    return x


@rules("IdentityN")
def _identity_n(b: Builder, node: SourceNode, *items: Any) -> Any:
    return items


@rules("EnsureShape")
def _ensure_shape(b: Builder, node: SourceNode, x: Any) -> Any:
    node.attributes.get("shape")
    return x


@rules("PlaceholderWithDefault")
def _placeholder_with_default(b: Builder, node: SourceNode, x: Any) -> Any:
    node.attributes.get("shape")
    return x


@rules("Placeholder", "PlaceholderV2")
def _placeholder(b: Builder, node: SourceNode) -> Any:
    raise UnsupportedError("that is no input of the signature")


@rules("Switch", "RefSwitch")
def _switch(b: Builder, node: SourceNode, x: Any, chosen: ir.Value) -> Any:
    yes = bool(fixed(b, chosen, "condition (of TensorFlow 1)").reshape(()))
    return (DEAD, x) if yes else (x, DEAD)


@rules("Merge")
def _merge(b: Builder, node: SourceNode, *items: Any) -> Any:
    alive = [(place, item) for place, item in enumerate(items) if not isinstance(item, Dead)]
    if len(alive) != 1:
        return (DEAD, DEAD) if not alive else _refuse("of several branches that run")
    return alive[0][1], b.constant(np.int32(alive[0][0]))


def _refuse(why: str) -> Any:
    raise UnsupportedError(why)


# ---------------------------------------------------------------- asking


@rules("Shape")
def _shape(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.cast(b.sizes(x), dtype(node, "out_type", "int32"))


@rules("ShapeN")
def _shape_n(b: Builder, node: SourceNode, *items: ir.Value) -> Any:
    return tuple(b.cast(b.sizes(x), dtype(node, "out_type", "int32")) for x in items)


@rules("VariableShape")
def _variable_shape(b: Builder, node: SourceNode, variable: Any) -> Any:
    x = variable.read(b) if isinstance(variable, Variable) else variable
    return b.cast(b.sizes(x), dtype(node, "out_type", "int32"))


@rules("Rank")
def _rank(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.constant(np.int32(fixed_rank(b, x)))


@rules("Size")
def _size(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.cast(b.op("Size", x), dtype(node, "out_type", "int32"))


# ---------------------------------------------------------------- making


@rules("Fill")
def _fill(b: Builder, node: SourceNode, dims: ir.Value, value: ir.Value) -> Any:
    return b.op("Expand", value, vector(b, dims))


@rules("ZerosLike", "OnesLike")
def _like(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Expand", b.scalar(0 if node.op == "ZerosLike" else 1, x), b.sizes(x))


@rules("Range")
def _range(b: Builder, node: SourceNode, start: ir.Value, limit: ir.Value, delta: ir.Value) -> Any:
    return b.op("Range", start, limit, delta)


@rules("LinSpace")
def _lin_space(b: Builder, node: SourceNode, start: ir.Value, stop: ir.Value, num: ir.Value) -> Any:
    count = b.cast(num, np.int64)
    steps = b.cast(b.op("Range", np.int64(0), count, np.int64(1)), b.dtype(start))
    last = b.op("Max", b.op("Sub", count, np.int64(1)), np.int64(1))
    step = b.op("Div", b.op("Sub", stop, start), b.cast(last, b.dtype(start)))
    return b.op("Add", start, b.op("Mul", steps, step))


@rules("BroadcastTo")
def _broadcast_to(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value) -> Any:
    return b.op("Expand", x, vector(b, shape))


@rules("BroadcastArgs")
def _broadcast_args(b: Builder, node: SourceNode, one: ir.Value, other: ir.Value) -> Any:
    shapes = [fixed_ints(b, value, "shape") for value in (one, other)]
    return b.constant(np.array(np.broadcast_shapes(*map(tuple, shapes)), b.dtype(one)))


# ---------------------------------------------------------------- moving


@rules("Reshape")
def _reshape(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value) -> Any:
    array = b.array(shape)
    empty = array is not None and 0 in array
    return b.op("Reshape", x, vector(b, shape), allowzero=1 if empty else None)


@rules("ExpandDims")
def _expand_dims(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> Any:
    return b.op("Unsqueeze", x, fixed_ints(b, axis, "axis"))


@rules("Squeeze")
def _squeeze(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    axes = node.attributes.get("squeeze_dims") or node.attributes.get("axis")
    if axes:
        return b.op("Squeeze", x, [int(axis) for axis in axes])
    fixed_rank(b, x)
    shape = b.shape(x)
    if not all(isinstance(size, int) for size in shape):
        raise UnsupportedError("of all axes of size 1, some sizes being open")
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    return b.op("Squeeze", x, ones) if ones else x


@rules("Transpose", "ConjugateTranspose")
def _transpose(b: Builder, node: SourceNode, x: ir.Value, perm: ir.Value) -> Any:
    rank = len(fixed_ints(b, perm, "order of axes"))
    return b.transpose(x, [axis_of(axis, rank) for axis in fixed_ints(b, perm, "order of axes")])


@rules("InvertPermutation")
def _invert_permutation(b: Builder, node: SourceNode, perm: ir.Value) -> Any:
    return b.constant(np.argsort(fixed(b, perm, "order")).astype(b.dtype(perm)))


@rules("ConcatV2")
def _concat_v2(b: Builder, node: SourceNode, *items: ir.Value) -> Any:
    (axis,) = fixed_ints(b, items[-1], "axis")
    return b.op("Concat", *items[:-1], axis=axis)


@rules("Concat")
def _concat(b: Builder, node: SourceNode, axis: ir.Value, *items: ir.Value) -> Any:
    return b.op("Concat", *items, axis=fixed_ints(b, axis, "axis")[0])


@rules("Pack")
def _pack(b: Builder, node: SourceNode, *items: ir.Value) -> Any:
    axis = int(node.attributes.get("axis", 0))
    return b.op("Concat", *(b.op("Unsqueeze", item, [axis]) for item in items), axis=axis)


@rules("Unpack")
def _unpack(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    axis, count = int(node.attributes.get("axis", 0)), int(node.attributes["num"])
    if count != len(node.outputs) and count > 10_000 or count == 0:
        raise UnsupportedError(f"into {count} parts")
    if len(node.outputs) < count:
        return tuple(b.op("Gather", x, np.int64(place), axis=axis) for place in range(len(node.outputs)))
    if count == 1:
        return b.op("Squeeze", x, [axis])
    parts = b.op("Split", x, outputs=count, axis=axis, num_outputs=count)
    return tuple(b.op("Squeeze", item, [axis]) for item in parts)


@rules("Split")
def _split(b: Builder, node: SourceNode, axis: ir.Value, x: ir.Value) -> Any:
    (place,), count = fixed_ints(b, axis, "axis"), int(node.attributes["num_split"])
    if count == 1:
        return x
    return b.op("Split", x, outputs=count, axis=place, num_outputs=count)


@rules("SplitV")
def _split_v(b: Builder, node: SourceNode, x: ir.Value, sizes: ir.Value, axis: ir.Value) -> Any:
    (place,), parts = fixed_ints(b, axis, "axis"), fixed_ints(b, sizes, "sizes")
    if parts.count(-1):
        whole = b.shape(x)[axis_of(place, fixed_rank(b, x))]
        if not isinstance(whole, int):
            raise UnsupportedError("with a size that follows from an open axis")
        parts[parts.index(-1)] = whole - sum(parts) - 1
    if len(parts) == 1:
        return x
    return b.op("Split", x, parts, outputs=len(parts), axis=place)


@rules("Tile")
def _tile(b: Builder, node: SourceNode, x: ir.Value, multiples: ir.Value) -> Any:
    return b.op("Tile", x, vector(b, multiples))


@rules("Pad", "PadV2")
def _pad(b: Builder, node: SourceNode, x: ir.Value, pads: ir.Value, value: ir.Value | None = None) -> Any:
    both = b.cast(pads, np.int64)  # (axes, 2); ONNX wants all befores, then all afters
    return b.op("Pad", x, b.reshape(b.transpose(both, [1, 0]), [-1]), value, mode="constant")


@rules("MirrorPad")
def _mirror_pad(b: Builder, node: SourceNode, x: ir.Value, pads: ir.Value) -> Any:
    amounts = fixed(b, pads, "amounts").reshape(-1, 2)
    if node.attributes["mode"] == "REFLECT":
        return b.op("Pad", x, [int(n) for n in amounts.T.reshape(-1)], mode="reflect")
    for axis, (before, after) in enumerate(amounts.tolist()):
        x = _symmetric(b, x, axis, before, after)
    return x


def _symmetric(b: Builder, x: ir.Value, axis: int, before: int, after: int) -> ir.Value:
    """One axis with its ends mirrored, the outermost elements twice."""
    parts = [x]
    if before:
        parts.insert(0, b.op("Slice", x, [before - 1], [-_FAR], [axis], [-1]))
    if after:
        parts.append(b.op("Slice", x, [_FAR], [-after - 1], [axis], [-1]))
    return b.op("Concat", *parts, axis=axis) if len(parts) > 1 else x


@rules("ReverseV2")
def _reverse(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    listed = fixed_ints(b, axes, "axes")
    if not listed:
        return x
    many = len(listed)
    return b.op("Slice", x, [-1] * many, [-_FAR] * many, listed, [-1] * many)


@rules("ReverseSequence")
def _reverse_sequence(b: Builder, node: SourceNode, x: ir.Value, lengths: ir.Value) -> Any:
    rank = fixed_rank(b, x)
    time = axis_of(int(node.attributes["seq_dim"]), rank)
    batch = axis_of(int(node.attributes.get("batch_dim", 0)), rank)
    order = [batch, time, *(axis for axis in range(rank) if axis not in (batch, time))]
    turned = b.op("ReverseSequence", b.transpose(x, order), vector(b, lengths), batch_axis=0, time_axis=1)
    return b.transpose(turned, [int(axis) for axis in np.argsort(order)])


@rules("Roll")
def _roll(b: Builder, node: SourceNode, x: ir.Value, shift: ir.Value, axis: ir.Value) -> Any:
    shifts, axes = fixed_ints(b, shift, "shift"), fixed_ints(b, axis, "axis")
    for amount, place in zip(shifts, axes, strict=True):
        size = b.shape(x)[place]
        if not isinstance(size, int):
            raise UnsupportedError("along an open axis")
        if size and amount % size:
            cut = size - amount % size
            tail = b.op("Slice", x, [cut], [_FAR], [place])
            x = b.op("Concat", tail, b.op("Slice", x, [0], [cut], [place]), axis=place)
    return x


# ---------------------------------------------------------------- slices


@rules("Slice")
def _slice(b: Builder, node: SourceNode, x: ir.Value, begin: ir.Value, size: ir.Value) -> Any:
    axes = list(range(fixed_rank(b, x)))
    sizes = b.array(size)
    starts = vector(b, begin)
    if sizes is not None and (array := b.array(begin)) is not None:
        ends = [_FAR if n < 0 else int(s) + int(n) for s, n in zip(array, sizes, strict=True)]
        return b.op("Slice", x, starts, ends, axes)
    counts = vector(b, size)
    ends_value = b.op("Add", starts, counts)
    if sizes is None or (sizes < 0).any():
        open_end = b.op("Less", counts, np.int64(0))
        ends_value = b.op("Where", open_end, np.int64(_FAR), ends_value)
    return b.op("Slice", x, starts, ends_value, axes)


@rules("StridedSlice")
def _strided_slice(
    b: Builder, node: SourceNode, x: ir.Value, begin: ir.Value, end: ir.Value, strides: ir.Value
) -> Any:
    """By one Slice; single elements by a Gather each, which drops the axis, and new axes at the end."""
    masks = {
        name: int(node.attributes.get(f"{name}_mask", 0))
        for name in ("begin", "end", "ellipsis", "new_axis", "shrink_axis")
    }
    steps = fixed_ints(b, strides, "strides")
    plan = _plan(masks, len(steps), fixed_rank(b, x))
    starts, stops = _elements(b, begin), _elements(b, end)
    ranges, singles = [], []
    for place, axis in plan.axes:
        if masks["shrink_axis"] >> place & 1:
            singles.append((axis, starts(place)))
        else:
            first = masks["begin"] >> place & 1
            last = masks["end"] >> place & 1
            step = steps[place]
            low: Any = (0 if step > 0 else _FAR) if first else starts(place)
            high: Any = (_FAR if step > 0 else -_FAR) if last else stops(place)
            if not (first and last and step == 1):
                ranges.append((axis, low, high, step))
    if ranges:
        axes, lows, highs, many = zip(*ranges, strict=True)
        x = b.op("Slice", x, _joined(b, lows), _joined(b, highs), list(axes), list(many))
    for axis, index in sorted(singles, key=lambda item: -item[0]):
        single: Any = np.int64(index) if isinstance(index, int) else b.reshape(index, [])
        x = b.op("Gather", x, single, axis=axis)
    return b.op("Unsqueeze", x, plan.fresh) if plan.fresh else x


class _Plan:
    """Which entry of a slice is for which axis, and where new axes come."""

    def __init__(self) -> None:
        self.axes: list[tuple[int, int]] = []
        self.fresh: list[int] = []


def _plan(masks: dict[str, int], count: int, rank: int) -> _Plan:
    new = [p for p in range(count) if masks["new_axis"] >> p & 1 and not masks["ellipsis"] >> p & 1]
    ellipsis = [p for p in range(count) if masks["ellipsis"] >> p & 1]
    if len(ellipsis) > 1:
        raise ValueError("a slice with several ellipses")
    used = count - len(new) - len(ellipsis)
    if used > rank:
        raise IndexError(f"a slice of {used} axes of {rank}")
    plan = _Plan()
    axis = out = 0
    for place in range(count):
        if place in ellipsis:
            axis, out = axis + rank - used, out + rank - used
        elif place in new:
            plan.fresh.append(out)
            out += 1
        else:
            plan.axes.append((place, axis))
            axis += 1
            out += 0 if masks["shrink_axis"] >> place & 1 else 1
    return plan


def _elements(b: Builder, value: ir.Value) -> Any:
    """Asks for one element of a vector: a number where it is known, else a vector of one."""
    array = b.array(value)

    def element(place: int) -> Any:
        if array is not None:
            return int(array[place])
        single = part(b, value, place)
        known = b.array(single)
        return single if known is None else int(known.reshape(()))

    return element


def _joined(b: Builder, items: tuple[Any, ...]) -> Any:
    if all(isinstance(item, int) for item in items):
        return list(items)
    return b.op("Concat", *([item] if isinstance(item, int) else item for item in items), axis=0)
