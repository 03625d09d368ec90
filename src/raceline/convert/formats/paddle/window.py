"""Convolution and pooling, with Paddle's ways to say the padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert import channels_last
from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, bounded, rule
from raceline.convert.formats.paddle.math import activated
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_LAST = {"NHWC", "NDHWC", "NLC"}
_MOST_WINDOWS = 256  # of adaptive pooling to sizes that do not divide; each one is a few nodes


def channels_are_last(c: Call, name: str) -> bool:
    """Whether the layout that this attribute names has its channels at the end."""
    known = ("NCHW", "NHWC", "NCDHW", "NDHWC", "NCL", "NLC", "AnyLayout", "MKLDNN", "ONEDNN")
    return c.text(name, "NCHW", *known) in _LAST


def explicit(paddings: Sequence[int], num_axes: int) -> list[tuple[int, int]]:
    """(before, after) of each axis from Paddle's list: one number for both sides of an axis, or one a side."""
    if len(paddings) == num_axes:
        return [(p, p) for p in paddings]
    if len(paddings) != 2 * num_axes:
        raise ValueError(f"{len(paddings)} paddings for {num_axes} axes")
    return list(zip(paddings[::2], paddings[1::2], strict=True))


def padding(c: Call, num_axes: int) -> channels_last.Padding:
    """SAME, VALID, or (before, after) of each axis."""
    paddings = explicit(c.integers("paddings", [0] * num_axes), num_axes)
    algorithm = c.text("padding_algorithm", "EXPLICIT", "EXPLICIT", "SAME", "VALID")
    return paddings if algorithm == "EXPLICIT" else algorithm


@rule(rules, "conv2d", "depthwise_conv2d", "conv3d", "conv1d", out="Output")
def _conv(b: Builder, c: Call) -> Any:
    x, weight = c.value("Input"), c.value("Filter")
    num_axes = b.rank(weight) - 2
    last = channels_are_last(c, "data_format")
    x = channels_last.channels_first(b, x) if last else x
    strides = c.integers("strides", [1] * num_axes)
    dilations = c.integers("dilations", [1] * num_axes)
    how = padding(c, num_axes)
    if how == "SAME":
        dilations = [1] * num_axes  # as Paddle does
    kernel = _kernel(b, weight)
    pads = channels_last.pads(b.shape(x)[2:], kernel, strides, dilations, how)
    y = b.op(
        "Conv", x, weight, _bias(b, c), strides=strides, dilations=dilations,
        group=c.integer("groups", 1), kernel_shape=kernel, **pads,
    )  # fmt: skip
    rest = c.maybe("ResidualData")
    y = y if rest is None else b.op("Add", y, rest)
    y = activated(b, c, y)
    return channels_last.channels_last(b, y) if last else y


def _kernel(b: Builder, weight: ir.Value) -> list[int]:
    shape = b.shape(weight)[2:]
    if not all(isinstance(dim, int) for dim in shape):
        raise UnsupportedError("a filter of open size")
    return [dim for dim in shape if isinstance(dim, int)]


def _bias(b: Builder, c: Call) -> ir.Value | None:
    bias = c.maybe("Bias")
    return None if bias is None else b.reshape(bias, [-1])


@rule(rules, "conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose", out="Output")
def _conv_transpose(b: Builder, c: Call) -> Any:
    x, weight = c.value("Input"), c.value("Filter")
    last = channels_are_last(c, "data_format")
    x = channels_last.channels_first(b, x) if last else x
    kernel = _kernel(b, weight)
    strides = c.integers("strides", [1] * len(kernel))
    dilations = c.integers("dilations", [1] * len(kernel))
    how = padding(c, len(kernel))
    sizes = b.shape(x)[2:]
    if how == "SAME":
        if not all(isinstance(size, int) for size in sizes):
            raise UnsupportedError("SAME padding of an image of open size")
        dilations = [1] * len(kernel)
    pads = channels_last.pads(sizes, kernel, strides, dilations, how)["pads"]
    extra = c.integers("output_padding", [0] * len(kernel)) or [0] * len(kernel)
    wanted = c.listed(b, "output_size", tensor="OutputSizeTensor", tensors="OutputSize")
    if wanted:
        extra = _extra(sizes, wanted, kernel, strides, dilations, pads)
    y = b.op(
        "ConvTranspose", x, weight, _bias(b, c), strides=strides, dilations=dilations, pads=pads,
        group=c.integer("groups", 1), kernel_shape=kernel, output_padding=extra,
    )  # fmt: skip
    y = activated(b, c, y)
    return channels_last.channels_last(b, y) if last else y


