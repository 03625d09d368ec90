"""Convolutions, pooling, linear layers and resizing; TensorFlow Lite keeps channels last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert import channels_last as nhwc
from raceline.convert.build import Builder
from raceline.convert.dims import spatial_sizes
from raceline.convert.formats.tflite.asking import (
    fixed,
    int64,
    is_float,
    known_ints,
    nonempty,
    option,
    padding,
    target,
)
from raceline.convert.formats.tflite.quantise import activated
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_SPATIAL = ("d", "h", "w")


def _strides(node: SourceNode, rank: int) -> list[int]:
    return _positive([option(node, f"stride_{axis}") for axis in _SPATIAL[-rank:]])


def _dilations(node: SourceNode, rank: int) -> list[int]:
    return _positive([option(node, f"dilation_{axis}_factor", 1) for axis in _SPATIAL[-rank:]])


def _positive(numbers: list[int]) -> list[int]:
    if min(numbers) < 1:
        raise ValueError(f"steps of {numbers}")
    return numbers


def _fused(b: Builder, node: SourceNode, y: ir.Value) -> ir.Value:
    return activated(b, y, option(node, "fused_activation_function"), target(node))


@rules("CONV_2D", "CONV_3D")
def conv(
    b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None
) -> ir.Value:
    """Weights (out, height, width, in / groups), or (depth, height, width, in / groups, out)."""
    rank = b.rank(weight)
    spatial = rank - 2
    order = [0, rank - 1, *range(1, rank - 1)] if spatial == 2 else [4, 3, 0, 1, 2]
    weight = b.transpose(weight, order)
    channels, each = fixed(b, x, b.rank(x) - 1, "channels"), fixed(b, weight, 1, "channels")
    if each < 1 or channels % each:
        raise ValueError(f"{channels} channels in groups of {each}")
    y = nhwc.conv(
        b, x, weight, bias=nonempty(b, bias), strides=_strides(node, spatial), padding=padding(node),
        dilations=_dilations(node, spatial), group=channels // each,
    )  # fmt: skip
    return _fused(b, node, y)


@rules("DEPTHWISE_CONV_2D")
def depthwise_conv(
    b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None
) -> ir.Value:
    """Weights (1, height, width, channels * multiplier); every channel is a group."""
    y = nhwc.conv(
        b, x, b.transpose(weight, [3, 0, 1, 2]), bias=nonempty(b, bias), strides=_strides(node, 2),
        padding=padding(node), dilations=_dilations(node, 2), group=fixed(b, x, 3, "channels"),
    )  # fmt: skip
    return _fused(b, node, y)


@rules("TRANSPOSE_CONV")
def transpose_conv(
    b: Builder, node: SourceNode, sizes: ir.Value, weight: ir.Value, x: ir.Value, bias: ir.Value | None = None
) -> ir.Value:
    """The gradient of a convolution; weights (out, height, width, in), the result's sizes given."""
    output = spatial_sizes(sizes, 1, 3)
    y = nhwc.conv_transpose(
        b, x, b.transpose(weight, [3, 0, 1, 2]), bias=nonempty(b, bias), strides=_strides(node, 2),
        padding=padding(node), output=output,
        computed=b.op("Slice", int64(b, sizes), [1], [3]) if None in output else None,
    )  # fmt: skip
    return _fused(b, node, y)


@rules("CONV_3D_TRANSPOSE")
def transpose_conv_3d(
    b: Builder, node: SourceNode, sizes: ir.Value, weight: ir.Value, x: ir.Value, bias: ir.Value | None = None
) -> ir.Value:
    """As TRANSPOSE_CONV; weights (depth, height, width, out, in)."""
    y = nhwc.conv_transpose(
        b, x, b.transpose(weight, [4, 3, 0, 1, 2]), bias=nonempty(b, bias), strides=_strides(node, 3),
        padding=padding(node), dilations=_dilations(node, 3), output=known_ints(b, sizes, "sizes")[1:4],
    )  # fmt: skip
    return _fused(b, node, y)


@rules("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D")
def pool(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Over windows; padding does not count."""
    kernel = _positive([option(node, "filter_height"), option(node, "filter_width")])
    name = "MaxPool" if node.op == "MAX_POOL_2D" else "AveragePool"
    if node.op == "L2_POOL_2D":
        x = b.op("Mul", x, x)
    y = nhwc.pool(b, x, name, kernel=kernel, strides=_strides(node, 2), padding=padding(node))
    return _fused(b, node, b.op("Sqrt", y) if node.op == "L2_POOL_2D" else y)


@rules("FULLY_CONNECTED")
def fully_connected(
    b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None
) -> ir.Value:
    """Weights (out, in); all axes but the last count as batch, and are kept only where the file says so."""
    if option(node, "weights_format"):
        raise UnsupportedError("weights in a shuffled order")
    bias, size = nonempty(b, bias), fixed(b, weight, 1, "weights")
    rank = b.rank(x)
    if option(node, "keep_num_dims") and rank != 2:
        y = b.op("MatMul", x, b.transpose(weight, [1, 0]))
        return _fused(b, node, y if bias is None else b.op("Add", y, bias))
    if rank != 2 or b.shape(x)[1] != size:
        x = b.reshape(x, [-1, size])
    if is_float(b, x):
        return _fused(b, node, b.op("Gemm", x, weight, bias, transB=1))
    y = b.op("MatMul", x, b.transpose(weight, [1, 0]))
    return _fused(b, node, y if bias is None else b.op("Add", y, bias))


@rules("BATCH_MATMUL")
def batch_matmul(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """Products of the last two axes, either operand turned first."""
    x = _turned(b, x) if option(node, "adj_x") else x
    y = _turned(b, y) if option(node, "adj_y") else y
    if not is_float(b, x):
        return b.op("MatMul", b.cast(x, np.int32), b.cast(y, np.int32))  # type: ignore[no-any-return]
    return b.op("MatMul", x, y)  # type: ignore[no-any-return]


def _turned(b: Builder, x: ir.Value) -> ir.Value:
    rank = b.rank(x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


@rules("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
def resize(b: Builder, node: SourceNode, x: ir.Value, sizes: ir.Value) -> ir.Value:
    """To given sizes; corners aligned, pixel centres at halves, or neither."""
    corners, halves = option(node, "align_corners"), option(node, "half_pixel_centers")
    linear = node.op == "RESIZE_BILINEAR"
    mode = "align_corners" if corners else "half_pixel" if halves else "asymmetric"
    nearest = None if linear else "round_prefer_ceil" if corners or halves else "floor"
    return nhwc.resize(
        b,
        x,
        sizes,
        coordinate_transformation_mode=mode,
        mode="linear" if linear else "nearest",
        nearest_mode=nearest,
    )
