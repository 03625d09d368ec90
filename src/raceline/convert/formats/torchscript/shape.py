"""Sizes, and operators that look at the same elements another way; most of torch's are views."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import (
    END,
    axes,
    axis,
    fixed,
    ints,
    is_float,
    is_value,
    scalar,
    shaped,
    size,
)
from raceline.convert.formats.torchscript.program import DTYPES
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


@rules("aten::size", "prim::shape")
def size_of(b: Builder, node: Node, x: Any, dim: Any = None) -> Any:
    """All sizes, or that of one axis."""
    if dim is None:
        return [size(b, x, place) for place in range(b.rank(x))]
    return size(b, x, axis(dim, b.rank(x)))


@rules("aten::dim", "aten::ndimension")
def rank_of(b: Builder, node: Node, x: Any) -> Any:
    """Number of axes."""
    return b.rank(x)


@rules("aten::len")
def length(b: Builder, node: Node, x: Any) -> Any:
    """Size of the first axis."""
    return size(b, x, 0)


@rules("aten::numel")
def count(b: Builder, node: Node, x: Any) -> Any:
    """Number of elements."""
    shape = b.shape(x)
    if all(isinstance(dim, int) for dim in shape):
        return math.prod(dim for dim in shape if isinstance(dim, int))
    return scalar(b.reshape(b.op("Size", x), [1]), int)


@rules("prim::dtype")
def dtype_code(b: Builder, node: Node, x: Any) -> Any:
    """Torch's number of the element type."""
    return DTYPES.index(b.dtype(x).name)


@rules("aten::is_floating_point")
def is_floating(b: Builder, node: Node, x: Any) -> Any:
    """Whether elements are floats."""
    return is_float(b.dtype(x))


@rules("aten::is_complex", "prim::is_cuda", "prim::is_sparse", "prim::is_quantized", "prim::requires_grad",
       "prim::is_mkldnn", "prim::is_mps", "prim::is_xla", "prim::is_meta", "prim::is_vulkan")  # fmt: skip
def never(b: Builder, node: Node, *_: Any) -> Any:
    """A question whose answer is no for every tensor here."""
    return False


@rules("aten::is_contiguous")
def always(b: Builder, node: Node, *_: Any) -> Any:
    """A question whose answer changes nothing here."""
    return True


@rules("prim::layout")
def layout(b: Builder, node: Node, x: Any) -> Any:
    """Strided, as torch numbers it."""
    return 0


@rules("prim::NumToTensor", "aten::scalar_tensor", "aten::tensor", "aten::as_tensor")
def tensor_of(b: Builder, node: Node, item: Any, dtype: Any = None, *_: Any) -> Any:
    """A tensor of numbers, or of lists of them."""
    from raceline.convert.formats.torchscript.create import tensor

    return tensor(b, item, dtype, float_for_numbers=node.op == "aten::scalar_tensor")


@rules("aten::contiguous", "aten::detach", "aten::alias", "aten::requires_grad", "aten::cpu", "aten::clone",
       "aten::cuda", "aten::lift_fresh", "aten::resolve_conj", "aten::resolve_neg", "aten::positive",
       "aten::pin_memory", "aten::set_data")  # fmt: skip
def same(b: Builder, node: Node, x: Any, *_: Any) -> Any:
    """The same elements."""
    return x


@rules("aten::view", "aten::reshape", "aten::_unsafe_view", "aten::_reshape_alias")
def view(b: Builder, node: Node, x: Any, sizes: Any, *_: Any) -> Any:
    """The elements in another shape."""
    if not isinstance(sizes, list):
        raise UnsupportedError("a view as another element type")
    return shaped(b, x, _settled(b, x, sizes))


