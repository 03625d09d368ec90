"""Pictures: resizing, crops, colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.channels_last import pads, resize
from raceline.convert.formats.tensorflow.values import fixed, fixed_ints, fixed_rank, vector
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

Places = np.ndarray[Any, np.dtype[np.int64]]
Weights = np.ndarray[Any, Any]


def _mode(node: SourceNode) -> str:
    """How ONNX names the way places of the result are found in the input."""
    centers = bool(node.attributes.get("half_pixel_centers", False))
    if node.attributes.get("align_corners", False):
        if centers:
            raise UnsupportedError("with both align_corners and half_pixel_centers")
        return "align_corners"
    return "half_pixel" if centers else "asymmetric"


_MOST_PIXELS = 1 << 17  # along one side of a picture


def _known_size(b: Builder, size: ir.Value) -> Any:
    """The size asked for where it is constant; None where the model computes it.

    Raises:
        ValueError: no picture has that size.
    """
    known = b.array(size)
    if known is not None and any(not 1 <= int(side) <= _MOST_PIXELS for side in known.reshape(-1)):
        raise ValueError(f"a picture of {known.reshape(-1)[:4].tolist()} pixels")
    return known


@rules("ResizeBilinear")
def _bilinear(b: Builder, node: SourceNode, x: ir.Value, size: ir.Value) -> Any:
    """The result is float32, whatever comes in."""
    y = b.cast(x, np.float32)
    return resize(b, y, vector(b, size), mode="linear", coordinate_transformation_mode=_mode(node))


@rules("ResizeBicubic")
def _bicubic(b: Builder, node: SourceNode, x: ir.Value, size: ir.Value) -> Any:
    """With pixel centres TensorFlow takes Keys' kernel and leaves out what lies beyond the edge."""
    mode = _mode(node)
    keys = mode == "half_pixel"
    known, own = _known_size(b, size), b.shape(x)[1:]
    sizes = [dim for dim in own if isinstance(dim, int)]
    if known is not None and len(sizes) == 3:
        rows, columns = (_cubic_weights(m, int(n), mode) for m, n in zip(sizes, known, strict=False))
        return _by_matrices(b, b.cast(x, np.float32), rows, columns)
    return resize(
        b, b.cast(x, np.float32), vector(b, size), mode="cubic", coordinate_transformation_mode=mode,
        cubic_coeff_a=-0.5 if keys else -0.75, exclude_outside=int(keys),
    )  # fmt: skip


_CUBIC_STEPS = 1024  # TensorFlow looks weights up in a table with this many places between two pixels


def _cubic_weights(size: int, wanted: int, mode: str) -> Weights:
    """(wanted, size): how much of each element goes into each element of the result."""
    corners = mode == "align_corners" and wanted > 1
    step = np.float32(size - 1) / np.float32(wanted - 1) if corners else np.float32(size) / np.float32(wanted)
    offset = np.float32(0.5 if mode == "half_pixel" else 0)
    places = (np.arange(wanted, dtype=np.float32) + offset) * step - offset
    first = np.floor(places)
    part = np.rint((places - first) * _CUBIC_STEPS) / _CUBIC_STEPS
    weights = np.zeros((wanted, size))
    for tap in (-1, 0, 1, 2):
        index = first.astype(int) + tap
        weight = _cubic(np.abs(tap - part), -0.5 if mode == "half_pixel" else -0.75)
        if mode == "half_pixel":
            weight = np.where((index >= 0) & (index < size), weight, 0)
        np.add.at(weights, (np.arange(wanted), np.clip(index, 0, size - 1)), weight)
    total = weights.sum(1, keepdims=True) if mode == "half_pixel" else 1.0
    result: Weights = (weights / total).astype(np.float32)
    return result


def _cubic(x: Weights, a: float) -> Weights:
    """Keys' kernel (1981) by distance."""
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


@rules("ResizeNearestNeighbor")
def _nearest(b: Builder, node: SourceNode, x: ir.Value, size: ir.Value) -> Any:
    """By Resize where the size is a whole multiple; by places that are calculated here where both are known."""
    mode = _mode(node)
    known = _known_size(b, size)
    shape = b.shape(x)[1:3]
    sizes = [dim for dim in shape if isinstance(dim, int)]
    if known is not None and len(sizes) == 2:
        wanted = [int(n) for n in known]
        if mode == "align_corners" or any(n % m for n, m in zip(wanted, sizes, strict=True)):
            for axis, (n, m) in enumerate(zip(wanted, sizes, strict=True), 1):
                x = b.op("Gather", x, _nearest_places(m, n, mode), axis=axis)
            return x
    rounding = {
        "half_pixel": "round_prefer_ceil",
        "align_corners": "round_prefer_ceil",
        "asymmetric": "floor",
    }
    return resize(
        b,
        x,
        vector(b, size),
        mode="nearest",
        coordinate_transformation_mode=mode,
        nearest_mode=rounding[mode],
    )


