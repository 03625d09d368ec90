"""What a graph says of 8-bit numbers, between QuantizeLinear and DequantizeLinear, as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raceline.engines.native.operators import Array, constant
from raceline.engines.native.views import RESHAPES

if TYPE_CHECKING:
    import onnx_ir as ir

_MOST_K = 32768  # beyond it a sum might not fit 32 bits
_BYTE = np.iinfo(np.int8)


@dataclass(frozen=True)
class Rounded:
    """A value that is rounded to bytes and widened again.

    Attributes:
        source: what is rounded.
        scale: of the bytes.
        zero: their zero point, as unsigned bytes have it.
        nodes: the pair that does it, and those that reshape its result.
    """

    source: ir.Value
    scale: float
    zero: int
    nodes: tuple[ir.Node, ...]


@dataclass(frozen=True)
class Weights:
    """Weights (k, n) of a product, their scales (n), and its bias (n) in floats; and the nodes that widen them."""

    bytes_KN: Array
    scale: Array
    bias: Array | None
    nodes: tuple[ir.Node, ...]


def rounded(value: ir.Value | None) -> Rounded | None:
    """The value as a rounded one, by one scale for all of it; None where it is none.

    It may be reshaped between the bytes and the product; the rows are then as many others of as many columns.
    """
    reshapes = []
    while value is not None and (node := value.producer()) is not None and node.op_type in RESHAPES:
        reshapes.append(node)
        value = node.inputs[0]
    wide = _widening(value)
    small = wide.inputs[0].producer() if wide is not None and wide.inputs[0] is not None else None
    if (
        wide is None
        or small is None
        or small.op_type != "QuantizeLinear"
        or small.domain not in {"", "ai.onnx"}
    ):
        return None
    there, back = _numbers(small), _numbers(wide)
    if there is None or back is None or small.inputs[0] is None:
        return None
    (scale, zero), (same_scale, same_zero) = there, back
    if scale.size != 1 or not np.array_equal(scale, same_scale) or not np.array_equal(zero, same_zero):
        return None
    kind = zero.dtype
    number = float(scale.reshape(-1)[0])
    if kind not in {np.dtype(np.uint8), np.dtype(np.int8)} or not (number > 0 and np.isfinite(1 / number)):
        return None
    above = -int(_BYTE.min) if kind == np.int8 else 0  # signed bytes are unsigned ones, moved
    return Rounded(small.inputs[0], number, int(zero.reshape(-1)[0]) + above, (small, wide, *reshapes))


def weights_of(node: ir.Node) -> Weights | None:
    """Weights and bias of a MatMul or Gemm whose weights are constant bytes, a scale for each column or for all."""
    wide = _widening(node.inputs[1])
    settings = {name: attribute.value for name, attribute in node.attributes.items()}
    if wide is None or settings.get("transA", 0):
        return None
    if settings.get("alpha", 1.0) != 1 or settings.get("beta", 1.0) != 1:
        return None
    held, numbers = constant(wide.inputs[0]), _numbers(wide)
    if held is None or held.ndim != 2 or 0 in held.shape or numbers is None:
        return None
    scale, zero = numbers
    turned = bool(settings.get("transB", 0))
    axis = wide.attributes["axis"].as_int() if "axis" in wide.attributes else 1
    if scale.size != 1 and (axis % 2 != (0 if turned else 1) or scale.size != held.shape[axis % 2]):
        return None
    along = (-1, 1) if turned else (1, -1)
    centred = held.astype(np.int16) - zero.astype(np.int16).reshape(along if zero.size > 1 else (1, 1))
    if held.dtype not in {np.dtype(np.uint8), np.dtype(np.int8)}:
        return None
    if centred.min() < _BYTE.min or centred.max() > _BYTE.max or centred.shape[1 if turned else 0] > _MOST_K:
        return None
    small = np.ascontiguousarray((centred.T if turned else centred).astype(np.int8))
    columns = small.shape[1]
    bias: Array | None = None
    nodes: tuple[ir.Node, ...] = (wide,)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        found = _bias(node.inputs[2], columns)
        if found is None:
            return None
        bias, more = found
        nodes += more
    scales = np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), columns), np.float32)
    return Weights(small, scales, bias, nodes)


def _bias(value: ir.Value, columns: int) -> tuple[Array, tuple[ir.Node, ...]] | None:
    """A bias in floats, widened where it is of whole numbers, and the nodes that would do that."""
    held = constant(value)
    nodes: tuple[ir.Node, ...] = ()
    if held is None:
        wide = _widening(value)
        whole = constant(wide.inputs[0]) if wide is not None else None
        numbers = _numbers(wide) if wide is not None else None
        if wide is None or whole is None or numbers is None or numbers[1].any():
            return None
        held, nodes = whole.astype(np.float32) * numbers[0], (wide,)
    if held.dtype != np.float32 or held.size not in {1, columns}:
        return None
    return np.ascontiguousarray(np.broadcast_to(held.reshape(-1), columns)), nodes


def _widening(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that writes a value; None for one of blocks, whose scales follow two axes."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or node.domain not in {"", "ai.onnx"}:
        return None
    return None if "block_size" in node.attributes and node.attributes["block_size"].as_int() else node


def _numbers(node: ir.Node) -> tuple[Array, Array] | None:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear; None where they are not held."""
    scale = constant(node.inputs[1])
    if scale is None or scale.dtype != np.float32:
        return None
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = constant(node.inputs[2])
        return None if zero is None or zero.size not in {1, scale.size} else (scale, zero)
    small = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    if small is None or small.dtype is None:
        return None
    return scale, np.zeros(1, small.dtype.numpy())
