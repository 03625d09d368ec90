"""The arrays behind constant tensors: views of the file where possible, unpacked where not."""

from __future__ import annotations

import math

import numpy as np

from raceline.convert.formats.tflite.file import Sparsity, Tensor
from raceline.convert.graph import Array
from raceline.core.errors import BadModelError

DTYPES: dict[str, str] = {
    "FLOAT32": "<f4", "FLOAT16": "<f2", "FLOAT64": "<f8", "INT8": "i1", "INT16": "<i2", "INT32": "<i4",
    "INT64": "<i8", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "BOOL": "?",
    "INT4": "i1", "BFLOAT16": "<u2",
}  # fmt: skip
"""Element types that can be read, and how they lie in memory once they are unpacked."""


_SMALL, _MOST_EXPANSION = 1 << 20, 256  # elements of a sparse tensor: always allowed, and for each stored one


def array_of(tensor: Tensor, max_bytes: int) -> Array:
    """A constant's elements in its shape; 4-bit integers as 8-bit ones, sparse data filled up.

    Args:
        tensor: has data.
        max_bytes: that a sparse tensor may fill.

    Raises:
        BadModelError: data and shape do not agree.
    """
    shape = tensor.shape or ()
    assert tensor.data is not None
    count = math.prod(shape)
    if tensor.sparsity is not None:
        stored = _plain(tensor, None)
        return densified(stored, tensor.sparsity, shape, max_bytes, tensor.name)
    elements = _plain(tensor, count)
    if count < 0 or elements.size != count:
        why = f"its shape {list(shape)} asks for {count} elements, and it has {elements.size}"
        raise BadModelError(f"tensor {tensor.name!r} is broken", why, "Convert the model again.")
    return elements.reshape(shape)


def _plain(tensor: Tensor, count: int | None) -> Array:
    data = tensor.data
    assert data is not None
    if tensor.dtype == "INT4":
        nibbles = np.stack([data << 4, data & 0xF0], -1).reshape(-1).view(np.int8) >> 4
        return nibbles if count is None else nibbles[: max(count, 0)]
    dtype = np.dtype(DTYPES[tensor.dtype])
    if data.size % dtype.itemsize:
        raise BadModelError(f"tensor {tensor.name!r} is broken", f"{data.size} bytes are no whole elements")
    if tensor.dtype == "BOOL":
        flags: Array = data != 0
        return flags
    if tensor.dtype == "BFLOAT16":
        widened: Array = (data.view(dtype).astype(np.uint32) << 16).view(np.float32)
        return widened
    return np.require(data.view(dtype), requirements="A")


def densified(stored: Array, sparsity: Sparsity, shape: tuple[int, ...], max_bytes: int, name: str) -> Array:
    """A sparse tensor filled up with zeros.

    Dimensions are stored in `order`; a block dimension splits one of the original dimensions. A compressed one
    holds, for each position of those before it, a segment of indices; the positions that remain are walked level
    by level (the format of Kjolstad et al., The Tensor Algebra Compiler, 2017).

    Raises:
        BadModelError: the description contradicts itself or the data.
    """
    rank, sizes = len(shape), _block_sizes(sparsity, len(shape))
    total = math.prod(shape) if min(shape, default=0) >= 0 else -1
    sound = (
        len(sparsity.dims) == len(sparsity.order)
        and sorted(sparsity.order) == list(range(rank + len(sparsity.blocks)))
        and all(0 <= axis < rank for axis in sparsity.blocks)
        and 0 <= total * stored.itemsize <= max_bytes
        and total <= max(_SMALL, _MOST_EXPANSION * stored.size)
    )
    if not sound:
        raise BadModelError(f"sparse tensor {name!r} is broken", "its description does not fit its shape")
    positions = _positions(sparsity, stored.size, name)
    coordinates = [positions[sparsity.order.index(axis)].copy() for axis in range(rank)]
    for place, axis in enumerate(sparsity.blocks):
        coordinates[axis] *= sizes[place]
        coordinates[axis] += positions[sparsity.order.index(rank + place)]
    outside = any((c < 0).any() or (c >= size).any() for c, size in zip(coordinates, shape, strict=True))
    if outside or coordinates and coordinates[0].size != stored.size:
        raise BadModelError(f"sparse tensor {name!r} is broken", "its indices do not fit its shape or data")
    dense = np.zeros(shape, stored.dtype)
    dense[tuple(coordinates)] = stored
    return dense


def _block_sizes(sparsity: Sparsity, rank: int) -> list[int]:
    """Elements of each block; block dimensions are always dense."""
    sizes = []
    for place in range(len(sparsity.blocks)):
        dim = rank + place
        level = sparsity.order.index(dim) if dim in sparsity.order else -1
        size = sparsity.dims[level] if 0 <= level < len(sparsity.dims) else 0
        sizes.append(size if isinstance(size, int) else 0)
    return sizes


def _positions(sparsity: Sparsity, count: int, name: str) -> list[Array]:
    """For each stored element its index along every dimension, in the order of storage."""
    wrong = BadModelError(f"sparse tensor {name!r} is broken", "its segments do not fit its data")
    columns: list[Array] = []
    parents = 1
    for dim in sparsity.dims:
        if isinstance(dim, int):
            if dim <= 0 or parents * dim > max(count, 1):
                raise wrong
            repeats = np.full(parents, dim)
            index = np.tile(np.arange(dim), parents)
        else:
            segments, index = dim
            repeats = np.diff(segments)
            if segments.size != parents + 1 or (repeats < 0).any() or int(repeats.sum()) != index.size:
                raise wrong
            if index.size > count:
                raise wrong
        columns = [np.repeat(column, repeats) for column in columns]
        columns.append(index)
        parents = index.size
    if parents != count:
        raise wrong
    return columns
