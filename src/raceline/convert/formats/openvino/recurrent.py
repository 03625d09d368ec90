"""Recurrent layers: cells and sequences, whose gates the format orders in its own way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.settings import (
    flag,
    integer,
    number,
    numbers,
    word,
    words,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_ACTIVATIONS = {
    "sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu", "softsign": "Softsign", "softplus": "Softplus",
    "hardsigmoid": "HardSigmoid", "elu": "Elu", "affine": "Affine",
}  # fmt: skip
_LSTM_GATES = [1, 3, 0, 2]
"""Forget, input, cell, output as ONNX has them: input, output, forget, cell."""


def _in_order(b: Builder, x: ir.Value, order: list[int], axis: int = 1) -> Any:
    """Blocks of an axis in another order."""
    array = b.array(x)
    if array is not None:
        parts = np.split(array, len(order), axis=axis)
        return b.constant(np.concatenate([parts[place] for place in order], axis=axis))
    parts = b.op("Split", x, axis=axis, num_outputs=len(order), outputs=len(order))
    return b.op("Concat", *(parts[place] for place in order), axis=axis)


def _settings(node: SourceNode, default: list[str], directions: int) -> dict[str, Any]:
    """ONNX's attributes for the activations, the clip and the number of units."""
    names = words(node, "activations", default)
    if any(name not in _ACTIVATIONS for name in names) or len(names) != len(default):
        raise UnsupportedError(f"activations {', '.join(names)[:60]}")
    alpha, beta = numbers(node, "activations_alpha", []), numbers(node, "activations_beta", [])
    clip = number(node, "clip", 0.0)
    return {
        "hidden_size": integer(node, "hidden_size"),
        "activations": [_ACTIVATIONS[name] for name in names] * directions,
        "activation_alpha": alpha * directions or None,
        "activation_beta": beta * directions or None,
        "clip": clip or None,
    }


def _both_biases(b: Builder, bias: ir.Value) -> Any:
    """ONNX's two biases; the format has their sum."""
    array = b.array(bias)
    if array is not None:
        return b.constant(np.concatenate([array, np.zeros_like(array)], axis=1))
    return b.op("Concat", bias, b.op("Mul", bias, b.scalar(0, bias)), axis=1)


def _gru_bias(b: Builder, bias: ir.Value, units: int, linear_before: bool) -> Any:
    """(directions, 3 or 4 blocks) -> ONNX's six; the fourth belongs to the hidden gate before the product."""
    if not linear_before:
        return _both_biases(b, bias)
    main, own = b.op("Split", bias, [3 * units, units], axis=1, outputs=2)
    zeros = b.op("Mul", b.op("Slice", bias, [0], [2 * units], [1]), b.scalar(0, bias))
    return b.op("Concat", main, zeros, own, axis=1)


def _sequence(
    b: Builder,
    node: SourceNode,
    op: str,
    x: ir.Value,
    states: list[ir.Value],
    lengths: ir.Value | None,
    weights: list[ir.Value],
    attributes: dict[str, Any],
) -> tuple[ir.Value, ...]:
    """Run ONNX's operator: batch and time change places, so do batch and direction of the states."""
    direction = word(node, "direction", "forward", ("forward", "reverse", "bidirectional"))
    cut = None if lengths is None or _all_whole(b, x, lengths) else b.cast(lengths, np.int32)
    results = b.op(
        op, b.transpose(x, [1, 0, 2]), *weights, cut,
        *(b.transpose(state, [1, 0, 2]) for state in states),
        direction=direction, outputs=1 + len(states), **attributes,
    )  # fmt: skip
    y, *last = results
    return b.transpose(y, [2, 1, 0, 3]), *(b.transpose(state, [1, 0, 2]) for state in last)


def _all_whole(b: Builder, x: ir.Value, lengths: ir.Value) -> bool:
    """Whether every sequence is known to be as long as the tensor."""
    array, size = b.array(lengths), b.shape(x)[1]
    return array is not None and isinstance(size, int) and bool((array == size).all())


def _num_directions(node: SourceNode) -> int:
    return 2 if node.attributes.get("direction", "").lower() == "bidirectional" else 1


