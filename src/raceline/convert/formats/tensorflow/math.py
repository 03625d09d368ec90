"""Arithmetic element by element, comparisons, products of matrices and sums along axes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.attributes import dtype
from raceline.convert.formats.tensorflow.layout import elementwise
from raceline.convert.formats.tensorflow.values import fixed, fixed_rank
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_UNARY = {
    "Abs": "Abs", "Neg": "Neg", "Exp": "Exp", "Log": "Log", "Sqrt": "Sqrt", "Sin": "Sin", "Cos": "Cos",
    "Tan": "Tan", "Asin": "Asin", "Acos": "Acos", "Atan": "Atan", "Sinh": "Sinh", "Cosh": "Cosh",
    "Asinh": "Asinh", "Acosh": "Acosh", "Atanh": "Atanh", "Tanh": "Tanh", "Sigmoid": "Sigmoid", "Erf": "Erf",
    "Sign": "Sign", "Floor": "Floor", "Ceil": "Ceil", "Round": "Round", "Rint": "Round",
    "Reciprocal": "Reciprocal", "Inv": "Reciprocal", "IsNan": "IsNaN", "IsInf": "IsInf", "LogicalNot": "Not",
    "Invert": "BitwiseNot", "Relu": "Relu", "Softsign": "Softsign", "Softplus": "Softplus",
}  # fmt: skip
_BINARY = {
    "Add": "Add", "AddV2": "Add", "Sub": "Sub", "Mul": "Mul", "Maximum": "Max", "Minimum": "Min", "Pow": "Pow",
    "Less": "Less", "LessEqual": "LessOrEqual", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual",
    "LogicalAnd": "And", "LogicalOr": "Or", "LogicalXor": "Xor", "BitwiseAnd": "BitwiseAnd",
    "BitwiseOr": "BitwiseOr", "BitwiseXor": "BitwiseXor", "TruncateDiv": "Div", "RealDiv": "Div", "Div": "Div",
}  # fmt: skip
_REDUCE = {
    "Sum": "ReduceSum",
    "Mean": "ReduceMean",
    "Max": "ReduceMax",
    "Min": "ReduceMin",
    "Prod": "ReduceProd",
}


def _unary(op: str) -> Callable[..., Any]:
    def rule(b: Builder, node: SourceNode, x: ir.Value) -> Any:
        whole = b.dtype(x).kind in "iu"
        if whole and node.op in {"Floor", "Ceil", "Round", "Rint"}:
            return x
        if whole and op in {"Sign", "Abs", "Neg", "Relu", "BitwiseNot"} or not whole:
            return elementwise(b, op, x)
        raise UnsupportedError(f"of {b.dtype(x)}")

    return rule


def _binary(op: str) -> Callable[..., Any]:
    def rule(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
        return elementwise(b, op, x, y)

    return rule


for _source, _target in _UNARY.items():
    rules(_source)(_unary(_target))
for _source, _target in _BINARY.items():
    rules(_source)(_binary(_target))


@rules("BiasAddV1")
def _bias_add_v1(b: Builder, node: SourceNode, x: ir.Value, bias: ir.Value) -> Any:
    return b.op("Add", x, bias)


@rules("BiasAdd")
def _bias_add(b: Builder, node: SourceNode, x: ir.Value, bias: ir.Value) -> Any:
    if node.attributes.get("data_format", "NHWC") == "NCHW":
        bias = b.reshape(bias, [-1, *[1] * (fixed_rank(b, x) - 2)])
        return b.op("Add", x, bias)
    return elementwise(b, "Add", x, bias)


@rules("AddN", "AccumulateNV2")
def _add_n(b: Builder, node: SourceNode, *items: ir.Value) -> Any:
    node.attributes.get("shape")
    total = items[0]
    for item in items[1:]:
        total = b.op("Add", total, item)
    return total


@rules("Square")
def _square(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Mul", x, x)


@rules("SquaredDifference")
def _squared_difference(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    difference = b.op("Sub", x, y)
    return b.op("Mul", difference, difference)


@rules("Rsqrt")
def _rsqrt(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Reciprocal", b.op("Sqrt", x))


@rules("Expm1")
def _expm1(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Sub", b.op("Exp", x), b.scalar(1, x))


@rules("Log1p")
def _log1p(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Log", b.op("Add", x, b.scalar(1, x)))


@rules("Erfc")
def _erfc(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Sub", b.scalar(1, x), b.op("Erf", x))


@rules("Exp2")
def _exp2(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Pow", b.scalar(2, x), x)


@rules("IsFinite")
def _is_finite(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Not", b.op("Or", b.op("IsNaN", x), b.op("IsInf", x)))


@rules("Relu6")
def _relu6(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return elementwise(b, "Clip", x, b.scalar(0, x), b.scalar(6, x))


@rules("Elu")
def _elu(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return elementwise(b, "Elu", x, alpha=1.0)


@rules("Selu")
def _selu(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Selu", x)


@rules("LeakyRelu")
def _leaky_relu(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return elementwise(b, "LeakyRelu", x, alpha=float(node.attributes.get("alpha", 0.2)))


@rules("Softmax", "LogSoftmax")
def _softmax(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op(node.op, x, axis=-1)


@rules("L2Loss")
def _l2_loss(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    return b.op("Mul", b.op("ReduceSumSquare", x, keepdims=0), b.scalar(0.5, x))


@rules("ClipByValue")
def _clip_by_value(b: Builder, node: SourceNode, x: ir.Value, low: ir.Value, high: ir.Value) -> Any:
    return b.op("Max", b.op("Min", x, high), low)


@rules("Equal", "NotEqual")
def _equal(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    same = b.op("Equal", x, y)
    return same if node.op == "Equal" else b.op("Not", same)


@rules("ApproximateEqual")
def _approximate_equal(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    tolerance = float(node.attributes.get("tolerance", 1e-5))
    return b.op("Less", b.op("Abs", b.op("Sub", x, y)), b.scalar(tolerance, x))


@rules("FloorDiv")
def _floor_div(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    kind = b.dtype(x).kind
    if kind == "u":
        return b.op("Div", x, y)
    if kind != "i":
        return b.op("Floor", b.op("Div", x, y))
    rest = b.op("Mod", x, y)  # has the sign of y, so that what is divided has no rest
    return b.op("Div", b.op("Sub", x, rest), y)


@rules("FloorMod")
def _floor_mod(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    if b.dtype(x).kind in "iu":
        return b.op("Mod", x, y)
    rest = b.op("Mod", x, y, fmod=1)
    zero = b.scalar(0, x)
    wrong = b.op(
        "And",
        b.op("Not", b.op("Equal", rest, zero)),
        b.op("Xor", b.op("Less", rest, zero), b.op("Less", y, zero)),
    )
    return b.op("Where", wrong, b.op("Add", rest, y), rest)


@rules("Mod", "TruncateMod")
def _truncate_mod(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    return b.op("Mod", x, y, fmod=1)


@rules("DivNoNan")
def _div_no_nan(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    empty = b.op("Equal", y, b.scalar(0, y))
    return b.op("Where", empty, b.scalar(0, x), b.op("Div", x, b.op("Where", empty, b.scalar(1, y), y)))


@rules("MulNoNan")
def _mul_no_nan(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    return b.op("Where", b.op("Equal", y, b.scalar(0, y)), b.scalar(0, x), b.op("Mul", x, y))


@rules("Xdivy", "Xlogy", "Xlog1py")
def _x_times(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    if node.op == "Xdivy":
        product = b.op("Div", x, y)
    else:
        inner = y if node.op == "Xlogy" else b.op("Add", y, b.scalar(1, y))
        product = b.op("Mul", x, b.op("Log", inner))
    return b.op("Where", b.op("Equal", x, b.scalar(0, x)), b.scalar(0, x), product)


@rules("Atan2")
def _atan2(b: Builder, node: SourceNode, y: ir.Value, x: ir.Value) -> Any:
    """The angle of (x, y), from the arc tangent of the ratio that is at most one."""
    zero, pi = b.scalar(0, x), b.scalar(math.pi, x)
    wide, high = b.op("Abs", x), b.op("Abs", y)
    larger, smaller = b.op("Max", wide, high), b.op("Min", wide, high)
    nothing = b.op("Equal", larger, zero)
    angle = b.op("Atan", b.op("Div", smaller, b.op("Where", nothing, b.scalar(1, x), larger)))
    angle = b.op("Where", b.op("Greater", high, wide), b.op("Sub", b.scalar(math.pi / 2, x), angle), angle)
    angle = b.op("Where", b.op("Less", x, zero), b.op("Sub", pi, angle), angle)
    return b.op("Where", b.op("Less", y, zero), b.op("Neg", angle), angle)


@rules("LeftShift", "RightShift")
def _shift(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    if b.dtype(x).kind != "u":
        raise UnsupportedError("of signed integers")
    return b.op("BitShift", x, y, direction=node.op.removesuffix("Shift").upper())


@rules("Cast")
def _cast(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    wanted = dtype(node, "DstT")
    node.attributes.get("SrcT")
    if node.attributes.get("Truncate"):
        raise UnsupportedError("Truncate")
    if wanted.kind == "O":
        raise UnsupportedError("to text")
    if wanted.kind == "c":
        raise UnsupportedError("to complex numbers")
    return b.cast(x, wanted)


# ---------------------------------------------------------------- products


@rules("MatMul")
def _matmul(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    left, right = _turned(b, node, x, "transpose_a"), _turned(b, node, y, "transpose_b")
    return b.op("MatMul", left, right)


@rules("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")
def _batch_matmul(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    return b.op("MatMul", _turned(b, node, x, "adj_x"), _turned(b, node, y, "adj_y"))


def _turned(b: Builder, node: SourceNode, x: ir.Value, attribute: str) -> ir.Value:
    """The matrices, transposed where an attribute says so."""
    if not node.attributes.get(attribute, False):
        return x
    rank = fixed_rank(b, x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


@rules("Einsum")
def _einsum(b: Builder, node: SourceNode, *items: ir.Value) -> Any:
    return b.op("Einsum", *items, equation=str(node.attributes["equation"]))


@rules("Cross")
def _cross(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    def rolled(value: ir.Value, order: list[int]) -> Any:
        return b.op("Gather", value, order, axis=-1)

    one, two = [1, 2, 0], [2, 0, 1]
    return b.op(
        "Sub",
        b.op("Mul", rolled(x, one), rolled(y, two)),
        b.op("Mul", rolled(x, two), rolled(y, one)),
    )


# ---------------------------------------------------------------- along axes


@rules(*_REDUCE)
def _reduce(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    if node.op == "Mean" and b.dtype(x).kind in "iu":
        raise UnsupportedError("of integers")
    return _reduced(b, node, _REDUCE[node.op], x, axes)


@rules("EuclideanNorm")
def _euclidean_norm(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    return _reduced(b, node, "ReduceL2", x, axes)


@rules("All", "Any")
def _truth(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    op = "ReduceMin" if node.op == "All" else "ReduceMax"
    return b.cast(_reduced(b, node, op, b.cast(x, np.int32), axes), np.bool_)


def _reduced(b: Builder, node: SourceNode, op: str, x: ir.Value, axes: ir.Value) -> Any:
    keep = int(bool(node.attributes.get("keep_dims", False)))
    listed = [int(axis) for axis in fixed(b, axes, "axes").reshape(-1)]
    if not listed:
        return x
    return b.op(op, x, listed, keepdims=keep)


@rules("ArgMax", "ArgMin")
def _arg(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> Any:
    place = int(fixed(b, axis, "axis").reshape(()))
    found = b.op(node.op, x, axis=place, keepdims=0)
    return b.cast(found, dtype(node, "output_type", "int64"))


@rules("Cumsum")
def _cumsum(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> Any:
    flags: dict[str, Any] = {
        name: int(bool(node.attributes.get(name, False))) for name in ("exclusive", "reverse")
    }
    return b.op("CumSum", x, b.cast(axis, np.int64), **flags)


@rules("Cumprod")
def _cumprod(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> Any:
    """By a sum of logarithms for the size and a sum of signs; zeros stay zero from where they stand."""
    flags: dict[str, Any] = {
        name: int(bool(node.attributes.get(name, False))) for name in ("exclusive", "reverse")
    }
    if b.dtype(x).kind != "f":
        raise UnsupportedError("of integers")
    place = b.cast(axis, np.int64)
    zero = b.op("Equal", x, b.scalar(0, x))
    size = b.op("Log", b.op("Abs", b.op("Where", zero, b.scalar(1, x), x)))
    negative = b.cast(b.op("Less", x, b.scalar(0, x)), np.int32)
    odd = b.op("Mod", b.op("CumSum", negative, place, **flags), np.int32(2))
    sign = b.op("Sub", b.scalar(1, x), b.op("Mul", b.scalar(2, x), b.cast(odd, b.dtype(x))))
    product = b.op("Mul", sign, b.op("Exp", b.op("CumSum", size, place, **flags)))
    zeros = b.op("CumSum", b.cast(zero, np.int32), place, **flags)
    return b.op("Where", b.op("Greater", zeros, np.int32(0)), b.scalar(0, x), product)


@rules("SoftmaxCrossEntropyWithLogits")
def _cross_entropy(b: Builder, node: SourceNode, logits: ir.Value, labels: ir.Value) -> Any:
    loss = b.op(
        "Neg", b.op("ReduceSum", b.op("Mul", labels, b.op("LogSoftmax", logits, axis=-1)), [-1], keepdims=0)
    )
    return loss, b.op("Sub", b.op("Softmax", logits, axis=-1), labels)
