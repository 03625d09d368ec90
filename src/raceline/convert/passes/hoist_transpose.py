"""Turn the parts of a stack before they are stacked, where turning a part moves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import (
    Match,
    Scope,
    attribute,
    axes_of,
    constant,
    describe,
    is_op,
    only_user,
    operand,
    producer,
    rank,
    shape_of,
)
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Transpose before a Slice, and before a Concat of parts that are one element wide"
after: tuple[str, ...] = ("simplify_transpose", "simplify_reshape", "remove_dead_code")
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A Transpose of a Slice of a stack, or of the stack itself."""
    if not is_op(node, "Transpose"):
        return None
    before = producer(node.inputs[0], "Slice", "Concat")
    if before is None or scope.opset < 13:
        return None
    stack = before if is_op(before, "Concat") else producer(before.inputs[0], "Concat")
    if stack is None or not _stacks(stack) or before.graph is not scope.graph:
        return None
    return Match((before, node))


def check(match: Match, scope: Scope) -> str:
    """Moving the transpose must not repeat it, and a part must keep the order of its elements."""
    before, transpose = match.nodes
    if only_user(before.outputs[0]) is None:
        return f"{before.outputs[0].name!r}, the result of {describe(before)}, is used elsewhere too"
    if attribute(transpose, "perm") is None:
        return f"{describe(transpose)} turns all axes"
    if is_op(before, "Slice"):
        return "" if _sliced_axes(before) else f"the axes that {describe(before)} cuts are unknown"
    perm, axis = attribute(transpose, "perm"), _axis(before)
    if [p for p in perm if p != axis] != [p for p in range(len(perm)) if p != axis]:
        return f"{describe(transpose)} moves more than the axis that {describe(before)} stacks along"
    open_sizes = [d for d in _part_shape(before, perm) if not isinstance(d, int)]
    return "" if len(open_sizes) <= 1 else f"the parts of {describe(before)} have unknown sizes"


def rewrite(match: Match, scope: Scope) -> str:
    """Slice or stack what was turned."""
    before, transpose = match.nodes
    perm = attribute(transpose, "perm")
    moved = _slice(scope, match, perm) if is_op(before, "Slice") else _concat(scope, match, perm)
    scope.replace(match.result, moved)
    scope.remove(match.nodes)
    if is_op(before, "Slice"):
        return "a slice may be cut before or after its axes are turned"
    return "parts one element wide need no turning, and stacking whole planes copies longer runs"


def _slice(scope: Scope, match: Match, perm: list[int]) -> ir.Value:
    before, transpose = match.nodes
    axes = [perm.index(axis) for axis in _sliced_axes(before) or ()]
    turned = scope.add_node("Transpose", [before.inputs[0]], transpose, perm=perm)
    inputs = list(before.inputs)
    inputs[3:4] = [scope.add_constant(f"{before.name}_axes", np.array(axes, np.int64))]
    starts = inputs[1]
    if starts is not None and starts.dtype is not None and starts.dtype.numpy() == np.int32:
        inputs[3] = scope.add_constant(f"{before.name}_axes", np.array(axes, np.int32))
    return scope.add_node("Slice", [turned, *inputs[1:]], transpose, match.result)


def _concat(scope: Scope, match: Match, perm: list[int]) -> ir.Value:
    before, transpose = match.nodes
    target = [dim if isinstance(dim, int) else -1 for dim in _part_shape(before, perm)]
    shape = scope.add_constant(f"{match.result.name}_part", np.array(target, np.int64))
    parts = [scope.add_node("Reshape", [part, shape], transpose) for part in before.inputs]
    return scope.add_node("Concat", parts, transpose, match.result, axis=perm.index(_axis(before)))


def _axis(stack: ir.Node) -> int:
    axis = int(attribute(stack, "axis", 0))
    return axis if axis >= 0 else axis + (rank(stack.outputs[0]) or 0)


def _stacks(node: ir.Node) -> bool:
    """Whether every part is one element wide along the axis of the Concat, and that is not the first."""
    axis = _axis(node)
    shapes = [shape_of(part) for part in node.inputs]
    return (
        axis > 0 and len(shapes) > 1 and all(s is not None and axis < len(s) and s[axis] == 1 for s in shapes)
    )


def _part_shape(stack: ir.Node, perm: list[int]) -> list[int | str | None]:
    """The turned shape of each part; axes on which they do not agree by name count as open."""
    shape = shape_of(stack.inputs[0])
    assert shape is not None
    return [shape[axis] for axis in perm]


def _sliced_axes(node: ir.Node) -> list[int] | None:
    """The axes a Slice cuts, counted from the front; None where they are not known."""
    starts, count = constant(operand(node, 1)), rank(node.inputs[0])
    if starts is None or count is None:
        return None
    axes = axes_of(node, 3) if operand(node, 3) is not None else list(range(starts.size))
    return None if axes is None else [axis % count for axis in axes]


def example() -> Model:
    """Planes stacked last, as TensorFlow does, for a convolution that wants them first."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4, 6, 1] a, float[N, 4, 6, 1] b, int64[1] starts, int64[1] ends, int64[1] axes)
            => (float[N, 2, 4, 5] y) {
            stack = Concat<axis = -1>(a, b)
            cut = Slice(stack, starts, ends, axes)
            y = Transpose<perm = [0, 3, 1, 2]>(cut)
        }""",
        starts=np.array([0]),
        ends=np.array([5]),
        axes=np.array([2]),
    )
