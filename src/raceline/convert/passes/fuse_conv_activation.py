"""Let a convolution finish its result before writing it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.epilogue import epilogue, fuse_epilogue
from raceline.convert.example import model_from_text
from raceline.convert.graph import Match, Scope, constant, is_op
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse Conv and ConvTranspose with the activation, residual and scaling that follow"
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
    """A convolution by constant weights with what follows it."""
    return (
        epilogue(node, scope)
        if is_op(node, "Conv", "ConvTranspose") and constant(node.inputs[1]) is not None
        else None
    )


def check(match: Match, scope: Scope) -> str:
    """What does not fit is the pattern's own obstacle."""
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the chain."""
    return fuse_epilogue(match, scope)


def example() -> Model:
    """The end of a residual block."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4, 6, 6] x, float[4, 4, 3, 3] w, float[4] b) => (float[N, 4, 6, 6] y) {
            conv = Conv<pads = [1, 1, 1, 1]>(x, w, b)
            sum = Add(conv, x)
            y = Relu(sum)
        }""",
        w=(4, 4, 3, 3),
        b=(4,),
    )
