"""Convolution, pooling, normalisation and attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.math import require_float
from raceline.convert.formats.openvino.settings import (
    as_list,
    fixed_ints,
    flag,
    integer,
    ints,
    number,
    opset,
    sizes,
    skip,
    word,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_AUTO = ("explicit", "notset", "same_upper", "same_lower", "valid")
_MOST_WINDOWS = 64


def _window(node: SourceNode, num_axes: int) -> tuple[list[int], list[int], list[int], list[int], str]:
    """Strides, dilations, padding before and after, and how the padding is chosen."""
    zeros = [0] * num_axes
    auto = word(node, "auto_pad", "explicit", _AUTO)
    strides = ints(node, "strides", [1] * num_axes)
    dilations = ints(node, "dilations", [1] * num_axes)
    begin, end = ints(node, "pads_begin", zeros), ints(node, "pads_end", zeros)
    if auto == "valid":
        begin, end = zeros, zeros
    return strides, dilations, begin, end, "explicit" if auto in {"valid", "notset"} else auto


def _padding(
    spatial: Sequence[Any],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    begin: Sequence[int],
    end: Sequence[int],
    auto: str,
) -> dict[str, Any]:
    """ONNX's padding attributes."""
    if auto == "explicit":
        return {"pads": [*begin, *end]}
    before, after = [], []
    for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        if not isinstance(size, int):
            if s != 1:
                return {"auto_pad": auto.upper()}
            total = (k - 1) * d
        else:
            total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if auto == "same_upper" else large)
        after.append(large if auto == "same_upper" else small)
    return {"pads": [*before, *after]}


def _flat_groups(b: Builder, weight: ir.Value) -> tuple[ir.Value, int]:
    """(groups, a, b, kernel...) -> (groups a, b, kernel...), and the number of groups."""
    shape = sizes(b, weight, "weights")
    return b.reshape(weight, [shape[0] * shape[1], *shape[2:]]), shape[0]


@rules("Convolution", "GroupConvolution")
def convolution(b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value) -> Any:
    """A convolution; groups are an axis of the weights of their own."""
    group = 1
    if node.op == "GroupConvolution":
        weight, group = _flat_groups(b, weight)
    kernel = sizes(b, weight, "weights")[2:]
    strides, dilations, begin, end, auto = _window(node, len(kernel))
    pads = _padding(b.shape(x)[2:], kernel, strides, dilations, begin, end, auto)
    return b.op(
        "Conv", x, weight, kernel_shape=kernel, strides=strides, dilations=dilations, group=group, **pads
    )


@rules("ConvolutionBackpropData", "GroupConvolutionBackpropData")
def convolution_backprop(
    b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value, output: ir.Value | None = None
) -> Any:
    """A transposed convolution; the spatial shape of its result may be an input."""
    group = 1
    if node.op == "GroupConvolutionBackpropData":
        weight, group = _flat_groups(b, weight)
    kernel = sizes(b, weight, "weights")[2:]
    strides, dilations, begin, end, auto = _window(node, len(kernel))
    extra = ints(node, "output_padding", [0] * len(kernel))
    if output is not None:
        begin, end, extra = _to_shape(b, x, output, kernel, strides, dilations, (begin, end), auto, extra)
    elif auto != "explicit":
        begin, end = [0] * len(kernel), [0] * len(kernel)  # the operation ignores it without a shape
    return b.op(
        "ConvTranspose", x, weight, kernel_shape=kernel, strides=strides, dilations=dilations, group=group,
        pads=[*begin, *end], output_padding=extra if any(extra) else None,
    )  # fmt: skip


def _to_shape(
    b: Builder,
    x: ir.Value,
    output: ir.Value,
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: tuple[list[int], list[int]],
    auto: str,
    extra: list[int],
) -> tuple[list[int], list[int], list[int]]:
    """Padding before and after, and what is added, so that the result has a given spatial shape."""
    wanted = fixed_ints(b, output, "output shape")
    begin, end, more = [], [], []
    for axis, size in enumerate(sizes(b, x, "input")[2:]):
        full = strides[axis] * (size - 1) + (kernel[axis] - 1) * dilations[axis] + 1 + extra[axis]
        if auto == "explicit":
            before, after = pads[0][axis], pads[1][axis]
        else:
            total = max(0, full - wanted[axis])
            small, large = total // 2, total - total // 2
            before, after = (large, small) if auto == "same_upper" else (small, large)
        begin.append(before)
        end.append(after)
        more.append(extra[axis] + wanted[axis] - (full - before - after))
    if any(item < 0 for item in more):
        end = [last - min(0, item) for last, item in zip(end, more, strict=True)]
        more = [max(0, item) for item in more]
    return begin, end, more


