"""Quantised models: steps that round to 8 bits, as ONNX's QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, rule
from raceline.convert.lower import Rules, UnsupportedError
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    pass

rules = Rules()
Array = np.ndarray[Any, Any]


def _scale(b: Builder, c: Call, slot: str, *, stored: bool = False) -> tuple[Array, int]:
    """One step's size for each channel or all, and the channels' axis.

    Where integers are stored it may be zero, as it is for channels without weights; `ir.scales` looks at those.
    """
    scale = c.constant(b, slot).astype(np.float32).reshape(-1)
    if not (np.isfinite(scale).all() and (scale >= 0 if stored else scale > 0).all()):
        raise BadModelError("a quantisation scale is zero, negative or not finite")
    bits = c.integer("bit_length", 8)
    if bits != 8:
        raise UnsupportedError(f"{bits} bits")
    axis = c.integer("quant_axis", -1)
    if scale.size > 1 and axis < 0:
        raise UnsupportedError("a scale for each channel without the channels' axis")
    return scale / np.float32(127), axis


def _operands(scale: Array, axis: int) -> tuple[Array, Array, dict[str, Any]]:
    if scale.size == 1:
        return scale.reshape(()), np.array(0, np.int8), {}
    return scale, np.zeros(scale.size, np.int8), {"axis": axis}


def _check_zero_point(b: Builder, c: Call) -> None:
    if c.maybe("ZeroPoint") is not None and np.any(c.constant(b, "ZeroPoint")):
        raise UnsupportedError("a zero point other than 0")
    c.ignore("round_type", "only_observer")
    if c.flag("only_observer"):
        raise UnsupportedError("an observer that does not quantise")
    for name, bound in (("qmin", -128), ("qmax", 127)):
        c.need(name, bound)


@rule(rules, "quantize_linear", out="Y")
def _quantize(b: Builder, c: Call) -> Any:
    _check_zero_point(b, c)
    scale, zero, where = _operands(*_scale(b, c, "Scale"))
    return b.op("QuantizeLinear", c.value("X"), scale, zero, **where)


@rule(rules, "dequantize_linear", out="Y")
def _dequantize(b: Builder, c: Call) -> Any:
    _check_zero_point(b, c)
    x = c.value("X")
    if b.dtype(x) != np.int8:
        array = b.array(x)
        if array is None or np.any(array != np.round(array)) or np.any(np.abs(array) > 128):
            raise UnsupportedError(f"steps held as {b.dtype(x)}")
        x = b.constant(array.astype(np.int8))
    scale, zero, where = _operands(*_scale(b, c, "Scale", stored=b.array(x) is not None))
    return b.op("DequantizeLinear", x, scale, zero, **where)


@rule(rules, "fake_quantize_dequantize_moving_average_abs_max", "fake_quantize_dequantize_abs_max",
      "fake_channel_wise_quantize_dequantize_abs_max")  # fmt: skip
def _both(b: Builder, c: Call) -> Any:
    c.ignore("round_type")
    if c.op != "fake_quantize_dequantize_moving_average_abs_max":
        raise UnsupportedError("a scale that is measured on each input")
    scale, zero, where = _operands(*_scale(b, c, "InScale"))
    return b.op("DequantizeLinear", b.op("QuantizeLinear", c.value("X"), scale, zero, **where), scale, zero,
                **where)  # fmt: skip
