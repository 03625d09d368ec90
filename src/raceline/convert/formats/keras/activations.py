"""Activations, by name, as functions with settings, and as layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.layers import Call
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
Function = Callable[..., "ir.Value"]
_function = Rules()
"""Activations by their names; each takes the builder, the value, and which Keras this is."""


def _standard(op: str) -> Function:
    return lambda b, x, **_: b.op(op, x)


for _name, _op in {
    "tanh": "Tanh", "sigmoid": "Sigmoid", "softplus": "Softplus", "softsign": "Softsign", "exponential": "Exp",
    "mish": "Mish", "abs": "Abs", "exp": "Exp",
}.items():  # fmt: skip
    _function(_name)(_standard(_op))


def activate(
    b: Builder, x: ir.Value, activation: Any, *, major: int, settings: Mapping[str, Any] | None = None
) -> ir.Value:
    """Apply an activation as a configuration names it.

    Args:
        b: receives the nodes.
        x: any shape.
        activation: None, a name, or a serialised function or layer.
        major: of the Keras whose meaning counts: hard_sigmoid changed with version 3.
        settings: of the function.

    Raises:
        UnsupportedError: the function is not one of Keras's own.
    """
    if activation is None:
        return x
    if isinstance(activation, dict):
        return _serialised(b, x, activation, major)
    name = _plain(str(activation))
    if name not in _function.table:
        raise UnsupportedError(f"activation {activation!r}")
    y: ir.Value = _function.table[name](b, x, major=major, **(settings or {}))
    return y


def _plain(name: str) -> str:
    """Relu for `keras.activations.relu` and the like."""
    for prefix in ("keras.activations.", "tf.keras.activations.", "keras>", "builtins>"):
        name = name.removeprefix(prefix)
    return name


def _serialised(b: Builder, x: ir.Value, data: Mapping[str, Any], major: int) -> ir.Value:
    """Apply a function or a layer that is written out with its settings."""
    kind, config = str(data.get("class_name")), data.get("config")
    if (
        kind == "function"
        and isinstance(config, str)
        and data.get("module") in {None, "builtins", "keras.activations"}
    ):
        return activate(b, x, config, major=major)
    if kind in _LAYERS and isinstance(config, dict) and str(data.get("module", "keras")).startswith("keras"):
        return _LAYERS[kind](b, x, config, major)
    raise UnsupportedError(f"activation {kind} {config if isinstance(config, str) else ''}".rstrip())


@_function("linear")
def _linear(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return x


@_function("relu")
def relu(
    b: Builder,
    x: ir.Value,
    *,
    negative_slope: float = 0.0,
    max_value: float | None = None,
    threshold: float = 0.0,
    **_: Any,
) -> ir.Value:
    """max_value above, identity between, negative_slope * (x - threshold) below the threshold."""
    slope, threshold = float(negative_slope or 0), float(threshold or 0)
    if threshold:
        above = b.cast(b.op("GreaterOrEqual", x, b.scalar(threshold, x)), b.dtype(x))
        y = b.op("Mul", x, above)
        if slope:
            below = b.op("Min", b.op("Sub", x, b.scalar(threshold, x)), b.scalar(0, x))
            y = b.op("Add", y, b.op("Mul", below, b.scalar(slope, x)))
    else:
        y = b.op("LeakyRelu", x, alpha=slope) if slope else b.op("Relu", x)
    if max_value is None:
        return y  # type: ignore[no-any-return]
    bounded = not slope and not threshold
    if bounded:
        return b.op("Clip", x, b.scalar(0, x), b.scalar(float(max_value), x))  # type: ignore[no-any-return]
    return b.op("Min", y, b.scalar(float(max_value), x))  # type: ignore[no-any-return]


@_function("relu6")
def _relu6(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return relu(b, x, max_value=6.0)


@_function("leaky_relu")
def _leaky_relu(b: Builder, x: ir.Value, *, negative_slope: float = 0.2, **_: Any) -> ir.Value:
    return b.op("LeakyRelu", x, alpha=float(negative_slope))  # type: ignore[no-any-return]


@_function("elu")
def _elu(b: Builder, x: ir.Value, *, alpha: float = 1.0, **_: Any) -> ir.Value:
    return b.op("Elu", x, alpha=float(alpha))  # type: ignore[no-any-return]


@_function("celu")
def _celu(b: Builder, x: ir.Value, *, alpha: float = 1.0, **_: Any) -> ir.Value:
    return b.op("Celu", x, alpha=float(alpha))  # type: ignore[no-any-return]


@_function("selu")
def _selu(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("Selu", x, alpha=1.6732632423543772, gamma=1.0507009873554805)  # type: ignore[no-any-return]


@_function("silu", "swish")
def _silu(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("Mul", x, b.op("Sigmoid", x))  # type: ignore[no-any-return]


@_function("gelu")
def gelu(b: Builder, x: ir.Value, *, approximate: bool = False, **_: Any) -> ir.Value:
    """By the error function, or by its approximation with tanh."""
    return b.op("Gelu", x, approximate="tanh" if approximate else "none")  # type: ignore[no-any-return]


@_function("hard_sigmoid")
def _hard_sigmoid(b: Builder, x: ir.Value, *, major: int, **_: Any) -> ir.Value:
    return b.op("HardSigmoid", x, alpha=1 / 6 if major >= 3 else 0.2, beta=0.5)  # type: ignore[no-any-return]


@_function("hard_silu", "hard_swish")
def _hard_silu(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("HardSwish", x)  # type: ignore[no-any-return]


@_function("hard_tanh")
def _hard_tanh(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("Clip", x, b.scalar(-1, x), b.scalar(1, x))  # type: ignore[no-any-return]


@_function("hard_shrink")
def _hard_shrink(b: Builder, x: ir.Value, *, threshold: float = 0.5, **_: Any) -> ir.Value:
    outside = b.op("Greater", b.op("Abs", x), b.scalar(threshold, x))
    return b.op("Where", outside, x, b.scalar(0, x))  # type: ignore[no-any-return]


@_function("soft_shrink")
def _soft_shrink(b: Builder, x: ir.Value, *, threshold: float = 0.5, **_: Any) -> ir.Value:
    return b.op("Shrink", x, lambd=float(threshold), bias=float(threshold))  # type: ignore[no-any-return]


@_function("tanh_shrink")
def _tanh_shrink(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("Sub", x, b.op("Tanh", x))  # type: ignore[no-any-return]


@_function("squareplus")
def _squareplus(b: Builder, x: ir.Value, **settings: Any) -> ir.Value:
    root = b.op("Sqrt", b.op("Add", b.op("Mul", x, x), b.scalar(float(settings.get("b", 4)), x)))
    return b.op("Mul", b.op("Add", x, root), b.scalar(0.5, x))  # type: ignore[no-any-return]


@_function("log_sigmoid")
def _log_sigmoid(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("Neg", b.op("Softplus", b.op("Neg", x)))  # type: ignore[no-any-return]


@_function("sparse_plus")
def _sparse_plus(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    """0 below -1, x above 1, (x + 1)^2 / 4 between: half of the clipped sum squared, plus what is over 1."""
    shifted = b.op("Add", b.op("Clip", x, b.scalar(-1, x), b.scalar(1, x)), b.scalar(1, x))
    over = b.op("Relu", b.op("Sub", x, b.scalar(1, x)))
    return b.op("Add", b.op("Mul", b.op("Mul", shifted, shifted), b.scalar(0.25, x)), over)  # type: ignore[no-any-return]


@_function("sparse_sigmoid")
def _sparse_sigmoid(b: Builder, x: ir.Value, **_: Any) -> ir.Value:
    return b.op("HardSigmoid", x, alpha=0.5, beta=0.5)  # type: ignore[no-any-return]


@_function("softmax")
def _softmax(b: Builder, x: ir.Value, *, axis: Any = -1, **_: Any) -> ir.Value:
    return softmax(b, x, axis)


@_function("log_softmax")
def _log_softmax(b: Builder, x: ir.Value, *, axis: int = -1, **_: Any) -> ir.Value:
    return b.op("LogSoftmax", x, axis=int(axis))  # type: ignore[no-any-return]


@_function("glu")
def _glu(b: Builder, x: ir.Value, *, axis: int = -1, **_: Any) -> ir.Value:
    left, right = b.op("Split", x, outputs=2, axis=int(axis), num_outputs=2)
    return b.op("Mul", left, b.op("Sigmoid", right))  # type: ignore[no-any-return]


def softmax(b: Builder, x: ir.Value, axis: Any) -> ir.Value:
    """Softmax over one axis, or over several that are the last ones."""
    axes = axis if isinstance(axis, list | tuple) else [axis]
    if len(axes) == 1:
        return b.op("Softmax", x, axis=int(axes[0]))  # type: ignore[no-any-return]
    rank = b.rank(x)
    if sorted(int(a) % rank for a in axes) != list(range(rank - len(axes), rank)):
        raise UnsupportedError(f"softmax over the axes {list(axes)}")
    flat = b.op("Reshape", x, [*[0] * (rank - len(axes)), -1])
    return b.op("Reshape", b.op("Softmax", flat, axis=-1), b.sizes(x))  # type: ignore[no-any-return]


def _relu_layer(b: Builder, x: ir.Value, config: Mapping[str, Any], major: int) -> ir.Value:
    return relu(
        b, x,
        max_value=config.get("max_value"),
        negative_slope=_number(config.get("negative_slope", 0.0)),
        threshold=_number(config.get("threshold", 0.0)),
    )  # fmt: skip


def _leaky_layer(b: Builder, x: ir.Value, config: Mapping[str, Any], major: int) -> ir.Value:
    slope = config.get("negative_slope", config.get("alpha", 0.3))
    return b.op("LeakyRelu", x, alpha=_number(slope))  # type: ignore[no-any-return]


def _elu_layer(b: Builder, x: ir.Value, config: Mapping[str, Any], major: int) -> ir.Value:
    return b.op("Elu", x, alpha=_number(config.get("alpha", 1.0)))  # type: ignore[no-any-return]


def _threshold_layer(b: Builder, x: ir.Value, config: Mapping[str, Any], major: int) -> ir.Value:
    return b.op("ThresholdedRelu", x, alpha=_number(config.get("theta", 1.0)))  # type: ignore[no-any-return]


def _softmax_layer(b: Builder, x: ir.Value, config: Mapping[str, Any], major: int) -> ir.Value:
    return softmax(b, x, config.get("axis", -1))


def _activation_layer(b: Builder, x: ir.Value, config: Mapping[str, Any], major: int) -> ir.Value:
    return activate(b, x, config.get("activation"), major=major)


def _number(value: Any) -> float:
    """A number that old files may write as an array of one."""
    if isinstance(value, dict):
        value = value.get(
            "value", value.get("config", {}).get("value") if isinstance(value.get("config"), dict) else None
        )
    return float(np.asarray(value).reshape(()))


_LAYERS: dict[str, Callable[[Builder, ir.Value, Mapping[str, Any], int], ir.Value]] = {
    "ReLU": _relu_layer,
    "LeakyReLU": _leaky_layer,
    "ELU": _elu_layer,
    "ThresholdedReLU": _threshold_layer,
    "Activation": _activation_layer,
    "Softmax": _softmax_layer,
}


@rules("ReLU", "LeakyReLU", "ELU", "ThresholdedReLU", "Activation")
def activation_layer(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A layer that is nothing but an activation."""
    return _LAYERS[call.layer.kind](b, x, call.layer.config, call.layer.major)


@rules("Softmax")
def softmax_layer(b: Builder, call: Call, x: ir.Value, mask: ir.Value | None = None) -> ir.Value:
    """Softmax in which masked elements do not count."""
    if mask is None and call.mask is not None:
        mask = call.mask
    if mask is not None:
        return masked_softmax(b, x, mask, call.get("axis", -1), call.layer.major)
    return softmax(b, x, call.get("axis", -1))


@rules("PReLU")
def prelu(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """A slope for each element, shared along some axes."""
    alpha = call.weight("alpha")
    return b.op("PRelu", x, alpha)  # type: ignore[no-any-return]


def masked_softmax(b: Builder, scores: ir.Value, mask: ir.Value, axis: Any, major: int) -> ir.Value:
    """Softmax in which what the mask leaves out does not count; rows of nothing else become 0 in Keras 3."""
    mask = b.cast(mask, bool)
    y = softmax(b, b.op("Where", mask, scores, b.scalar(-1e9, scores)), axis)
    return b.op("Where", mask, y, b.scalar(0, y)) if major >= 3 else y


def finish(b: Builder, call: Call, y: ir.Value) -> ir.Value:
    """The activation that a layer ends with."""
    return activate(b, y, call.get("activation"), major=call.layer.major)
