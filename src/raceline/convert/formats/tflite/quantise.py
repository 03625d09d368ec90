"""Quantised tensors as QuantizeLinear and DequantizeLinear around float operators, and fused activations.

A quantised tensor is an integer value in the graph. A rule reads it dequantised and what the rule writes is
quantised again, so that engines see the usual QDQ form. Changes of layout are moved to the integer side, where
those of neighbouring operators meet and cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.data import DTYPES
from raceline.convert.formats.tflite.file import Quantisation, Tensor
from raceline.convert.lower import UnsupportedError
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGERS = {"INT8", "UINT8", "INT16", "INT4", "UINT16"}
_RANGES = {
    "INT8": (-128, 127),
    "UINT8": (0, 255),
    "INT16": (-32768, 32767),
    "INT4": (-8, 7),
    "UINT16": (0, 65535),
}
_LIMITS: dict[str, tuple[float | None, float | None]] = {
    "RELU": (0.0, None), "RELU_N1_TO_1": (-1.0, 1.0), "RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0),
}  # fmt: skip
ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
"""Fused activations by their code in the file."""


class QuantisedBuilder(Builder):
    """A builder whose transpositions go before a DequantizeLinear rather than behind it."""

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """The value with its axes in another order."""
        node = value.producer()
        if node is None or node.op_type != "DequantizeLinear" or list(perm) == list(range(len(perm))):
            return super().transpose(value, perm)
        stored, scale, zero = (*node.inputs, None)[:3]
        axis = int(node.attributes["axis"].as_int()) if "axis" in node.attributes else None
        moved = None if axis is None else list(perm).index(axis)
        return self.op("DequantizeLinear", super().transpose(stored, perm), scale, zero, axis=moved)  # type: ignore[no-any-return, arg-type]


def is_quantised(tensor: Tensor | None) -> bool:
    """Whether the tensor's integers stand for real numbers."""
    return tensor is not None and tensor.quantisation is not None and tensor.dtype in _INTEGERS


