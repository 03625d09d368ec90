"""Recognise root-mean-square normalisation, as decoders such as Llama use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

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
    reaches,
    scalar,
)
from raceline.convert.pattern import search
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse x / sqrt(mean(x * x) + epsilon), with or without scale"
after: tuple[str, ...] = ("fuse_layer_norm", "merge_common_subexpressions", "simplify_transpose")
tolerance = 0.0


def _root(op: Any, x: Any, two: Any, epsilon: Any) -> Any:
    from onnxscript.rewriter.pattern import OrValue

    square = OrValue([op.Pow(x, two), op.Mul(x, x)])
    return op.Sqrt(op.Add(op.ReduceMean(square, _allow_other_inputs=True), epsilon))


def divided(op: Any, x: Any, two: Any, epsilon: Any) -> Any:
    """The quotient."""
    return op.Div(x, _root(op, x, two, epsilon))


def multiplied(op: Any, x: Any, two: Any, epsilon: Any) -> Any:
    """As torch has it: x * rsqrt, which becomes a reciprocal of a root or a quotient of one and it."""
    return op.Mul(x, op.Reciprocal(_root(op, x, two, epsilon)))


def over_one(op: Any, x: Any, two: Any, epsilon: Any, one: Any) -> Any:
    """The product with one over the root."""
    return op.Mul(x, op.Div(one, _root(op, x, two, epsilon)))


EXPRESSIONS = {"Div": (divided,), "Mul": (multiplied, over_one)}


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Any spelling that ends in this node, and the scale that follows it."""
    match = search(node, scope, EXPRESSIONS) if reaches(node, "Sqrt", 2) else None
    if match is None or match.obstacle:
        return match
    result = match.nodes[-1].outputs[0]
    follower = only_user(result)
    scale = second_operand(follower, result) if follower is not None and is_op(follower, "Mul") else None
    if follower is None or scale is None or constant(scale) is None or not stays_within(scale, result):
        return match
    return Match((*match.nodes, follower), {**match.values, "scale": scale})


def check(match: Match, scope: Scope) -> str:
    """A square, a mean that keeps its axis, a small number under the root."""
    (mean,) = [node for node in match.nodes if is_op(node, "ReduceMean")]
    if axes_of(mean) is None or not attribute(mean, "keepdims", 1):
        return "its mean drops the axis that it reduces, or goes over unknown axes"
    power, one, epsilon = match.values.get("two"), match.values.get("one"), scalar(match.values["epsilon"])
    if power is not None and scalar(power) != 2.0:
        return "it does not square its input"
    if one is not None and scalar(one) != 1.0:
        return "it is not the reciprocal of the root that it multiplies by"
    if epsilon is None or not 0 <= epsilon < 0.1:
        return "what it adds to the mean square is not a small constant"
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes."""
    x = match.values["x"]
    fuse(scope, match, "RmsNorm", {role: match.values.get(role) for role in ("x", "scale")})
    return f"together they normalise {x.name!r} by its root mean square, in two sweeps over each row"


def example() -> Model:
    """As torch's exporter writes Llama's."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 8] x, float two, float epsilon, float[8] scale) => (float[N, 3, 8] y) {
            square = Pow(x, two)
            mean = ReduceMean<axes = [-1]>(square)
            safe = Add(mean, epsilon)
            root = Sqrt(safe)
            inverse = Reciprocal(root)
            normal = Mul(x, inverse)
            y = Mul(scale, normal)
        }""",
        two=np.array(2, np.float32),
        epsilon=np.array(1e-6, np.float32),
        scale=(8,),
    )
