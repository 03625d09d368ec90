"""Attention: dot products, additive, many heads, grouped queries; masks and causality as Keras has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.activations import masked_softmax
from raceline.convert.formats.keras.dense import project
from raceline.convert.formats.keras.layers import Call, Tensor, floating, known
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
Value = Any


@rules("Attention", "AdditiveAttention")
def attention(
    b: Builder,
    call: Call,
    inputs: list[ir.Value],
    mask: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
) -> Any:
    """[query, value, key]: softmax(scores of query and key) value."""
    masks = list(mask) if isinstance(mask, list | tuple) else [known(m) for m in call.masks]
    masks += [None] * (3 - len(masks))
    query, value, *rest = (floating(b, x) for x in inputs)
    key = rest[0] if rest else value
    scores = _scores(b, call, query, key)
    counted = None if masks[1] is None else b.op("Unsqueeze", b.cast(masks[1], bool), [-2])
    if use_causal_mask or call.get("causal"):
        counted = _both(b, counted, _causal(b, query, key))
    if counted is not None:
        hidden = b.cast(b.op("Not", counted), np.float32)
        scores = b.op("Sub", scores, b.op("Mul", hidden, b.scalar(1e9, scores)))
    weights = b.op("Softmax", scores, axis=-1)
    y = b.op("MatMul", weights, value)
    if masks[0] is not None:
        y = b.op("Mul", y, b.op("Unsqueeze", b.cast(masks[0], np.float32), [-1]))
    call.result_masks = [masks[0], None]
    return [y, weights] if return_attention_scores else y


def _scores(b: Builder, call: Call, query: ir.Value, key: ir.Value) -> ir.Value:
    """(batch, queries, keys)."""
    mode, additive = call.get("score_mode", "dot"), call.layer.kind == "AdditiveAttention"
    scale = call.weight("scale") if call.has("scale") else None
    if scale is None and call.get("use_scale", additive):
        scale = call.weight("scale")
    if not additive and mode == "dot":
        y = b.op("MatMul", query, b.transpose(key, [0, 2, 1]))
        return y if scale is None else b.op("Mul", y, scale)  # type: ignore[no-any-return]
    if not additive and mode != "concat":
        raise UnsupportedError(f"score_mode={mode!r}")
    pairs = b.op("Add", b.op("Unsqueeze", query, [-2]), b.op("Unsqueeze", key, [-3]))
    if additive:
        y = b.op("Tanh", pairs)
        y = y if scale is None else b.op("Mul", y, scale)
        return b.op("ReduceSum", y, [-1], keepdims=0)  # type: ignore[no-any-return]
    pairs = pairs if scale is None else b.op("Mul", pairs, scale)
    total = b.op("ReduceSum", b.op("Tanh", pairs), [-1], keepdims=0)
    return b.op("Mul", total, call.weight("concat_score_weight"))  # type: ignore[no-any-return]


def _both(b: Builder, one: Value, two: Value) -> Value:
    if one is None or two is None:
        return two if one is None else one
    return b.op("And", one, two)


def _positions(b: Builder, x: ir.Value) -> ir.Value:
    """0, 1, 2 ... along the steps."""
    count = b.op("Squeeze", b.op("Shape", x, start=1, end=2), [0])
    return b.op("Range", np.array(0, np.int64), count, np.array(1, np.int64))  # type: ignore[no-any-return]


def _causal(b: Builder, query: ir.Value, key: ir.Value) -> ir.Value:
    """(1, queries, keys): whether a key is no later than the query."""
    rows, columns = (
        b.op("Unsqueeze", _positions(b, x), axes) for x, axes in ((query, [0, 2]), (key, [0, 1]))
    )
    return b.op("GreaterOrEqual", rows, columns)  # type: ignore[no-any-return]


def _window(b: Builder, query: ir.Value, key: ir.Value, size: int) -> ir.Value:
    """(1, queries, keys): whether they are less than `size` apart."""
    rows, columns = (
        b.op("Unsqueeze", _positions(b, x), axes) for x, axes in ((query, [0, 2]), (key, [0, 1]))
    )
    return b.op("Less", b.op("Abs", b.op("Sub", rows, columns)), np.array(size, np.int64))  # type: ignore[no-any-return]


def _mask_of(call: Call, name: str, place: int) -> Value:
    """The mask that the tensor of an argument carries."""
    tensor = call.kwargs.get(name, call.args[place] if place < len(call.args) else None)
    return known(tensor.mask) if isinstance(tensor, Tensor) else None


@rules("MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention")
def multi_head_attention(
    b: Builder,
    call: Call,
    query: ir.Value,
    value: ir.Value,
    key: Any = None,
    query_mask: Any = None,
    value_mask: Any = None,
    key_mask: Any = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    use_causal_mask: bool = False,
    mask: Any = None,
) -> Any:
    """Attention of many heads, each on its own projection."""
    masks = {
        "query": query_mask if query_mask is not None else _mask_of(call, "query", 0),
        "value": value_mask if value_mask is not None else _mask_of(call, "value", 1),
        "key": key_mask if key_mask is not None else _mask_of(call, "key", 2),
    }
    query, value = floating(b, query), floating(b, value)
    key = value if key is None else floating(b, key)
    _refuse_axes(b, call, query)
    counted = _counted(b, call, query, value, masks, use_causal_mask)
    if attention_mask is not None:
        counted = _both(b, counted, b.cast(attention_mask, bool))
    y, weights = _attend(b, call, query, key, value, counted, zero=return_attention_scores)
    call.result_masks = [masks["query"] if call.layer.kind == "MultiHeadAttention" else masks["query"], None]
    return [y, weights] if return_attention_scores else y


def _refuse_axes(b: Builder, call: Call, query: ir.Value) -> None:
    axes = call.get("attention_axes")
    if b.rank(query) != 3 or (
        axes is not None and [a % 3 for a in (axes if isinstance(axes, list) else [axes])] != [1]
    ):
        raise UnsupportedError(f"attention over axes {axes} of {b.rank(query)}")
    shape = call.get("output_shape")
    if isinstance(shape, list) and len(shape) > 1:
        raise UnsupportedError(f"output_shape={shape}")


def _counted(
    b: Builder, call: Call, query: ir.Value, value: ir.Value, masks: dict[str, Value], causal: bool
) -> Value:
    """(batch, queries, keys): which pairs count; None where all do."""
    result = None
    for name, axis in (("query", -1), ("value", -2), ("key", -2)):
        if masks[name] is not None:
            result = _both(b, result, b.op("Unsqueeze", b.cast(masks[name], bool), [axis]))
    if causal:
        result = _both(b, result, _causal(b, query, value))
    if call.get("sliding_window") is not None:
        result = _both(b, result, _window(b, query, value, int(call["sliding_window"])))
    return result


def _attend(
    b: Builder, call: Call, query: ir.Value, key: ir.Value, value: ir.Value, counted: Value, *, zero: bool
) -> tuple[ir.Value, ir.Value]:
    """Project, attend, and project back."""
    grouped = call.layer.kind != "MultiHeadAttention"
    parts = call.layer.children
    q, k, v = (
        project(b, call, parts[f"{name}_dense"], x, "abc,cde->abde")
        for name, x in (("query", query), ("key", key), ("value", value))
    )
    size = b.shape(q)[-1]
    if not isinstance(size, int):
        raise UnsupportedError("heads of open size")
    q, k, v = (b.transpose(x, [0, 2, 1, 3]) for x in (q, k, v))
    if grouped and (repeats := _repeats(b, q, k)) > 1:
        k, v = _repeated(b, k, repeats), _repeated(b, v, repeats)
    q = b.op("Mul", q, b.scalar(1 / float(np.sqrt(size)), q))
    scores = b.op("MatMul", q, b.transpose(k, [0, 1, 3, 2]))
    weights = _weights(b, call, scores, counted, zero)
    y = b.transpose(b.op("MatMul", weights, v), [0, 2, 1, 3])
    if "gate_dense" in parts:
        y = b.op("Mul", y, b.op("Sigmoid", project(b, call, parts["gate_dense"], query, "abc,cde->abde")))
    return project(b, call, parts["output_dense"], y, "abcd,cde->abe"), weights


def _weights(b: Builder, call: Call, scores: ir.Value, counted: Value, zero: bool) -> ir.Value:
    """Softmax over the pairs that count; a query of none spreads evenly, or over nothing with dropout or scores."""
    if counted is None:
        return b.op("Softmax", scores, axis=-1)  # type: ignore[no-any-return]
    missing = b.rank(scores) - b.rank(counted)
    if missing > 0:
        counted = b.op("Unsqueeze", counted, [1]) if missing == 1 else b.op("Unsqueeze", counted, [0, 1])
    emptied = call.layer.major >= 3 and (zero or float(call.get("dropout") or 0) > 0)
    return masked_softmax(b, scores, counted, -1, 3 if emptied else 2)


def _repeats(b: Builder, q: ir.Value, k: ir.Value) -> int:
    heads, groups = b.shape(q)[1], b.shape(k)[1]
    if not isinstance(heads, int) or not isinstance(groups, int) or heads % groups:
        raise UnsupportedError(f"{heads} heads in {groups} groups")
    return heads // groups


def _repeated(b: Builder, x: ir.Value, times: int) -> ir.Value:
    """(batch, heads, steps, size) with each head several times in a row."""
    heads = b.shape(x)[1]
    index = np.repeat(np.arange(int(str(heads))), times)
    return b.op("Gather", x, index.astype(np.int64), axis=1)  # type: ignore[no-any-return]
