"""Convolutions of one to three axes, forward, transposed, depthwise and separable, in either layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.channels_last import channels_first, channels_last, pads
from raceline.convert.formats.keras.activations import finish
from raceline.convert.formats.keras.layers import Array, Call, channel_axis, floating, pair
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_RANKS = {"1D": 1, "2D": 2, "3D": 3}


def _rank(call: Call) -> int:
    kind = call.layer.kind.removesuffix("Transpose")
    return _RANKS[kind[-2:]]


def inward(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """The value with its channels first."""
    return x if channel_axis(call) == 1 else channels_first(b, x)


def outward(b: Builder, call: Call, y: ir.Value) -> ir.Value:
    """The value with its channels where the layer has them."""
    return y if channel_axis(call) == 1 else channels_last(b, y)


def forward_kernel(kernel: Array) -> Array:
    """(spatial..., in, out) -> (out, in, spatial...)."""
    rank = kernel.ndim - 2
    return np.ascontiguousarray(kernel.transpose([rank + 1, rank, *range(rank)]))


def _depthwise_kernel(kernel: Array) -> Array:
    """(spatial..., in, multiplier) -> (in * multiplier, 1, spatial...)."""
    rank = kernel.ndim - 2
    first = kernel.transpose([rank, rank + 1, *range(rank)])
    return np.ascontiguousarray(first.reshape(-1, 1, *kernel.shape[:rank]))


def convolve(
    b: Builder,
    x: ir.Value,
    weight: Array,
    bias: Array | None,
    *,
    strides: list[int],
    dilations: list[int],
    padding: str,
    group: int,
) -> ir.Value:
    """A convolution with channels first; "causal" pads in front only."""
    kernel = list(weight.shape[2:])
    mode = padding.lower()
    attributes: dict[str, Any]
    if mode == "causal":
        before = [(size - 1) * step for size, step in zip(kernel, dilations, strict=True)]
        attributes = {"pads": [*before, *[0] * len(kernel)]}
    elif mode in {"same", "valid"}:
        attributes = pads(b.shape(x)[2:], kernel, strides, dilations, mode)
    else:
        raise UnsupportedError(f"padding={padding!r}")
    return b.op(  # type: ignore[no-any-return]
        "Conv",
        x,
        weight,
        bias,
        kernel_shape=kernel,
        strides=strides,
        dilations=dilations,
        group=group,
        **attributes,
    )


@rules("Conv1D", "Conv2D", "Conv3D")
def conv(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A convolution, grouped where asked for."""
    rank, filters, group = _rank(call), call["filters"], int(call.get("groups", 1) or 1)
    x = inward(b, call, floating(b, x))
    channels = b.shape(x)[1]
    inner = channels // group if isinstance(channels, int) else None
    kernel = call.weight("kernel", (*pair(call["kernel_size"], rank), inner, filters))
    bias = call.weight("bias", (filters,)) if call.get("use_bias", True) else None
    y = convolve(
        b, x, forward_kernel(kernel), bias,
        strides=pair(call.get("strides", 1), rank), dilations=pair(call.get("dilation_rate", 1), rank),
        padding=str(call.get("padding", "valid")), group=group,
    )  # fmt: skip
    return finish(b, call, outward(b, call, y))


@rules("DepthwiseConv1D", "DepthwiseConv2D")
def depthwise_conv(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A convolution of each channel by itself."""
    rank, multiplier = _rank(call), call.get("depth_multiplier", 1)
    x = inward(b, call, floating(b, x))
    channels = b.shape(x)[1]
    kernel = call.weight("kernel", (*pair(call["kernel_size"], rank), channels, multiplier))
    bias = call.weight("bias", (kernel.shape[-2] * kernel.shape[-1],)) if call.get("use_bias", True) else None
    y = convolve(
        b, x, _depthwise_kernel(kernel), bias,
        strides=pair(call.get("strides", 1), rank), dilations=pair(call.get("dilation_rate", 1), rank),
        padding=str(call.get("padding", "valid")), group=kernel.shape[-2],
    )  # fmt: skip
    return finish(b, call, outward(b, call, y))


@rules("SeparableConv1D", "SeparableConv2D")
def separable_conv(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A depthwise convolution, then one over channels alone."""
    rank, multiplier, filters = _rank(call), call.get("depth_multiplier", 1), call["filters"]
    x = inward(b, call, floating(b, x))
    channels = b.shape(x)[1]
    depthwise = call.weight("depthwise_kernel", (*pair(call["kernel_size"], rank), channels, multiplier))
    inner = depthwise.shape[-2] * depthwise.shape[-1]
    pointwise = call.weight("pointwise_kernel", (*[1] * rank, inner, filters))
    bias = call.weight("bias", (filters,)) if call.get("use_bias", True) else None
    y = convolve(
        b, x, _depthwise_kernel(depthwise), None,
        strides=pair(call.get("strides", 1), rank), dilations=pair(call.get("dilation_rate", 1), rank),
        padding=str(call.get("padding", "valid")), group=depthwise.shape[-2],
    )  # fmt: skip
    ones = [1] * rank
    y = convolve(
        b, y, forward_kernel(pointwise), bias, strides=ones, dilations=ones, padding="valid", group=1
    )
    return finish(b, call, outward(b, call, y))


@rules("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def conv_transpose(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """The gradient of a convolution."""
    rank, filters = _rank(call), call["filters"]
    x = inward(b, call, floating(b, x))
    sizes = pair(call["kernel_size"], rank)
    kernel = call.weight("kernel", (*sizes, filters, b.shape(x)[1]))
    bias = call.weight("bias", (filters,)) if call.get("use_bias", True) else None
    strides, dilations = pair(call.get("strides", 1), rank), pair(call.get("dilation_rate", 1), rank)
    extra = call.get("output_padding")
    extras = [None] * rank if extra is None else pair(extra, rank)
    mode = str(call.get("padding", "valid")).lower()
    found = [
        _transposed_pads(k, s, d, mode, e)
        for k, s, d, e in zip(sizes, strides, dilations, extras, strict=True)
    ]
    weight = np.ascontiguousarray(kernel.transpose([rank + 1, rank, *range(rank)]))
    more = [item[2] for item in found]
    y = b.op(
        "ConvTranspose", x, weight, bias, kernel_shape=sizes, strides=strides, dilations=dilations,
        pads=[*(item[0] for item in found), *(item[1] for item in found)],
        output_padding=more if any(more) else None,
    )  # fmt: skip
    return finish(b, call, outward(b, call, y))


def _transposed_pads(
    kernel: int, stride: int, dilation: int, mode: str, extra: int | None
) -> tuple[int, int, int]:
    """What ONNX cuts in front and behind, and adds behind, for one axis.

    The whole gradient has (n - 1) * stride + reach elements. By Keras, "valid" keeps them and fills up to a whole
    stride; "same" cuts to n * stride, or, with `extra` given, to (n - 1) * stride + reach % 2 + extra.

    Raises:
        UnsupportedError: the padding is of another kind.
    """
    reach = (kernel - 1) * dilation + 1
    if mode == "valid":
        return 0, 0, max(reach, stride) - reach if extra is None else extra
    if mode != "same":
        raise UnsupportedError(f"padding={mode!r}")
    kept = stride + reach - 2 if extra is None else reach + reach % 2 - 2 + extra
    left = min(kept // 2 + kept % 2, reach - 1)
    before, after = reach - 1 - left, reach - 1 - (kept - left)
    return before, max(0, after), max(0, -after)
