"""Weights of 4 bits: two a byte where a model is kept, one a byte where an engine computes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from raceline.core.errors import BadModelError
from raceline.ir.model import Model
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx_ir as ir

OPSET = 21
"""The first opset in which DequantizeLinear takes 4 bits."""
_LEAST_BYTES = 64  # of smaller weights the descriptions take more than half the bytes would save


def packed(model: Model) -> Model:
    """A copy in which every int8 weight that fits into 4 bits is stored in 4; it computes the same.

    Only what nothing but DequantizeLinear reads is changed, together with its zero point.

    Raises:
        BadModelError: the model's opset is below 21.
    """
    import ml_dtypes
    import onnx_ir as ir

    opset = model.program.opset_imports.get("", 1)
    if opset < OPSET:
        raise BadModelError(
            f"{model.name} cannot hold weights of 4 bits",
            f"its opset is {opset}, and they begin with {OPSET}",
            "Change the opset first.",
        )
    made = model.clone()
    count = 0
    for value, nodes in [*_dequantised(made.program, ir.DataType.INT8)]:
        if value.const_value is None or value.const_value.size < _LEAST_BYTES:
            continue
        if all(_fits(each) for each in (value, *_zeros(nodes))):
            _retype(made.program.graph, value, nodes, ml_dtypes.int4, ir.DataType.INT4)
            count += 1
    return made.with_step(f"stored {count} weights in 4 bits") if count else model


def widened(model: Model, keep: Callable[[ir.Node], bool] | None = None) -> Model:
    """The model with 4-bit weights as int8, for engines whose kernels know no less; itself where there are none.

    The whole numbers and all results stay the same.

    Args:
        model: stays as it is.
        keep: DequantizeLinear nodes that an engine has a kernel for; none by default.
    """
    import onnx_ir as ir

    kinds = (ir.DataType.INT4, ir.DataType.UINT4)
    if not any(_is(value, kind) for value in _initializers(model.program) for kind in kinds):
        return model
    made = replace(model, program=inlined(model.program))  # functions hide who reads a weight
    for kind, wide, dtype in (
        (ir.DataType.INT4, np.int8, ir.DataType.INT8),
        (ir.DataType.UINT4, np.uint8, ir.DataType.UINT8),
    ):
        for value, nodes in [*_dequantised(made.program, kind)]:
            kept = keep is not None and all(keep(node) for node in nodes)
            if not kept and all(zero.const_value is not None for zero in _zeros(nodes)):
                _retype(made.program.graph, value, nodes, wide, dtype)
    return made


def _initializers(program: ir.Model) -> Iterator[ir.Value]:
    return iter([*program.graph.initializers.values()])


def _is(value: ir.Value, kind: ir.DataType) -> bool:
    return value.const_value is not None and value.const_value.dtype == kind


def _dequantised(program: ir.Model, kind: ir.DataType) -> Iterator[tuple[ir.Value, list[ir.Node]]]:
    """Initializers of a type that only DequantizeLinear reads, and only as what it widens, with those nodes."""
    for value in _initializers(program):
        uses = value.uses()
        if not _is(value, kind) or not uses or value.is_graph_output():
            continue
        if all(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in uses):
            if all(use.node.domain in {"", "ai.onnx"} for use in uses):
                yield value, [use.node for use in uses]


def _zeros(nodes: list[ir.Node]) -> list[ir.Value]:
    """The zero points of these nodes, each once."""
    found = {id(zero): zero for node in nodes for zero in node.inputs[2:3] if zero is not None}
    return [*found.values()]


def _retype(
    graph: ir.Graph, value: ir.Value, nodes: list[ir.Node], dtype: type[np.generic], kind: ir.DataType
) -> None:
    """Store a weight in another type, and its zero points; one that others read too becomes one of its own."""
    import onnx_ir as ir

    readers = {id(node) for node in nodes}
    for zero in _zeros(nodes):
        if zero.is_graph_output() or any(id(use.node) not in readers for use in zero.uses()):
            own = ir.Value(name=f"{value.name}_{zero.name}", shape=zero.shape, const_value=zero.const_value)
            graph.register_initializer(own)
            for node in nodes:
                if node.inputs[2] is zero:
                    node.replace_input_with(2, own)
    for each in (value, *_zeros(nodes)):
        _store(each, dtype, kind)


def _fits(value: ir.Value) -> bool:
    if value.const_value is None:
        return False
    numbers = value.const_value.numpy()
    return numbers.size == 0 or (int(numbers.min()) >= -8 and int(numbers.max()) <= 7)


def _store(value: ir.Value, dtype: type[np.generic], kind: ir.DataType) -> None:
    import onnx_ir as ir

    assert value.const_value is not None
    numbers = value.const_value.numpy().astype(dtype)
    value.const_value = ir.Tensor(numbers, dtype=kind, name=value.name or "")
    value.type = ir.TensorType(kind)
