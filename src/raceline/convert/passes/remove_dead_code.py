"""Drop what no output depends on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.graph import describe, scopes_of
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Remove nodes and weights that no output depends on"
after: tuple[str, ...] = ("fold_constants", "remove_identity")
tolerance = 0.0


def run(program: ir.Model) -> Iterator[tuple[tuple[str, ...], str]]:
    """Go from the outputs to the inputs, so that whole chains go at once."""
    nodes, weights = [], []
    for graph in scopes_of(program):
        for node in reversed(graph):
            if any(value.is_graph_output() or value.uses() for value in node.outputs):
                continue
            nodes.append(describe(node))
            graph.remove(node, safe=True)
    for graph in scopes_of(program):
        for label, value in list(graph.initializers.items()):
            if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
                graph.initializers.pop(label)
                weights.append(f"weight {label!r}")
    if nodes:
        yield tuple(nodes), "no output depends on them"
    if weights:
        yield tuple(weights), "no node uses them"


def example() -> Model:
    """A node and a weight beside the way to the output."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 2] x, float[2] w) => (float[N, 2] y) {
            unused = Mul(x, w)
            y = Relu(x)
        }""",
        w=(2,),
    )
