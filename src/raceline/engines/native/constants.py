"""What a graph holds as constants, and what its 8-bit numbers stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raceline.ir.weights_only import dequantised, spread

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
MOST_DEPTH = 32768
"""Products in one sum of 8-bit kernels, at most: more might not fit 32 bits."""

_SURELY_TOGETHER = 64  # 255 * (64 + 64) fits 16 bits
_BYTES = {np.dtype(np.uint8): 0, np.dtype(np.int8): 128}  # what makes a zero point that of uint8


class Bytes(NamedTuple):
    """How uint8 stand for numbers: (byte - zero) * scale. int8 are the same, 128 lower."""

    scale: float
    zero: int


class Whole(NamedTuple):
    """Weights in whole numbers.

    Attributes:
        numbers: int8, of the weights' shape.
        scale: (channels) float32, what each output channel's numbers stand for.
    """

    numbers: Array
    scale: Array


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of an initializer, dequantised where the graph does that; None for anything else."""
    held = _held(value)
    if held is not None or value is None:
        return held
    node = value.producer()
    return _dequantised(node) if node is not None and is_dequantising(node) else None


def is_dequantising(node: ir.Node) -> bool:
    """Whether a node does nothing but say what whole numbers, which are constants, stand for."""
    return _is(node, "DequantizeLinear") and all(v is None or _held(v) is not None for v in node.inputs)


def may_saturate(node: ir.Node) -> bool:
    """Whether a node dequantises weights of which two neighbours might be too large for sums in 16 bits."""
    numbers = _held(node.inputs[0]) if is_dequantising(node) else None
    if numbers is None or numbers.dtype != np.int8 or not numbers.size:
        return False
    return max(int(numbers.max()), -int(numbers.min())) > _SURELY_TOGETHER


def whole_weights(value: ir.Value | None, axis: int) -> Whole | None:
    """8-bit weights around zero whose scale is one, or one for each index of `axis`; None for others."""
    node = value.producer() if value is not None else None
    if node is None or not is_dequantising(node):
        return None
    numbers, scale, zero = _parts(node)
    if numbers is None or scale is None or numbers.dtype not in _BYTES or scale.dtype != np.float32:
        return None
    if scale.ndim > 1 or (scale.size > 1 and _axis(node, numbers.ndim) != axis):
        return None
    centred = numbers.astype(np.int16) - spread(zero, numbers.shape, _axis(node, numbers.ndim), 0)
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        return None
    if not (np.isfinite(scale) & (scale > 0)).all() or scale.size not in {1, numbers.shape[axis]}:
        return None
    scales = np.ascontiguousarray(np.broadcast_to(scale.reshape(-1), numbers.shape[axis]))
    return Whole(centred.astype(np.int8), scales)


def bytes_of(node: ir.Node) -> Bytes | None:
    """What the 8-bit numbers that a node makes or reads stand for; None where it is no such node."""
    if not _is(node, "QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 2:
        return None
    scale, zero = _held(node.inputs[1]), _held(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and zero is None:
        return None
    zero = np.zeros((), np.uint8) if zero is None else zero
    if scale is None or scale.size != 1 or scale.dtype != np.float32 or zero.dtype not in _BYTES:
        return None
    if any(node.attributes[name].value for name in ("block_size", "output_dtype") if name in node.attributes):
        return None
    step = float(scale.reshape(-1)[0])
    if not np.isfinite(step) or step < np.finfo(np.float32).tiny:
        return None
    return Bytes(step, int(zero.reshape(-1)[0]) + _BYTES[zero.dtype])


def roundings(node: ir.Node) -> list[ir.Node]:
    """The nodes that read what a QuantizeLinear writes, if all of them restore it; else none."""
    into = bytes_of(node) if _is(node, "QuantizeLinear") else None
    users = list(node.outputs[0].consumers())
    if into is None or node.outputs[0].is_graph_output():
        return []
    alike = all(_is(user, "DequantizeLinear") and bytes_of(user) == into for user in users)
    return users if alike else []


def rounded(value: ir.Value | None) -> tuple[ir.Value, Bytes, list[ir.Node]] | None:
    """What a value is once it was rounded to bytes: its source, how, and the two nodes that did it."""
    wide = value.producer() if value is not None else None
    small = wide.inputs[0].producer() if wide is not None and wide.inputs and wide.inputs[0] else None
    if wide is None or small is None or not _is(wide, "DequantizeLinear") or not _is(small, "QuantizeLinear"):
        return None
    source, into, out_of = small.inputs[0], bytes_of(small), bytes_of(wide)
    if source is None or into is None or into != out_of or small.outputs[0].is_graph_output():
        return None
    return source, into, [small, wide]


def _is(node: ir.Node, *kinds: str) -> bool:
    return node.op_type in kinds and node.domain in {"", "ai.onnx"}


def _held(value: ir.Value | None) -> Array | None:
    if value is None or value.const_value is None or not value.is_initializer() or value.is_graph_input():
        return None
    return value.const_value.numpy()


def _parts(node: ir.Node) -> tuple[Array | None, Array | None, Array]:
    numbers, scale = _held(node.inputs[0]), _held(node.inputs[1])
    zero = _held(node.inputs[2]) if len(node.inputs) > 2 else None
    return numbers, scale, np.zeros((), np.int32) if zero is None else zero


def _axis(node: ir.Node, rank: int) -> int:
    axis = int(node.attributes["axis"].value) if "axis" in node.attributes else 1
    return axis % rank if rank else 0


def _dequantised(node: ir.Node) -> Array | None:
    numbers, scale, zero = _parts(node)
    if numbers is None or scale is None or numbers.dtype.kind not in "iu" or scale.ndim > 1:
        return None
    if scale.dtype != np.float32 or (
        scale.size > 1 and scale.size != numbers.shape[_axis(node, numbers.ndim)]
    ):
        return None
    return dequantised(numbers, scale, zero, axis=_axis(node, numbers.ndim))
