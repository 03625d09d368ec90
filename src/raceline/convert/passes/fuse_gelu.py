"""Recognise the GELU in its exact, its tanh and its sigmoid form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.fused import fuse
from raceline.convert.graph import Match, Scope
from raceline.convert.recognise import find
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Fuse the spellings of GELU: by erf, by tanh (GeluTanh), by sigmoid (QuickGelu)"
after: tuple[str, ...] = ("fold_affine", "merge_common_subexpressions")
tolerance = 0.0

NAMES = ("Gelu", "GeluTanh", "QuickGelu")


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
    """As torch's exporter writes it for opsets without a Gelu."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4] x, float r, float one, float half) => (float[N, 4] y) {
            scaled = Div(x, r)
            e = Erf(scaled)
            sum = Add(e, one)
            product = Mul(x, sum)
            y = Mul(product, half)
        }""",
        r=np.array(np.sqrt(2), np.float32),
        one=np.array(1, np.float32),
        half=np.array(0.5, np.float32),
    )