@rules("LSTMSequence")
def lstm_sequence(
    b: Builder, node: SourceNode, x: ir.Value, hidden: ir.Value, cell: ir.Value, lengths: ir.Value,
    w: ir.Value, r: ir.Value, bias: ir.Value, *peepholes: ir.Value,
) -> Any:  # fmt: skip
    """All steps of an LSTM."""
    if peepholes:
        raise UnsupportedError("peepholes")
    if flag(node, "input_forget", False):
        raise UnsupportedError("input_forget=true")
    word(node, "weights_format", "fico", ("fico",))
    weights = [_in_order(b, value, _LSTM_GATES) for value in (w, r, bias)]
    weights[2] = _both_biases(b, weights[2])
    given = _settings(node, ["sigmoid", "tanh", "tanh"], _num_directions(node))
    return _sequence(b, node, "LSTM", x, [hidden, cell], lengths, weights, given)


@rules("GRUSequence")
def gru_sequence(
    b: Builder, node: SourceNode, x: ir.Value, hidden: ir.Value, lengths: ir.Value,
    w: ir.Value, r: ir.Value, bias: ir.Value,
) -> Any:  # fmt: skip
    """All steps of a GRU."""
    linear = flag(node, "linear_before_reset", False)
    given = _settings(node, ["sigmoid", "tanh"], _num_directions(node))
    weights = [w, r, _gru_bias(b, bias, given["hidden_size"], linear)]
    given["linear_before_reset"] = int(linear)
    return _sequence(b, node, "GRU", x, [hidden], lengths, weights, given)


@rules("RNNSequence")
def rnn_sequence(
    b: Builder, node: SourceNode, x: ir.Value, hidden: ir.Value, lengths: ir.Value,
    w: ir.Value, r: ir.Value, bias: ir.Value,
) -> Any:  # fmt: skip
    """All steps of a simple recurrent layer."""
    given = _settings(node, ["tanh"], _num_directions(node))
    return _sequence(b, node, "RNN", x, [hidden], lengths, [w, r, _both_biases(b, bias)], given)


def _cell(
    b: Builder,
    op: str,
    x: ir.Value,
    states: list[ir.Value],
    weights: list[ir.Value],
    attributes: dict[str, Any],
) -> tuple[ir.Value, ...]:
    """One step, as a sequence of length 1."""
    results = b.op(
        op, b.op("Unsqueeze", x, [0]), *weights, None, *(b.op("Unsqueeze", state, [0]) for state in states),
        outputs=1 + len(states), **attributes,
    )  # fmt: skip
    return tuple(b.op("Squeeze", state, [0]) for state in results[1:])


@rules("LSTMCell")
def lstm_cell(
    b: Builder, node: SourceNode, x: ir.Value, hidden: ir.Value, cell: ir.Value,
    w: ir.Value, r: ir.Value, bias: ir.Value, *peepholes: ir.Value,
) -> Any:  # fmt: skip
    """One step of an LSTM."""
    if peepholes or flag(node, "input_forget", False):
        raise UnsupportedError("peepholes or input_forget=true")
    word(node, "weights_format", "fico", ("fico",))
    weights = [b.op("Unsqueeze", _in_order(b, value, _LSTM_GATES, axis=0), [0]) for value in (w, r, bias)]
    weights[2] = _both_biases(b, weights[2])
    given = _settings(node, ["sigmoid", "tanh", "tanh"], 1)
    return _cell(b, "LSTM", x, [hidden, cell], weights, given)


@rules("GRUCell")
def gru_cell(
    b: Builder, node: SourceNode, x: ir.Value, hidden: ir.Value, w: ir.Value, r: ir.Value, bias: ir.Value
) -> Any:
    """One step of a GRU."""
    linear = flag(node, "linear_before_reset", False)
    given = _settings(node, ["sigmoid", "tanh"], 1)
    weights = [b.op("Unsqueeze", value, [0]) for value in (w, r, bias)]
    weights[2] = _gru_bias(b, weights[2], given["hidden_size"], linear)
    given["linear_before_reset"] = int(linear)
    return _cell(b, "GRU", x, [hidden], weights, given)


@rules("RNNCell")
def rnn_cell(
    b: Builder, node: SourceNode, x: ir.Value, hidden: ir.Value, w: ir.Value, r: ir.Value, bias: ir.Value
) -> Any:
    """One step of a simple recurrent layer."""
    weights = [b.op("Unsqueeze", value, [0]) for value in (w, r, bias)]
    weights[2] = _both_biases(b, weights[2])
    return _cell(b, "RNN", x, [hidden], weights, _settings(node, ["tanh"], 1))
