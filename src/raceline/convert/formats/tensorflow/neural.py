"""Convolution, pooling, normalisation, and the moves between space, depth and batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.channels_last import (
    Padding,
    channels_first,
    channels_last,
    conv,
    conv_transpose,
    pool,
)
from raceline.convert.dims import spatial_sizes
from raceline.convert.formats.tensorflow.values import fixed, fixed_ints, fixed_rank, vector
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


def _is_first(node: SourceNode) -> bool:
    """Whether channels come first."""
    layout = str(node.attributes.get("data_format", "NHWC"))
    if layout not in {"NHWC", "NCHW", "NDHWC", "NCDHW"}:
        raise UnsupportedError(f"layout {layout}")
    return layout in {"NCHW", "NCDHW"}


def _last(b: Builder, node: SourceNode, x: ir.Value, compute: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """Compute with channels last, whichever way the node has them."""
    if not _is_first(node):
        return compute(x)
    return channels_first(b, compute(channels_last(b, x)))


def _spatial(node: SourceNode, name: str, rank: int) -> list[int]:
    """The entries of an attribute that belong to the spatial axes."""
    listed = [int(item) for item in node.attributes.get(name, [1] * rank)]
    if len(listed) != rank:
        raise ValueError(f"{name} has {len(listed)} entries for {rank} axes")
    others = (listed[0], listed[1] if _is_first(node) else listed[-1])
    if others != (1, 1):
        raise UnsupportedError(f"{name} over batch or channels")
    return listed[2:] if _is_first(node) else listed[1:-1]


def _padding(node: SourceNode, rank: int) -> Padding:
    """SAME, VALID, or amounts for each spatial axis."""
    padding = str(node.attributes["padding"])
    explicit = [int(item) for item in node.attributes.get("explicit_paddings", [])]
    if padding != "EXPLICIT":
        if padding not in {"SAME", "VALID"}:
            raise UnsupportedError(f"padding {padding}")
        return padding
    pairs = list(zip(explicit[::2], explicit[1::2], strict=True))
    if len(pairs) != rank:
        raise ValueError("explicit paddings do not fit the number of axes")
    return pairs[2:] if _is_first(node) else pairs[1:-1]


@rules("Conv2D", "Conv3D")
def _conv(b: Builder, node: SourceNode, x: ir.Value, kernel: ir.Value) -> Any:
    rank = fixed_rank(b, x)
    channels = b.shape(x)[1 if _is_first(node) else -1]
    depth = b.shape(kernel)[-2]
    if not isinstance(depth, int) or not isinstance(channels, int):
        raise UnsupportedError("with an open number of channels")
    if depth <= 0 or channels % depth:
        raise ValueError(f"{channels} channels for a kernel of {depth}")
    weight = b.transpose(kernel, [rank - 1, rank - 2, *range(rank - 2)])
    settings: dict[str, Any] = {
        "strides": _spatial(node, "strides", rank),
        "dilations": _spatial(node, "dilations", rank),
        "padding": _padding(node, rank),
        "group": channels // depth,
    }
    return _last(b, node, x, lambda value: conv(b, value, weight, **settings))


@rules("DepthwiseConv2dNative")
def _depthwise(b: Builder, node: SourceNode, x: ir.Value, kernel: ir.Value) -> Any:
    high, wide, channels, multiplier = b.shape(kernel)
    if not isinstance(channels, int) or not isinstance(multiplier, int):
        raise UnsupportedError("with an open number of channels")
    turned = b.transpose(kernel, [2, 3, 0, 1])  # (channels, multiplier, height, width)
    sizes = [int(size) for size in (high, wide) if isinstance(size, int)]
    weight = b.reshape(turned, [channels * multiplier, 1, *sizes])
    settings: dict[str, Any] = {
        "strides": _spatial(node, "strides", 4),
        "dilations": _spatial(node, "dilations", 4),
        "padding": _padding(node, 4),
        "group": channels,
    }
    return _last(b, node, x, lambda value: conv(b, value, weight, **settings))


@rules("Conv2DBackpropInput", "Conv3DBackpropInputV2")
def _conv_gradient(b: Builder, node: SourceNode, sizes: ir.Value, kernel: ir.Value, x: ir.Value) -> Any:
    rank = fixed_rank(b, x)
    dilations = _spatial(node, "dilations", rank)
    first, last = (2, rank) if _is_first(node) else (1, rank - 1)
    output = spatial_sizes(sizes, first, last)
    weight = b.transpose(kernel, [rank - 1, rank - 2, *range(rank - 2)])  # (in, out, kernel...)
    settings: dict[str, Any] = {
        "strides": _spatial(node, "strides", rank),
        "dilations": dilations,
        "padding": _padding(node, rank),
        "output": output,
        "computed": b.op("Slice", vector(b, sizes), [first], [last]) if None in output else None,
    }
    channels = b.shape(x)[1 if _is_first(node) else -1]
    if channels != b.shape(weight)[0]:
        raise UnsupportedError("with groups")
    return _last(b, node, x, lambda value: conv_transpose(b, value, weight, **settings))


# ---------------------------------------------------------------- pooling


@rules("MaxPool", "MaxPool3D", "AvgPool", "AvgPool3D")
def _pool(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    kernel, strides = (_spatial(node, name, fixed_rank(b, x)) for name in ("ksize", "strides"))
    return _pooled(b, node, x, kernel, strides)


@rules("MaxPoolV2")
def _pool_v2(b: Builder, node: SourceNode, x: ir.Value, kernel: ir.Value, strides: ir.Value) -> Any:
    sizes = []
    for value, name in ((kernel, "ksize"), (strides, "strides")):
        listed = fixed_ints(b, value, name)
        sizes.append(_spatial_of(node, listed, name))
    return _pooled(b, node, x, *sizes)


def _spatial_of(node: SourceNode, listed: list[int], name: str) -> list[int]:
    others = (listed[0], listed[1] if _is_first(node) else listed[-1])
    if others != (1, 1):
        raise UnsupportedError(f"{name} over batch or channels")
    return listed[2:] if _is_first(node) else listed[1:-1]


def _pooled(b: Builder, node: SourceNode, x: ir.Value, kernel: list[int], strides: list[int]) -> Any:
    padding = _padding(node, fixed_rank(b, x))
    op = "MaxPool" if node.op.startswith("Max") else "AveragePool"
    return _last(
        b, node, x, lambda value: pool(b, value, op, kernel=kernel, strides=strides, padding=padding)
    )


# ---------------------------------------------------------------- normalisation


@rules("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
def _batch_norm(
    b: Builder, node: SourceNode, x: ir.Value, scale: ir.Value, bias: ir.Value, mean: ir.Value, var: ir.Value
) -> Any:
    epsilon = float(node.attributes.get("epsilon", 1e-4))
    node.attributes.get("exponential_avg_factor")
    first = _is_first(node)
    if node.attributes.get("is_training", True):
        if len(node.outputs) > 1:
            raise UnsupportedError("in training mode")
        return _batch_statistics(b, x, scale, bias, epsilon, first=first)
    kind = b.dtype(x)
    parameters = [b.cast(value, kind) for value in (scale, bias, mean, var)]
    y = b.op("BatchNormalization", x if first else channels_first(b, x), *parameters, epsilon=epsilon)
    return (y if first else channels_last(b, y)), mean, var, mean, var, mean


def _batch_statistics(
    b: Builder, x: ir.Value, scale: ir.Value, bias: ir.Value, epsilon: float, *, first: bool
) -> ir.Value:
    """Normalise by the statistics of what is given, as layers that are never trained may do."""
    rank = fixed_rank(b, x)
    channel = 1 if first else rank - 1
    axes = [axis for axis in range(rank) if axis != channel]
    shape = [-1 if axis == channel else 1 for axis in range(rank)]
    difference = b.op("Sub", x, b.op("ReduceMean", x, axes, keepdims=1))
    variance = b.op("ReduceMean", b.op("Mul", difference, difference), axes, keepdims=1)
    deviation = b.op("Sqrt", b.op("Add", variance, b.scalar(epsilon, x)))
    normal = b.op("Div", difference, deviation)
    return b.op("Add", b.op("Mul", normal, b.reshape(scale, shape)), b.reshape(bias, shape))  # type: ignore[no-any-return]


@rules("LRN")
def _lrn(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """TensorFlow multiplies the sum of squares by alpha, ONNX the mean."""
    radius = int(node.attributes.get("depth_radius", 5))
    size = 2 * radius + 1
    y = b.op(
        "LRN", channels_first(b, x), size=size, alpha=float(node.attributes.get("alpha", 1.0)) * size,
        beta=float(node.attributes.get("beta", 0.5)), bias=float(node.attributes.get("bias", 1.0)),
    )  # fmt: skip
    return channels_last(b, y)


# ---------------------------------------------------------------- space, depth, batch


@rules("DepthToSpace")
def _depth_to_space(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    size, first = int(node.attributes["block_size"]), _is_first(node)
    y = b.op("DepthToSpace", x if first else channels_first(b, x), blocksize=size, mode="DCR")
    return y if first else channels_last(b, y)


@rules("SpaceToDepth")
def _space_to_depth(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    size, first = int(node.attributes["block_size"]), _is_first(node)
    y = b.op("SpaceToDepth", x if first else channels_first(b, x), blocksize=size)
    return y if first else channels_last(b, y)


@rules("SpaceToBatchND")
def _space_to_batch_nd(b: Builder, node: SourceNode, x: ir.Value, block: ir.Value, pads: ir.Value) -> Any:
    return _space_to_batch(b, x, fixed_ints(b, block, "block"), fixed(b, pads, "amounts").reshape(-1, 2))


@rules("SpaceToBatch")
def _space_to_batch_old(b: Builder, node: SourceNode, x: ir.Value, pads: ir.Value) -> Any:
    size = int(node.attributes["block_size"])
    return _space_to_batch(b, x, [size, size], fixed(b, pads, "amounts").reshape(-1, 2))


@rules("BatchToSpaceND")
def _batch_to_space_nd(b: Builder, node: SourceNode, x: ir.Value, block: ir.Value, crops: ir.Value) -> Any:
    return _batch_to_space(b, x, fixed_ints(b, block, "block"), fixed(b, crops, "amounts").reshape(-1, 2))


@rules("BatchToSpace")
def _batch_to_space_old(b: Builder, node: SourceNode, x: ir.Value, crops: ir.Value) -> Any:
    size = int(node.attributes["block_size"])
    return _batch_to_space(b, x, [size, size], fixed(b, crops, "amounts").reshape(-1, 2))


def _space_to_batch(b: Builder, x: ir.Value, block: Sequence[int], pads: Any) -> ir.Value:
    """Pad; (n, h b, w c, rest) -> (b, c, n, h, w, rest) with the first three as one."""
    rank, num = fixed_rank(b, x), len(block)
    padding = np.zeros((rank, 2), np.int64)
    padding[1 : num + 1] = pads
    if padding.any():
        x = b.op("Pad", x, padding.T.reshape(-1), None, mode="constant")
    sizes = vector(b, b.sizes(x))
    shape: list[Any] = [_size_at(b, x, sizes, 0)]
    for axis, step in enumerate(block, 1):
        shape += [_divided(b, x, sizes, axis, step), [step]]
    rest = [_size_at(b, x, sizes, axis) for axis in range(num + 1, rank)]
    x = b.op("Reshape", x, _stacked(b, [*shape, *rest]))
    blocks, spaces = [2 + 2 * i for i in range(num)], [1 + 2 * i for i in range(num)]
    x = b.transpose(x, [*blocks, 0, *spaces, *range(2 * num + 1, rank + num)])
    return b.op("Reshape", x, _stacked(b, [[-1], *(shape[i] for i in spaces), *rest]))  # type: ignore[no-any-return]


def _batch_to_space(b: Builder, x: ir.Value, block: Sequence[int], crops: Any) -> ir.Value:
    """(b c n, h, w, rest) -> (n, h b, w c, rest); cut."""
    rank, num = fixed_rank(b, x), len(block)
    sizes = vector(b, b.sizes(x))
    spaces = [_size_at(b, x, sizes, axis) for axis in range(1, num + 1)]
    rest = [_size_at(b, x, sizes, axis) for axis in range(num + 1, rank)]
    batch = _divided(b, x, sizes, 0, math.prod(block))
    x = b.op("Reshape", x, _stacked(b, [*([step] for step in block), batch, *spaces, *rest]))
    order = [num]
    for i in range(num):
        order += [num + 1 + i, i]
    grown = [
        [size[0] * step] if isinstance(size, list) else b.op("Mul", size, [step])
        for size, step in zip(spaces, block, strict=True)
    ]
    x = b.transpose(x, [*order, *range(2 * num + 1, rank + num)])
    x = b.op("Reshape", x, _stacked(b, [batch, *grown, *rest]))
    cut = [(axis, int(low), int(high)) for axis, (low, high) in enumerate(crops, 1) if low or high]
    if not cut:
        return x
    axes, lows, highs = zip(*cut, strict=True)
    far = np.iinfo(np.int64).max
    return b.op("Slice", x, list(lows), [-h if h else far for h in highs], list(axes))  # type: ignore[no-any-return]


def _size_at(b: Builder, x: ir.Value, sizes: ir.Value, axis: int) -> Any:
    """The size of an axis: a list of one number, or a vector of one."""
    size = b.shape(x)[axis]
    return [size] if isinstance(size, int) else b.op("Gather", sizes, [axis], axis=0)


def _divided(b: Builder, x: ir.Value, sizes: ir.Value, axis: int, step: int) -> Any:
    size = _size_at(b, x, sizes, axis)
    if isinstance(size, list):
        if step <= 0 or size[0] % step:
            raise ValueError(f"an axis of {size[0]} in blocks of {step}")
        return [size[0] // step]
    return b.op("Div", size, [step])


def _stacked(b: Builder, parts: Sequence[Any]) -> Any:
    """One shape; a size that is computed follows from the others where it is the only one."""
    computed = [item for item in parts if not isinstance(item, list)]
    if len(computed) <= 1 and [-1] not in parts:
        return [number for item in parts for number in (item if isinstance(item, list) else [-1])]
    if not computed:
        return [number for item in parts for number in item]
    return b.op("Concat", *parts, axis=0)
