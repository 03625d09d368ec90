"""Recognise rotary position embedding: pairs of channels turned by an angle that grows with the position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse
from raceline.convert.graph import Match, Scope, attribute, constant, is_op, operand, reaches, shape_of
from raceline.convert.pattern import search
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse x * cos + rotate_half(x) * sin"
after: tuple[str, ...] = ("merge_common_subexpressions", "simplify_transpose")
tolerance = 0.0

_TO_THE_END = 2**31 - 1


def sliced(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """torch: the halves are slices."""
    low, high = op.Slice(x, _allow_other_inputs=True), op.Slice(x, _allow_other_inputs=True)
    return op.Add(op.Mul(x, cos), op.Mul(op.Concat(op.Neg(high), low), sin))


def split(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """The halves are the outputs of a Split."""
    low, high = op.Split(x, _allow_other_inputs=True, _outputs=2)
    return op.Add(op.Mul(x, cos), op.Mul(op.Concat(op.Neg(high), low), sin))


EXPRESSIONS = {"Add": (sliced, split)}


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """The sum of both products."""
    return search(node, scope, EXPRESSIONS) if reaches(node, "Concat", 2) else None


def check(match: Match, scope: Scope) -> str:
    """Both halves of the last axis, the upper one negated and in front."""
    x = match.values["x"]
    shape = shape_of(x)
    if shape is None or not isinstance(shape[-1], int) or shape[-1] % 2:
        return "the number of channels is unknown or odd"
    rank, half = len(shape), shape[-1] // 2
    (join,) = [node for node in match.nodes if is_op(node, "Concat")]
    if attribute(join, "axis", 0) not in {-1, rank - 1}:
        return "it joins the halves along another axis than the last"
    (negated,) = [node for node in match.nodes if is_op(node, "Neg")]
    upper, lower = negated.inputs[0], join.inputs[1]
    if _part(upper, rank) != (half, 2 * half) or _part(lower, rank) != (0, half):
        return "what it joins are not the two halves of the last axis"
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes."""
    x = match.values["x"]
    fuse(scope, match, "Rotary", {role: match.values[role] for role in ("x", "cos", "sin")})
    return (
        f"together they turn the channels of {x.name!r} by their position, which a kernel does in one sweep"
    )


def _part(value: ir.Value | None, rank: int) -> tuple[int, int] | None:
    """First and last-but-one index that a Slice or an even Split takes of the last axis."""
    node = value.producer() if value is not None else None
    if node is None or value is None:
        return None
    size = (shape_of(node.inputs[0]) or (None,))[-1]
    if not isinstance(size, int):
        return None
    if is_op(node, "Split"):
        return _piece(node, value, rank, size)
    starts, ends, axes = (constant(operand(node, index)) for index in (1, 2, 3))
    steps = constant(operand(node, 4))
    if starts is None or ends is None or axes is None or axes.size != 1 or int(axes[0]) not in {-1, rank - 1}:
        return None
    if steps is not None and (steps != 1).any():
        return None
    start, stop, _ = slice(int(starts[0]), int(ends[0])).indices(size)
    return start, stop


def _piece(node: ir.Node, value: ir.Value, rank: int, size: int) -> tuple[int, int] | None:
    sizes = [(shape_of(output) or (None,))[-1] for output in node.outputs]
    if attribute(node, "axis", 0) not in {-1, rank - 1} or sizes != [size // 2, size // 2]:
        return None
    place = 0 if value is node.outputs[0] else size // 2
    return place, place + size // 2


def example() -> Model:
    """As torch's exporter writes Llama's."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 2, 3, 8] x, float[3, 8] cos, float[3, 8] sin, int64[1] zero, int64[1] half, int64[1] end,
            int64[1] last) => (float[N, 2, 3, 8] y) {
            low = Slice(x, zero, half, last)
            high = Slice(x, half, end, last)
            back = Neg(high)
            turned = Concat<axis = -1>(back, low)
            straight = Mul(x, cos)
            across = Mul(turned, sin)
            y = Add(straight, across)
        }""",
        cos=(3, 8),
        sin=(3, 8),
        zero=np.array([0]),
        half=np.array([4]),
        end=np.array([_TO_THE_END]),
        last=np.array([-1]),
    )
