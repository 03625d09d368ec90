"""What is asked of QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.graph import Array, constant, is_op, operand

if TYPE_CHECKING:
    import onnx_ir as ir

    from raceline.ir import Model


_SMALLEST, _LARGEST = 1e-30, 1e30


def comes_quantised(model: Model) -> bool:
    """Whether a model rounds computed values to small integers: it comes quantised."""
    graphs: list[Any] = [model.program.graph, *model.program.functions.values()]
    return any(node.op_type == "QuantizeLinear" for graph in graphs for node in graph.all_nodes())


def per_tensor(node: ir.Node) -> tuple[Array, Array | None] | None:
    """Scale and zero point (None: zero) of a node with one sound constant of each; None for any other."""
    scale, zero = constant(operand(node, 1)), constant(operand(node, 2))
    if scale is None or scale.size != 1 or scale.ndim > 1:
        return None
    if not _SMALLEST <= float(scale.reshape(())) <= _LARGEST:
        return None  # negative, zero or so large that products overflow: such numbers do not come back
    if operand(node, 2) is not None and (zero is None or zero.size != 1):
        return None
    return scale, zero


def same_numbers(one: ir.Node, other: ir.Node) -> bool:
    """Whether two per-tensor nodes have one scale, one zero point and one quantised type."""
    first, second = per_tensor(one), per_tensor(other)
    if first is None or second is None or quantised(one).dtype != quantised(other).dtype:
        return False
    zeros = [0 if zero is None else int(zero.reshape(())) for _, zero in (first, second)]
    same_scale = first[0].dtype == second[0].dtype and float(first[0].reshape(())) == float(
        second[0].reshape(())
    )
    return same_scale and zeros[0] == zeros[1]


def quantised(node: ir.Node) -> ir.Value:
    """The value of a node in small integers: what a DequantizeLinear reads or a QuantizeLinear writes."""
    value = node.inputs[0] if is_op(node, "DequantizeLinear") else node.outputs[0]
    assert value is not None
    return value


def is_small(value: ir.Value) -> bool:
    """Whether a value is known to hold 8-bit integers, which every rearranging operator takes."""
    return value.dtype is not None and value.dtype.numpy() in {np.dtype(np.int8), np.dtype(np.uint8)}
