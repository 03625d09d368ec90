"""Arithmetic: element by element, comparisons, reductions, sums along an axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, positive, rule
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_UNARY = {
    "abs": "Abs", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "floor": "Floor", "ceil": "Ceil", "sin": "Sin",
    "cos": "Cos", "tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh",
    "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "erf": "Erf", "reciprocal": "Reciprocal",
    "sign": "Sign", "logical_not": "Not", "bitwise_not": "BitwiseNot", "isnan_v2": "IsNaN",
    "isinf_v2": "IsInf", "assign": "Identity", "share_data": "Identity", "isnan": "IsNaN", "isinf": "IsInf",
    "negative": "Neg", "memcpy": "Identity",
}  # fmt: skip
_BINARY = {
    "elementwise_add": "Add", "elementwise_sub": "Sub", "elementwise_mul": "Mul", "elementwise_div": "Div",
    "elementwise_max": "Max", "elementwise_min": "Min", "elementwise_pow": "Pow", "logical_and": "And",
    "logical_or": "Or", "logical_xor": "Xor", "bitwise_and": "BitwiseAnd", "bitwise_or": "BitwiseOr",
    "bitwise_xor": "BitwiseXor", "equal": "Equal", "less_than": "Less", "less_equal": "LessOrEqual",
    "greater_than": "Greater", "greater_equal": "GreaterOrEqual", "not_equal": "NotEqual",
    "elementwise_mod": "Mod", "elementwise_floordiv": "FloorDiv",
}  # fmt: skip


@rule(rules, *_UNARY)
def _unary(b: Builder, c: Call) -> Any:
    c.ignore("dst_place_type")
    x = c.value("X")
    if c.op in {"bitwise_not"} and b.dtype(x) == np.bool_:
        return b.op("Not", x)
    if c.op in {"isnan", "isinf"}:  # the old forms answer for the whole tensor
        x = b.reshape(b.cast(b.op(_UNARY[c.op], x), np.int32), [-1])
        return b.cast(b.op("ReduceMax", x, [0], keepdims=1), np.bool_)
    if b.dtype(x).kind in "iub" and c.op in {"isnan_v2", "isinf_v2"}:
        return b.op("Expand", np.array(False), b.sizes(x))
    if b.dtype(x).kind in "iu" and c.op in {"floor", "ceil"}:
        return x
    return b.op(_UNARY[c.op], x)


@rule(rules, "isfinite_v2")
def _isfinite(b: Builder, c: Call) -> Any:
    x = c.value("X")
    if b.dtype(x).kind in "iub":
        return b.op("Expand", np.array(True), b.sizes(x))
    return b.op("Not", b.op("Or", b.op("IsNaN", x), b.op("IsInf", x)))


@rule(rules, "rsqrt")
def _rsqrt(b: Builder, c: Call) -> Any:
    return b.op("Reciprocal", b.op("Sqrt", c.value("X")))


@rule(rules, "square")
def _square(b: Builder, c: Call) -> Any:
    return b.op("Mul", c.value("X"), c.value("X"))


@rule(rules, "round")
def _round(b: Builder, c: Call) -> Any:
    """Until Paddle 3 halves go away from zero, where ONNX's Round takes them to the even neighbour."""
    c.need("decimals", 0)
    x = c.value("X")
    if c.flag("half_to_even"):
        return b.op("Round", x)
    size = b.op("Abs", x)
    whole = b.op("Floor", size)
    up = b.op("GreaterOrEqual", b.op("Sub", size, whole), b.scalar(0.5, x))
    return b.op("Mul", b.op("Sign", x), b.op("Add", whole, b.cast(up, b.dtype(x))))


@rule(rules, "trunc", out="Out")
def _trunc(b: Builder, c: Call) -> Any:
    x = c.value("X")
    return b.op("Mul", b.op("Sign", x), b.op("Floor", b.op("Abs", x)))


