"""Which weights and inner layers each class of layer has, in the order in which Keras makes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Config = Mapping[str, Any]
Names = tuple[tuple[str, ...], tuple[str, ...]]
"""Trainable weights, and the others."""

MODELS = frozenset({"Functional", "Model", "Sequential"})
CELLS = {
    "LSTM": "LSTMCell",
    "GRU": "GRUCell",
    "SimpleRNN": "SimpleRNNCell",
    "ConvLSTM1D": "ConvLSTMCell",
    "ConvLSTM2D": "ConvLSTMCell",
    "ConvLSTM3D": "ConvLSTMCell",
}
"""Layers that keep their weights in a cell."""

_NONE: Names = ((), ())


def own_weights(kind: str, config: Config) -> Names:
    """The names of a layer's own weights, without those of layers inside it."""
    rule = _RULES.get(kind)
    return rule(config) if rule else _NONE


def _with_bias(*names: str) -> Callable[[Config], Names]:
    def names_of(config: Config) -> Names:
        return (*names, *(("bias",) if config.get("use_bias", True) else ())), ()

    return names_of


def _affine(config: Config) -> tuple[str, ...]:
    rms = bool(config.get("rms_scaling", False))
    gamma = ("gamma",) if config.get("scale", True) or rms else ()
    return (*gamma, *(("beta",) if config.get("center", True) and not rms else ()))


def _einsum(config: Config) -> Names:
    return ("kernel", *(("bias",) if config.get("bias_axes") else ())), ()


def _attention(config: Config) -> Names:
    concat = ("concat_score_weight",) if config.get("score_mode") == "concat" else ()
    return (*(("scale",) if config.get("use_scale") else ()), *concat), ()


def _normalization(config: Config) -> Names:
    return (), () if config.get("mean") is not None else ("mean", "variance", "count")


_RULES: dict[str, Callable[[Config], Names]] = {
    **dict.fromkeys(
        [
            "Dense", "Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
            "DepthwiseConv1D", "DepthwiseConv2D",
        ],
        _with_bias("kernel"),
    ),
    **dict.fromkeys(["SeparableConv1D", "SeparableConv2D"], _with_bias("depthwise_kernel", "pointwise_kernel")),
    **dict.fromkeys(set(CELLS.values()), _with_bias("kernel", "recurrent_kernel")),
    **dict.fromkeys(["LayerNormalization", "GroupNormalization"], lambda c: (_affine(c), ())),
    "BatchNormalization": lambda c: (_affine(c), ("moving_mean", "moving_variance")),
    "RMSNormalization": lambda c: (("scale",), ()),
    "SpectralNormalization": lambda c: ((), ("vector_u",)),
    "Normalization": _normalization,
    "EinsumDense": _einsum,
    "Embedding": lambda c: (("embeddings",), ()),
    "LayerScale": lambda c: (("gamma",), ()),
    "PReLU": lambda c: (("alpha",), ()),
    "Attention": _attention,
    "AdditiveAttention": lambda c: (("scale",) if c.get("use_scale", True) else (), ()),
}  # fmt: skip


def projections(kind: str, config: Config) -> dict[str, tuple[str, bool]]:
    """The dense layers inside an attention layer: attribute -> name, and whether it has a bias."""
    if kind not in {"MultiHeadAttention", "GroupedQueryAttention", "GroupQueryAttention"}:
        return {}
    bias = bool(config.get("use_bias", True))
    gate = {"gate_dense": ("gate", bias)} if config.get("use_gate") else {}
    return {
        "query_dense": ("query", bias),
        "key_dense": ("key", bias),
        **gate,
        "value_dense": ("value", bias),
        "output_dense": ("attention_output", bias),
    }
