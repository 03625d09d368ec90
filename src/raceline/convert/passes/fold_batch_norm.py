"""Fold batch normalisation into the layer before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import Array, Match, Scope, attribute, constant, describe, is_op, operand
from raceline.convert.linear import (
    layer_before,
    num_channels,
    replace_weights,
    scaled,
    why_not_folded,
    why_not_scalable,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fold BatchNormalization into the Conv, ConvTranspose or Gemm before it"
after: tuple[str, ...] = ("fold_constants", "remove_identity", "lift_constants")
tolerance = 1e-5  # the folded weights are rounded once more


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A BatchNormalization of a layer's result."""
    if not is_op(node, "BatchNormalization"):
        return None
    layer = layer_before(node.inputs[0])
    return Match((layer, node)) if layer is not None else None


def check(match: Match, scope: Scope) -> str:
    """The layer's result must be needed by the normalisation alone, and all numbers must be known."""
    layer, norm = match.nodes
    names = ("scale", "offset", "mean", "variance")
    numbers = dict(zip(names, map(constant, norm.inputs[1:]), strict=False))
    unknown = [name for name in names if numbers.get(name) is None]
    if unknown:
        return f"the {unknown[0]} of {describe(norm)} is not constant"
    if attribute(norm, "training_mode", 0) or any(value.uses() for value in norm.outputs[1:]):
        return f"{describe(norm)} is in training mode: it depends on the batch"
    if why_not := why_not_scalable(layer):
        return why_not
    scale, shift = _scale_and_shift(norm)
    if scale.shape != (num_channels(layer),):
        return f"{describe(norm)} has {scale.size} channels and {describe(layer)} {num_channels(layer)}"
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return f"the variance of {describe(norm)} is negative, or its numbers are not finite"
    return why_not_folded(layer, scaled(layer, scale, shift))


def rewrite(match: Match, scope: Scope) -> str:
    """Scale the layer's weights and give it a bias."""
    layer, norm = match.nodes
    replace_weights(scope, layer, scaled(layer, *_scale_and_shift(norm)))
    scope.replace(match.result, layer.outputs[0])
    scope.remove((norm,))
    return "in inference it is a factor and an offset per channel, which the weights and the bias take over"


def _scale_and_shift(norm: ir.Node) -> tuple[Array, Array]:
    """The normalisation as `scale * x + shift`, in double precision."""
    gamma, beta, mean, variance = (np.asarray(constant(operand(norm, i)), np.float64) for i in range(1, 5))
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    return scale, beta - mean * scale


def example() -> Model:
    """A Conv with its normalisation."""
    spread = np.abs(np.random.default_rng(1).standard_normal(4)).astype(np.float32) + 0.5
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 6, 6] x, float[4, 3, 3, 3] w, float[4] scale, float[4] offset, float[4] mean,
            float[4] variance) => (float[N, 4, 4, 4] y) {
            conv = Conv(x, w)
            y = BatchNormalization(conv, scale, offset, mean, variance)
        }""",
        w=(4, 3, 3, 3),
        scale=(4,),
        offset=(4,),
        mean=(4,),
        variance=spread,
    )