@rule(rules, "log2", "log10", "log1p")
def _logarithm(b: Builder, c: Call) -> Any:
    x = c.value("X")
    if c.op == "log1p":
        return b.op("Log", b.op("Add", x, b.scalar(1, x)))
    return b.op("Mul", b.op("Log", x), b.scalar(1 / np.log(2 if c.op == "log2" else 10), x))


@rule(rules, "expm1")
def _expm1(b: Builder, c: Call) -> Any:
    x = c.value("X")
    return b.op("Sub", b.op("Exp", x), b.scalar(1, x))


def aligned(b: Builder, x: ir.Value, y: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """Both operands so that ONNX broadcasts them as Paddle does: the shorter one's axes begin at `axis`."""
    gap = b.rank(x) - b.rank(y)
    if axis == -1 or gap == 0:
        return x, y
    if gap < 0:
        y, x = aligned(b, y, x, axis)
        return x, y
    shape = b.shape(y)
    while len(shape) > b.rank(x) - axis and shape and shape[-1] == 1:  # old programs spell a scalar as [1]
        shape = shape[:-1]
    behind = b.rank(x) - axis - len(shape)
    if behind < 0:
        raise ValueError(f"axis {axis} for {list(b.shape(x))} and {list(b.shape(y))}")
    if len(shape) < b.rank(y):
        y = b.op("Squeeze", y, list(range(len(shape), b.rank(y))))
    return x, y if behind == 0 else b.op("Unsqueeze", y, list(range(len(shape), len(shape) + behind)))


@rule(rules, *_BINARY)
def _binary(b: Builder, c: Call) -> Any:
    x, y = aligned(b, c.value("X"), c.value("Y"), c.integer("axis", -1))
    c.ignore("force_cpu")
    for name in ("Scale_x", "Scale_y", "Scale_out"):
        c.need(name, 1.0)
    if b.dtype(x) != b.dtype(y):
        raise UnsupportedError(f"operands of types {b.dtype(x)} and {b.dtype(y)}")
    return activated(b, c, binary(b, _BINARY[c.op], x, y))


def binary(b: Builder, op: str, x: ir.Value, y: ir.Value) -> Any:
    """Two operands of one type; also what ONNX has no operator for, and types that its operators lack."""
    kind = b.dtype(x).kind
    if op == "NotEqual":
        return b.op("Not", b.op("Equal", x, y))
    if op == "FloorDiv":
        return _floor_div(b, x, y)
    if op == "Mod" and kind == "f":
        return b.op("Sub", x, b.op("Mul", b.op("Floor", b.op("Div", x, y)), y))
    if kind == "b" and op in {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}:
        op = op.removeprefix("Bitwise")
    if kind == "b" and op in {"Add", "Max"}:
        op = "Or"
    if kind == "b" and op in {"Mul", "Min"}:
        op = "And"
    if kind != "b" and op in {"And", "Or", "Xor"}:
        x, y = b.cast(x, np.bool_), b.cast(y, np.bool_)
    return b.op(op, x, y)


def _floor_div(b: Builder, x: ir.Value, y: ir.Value) -> Any:
    quotient = b.op("Div", x, y)
    if b.dtype(x).kind == "f":
        return b.op("Floor", quotient)
    if b.dtype(x).kind == "u":
        return quotient
    rest = b.op("Mod", x, y)  # has the divisor's sign, so that this division has no remainder
    return b.op("Div", b.op("Sub", x, rest), y)


def activated(b: Builder, c: Call, y: ir.Value) -> Any:
    """The value behind an activation that an optimiser of Paddle merged into the operation."""
    found = [c.text(name, "") for name in ("fuse_activation", "activation_type", "act_type", "activation")]
    found = [name for name in found if name not in {"", "identity", "linear"}]
    for name in found:
        if name not in {"relu", "tanh", "sigmoid"}:
            raise UnsupportedError(f"a merged activation {name!r}")
        y = b.op(name.capitalize(), y)
    return y


@rule(rules, "elementwise_fmax", "elementwise_fmin")
def _fmax(b: Builder, c: Call) -> Any:
    """The larger or smaller; the other one where one is NaN."""
    x, y = aligned(b, c.value("X"), c.value("Y"), c.integer("axis", -1))
    if b.dtype(x).kind == "f":
        x, y = b.op("Where", b.op("IsNaN", x), y, x), b.op("Where", b.op("IsNaN", y), x, y)
    return b.op("Max" if c.op.endswith("x") else "Min", x, y)


@rule(rules, "sum")
def _sum(b: Builder, c: Call) -> Any:
    return b.op("Sum", *c.all("X"))


@rule(rules, "scale")
def _scale(b: Builder, c: Call) -> Any:
    x, bias = c.value("X"), c.number("bias", 0.0)
    tensor = c.maybe("ScaleTensor")
    kind = b.dtype(x)
    factor = c.number("scale", 1.0)
    if kind.kind in "iu" and tensor is None and (factor != int(factor) or bias != int(bias)):
        raise UnsupportedError("a fraction times whole numbers")
    scale = b.scalar(factor, x) if tensor is None else b.cast(b.reshape(tensor, []), kind)
    before = not c.flag("bias_after_scale", True)
    if before and bias:
        x = b.op("Add", x, b.scalar(bias, x))
    if tensor is not None or factor != 1:
        x = b.op("Mul", x, scale)
    if not before and bias:
        x = b.op("Add", x, b.scalar(bias, x))
    return b.op("Identity", x) if x is c.value("X") else x


@rule(rules, "pow")
def _pow(b: Builder, c: Call) -> Any:
    x, tensor = c.value("X"), c.maybe("FactorTensor")
    factor = b.scalar(c.number("factor", 1.0), x) if tensor is None else b.cast(tensor, b.dtype(x))
    return b.op("Pow", x, factor)


@rule(rules, "clip")
def _clip(b: Builder, c: Call) -> Any:
    x = c.value("X")
    bounds: list[Any] = []
    for slot, name in (("Min", "min"), ("Max", "max")):
        tensor, number = c.maybe(slot), c.get(name)
        if tensor is None and number is not None:
            bounds.append(b.scalar(float(number), x))
        else:
            bounds.append(None if tensor is None else b.cast(b.reshape(tensor, []), b.dtype(x)))
    return b.op("Clip", x, *bounds)


@rule(rules, "clip_by_norm")
def _clip_by_norm(b: Builder, c: Call) -> Any:
    x = c.value("X")
    most = b.scalar(c.number("max_norm", 1.0), x)
    norm = b.op("Sqrt", b.op("ReduceSumSquare", x, keepdims=0))
    return b.op("Mul", x, b.op("Div", most, b.op("Max", norm, most)))


@rule(rules, "increment")
def _increment(b: Builder, c: Call) -> Any:
    x = c.value("X")
    return b.op("Add", x, b.scalar(c.number("step", 1.0), x))


_REDUCTIONS = {
    "reduce_sum": "ReduceSum", "reduce_mean": "ReduceMean", "reduce_max": "ReduceMax",
    "reduce_min": "ReduceMin", "reduce_prod": "ReduceProd", "reduce_all": "ReduceMin",
    "reduce_any": "ReduceMax", "logsumexp": "ReduceLogSumExp", "frobenius_norm": "ReduceL2",
    "reduce_amax": "ReduceMax", "reduce_amin": "ReduceMin",
}  # fmt: skip


@rule(rules, *_REDUCTIONS)
def _reduce(b: Builder, c: Call) -> Any:
    x = c.value("X")
    old, new = ("axis", "keepdim") if c.op == "logsumexp" else ("dim", "keep_dim")
    axes = [0]  # where an old program says nothing
    if c.has(old, "AxisTensor", "AxisTensorList"):
        axes = c.listed(b, old, tensors="AxisTensorList", tensor="AxisTensor")
    keep = c.flag(new) or c.flag("keepdim")
    every = c.flag("reduce_all") or not axes or b.rank(x) == 0
    kind = c.dtype("out_dtype")
    before = c.dtype("in_dtype")
    if before is not None:
        x = b.cast(x, before)
    logical = c.op in {"reduce_all", "reduce_any"}
    if kind is None and (logical or b.dtype(x) == np.bool_):
        kind = np.dtype(bool if logical else np.int64)
    if logical:
        x = b.cast(x, np.int32)
    elif kind is not None:
        x = b.cast(x, kind)
    where = list(range(b.rank(x))) if every else sorted({positive(axis, b.rank(x)) for axis in axes})
    y = b.op(_REDUCTIONS[c.op], x, where, keepdims=int(keep)) if where else b.op("Identity", x)
    return b.cast(y, kind) if logical else y


@rule(rules, "conditional_block", "conditional_block_infer", "while", "select_input", "write_to_array",
      "read_from_array", "array_to_lod_tensor", "tensor_array_to_tensor", "lod_array_length")  # fmt: skip
def _control(b: Builder, c: Call) -> Any:
    raise UnsupportedError("branches and loops that a run decides, and lists of tensors")


@rule(rules, "mean")
def _mean(b: Builder, c: Call) -> Any:
    return b.op("ReduceMean", c.value("X"), keepdims=0)


@rule(rules, "p_norm")
def _p_norm(b: Builder, c: Call) -> Any:
    x, order = c.value("X"), c.number("porder", 2.0)
    c.ignore("epsilon")
    axis, keep = c.integer("axis", -1), int(c.flag("keepdim"))
    if c.flag("asvector"):
        x, axis = b.reshape(x, [-1]), 0
    size = b.op("Abs", x)
    if order in {1.0, 2.0}:
        return b.op(f"ReduceL{int(order)}", x, [axis], keepdims=keep)
    if np.isinf(order):
        return b.op("ReduceMax" if order > 0 else "ReduceMin", size, [axis], keepdims=keep)
    if order == 0:
        nonzero = b.cast(b.op("Greater", size, b.scalar(0, x)), b.dtype(x))
        return b.op("ReduceSum", nonzero, [axis], keepdims=keep)
    total = b.op("ReduceSum", b.op("Pow", size, b.scalar(order, x)), [axis], keepdims=keep)
    return b.op("Pow", total, b.scalar(1 / order, x))


@rule(rules, "norm")
def _normalise(b: Builder, c: Call) -> dict[str, Any]:
    """Divide by the Euclidean length along an axis; the epsilon is under the root."""
    x = c.value("X")
    square = b.op("ReduceSumSquare", x, [c.integer("axis", -1)], keepdims=1)
    norm = b.op("Sqrt", b.op("Add", square, b.scalar(c.number("epsilon", 1e-10), x)))
    return {"Out": b.op("Div", x, norm), "Norm": norm}


@rule(rules, "cumsum")
def _cumsum(b: Builder, c: Call) -> Any:
    x, axis = c.value("X"), c.integer("axis", -1)
    tensor = c.maybe("AxisTensor")
    if tensor is not None:
        axis = int(c.constant(b, "AxisTensor").reshape(-1)[0])
    if c.flag("flatten"):
        x, axis = b.reshape(x, [-1]), 0
    exclusive, reverse = int(c.flag("exclusive")), int(c.flag("reverse"))
    axis = positive(axis, b.rank(x))
    return b.op("CumSum", x, np.array(axis, np.int64), exclusive=exclusive, reverse=reverse)


@rule(rules, "dist")
def _dist(b: Builder, c: Call) -> Any:
    c.need("p", 2.0)
    return b.op("ReduceL2", b.op("Sub", c.value("X"), c.value("Y")), keepdims=0)


# --- products of matrices ---------------------------------------------------------------------------------


@rule(rules, "matmul_v2", "matmul")
def _matmul(b: Builder, c: Call) -> Any:
    new = c.op == "matmul_v2"
    x = _turned(b, c.value("X"), c.flag("trans_x" if new else "transpose_X"))
    y = _turned(b, c.value("Y"), c.flag("trans_y" if new else "transpose_Y"))
    z = b.op("MatMul", x, y)
    alpha = c.number("alpha", 1.0)
    c.need("head_number", 1)
    z = z if alpha == 1 else b.op("Mul", z, b.scalar(alpha, z))
    lone = not new and b.rank(x) == b.rank(y) == 1  # the first version has no scalars
    return b.reshape(z, [1]) if lone else z


def _turned(b: Builder, x: ir.Value, turn: bool) -> Any:
    rank = b.rank(x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2]) if turn and rank > 1 else x


