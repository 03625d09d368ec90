"""Take out pairs that make floats of small integers and the same integers of the floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, attribute, can_replace, describe, is_op, producer
from raceline.convert.qdq import is_small, quantised, same_numbers
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Remove a QuantizeLinear that undoes a DequantizeLinear of the same scale and zero point"
after: tuple[str, ...] = ("move_quantisation",)
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A QuantizeLinear of a DequantizeLinear's result."""
    source = producer(node.inputs[0], "DequantizeLinear") if is_op(node, "QuantizeLinear") else None
    return None if source is None else Match((source, node))


def check(match: Match, scope: Scope) -> str:
    """Both must have the same numbers: then every integer comes back as itself."""
    source, node = match.nodes
    if any(attribute(end, "block_size", 0) for end in match.nodes) or not same_numbers(source, node):
        return f"{describe(node)} has other numbers than {describe(source)}: it rounds anew"
    if not is_small(quantised(source)):
        return "its type has more bits than a float keeps apart"
    return can_replace(match.result, quantised(source))


def rewrite(match: Match, scope: Scope) -> str:
    """Let users of the result read the integers."""
    source, node = match.nodes
    scope.replace(match.result, quantised(source))
    scope.remove((node,))
    return "it gives back the integers that it was made of"


def example() -> Model:
    """A pair with nothing between."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (int8[N, 4] q, float scale, int8 zero) => (int8[N, 4] y) {
            x = DequantizeLinear(q, scale, zero)
            back = QuantizeLinear(x, scale, zero)
            y = Max(back, q)
        }""",
        scale=np.array(0.1, np.float32),
        zero=np.array(3, np.int8),
    )