@rules("DeformableConvolution")
def deformable_convolution(
    b: Builder,
    node: SourceNode,
    x: ir.Value,
    offsets: ir.Value,
    weight: ir.Value,
    mask: ir.Value | None = None,
) -> Any:
    """A convolution whose samples are moved by offsets."""
    kernel = sizes(b, weight, "weights")[2:]
    strides, dilations, begin, end, auto = _window(node, len(kernel))
    if not flag(node, "bilinear_interpolation_pad", False):
        raise UnsupportedError("bilinear_interpolation_pad=false")
    pads = _padding(b.shape(x)[2:], kernel, strides, dilations, begin, end, auto)
    return b.op(
        "DeformConv", x, weight, offsets, None, mask,
        kernel_shape=kernel, strides=strides, dilations=dilations,
        group=integer(node, "group", 1), offset_group=integer(node, "deformable_group", 1), **pads,
    )  # fmt: skip


def _ceil_ends(
    spatial: Sequence[Any],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: tuple[list[int], list[int]],
    torch: bool,
) -> list[int] | None:
    """Padding at the ends with which rounding down gives what rounding up gives; None for open sizes."""
    ends = []
    for axis, size in enumerate(spatial):
        if not isinstance(size, int):
            return None
        before, after = pads[0][axis], pads[1][axis]
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        count = -(-(size + before + after - reach) // strides[axis]) + 1
        if torch and (count - 1) * strides[axis] >= size + before:
            count -= 1
        ends.append(max(after, (count - 1) * strides[axis] + reach - size - before))
    return ends


@rules("MaxPool")
def max_pool(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Greatest of each window, and where it lies (from operation set 8 on)."""
    kernel = ints(node, "kernel")
    strides, dilations, begin, end, auto = _window(node, len(kernel))
    rounding = word(node, "rounding_type", "floor", ("floor", "ceil", "ceil_torch"))
    skip(node, "index_element_type")
    first = integer(node, "axis", 0)
    pads = _padding(b.shape(x)[2:], kernel, strides, dilations, begin, end, auto)
    ceil = 0
    if rounding != "floor" and auto == "explicit":
        ends = _ceil_ends(b.shape(x)[2:], kernel, strides, dilations, (begin, end), rounding == "ceil_torch")
        pads, ceil = ({"pads": [*begin, *ends]}, 0) if ends else (pads, 1)
    if ceil and rounding == "ceil" and any(s > 1 for s in strides) and any(begin):
        raise UnsupportedError("rounding_type=ceil with padding on axes of open size")
    outputs = 2 if len(node.outputs) > 1 and node.outputs[1] else 1
    found = b.op(
        "MaxPool", x, kernel_shape=kernel, strides=strides, dilations=dilations, ceil_mode=ceil,
        outputs=outputs, **pads,
    )  # fmt: skip
    if outputs == 1:
        return found, None
    return found[0], _flat_within(b, x, found[1], first)


def _flat_within(b: Builder, x: ir.Value, where: ir.Value, axis: int) -> Any:
    """Indices counted from the start of `axis` on, of indices counted over the whole tensor."""
    axis = axis + b.rank(x) if axis < 0 else axis
    if axis == 0:
        return where
    block = math.prod(sizes(b, x, "input")[axis:])
    return b.op("Mod", where, b.constant(np.array(block)))


@rules("AvgPool")
def avg_pool(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Mean of each window."""
    kernel = ints(node, "kernel")
    strides, dilations, begin, end, auto = _window(node, len(kernel))
    exclude = (
        flag(node, "exclude-pad", True) if "exclude-pad" in node.attributes else flag(node, "exclude_pad")
    )
    rounding = word(node, "rounding_type", "floor", ("floor", "ceil", "ceil_torch"))
    pads = _padding(b.shape(x)[2:], kernel, strides, dilations, begin, end, auto)
    if rounding != "floor" and auto == "explicit":
        torch = rounding == "ceil_torch"
        ends = _ceil_ends(b.shape(x)[2:], kernel, strides, dilations, (begin, end), torch)
        if ends is None:
            raise UnsupportedError(f"rounding_type={rounding} on axes of open size")
        exclude = exclude or not any([*begin, *end])  # without padding, what lies beyond never counts
        pads = {"pads": [*begin, *ends]}
    return b.op(
        "AveragePool", x, kernel_shape=kernel, strides=strides, count_include_pad=int(not exclude),
        dilations=dilations, **pads,
    )  # fmt: skip


@rules("AdaptiveAvgPool")
def adaptive_avg_pool(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value) -> Any:
    """Mean over windows that divide each axis as evenly as whole numbers allow: a product along each axis."""
    wanted = fixed_ints(b, shape, "output shape")
    if all(size == 1 for size in wanted):
        return b.op("ReduceMean", x, [*range(2, b.rank(x))], keepdims=1)
    for axis, (size, count) in enumerate(zip(sizes(b, x, "input")[2:], wanted, strict=True), start=2):
        if size == count:
            continue
        means = np.zeros((count, size), b.dtype(x))
        for place, (start, stop) in enumerate(_shares(size, count)):
            means[place, start:stop] = 1 / (stop - start)
        order = [a for a in range(b.rank(x)) if a != axis] + [axis]
        moved = b.op("MatMul", b.transpose(x, order), means.T)
        x = b.transpose(moved, [order.index(a) for a in range(b.rank(x))])
    return x


@rules("AdaptiveMaxPool")
def adaptive_max_pool(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value) -> Any:
    """Greatest over windows that divide each axis evenly."""
    skip(node, "index_element_type")
    if len(node.outputs) > 1 and node.outputs[1]:
        raise UnsupportedError("indices of the greatest elements")
    wanted = fixed_ints(b, shape, "output shape")
    for axis, (size, count) in enumerate(zip(sizes(b, x, "input")[2:], wanted, strict=True), start=2):
        if size == count:
            continue
        if count > _MOST_WINDOWS:
            raise UnsupportedError(f"{count} windows along an axis")
        parts = [
            b.op("ReduceMax", b.op("Slice", x, [start], [stop], [axis]), [axis], keepdims=1)
            for start, stop in _shares(size, count)
        ]
        x = b.op("Concat", *parts, axis=axis)
    return x, None


def _shares(size: int, count: int) -> list[tuple[int, int]]:
    """Start and stop of each of the windows."""
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


@rules("BatchNormInference")
def batch_norm(b: Builder, node: SourceNode, *inputs: ir.Value) -> Any:
    """Normalise by stored means and variances; the first set had the input in third place."""
    epsilon = number(node, "epsilon") if "epsilon" in node.attributes else number(node, "eps")
    x, gamma, beta, mean, variance = inputs
    if opset(node) < 5:
        gamma, beta, x, mean, variance = inputs
    return b.op("BatchNormalization", x, gamma, beta, mean, variance, epsilon=epsilon)


@rules("MVN")
def mvn(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value | None = None) -> Any:
    """Less the mean, and over the standard deviation."""
    require_float(b, x)
    inside = word(node, "eps_mode", "inside_sqrt", ("inside_sqrt", "outside_sqrt")) == "inside_sqrt"
    if axes is None:  # the first set
        inside = True
        own = ints(node, "reduction_axes", [])
        across = flag(node, "across_channels", True)
        chosen = b.constant(np.array(own or [*range(1 if across else 2, b.rank(x))], np.int64))
    else:
        chosen = as_list(b, axes)
    epsilon = b.scalar(number(node, "eps"), x)
    centred = b.op("Sub", x, b.op("ReduceMean", x, chosen, keepdims=1))
    if not flag(node, "normalize_variance", True):
        return centred
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), chosen, keepdims=1)
    if inside:
        return b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, epsilon)))
    return b.op("Div", centred, b.op("Add", b.op("Sqrt", variance), epsilon))


