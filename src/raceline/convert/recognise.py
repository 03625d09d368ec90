"""Recognise an activation by what it computes, however an exporter spelt it.

GELU alone comes in dozens of spellings: divided by sqrt(2) or multiplied by its inverse, halved before or
after, cubed by Pow or by products. So the smallest group of element-wise nodes that turns one value into
another is evaluated over a grid and compared with the known function. The fused body is the group itself: a
wrong name could not change a number. The grid tells apart what differs by 1e-4, as the exact GELU and its
tanh form do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.elementwise import FUSED_ACTIVATIONS, computable, evaluate
from raceline.convert.fused import fuse
from raceline.convert.graph import Array, Match, Scope, constant, escape

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST = 12  # nodes; the longest spelling seen, a tanh GELU by products, has nine
TOLERANCE = 1e-4
_GRID = np.linspace(-6.0, 6.0, 193)


Pattern = Callable[["ir.Node", Scope], Match | None]
Check = Callable[[Match, Scope], str]
Rewrite = Callable[[Match, Scope], str]


def recogniser(*names: str) -> tuple[Pattern, Check, Rewrite]:
    """The three functions of a pass that fuses these activations."""

    def pattern(node: ir.Node, scope: Scope) -> Match | None:
        return find(node, scope, names)

    def check(match: Match, scope: Scope) -> str:
        return ""  # what was found is complete; values used elsewhere are the match's own obstacle

    def rewrite(match: Match, scope: Scope) -> str:
        name, x = match.values["name"], match.values["x"]
        fuse(scope, match, name, {"x": x})
        return f"together they compute {name} of {x.name!r}, which a kernel does in one sweep"

    return pattern, check, rewrite


def find(node: ir.Node, scope: Scope, names: Sequence[str]) -> Match | None:
    """The group ending in `node` that computes one of the named activations.

    Returns:
        A match with values `x` (what it is applied to) and `name` (of the function); None where nothing fits.
    """
    for nodes, x in _groups(node, scope):
        if len(nodes) > 1 and (name := _name(nodes, x, names)):
            return Match(nodes, {"x": x, "name": name}, obstacle=escape(nodes))
    return None


def _groups(last: ir.Node, scope: Scope) -> Iterator[tuple[tuple[ir.Node, ...], ir.Value]]:
    """Growing groups of nodes, in order, that end in `last` and depend on one value only."""
    group = {last} if computable(last) else set()
    while group:
        nodes = scope.in_order(group)
        outside = _outside(nodes)
        if len(outside) == 1:
            yield nodes, outside[0]
        feeders = {p for v in outside if (p := v.producer()) and computable(p) and p.graph is scope.graph}
        if not feeders or len(group) == LARGEST:
            return
        # The latest first: what it reads may be what the others read too.
        group.add(scope.in_order(feeders)[-1])


def _outside(nodes: tuple[ir.Node, ...]) -> list[ir.Value]:
    """Values the nodes read that are neither their own nor a constant of one element."""
    inner = {value for node in nodes for value in node.outputs}
    read = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v not in inner)
    return [v for v in read if (array := constant(v)) is None or array.size != 1]


def _name(nodes: tuple[ir.Node, ...], x: ir.Value, names: Sequence[str]) -> str:
    """The known function that the nodes compute of `x`; empty where there is none."""
    values: dict[ir.Value, Array] = {x: _GRID}
    for node in nodes:
        values[node.outputs[0]] = evaluate(node, values)
    result = values[nodes[-1].outputs[0]]
    for name in names:
        if np.allclose(result, FUSED_ACTIVATIONS[name](_GRID), rtol=0, atol=TOLERANCE):
            return name
    return ""
