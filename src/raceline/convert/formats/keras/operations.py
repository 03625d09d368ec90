"""keras.ops as nodes of a model: what Keras 3 makes of arithmetic between tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras import arithmetic as a
from raceline.convert.formats.keras.activations import activate
from raceline.convert.formats.keras.layers import Call, flat
from raceline.convert.formats.keras.names import snake_case
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_UNARY = (
    "Absolute Ceil Cos Cosh Erf Exp Floor Log Negative Reciprocal Sign Sin Sinh Sqrt Tan Tanh Arccos Arccosh "
    "Arcsin Arcsinh Arctan Arctanh"
).split()
_BINARY = (
    "Add Subtract Multiply Divide TrueDivide Power Mod FloorDivide Maximum Minimum Greater GreaterEqual Less "
    "LessEqual Equal NotEqual LogicalAnd LogicalOr LogicalXor DivideNoNan Logaddexp"
).split()
_ACTIVATIONS = (
    "Relu Relu6 Sigmoid Softplus Softsign SoftShrink SparsePlus SparseSigmoid Silu Squareplus LogSigmoid LeakyRelu "
    "HardSigmoid HardSilu Elu Selu Gelu Celu Glu TanhShrink HardTanh HardShrink Softmax LogSoftmax"
).split()


def _ops(*names: str) -> list[str]:
    return [f"ops.{name}" for name in names]


def _name(call: Call) -> str:
    return snake_case(call.layer.kind.removeprefix("ops."))


@rules(*_ops(*_UNARY))
def unary(b: Builder, call: Call, x: Any) -> ir.Value:
    """A function of one operand."""
    return a.unary(b, _name(call), x)


@rules(*_ops(*_BINARY))
def binary(b: Builder, call: Call, x1: Any, x2: Any) -> ir.Value:
    """A function of two operands."""
    return a.binary(b, _name(call), x1, x2)


@rules(*_ops(*_ACTIVATIONS))
def activation(b: Builder, call: Call, x: Any) -> ir.Value:
    """An activation."""
    known = {"negative_slope", "alpha", "approximate", "threshold", "axis", "b"}
    settings = {key: value for key, value in call.layer.config.items() if key in known}
    if call.layer.kind == "ops.Gelu":
        settings.setdefault("approximate", True)
    settings = {"b": settings["b"]} if "b" in settings else settings
    if "b" in settings:
        return activate_squareplus(b, a.fraction(b, x), float(settings["b"]))
    return activate(b, a.fraction(b, x), _name(call), major=3, settings=settings)


def activate_squareplus(b: Builder, x: ir.Value, number: float) -> ir.Value:
    """(x + sqrt(x^2 + number)) / 2."""
    root = b.op("Sqrt", b.op("Add", b.op("Mul", x, x), b.scalar(number, x)))
    return b.op("Mul", b.op("Add", x, root), b.scalar(0.5, x))  # type: ignore[no-any-return]


@rules(*_ops("Mean", "Sum", "Max", "Min", "Prod", "All", "Any", "Amax", "Amin", "Logsumexp"))
def reduction(b: Builder, call: Call, x: Any) -> ir.Value:
    """One value of all elements along some axes."""
    if call.get("initial") is not None:
        raise UnsupportedError(f"initial={call['initial']}")
    name = {"amax": "max", "amin": "min"}.get(_name(call), _name(call))
    return a.reduced(b, name, x, call.get("axis"), call.get("keepdims", False))


@rules(*_ops("Var", "Std"))
def spread(b: Builder, call: Call, x: Any) -> ir.Value:
    """Variance, or its root."""
    y = a.variance(b, x, call.get("axis"), call.get("keepdims", False))
    return y if call.layer.kind == "ops.Var" else b.op("Sqrt", y)


@rules("ops.Moments")
def moments(b: Builder, call: Call, x: Any) -> list[ir.Value]:
    """Mean and variance."""
    keep = call.get("keepdims", False)
    return [a.reduced(b, "mean", x, call["axes"], keep), a.variance(b, x, call["axes"], keep)]


@rules(*_ops("Argmax", "Argmin"))
def arg_extreme(b: Builder, call: Call, x: Any) -> ir.Value:
    """Where the first largest or smallest element stands."""
    value = a.tensor(b, x)
    axis = call.get("axis")
    if axis is None:
        if call.get("keepdims"):
            raise UnsupportedError("keepdims over all axes")
        value, axis = b.reshape(value, [-1]), 0
    op = "ArgMax" if call.layer.kind == "ops.Argmax" else "ArgMin"
    return b.cast(b.op(op, value, axis=int(axis), keepdims=int(bool(call.get("keepdims", False)))), np.int32)


@rules(
    *_ops(
        "Square",
        "Rsqrt",
        "Expm1",
        "Log1p",
        "Log2",
        "Log10",
        "Exp2",
        "LogicalNot",
        "Isnan",
        "Isinf",
        "Isfinite",
    )
)
def composed(b: Builder, call: Call, x: Any) -> ir.Value:
    """Functions of one operand that ONNX has no single operator for."""
    name, value = _name(call), a.tensor(b, x)
    if name == "square":
        return b.op("Mul", value, value)  # type: ignore[no-any-return]
    if name == "logical_not":
        return b.op("Not", b.cast(value, bool))  # type: ignore[no-any-return]
    value = b.cast(value, np.float32)
    one = b.scalar(1, value)
    if name == "isfinite":
        return b.op("Not", b.op("Or", b.op("IsNaN", value), b.op("IsInf", value)))  # type: ignore[no-any-return]
    if name in {"isnan", "isinf"}:
        return b.op({"isnan": "IsNaN", "isinf": "IsInf"}[name], value)  # type: ignore[no-any-return]
    if name == "rsqrt":
        return b.op("Div", one, b.op("Sqrt", value))  # type: ignore[no-any-return]
    if name == "expm1":
        return b.op("Sub", b.op("Exp", value), one)  # type: ignore[no-any-return]
    if name == "exp2":
        return b.op("Exp", b.op("Mul", value, b.scalar(float(np.log(2)), value)))  # type: ignore[no-any-return]
    if name == "log1p":
        return b.op("Log", b.op("Add", value, one))  # type: ignore[no-any-return]
    base = {"log2": 2.0, "log10": 10.0}[name]
    return b.op("Mul", b.op("Log", value), b.scalar(float(1 / np.log(base)), value))  # type: ignore[no-any-return]


@rules("ops.Round")
def rounded(b: Builder, call: Call, x: Any) -> ir.Value:
    """To the nearest whole number, halves to even ones."""
    if call.get("decimals", 0):
        raise UnsupportedError(f"decimals={call['decimals']}")
    return b.op("Round", a.fraction(b, x))  # type: ignore[no-any-return]


@rules("ops.Clip")
def clip(b: Builder, call: Call, x: Any) -> ir.Value:
    """Between two numbers."""
    value = a.tensor(b, x)
    low, high = (np.asarray(call[name]) for name in ("x_min", "x_max"))
    if low.ndim or high.ndim or low.dtype.kind not in "iuf" or high.dtype.kind not in "iuf":
        raise UnsupportedError("bounds that are no plain numbers")
    return b.op("Clip", value, low.astype(b.dtype(value)), high.astype(b.dtype(value)))  # type: ignore[no-any-return]


@rules("ops.Matmul")
def matmul(b: Builder, call: Call, x1: Any, x2: Any) -> ir.Value:
    """A product of matrices."""
    return a.matmul(b, x1, x2)


@rules("ops.Einsum")
def einsum(b: Builder, call: Call, *operands: Any) -> ir.Value:
    """A sum of products by its letters."""
    return b.op("Einsum", *a.together(b, *flat(list(operands))), equation=str(call["subscripts"]))  # type: ignore[no-any-return]


@rules("ops.Transpose")
def transpose(b: Builder, call: Call, x: Any) -> ir.Value:
    """Another order of axes; the other way round by default."""
    value = a.tensor(b, x)
    rank = b.rank(value)
    axes = call.get("axes")
    return b.transpose(value, [int(i) % rank for i in axes] if axes is not None else list(range(rank))[::-1])


@rules("ops.Swapaxes")
def swapaxes(b: Builder, call: Call, x: Any) -> ir.Value:
    """Two axes in each other's place."""
    value = a.tensor(b, x)
    order = list(range(b.rank(value)))
    one, two = int(call["axis1"]), int(call["axis2"])
    order[one], order[two] = order[two], order[one]
    return b.transpose(value, order)


