"""Lists of tensors: one tensor with the list along axis 0, as TensorArray and recurrent layers use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.attributes import dtype
from raceline.convert.formats.tensorflow.values import TensorList, fixed_rank, vector
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@dataclass(frozen=True)
class Slot:
    """A list inside a loop that each turn sets one item of, in order: a scan output outside."""


@dataclass(frozen=True)
class Scanned:
    """The item that a turn of a loop sets."""

    item: ir.Value


@rules("TensorListReserve")
def _reserve(b: Builder, node: SourceNode, shape: ir.Value, length: ir.Value) -> Any:
    count = b.reshape(b.cast(length, np.int64), [])
    return TensorList(None, dtype(node, "element_dtype"), count, _item_shape(b, shape))


@rules("EmptyTensorList")
def _empty(b: Builder, node: SourceNode, shape: ir.Value, most: ir.Value) -> Any:
    return TensorList(None, dtype(node, "element_dtype"), b.constant(np.int64(0)), _item_shape(b, shape))


def _item_shape(b: Builder, shape: ir.Value) -> tuple[int, ...] | None:
    array = b.array(shape)
    return None if array is None or array.ndim == 0 else tuple(int(size) for size in array)


@rules("TensorListFromTensor")
def _from_tensor(b: Builder, node: SourceNode, x: ir.Value, shape: ir.Value) -> Any:
    length = b.reshape(b.op("Shape", x, start=0, end=1), [])
    return TensorList(x, b.dtype(x), length, _item_shape(b, shape))


def items_of(b: Builder, items: Any, like: ir.Value | None = None) -> ir.Value:
    """A list as one tensor, zeros where nothing was set.

    Args:
        b: receives the nodes.
        items: the list.
        like: an item, where the list itself may not know their shape.

    Raises:
        UnsupportedError: it is no list, or its items have no known shape.
    """
    if not isinstance(items, TensorList):
        raise UnsupportedError("of a list that a loop writes in another way than item by item")
    if items.items is not None:
        return items.items
    length = b.reshape(items.length, [1])
    if items.shape is not None and all(size >= 0 for size in items.shape):
        shape = b.op("Concat", length, list(items.shape), axis=0) if items.shape else length
    elif like is not None:
        shape = b.op("Concat", length, b.op("Shape", like), axis=0)
    else:
        raise UnsupportedError("of a list whose items have no known shape")
    zero = b.constant(np.zeros((), items.dtype))
    return b.op("Expand", zero, shape)  # type: ignore[no-any-return]


@rules("TensorListGetItem")
def _get(b: Builder, node: SourceNode, items: Any, index: ir.Value, shape: ir.Value) -> Any:
    return b.op("Gather", items_of(b, items), b.reshape(b.cast(index, np.int64), []), axis=0)


@rules("TensorListSetItem")
def _set(b: Builder, node: SourceNode, items: Any, index: ir.Value, item: ir.Value) -> Any:
    if node.attributes.get("resize_if_index_out_of_bounds", False):
        raise UnsupportedError("that may grow")
    if isinstance(items, Slot):
        return Scanned(item)
    whole = items_of(b, items, item)
    place = b.reshape(b.cast(index, np.int64), [1, 1])
    changed = b.op("ScatterND", whole, place, b.op("Unsqueeze", item, [0]))
    return TensorList(changed, items.dtype, items.length, items.shape)


@rules("TensorListStack")
def _stack(b: Builder, node: SourceNode, items: Any, shape: ir.Value) -> Any:
    node.attributes.get("num_elements")
    return items_of(b, items)


@rules("TensorListLength")
def _length(b: Builder, node: SourceNode, items: Any) -> Any:
    if not isinstance(items, TensorList):
        raise UnsupportedError("of a list that a loop writes")
    return b.cast(items.length, np.int32)


@rules("TensorListPushBack")
def _push(b: Builder, node: SourceNode, items: Any, item: ir.Value) -> Any:
    if not isinstance(items, TensorList):
        raise UnsupportedError("of a list that a loop writes")
    row = b.op("Unsqueeze", item, [0])
    whole = row if items.items is None else b.op("Concat", items.items, row, axis=0)
    return TensorList(whole, items.dtype, b.op("Add", items.length, np.int64(1)), items.shape)


@rules("TensorListGather")
def _gather(b: Builder, node: SourceNode, items: Any, places: ir.Value, shape: ir.Value) -> Any:
    return b.op("Gather", items_of(b, items), places, axis=0)


@rules("TensorListConcatV2", "TensorListConcat")
def _concat(b: Builder, node: SourceNode, items: Any, *_: ir.Value) -> Any:
    for name in ("element_shape", "leading_dims"):
        node.attributes.get(name)
    whole = items_of(b, items)
    rank = fixed_rank(b, whole)
    if rank < 2:
        raise UnsupportedError("of scalars")
    shape = b.op("Concat", [-1], b.op("Shape", whole, start=2), axis=0)
    lengths = b.op("Expand", b.op("Shape", whole, start=1, end=2), b.op("Shape", whole, start=0, end=1))
    return b.op("Reshape", whole, shape), lengths


@rules("TensorListScatterV2", "TensorListScatterIntoExistingList")
def _scatter(b: Builder, node: SourceNode, *inputs: Any) -> Any:
    raise UnsupportedError("at places that the data decides")


@rules("TensorListResize")
def _resize(b: Builder, node: SourceNode, items: Any, size: ir.Value) -> Any:
    whole = items_of(b, items)
    rank, count = fixed_rank(b, whole), vector(b, size)
    missing = b.op("Max", b.op("Sub", count, b.op("Shape", whole, start=0, end=1)), [0])
    pads = b.op("Concat", [0] * rank, missing, [0] * (rank - 1), axis=0)
    grown = b.op("Pad", whole, pads, None, mode="constant")
    cut = b.op("Slice", grown, [0], count, [0])
    return TensorList(cut, items.dtype, b.reshape(count, []), items.shape)
