"""Element-wise operations, reductions and products of matrices."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.settings import (
    as_int64,
    as_list,
    fixed,
    flag,
    number,
    text,
    word,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_UNARY = {
    "Abs": "Abs", "Acos": "Acos", "Acosh": "Acosh", "Asin": "Asin", "Asinh": "Asinh", "Atan": "Atan",
    "Atanh": "Atanh", "Cos": "Cos", "Cosh": "Cosh", "Erf": "Erf", "Exp": "Exp", "Log": "Log",
    "LogicalNot": "Not", "Negative": "Neg", "ReLU": "Relu", "Sigmoid": "Sigmoid", "Sign": "Sign",
    "Sin": "Sin", "Sinh": "Sinh", "Sqrt": "Sqrt", "Tan": "Tan", "Tanh": "Tanh", "SoftSign": "Softsign",
    "IsNaN": "IsNaN", "HSwish": "HardSwish", "Mish": "Mish", "SoftPlus": "Softplus",
    "BitwiseNot": "BitwiseNot", "Identity": "Identity",
}  # fmt: skip
_ANY_TYPE = {"Abs", "LogicalNot", "Negative", "ReLU", "Sign", "BitwiseNot", "Identity"}
_ROUNDING = {"Ceiling": "Ceil", "Floor": "Floor"}
_BINARY = {
    "Add": "Add", "Subtract": "Sub", "Multiply": "Mul", "Maximum": "Max", "Minimum": "Min", "Power": "Pow",
    "Equal": "Equal", "Greater": "Greater", "GreaterEqual": "GreaterOrEqual", "Less": "Less",
    "LessEqual": "LessOrEqual", "LogicalAnd": "And", "LogicalOr": "Or", "LogicalXor": "Xor", "Xor": "Xor",
    "BitwiseAnd": "BitwiseAnd", "BitwiseOr": "BitwiseOr", "BitwiseXor": "BitwiseXor",
}  # fmt: skip
_REDUCTIONS = {
    "ReduceSum": "ReduceSum", "ReduceMean": "ReduceMean", "ReduceMax": "ReduceMax", "ReduceMin": "ReduceMin",
    "ReduceProd": "ReduceProd", "ReduceL1": "ReduceL1", "ReduceL2": "ReduceL2",
}  # fmt: skip


def is_float(b: Builder, x: ir.Value) -> bool:
    """Whether the elements are floating-point numbers."""
    return np.issubdtype(b.dtype(x), np.floating) or b.dtype(x).name == "bfloat16"


def require_float(b: Builder, x: ir.Value) -> None:
    """Refuse whole numbers where ONNX's operator takes none."""
    if not is_float(b, x):
        raise UnsupportedError(f"on elements of type {b.dtype(x).name}")


