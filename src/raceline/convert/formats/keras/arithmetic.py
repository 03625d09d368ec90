"""What keras.ops and tf.math have in common: operands of mixed types, and operators by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.lower import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

_INT64_MAX = np.iinfo(np.int64).max
_INT64_MIN = np.iinfo(np.int64).min

UNARY = {
    "absolute": "Abs", "ceil": "Ceil", "cos": "Cos", "cosh": "Cosh", "erf": "Erf", "exp": "Exp", "floor": "Floor",
    "log": "Log", "negative": "Neg", "reciprocal": "Reciprocal", "round": "Round", "sign": "Sign", "sin": "Sin",
    "sinh": "Sinh", "sqrt": "Sqrt", "tan": "Tan", "tanh": "Tanh", "arccos": "Acos", "arccosh": "Acosh",
    "arcsin": "Asin", "arcsinh": "Asinh", "arctan": "Atan", "arctanh": "Atanh", "sigmoid": "Sigmoid",
    "softplus": "Softplus", "softsign": "Softsign",
}  # fmt: skip
"""Functions that are one operator of ONNX."""
_INTEGERS_TOO = frozenset({"absolute", "negative", "sign"})
_COMPARISONS = {
    "greater": "Greater", "greater_equal": "GreaterOrEqual", "less": "Less", "less_equal": "LessOrEqual",
    "equal": "Equal",
}  # fmt: skip
_LOGIC = {"logical_and": "And", "logical_or": "Or", "logical_xor": "Xor"}
_PLAIN = {"add": "Add", "subtract": "Sub", "multiply": "Mul", "maximum": "Max", "minimum": "Min"}
BINARY = frozenset({
    *_COMPARISONS, *_LOGIC, *_PLAIN, "not_equal", "divide", "true_divide", "power", "mod", "floor_divide",
    "squared_difference", "divide_no_nan", "logaddexp", "arctan2",
})  # fmt: skip
REDUCTIONS = {
    "mean": "ReduceMean", "sum": "ReduceSum", "max": "ReduceMax", "min": "ReduceMin", "prod": "ReduceProd",
    "logsumexp": "ReduceLogSumExp", "all": "ReduceMin", "any": "ReduceMax",
}  # fmt: skip


def is_value(x: Any) -> bool:
    """Whether an argument is a value of the graph."""
    import onnx_ir as ir

    return isinstance(x, ir.Value)


def tensor(b: Builder, x: Any, like: Any = None) -> ir.Value:
    """An argument as a value; plain numbers take the type of `like` as far as they fit."""
    if is_value(x):
        return x  # type: ignore[no-any-return]
    array = np.asarray(x)
    if array.dtype.kind not in "biuf":
        raise UnsupportedError(f"the operand {str(x)[:40]!r}")
    if isinstance(x, np.ndarray):
        return b.constant(array.astype(np.float32) if array.dtype == np.float64 else array)
    if (
        like is not None
        and (array.dtype.kind != "f" or b.dtype(like).kind == "f")
        and b.dtype(like).kind != "b"
    ):
        return b.constant(array.astype(b.dtype(like)))
    return b.constant(array.astype({"f": np.float32, "b": bool}.get(array.dtype.kind, np.int32)))


def together(b: Builder, *operands: Any) -> list[ir.Value]:
    """Operands as values of one type: float32 where any is a fraction, else the widest."""
    first = next((x for x in operands if is_value(x)), None)
    values = [tensor(b, x, first) for x in operands]
    kinds = [b.dtype(x) for x in values]
    if len(set(kinds)) == 1 and kinds[0] != np.float64:
        return values
    floats = any(dtype.kind == "f" or dtype.kind == "V" for dtype in kinds)
    common = np.dtype(np.float32) if floats else np.result_type(*kinds)
    return [b.cast(x, common) for x in values]


def fraction(b: Builder, x: Any) -> ir.Value:
    """An argument as float32."""
    return b.cast(tensor(b, x), np.float32)


def unary(b: Builder, name: str, x: Any) -> ir.Value:
    """A function of one operand."""
    value = tensor(b, x)
    if name not in _INTEGERS_TOO or b.dtype(value).kind not in "iu":
        value = b.cast(value, np.float32)
    return b.op(UNARY[name], value)  # type: ignore[no-any-return]


def binary(b: Builder, name: str, x: Any, y: Any) -> ir.Value:
    """A function of two operands, that are brought to one type first."""
    if name in _LOGIC:
        return b.op(_LOGIC[name], b.cast(tensor(b, x), bool), b.cast(tensor(b, y), bool))  # type: ignore[no-any-return]
    x, y = together(b, x, y)
    if name in _COMPARISONS:
        return b.op(_COMPARISONS[name], x, y)  # type: ignore[no-any-return]
    if name == "not_equal":
        return b.op("Not", b.op("Equal", x, y))  # type: ignore[no-any-return]
    if name in _PLAIN:
        if b.dtype(x).kind == "b":
            raise UnsupportedError("arithmetic on booleans")
        return b.op(_PLAIN[name], x, y)  # type: ignore[no-any-return]
    return _CALCULATED[name](b, x, y)  # type: ignore[no-any-return]


def _divide(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.op("Div", b.cast(x, np.float32), b.cast(y, np.float32))  # type: ignore[no-any-return]


def _mod(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    """The remainder that has the divisor's sign."""
    if b.dtype(x).kind in "iu":
        return b.op("Mod", x, y)  # type: ignore[no-any-return]
    return b.op("Sub", x, b.op("Mul", b.op("Floor", b.op("Div", x, y)), y))  # type: ignore[no-any-return]


