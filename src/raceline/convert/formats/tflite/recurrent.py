"""Recurrent layers over whole sequences, as the standard's LSTM and RNN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.asking import nonempty, option, source
from raceline.convert.formats.tflite.quantise import ACTIVATIONS, activated, is_quantised
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_GATES = (0, 3, 1, 2)  # the file has input, forget, cell, output; the standard input, output, forget, cell
_PEEPHOLES = (0, 2, 1)
_LARGEST_STATE = 1 << 16
_CLIP_THAT_ONLY_CONVERTERS_WRITE = 10.0


@rules("UNIDIRECTIONAL_SEQUENCE_LSTM")
def lstm(b: Builder, node: SourceNode, x: ir.Value, *operands: ir.Value | None) -> ir.Value:
    """An LSTM over a sequence; its state starts at zero, as it does in a fresh interpreter."""
    _refuse_lstm(b, node, x)
    if any(nonempty(b, value) is not None for value in operands[19:23]):
        raise UnsupportedError("layer normalisation")
    if option(node, "diagonal_recurrent_tensors"):
        raise UnsupportedError("diagonal recurrent weights")
    initial = [_state(b, node, i + 1, operands[i]) for i in (17, 18)]
    return _time_first(b, node, x, lambda seq: _lstm(b, seq, operands[:17], "forward", initial))


@rules("BIDIRECTIONAL_SEQUENCE_LSTM")
def bidirectional_lstm(
    b: Builder, node: SourceNode, x: ir.Value, *operands: ir.Value | None
) -> tuple[ir.Value, ...]:
    """Two LSTMs, one of them backwards."""
    _refuse_lstm(b, node, x)
    if any(nonempty(b, value) is not None for value in operands[38:]):
        raise UnsupportedError("an auxiliary input")
    initial = [_state(b, node, i + 1, operands[i]) for i in (34, 35, 36, 37)]
    parts = [
        _time_first(b, node, x, lambda seq: _lstm(b, seq, operands[:17], "forward", initial[:2])),
        _time_first(b, node, x, lambda seq: _lstm(b, seq, operands[17:34], "reverse", initial[2:])),
    ]
    return _merged(b, node, parts)


@rules("UNIDIRECTIONAL_SEQUENCE_RNN")
def rnn(
    b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value, recurrent: ir.Value, bias: ir.Value | None,
    state: ir.Value | None,
) -> ir.Value:  # fmt: skip
    """A plain recurrent layer over a sequence."""
    start = _state(b, node, 4, state)
    return _time_first(
        b, node, x, lambda seq: _rnn(b, node, seq, (weight, recurrent, bias), "forward", start)
    )


@rules("BIDIRECTIONAL_SEQUENCE_RNN")
def bidirectional_rnn(
    b: Builder, node: SourceNode, x: ir.Value, *operands: ir.Value | None
) -> tuple[ir.Value, ...]:
    """Two plain recurrent layers, one of them backwards."""
    if any(nonempty(b, value) is not None for value in operands[8:]):
        raise UnsupportedError("an auxiliary input")
    starts = [_state(b, node, 4, operands[3]), _state(b, node, 8, operands[7])]
    parts = [
        _time_first(b, node, x, lambda seq: _rnn(b, node, seq, operands[:3], "forward", starts[0])),
        _time_first(b, node, x, lambda seq: _rnn(b, node, seq, operands[4:7], "reverse", starts[1])),
    ]
    return _merged(b, node, parts)


@rules("RNN")
def rnn_cell(b: Builder, node: SourceNode, *operands: ir.Value | None) -> ir.Value:
    """Refused: its result depends on earlier calls."""
    raise UnsupportedError("it keeps state between calls; convert the whole sequence at once")


@rules("LSTM")
def lstm_cell(
    b: Builder, node: SourceNode, x: ir.Value, output: ir.Value | None = None, weight: ir.Value | None = None,
    bias: ir.Value | None = None, state: ir.Value | None = None, *more: ir.Value | None,
) -> tuple[ir.Value | None, ...]:  # fmt: skip
    """One step of an LSTM whose state is an operand; the fuller kernel keeps it between calls."""
    if option(node, "kernel_type") != 1 or more or weight is None or output is None or state is None:
        raise UnsupportedError("it keeps state between calls; convert the whole sequence at once")
    if is_quantised(source(node)) or option(node, "cell_clip") or option(node, "proj_clip"):
        raise UnsupportedError("limits, or 8-bit arithmetic")
    joined = b.op("Concat", x, output, axis=1)
    gates = b.op("Gemm", joined, weight, nonempty(b, bias), transB=1)
    size = b.shape(state)[1]
    if not isinstance(size, int):
        raise UnsupportedError("a state of open size")
    enter, new, forget, leave = b.op("Split", gates, [size] * 4, axis=1, outputs=4)
    candidate = activated(b, new, option(node, "fused_activation_function"))
    kept = b.op("Mul", b.op("Sigmoid", forget), state)
    after = b.op("Add", b.op("Mul", b.op("Sigmoid", enter), candidate), kept)
    result = b.op("Mul", b.op("Sigmoid", leave), b.op("Tanh", after))
    return result, after, joined, gates


def _refuse_lstm(b: Builder, node: SourceNode, x: ir.Value) -> None:
    if is_quantised(source(node)):
        raise UnsupportedError("8-bit arithmetic")
    if ACTIVATIONS[option(node, "fused_activation_function")] != "TANH":
        raise UnsupportedError("an activation other than TANH")
    clip = float(node.attributes.get("cell_clip", 0.0))
    steps = b.shape(x)[0 if option(node, "time_major") else 1]
    harmless = clip >= _CLIP_THAT_ONLY_CONVERTERS_WRITE or isinstance(steps, int) and steps <= clip
    if clip and not harmless:  # a step adds one at most to the cell state, whose tanh is 1 - 4e-9 at 10
        raise UnsupportedError(f"a cell state limited to {clip}")
    if float(node.attributes.get("proj_clip", 0.0)):
        raise UnsupportedError("a limited projection")


def _state(b: Builder, node: SourceNode, index: int, value: ir.Value | None) -> ir.Value | None:
    """An initial state; None for zeros."""
    value = nonempty(b, value)
    if value is None or source(node, index).variable:
        return None
    array = b.array(value)
    return None if array is not None and not array.any() else value


def _time_first(b: Builder, node: SourceNode, x: ir.Value, layer: Callable[[ir.Value], ir.Value]) -> ir.Value:
    """The layer's (time, batch, size) result for x, whose first two axes may be the other way about."""
    if option(node, "time_major"):
        return layer(x)
    return b.transpose(layer(b.transpose(x, [1, 0, 2])), [1, 0, 2])


