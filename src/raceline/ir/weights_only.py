"""Weights that are only stored in few bits: layers multiply by what DequantizeLinear makes of them.

Engines without kernels for such weights would widen them at every call; `restored` does it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.ir.model import Model
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
_REARRANGING = frozenset(
    "Expand Flatten Gather Identity Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)
_STANDARD = frozenset({"", "ai.onnx"})


def stored(program: ir.Model) -> Iterator[ir.Node]:
    """The DequantizeLinear nodes whose stored integers only layers of full precision read.

    Those of layers that compute in whole numbers, between Q and DQ, are not among them.

    Args:
        program: without functions, which hide who reads a weight.
    """
    for graph in program.graphs():
        for node in graph:
            if _of_constants(node) and not _feeds_whole_numbers(node.outputs[0]):
                yield node


def restored(model: Model, keep: Callable[[ir.Node], bool] | None = None) -> Model:
    """The model with such weights in floating point; itself where there are none.

    Args:
        model: stays as it is.
        keep: which nodes of `stored` stay as they are; none by default.
    """
    if not any(node.op_type == "DequantizeLinear" for graph in _holders(model) for node in graph.all_nodes()):
        return model
    made = replace(model, program=inlined(model.program))
    nodes = [node for node in stored(made.program) if keep is None or not keep(node)]
    if not nodes:
        return model
    for node in nodes:
        fold(node)
    for value in [*made.program.graph.initializers.values()]:
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del made.program.graph.initializers[str(value.name)]
    return made


def for_products(node: ir.Node) -> bool:
    """Whether a DequantizeLinear only widens matrices that MatMul multiplies with: engines have kernels for these.

    Those kernels take scales for each column, or for each block of a column.
    """
    small = node.inputs[0].const_value if node.inputs[0] is not None else None
    if small is None or len(small.shape) != 2 or small.dtype.name not in {"INT4", "UINT4", "INT8", "UINT8"}:
        return False
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    if axis % 2 != (0 if "block_size" in node.attributes else 1):
        return False
    return all(_multiplies(use.node) and use.idx == 1 for use in node.outputs[0].uses())


def _multiplies(node: ir.Node) -> bool:
    """Whether a node is a product of matrices, not of a vector."""
    left = node.inputs[0]
    return node.op_type == "MatMul" and not (
        left is not None and left.shape is not None and len(left.shape) < 2
    )


def _holders(model: Model) -> list[Any]:
    return [model.program.graph, *model.program.functions.values()]


def _of_constants(node: ir.Node) -> bool:
    """Whether a node widens an initializer; an output of the graph must be computed by a node."""
    if node.op_type != "DequantizeLinear" or node.domain not in _STANDARD or node.graph is None:
        return False
    known = all(value is None or value.const_value is not None for value in node.inputs)
    return known and not any(value.is_graph_output() for value in node.outputs)


def _feeds_whole_numbers(value: ir.Value) -> bool:
    """Whether a reader's other factor is dequantised too, or its elements are quantised again."""
    for use in value.uses():
        node = use.node
        if node.op_type == "QuantizeLinear":
            return True
        others = (other for place, other in enumerate(node.inputs) if other and place != use.idx)
        sources = [_source(other) for other in others]
        if any(n is not None and n.op_type == "DequantizeLinear" and not _of_constants(n) for n in sources):
            return True
        if node.op_type in _REARRANGING and any(_feeds_whole_numbers(out) for out in node.outputs):
            return True
    return False


def _source(value: ir.Value) -> ir.Node | None:
    """What computes the elements of a value, past nodes that only rearrange them."""
    node = value.producer()
    while node is not None and node.op_type in _REARRANGING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def fold(node: ir.Node) -> None:
    """Put the floats that a DequantizeLinear of constants, which is no output of the graph, writes in its place."""
    import onnx_ir as ir

    given = [None if v is None or v.const_value is None else v.const_value.numpy() for v in node.inputs]
    axis, block = (
        node.attributes[n].as_int() if n in node.attributes else d
        for n, d in (("axis", 1), ("block_size", 0))
    )
    assert given[0] is not None and given[1] is not None and node.graph is not None
    numbers = dequantised(given[0], given[1], given[2] if len(given) > 2 else None, axis=axis, block=block)
    (value,) = node.outputs
    name = str(value.name)
    value.name = None
    constant = ir.Value(name=name, const_value=ir.tensor(numbers, name=name))
    constant.shape, constant.type = (
        ir.Shape(numbers.shape),
        ir.TensorType(ir.DataType.from_numpy(numbers.dtype)),
    )
    node.graph.register_initializer(constant)
    value.replace_all_uses_with(constant)
    node.graph.remove(node, safe=True)


def dequantised(whole: Array, scale: Array, zero: Array | None, *, axis: int, block: int = 0) -> Array:
    """(whole - zero) * scale, as DequantizeLinear computes it; of the scale's type.

    Args:
        whole: integers, of 4 bits too.
        scale: one, or one for each slice of `axis`, or with a `block` one for each block of slices.
        zero: as many; 0 where None.
        axis: of the slices.
        block: slices that share a scale.
    """
    wide = whole.astype(np.float32)
    if zero is not None:
        wide -= spread(zero.astype(np.float32), wide.shape, axis, block)
    wide *= spread(scale.astype(np.float32), wide.shape, axis, block)
    return np.asarray(wide.astype(scale.dtype, copy=False))


def spread(numbers: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Numbers of slices or blocks in a shape that broadcasts to the integers'."""
    if numbers.size == 1 and not block:
        return numbers.reshape(())
    if block:
        return np.repeat(numbers, block, axis)[tuple(slice(size) for size in shape)]
    return numbers.reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])
