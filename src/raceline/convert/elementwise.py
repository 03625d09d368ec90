"""Operators that compute each element of their result from one element of each operand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.fused import is_fused, kind
from raceline.convert.graph import (
    Array,
    attribute,
    constant,
    is_op,
    operand,
    rank,
    same_shape,
    shape_of,
)

if TYPE_CHECKING:
    import onnx_ir as ir

ACTIVATIONS = frozenset(
    "Abs Celu Clip Elu Erf Exp Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg PRelu Reciprocal Relu "
    "Selu Sigmoid Softplus Softsign Sqrt Swish Tanh ThresholdedRelu".split()
)
BINARY = frozenset("Add Sub Mul Div Pow Max Min".split())


def is_elementwise(node: ir.Node | None) -> bool:
    """Whether a node computes element by element, and is one that kernels take along."""
    if is_op(node, *BINARY):
        return node is not None and len(node.inputs) == 2
    return is_op(node, *ACTIVATIONS) or is_fused(node, *FUSED_ACTIVATIONS)


def varying(node: ir.Node) -> list[ir.Value]:
    """The inputs of a node that are not constant, each once."""
    return [v for v in dict.fromkeys(node.inputs) if v is not None and constant(v) is None]


def stays_within(value: ir.Value, target: ir.Value) -> bool:
    """Whether combining the two gives a result of `target`'s shape: nothing is stretched but `value`."""
    if constant(value) is None:
        return same_shape(value, target)
    shape, room = shape_of(value), rank(target)
    if shape is None or all(dim == 1 for dim in shape):
        return shape is not None and (room is None or len(shape) <= room)
    if room is None or len(shape) > room:
        return False
    return all(
        dim in {1, other} for dim, other in zip(shape[::-1], (shape_of(target) or ())[::-1], strict=False)
    )


def _clip(node: ir.Node, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """Clip, its bounds given as attributes in opsets before 11 and as inputs since."""
    low = attribute(node, "min", -math.inf) if low is None else low
    high = attribute(node, "max", math.inf) if high is None else high
    return np.asarray(np.clip(x, low, high))


def _hard_sigmoid(node: ir.Node, x: Array) -> Array:
    return np.asarray(np.clip(attribute(node, "alpha", 0.2) * x + attribute(node, "beta", 0.5), 0, 1))


def erf(x: Array) -> Array:
    """The error function of each element."""
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def sigmoid(x: Array) -> Array:
    """The logistic function of each element."""
    return np.asarray(1 / (1 + np.exp(-x)))


FUSED_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "Gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
    "GeluTanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "HardSigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "HardSwish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "QuickGelu": lambda x: x * sigmoid(1.702 * x),
    "Silu": lambda x: x * sigmoid(x),
}
"""Activations that ONNX has not, or had not always, and what they compute."""

_EVALUATE: Mapping[str, Callable[..., Array]] = {
    "Add": lambda _, x, y: x + y,
    "Sub": lambda _, x, y: x - y,
    "Mul": lambda _, x, y: x * y,
    "Div": lambda _, x, y: x / y,
    "Pow": lambda _, x, y: np.power(x, y),
    "Max": lambda _, x, y: np.maximum(x, y),
    "Min": lambda _, x, y: np.minimum(x, y),
    "Clip": _clip,
    "Erf": lambda _, x: erf(x),
    "Exp": lambda _, x: np.exp(x),
    "HardSigmoid": _hard_sigmoid,
    "Log": lambda _, x: np.log(x),
    "Neg": lambda _, x: -x,
    "Relu": lambda _, x: np.maximum(x, 0),
    "Sigmoid": lambda _, x: sigmoid(x),
    "Softplus": lambda _, x: np.log1p(np.exp(x)),
    "Tanh": lambda _, x: np.tanh(x),
}


def computable(node: ir.Node | None) -> bool:
    """Whether `evaluate` knows the operator."""
    return is_fused(node, *FUSED_ACTIVATIONS) or (is_op(node, *_EVALUATE) and _has_operands(node))


def _has_operands(node: ir.Node | None) -> bool:
    return node is not None and all(value is not None for value in node.inputs[:1])


def evaluate(node: ir.Node, known: Mapping[ir.Value, Array]) -> Array:
    """The node's result in double precision, its operands from `known` or constants of one element."""
    operands: list[Any] = [None if v is None else known[v] if v in known else _number(v) for v in node.inputs]
    with np.errstate(all="ignore"):
        if is_fused(node):
            return FUSED_ACTIVATIONS[kind(node)](*operands)
        return _EVALUATE[node.op_type](node, *operands)


def _number(value: ir.Value) -> Any:
    array = constant(value)
    assert array is not None and array.size == 1, value
    return np.float64(array.reshape(()))


def second_operand(node: ir.Node, first: ir.Value) -> ir.Value | None:
    """The other operand of a binary node; None where both are `first`."""
    others = [v for v in (operand(node, 0), operand(node, 1)) if v is not first]
    return others[0] if others else None


def learned(nodes: Iterable[ir.Node]) -> list[ir.Value]:
    """Constants that differ from layer to layer (factors, offsets, slopes), none that define an operator."""
    read = (v for node in nodes if is_op(node, "Add", "Sub", "Mul", "Div", "PRelu") for v in node.inputs)
    return [v for v in dict.fromkeys(read) if v is not None and constant(v) is not None]
