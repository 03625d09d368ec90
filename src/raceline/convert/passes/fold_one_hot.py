"""Look up a row instead of multiplying a one-hot vector by a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import Array, Match, Scope, constant, describe, is_op, operand, producer, shape_of
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Replace a one-hot vector times a constant matrix by the matrix's row"
after: tuple[str, ...] = ("fold_constants", "merge_common_subexpressions", "remove_identity")
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """MatMul of a one-hot vector, spelt as a comparison with 0, 1, 2 ... and a cast."""
    if not is_op(node, "MatMul"):
        return None
    cast = producer(node.inputs[0], "Cast")
    equal = producer(operand(cast, 0), "Equal") if cast is not None else None
    if cast is None or equal is None:
        return None
    for index, other in (equal.inputs, equal.inputs[::-1]):
        classes = constant(other)
        if classes is not None and _counts_up(classes) and (shape_of(index) or ("",))[-1] == 1:
            return Match((node,), {"index": index, "classes": classes.size})
    return None


def check(match: Match, scope: Scope) -> str:
    """A row of the matrix must be what the product gives."""
    (node,) = match.nodes
    table = constant(node.inputs[1])
    if table is None or table.ndim != 2:
        return f"the matrix of {describe(node)} is not constant, or is a batch of them"
    if len(table) != match.values["classes"]:
        return f"{describe(node)} does not fit the one-hot vector"
    if not np.isfinite(table).all():
        return "the matrix holds NaN or infinity, which times zero is NaN in every row"
    index = match.values["index"]
    if scope.opset < 13 or index.dtype is None or index.dtype.name not in {"INT32", "INT64"}:
        return "the index has a type by which nothing can be looked up"
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """The matrix between two rows of zeros, for what is below and above all classes."""
    (node,) = match.nodes
    index, classes = match.values["index"], match.values["classes"]
    matrix = operand(node, 1)
    table = constant(matrix)
    assert matrix is not None and table is not None
    zeros = np.zeros((1, table.shape[1]), table.dtype)
    rows = scope.add_constant(f"{matrix.name}_rows", np.concatenate([zeros, table, zeros]))

    def number(value: int) -> ir.Value:
        return scope.add_constant(f"{node.name}_{value}", np.array(value, index.dtype.numpy()))

    flat = scope.add_node("Squeeze", [index, scope.add_constant(f"{node.name}_axis", np.array([-1]))], node)
    within = scope.add_node("Clip", [flat, number(-1), number(classes)], node)
    row = scope.add_node("Add", [within, number(1)], node)
    scope.replace(match.result, scope.add_node("Gather", [rows, row], node, match.result, axis=0))
    scope.remove(match.nodes)
    return f"of {classes} products per element all but one are by zero"


def _counts_up(classes: Array) -> bool:
    """Whether the numbers along the last axis, the only one, are 0, 1, 2 and so on."""
    along_last = classes.ndim > 0 and classes.shape[-1] == classes.size > 1
    return bool(
        along_last and classes.dtype.kind == "i" and (classes.ravel() == np.arange(classes.size)).all()
    )


def example() -> Model:
    """The first layer of a network that reads bytes, as JAX's exporter writes it."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (int32[N, 6] x, int64[1] axis, int32[1, 1, 5] classes, float[5, 4] w) => (float[N, 6, 4] y) {
            index = Unsqueeze(x, axis)
            hit = Equal(index, classes)
            hot = Cast<to = 1>(hit)
            y = MatMul(hot, w)
        }""",
        axis=np.array([2]),
        classes=np.arange(5, dtype=np.int32).reshape(1, 1, 5),
        w=(5, 4),
    )
