"""Activations, with Paddle's names and defaults for their settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, positive, rule
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "softsign": "Softsign"}


@rule(rules, *_PLAIN)
def _plain(b: Builder, c: Call) -> Any:
    return b.op(_PLAIN[c.op], c.value("X"))


@rule(rules, "relu6", "brelu")
def _clipped(b: Builder, c: Call) -> Any:
    x = c.value("X")
    if c.op == "relu6":
        low, high = 0.0, c.number("threshold", 6.0)
    else:
        low, high = c.number("t_min", 0.0), c.number("t_max", 24.0)
    return b.op("Clip", x, b.scalar(low, x), b.scalar(high, x))


@rule(rules, "leaky_relu")
def _leaky_relu(b: Builder, c: Call) -> Any:
    return b.op("LeakyRelu", c.value("X"), alpha=c.number("alpha", 0.02))


@rule(rules, "elu", "celu")
def _elu(b: Builder, c: Call) -> Any:
    return b.op(c.op.capitalize(), c.value("X"), alpha=c.number("alpha", 1.0))


@rule(rules, "selu")
def _selu(b: Builder, c: Call) -> Any:
    gamma, alpha = c.number("scale", 1.0507009873554805), c.number("alpha", 1.6732632423543772)
    return b.op("Selu", c.value("X"), gamma=gamma, alpha=alpha)


@rule(rules, "gelu")
def _gelu(b: Builder, c: Call) -> Any:
    return b.op("Gelu", c.value("X"), approximate="tanh" if c.flag("approximate") else "none")


@rule(rules, "hard_sigmoid")
def _hard_sigmoid(b: Builder, c: Call) -> Any:
    alpha, beta = c.number("slope", 0.2), c.number("offset", 0.5)
    return b.op("HardSigmoid", c.value("X"), alpha=alpha, beta=beta)


@rule(rules, "hard_swish")
def _hard_swish(b: Builder, c: Call) -> Any:
    x = c.value("X")
    threshold, scale, offset = c.number("threshold", 6.0), c.number("scale", 6.0), c.number("offset", 3.0)
    if (threshold, scale, offset) != (6, 6, 3):  # older Paddle heeds them, newer does not
        raise UnsupportedError(f"threshold={threshold}, scale={scale}, offset={offset}")
    return b.op("HardSwish", x)


@rule(rules, "swish", "silu")
def _swish(b: Builder, c: Call) -> Any:
    x, beta = c.value("X"), c.number("beta", 1.0)
    gate = x if beta == 1 else b.op("Mul", x, b.scalar(beta, x))
    return b.op("Mul", x, b.op("Sigmoid", gate))


@rule(rules, "mish")
def _mish(b: Builder, c: Call) -> Any:
    c.ignore("threshold")  # beyond it Paddle computes the same in a way that cannot overflow
    return b.op("Mish", c.value("X"))


@rule(rules, "softplus")
def _softplus(b: Builder, c: Call) -> Any:
    x, beta, threshold = c.value("X"), c.number("beta", 1.0), c.number("threshold", 20.0)
    inner = x if beta == 1 else b.op("Mul", x, b.scalar(beta, x))
    y = b.op("Softplus", inner)
    y = y if beta == 1 else b.op("Div", y, b.scalar(beta, x))
    return b.op("Where", b.op("Greater", inner, b.scalar(threshold, x)), x, y)


@rule(rules, "logsigmoid")
def _logsigmoid(b: Builder, c: Call) -> Any:
    return b.op("Neg", b.op("Softplus", b.op("Neg", c.value("X"))))


@rule(rules, "hard_shrink", "softshrink")
def _shrink(b: Builder, c: Call) -> Any:
    soft = c.op == "softshrink"
    bound = c.number("lambda" if soft else "threshold", 0.5)
    return b.op("Shrink", c.value("X"), lambd=bound, bias=bound if soft else 0.0)


@rule(rules, "tanh_shrink")
def _tanh_shrink(b: Builder, c: Call) -> Any:
    return b.op("Sub", c.value("X"), b.op("Tanh", c.value("X")))


@rule(rules, "thresholded_relu")
def _thresholded_relu(b: Builder, c: Call) -> Any:
    x = c.value("X")
    above = b.op("Greater", x, b.scalar(c.number("threshold", 1.0), x))
    return b.op("Where", above, x, b.scalar(c.number("value", 0.0), x))


@rule(rules, "stanh")
def _stanh(b: Builder, c: Call) -> Any:
    x = c.value("X")
    inner = b.op("Tanh", b.op("Mul", x, b.scalar(c.number("scale_a", 0.67), x)))
    return b.op("Mul", inner, b.scalar(c.number("scale_b", 1.7159), x))


@rule(rules, "prelu")
def _prelu(b: Builder, c: Call) -> Any:
    x, slope = c.value("X"), c.value("Alpha")
    mode = c.text("mode", "all", "all", "channel", "element")
    last = c.text("data_format", "NCHW") in {"NHWC", "NDHWC", "NLC"}
    if mode == "all":
        slope = b.reshape(slope, [1])
    elif mode == "channel":
        slope = b.reshape(slope, [-1] if last else [-1, *[1] * (b.rank(x) - 2)])
    elif b.rank(slope) != b.rank(x):
        slope = b.op("Unsqueeze", slope, [0])
    return b.op("PRelu", x, slope)


@rule(rules, "softmax", "log_softmax")
def _softmax(b: Builder, c: Call) -> Any:
    x = c.value("X")
    op = "Softmax" if c.op == "softmax" else "LogSoftmax"
    c.need("data_format", c.get("data_format", "AnyLayout"))
    if b.rank(x) == 0:
        raise UnsupportedError("a scalar")
    return b.op(op, x, axis=positive(c.integer("axis", -1), b.rank(x)))


@rule(rules, "maxout")
def _maxout(b: Builder, c: Call) -> Any:
    """The largest of each `groups` neighbouring channels."""
    x, groups = c.value("X"), c.integer("groups", 1)
    axis = positive(c.integer("axis", 1), b.rank(x))
    if axis != 1 or b.rank(x) != 4:
        raise UnsupportedError("other than channels of an image")
    split = b.op("Reshape", x, b.op("Concat", b.op("Shape", x, start=0, end=1),
                 [_channels(b, x, 1) // groups, groups], b.op("Shape", x, start=2, end=4), axis=0))  # fmt: skip
    return b.op("ReduceMax", split, [2], keepdims=0)


def _channels(b: Builder, x: ir.Value, axis: int) -> int:
    size = b.shape(x)[axis]
    if not isinstance(size, int):
        raise UnsupportedError("an open number of channels")
    return size


@rule(rules, "dropout", "dropout_nd")
def _dropout(b: Builder, c: Call) -> Any:
    """Nothing, or by the older recipe a factor: what was left out in training was not made up for there."""
    x = c.value("X")
    tensor = c.maybe("DropoutProb")
    share = (
        c.constant(b, "DropoutProb").reshape(-1)[0] if tensor is not None else c.number("dropout_prob", 0.5)
    )
    keep = 1 - float(share)
    c.ignore("axis")
    mode = c.text("dropout_implementation", "downgrade_in_infer", "downgrade_in_infer", "upscale_in_train")
    if not c.flag("is_test", False):
        raise UnsupportedError("in training mode")
    down = mode == "downgrade_in_infer"
    return b.op("Mul", x, b.scalar(float(np.float32(keep)), x)) if down else b.op("Identity", x)
