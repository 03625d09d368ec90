"""Let a fully connected layer finish its result before writing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.epilogue import epilogue, fuse_epilogue
from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, constant, is_op
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse Gemm with the activation, residual and scaling that follow"
after: tuple[str, ...] = (
    "fold_batch_norm",
    "fold_affine",
    "fold_into_next",
    "fuse_gelu",
    "fuse_hard_swish",
    "fuse_silu",
)
tolerance = 0.0


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A Gemm by constant weights with what follows it."""
    return epilogue(node, scope) if is_op(node, "Gemm") and constant(node.inputs[1]) is not None else None


def check(match: Match, scope: Scope) -> str:
    """What does not fit is the pattern's own obstacle."""
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the chain."""
    return fuse_epilogue(match, scope)


def example() -> Model:
    """A hidden layer."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, float[5, 4] w, float[5] b) => (float[N, 5] y) {
            dense = Gemm<transB = 1>(x, w, b)
            y = Relu(dense)
        }""",
        w=(5, 4),
        b=(5,),
    )