def _floor_divide(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    if b.dtype(x).kind in "iu":
        return b.op("Div", b.op("Sub", x, b.op("Mod", x, y)), y)  # type: ignore[no-any-return]
    return b.op("Floor", b.op("Div", x, y))  # type: ignore[no-any-return]


def _squared_difference(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    d = b.op("Sub", x, y)
    return b.op("Mul", d, d)  # type: ignore[no-any-return]


def _divide_no_nan(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    x, y = b.cast(x, np.float32), b.cast(y, np.float32)
    nought = b.op("Equal", y, b.scalar(0, y))
    safe = b.op("Where", nought, b.scalar(1, y), y)
    return b.op("Where", nought, b.scalar(0, y), b.op("Div", x, safe))  # type: ignore[no-any-return]


def _logaddexp(b: Builder, x: ir.Value, y: ir.Value) -> ir.Value:
    far = b.op("Neg", b.op("Abs", b.op("Sub", x, y)))
    return b.op("Add", b.op("Max", x, y), b.op("Log", b.op("Add", b.op("Exp", far), b.scalar(1, x))))  # type: ignore[no-any-return]


def _arctan2(b: Builder, y: ir.Value, x: ir.Value) -> ir.Value:
    raise UnsupportedError("an angle of two operands")


_CALCULATED: dict[str, Callable[[Builder, Any, Any], Any]] = {
    "divide": _divide,
    "true_divide": _divide,
    "power": lambda b, x, y: b.op("Pow", x, y),
    "mod": _mod,
    "floor_divide": _floor_divide,
    "squared_difference": _squared_difference,
    "divide_no_nan": _divide_no_nan,
    "logaddexp": _logaddexp,
    "arctan2": _arctan2,
}


def axes_of(b: Builder, x: ir.Value, axis: Any) -> list[int]:
    """Axes as a list, counted from the front; None means all."""
    rank = b.rank(x)
    if axis is None:
        return list(range(rank))
    found = [int(a) for a in (axis if isinstance(axis, list | tuple) else [axis])]
    if any(not -rank <= a < rank for a in found):
        raise UnsupportedError(f"axis {axis} of {rank}")
    return sorted({a % rank for a in found})


def reduced(b: Builder, name: str, x: Any, axis: Any, keepdims: Any) -> ir.Value:
    """A value of all elements along some axes."""
    value = tensor(b, x)
    axes, keep = axes_of(b, value, axis), int(bool(keepdims))
    if name in {"mean", "logsumexp"}:
        value = b.cast(value, np.float32)
    if name in {"all", "any"}:
        value = b.cast(b.cast(value, bool), np.int32)
        return b.cast(b.op(REDUCTIONS[name], value, axes, keepdims=keep), bool)
    if b.dtype(value).kind == "b":
        value = b.cast(value, np.int32)
    return b.op(REDUCTIONS[name], value, axes, keepdims=keep)  # type: ignore[no-any-return]


def variance(b: Builder, x: Any, axis: Any, keepdims: Any) -> ir.Value:
    """Mean of the squared distance from the mean."""
    value = fraction(b, x)
    axes = axes_of(b, value, axis)
    moved = b.op("Sub", value, b.op("ReduceMean", value, axes, keepdims=1))
    return b.op("ReduceMean", b.op("Mul", moved, moved), axes, keepdims=int(bool(keepdims)))  # type: ignore[no-any-return]


def matmul(b: Builder, x: Any, y: Any, *, turn_x: bool = False, turn_y: bool = False) -> ir.Value:
    """A product of matrices."""
    x, y = together(b, x, y)
    x, y = (_turned(b, v) if turn else v for v, turn in ((x, turn_x), (y, turn_y)))
    return b.op("MatMul", x, y)  # type: ignore[no-any-return]


def _turned(b: Builder, x: ir.Value) -> ir.Value:
    rank = b.rank(x)
    return b.transpose(x, [*range(rank - 2), rank - 1, rank - 2])


def shaped(b: Builder, x: Any, shape: Any) -> ir.Value:
    """In another shape: numbers, at most one of them -1, or values of the graph."""
    value = tensor(b, x)
    if is_value(shape):
        return b.op("Reshape", value, b.cast(shape, np.int64), allowzero=None)  # type: ignore[no-any-return]
    items = list(shape) if isinstance(shape, list | tuple | np.ndarray) else [shape]
    if any(item is None for item in items):
        if items[0] is None and all(item is not None for item in items[1:]):
            items[0] = -1
        else:
            raise UnsupportedError(f"the shape {items}")
    if all(not is_value(item) for item in items):
        if 0 in [int(item) for item in items]:
            raise UnsupportedError(f"the shape {items}")
        return b.op("Reshape", value, _keeping_first(b, value, [int(item) for item in items]))  # type: ignore[no-any-return]
    return b.op("Reshape", value, sizes(b, items))  # type: ignore[no-any-return]


def _keeping_first(b: Builder, x: ir.Value, shape: list[int]) -> list[int]:
    """The same shape with 0, "as before", for a first axis that stays: so its name stays too."""
    before = b.shape(x)[1:]
    if not shape or shape[0] != -1 or not b.rank(x) or not all(isinstance(size, int) for size in before):
        return shape
    same = math.prod(int(str(size)) for size in before) == math.prod(shape[1:])
    return [0, *shape[1:]] if same else shape


def sizes(b: Builder, items: Sequence[Any]) -> ir.Value:
    """Sizes, some of which the graph computes, as one tensor."""
    parts = [
        b.reshape(b.cast(item, np.int64), [1])
        if is_value(item)
        else b.constant(np.array([int(item)], np.int64))
        for item in items
    ]
    return parts[0] if len(parts) == 1 else b.op("Concat", *parts, axis=0)


def item_of(b: Builder, x: ir.Value, key: Any) -> ir.Value:
    """x[key] for slices, whole numbers, new axes and "...".

    Raises:
        UnsupportedError: the key holds arrays, or could mean two things.
    """
    keys = list(key) if isinstance(key, list | tuple) else [key]
    if isinstance(key, list) and len(key) > 1 and all(isinstance(k, int) for k in key):
        raise UnsupportedError(
            "an index of several numbers: the file does not say whether one axis or several"
        )
    real = sum(k is not None and k is not Ellipsis for k in keys)
    if keys.count(Ellipsis) > 1 or real > b.rank(x):
        raise UnsupportedError(f"an index of {real} axes")
    if Ellipsis in [k for k in keys if not is_value(k)]:
        place = next(i for i, k in enumerate(keys) if k is Ellipsis)
        keys[place : place + 1] = [slice(None)] * (b.rank(x) - real)
    return _cut(b, x, keys)


def _cut(b: Builder, x: ir.Value, keys: Sequence[Any]) -> ir.Value:
    starts, ends, axes, steps, dropped, added = [], [], [], [], [], []
    axis = place = 0
    for key in keys:
        if key is None:
            added.append(place)
            place += 1
            continue
        low, high, step, single = _bounds(key)
        if (low, high, step) != (0, _INT64_MAX, 1):
            starts.append(low)
            ends.append(high)
            steps.append(step)
            axes.append(axis)
        if single:
            dropped.append(axis)
        else:
            place += 1
        axis += 1
    if axes:
        x = b.op("Slice", x, starts, ends, axes, steps)
    if dropped:
        x = b.op("Squeeze", x, dropped)
    return b.op("Unsqueeze", x, added) if added else x


def _bounds(key: Any) -> tuple[int, int, int, bool]:
    """Start, end and step of a key for one axis, and whether it takes the axis away."""
    if isinstance(key, bool) or is_value(key) or not isinstance(key, int | np.integer | slice):
        raise UnsupportedError(f"an index of {type(key).__name__}")
    if not isinstance(key, slice):
        number = int(key)
        return number, number + 1 if number != -1 else _INT64_MAX, 1, True
    parts = (key.start, key.stop, key.step)
    if any(part is not None and not isinstance(part, int) for part in parts):
        raise UnsupportedError("a slice whose ends the graph computes")
    step = 1 if key.step is None else int(key.step)
    if step == 0:
        raise UnsupportedError("a slice of step 0")
    low = key.start if key.start is not None else (0 if step > 0 else _INT64_MAX)
    high = key.stop if key.stop is not None else (_INT64_MAX if step > 0 else _INT64_MIN + 1)
    return int(low), int(high), step, False
