"""Products with weights of few bits as ONNX Runtime's own operator for them, MatMulNBits.

The runtime finds some such products by itself and misses others, which it then widens at every call (1.32: two
products with a Relu between). Written here, all of them reach their kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.ir.weights_only import for_products

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
_DOMAIN = "com.microsoft"
_CHANNEL_BLOCK = 32  # the operator knows blocks alone: a channel's scale is repeated for each
_ROUNDED = 4  # accuracy level: what is multiplied is rounded to 8 bits, block by block


def with_products(program: ir.Model, *, chosen: Callable[[ir.Node], bool] = for_products) -> None:
    """Replace DequantizeLinear and MatMul by MatMulNBits, in place.

    Args:
        program: without functions.
        chosen: which DequantizeLinear nodes; every reader of theirs is a MatMul's second input.
    """
    for graph in [*program.graphs()]:
        for node in [*graph]:
            if node.op_type == "DequantizeLinear" and chosen(node):
                _replace(program, node)
                program.opset_imports[_DOMAIN] = 1


def _replace(program: ir.Model, node: ir.Node) -> None:
    import onnx_ir as ir

    whole, scale = _array(node.inputs[0]), _array(node.inputs[1])
    zero = _array(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    given = node.inputs[0]
    assert given is not None and given.const_value is not None and node.graph is not None
    bits = 4 if given.const_value.dtype in {ir.DataType.INT4, ir.DataType.UINT4} else 8
    signed = given.const_value.dtype in {ir.DataType.INT4, ir.DataType.INT8}
    block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
    wide = node.outputs[0]
    arrays = packed_for(whole, scale, zero, bits=bits, signed=signed, block=block)
    parts: list[ir.Value | None] = []
    for hint, array in zip(("few", "scales", "zeros"), arrays, strict=True):
        if array is None:
            continue
        value = ir.val(f"{wide.name}.{hint}", const_value=ir.tensor(array, name=f"{wide.name}.{hint}"))
        program.graph.register_initializer(value)
        parts.append(value)
    settings = {
        "K": whole.shape[0], "N": whole.shape[1], "bits": bits, "block_size": block or _CHANNEL_BLOCK,
        "accuracy_level": _ROUNDED,
    }  # fmt: skip
    for use in [*wide.uses()]:
        product = use.node
        assert product.graph is not None
        made = ir.node(
            "MatMulNBits", [product.inputs[0], *parts], settings, domain=_DOMAIN, name=product.name
        )
        made.outputs[0].shape, made.outputs[0].type = product.outputs[0].shape, product.outputs[0].type
        ir.convenience.replace_nodes_and_values(
            product.graph, product, [product], [made], product.outputs, made.outputs
        )
    node.graph.remove(node, safe=True)


def packed_for(
    whole: Array, scale: Array, zero: Array | None, *, bits: int, signed: bool, block: int
) -> tuple[Array, Array, Array | None]:
    """Weights as MatMulNBits reads them, unsigned and column by column.

    Args:
        whole: (K, N) integers.
        scale: (ceil(K / block), N), or (N,) where `block` is 0.
        zero: as the scale; 0 where None.
        bits: of an integer, 4 or 8.
        signed: whether they lie around zero.
        block: of the scales; 0 where they are of whole columns.

    Returns:
        (N, blocks, bytes of a block), (N, blocks), and (N, bytes of the blocks' zero points) or None where all
        are in the middle.
    """
    (rows, columns), size = whole.shape, block or _CHANNEL_BLOCK
    blocks = -(-rows // size)
    middle = 1 << (bits - 1)
    lift = middle if signed else 0
    scales = scale.T if block else np.repeat(scale.reshape(-1, 1), blocks, axis=1)
    if zero is None:
        zeros = np.full((columns, blocks), lift, np.uint8)
    else:
        each = (
            zero.astype(np.int16).T
            if block
            else np.repeat(zero.astype(np.int16).reshape(-1, 1), blocks, axis=1)
        )
        zeros = (each + lift).astype(np.uint8)
    lifted = (whole.astype(np.int16).T + lift).astype(np.uint8)
    if rows % size:  # what is added stands for nothing
        filling = np.repeat(zeros[:, -1:], blocks * size - rows, axis=1)
        lifted = np.concatenate([lifted, filling], axis=1)
    few = lifted.reshape(columns, blocks, size)
    usual = bool((zeros == middle).all())
    if bits == 4:
        few, zeros = _in_pairs(few), _in_pairs(zeros)
    return few, np.ascontiguousarray(scales, np.float32), None if usual else zeros


def _in_pairs(numbers: Array) -> Array:
    """Two of the last axis a byte, the first one in the low half; an odd last one alone."""
    if numbers.shape[-1] % 2:
        numbers = np.concatenate([numbers, np.zeros((*numbers.shape[:-1], 1), np.uint8)], axis=-1)
    return np.ascontiguousarray(numbers[..., 0::2] | (numbers[..., 1::2] << 4))


def _array(value: ir.Value | None) -> Array:
    assert value is not None and value.const_value is not None
    return value.const_value.numpy()
