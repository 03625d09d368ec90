"""Make Constant nodes weights like any other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.graph import Scope, constant, describe, is_op, scopes_of
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Turn Constant nodes into initializers"
after: tuple[str, ...] = ("inline_functions",)
tolerance = 0.0


def run(program: ir.Model) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every Constant of numbers but those that are outputs, which a node must compute."""
    lifted = []
    for graph in scopes_of(program):
        scope = Scope(program, graph)
        for node in tuple(graph):
            value = node.outputs[0]
            if not is_op(node, "Constant") or value.is_graph_output() or (array := constant(value)) is None:
                continue
            lifted.append(describe(node))
            label = value.name or "constant"
            scope.replace(value, scope.add_constant(label, array))
            scope.remove((node,))
    if lifted:
        yield tuple(lifted), "the values lie with the weights, where other passes find them"


def example() -> Model:
    """A sum with a Constant."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 2] x) => (float[N, 2] y) {
            c = Constant<value_floats = [1.5, -2.0]>()
            y = Add(x, c)
        }"""
    )
