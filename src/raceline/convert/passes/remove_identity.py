"""Take out nodes that give back what they get."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.dims import dims_of_shape
from raceline.convert.example import model_from_text
from raceline.convert.graph import (
    Array,
    Match,
    Scope,
    attribute,
    axes_of,
    can_replace,
    constant,
    is_op,
    operand,
    producer,
    rank,
    same_shape_proven,
    scalar,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Remove Identity, inference-time Dropout, and casts, reshapes, products that change nothing"
after: tuple[str, ...] = ("fold_constants",)
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A node that the table below explains."""
    explain = _EXPLAIN.get(node.op_type) if is_op(node, node.op_type) else None
    if explain is None:
        return None
    reason, kept = explain(node, scope) or ("", None)
    return Match((node,), {"reason": reason, "kept": kept}) if kept is not None else None


def check(match: Match, scope: Scope) -> str:
    """Inputs, weights and outputs keep their names."""
    return can_replace(match.result, match.values["kept"])


def rewrite(match: Match, scope: Scope) -> str:
    """Let users of the result read the input."""
    scope.replace(match.result, match.values["kept"])
    scope.remove(match.nodes)
    return str(match.values["reason"])


Explanation = tuple[str, "ir.Value | None"] | None


def _identity(node: ir.Node, scope: Scope) -> Explanation:
    return "it gives back its input", operand(node, 0)


def _dropout(node: ir.Node, scope: Scope) -> Explanation:
    training = operand(node, 2)
    trains = training is not None and scalar(training) != 0.0
    masked = len(node.outputs) > 1 and bool(node.outputs[1].uses() or node.outputs[1].is_graph_output())
    old = scope.opset < 7 and not attribute(node, "is_test", 0)
    return None if trains or masked or old else ("outside training it gives back its input", operand(node, 0))


def _cast(node: ir.Node, scope: Scope) -> Explanation:
    value = operand(node, 0)
    same = value is not None and value.dtype is not None and value.dtype.value == attribute(node, "to")
    return ("its input has that type already", value) if same else None


def _cast_like(node: ir.Node, scope: Scope) -> Explanation:
    value, other = operand(node, 0), operand(node, 1)
    same = value is not None and other is not None and value.dtype is not None and value.dtype == other.dtype
    return ("its input has that type already", value) if same else None


def _transpose(node: ir.Node, scope: Scope) -> Explanation:
    perm = attribute(node, "perm")
    return ("it leaves every axis where it is", operand(node, 0)) if perm == sorted(perm or [-1]) else None


def _reshape(node: ir.Node, scope: Scope) -> Explanation:
    value, target = operand(node, 0), constant(operand(node, 1))
    dims = dims_of_shape(value)
    if dims is None or target is None or len(dims) != target.size:
        return None
    copied = 0 if attribute(node, "allowzero", 0) else 1
    # -1 is whatever is left once all other dimensions are the same.
    fits = [want == have or (want == 0 and copied) for want, have in zip(target.tolist(), dims, strict=True)]
    keeps = sum(not fit for fit in fits) == (-1 in target.tolist()) and all(
        fit or want == -1 for fit, want in zip(fits, target.tolist(), strict=True)
    )
    return ("its input has that shape already", value) if keeps else None


def _expand(node: ir.Node, scope: Scope) -> Explanation:
    value, target = operand(node, 0), operand(node, 1)
    shaped = producer(value, "Reshape")
    if shaped is not None and constant(target) is None and operand(shaped, 1) is target:
        return "the reshape before it gave its input that shape", value
    sizes = constant(target)
    if sizes is not None and (size := rank(value)) is not None and size >= sizes.size and (sizes == 1).all():
        return "it repeats every axis once", value
    same = value is not None and same_shape_proven(value, node.outputs[0])
    return ("its input has that shape already", value) if same else None


def _slice(node: ir.Node, scope: Scope) -> Explanation:
    starts, ends, steps = constant(operand(node, 1)), constant(operand(node, 2)), operand(node, 4)
    if starts is None or ends is None or (steps is not None and not _all_ones(constant(steps))):
        return None
    # No tensor is as long as 2^31 - 1 along an axis; exporters write that and more for "to the end".
    whole = not starts.any() and (ends >= 2**31 - 1).all()
    return ("it takes every axis whole", operand(node, 0)) if whole else None


def _all_ones(array: Array | None) -> bool:
    return array is not None and bool((array == 1).all())


def _pad(node: ir.Node, scope: Scope) -> Explanation:
    pads = constant(operand(node, 1))
    listed = attribute(node, "pads") if scope.opset < 11 else None if pads is None else pads.tolist()
    return (
        ("it adds nothing on any side", operand(node, 0)) if listed is not None and not any(listed) else None
    )


def _concat(node: ir.Node, scope: Scope) -> Explanation:
    return ("it joins one tensor", operand(node, 0)) if len(node.inputs) == 1 else None


def _squeeze(node: ir.Node, scope: Scope) -> Explanation:
    opposite = {"Squeeze": "Unsqueeze", "Unsqueeze": "Squeeze"}[node.op_type]
    before = producer(operand(node, 0), opposite)
    axes = axes_of(node)
    if before is None or axes is None or axes_of(before) != axes or min(axes) < 0:
        return None
    return f"the {opposite} before it did the opposite", operand(before, 0)


def _times_one(node: ir.Node, scope: Scope) -> Explanation:
    for value, one in (node.inputs, node.inputs[::-1] if is_op(node, "Mul") else node.inputs):
        if value is not None and scalar(one) == 1.0 and _no_more_axes(one, value):
            return "it multiplies or divides by one, or raises to the power of one", value
    return None


def _minus_zero(node: ir.Node, scope: Scope) -> Explanation:
    # x + 0 is left alone: it makes 0.0 of -0.0, and 1 / 0.0 and 1 / -0.0 differ.
    value, zero = node.inputs
    number = constant(zero)
    plain = number is not None and number.size == 1 and not number.any() and not np.signbit(number).any()
    return (
        ("it takes nothing away", value)
        if value is not None and plain and _no_more_axes(zero, value)
        else None
    )


def _no_more_axes(number: ir.Value | None, value: ir.Value) -> bool:
    """Whether combining the two cannot give the result more axes than `value` has."""
    few, many = rank(number), rank(value)
    return few is not None and (few == 0 or (many is not None and few <= many))


_EXPLAIN: dict[str, Callable[[ir.Node, Scope], Explanation]] = {
    "Identity": _identity,
    "Dropout": _dropout,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Expand": _expand,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _squeeze,
    "Mul": _times_one,
    "Div": _times_one,
    "Pow": _times_one,
    "Sub": _minus_zero,
}


def example() -> Model:
    """An Identity in front of a Relu."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x) => (float[N, 4] y) {
            same = Identity(x)
            y = Relu(same)
        }"""
    )