@rules("ops.Moveaxis")
def moveaxis(b: Builder, call: Call, x: Any) -> ir.Value:
    """Some axes in other places, the rest in order."""
    value = a.tensor(b, x)
    rank = b.rank(value)
    source, target = (
        [int(i) % rank for i in (v if isinstance(v, list | tuple) else [v])]
        for v in (call["source"], call["destination"])
    )
    order = [i for i in range(rank) if i not in source]
    for place, axis in sorted(zip(target, source, strict=True)):
        order.insert(place, axis)
    return b.transpose(value, order)


@rules("ops.Reshape")
def reshape(b: Builder, call: Call, x: Any) -> ir.Value:
    """In another shape."""
    return a.shaped(b, x, call["newshape"])


@rules("ops.Ravel")
def ravel(b: Builder, call: Call, x: Any) -> ir.Value:
    """In one axis."""
    return b.reshape(a.tensor(b, x), [-1])


@rules("ops.Squeeze")
def squeeze(b: Builder, call: Call, x: Any) -> ir.Value:
    """Without axes of size 1."""
    value = a.tensor(b, x)
    if call.get("axis") is not None:
        return b.op("Squeeze", value, a.axes_of(b, value, call["axis"]))  # type: ignore[no-any-return]
    shape = b.shape(value)
    if not all(isinstance(size, int) for size in shape[1:]):
        raise UnsupportedError("all axes of size 1, where sizes are open")
    ones = [i for i, size in enumerate(shape) if size == 1]
    return b.op("Squeeze", value, ones) if ones else value


