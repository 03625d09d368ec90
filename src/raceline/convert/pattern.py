"""Patterns written as the expressions they match, by onnxscript's matcher."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raceline.convert.graph import Match, Scope, escape, is_op

if TYPE_CHECKING:
    import onnx_ir as ir

Expression = Callable[..., Any]
"""`def f(op, x, ...)`: builds the expression from `op`; its parameters are bound to values by name."""


def search(node: ir.Node, scope: Scope, expressions: Mapping[str, Sequence[Expression]]) -> Match | None:
    """The first expression that ends in `node`; operands of Add and Mul in any order.

    An inner value that is used elsewhere is the match's obstacle, told by name.

    Args:
        node: where the expression should end.
        scope: the graph it is in.
        expressions: by the operator they end in.
    """
    for expression in expressions.get(node.op_type, ()) if is_op(node, *expressions) else ():
        for rule in _compiled(expression):
            found = rule.match(scope.program, scope.graph, node, check_nodes_are_removable=False)
            if found:
                nodes = scope.in_order(found.nodes)
                return Match(nodes, dict(found.bindings), obstacle=escape(nodes))
    return None


@functools.cache
def _compiled(expression: Expression) -> tuple[Any, ...]:
    """A rule for each order of operands."""
    from onnxscript.rewriter.pattern import RewriteRule

    return tuple(RewriteRule(expression, lambda op, **_: None).commute())