def _extra(
    sizes: Sequence[Any],
    wanted: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
) -> list[int]:
    """What must be added at the end of each axis to reach the size that the program asks for."""
    extra = []
    for axis, (size, want, k) in enumerate(zip(sizes, wanted, kernel, strict=True)):
        if not isinstance(size, int):
            raise UnsupportedError("output_size for an image of open size")
        around = pads[axis] + pads[axis + len(kernel)]
        extra.append(want - ((size - 1) * strides[axis] - around + (k - 1) * dilations[axis] + 1))
    return extra


@rule(rules, "pool2d", "pool3d")
def _pool(b: Builder, c: Call) -> Any:
    x = c.value("X")
    last = channels_are_last(c, "data_format")
    x = channels_last.channels_first(b, x) if last else x
    kind = c.text("pooling_type", "max", "max", "avg")
    y = _pooled(b, c, x, kind == "max")
    return channels_last.channels_last(b, y) if last else y


def _pooled(b: Builder, c: Call, x: ir.Value, largest: bool) -> Any:
    num_axes = b.rank(x) - 2
    kernel = c.listed(b, "ksize", tensor="KernelSize")
    strides = c.integers("strides", [1] * num_axes)
    how = padding(c, num_axes)
    ceil, exclusive = c.flag("ceil_mode"), c.flag("exclusive", True)
    adaptive, everything = c.flag("adaptive"), c.flag("global_pooling")
    if len(kernel) == 1:
        kernel = kernel * num_axes
    if everything or (adaptive and all(k == 1 for k in kernel)):
        return b.op("GlobalMaxPool" if largest else "GlobalAveragePool", x)
    if adaptive:
        return _adaptive(b, x, kernel, largest)
    sizes = b.shape(x)[2:]
    pads = channels_last.pads(sizes, kernel, strides, [1] * num_axes, how)
    around = pads.get("pads")
    uneven = around is None or around[:num_axes] != around[num_axes:]
    if not largest and not exclusive and uneven:  # Paddle then takes the padding before for that after
        raise UnsupportedError("an average that counts padding, with another padding after than before")
    if ceil and "pads" in pads:
        _refuse_empty_windows(sizes, kernel, strides, pads["pads"])
    op = "MaxPool" if largest else "AveragePool"
    include = None if largest else int(not exclusive)
    return b.op(
        op, x, kernel_shape=kernel, strides=strides, ceil_mode=int(ceil), count_include_pad=include, **pads
    )