@rules("ops.ExpandDims")
def expand_dims(b: Builder, call: Call, x: Any) -> ir.Value:
    """With new axes of size 1."""
    axis = call["axis"]
    return b.op("Unsqueeze", a.tensor(b, x), list(axis) if isinstance(axis, list | tuple) else [int(axis)])  # type: ignore[no-any-return]


@rules("ops.Concatenate")
def concatenate(b: Builder, call: Call, xs: Any) -> ir.Value:
    """One after another."""
    return b.op("Concat", *a.together(b, *xs), axis=int(call.get("axis", 0)))  # type: ignore[no-any-return]


@rules("ops.Stack")
def stack(b: Builder, call: Call, xs: Any) -> ir.Value:
    """Along a new axis."""
    axis = int(call.get("axis", 0))
    return b.op("Concat", *(b.op("Unsqueeze", x, [axis]) for x in a.together(b, *xs)), axis=axis)  # type: ignore[no-any-return]


@rules("ops.Split")
def split(b: Builder, call: Call, x: Any) -> list[ir.Value]:
    """Into equal parts, or at given places."""
    value = a.tensor(b, x)
    axis, parts = int(call.get("axis", 0)), call["indices_or_sections"]
    if isinstance(parts, int):
        size = b.shape(value)[axis]
        if not isinstance(size, int) or parts < 1 or size % parts:
            raise UnsupportedError(f"{parts} parts of {size}")
        return (
            list(b.op("Split", value, outputs=parts, axis=axis, num_outputs=parts)) if parts > 1 else [value]
        )
    edges = [0, *(int(edge) for edge in parts), np.iinfo(np.int64).max]
    return [b.op("Slice", value, [low], [high], [axis]) for low, high in zip(edges, edges[1:], strict=False)]


@rules("ops.Unstack")
def unstack(b: Builder, call: Call, x: Any) -> list[ir.Value]:
    """The parts along one axis, without it."""
    value, axis = a.tensor(b, x), int(call.get("axis", 0))
    size = b.shape(value)[axis]
    if not isinstance(size, int):
        raise UnsupportedError("an open number of parts")
    return [b.op("Gather", value, np.array(i, np.int64), axis=axis) for i in range(size)]


@rules("ops.GetItem")
def get_item(b: Builder, call: Call, x: Any, key: Any) -> ir.Value:
    """x[key]."""
    return a.item_of(b, a.tensor(b, x), key)


@rules("ops.Take")
def take(b: Builder, call: Call, x: Any, indices: Any) -> ir.Value:
    """Parts along one axis by their numbers, from the back where negative."""
    value, axis = a.tensor(b, x), call.get("axis")
    if axis is None:
        value, axis = b.reshape(value, [-1]), 0
    index = a.tensor(b, indices)
    return b.op("Gather", value, b.cast(index, np.int64), axis=int(axis))  # type: ignore[no-any-return]