@rule(rules, "bmm")
def _bmm(b: Builder, c: Call) -> Any:
    return b.op("MatMul", c.value("X"), c.value("Y"))


@rule(rules, "mv")
def _mv(b: Builder, c: Call) -> Any:
    return b.op("MatMul", c.value("X"), c.value("Vec"))


@rule(rules, "dot")
def _dot(b: Builder, c: Call) -> Any:
    product = b.op("Mul", c.value("X"), c.value("Y"))
    return b.op("ReduceSum", product, [-1], keepdims=0)


@rule(rules, "addmm")
def _addmm(b: Builder, c: Call) -> Any:
    alpha, beta = c.number("Alpha", 1.0), c.number("Beta", 1.0)
    return b.op("Gemm", c.value("X"), c.value("Y"), c.value("Input"), alpha=alpha, beta=beta)


def _matrix(b: Builder, x: ir.Value, num_rows: int) -> Any:
    """The first `num_rows` axes as rows, the others as columns."""
    flat = b.rank(x) == 2 and num_rows == 1
    return x if flat else b.op("Flatten", x, axis=num_rows)


def _leading(b: Builder, x: ir.Value, count: int, y: ir.Value, behind: list[int]) -> Any:
    """`y` in rows, with the first `count` axes of `x` in place of the rows, and `behind` for the columns."""
    if count == 1 and len(behind) == 1:
        return y
    rows = b.op("Shape", x, start=0, end=count)
    return b.op("Reshape", y, b.op("Concat", rows, behind, axis=0))


