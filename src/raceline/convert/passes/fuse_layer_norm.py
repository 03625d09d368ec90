"""Recognise layer normalisation spelt out in means, squares and roots."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raceline.convert.elementwise import second_operand, stays_within
from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse
from raceline.convert.graph import (
    Match,
    Scope,
    attribute,
    axes_of,
    constant,
    is_op,
    only_user,
    rank,
    reaches,
    scalar,
    shape_of,
)
from raceline.convert.pattern import search
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse the spellings of layer normalisation, with or without scale and bias"
after: tuple[str, ...] = ("merge_common_subexpressions", "simplify_transpose")
tolerance = 0.0


def _deviation(op: Any, x: Any, two: Any, epsilon: Any) -> tuple[Any, Any]:
    """The centred values and their standard deviation."""
    from onnxscript.rewriter.pattern import OrValue

    centred = op.Sub(x, op.ReduceMean(x, _allow_other_inputs=True))
    square = OrValue([op.Pow(centred, two), op.Mul(centred, centred)])
    return centred, op.Sqrt(op.Add(op.ReduceMean(square, _allow_other_inputs=True), epsilon))


def divided(op: Any, x: Any, two: Any, epsilon: Any) -> Any:
    """torch, Paddle: centred / deviation."""
    centred, deviation = _deviation(op, x, two, epsilon)
    return op.Div(centred, deviation)


def multiplied(op: Any, x: Any, two: Any, epsilon: Any) -> Any:
    """The same with a reciprocal."""
    centred, deviation = _deviation(op, x, two, epsilon)
    return op.Mul(centred, op.Reciprocal(deviation))


def scaled_first(op: Any, x: Any, two: Any, epsilon: Any, scale: Any, bias: Any) -> Any:
    """TensorFlow: x * m + (bias - mean * m), where m = scale / deviation."""
    from onnxscript.rewriter.pattern import OrValue

    mean = op.ReduceMean(x, _allow_other_inputs=True)
    centred = op.Sub(x, mean)
    square = OrValue([op.Pow(centred, two), op.Mul(centred, centred)])
    deviation = op.Sqrt(op.Add(op.ReduceMean(square, _allow_other_inputs=True), epsilon))
    m = op.Mul(op.Reciprocal(deviation), scale)
    return op.Add(op.Mul(x, m), op.Sub(bias, op.Mul(mean, m)))


def of_sums(op: Any, x: Any, share: Any, zero: Any, epsilon: Any, scale: Any, bias: Any, shape: Any) -> Any:
    """JAX: mean and mean of squares from sums, max(0, E[x2] - E[x]2), the axis put back by reshapes."""
    from onnxscript.rewriter.pattern import OrValue

    mean = op.Mul(op.ReduceSum(x, _allow_other_inputs=True), share)
    mean_square = op.Mul(op.ReduceSum(op.Mul(x, x), _allow_other_inputs=True), share)
    variance = op.Max(zero, op.Sub(mean_square, op.Mul(mean, mean)))
    variance = OrValue([op.Reshape(variance, shape), variance])
    m = op.Mul(op.Reciprocal(op.Sqrt(op.Add(variance, epsilon))), scale)
    return op.Add(op.Mul(op.Sub(x, OrValue([op.Reshape(mean, shape), mean])), m), bias)


EXPRESSIONS = {"Div": (divided,), "Mul": (multiplied,), "Add": (scaled_first, of_sums)}


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Any spelling that ends in this node, and the scale and bias that follow it."""
    match = search(node, scope, EXPRESSIONS) if reaches(node, "Sqrt", 6) else None
    if match is None or match.obstacle or "scale" in match.values:
        return match
    nodes, values = list(match.nodes), dict(match.values)
    for op, role in (("Mul", "scale"), ("Add", "bias")):
        follower, value = only_user(nodes[-1].outputs[0]), nodes[-1].outputs[0]
        other = second_operand(follower, value) if follower is not None and is_op(follower, op) else None
        if (
            follower is not None
            and other is not None
            and constant(other) is not None
            and stays_within(other, value)
        ):
            nodes.append(follower)
            values[role] = other
    return Match(tuple(nodes), values)


def check(match: Match, scope: Scope) -> str:
    """Both reductions over the same axes, a square, a small number under the root."""
    means = [node for node in match.nodes if is_op(node, "ReduceMean", "ReduceSum")]
    axes = [axes_of(node) for node in means]
    if axes[0] is None or any(other != axes[0] for other in axes):
        return f"it takes the mean over axes {axes[0]} and the variance over {axes[-1]}"
    power, epsilon = match.values.get("two"), scalar(match.values["epsilon"])
    if power is not None and scalar(power) != 2.0:
        return "it does not square the deviations"
    if epsilon is None or not 0 <= epsilon < 0.1:
        return "what it adds to the variance is not a small constant"
    return _sum_problem(match, axes[0])


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes; over axes other than the last ones it is named AxisNorm."""
    x = match.values["x"]
    name = "LayerNorm" if _over_last(match, x) else "AxisNorm"
    fuse(scope, match, name, {role: match.values.get(role) for role in ("x", "scale", "bias")})
    return f"together they normalise {x.name!r}, which a kernel does in two sweeps over each row"


def _over_last(match: Match, x: ir.Value) -> bool:
    mean = next(node for node in match.nodes if is_op(node, "ReduceMean", "ReduceSum"))
    size, axes = rank(x), axes_of(mean) or []
    if size is None:
        return axes == [-1]
    return sorted(axis % size for axis in axes) == list(range(size - len(axes), size))


def _sum_problem(match: Match, axes: list[int]) -> str:
    """Whether sums are divided by as many elements as they add up."""
    share = match.values.get("share")
    if share is None:
        keeps = [attribute(node, "keepdims", 1) for node in match.nodes if is_op(node, "ReduceMean")]
        return "" if all(keeps) else "its means drop the axis they reduce"
    shape, part, floor = shape_of(match.values["x"]), scalar(share), scalar(match.values["zero"])
    sizes = [shape[axis] for axis in axes] if shape is not None else []
    if not sizes or not all(isinstance(size, int) for size in sizes) or part is None or floor != 0.0:
        return "how many elements its sums add up is unknown"
    count = math.prod(int(size or 0) for size in sizes)
    return (
        ""
        if math.isclose(part * count, 1.0, rel_tol=1e-4)
        else f"it divides sums of {count} elements by {1 / part:g}"
    )


def example() -> Model:
    """As torch's exporter writes it for opsets without a LayerNormalization."""
    import numpy as np

    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 8] x, float two, float epsilon, float[8] scale, float[8] bias)
            => (float[N, 3, 8] y) {
            mean = ReduceMean<axes = [-1]>(x)
            centred = Sub(x, mean)
            square = Pow(centred, two)
            variance = ReduceMean<axes = [-1]>(square)
            safe = Add(variance, epsilon)
            deviation = Sqrt(safe)
            normal = Div(centred, deviation)
            scaled = Mul(normal, scale)
            y = Add(scaled, bias)
        }""",
        two=np.array(2, np.float32),
        epsilon=np.array(1e-5, np.float32),
        scale=(8,),
        bias=(8,),
    )
