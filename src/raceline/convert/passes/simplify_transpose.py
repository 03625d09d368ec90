"""Merge transposes, and see the transpose in a detour through a batch of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import (
    Match,
    Scope,
    attribute,
    constant,
    is_op,
    only_user,
    operand,
    producer,
    rank,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Merge consecutive transposes, also where reshapes to a batch of matrices stand around one"
after: tuple[str, ...] = ("remove_dead_code", "simplify_reshape")
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Transpose of a transpose; or reshape to (batch, rows, columns), transpose, reshape back."""
    if is_op(node, "Transpose"):
        before = producer(node.inputs[0], "Transpose")
        return Match((before, node), {"kind": "pair"}) if before is not None else None
    if not is_op(node, "Reshape"):
        return None
    middle = producer(node.inputs[0], "Transpose")
    first = producer(operand(middle, 0), "Reshape") if middle is not None else None
    if middle is None or first is None or attribute(middle, "perm") != [0, 2, 1]:
        return None
    return Match((first, middle, node), {"kind": "batch"})


def check(match: Match, scope: Scope) -> str:
    """Merging must not repeat work, and the detour must come back with only the last two axes swapped."""
    for node in match.nodes[:-1]:
        if only_user(node.outputs[0]) is None:
            return f"{node.outputs[0].name!r} is used elsewhere too"
    if match.values["kind"] == "pair":
        match.values["perm"] = perm = _pair(*match.nodes)
        return "" if perm else "how many axes it turns is unknown"
    match.values["target"] = target = _target(match.nodes[0], match.nodes[-1])
    return "" if target else "the reshapes around it change more than the order of the last two axes, or may"


def rewrite(match: Match, scope: Scope) -> str:
    """One transpose in place of all."""
    source, last = operand(match.nodes[0], 0), match.nodes[-1]
    if (target := match.values.get("target")) is not None:
        shape = scope.add_constant(f"{match.result.name}_shape", np.array(target, np.int64))
        source = scope.add_node("Reshape", [source, shape], last)
        match.values["perm"] = [*range(len(target) - 2), len(target) - 1, len(target) - 2]
    output = scope.add_node("Transpose", [source], last, match.result, perm=match.values["perm"])
    scope.replace(match.result, output)
    scope.remove(match.nodes)
    return f"together they order the axes as {match.values['perm']}"


def _pair(first: ir.Node, second: ir.Node) -> list[int] | None:
    count = rank(operand(first, 0))
    backwards = None if count is None else list(range(count))[::-1]
    one, two = (attribute(node, "perm", backwards) for node in (first, second))
    return [one[axis] for axis in two] if one and two else None


def _target(first: ir.Node, last: ir.Node) -> list[int] | None:
    """The shape (..., rows, columns) that, its last two axes turned, has the shape `last` gives."""
    inward, outward = (constant(operand(node, 1)) for node in (first, last))
    if inward is None or outward is None or inward.size != 3 or outward.size < 3:
        return None
    rows, columns = inward.tolist()[1:]
    *outer, turned_rows, turned_columns = outward.tolist()
    if min(rows, columns) < 1 or (turned_rows, turned_columns) != (columns, rows) or 0 in outer:
        return None
    return [*outer, rows, columns]


def example() -> Model:
    """Swap the last two of four axes as torch's exporter writes it."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 2, 3, 4] x, int64[3] inward, int64[4] outward) => (float[N, 2, 4, 3] y) {
            matrices = Reshape(x, inward)
            turned = Transpose<perm = [0, 2, 1]>(matrices)
            y = Reshape(turned, outward)
        }""",
        inward=np.array([-1, 3, 4]),
        outward=np.array([-1, 2, 4, 3]),
    )
