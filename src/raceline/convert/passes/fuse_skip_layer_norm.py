"""Take the sum in front of a layer normalisation, or the embeddings it adds up, into its sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse, is_fused
from raceline.convert.graph import Match, Scope, constant, escape, is_op, producer, same_shape
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse a residual sum, or a sum of embeddings, with the layer normalisation that alone reads it"
after: tuple[str, ...] = ("fuse_layer_norm", "fuse_rms_norm", "fuse_matmul_add")
tolerance = 0.0

_NORMS = ("LayerNorm", "RmsNorm")


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A normalisation of a sum of two or three values of one shape, or of looked-up embeddings."""
    if not (is_fused(node, *_NORMS) or is_op(node, "LayerNormalization", "RMSNormalization")):
        return None
    total = producer(node.inputs[0], "Add")
    if total is None or len(node.outputs) > 1 and any(value.uses() for value in node.outputs[1:]):
        return None
    sums = [total]
    for value in total.inputs:
        inner = producer(value, "Add")
        if inner is not None and set(inner.outputs[0].consumers()) == {total} and inner.graph is total.graph:
            sums.append(inner)
    tables = [g for add in sums for v in add.inputs if (g := _lookup(v, sums)) is not None]
    nodes = scope.in_order({*sums, *tables, node}) if total.graph is scope.graph else (total, node)
    return Match(nodes, {"embeds": bool(tables)}, obstacle=escape(nodes))


def check(match: Match, scope: Scope) -> str:
    """The sums must not stretch anything but constants and positions."""
    for node in match.nodes[:-1]:
        if is_op(node, "Add") and not match.values["embeds"]:
            result = node.outputs[0]
            if not any(v is not None and constant(v) is None and same_shape(v, result) for v in node.inputs):
                return f"{result.name!r} is stretched by its sum"
    return "" if match.nodes[-1].graph is scope.graph else "the sum belongs to an enclosing graph"


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes."""
    if match.values["embeds"]:
        fuse(scope, match, "EmbedLayerNorm", {})
        return "looked-up rows are added and normalised while they are in the cache"
    fuse(scope, match, "SkipLayerNorm", {})
    return "the sum is normalised while it is in the cache"


def _lookup(value: ir.Value | None, sums: list[ir.Node]) -> ir.Node | None:
    """The Gather of rows of a constant table that gives a value only to these sums."""
    node = producer(value, "Gather")
    if node is None or constant(node.inputs[0]) is None or node.graph is not sums[0].graph:
        return None
    return node if set(node.outputs[0].consumers()) <= set(sums) else None


def example() -> Model:
    """The end of a block of BERT."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 8] x, float[N, 3, 8] skip, float[8] scale, float[8] bias) => (float[N, 3, 8] y) {
            sum = Add(x, skip)
            y = LayerNormalization(sum, scale, bias)
        }""",
        scale=(8,),
        bias=(8,),
    )
