"""Element-wise operators: arithmetic, comparison, logic, activations, rounding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.asking import int64, is_float, option, source, target
from raceline.convert.formats.tflite.quantise import activated, beneath, clipped, turned
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_UNARY = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "EXP": "Exp", "FLOOR": "Floor", "LOG": "Log",
    "LOGISTIC": "Sigmoid", "NEG": "Neg", "ROUND": "Round", "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh",
    "SIGN": "Sign", "ELU": "Elu", "LOGICAL_NOT": "Not", "HARD_SWISH": "HardSwish",
}  # fmt: skip
_BINARY = {
    "MAXIMUM": "Max", "MINIMUM": "Min", "POW": "Pow", "EQUAL": "Equal", "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less", "LESS_EQUAL": "LessOrEqual", "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or", "STABLEHLO_ADD": "Add", "STABLEHLO_MULTIPLY": "Mul", "STABLEHLO_MAXIMUM": "Max",
    "STABLEHLO_MINIMUM": "Min",
}  # fmt: skip
_ARITHMETIC = {"ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div"}
_LIMITING = ("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")


@rules(*_UNARY)
def unary(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """One operator of the standard; rounding is to even in both."""
    return beneath(b, x, lambda value: b.op(_UNARY[node.op], value))


@rules(*_BINARY)
def binary(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """One operator of the standard, broadcast as NumPy does in both."""
    if b.dtype(x).kind == "b" and node.op not in {"LOGICAL_AND", "LOGICAL_OR", "EQUAL"}:
        raise UnsupportedError("logical tensors")
    return b.op(_BINARY[node.op], x, y)  # type: ignore[no-any-return]


@rules(*_ARITHMETIC)
def arithmetic(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """Arithmetic with a fused activation; integers divide towards zero in both."""
    found = turned(b, x, y)
    if found is None:
        result = b.op(_ARITHMETIC[node.op], x, y)
    else:
        result = b.transpose(b.op(_ARITHMETIC[node.op], *found[1]), found[0])
    return activated(b, result, option(node, "fused_activation_function"), target(node))


@rules("NOT_EQUAL")
def not_equal(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """Negation of Equal."""
    return b.op("Not", b.op("Equal", x, y))  # type: ignore[no-any-return]


@rules(*_LIMITING)
def limiting(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Activations that only limit."""
    return beneath(b, x, lambda value: clipped(b, value, node.op))


