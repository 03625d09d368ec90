"""The last steps of detectors: non-maximum suppression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.values import fixed, vector
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()

_LEAST = np.float32(np.finfo(np.float32).min)


def _kept(
    b: Builder, boxes: ir.Value, scores: ir.Value, most: ir.Value, overlap: ir.Value, score: ir.Value | None
) -> ir.Value:
    """Places of the boxes that are kept, best first."""
    kind = np.float32
    triples = b.op(
        "NonMaxSuppression",
        b.op("Unsqueeze", b.cast(boxes, kind), [0]),
        b.op("Unsqueeze", b.cast(scores, kind), [0, 1]),
        vector(b, most),
        b.reshape(b.cast(overlap, kind), [-1]),
        None if score is None else b.reshape(b.cast(score, kind), [-1]),
        center_point_box=0,
    )
    return b.cast(b.op("Gather", triples, np.int64(2), axis=1), np.int32)


@rules("NonMaxSuppression")
def _first(b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, most: ir.Value) -> Any:
    overlap = b.constant(np.float32(node.attributes.get("iou_threshold", 0.5)))
    return _kept(b, boxes, scores, most, overlap, None)


@rules("NonMaxSuppressionV2", "NonMaxSuppressionV3")
def _second(
    b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, most: ir.Value, overlap: ir.Value,
    score: ir.Value | None = None,
) -> Any:  # fmt: skip
    return _kept(b, boxes, scores, most, overlap, score)


@rules("NonMaxSuppressionV4")
def _fourth(
    b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, most: ir.Value, overlap: ir.Value,
    score: ir.Value,
) -> Any:  # fmt: skip
    return _counted(b, node, _kept(b, boxes, scores, most, overlap, score), most)


@rules("NonMaxSuppressionV5")
def _fifth(
    b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, most: ir.Value, overlap: ir.Value,
    score: ir.Value, sigma: ir.Value,
) -> Any:  # fmt: skip
    if float(fixed(b, sigma, "soft_nms_sigma").reshape(())) != 0:
        raise UnsupportedError("with soft_nms_sigma")
    found = _kept(b, boxes, scores, most, overlap, score)
    padded, count = _counted(b, node, found, most)
    own = b.op("Gather", scores, found, axis=0)
    if node.attributes.get("pad_to_max_output_size", False):
        own = _padded(b, own, most)
    return padded, own, count


def _counted(b: Builder, node: SourceNode, found: ir.Value, most: ir.Value) -> tuple[Any, Any]:
    """The places, filled up with zeros where the node wants that, and how many are real."""
    count = b.cast(b.op("Size", found), np.int32)
    if node.attributes.get("pad_to_max_output_size", False):
        found = _padded(b, found, most)
    return found, count


def _padded(b: Builder, items: ir.Value, most: ir.Value) -> ir.Value:
    missing = b.op("Sub", vector(b, most), b.op("Shape", items))
    return b.op("Pad", items, b.op("Concat", [0], missing, axis=0), None, mode="constant")  # type: ignore[no-any-return]


@rules("CombinedNonMaxSuppression")
def _combined(
    b: Builder, node: SourceNode, boxes: ir.Value, scores: ir.Value, each: ir.Value, total: ir.Value,
    overlap: ir.Value, least: ir.Value,
) -> Any:  # fmt: skip
    """Suppression for each class; then the best of all classes of each picture.

    boxes (batch, boxes, 1 or classes, 4), scores (batch, boxes, classes).
    """
    (each_count,), (total_count,) = (
        fixed(b, v, "number of boxes").reshape(-1).tolist() for v in (each, total)
    )
    num_boxes, classes = b.shape(scores)[1:]
    shared = b.shape(boxes)[2]
    if not all(isinstance(size, int) for size in (num_boxes, classes, shared)):
        raise UnsupportedError("with an open number of boxes or classes")
    assert isinstance(num_boxes, int) and isinstance(classes, int) and isinstance(shared, int)
    size = (
        min(total_count, each_count * classes) if node.attributes.get("pad_per_class", False) else total_count
    )
    turned = b.transpose(scores, [0, 2, 1])  # (batch, classes, boxes)
    if shared == 1:
        own, place = b.op("Squeeze", boxes, [2]), turned
    else:  # each class is a picture of its own
        own = b.reshape(b.transpose(boxes, [0, 2, 1, 3]), [-1, num_boxes, 4])
        place = b.reshape(turned, [-1, 1, num_boxes])
    triples = b.op(
        "NonMaxSuppression", own, place, [each_count], b.reshape(overlap, [-1]), b.reshape(least, [-1]),
        center_point_box=0,
    )  # fmt: skip
    kept = b.op("GatherND", place, triples)
    empty = b.op("Expand", _LEAST, b.op("Shape", place))
    flat = b.reshape(b.op("ScatterND", empty, triples, kept), [-1, classes * num_boxes])
    if size > classes * num_boxes:
        flat = b.op("Pad", flat, [0, 0, 0, size - classes * num_boxes], _LEAST, mode="constant")
    best, places = b.op("TopK", flat, [size], outputs=2, axis=-1, largest=1, sorted=1)
    real = b.op("Greater", best, _LEAST)
    places = b.op("Where", real, places, np.int64(0))
    chosen = _boxes_at(b, own, places, num_boxes, classes, shared=shared)
    if node.attributes.get("clip_boxes", True):
        chosen = b.op("Clip", chosen, np.float32(0), np.float32(1))
    zero = np.float32(0)
    labels = b.cast(b.op("Div", places, np.int64(num_boxes)), np.float32)
    return (
        b.op("Where", b.op("Unsqueeze", real, [2]), chosen, zero),
        b.op("Where", real, best, zero),
        b.op("Where", real, labels, zero),
        b.op("ReduceSum", b.cast(real, np.int32), [1], keepdims=0),
    )


def _boxes_at(
    b: Builder, boxes: ir.Value, places: ir.Value, num_boxes: int, classes: int, *, shared: int
) -> ir.Value:
    """The boxes (batch, size, 4) at places that count classes, then boxes."""
    if shared == 1:
        index = b.op("Mod", places, np.int64(num_boxes))
    else:
        boxes, index = b.reshape(boxes, [-1, classes * num_boxes, 4]), places
    return b.op("GatherND", boxes, b.op("Unsqueeze", index, [2]), batch_dims=1)  # type: ignore[no-any-return]
