"""Scales of quantised tensors: those that lose the numbers are found when a model is read.

What is computed in a run is divided by its scale or compared in its order, so that scale is a positive number.
Stored weights are only multiplied: genuine files have negative scales there (ONNX Runtime's 4-bit quantiser takes
the sign of the largest weight of a block) and scales of zero for channels or blocks of which every weight is zero
(TensorFlow Lite's quantiser and ONNX Runtime's write them so). A zero scale of other weights has lost them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raceline.core.errors import BadModelError
from raceline.ir.load import summary
from raceline.ir.model import Model
from raceline.ir.weights_only import spread

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]

_NEXT_STEP = "Quantise the model again, with a positive scale for every channel."
_RESULT = -1  # stands for the node's own result: nothing is stored


class _Use(NamedTuple):
    """Places among a node's inputs: the integers, their scale and zero point; and the axis of several scales."""

    data: int
    scale: int
    zero: int
    axis: int = 0


_ONE_TO_ONE = (_Use(0, 1, 2), _Use(_RESULT, 3, 4))
_USES: dict[str, tuple[_Use, ...]] = {
    "QuantizeLinear": (_Use(_RESULT, 1, 2),),
    "DequantizeLinear": (_Use(0, 1, 2),),
    "QLinearConv": (_Use(0, 1, 2), _Use(3, 4, 5), _Use(_RESULT, 6, 7)),
    "QLinearMatMul": (_Use(0, 1, 2, -2), _Use(3, 4, 5, -1), _Use(_RESULT, 6, 7)),
    "QGemm": (_Use(0, 1, 2), _Use(3, 4, 5, -1), _Use(_RESULT, 7, 8)),
    "QLinearAdd": (_Use(0, 1, 2), _Use(3, 4, 5), _Use(_RESULT, 6, 7)),
    "QLinearMul": (_Use(0, 1, 2), _Use(3, 4, 5), _Use(_RESULT, 6, 7)),
    "QLinearWhere": (_Use(1, 2, 3), _Use(4, 5, 6), _Use(_RESULT, 7, 8)),
    "MatMulIntegerToFloat": (_Use(0, 2, 4, -2), _Use(1, 3, 5, -1)),
    "DynamicQuantizeMatMul": (_Use(1, 2, 3, -1),),
    **dict.fromkeys(
        ("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearReduceMean",
         "QLinearSigmoid", "QLinearSoftmax"),
        _ONE_TO_ONE,
    ),
}  # fmt: skip
_REARRANGING = frozenset({"Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def refuse(model: Model) -> None:
    """Refuse a model with constant scales that lose numbers.

    Raises:
        BadModelError: it has some; names them all, with their nodes.
    """
    if found := problems(model.program):
        raise BadModelError(f"{model.provenance.source or model.name} is broken", summary(found), _NEXT_STEP)


def problems(program: ir.Model) -> list[str]:
    """Constant scales that lose numbers, each with its node; empty where there are none."""
    holders: list[Any] = [program.graph, *program.functions.values()]
    return [
        problem
        for holder in holders
        for node in holder.all_nodes()
        for data, scale, zero, axis in _scaled(node)
        if (problem := _problem(node, data, scale, zero, axis))
    ]


def _scaled(node: ir.Node) -> Iterator[tuple[ir.Value | None, ir.Value, ir.Value | None, int]]:
    """What a node scales: integers (None where they are its result), scale, zero point and axis."""
    uses = _USES.get(node.op_type, ())
    if node.op_type == "QLinearConcat":
        uses = (_Use(_RESULT, 0, 1), *(_Use(at, at + 1, at + 2) for at in range(2, len(node.inputs), 3)))
    for use in uses:
        scale = _input(node, use.scale)
        if scale is not None:
            axis = node.attributes["axis"].as_int() if "axis" in node.attributes else use.axis
            if node.op_type == "DequantizeLinear" and "axis" not in node.attributes:
                axis = 1
            yield _input(node, use.data), scale, _input(node, use.zero), axis
    if node.op_type in {"MatMulInteger", "ConvInteger"}:
        axis = -1 if node.op_type == "MatMulInteger" else 0
        for scale in _factors(node):
            yield _input(node, 1), scale, _input(node, 3), axis


def _factors(node: ir.Node) -> Iterator[ir.Value]:
    """Constant factors of an integer product, as exporters write it: a Cast, then a Mul by one or two scales."""
    for cast, _ in node.outputs[0].uses():
        for product, place in cast.outputs[0].uses() if cast.op_type == "Cast" else ():
            other = _input(product, 1 - place) if product.op_type == "Mul" else None
            maker = other.producer() if other is not None else None
            inner = maker.inputs if maker is not None and maker.op_type == "Mul" else [other]
            yield from (value for value in inner if value is not None and _array(value) is not None)


def _problem(node: ir.Node, data: ir.Value | None, scale: ir.Value, zero: ir.Value | None, axis: int) -> str:
    """What is wrong with one scale; empty where nothing is, or where a run computes it."""
    found = _array(scale)
    if found is None or found.dtype.kind not in "fV":
        return ""
    numbers = found.astype(np.float64)
    stored = _stored(data)
    if stored is None:
        wrong, kind = ~(np.isfinite(numbers) & (numbers > 0)), "no positive number"
    elif not np.isfinite(numbers).all():
        wrong, kind = ~np.isfinite(numbers), "not finite"
    else:
        wrong, kind = numbers == 0, "zero, though weights there are not"
        if not wrong.any() or not _loses(node, stored, wrong, zero, axis):
            return ""
    if not wrong.any():
        return ""
    first = numbers.reshape(-1)[int(wrong.reshape(-1).argmax())]
    taker = f"node {node.name!r} ({node.op_type}) takes the scale {scale.name!r}"
    if numbers.size == 1:
        return f"{taker} of {first:g}, which is {kind}"
    return f"{taker}; elements of it that are {kind}: {int(wrong.sum())} of {numbers.size}, such as {first:g}"


def _loses(node: ir.Node, stored: ir.Value, dead: Array, zero: ir.Value | None, axis: int) -> bool:
    """Whether stored integers with a scale of zero stand for anything but zero."""
    data, points = _array(stored), _array(zero)
    if data is None:  # rearranged on the way: the channels lie elsewhere
        return False
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    try:
        mask = np.broadcast_to(spread(dead, data.shape, axis, block), data.shape)
        level = np.zeros(()) if points is None else spread(points, data.shape, axis, block)
        return bool((mask & (data.astype(np.float64) != level.astype(np.float64))).any())
    except (ValueError, IndexError):  # shapes that do not fit together are found elsewhere
        return False


def _stored(value: ir.Value | None) -> ir.Value | None:
    """The value itself where it is a stored constant, at most rearranged; None where a run computes it."""
    while value is not None and _array(value) is None:
        maker = value.producer()
        if maker is None or maker.op_type not in _REARRANGING:
            return None
        if _array(maker.inputs[0]) is not None:
            return value
        value = maker.inputs[0]
    return value


def _array(value: ir.Value | None) -> Array | None:
    import onnx_ir as ir

    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if 0 <= index < len(node.inputs) else None
