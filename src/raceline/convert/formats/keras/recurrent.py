"""Recurrent layers: ONNX's own where it has them, else unrolled steps. Masks are exact, wherever they are.

Legend of shapes: B batch, T steps, I input, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras import cells
from raceline.convert.formats.keras.layers import Call, Layer, floating, refuse
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
Values = list["ir.Value"]
MOST_UNROLLED = 256
_ACTIVATIONS = {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "softsign": "Softsign",
    "softplus": "Softplus",
}


@rules("LSTM", "GRU", "SimpleRNN", "RNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def recurrent(
    b: Builder, call: Call, x: Any, initial_state: Any = None, mask: Any = None, constants: Any = None
) -> Any:
    """A layer over the steps of a sequence."""
    if isinstance(x, list | tuple):  # Keras 2 passes the state along with the sequence
        x, initial_state = x[0], [*x[1:]] or initial_state
    if constants:
        raise UnsupportedError("constants beside the sequence")
    refuse(call, stateful=(False, None), time_major=(False, None))
    states = _listed(initial_state)
    used = mask if mask is not None else call.mask
    outputs, last, final = run(b, call, call.layer, floating(b, x), [floating(b, s) for s in states], used)
    result = outputs if call.get("return_sequences") else last
    kept = used if call.get("return_sequences") else None
    if not call.get("return_state"):
        call.result_masks = [kept]
        return result
    call.result_masks = [kept, *[None] * len(final)]
    return [result, *final]


def _listed(state: Any) -> Values:
    if state is None:
        return []
    if isinstance(state, list | tuple):
        return [leaf for item in state for leaf in _listed(item)]
    return [state]


def run(
    b: Builder, call: Call, layer: Layer, x: ir.Value, states: Values, mask: ir.Value | None
) -> tuple[ir.Value, ir.Value, Values]:
    """Run a recurrent layer.

    Args:
        b: receives the nodes.
        call: gives weights.
        layer: LSTM, GRU, SimpleRNN, RNN or a ConvLSTM.
        x: (B, T, ...).
        states: what it starts from; none for zeros.
        mask: (B, T), or None.

    Returns:
        every step's output (B, T, ...) in the order in which the steps were taken, the last one's, the state.
    """
    backwards = bool(layer.config.get("go_backwards", False))
    if backwards:
        x = _reversed(b, x)
        mask = None if mask is None else _reversed(b, mask)
    cell = layer.children.get("cell")
    if cell is None:
        raise UnsupportedError("no cell")
    kind = cell.kind.removesuffix("Cell")
    if kind not in {"LSTM", "GRU", "SimpleRNN"} or not _standard(kind, cell):
        return _unrolled(b, call, layer, cell, x, states, mask)
    if mask is None:
        y, last, final = _native(b, call, kind, cell, x, states, None)
        return y, last, final
    return _masked(b, call, layer, kind, cell, x, states, mask)


def _reversed(b: Builder, x: ir.Value) -> ir.Value:
    """The steps the other way round."""
    lowest = np.iinfo(np.int64).min
    return b.op("Slice", x, [-1], [lowest + 1], [1], [-1])  # type: ignore[no-any-return]


def _standard(kind: str, cell: Layer) -> bool:
    """Whether ONNX's operator has these activations."""
    used = [cell.config.get("activation", "tanh")]
    if kind != "SimpleRNN":
        used.append(cell.config.get("recurrent_activation", "sigmoid"))
    plain = all(isinstance(name, str) and (name in _ACTIVATIONS or _old_hard(name, cell)) for name in used)
    return plain and cell.config.get("implementation", 1) is not None


def _old_hard(name: Any, cell: Layer) -> bool:
    return name == "hard_sigmoid" and cell.major < 3  # ONNX's default slope is that of Keras 2


