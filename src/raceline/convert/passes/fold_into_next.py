"""Fold a factor and an offset per channel into the layer behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.elementwise import second_operand
from raceline.convert.example import model_from_text
from raceline.convert.graph import (
    Array,
    Match,
    Scope,
    attribute,
    constant,
    describe,
    is_op,
    only_user,
    operand,
    shape_of,
)
from raceline.convert.linear import (
    input_channels,
    per_input_channel,
    replace_weights,
    weighed,
    why_not_folded,
    why_not_weighable,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fold BatchNormalization, Mul, Div, Add and Sub by constants into the Conv or Gemm after them"
after: tuple[str, ...] = ("fold_batch_norm", "fold_affine", "fuse_gelu", "fuse_hard_swish", "fuse_silu")
tolerance = 1e-5  # the folded weights are rounded once more


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A layer of what was scaled or shifted by constants, and that nobody else reads."""
    if not is_op(node, "Conv", "Gemm") or node.inputs[0] is None:
        return None
    before = node.inputs[0].producer()
    if before is None or before.graph is not node.graph or only_user(node.inputs[0]) is not node:
        return None
    if is_op(before, "BatchNormalization"):
        return Match((before, node), {"x": before.inputs[0]})
    if not is_op(before, "Mul", "Div", "Add", "Sub"):
        return None
    for value in before.inputs[:1] if is_op(before, "Div", "Sub") else before.inputs:
        other = second_operand(before, value) if value is not None else None
        if value is not None and constant(value) is None and constant(other) is not None:
            return Match((before, node), {"x": value, "array": constant(other)})
    return None


def check(match: Match, scope: Scope) -> str:
    """One number a channel; and no offset where the layer pads, for it pads with zeros that have none."""
    before, layer = match.nodes
    if why_not := why_not_weighable(layer):
        return why_not
    shape, weight = shape_of(match.values["x"]), constant(operand(layer, 1))
    if shape is None or weight is None or len(shape) != weight.ndim or shape[1] != input_channels(layer):
        return f"{describe(before)} stretches {match.values['x'].name!r}, or may"
    numbers = _numbers(match)
    if numbers is None:
        return f"what {describe(before)} does is not one constant for each channel of {describe(layer)}"
    scale, shift = numbers
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return f"{describe(before)} makes weights that are not finite"
    pads = attribute(layer, "auto_pad", "NOTSET") not in {"NOTSET", "VALID"} or any(
        attribute(layer, "pads", [0])
    )
    if is_op(layer, "Conv") and shift.any() and pads:
        return f"{describe(layer)} pads with zeros, which the offset of {describe(before)} does not reach"
    return why_not_folded(layer, weighed(layer, scale, shift))


def rewrite(match: Match, scope: Scope) -> str:
    """Weigh the layer's inputs by the factors, and move its bias by what the offsets come to."""
    before, layer = match.nodes
    numbers = _numbers(match)
    assert numbers is not None
    replace_weights(scope, layer, weighed(layer, *numbers))
    layer.replace_input_with(0, match.values["x"])
    scope.remove((before,))
    return "the weights and the bias of the layer behind take over a factor and an offset per channel"


def _numbers(match: Match) -> tuple[Array, Array] | None:
    """Factor and offset of each of the layer's input channels, in double precision."""
    before, layer = match.nodes
    if is_op(before, "BatchNormalization"):
        return _of_norm(before, layer)
    numbers = per_input_channel(match.values["array"], layer)
    if numbers is None:
        return None
    one, zero = np.ones_like(numbers), np.zeros_like(numbers)
    with np.errstate(all="ignore"):
        return {
            "Mul": (numbers, zero),
            "Div": (one / numbers, zero),
            "Add": (one, numbers),
            "Sub": (one, -numbers),
        }[before.op_type]


def _of_norm(norm: ir.Node, layer: ir.Node) -> tuple[Array, Array] | None:
    arrays = [constant(operand(norm, index)) for index in range(1, 5)]
    trains = attribute(norm, "training_mode", 0) or any(value.uses() for value in norm.outputs[1:])
    if trains or any(array is None or array.size != input_channels(layer) for array in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(array, np.float64) for array in arrays)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return scale, beta - mean * scale


def example() -> Model:
    """A normalised picture in front of a Conv that does not pad."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 6, 6] x, float[3, 1, 1] mean, float[1, 3, 1, 1] std, float[4, 3, 3, 3] w)
            => (float[N, 4, 4, 4] y) {
            centred = Sub(x, mean)
            normal = Div(centred, std)
            y = Conv(normal, w)
        }""",
        mean=(3, 1, 1),
        std=np.array([0.5, 0.25, 2.0], np.float32).reshape(1, 3, 1, 1),
        w=(4, 3, 3, 3),
    )
