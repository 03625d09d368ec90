"""Element-wise operations, reductions and products of matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.coreml.call import Call, as_int64
from raceline.convert.formats.coreml.values import NAMES
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_UNARY = {
    "abs": "Abs", "acos": "Acos", "asin": "Asin", "atan": "Atan", "atanh": "Atanh", "ceil": "Ceil",
    "cos": "Cos", "cosh": "Cosh", "erf": "Erf", "exp": "Exp", "floor": "Floor", "round": "Round",
    "sign": "Sign", "sin": "Sin", "sinh": "Sinh", "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh",
    "logical_not": "Not", "relu": "Relu", "sigmoid": "Sigmoid", "softplus": "Softplus",
    "softsign": "Softsign", "identity": "Identity",
}  # fmt: skip
_ANY_TYPE = {"abs", "sign", "logical_not", "identity", "relu"}
_WHOLE = {"ceil", "floor", "round"}
_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "maximum": "Max", "minimum": "Min", "pow": "Pow",
    "equal": "Equal", "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less",
    "less_equal": "LessOrEqual", "logical_and": "And", "logical_or": "Or", "logical_xor": "Xor",
}  # fmt: skip
_REDUCTIONS = {
    "reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd", "reduce_l1_norm": "ReduceL1",
    "reduce_l2_norm": "ReduceL2", "reduce_log_sum": "ReduceLogSum", "reduce_log_sum_exp": "ReduceLogSumExp",
    "reduce_sum_square": "ReduceSumSquare",
}  # fmt: skip


def is_float(call: Call, x: ir.Value) -> bool:
    """Whether the elements are floating-point numbers."""
    return call.b.dtype(x).kind == "f"


@rules(*_UNARY)
def unary(c: Call) -> Any:
    """What ONNX has under its own name."""
    x = c("x")
    if not is_float(c, x) and c.op in _WHOLE:
        return x
    if not is_float(c, x) and c.op not in _ANY_TYPE:
        raise UnsupportedError(f"on elements of type {c.b.dtype(x).name}")
    return c.b.op(_UNARY[c.op], x)


@rules("square", "exp2", "log", "inverse", "rsqrt")
def small(c: Call) -> Any:
    """Short formulas; epsilon is added inside."""
    x = c("x")
    if c.op == "square":
        return c.b.op("Mul", x, x)
    if c.op == "exp2":
        return c.b.op("Pow", c.scalar(2, x), x)
    default = {"log": 1e-45, "inverse": 1e-4, "rsqrt": 1e-12}[c.op]
    epsilon = c.number("epsilon", default)
    if c.b.dtype(x).type(epsilon):  # the usual ones vanish in 16 bits, some in 32
        x = c.b.op("Add", x, c.scalar(epsilon, x))
    if c.op == "log":
        return c.b.op("Log", x)
    return c.b.op("Reciprocal", c.b.op("Sqrt", x) if c.op == "rsqrt" else x)


@rules("threshold")
def threshold(c: Call) -> Any:
    """The greater of x and alpha."""
    x = c("x")
    return c.b.op("Max", x, c.scalar(c.number("alpha"), x))


@rules("clip")
def clip(c: Call) -> Any:
    """Held between alpha and beta."""
    x = c("x")
    return c.b.op("Clip", x, c.scalar(c.number("alpha"), x), c.scalar(c.number("beta"), x))


@rules("cast")
def cast(c: Call) -> Any:
    """Another element type."""
    return c.b.cast(c("x"), NAMES[c.word("dtype", "", tuple(NAMES))])


@rules(*_BINARY)
def binary(c: Call) -> Any:
    """What ONNX has under its own name."""
    return c.b.op(_BINARY[c.op], c("x"), c("y"))


@rules("not_equal")
def not_equal(c: Call) -> Any:
    """The opposite of equal."""
    return c.b.op("Not", c.b.op("Equal", c("x"), c("y")))


@rules("real_div", "floor_div", "mod")
def divide(c: Call) -> Any:
    """Quotients, and the remainder with the divisor's sign."""
    x, y = c("x"), c("y")
    quotient = c.b.op("Div", x, y)
    if not is_float(c, x):
        if c.op == "real_div":
            return quotient
        rest = c.b.op("Mod", x, y)
        return rest if c.op == "mod" else c.b.op("Div", c.b.op("Sub", x, rest), y)
    if c.op == "real_div":
        return quotient
    whole = c.b.op("Floor", quotient)
    return whole if c.op == "floor_div" else c.b.op("Sub", x, c.b.op("Mul", whole, y))


