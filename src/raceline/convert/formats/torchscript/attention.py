"""Attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import BOOL, INT, ints, size
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


@rules("aten::scaled_dot_product_attention")
def attention(
    b: Builder, node: Node, query: Any, key: Any, value: Any, mask: Any = None, share: Any = 0.0,
    causal: Any = False, scale: Any = None, grouped: Any = False,
) -> Any:  # fmt: skip
    """softmax(scale Q K^T + mask) V."""
    if share:
        raise UnsupportedError("it drops elements at random, as in training")
    if grouped:
        key, value = (_repeated(b, item, query) for item in (key, value))
    if scale is None:
        width = b.shape(query)[-1]
        scale = 1 / math.sqrt(width) if isinstance(width, int) else None
    rank = b.rank(key)
    scores = b.op("MatMul", query, b.transpose(key, [*range(rank - 2), rank - 1, rank - 2]))
    if scale is None:
        open_width = b.cast(b.op("Shape", query, start=-1), b.dtype(scores))
        scores = b.op("Div", scores, b.op("Sqrt", open_width))
    else:
        scores = b.op("Mul", scores, b.scalar(scale, scores))
    if causal:
        mask = _causal(b, query, key)
    if mask is not None:
        scores = _masked(b, scores, mask)
    return b.op("MatMul", b.op("Softmax", scores, axis=-1), value)


def _masked(b: Builder, scores: Any, mask: Any) -> Any:
    if b.dtype(mask) == BOOL:
        return b.op("Where", mask, scores, b.scalar(-np.inf, scores))
    return b.op("Add", scores, b.cast(mask, b.dtype(scores)))


def _causal(b: Builder, query: Any, key: Any) -> Any:
    """Which keys each query may look at: none that come later."""
    rows, columns = size(b, query, b.rank(query) - 2), size(b, key, b.rank(key) - 2)
    if not isinstance(rows, Scalar) and not isinstance(columns, Scalar):
        return b.constant(np.tril(np.ones((rows, columns), np.bool_)))
    ones = b.op("Expand", b.constant(np.array(1, np.int64)), ints(b, [rows, columns]))
    return b.cast(b.op("Trilu", ones, np.array(0, INT), upper=0), BOOL)


def _repeated(b: Builder, item: Any, query: Any) -> Any:
    """Keys or values with a head for each of the query's."""
    have, need = b.shape(item)[-3], b.shape(query)[-3]
    if not isinstance(have, int) or not isinstance(need, int):
        raise UnsupportedError("an open number of heads")
    place = b.rank(item) - 3
    where = np.repeat(np.arange(have), need // have)
    return b.op("Gather", item, where, axis=place)


@rules("aten::_native_multi_head_attention")
def multi_head(
    b: Builder, node: Node, query: Any, key: Any, value: Any, width: Any, heads: Any, w_in: Any, b_in: Any,
    w_out: Any, b_out: Any, mask: Any = None, need_weights: Any = True, average: Any = True, kind: Any = None,
) -> Any:  # fmt: skip
    """Attention of several heads with its projections, batch first."""
    if query is not key or key is not value:
        raise UnsupportedError("keys or values from elsewhere")
    batch, length = size(b, query, 0), size(b, query, 1)
    each = width // heads
    joint = b.op("Add", b.op("MatMul", query, b.transpose(w_in, [1, 0])), b_in)
    split = b.op("Reshape", joint, ints(b, [batch, length, 3, heads, each]))
    turned = b.transpose(split, [2, 0, 3, 1, 4])
    q, k, v = (b.op("Gather", turned, np.array(at, np.int64), axis=0) for at in range(3))
    scores = b.op("MatMul", q, b.transpose(k, [0, 1, 3, 2]))
    scores = b.op("Mul", scores, b.scalar(1 / math.sqrt(each), scores))
    if mask is not None:
        if kind not in {0, 1} or b.dtype(mask) != BOOL:
            raise UnsupportedError("a mask of this kind")
        wide = mask if kind == 0 else b.op("Unsqueeze", mask, [1, 2])  # true: not to be looked at
        scores = b.op("Where", wide, b.scalar(-np.inf, scores), scores)
    weights = b.op("Softmax", scores, axis=-1)
    y = b.transpose(b.op("MatMul", weights, v), [0, 2, 1, 3])
    y = b.op("Reshape", y, ints(b, [batch, length, width]))
    y = b.op("Add", b.op("MatMul", y, b.transpose(w_out, [1, 0])), b_out)
    if not need_weights:
        return y, None
    return y, (b.op("ReduceMean", weights, [1], keepdims=0) if average else weights)


@rules("aten::_transformer_encoder_layer_fwd")
def encoder_layer(
    b: Builder, node: Node, x: Any, width: Any, heads: Any, w_in: Any, b_in: Any, w_out: Any, b_out: Any,
    gelu: Any, norm_first: Any, eps: Any, w1: Any, b1: Any, w2: Any, b2: Any, f1: Any, g1: Any, f2: Any, g2: Any,
    mask: Any = None, kind: Any = None,
) -> Any:  # fmt: skip
    """A whole layer of a transformer's encoder."""

    def normal(item: Any, weight: Any, bias: Any) -> Any:
        return b.op("LayerNormalization", item, weight, bias, axis=-1, epsilon=float(eps))

    def attend(item: Any) -> Any:
        return multi_head(
            b, node, item, item, item, width, heads, w_in, b_in, w_out, b_out, mask, False, True, kind
        )[0]

    def feed(item: Any) -> Any:
        inner = b.op("Add", b.op("MatMul", item, b.transpose(f1, [1, 0])), g1)
        inner = b.op("Gelu", inner) if gelu else b.op("Relu", inner)
        return b.op("Add", b.op("MatMul", inner, b.transpose(f2, [1, 0])), g2)

    if norm_first:
        x = b.op("Add", x, attend(normal(x, w1, b1)))
        return b.op("Add", x, feed(normal(x, w2, b2)))
    x = normal(b.op("Add", x, attend(x)), w1, b1)
    return normal(b.op("Add", x, feed(x)), w2, b2)


@rules("aten::is_grad_enabled", "aten::is_autocast_enabled", "aten::is_autocast_cpu_enabled")
def no_mode(b: Builder, node: Node, *_: Any) -> Any:
    """Nothing is learnt here."""
    return False
