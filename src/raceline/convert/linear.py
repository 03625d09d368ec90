"""Layers that are linear in their weights (Conv, ConvTranspose, Gemm), and arithmetic on those weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.graph import (
    Array,
    Scope,
    attribute,
    constant,
    describe,
    is_op,
    only_user,
    operand,
    producer,
    shape_of,
)

if TYPE_CHECKING:
    import onnx_ir as ir

LAYERS = ("Conv", "ConvTranspose", "Gemm")


def layer_before(value: ir.Value | None) -> ir.Node | None:
    """The layer that computes a value."""
    return producer(value, *LAYERS)


def num_channels(layer: ir.Node) -> int | None:
    """Output channels of a layer, where its weights are constant."""
    weight = constant(operand(layer, 1))
    if weight is None:
        return None
    if layer.op_type == "Gemm":
        return int(weight.shape[0 if attribute(layer, "transB", 0) else 1])
    if layer.op_type == "ConvTranspose":
        return int(weight.shape[1] * attribute(layer, "group", 1))
    return int(weight.shape[0])


def why_not_scalable(layer: ir.Node) -> str:
    """Why a layer's weights cannot take a factor and an offset per output channel; empty where they can."""
    if why_not := _why_not_foldable(layer):
        return why_not
    result = layer.outputs[0]
    if only_user(result) is None:
        return f"{result.name!r}, the result of {describe(layer)}, is used elsewhere too"
    return ""


def _why_not_foldable(layer: ir.Node) -> str:
    """Why arithmetic on a layer's weights and bias is not possible; empty where it is."""
    weight, bias = constant(operand(layer, 1)), constant(operand(layer, 2))
    if weight is None:
        return f"the weights of {describe(layer)} are not constant"
    if weight.dtype not in {np.dtype("float32"), np.dtype("float64")}:
        return f"the weights of {describe(layer)} are {weight.dtype}, in which folding would lose precision"
    if operand(layer, 2) is not None and bias is None:
        return f"the bias of {describe(layer)} is not constant"
    if layer.op_type == "Gemm" and bias is not None and bias.size != 1 and bias.size != bias.shape[-1]:
        return f"the bias of {describe(layer)} differs from row to row"
    return ""


