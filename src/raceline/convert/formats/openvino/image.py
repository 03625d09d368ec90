"""Operations on pictures: resizing, sampling, regions and anchor boxes."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.settings import (
    as_list,
    fixed,
    fixed_ints,
    flag,
    integer,
    ints,
    number,
    numbers,
    opset,
    sizes,
    skip,
    word,
)
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_PLACES = {
    "half_pixel": "half_pixel", "pytorch_half_pixel": "pytorch_half_pixel", "asymmetric": "asymmetric",
    "align_corners": "align_corners", "tf_half_pixel_for_nn": "half_pixel",
}  # fmt: skip
_MOST_PRIORS = 1 << 22


@rules("Interpolate")
def interpolate(b: Builder, node: SourceNode, x: ir.Value, *inputs: ir.Value) -> Any:
    """Resize: the first set names sizes, the fourth both, the eleventh either sizes or scales."""
    pads = ints(node, "pads_begin", [0]) + ints(node, "pads_end", [0])
    if any(pads):
        raise UnsupportedError("padding")
    if opset(node) < 4:
        return _first_interpolate(b, node, x, inputs[0])
    by_sizes = word(node, "shape_calculation_mode", "sizes", ("sizes", "scales")) == "sizes"
    axes = inputs[2:] if opset(node) < 11 else inputs[1:]
    given = inputs[0 if by_sizes or opset(node) >= 11 else 1]
    chosen = fixed_ints(b, axes[0], "axes") if axes else [*range(b.rank(x))]
    settings = _resize_settings(b, node, x, given, chosen, by_sizes)
    if by_sizes:
        return b.op("Resize", x, None, None, as_list(b, given), axes=chosen, **settings)
    return b.op("Resize", x, None, b.cast(given, np.float32), axes=chosen, **settings)


def _first_interpolate(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value) -> Any:
    mode = word(node, "mode", "", ("nearest", "linear", "cubic"))
    align = flag(node, "align_corners", True)
    if flag(node, "antialias", False) or mode == "cubic":
        raise UnsupportedError("antialias or mode=cubic of the first set")
    place = "align_corners" if align and mode != "nearest" else "asymmetric"
    return b.op(
        "Resize", x, None, None, as_list(b, shape), axes=ints(node, "axes"), mode=mode,
        coordinate_transformation_mode=place, nearest_mode="floor",
    )  # fmt: skip


def _resize_settings(
    b: Builder, node: SourceNode, x: ir.Value, given: ir.Value, axes: list[int], by_sizes: bool
) -> dict[str, Any]:
    mode = word(node, "mode", "", ("nearest", "linear", "linear_onnx", "cubic"))
    place = word(node, "coordinate_transformation_mode", "half_pixel", _PLACES)
    nearest = word(
        node, "nearest_mode", "round_prefer_floor",
        ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"),
    )  # fmt: skip
    coefficient = number(node, "cube_coeff", -0.75)
    antialias = flag(node, "antialias", False)
    if antialias and mode in {"linear", "cubic"}:
        raise UnsupportedError("antialias=true")
    if mode == "nearest":
        nearest = _simple(b, x, given, axes, by_sizes) if nearest == "simple" else nearest
        if place == "tf_half_pixel_for_nn":  # (i + 0.5) / scale, half an element further than half_pixel
            if nearest != "floor":
                raise UnsupportedError(f"tf_half_pixel_for_nn with nearest_mode={nearest}")
            nearest = "round_prefer_ceil"
    elif place == "tf_half_pixel_for_nn":
        raise UnsupportedError(f"tf_half_pixel_for_nn with mode={mode}")
    return {
        "mode": "linear" if mode == "linear_onnx" else mode,
        "coordinate_transformation_mode": _PLACES[place],
        "nearest_mode": nearest if mode == "nearest" else None,
        "cubic_coeff_a": coefficient if mode == "cubic" else None,
    }


def _simple(b: Builder, x: ir.Value, given: ir.Value, axes: list[int], by_sizes: bool) -> str:
    """Rounding mode "simple": up where the picture shrinks, else down."""
    target = fixed(b, given, "sizes with nearest_mode=simple")
    own = [b.shape(x)[axis] for axis in axes]
    if by_sizes and not all(isinstance(size, int) for size in own):
        raise UnsupportedError("nearest_mode=simple of open size")
    shrinks = [t < s if by_sizes else t < 1 for t, s in zip(target.reshape(-1), own, strict=True)]
    same = [t == s if by_sizes else t == 1 for t, s in zip(target.reshape(-1), own, strict=True)]
    if any(shrinks) and not all(a or e for a, e in zip(shrinks, same, strict=True)):
        raise UnsupportedError("nearest_mode=simple that grows one axis and shrinks another")
    return "ceil" if any(shrinks) else "floor"


@rules("GridSample")
def grid_sample(b: Builder, node: SourceNode, x: ir.Value, grid: ir.Value) -> Any:
    """Samples at places that are an input."""
    mode = word(node, "mode", "bilinear", ("bilinear", "nearest", "bicubic"))
    names = {"bilinear": "linear", "nearest": "nearest", "bicubic": "cubic"}
    return b.op(
        "GridSample", x, b.cast(grid, b.dtype(x)), mode=names[mode],
        align_corners=int(flag(node, "align_corners", False)),
        padding_mode=word(node, "padding_mode", "zeros", ("zeros", "border", "reflection")),
    )  # fmt: skip


@rules("ROIAlign")
def roi_align(b: Builder, node: SourceNode, x: ir.Value, rois: ir.Value, batch: ir.Value) -> Any:
    """Regions as pictures of one size, by bilinear samples."""
    aligned = word(node, "aligned_mode", "asymmetric", ("asymmetric", "half_pixel_for_nn", "half_pixel"))
    if aligned == "half_pixel":  # half an element before the scale and back after it
        rois = b.op("Add", rois, b.scalar(0.5, rois))
    mode = word(node, "mode", "avg", ("avg", "max"))
    if mode == "max":
        raise UnsupportedError("mode=max")  # engines disagree on what is the maximum of
    return b.op(
        "RoiAlign", x, rois, b.cast(batch, np.int64), mode=mode,
        output_height=integer(node, "pooled_h"), output_width=integer(node, "pooled_w"),
        sampling_ratio=integer(node, "sampling_ratio"), spatial_scale=number(node, "spatial_scale"),
        coordinate_transformation_mode="output_half_pixel" if aligned == "asymmetric" else "half_pixel",
    )  # fmt: skip


@rules("RegionYolo")
def region_yolo(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Darknet's activations of a detection layer."""
    coords, classes = integer(node, "coords"), integer(node, "classes")
    normal = flag(node, "do_softmax", True)
    mask = ints(node, "mask", [])
    count = integer(node, "num") if normal else len(mask)
    axis, end = integer(node, "axis", 1), integer(node, "end_axis", 3)
    skip(node, "anchors", "num")
    n, c, h, w = sizes(b, x, "input")
    split_x = b.reshape(x, [n, count, coords + classes + 1, h, w])
    place, extent, rest = b.op("Split", split_x, [2, coords - 2, classes + 1], axis=2, outputs=3)
    place = b.op("Sigmoid", place)
    if not normal:
        whole = b.op("Concat", place, extent, b.op("Sigmoid", rest), axis=2)
        return b.reshape(whole, [n, count * (coords + classes + 1), h, w])
    sure, kind = b.op("Split", rest, [1, classes], axis=2, outputs=2)
    whole = b.op("Concat", place, extent, b.op("Sigmoid", sure), b.op("Softmax", kind, axis=2), axis=2)
    shape = [n, c, h, w]
    return b.reshape(whole, [*shape[:axis], math.prod(shape[axis : end + 1]), *shape[end + 1 :]])