@rule(rules, "mul")
def _mul(b: Builder, c: Call) -> Any:
    """A product of matrices after each operand is flattened to one."""
    x, y = c.value("X"), c.value("Y")
    rows, inner = c.integer("x_num_col_dims", 1), c.integer("y_num_col_dims", 1)
    for name in ("scale_x", "scale_out"):
        c.need(name, 1.0)
    c.ignore("scale_y")
    behind = b.shape(y)[inner:]
    if not all(isinstance(dim, int) for dim in behind):
        raise UnsupportedError("a second operand whose columns are open")
    z = b.op("MatMul", _matrix(b, x, rows), _matrix(b, y, inner))
    return _leading(b, x, rows, z, [dim for dim in behind if isinstance(dim, int)])


@rule(rules, "fc")
def _fc(b: Builder, c: Call) -> Any:
    x, w, bias = c.value("Input"), c.value("W"), c.maybe("Bias")
    rows = c.integer("in_num_col_dims", 1)
    if c.flag("padding_weights"):
        raise UnsupportedError("padded weights")
    z = b.op("MatMul", _matrix(b, x, rows), w)
    if bias is not None:
        z = b.op("Add", z, b.reshape(bias, [-1]))
    columns = b.shape(w)[1]
    return activated(b, c, _leading(b, x, rows, z, [int(columns or 0)]))


@rule(rules, "einsum")
def _einsum(b: Builder, c: Call) -> Any:
    return b.op("Einsum", *c.all("Operands"), equation=c.text("equation", ""))
