"""Shapes: reshaping, slicing, joining, repeating."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, positive, rule
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_END = int(np.iinfo(np.int64).max)
_INT32_MIN = int(np.iinfo(np.int32).min)


@rule(rules, "reshape", "reshape2")
def _reshape(b: Builder, c: Call) -> Any:
    return b.op("Reshape", c.value("X"), c.vector(b, "shape", "Shape", "ShapeTensor"))


@rule(rules, "transpose", "transpose2")
def _transpose(b: Builder, c: Call) -> Any:
    x, perm = c.value("X"), c.integers("axis")
    c.ignore("data_format")
    perm = [positive(axis, b.rank(x)) for axis in perm]
    return b.op("Identity", x) if perm == sorted(perm) else b.transpose(x, perm)


@rule(rules, "squeeze", "squeeze2")
def _squeeze(b: Builder, c: Call) -> Any:
    """Axes that are longer than 1 stay, though the program names them."""
    x = c.value("X")
    shape = b.shape(x)
    axes = c.listed(b, "axes", "AxesTensor", "AxesTensorList")
    if not axes and not all(isinstance(dim, int) for dim in shape):
        raise UnsupportedError("all axes of size 1 of a tensor of open size")
    where = axes or list(range(len(shape)))
    gone = sorted({positive(axis, len(shape)) for axis in where})
    gone = [axis for axis in gone if shape[axis] == 1 or not isinstance(shape[axis], int)]
    return b.op("Squeeze", x, gone) if gone else b.op("Identity", x)


@rule(rules, "unsqueeze", "unsqueeze2")
def _unsqueeze(b: Builder, c: Call) -> Any:
    """Axes are put in one after another, each counted among those that are there by then."""
    x = c.value("X")
    places: list[bool] = [False] * b.rank(x)
    for axis in c.listed(b, "axes", "AxesTensor", "AxesTensorList"):
        places.insert(positive(axis, len(places) + 1), True)
    new = [place for place, is_new in enumerate(places) if is_new]
    return b.op("Unsqueeze", x, new) if new else b.op("Identity", x)


@rule(rules, "flatten", "flatten2")
def _flatten(b: Builder, c: Call) -> Any:
    return b.op("Flatten", c.value("X"), axis=c.integer("axis", 1))


@rule(rules, "flatten_contiguous_range")
def _flatten_range(b: Builder, c: Call) -> Any:
    x = c.value("X")
    rank = b.rank(x)
    if rank == 0:
        return b.reshape(x, [1])
    start, stop = (positive(c.integer(name, 1), rank) for name in ("start_axis", "stop_axis"))
    if start > stop:
        raise ValueError(f"axes {start} to {stop}")
    behind = [b.op("Shape", x, start=stop + 1)] if stop + 1 < rank else []
    parts = [[0] * start + [-1], *behind]
    return b.op("Reshape", x, b.op("Concat", *parts, axis=0))


def _bounds(b: Builder, c: Call, name: str) -> Any:
    title = name.capitalize()
    return c.vector(b, name, f"{title}Tensor", f"{title}TensorList")


@rule(rules, "slice")
def _slice(b: Builder, c: Call) -> Any:
    x, axes = c.value("Input"), c.integers("axes")
    if not hasattr(x, "producer"):
        raise UnsupportedError("a list of tensors")
    c.ignore("infer_flags")
    axes = [positive(axis, b.rank(x)) for axis in axes]
    y = b.op("Slice", x, _bounds(b, c, "starts"), _bounds(b, c, "ends"), axes)
    return _without(b, y, c.integers("decrease_axis"))


def _without(b: Builder, y: ir.Value, axes: Sequence[int]) -> Any:
    return b.op("Squeeze", y, list(axes)) if axes else y


@rule(rules, "strided_slice")
def _strided_slice(b: Builder, c: Call) -> Any:
    x = c.value("Input")
    c.ignore("infer_flags")
    axes = [positive(axis, b.rank(x)) for axis in c.integers("axes")]
    strides = c.listed(b, "strides", "StridesTensor", "StridesTensorList")
    ends: Any = _bounds(b, c, "ends")
    if any(stride < 0 for stride in strides):
        listed = c.listed(b, "ends", "EndsTensor", "EndsTensorList")
        ends = [
            _end(b.shape(x)[a], *pair)
            for a, pair in zip(axes, zip(listed, strides, strict=True), strict=True)
        ]
    y = b.op("Slice", x, _bounds(b, c, "starts"), ends, axes, strides)
    return _without(b, y, c.integers("decrease_axis"))


def _end(size: int | str | None, end: int, stride: int) -> int:
    """Where a slice ends: backwards -1 stands for "before the first", and not for the last."""
    if stride > 0 or end >= 0:
        return end
    if end in {-1, _INT32_MIN}:
        return -_END
    if not isinstance(size, int) or end < -size:
        raise UnsupportedError(f"backwards to {end} of {size}")
    return end


@rule(rules, "crop_tensor")
def _crop(b: Builder, c: Call) -> Any:
    x = c.value("X")
    starts = c.listed(b, "offsets", "Offsets", "OffsetsTensor")
    sizes = c.listed(b, "shape", "Shape", "ShapeTensor")
    ends = [_END if size == -1 else start + size for start, size in zip(starts, sizes, strict=True)]
    return b.op("Slice", x, starts, ends, list(range(b.rank(x))))


@rule(rules, "set_value", "set_value_with_tensor")
def _set_value(b: Builder, c: Call) -> Any:
    """A copy of the input in which a block, contiguous along every axis, is replaced."""
    x = c.value("Input")
    rank = b.rank(x)
    axes = [positive(axis, rank) for axis in c.integers("axes")]
    starts, ends = (
        c.listed(b, f"{name}s", f"{name.capitalize()}sTensor", f"{name.capitalize()}sTensorList")
        for name in ("start", "end")
    )
    steps = c.listed(b, "steps", "StepsTensor", "StepsTensorList")
    if any(step != 1 for step in steps) or c.integers("none_axes"):
        raise UnsupportedError("steps or new axes")
    decreased = [positive(axis, rank) for axis in c.integers("decrease_axes")]
    value = _new_value(b, c, x)
    bounds = dict(zip(axes, zip(starts, ends, strict=True), strict=True))
    if decreased:
        missing = [axis for axis in sorted(decreased) if rank - axis <= b.rank(value) + len(decreased)]
        value = b.op("Unsqueeze", value, [axis - rank for axis in missing]) if b.rank(value) else value
    return _replaced(b, x, sorted(bounds), bounds, value)


def _new_value(b: Builder, c: Call, x: ir.Value) -> Any:
    tensor = c.maybe("ValueTensor")
    kind = c.dtype("dtype")
    shape = c.integers("shape")
    found: list[Any] = []
    for name in ("values", "fp32_values", "int32_values", "int64_values", "bool_values", "fp64_values",
                 "fp16_values"):  # fmt: skip
        found = found or list(c.get(name) or [])
    if tensor is not None:
        return b.cast(tensor, b.dtype(x))
    return b.cast(b.constant(np.array(found, kind or b.dtype(x)).reshape(shape)), b.dtype(x))


def _replaced(
    b: Builder, x: ir.Value, axes: list[int], bounds: dict[int, tuple[int, int]], value: ir.Value
) -> Any:
    if not axes:
        return b.op("Expand", value, b.op("Shape", x))
    axis, *rest = axes
    start, end = bounds[axis]
    middle = _replaced(b, b.op("Slice", x, [start], [end], [axis]), rest, bounds, value)
    parts = [middle]
    if start != 0:
        parts.insert(0, b.op("Slice", x, [0], [start], [axis]))
    size = b.shape(x)[axis]
    stop = size if isinstance(size, int) else _END
    if end < stop:
        parts.append(b.op("Slice", x, [end], [_END], [axis]))
    return b.op("Concat", *parts, axis=axis) if len(parts) > 1 else middle


# --- joined and taken apart -------------------------------------------------------------------------------


def _axis(b: Builder, c: Call, default: int, tensor: str = "AxisTensor") -> int:
    axis = c.integer("axis", default)
    return axis if c.maybe(tensor) is None else int(c.constant(b, tensor).reshape(-1)[0])


@rule(rules, "concat")
def _concat(b: Builder, c: Call) -> Any:
    parts = c.all("X")
    kinds = {b.dtype(part) for part in parts}
    if len(kinds) > 1:
        raise UnsupportedError("parts of different types")
    return b.op("Concat", *parts, axis=positive(_axis(b, c, 0), b.rank(parts[0])))


@rule(rules, "stack", out="Y")
def _stack(b: Builder, c: Call) -> Any:
    parts = c.all("X")
    axis = positive(c.integer("axis", 0), b.rank(parts[0]) + 1)
    return b.op("Concat", *(b.op("Unsqueeze", part, [axis]) for part in parts), axis=axis)


@rule(rules, "split")
def _split(b: Builder, c: Call) -> list[ir.Value]:
    x, count = c.value("X"), c.outputs["Out"]
    axis = positive(_axis(b, c, 0), b.rank(x))
    sections = c.listed(b, "sections", "SectionsTensor", "SectionsTensorList")
    num = c.integer("num", 0)
    size = b.shape(x)[axis]
    if sections.count(-1) == 1 and isinstance(size, int):
        sections[sections.index(-1)] = size - sum(sections) - 1
    if any(part < 0 for part in sections) or (not sections and num != count):
        raise UnsupportedError(f"sections {sections} of an axis of open size")
    if not sections and isinstance(size, int):
        sections = [size // num] * num
    if count == 1:
        return [b.op("Identity", x)]
    if sections:
        return list(b.op("Split", x, sections, axis=axis, outputs=count))
    return list(b.op("Split", x, axis=axis, num_outputs=num, outputs=count))


@rule(rules, "unstack", "unbind")
def _unstack(b: Builder, c: Call) -> dict[str, Any]:
    x = c.value("X")
    slot = "Y" if c.op == "unstack" else "Out"
    count = c.outputs[slot]
    c.need("num", count)
    axis = positive(c.integer("axis", 0), b.rank(x))
    return {slot: [b.op("Gather", x, np.array(place, np.int64), axis=axis) for place in range(count)]}


# --- repeated ---------------------------------------------------------------------------------------------


@rule(rules, "expand_v2")
def _expand(b: Builder, c: Call) -> Any:
    shape = c.vector(b, "shape", "Shape", "expand_shapes_tensor")
    return b.op("Expand", c.value("X"), b.op("Max", shape, [1]))


@rule(rules, "expand_as_v2", "expand_as")
def _expand_as(b: Builder, c: Call) -> Any:
    like = c.maybe("Y") if c.op == "expand_as_v2" else c.value("target_tensor")
    shape = b.op("Shape", like) if like is not None else b.op("Max", c.integers("target_shape"), [1])
    c.ignore("target_shape")
    return b.op("Expand", c.value("X"), shape)


@rule(rules, "tile", "expand")
def _tile(b: Builder, c: Call) -> Any:
    x = c.value("X")
    if c.op == "tile":
        times = c.vector(b, "repeat_times", "RepeatTimes", "repeat_times_tensor")
    else:
        times = c.vector(b, "expand_times", "ExpandTimes", "expand_times_tensor")
    count = b.shape(times)[0]
    if not isinstance(count, int):
        raise UnsupportedError("an unknown number of axes to repeat")
    if count < b.rank(x):
        times = b.op("Concat", [1] * (b.rank(x) - count), times, axis=0)
    elif count > b.rank(x):
        x = b.op("Unsqueeze", x, list(range(count - b.rank(x))))
    return b.op("Tile", x, times)


@rule(rules, "broadcast_tensors")
def _broadcast(b: Builder, c: Call) -> list[ir.Value]:
    parts = c.all("X")
    zeros = [b.cast(b.op("Expand", np.array(0, np.int32), b.sizes(part)), np.int32) for part in parts]
    shape = b.op("Shape", b.op("Sum", *(b.cast(zero, np.float32) for zero in zeros)))
    return [b.op("Expand", part, shape) for part in parts]


@rule(rules, "meshgrid")
def _meshgrid(b: Builder, c: Call) -> list[ir.Value]:
    parts = c.all("X")
    sizes = b.op("Concat", *(b.reshape(b.op("Size", part), [1]) for part in parts), axis=0)
    result = []
    for place, part in enumerate(parts):
        column = b.reshape(part, [-1, *[1] * (len(parts) - 1 - place)])
        result.append(b.op("Expand", column, sizes))
    return result


@rule(rules, "roll")
def _roll(b: Builder, c: Call) -> Any:
    x, shifts, axes = c.value("X"), c.listed(b, "shifts", "ShiftsTensor"), c.integers("axis")
    shape = b.sizes(x)
    y = x if axes else b.reshape(x, [-1])
    for shift, axis in zip(shifts, axes or [0] * len(shifts), strict=True):
        size = b.shape(y)[axis]
        cut = -shift % size if isinstance(size, int) and size else -shift
        if cut:
            ends = b.op("Slice", y, [cut], [_END], [axis]), b.op("Slice", y, [0], [cut], [axis])
            y = b.op("Concat", *ends, axis=axis)
    return b.op("Identity", x) if y is x else y if axes else b.op("Reshape", y, shape)


@rule(rules, "flip", "reverse")
def _flip(b: Builder, c: Call) -> Any:
    axes = c.integers("axis")
    count = len(axes)
    return b.op("Slice", c.value("X"), [-1] * count, [-_END] * count, axes, [-1] * count)


@rule(rules, "shape")
def _shape(b: Builder, c: Call) -> Any:
    return b.cast(b.sizes(c.value("Input")), np.int32)


@rule(rules, "size")
def _size(b: Builder, c: Call) -> Any:
    return b.op("Size", c.value("Input"))