@rules("PriorBoxClustered")
def prior_box_clustered(b: Builder, node: SourceNode, size: ir.Value, image: ir.Value) -> ir.Value:
    """Anchor boxes of given sizes on a grid: numbers that depend on nothing but sizes."""
    height, width = fixed_ints(b, size, "size of the layer")
    image_h, image_w = fixed_ints(b, image, "size of the image")
    widths, heights = numbers(node, "width"), numbers(node, "height")
    step = number(node, "step", 0.0)
    step_w = number(node, "step_w", step) or step or image_w / width
    step_h = number(node, "step_h", step) or step or image_h / height
    offset = number(node, "offset")
    _bounded(height * width * len(widths))
    cx = (np.arange(width, dtype=np.float64) + offset) * step_w
    cy = (np.arange(height, dtype=np.float64) + offset) * step_h
    half = np.stack([widths, heights], 1) / 2
    y, x, pair = np.meshgrid(cy, cx, np.arange(len(half)), indexing="ij")
    bw, bh = half[pair.astype(int), 0], half[pair.astype(int), 1]
    boxes = np.stack([(x - bw) / image_w, (y - bh) / image_h, (x + bw) / image_w, (y + bh) / image_h], -1)
    return _with_variances(b, node, boxes, flag(node, "clip", True))