@rules("relu6")
def relu6(c: Call) -> Any:
    """Between 0 and 6."""
    x = c("x")
    return c.b.op("Clip", x, c.scalar(0, x), c.scalar(6, x))


@rules("clamped_relu")
def clamped_relu(c: Call) -> Any:
    """min(beta, x) for x >= 0, else min(beta, alpha x)."""
    x = c("x")
    leaky = c.b.op("LeakyRelu", x, alpha=c.number("alpha"))
    return c.b.op("Min", leaky, c.scalar(c.number("beta"), x))


@rules("leaky_relu", "elu", "thresholded_relu")
def with_alpha(c: Call) -> Any:
    """Activations with one number."""
    op = {"leaky_relu": "LeakyRelu", "elu": "Elu"}.get(c.op)
    x, alpha = c("x"), c.number("alpha")
    if op:
        return c.b.op(op, x, alpha=alpha)
    at = c.scalar(alpha, x)
    return c.b.op("Where", c.b.op("GreaterOrEqual", x, at), x, c.scalar(0, x))


@rules("prelu")
def prelu(c: Call) -> Any:
    """A slope of its own for each channel, axis 1."""
    x, alpha = c("x"), c("alpha")
    return c.b.op("PRelu", x, c.b.reshape(alpha, [-1] + [1] * (c.b.rank(x) - 2)))


@rules("gelu")
def gelu(c: Call) -> Any:
    """Exact, or one of two approximations."""
    mode = c.word("mode", "exact", ("exact", "tanh_approximation", "sigmoid_approximation"))
    x = c("x")
    if mode == "sigmoid_approximation":
        return c.b.op("Mul", x, c.b.op("Sigmoid", c.b.op("Mul", x, c.scalar(1.702, x))))
    return c.b.op("Gelu", x, approximate="none" if mode == "exact" else "tanh")


@rules("sigmoid_hard", "linear_activation", "scaled_tanh")
def with_two(c: Call) -> Any:
    """Activations with alpha and beta."""
    x, alpha, beta = c("x"), c.number("alpha"), c.number("beta")
    if c.op == "sigmoid_hard":
        return c.b.op("HardSigmoid", x, alpha=alpha, beta=beta)
    if c.op == "scaled_tanh":
        return c.b.op("Mul", c.scalar(alpha, x), c.b.op("Tanh", c.b.op("Mul", x, c.scalar(beta, x))))
    return c.b.op("Add", c.b.op("Mul", x, c.scalar(alpha, x)), c.scalar(beta, x))


@rules("softplus_parametric")
def softplus_parametric(c: Call) -> Any:
    """Alpha log(1 + exp(beta x)) with numbers for each channel."""
    x = c("x")
    alpha, beta = (c.b.reshape(c(name), [-1] + [1] * (c.b.rank(x) - 2)) for name in ("alpha", "beta"))
    return c.b.op("Mul", alpha, c.b.op("Softplus", c.b.op("Mul", beta, x)))


@rules("silu")
def silu(c: Call) -> Any:
    """X sigmoid(x)."""
    x = c("x")
    return c.b.op("Mul", x, c.b.op("Sigmoid", x))


@rules("softmax")
def softmax(c: Call) -> Any:
    """Along one axis."""
    return c.b.op("Softmax", c("x"), axis=c.integer("axis", -1))


@rules("select")
def select(c: Call) -> Any:
    """One or the other."""
    return c.b.op("Where", c.b.cast(c("cond"), bool), c("a"), c("b"))


@rules(*_REDUCTIONS)
def reduce(c: Call) -> Any:
    """Over all axes where none are named."""
    axes = c.ints("axes") if c.has("axes") else None
    return c.b.op(_REDUCTIONS[c.op], c("x"), axes, keepdims=int(c.flag("keep_dims", False)))


