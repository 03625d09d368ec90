"""Dense layers and embeddings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.activations import finish
from raceline.convert.formats.keras.layers import Call, Layer, floating
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("Dense")
def dense(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """activation(x kernel + bias), over the last axis."""
    x = floating(b, x)
    size = b.shape(x)[-1]
    y = b.op("MatMul", x, call.weight("kernel", (size, call["units"])))
    if call.get("use_bias", True):
        y = b.op("Add", y, call.weight("bias", (call["units"],)))
    return finish(b, call, y)


@rules("EinsumDense")
def einsum_dense(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """activation(einsum(x, kernel) + bias)."""
    equation = str(call["equation"])
    if not re.fullmatch(r"(\.\.\.)?[a-zA-Z]+(\.\.\.)?,[a-zA-Z]+->(\.\.\.)?[a-zA-Z]+(\.\.\.)?", equation):
        raise UnsupportedError(f"equation {equation!r}")
    y = einsum(b, equation, floating(b, x), b.constant(call.weight("kernel")))
    if call.get("bias_axes"):
        y = b.op("Add", y, call.weight("bias"))
    return finish(b, call, y)


def einsum(b: Builder, equation: str, x: ir.Value, kernel: ir.Value) -> ir.Value:
    """A product of matrices where trailing axes meet the kernel's leading ones, an Einsum elsewhere."""
    left, right, result = re.split(r",|->", equation)
    left, result = left.removeprefix("..."), result.removeprefix("...")
    shared = "".join(letter for letter in right if letter in left and letter not in result)
    rest = right[len(shared) :]
    free = left[: len(left) - len(shared)]
    array = b.array(kernel)
    plain = (
        array is not None
        and len(set(left)) == len(left)
        and len(set(right)) == len(right)
        and right == shared + rest
        and left == free + shared
        and result == free + rest
        and "." not in left + result
    )
    if not plain or array is None or not shared:
        return b.op("Einsum", x, kernel, equation=equation)  # type: ignore[no-any-return]
    sizes = array.shape
    rows, columns = int(np.prod(sizes[: len(shared)])), int(np.prod(sizes[len(shared) :]))
    if len(shared) > 1:
        x = b.op("Reshape", x, [*[0] * (b.rank(x) - len(shared)), rows])
    y = b.op("MatMul", x, np.ascontiguousarray(array.reshape(rows, columns)))
    if len(rest) != 1:
        y = b.op("Reshape", y, [*[0] * (b.rank(y) - 1), *sizes[len(shared) :]])
    return y  # type: ignore[no-any-return]


def project(b: Builder, call: Call, part: Layer, x: ir.Value, equation: str) -> ir.Value:
    """One of the dense layers inside an attention layer."""
    kernel = call.weight("kernel", of=part)
    y = einsum(b, equation, x, b.constant(kernel))
    return b.op("Add", y, call.weight("bias", of=part)) if "bias" in part.own[0] else y


@rules("Embedding")
def embedding(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Rows of a table; the mask, where asked for, says which numbers are not 0."""
    table = call.weight("embeddings", (call["input_dim"], call["output_dim"]))
    index = x if b.dtype(x) in {np.dtype(np.int32), np.dtype(np.int64)} else b.cast(x, np.int32)
    if call.get("mask_zero"):
        call.result_masks = [b.op("Not", b.op("Equal", x, b.scalar(0, x)))]
    else:
        call.result_masks = [None]
    return b.op("Gather", b.constant(table), index)  # type: ignore[no-any-return]


@rules("Masking")
def masking(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Steps that hold nothing but one value do not count, and become 0."""
    value = call.get("mask_value", 0.0)
    if isinstance(value, dict):
        value = value.get("config", {}).get("value", 0.0) if isinstance(value.get("config"), dict) else 0.0
    differs = b.cast(b.op("Not", b.op("Equal", x, b.scalar(float(np.asarray(value)), x))), np.float32)
    kept = b.op("ReduceMax", differs, [-1], keepdims=1)
    call.result_masks = [b.cast(b.op("Squeeze", kept, [-1]), bool)]
    return b.op("Mul", x, kept)  # type: ignore[no-any-return]
