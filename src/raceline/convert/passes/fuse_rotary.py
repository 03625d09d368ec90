"""Recognise rotary position embedding: pairs of channels turned by an angle that grows with the position."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse
from raceline.convert.graph import (
    Match,
    Scope,
    attribute,
    axes_of,
    constant,
    is_op,
    operand,
    producer,
    reaches,
    shape_of,
)
from raceline.convert.pattern import search
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse x * cos + rotated(x) * sin, where halves or neighbours of x's channels are pairs"
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


def neighbours(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """Pairs lie side by side: every other channel is negated, and both change places."""
    even, odd = op.Slice(x, _allow_other_inputs=True), op.Slice(x, _allow_other_inputs=True)
    return op.Add(op.Mul(x, cos), op.Mul(_interleaved(op, op.Neg(odd), even), sin))


def products(op: Any, x: Any, cos: Any, sin: Any) -> Any:
    """As complex numbers are multiplied, part by part."""
    even, odd = op.Slice(x, _allow_other_inputs=True), op.Slice(x, _allow_other_inputs=True)
    real = op.Sub(op.Mul(even, cos), op.Mul(odd, sin))
    imaginary = op.Add(op.Mul(even, sin), op.Mul(odd, cos))
    return _interleaved(op, real, imaginary)


def _interleaved(op: Any, one: Any, other: Any) -> Any:
    """Channels of both in turn."""
    pair = op.Concat(
        op.Unsqueeze(one, _allow_other_inputs=True), op.Unsqueeze(other, _allow_other_inputs=True)
    )
    return op.Reshape(pair, _allow_other_inputs=True)


EXPRESSIONS = {"Add": (sliced, split, neighbours), "Reshape": (products,)}


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """The sum of both products, or what joins real and imaginary parts."""
    depth = {"Add": 3, "Reshape": 1}.get(node.op_type, 0)
    return search(node, scope, EXPRESSIONS) if reaches(node, "Concat", depth) else None


def check(match: Match, scope: Scope) -> str:
    """Pairs of channels of the last axis, the first of each negated on its way to the other's place."""
    x = match.values["x"]
    shape = shape_of(x)
    if shape is None or not isinstance(shape[-1], int) or shape[-1] % 2:
        return "the number of channels is unknown or odd"
    rank, size = len(shape), shape[-1]
    (join,) = [node for node in match.nodes if is_op(node, "Concat")]
    side_by_side = producer(join.inputs[0], "Unsqueeze") is not None
    last = rank if side_by_side else rank - 1
    if attribute(join, "axis", 0) not in {-1, last}:
        return "it joins the parts along another axis than the last"
    if side_by_side and (why := _why_not_interleaved(join, match, rank)):
        return why
    first, second = _sources(match, join)
    pairs = (
        (range(1, size, 2), range(0, size, 2)) if side_by_side else (range(size // 2, size), range(size // 2))
    )
    if (_part(first, rank), _part(second, rank)) != pairs:
        what = "channels of each pair" if side_by_side else "halves"
        return f"what it joins are not the two {what} of the last axis"
    return ""


def _why_not_interleaved(join: ir.Node, match: Match, rank: int) -> str:
    """Why stacked channels do not come to lie in turn; empty where they do."""
    for value in join.inputs:
        axes = axes_of(producer(value, "Unsqueeze") or join)
        if axes not in ([-1], [rank]):
            return "it stacks the channels along another axis than the last"
    (shaped,) = [node for node in match.nodes if is_op(node, "Reshape")]
    if shape_of(shaped.outputs[0]) != shape_of(match.values["x"]):
        return "what it stacks does not get the shape that it had, or that is not known"
    return ""


def _sources(match: Match, join: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """What is negated, or multiplied by the sine with a minus; and its partner."""
    negated = [node for node in match.nodes if is_op(node, "Neg")]
    if negated:
        partner = producer(join.inputs[1], "Unsqueeze")
        return negated[0].inputs[0], join.inputs[1] if partner is None else partner.inputs[0]
    (minus,) = [node for node in match.nodes if is_op(node, "Sub")]
    first, second = (_other_factor(producer(value, "Mul"), match) for value in minus.inputs)
    return second, first


def _other_factor(product: ir.Node | None, match: Match) -> ir.Value | None:
    """The factor of a product that is no sine and no cosine."""
    assert product is not None
    angles = (match.values["cos"], match.values["sin"])
    return next((value for value in product.inputs if value not in angles), None)


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes."""
    x = match.values["x"]
    fuse(scope, match, "Rotary", {role: match.values[role] for role in ("x", "cos", "sin")})
    return (
        f"together they turn the channels of {x.name!r} by their position, which a kernel does in one sweep"
    )


def _part(value: ir.Value | None, rank: int) -> range | None:
    """The indices that a Slice or an even Split takes of the last axis."""
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
    step = 1 if steps is None else int(steps[0])
    return range(size)[int(starts[0]) : int(ends[0]) : step]


def _piece(node: ir.Node, value: ir.Value, rank: int, size: int) -> range | None:
    sizes = [(shape_of(output) or (None,))[-1] for output in node.outputs]
    if attribute(node, "axis", 0) not in {-1, rank - 1} or sizes != [size // 2, size // 2]:
        return None
    place = 0 if value is node.outputs[0] else size // 2
    return range(place, place + size // 2)


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
