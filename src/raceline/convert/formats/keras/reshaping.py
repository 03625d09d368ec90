"""Layers that move elements: shape, padding, cropping, repetition, upsampling, and those that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.keras.layers import Call, channel_axis, floating, pair
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rules(
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise",
    "AlphaDropout", "ActivityRegularization", "Identity", "StochasticDepth",
)  # fmt: skip
def nothing(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """What only matters while training."""
    return x


@rules(
    "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast", "RandomBrightness",
    "RandomHeight", "RandomWidth",
)  # fmt: skip
def augmentation(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Random changes while training, none afterwards."""
    return floating(b, x)


@rules("Flatten")
def flatten(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """(batch, everything else)."""
    rank = b.rank(x)
    if rank == 1:
        return b.op("Unsqueeze", x, [1])  # type: ignore[no-any-return]
    if channel_axis(call) == 1 and rank > 2:
        x = b.transpose(x, [0, *range(2, rank), 1])
    return _joined(b, x)


def _joined(b: Builder, x: ir.Value) -> ir.Value:
    sizes = b.shape(x)[1:]
    if all(isinstance(size, int) for size in sizes):
        return b.op("Reshape", x, [0, int(np.prod([int(str(s)) for s in sizes]))])  # type: ignore[no-any-return]
    return b.op("Flatten", x, axis=1)  # type: ignore[no-any-return]


@rules("Reshape")
def reshape(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Another shape for everything but the batch."""
    target = [int(size) for size in call["target_shape"]]
    sizes = b.shape(x)[1:]
    if target.count(-1) == 1 and all(isinstance(size, int) for size in sizes):
        whole = int(np.prod([int(str(s)) for s in sizes]))
        rest = -int(np.prod(target))
        if rest > 0 and whole % rest == 0:
            target[target.index(-1)] = whole // rest
    if 0 in target:
        raise UnsupportedError(f"target_shape={target}")
    return b.op("Reshape", x, [0, *target])  # type: ignore[no-any-return]


@rules("Permute")
def permute(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Another order of the axes after the batch."""
    return b.transpose(x, [0, *(int(axis) for axis in call["dims"])])


@rules("RepeatVector")
def repeat_vector(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """(batch, features) -> (batch, n, features)."""
    return b.op("Expand", b.op("Unsqueeze", x, [1]), [1, int(call["n"]), 1])  # type: ignore[no-any-return]


def _margins(value: Any, rank: int) -> list[tuple[int, int]]:
    """(before, after) of each axis."""
    if (
        rank == 1
        and isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(v, int) for v in value)
    ):
        value = [value]
    items = value if isinstance(value, list | tuple) else [value] * rank
    found = [(item, item) if isinstance(item, int) else (int(item[0]), int(item[1])) for item in items]
    if len(found) != rank or any(edge < 0 for margin in found for edge in margin):
        raise UnsupportedError(f"margins of {value}")
    return found


@rules("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
def zero_padding(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Zeros around."""
    rank = int(call.layer.kind[-2])
    margins = _margins(call.get("padding", 1), rank)
    first = 2 if channel_axis(call) == 1 else 1
    # All axes are given: ONNX Runtime 1.31 moves a Pad that names its axes wrongly across a Transpose.
    edges = np.zeros((2, b.rank(x)), np.int64)
    edges[:, first : first + rank] = np.array(margins).T
    return b.op("Pad", x, edges.reshape(-1), b.scalar(0, x))  # type: ignore[no-any-return]


@rules("Cropping1D", "Cropping2D", "Cropping3D")
def cropping(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Edges cut off."""
    rank = int(call.layer.kind[-2])
    margins = _margins(call["cropping"], rank)
    first = 2 if channel_axis(call) == 1 else 1
    axes = list(range(first, first + rank))
    ends = [-after if after else np.iinfo(np.int64).max for _, after in margins]
    return b.op("Slice", x, [before for before, _ in margins], ends, axes)  # type: ignore[no-any-return]


@rules("UpSampling1D", "UpSampling2D", "UpSampling3D")
def up_sampling(b: Builder, call: Call, x: ir.Value) -> ir.Value:
    """Each element several times, or interpolated between."""
    rank = int(call.layer.kind[-2])
    factors = pair(call.get("size", 2), rank)
    mode = str(call.get("interpolation", "nearest")).lower()
    first = 2 if channel_axis(call) == 1 else 1
    scales = [1.0] * b.rank(x)
    for axis, factor in enumerate(factors, first):
        scales[axis] = float(factor)
    return resized(b, x, mode, first, scales=scales)


def resized(
    b: Builder,
    x: ir.Value,
    mode: str,
    first: int,
    *,
    scales: list[float] | None = None,
    sizes: list[int] | None = None,
) -> ir.Value:
    """A picture of another size; half-pixel centres, as Keras has them.

    Args:
        b: receives the nodes.
        x: the picture.
        mode: nearest, bilinear or bicubic.
        first: the first of its spatial axes.
        scales: factors of all axes.
        sizes: or sizes of the two spatial axes.
    """
    settings: dict[str, Any] = {"coordinate_transformation_mode": "half_pixel"}
    if mode == "nearest":
        if scales is not None:
            settings = {
                "mode": "nearest",
                "coordinate_transformation_mode": "asymmetric",
                "nearest_mode": "floor",
            }
        else:
            settings |= {"mode": "nearest", "nearest_mode": "floor"}
            settings["coordinate_transformation_mode"] = "half_pixel"
            settings["nearest_mode"] = "round_prefer_ceil"
    elif mode == "bilinear":
        settings["mode"] = "linear"
    elif mode == "bicubic":
        settings |= {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1}
    else:
        raise UnsupportedError(f"interpolation={mode!r}")
    rank = b.rank(x)
    last = first + 2 == rank
    turned = x if last or mode == "nearest" else b.transpose(x, [0, rank - 1, *range(1, rank - 1)])
    if turned is not x and scales is not None:
        scales = [scales[0], scales[-1], *scales[1:-1]]
    if scales is not None:
        y = b.op("Resize", turned, None, np.array(scales, np.float32), **settings)
    else:
        axes = [first, first + 1] if turned is x else [rank - 2, rank - 1]
        y = b.op("Resize", turned, None, None, list(sizes or ()), axes=axes, **settings)
    return y if turned is x else b.transpose(y, [0, *range(2, rank), 1])