def _merged(b: Builder, node: SourceNode, parts: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
    if option(node, "merge_outputs"):
        return (b.op("Concat", *parts, axis=2),)
    return tuple(parts)


def _stacked(b: Builder, parts: Sequence[ir.Value]) -> ir.Value:
    """Matrices or vectors one above the other, with a first axis for the direction."""
    arrays = [b.array(part) for part in parts]
    if all(array is not None for array in arrays):
        return b.constant(np.concatenate([a for a in arrays if a is not None])[None])
    return b.op("Unsqueeze", b.op("Concat", *parts, axis=0), [0])  # type: ignore[no-any-return]


def _bounded(size: int | str | None) -> int:
    """The size of a state; a file may claim any."""
    if not isinstance(size, int) or not 0 < size <= _LARGEST_STATE:
        raise UnsupportedError(f"a state of size {size}")
    return size


def _lstm(
    b: Builder, seq: ir.Value, operands: Sequence[ir.Value | None], direction: str,
    initial: Sequence[ir.Value | None],
) -> ir.Value:  # fmt: skip
    """One direction. `operands`: four input weights, four recurrent, three peepholes, four biases, projection."""
    given = [nonempty(b, value) for value in operands]
    if any(value is not None for value in given[15:17]):
        raise UnsupportedError("a projection")
    weights, recurrent, peepholes, biases = given[0:4], given[4:8], given[8:11], given[11:15]
    coupled = weights[0] is None
    if coupled:  # the input gate is one minus the forget gate: sigmoid(-z) = 1 - sigmoid(z)
        weights[0], recurrent[0], biases[0] = (
            b.op("Neg", group[1]) for group in (weights, recurrent, biases)
        )
        peepholes[0] = b.op("Neg", peepholes[1]) if peepholes[1] is not None else None
    if any(value is None for value in (*weights, *recurrent, *biases)):
        raise ValueError("a gate has no weights")
    size = _bounded(b.shape(recurrent[1])[1])  # type: ignore[arg-type]
    matrix = [_stacked(b, [group[i] for i in _GATES]) for group in (weights, recurrent)]  # type: ignore[misc]
    bias = _stacked(b, [biases[i] for i in _GATES])  # type: ignore[misc]
    both = b.op("Concat", bias, np.zeros((1, 4 * size), np.float32), axis=1)
    peeps = None
    if any(value is not None for value in peepholes):
        peeps = _stacked(b, [peepholes[i] for i in _PEEPHOLES])  # type: ignore[misc]
    starts = [None if value is None else b.op("Unsqueeze", value, [0]) for value in initial]
    if (starts[0] is None) != (starts[1] is None):
        raise UnsupportedError("only one of two states that is not zero")
    result, _, _ = b.op(
        "LSTM", seq, *matrix, both, None, *starts, peeps, hidden_size=size, direction=direction, outputs=3
    )  # fmt: skip
    return b.op("Squeeze", result, [1])  # type: ignore[no-any-return]


def _rnn(
    b: Builder, node: SourceNode, seq: ir.Value, operands: Sequence[ir.Value | None], direction: str,
    initial: ir.Value | None,
) -> ir.Value:  # fmt: skip
    """One direction. `operands`: input weights, recurrent weights, bias."""
    name = ACTIVATIONS[option(node, "fused_activation_function")]
    if name not in {"TANH", "RELU"} or is_quantised(source(node)):
        raise UnsupportedError(f"activation {name}, or 8-bit arithmetic")
    weight, recurrent, bias = operands
    assert weight is not None and recurrent is not None
    size = _bounded(b.shape(recurrent)[1])
    both = None
    if bias is not None:
        both = b.op("Concat", _stacked(b, [bias]), np.zeros((1, size), np.float32), axis=1)
    start = None if initial is None else b.op("Unsqueeze", initial, [0])
    result, _ = b.op(
        "RNN", seq, _stacked(b, [weight]), _stacked(b, [recurrent]), both, None, start,
        hidden_size=size, direction=direction, activations=[name.capitalize()], outputs=2,
    )  # fmt: skip
    return b.op("Squeeze", result, [1])  # type: ignore[no-any-return]
