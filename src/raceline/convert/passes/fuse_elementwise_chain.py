"""Compute what is left of element-wise arithmetic in one sweep."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from raceline.convert.elementwise import is_elementwise, learned
from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse, kind
from raceline.convert.graph import Match, Scope, describe, same_shape, shape_of
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse element-wise nodes whose values only each other need"
after: tuple[str, ...] = (
    "fold_table",
    "fuse_attention",
    "fuse_conv_activation",
    "fuse_gemm_activation",
    "fuse_layer_norm",
    "fuse_matmul_add",
    "fuse_rms_norm",
    "fuse_rotary",
    "fuse_skip_layer_norm",
    "remove_dead_code",
)
tolerance = 0.0
backwards = True  # groups grow from their last node; what is left before one is the next to look at

MOST_NODES = 16
SMALL = 1024  # elements; below, a call costs more than the memory it saves


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """The element-wise nodes of one shape that end in this node, where it is the last of them."""
    if not _takes_part(node) or _goes_on(node):
        return None
    shape = shape_of(node.outputs[0])
    if shape is not None and math.prod(dim if isinstance(dim, int) else SMALL for dim in shape) < SMALL:
        return None
    group, obstacle = {node}, ""
    grown = True
    while grown and len(group) < MOST_NODES:
        grown = False
        for feeder in _feeders(group, scope):
            why_not = _why_not(feeder, group, node)
            obstacle = obstacle or why_not
            if not why_not:
                group.add(feeder)
                grown = True
                break
    if len(group) > 1:
        return Match(scope.in_order(group))
    return Match((node,), obstacle=obstacle) if obstacle else None


def check(match: Match, scope: Scope) -> str:
    """Only what may be fused is in the group."""
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the group."""
    parts = [kind(node) for node in match.nodes]
    name = "".join(parts) if len(parts) <= 4 else f"Elementwise{len(parts)}"
    fuse(scope, match, name, {}, learned(match.nodes))
    return f"{len(parts)} element-wise nodes become one sweep over memory"


def _takes_part(node: ir.Node) -> bool:
    kinds = {value.dtype.name for value in node.outputs if value.dtype is not None}
    return (
        is_elementwise(node)
        and len(node.outputs) == 1
        and kinds <= {"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"}
    )


def _goes_on(node: ir.Node) -> bool:
    """Whether the one user of the result would take this node into its own group."""
    value = node.outputs[0]
    users = set(value.consumers())
    if value.is_graph_output() or len(users) != 1:
        return False
    (user,) = users
    return user.graph is node.graph and _takes_part(user) and same_shape(value, user.outputs[0])


def _feeders(group: set[ir.Node], scope: Scope) -> list[ir.Node]:
    """Nodes outside the group that its nodes read, the last first."""
    found = {
        p for node in group for v in node.inputs if v is not None and (p := v.producer()) and p not in group
    }
    return list(scope.in_order({p for p in found if p.graph is scope.graph and _takes_part(p)}))[::-1]


def _why_not(node: ir.Node, group: set[ir.Node], last: ir.Node) -> str:
    value = node.outputs[0]
    if value.is_graph_output():
        return f"{value.name!r}, the result of {describe(node)}, is an output of the graph"
    others = [user for user in value.consumers() if user not in group]
    if others:
        return f"{value.name!r}, the result of {describe(node)}, is also used by {describe(others[0])}"
    if not same_shape(value, last.outputs[0]):
        return f"{value.name!r} is stretched, or may be, so that fusing would compute it many times over"
    return ""


def example() -> Model:
    """A product and two sums of one shape."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[64, 64] a, float[64, 64] b, float[64] c) => (float[64, 64] y) {
            product = Mul(a, b)
            sum = Add(product, c)
            y = Sub(sum, a)
        }""",
        c=(64,),
    )
