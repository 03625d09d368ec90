"""Fold a constant factor or offset per channel into the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.elementwise import second_operand
from raceline.convert.example import model_from_text
from raceline.convert.graph import Array, Match, Scope, constant, describe, is_op
from raceline.convert.linear import (
    layer_before,
    num_channels,
    per_channel,
    replace_weights,
    scaled,
    why_not_folded,
    why_not_scalable,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = (
    "Fold Neg, and Mul, Div, Add and Sub by constants, into the Conv, ConvTranspose or Gemm before them"
)
after: tuple[str, ...] = ("fold_batch_norm",)
tolerance = 1e-5  # the folded weights are rounded once more


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Arithmetic of a layer's result with a constant."""
    if is_op(node, "Neg") and (layer := layer_before(node.inputs[0])) is not None:
        return Match((layer, node), {"array": np.ones(1), "reversed": False})
    if not is_op(node, "Mul", "Div", "Add", "Sub"):
        return None
    for value in node.inputs[:1] if is_op(node, "Div") else node.inputs:
        layer = layer_before(value)
        other = second_operand(node, value) if value is not None else None
        if layer is not None and (array := constant(other)) is not None:
            return Match((layer, node), {"array": array, "reversed": node.inputs[0] is not value})
    return None


def check(match: Match, scope: Scope) -> str:
    """The layer's result must be needed by this node alone, and the constant must be one number a channel."""
    layer, node = match.nodes
    if why_not := why_not_scalable(layer):
        return why_not
    numbers = per_channel(match.values["array"], layer)
    if numbers is None:
        return f"the constant of {describe(node)} is not one number for each channel of {describe(layer)}"
    scale, shift = _scale_and_shift(node, numbers, match.values["reversed"])
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return f"the constant of {describe(node)} makes weights that are not finite"
    return why_not_folded(layer, scaled(layer, scale, shift))


def rewrite(match: Match, scope: Scope) -> str:
    """Scale the layer's weights, or move its bias."""
    layer, node = match.nodes
    numbers = per_channel(match.values["array"], layer)
    assert numbers is not None and num_channels(layer) == numbers.size
    folded = scaled(layer, *_scale_and_shift(node, numbers, match.values["reversed"]))
    replace_weights(scope, layer, folded)
    scope.replace(match.result, layer.outputs[0])
    scope.remove((node,))
    return "the weights and the bias take over a factor or an offset per channel"


def _scale_and_shift(node: ir.Node, numbers: Array, reverse: bool) -> tuple[Array, Array]:
    """The arithmetic as `scale * x + shift`."""
    one, zero = np.ones_like(numbers), np.zeros_like(numbers)
    if is_op(node, "Neg"):
        return -one, zero
    with np.errstate(all="ignore"):
        if is_op(node, "Mul", "Div"):
            return (numbers if is_op(node, "Mul") else one / numbers), zero
    if is_op(node, "Add"):
        return one, numbers
    return (-one, numbers) if reverse else (one, -numbers)


def example() -> Model:
    """The factor and offset with which a normalisation may be exported."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 6, 6] x, float[4, 3, 3, 3] w, float[1, 4, 1, 1] scale, float[4, 1, 1] offset)
            => (float[N, 4, 4, 4] y) {
            conv = Conv(x, w)
            scaled = Mul(conv, scale)
            y = Add(scaled, offset)
        }""",
        w=(4, 3, 3, 3),
        scale=(1, 4, 1, 1),
        offset=(4, 1, 1),
    )
