"""Silero VAD at 16 kHz: the chance of speech in 512 samples, behind 64 of the chunk before."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.weights import Config, Weights

if TYPE_CHECKING:
    import onnx_ir as ir

model_types = ("silero-vad", "silero_vad")
_SAMPLES, _PADDING, _HOP, _WINDOW = 576, 64, 128, 256
_BINS = _WINDOW // 2 + 1
_STATE = 128
_LAYERS = ((_BINS, 128, 1), (128, 64, 2), (64, 64, 2), (64, 128, 1))
"""Channels in and out, and stride."""


def fits(names: Collection[str]) -> bool:
    """Whether these are its names."""
    return {"stft_conv.weight", "lstm_cell.weight_ih", "final_conv.weight"} <= set(names)


def build(b: Builder, weights: Weights, config: Config) -> dict[str, ir.Value]:
    """Samples (batch, 576) and the state (2, batch, 128) to the chance and the next state."""
    sound = b.input("input", np.float32, ["batch", _SAMPLES])
    state = b.input("state", np.float32, [2, "batch", _STATE])
    wave = b.op("Unsqueeze", b.op("Pad", sound, [0, 0, 0, _PADDING], mode="reflect"), [1])
    waves = b.op("Conv", wave, weights.take("stft_conv.weight", 2 * _BINS, 1, _WINDOW), strides=[_HOP])
    real, imaginary = b.op("Split", waves, [_BINS, _BINS], axis=1, outputs=2)
    x = b.op("Sqrt", b.op("Add", b.op("Mul", real, real), b.op("Mul", imaginary, imaginary)))
    for number, (inputs, outputs, stride) in enumerate(_LAYERS, 1):
        kernel = weights.take(f"conv{number}.weight", outputs, inputs, 3)
        bias = weights.take(f"conv{number}.bias", outputs)
        x = b.op("Relu", b.op("Conv", x, kernel, bias, strides=[stride], pads=[1, 1]))
    x = b.transpose(x, [2, 0, 1])  # one step, batch, features
    parts = [
        _gates(weights.array(f"lstm_cell.{name}", *shape))
        for name, shape in (("weight_ih", (4 * _STATE, 128)), ("weight_hh", (4 * _STATE, _STATE)),
                            ("bias_ih", (4 * _STATE,)), ("bias_hh", (4 * _STATE,)))
    ]  # fmt: skip
    h, c = b.op("Split", state, [1, 1], axis=0, outputs=2)
    both = np.concatenate(parts[2:])[None]
    _, h, c = b.op("LSTM", x, parts[0][None], parts[1][None], both, None, h, c, hidden_size=_STATE, outputs=3)
    last = b.op("Relu", b.transpose(h, [1, 2, 0]))
    kernel, bias = weights.take("final_conv.weight", 1, _STATE, 1), weights.take("final_conv.bias", 1)
    chance = b.op("Sigmoid", b.op("Conv", last, kernel, bias))
    return {"output": b.op("Squeeze", chance, [2]), "stateN": b.op("Concat", h, c, axis=0)}


def _gates(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Torch's order of gates (i f g o) to ONNX's (i o f c)."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])
