"""Recurrent networks: whole sequences, and single cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raceline.convert.formats.torchscript.operands import ints as ints_of
from raceline.convert.formats.torchscript.operands import size
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()

_LSTM_ORDER = (0, 3, 1, 2)  # torch: input, forget, cell, output; ONNX: input, output, forget, cell
_GRU_ORDER = (1, 0, 2)  # torch: reset, update, new; ONNX: update, reset, hidden


def _gates(b: Builder, weight: Any, order: tuple[int, ...]) -> Any:
    """A weight or bias with its gates in another order."""
    parts = b.op("Split", weight, outputs=len(order), axis=0, num_outputs=len(order))
    return b.op("Concat", *(parts[place] for place in order), axis=0)


def _stacked(b: Builder, sides: list[Any]) -> Any:
    rows = [b.op("Unsqueeze", side, [0]) for side in sides]
    return rows[0] if len(rows) == 1 else b.op("Concat", *rows, axis=0)


def _layer_weights(
    b: Builder, weights: list[Any], order: tuple[int, ...] | None, biased: bool
) -> tuple[Any, Any, Any]:
    """ONNX's W, R and B of a layer from torch's four (or two) for each direction."""
    count = 4 if biased else 2
    directions = [weights[at : at + count] for at in range(0, len(weights), count)]

    def put(item: Any) -> Any:
        return _gates(b, item, order) if order else item

    w = _stacked(b, [put(direction[0]) for direction in directions])
    r = _stacked(b, [put(direction[1]) for direction in directions])
    if not biased:
        return w, r, None
    both = [b.op("Concat", put(d[2]), put(d[3]), axis=0) for d in directions]
    return w, r, _stacked(b, both)


def _run(
    b: Builder, node: Node, op: str, x: Any, states: list[Any], params: list[Any], biased: Any, layers: Any,
    training: Any, bidirectional: Any, batch_first: Any, share: Any, **settings: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Layers one after another; the output and the last states."""
    if training and share and layers > 1:
        raise UnsupportedError("it drops elements at random, as in training")
    order = {"LSTM": _LSTM_ORDER, "GRU": _GRU_ORDER}.get(op)
    alone = b.rank(x) == 2
    if alone:
        x, states = b.op("Unsqueeze", x, [1]), [b.op("Unsqueeze", state, [1]) for state in states]
    elif batch_first:
        x = b.transpose(x, [1, 0, 2])
    directions = 2 if bidirectional else 1
    each = len(params) // layers
    if len(params) != layers * directions * (4 if biased else 2):
        raise UnsupportedError("a projection of its state")
    hidden: Any = b.shape(params[1])[1]
    ends: list[list[Any]] = [[] for _ in states]
    for layer in range(layers):
        w, r, bias = _layer_weights(b, params[layer * each : (layer + 1) * each], order, bool(biased))
        low, high = layer * directions, (layer + 1) * directions
        first = [state if layers == 1 else b.op("Slice", state, [low], [high], [0]) for state in states]
        y, *last = b.op(
            op, x, w, r, bias, None, *first, outputs=1 + len(states), hidden_size=int(hidden),
            direction="bidirectional" if bidirectional else "forward", **settings,
        )  # fmt: skip
        for end, item in zip(ends, last, strict=True):
            end.append(item)
        x = b.op("Squeeze", y, [1]) if directions == 1 else _both_ways(b, y, int(hidden))
    final = [end[0] if layers == 1 else b.op("Concat", *end, axis=0) for end in ends]
    if alone:
        return b.op("Squeeze", x, [1]), *(b.op("Squeeze", item, [1]) for item in final)
    return (b.transpose(x, [1, 0, 2]) if batch_first else x), *final


def _both_ways(b: Builder, y: Any, hidden: int) -> Any:
    """(time, 2, batch, hidden) as (time, batch, 2 hidden)."""
    turned = b.transpose(y, [0, 2, 1, 3])
    sizes = [size(b, turned, 0), size(b, turned, 1), 2 * hidden]
    return b.op("Reshape", turned, ints_of(b, sizes))


@rules("aten::lstm")
def lstm(b: Builder, node: Node, x: Any, states: Any, params: Any, *rest: Any) -> Any:
    """Long short-term memory over a sequence."""
    if node.overload != "input":
        raise UnsupportedError("packed sequences")
    biased, layers, share, training, bidirectional, batch_first = rest
    return _run(
        b, node, "LSTM", x, states, params, biased, layers, training, bidirectional, batch_first, share
    )


@rules("aten::gru", "aten::rnn_tanh", "aten::rnn_relu")
def gru(b: Builder, node: Node, x: Any, state: Any, params: Any, *rest: Any) -> Any:
    """A gated or plain recurrent network over a sequence."""
    if node.overload != "input":
        raise UnsupportedError("packed sequences")
    biased, layers, share, training, bidirectional, batch_first = rest
    op, settings = ("GRU", {"linear_before_reset": 1}) if node.op == "aten::gru" else ("RNN", {})
    if node.op == "aten::rnn_relu":
        settings = {"activations": ["Relu"] * (2 if bidirectional else 1)}  # type: ignore[dict-item]
    return _run(
        b,
        node,
        op,
        x,
        [state],
        params,
        biased,
        layers,
        training,
        bidirectional,
        batch_first,
        share,
        **settings,
    )


def _affine(b: Builder, x: Any, weight: Any, bias: Any) -> Any:
    y = b.op("MatMul", x, b.transpose(weight, [1, 0]))
    return y if bias is None else b.op("Add", y, bias)


@rules("aten::lstm_cell")
def lstm_cell(
    b: Builder, node: Node, x: Any, states: Any, w: Any, r: Any, w_bias: Any = None, r_bias: Any = None
) -> Any:
    """One step of an LSTM."""
    hidden, cell = states
    gates = b.op("Add", _affine(b, x, w, w_bias), _affine(b, hidden, r, r_bias))
    i, f, g, o = b.op("Split", gates, outputs=4, axis=-1, num_outputs=4)
    kept = b.op("Mul", b.op("Sigmoid", f), cell)
    after = b.op("Add", kept, b.op("Mul", b.op("Sigmoid", i), b.op("Tanh", g)))
    return b.op("Mul", b.op("Sigmoid", o), b.op("Tanh", after)), after


@rules("aten::gru_cell")
def gru_cell(
    b: Builder, node: Node, x: Any, hidden: Any, w: Any, r: Any, w_bias: Any = None, r_bias: Any = None
) -> Any:
    """One step of a GRU."""
    given = b.op("Split", _affine(b, x, w, w_bias), outputs=3, axis=-1, num_outputs=3)
    kept = b.op("Split", _affine(b, hidden, r, r_bias), outputs=3, axis=-1, num_outputs=3)
    reset = b.op("Sigmoid", b.op("Add", given[0], kept[0]))
    update = b.op("Sigmoid", b.op("Add", given[1], kept[1]))
    new = b.op("Tanh", b.op("Add", given[2], b.op("Mul", reset, kept[2])))
    return b.op("Add", new, b.op("Mul", update, b.op("Sub", hidden, new)))


@rules("aten::rnn_tanh_cell", "aten::rnn_relu_cell")
def rnn_cell(
    b: Builder, node: Node, x: Any, hidden: Any, w: Any, r: Any, w_bias: Any = None, r_bias: Any = None
) -> Any:
    """One step of a plain recurrent network."""
    total = b.op("Add", _affine(b, x, w, w_bias), _affine(b, hidden, r, r_bias))
    return b.op("Tanh" if "tanh" in node.op else "Relu", total)
