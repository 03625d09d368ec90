"""Let a product by weights add its bias, activation and residual before writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.epilogue import epilogue, fuse_epilogue
from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, constant, is_op
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse MatMul by weights with the bias, activation and residual that follow"
after: tuple[str, ...] = (
    "fold_one_hot",
    "fuse_attention",
    "fuse_gelu",
    "fuse_hard_swish",
    "fuse_layer_norm",
    "fuse_silu",
)
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A MatMul by constant weights with what follows it."""
    return epilogue(node, scope) if is_op(node, "MatMul") and constant(node.inputs[1]) is not None else None


def check(match: Match, scope: Scope) -> str:
    """What does not fit is the pattern's own obstacle."""
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the chain."""
    return fuse_epilogue(match, scope)


def example() -> Model:
    """A linear layer of a transformer."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 4] x, float[4, 5] w, float[5] b) => (float[N, 3, 5] y) {
            product = MatMul(x, w)
            y = Add(product, b)
        }""",
        w=(4, 5),
        b=(5,),
    )
