"""Layers that prepare data: scaling, resizing, categories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.layers import Call, channel_axis, floating, refuse
from raceline.convert.formats.keras.reshaping import resized
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules("Rescaling")
def rescaling(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """X * scale + offset."""
    scale, offset = (_numbers(call.get(name, default)) for name, default in (("scale", 1.0), ("offset", 0.0)))
    y = b.op("Mul", floating(b, x), scale)
    return b.op("Add", y, offset) if np.any(offset) else y  # type: ignore[no-any-return]


def _numbers(value: Any) -> Any:
    """A number or several, plain or as Keras serialises arrays."""
    if isinstance(value, dict):
        config = value.get("config")
        value = config.get("value") if isinstance(config, dict) else None
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise UnsupportedError(f"the numbers {str(value)[:60]}")
    return array.astype(np.float32)


@rules("Normalization")
def normalization(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """(x - mean) / max(deviation, epsilon), or back."""
    x = floating(b, x)
    rank = b.rank(x)
    axis = call.get("axis", -1)
    kept = sorted(int(a) % rank for a in ([] if axis is None else axis if isinstance(axis, list) else [axis]))
    sizes = [size if i in kept else 1 for i, size in enumerate(b.shape(x))]
    shape = [size for size in sizes if isinstance(size, int)]
    if len(shape) != len(sizes):
        raise UnsupportedError("statistics of an open axis")
    known = call.get("mean") is not None
    mean, variance = (_numbers(call[name]) if known else call.weight(name) for name in ("mean", "variance"))
    mean, variance = (
        np.broadcast_to(v.reshape(shape) if v.ndim and v.size > 1 else v.reshape(-1)[0], shape)
        for v in (mean, variance)
    )
    deviation = np.maximum(np.sqrt(variance), np.float32(1e-7)).astype(np.float32)
    mean = np.ascontiguousarray(mean, np.float32)
    if call.get("invert"):
        return b.op("Add", mean, b.op("Mul", x, deviation))  # type: ignore[no-any-return]
    return b.op("Div", b.op("Sub", x, mean), deviation)  # type: ignore[no-any-return]


@rules("Resizing")
def resizing(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A picture of another size."""
    refuse(call, crop_to_aspect_ratio=False, pad_to_aspect_ratio=False, antialias=False, fill_mode="constant")
    x = floating(b, x)
    if b.rank(x) not in {3, 4}:
        raise UnsupportedError(f"{b.rank(x)} axes")
    first = b.rank(x) - (2 if channel_axis(call) == 1 else 3)
    sizes = [int(call["height"]), int(call["width"])]
    mode = str(call.get("interpolation", "bilinear")).lower()
    if list(b.shape(x)[first : first + 2]) == sizes:
        return x
    if b.rank(x) == 3:
        y = resized(b, b.op("Unsqueeze", x, [0]), mode, first + 1, sizes=sizes)
        return b.op("Squeeze", y, [0])  # type: ignore[no-any-return]
    return resized(b, x, mode, first, sizes=sizes)


@rules("CenterCrop")
def center_crop(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """The middle of a picture that is no smaller."""
    x = floating(b, x)
    first = b.rank(x) - (2 if channel_axis(call) == 1 else 3)
    sizes, wanted = b.shape(x)[first : first + 2], [int(call["height"]), int(call["width"])]
    fits = [size - want if isinstance(size, int) else -1 for size, want in zip(sizes, wanted, strict=True)]
    if min(fits) < 0:
        raise UnsupportedError("a picture of open size, or smaller than what is cut out")
    starts = [fit // 2 for fit in fits]
    ends = [start + want for start, want in zip(starts, wanted, strict=True)]
    return b.op("Slice", x, starts, ends, [first, first + 1])  # type: ignore[no-any-return]


@rules("Discretization")
def discretization(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """The number of boundaries that are no larger than the element."""
    edges = call.get("bin_boundaries")
    if not edges:
        raise UnsupportedError("boundaries that were never fitted")
    x = b.op("Unsqueeze", floating(b, x), [-1])
    reached = b.cast(b.op("GreaterOrEqual", x, np.asarray(edges, np.float32)), np.int64)
    index = b.op("ReduceSum", reached, [-1], keepdims=0)
    mode = str(call.get("output_mode", "int"))
    if mode == "int":
        return b.cast(index, np.int32 if call.layer.major >= 3 else np.int64)
    return encoded(b, index, mode, len(edges) + 1)


@rules("CategoryEncoding")
def category_encoding(b: Builder, call: Call, x: ir.Value, count_weights: Any = None) -> ir.Value:
    """Numbers as one-hot, multi-hot or counts."""
    refuse(call, sparse=(False, None))
    if count_weights is not None:
        raise UnsupportedError("count_weights")
    mode = str(call.get("output_mode", "multi_hot"))
    return encoded(b, x, {"binary": "multi_hot"}.get(mode, mode), int(call["num_tokens"]))


def encoded(b: Builder, index: ir.Value, mode: str, depth: int) -> ir.Value:
    """(batch, numbers) -> (batch, depth); (batch, 1) and (batch,) as one number each."""
    if mode not in {"one_hot", "multi_hot", "count"}:
        raise UnsupportedError(f"output_mode={mode!r}")
    index = b.cast(index, np.int64)
    if mode == "one_hot" and (b.rank(index) == 1 or b.shape(index)[-1] != 1):
        index = b.op("Unsqueeze", index, [-1])
    hot = b.cast(b.op("Equal", b.op("Unsqueeze", index, [-1]), np.arange(depth, dtype=np.int64)), np.float32)
    if b.rank(index) == 1:
        return hot
    op = "ReduceSum" if mode == "count" else "ReduceMax"
    return b.op(op, hot, [-2], keepdims=0)  # type: ignore[no-any-return]


@rules("Hashing", "HashedCrossing", "StringLookup", "IntegerLookup", "TextVectorization")
def looked_up(b: Builder, call: Call, x: Any) -> Any:
    """Vocabularies and hashes work on text before the network; they are no part of a graph of tensors."""
    raise UnsupportedError("text and vocabularies are prepared outside of the network")


@rules("Lambda")
def foreign_code(b: Builder, call: Call, *args: Any, **kwargs: Any) -> Any:
    """Python code in a file is never run."""
    raise UnsupportedError("its meaning is Python code inside the file, which is never run")
