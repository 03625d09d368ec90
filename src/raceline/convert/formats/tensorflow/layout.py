"""Compute element by element before a move of channels rather than after it, so that moves meet and cancel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.graph import attribute, producer

if TYPE_CHECKING:
    import onnx_ir as ir


def elementwise(b: Builder, op: str, *inputs: ir.Value, **attributes: Any) -> Any:
    """The operator on its inputs, where they are moved alike on what they were before the move."""
    moves = [_move(value) for value in inputs]
    perm = next((list(perm) for perm in moves if perm), None)
    if perm is None:
        return b.op(op, *inputs, **attributes)
    before = [_before(b, value, move, perm) for value, move in zip(inputs, moves, strict=True)]
    if any(value is None for value in before):
        return b.op(op, *inputs, **attributes)
    return b.transpose(b.op(op, *before, **attributes), perm)


def _move(value: ir.Value) -> list[int] | None:
    """The order of axes by which channels first become channels last; None for everything else."""
    node = producer(value, "Transpose")
    perm = attribute(node, "perm") if node is not None else None
    if perm is None or len(perm) < 3 or list(perm) != [0, *range(2, len(perm)), 1]:
        return None
    return list(perm)


def _before(b: Builder, value: ir.Value, move: list[int] | None, perm: list[int]) -> Any:
    """An operand as it is before the move; None where it has no such form."""
    if move is not None:
        node = value.producer()
        return node.inputs[0] if move == perm and node is not None else None
    array = b.array(value)
    if array is None or array.ndim > 1:
        return None
    return value if array.size == 1 else b.constant(np.reshape(array, [-1, *[1] * (len(perm) - 2)]))
