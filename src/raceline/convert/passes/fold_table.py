"""Do element-wise arithmetic on a constant table once, instead of on the rows that each run looks up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.elementwise import computable, evaluate, varying
from raceline.convert.example import model_from_text
from raceline.convert.graph import (
    Array,
    Match,
    Scope,
    attribute,
    constant,
    describe,
    only_user,
    operand,
    producer,
    rank,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fold element-wise arithmetic on rows of a constant table into the table"
after: tuple[str, ...] = ("fold_one_hot", "fuse_gelu", "fuse_hard_swish", "fuse_silu", "fold_affine")
tolerance = 1e-6  # the folded rows are computed in double precision and rounded once


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Element-wise arithmetic whose only varying operand is a row of a constant table."""
    if not computable(node) or len(rows := varying(node)) != 1:
        return None
    gather = producer(rows[0], "Gather")
    if gather is None or attribute(gather, "axis", 0) != 0 or constant(gather.inputs[0]) is None:
        return None
    return Match((gather, node))


def check(match: Match, scope: Scope) -> str:
    """The rows must be needed by this node alone, and every row must be treated alike."""
    gather, node = match.nodes
    rows, table = gather.outputs[0], constant(gather.inputs[0])
    assert table is not None
    if table.dtype != np.float32 or table.ndim < 2:
        return f"the table of {describe(gather)} holds no rows of float32"
    if only_user(rows) is None:
        return f"{rows.name!r} is used elsewhere too"
    if len(gather.inputs[0].uses()) != 1:  # type: ignore[union-attr]  # it is constant, so it is there
        return f"the table of {describe(gather)} is used elsewhere too"
    for value in node.inputs:
        if value is None or value is rows:
            continue
        if (rank(value) or 0) > (rank(rows) or 0):
            return f"{value.name!r} has more axes than the rows"
        if _within_a_row(value, table) is None:
            return f"{value.name!r} differs from row to row"
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """A new table, and the look-up in place of both nodes."""
    gather, node = match.nodes
    table = constant(gather.inputs[0])
    assert table is not None
    known = {v: row for v in node.inputs if v is not None and (row := _within_a_row(v, table)) is not None}
    known[gather.outputs[0]] = table.astype(np.float64)
    folded = np.asarray(evaluate(node, known)).astype(table.dtype)
    rows = scope.add_constant(f"{operand(gather, 0).name}_folded", folded)  # type: ignore[union-attr]
    scope.replace(
        match.result, scope.add_node("Gather", [rows, gather.inputs[1]], node, match.result, axis=0)
    )
    scope.remove(match.nodes)
    return f"the table has {len(table)} rows, and a run looks up as many as it likes"


def _within_a_row(value: ir.Value, table: Array) -> Array | None:
    """A constant as it meets each row of the table; None where it is not the same for all rows."""
    array = constant(value)
    if array is None:
        return None
    if array.size == 1:
        return array.reshape(()).astype(np.float64)
    row = table.shape[1:]
    outer, inner = array.shape[: -len(row)], array.shape[-len(row) :]
    fits = set(outer) <= {1} and all(k in {1, r} for k, r in zip(inner[::-1], row[::-1], strict=False))
    return array.reshape(inner).astype(np.float64) if fits else None


def example() -> Model:
    """An embedding with a bias and an activation."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (bool[N, 6] x, float[2, 4] table, float[1, 1, 4] b) => (float[N, 6, 4] y) {
            index = Cast<to = 7>(x)
            row = Gather(table, index)
            sum = Add(row, b)
            y = Tanh(sum)
        }""",
        table=(2, 4),
        b=(1, 1, 4),
    )