def same_scheme(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors store the same real numbers in the same way."""
    a, b = one.quantisation, other.quantisation
    if one.dtype != other.dtype or (a is None) != (b is None):
        return False
    return a is None or b is None or (
        a.scale.size == b.scale.size == 1 and a.scale[0] == b.scale[0] and a.zero[0] == b.zero[0]
    )  # fmt: skip


def dequantised(b: Builder, value: ir.Value, tensor: Tensor) -> ir.Value:
    """The real numbers that a quantised tensor stands for; itself where it is none.

    Raises:
        UnsupportedError: its scheme is none that the standard has.
        BadModelError: its scheme makes no sense.
    """
    scheme = tensor.quantisation
    if scheme is None:
        return value
    if tensor.dtype == "INT64" or tensor.dtype == "INT32":
        return _bias(b, value, tensor, scheme)
    if tensor.dtype not in _INTEGERS:
        return value
    scale, zero, axis = _parameters(b, value, tensor, scheme)
    if value.producer() is None and b.array(value) is None:
        _refuse_zero(tensor, scheme)
    return b.op("DequantizeLinear", value, scale, zero, axis=axis)  # type: ignore[no-any-return]


def quantised(b: Builder, value: ir.Value, tensor: Tensor) -> ir.Value:
    """Real numbers stored as a quantised tensor has them; as they are where it is none."""
    if not is_quantised(tensor):
        return value
    assert tensor.quantisation is not None
    node = value.producer()
    if node is not None and node.op_type == "Transpose" and tensor.quantisation.scale.size == 1:
        inner = node.inputs[0]
        assert inner is not None
        return b.transpose(quantised(b, inner, tensor), list(node.attributes["perm"].as_ints()))
    scale, zero, axis = _parameters(b, value, tensor, tensor.quantisation)
    _refuse_zero(tensor, tensor.quantisation)
    return b.op("QuantizeLinear", value, scale, zero, axis=axis)  # type: ignore[no-any-return]


def _refuse_zero(tensor: Tensor, scheme: Quantisation) -> None:
    """Refuse a scale of zero for what a run computes or is given; stored channels of zeros may have one."""
    if (scheme.scale <= 0).any():
        raise BadModelError(f"tensor {tensor.name!r} is quantised with a scale of zero")


def activated(b: Builder, value: ir.Value, code: int, tensor: Tensor | None = None) -> ir.Value:
    """A fused activation; left out where storing the result as `tensor` limits it just as well.

    Raises:
        UnsupportedError: the activation has no meaning in inference.
    """
    name = ACTIVATIONS[code] if 0 <= code < len(ACTIVATIONS) else str(code)
    if name == "NONE" or name in _LIMITS and tensor is not None and _implied(_LIMITS[name], tensor):
        return value
    if name == "TANH":
        return beneath(b, value, lambda x: b.op("Tanh", x))
    if name not in _LIMITS:
        raise UnsupportedError(f"fused activation {name}")
    return beneath(b, value, lambda x: clipped(b, x, name))


def clipped(b: Builder, x: ir.Value, name: str) -> ir.Value:
    """One of the activations that only limit their input."""
    low, high = _LIMITS[name]
    if high is None:
        return b.op("Relu", x)  # type: ignore[no-any-return]
    return b.op("Clip", x, b.scalar(low or 0.0, x), b.scalar(high, x))  # type: ignore[no-any-return]


def beneath(b: Builder, value: ir.Value, change: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """Something element-wise, done before the transposition that the value ends with, beside what it follows."""
    found = turned(b, value)
    return change(value) if found is None else b.transpose(change(found[1][0]), found[0])


def turned(b: Builder, *values: ir.Value) -> tuple[list[int], list[ir.Value]] | None:
    """The order of axes that all values end with, and the values before it; None where they have none in common.

    A transposition may lie before a DequantizeLinear; that is made again for the value before it.
    """
    inner, orders = [], set()
    for value in values:
        node = value.producer()
        stored = node if node is None or node.op_type != "DequantizeLinear" else _producer(node.inputs[0])
        if node is None or stored is None or stored.op_type != "Transpose" or "axis" in node.attributes:
            return None
        orders.add(tuple(stored.attributes["perm"].as_ints()))
        assert stored.inputs[0] is not None
        inner.append((node, stored.inputs[0]))
    if len(orders) != 1:
        return None
    before: list[ir.Value] = [
        value if node.op_type == "Transpose" else b.op("DequantizeLinear", value, *node.inputs[1:])
        for node, value in inner
    ]
    return list(orders.pop()), before


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _implied(limits: tuple[float | None, float | None], tensor: Tensor) -> bool:
    if not is_quantised(tensor) or tensor.quantisation is None or tensor.quantisation.scale.size != 1:
        return False
    scale, zero = float(tensor.quantisation.scale[0]), int(tensor.quantisation.zero[0])
    smallest, largest = ((q - zero) * scale for q in _RANGES[tensor.dtype])
    low, high = limits
    half = scale / 2  # what is rounded to the last step may lie this much beyond it
    return (low is None or smallest >= low - half) and (high is None or largest <= high + half)


def _parameters(
    b: Builder, value: ir.Value, tensor: Tensor, scheme: Quantisation
) -> tuple[Any, Any, int | None]:
    """Scale, zero point and axis as the standard's operators take them."""
    if not np.isfinite(scheme.scale).all() or (scheme.scale < 0).any():
        raise BadModelError(f"tensor {tensor.name!r} is quantised with a scale that is no positive number")
    low, high = _RANGES[tensor.dtype]
    if (scheme.zero < low).any() or (scheme.zero > high).any():
        raise BadModelError(f"tensor {tensor.name!r} has a zero point outside of {low}..{high}")
    stored = np.dtype(DTYPES[tensor.dtype])
    if scheme.scale.size == 1:
        return np.float32(scheme.scale[0]), scheme.zero[0].astype(stored), None
    shape = b.shape(value)
    if not 0 <= scheme.axis < len(shape) or shape[scheme.axis] != scheme.scale.size:
        why = f"{scheme.scale.size} scales along axis {scheme.axis} of {list(shape)}"
        raise BadModelError(f"tensor {tensor.name!r} is quantised in a way that does not fit it", why)
    return scheme.scale, scheme.zero.astype(stored), scheme.axis


def _bias(b: Builder, value: ir.Value, tensor: Tensor, scheme: Quantisation) -> ir.Value:
    """A constant bias of 32 or 64 bits; integers that are computed stay integers."""
    array = b.array(value)
    if array is None:
        return value
    if not np.isfinite(scheme.scale).all() or scheme.scale.size not in {1, array.size}:
        raise BadModelError(f"tensor {tensor.name!r} is quantised in a way that does not fit it")
    if tensor.dtype == "INT64" or scheme.zero.any() or array.ndim != 1:
        scale = scheme.scale if scheme.scale.size > 1 else scheme.scale[0]
        zero = scheme.zero if scheme.scale.size > 1 else scheme.zero[0]
        return b.constant(((array.astype(np.float64) - zero) * scale).astype(np.float32))
    if scheme.scale.size == 1:
        return b.op("DequantizeLinear", value, np.float32(scheme.scale[0]))  # type: ignore[no-any-return]
    return b.op("DequantizeLinear", value, scheme.scale, axis=0)  # type: ignore[no-any-return]