def _bounded(count: int) -> None:
    if count > _MOST_PRIORS:
        raise UnsupportedError(f"{count} anchor boxes")


def _with_variances(b: Builder, node: SourceNode, boxes: np.ndarray[Any, Any], clip: bool) -> ir.Value:
    """(2, 4 boxes): the boxes, and the variances that belong to them."""
    boxes = np.clip(boxes, 0, 1) if clip else boxes
    variance = numbers(node, "variance", [0.1])
    variances = np.broadcast_to(np.array(variance), boxes.shape)
    table = np.stack([boxes.reshape(-1), variances.reshape(-1)])
    return b.constant(table.astype(np.float32))


@rules("PriorBox")
def prior_box(b: Builder, node: SourceNode, size: ir.Value, image: ir.Value) -> ir.Value:
    """Anchor boxes by least and greatest sizes and their ratios, on a grid."""
    height, width = fixed_ints(b, size, "size of the layer")
    image_h, image_w = fixed_ints(b, image, "size of the image")
    if numbers(node, "density", []) or numbers(node, "fixed_size", []) or numbers(node, "fixed_ratio", []):
        raise UnsupportedError("dense anchor boxes of fixed size")
    step, offset = number(node, "step", 0.0), number(node, "offset")
    step_w, step_h = step or image_w / width, step or image_h / height
    shapes = _prior_shapes(node)
    _bounded(height * width * len(shapes))
    scaled = flag(node, "scale_all_sizes", True)
    if not scaled:
        raise UnsupportedError("scale_all_sizes=false")
    boxes = np.array(
        [
            [(x - w / 2) / image_w, (y - h / 2) / image_h, (x + w / 2) / image_w, (y + h / 2) / image_h]
            for y, x, (w, h) in itertools.product(
                (np.arange(height) + offset) * step_h, (np.arange(width) + offset) * step_w, shapes
            )
        ]
    )
    return _with_variances(b, node, boxes, flag(node, "clip", False))


def _prior_shapes(node: SourceNode) -> list[tuple[float, float]]:
    """Width and height of each box, in the operation's order."""
    least, greatest = numbers(node, "min_size"), numbers(node, "max_size", [])
    ratios = [1.0]
    flip = flag(node, "flip", False)
    order = flag(node, "min_max_aspect_ratios_order", True)
    for ratio in numbers(node, "aspect_ratio", []):
        if all(abs(ratio - known) > 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if flip else [ratio]
    shapes = []
    for index, size in enumerate(least):
        stretched = [(size * math.sqrt(r), size / math.sqrt(r)) for r in ratios if abs(r - 1) > 1e-6]
        mean = [(math.sqrt(size * greatest[index]),) * 2] if index < len(greatest) else []
        shapes += [(size, size), *mean, *stretched] if order else [(size, size), *stretched, *mean]
    return shapes