@rules("ops.TakeAlongAxis")
def take_along_axis(b: Builder, call: Call, x: Any, indices: Any) -> ir.Value:
    """Elements along one axis by their numbers."""
    if call.get("axis") is None:
        raise UnsupportedError("axis=None")
    index = b.cast(a.tensor(b, indices), np.int64)
    return b.op("GatherElements", a.tensor(b, x), index, axis=int(call["axis"]))  # type: ignore[no-any-return]


@rules("ops.Where")
def where(b: Builder, call: Call, condition: Any, x1: Any = None, x2: Any = None) -> ir.Value:
    """One or the other."""
    if x1 is None or x2 is None:
        raise UnsupportedError("a condition alone")
    one, two = a.together(b, x1, x2)
    return b.op("Where", b.cast(a.tensor(b, condition), bool), one, two)  # type: ignore[no-any-return]


@rules("ops.Cast", "ops.ConvertToTensor")
def cast(b: Builder, call: Call, x: Any, dtype: Any = None) -> ir.Value:
    """In another type; fractions of any width become float32."""
    wanted = dtype or call.get("dtype")
    return a.tensor(b, x) if wanted is None else b.cast(a.tensor(b, x), plain_type(wanted))


def plain_type(name: Any) -> Any:
    """The NumPy type of a name; all fractions are float32 here.

    Raises:
        UnsupportedError: it is no type of numbers.
    """
    text = str(name)
    if text in {"float16", "bfloat16", "float32", "float64", "half", "double"}:
        return np.dtype(np.float32)
    if text not in {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}:
        raise UnsupportedError(f"the type {text!r}")
    return np.dtype(text)


@rules(*_ops("StopGradient", "Copy"))
def same(b: Builder, call: Call, x: Any) -> ir.Value:
    """The same."""
    return a.tensor(b, x)


@rules(*_ops("ZerosLike", "OnesLike"))
def filled_like(b: Builder, call: Call, x: Any) -> ir.Value:
    """The same number everywhere."""
    value = a.tensor(b, x)
    dtype = plain_type(call["dtype"]) if call.get("dtype") else b.dtype(value)
    number = np.array(0 if call.layer.kind == "ops.ZerosLike" else 1, dtype)
    return b.op("Expand", number, b.sizes(value))  # type: ignore[no-any-return]


@rules("ops.BroadcastTo")
def broadcast_to(b: Builder, call: Call, x: Any) -> ir.Value:
    """Repeated along axes of size 1."""
    shape = call["shape"]
    if any(not isinstance(size, int) or size < 1 for size in shape):
        raise UnsupportedError(f"the shape {shape}")
    return b.op("Expand", a.tensor(b, x), [int(size) for size in shape])  # type: ignore[no-any-return]


@rules("ops.Tile")
def tile(b: Builder, call: Call, x: Any) -> ir.Value:
    """Repeated as a whole."""
    value, repeats = a.tensor(b, x), call["repeats"]
    counts = [int(n) for n in (repeats if isinstance(repeats, list | tuple) else [repeats])]
    rank = b.rank(value)
    if len(counts) > rank:
        value = b.op("Unsqueeze", value, list(range(len(counts) - rank)))
    return b.op("Tile", value, [*[1] * (rank - len(counts)), *counts])  # type: ignore[no-any-return]


@rules("ops.Repeat")
def repeat(b: Builder, call: Call, x: Any) -> ir.Value:
    """Each element several times."""
    value, count, axis = a.tensor(b, x), call["repeats"], call.get("axis")
    if not isinstance(count, int) or axis is None:
        raise UnsupportedError("repeats that differ, or no axis")
    axis = int(axis) % b.rank(value)
    size = b.shape(value)[axis]
    if not isinstance(size, int):
        raise UnsupportedError("an open axis")
    return b.op("Gather", value, np.repeat(np.arange(size), count).astype(np.int64), axis=axis)  # type: ignore[no-any-return]


@rules("ops.Flip")
def flip(b: Builder, call: Call, x: Any) -> ir.Value:
    """The other way round."""
    value = a.tensor(b, x)
    axes = a.axes_of(b, value, call.get("axis"))
    count = len(axes)
    return b.op("Slice", value, [-1] * count, [np.iinfo(np.int64).min + 1] * count, axes, [-1] * count)  # type: ignore[no-any-return]


