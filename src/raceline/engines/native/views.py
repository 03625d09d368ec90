"""Values that are other values seen differently: reshaped, transposed, cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.engines.native.constants import Array, constant

if TYPE_CHECKING:
    import onnx_ir as ir

_MOST_NUMBERS = 1 << 26  # of a value whose views are followed


@dataclass(frozen=True)
class View:
    """A value as places in another, the base, which lies in one piece.

    Attributes:
        base: its name.
        offset: where the first number is.
        shape: of the view.
        strides: numbers between neighbours along each axis.
    """

    base: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def transposed(self, axes: Sequence[int]) -> View:
        """The same with other axes first."""
        shape, strides = (tuple(of[axis] for axis in axes) for of in (self.shape, self.strides))
        return View(self.base, self.offset, shape, strides)


class Views:
    """Views of a graph's values; NumPy does the reckoning, on bytes that nobody reads.

    Args:
        shapes: of every value whose shape and type, float32, are known.

    Attributes:
        used: nodes that some view was followed through.
        written: names of values that kernels write as they are: none of them is followed further.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes
        self.used: set[ir.Node] = set()
        self.written: set[str] = set()

    def of(self, value: ir.Value | None) -> View | None:
        """The value as a view of what was computed; None where its shape is unknown or it is a constant."""
        found = self._followed(value)
        if found is None:
            return None
        base, array, whole, nodes = found
        self.used |= nodes
        address = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
        return View(base, int(address), array.shape, array.strides)

    def matrix(self, value: ir.Value | None) -> str | None:
        """The name of the matrix that a value is, rows and columns as they are; None where it is none."""
        if value is None:
            return None
        found = self._followed(value)
        if found is None:
            return None
        base, array, whole, nodes = found
        columns = array.shape[-1:] == whole.shape[-1:]
        if not columns or array.size != whole.size or not array.flags.c_contiguous or array.ndim < 2:
            return None
        self.used |= nodes
        return base

    def _followed(self, value: ir.Value | None) -> tuple[str, Array, Array, set[ir.Node]] | None:
        """The base's name, the view of its bytes, all its bytes, and the nodes between."""
        if value is None or value.is_initializer() or constant(value) is not None:
            return None
        shape = self._shapes.get(str(value.name))
        if shape is None or 0 in shape or int(np.prod(shape)) > _MOST_NUMBERS:
            return None
        node = value.producer()
        followed = node is not None and node.domain in {"", "ai.onnx"} and node.op_type in _VIEWS
        if node is not None and followed and str(value.name) not in self.written:
            source = self._followed(node.inputs[0])
            seen = _VIEWS[node.op_type](node, source[1], shape, node.outputs.index(value)) if source else None
            if source is not None and seen is not None and np.may_share_memory(seen, source[2]):
                return source[0], seen, source[2], source[3] | {node}
        whole = np.empty(shape, np.uint8)
        return str(value.name), whole, whole, set()


def _reshaped(node: ir.Node, array: Array, shape: tuple[int, ...], place: int) -> Array | None:
    return array.reshape(shape)


def _transposed(node: ir.Node, array: Array, shape: tuple[int, ...], place: int) -> Array | None:
    perm = node.attributes.get("perm")
    return array.transpose(perm.as_ints() if perm is not None else None)


def _split(node: ir.Node, array: Array, shape: tuple[int, ...], place: int) -> Array | None:
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % array.ndim
    sizes = [value.shape[axis] if value.shape is not None else None for value in node.outputs]
    if not all(isinstance(size, int) for size in sizes):
        return None
    start = sum(size for size in sizes[:place] if isinstance(size, int))
    found: Array = array[(slice(None),) * axis + (slice(start, start + shape[axis]),)]
    return found if found.shape == shape else None


def _sliced(node: ir.Node, array: Array, shape: tuple[int, ...], place: int) -> Array | None:
    held = [constant(value) for value in node.inputs[1:]]
    if len(held) < 2 or any(h is None for h in held):
        return None
    numbers: list[list[int]] = [[int(number) for number in np.ravel(h)] for h in held if h is not None]
    starts, ends = numbers[:2]
    axes = numbers[2] if len(numbers) > 2 else list(range(len(starts)))
    steps = numbers[3] if len(numbers) > 3 else [1] * len(starts)
    cut: list[Any] = [slice(None)] * array.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cut[axis] = slice(start, end, step)
    found: Array = array[tuple(cut)]
    return found if found.shape == shape else None


def _gathered(node: ir.Node, array: Array, shape: tuple[int, ...], place: int) -> Array | None:
    held = constant(node.inputs[1])
    if held is None or held.ndim != 0:
        return None
    axis = (node.attributes["axis"].as_int() if "axis" in node.attributes else 0) % array.ndim
    found: Array = array[(slice(None),) * axis + (int(held),)]
    return found


RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")
_VIEWS = dict.fromkeys(RESHAPES, _reshaped) | {
    "Transpose": _transposed, "Split": _split, "Slice": _sliced, "Gather": _gathered,
}  # fmt: skip