@rules("reduce_argmax", "reduce_argmin")
def arg(c: Call) -> Any:
    """Where the extreme lies, the first of equals."""
    c.skip("output_dtype")
    axis, keep = c.integer("axis", -1), int(c.flag("keep_dims", False))
    return c.b.op("ArgMax" if c.op == "reduce_argmax" else "ArgMin", c("x"), axis=axis, keepdims=keep)


@rules("cumsum")
def cumsum(c: Call) -> Any:
    """Running sum."""
    exclusive, reverse = int(c.flag("exclusive", False)), int(c.flag("reverse", False))
    axis = c.b.constant(np.array(c.integer("axis", 0)))
    return c.b.op("CumSum", c("x"), axis, exclusive=exclusive, reverse=reverse)


@rules("linear")
def linear(c: Call) -> Any:
    """X weight^T + bias."""
    product = c.b.op("MatMul", c("x"), _turned(c, c("weight")))
    bias = c.maybe("bias")
    return product if bias is None else c.b.op("Add", product, bias)


def _turned(c: Call, x: ir.Value) -> ir.Value:
    """The last two axes exchanged."""
    rank = c.b.rank(x)
    return c.b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


@rules("matmul")
def matmul(c: Call) -> Any:
    """Product of matrices; vectors are never transposed."""
    x, y = c("x"), c("y")
    if c.flag("transpose_x", False) and c.b.rank(x) > 1:
        x = _turned(c, x)
    if c.flag("transpose_y", False) and c.b.rank(y) > 1:
        y = _turned(c, y)
    return c.b.op("MatMul", x, y)


@rules("einsum")
def einsum(c: Call) -> Any:
    """By an equation."""
    (equation,) = c.raw("equation")
    return c.b.op("Einsum", *c.values("values"), equation=equation)


@rules("band_part")
def band_part(c: Call) -> Any:
    """Zero but for a band around the diagonal."""
    x = c("x")
    lower, upper = c.integer("lower", -1), c.integer("upper", -1)
    rows, columns = c.b.shape(x)[-2:]
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise UnsupportedError("of open size")
    i, j = np.arange(rows)[:, None], np.arange(columns)[None]
    kept = ((lower < 0) | (i - j <= lower)) & ((upper < 0) | (j - i <= upper))
    return c.b.op("Where", kept, x, c.scalar(0, x))


@rules("topk")
def topk(c: Call) -> Any:
    """The largest or smallest along an axis."""
    c.skip("return_indices", "output_indices_dtype")
    x, count, axis = c("x"), as_int64(c, c("k")), c.integer("axis", -1)
    smallest = c.flag("ascending", False)
    c.skip("sort")  # unsorted is any order, so also the sorted one
    count = c.b.reshape(count, [1])
    return c.b.op("TopK", x, count, axis=axis, largest=int(not smallest), sorted=1, outputs=2)


@rules("argsort")
def argsort(c: Call) -> Any:
    """Indices that would sort; equal elements keep their order."""
    x, axis = c("x"), c.integer("axis", -1)
    size = c.b.op("Shape", x)
    count = c.b.op("Gather", size, [axis % c.b.rank(x)])
    return c.b.op("TopK", x, count, axis=axis, largest=int(not c.flag("ascending", False)), outputs=2)[1]


@rules("scaled_dot_product_attention")
def attention(c: Call) -> Any:
    """Softmax(query key^T / sqrt(width) + mask) value."""
    query, key, value, mask = c("query"), c("key"), c("value"), c.maybe("attn_mask")
    width = c.b.shape(query)[-1]
    if not isinstance(width, int):
        raise UnsupportedError("a head of open size")
    scaled = c.b.op("Mul", query, c.scalar(width**-0.5, query))
    scores = c.b.op("MatMul", scaled, _turned(c, key))
    if mask is not None and c.b.dtype(mask).kind == "b":
        scores = c.b.op("Where", mask, scores, c.scalar(-np.inf, query))
    elif mask is not None:
        scores = c.b.op("Add", scores, mask)
    return c.b.op("MatMul", c.b.op("Softmax", scores, axis=-1), value)
