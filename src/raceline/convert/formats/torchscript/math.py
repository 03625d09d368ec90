"""Element-wise operators: arithmetic, comparison, logic and functions of one or two tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import (
    BOOL,
    FLOAT,
    INT,
    as_float,
    axis,
    dtype_of,
    fixed,
    is_float,
    is_value,
    number,
    promoted,
    result_type,
    scalar,
)
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


def _numbers_only(*items: Any) -> bool:
    return not any(is_value(item) for item in items)


def _as_number(b: Builder, value: Any, kind: type) -> Any:
    """A rank-0 result as a number of the graph."""
    return scalar(b.reshape(value, [1]), kind)


def _kind(dtype: np.dtype[Any]) -> type:
    return float if is_float(dtype) else bool if dtype == BOOL else int


def _pair(b: Builder, left: Any, right: Any) -> tuple[Any, Any, np.dtype[Any]]:
    """Both operands in torch's type; numbers of the graph alone are int64 or float64."""
    if _numbers_only(left, right):
        dtype = result_type(b, left, right)
        dtype = np.dtype(np.float64) if is_float(dtype) else INT if dtype == BOOL else dtype
        return number(b, left, dtype), number(b, right, dtype), dtype
    x, y = promoted(b, left, right)
    return x, y, b.dtype(x)


def _finish(b: Builder, value: Any, *operands: Any, kind: type | None = None) -> Any:
    """The result as a number where all operands are numbers."""
    if _numbers_only(*operands):
        return _as_number(b, value, kind or _kind(b.dtype(value)))
    return value


@rules("aten::add", "aten::sub", "aten::rsub", "aten::subtract")
def add_or_subtract(b: Builder, node: Node, left: Any, right: Any, alpha: Any = 1) -> Any:
    """Sum or difference; the second operand times alpha."""
    if node.op.startswith("aten::rsub"):
        left, right = right, left
    x, y, dtype = _pair(b, left, right)
    if dtype == BOOL:
        if "sub" in node.op:
            raise UnsupportedError("a difference of truth values")
        return b.op("Or", x, y)
    if isinstance(alpha, Scalar) or alpha != 1:
        y = b.op("Mul", y, number(b, alpha, dtype))
    op = "Sub" if "sub" in node.op else "Add"
    return _finish(b, b.op(op, x, y), left, right)


