"""LSTM, GRU and RNN as ONNX defines them, with sequence lengths, peepholes, clipping and any direction.

The onnx package's reference evaluator ignores the lengths, the clip and most activations, without a word.

Legend of shapes: S steps, B batch, I input, H hidden, D directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
State = tuple[Array, ...]
Step = Callable[[Array, State], State]
Activation = Callable[[Array], Array]


def _sigmoid(x: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))  # never overflows


_ACTIVATIONS: Mapping[str, tuple[Callable[..., Array], tuple[float | None, ...]]] = {
    "sigmoid": (_sigmoid, ()),
    "tanh": (np.tanh, ()),
    "relu": (lambda x: np.maximum(x, 0), ()),
    "softsign": (lambda x: x / (1 + np.abs(x)), ()),
    "softplus": (lambda x: np.logaddexp(0, x), ()),
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "elu": (lambda x, alpha: np.where(x >= 0, x, alpha * np.expm1(x)), (1.0,)),
    "hardsigmoid": (lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1), (0.2, 0.5)),
    "leakyrelu": (lambda x, alpha: np.where(x >= 0, x, alpha * x), (0.01,)),
    "scaledtanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), (None, None)),
    "thresholdedrelu": (lambda x, alpha: np.where(x >= alpha, x, 0), (1.0,)),
}
"""Each activation with the defaults of its alpha and beta, as far as it has these; None must be given."""
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def recurrent(
    kind: str,
    x: Array,
    w: Array,
    r: Array,
    bias: Array | None = None,
    lengths: Array | None = None,
    initial: Sequence[Array | None] = (),
    peepholes: Array | None = None,
    *,
    direction: str = "forward",
    activations: Sequence[str] = (),
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    input_forget: int = 0,
) -> tuple[Array, ...]:
    """Run a recurrent layer.

    Args:
        kind: LSTM, GRU or RNN.
        x: (S, B, I), or (B, S, I) with layout 1.
        w: (D, gates * H, I).
        r: (D, gates * H, H).
        bias: (D, 2 * gates * H): of w, then of r.
        lengths: (B,) steps that count in each item; all where None.
        initial: hidden state, and for LSTM cell state, (D, B, H) each; zero where None.
        peepholes: (D, 3 * H), LSTM only.
        direction: forward, reverse or bidirectional.
        activations: names, for each direction; ONNX's defaults where empty.
        activation_alpha: of those activations that have one, in their order; the rest take their defaults.
        activation_beta: likewise.
        clip: bound of what enters an activation.
        layout: 1 puts the batch first.
        linear_before_reset: GRU's variant that multiplies before the reset gate.
        input_forget: LSTM's variant that couples both gates.

    Returns:
        all hidden states (S, D, B, H), then each last state (D, B, H); batch first with layout 1.

    Raises:
        ValueError: an activation that the standard does not name, or that lacks its numbers.
    """
    x_SBI = np.swapaxes(x, 0, 1) if layout else x
    num_states = 2 if kind == "LSTM" else 1
    num_steps, num_items, hidden = x_SBI.shape[0], x_SBI.shape[1], r.shape[-1]
    counts = np.full(num_items, num_steps) if lengths is None else lengths
    every = _activations(list(activations) or DEFAULTS[kind] * w.shape[0], activation_alpha, activation_beta)
    per_direction = len(every) // w.shape[0]
    all_hidden, last = [], []
    for d in range(w.shape[0]):
        functions = every[d * per_direction :][:per_direction]
        # As runtimes do, the clip bounds what enters the gates; a cell state enters its activation unbounded.
        functions[:2] = [_bounded(function, clip) for function in functions[:2]]
        b = np.zeros(2 * w.shape[1], x.dtype) if bias is None else bias[d]
        if kind == "LSTM":
            p = np.zeros(3 * hidden, x.dtype) if peepholes is None else peepholes[d]
            step = _lstm(w[d], r[d], b, p, functions, bool(input_forget))
        elif kind == "GRU":
            step = _gru(w[d], r[d], b, functions, bool(linear_before_reset))
        else:
            step = _rnn(w[d], r[d], b, functions)
        state = tuple(_start(initial, s, d, layout, (num_items, hidden), x) for s in range(num_states))
        backwards = direction == "reverse" or d == 1
        y, end = _scan(step, x_SBI, state, counts, backwards)
        all_hidden.append(y)
        last.append(end)
    y_SDBH = np.stack(all_hidden, axis=1)
    ends = [np.stack([end[s] for end in last]) for s in range(num_states)]
    if layout:
        return np.transpose(y_SDBH, (2, 0, 1, 3)), *(np.swapaxes(end, 0, 1) for end in ends)
    return y_SDBH, *ends


def _activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """The functions of these names; each takes its numbers from what is left of the lists."""
    numbers = (iter(alphas), iter(betas))
    functions: list[Activation] = []
    for name in names:
        if name.lower() not in _ACTIVATIONS:  # runtimes read the names in any case
            raise ValueError(f"the activation {name} is not one of the standard's: {', '.join(_ACTIVATIONS)}")
        function, defaults = _ACTIVATIONS[name.lower()]
        given = [next(left, default) for left, default in zip(numbers, defaults, strict=False)]
        if None in given:
            raise ValueError(f"the activation {name} has no default for its alpha and beta; give both")
        functions.append(partial(_applied, function, given))
    return functions


def _applied(function: Callable[..., Array], numbers: Sequence[float | None], x: Array) -> Array:
    return function(x, *numbers)


def _start(
    initial: Sequence[Array | None], which: int, d: int, layout: int, shape: tuple[int, int], like: Array
) -> Array:
    given = initial[which] if which < len(initial) else None
    if given is None:
        return np.zeros(shape, like.dtype)
    return np.asarray(given[:, d] if layout else given[d])


def _scan(step: Step, x_SBI: Array, state: State, counts: Array, backwards: bool) -> tuple[Array, State]:
    """Run the steps that count; later ones leave the state alone and give zeros."""
    if backwards:
        x_SBI = _turned(x_SBI, counts)
    y_SBH = np.zeros((*x_SBI.shape[:2], state[0].shape[1]), x_SBI.dtype)
    for t in range(len(x_SBI)):
        counted = (t < counts)[:, None]
        fresh = step(x_SBI[t], state)
        state = tuple(
            np.where(counted, new, old).astype(old.dtype) for new, old in zip(fresh, state, strict=True)
        )
        y_SBH[t] = np.where(counted, state[0], 0)
    return (_turned(y_SBH, counts) if backwards else y_SBH), state


def _turned(x_SB: Array, counts: Array) -> Array:
    """Each item's counted steps in opposite order."""
    out = x_SB.copy()
    for item, count in enumerate(counts):
        out[:count, item] = x_SB[:count, item][::-1]
    return out