def _settled(b: Builder, x: Any, sizes: list[Any]) -> list[Any]:
    """Sizes with a number for -1, where the open axes among them are the tensor's own."""
    shape = b.shape(x)
    names = sorted(dim for dim in shape if isinstance(dim, str))
    asked = sorted(item.dim for item in sizes if isinstance(item, Scalar))
    if names != asked or None in shape or sum(1 for item in sizes if item == -1) != 1:
        return sizes
    known = math.prod(dim for dim in shape if isinstance(dim, int))
    others = math.prod(item for item in sizes if not isinstance(item, Scalar) and item != -1)
    return [known // others if item == -1 and others else item for item in sizes]


@rules("aten::view_as", "aten::reshape_as")
def view_as(b: Builder, node: Node, x: Any, other: Any) -> Any:
    """In another tensor's shape."""
    return b.op("Reshape", x, b.sizes(other))


@rules("aten::flatten")
def flatten(b: Builder, node: Node, x: Any, start: Any = 0, end: Any = -1) -> Any:
    """Neighbouring axes as one."""
    rank = b.rank(x)
    if rank == 0:
        return b.reshape(x, [1])
    first, last = axis(start, rank), axis(end, rank)
    if first == last:
        return x
    kept = [size(b, x, place) for place in range(rank)]
    middle: list[Any] = kept[first : last + 1]
    one = -1 if any(isinstance(item, Scalar) for item in middle) else math.prod(middle)
    return shaped(b, x, [*kept[:first], one, *kept[last + 1 :]])


@rules("aten::unflatten")
def unflatten(b: Builder, node: Node, x: Any, dim: Any, sizes: Any, *_: Any) -> Any:
    """One axis as several."""
    place = axis(dim, b.rank(x))
    kept = [size(b, x, p) for p in range(b.rank(x))]
    return shaped(b, x, [*kept[:place], *sizes, *kept[place + 1 :]])


@rules("aten::squeeze")
def squeeze(b: Builder, node: Node, x: Any, dims: Any = None) -> Any:
    """Without axes of size one; a named axis of another size stays."""
    shape = b.shape(x)
    wanted = axes(dims, len(shape)) if len(shape) else []
    if any(not isinstance(shape[place], int) for place in wanted):
        if dims is None:
            raise UnsupportedError("it removes every axis of size 1, and the tensor has open axes")
        raise UnsupportedError("it removes an axis if its size is 1, and that size is open")
    ones = [place for place in wanted if shape[place] == 1]
    return b.op("Squeeze", x, ones) if ones else x


@rules("aten::unsqueeze")
def unsqueeze(b: Builder, node: Node, x: Any, dim: Any) -> Any:
    """With a new axis of size one."""
    return b.op("Unsqueeze", x, [axis(dim, b.rank(x) + 1)])


@rules("aten::permute", "aten::numpy_T")
def permute(b: Builder, node: Node, x: Any, dims: Any = None) -> Any:
    """Axes in another order."""
    rank = b.rank(x)
    return b.transpose(x, list(range(rank))[::-1] if dims is None else axes(dims, rank))


@rules("aten::transpose", "aten::swapaxes", "aten::swapdims", "aten::t", "aten::mT", "aten::adjoint")
def transpose(b: Builder, node: Node, x: Any, one: Any = None, other: Any = None) -> Any:
    """Two axes exchanged."""
    return b.transpose(x, _exchanged(b, node, x, one, other))


def _exchanged(b: Builder, node: Node, x: Any, one: Any, other: Any) -> list[int]:
    order = list(range(b.rank(x)))
    if len(order) < 2:
        return order
    first, second = (-2, -1) if one is None else (axis(one, len(order)), axis(other, len(order)))
    order[first], order[second] = order[second], order[first]
    return order


@rules("aten::movedim", "aten::moveaxis")
def movedim(b: Builder, node: Node, x: Any, source: Any, to: Any) -> Any:
    """Axes moved to other places."""
    rank = b.rank(x)
    moved, places = axes(source, rank), axes(to, rank)
    order: list[int] = [-1] * rank
    for place, item in zip(places, moved, strict=True):
        order[place] = item
    rest = iter([item for item in range(rank) if item not in moved])
    return b.transpose(x, [item if item >= 0 else next(rest) for item in order])


@rules("aten::expand", "aten::broadcast_to")
def expand(b: Builder, node: Node, x: Any, sizes: Any, *_: Any) -> Any:
    """Axes of size one repeated; -1 keeps an axis."""
    rank, wanted = b.rank(x), list(sizes)
    for place in range(1, len(wanted) + 1):
        item = wanted[-place]
        if not isinstance(item, Scalar) and item == -1:
            wanted[-place] = size(b, x, rank - place) if place <= rank else 1
    return b.op("Expand", x, ints(b, wanted)) if wanted else x


@rules("aten::expand_as")
def expand_as(b: Builder, node: Node, x: Any, other: Any) -> Any:
    """In another tensor's shape."""
    return b.op("Expand", x, b.sizes(other))


@rules("aten::select")
def select(b: Builder, node: Node, x: Any, dim: Any, index: Any) -> Any:
    """One place of an axis, without the axis."""
    place = axis(dim, b.rank(x))
    where = b.op("Squeeze", index.value, [0]) if isinstance(index, Scalar) else np.array(index, np.int64)
    extent = b.shape(x)[place]
    if not isinstance(index, Scalar) and isinstance(extent, int) and not -extent <= index < extent:
        raise UnsupportedError(f"it takes place {index} of an axis of size {extent}")
    return b.op("Gather", x, where, axis=place)


@rules("aten::slice", "aten::narrow")
def slice_(
    b: Builder, node: Node, x: Any, dim: Any = 0, start: Any = None, end: Any = None, step: Any = 1
) -> Any:
    """A stretch of an axis."""
    place = axis(dim, b.rank(x))
    low, high, by = bounds(b, node, x, place, start, end, step)
    if low == 0 and by == 1 and not isinstance(high, Scalar) and high == END:
        return x
    return b.op("Slice", x, ints(b, [low]), ints(b, [high]), [place], ints(b, [by]))


def bounds(
    b: Builder, node: Node, x: Any, place: int, start: Any, end: Any, step: Any
) -> tuple[Any, Any, Any]:
    """Start, end and step of a slice; the end is `END` where all of an axis is taken."""
    if node.op == "aten::narrow":
        if is_value(start):
            raise UnsupportedError("its start is a tensor")
        length_ = end
        dynamic = isinstance(start, Scalar) or isinstance(length_, Scalar)
        if not dynamic:
            stop = start + length_
            return start, (END if stop == 0 and start < 0 else stop), 1
        low, span = ints(b, [start]), ints(b, [length_])
        return start, scalar(b.op("Add", low, span), int), 1
    low = 0 if start is None else start
    high = END if end is None else end
    extent = b.shape(x)[place]
    if isinstance(high, Scalar) and high.dim and high.dim == extent:
        high = END
    if isinstance(extent, int) and not isinstance(high, Scalar) and high >= extent:
        high = END
    return low, high, step


@rules("aten::split", "aten::split_with_sizes", "aten::tensor_split")
def split(b: Builder, node: Node, x: Any, sizes: Any, dim: Any = 0) -> Any:
    """An axis in pieces of a size, or of several sizes."""
    place = axis(dim, b.rank(x))
    if node.op == "aten::tensor_split":
        raise UnsupportedError("parts that differ in size")
    if isinstance(sizes, list):
        return _pieces(b, x, place, [int(item) for item in fixed(sizes, "sizes")])
    extent = _extent(b, x, place)
    each = int(fixed(sizes, "size"))
    return _pieces(b, x, place, _even(extent, each))


@rules("aten::chunk", "aten::unsafe_chunk")
def chunk(b: Builder, node: Node, x: Any, parts: Any, dim: Any = 0) -> Any:
    """An axis in a number of pieces; the last may be smaller."""
    place = axis(dim, b.rank(x))
    extent = _extent(b, x, place)
    return _pieces(b, x, place, _even(extent, max(1, -(-extent // int(fixed(parts, "number"))))))


@rules("aten::unbind")
def unbind(b: Builder, node: Node, x: Any, dim: Any = 0) -> Any:
    """Every place of an axis on its own."""
    place = axis(dim, b.rank(x))
    parts = _pieces(b, x, place, [1] * _extent(b, x, place))
    return [b.op("Squeeze", part, [place]) for part in parts]


def _extent(b: Builder, x: Any, place: int) -> int:
    extent = b.shape(x)[place]
    if not isinstance(extent, int):
        raise UnsupportedError("it divides an axis of open size; give that size with shapes=")
    return extent


def _even(extent: int, each: int) -> list[int]:
    if each <= 0 or extent // each > 10_000:
        raise UnsupportedError(f"pieces of size {each}")
    return [min(each, extent - at) for at in range(0, max(extent, 1), each)]


def _pieces(b: Builder, x: Any, place: int, sizes: list[int]) -> list[Any]:
    if len(sizes) == 1:
        return [x]
    return list(b.op("Split", x, sizes, outputs=len(sizes), axis=place))


# What is written to a view shows in its base: each takes the base and the view's new content.


def _back_shape(b: Builder, node: Node, base: Any, new: Any, *_: Any) -> Any:
    return b.op("Reshape", new, b.sizes(base))


def _back_same(b: Builder, node: Node, base: Any, new: Any, *_: Any) -> Any:
    return new


def _back_permute(b: Builder, node: Node, base: Any, new: Any, dims: Any = None) -> Any:
    rank = b.rank(base)
    order = list(range(rank))[::-1] if dims is None else axes(dims, rank)
    return b.transpose(new, [int(place) for place in np.argsort(order)])


def _back_transpose(b: Builder, node: Node, base: Any, new: Any, one: Any = None, other: Any = None) -> Any:
    return b.transpose(new, _exchanged(b, node, base, one, other))


def _back_select(b: Builder, node: Node, base: Any, new: Any, dim: Any, index: Any) -> Any:
    place = axis(dim, b.rank(base))
    return _replaced(b, base, b.op("Unsqueeze", new, [place]), place, index, 1)


def _back_slice(
    b: Builder,
    node: Node,
    base: Any,
    new: Any,
    dim: Any = 0,
    start: Any = None,
    end: Any = None,
    step: Any = 1,
) -> Any:
    place = axis(dim, b.rank(base))
    low, high, by = bounds(b, node, base, place, start, end, step)
    if by == 1 and not isinstance(low, Scalar):
        if low == 0 and not isinstance(high, Scalar) and high == END:
            return new
        if low >= 0:
            return _joined(b, base, new, place, low)
    raise UnsupportedError("it writes into a slice that has a step, or a start counted from the end")


def _replaced(b: Builder, base: Any, part: Any, place: int, index: Any, span: int) -> Any:
    """A base with one place of an axis replaced."""
    extent = b.shape(base)[place]
    if isinstance(index, Scalar) or (index < 0 and not isinstance(extent, int)):
        where = b.op("Expand", b.op("Reshape", ints(b, [index]), [1] * b.rank(base)), b.op("Shape", part))
        return b.op("ScatterElements", base, where, part, axis=place)
    low = index + extent if index < 0 and isinstance(extent, int) else index
    return _joined(b, base, part, place, low)


def _joined(b: Builder, base: Any, part: Any, place: int, low: int) -> Any:
    """A base whose stretch from `low`, as long as the part, is the part."""
    pieces = [part]
    if low:
        pieces.insert(0, b.op("Slice", base, [0], [low], [place]))
    extent, length_ = b.shape(base)[place], b.shape(part)[place]
    if isinstance(extent, int) and isinstance(length_, int):
        if low + length_ < extent:
            pieces.append(b.op("Slice", base, [low + length_], [extent], [place]))
    else:
        after = b.op("Add", b.op("Shape", part, start=place, end=place + 1), [low])
        pieces.append(b.op("Slice", base, after, [END], [place]))
    joined = pieces[0] if len(pieces) == 1 else b.op("Concat", *pieces, axis=place)
    return joined


VIEWS: dict[str, Any] = {
    "aten::view": _back_shape,
    "aten::_unsafe_view": _back_shape,
    "aten::reshape": _back_shape,
    "aten::view_as": _back_shape,
    "aten::flatten": _back_shape,
    "aten::unflatten": _back_shape,
    "aten::squeeze": _back_shape,
    "aten::unsqueeze": _back_shape,
    "aten::permute": _back_permute,
    "aten::numpy_T": _back_permute,
    "aten::transpose": _back_transpose,
    "aten::t": _back_transpose,
    "aten::mT": _back_transpose,
    "aten::swapaxes": _back_transpose,
    "aten::swapdims": _back_transpose,
    "aten::select": _back_select,
    "aten::slice": _back_slice,
    "aten::narrow": _back_slice,
    "aten::movedim": None,
    "aten::expand": None,
    "aten::expand_as": None,
    "aten::broadcast_to": None,
    "aten::split": None,
    "aten::split_with_sizes": None,
    "aten::chunk": None,
    "aten::unbind": None,
}
"""Operators whose result shares memory with what they read; how a write to it reaches that, None where refused."""

ALIASES = frozenset(
    "aten::contiguous aten::detach aten::alias aten::requires_grad aten::cpu aten::cuda aten::to aten::type_as "
    "aten::dropout aten::feature_dropout aten::flatten aten::reshape aten::squeeze aten::slice aten::float "
    "aten::double aten::long aten::int aten::bool aten::half".split()
)
"""Operators that give back the very tensor they read, where there is nothing to do."""
