"""Open up the functions that the source model brought, so that passes see what is inside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from raceline.convert.example import model_from_text
from raceline.convert.graph import scopes_of
from raceline.core.units import counted
from raceline.ir import FUSED_DOMAIN, Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Replace calls of the source model's own functions by their bodies"
after: tuple[str, ...] = ()
tolerance = 0.0


def run(program: ir.Model) -> Iterator[tuple[tuple[str, ...], str]]:
    """Inline every function but the fused ones."""
    from onnx_ir.passes.common import InlinePass

    calls = Counter(
        f"{node.domain}.{node.op_type}"
        for graph in scopes_of(program)
        for node in graph
        if node.domain != FUSED_DOMAIN and node.op_identifier() in program.functions
    )
    if not calls:
        return
    InlinePass(criteria=lambda function: function.domain != FUSED_DOMAIN)(program)
    for name, count in sorted(calls.items()):
        yield (name,), f"{counted(count, 'call')} opened up, so that what is inside can be rewritten too"


def example() -> Model:
    """A call of a function of another domain."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17, "maker": 1]>
        main (float[N, 4] x) => (float[N, 4] y) { y = maker.Double(x) }
        <domain: "maker", opset_import: ["": 17]>
        Double (a) => (b) { b = Add(a, a) }"""
    )