@rules("NormalizeL2")
def normalize_l2(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    """Over the Euclidean norm; without axes, over the size of each element."""
    add = word(node, "eps_mode", "add", ("add", "max")) == "add"
    epsilon = b.scalar(number(node, "eps"), x)
    chosen = as_list(b, axes)
    squares = b.op("ReduceSum", b.op("Mul", x, x), chosen, keepdims=1, noop_with_empty_axes=1)
    held = b.op("Add" if add else "Max", squares, epsilon)
    return b.op("Div", x, b.op("Sqrt", held))


@rules("LRN")
def lrn(b: Builder, node: SourceNode, x: ir.Value, axes: ir.Value) -> Any:
    """Local response normalisation over channels, or over a square in the picture."""
    alpha, beta, bias = (number(node, key) for key in ("alpha", "beta", "bias"))
    size, rank = integer(node, "size"), b.rank(x)
    chosen = sorted(axis % rank for axis in fixed_ints(b, axes, "axes"))
    if chosen == [1]:
        return b.op("LRN", x, alpha=alpha, beta=beta, bias=bias, size=size)
    if not chosen or chosen[0] < 2:
        raise UnsupportedError(f"axes {chosen}")
    kernel = [size if axis in chosen else 1 for axis in range(2, rank)]
    pads = [(k - 1) // 2 for k in kernel] + [k // 2 for k in kernel]
    mean = b.op("AveragePool", b.op("Mul", x, x), kernel_shape=kernel, pads=pads, count_include_pad=1)
    scale = b.op("Add", b.op("Mul", mean, b.scalar(alpha, x)), b.scalar(bias, x))
    return b.op("Div", x, b.op("Pow", scale, b.scalar(beta, x)))


@rules("GroupNormalization")
def group_norm(b: Builder, node: SourceNode, x: ir.Value, scale: ir.Value, bias: ir.Value) -> Any:
    """Normalise groups of channels."""
    groups, epsilon = integer(node, "num_groups"), number(node, "epsilon")
    return b.op("GroupNormalization", x, scale, bias, num_groups=groups, epsilon=epsilon)


@rules("GRN")
def grn(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Over the norm of the channels."""
    squares = b.op("ReduceSum", b.op("Mul", x, x), [1], keepdims=1)
    return b.op("Div", x, b.op("Sqrt", b.op("Add", squares, b.scalar(number(node, "bias"), x))))


@rules("ScaledDotProductAttention")
def attention(
    b: Builder,
    node: SourceNode,
    query: ir.Value,
    key: ir.Value,
    value: ir.Value,
    mask: ir.Value | None = None,
    scale: ir.Value | None = None,
) -> Any:
    """Softmax(query key^T scale + mask) value."""
    causal = flag(node, "causal", False)
    rank = b.rank(key)
    turned = b.transpose(key, [*range(rank - 2), rank - 1, rank - 2])
    if scale is None:
        width = b.shape(query)[-1]
        if isinstance(width, int):
            scale = b.scalar(1 / math.sqrt(width), query)
        else:
            size = b.cast(b.op("Shape", query, start=-1), b.dtype(query))
            scale = b.op("Div", b.scalar(1, query), b.op("Sqrt", size))
    scores = b.op("MatMul", b.op("Mul", query, scale), turned)
    if causal:
        scores = b.op("Where", _lower_triangle(b, query, key), scores, b.scalar(-np.inf, query))
    elif mask is not None and b.rank(mask):
        boolean = b.dtype(mask).kind == "b"
        scores = (
            b.op("Where", mask, scores, b.scalar(-np.inf, query)) if boolean else b.op("Add", scores, mask)
        )
    return b.op("MatMul", b.op("Softmax", scores, axis=-1), value)


def _lower_triangle(b: Builder, query: ir.Value, key: ir.Value) -> Any:
    """Whether query i may look at key j: j <= i."""
    rows, columns = (
        b.op(
            "Range",
            b.constant(np.array(0)),
            b.op("Squeeze", b.op("Shape", v, start=-2, end=-1), [0]),
            b.constant(np.array(1)),
        )
        for v in (query, key)
    )
    return b.op("GreaterOrEqual", b.op("Unsqueeze", rows, [1]), b.op("Unsqueeze", columns, [0]))


@rules("RMS")
def rms(b: Builder, node: SourceNode, x: ir.Value, gamma: ir.Value | None = None) -> Any:
    """Over the root of the mean square of the last axis."""
    epsilon = b.scalar(number(node, "epsilon"), x)
    skip(node, "output_type")
    mean = b.op("ReduceMean", b.op("Mul", x, x), [-1], keepdims=1)
    result = b.op("Div", x, b.op("Sqrt", b.op("Add", mean, epsilon)))
    return result if gamma is None else b.op("Mul", result, gamma)
