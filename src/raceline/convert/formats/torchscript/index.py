"""Taking and putting elements by place, joining tensors, padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import (
    BOOL,
    END,
    INT,
    axes,
    axis,
    fixed,
    ints,
    number,
    promoted,
    result_type,
    size,
)
from raceline.convert.formats.torchscript.values import Scalar
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    from raceline.convert.build import Builder
    from raceline.convert.formats.torchscript.program import Node

rules = Rules()


@rules("aten::cat", "aten::concat", "aten::concatenate")
def cat(b: Builder, node: Node, items: Any, dim: Any = 0) -> Any:
    """Tensors one after another along an axis; torch skips those of shape (0,)."""
    items = [item for item in items if b.shape(item) != (0,)] or items[:1]
    dtype = result_type(b, *items)
    items = [b.cast(item, dtype) for item in items]
    return items[0] if len(items) == 1 else b.op("Concat", *items, axis=axis(dim, b.rank(items[0])))


@rules("aten::stack")
def stack(b: Builder, node: Node, items: Any, dim: Any = 0) -> Any:
    """Tensors one after another along a new axis."""
    place = axis(dim, b.rank(items[0]) + 1)
    rows = [b.op("Unsqueeze", item, [place]) for item in promoted(b, *items)]
    return rows[0] if len(rows) == 1 else b.op("Concat", *rows, axis=place)


@rules("aten::index_select")
def index_select(b: Builder, node: Node, x: Any, dim: Any, where: Any) -> Any:
    """Places of an axis."""
    return b.op("Gather", x, where, axis=axis(dim, b.rank(x)))


@rules("aten::embedding")
def embedding(b: Builder, node: Node, weight: Any, where: Any, *_: Any) -> Any:
    """Rows of a table."""
    return b.op("Gather", weight, where, axis=0)


@rules("aten::gather")
def gather(b: Builder, node: Node, x: Any, dim: Any, where: Any, *_: Any) -> Any:
    """One element of an axis for each place of an index."""
    place = axis(dim, b.rank(x))
    for at, (have, need) in enumerate(zip(b.shape(x), b.shape(where), strict=True)):
        if at != place and have != need:
            end = b.op("Shape", where, start=at, end=at + 1)
            x = b.op("Slice", x, [0], end, [at])
    return b.op("GatherElements", x, where, axis=place)


@rules("aten::take_along_dim")
def take_along(b: Builder, node: Node, x: Any, where: Any, dim: Any = None) -> Any:
    """One element of an axis for each place of an index."""
    if dim is None:
        return b.op("GatherElements", b.reshape(x, [-1]), b.reshape(where, [-1]), axis=0)
    return gather(b, node, x, dim, where)


@rules("aten::scatter", "aten::scatter_add", "aten::scatter_reduce")
def scatter(b: Builder, node: Node, x: Any, dim: Any, where: Any, source: Any, *rest: Any) -> Any:
    """Elements put at places of an axis."""
    place = axis(dim, b.rank(x))
    source = number(b, source, b.dtype(x))
    if b.rank(source) == 0 and b.rank(where):
        source = b.op("Expand", source, b.sizes(where))
    reduction = None
    if "scatter_add" in node.op:
        reduction = "add"
    elif rest:
        reduction = {
            "add": "add",
            "sum": "add",
            "multiply": "mul",
            "prod": "mul",
            "amax": "max",
            "amin": "min",
        }.get(rest[0])
        if reduction is None or (len(rest) > 1 and not rest[1]):
            raise UnsupportedError(f"with reduction {rest}")
    if b.shape(source) != b.shape(where):
        for at, (have, need) in enumerate(zip(b.shape(source), b.shape(where), strict=True)):
            if have != need:
                source = b.op("Slice", source, [0], b.op("Shape", where, start=at, end=at + 1), [at])
    return b.op("ScatterElements", x, where, source, axis=place, reduction=reduction)


@rules("aten::index")
def index(b: Builder, node: Node, x: Any, places: Any) -> Any:
    """Elements by tensors of places, one a leading axis; None leaves an axis as it is."""
    given = [(at, place) for at, place in enumerate(places) if place is not None]
    if not given:
        return x
    if any(b.dtype(place) in {BOOL, np.dtype(np.uint8)} for _, place in given):
        return _masked(b, x, given)
    if len(given) == 1:
        at, place = given[0]
        return b.op("Gather", x, place, axis=at)
    used = [at for at, _ in given]
    together = used == list(range(used[0], used[-1] + 1))
    order = used + [at for at in range(b.rank(x)) if at not in used]
    where = _tuples(b, [place for _, place in given])
    found = b.op("GatherND", b.transpose(x, order), where)
    if not together or used[0] == 0:
        return found
    wide = b.rank(where) - 1
    rest = list(range(wide, wide + b.rank(x) - len(used)))
    return b.transpose(found, [*rest[: used[0]], *range(wide), *rest[used[0] :]])


def _tuples(b: Builder, places: list[Any]) -> Any:
    """Places of several axes, broadcast together, as one tensor whose last axis has one for each."""
    places = [b.cast(place, INT) for place in places]
    joint = places[0]
    for place in places[1:]:
        joint = b.op("Add", joint, b.op("Mul", place, b.constant(np.array(0, np.int64))))
    shape = b.sizes(joint)
    wide = [b.op("Unsqueeze", b.op("Expand", place, shape), [-1]) for place in places]
    return b.op("Concat", *wide, axis=-1)


def _masked(b: Builder, x: Any, given: list[tuple[int, Any]]) -> Any:
    if len(given) != 1 or given[0][0] != 0:
        raise UnsupportedError("a mask together with other places")
    mask = b.cast(given[0][1], BOOL)
    rank = b.rank(mask)
    if rank == 1:
        return b.op("Compress", x, mask, axis=0)
    where = b.transpose(b.op("NonZero", mask), [1, 0])
    return b.op("GatherND", x, where)


@rules("aten::masked_select")
def masked_select(b: Builder, node: Node, x: Any, mask: Any) -> Any:
    """The elements where a mask is true, in one row."""
    shape = b.sizes(b.op("Add", b.op("Mul", b.cast(x, INT), b.constant(np.array(0))), b.cast(mask, INT)))
    flat = b.reshape(b.op("Expand", mask, shape), [-1])
    return b.op("Compress", b.reshape(b.op("Expand", x, shape), [-1]), flat, axis=0)


@rules("aten::nonzero")
def nonzero(b: Builder, node: Node, x: Any) -> Any:
    """Places of the elements that are not zero, a row for each."""
    return b.transpose(b.op("NonZero", x), [1, 0])


@rules("aten::index_put", "aten::_index_put_impl")
def index_put(b: Builder, node: Node, x: Any, places: Any, source: Any, add: Any = False, *_: Any) -> Any:
    """Elements put by tensors of places, one a leading axis."""
    source = b.cast(source, b.dtype(x))
    if any(place is None for place in places):
        raise UnsupportedError("an axis left as it is before one with places")
    if len(places) == 1 and b.dtype(places[0]) == BOOL:
        return _put_masked(b, x, places[0], source, add)
    if any(b.dtype(place) == BOOL for place in places):
        raise UnsupportedError("a mask together with other places")
    where = _tuples(b, places)
    rest = b.op("Shape", x, start=len(places))
    whole = b.op("Concat", b.op("Shape", where, end=-1), rest, axis=0)
    updates = b.op("Expand", source, whole)
    return b.op("ScatterND", x, where, updates, reduction="add" if add else None)


def _put_masked(b: Builder, x: Any, mask: Any, source: Any, add: Any) -> Any:
    missing = b.rank(x) - b.rank(mask)
    if b.rank(source) != 0 and b.shape(source) != (1,):
        raise UnsupportedError("one element for each place of a mask")
    wide = b.op("Unsqueeze", mask, [-1 - i for i in range(missing)]) if missing else mask
    return b.op("Where", wide, b.op("Add", x, source) if add else source, x)


@rules("aten::index_fill")
def index_fill(b: Builder, node: Node, x: Any, dim: Any, where: Any, item: Any) -> Any:
    """One number put at places of an axis."""
    place = axis(dim, b.rank(x))
    shape = [size(b, x, at) for at in range(b.rank(x))]
    shape[place] = size(b, where, 0)
    lined = b.reshape(where, [-1 if at == place else 1 for at in range(b.rank(x))])
    wide = b.op("Expand", lined, ints(b, shape))
    return b.op(
        "ScatterElements", x, wide, b.op("Expand", number(b, item, b.dtype(x)), ints(b, shape)), axis=place
    )


@rules("aten::flip")
def flip(b: Builder, node: Node, x: Any, dims: Any) -> Any:
    """Axes backwards."""
    places = axes(dims, b.rank(x))
    return b.op("Slice", x, [-1] * len(places), [-END - 1] * len(places), places, [-1] * len(places))


@rules("aten::roll")
def roll(b: Builder, node: Node, x: Any, shifts: Any, dims: Any = None) -> Any:
    """Axes turned round by some places."""
    if not dims:
        flat = b.reshape(x, [-1])
        return b.op("Reshape", _rolled(b, flat, shifts[0], 0), b.sizes(x))
    for shift, dim in zip(shifts, dims, strict=True):
        x = _rolled(b, x, shift, axis(dim, b.rank(x)))
    return x


def _rolled(b: Builder, x: Any, shift: Any, place: int) -> Any:
    extent = b.shape(x)[place]
    if isinstance(shift, Scalar):
        raise UnsupportedError("its shift is only known at run time")
    if isinstance(extent, int):
        shift = shift % extent if extent else 0
    if not shift:
        return x
    tail = b.op("Slice", x, [-shift], [END], [place])
    head = b.op("Slice", x, [0], [-shift], [place])
    return b.op("Concat", tail, head, axis=place)


@rules("aten::repeat")
def repeat(b: Builder, node: Node, x: Any, counts: Any) -> Any:
    """The whole tensor repeated along each axis."""
    extra = len(counts) - b.rank(x)
    if extra:
        x = b.op("Unsqueeze", x, list(range(extra)))
    return b.op("Tile", x, ints(b, counts)) if counts else x


@rules("aten::tile")
def tile(b: Builder, node: Node, x: Any, counts: Any) -> Any:
    """The whole tensor repeated along each axis; missing counts are one."""
    return repeat(b, node, x, [1] * max(0, b.rank(x) - len(counts)) + list(counts))


@rules("aten::repeat_interleave")
def repeat_interleave(b: Builder, node: Node, x: Any, count: Any, dim: Any = None, *_: Any) -> Any:
    """Every place of an axis repeated."""
    if node.overload != "self_int":
        raise UnsupportedError("counts that differ from place to place")
    if dim is None:
        x, dim = b.reshape(x, [-1]), 0
    place = axis(dim, b.rank(x))
    sizes = [size(b, x, at) for at in range(b.rank(x))]
    longer = b.op("Unsqueeze", x, [place + 1])
    wide = b.op("Expand", longer, ints(b, [*sizes[: place + 1], count, *sizes[place + 1 :]]))
    one = -1 if isinstance(sizes[place], Scalar) or isinstance(count, Scalar) else sizes[place] * count
    return b.op("Reshape", wide, ints(b, [*sizes[:place], one, *sizes[place + 1 :]]))


@rules("aten::tril", "aten::triu")
def triangle(b: Builder, node: Node, x: Any, diagonal: Any = 0) -> Any:
    """A triangle of the last two axes; the rest is zero."""
    k = number(b, diagonal, INT)
    return b.op("Trilu", x, k, upper=int("triu" in node.op))


@rules("aten::meshgrid")
def meshgrid(b: Builder, node: Node, items: Any, indexing: Any = "ij") -> Any:
    """Coordinates of a grid."""
    items = [b.reshape(item, [-1]) for item in items]
    swap = indexing == "xy" and len(items) > 1
    if swap:
        items[0], items[1] = items[1], items[0]
    shape = (
        b.op("Concat", *(b.sizes(item) for item in items), axis=0) if len(items) > 1 else b.sizes(items[0])
    )
    grids = []
    for at, item in enumerate(items):
        lined = b.reshape(item, [-1 if place == at else 1 for place in range(len(items))])
        grids.append(b.op("Expand", lined, shape))
    if swap:
        grids[0], grids[1] = grids[1], grids[0]
    return grids


@rules("aten::one_hot")
def one_hot(b: Builder, node: Node, where: Any, classes: Any = -1) -> Any:
    """One at a place, zeros elsewhere."""
    if fixed(classes, "number of classes") < 0:
        raise UnsupportedError("the number of classes follows from the content")
    return b.op("OneHot", where, np.array(classes, np.int64), np.array([0, 1], np.int64))


@rules("aten::diff")
def diff(b: Builder, node: Node, x: Any, times: Any = 1, dim: Any = -1, *rest: Any) -> Any:
    """Differences of neighbours."""
    if times != 1 or any(item is not None for item in rest):
        raise UnsupportedError("repeated, or with more at its ends")
    place = axis(dim, b.rank(x))
    return b.op("Sub", b.op("Slice", x, [1], [END], [place]), b.op("Slice", x, [0], [-1], [place]))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


@rules("aten::pad", "aten::constant_pad_nd", "aten::reflection_pad1d", "aten::reflection_pad2d",
       "aten::replication_pad1d", "aten::replication_pad2d", "aten::replication_pad3d",
       "aten::reflection_pad3d")  # fmt: skip
def pad(b: Builder, node: Node, x: Any, sizes: Any, *rest: Any) -> Any:
    """More elements around; sizes are listed from the last axis on."""
    mode, value = "constant", 0
    if node.op == "aten::pad":
        mode = rest[0] if rest else "constant"
        value = rest[1] if len(rest) > 1 and rest[1] is not None else 0
    elif node.op == "aten::constant_pad_nd":
        value = rest[0] if rest else 0
    else:
        mode = "reflect" if "reflection" in node.op else "replicate"
    if (
        not sizes
        or all(item == 0 for item in sizes if not isinstance(item, Scalar))
        and not any(isinstance(item, Scalar) for item in sizes)
    ):
        return x
    places = [b.rank(x) - 1 - at for at in range(len(sizes) // 2)]
    pads = ints(b, [*sizes[0::2], *sizes[1::2]])
    fill = number(b, value, b.dtype(x)) if mode == "constant" else None
    return b.op("Pad", x, pads, fill, places, mode=_PAD_MODES[mode])