@rules(*_UNARY)
def unary(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """What ONNX has under its own name."""
    if node.op not in _ANY_TYPE:
        require_float(b, x)
    return b.op(_UNARY[node.op], x)


@rules(*_ROUNDING)
def whole(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Ceiling and floor, which leave whole numbers as they are."""
    return b.op(_ROUNDING[node.op] if is_float(b, x) else "Identity", x)


@rules("Round")
def round_(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Round halves to even, or away from zero."""
    mode = word(node, "mode", "half_to_even", ("half_to_even", "half_away_from_zero"))
    if not is_float(b, x):
        return b.op("Identity", x)
    if mode == "half_to_even":
        return b.op("Round", x)
    size = b.op("Abs", x)
    low = b.op("Floor", size)  # Floor(size + 0.5) would be wrong next to one half
    up = b.op("GreaterOrEqual", b.op("Sub", size, low), b.scalar(0.5, x))
    return b.op("Mul", b.op("Sign", x), b.op("Add", low, b.cast(up, b.dtype(x))))


@rules("IsInf")
def is_inf(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Infinite, of the signs asked for."""
    return b.op(
        "IsInf", x,
        detect_negative=int(flag(node, "detect_negative", True)),
        detect_positive=int(flag(node, "detect_positive", True)),
    )  # fmt: skip


@rules("IsFinite")
def is_finite(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Neither infinite nor NaN."""
    return b.op("Not", b.op("Or", b.op("IsInf", x), b.op("IsNaN", x)))


@rules("HSigmoid")
def h_sigmoid(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """min(max(x + 3, 0), 6) / 6."""
    require_float(b, x)
    return b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@rules("HardSigmoid")
def hard_sigmoid(b: Builder, node: SourceNode, x: ir.Value, alpha: ir.Value, beta: ir.Value) -> Any:
    """max(0, min(1, alpha x + beta))."""
    line = b.op("Add", b.op("Mul", x, alpha), beta)
    return b.op("Clip", line, b.scalar(0, x), b.scalar(1, x))


@rules("Gelu")
def gelu(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Exact, or with the hyperbolic tangent."""
    mode = word(node, "approximation_mode", "erf", ("erf", "tanh"))
    require_float(b, x)
    return b.op("Gelu", x, approximate="none" if mode == "erf" else "tanh")


@rules("Swish")
def swish(b: Builder, node: SourceNode, x: ir.Value, beta: ir.Value | None = None) -> Any:
    """X sigmoid(beta x)."""
    return b.op("Mul", x, b.op("Sigmoid", x if beta is None else b.op("Mul", x, beta)))


@rules("Elu")
def elu(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Alpha (exp(x) - 1) below zero."""
    return b.op("Elu", x, alpha=number(node, "alpha"))


@rules("Selu")
def selu(b: Builder, node: SourceNode, x: ir.Value, alpha: ir.Value, scale: ir.Value) -> Any:
    """Scaled ELU with numbers from two inputs."""
    a, s = (float(fixed(b, v, "alpha or lambda").reshape(())) for v in (alpha, scale))
    return b.op("Selu", x, alpha=a, gamma=s)


@rules("PReLU")
def prelu(b: Builder, node: SourceNode, x: ir.Value, slope: ir.Value) -> Any:
    """A slope below zero; one of rank 1 belongs to the channels, axis 1."""
    shape, rank = b.shape(slope), b.rank(x)
    if len(shape) == 1 and shape[0] != 1 and rank > 2:
        slope = b.reshape(slope, [-1] + [1] * (rank - 2))
    return b.op("PRelu", x, slope)


@rules("Clamp")
def clamp(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Held between two numbers."""
    low, high = number(node, "min"), number(node, "max")
    if not is_float(b, x):  # bounds round towards the inside
        info = np.iinfo(b.dtype(x))
        low = math.ceil(low) if low > info.min else info.min
        high = math.floor(high) if high < info.max else info.max
    return b.op("Clip", x, b.scalar(low, x), b.scalar(high, x))


@rules("SoftMax", "LogSoftmax", "Softmax")
def softmax(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Along one axis."""
    axis = int(text(node, "axis", "1"))
    return b.op("LogSoftmax" if node.op == "LogSoftmax" else "Softmax", x, axis=axis)


def broadcast_of(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Both operands as ONNX broadcasts them, whatever way the layer names."""
    mode = word(node, "auto_broadcast", "numpy", ("numpy", "none", "pdpd"))
    named = "auto_broadcast.auto_broadcast_axis"
    axis = int(text(node, "axis" if "axis" in node.attributes else named, "-1"))
    if mode != "pdpd":
        return x, y
    rank, own = b.rank(x), b.rank(y)
    start = rank - own if axis == -1 else axis
    if own > rank or start < 0 or start + own > rank:
        raise UnsupportedError(f"auto_broadcast=pdpd of rank {own} to rank {rank} at axis {axis}")
    return x, b.reshape(y, [*_zeros(own), *[1] * (rank - own - start)]) if start + own < rank else y


def _zeros(count: int) -> list[int]:
    """Reshape's sign for sizes that stay."""
    return [0] * count


@rules(*_BINARY)
def binary(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """What ONNX has under its own name."""
    return b.op(_BINARY[node.op], *broadcast_of(b, node, x, y))


@rules("NotEqual")
def not_equal(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """The opposite of equal."""
    return b.op("Not", b.op("Equal", *broadcast_of(b, node, x, y)))


@rules("BitwiseLeftShift", "BitwiseRightShift")
def shift(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """Shift bits of numbers without sign."""
    x, y = broadcast_of(b, node, x, y)
    if b.dtype(x).kind != "u":
        raise UnsupportedError("on numbers with a sign")
    return b.op("BitShift", x, y, direction="LEFT" if "Left" in node.op else "RIGHT")


@rules("Divide")
def divide(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """Quotient; of whole numbers rounded down as Python does, or towards zero as C does."""
    x, y = broadcast_of(b, node, x, y)
    python = flag(node, "m_pythondiv", True)
    quotient = b.op("Div", x, y)
    if is_float(b, x) or not python or b.dtype(x).kind == "u":
        return quotient
    return b.op("Div", b.op("Sub", x, b.op("Mod", x, y)), y)  # ONNX's Mod has the divisor's sign


@rules("FloorMod")
def floor_mod(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """Remainder with the divisor's sign."""
    x, y = broadcast_of(b, node, x, y)
    if not is_float(b, x):
        return b.op("Mod", x, y)
    return b.op("Sub", x, b.op("Mul", b.op("Floor", b.op("Div", x, y)), y))


@rules("Mod")
def mod(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """Remainder with the dividend's sign."""
    return b.op("Mod", *broadcast_of(b, node, x, y), fmod=1)


@rules("SquaredDifference")
def squared_difference(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """The difference, squared."""
    difference = b.op("Sub", *broadcast_of(b, node, x, y))
    return b.op("Mul", difference, difference)


@rules("Select")
def select(b: Builder, node: SourceNode, condition: ir.Value, x: ir.Value, y: ir.Value) -> Any:
    """One or the other, by a condition."""
    if word(node, "auto_broadcast", "numpy", ("numpy", "none", "pdpd")) == "pdpd":
        ranks = {b.rank(value) for value in (condition, x, y)}
        if len(ranks) > 1:
            raise UnsupportedError("auto_broadcast=pdpd of different ranks")
    return b.op("Where", condition, x, y)


@rules(*_REDUCTIONS)
def reduce(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    """Over axes from an input; none leaves the tensor as it is."""
    keep = int(flag(node, "keep_dims", False))
    return b.op(_REDUCTIONS[node.op], x, as_list(b, axes), keepdims=keep, noop_with_empty_axes=1)


@rules("ReduceLogicalAnd", "ReduceLogicalOr")
def reduce_logical(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> ir.Value:
    """All, or any."""
    keep = int(flag(node, "keep_dims", False))
    op = "ReduceMin" if node.op == "ReduceLogicalAnd" else "ReduceMax"
    found = b.op(op, b.cast(x, np.int32), as_list(b, axes), keepdims=keep, noop_with_empty_axes=1)
    return b.cast(found, bool)


@rules("CumSum")
def cum_sum(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> Any:
    """Running sum."""
    exclusive, reverse = flag(node, "exclusive", False), flag(node, "reverse", False)
    axis = as_int64(b, axis)
    if b.rank(axis):
        axis = b.reshape(axis, [])
    return b.op("CumSum", x, axis, exclusive=int(exclusive), reverse=int(reverse))


@rules("MatMul")
def mat_mul(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> Any:
    """Product of matrices; vectors are never transposed."""
    for side, key in ((0, "transpose_a"), (1, "transpose_b")):
        value = (x, y)[side]
        if flag(node, key, False) and b.rank(value) > 1:
            rank = b.rank(value)
            value = b.transpose(value, [*range(rank - 2), rank - 1, rank - 2])
        x, y = (value, y) if side == 0 else (x, value)
    return b.op("MatMul", x, y)


@rules("Einsum")
def einsum(b: Builder, node: SourceNode, *inputs: ir.Value) -> Any:
    """By an equation."""
    return b.op("Einsum", *inputs, equation=node.attributes["equation"])


@rules("Convert")
def convert(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Another element type."""
    from raceline.convert.formats.openvino.elements import dtype_of

    name = text(node, "destination_type")
    if b.dtype(x).kind == "f" and name.startswith("u") and b.array(x) is None:
        # A negative number as an unsigned one is undefined in ONNX, and wraps around here.
        return b.cast(b.cast(x, np.int64), dtype_of(name))
    return b.cast(x, dtype_of(name))


@rules("ConvertLike")
def convert_like(b: Builder, node: SourceNode, x: ir.Value, like: ir.Value) -> ir.Value:
    """The element type of another value."""
    return b.cast(x, b.dtype(like))


def _transform_axes(b: Builder, x_rank: int, axes: ir.Value) -> list[int]:
    """Axes of a Fourier transform, counted from the front; `x_rank` leaves the complex pair out."""
    found = [int(axis) for axis in fixed(b, axes, "axes").reshape(-1)]
    return [axis + x_rank if axis < 0 else axis for axis in found]


def _lengths(b: Builder, axes: list[int], sizes: ir.Value | None) -> list[int | None]:
    """Length of the transform along each axis; None for that of the signal."""
    if sizes is None:
        return [None] * len(axes)
    found = [int(size) for size in fixed(b, sizes, "signal sizes").reshape(-1)]
    return [None if size == -1 else size for size in found]


def _transform(b: Builder, x: ir.Value, length: int | None, axis: int, **kind: Any) -> Any:
    size = None if length is None else b.constant(np.array(length, np.int64))
    return b.op("DFT", x, size, b.constant(np.array(axis, np.int64)), **kind)


@rules("DFT", "IDFT")
def dft(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value, sizes: ir.Value | None = None) -> ir.Value:
    """Fourier transform of complex numbers, kept as pairs along the last axis."""
    where = _transform_axes(b, b.rank(x) - 1, axes)
    for axis, length in zip(where, _lengths(b, where, sizes), strict=True):
        x = _transform(b, x, length, axis, inverse=int(node.op == "IDFT"))
    return x


@rules("RDFT")
def rdft(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value, sizes: ir.Value | None = None) -> Any:
    """Fourier transform of real numbers: the last of the axes keeps the half that is not mirrored."""
    where = _transform_axes(b, b.rank(x), axes)
    lengths = _lengths(b, where, sizes)
    pair = b.op("Unsqueeze", x, [-1])
    spectrum = _transform(b, pair, lengths[-1], where[-1], onesided=1)
    for axis, length in zip(where[:-1], lengths[:-1], strict=True):
        spectrum = _transform(b, spectrum, length, axis)
    return spectrum


@rules("IRDFT")
def irdft(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value, sizes: ir.Value | None = None) -> Any:
    """Real signal of half a spectrum: the other half is mirrored first, as ONNX takes whole ones only."""
    where = _transform_axes(b, b.rank(x) - 1, axes)
    lengths = _lengths(b, where, sizes)
    for axis, length in zip(where[:-1], lengths[:-1], strict=True):
        x = _transform(b, x, length, axis, inverse=1)
    axis, half = where[-1], b.shape(x)[where[-1]]
    if not isinstance(half, int):
        raise UnsupportedError("spectrum of open size")
    length = lengths[-1] or 2 * (half - 1)
    kept = min(half, length // 2 + 1)
    x = b.op("Slice", x, [0], [kept], [axis])
    if kept < length // 2 + 1:
        x = _padded(b, x, axis, length // 2 + 1 - kept)
    mirrored = b.op("Slice", x, [(length - 1) // 2], [0], [axis], [-1])
    conjugate = b.op("Mul", mirrored, b.constant(np.array([1, -1], b.dtype(x))))
    whole_spectrum = b.op("Concat", x, conjugate, axis=axis)
    signal = _transform(b, whole_spectrum, None, axis, inverse=1)
    return b.op("Squeeze", b.op("Slice", signal, [0], [1], [-1]), [-1])


def _padded(b: Builder, x: ir.Value, axis: int, count: int) -> Any:
    """Zeros after the end of one axis."""
    pads = [0] * (2 * b.rank(x))
    pads[b.rank(x) + axis] = count
    return b.op("Pad", x, pads, b.scalar(0, x))


@rules("STFT")
def stft(b: Builder, node: SourceNode, x: ir.Value, window: ir.Value, size: ir.Value, step: ir.Value) -> Any:
    """Fourier transforms of frames; the window lies in the middle of a longer frame."""
    bins_first = flag(node, "transpose_frames", False)
    (length,) = (int(n) for n in fixed(b, size, "frame size").reshape(-1))
    (hop,) = (int(n) for n in fixed(b, step, "frame step").reshape(-1))
    (taps,) = (n for n in b.shape(window) if isinstance(n, int))
    if taps != length:
        before = (length - taps) // 2
        window = b.op("Pad", window, [before, length - taps - before], b.scalar(0, window))
    one = b.rank(x) == 1
    signal = b.op("Unsqueeze", x, [0, -1] if one else [-1])
    found = b.op(
        "STFT", signal, b.constant(np.array(hop)), window, b.constant(np.array(length)), onesided=1
    )  # (batch, frames, bins, 2)
    if bins_first:
        found = b.transpose(found, [0, 2, 1, 3])
    return b.op("Squeeze", found, [0]) if one else found
