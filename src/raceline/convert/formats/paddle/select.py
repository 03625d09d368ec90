"""Made, chosen and sorted: constants, ranges, casts, gather and scatter, conditions, the largest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, bounded, positive, rule
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_VALUES = ("values", "fp32_values", "int32_values", "int64_values", "bool_values", "fp64_values",
           "int8_values")  # fmt: skip


@rule(rules, "cast")
def _cast(b: Builder, c: Call) -> Any:
    x, kind = c.value("X"), c.dtype("out_dtype")
    c.ignore("in_dtype")
    return b.op("Identity", x) if kind is None or b.dtype(x) == kind else b.cast(x, kind)


@rule(rules, "assign_value")
def _assign_value(b: Builder, c: Call) -> Any:
    kind, shape = c.dtype("dtype"), c.integers("shape")
    found: list[Any] = []
    for name in _VALUES:
        found = found or list(c.get(name) or [])
    return b.constant(np.array(found, kind or np.float32).reshape(shape))


def _filled(b: Builder, shape: ir.Value, value: ir.Value) -> Any:
    return b.op("Expand", value, shape)


@rule(rules, "fill_constant")
def _fill_constant(b: Builder, c: Call) -> Any:
    kind = c.dtype("dtype", 5) or np.dtype(np.float32)
    shape = c.vector(b, "shape", "ShapeTensor", "ShapeTensorList")
    text, number = c.text("str_value", ""), c.number("value", 0.0)
    tensor = c.maybe("ValueTensor")
    if tensor is None:
        value = b.constant(_number(text, number, kind))
    else:
        value = b.cast(b.reshape(tensor, []), kind)
    return _filled(b, shape, value)


def _number(text: str, number: float, kind: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """The value that the text spells, which has all digits; the number where there is none."""
    if kind.kind in "iu" and text.lstrip("-").isdigit():
        return np.array(int(text), kind)
    with np.errstate(all="ignore"):
        return np.array(float(text) if text else number).astype(kind)


@rule(rules, "fill_any_like", "fill_zeros_like", "fill_zeros_like2")
def _fill_like(b: Builder, c: Call) -> Any:
    x = c.value("X")
    kind = c.dtype("dtype") or b.dtype(x)
    tensor = c.maybe("ValueTensor")
    number = b.constant(_number("", c.number("value", 0.0), kind))
    return _filled(b, b.sizes(x), number if tensor is None else b.cast(b.reshape(tensor, []), kind))


@rule(rules, "fill_constant_batch_size_like")
def _fill_batch_like(b: Builder, c: Call) -> Any:
    x = c.value("Input")
    kind = c.dtype("dtype", 5) or np.dtype(np.float32)
    shape = c.integers("shape")
    source, place = c.integer("input_dim_idx", 0), c.integer("output_dim_idx", 0)
    parts: list[Any] = [shape[:place], b.op("Shape", x, start=source, end=source + 1), shape[place + 1 :]]
    size = b.op("Concat", *(part for part in parts if not isinstance(part, list) or part), axis=0)
    return _filled(b, size, b.constant(_number(c.text("str_value", ""), c.number("value", 0.0), kind)))


@rule(rules, "range", "arange")
def _range(b: Builder, c: Call) -> Any:
    three = [b.reshape(c.value(slot), []) for slot in ("Start", "End", "Step")]
    kind = c.dtype("dtype") or b.dtype(three[0])
    return b.op("Range", *(b.cast(part, kind) for part in three))


@rule(rules, "linspace")
def _linspace(b: Builder, c: Call) -> Any:
    start, stop, num = (c.constant(b, slot).reshape(-1)[0] for slot in ("Start", "Stop", "Num"))
    return b.constant(
        np.linspace(start, stop, bounded(int(num), "number of steps")).astype(c.dtype("dtype", 5))
    )


@rule(rules, "eye")
def _eye(b: Builder, c: Call) -> Any:
    rows, columns = c.integer("num_rows", 0), c.integer("num_columns", -1)
    if max(rows, columns) > 4096:
        raise UnsupportedError(f"{rows} rows")
    return b.constant(np.eye(rows, rows if columns < 0 else columns).astype(c.dtype("dtype", 5)))


@rule(rules, "tril_triu")
def _triangle(b: Builder, c: Call) -> Any:
    lower = c.flag("lower", True)
    return b.op("Trilu", c.value("X"), np.array(c.integer("diagonal", 0), np.int64), upper=int(not lower))


@rule(rules, "one_hot", "one_hot_v2")
def _one_hot(b: Builder, c: Call) -> Any:
    x, kind = c.value("X"), c.dtype("dtype", 5) or np.dtype(np.float32)
    c.ignore("allow_out_of_range")
    depth, tensor = c.integer("depth", -1), c.maybe("depth_tensor")
    if c.op == "one_hot" and b.shape(x)[-1:] == (1,):
        x = b.op("Squeeze", x, [-1])
    size = np.array(depth, np.int64) if tensor is None else b.reshape(b.cast(tensor, np.int64), [])
    y = b.op("OneHot", x, size, np.array([0, 1], np.float32), axis=-1)
    return b.cast(y, kind)


# --- conditions -------------------------------------------------------------------------------------------


@rule(rules, "where")
def _where(b: Builder, c: Call) -> Any:
    return b.op("Where", c.value("Condition"), c.value("X"), c.value("Y"))


@rule(rules, "where_index")
def _where_index(b: Builder, c: Call) -> Any:
    return b.transpose(b.op("NonZero", c.value("Condition")), [1, 0])


@rule(rules, "masked_select", out="Y")
def _masked_select(b: Builder, c: Call) -> Any:
    x, mask = c.value("X"), c.value("Mask")
    if b.rank(x) != b.rank(mask):
        raise UnsupportedError("a mask of another rank")
    mask = b.op("Expand", mask, b.sizes(x))
    return b.op("Compress", b.reshape(x, [-1]), b.reshape(mask, [-1]))


# --- gather and scatter -----------------------------------------------------------------------------------


@rule(rules, "gather")
def _gather(b: Builder, c: Call) -> Any:
    x, index = c.value("X"), c.value("Index")
    axis = c.integer("axis", 0)
    if c.maybe("Axis") is not None:
        axis = int(c.constant(b, "Axis").reshape(-1)[0])
    c.ignore("overwrite")
    if b.rank(index) == 2:
        index = b.reshape(index, [-1])
    return b.op("Gather", x, index, axis=positive(axis, b.rank(x)))


@rule(rules, "gather_nd")
def _gather_nd(b: Builder, c: Call) -> Any:
    return b.op("GatherND", c.value("X"), b.cast(c.value("Index"), np.int64))


@rule(rules, "index_select")
def _index_select(b: Builder, c: Call) -> Any:
    return b.op("Gather", c.value("X"), c.value("Index"), axis=c.integer("dim", 0))


@rule(rules, "index_sample")
def _index_sample(b: Builder, c: Call) -> Any:
    return b.op("GatherElements", c.value("X"), c.value("Index"), axis=1)


@rule(rules, "take_along_axis", out="Result")
def _take_along_axis(b: Builder, c: Call) -> Any:
    return b.op("GatherElements", c.value("Input"), c.value("Index"), axis=c.integer("Axis", 0))


@rule(rules, "scatter")
def _scatter(b: Builder, c: Call) -> Any:
    """Whole rows; without `overwrite` the rows named are emptied first and then added to."""
    x, ids, updates = c.value("X"), c.value("Ids"), c.value("Updates")
    places = b.reshape(b.cast(ids, np.int64), [-1, 1])
    if c.flag("overwrite", True):
        return b.op("ScatterND", x, places, updates)
    empty = b.op("ScatterND", x, places, b.op("Sub", updates, updates))
    return b.op("ScatterND", empty, places, updates, reduction="add")


@rule(rules, "scatter_nd_add")
def _scatter_nd_add(b: Builder, c: Call) -> Any:
    places = b.cast(c.value("Index"), np.int64)
    return b.op("ScatterND", c.value("X"), places, c.value("Updates"), reduction="add")


# --- the largest ------------------------------------------------------------------------------------------


@rule(rules, "arg_max", "arg_min")
def _arg(b: Builder, c: Call) -> Any:
    x, axis = c.value("X"), c.integer("axis", -1)
    if c.maybe("AxisTensor") is not None:
        axis = int(c.constant(b, "AxisTensor").reshape(-1)[0])
    keep, kind = c.flag("keepdims"), c.dtype("dtype", 3) or np.dtype(np.int64)
    if c.flag("flatten"):
        if keep and b.rank(x) > 1:
            raise UnsupportedError("the place in the whole tensor with kept axes")
        x, axis = b.reshape(x, [-1]), 0
    op = "ArgMax" if c.op == "arg_max" else "ArgMin"
    return b.cast(b.op(op, x, axis=positive(axis, b.rank(x)), keepdims=int(keep)), kind)


@rule(rules, "top_k", "top_k_v2")
def _top_k(b: Builder, c: Call) -> dict[str, Any]:
    x, tensor = c.value("X"), c.maybe("K")
    count = c.integer("k", 1)
    number: Any = [count] if tensor is None else b.reshape(b.cast(tensor, np.int64), [1])
    largest, in_order = int(c.flag("largest", True)), int(c.flag("sorted", True))
    axis = positive(c.integer("axis", -1), b.rank(x))
    values, places = b.op("TopK", x, number, axis=axis, largest=largest, sorted=in_order, outputs=2)
    return {"Out": values, "Indices": places}


@rule(rules, "argsort")
def _argsort(b: Builder, c: Call) -> dict[str, Any]:
    x = c.value("X")
    axis = positive(c.integer("axis", -1), b.rank(x))
    c.ignore("stable")
    largest = int(c.flag("descending"))
    size = b.op("Shape", x, start=axis, end=axis + 1)
    values, places = b.op("TopK", x, size, axis=axis, largest=largest, sorted=1, outputs=2)
    return {"Out": values, "Indices": places}
