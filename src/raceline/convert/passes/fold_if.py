"""Keep only the branch that is taken, where that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, constant, is_op
from raceline.convert.splice import splice, stand_in
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Replace an If whose condition is constant by the branch it takes"
after: tuple[str, ...] = ("fold_constants", "remove_identity")
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """An If with a constant condition."""
    condition = constant(node.inputs[0]) if is_op(node, "If") else None
    if condition is None or condition.size != 1:
        return None
    return Match((node,), {"taken": "then_branch" if condition.reshape(-1)[0] else "else_branch"})


def check(match: Match, scope: Scope) -> str:
    """Nothing stands in the way: a branch means the same outside."""
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """Move the branch's nodes to where the If was."""
    (node,) = match.nodes
    taken = match.values["taken"]
    results = splice(scope, node.attributes[taken].as_graph(), (), node)
    for old, new in zip(node.outputs, results, strict=True):
        stand_in(scope, old, new, node)
    scope.remove(match.nodes)
    return f"its condition is constant, so that only its {taken.partition('_')[0]} branch ever runs"


def example() -> Model:
    """A branch by a constant flag."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, bool[1] flag) => (float[N, 4] y, float[N, 4] same) {
            h = Relu(x)
            y, same = If (flag) <
                then_branch = doubled () => (float[N, 4] a, float[N, 4] b) { a = Add(h, h) b = Identity(h) },
                else_branch = negated () => (float[N, 4] c, float[N, 4] d) { c = Neg(x) d = Abs(x) }
            >
        }""",
        flag=np.array([True]),
    )
