"""Quantisation: FakeQuantize, and weights that are kept in few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.elements import dtype_of
from raceline.convert.formats.openvino.settings import fixed, integer, settings, word
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
Array = np.ndarray[Any, Any]
COMPRESSED = "compressed weights"
"""Operation of the reader's own: Convert, Subtract and Multiply of a constant of whole numbers, as one."""
_WHOLE = 1e-3  # how far from a whole number a zero point may be; OpenVINO's own passes allow as much


@rules("FakeQuantize")
def fake_quantize(
    b: Builder,
    node: SourceNode,
    x: ir.Value,
    in_low: ir.Value,
    in_high: ir.Value,
    out_low: ir.Value,
    out_high: ir.Value,
) -> Any:
    """Round to levels: as QDQ where that is the same, else by the operation's definition."""
    levels = integer(node, "levels")
    word(node, "auto_broadcast", "numpy", ("numpy", "none"))
    if levels < 2:
        raise ValueError(f"{levels} levels")
    ends = [b.array(value) for value in (in_low, in_high, out_low, out_high)]
    known = [end for end in ends if end is not None]
    if len(known) == 4 and b.dtype(x) == np.float32:
        found = _as_qdq(b, x, levels, *known)
        if found is not None:
            return found
    return _by_definition(b, x, levels, in_low, in_high, out_low, out_high)


def _by_definition(
    b: Builder,
    x: ir.Value,
    levels: int,
    in_low: ir.Value,
    in_high: ir.Value,
    out_low: ir.Value,
    out_high: ir.Value,
) -> Any:
    """Round((clip(x) - low) / (high - low) (levels - 1)) / (levels - 1) (high' - low') + low'.

    An empty range, as of a channel that is always zero, is a step: low' up to it and high' beyond.
    """
    steps = b.scalar(levels - 1, x)
    held = b.op("Min", b.op("Max", x, b.op("Min", in_low, in_high)), b.op("Max", in_low, in_high))
    span = b.op("Sub", in_high, in_low)
    empty = None if _are_apart(b.array(in_low), b.array(in_high)) else b.op("Equal", in_low, in_high)
    if empty is not None:
        span = b.op("Where", empty, b.scalar(1, x), span)
    place = b.op("Round", b.op("Mul", b.op("Sub", held, in_low), b.op("Div", steps, span)))
    width = b.op("Div", b.op("Sub", out_high, out_low), steps)
    found = b.op("Add", b.op("Mul", place, width), out_low)
    if empty is None:
        return found
    return b.op("Where", empty, b.op("Where", b.op("LessOrEqual", x, in_low), out_low, out_high), found)


def _are_apart(low: Array | None, high: Array | None) -> bool:
    """Whether two ends are known to differ everywhere."""
    return low is not None and high is not None and bool((low != high).all())


