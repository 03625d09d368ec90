"""Layers that normalise by statistics, learnt or of the moment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.layers import Call, floating, refuse
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("BatchNormalization")
def batch_normalization(b: Builder, call: Call, x: ir.Value, mask: Any = None) -> ir.Value:
    """By the moving statistics."""
    refuse(call, renorm=(False, None), virtual_batch_size=None)
    x = floating(b, x)
    rank, axis = b.rank(x), call.get("axis", -1)
    if isinstance(axis, list) and len(axis) == 1:
        axis = axis[0]
    if not isinstance(axis, int):
        raise UnsupportedError(f"axis={axis}")
    axis %= rank
    size = b.shape(x)[axis]
    mean, variance = call.weight("moving_mean", (size,)), call.weight("moving_variance", (size,))
    gamma = call.weight("gamma", (size,)) if call.get("scale", True) else np.ones_like(mean)
    beta = call.weight("beta", (size,)) if call.get("center", True) else np.zeros_like(mean)
    order = [axis, *(a for a in range(rank) if a != axis)]
    first = [order[1], axis, *order[2:]] if rank > 1 else order
    turned = b.transpose(x, first)
    y = b.op(
        "BatchNormalization", turned, gamma, beta, mean, variance, epsilon=float(call.get("epsilon", 1e-3))
    )
    return b.transpose(y, [first.index(a) for a in range(rank)])


def _axes(call: Call, rank: int) -> list[int]:
    axis = call.get("axis", -1)
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return sorted(int(a) % rank for a in axes)


def _spread(array: Any, axes: Sequence[int], rank: int) -> Any:
    """A parameter of some axes in a shape that broadcasts against all of them."""
    shape = [1] * rank
    for size, axis in zip(array.shape, axes, strict=True):
        shape[axis] = size
    return array.reshape(shape)


@rules("LayerNormalization")
def layer_normalization(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """By mean and variance over some axes."""
    x = floating(b, x)
    rank = b.rank(x)
    axes, epsilon = _axes(call, rank), float(call.get("epsilon", 1e-3))
    shape = [b.shape(x)[axis] for axis in axes]
    if call.get("rms_scaling"):
        return _rms_scaling(b, call, x, axes, epsilon)
    gamma = call.weight("gamma", shape) if call.get("scale", True) else None
    beta = call.weight("beta", shape) if call.get("center", True) else None
    if axes == list(range(rank - len(axes), rank)) and all(isinstance(size, int) for size in shape):
        scale = gamma if gamma is not None else np.ones([int(str(size)) for size in shape], np.float32)
        return b.op("LayerNormalization", x, scale, beta, axis=axes[0] - rank, epsilon=epsilon)  # type: ignore[no-any-return]
    y = standardised(b, x, axes, epsilon)
    if gamma is not None:
        y = b.op("Mul", y, _spread(gamma, axes, rank))
    return y if beta is None else b.op("Add", y, _spread(beta, axes, rank))


def _rms_scaling(b: Builder, call: Call, x: ir.Value, axes: list[int], epsilon: float) -> ir.Value:
    """An early form of RMS normalisation, that divides by the deviation without moving the mean."""
    mean = b.op("ReduceMean", x, axes, keepdims=1)
    moved = b.op("Sub", x, mean)
    variance = b.op("ReduceMean", b.op("Mul", moved, moved), axes, keepdims=1)
    y = b.op("Div", x, b.op("Sqrt", b.op("Add", variance, b.scalar(epsilon, x))))
    return b.op("Mul", y, _spread(call.weight("gamma"), axes, b.rank(x)))  # type: ignore[no-any-return]


def standardised(b: Builder, x: ir.Value, axes: Sequence[int], epsilon: float) -> ir.Value:
    """(x - mean) / sqrt(variance + epsilon) over some axes."""
    moved = b.op("Sub", x, b.op("ReduceMean", x, list(axes), keepdims=1))
    variance = b.op("ReduceMean", b.op("Mul", moved, moved), list(axes), keepdims=1)
    return b.op("Div", moved, b.op("Sqrt", b.op("Add", variance, b.scalar(epsilon, x))))  # type: ignore[no-any-return]


@rules("RMSNormalization")
def rms_normalization(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """X / sqrt(mean of squares + epsilon), scaled."""
    x = floating(b, x)
    axes = _axes(call, b.rank(x))
    mean = b.op("ReduceMean", b.op("Mul", x, x), axes, keepdims=1)
    root = b.op("Sqrt", b.op("Add", mean, b.scalar(float(call.get("epsilon", 1e-6)), x)))
    scale = call.weight("scale", [b.shape(x)[axis] for axis in axes])
    return b.op("Mul", b.op("Div", x, root), _spread(scale, axes, b.rank(x)))  # type: ignore[no-any-return]


@rules("GroupNormalization")
def group_normalization(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Each group of channels by its own statistics, over all other axes but the batch."""
    x = floating(b, x)
    rank = b.rank(x)
    axis = int(call.get("axis", -1)) % rank
    channels = b.shape(x)[axis]
    groups = int(call.get("groups", 32))
    groups = channels if groups == -1 else groups  # type: ignore[assignment]
    if not isinstance(channels, int) or channels % groups:
        raise UnsupportedError(f"{groups} groups of {channels} channels")
    if axis == 0:
        raise UnsupportedError("axis=0")
    first = [0, axis, *(a for a in range(1, rank) if a != axis)]
    turned = b.transpose(x, first)
    grouped = b.op("Reshape", turned, [0, groups, -1])
    y = standardised(b, grouped, [2], float(call.get("epsilon", 1e-3)))
    y = b.transpose(b.op("Reshape", y, b.sizes(turned)), [first.index(a) for a in range(rank)])
    if call.get("scale", True):
        y = b.op("Mul", y, _spread(call.weight("gamma", (channels,)), [axis], rank))
    if call.get("center", True):
        y = b.op("Add", y, _spread(call.weight("beta", (channels,)), [axis], rank))
    return y


@rules("LayerScale")
def layer_scale(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A factor for each channel (of keras.applications' ConvNeXt)."""
    x = floating(b, x)
    return b.op("Mul", x, call.weight("gamma", (b.shape(x)[-1],)))  # type: ignore[no-any-return]


@rules("UnitNormalization")
def unit_normalization(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """To length 1."""
    x = floating(b, x)
    return normalised(b, x, _axes(call, b.rank(x)), 1e-12)


def normalised(b: Builder, x: ir.Value, axes: Sequence[int], epsilon: float) -> ir.Value:
    """X over its length along some axes; the length squared counts as no less than epsilon."""
    square = b.op("ReduceSum", b.op("Mul", x, x), list(axes), keepdims=1)
    return b.op("Div", x, b.op("Sqrt", b.op("Max", square, b.scalar(epsilon, x))))  # type: ignore[no-any-return]
