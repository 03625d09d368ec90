"""Pooling: moving windows, whole axes, and a fixed number of windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.channels_last import pads
from raceline.convert.formats.keras.convolution import inward, outward
from raceline.convert.formats.keras.layers import Call, channel_axis, floating, pair
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules(
    "MaxPooling1D", "MaxPooling2D", "MaxPooling3D", "AveragePooling1D", "AveragePooling2D", "AveragePooling3D"
)
def pool(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """The largest element or the mean of each window; padding never counts."""
    rank = int(call.layer.kind[-2])
    size = call.get("pool_size", call.get("pool_length"))
    kernel = pair(2 if size is None else size, rank)
    strides = pair(call.get("strides") or kernel, rank)
    mode = str(call.get("padding", "valid")).lower()
    if mode not in {"same", "valid"}:
        raise UnsupportedError(f"padding={mode!r}")
    x = inward(b, call, floating(b, x))
    attributes: dict[str, Any] = pads(b.shape(x)[2:], kernel, strides, [1] * rank, mode)
    if call.layer.kind.startswith("Average"):
        y = b.op("AveragePool", x, kernel_shape=kernel, strides=strides, count_include_pad=0, **attributes)
    else:
        y = b.op("MaxPool", x, kernel_shape=kernel, strides=strides, **attributes)
    return outward(b, call, y)


@rules(
    "GlobalMaxPooling1D", "GlobalMaxPooling2D", "GlobalMaxPooling3D",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D", "GlobalAveragePooling3D",
)  # fmt: skip
def global_pool(b: Builder, call: Call, x: ir.Value, mask: Any = None) -> ir.Value:
    """The largest element or the mean of each channel; masked steps do not count in a mean of one axis."""
    x = floating(b, x)
    rank = b.rank(x)
    axes = list(range(2, rank)) if channel_axis(call) == 1 else list(range(1, rank - 1))
    keep = int(bool(call.get("keepdims", False)))
    call.result_masks = [None]
    if call.layer.kind == "GlobalAveragePooling1D" and (mask is not None or call.mask is not None):
        counted = b.cast(call.mask if mask is None else mask, np.float32)
        counted = b.op("Unsqueeze", counted, [1 if channel_axis(call) == 1 else 2])
        total = b.op("ReduceSum", b.op("Mul", x, counted), axes, keepdims=keep)
        return b.op("Div", total, b.op("ReduceSum", counted, axes, keepdims=keep))  # type: ignore[no-any-return]
    op = "ReduceMax" if "Max" in call.layer.kind else "ReduceMean"
    return b.op(op, x, axes, keepdims=keep)  # type: ignore[no-any-return]


@rules(
    "AdaptiveAveragePooling1D", "AdaptiveAveragePooling2D", "AdaptiveAveragePooling3D",
    "AdaptiveMaxPooling1D", "AdaptiveMaxPooling2D", "AdaptiveMaxPooling3D",
)  # fmt: skip
def adaptive_pool(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A fixed number of windows along each axis, from floor(i n / m) to ceil((i + 1) n / m)."""
    rank = int(call.layer.kind[-2])
    targets = pair(call["output_size"], rank)
    x = floating(b, x)
    first = 2 if channel_axis(call) == 1 else 1
    op = "ReduceMax" if "Max" in call.layer.kind else "ReduceMean"
    for axis, target in enumerate(targets, first):
        size = b.shape(x)[axis]
        if not isinstance(size, int):
            raise UnsupportedError("adaptive pooling over an open axis")
        windows = [(i * size // target, -(-(i + 1) * size // target)) for i in range(target)]
        pieces = [
            b.op(op, b.op("Slice", x, [low], [high], [axis]), [axis], keepdims=1) for low, high in windows
        ]
        x = pieces[0] if len(pieces) == 1 else b.op("Concat", *pieces, axis=axis)
    return x