def _refuse_empty_windows(
    sizes: Sequence[Any], kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]
) -> None:
    """With ceil_mode Paddle keeps a last window that begins behind the image; ONNX leaves it out."""
    for axis, (size, k, stride) in enumerate(zip(sizes, kernel, strides, strict=True)):
        before, after = pads[axis], pads[axis + len(kernel)]
        if not isinstance(size, int):
            if stride > k + after and stride > 1:
                raise UnsupportedError("ceil_mode with strides wider than windows, of an image of open size")
            continue
        count = -(-(size - k + before + after) // stride) + 1
        if (count - 1) * stride >= size + before:
            raise UnsupportedError("ceil_mode with a window that lies outside the image")


def _adaptive(b: Builder, x: ir.Value, wanted: Sequence[int], largest: bool) -> Any:
    """Pooling to a given size: window i of an axis is [floor(i n / k), ceil((i + 1) n / k))."""
    sizes = b.shape(x)[2:]
    if len(wanted) != len(sizes):
        raise ValueError(f"{len(wanted)} sizes for {len(sizes)} axes")
    wanted = [size if want == -1 and isinstance(size, int) else want
              for size, want in zip(sizes, wanted, strict=True)]  # fmt: skip
    if not all(isinstance(size, int) or want == 1 for size, want in zip(sizes, wanted, strict=True)):
        raise UnsupportedError("adaptive pooling of an image of open size")
    if any(want < 1 for want in wanted):
        raise UnsupportedError(f"adaptive pooling to {list(wanted)}")
    if all(isinstance(size, int) and size % want == 0 for size, want in zip(sizes, wanted, strict=True)):
        kernel = [int(size or 1) // want for size, want in zip(sizes, wanted, strict=True)]
        op = "MaxPool" if largest else "AveragePool"
        return b.op(op, x, kernel_shape=kernel, strides=kernel)
    for axis, (size, want) in enumerate(zip(sizes, wanted, strict=True), 2):
        if want == 1:
            x = b.op("ReduceMax" if largest else "ReduceMean", x, [axis], keepdims=1)
        elif size != want:
            x = (_largest if largest else _averages)(b, x, axis, int(size or 1), want)
    return x


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    if count > _MOST_WINDOWS:
        raise UnsupportedError(f"adaptive pooling of {size} to {count}")
    return [(i * size // count, math.ceil((i + 1) * size / count)) for i in range(count)]


def _averages(b: Builder, x: ir.Value, axis: int, size: int, count: int) -> Any:
    weight = np.zeros((bounded(size, "an axis of"), count), b.dtype(x))
    for i, (start, stop) in enumerate(_windows(size, count)):
        weight[start:stop, i] = 1 / (stop - start)
    perm = [a for a in range(b.rank(x)) if a != axis] + [axis]
    return b.transpose(b.op("MatMul", b.transpose(x, perm), weight), [int(a) for a in np.argsort(perm)])


def _largest(b: Builder, x: ir.Value, axis: int, size: int, count: int) -> Any:
    parts = [
        b.op("ReduceMax", b.op("Slice", x, [start], [stop], [axis]), [axis], keepdims=1)
        for start, stop in _windows(size, count)
    ]
    return b.op("Concat", *parts, axis=axis)


@rule(rules, "max_pool2d_with_index", "max_pool3d_with_index")
def _pool_with_places(b: Builder, c: Call) -> dict[str, Any]:
    """The mask counts within each channel's plane, where ONNX counts within the whole tensor."""
    x = c.value("X")
    num_axes = b.rank(x) - 2
    if c.flag("adaptive") or c.flag("global_pooling") or c.flag("ceil_mode"):
        return {"Out": _pooled(b, c, x, largest=True)}  # and no places: who reads them is refused
    kernel, strides = c.integers("ksize"), c.integers("strides", [1] * num_axes)
    before, after = zip(*explicit(c.integers("paddings", [0] * num_axes), num_axes), strict=True)
    y, places = b.op("MaxPool", x, outputs=2, kernel_shape=kernel, strides=strides, pads=[*before, *after])
    plane = b.op("ReduceProd", b.op("Shape", x, start=2), keepdims=1)
    return {"Out": y, "Mask": b.cast(b.op("Mod", places, plane), np.int32)}


@rule(rules, "unfold", out="Y")
def _unfold(b: Builder, c: Call) -> Any:
    """Patches as columns: a convolution whose filters each copy one element of the window."""
    x = c.value("X")
    channels = b.shape(x)[1]
    kernel = c.integers("kernel_sizes")
    pads = c.integers("paddings", [0, 0])
    if not isinstance(channels, int):
        raise UnsupportedError("an open number of channels")
    pads = [*pads, *pads] if len(pads) == 2 else pads
    size = bounded(math.prod(kernel), "a window of", 1024)
    bounded(channels * size * size, "elements of windows", 10_000_000)
    weight = np.tile(np.eye(size, dtype=b.dtype(x)).reshape(size, 1, *kernel), (channels, 1, 1, 1))
    y = b.op("Conv", x, weight, group=channels, strides=c.integers("strides"), pads=pads,
             dilations=c.integers("dilations", [1, 1]), kernel_shape=kernel)  # fmt: skip
    return b.op("Reshape", y, [0, channels * size, -1])


@rule(rules, "deformable_conv", out="Output")
def _deformable(b: Builder, c: Call) -> Any:
    x, weight, mask = c.value("Input"), c.value("Filter"), c.maybe("Mask")
    pads = explicit(c.integers("paddings", [0, 0]), 2)
    c.ignore("im2col_step")
    return b.op(
        "DeformConv", x, weight, c.value("Offset"), None, mask, strides=c.integers("strides", [1, 1]),
        dilations=c.integers("dilations", [1, 1]), group=c.integer("groups", 1),
        offset_group=c.integer("deformable_groups", 1), kernel_shape=_kernel(b, weight),
        pads=[pads[0][0], pads[1][0], pads[0][1], pads[1][1]],
    )  # fmt: skip
