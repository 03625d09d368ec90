"""Compute once what is computed twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, can_replace, describe
from raceline.ir import FUSED_DOMAIN, Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Merge nodes that compute the same from the same inputs"
after: tuple[str, ...] = ("merge_constants", "remove_dead_code", "simplify_reshape")
tolerance = 0.0

# Two of these differ although they look alike.
RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A node and a later one that is equal to it; an input they share leads from one to the other."""
    shared = min((v for v in node.inputs if v is not None), key=lambda v: len(v.uses()), default=None)
    if shared is None or node.op_type in RANDOM or node.domain not in {"", "ai.onnx", FUSED_DOMAIN}:
        return None
    identity = _identity(node)
    if identity is None:
        return None
    for other in sorted(
        {n for n in shared.consumers() if n.graph is scope.graph}, key=lambda n: n.name or ""
    ):
        if other is not node and _identity(other) == identity:
            first, second = scope.in_order((node, other))
            if first is node:
                return Match((node, other))
    return None


def check(match: Match, scope: Scope) -> str:
    """Outputs keep their names, so two outputs cannot become one value."""
    first, second = match.nodes
    pairs = zip(first.outputs, second.outputs, strict=True)
    return next((why for kept, dropped in pairs if (why := can_replace(dropped, kept))), "")


def rewrite(match: Match, scope: Scope) -> str:
    """Let users of the second node read the first."""
    first, second = match.nodes
    for kept, dropped in zip(first.outputs, second.outputs, strict=True):
        scope.replace(dropped, kept)
    scope.remove((second,))
    return f"{describe(first)} computes the same from the same inputs"


def _identity(node: ir.Node) -> tuple[object, ...] | None:
    """What two equal nodes have in common; None for nodes with graphs inside, which are not compared."""
    import onnx_ir as ir

    attributes: list[object] = []
    for name, attr in sorted(node.attributes.items()):
        if attr.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            return None
        value = attr.value
        if attr.type == ir.AttributeType.TENSOR:
            value = (str(attr.as_tensor().dtype), attr.as_tensor().shape.numpy(), attr.as_tensor().tobytes())
        attributes.append((name, tuple(value) if isinstance(value, list) else value))
    return (node.op_identifier(), len(node.outputs), tuple(map(id, node.inputs)), tuple(attributes))


def example() -> Model:
    """One Exp twice."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x) => (float[N, 4] y) {
            a = Exp(x)
            b = Exp(x)
            y = Mul(a, b)
        }"""
    )
