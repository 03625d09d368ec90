"""Cells of recurrent layers: their weights in ONNX's order, and one step of each.

Legend of shapes: B batch, I input, H hidden.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.channels_last import channels_first, channels_last
from raceline.convert.formats.keras.activations import activate
from raceline.convert.formats.keras.convolution import convolve, forward_kernel
from raceline.convert.formats.keras.layers import Array, Call, Layer, pair
from raceline.convert.lower import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

Values = list["ir.Value"]
_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}
_ORDER = {"LSTM": [0, 3, 1, 2], "GRU": [0, 1, 2], "SimpleRNN": [0]}  # ONNX: i o f c, z r h


def resets_after(cell: Layer) -> bool:
    """Whether a GRU multiplies by the reset gate after its recurrent product; old Keras did not, nor said so."""
    return bool(cell.config.get("reset_after", cell.major >= 3))


def _biases(call: Call, kind: str, cell: Layer) -> tuple[Array, Array]:
    """Of the input's product and of the state's: (gates * H,) each."""
    width = _GATES[kind] * int(cell.config["units"])
    if not cell.config.get("use_bias", True):
        return np.zeros(width, np.float32), np.zeros(width, np.float32)
    if kind == "GRU" and resets_after(cell):
        both = call.weight("bias", (2, width), of=cell)
        return both[0], both[1]
    return call.weight("bias", (width,), of=cell), np.zeros(width, np.float32)


def onnx_weights(call: Call, kind: str, cell: Layer, size: Any) -> tuple[Array, Array, Array]:
    """Weights as ONNX takes them: (1, gates * H, I), (1, gates * H, H), (1, 2 * gates * H)."""
    units, gates = int(cell.config["units"]), _GATES[kind]
    kernel = call.weight("kernel", (size, gates * units), of=cell)
    recurrent = call.weight("recurrent_kernel", (units, gates * units), of=cell)

    def ordered(array: Array) -> Array:
        parts = np.split(array, gates, axis=-1)
        return np.concatenate([parts[gate] for gate in _ORDER[kind]], axis=-1)

    bias = np.concatenate([ordered(part) for part in _biases(call, kind, cell)])
    return (
        np.ascontiguousarray(ordered(kernel).T)[None],
        np.ascontiguousarray(ordered(recurrent).T)[None],
        bias[None],
    )


def step(b: Builder, call: Call, cell: Layer, x: ir.Value, states: Values) -> tuple[ir.Value, Values]:
    """One step.

    Args:
        b: receives the nodes.
        call: gives weights.
        cell: of any kind.
        x: (B, I), or a picture for ConvLSTM.
        states: before; empty for zeros.

    Returns:
        output and states after.
    """
    if cell.kind == "StackedRNNCells":
        return _stacked(b, call, cell, x, states)
    kind = cell.kind.removesuffix("Cell")
    if kind == "ConvLSTM":
        return _conv_lstm(b, call, cell, x, states)
    if kind not in _GATES:
        raise UnsupportedError(f"a cell of class {cell.kind}")
    expected = 2 if kind == "LSTM" else 1
    if states and len(states) != expected:
        raise UnsupportedError(f"{len(states)} initial states")
    return {"LSTM": _lstm, "GRU": _gru, "SimpleRNN": _simple}[kind](b, call, cell, x, states)


def _stacked(b: Builder, call: Call, cell: Layer, x: ir.Value, states: Values) -> tuple[ir.Value, Values]:
    after: Values = []
    rest = list(states)
    for part in cell.children.values():
        count = 2 if part.kind in {"LSTMCell", "ConvLSTMCell"} else 1
        own, rest = rest[:count], rest[count:]
        x, new = step(b, call, part, x, own)
        after += new
    return x, after


def _product(b: Builder, call: Call, cell: Layer, x: ir.Value, name: str, bias: Array | None) -> ir.Value:
    y = b.op("MatMul", x, call.weight(name, (b.shape(x)[-1], None), of=cell))
    return b.op("Add", y, bias) if bias is not None and bias.any() else y  # type: ignore[no-any-return]


def _functions(b: Builder, cell: Layer) -> tuple[Any, Any]:
    """The activations of the state and of the gates."""

    def of(name: str, default: str) -> Any:
        return lambda x: activate(b, x, cell.config.get(name, default), major=cell.major)

    return of("activation", "tanh"), of("recurrent_activation", "sigmoid")


def _simple(b: Builder, call: Call, cell: Layer, x: ir.Value, states: Values) -> tuple[ir.Value, Values]:
    y = _product(b, call, cell, x, "kernel", _biases(call, "SimpleRNN", cell)[0])
    if states:
        y = b.op("Add", y, _product(b, call, cell, states[0], "recurrent_kernel", None))
    y = _functions(b, cell)[0](y)
    return y, [y]


def _lstm(b: Builder, call: Call, cell: Layer, x: ir.Value, states: Values) -> tuple[ir.Value, Values]:
    z = _product(b, call, cell, x, "kernel", _biases(call, "LSTM", cell)[0])
    if states:
        z = b.op("Add", z, _product(b, call, cell, states[0], "recurrent_kernel", None))
    return _gated(b, cell, b.op("Split", z, outputs=4, axis=-1, num_outputs=4), states)


def _gated(b: Builder, cell: Layer, gates: Any, states: Values) -> tuple[ir.Value, Values]:
    """The end of an LSTM step: gates for input, forgetting, candidate and output, before their activations."""
    activation, recurrent = _functions(b, cell)
    i, f, c, o = gates
    carry = b.op("Mul", recurrent(i), activation(c))
    if states:
        carry = b.op("Add", b.op("Mul", recurrent(f), states[1]), carry)
    h = b.op("Mul", recurrent(o), activation(carry))
    return h, [h, carry]


def _gru(b: Builder, call: Call, cell: Layer, x: ir.Value, states: Values) -> tuple[ir.Value, Values]:
    activation, recurrent = _functions(b, cell)
    units = int(cell.config["units"])
    bias, state_bias = _biases(call, "GRU", cell)
    h = states[0] if states else _zeros(b, x, units)
    x_z, x_r, x_h = b.op(
        "Split", _product(b, call, cell, x, "kernel", bias), outputs=3, axis=-1, num_outputs=3
    )
    weight = call.weight("recurrent_kernel", (units, 3 * units), of=cell)
    after = resets_after(cell)
    h_z, h_r = (
        b.op("Add", b.op("MatMul", h, weight[:, part]), state_bias[part])
        for part in (slice(units), slice(units, 2 * units))
    )
    z, r = recurrent(b.op("Add", x_z, h_z)), recurrent(b.op("Add", x_r, h_r))
    last = weight[:, 2 * units :]
    if after:
        h_h = b.op("Mul", r, b.op("Add", b.op("MatMul", h, last), state_bias[2 * units :]))
    else:
        h_h = b.op("MatMul", b.op("Mul", r, h), last)
    candidate = activation(b.op("Add", x_h, h_h))
    y = b.op("Add", b.op("Mul", z, h), b.op("Mul", b.op("Sub", b.scalar(1, z), z), candidate))
    return y, [y]


def _zeros(b: Builder, x: ir.Value, units: int) -> ir.Value:
    """(B, units) of nothing."""
    batch = b.op("Shape", x, start=0, end=1)
    return b.op("Expand", np.float32(0), b.op("Concat", batch, [units], axis=0))  # type: ignore[no-any-return]


def _conv_lstm(b: Builder, call: Call, cell: Layer, x: ir.Value, states: Values) -> tuple[ir.Value, Values]:
    """An LSTM step whose products are convolutions."""
    last = (cell.config.get("data_format") or "channels_last") == "channels_last"
    rank = b.rank(x) - 2
    filters = int(cell.config["filters"])
    size, ones = pair(cell.config["kernel_size"], rank), [1] * rank
    inward = channels_first(b, x) if last else x
    kernel = call.weight("kernel", (*size, b.shape(inward)[1], 4 * filters), of=cell)
    bias = call.weight("bias", (4 * filters,), of=cell) if cell.config.get("use_bias", True) else None
    z = convolve(
        b, inward, forward_kernel(kernel), bias,
        strides=pair(cell.config.get("strides", 1), rank),
        dilations=pair(cell.config.get("dilation_rate", 1), rank),
        padding=str(cell.config.get("padding", "valid")), group=1,
    )  # fmt: skip
    if states:
        state = channels_first(b, states[0]) if last else states[0]
        weight = forward_kernel(call.weight("recurrent_kernel", (*size, filters, 4 * filters), of=cell))
        z = b.op(
            "Add", z,
            convolve(b, state, weight, None, strides=ones, dilations=ones, padding="same", group=1),
        )  # fmt: skip
    z = channels_last(b, z) if last else z
    return _gated(b, cell, b.op("Split", z, outputs=4, axis=-1 if last else 1, num_outputs=4), states)