def _native(
    b: Builder, call: Call, kind: str, cell: Layer, x: ir.Value, states: Values, lengths: ir.Value | None
) -> tuple[ir.Value, ir.Value, Values]:
    """ONNX's LSTM, GRU or RNN; y is (B, T, H)."""
    units = int(cell.config["units"])
    w, r, bias = cells.onnx_weights(call, kind, cell, b.shape(x)[-1])
    names = [str(cell.config.get("activation", "tanh"))]
    if kind != "SimpleRNN":
        names.insert(0, str(cell.config.get("recurrent_activation", "sigmoid")))
    activations = ["HardSigmoid" if name == "hard_sigmoid" else _ACTIVATIONS[name] for name in names]
    if kind == "LSTM":
        activations.append(activations[1])
    expected = 2 if kind == "LSTM" else 1
    if states and len(states) != expected:
        raise UnsupportedError(f"{len(states)} initial states")
    initial = [b.op("Unsqueeze", state, [0]) for state in states]
    extra: dict[str, Any] = {"linear_before_reset": int(cells.resets_after(cell))} if kind == "GRU" else {}
    default = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "SimpleRNN": ["Tanh"]}[kind]
    results = b.op(
        {"SimpleRNN": "RNN"}.get(kind, kind), b.transpose(x, [1, 0, 2]), w, r, bias, lengths, *initial,
        outputs=1 + expected, hidden_size=units, direction="forward",
        activations=None if activations == default else activations, **extra,
    )  # fmt: skip
    y = b.transpose(b.op("Squeeze", results[0], [1]), [1, 0, 2])
    final = [b.op("Squeeze", state, [0]) for state in results[1:]]
    return y, final[0], final


def _masked(
    b: Builder, call: Call, layer: Layer, kind: str, cell: Layer, x: ir.Value, states: Values, mask: ir.Value
) -> tuple[ir.Value, ir.Value, Values]:
    """A run in which only masked-in steps count, wherever they are.

    The steps that count are moved to the front in their order, the rest is cut off by their number, and each step
    then takes the output of the last step up to it that counted, which is what Keras's skipped steps repeat.
    """
    counts = b.cast(mask, np.int64)
    length = b.op("ReduceSum", counts, [1], keepdims=0)
    position = b.op("CumSum", counts, np.array(1, np.int64))  # steps that count, up to here
    steps = b.op("Shape", x, start=1, end=2)
    # Those that count come first: their keys are over T, falling; the others' are below.
    place = b.op("CumSum", b.op("Add", b.op("Mul", counts, [0]), [1]), np.array(1, np.int64))
    key = b.op("Sub", b.op("Mul", counts, b.op("Add", steps, [1])), place)
    _, order = b.op("TopK", key, steps, outputs=2, axis=1, largest=1, sorted=1)
    front = _picked(b, x, order)
    y, last, final = _native(b, call, kind, cell, front, states, b.cast(length, np.int32))
    nothing = b.op("Mul", b.op("Slice", y, [0], [1], [1]), b.scalar(0, y))
    outputs = _picked(b, b.op("Concat", nothing, y, axis=1), position)
    if layer.config.get("zero_output_for_mask"):
        outputs = b.op("Mul", outputs, b.op("Unsqueeze", b.cast(mask, np.float32), [2]))
        last = b.op("Squeeze", b.op("Slice", outputs, [-1], [np.iinfo(np.int64).max], [1]), [1])
    return outputs, last, final


def _picked(b: Builder, x: ir.Value, index: ir.Value) -> ir.Value:
    """x[i, index[i, t]] for x of (B, T, I) and an index of (B, T)."""
    return b.op("GatherND", x, b.op("Unsqueeze", index, [2]), batch_dims=1)  # type: ignore[no-any-return]