def _nearest_places(size: int, wanted: int, mode: str) -> Places:
    """The element that each place of the result takes, in float32 as TensorFlow calculates it."""
    places = np.arange(wanted, dtype=np.float32)
    if mode == "align_corners":
        step = np.float32(size - 1) / np.float32(wanted - 1) if wanted > 1 else np.float32(size) / wanted
        found = np.floor(places * np.float32(step) + np.float32(0.5))
    else:
        step = np.float32(size) / np.float32(wanted)
        offset = np.float32(0.5 if mode == "half_pixel" else 0)
        found = np.floor((places + offset) * step)
    result: Places = np.clip(found, 0, size - 1).astype(np.int64)
    return result


@rules("CropAndResize")
def _crop_and_resize(
    b: Builder, node: SourceNode, x: ir.Value, boxes: ir.Value, owners: ir.Value, size: ir.Value
) -> Any:
    """Crops in normalised coordinates, each resized; what lies beyond the picture is one given value."""
    method = str(node.attributes.get("method", "bilinear"))
    beyond = float(node.attributes.get("extrapolation_value", 0.0))
    wanted = fixed_ints(b, size, "size")
    picture = b.cast(x, np.float32)
    sizes = vector(b, b.sizes(picture))
    places, inside = [], []
    for axis, count in enumerate(wanted):  # rows, then columns; (boxes, count)
        last = b.cast(b.op("Sub", b.op("Gather", sizes, [axis + 1], axis=0), [1]), np.float32)
        low, high = (b.op("Gather", boxes, [axis + 2 * end], axis=1) for end in (0, 1))
        place = _crop_places(b, low, high, last, count)
        places.append(place)
        zero = np.float32(0)
        inside.append(b.op("And", b.op("GreaterOrEqual", place, zero), b.op("LessOrEqual", place, last)))
    fits = b.op("And", b.op("Unsqueeze", inside[0], [2]), b.op("Unsqueeze", inside[1], [1]))
    fits = b.op("Unsqueeze", fits, [3])
    owner = b.reshape(b.cast(owners, np.int64), [-1, 1, 1])
    pick = _Picker(b, picture, sizes, owner)
    if method == "nearest":
        rows, columns = (b.op("Floor", b.op("Add", place, np.float32(0.5))) for place in places)
        found = pick(rows, columns)
    elif method == "bilinear":
        found = _blended(b, pick, *places)
    else:
        raise UnsupportedError(f"method {method}")
    return b.op("Where", fits, found, np.float32(beyond))


def _crop_places(b: Builder, low: ir.Value, high: ir.Value, last: ir.Value, count: int) -> ir.Value:
    """Where each row (or column) of a crop lies in the picture."""
    if count == 1:
        return b.op("Mul", b.op("Mul", b.op("Add", low, high), np.float32(0.5)), last)  # type: ignore[no-any-return]
    step = b.op("Div", b.op("Mul", b.op("Sub", high, low), last), np.float32(count - 1))
    steps = np.arange(count, dtype=np.float32).reshape(1, -1)
    return b.op("Add", b.op("Mul", low, last), b.op("Mul", step, steps))  # type: ignore[no-any-return]


class _Picker:
    """Picks pixels by rows and columns of each box."""

    def __init__(self, b: Builder, picture: ir.Value, sizes: ir.Value, owner: ir.Value) -> None:
        self._b, self._picture, self._owner = b, picture, owner
        self._most = [
            b.cast(b.op("Sub", b.op("Gather", sizes, [axis], axis=0), [1]), np.float32) for axis in (1, 2)
        ]

    def __call__(self, rows: ir.Value, columns: ir.Value) -> Any:
        """(boxes, height, width, channels)."""
        b = self._b
        parts = [
            b.op("Unsqueeze", b.op("Min", b.op("Max", place, np.float32(0)), most), [axis])
            for place, most, axis in zip((rows, columns), self._most, (2, 1), strict=True)
        ]
        row, column = (b.cast(item, np.int64) for item in parts)
        zero = b.op("Mul", b.op("Add", row, column), np.int64(0))  # of the common shape
        index = [b.op("Unsqueeze", b.op("Add", item, zero), [3]) for item in (self._owner, row, column)]
        return b.op("GatherND", self._picture, b.op("Concat", *index, axis=3))


