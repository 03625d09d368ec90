"""Rearrange small integers instead of the floats they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.example import model_from_text
from raceline.convert.graph import (
    Match,
    Scope,
    attribute,
    constant,
    describe,
    is_op,
    only_user,
    operand,
    producer,
)
from raceline.convert.qdq import is_small, per_tensor, quantised, same_numbers
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Move DequantizeLinear behind, and QuantizeLinear before, operators that only rearrange"
after: tuple[str, ...] = ("fold_constants", "remove_identity")
tolerance = 0.0

REARRANGING = frozenset(
    "DepthToSpace Expand Flatten Gather Reshape Slice SpaceToDepth Squeeze Tile Transpose Unsqueeze".split()
)
ORDERED = frozenset({"MaxPool"})  # quantising keeps the order of numbers, so that their maximum stays theirs


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A rearranging node that reads a DequantizeLinear, or that only a QuantizeLinear reads."""
    if is_op(node, "Concat"):
        sources = [producer(value, "DequantizeLinear") for value in node.inputs]
        found = [source for source in sources if source is not None]
        return Match((*dict.fromkeys(found), node), {"forward": True}) if len(found) == len(sources) else None
    if not is_op(node, *REARRANGING, *ORDERED) or len(node.outputs) != 1:
        return None
    source = producer(operand(node, 0), "DequantizeLinear")
    if source is not None and constant(source.inputs[0]) is None:
        return Match((source, node), {"forward": True})
    reader = only_user(node.outputs[0]) if constant(node.inputs[0]) is None else None
    if reader is not None and is_op(reader, "QuantizeLinear") and reader.inputs[0] is node.outputs[0]:
        return Match((node, reader), {"forward": False})
    return None


def check(match: Match, scope: Scope) -> str:
    """One scale for the whole tensor, and nobody else who needs the floats."""
    ends = [node for node in match.nodes if is_op(node, "DequantizeLinear", "QuantizeLinear")]
    mover = match.nodes[-1] if match.values["forward"] else match.nodes[0]
    for end in ends:
        if per_tensor(end) is None:
            return f"{describe(end)} has a scale for each channel, or none that is constant and sound"
        if not is_small(quantised(end)):
            return f"{describe(end)} is of no 8-bit type"
        if attribute(end, "block_size", 0):
            return f"{describe(end)} works in blocks"
    if is_op(mover, *ORDERED) and (scope.opset < 12 or not _pads_nothing(mover)):
        return f"{describe(mover)} pads, or its opset takes no integers"
    if not match.values["forward"]:
        return ""
    for end in ends:
        value = end.outputs[0]
        if value.is_graph_output() or set(value.consumers()) != {mover} or end.graph is not scope.graph:
            return f"{value.name!r} is also used elsewhere as floats"
        if not same_numbers(end, ends[0]):
            return "what it joins has different scales"
    return ""


def rewrite(match: Match, scope: Scope) -> str:
    """The rearranging node on small integers; the other one on the far side of it."""
    mover = match.nodes[-1] if match.values["forward"] else match.nodes[0]
    end = match.nodes[0] if match.values["forward"] else match.nodes[-1]
    anchor = match.nodes[-1]
    result = anchor.outputs[0]
    if match.values["forward"]:
        inputs = [_integers(value) for value in mover.inputs]
        moved = _again(scope, mover, inputs, anchor, quantised(end))
        new = _again(scope, end, [moved, *end.inputs[1:]], anchor, result)
        new.shape = result.shape
    else:
        first = _again(scope, end, [mover.inputs[0], *end.inputs[1:]], anchor, result)
        first.shape = mover.inputs[0].shape if mover.inputs[0] is not None else None
        new = _again(scope, mover, [first, *mover.inputs[1:]], anchor, result)
    scope.replace(result, new)
    scope.remove(match.nodes)
    return f"{describe(mover)} moves a quarter of the bytes, and what is quantised meets"


def _integers(value: ir.Value | None) -> ir.Value | None:
    source = producer(value, "DequantizeLinear")
    return value if source is None else quantised(source)


def _again(
    scope: Scope, node: ir.Node, inputs: list[ir.Value | None], before: ir.Node, like: ir.Value
) -> ir.Value:
    """The same operator on other inputs; its result has the element type of `like`."""
    value = scope.add_node(node.op_type, inputs, before)
    made = value.producer()
    assert made is not None
    for attr in node.attributes.values():
        made.attributes.add(attr)
    value.type = like.type
    value.shape = node.outputs[0].shape
    return value


def _pads_nothing(pool: ir.Node) -> bool:
    return attribute(pool, "auto_pad", "NOTSET") in {"NOTSET", "VALID"} and not any(
        attribute(pool, "pads", [0])
    )


def example() -> Model:
    """A transposition between two layers of integers."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (int8[N, 3, 4] q, float scale, int8 zero) => (float[N, 4, 3] y) {
            x = DequantizeLinear(q, scale, zero)
            y = Transpose<perm = [0, 2, 1]>(x)
        }""",
        scale=np.array(0.1, np.float32),
        zero=np.array(3, np.int8),
    )