@rules("ops.Pad")
def pad(b: Builder, call: Call, x: Any, constant_values: Any = None) -> ir.Value:
    """With elements around."""
    value, width, mode = a.tensor(b, x), call["pad_width"], str(call.get("mode", "constant"))
    if mode not in {"constant", "reflect", "edge"}:
        raise UnsupportedError(f"mode={mode!r}")
    rank = b.rank(value)
    pairs = np.broadcast_to(np.asarray(width, np.int64), (rank, 2))
    fill = None if mode != "constant" else np.array(constant_values or 0, b.dtype(value))
    edges = [int(n) for n in pairs.T.reshape(-1)]
    return b.op("Pad", value, edges, fill, mode=mode)  # type: ignore[no-any-return]


@rules("ops.Cumsum")
def cumsum(b: Builder, call: Call, x: Any) -> ir.Value:
    """Sums up to each element."""
    value = a.tensor(b, x)
    if call.get("axis") is None:
        value = b.reshape(value, [-1])
    if call.get("dtype"):
        value = b.cast(value, plain_type(call["dtype"]))
    return b.op("CumSum", value, np.array(int(call.get("axis") or 0), np.int64))  # type: ignore[no-any-return]


@rules("ops.OneHot")
def one_hot(b: Builder, call: Call, x: Any) -> ir.Value:
    """1 at the number's place, 0 elsewhere; nothing but 0 for numbers out of range."""
    axis, depth = int(call.get("axis", -1)), int(call["num_classes"])
    if call.get("sparse"):
        raise UnsupportedError("sparse")
    dtype = plain_type(call.get("dtype") or "float32")
    value = b.op("Unsqueeze", b.cast(a.tensor(b, x), np.int64), [-1])
    hot = b.cast(b.op("Equal", value, np.arange(depth, dtype=np.int64)), dtype)
    rank = b.rank(hot)
    if axis in {-1, rank - 1}:
        return hot
    order = list(range(rank - 1))
    order.insert(axis % rank, rank - 1)
    return b.transpose(hot, order)


@rules("ops.TopK")
def top_k(b: Builder, call: Call, x: Any) -> list[ir.Value]:
    """The largest elements and where they stand."""
    value = a.tensor(b, x)
    values, index = b.op("TopK", value, [int(call["k"])], outputs=2, axis=-1, largest=1, sorted=1)
    return [values, b.cast(index, np.int32)]


@rules("ops.Normalize")
def normalize(b: Builder, call: Call, x: Any) -> ir.Value:
    """To length 1."""
    if call.get("order", 2) != 2:
        raise UnsupportedError(f"order={call['order']}")
    value = a.fraction(b, x)
    epsilon = call.get("epsilon")
    square = a.reduced(b, "sum", b.op("Mul", value, value), call.get("axis", -1), True)
    floor = b.scalar(1e-7 if epsilon is None else float(epsilon), value)
    return b.op("Div", value, b.op("Sqrt", b.op("Max", square, floor)))  # type: ignore[no-any-return]


@rules("ops.Norm")
def norm(b: Builder, call: Call, x: Any) -> ir.Value:
    """The length along axes."""
    if call.get("ord") not in {None, 2, "fro"} or (
        call.get("ord") == 2 and not isinstance(call.get("axis"), int)
    ):
        raise UnsupportedError(f"ord={call['ord']!r}")
    value = a.fraction(b, x)
    square = a.reduced(b, "sum", b.op("Mul", value, value), call.get("axis"), call.get("keepdims", False))
    return b.op("Sqrt", square)  # type: ignore[no-any-return]


@rules(*_ops("Tril", "Triu"))
def triangle(b: Builder, call: Call, x: Any) -> ir.Value:
    """One half of a matrix, 0 elsewhere."""
    upper = int(call.layer.kind == "ops.Triu")
    return b.op("Trilu", a.tensor(b, x), np.array(int(call.get("k", 0)), np.int64), upper=upper)  # type: ignore[no-any-return]


@rules("ops.FullLike")
def full_like(b: Builder, call: Call, x: Any, fill_value: Any) -> ir.Value:
    """One number everywhere."""
    value = a.tensor(b, x)
    number = a.tensor(b, fill_value, value)
    return b.op("Expand", b.cast(number, b.dtype(value)), b.sizes(value))  # type: ignore[no-any-return]
