"""Make Constant nodes weights like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, constant, is_op
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Turn Constant nodes into initializers"
after: tuple[str, ...] = ("inline_functions",)
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Any Constant of numbers."""
    return Match((node,)) if is_op(node, "Constant") and constant(node.outputs[0]) is not None else None


def check(match: Match, scope: Scope) -> str:
    """An output has to stay computed by a node."""
    if match.result.is_graph_output():
        return f"{match.result.name!r} is an output of the graph, and an output must be computed by a node"
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """Register the array as an initializer of the main graph."""
    (node,) = match.nodes
    array = constant(match.result)
    assert array is not None
    label = match.result.name or "constant"
    scope.replace(match.result, scope.add_constant(label, array))
    scope.remove(match.nodes)
    return "the value lies with the weights, where other passes find it"


def example() -> Model:
    """A sum with a Constant."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 2] x) => (float[N, 2] y) {
            c = Constant<value_floats = [1.5, -2.0]>()
            y = Add(x, c)
        }"""
    )
