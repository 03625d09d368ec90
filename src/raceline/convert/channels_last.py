"""Convolution, pooling and their padding for sources that keep channels last (NHWC, NDHWC, NWC).

ONNX keeps channels first: each helper moves them there and back. The passes cancel the moves between neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder

if TYPE_CHECKING:
    import onnx_ir as ir

Padding = str | Sequence[tuple[int, int]]
"""SAME, VALID, or explicit (before, after) of each spatial axis."""


def channels_first(b: Builder, x: ir.Value) -> ir.Value:
    """(batch, spatial..., channels) -> (batch, channels, spatial...)."""
    rank = b.rank(x)
    return b.transpose(x, [0, rank - 1, *range(1, rank - 1)])


def channels_last(b: Builder, x: ir.Value) -> ir.Value:
    """(batch, channels, spatial...) -> (batch, spatial..., channels)."""
    rank = b.rank(x)
    return b.transpose(x, [0, *range(2, rank), 1])


def pads(
    sizes: Sequence[int | str | None],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    padding: Padding,
) -> dict[str, Any]:
    """ONNX's padding attributes for TensorFlow's padding.

    SAME pads so that the output has ceil(size / stride) elements, the odd one at the end. Where a size is open
    and the stride is over 1 only `auto_pad` can say so.

    Args:
        sizes: of the spatial axes of the input.
        kernel: elements, one number for each of them.
        strides: likewise.
        dilations: likewise.
        padding: as TensorFlow has it.
    """
    if not isinstance(padding, str):
        before, after = zip(*padding, strict=True)
        return {"pads": [*before, *after]}
    if padding.upper() == "VALID":
        return {"pads": [0] * (2 * len(kernel))}
    pairs = []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        if s == 1:
            total = (k - 1) * d
        elif isinstance(size, int):
            total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        else:
            return {"auto_pad": "SAME_UPPER"}
        pairs.append((total // 2, total - total // 2))
    return pads(sizes, kernel, strides, dilations, pairs)


def conv(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    *,
    bias: ir.Value | None = None,
    strides: Sequence[int],
    padding: Padding,
    dilations: Sequence[int],
    group: int = 1,
) -> ir.Value:
    """A convolution of channels-last `x`.

    Args:
        b: receives the nodes.
        x: (batch, spatial..., channels).
        weight: as ONNX has it: (out channels, in channels / group, kernel...).
        bias: (out channels,) or None.
        strides: one number a spatial axis.
        dilations: likewise.
        padding: as TensorFlow has it.
        group: ONNX's number of groups.

    Returns:
        (batch, spatial..., out channels).
    """
    kernel = [int(size) for size in b.shape(weight)[2:] if size is not None]
    spatial = b.shape(x)[1:-1]
    y = b.op(
        "Conv", channels_first(b, x), weight, bias,
        kernel_shape=kernel, strides=list(strides), dilations=list(dilations), group=group,
        **pads(spatial, kernel, strides, dilations, padding),
    )  # fmt: skip
    return channels_last(b, y)


def pool(
    b: Builder, x: ir.Value, op: str, *, kernel: Sequence[int], strides: Sequence[int], padding: Padding
) -> ir.Value:
    """`MaxPool` or `AveragePool` of channels-last `x`; padding never counts in an average."""
    spatial = b.shape(x)[1:-1]
    attributes = pads(spatial, kernel, strides, [1] * len(kernel), padding)
    if op == "AveragePool":
        attributes["count_include_pad"] = 0
    y = b.op(op, channels_first(b, x), kernel_shape=list(kernel), strides=list(strides), **attributes)
    return channels_last(b, y)


def conv_transpose(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    *,
    bias: ir.Value | None = None,
    strides: Sequence[int],
    padding: Padding,
    output: Sequence[int | str | None],
    computed: ir.Value | None = None,
    dilations: Sequence[int] | None = None,
    group: int = 1,
) -> ir.Value:
    """The gradient of a convolution, by which sources upsample.

    Args:
        b: receives the nodes.
        x: (batch, spatial..., in channels).
        weight: as ONNX has it: (in channels, out channels / group, kernel...).
        bias: (out channels,) or None.
        strides: one number a spatial axis.
        dilations: likewise.
        padding: of the convolution whose gradient it is.
        output: spatial sizes of the result, None for open ones.
        computed: (spatial axes,) int64 sizes as the model computes them, which decide where one is open; None
            where the source has no such thing, and an open size is the usual one for its padding.
        group: ONNX's number of groups.
    """
    kernel = [int(size) for size in b.shape(weight)[2:] if size is not None]
    if computed is not None and not all(isinstance(size, int) for size in output):
        settings = {
            "strides": list(strides),
            "dilations": list(dilations or [1] * len(kernel)),
            "group": group,
        }
        return _cut_to(b, x, weight, bias, padding, computed, kernel, settings)
    spatial = b.shape(x)[1:-1]
    steps = list(dilations or [1] * len(kernel))
    begins, ends, extra = [], [], []
    for axis, (k, s, d) in enumerate(zip(kernel, strides, steps, strict=True)):
        sizes = spatial[axis], output[axis]
        before, after, more = _gradient_pads(
            sizes, (k - 1) * d + 1, s, padding if isinstance(padding, str) else padding[axis]
        )
        begins.append(before)
        ends.append(after)
        extra.append(more)
    y = b.op(
        "ConvTranspose", channels_first(b, x), weight, bias,
        kernel_shape=kernel, strides=list(strides), dilations=steps, group=group,
        pads=[*begins, *ends], output_padding=extra if any(extra) else None,
    )  # fmt: skip
    return channels_last(b, y)


def _cut_to(
    b: Builder,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    padding: Padding,
    size: ir.Value,
    kernel: Sequence[int],
    settings: dict[str, Any],
) -> ir.Value:
    """A gradient whose size only a run tells: computed without padding, then cut."""
    strides = settings["strides"]
    # One stride of zeros behind the last element: no source asks for more.
    whole = b.op(
        "ConvTranspose", channels_first(b, x), weight, bias, kernel_shape=list(kernel),
        output_padding=[s - 1 for s in strides] if max(strides) > 1 else None, **settings,
    )  # fmt: skip
    spatial = list(range(2, 2 + len(kernel)))
    if not isinstance(padding, str):
        start: Any = [before for before, _ in padding]
    elif padding.upper() == "VALID":
        start = [0] * len(kernel)
    else:
        last = b.op("Sub", b.op("Shape", whole, start=2), [s - 1 for s in strides])
        left = b.op("Max", b.op("Sub", last, size), [0] * len(kernel))
        start = b.op("Div", left, [2] * len(kernel))
    return channels_last(b, b.op("Slice", whole, start, b.op("Add", size, start), spatial))


def resize(b: Builder, x: ir.Value, size: ir.Value, **settings: Any) -> ir.Value:
    """A picture of another size.

    Args:
        b: receives the nodes.
        x: (batch, height, width, channels).
        size: (2,) height and width.
        settings: of ONNX's Resize.
    """
    first = channels_first(b, x)
    known, spatial = b.array(size), b.shape(first)[2:]
    if known is not None and all(isinstance(dim, int) for dim in spatial):
        # By scales where they are exact: all engines keep an open batch then.
        scales = [int(n) / dim for n, dim in zip(known, spatial, strict=True) if isinstance(dim, int)]
        if all(scale == round(scale) for scale in scales) and settings["mode"] != "cubic":
            factors = np.array([1, 1, *scales], np.float32)
            return channels_last(b, b.op("Resize", first, None, factors, **settings))
    # Not by axes: ONNX Runtime 1.32 loses the sizes where it moves two such nodes past transpositions.
    whole = b.op("Concat", b.op("Shape", first, start=0, end=2), b.cast(size, np.int64), axis=0)
    return channels_last(b, b.op("Resize", first, None, None, whole, **settings))


def _gradient_pads(
    sizes: tuple[int | str | None, int | str | None], reach: int, stride: int, padding: str | tuple[int, int]
) -> tuple[int, int, int]:
    """Padding before and after one axis, and what the result has more than follows from them.

    Args:
        sizes: of the input and of the result.
        reach: input elements under the dilated kernel.
        stride: of the convolution.
        padding: of the convolution.
    """
    size, wanted = sizes
    same = isinstance(padding, str) and padding.upper() == "SAME"
    if isinstance(size, int):
        full = (size - 1) * stride + reach
        out = wanted if isinstance(wanted, int) else size * stride if same else full
        total = max(0, full - out) if same else 0
    else:
        full, out = reach, stride if same else reach  # as if of one element
        total = max(0, reach - stride) if same else 0
    before, after = (total // 2, total - total // 2) if isinstance(padding, str) else padding
    return before, after, max(0, out - (full - before - after))
