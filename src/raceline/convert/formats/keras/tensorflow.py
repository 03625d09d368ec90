"""TensorFlow functions inside tf.keras models: TFOpLambda and SlicingOpLambda."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras import arithmetic as a
from raceline.convert.formats.keras.activations import activate
from raceline.convert.formats.keras.layers import UNKNOWN, Call
from raceline.convert.formats.keras.operations import plain_type
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    pass

rules = Rules()
Function = Callable[..., Any]
_function = Rules()
"""TensorFlow's functions by their names."""
_SILENT = frozenset({"name"})

_UNARY = {
    "abs": "absolute", "ceil": "ceil", "cos": "cos", "cosh": "cosh", "erf": "erf", "exp": "exp", "floor": "floor",
    "log": "log", "negative": "negative", "reciprocal": "reciprocal", "sign": "sign", "sin": "sin", "sinh": "sinh",
    "sqrt": "sqrt", "tan": "tan", "tanh": "tanh", "atan": "arctan", "asin": "arcsin", "acos": "arccos",
    "sigmoid": "sigmoid", "softplus": "softplus", "softsign": "softsign", "round": "round",
}  # fmt: skip
_BINARY = {
    "add": "add", "subtract": "subtract", "multiply": "multiply", "truediv": "divide", "divide": "divide",
    "maximum": "maximum", "minimum": "minimum", "pow": "power", "floormod": "mod", "mod": "mod",
    "floordiv": "floor_divide", "floor_div": "floor_divide",
    "greater": "greater", "greater_equal": "greater_equal", "less": "less",
    "less_equal": "less_equal", "equal": "equal", "not_equal": "not_equal", "logical_and": "logical_and",
    "logical_or": "logical_or", "squared_difference": "squared_difference", "divide_no_nan": "divide_no_nan",
}  # fmt: skip
_ACTIVATIONS = ("relu", "relu6", "elu", "selu", "silu", "swish", "leaky_relu")


def _plain(symbol: str) -> str:
    """reduce_mean for math.reduce_mean and the like; operators of Python by their names."""
    last = symbol.rpartition(".")[2]
    return last.strip("_") if symbol.startswith("__operators__") or "." in symbol else last


@rules("TFOpLambda", "SlicingOpLambda")
def tf_function(b: Builder, call: Call, /, *args: Any, **kwargs: Any) -> Any:
    """A function by its public name."""
    symbol = str(call["function"])
    if symbol.startswith("keras."):
        raise UnsupportedError(f"the function tf.{symbol}")
    name = _plain(symbol)
    call.result_masks = [UNKNOWN if any(mask is not None for mask in call.masks) else None] * 64
    settings = {key: value for key, value in kwargs.items() if key not in _SILENT and value is not None}
    if settings.get("conjugate") is False:
        settings.pop("conjugate")
    if name in _UNARY:
        return a.unary(b, _UNARY[name], *_only(args, settings, "x"))
    if name in _BINARY:
        return a.binary(b, _BINARY[name], *_only(args, settings, "x", "y"))
    if name not in _function.table:
        raise UnsupportedError(f"the function tf.{symbol}")
    try:
        return _function.table[name](b, *args, **settings)
    except TypeError as error:
        raise UnsupportedError(f"tf.{symbol} with {', '.join(sorted(settings))}: {error}") from error


def _only(args: tuple[Any, ...], settings: Mapping[str, Any], *names: str) -> list[Any]:
    """Exactly these arguments, by place or by name."""
    given = [*args, *(settings[name] for name in names[len(args) :] if name in settings)]
    extra = set(settings) - set(names)
    if len(given) != len(names) or extra:
        raise UnsupportedError(f"arguments {sorted(settings)}")
    return given


for _name in _ACTIVATIONS:

    def _activation(
        b: Builder, features: Any, alpha: float = 0.2, *, _kind: str = _name, beta: float = 1.0
    ) -> Any:
        settings = {"negative_slope": alpha} if _kind == "leaky_relu" else {}
        if beta != 1.0:
            raise UnsupportedError(f"beta={beta}")
        return activate(b, a.fraction(b, features), _kind, major=2, settings=settings)

    _function(_name)(_activation)