def _bounded(function: Activation, clip: float | None) -> Activation:
    return function if not clip else lambda x: function(np.clip(x, -clip, clip))


def _lstm(w: Array, r: Array, b: Array, p: Array, functions: list[Activation], couple: bool) -> Step:
    w_bias, r_bias = np.split(b, 2)
    p_in, p_out, p_forget = np.split(p, 3)
    f, g, h = functions

    def step(x: Array, state: State) -> State:
        hidden, cell = state
        enter, out, forget, fresh = np.split(x @ w.T + hidden @ r.T + w_bias + r_bias, 4, axis=-1)
        enter = f(enter + p_in * cell)
        forget = 1 - enter if couple else f(forget + p_forget * cell)
        cell = forget * cell + enter * g(fresh)
        return f(out + p_out * cell) * h(cell), cell

    return step


def _gru(w: Array, r: Array, b: Array, functions: list[Activation], linear_first: bool) -> Step:
    w_update, w_reset, w_hidden = np.split(w, 3)
    r_update, r_reset, r_hidden = np.split(r, 3)
    wb_update, wb_reset, wb_hidden, rb_update, rb_reset, rb_hidden = np.split(b, 6)
    f, g = functions

    def step(x: Array, state: State) -> State:
        (hidden,) = state
        update = f(x @ w_update.T + hidden @ r_update.T + wb_update + rb_update)
        reset = f(x @ w_reset.T + hidden @ r_reset.T + wb_reset + rb_reset)
        if linear_first:
            fresh = g(x @ w_hidden.T + reset * (hidden @ r_hidden.T + rb_hidden) + wb_hidden)
        else:
            fresh = g(x @ w_hidden.T + (reset * hidden) @ r_hidden.T + rb_hidden + wb_hidden)
        return ((1 - update) * fresh + update * hidden,)

    return step


def _rnn(w: Array, r: Array, b: Array, functions: list[Activation]) -> Step:
    w_bias, r_bias = np.split(b, 2)

    def step(x: Array, state: State) -> State:
        return (functions[0](x @ w.T + state[0] @ r.T + w_bias + r_bias),)

    return step
