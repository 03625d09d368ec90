"""Layers of several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.layers import Call, Mask, floating, known
from raceline.convert.formats.keras.normalization import normalised
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
Inputs = Sequence["ir.Value"]


def _aligned(b: Builder, inputs: Inputs) -> list[ir.Value]:
    """Inputs of the same number of axes; new ones come after the batch."""
    values = [floating(b, x) for x in inputs]
    rank = max(b.rank(x) for x in values)
    return [
        x if b.rank(x) == rank else b.op("Unsqueeze", x, list(range(1, 1 + rank - b.rank(x)))) for x in values
    ]


def _merged_mask(b: Builder, call: Call) -> Mask:
    """None where any input has none; else, in Keras 3, what counts in any input, in Keras 2, what counts in all."""
    if any(mask is None for mask in call.masks):
        return None
    masks = [known(mask) for mask in call.masks]
    result = masks[0]
    for mask in masks[1:]:
        result = b.op("Or" if call.layer.major >= 3 else "And", result, mask)
    return result


@rules("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
def merge(b: Builder, call: Call, inputs: Inputs) -> ir.Value:
    """Element by element."""
    kind = call.layer.kind
    if (
        kind in {"Maximum", "Minimum"}
        and call.layer.major >= 3
        and any(mask is not None for mask in call.masks)
    ):
        raise UnsupportedError("inputs with masks")
    values = _aligned(b, inputs)
    op = {"Subtract": "Sub", "Multiply": "Mul", "Maximum": "Max", "Minimum": "Min"}.get(kind, "Add")
    y = values[0]
    for x in values[1:]:
        y = b.op(op, y, x)
    if kind == "Average":
        y = b.op("Div", y, b.scalar(len(values), y))
    call.result_masks = [_merged_mask(b, call)]
    return y


@rules("Concatenate")
def concatenate(b: Builder, call: Call, inputs: Inputs) -> ir.Value:
    """One after another along an axis."""
    axis = int(call.get("axis", -1))
    values = list(inputs)
    if len({b.dtype(x) for x in values}) > 1:
        values = [floating(b, x) for x in values]
    rank = b.rank(values[0])
    if any(mask is not None for mask in call.masks):
        call.result_masks = [_concatenated_mask(b, call, values, axis % rank)]
    return b.op("Concat", *values, axis=axis) if len(values) > 1 else values[0]


def _concatenated_mask(b: Builder, call: Call, values: Inputs, axis: int) -> Mask:
    """Along the steps, masks follow each other; along the features, a step counts that counts anywhere."""
    rank = b.rank(values[0])
    masks = [known(mask) for mask in call.masks]
    full = []
    for mask, x in zip(masks, values, strict=True):
        shape = b.op("Shape", x, start=0, end=rank - 1)
        like = b.op("Expand", np.array(True), shape)
        full.append(like if mask is None else b.op("And", mask, like) if b.rank(mask) == rank - 1 else None)
    if any(mask is None for mask in full):
        raise UnsupportedError("masks of other shapes than the inputs without their last axis")
    if axis < rank - 1:
        return b.op("Concat", *full, axis=axis)
    result = full[0]
    for mask in full[1:]:
        result = b.op("Or" if call.layer.major >= 3 else "And", result, mask)
    return result


@rules("Dot")
def dot(b: Builder, call: Call, inputs: Inputs) -> ir.Value:
    """Products along one axis of each of two inputs, batch by batch."""
    call.result_masks = [None]
    x, y = (floating(b, value) for value in inputs)
    axes = call["axes"]
    first, second = (axes, axes) if isinstance(axes, int) else (int(axes[0]), int(axes[1]))
    first, second = first % b.rank(x), second % b.rank(y)
    if 0 in {first, second}:
        raise UnsupportedError("axes that include the batch")
    if call.get("normalize"):
        x, y = normalised(b, x, [first], 1e-12), normalised(b, y, [second], 1e-12)
    if b.rank(x) > 3 or b.rank(y) > 3:
        letters = "abcdefghijklmnopqrstuvwxyz"
        left = "z" + letters[: b.rank(x) - 1]
        right = "z" + letters[b.rank(x) : b.rank(x) + b.rank(y) - 1]
        right = right[:second] + left[first] + right[second + 1 :]
        result = "z" + "".join(c for c in left[1:] + right[1:] if c != left[first])
        return b.op("Einsum", x, y, equation=f"{left},{right}->{result}")  # type: ignore[no-any-return]
    return _matrix_dot(b, x, y, first, second)


def _matrix_dot(b: Builder, x: ir.Value, y: ir.Value, first: int, second: int) -> ir.Value:
    """For inputs of two or three axes; one pair of vectors gives one number, in an axis of its own."""
    flat_x, flat_y = b.rank(x) == 2, b.rank(y) == 2
    if flat_x:
        x, first = b.op("Unsqueeze", x, [1]), 2
    if flat_y:
        y, second = b.op("Unsqueeze", y, [2]), 1
    x = x if first == 2 else b.transpose(x, [0, 2, 1])
    y = y if second == 1 else b.transpose(y, [0, 2, 1])
    product = b.op("MatMul", x, y)
    if flat_x:
        return b.op("Squeeze", product, [1])  # type: ignore[no-any-return]
    return b.op("Squeeze", product, [2]) if flat_y else product  # type: ignore[no-any-return]
