"""Recognise x * sigmoid(x) and its kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse
from raceline.convert.graph import Match, Scope
from raceline.convert.recognise import find
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse x * sigmoid(x) to Silu, and x * tanh(softplus(x)) to Mish"
after: tuple[str, ...] = ("fold_affine", "merge_common_subexpressions")
tolerance = 0.0

NAMES = ("Silu", "Mish")


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """Any spelling of them that ends in this node."""
    return find(node, scope, NAMES)


def check(match: Match, scope: Scope) -> str:
    """What the pattern found is complete; values used elsewhere are its own obstacle."""
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """One call in place of the nodes."""
    name = match.values["name"]
    fuse(scope, match, name, {"x": match.values["x"]})
    return f"together they compute {name} of {match.values['x'].name!r}, which a kernel does in one sweep"


def example() -> Model:
    """As every exporter writes it."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x) => (float[N, 4] y) {
            gate = Sigmoid(x)
            y = Mul(x, gate)
        }"""
    )
