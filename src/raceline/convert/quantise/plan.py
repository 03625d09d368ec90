"""Which nodes of a graph can compute with 8-bit numbers, and which values they read and write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.graph import attribute, constant, is_op, only_user, operand

if TYPE_CHECKING:
    import onnx_ir as ir

_FLOAT32 = np.dtype(np.float32)
_CLIPPING = ("Relu", "Clip")  # vanish into the range of what is quantised behind them
_REARRANGING = (
    "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "MaxPool", "Slice", "Split", "DepthToSpace",
    "SpaceToDepth", "Expand", "Identity", "Gather", "Tile", "Pad",
)  # fmt: skip
"""Operators that give back elements they were given: what they read and write has one scale."""
_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Layer:
    """A node that multiplies and adds, in 8-bit numbers once quantised.

    Attributes:
        node: a Conv, ConvTranspose, Gemm or MatMul.
        activations: places of its inputs that are computed.
        weight: place of its constant weight; None where both factors are computed.
        axis: the weight's axis of output channels.
        bias: place of its constant bias; None where there is none.
        result: the value that is quantised behind it: its own, or that of a Relu or Clip that alone reads it.
    """

    node: ir.Node
    activations: tuple[int, ...]
    weight: int | None
    axis: int
    bias: int | None
    result: ir.Value

    @property
    def name(self) -> str:
        """What people and settings call it."""
        return self.node.name or str(self.node.outputs[0].name)


def layers_of(graph: ir.Graph) -> tuple[list[Layer], dict[str, str]]:
    """The nodes that can be quantised, in order, and why others that multiply and add cannot.

    Args:
        graph: the main one of a plain program; graphs inside nodes stay in floating point.
    """
    found, refused = [], {}
    for node in graph:
        if not is_op(node, "Conv", "ConvTranspose", "Gemm", "MatMul", *_RECURRENT):
            continue
        layer = "no engine computes a recurrent layer in 8 bits" if is_op(node, *_RECURRENT) else _layer(node)
        if isinstance(layer, str):
            refused[node.name or str(node.outputs[0].name)] = layer
        else:
            found.append(layer)
    return found, refused


def _layer(node: ir.Node) -> Layer | str:
    first, second = node.inputs[0], node.inputs[1]
    if node.outputs[0].dtype is None or node.outputs[0].dtype.numpy() != _FLOAT32:
        return f"it computes in {node.outputs[0].dtype or 'an unknown type'}, not float32"
    if constant(first) is not None:
        return "its first factor is constant"
    if _is_restored(second) or (is_op(node, "MatMul") and constant(second) is None and _is_restored(first)):
        return "it is quantised already"
    weight = constant(second)
    if weight is None:
        return _of_two(node)
    if not np.isfinite(weight).all():
        return "its weights are not all finite"
    bias = constant(operand(node, 2))
    if operand(node, 2) is not None and bias is None:
        return "its bias is computed"
    if is_op(node, "Gemm") and (why := _gemm_needs(node, bias)):
        return why
    rank = weight.ndim
    if is_op(node, "MatMul") and rank < 2:
        return "its weights are a vector"
    axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(node.op_type)
    if axis is None:
        axis = 0 if attribute(node, "transB", 0) else 1
    return Layer(node, (0,), 1, axis, 2 if bias is not None else None, _result(node))


def _is_restored(value: ir.Value | None) -> bool:
    """Whether a value was small integers before."""
    source = None if value is None else value.producer()
    return source is not None and is_op(source, "DequantizeLinear")


def _of_two(node: ir.Node) -> Layer | str:
    if not is_op(node, "MatMul"):
        return "its weights are computed"
    return Layer(node, (0, 1), None, 0, None, _result(node))


def _gemm_needs(node: ir.Node, bias: np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None) -> str:
    if attribute(node, "alpha", 1.0) != 1.0 or attribute(node, "beta", 1.0) != 1.0:
        return "it scales its product or its bias"
    if attribute(node, "transA", 0):
        return "it transposes its input"
    if bias is not None and bias.size != bias.shape[-1]:
        return "its bias differs from row to row"
    return ""


def _result(node: ir.Node) -> ir.Value:
    value = node.outputs[0]
    user = only_user(value)
    if user is not None and is_op(user, *_CLIPPING) and user.inputs[0] is value:
        return user.outputs[0]
    return value


def reasons(refused: Mapping[str, str]) -> str:
    """Why the first few layers that were refused were."""
    return "; ".join(f"{name}: {why}" for name, why in [*refused.items()][:5])


def rearranging(node: ir.Node | None) -> bool:
    """Whether a node only moves, picks or repeats elements of its first input, or adds zeros to them."""
    if node is not None and is_op(node, "Pad") and attribute(node, "mode", "constant") == "constant":
        filling = constant(operand(node, 2))
        return operand(node, 2) is None or (filling is not None and not filling.any())
    return is_op(node, *_REARRANGING)
