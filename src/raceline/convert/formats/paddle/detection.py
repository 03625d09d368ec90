"""Detection heads: boxes from YOLO's grids, and suppression of overlapping ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, bounded, rule
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_MOST_BOXES = np.iinfo(np.int32).max


@rule(rules, "yolo_box")
def _yolo_box(b: Builder, c: Call) -> dict[str, Any]:
    """(N, A (5 + C), H, W) -> boxes (N, A H W, 4) in pixels of the original image, scores (N, A H W, C)."""
    x, image = c.value("X"), b.cast(c.value("ImgSize"), np.float32)
    anchors = np.array(c.integers("anchors"), np.float32).reshape(-1, 2)
    classes, ratio = c.integer("class_num", 1), c.integer("downsample_ratio", 32)
    c.need("iou_aware", False)
    c.ignore("iou_aware_factor")
    num = len(anchors)
    height, width = (b.op("Shape", x, start=axis, end=axis + 1) for axis in (2, 3))
    grid = b.op("Reshape", x, b.op("Concat", [0, num, 5 + classes], height, width, axis=0))
    at = [b.op("Slice", grid, [i], [i + 1], [2]) for i in range(5)]
    x_center, y_center = (
        _center(b, at[i], size, c.number("scale_x_y", 1.0), i) for i, size in ((0, width), (1, height))
    )
    box_w, box_h = (
        b.op("Div", b.op("Mul", b.op("Exp", at[2 + i]), anchors[:, i].reshape(1, num, 1, 1, 1)),
             b.cast(b.op("Mul", size, [ratio]), np.float32))
        for i, size in ((0, width), (1, height))
    )  # fmt: skip
    sure = b.op("Sigmoid", at[4])
    sure = b.op("Where", b.op("Less", sure, np.float32(c.number("conf_thresh", 0.01))), np.float32(0), sure)
    image_h, image_w = (b.reshape(b.op("Slice", image, [i], [i + 1], [1]), [-1, 1, 1, 1, 1]) for i in (0, 1))
    edges = []
    for middle, size, whole in ((x_center, box_w, image_w), (y_center, box_h, image_h)):
        half = b.op("Mul", size, np.float32(0.5))
        low, high = (b.op("Mul", b.op(op, middle, half), whole) for op in ("Sub", "Add"))
        if c.flag("clip_bbox", True):
            low = b.op("Max", low, np.float32(0))
            high = b.op("Min", high, b.op("Sub", whole, np.float32(1)))
        edges.append((low, high))
    box = b.op("Concat", edges[0][0], edges[1][0], edges[0][1], edges[1][1], axis=2)
    box = b.op("Where", b.op("Greater", sure, np.float32(0)), box, np.float32(0))
    scores = b.op("Mul", b.op("Sigmoid", b.op("Slice", grid, [5], [5 + classes], [2])), sure)
    return {"Boxes": _listed(b, box, 4), "Scores": _listed(b, scores, classes)}


def _center(b: Builder, t: ir.Value, size: ir.Value, scale: float, axis: int) -> Any:
    """The middle of each box as a share of the grid."""
    places = b.op("Range", np.array(0, np.int64), b.reshape(size, []), np.array(1, np.int64))
    places = b.reshape(b.cast(places, np.float32), [1, 1, 1, 1, -1] if axis == 0 else [1, 1, 1, -1, 1])
    inside = b.op("Add", b.op("Mul", b.op("Sigmoid", t), np.float32(scale)), np.float32(-0.5 * (scale - 1)))
    return b.op("Div", b.op("Add", inside, places), b.cast(size, np.float32))


def _listed(b: Builder, x: ir.Value, size: int) -> Any:
    """(N, A, size, H, W) -> (N, A H W, size)."""
    return b.op("Reshape", b.transpose(x, [0, 1, 3, 4, 2]), [0, -1, size])


@rule(rules, "multiclass_nms3", "multiclass_nms2", "multiclass_nms")
def _nms(b: Builder, c: Call) -> dict[str, Any]:
    """Boxes (1, M, 4) and scores (1, C, M) -> rows of class, score, box, by class and falling score."""
    boxes, scores = c.value("BBoxes"), c.value("Scores")
    if b.rank(scores) != 3 or c.maybe("RoisNum") is not None:
        raise UnsupportedError("boxes of each class, or in lists")
    if c.number("nms_eta", 1.0) != 1:
        raise UnsupportedError("an adaptive threshold")
    if b.shape(boxes)[0] not in (1, None) and isinstance(b.shape(boxes)[0], int):
        raise UnsupportedError("several images at once")
    c.ignore("nms_top_k")
    threshold = np.float32(c.number("score_threshold", 0.0))
    scores = _best_of_each(b, c, _without_background(b, c, scores))
    corners = boxes
    if not c.flag("normalized", True):  # pixels are counted from the first to the last one, both inside
        corners = b.op("Add", boxes, np.array([0, 0, 1, 1], np.float32))
    chosen = b.op("NonMaxSuppression", corners, scores, [_MOST_BOXES],
                  np.float32(c.number("nms_threshold", 0.3)), threshold)  # fmt: skip
    kind, place = (b.reshape(b.op("Slice", chosen, [i], [i + 1], [1]), [-1]) for i in (1, 2))
    sure = b.op("GatherND", b.op("Squeeze", scores, [0]), b.op("Slice", chosen, [1], [3], [1]))
    keep = c.integer("keep_top_k", -1)
    count: Any = b.op("Shape", sure)
    count = count if keep < 0 else b.op("Min", count, [keep])
    _, best = b.op("TopK", sure, count, outputs=2)
    kind, place, sure = (b.op("Gather", part, best) for part in (kind, place, sure))
    _, order = b.op("TopK", kind, count, largest=0, outputs=2)  # equals keep their order: by falling score
    kind, place, sure = (b.op("Gather", part, order) for part in (kind, place, sure))
    columns = [b.op("Unsqueeze", part, [1]) for part in (b.cast(kind, np.float32), sure)]
    rows = b.op("Concat", *columns, b.op("Gather", b.op("Squeeze", boxes, [0]), place), axis=1)
    index = b.cast(b.op("Unsqueeze", place, [1]), np.int32)
    return {"Out": rows, "Index": index, "NmsRoisNum": b.cast(count, np.int32)}


def _without_background(b: Builder, c: Call, scores: ir.Value) -> Any:
    background, classes = c.integer("background_label", 0), b.shape(scores)[1]
    if background < 0:
        return scores
    if not isinstance(classes, int):
        raise UnsupportedError("an open number of classes")
    mask = (np.arange(bounded(classes, "classes")) == background).reshape(1, classes, 1)
    return b.op("Where", mask, np.float32(-np.inf), scores) if mask.any() else scores


def _best_of_each(b: Builder, c: Call, scores: ir.Value) -> Any:
    """Only the `nms_top_k` best of each class enter the comparison."""
    most, boxes = c.integer("nms_top_k", -1), b.shape(scores)[2]
    if most < 0 or (isinstance(boxes, int) and boxes <= most):
        return scores
    count = b.op("Min", b.op("Shape", scores, start=2, end=3), [most])
    best, _ = b.op("TopK", scores, count, axis=2, outputs=2)
    least = b.op("Slice", best, [-1], [np.iinfo(np.int64).max], [2])
    return b.op("Where", b.op("Less", scores, least), np.float32(-np.inf), scores)


@rule(rules, "matrix_nms")
def _matrix_nms(b: Builder, c: Call) -> dict[str, Any]:
    """Boxes (1, M, 4) and scores (1, C, M) -> rows of class, decayed score, box, by falling score.

    Each score falls with the overlap with better boxes of its class (Wang et al. 2020, SOLOv2, section 3.3).
    """
    boxes, scores = c.value("BBoxes"), c.value("Scores")
    if isinstance(b.shape(boxes)[0], int) and b.shape(boxes)[0] != 1:
        raise UnsupportedError("several images at once")
    threshold, final = (
        np.float32(c.number("score_threshold", 0.0)),
        np.float32(c.number("post_threshold", 0.0)),
    )
    scores, boxes = b.op("Squeeze", _without_background(b, c, scores), [0]), b.op("Squeeze", boxes, [0])
    most, keep = c.integer("nms_top_k", -1), c.integer("keep_top_k", -1)
    count = b.op("Shape", scores, start=1, end=2)
    count = count if most < 0 else b.op("Min", count, [most])
    best, place = b.op("TopK", scores, count, axis=1, outputs=2)  # (C, K) each
    overlap = _overlaps(b, b.op("Gather", boxes, place, axis=0), 0 if c.flag("normalized", True) else 1)
    overlap = b.op("Trilu", overlap, np.array(1, np.int64), upper=1)  # (C, better, worse)
    own = b.op(
        "Unsqueeze", b.op("ReduceMax", overlap, [1], keepdims=0), [2]
    )  # of the better one, with its betters
    if c.flag("use_gaussian"):
        square = b.op("Sub", b.op("Mul", own, own), b.op("Mul", overlap, overlap))
        decay = b.op("Exp", b.op("Mul", square, np.float32(c.number("gaussian_sigma", 2.0))))
    else:
        c.ignore("gaussian_sigma")
        one = np.float32(1)
        decay = b.op("Div", b.op("Sub", one, overlap), b.op("Sub", one, own))
    better = b.op(
        "Trilu", b.op("Expand", np.float32(1), b.op("Shape", overlap)), np.array(1, np.int64), upper=1
    )
    decay = b.op("Where", b.op("Greater", better, np.float32(0)), decay, np.float32(1))
    decayed = b.op("Mul", best, b.op("ReduceMin", decay, [1], keepdims=0))
    seen = b.op("And", b.op("Greater", best, threshold), b.op("Greater", decayed, final))
    where = b.op("Squeeze", b.op("NonZero", b.reshape(seen, [-1])), [0])
    sure = b.op("Gather", b.reshape(decayed, [-1]), where)
    number: Any = b.op("Shape", sure)
    number = number if keep < 0 else b.op("Min", number, [keep])
    sure, order = b.op("TopK", sure, number, outputs=2)
    where = b.op("Gather", where, order)
    kind, place = b.op("Div", where, count), b.op("Gather", b.reshape(place, [-1]), where)
    columns = [b.op("Unsqueeze", part, [1]) for part in (b.cast(kind, np.float32), sure)]
    rows = b.op("Concat", *columns, b.op("Gather", boxes, place), axis=1)
    index = b.cast(b.op("Unsqueeze", place, [1]), np.int32)
    return {"Out": rows, "Index": index, "RoisNum": b.cast(number, np.int32)}


def _overlaps(b: Builder, boxes: ir.Value, extra: int) -> Any:
    """Intersection over union of all pairs of (C, K, 4): (C, K, K)."""
    edges = b.op("Split", boxes, [1, 1, 1, 1], axis=-1, outputs=4)
    turned = [b.transpose(edge, [0, 2, 1]) for edge in edges]
    more = np.float32(extra)
    sizes: list[Any] = []
    sides: list[Any] = []
    for i in (0, 1):
        low, high = b.op("Max", edges[i], turned[i]), b.op("Min", edges[i + 2], turned[i + 2])
        apart = b.op("Less", high, low)  # even by less than a pixel
        sizes.append(b.op("Where", apart, np.float32(0), b.op("Add", b.op("Sub", high, low), more)))
        sides.append(b.op("Add", b.op("Sub", edges[i + 2], edges[i]), more))
    area = b.op("Mul", *sides)
    both = b.op("Mul", *sizes)
    union = b.op("Sub", b.op("Add", area, b.transpose(area, [0, 2, 1])), both)
    return b.op("Div", both, union)


@rule(rules, "roi_align")
def _roi_align(b: Builder, c: Call) -> Any:
    """Regions of one image, averaged to a given size."""
    x, regions = c.value("X"), c.value("ROIs")
    if b.shape(x)[0] not in (1, None) and isinstance(b.shape(x)[0], int):
        raise UnsupportedError("several images at once")
    image = b.op("Expand", np.array(0, np.int64), b.op("Shape", regions, start=0, end=1))
    ratio = c.integer("sampling_ratio", -1)
    return b.op(
        "RoiAlign", x, regions, image, output_height=c.integer("pooled_height", 1),
        output_width=c.integer("pooled_width", 1), spatial_scale=c.number("spatial_scale", 1.0),
        sampling_ratio=max(ratio, 0),
        coordinate_transformation_mode="half_pixel" if c.flag("aligned") else "output_half_pixel",
    )  # fmt: skip


@rule(rules, "box_coder", out="OutputBox")
def _box_coder(b: Builder, c: Call) -> Any:
    """Boxes from offsets to prior boxes, `decode_center_size` only."""
    prior, offsets, deviations = c.value("PriorBox"), c.value("TargetBox"), c.maybe("PriorBoxVar")
    c.text("code_type", "decode_center_size", "decode_center_size")
    axis = c.integer("axis", 0)
    extra = np.float32(0 if c.flag("box_normalized", True) else 1)
    variance = list(c.get("variance") or [])
    at = [b.op("Unsqueeze", b.op("Gather", prior, np.array(i), axis=1), [axis]) for i in range(4)]
    if deviations is not None:
        offsets = b.op("Mul", offsets, b.op("Unsqueeze", deviations, [axis]))
    elif variance:
        offsets = b.op("Mul", offsets, np.array(variance, np.float32))
    edges: list[list[Any]] = [[], []]
    for i in (0, 1):
        size = b.op("Add", b.op("Sub", at[i + 2], at[i]), extra)
        middle = b.op("Add", at[i], b.op("Mul", size, np.float32(0.5)))
        move, grow = (b.op("Gather", offsets, np.array(i + k), axis=2) for k in (0, 2))
        middle = b.op("Add", b.op("Mul", move, size), middle)
        half = b.op("Mul", b.op("Mul", b.op("Exp", grow), size), np.float32(0.5))
        edges[0].append(b.op("Sub", middle, half))
        edges[1].append(b.op("Sub", b.op("Add", middle, half), extra))
    return b.op("Concat", *(b.op("Unsqueeze", e, [2]) for e in edges[0] + edges[1]), axis=2)