def scaled(layer: ir.Node, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Weights and bias with which a layer gives `scale * y + shift` where it gave `y`; in double precision.

    Args:
        layer: one for which `why_not_scalable` is silent.
        scale: (channels,) factors.
        shift: (channels,) offsets.
    """
    weight, bias = constant(operand(layer, 1)), constant(operand(layer, 2))
    assert weight is not None
    with np.errstate(all="ignore"):
        old_bias = _wide_bias(layer, bias)
        wide = weight.astype(np.float64) * _along_weight(layer, weight, scale)
        return wide, np.broadcast_to(old_bias * scale + shift, scale.shape)


def why_not_folded(layer: ir.Node, folded: tuple[Array, Array]) -> str:
    """Why the numbers of `scaled` or `weighed` do not fit the layer's type; empty where they do.

    Factors can be harmless by themselves and lift weights over the largest number of their type, or push
    them all under its smallest one.
    """
    old = constant(operand(layer, 1))
    assert old is not None
    limits = np.finfo(old.dtype)
    if any(not (np.abs(array) <= limits.max).all() for array in folded):
        return f"the factors would lift the weights of {describe(layer)} over the largest {old.dtype}"
    size = np.abs(folded[0]).max(initial=0)
    if size < limits.tiny <= np.abs(old).max(initial=0) and size > 0:
        return f"the factors would push the weights of {describe(layer)} under the smallest {old.dtype}"
    return ""


def replace_weights(scope: Scope, layer: ir.Node, folded: tuple[Array, Array]) -> None:
    """Give a layer the weights and the bias of `scaled` or `weighed`."""
    old = constant(operand(layer, 1))
    assert old is not None
    layer.attributes.pop("beta", None)  # it is in the bias
    name = str(layer.inputs[1].name if layer.inputs[1] is not None else layer.name).split("_folded")[0]
    layer.resize_inputs(3)
    layer.replace_input_with(1, scope.add_constant(f"{name}_folded", folded[0].astype(old.dtype)))
    layer.replace_input_with(2, scope.add_constant(f"{name}_folded_bias", folded[1].astype(old.dtype)))


def _wide_bias(layer: ir.Node, bias: Array | None) -> Array:
    """A layer's bias in double precision, one number for all channels or one each."""
    if bias is None:
        return np.zeros(1)
    beta = attribute(layer, "beta", 1.0) if layer.op_type == "Gemm" else 1.0
    return bias.reshape(-1).astype(np.float64) * beta


def _along_weight(layer: ir.Node, weight: Array, scale: Array) -> Array:
    """`scale` in a shape that multiplies the weights channel by channel."""
    if layer.op_type == "Gemm":
        return scale[:, None] if attribute(layer, "transB", 0) else scale[None, :]
    tail = (1,) * (weight.ndim - 2)
    if layer.op_type == "Conv":
        return scale.reshape(-1, 1, *tail)
    group = attribute(layer, "group", 1)  # weights are (inputs, outputs / group, ...), group by group
    rows = np.repeat(scale.reshape(group, 1, -1), weight.shape[0] // group, axis=1)
    return rows.reshape(weight.shape[0], weight.shape[1], *tail)


def per_channel(array: Array, layer: ir.Node) -> Array | None:
    """A constant that meets a layer's result element by element, as (channels,); None if it is not that."""
    channels, weight = num_channels(layer), constant(operand(layer, 1))
    if channels is None or weight is None or array.ndim > weight.ndim:
        return None
    axis = 1  # (items, channels, ...) for all of them
    full = array.reshape((1,) * (weight.ndim - array.ndim) + array.shape)
    if any(size != 1 for place, size in enumerate(full.shape) if place != axis):
        return None
    if full.shape[axis] not in {1, channels}:
        return None
    return np.broadcast_to(full.reshape(-1).astype(np.float64), (channels,))


def input_channels(layer: ir.Node) -> int | None:
    """Input channels of a Conv or Gemm, where its weights are constant."""
    weight = constant(operand(layer, 1))
    if weight is None or layer.op_type not in {"Conv", "Gemm"}:
        return None
    if layer.op_type == "Gemm":
        return int(weight.shape[1 if attribute(layer, "transB", 0) else 0])
    return int(weight.shape[1] * attribute(layer, "group", 1))


def why_not_weighable(layer: ir.Node) -> str:
    """Why a layer's weights cannot take a factor and an offset per input channel; empty where they can."""
    if why_not := _why_not_foldable(layer):
        return why_not
    if layer.op_type == "Gemm" and attribute(layer, "transA", 0):
        return f"{describe(layer)} transposes its input"
    return ""


def per_input_channel(array: Array, layer: ir.Node) -> Array | None:
    """A constant that meets a layer's input element by element, as (channels,); None if it is not that."""
    channels, weight = input_channels(layer), constant(operand(layer, 1))
    if channels is None or weight is None or array.ndim > weight.ndim:
        return None
    full = array.reshape((1,) * (weight.ndim - array.ndim) + array.shape)
    if any(size != 1 for place, size in enumerate(full.shape) if place != 1) or full.shape[1] not in {
        1,
        channels,
    }:
        return None
    return np.broadcast_to(full.reshape(-1).astype(np.float64), (channels,))


def weighed(layer: ir.Node, scale: Array, shift: Array) -> tuple[Array, Array]:
    """Weights and bias with which a layer gives for `x` what it gave for `scale * x + shift`.

    Args:
        layer: one for which `why_not_weighable` is silent; where it pads, the shift must be zero.
        scale: (input channels,) factors.
        shift: (input channels,) offsets.
    """
    weight, bias = constant(operand(layer, 1)), constant(operand(layer, 2))
    assert weight is not None
    wide = weight.astype(np.float64)
    with np.errstate(all="ignore"):
        if layer.op_type == "Gemm":
            rows = wide if attribute(layer, "transB", 0) else wide.T  # (outputs, inputs)
            moved = attribute(layer, "alpha", 1.0) * (rows @ shift)
            new = rows * scale if attribute(layer, "transB", 0) else (rows * scale).T
        else:
            group = attribute(layer, "group", 1)
            by_group = wide.reshape(group, -1, *wide.shape[1:])  # (group, outputs, inputs / group, kernel)
            factors, offsets = (n.reshape(group, 1, -1, *[1] * (wide.ndim - 2)) for n in (scale, shift))
            moved = (by_group * offsets).reshape(wide.shape[0], -1).sum(1)
            new = (by_group * factors).reshape(wide.shape)
        return new, _wide_bias(layer, bias) + moved


def settle_convolution(node: ir.Node) -> None:
    """Spell out what a Conv leaves to its defaults, so that equal convolutions look equal."""
    import onnx_ir as ir

    weight = shape_of(operand(node, 1))
    if (
        not is_op(node, "Conv", "ConvTranspose")
        or weight is None
        or not all(isinstance(d, int) for d in weight)
    ):
        return
    spatial = len(weight) - 2
    if attribute(node, "auto_pad", "NOTSET") == "NOTSET":
        node.attributes.pop("auto_pad", None)
        node.attributes.setdefault("pads", ir.AttrInt64s("pads", [0] * 2 * spatial))
    node.attributes.setdefault("dilations", ir.AttrInt64s("dilations", [1] * spatial))
    node.attributes.setdefault("strides", ir.AttrInt64s("strides", [1] * spatial))
    node.attributes.setdefault("group", ir.AttrInt64("group", 1))
    node.attributes.setdefault(
        "kernel_shape", ir.AttrInt64s("kernel_shape", [d for d in weight[2:] if isinstance(d, int)])
    )
