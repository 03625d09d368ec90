"""Custom operators that real models use: detection's last step, and MediaPipe's."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from flatbuffers import flexbuffers

from raceline.convert.build import Builder
from raceline.convert.channels_last import channels_first, channels_last
from raceline.convert.formats.tflite.asking import fixed, nonempty
from raceline.convert.formats.tflite.math import atan2
from raceline.convert.formats.tflite.quantise import activated
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_MOST_SETTINGS = 64
_MOST_ELEMENTS = 4096
_LARGEST_WINDOW = 64
_MEDIAPIPE_PADDINGS = {1: "SAME", 2: "VALID"}


def settings_of(node: SourceNode) -> dict[str, Any]:
    """A custom operator's own settings: numbers, and lists of them; anything nested is refused.

    Raises:
        UnsupportedError: they are no such settings.
    """
    data: bytes = node.attributes["custom_options"]
    if len(data) < 3:
        return {}
    try:
        root = flexbuffers.GetRoot(data)
        if not root.IsMap or len(root.AsMap) > _MOST_SETTINGS:
            raise UnsupportedError("settings that are no map")
        table = root.AsMap
        return {key.AsKey: _setting(value) for key, value in zip(table.Keys, table.Values, strict=True)}
    except (LookupError, ValueError, TypeError, struct.error, AttributeError, OverflowError) as error:
        raise UnsupportedError(f"settings that cannot be read ({error})") from error


def _setting(value: Any) -> Any:
    if value.IsBool:
        return value.AsBool
    if value.IsInt:
        return value.AsInt
    if value.IsFloat:
        return value.AsFloat
    vector = value.AsTypedVector if value.IsTypedVector else value.AsVector
    if not (value.IsVector or value.IsTypedVector) or len(vector) > _MOST_ELEMENTS:
        raise UnsupportedError("settings that are neither numbers nor short lists of them")
    return [item.AsInt for item in vector]


@rules("CUSTOM TFLite_Detection_PostProcess")
def detection(
    b: Builder, node: SourceNode, codes: ir.Value, scores: ir.Value, anchors: ir.Value
) -> tuple[Any, ...]:
    """Boxes decoded from anchors and suppressed where they overlap a better one (the SSD head's last step).

    Outputs: (1, most, 4) top, left, bottom, right; (1, most) class, counted without the background; (1, most)
    score; (1,) how many there are. What is left over is zero.
    """
    given = settings_of(node)
    most = int(given["max_detections"])
    if int(given.get("max_classes_per_detection", 1)) != 1:
        raise UnsupportedError("several classes a detection")
    if fixed(b, codes, 0, "a batch") != 1 or not 0 < most <= _MOST_ELEMENTS:
        raise UnsupportedError("more than one picture at once")
    boxes = _decoded(b, b.op("Squeeze", codes, [0]), anchors, given)
    classes = int(given["num_classes"])
    background = fixed(b, scores, 2, "classes") - classes
    score = b.op("Slice", b.op("Squeeze", scores, [0]), [background], [background + classes], [1])
    pick = _regular if given.get("use_regular_nms") else _fast
    box, kind, value, total = pick(b, boxes, score, most, given)
    short = b.op("Sub", [most], total)
    pads = b.op("Concat", [0], short, axis=0)
    outputs = [
        b.op("Pad", box, b.op("Concat", [0, 0], short, [0], axis=0)),
        b.op("Pad", b.cast(kind, np.float32), pads),
        b.op("Pad", value, pads),
    ]
    return (*(b.op("Unsqueeze", output, [0]) for output in outputs), b.cast(total, np.float32))


def _decoded(b: Builder, codes: ir.Value, anchors: ir.Value, given: dict[str, Any]) -> ir.Value:
    """(boxes, 4) corners: offsets in units of the anchor, sizes as logarithms."""
    scales = np.array([given[f"{name}_scale"] for name in "yxhw"], np.float32)
    place, size = b.op("Split", b.op("Div", codes, scales), [2, 2], axis=1, outputs=2)
    centre, extent = b.op("Split", anchors, [2, 2], axis=1, outputs=2)
    middle = b.op("Add", b.op("Mul", place, extent), centre)
    half = b.op("Mul", b.op("Mul", b.op("Exp", size), extent), np.float32(0.5))
    return b.op("Concat", b.op("Sub", middle, half), b.op("Add", middle, half), axis=1)  # type: ignore[no-any-return]


def _suppressed(b: Builder, boxes: ir.Value, scores: ir.Value, most: int, given: dict[str, Any]) -> ir.Value:
    """(chosen, 3) of scores (classes, boxes); a score equal to the threshold counts, unlike in the standard."""
    threshold = np.nextafter(np.float32(given["nms_score_threshold"]), np.float32(-np.inf))
    return b.op(  # type: ignore[no-any-return]
        "NonMaxSuppression", b.op("Unsqueeze", boxes, [0]), b.op("Unsqueeze", scores, [0]), [most],
        np.array([given["nms_iou_threshold"]], np.float32), np.array([threshold], np.float32),
    )  # fmt: skip


def _column(b: Builder, chosen: ir.Value, index: int) -> ir.Value:
    return b.op("Reshape", b.op("Slice", chosen, [index], [index + 1], [1]), [-1])  # type: ignore[no-any-return]


def _fast(b: Builder, boxes: ir.Value, score: ir.Value, most: int, given: dict[str, Any]) -> tuple[Any, ...]:
    """Every box counts with its best class only."""
    best = b.op("ReduceMax", score, [1], keepdims=0)
    places = _column(b, _suppressed(b, boxes, b.op("Unsqueeze", best, [0]), most, given), 2)
    kinds = b.op("Gather", b.op("ArgMax", score, axis=1, keepdims=0), places)
    return b.op("Gather", boxes, places), kinds, b.op("Gather", best, places), b.op("Shape", places)


def _regular(
    b: Builder, boxes: ir.Value, score: ir.Value, most: int, given: dict[str, Any]
) -> tuple[Any, ...]:
    """Every class on its own, then the best of all."""
    turned = b.op("Transpose", score, perm=[1, 0])
    each = int(given.get("detections_per_class", 100))
    chosen = _suppressed(b, boxes, turned, min(each, most), given)
    places = b.op("Slice", chosen, [1], [3], [1])
    values = b.op("GatherND", turned, places)
    count = b.op("Min", b.op("Shape", values), [most])
    top, order = b.op("TopK", values, count, axis=0, largest=1, sorted=1, outputs=2)
    kinds, where = (b.op("Gather", _column(b, chosen, i), order) for i in (1, 2))
    return b.op("Gather", boxes, where), kinds, top, count


@rules("CUSTOM Convolution2DTransposeBias")
def transpose_conv_bias(
    b: Builder, node: SourceNode, x: ir.Value, weight: ir.Value, bias: ir.Value
) -> ir.Value:
    """MediaPipe's TRANSPOSE_CONV with a bias; weights (out, height, width, in), sizes follow from the input."""
    padding, stride_w, stride_h = _struct(node, 3)
    if padding not in _MEDIAPIPE_PADDINGS or min(stride_w, stride_h) < 1:
        raise UnsupportedError(f"padding {padding}, strides {stride_h}, {stride_w}")
    kernel = [fixed(b, weight, axis, "a kernel") for axis in (1, 2)]
    begins, ends = [], []
    for axis, (size, stride) in enumerate(zip(kernel, (stride_h, stride_w), strict=True)):
        rest = (fixed(b, x, axis + 1, "a spatial axis") - 1) % stride
        total = max(0, size - rest - 1) if _MEDIAPIPE_PADDINGS[padding] == "SAME" else 0
        begins.append(total // 2)
        ends.append(total - total // 2)
    y = b.op(
        "ConvTranspose", channels_first(b, x), b.transpose(weight, [3, 0, 1, 2]), nonempty(b, bias),
        kernel_shape=kernel, strides=[stride_h, stride_w], pads=[*begins, *ends],
    )  # fmt: skip
    return channels_last(b, y)


def _struct(node: SourceNode, count: int) -> tuple[int, ...]:
    """The first numbers of a setting that is a C structure."""
    data: bytes = node.attributes["custom_options"]
    if len(data) < 4 * count:
        raise UnsupportedError("settings that are too short")
    return struct.unpack_from(f"<{count}i", data)


def _pool_settings(node: SourceNode) -> tuple[str, tuple[int, int], tuple[int, int], int]:
    """Padding, strides and window (height, width), and the fused activation."""
    padding, stride_w, stride_h, width, height, activation = _struct(node, 6)
    sizes = (stride_w, stride_h, width, height)
    if padding not in _MEDIAPIPE_PADDINGS or min(sizes) < 1 or max(sizes) > _LARGEST_WINDOW:
        raise UnsupportedError(f"padding {padding}, window {height} x {width}")
    return _MEDIAPIPE_PADDINGS[padding], (stride_h, stride_w), (height, width), activation


@rules("CUSTOM MaxPoolingWithArgmax2D")
def max_pool_with_places(b: Builder, node: SourceNode, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The largest of each window, and its place inside the window, row by row, as a real number."""
    padding, strides, window, activation = _pool_settings(node)
    if padding != "VALID" and any(fixed(b, x, i + 1, "a spatial axis") % s for i, s in enumerate(strides)):
        raise UnsupportedError("windows that reach beyond the edge")
    if strides != window:
        raise UnsupportedError("windows that overlap")
    sizes = [fixed(b, x, i + 1, "a spatial axis") // s for i, s in enumerate(strides)]
    parts = [
        b.op("Slice", x, [i, j], [sizes[0] * strides[0], sizes[1] * strides[1]], [1, 2], list(strides))
        for i in range(window[0])
        for j in range(window[1])
    ]
    stack = b.op("Concat", *(b.op("Unsqueeze", part, [4]) for part in parts), axis=4)
    places = b.cast(b.op("ArgMax", stack, axis=4, keepdims=0), np.float32)
    largest = activated(b, b.op("ReduceMax", stack, [4], keepdims=0), activation)
    return largest, b.op("Add", places, np.float32(0.1))


@rules("CUSTOM MaxUnpooling2D")
def max_unpooling(b: Builder, node: SourceNode, x: ir.Value, places: ir.Value) -> ir.Value:
    """Zeros with each element put back to its place inside its window."""
    _, strides, window, _ = _pool_settings(node)
    if strides != window or window[0] != window[1]:
        raise UnsupportedError("windows that overlap, or are no squares")
    whole = b.cast(places, np.int32)
    zero = b.scalar(0, x)
    parts = [
        b.op("Where", b.op("Equal", whole, np.int32(place)), x, zero)
        for place in range(window[0] * window[1])
    ]
    stack = channels_first(b, b.op("Concat", *parts, axis=3))
    return channels_last(b, b.op("DepthToSpace", stack, blocksize=window[0], mode="DCR"))


@rules("CUSTOM Landmarks2TransformMatrix")
def landmarks_to_matrix(b: Builder, node: SourceNode, landmarks: ir.Value) -> ir.Value:
    """(1, 4, 4) from a crop's pixels to the picture: the turned box around some of the points (1, points, 3)."""
    given = settings_of(node)
    if b.rank(landmarks) != 3 or "subset_idxs" not in given or b.shape(landmarks)[2] != 3:
        raise UnsupportedError("its first version")
    points = b.op("Slice", b.op("Squeeze", landmarks, [0]), [0], [2], [1])
    ends = [b.op("Gather", points, given[f"{side}_rotation_idx"], axis=0) for side in ("left", "right")]
    run, rise = (b.op("Gather", b.op("Sub", ends[1], ends[0]), axis, axis=0) for axis in (0, 1))
    angle = b.op("Sub", np.float32(given.get("target_rotation_radians", 0.0)), atan2(b, node, rise, run))
    cos, sin = (b.op("Reshape", b.op(name, angle), [1]) for name in ("Cos", "Sin"))
    minus = b.op("Neg", sin)
    turn = b.reshape(b.op("Concat", cos, minus, sin, cos, axis=0), [2, 2])
    back = b.op("Transpose", turn, perm=[1, 0])
    chosen = b.op("Gather", points, given["subset_idxs"], axis=0)
    turned = b.op("MatMul", chosen, back)
    low, high = (b.op(f"Reduce{name}", turned, [0], keepdims=0) for name in ("Min", "Max"))
    centre = b.op("MatMul", back, b.op("Mul", b.op("Add", low, high), np.float32(0.5)))
    size = np.array([given["output_width"], given["output_height"]], np.float32)
    factor = np.array([given["scale_x"], given["scale_y"]], np.float32) / size
    scale = b.op("Mul", b.op("Sub", high, low), factor)
    linear = b.op("Mul", back, scale)
    shift = b.op("Add", centre, b.op("MatMul", linear, -size / 2))
    rows = b.op("Concat", linear, np.zeros((2, 1), np.float32), b.op("Unsqueeze", shift, [1]), axis=1)
    matrix = b.op("Concat", rows, np.eye(4, dtype=np.float32)[2:], axis=0)
    return b.op("Unsqueeze", matrix, [0])  # type: ignore[no-any-return]


def _affine(b: Builder, matrix: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The (2, 2) that turns and scales, transposed, and the (2,) that shifts."""
    rows = b.op("Slice", b.op("Reshape", matrix, [4, 4]), [0], [2], [0])
    linear = b.op("Transpose", b.op("Slice", rows, [0], [2], [1]), perm=[1, 0])
    return linear, b.op("Reshape", b.op("Slice", rows, [3], [4], [1]), [2])


@rules("CUSTOM TransformLandmarks")
def transform_landmarks(b: Builder, node: SourceNode, landmarks: ir.Value, matrix: ir.Value) -> ir.Value:
    """Points (1, points, 2 or 3) moved by a matrix; a third coordinate stays."""
    if b.rank(landmarks) != 3 or b.shape(landmarks)[2] not in {2, 3}:
        raise UnsupportedError("its first version")
    linear, shift = _affine(b, matrix)
    flat = b.op("Slice", landmarks, [0], [2], [2])
    moved = b.op("Add", b.op("MatMul", flat, linear), shift)
    if b.shape(landmarks)[2] == 2:
        return moved  # type: ignore[no-any-return]
    return b.op("Concat", moved, b.op("Slice", landmarks, [2], [3], [2]), axis=2)  # type: ignore[no-any-return]


@rules("CUSTOM TransformTensorBilinear")
def transform_tensor(b: Builder, node: SourceNode, x: ir.Value, matrix: ir.Value) -> ir.Value:
    """A crop of a picture through a matrix, pixel centres at halves; what lies outside is zero."""
    given = settings_of(node)
    height, width = int(given["output_height"]), int(given["output_width"])
    rows, columns = (fixed(b, x, axis, "a picture") for axis in (1, 2))
    sound = 0 < min(height, width) <= max(height, width) <= _MOST_ELEMENTS
    if fixed(b, x, 0, "a batch") != 1 or min(rows, columns) < 2 or not sound:
        raise UnsupportedError("more than one picture, or one of a single row")
    y, x_ = np.mgrid[:height, :width]
    pixels = np.stack([x_, y], -1).reshape(-1, 2).astype(np.float32) + 0.5
    linear, shift = _affine(b, matrix)
    at = b.op("Sub", b.op("Add", b.op("MatMul", pixels, linear), shift), np.float32(0.5))
    last = np.array([columns - 1, rows - 1], np.float32)
    grid = b.op("Sub", b.op("Mul", at, np.float32(2) / last), np.float32(1))
    sampled = b.op(
        "GridSample", channels_first(b, x), b.reshape(grid, [1, height, width, 2]),
        mode="linear", padding_mode="zeros", align_corners=1,
    )  # fmt: skip
    outside = b.op("Or", b.op("Less", at, np.float32(0)), b.op("Greater", at, last))
    kept = b.op("ReduceMax", b.cast(outside, np.int32), [1], keepdims=0)
    mask = b.op("Equal", b.reshape(kept, [1, 1, height, width]), np.int32(0))
    return channels_last(b, b.op("Where", mask, sampled, np.float32(0)))


@rules("CUSTOM FlexErf")
def erf(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """TensorFlow's own Erf."""
    return b.op("Erf", x)  # type: ignore[no-any-return]