def _blended(b: Builder, pick: _Picker, rows: ir.Value, columns: ir.Value) -> Any:
    top, left = b.op("Floor", rows), b.op("Floor", columns)
    bottom, right = b.op("Ceil", rows), b.op("Ceil", columns)
    down = b.op("Unsqueeze", b.op("Sub", rows, top), [2, 3])
    along = b.op("Unsqueeze", b.op("Sub", columns, left), [1, 3])

    def mix(one: ir.Value, other: ir.Value, weight: ir.Value) -> Any:
        return b.op("Add", one, b.op("Mul", b.op("Sub", other, one), weight))

    high = mix(pick(top, left), pick(top, right), along)
    low = mix(pick(bottom, left), pick(bottom, right), along)
    return mix(high, low, down)


@rules("AdjustContrastv2")
def _adjust_contrast(b: Builder, node: SourceNode, x: ir.Value, factor: ir.Value) -> Any:
    rank = fixed_rank(b, x)
    mean = b.op("ReduceMean", x, [rank - 3, rank - 2], keepdims=1)
    return b.op("Add", mean, b.op("Mul", b.op("Sub", x, mean), b.cast(factor, b.dtype(x))))


@rules("RGBToHSV")
def _rgb_to_hsv(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    zero, one = b.scalar(0, x), b.scalar(1, x)
    red, green, blue = (b.op("Gather", x, [channel], axis=-1) for channel in range(3))
    value = b.op("ReduceMax", x, [-1], keepdims=1)
    spread = b.op("Sub", value, b.op("ReduceMin", x, [-1], keepdims=1))
    grey = b.op("Equal", spread, zero)
    safe = b.op("Where", grey, one, spread)
    dark = b.op("Greater", value, zero)
    saturation = b.op("Where", dark, b.op("Div", spread, b.op("Where", dark, value, one)), zero)

    def sector(first: ir.Value, second: ir.Value, start: float) -> Any:
        return b.op("Add", b.op("Div", b.op("Sub", first, second), safe), b.scalar(start, x))

    hue = b.op("Where", b.op("Equal", value, green), sector(blue, red, 2), sector(red, green, 4))
    hue = b.op("Where", b.op("Equal", value, red), sector(green, blue, 0), hue)
    hue = b.op("Div", b.op("Where", grey, zero, hue), b.scalar(6, x))
    hue = b.op("Where", b.op("Less", hue, zero), b.op("Add", hue, one), hue)
    return b.op("Concat", hue, saturation, value, axis=-1)


@rules("HSVToRGB")
def _hsv_to_rgb(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    hue, saturation, value = (b.op("Gather", x, [channel], axis=-1) for channel in range(3))
    zero, one = b.scalar(0, x), b.scalar(1, x)
    six = b.op("Mul", hue, b.scalar(6, x))
    distance = [
        b.op("Sub", b.op("Abs", b.op("Sub", six, b.scalar(3, x))), one),
        b.op("Sub", b.scalar(2, x), b.op("Abs", b.op("Sub", six, b.scalar(2, x)))),
        b.op("Sub", b.scalar(2, x), b.op("Abs", b.op("Sub", six, b.scalar(4, x)))),
    ]
    channels = []
    for item in distance:
        bound = b.op("Max", b.op("Min", item, one), zero)
        mixed = b.op("Add", b.op("Mul", b.op("Sub", bound, one), saturation), one)
        channels.append(b.op("Mul", mixed, value))
    return b.op("Concat", *channels, axis=-1)


@rules("ExtractImagePatches")
def _patches(b: Builder, node: SourceNode, x: ir.Value) -> Any:
    """Each pixel of the patch is a slice of the picture; patches hold rows, columns, channels in this order."""
    (high, wide), strides, rates = (node.attributes[name][1:3] for name in ("ksizes", "strides", "rates"))
    kernel, shape = [high, wide], b.shape(x)[1:3]
    padding = pads(shape, kernel, strides, rates, str(node.attributes["padding"]))
    if "auto_pad" in padding:
        raise UnsupportedError("with padding SAME and an open size")
    before, after = padding["pads"][:2], padding["pads"][2:]
    x = b.op("Pad", x, [0, *before, 0, 0, *after, 0], None, mode="constant")
    counts = []
    for axis in (0, 1):
        size = b.shape(x)[axis + 1]
        if not isinstance(size, int):
            raise UnsupportedError("with an open size")
        counts.append((size - (kernel[axis] - 1) * rates[axis] - 1) // strides[axis] + 1)
    pieces = []
    for row in range(high):
        for column in range(wide):
            starts = [row * rates[0], column * rates[1]]
            ends = [s + (n - 1) * step + 1 for s, n, step in zip(starts, counts, strides, strict=True)]
            pieces.append(b.op("Slice", x, starts, ends, [1, 2], list(strides)))
    return b.op("Concat", *pieces, axis=3)


@rules("AdjustSaturation", "AdjustHue")
def _adjust(b: Builder, node: SourceNode, x: ir.Value, amount: ir.Value) -> Any:
    hsv = _rgb_to_hsv(b, node, x)
    hue, saturation, value = (b.op("Gather", hsv, [channel], axis=-1) for channel in range(3))
    change = b.cast(amount, b.dtype(x))
    if node.op == "AdjustSaturation":
        saturation = b.op("Clip", b.op("Mul", saturation, change), b.scalar(0, x), b.scalar(1, x))
    else:
        turned = b.op("Add", hue, change)
        hue = b.op("Sub", turned, b.op("Floor", turned))
    return _hsv_to_rgb(b, node, b.op("Concat", hue, saturation, value, axis=-1))


def _triangle(x: Weights) -> Weights:
    return np.where(x < 1, 1 - x, 0)


def _keys(x: Weights) -> Weights:
    return _cubic(x, -0.5)


def _mitchell(x: Weights) -> Weights:
    near = ((7 * x - 12) * x * x + 16 / 3) / 6
    far = (((-7 / 3 * x + 12) * x - 20) * x + 32 / 3) / 6
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _lanczos(radius: int) -> Any:
    return lambda x: np.where(x < radius, np.sinc(x) * np.sinc(x / radius), 0)


_KERNELS: dict[str, tuple[float, Any]] = {
    "triangle": (1.0, _triangle),
    "keyscubic": (2.0, _keys),
    "mitchellcubic": (2.0, _mitchell),
    "lanczos1": (1.0, _lanczos(1)),
    "lanczos3": (3.0, _lanczos(3)),
    "lanczos5": (5.0, _lanczos(5)),
    "box": (0.5, lambda x: np.where(x < 0.5, 1.0, np.where(x == 0.5, 0.5, 0.0))),
}
"""Radius and weights by distance, as `tf.image.resize(antialias=True)` names them."""


@rules("ScaleAndTranslate")
def _scale_and_translate(
    b: Builder, node: SourceNode, x: ir.Value, size: ir.Value, scale: ir.Value, shift: ir.Value
) -> Any:
    """With the kernel made wider where the picture shrinks, so that nothing is skipped."""
    name = str(node.attributes.get("kernel_type", "lanczos3"))
    if name not in _KERNELS:
        raise UnsupportedError(f"kernel {name}")
    smooth = bool(node.attributes.get("antialias", True))
    wanted = fixed_ints(b, size, "size")
    scales, shifts = (fixed(b, value, "scale").reshape(-1).tolist() for value in (scale, shift))
    sizes = [dim for dim in b.shape(x)[1:3] if isinstance(dim, int)]
    if len(sizes) < 2:
        raise UnsupportedError("of an open size")
    rows, columns = (
        _weights(own, new, factor, moved, _KERNELS[name], smooth=smooth)
        for own, new, factor, moved in zip(sizes, wanted, scales, shifts, strict=True)
    )
    return _by_matrices(b, b.cast(x, np.float32), rows, columns)


def _by_matrices(b: Builder, x: ir.Value, rows: Weights, columns: Weights) -> ir.Value:
    """Rows and columns of pictures each by a product with a matrix (new size, size)."""
    channels = b.shape(x)[3]
    if not isinstance(channels, int):
        raise UnsupportedError("with an open number of channels")
    (new_high, high), (new_wide, wide) = rows.shape, columns.shape
    x = b.op("MatMul", rows, b.reshape(x, [-1, high, wide * channels]))
    x = b.op("MatMul", columns, b.reshape(x, [-1, wide, channels]))
    return b.reshape(x, [-1, new_high, new_wide, channels])


def _weights(
    size: int, wanted: int, scale: float, shift: float, kernel: tuple[float, Any], *, smooth: bool
) -> Weights:
    """(wanted, size): how much of each element goes into each element of the result."""
    radius, function = kernel
    width = max(1 / scale, 1.0) if smooth else 1.0
    centres = (np.arange(wanted)[:, None] + 0.5) / scale - shift / scale
    places = np.arange(size)[None] + 0.5
    first = np.ceil(centres - radius * width - 0.5)
    last = np.floor(centres + radius * width - 0.5)
    inside = (places - 0.5 >= first) & (places - 0.5 <= last) & (centres >= 0) & (centres <= size)
    weights = np.where(inside, function(np.abs(places - centres) / width), 0)
    total = weights.sum(1, keepdims=True)
    result: Weights = (weights / np.where(np.abs(total) > 1e-30, total, 1)).astype(np.float32)
    return result
