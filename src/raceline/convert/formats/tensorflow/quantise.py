"""Simulated quantisation, as training that knows of it leaves it in the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.values import fixed, fixed_rank
from raceline.convert.graph import Array
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("FakeQuantWithMinMaxArgs")
def _by_numbers(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    low, high = (np.float32(node.attributes.get(name, d)) for name, d in (("min", -6.0), ("max", 6.0)))
    return _fake(b, node, x, np.asarray(low), np.asarray(high))


@rules("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
def _by_values(b: Builder, node: SourceNode, x: ir.Value, low: ir.Value, high: ir.Value) -> Any:
    return _fake(b, node, x, fixed(b, low, "range"), fixed(b, high, "range"))


def _fake(b: Builder, node: SourceNode, x: ir.Value, low: Array, high: Array) -> Any:
    """To the nearest step of a range that is moved so that zero is a step.

    Eight bits become QuantizeLinear and DequantizeLinear, which engines compute in integers; others are rounded.
    """
    bits = int(node.attributes.get("num_bits", 8))
    least = int(bool(node.attributes.get("narrow_range", False)))
    if not 2 <= bits <= 16:
        raise UnsupportedError(f"to {bits} bits")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        if (low == 0).all() and (high == 0).all():
            return b.op("Mul", x, b.scalar(0, x))
        raise UnsupportedError("with an empty range")
    most = 2**bits - 1
    scale = ((high - low) / np.float32(most - least)).astype(np.float32)
    zero = np.clip(np.round(least - low / scale), least, most)
    first, last = (((level - zero) * scale).astype(np.float32) for level in (least, most))
    bounded = b.op("Min", b.op("Max", x, b.constant(first)), b.constant(last))
    if bits == 8:
        point = b.constant(zero.astype(np.uint8))
        axis = fixed_rank(b, x) - 1 if scale.ndim else None
        levels = b.op("QuantizeLinear", bounded, b.constant(scale), point, axis=axis)
        return b.op("DequantizeLinear", levels, b.constant(scale), point, axis=axis)
    steps = b.op("Div", b.op("Sub", bounded, b.constant(first)), b.constant(scale))
    level = b.op("Floor", b.op("Add", steps, np.float32(0.5)))
    return b.op("Add", b.op("Mul", level, b.constant(scale)), b.constant(first))


@rules("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4")
def _there_and_back(
    b: Builder, node: SourceNode, x: ir.Value, low: ir.Value, high: ir.Value, bits: ir.Value | None = None
) -> Any:
    """To the nearest step of a range around zero whose steps the larger side decides."""
    signed = bool(node.attributes.get("signed_input", True))
    narrow = bool(node.attributes.get("narrow_range", False))
    width = (
        int(fixed(b, bits, "bits").reshape(()))
        if bits is not None
        else int(node.attributes.get("num_bits", 8))
    )
    if int(node.attributes.get("axis", -1)) != -1:
        raise UnsupportedError("with a range for each channel")
    if not node.attributes.get("range_given", bits is not None):
        raise UnsupportedError("with a range that the data decides")
    half_up = node.attributes.get("round_mode", "HALF_TO_EVEN") == "HALF_UP"
    least = -(2 ** (width - 1)) + narrow if signed else int(narrow)
    most = 2 ** (width - 1) - 1 if signed else 2**width - 1
    first, last = (float(fixed(b, value, "range").reshape(())) for value in (low, high))
    steps = [level / edge for level, edge in ((least, first), (most, last)) if level * edge > 0]
    if not steps:
        raise UnsupportedError("with an empty range")
    scale = np.float32(min(steps))
    step = np.float32(1) / scale
    bounded = b.op("Min", b.op("Max", x, np.float32(least) * step), np.float32(most) * step)
    level = b.op("Mul", bounded, scale)
    rounded = b.op("Floor", b.op("Add", level, np.float32(0.5))) if half_up else b.op("Round", level)
    return b.op("Mul", rounded, step)