@_function("gelu")
def _gelu(b: Builder, features: Any, approximate: bool = False) -> Any:
    return activate(b, a.fraction(b, features), "gelu", major=2, settings={"approximate": approximate})


@_function("softmax")
def _softmax(b: Builder, logits: Any, axis: int = -1) -> Any:
    return b.op("Softmax", a.fraction(b, logits), axis=axis)


@_function("square")
def _square(b: Builder, x: Any) -> Any:
    return b.op("Mul", x, x)


@_function("rsqrt")
def _rsqrt(b: Builder, x: Any) -> Any:
    return b.op("Reciprocal", b.op("Sqrt", a.fraction(b, x)))


@_function("logical_not")
def _logical_not(b: Builder, x: Any) -> Any:
    return b.op("Not", x)


for _name in ("mean", "sum", "max", "min", "prod", "all", "any", "logsumexp"):

    def _reduce(
        b: Builder, input_tensor: Any, axis: Any = None, keepdims: bool = False, *, _kind: str = _name
    ) -> Any:
        return a.reduced(b, _kind, input_tensor, axis, keepdims)

    _function(f"reduce_{_name}")(_reduce)


@_function("matmul")
def _matmul(builder: Builder, left: Any, /, **settings: Any) -> Any:
    right = settings.pop("b")
    turns = [bool(settings.pop(f"transpose_{side}", False)) for side in ("a", "b")]
    if any(settings.values()):
        raise UnsupportedError(f"arguments {sorted(settings)}")
    return a.matmul(builder, left, right, turn_x=turns[0], turn_y=turns[1])


@_function("reshape")
def _reshape(b: Builder, tensor: Any, shape: Any) -> Any:
    return a.shaped(b, tensor, shape)


@_function("transpose")
def _transpose(b: Builder, a_: Any, perm: Any = None) -> Any:
    rank = b.rank(a_)
    return b.transpose(a_, list(range(rank))[::-1] if perm is None else [int(p) for p in perm])


@_function("concat")
def _concat(b: Builder, values: Any, axis: int) -> Any:
    return b.op("Concat", *a.together(b, *values), axis=axis)


@_function("stack")
def _stack(b: Builder, values: Any, axis: int = 0) -> Any:
    return b.op("Concat", *(b.op("Unsqueeze", v, [axis]) for v in a.together(b, *values)), axis=axis)


@_function("unstack")
def _unstack(b: Builder, value: Any, num: Any = None, axis: int = 0) -> Any:
    size = b.shape(value)[axis]
    if not isinstance(size, int):
        raise UnsupportedError("an open number of parts")
    return [b.op("Gather", value, np.array(i, np.int64), axis=axis) for i in range(size)]


@_function("split")
def _split(b: Builder, value: Any, num_or_size_splits: Any, axis: int = 0) -> Any:
    if isinstance(num_or_size_splits, int):
        count = num_or_size_splits
        size = b.shape(value)[axis]
        if not isinstance(size, int) or size % count:
            raise UnsupportedError(f"{count} parts of {size}")
        return (
            list(b.op("Split", value, outputs=count, axis=axis, num_outputs=count)) if count > 1 else [value]
        )
    sizes = [int(n) for n in num_or_size_splits]
    if any(n < 0 for n in sizes):
        raise UnsupportedError(f"parts of sizes {sizes}")
    return list(b.op("Split", value, sizes, outputs=len(sizes), axis=axis)) if len(sizes) > 1 else [value]


@_function("expand_dims")
def _expand_dims(b: Builder, input: Any, axis: int) -> Any:  # noqa: A002
    return b.op("Unsqueeze", input, [axis])


@_function("squeeze")
def _squeeze(b: Builder, input: Any, axis: Any = None) -> Any:  # noqa: A002
    if axis is None or axis == []:
        raise UnsupportedError("all axes of size 1")
    return b.op("Squeeze", input, a.axes_of(b, input, axis))


