"""What transformers share: attention over heads, activations, masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    import onnx_ir as ir

LOWEST = float(np.finfo(np.float32).min)


def activation(b: Builder, x: ir.Value, name: str) -> Any:
    """An activation by the name that a config.json has for it.

    Raises:
        BadModelError: nobody here knows the name.
    """
    if name in {"gelu", "gelu_python"}:
        return b.op("Gelu", x, approximate="none")
    if name in {"gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate"}:
        return b.op("Gelu", x, approximate="tanh")
    if name in {"silu", "swish"}:
        return b.op("Mul", x, b.op("Sigmoid", x))
    if name == "quick_gelu":
        return b.op("Mul", x, b.op("Sigmoid", b.op("Mul", x, b.scalar(1.702, x))))
    if name in {"relu", "tanh", "sigmoid"}:
        return b.op(name.capitalize(), x)
    raise BadModelError(f"the activation {str(name)[:80]!r} is not known")


def each_head(size: int, heads: int) -> int:
    """The size of one head.

    Raises:
        BadModelError: the heads do not share the size evenly.
    """
    if size % heads:
        raise BadModelError(
            f"config.json says {heads} heads for states of {size} elements", "they must share evenly"
        )
    return size // heads


def split_heads(b: Builder, x: ir.Value, heads: int, size: int) -> Any:
    """(batch, positions, heads x size) -> (batch, heads, positions, size)."""
    return b.transpose(b.op("Reshape", x, [0, 0, heads, size]), [0, 2, 1, 3])


def attend(b: Builder, q: ir.Value, k: ir.Value, v: ir.Value, scale: float, mask: ir.Value | None) -> Any:
    """Softmax attention of (batch, heads, positions, size), back as (batch, positions, heads x size).

    Args:
        b: receives the nodes.
        q: queries.
        k: keys, as many heads as the queries.
        v: values, likewise.
        scale: of the scores.
        mask: added to the scores; None for none.
    """
    scores = b.op("MatMul", q, b.transpose(k, [0, 1, 3, 2]))
    scores = b.op("Mul", scores, b.scalar(scale, scores))
    scores = scores if mask is None else b.op("Add", scores, mask)
    mixed = b.transpose(b.op("MatMul", b.op("Softmax", scores, axis=-1), v), [0, 2, 1, 3])
    heads, size = b.shape(v)[1], b.shape(v)[3]
    return b.op("Reshape", mixed, [0, 0, int(heads or 0) * int(size or 0)])


def padding_mask(b: Builder, attention_mask: ir.Value) -> Any:
    """(batch, positions) of ones and zeros -> what is added to scores: 0, or the lowest number for padding."""
    absent = b.op("Sub", np.float32(1), b.cast(attention_mask, np.float32))
    return b.op("Unsqueeze", b.op("Mul", absent, np.float32(LOWEST)), [1, 2])


def causal_mask(b: Builder, ids: ir.Value, attention_mask: ir.Value, window: int = 0) -> Any:
    """What is added to scores so that no position sees later ones, padding, or those `window` or more before it."""
    places = positions(b, ids)
    row, column = b.op("Unsqueeze", places, [1]), b.op("Unsqueeze", places, [0])
    seen = b.op("LessOrEqual", column, row)
    if window:
        seen = b.op("And", seen, b.op("Less", b.op("Sub", row, column), np.array(window, np.int64)))
    kept = b.op("Unsqueeze", b.op("Greater", attention_mask, np.array(0, np.int64)), [1, 2])
    seen = b.op("And", b.op("Unsqueeze", seen, [0, 1]), kept)
    return b.op("Where", seen, np.float32(0), np.float32(LOWEST))


def positions(b: Builder, ids: ir.Value) -> Any:
    """0, 1, ... for each position."""
    length = b.reshape(b.op("Shape", ids, start=1, end=2), [])
    return b.op("Range", np.array(0, np.int64), length, np.array(1, np.int64))


def token_inputs(b: Builder, *names: str) -> list[Any]:
    """Integer inputs (batch, sequence)."""
    return [b.input(name, np.int64, ["batch", "sequence"]) for name in names]