@rules("aten::mul", "aten::multiply")
def multiply(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """Product."""
    x, y, dtype = _pair(b, left, right)
    return _finish(b, b.op("And" if dtype == BOOL else "Mul", x, y), left, right)


@rules("aten::div", "aten::divide", "aten::true_divide")
def divide(b: Builder, node: Node, left: Any, right: Any, rounding: Any = None) -> Any:
    """Quotient; of integers it is a float, unless it is rounded."""
    if rounding == "floor":
        return floor_divide(b, node, left, right)
    x, y, dtype = _pair(b, left, right)
    if rounding == "trunc":
        quotient = b.op("Div", x, y)
        return _finish(b, _truncated(b, quotient) if is_float(dtype) else quotient, left, right)
    if not is_float(dtype):
        wanted = np.float64 if _numbers_only(left, right) else FLOAT
        x, y = b.cast(x, wanted), b.cast(y, wanted)
    return _finish(b, b.op("Div", x, y), left, right)


@rules("aten::floor_divide", "aten::floordiv", "aten::__floordiv__")
def floor_divide(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """Quotient rounded down."""
    x, y, dtype = _pair(b, left, right)
    if is_float(dtype):
        return _finish(b, b.op("Floor", b.op("Div", x, y)), left, right)
    if isinstance(right, int) and right > 0 and _numbers_only(left):
        return _finish(b, b.op("Div", x, y), left, right)  # of a size: never negative
    return _finish(b, b.op("Div", b.op("Sub", x, b.op("Mod", x, y)), y), left, right)


@rules("aten::remainder")
def remainder(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """Rest of a division rounded down; it has the divisor's sign."""
    x, y, dtype = _pair(b, left, right)
    if is_float(dtype):
        rest = b.op("Sub", x, b.op("Mul", y, b.op("Floor", b.op("Div", x, y))))
        return _finish(b, rest, left, right)
    return _finish(b, b.op("Mod", x, y), left, right)


@rules("aten::fmod")
def fmod(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """Rest of a division rounded towards zero; it has the dividend's sign."""
    x, y, _ = _pair(b, left, right)
    return _finish(b, b.op("Mod", x, y, fmod=1), left, right)


@rules("aten::pow")
def power(b: Builder, node: Node, base: Any, exponent: Any) -> Any:
    """Power."""
    if is_value(base) and exponent == 2 and not is_value(exponent):
        return b.op("Mul", base, base)
    x, y, dtype = _pair(b, base, exponent)
    return _finish(b, b.op("Pow", x, y), base, exponent)


@rules("aten::maximum", "aten::minimum", "prim::max", "prim::min", "aten::fmax", "aten::fmin")
def extreme(b: Builder, node: Node, left: Any, right: Any = None) -> Any:
    """The larger or smaller of two, element by element."""
    if node.op.startswith("aten::f"):
        raise UnsupportedError("it skips NaN")
    if isinstance(left, list):
        if len(left) != 2 or right is not None:
            raise UnsupportedError("of a list with sizes that are only known at run time")
        left, right = left
    x, y, _ = _pair(b, left, right)
    return _finish(b, b.op("Max" if "max" in node.op else "Min", x, y), left, right)


_COMPARISONS = {
    "eq": "Equal", "lt": "Less", "gt": "Greater", "le": "LessOrEqual", "ge": "GreaterOrEqual",
    "less": "Less", "greater": "Greater", "less_equal": "LessOrEqual", "greater_equal": "GreaterOrEqual",
}  # fmt: skip


@rules(*(f"aten::{name}" for name in (*_COMPARISONS, "ne", "not_equal")))
def compare(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """A comparison."""
    name = node.op.removeprefix("aten::").rstrip("_")
    if isinstance(left, list) or isinstance(right, list):
        raise UnsupportedError("of lists with sizes that are only known at run time")
    if isinstance(left, Scalar) and isinstance(right, Scalar) and left.dim and left.dim == right.dim:
        return name in {"eq", "le", "ge", "less_equal", "greater_equal"}
    x, y, dtype = _pair(b, left, right)
    if name in {"ne", "not_equal"}:
        return _finish(b, b.op("Not", b.op("Equal", x, y)), left, right, kind=bool)
    if dtype == BOOL and name != "eq":
        x, y = b.cast(x, INT), b.cast(y, INT)
    return _finish(b, b.op(_COMPARISONS[name], x, y), left, right, kind=bool)


_LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}


@rules(*(f"aten::{name}" for name in _LOGIC))
def logic(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """Logic of truth values; other numbers are true where they are not zero."""
    return b.op(_LOGIC[node.op.removeprefix("aten::").rstrip("_")], truth(b, left), truth(b, right))


def truth(b: Builder, x: Any) -> Any:
    """A tensor as truth values."""
    return b.cast(x, BOOL) if is_value(x) else number(b, x, BOOL)


@rules("aten::logical_not", "aten::__not__")
def logical_not(b: Builder, node: Node, x: Any) -> Any:
    """Whether it is zero."""
    if isinstance(x, Scalar):
        return scalar(b.op("Not", b.cast(x.value, BOOL)), bool)
    return b.op("Not", truth(b, x))


_BITWISE = {"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"), "xor": ("Xor", "BitwiseXor")}


@rules(*(f"aten::bitwise_{name}" for name in _BITWISE), *(f"aten::__{name}__" for name in _BITWISE))
def bitwise(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """Logic bit by bit; of truth values, plain logic."""
    name = node.op.removeprefix("aten::").removeprefix("bitwise").strip("_i")
    if _numbers_only(left, right) and BOOL == result_type(b, left, right):
        x, y = number(b, left, BOOL), number(b, right, BOOL)
        return _as_number(b, b.op(_BITWISE[name][0], x, y), bool)
    x, y, dtype = _pair(b, left, right)
    return _finish(b, b.op(_BITWISE[name][0 if dtype == BOOL else 1], x, y), left, right)


@rules("aten::bitwise_not")
def bitwise_not(b: Builder, node: Node, x: Any) -> Any:
    """Every bit turned; of truth values, plain negation."""
    return b.op("Not" if b.dtype(x) == BOOL else "BitwiseNot", x)


_FLOAT_FUNCTIONS = {
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos", "tan": "Tan", "asin": "Asin",
    "acos": "Acos", "atan": "Atan", "sinh": "Sinh", "cosh": "Cosh", "tanh": "Tanh", "asinh": "Asinh",
    "acosh": "Acosh", "atanh": "Atanh", "erf": "Erf", "sigmoid": "Sigmoid", "reciprocal": "Reciprocal",
    "arcsin": "Asin", "arccos": "Acos", "arctan": "Atan", "special_expit": "Sigmoid", "special_erf": "Erf",
}  # fmt: skip
_SAME_FUNCTIONS = {
    "neg": "Neg",
    "negative": "Neg",
    "abs": "Abs",
    "absolute": "Abs",
    "sign": "Sign",
    "sgn": "Sign",
}
_ROUNDING = {"floor": "Floor", "ceil": "Ceil"}


@rules(*(f"aten::{name}" for name in _FLOAT_FUNCTIONS))
def function(b: Builder, node: Node, x: Any) -> Any:
    """A function of each element; of integers it gives floats."""
    op = _FLOAT_FUNCTIONS[node.op.removeprefix("aten::").rstrip("_")]
    if isinstance(x, Scalar):
        return _as_number(b, b.op(op, number(b, x, np.float64)), float)
    return b.op(op, as_float(b, x))


@rules(*(f"aten::{name}" for name in _SAME_FUNCTIONS), "prim::abs")
def same_type_function(b: Builder, node: Node, x: Any) -> Any:
    """A function that keeps the element type."""
    op = _SAME_FUNCTIONS[node.op.rpartition("::")[2].rstrip("_")]
    if isinstance(x, Scalar):
        return scalar(b.op(op, x.value), x.kind)
    return b.op(op, x)


@rules("aten::floor", "aten::ceil", "aten::round", "aten::trunc", "aten::fix")
def round_off(b: Builder, node: Node, x: Any, decimals: Any = 0) -> Any:
    """A rounding; integers stay as they are."""
    name = node.op.removeprefix("aten::").rstrip("_")
    value = number(b, x, np.float64) if isinstance(x, Scalar) else x
    if not is_float(b.dtype(value)):
        return x
    if decimals:
        return _to_decimals(b, value, decimals)
    if name in _ROUNDING:
        rounded = b.op(_ROUNDING[name], value)
    else:
        rounded = b.op("Round", value) if name == "round" else _truncated(b, value)
    return _as_number(b, b.cast(rounded, INT), int) if isinstance(x, Scalar) else rounded


def _to_decimals(b: Builder, x: Any, decimals: Any) -> Any:
    """Rounded to so many digits behind the point; before it, where there are fewer than none."""
    if isinstance(decimals, Scalar):
        raise UnsupportedError("rounding to a number of decimals that a run computes")
    unit = b.scalar(10.0 ** abs(decimals), x)
    there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
    return b.op(back, b.op("Round", b.op(there, x, unit)), unit)


def _truncated(b: Builder, x: Any) -> Any:
    return b.op("Mul", b.op("Sign", x), b.op("Floor", b.op("Abs", x)))


@rules("aten::frac")
def fraction(b: Builder, node: Node, x: Any) -> Any:
    """What is behind the point."""
    return b.op("Sub", x, _truncated(b, x))


def _composed(compute: Callable[[Builder, Any], Any]) -> Callable[..., Any]:
    def rule(b: Builder, node: Node, x: Any) -> Any:
        return compute(b, as_float(b, x))

    return rule


rules("aten::rsqrt")(_composed(lambda b, x: b.op("Reciprocal", b.op("Sqrt", x))))
rules("aten::square")(_composed(lambda b, x: b.op("Mul", x, x)))
rules("aten::log2")(_composed(lambda b, x: b.op("Mul", b.op("Log", x), b.scalar(1 / math.log(2), x))))
rules("aten::log10")(_composed(lambda b, x: b.op("Mul", b.op("Log", x), b.scalar(1 / math.log(10), x))))
rules("aten::exp2", "aten::special_exp2")(_composed(lambda b, x: b.op("Pow", b.scalar(2, x), x)))
rules("aten::erfc")(_composed(lambda b, x: b.op("Sub", b.scalar(1, x), b.op("Erf", x))))
rules("aten::deg2rad")(_composed(lambda b, x: b.op("Mul", x, b.scalar(math.pi / 180, x))))
rules("aten::rad2deg")(_composed(lambda b, x: b.op("Mul", x, b.scalar(180 / math.pi, x))))


@rules("aten::log1p", "aten::special_log1p")
def log1p(b: Builder, node: Node, x: Any) -> Any:
    """log(1 + x), exact near zero: x log(u) / (u - 1) with u = 1 + x (Kahan)."""
    x = as_float(b, x)
    u = b.op("Add", x, b.scalar(1, x))
    beyond = b.op("Sub", u, b.scalar(1, x))
    tiny = b.op("Equal", beyond, b.scalar(0, x))
    ratio = b.op("Div", x, b.op("Where", tiny, b.scalar(1, x), beyond))
    large = b.op("Equal", u, x)  # also infinity, whose ratio would be NaN
    near = b.op("Where", tiny, x, b.op("Mul", b.op("Log", u), ratio))
    return b.op("Where", large, b.op("Log", u), near)


@rules("aten::expm1", "aten::special_expm1")
def expm1(b: Builder, node: Node, x: Any) -> Any:
    """exp(x) - 1, exact near zero: 2 tanh(x/2) / (1 - tanh(x/2))."""
    x = as_float(b, x)
    half = b.op("Tanh", b.op("Mul", x, b.scalar(0.5, x)))
    near = b.op("Div", b.op("Mul", b.scalar(2, x), half), b.op("Sub", b.scalar(1, x), half))
    small = b.op("Less", b.op("Abs", x), b.scalar(0.5, x))
    return b.op("Where", small, near, b.op("Sub", b.op("Exp", x), b.scalar(1, x)))


@rules("aten::atan2", "aten::arctan2")
def atan2(b: Builder, node: Node, y: Any, x: Any) -> Any:
    """The angle of a point, in all four quadrants."""
    y, x = promoted(b, y, x)
    y, x = as_float(b, y), as_float(b, x)
    zero, pi = b.scalar(0, x), b.scalar(math.pi, x)
    on_axis = b.op("Equal", x, zero)
    angle = b.op("Atan", b.op("Div", y, b.op("Where", on_axis, b.scalar(1, x), x)))
    turn = b.op("Where", b.op("Less", y, zero), b.op("Neg", pi), pi)
    angle = b.op("Where", b.op("Less", x, zero), b.op("Add", angle, turn), angle)
    return b.op("Where", on_axis, b.op("Mul", b.op("Sign", y), b.scalar(math.pi / 2, x)), angle)


@rules("aten::logaddexp")
def logaddexp(b: Builder, node: Node, left: Any, right: Any) -> Any:
    """log(exp a + exp b) without overflow."""
    x, y = promoted(b, left, right)
    top, bottom = b.op("Max", x, y), b.op("Min", x, y)
    rest = b.op("Log", b.op("Add", b.scalar(1, x), b.op("Exp", b.op("Sub", bottom, top))))
    return b.op(
        "Where", b.op("Equal", x, y), b.op("Add", x, b.scalar(math.log(2), x)), b.op("Add", top, rest)
    )


@rules("aten::clamp", "aten::clip", "aten::clamp_min", "aten::clamp_max", "aten::hardtanh", "aten::relu6")
def clamp(b: Builder, node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    """Every element held between bounds, each of which may be left out."""
    name = node.op.removeprefix("aten::").rstrip("_")
    if name == "clamp_max":
        low, high = None, low
    elif name == "relu6":
        low, high = 0, 6
    elif name == "hardtanh":
        low, high = (-1.0 if low is None else low), (1.0 if high is None else high)
    given = [bound for bound in (low, high) if bound is not None]
    dtype = result_type(b, x, *given)
    x = b.cast(x, dtype)
    bounds = [None if bound is None else number(b, bound, dtype) for bound in (low, high)]
    if all(bound is None or b.rank(bound) == 0 for bound in bounds):
        return b.op("Clip", x, *bounds)
    if bounds[0] is not None:
        x = b.op("Max", x, bounds[0])
    return x if bounds[1] is None else b.op("Min", x, bounds[1])


@rules("aten::where")
def where(b: Builder, node: Node, condition: Any, left: Any = None, right: Any = None) -> Any:
    """One of two, by a condition."""
    if left is None:
        raise UnsupportedError("the places where something holds, as a tuple")
    x, y = promoted(b, left, right)
    return b.op("Where", truth(b, condition), x, y)


@rules("aten::masked_fill")
def masked_fill(b: Builder, node: Node, x: Any, mask: Any, value: Any) -> Any:
    """A value wherever a mask is true."""
    return b.op("Where", truth(b, mask), number(b, value, b.dtype(x)), x)


@rules("aten::lerp")
def lerp(b: Builder, node: Node, start: Any, end: Any, weight: Any) -> Any:
    """A point between two."""
    x, y = promoted(b, start, end)
    return b.op("Add", x, b.op("Mul", number(b, weight, b.dtype(x)), b.op("Sub", y, x)))


@rules("aten::addcmul", "aten::addcdiv")
def add_combined(b: Builder, node: Node, x: Any, left: Any, right: Any, value: Any = 1) -> Any:
    """X + value * (left * right), or / right."""
    x, left, right = promoted(b, x, left, right)
    term = b.op("Mul" if "mul" in node.op else "Div", left, right)
    if value != 1:
        term = b.op("Mul", term, number(b, value, b.dtype(x)))
    return b.op("Add", x, term)


@rules("aten::isnan")
def isnan(b: Builder, node: Node, x: Any) -> Any:
    """Whether it is no number."""
    return b.op("IsNaN", as_float(b, x))


@rules("aten::isinf")
def isinf(b: Builder, node: Node, x: Any) -> Any:
    """Whether it is infinite."""
    return b.op("IsInf", as_float(b, x))


@rules("aten::isfinite")
def isfinite(b: Builder, node: Node, x: Any) -> Any:
    """Whether it is a finite number."""
    x = as_float(b, x)
    return b.op("Not", b.op("Or", b.op("IsNaN", x), b.op("IsInf", x)))


@rules("aten::nan_to_num")
def nan_to_num(b: Builder, node: Node, x: Any, nan: Any = None, high: Any = None, low: Any = None) -> Any:
    """Finite numbers instead of NaN and infinities."""
    limits = np.finfo(b.dtype(x))
    high, low = limits.max if high is None else high, limits.min if low is None else low
    x = b.op("Where", b.op("IsNaN", x), b.scalar(nan or 0.0, x), x)
    x = b.op("Where", b.op("IsInf", x, detect_negative=0), b.scalar(high, x), x)
    return b.op("Where", b.op("IsInf", x, detect_positive=0), b.scalar(low, x), x)


@rules("aten::type_as")
def type_as(b: Builder, node: Node, x: Any, other: Any) -> Any:
    """In another tensor's element type."""
    return b.cast(x, b.dtype(other))


@rules("aten::to")
def to(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """In another element type; places and layouts mean nothing here."""
    if node.overload == "other":
        return b.cast(x, b.dtype(arguments[0]))
    places = {"dtype": 0, "device": 1, "dtype_layout": 0, "prim_dtype": 0, "prim_Device": 1}
    if node.overload not in places and node.overload != "prim_other":
        raise UnsupportedError(f"the form {node.overload!r}")
    if node.overload == "prim_other":
        return x
    code = fixed(arguments[places[node.overload]], "element type")
    return x if code is None else convert(b, x, code)


def convert(b: Builder, x: Any, code: int) -> Any:
    """A tensor in the element type of torch's number."""
    return b.cast(x, dtype_of(code))


@rules(
    "aten::_cast_Float", "aten::float", "aten::double", "aten::long", "aten::int", "aten::bool", "aten::half"
)
def cast_by_name(b: Builder, node: Node, x: Any, *_: Any) -> Any:
    """In the element type that the method names."""
    names = {"float": "float32", "_cast_Float": "float32", "double": "float64", "long": "int64", "int": "int32",
             "bool": "bool", "half": "float16"}  # fmt: skip
    return b.cast(x, np.dtype(names[node.op.removeprefix("aten::")]))


@rules("aten::cumsum")
def cumsum(b: Builder, node: Node, x: Any, dim: Any, dtype: Any = None) -> Any:
    """Running sums along an axis."""
    wanted = dtype_of(dtype, b.dtype(x) if is_float(b.dtype(x)) else INT)
    return b.op("CumSum", b.cast(x, wanted), np.array(axis(dim, b.rank(x)), np.int64))