@_function("cast")
def _cast(b: Builder, x: Any, dtype: Any) -> Any:
    return b.cast(a.tensor(b, x), plain_type(dtype))


@_function("identity", "stop_gradient", "convert_to_tensor")
def _identity(b: Builder, input: Any = None, value: Any = None, dtype: Any = None) -> Any:  # noqa: A002
    return a.tensor(b, input if input is not None else value)


@_function("shape")
def _shape(b: Builder, input: Any, out_type: Any = "int32") -> Any:  # noqa: A002
    return b.cast(b.op("Shape", input), plain_type(out_type))


@_function("tile")
def _tile(b: Builder, input: Any, multiples: Any) -> Any:  # noqa: A002
    counts = multiples if a.is_value(multiples) else a.sizes(b, multiples)
    return b.op("Tile", input, b.cast(counts, np.int64))


@_function("gather")
def _gather(b: Builder, params: Any, indices: Any, axis: Any = None, batch_dims: int = 0) -> Any:
    if batch_dims:
        raise UnsupportedError(f"batch_dims={batch_dims}")
    return b.op("Gather", a.tensor(b, params), b.cast(a.tensor(b, indices), np.int64), axis=int(axis or 0))


@_function("where")
def _where(b: Builder, condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None or y is None:
        raise UnsupportedError("a condition alone")
    one, two = a.together(b, x, y)
    return b.op("Where", condition, one, two)


@_function("clip_by_value")
def _clip(b: Builder, t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    low, high = (a.tensor(b, v, t) for v in (clip_value_min, clip_value_max))
    return b.op("Min", b.op("Max", t, low), high)


@_function("l2_normalize")
def _l2_normalize(b: Builder, x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    square = a.reduced(b, "sum", b.op("Mul", x, x), axis, True)
    return b.op("Div", x, b.op("Sqrt", b.op("Max", square, b.scalar(epsilon, x))))


@_function("broadcast_to")
def _broadcast_to(b: Builder, input: Any, shape: Any) -> Any:  # noqa: A002
    sizes = shape if a.is_value(shape) else a.sizes(b, shape)
    return b.op("Expand", input, b.cast(sizes, np.int64))


@_function("argmax")
def _argmax(b: Builder, input: Any, axis: Any = None, output_type: Any = "int64") -> Any:  # noqa: A002
    return b.cast(b.op("ArgMax", input, axis=int(axis or 0), keepdims=0), plain_type(output_type))


@_function("one_hot")
def _one_hot(
    b: Builder, indices: Any, depth: int, on_value: Any = 1, off_value: Any = 0, axis: int = -1
) -> Any:
    if (on_value, off_value, axis) != (1, 0, -1):
        raise UnsupportedError("values other than 1 and 0, or another axis than the last")
    value = b.op("Unsqueeze", b.cast(indices, np.int64), [-1])
    return b.cast(b.op("Equal", value, np.arange(int(depth), dtype=np.int64)), np.float32)


@_function("bias_add")
def _bias_add(b: Builder, value: Any, bias: Any, data_format: Any = None) -> Any:
    if data_format not in {None, "NHWC"}:
        raise UnsupportedError(f"data_format={data_format!r}")
    return b.op("Add", value, a.tensor(b, bias, value))


@_function("getitem")
def _getitem(b: Builder, tensor: Any, slice_spec: Any) -> Any:
    keys = slice_spec if isinstance(slice_spec, list | tuple) else [slice_spec]
    return a.item_of(b, tensor, tuple(_key(key) for key in keys))


def _key(key: Any) -> Any:
    """A slice is written as a dictionary of its ends, "..." as a string."""
    if isinstance(key, dict) and {"start", "stop", "step"} >= set(key):
        return slice(key.get("start"), key.get("stop"), key.get("step"))
    if isinstance(key, dict) and key.get("value") == "Ellipsis" or key == "Ellipsis":
        return Ellipsis
    return key
