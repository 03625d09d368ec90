"""Bands and diagonals of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.values import fixed, fixed_ints, fixed_rank
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


def _only_main_diagonal(b: Builder, node: SourceNode, options: Sequence[ir.Value]) -> None:
    """Refuse what the newer operators have more: other diagonals, sizes, fillings (k, rows, columns, value)."""
    node.attributes.get("align")
    wanted = (0, -1, -1, 0) if len(options) == 4 else (0, 0)
    for option, usual in zip(options, wanted, strict=False):
        if (fixed(b, option, "diagonals") != usual).any():
            raise UnsupportedError("of other diagonals than the main one")


@rules("MatrixBandPart")
def _band(b: Builder, node: SourceNode, x: ir.Value, lower: ir.Value, upper: ir.Value) -> Any:
    (low,), (high,) = fixed_ints(b, lower, "band"), fixed_ints(b, upper, "band")
    kind = b.dtype(x)
    y = b.cast(x, np.int32) if kind == np.bool_ else x
    if low >= 0:
        y = b.op("Trilu", y, np.int64(-low), upper=1)
    if high >= 0:
        y = b.op("Trilu", y, np.int64(high), upper=0)
    return b.cast(y, kind)


@rules("MatrixDiag", "Diag", "MatrixDiagV2", "MatrixDiagV3")
def _diag(b: Builder, node: SourceNode, x: ir.Value, *options: ir.Value) -> Any:
    _only_main_diagonal(b, node, options)
    rank = fixed_rank(b, x)
    if node.op == "Diag" and rank != 1:
        raise UnsupportedError("of more than one axis")
    size = b.op("Shape", x, start=rank - 1, end=rank)
    steps = b.op("Range", np.int64(0), b.reshape(size, []), np.int64(1))
    same = b.op("Equal", b.op("Unsqueeze", steps, [1]), b.op("Unsqueeze", steps, [0]))
    return b.op("Where", same, b.op("Unsqueeze", x, [-1]), b.scalar(0, x))


@rules("MatrixDiagPart", "DiagPart", "MatrixDiagPartV2", "MatrixDiagPartV3")
def _diag_part(b: Builder, node: SourceNode, x: ir.Value, *options: ir.Value) -> Any:
    _only_main_diagonal(b, node, options)
    rank = fixed_rank(b, x)
    if node.op == "DiagPart" and rank != 2:
        raise UnsupportedError("of more than two axes")
    rows, columns = b.shape(x)[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise UnsupportedError("of matrices of open size")
    count = min(rows, columns)
    flat = b.op("Reshape", x, b.op("Concat", b.op("Shape", x, start=0, end=rank - 2), [-1], axis=0))
    return b.op("Gather", flat, [place * columns + place for place in range(count)], axis=rank - 2)


@rules("MatrixSetDiag", "MatrixSetDiagV2", "MatrixSetDiagV3")
def _set_diag(b: Builder, node: SourceNode, x: ir.Value, diagonal: ir.Value, *options: ir.Value) -> Any:
    _only_main_diagonal(b, node, options)
    rows, columns = b.shape(x)[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise UnsupportedError("of matrices of open size")
    missing = columns - min(rows, columns)
    wide = b.op("Unsqueeze", diagonal, [-2])  # each column has its own element in all rows
    if missing:
        rank = fixed_rank(b, wide)
        wide = b.op("Pad", wide, [0] * (2 * rank - 1) + [missing], None, mode="constant")
    return b.op("Where", np.eye(rows, columns, dtype=bool), wide, x)
