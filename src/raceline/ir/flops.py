"""Arithmetic of one node, counted from shapes.

A multiply-add counts two, as in the field; an elementary function (exp, tanh, sqrt, a comparison) counts one;
moving data counts nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raceline.ir.infer import TensorInfo

Infos = Sequence[TensorInfo | None]
Rule = Callable[[Any, Infos, Infos], int]

# Operators that only move, select, count or name elements.
_MOVING = frozenset(
    """
    Cast CastLike Compress Concat ConcatFromSequence Constant ConstantOfShape DepthToSpace Dropout
    Expand EyeLike Flatten Gather GatherElements GatherND Identity NonZero OneHot Optional
    OptionalGetElement OptionalHasElement Pad RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Range Reshape ReverseSequence Scatter ScatterElements ScatterND SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength Shape Size Slice
    SpaceToDepth Split SplitToSequence Squeeze Tile Transpose Trilu Unsqueeze Upsample Where
    """.split()
)
# Operations per element of the output (or, for reductions, of the input) where it is not one.
_PER_OUTPUT = {
    "BatchNormalization": 2,
    "DequantizeLinear": 2,
    "Gelu": 5,
    "GroupNormalization": 7,
    "HardSwish": 4,
    "InstanceNormalization": 7,
    "LayerNormalization": 7,
    "LogSoftmax": 5,
    "Mish": 4,
    "QuantizeLinear": 3,
    "RMSNormalization": 5,
    "Sigmoid": 3,
    "Softmax": 5,
    "Swish": 4,
}


def multiply_add_flops(node: Any, reads: Infos, writes: Infos) -> int:
    """Operations of the node's multiply-adds: convolutions, matrix products, recurrences, attention.

    Args:
        node: the operator and its attributes.
        reads: what it reads, by position; None where nothing is given or known.
        writes: what it writes.
    """
    rule = _HEAVY.get(node.op_type)
    return 0 if rule is None else 2 * rule(node, reads, writes)


def other_flops(node: Any, reads: Infos, writes: Infos) -> int:
    """All operations that are not multiply-adds of the heavy operators."""
    if node.op_type in _MOVING or node.op_type in _HEAVY:
        return 0
    out = sum(info.size for info in writes[:1] if info is not None)
    if node.op_type in {"MaxPool", "AveragePool", "LpPool"}:
        return out * math.prod(_ints(node, "kernel_shape"))
    if node.op_type.startswith(("Reduce", "Global", "Arg", "CumSum", "TopK")):
        return _size(reads, 0)
    if node.op_type == "Resize":
        return out * {b"nearest": 0, b"cubic": 32}.get(_bytes(node, "mode", b"nearest"), 6)
    return out * _PER_OUTPUT.get(node.op_type, 1)


def _conv(node: Any, reads: Infos, writes: Infos) -> int:
    """Each output element sums over its group's channels and the kernel."""
    weight = reads[3] if node.op_type == "QLinearConv" else reads[1]
    return _size(writes, 0) * math.prod(weight.shape[1:]) if weight is not None else 0


def _conv_transpose(node: Any, reads: Infos, writes: Infos) -> int:
    """Each input element adds to its group's output channels over the kernel."""
    weight = reads[1]
    return _size(reads, 0) * math.prod(weight.shape[1:]) if weight is not None else 0


def _matmul(node: Any, reads: Infos, writes: Infos) -> int:
    left = reads[0]
    return _size(writes, 0) * left.shape[-1] if left is not None and left.shape else 0


def _gemm(node: Any, reads: Infos, writes: Infos) -> int:
    left = reads[0]
    if left is None or len(left.shape) != 2:
        return 0
    return _size(writes, 0) * left.shape[0 if _int(node, "transA", 0) else 1]


def _einsum(node: Any, reads: Infos, writes: Infos) -> int:
    """One product for each combination of all indices; an estimate where there are more than two inputs."""
    terms = _bytes(node, "equation", b"").decode().replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, info in zip(terms, reads, strict=False):
        if info is not None and "." not in term:
            sizes.update(zip(term, info.shape, strict=False))
    return math.prod(sizes.values()) if sizes else _size(writes, 0)


def _recurrent(node: Any, reads: Infos, writes: Infos) -> int:
    """Every step of every item multiplies both weight matrices of every direction."""
    x, w, r = reads[:3]
    if x is None or w is None or r is None:
        return 0
    return x.shape[0] * x.shape[1] * (w.size + r.size)


def _attention(node: Any, reads: Infos, writes: Infos) -> int:
    """Scores of every query with every key, and as many sums over the values."""
    query, key, out = reads[0], reads[1], writes[0]
    if query is None or key is None or out is None:
        return 0
    past = reads[4] if len(reads) > 4 else None
    steps = key.shape[-2] + (past.shape[-2] if past is not None else 0)
    return (query.size + out.size) * steps


_HEAVY: dict[str, Rule] = {
    "Attention": _attention,
    "Conv": _conv,
    "ConvInteger": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "GRU": _recurrent,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "RNN": _recurrent,
}


def _size(infos: Infos, place: int) -> int:
    info = infos[place] if place < len(infos) else None
    return 0 if info is None else info.size


def _attributes(node: Any) -> Mapping[str, Any]:
    return {a.name: a for a in node.attribute}


def _int(node: Any, name: str, default: int) -> int:
    found = _attributes(node).get(name)
    return default if found is None else int(found.i)


def _ints(node: Any, name: str) -> list[int]:
    found = _attributes(node).get(name)
    return [] if found is None else [int(np.int64(i)) for i in found.ints]


def _bytes(node: Any, name: str, default: bytes) -> bytes:
    found = _attributes(node).get(name)
    return default if found is None else bytes(found.s)
