"""Layers: products of matrices, convolutions, pooling, normalisation, activations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import (
    as_float,
    axis,
    fixed,
    ints,
    is_value,
    number,
    promoted,
    size,
)
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


@rules("aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::inner_product")
def matmul(b: Builder, node: Node, x: Any, y: Any) -> Any:
    """Product of matrices."""
    return b.op("MatMul", *promoted(b, x, y))


@rules("aten::linear")
def linear(b: Builder, node: Node, x: Any, weight: Any, bias: Any = None) -> Any:
    """X W^T + bias."""
    order = [1, 0] if b.rank(weight) == 2 else [0]
    y = b.op("MatMul", x, b.transpose(weight, order))
    return y if bias is None else b.op("Add", y, bias)


@rules("aten::addmm", "aten::baddbmm", "aten::addbmm", "aten::addmv")
def addmm(b: Builder, node: Node, x: Any, left: Any, right: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    """Beta x + alpha left right."""
    if node.op.startswith("aten::addbmm"):
        raise UnsupportedError("a sum of products")
    y = b.op("MatMul", left, right)
    if alpha != 1:
        y = b.op("Mul", y, number(b, alpha, b.dtype(y)))
    if beta == 0:
        return y
    return b.op("Add", y, x if beta == 1 else b.op("Mul", x, number(b, beta, b.dtype(x))))


@rules("aten::outer", "aten::ger")
def outer(b: Builder, node: Node, x: Any, y: Any) -> Any:
    """Products of all pairs."""
    return b.op("MatMul", b.op("Unsqueeze", x, [1]), b.op("Unsqueeze", y, [0]))


@rules("aten::einsum")
def einsum(b: Builder, node: Node, equation: Any, items: Any, *_: Any) -> Any:
    """Einstein's summation."""
    return b.op("Einsum", *promoted(b, *items), equation=equation.replace(" ", ""))