def _unrolled(
    b: Builder, call: Call, layer: Layer, cell: Layer, x: ir.Value, states: Values, mask: ir.Value | None
) -> tuple[ir.Value, ir.Value, Values]:
    """Step after step, for cells that ONNX has no operator for; the number of steps must be fixed."""
    steps = b.shape(x)[1]
    if not isinstance(steps, int) or steps > MOST_UNROLLED:
        raise UnsupportedError(
            f"a {cell.kind} of these settings over {steps or 'an open number of'} steps: more than "
            f"{MOST_UNROLLED}, or not fixed"
        )
    if steps == 0:
        raise UnsupportedError("no steps")
    outputs: Values = []
    for step in range(steps):
        y, new = cells.step(b, call, cell, _at(b, x, step), states)
        if mask is not None:
            y, new = _held(b, layer, _at(b, mask, step), y, new, states, outputs)
        states = new
        outputs.append(y)
    stacked = [b.op("Unsqueeze", y, [1]) for y in outputs]
    whole = stacked[0] if steps == 1 else b.op("Concat", *stacked, axis=1)
    return whole, outputs[-1], states


def _at(b: Builder, x: ir.Value, step: int) -> ir.Value:
    return b.op("Gather", x, np.array(step, np.int64), axis=1)  # type: ignore[no-any-return]


def _held(
    b: Builder,
    layer: Layer,
    counts: ir.Value,
    y: ir.Value,
    new: Values,
    old: Values,
    before: Sequence[ir.Value],
) -> tuple[ir.Value, Values]:
    """Output and state of a step that counts for some of the batch only."""

    def where(value: ir.Value, other: ir.Value) -> ir.Value:
        mask = b.op("Unsqueeze", counts, list(range(1, b.rank(value)))) if b.rank(value) > 1 else counts
        return b.op("Where", mask, value, other)  # type: ignore[no-any-return]

    zero = b.scalar(0, y)
    skipped = zero if layer.config.get("zero_output_for_mask") or not before else before[-1]
    return where(y, skipped), [where(n, o) for n, o in zip(new, old or [zero] * len(new), strict=True)]


@rules("Bidirectional")
def bidirectional(b: Builder, call: Call, x: Any, initial_state: Any = None, mask: Any = None) -> Any:
    """One layer from the front, one from the back."""
    if isinstance(x, list | tuple):
        x, initial_state = x[0], [*x[1:]] or initial_state
    forward, backward = call.layer.children["forward_layer"], call.layer.children["backward_layer"]
    for part in (forward, backward):
        if part.config.get("stateful") or "cell" not in part.children:
            raise UnsupportedError(
                "a stateful layer" if part.config.get("stateful") else f"a {part.kind} inside"
            )
        if call.layer.major >= 3 or part.config.get("return_sequences"):
            part.config = {**part.config, "zero_output_for_mask": bool(part.config.get("return_sequences"))}
    states = [floating(b, s) for s in _listed(initial_state)]
    half = len(states) // 2
    used = mask if mask is not None else call.mask
    x = floating(b, x)
    one, one_last, one_state = run(b, call, forward, x, states[:half], used)
    two, two_last, two_state = run(b, call, backward, x, states[half:], used)
    sequences = bool(forward.config.get("return_sequences"))
    y = _united(b, call, one, _reversed(b, two)) if sequences else _united(b, call, one_last, two_last)
    results = y if isinstance(y, list) else [y]
    call.result_masks = [used if sequences else None] * len(results)
    if forward.config.get("return_state"):
        call.result_masks += [None] * (len(one_state) + len(two_state))
        results = [*results, *one_state, *two_state]
    return results if len(results) > 1 else results[0]


def _united(b: Builder, call: Call, one: ir.Value, two: ir.Value) -> Any:
    mode = call.get("merge_mode", "concat")
    if mode is None:
        return [one, two]
    if mode == "concat":
        return b.op("Concat", one, two, axis=-1)
    if mode == "mul":
        return b.op("Mul", one, two)
    if mode not in {"sum", "ave"}:
        raise UnsupportedError(f"merge_mode={mode!r}")
    total = b.op("Add", one, two)
    return total if mode == "sum" else b.op("Mul", total, b.scalar(0.5, total))