def _as_qdq(
    b: Builder, x: ir.Value, levels: int, in_low: Array, in_high: Array, out_low: Array, out_high: Array
) -> Any:
    """QuantizeLinear and DequantizeLinear; None where they would not be exact.

    They need 8 bits, zero to be the same level of both ranges, and ranges that differ along one axis at most.
    """
    if not 128 < levels <= 256 or (in_high <= in_low).any() or (out_high <= out_low).any():
        return None
    axis = _axis_of(b, x, in_low, in_high, out_low, out_high)
    if axis is None:
        return None
    scale_in = (in_high.astype(np.float64) - in_low) / (levels - 1)
    scale_out = (out_high.astype(np.float64) - out_low) / (levels - 1)
    zeros = np.broadcast_arrays(-in_low / scale_in, -out_low / scale_out)
    zero = np.round(zeros[0])
    if (
        any((np.abs(item - zero) > _WHOLE).any() for item in zeros)
        or zero.min() < 0
        or zero.max() > levels - 1
    ):
        return None
    signed = bool((zero >= levels // 2 - 1).all() and (zero <= levels // 2 + 1).all())
    shift = 128 if signed and levels == 256 else 127 if signed and levels == 255 else 0
    dtype = np.int8 if shift else np.uint8
    points = (zero - shift).astype(dtype)
    array = b.array(x)
    if levels < 256:  # the levels that are left over must not be reached
        x = (
            b.op("Min", b.op("Max", x, in_low), in_high)
            if array is None
            else b.constant(np.clip(array, in_low, in_high))
        )
    return _qdq(b, x, scale_in, scale_out, points, axis)


def _qdq(b: Builder, x: ir.Value, scale_in: Array, scale_out: Array, points: Array, axis: int) -> Any:
    """Both nodes, per tensor (axis -1) or per element of an axis; weights are quantised at once."""
    count = max(scale_in.size, scale_out.size, points.size) if axis >= 0 else 1
    shape = (count,) if axis >= 0 else ()
    kind: dict[str, Any] = {"axis": axis} if axis >= 0 else {}
    s_in, s_out, zero = (
        np.broadcast_to(item.reshape(-1), (count,)).reshape(shape) for item in (scale_in, scale_out, points)
    )
    s_in, s_out = s_in.astype(np.float32), s_out.astype(np.float32)
    array = b.array(x)
    if array is None:
        whole = b.op("QuantizeLinear", x, s_in, zero, **kind)
    else:
        spread = [1] * array.ndim
        if axis >= 0:
            spread[axis] = count
        info = np.iinfo(zero.dtype)
        moved = np.round(array / s_in.reshape(spread)) + zero.reshape(spread)
        whole = b.constant(np.clip(moved, info.min, info.max).astype(zero.dtype))
    return b.op("DequantizeLinear", whole, s_out, zero, **kind)


def _axis_of(b: Builder, x: ir.Value, *ends: Array) -> int | None:
    """The axis along which ranges differ, -1 where along none; None where along several, or broadcast grows x."""
    rank = b.rank(x)
    found = set()
    for end in ends:
        if end.ndim > rank:
            return None
        found |= {rank - end.ndim + axis for axis, size in enumerate(end.shape) if size != 1}
    if len(found) > 1 or any(
        not isinstance(b.shape(x)[axis], int) or b.shape(x)[axis] == 1 for axis in found
    ):
        return None
    return next(iter(found), -1)


@rules(COMPRESSED)
def compressed(
    b: Builder, node: SourceNode, weight: ir.Value, scale: ir.Value, zero: ir.Value | None = None
) -> ir.Value:
    """Weights in few bits as DequantizeLinear, so that engines may keep them so; else as numbers at once."""
    dtype = dtype_of(node.attributes["destination_type"])
    whole, factor = fixed(b, weight, "weight"), fixed(b, scale, "scale")
    point = None if zero is None else fixed(b, zero, "zero point")
    found = (
        _dequantized(b, whole, factor, point)
        if dtype in {np.dtype(np.float32), np.dtype(np.float16)}
        else None
    )
    if found is None:
        shifted = whole.astype(np.float32) - (0 if point is None else point.astype(np.float32))
        return b.constant((shifted * factor.astype(np.float32)).astype(dtype))
    settings(node)
    return b.cast(found, dtype)


def _dequantized(b: Builder, whole: Array, factor: Array, point: Array | None) -> Any:
    """DequantizeLinear; None where scales lie in no way that ONNX has."""
    if whole.dtype not in {
        np.dtype(t) for t in (np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.uint4)
    } or factor.ndim not in {0, whole.ndim}:
        return None
    factor = factor.astype(np.float32)
    if point is not None:
        own = np.round(point.astype(np.float32))
        if (own != point.astype(np.float32)).any() or (
            own.astype(whole.dtype).astype(np.float32) != own
        ).any():
            return None
        point = np.broadcast_to(own, factor.shape).astype(whole.dtype) if own.size <= factor.size else None
        if point is None:
            return None
    axes = [axis for axis, size in enumerate(factor.shape) if size != 1]
    if not axes:
        return b.op(
            "DequantizeLinear", whole, factor.reshape(()), None if point is None else point.reshape(())
        )
    if len(axes) == 1:
        flat = None if point is None else point.reshape(-1)
        return b.op("DequantizeLinear", whole, factor.reshape(-1), flat, axis=axes[0])
    return _blocked(b, whole, factor, point)


def _blocked(b: Builder, whole: Array, factor: Array, point: Array | None) -> ir.Value | None:
    """Scales of groups: (out, groups, size) with (out, groups, 1) are blocks of `size` of the last axis."""
    if factor.shape[:-1] != whole.shape[:-1] or factor.shape[-1] != 1 or whole.ndim < 2:
        return None
    flat = (*whole.shape[:-2], whole.shape[-2] * whole.shape[-1])
    found = b.op(
        "DequantizeLinear", whole.reshape(flat), factor.reshape(factor.shape[:-1]),
        None if point is None else point.reshape(factor.shape[:-1]), axis=len(flat) - 1,
        block_size=whole.shape[-1],
    )  # fmt: skip
    return b.reshape(found, list(whole.shape))


@rules("FakeConvert")
def fake_convert(
    b: Builder, node: SourceNode, x: ir.Value, scale: ir.Value, shift: ir.Value | None = None
) -> ir.Value:
    """Through a type of 8 bits and back."""
    name = word(node, "destination_type", "f8e4m3", ("f8e4m3", "f8e5m2"))
    del b, x, scale, shift
    raise UnsupportedError(f"to {name}")