@rules("aten::tensordot")
def tensordot(b: Builder, node: Node, x: Any, y: Any, left: Any, right: Any, *_: Any) -> Any:
    """Sum of products over pairs of axes."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    one, other = list(letters[: b.rank(x)]), list(letters[b.rank(x) : b.rank(x) + b.rank(y)])
    for i, j in zip(left, right, strict=True):
        other[axis(j, b.rank(y))] = one[axis(i, b.rank(x))]
    kept = [c for c in one if c not in other] + [c for c in other if c not in one]
    return b.op("Einsum", x, y, equation=f"{''.join(one)},{''.join(other)}->{''.join(kept)}")


def listed(items: Any, count: int) -> list[int]:
    """A setting for each axis, given as one number or as a list of one or of all."""
    items = fixed(items, "settings")
    items = list(items) if isinstance(items, list | tuple) else [items]
    return [int(item) for item in (items * count if len(items) == 1 else items)]


def _batched(b: Builder, x: Any, spatial: int) -> tuple[Any, bool]:
    """The input with a batch axis; torch lets it be left out."""
    alone = b.rank(x) == spatial + 1
    return (b.op("Unsqueeze", x, [0]) if alone else x), alone


def _unbatched(b: Builder, y: Any, alone: bool) -> Any:
    return b.op("Squeeze", y, [0]) if alone else y


@rules("aten::_convolution", "aten::convolution", "aten::_convolution_mode")
def convolution(b: Builder, node: Node, x: Any, weight: Any, bias: Any, *arguments: Any) -> Any:
    """A convolution of any number of axes, plain or transposed."""
    if node.op == "aten::_convolution_mode":
        stride, padding, dilation, groups = arguments
        return _conv(b, x, weight, bias, stride, padding, dilation, groups)
    stride, padding, dilation, transposed, output_padding, groups = arguments[:6]
    if transposed:
        return _conv_transpose(b, x, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(b, x, weight, bias, stride, padding, dilation, groups)


@rules("aten::conv1d", "aten::conv2d", "aten::conv3d")
def conv(
    b: Builder, node: Node, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    dilation: Any = 1, groups: Any = 1,
) -> Any:  # fmt: skip
    """A convolution."""
    return _conv(b, x, weight, bias, stride, padding, dilation, groups)


def _conv(
    b: Builder, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, groups: Any
) -> Any:
    spatial = b.rank(weight) - 2
    x, alone = _batched(b, x, spatial)
    dilations = listed(dilation, spatial)
    kernel = [_known(dim) for dim in b.shape(weight)[2:]]
    if padding == "same":
        whole = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        pads = [item // 2 for item in whole] + [item - item // 2 for item in whole]
    else:
        pads = listed(0 if padding == "valid" else padding, spatial) * 2
    y = b.op(
        "Conv", x, weight, bias, strides=listed(stride, spatial), pads=pads, dilations=dilations,
        group=int(groups), kernel_shape=kernel,
    )  # fmt: skip
    return _unbatched(b, y, alone)


def _known(dim: Any) -> int:
    if not isinstance(dim, int):
        raise UnsupportedError("a kernel whose size is only known at run time")
    return dim


@rules("aten::conv_transpose1d", "aten::conv_transpose2d", "aten::conv_transpose3d")
def conv_transpose(
    b: Builder, node: Node, x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0,
    output_padding: Any = 0, groups: Any = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """A transposed convolution."""
    return _conv_transpose(b, x, weight, bias, stride, padding, output_padding, groups, dilation)


def _conv_transpose(
    b: Builder, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, output_padding: Any, groups: Any,
    dilation: Any,
) -> Any:  # fmt: skip
    spatial = b.rank(weight) - 2
    x, alone = _batched(b, x, spatial)
    y = b.op(
        "ConvTranspose", x, weight, bias, strides=listed(stride, spatial), pads=listed(padding, spatial) * 2,
        dilations=listed(dilation, spatial), group=int(groups),
        kernel_shape=[_known(d) for d in b.shape(weight)[2:]],
        output_padding=listed(output_padding, spatial),
    )  # fmt: skip
    return _unbatched(b, y, alone)


@rules("aten::max_pool1d", "aten::max_pool2d", "aten::max_pool3d", "aten::max_pool2d_with_indices",
       "aten::max_pool1d_with_indices")  # fmt: skip
def max_pool(
    b: Builder, node: Node, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
    ceil: Any = False,
) -> Any:  # fmt: skip
    """The largest of each window."""
    spatial = int(node.op[node.op.index("pool") + 4])
    x, alone = _batched(b, x, spatial)
    window, pads = listed(kernel, spatial), listed(padding, spatial)
    settings: dict[str, Any] = {
        "kernel_shape": window, "strides": listed(stride, spatial) if stride else window, "pads": pads * 2,
        "dilations": listed(dilation, spatial), "ceil_mode": int(bool(ceil)),
    }  # fmt: skip
    if "with_indices" not in node.op:
        return _unbatched(b, b.op("MaxPool", x, **settings), alone)
    if alone or len({*b.shape(x)[2:], None}) == 1:
        raise UnsupportedError("places in a plane of open size")
    y, where = b.op("MaxPool", x, outputs=2, **settings)
    plane = math.prod(_known(dim) for dim in b.shape(x)[2:])  # ONNX counts through all planes
    return y, b.op("Mod", where, np.array(plane, np.int64))


@rules("aten::avg_pool1d", "aten::avg_pool2d", "aten::avg_pool3d")
def avg_pool(
    b: Builder, node: Node, x: Any, kernel: Any, stride: Any = (), padding: Any = 0, ceil: Any = False,
    count_pad: Any = True, divisor: Any = None,
) -> Any:  # fmt: skip
    """The mean of each window."""
    spatial = int(node.op[len("aten::avg_pool")])
    x, alone = _batched(b, x, spatial)
    if divisor is not None:
        raise UnsupportedError("a divisor of its own")
    window, pads = listed(kernel, spatial), listed(padding, spatial)
    if ceil and count_pad and any(pads):
        raise UnsupportedError("ceil_mode with padding that counts, which runtimes count differently")
    y = b.op(
        "AveragePool", x, kernel_shape=window, strides=listed(stride, spatial) if stride else window,
        pads=pads * 2, ceil_mode=int(bool(ceil)), count_include_pad=int(bool(count_pad) and any(pads)),
    )  # fmt: skip
    return _unbatched(b, y, alone)


@rules("aten::adaptive_avg_pool1d", "aten::adaptive_avg_pool2d", "aten::adaptive_avg_pool3d",
       "aten::adaptive_max_pool1d", "aten::adaptive_max_pool2d", "aten::adaptive_max_pool3d")  # fmt: skip
def adaptive_pool(b: Builder, node: Node, x: Any, wanted: Any) -> Any:
    """Windows chosen so that the result has a size."""
    most = "max" in node.op
    spatial = int(node.op[node.op.index("pool") + 4])
    x, alone = _batched(b, x, spatial)
    sizes = list(fixed(wanted if isinstance(wanted, list) else [wanted], "size"))
    have = b.shape(x)[2:]
    sizes = [
        h if w is None else w for w, h in zip(sizes * (spatial if len(sizes) == 1 else 1), have, strict=True)
    ]
    if sizes == [1] * spatial:
        y = b.op("GlobalMaxPool" if most else "GlobalAveragePool", x)
    elif list(have) == sizes:
        y = x
    elif all(isinstance(h, int) and h % w == 0 for h, w in zip(have, sizes, strict=True)):
        window = [h // w for h, w in zip(have, sizes, strict=True)]
        y = b.op("MaxPool" if most else "AveragePool", x, kernel_shape=window, strides=window)
    else:
        y = x
        for at in range(spatial):
            y = _uneven(b, y, 2 + at, sizes[at], most)
    y = _unbatched(b, y, alone)
    return (y, None) if most else y


def _uneven(b: Builder, x: Any, place: int, wanted: int, most: bool) -> Any:
    """Pooling of one axis in windows of different lengths, one after another."""
    extent = b.shape(x)[place]
    if not isinstance(extent, int):
        raise UnsupportedError("windows that depend on an open size; give that size with shapes=")
    if extent == wanted:
        return x
    parts = []
    for at in range(wanted):
        low, high = at * extent // wanted, -(-(at + 1) * extent // wanted)
        stretch = b.op("Slice", x, [low], [high], [place])
        parts.append(b.op("ReduceMax" if most else "ReduceMean", stretch, [place], keepdims=1))
    return b.op("Concat", *parts, axis=place)


def per_channel(b: Builder, item: Any, rank: int) -> Any:
    """A value for each channel, shaped to meet axis 1 of a tensor."""
    return b.reshape(item, [-1, *[1] * (rank - 2)])


@rules("aten::batch_norm")
def batch_norm(
    b: Builder, node: Node, x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: Any, momentum: Any,
    eps: Any, *_: Any,
) -> Any:  # fmt: skip
    """Normalisation by statistics that were learnt."""
    if training or mean is None:
        raise UnsupportedError("it normalises by the batch's own statistics, as in training")
    dtype, count = b.dtype(mean), b.shape(mean)
    weight = b.constant(np.ones(count, dtype)) if weight is None else weight
    bias = b.constant(np.zeros(count, dtype)) if bias is None else bias
    return b.op("BatchNormalization", x, weight, bias, mean, var, epsilon=float(eps))


@rules("aten::instance_norm")
def instance_norm(
    b: Builder, node: Node, x: Any, weight: Any, bias: Any, mean: Any, var: Any, own: Any, momentum: Any,
    eps: Any, *_: Any,
) -> Any:  # fmt: skip
    """Normalisation of each channel of each item."""
    if not own:
        return batch_norm(b, node, x, weight, bias, mean, var, False, momentum, eps)
    channels = _known(b.shape(x)[1])
    weight = b.constant(np.ones(channels, b.dtype(x))) if weight is None else weight
    bias = b.constant(np.zeros(channels, b.dtype(x))) if bias is None else bias
    return b.op("InstanceNormalization", x, weight, bias, epsilon=float(eps))


@rules("aten::layer_norm")
def layer_norm(
    b: Builder, node: Node, x: Any, shape: Any, weight: Any = None, bias: Any = None, eps: Any = 1e-5, *_: Any
) -> Any:
    """Normalisation over the last axes."""
    shape = [int(item) for item in fixed(shape, "shape")]
    weight = b.constant(np.ones(shape, b.dtype(x))) if weight is None else weight
    return b.op("LayerNormalization", x, weight, bias, axis=-len(shape), epsilon=float(eps))


@rules("aten::native_layer_norm")
def native_layer_norm(b: Builder, node: Node, x: Any, *arguments: Any) -> Any:
    """Normalisation over the last axes; its statistics are not given."""
    return layer_norm(b, node, x, *arguments), None, None


@rules("aten::rms_norm")
def rms_norm(b: Builder, node: Node, x: Any, shape: Any, weight: Any = None, eps: Any = None) -> Any:
    """Division by the root of the mean of squares over the last axes."""
    places = list(range(-len(shape), 0))
    eps = float(np.finfo(b.dtype(x)).eps) if eps is None else eps
    mean = b.op("ReduceMean", b.op("Mul", x, x), places, keepdims=1)
    y = b.op("Div", x, b.op("Sqrt", b.op("Add", mean, b.scalar(eps, x))))
    return y if weight is None else b.op("Mul", y, weight)


@rules("aten::group_norm")
def group_norm(
    b: Builder,
    node: Node,
    x: Any,
    groups: Any,
    weight: Any = None,
    bias: Any = None,
    eps: Any = 1e-5,
    *_: Any,
) -> Any:
    """Normalisation over groups of channels."""
    sizes = b.sizes(x)
    flat = b.reshape(x, [0, int(groups), -1])
    ones, zeros = (b.constant(np.full(int(groups), item, b.dtype(x))) for item in (1, 0))
    y = b.op("Reshape", b.op("InstanceNormalization", flat, ones, zeros, epsilon=float(eps)), sizes)
    if weight is not None:
        y = b.op("Mul", y, per_channel(b, weight, b.rank(x)))
    return y if bias is None else b.op("Add", y, per_channel(b, bias, b.rank(x)))


@rules("aten::local_response_norm")
def local_response_norm(b: Builder, node: Node, x: Any, *_: Any) -> Any:
    """Normalisation over neighbouring channels."""
    raise UnsupportedError("torch spells it out; this form is not known")


@rules("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout", "aten::feature_alpha_dropout")
def dropout(b: Builder, node: Node, x: Any, share: Any, training: Any) -> Any:
    """Nothing, outside of training."""
    if training and share:
        raise UnsupportedError("it drops elements at random, as in training")
    return x


@rules("aten::relu")
def relu(b: Builder, node: Node, x: Any) -> Any:
    """What is positive."""
    return b.op("Relu", x)


@rules("aten::leaky_relu")
def leaky_relu(b: Builder, node: Node, x: Any, slope: Any = 0.01) -> Any:
    """What is positive, and a share of the rest."""
    return b.op("LeakyRelu", x, alpha=float(slope))


@rules("aten::elu")
def elu(b: Builder, node: Node, x: Any, alpha: Any = 1.0, scale: Any = 1.0, inner: Any = 1.0) -> Any:
    """An exponential below zero."""
    if inner != 1:
        raise UnsupportedError("a scale inside of the exponential")
    y = b.op("Elu", x, alpha=float(alpha))
    return y if scale == 1 else b.op("Mul", y, b.scalar(scale, x))


@rules("aten::selu")
def selu(b: Builder, node: Node, x: Any) -> Any:
    """An exponential below zero, scaled to keep the variance."""
    return b.op("Selu", x)


@rules("aten::celu")
def celu(b: Builder, node: Node, x: Any, alpha: Any = 1.0) -> Any:
    """A smooth exponential below zero."""
    return b.op("Celu", x, alpha=float(alpha))


@rules("aten::prelu")
def prelu(b: Builder, node: Node, x: Any, slope: Any) -> Any:
    """What is positive, and a learnt share of the rest, for each channel."""
    if b.rank(slope) and b.shape(slope) != (1,) and b.rank(x) > 2:
        slope = per_channel(b, slope, b.rank(x))
    return b.op("PRelu", x, slope)


@rules("aten::gelu")
def gelu(b: Builder, node: Node, x: Any, approximate: Any = "none") -> Any:
    """X times the normal distribution."""
    return b.op("Gelu", x, approximate=approximate)


@rules("aten::silu", "aten::swish")
def silu(b: Builder, node: Node, x: Any) -> Any:
    """X times its sigmoid."""
    return b.op("Mul", x, b.op("Sigmoid", x))


@rules("aten::mish")
def mish(b: Builder, node: Node, x: Any) -> Any:
    """X times the hyperbolic tangent of its softplus."""
    return b.op("Mish", x)


@rules("aten::hardswish")
def hardswish(b: Builder, node: Node, x: Any) -> Any:
    """X times its hard sigmoid."""
    return b.op("HardSwish", x)


@rules("aten::hardsigmoid")
def hardsigmoid(b: Builder, node: Node, x: Any) -> Any:
    """X / 6 + 1/2, held between 0 and 1."""
    return b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@rules("aten::log_sigmoid")
def log_sigmoid(b: Builder, node: Node, x: Any) -> Any:
    """Logarithm of the sigmoid: min(x, 0) - log(1 + exp -|x|), which never overflows."""
    rest = b.op("Log", b.op("Add", b.scalar(1, x), b.op("Exp", b.op("Neg", b.op("Abs", x)))))
    return b.op("Sub", b.op("Min", x, b.scalar(0, x)), rest)


@rules("aten::softplus")
def softplus(b: Builder, node: Node, x: Any, beta: Any = 1, threshold: Any = 20) -> Any:
    """log(1 + exp(beta x)) / beta; x itself where beta x is over the threshold."""
    scaled = x if beta == 1 else b.op("Mul", x, b.scalar(beta, x))
    y = b.op("Softplus", b.op("Min", scaled, b.scalar(threshold, x)))
    y = y if beta == 1 else b.op("Div", y, b.scalar(beta, x))
    return b.op("Where", b.op("Greater", scaled, b.scalar(threshold, x)), x, y)


@rules("aten::softsign")
def softsign(b: Builder, node: Node, x: Any) -> Any:
    """X / (1 + |x|)."""
    return b.op("Softsign", x)


@rules("aten::threshold")
def threshold(b: Builder, node: Node, x: Any, limit: Any, item: Any) -> Any:
    """What is over a limit; a number for the rest."""
    return b.op("Where", b.op("Greater", x, number(b, limit, b.dtype(x))), x, number(b, item, b.dtype(x)))


@rules("aten::hardshrink")
def hardshrink(b: Builder, node: Node, x: Any, limit: Any = 0.5) -> Any:
    """Zero between two limits."""
    return b.op("Shrink", x, lambd=float(limit), bias=0.0)


@rules("aten::softshrink")
def softshrink(b: Builder, node: Node, x: Any, limit: Any = 0.5) -> Any:
    """Zero between two limits, and nearer to zero by the limit outside."""
    return b.op("Shrink", x, lambd=float(limit), bias=float(limit))


@rules("aten::glu")
def glu(b: Builder, node: Node, x: Any, dim: Any = -1) -> Any:
    """One half times the sigmoid of the other."""
    place = axis(dim, b.rank(x))
    value, gate = b.op("Split", x, outputs=2, axis=place, num_outputs=2)
    return b.op("Mul", value, b.op("Sigmoid", gate))


@rules("aten::logit")
def logit(b: Builder, node: Node, x: Any, eps: Any = None) -> Any:
    """log(x / (1 - x))."""
    x = as_float(b, x)
    if eps is not None:
        x = b.op("Clip", x, b.scalar(eps, x), b.scalar(1 - eps, x))
    return b.op("Log", b.op("Div", x, b.op("Sub", b.scalar(1, x), x)))


@rules("aten::pixel_shuffle")
def pixel_shuffle(b: Builder, node: Node, x: Any, factor: Any) -> Any:
    """Channels spread over blocks of pixels."""
    return b.op("DepthToSpace", x, blocksize=int(factor), mode="CRD")


@rules("aten::pixel_unshuffle")
def pixel_unshuffle(b: Builder, node: Node, x: Any, factor: Any) -> Any:
    """Blocks of pixels gathered in channels."""
    n, c, h, w = (size(b, x, at) for at in range(4))
    if not isinstance(h, int) or not isinstance(w, int) or not isinstance(c, int):
        raise UnsupportedError("of open size")
    apart = b.op("Reshape", x, ints(b, [n, c, h // factor, factor, w // factor, factor]))
    turned = b.transpose(apart, [0, 1, 3, 5, 2, 4])
    return b.op("Reshape", turned, ints(b, [n, c * factor * factor, h // factor, w // factor]))


@rules("aten::channel_shuffle")
def channel_shuffle(b: Builder, node: Node, x: Any, groups: Any) -> Any:
    """Channels dealt out anew."""
    channels = _known(b.shape(x)[1])
    apart = b.reshape(x, [0, int(groups), channels // int(groups), -1])
    return b.op("Reshape", b.transpose(apart, [0, 2, 1, 3]), b.sizes(x))


@rules("aten::bilinear")
def bilinear(b: Builder, node: Node, x: Any, y: Any, weight: Any, bias: Any = None) -> Any:
    """X W y for each output."""
    found = b.op("Einsum", x, y, weight, equation="...i,...j,oij->...o")
    return found if bias is None or not is_value(bias) else b.op("Add", found, bias)
