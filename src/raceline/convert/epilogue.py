"""What follows a layer element by element (bias, activation, residual), done before its result is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.elementwise import is_elementwise, learned, stays_within, varying
from raceline.convert.fused import fuse, kind
from raceline.convert.graph import Match, Scope, constant, describe, only_user
from raceline.convert.linear import settle_convolution

if TYPE_CHECKING:
    import onnx_ir as ir

LONGEST = 8  # nodes after the layer; runtimes chain that many post-operations


def epilogue(layer: ir.Node, scope: Scope) -> Match | None:
    """The layer with the element-wise nodes that follow it, each the only user of the one before.

    At most one other tensor comes in (a residual), of the layer's own shape; constants come in where they
    stretch nothing. None where nothing element-wise follows.
    """
    nodes, residuals, obstacle = [layer], 0, ""
    while len(nodes) <= LONGEST:
        value = nodes[-1].outputs[0]
        node = only_user(value)
        if node is None or not is_elementwise(node):
            obstacle = obstacle or _shared(value)
            break
        if obstacle := _misfit(node, value, residuals):
            break
        residuals += len(varying(node)) - 1
        nodes.append(node)
    if len(nodes) == 1 and not obstacle:
        return None
    return Match(tuple(nodes), obstacle=obstacle if len(nodes) == 1 else "")


def _shared(value: ir.Value) -> str:
    """Why an element-wise follower stays behind: others use the value too; empty if none follows."""
    followers = [user for user in value.consumers() if is_elementwise(user)]
    if not followers:
        return ""
    if value.is_graph_output():
        return f"{value.name!r}, which {describe(followers[0])} uses, is an output of the graph"
    others = [user for user in value.consumers() if user is not followers[0]]
    return (
        f"{value.name!r} is used by {describe(followers[0])} and by {describe(others[0])}" if others else ""
    )


def _misfit(node: ir.Node, value: ir.Value, residuals: int) -> str:
    """Why one element-wise node cannot be taken along; empty where it can."""
    for other in node.inputs:
        if other is None or other is value:
            continue
        if not stays_within(other, value):
            shape = "which has another shape or an unknown one"
            return f"{describe(node)} combines {value.name!r} with {other.name!r}, {shape}"
        if constant(other) is None and residuals:
            return f"{describe(node)} would bring in a second tensor, {other.name!r}"
    return ""


def fuse_epilogue(match: Match, scope: Scope) -> str:
    """Make the layer and what follows it one fused operator, named after its parts; return the reason."""
    layer, *followers = match.nodes
    settle_convolution(layer)
    name = layer.op_type + "".join(kind(node) for node in followers)
    roles = dict(zip(("x", "weight", "bias"), layer.inputs, strict=False))
    inner = {value for node in match.nodes for value in node.outputs}
    residuals = [v for node in followers for v in varying(node) if v not in inner]
    fuse(scope, match, name, roles | {"residual": next(iter(residuals), None)}, learned(followers))
    written = "tensor" if len(followers) == 1 else f"{len(followers)} tensors"
    return f"{name} writes its result once: the {written} in between never reach memory"