@rules("RSQRT")
def rsqrt(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """One over the square root."""
    return b.op("Reciprocal", b.op("Sqrt", x))  # type: ignore[no-any-return]


@rules("SQUARE")
def square(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Times itself."""
    return b.op("Mul", x, x)  # type: ignore[no-any-return]


@rules("SQUARED_DIFFERENCE")
def squared_difference(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """(x - y) squared."""
    difference = b.op("Sub", x, y)
    return b.op("Mul", difference, difference)  # type: ignore[no-any-return]


@rules("GELU")
def gelu(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Exact, or by the hyperbolic tangent."""
    kind = "tanh" if option(node, "approximate") else "none"
    return beneath(b, x, lambda value: b.op("Gelu", value, approximate=kind))


@rules("LEAKY_RELU")
def leaky_relu(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """With the slope of the file; the schema's default is 0."""
    slope = float(node.attributes.get("alpha", 0.0))
    return beneath(b, x, lambda value: b.op("LeakyRelu", value, alpha=slope))


@rules("PRELU")
def prelu(b: Builder, node: SourceNode, x: ir.Value, slope: ir.Value) -> ir.Value:
    """With a slope for each channel; given beneath a transposition where that is possible."""
    found, rank, dims = turned(b, x), b.rank(x), b.shape(slope)
    if found is None or len(dims) > rank or b.array(slope) is None:
        return b.op("PRelu", x, slope)  # type: ignore[no-any-return]
    perm, (inner,) = found
    whole = b.op("Reshape", slope, [1] * (rank - len(dims)) + [int(d) for d in dims if d is not None])
    back = b.transpose(whole, [perm.index(axis) for axis in range(rank)])
    return b.transpose(b.op("PRelu", inner, back), perm)


@rules("FLOOR_DIV")
def floor_div(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """The quotient rounded down; the standard's integer division rounds towards zero."""
    if is_float(b, x):
        return b.op("Floor", b.op("Div", x, y))  # type: ignore[no-any-return]
    return b.op("Div", b.op("Sub", x, b.op("Mod", x, y)), y)  # type: ignore[no-any-return]


@rules("FLOOR_MOD")
def floor_mod(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """The remainder with the divisor's sign."""
    if not is_float(b, x):
        return b.op("Mod", x, y)  # type: ignore[no-any-return]
    rest = b.op("Mod", x, y, fmod=1)
    zero = b.scalar(0, x)
    differs = b.op("Xor", b.op("Less", y, zero), b.op("Less", rest, zero))
    move = b.op("And", differs, b.op("Not", b.op("Equal", rest, zero)))
    return b.op("Where", move, b.op("Add", rest, y), rest)  # type: ignore[no-any-return]


@rules("ATAN2")
def atan2(b: Builder, node: SourceNode, y: ir.Value, x: ir.Value) -> ir.Value:
    """The angle of (x, y), of which the standard has only the half plane x > 0.

    2 atan(y / (|(x, y)| + x)) loses digits near the negative axis, so each half plane has its own form.
    """
    zero = b.scalar(0, x)
    pi = b.op("Where", b.op("Less", y, zero), b.scalar(-math.pi, x), b.scalar(math.pi, x))
    upright = b.op("Equal", x, zero)
    safe = b.op("Where", upright, b.scalar(1, x), x)
    angle = b.op("Atan", b.op("Div", y, safe))
    turned = b.op("Where", b.op("Less", x, zero), b.op("Add", angle, pi), angle)
    straight = b.op("Mul", b.op("Sign", y), b.scalar(math.pi / 2, x))
    return b.op("Where", upright, straight, turned)  # type: ignore[no-any-return]


@rules("BITWISE_XOR")
def bitwise_xor(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """Bit by bit."""
    return b.op("Xor" if b.dtype(x).kind == "b" else "BitwiseXor", x, y)  # type: ignore[no-any-return]


@rules("RIGHT_SHIFT")
def right_shift(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """Division by a power of two, rounded down, which keeps the sign as the shift of signed integers does."""
    wide = int64(b, x)
    power = int64(b, b.op("Pow", b.constant(np.int64(2)), int64(b, y)))
    whole = b.op("Div", b.op("Sub", wide, b.op("Mod", wide, power)), power)
    return b.cast(whole, b.dtype(x))


@rules("ADD_N")
def add_n(b: Builder, node: SourceNode, *terms: ir.Value) -> ir.Value:
    """The sum of all; the standard's Sum takes no integers."""
    result = terms[0]
    for term in terms[1:]:
        result = b.op("Add", result, term)
    return result


@rules("ZEROS_LIKE")
def zeros_like(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Zeros in the shape of another tensor."""
    return b.op("Expand", b.scalar(0, x), b.sizes(x))  # type: ignore[no-any-return]


@rules("SELECT", "SELECT_V2")
def select(b: Builder, node: SourceNode, which: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """One or the other; the old operator's vector of choices goes by rows."""
    rank = b.rank(x)
    if node.op == "SELECT" and b.rank(which) == 1 and rank > 1:
        which = b.op("Unsqueeze", which, list(range(1, rank)))
    return b.op("Where", which, x, y)  # type: ignore[no-any-return]


@rules("STABLEHLO_AND")
def bits(b: Builder, node: SourceNode, x: ir.Value, y: ir.Value) -> ir.Value:
    """Logical, or bit by bit."""
    return b.op("And" if b.dtype(x).kind == "b" else "BitwiseAnd", x, y)  # type: ignore[no-any-return]


@rules("SOFTMAX")
def softmax(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Along the last axis, of the scaled operand."""
    beta = float(node.attributes.get("beta", 0.0))
    scaled = x if beta == 1 else b.op("Mul", x, b.scalar(beta, x))
    return b.op("Softmax", scaled, axis=-1)  # type: ignore[no-any-return]


@rules("LOG_SOFTMAX")
def log_softmax(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Along the last axis."""
    return b.op("LogSoftmax", x, axis=-1)  # type: ignore[no-any-return]


@rules("L2_NORMALIZATION")
def l2_normalization(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Divided by the length along the last axis, which counts as 1e-6 at least."""
    length = b.op("ReduceL2", x, [b.rank(x) - 1], keepdims=1)
    result = b.op("Div", x, b.op("Max", length, b.scalar(1e-6, x)))
    return activated(b, result, option(node, "fused_activation_function"), target(node))


@rules("LOCAL_RESPONSE_NORMALIZATION")
def local_response_normalization(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Across channels; the standard divides alpha by the window's size."""
    size = 2 * option(node, "radius") + 1
    settings = {key: float(node.attributes.get(key, 0.0)) for key in ("alpha", "beta", "bias")}
    y = b.op(
        "LRN", b.transpose(x, [0, 3, 1, 2]),
        size=size, alpha=settings["alpha"] * size, beta=settings["beta"], bias=settings["bias"],
    )  # fmt: skip
    return b.transpose(y, [0, 2, 3, 1])


@rules("FAKE_QUANT")
def fake_quant(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Rounded to a grid that contains zero (TensorFlow's nudged range)."""
    low, high = (float(node.attributes.get(key, 0.0)) for key in ("min", "max"))
    first = 1 if option(node, "narrow_range") else 0
    last = 2 ** option(node, "num_bits") - 1
    if not low <= 0 <= high or low == high or last <= first:
        raise UnsupportedError(f"a range of {low}..{high}")
    step = (high - low) / (last - first)
    zero = min(max(math.floor(first - low / step + 0.5), first), last)
    low, high = (first - zero) * step, (last - zero) * step
    inside = b.op("Clip", x, b.scalar(low, x), b.scalar(high, x))
    steps = b.op("Div", b.op("Sub", inside, b.scalar(low, x)), b.scalar(step, x))
    whole = b.op("Floor", b.op("Add", steps, b.scalar(0.5, x)))
    return b.op("Add", b.op("Mul", whole, b.scalar(step, x)), b.scalar(low, x))  # type: ignore[no-any-return]


@rules("CUMSUM")
def cumsum(b: Builder, node: SourceNode, x: ir.Value, axis: ir.Value) -> ir.Value:
    """Running sums."""
    exclusive, reverse = (option(node, key) for key in ("exclusive", "reverse"))
    return b.op("CumSum", x, axis, exclusive=exclusive, reverse=reverse)  # type: ignore[no-any-return]


@rules("BUCKETIZE")
def bucketize(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """How many of the ascending boundaries each element has reached."""
    bounds = np.array(node.attributes.get("boundaries", ()), np.float32)
    wide = b.op("Unsqueeze", b.cast(x, np.float32), [b.rank(x)])
    reached = b.cast(b.op("GreaterOrEqual", wide, bounds), np.int32)
    return b.op("ReduceSum", reached, [b.rank(x)], keepdims=0)  # type: ignore[no-any-return]


@rules("CAST")
def cast(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Another element type; stored integers are taken as they are."""
    from raceline.convert.formats.tflite.data import DTYPES

    wanted = target(node).dtype
    if wanted not in DTYPES or wanted in {"INT4", "BFLOAT16"}:
        raise UnsupportedError(f"to {wanted}")
    return b.cast(x, np.dtype(DTYPES[wanted]))


@rules("BITCAST")
def bitcast(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Only where it changes nothing or is of a constant."""
    from raceline.convert.formats.tflite.data import DTYPES

    array, wanted = b.array(x), target(node).dtype
    if wanted == source(node).dtype:
        return x
    if array is None or wanted not in DTYPES or np.dtype(DTYPES[wanted]).itemsize != array.dtype.itemsize:
        raise UnsupportedError(f"from {source(node).dtype} to {wanted}")
    return b.constant(array.view(np.dtype(DTYPES[wanted])))


@rules("SVDF")
def svdf(b: Builder, node: SourceNode, *operands: ir.Value) -> ir.Value:
    """Refused: its result depends on earlier calls."""
    raise UnsupportedError("it keeps state between calls")


@rules("RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM")
def random(b: Builder, node: SourceNode, shape: ir.Value) -> ir.Value:
    """Random numbers of a fixed shape; seeds of the file give other numbers here, as on any other engine."""
    sizes = [
        int(size) for size in np.asarray(b.array(shape) if b.array(shape) is not None else [-1]).reshape(-1)
    ]
    if any(size < 0 for size in sizes):
        raise UnsupportedError("a shape that is computed by the model")
    name = "RandomNormal" if node.op == "RANDOM_STANDARD_NORMAL" else "RandomUniform"
    return b.op(name, shape=sizes)  # type: ignore[no-any-return]
