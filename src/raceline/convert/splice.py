"""Put what is inside a node's graph (a branch, a loop's body) in the place of the node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raceline.convert.graph import Scope, can_replace

if TYPE_CHECKING:
    import onnx_ir as ir


def splice(scope: Scope, body: ir.Graph, arguments: Sequence[ir.Value], before: ir.Node) -> list[ir.Value]:
    """Insert a copy of a graph's nodes.

    Args:
        scope: the graph that contains `before`; everything is named anew in it.
        body: stays as it is; it may read values of the graphs around it.
        arguments: what its inputs stand for.
        before: the node in front of which the copies come.

    Returns:
        what the graph's outputs are now: values of the copies, arguments, or values from around it.
    """
    copy = body.clone(allow_outer_scope_values=True)
    given = dict(zip(copy.inputs, arguments, strict=True))
    results = [given.get(value, value) for value in copy.outputs]
    copy.outputs.clear()
    for parameter, argument in given.items():
        parameter.replace_all_uses_with(argument)
    for weight in list(copy.initializers.values()):
        del copy.initializers[str(weight.name)]
        weight.name = scope.name(str(weight.name))
        scope.program.graph.register_initializer(weight)
    nodes = list(copy)
    copy.remove(nodes)
    for node in nodes:
        node.name = scope.name(node.name or node.op_type)
        for value in node.outputs:
            value.name = scope.name(value.name) if value.name else value.name
        scope.insert(node, before)
    return results


def stand_in(scope: Scope, old: ir.Value, new: ir.Value, before: ir.Node) -> None:
    """Let every user of `old` use `new`; where the graph's interface forbids that, a copy of it."""
    if can_replace(old, new):
        new = scope.add_node("Identity", [new], before, like=old)
    scope.replace(old, new)
