"""Operations that rearrange, choose or make tensors, and weights that are stored in few bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from raceline.convert.formats.coreml.call import Call, as_int64, sizes
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_SCATTER = {"update": None, "add": "add", "mul": "mul", "min": "min", "max": "max"}
_FOUR_OR_EIGHT_BITS = {np.dtype(t) for t in (np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.uint4)}


@rules("reshape")
def reshape(c: Call) -> Any:
    """Another shape; from iOS 17 on, zeros are counted from the right."""
    x, shape = c("x"), c("shape")
    array = c.b.array(shape)
    if array is not None and (array == 0).any() and array.size != c.b.rank(x):
        own, rank = c.b.shape(x), c.b.rank(x)
        found = []
        for place, size in enumerate(int(n) for n in array.reshape(-1)):
            source = rank - (array.size - place)
            size = (own[source] if source >= 0 else 1) if size == 0 else size  # type: ignore[assignment]
            if not isinstance(size, int):
                raise UnsupportedError("zeros for axes of open size")
            found.append(size)
        return c.b.reshape(x, found)
    return c.b.op("Reshape", x, as_int64(c, shape))


@rules("reshape_like")
def reshape_like(c: Call) -> Any:
    """Refused: shapes put together from ranges of others."""
    raise UnsupportedError("shapes put together from others")


@rules("transpose")
def transpose(c: Call) -> Any:
    """Axes in another order."""
    x = c("x")
    return c.b.transpose(x, [axis % c.b.rank(x) for axis in c.ints("perm")])


@rules("expand_dims")
def expand_dims(c: Call) -> Any:
    """More axes of size 1."""
    return c.b.op("Unsqueeze", c("x"), c.ints("axes"))


@rules("squeeze")
def squeeze(c: Call) -> Any:
    """Without axes of size 1."""
    x = c("x")
    axes = c.ints("axes") if c.has("axes") else [i for i, s in enumerate(sizes(c, x, "input")) if s == 1]
    return c.b.op("Squeeze", x, axes)


@rules("concat")
def concat(c: Call) -> Any:
    """One after another, or in turns."""
    values, axis = c.values("values"), c.integer("axis")
    if not c.flag("interleave", False):
        return c.b.op("Concat", *values, axis=axis)
    rank = c.b.rank(values[0])
    axis %= rank
    stacked = c.b.op("Concat", *(c.b.op("Unsqueeze", v, [axis + 1]) for v in values), axis=axis + 1)
    shape = sizes(c, values[0], "interleaved input")
    shape[axis] *= len(values)
    return c.b.reshape(stacked, shape)


@rules("stack")
def stack(c: Call) -> Any:
    """Along a new axis."""
    values, axis = c.values("values"), c.integer("axis")
    axis = axis + c.b.rank(values[0]) + 1 if axis < 0 else axis
    return c.b.op("Concat", *(c.b.op("Unsqueeze", v, [axis]) for v in values), axis=axis)


@rules("split")
def split(c: Call) -> Any:
    """Parts, equal or of given lengths."""
    x, axis = c("x"), c.integer("axis")
    count = len(c.node.attributes["outputs"])
    c.skip("num_splits")
    if c.has("split_sizes"):
        lengths = c.ints("split_sizes")
    else:
        size = c.b.shape(x)[axis]
        if not isinstance(size, int) or size % count:
            raise UnsupportedError("equal parts of an axis of open size")
        lengths = [size // count] * count
    found = c.b.op("Split", x, lengths, axis=axis, outputs=count)
    return found if count > 1 else (found,)


@rules("tile")
def tile(c: Call) -> Any:
    """Copies side by side."""
    return c.b.op("Tile", c("x"), as_int64(c, c("reps")))


@rules("shape")
def shape_(c: Call) -> Any:
    """The sizes."""
    c.skip("output_dtype")
    return c.b.sizes(c("x"))


@rules("fill")
def fill(c: Call) -> Any:
    """A number everywhere."""
    return c.b.op("Expand", c("value"), as_int64(c, c("shape")))


@rules("fill_like")
def fill_like(c: Call) -> Any:
    """A number everywhere, in another tensor's shape."""
    return c.b.op("Expand", c("value"), c.b.sizes(c("ref_tensor")))


@rules("range_1d")
def range_1d(c: Call) -> Any:
    """Numbers in equal steps."""
    return c.b.op("Range", c("start"), c("end"), c("step"))


@rules("flatten2d")
def flatten2d(c: Call) -> Any:
    """Two axes, split where the layer says."""
    return c.b.op("Flatten", c("x"), axis=c.integer("axis", 1))


@rules("non_zero")
def non_zero(c: Call) -> Any:
    """Where elements are not zero, one place a row."""
    return c.b.transpose(c.b.op("NonZero", c("x")), [1, 0])


@rules("one_hot")
def one_hot(c: Call) -> Any:
    """One element of each row is on."""
    indices, depth = as_int64(c, c("indices")), c.integer("one_hot_vector_size")
    rank = c.b.rank(indices) + 1
    place = c.integer("axis", -1) % rank
    steps = c.b.reshape(c.b.constant(np.arange(depth)), [-1] + [1] * (rank - 1 - place))
    hit = c.b.op("Equal", c.b.op("Unsqueeze", indices, [place]), steps)
    on, off = c.maybe("on_value"), c.maybe("off_value")
    on = c.b.constant(np.array(1, np.int32)) if on is None else on
    off = c.b.constant(np.array(0, c.b.dtype(on))) if off is None else off
    return c.b.op("Where", hit, on, off)


@rules("pad")
def pad(c: Call) -> Any:
    """More elements around the last axes."""
    x, given = c("x"), c.ints("pad")
    mode = c.word("mode", "constant", ("constant", "reflect", "replicate"))
    fill_value = c.maybe("constant_val")
    axes = [*range(c.b.rank(x) - len(given) // 2, c.b.rank(x))]
    pads = [*given[0::2], *given[1::2]]
    if mode != "constant":
        return c.b.op("Pad", x, pads, None, axes, mode="edge" if mode == "replicate" else "reflect")
    value = c.scalar(0, x) if fill_value is None else c.b.cast(fill_value, c.b.dtype(x))
    return c.b.op("Pad", x, pads, value, axes)


@rules("reverse")
def reverse(c: Call) -> Any:
    """Backwards along axes, all where none are named."""
    x = c("x")
    axes = c.ints("axes") if c.has("axes") else [*range(c.b.rank(x))]
    count = len(axes)
    return c.b.op("Slice", x, [-1] * count, [-(2**62)] * count, axes, [-1] * count) if count else x


@rules("reverse_sequence")
def reverse_sequence(c: Call) -> Any:
    """Backwards up to a length of its own for each item."""
    x, rank = c("x"), c.b.rank(c("x"))
    batch, time = c.integer("batch_axis", 0) % rank, c.integer("seq_axis") % rank
    order = [batch, time, *(axis for axis in range(rank) if axis not in {batch, time})]
    lengths = as_int64(c, c("lengths"))
    moved = c.b.op("ReverseSequence", c.b.transpose(x, order), lengths, batch_axis=0, time_axis=1)
    return c.b.transpose(moved, [order.index(axis) for axis in range(rank)])


@rules("slice_by_index")
def slice_by_index(c: Call) -> Any:
    """NumPy's x[begin:end:stride] with masks."""
    x = c("x")
    rank = c.b.rank(x)
    begin, end = c("begin"), c("end")
    stride = c.ints("stride", [1] * rank)
    opened = {
        key: [bool(n) for n in c.ints(f"{key}_mask", [0] * rank)] for key in ("begin", "end", "squeeze")
    }
    gone = [axis for axis in range(rank) if opened["squeeze"][axis]]
    known = c.b.array(begin), c.b.array(end)
    axes = [*range(rank)]
    steps = [1 if axis in gone else stride[axis] for axis in axes]
    if known[0] is not None and known[1] is not None:
        starts, stops = [int(n) for n in known[0].reshape(-1)], [int(n) for n in known[1].reshape(-1)]
        for axis in axes:
            if axis in gone:
                stops[axis] = starts[axis] + 1 if starts[axis] != -1 else 2**62
                continue
            if opened["begin"][axis]:
                starts[axis] = 0 if stride[axis] > 0 else 2**62
            if opened["end"][axis]:
                stops[axis] = 2**62 if stride[axis] > 0 else -(2**62)
        first: Any = starts
        last: Any = stops
    else:
        first, last = _open_ends(c, as_int64(c, begin), as_int64(c, end), opened, stride)
    found = c.b.op("Slice", x, first, last, axes, steps)
    return c.b.op("Squeeze", found, gone) if gone else found


def _open_ends(
    c: Call, begin: ir.Value, end: ir.Value, opened: dict[str, list[bool]], stride: list[int]
) -> tuple[ir.Value, ir.Value]:
    """Starts and stops of slices whose ends the model computes."""
    gone = np.array(opened["squeeze"])
    after = c.b.op("Add", begin, [1])
    after = c.b.op("Where", c.b.op("Equal", after, [0]), [2**62], after)
    end = c.b.op("Where", gone, after, end) if gone.any() else end
    forward = np.array(stride) > 0
    for_begin, for_end = np.array(opened["begin"]) & ~gone, np.array(opened["end"]) & ~gone
    if for_begin.any():
        begin = c.b.op("Where", for_begin, np.where(forward, 0, 2**62), begin)
    if for_end.any():
        end = c.b.op("Where", for_end, np.where(forward, 2**62, -(2**62)), end)
    return begin, end


@rules("slice_by_size")
def slice_by_size(c: Call) -> Any:
    """From places on, so many elements; -1 takes all that are left."""
    x, begin, size = c("x"), as_int64(c, c("begin")), as_int64(c, c("size"))
    stop = c.b.op("Where", c.b.op("Equal", size, [-1]), [2**62], c.b.op("Add", begin, size))
    return c.b.op("Slice", x, begin, stop, [*range(c.b.rank(x))])


@rules("gather")
def gather(c: Call) -> Any:
    """Slices of one axis."""
    x, indices, axis = c("x"), as_int64(c, c("indices")), c.integer("axis", 0)
    c.skip("validate_indices")
    batch = c.integer("batch_dims", 0)
    if batch == 0:
        return c.b.op("Gather", x, indices, axis=axis)
    if batch != axis or c.b.rank(indices) != axis + 1 or c.b.rank(x) != axis + 1:
        raise UnsupportedError(f"batch_dims={batch} with axis={axis}")
    return c.b.op("GatherElements", x, indices, axis=axis)


@rules("gather_along_axis")
def gather_along_axis(c: Call) -> Any:
    """One element for each index."""
    c.skip("validate_indices")
    x = c("x")
    axis = c.integer("axis", 0) % c.b.rank(x)
    return c.b.op("GatherElements", x, as_int64(c, c("indices")), axis=axis)


@rules("gather_nd")
def gather_nd(c: Call) -> Any:
    """Slices by indices of several axes."""
    c.skip("validate_indices")
    return c.b.op("GatherND", c("x"), as_int64(c, c("indices")), batch_dims=c.integer("batch_dims", 0))


@rules("scatter_nd", "scatter_along_axis", "scatter")
def scatter(c: Call) -> Any:
    """Replace, or combine with, elements or slices by index."""
    c.skip("validate_indices")
    data, indices, updates = c("data"), as_int64(c, c("indices")), c("updates")
    kind = _SCATTER[c.word("mode", "add", tuple(_SCATTER))]
    if kind and c.b.dtype(data) == np.float16:  # engines cannot combine in 16 bits
        wide = c.b.cast(data, np.float32), indices, c.b.cast(updates, np.float32)
        return c.b.cast(_scattered(c, *wide, kind), np.float16)
    return _scattered(c, data, indices, updates, kind)


def _scattered(c: Call, data: ir.Value, indices: ir.Value, updates: ir.Value, kind: str | None) -> Any:
    if c.op == "scatter_nd":
        return c.b.op("ScatterND", data, indices, updates, reduction=kind)
    axis = c.integer("axis", 0) % c.b.rank(data)
    if c.op == "scatter_along_axis":
        return c.b.op("ScatterElements", data, indices, updates, axis=axis, reduction=kind)
    if axis:
        raise UnsupportedError("along another axis than the first")
    return c.b.op("ScatterND", data, c.b.op("Unsqueeze", indices, [-1]), updates, reduction=kind)


@rules("space_to_batch", "batch_to_space")
def blocks(c: Call) -> Any:
    """Refused: blocks between batch and picture."""
    raise UnsupportedError("blocks between batch and picture")


@rules("constexpr_cast")
def constexpr_cast(c: Call) -> Any:
    """Weights stored in 16 bits."""
    c.skip("output_dtype")
    return c.b.cast(c("source_val"), np.float32)


@rules("constexpr_affine_dequantize")
def affine(c: Call) -> Any:
    """Weights in 8 bits, with a scale for each element of an axis or for all."""
    data, scale, zero = c.array("quantized_data"), c.array("scale"), c.array("zero_point")
    axis = c.integer("axis")
    points = np.broadcast_to(zero, scale.shape).astype(data.dtype)
    if scale.size == 1:
        scale, points = scale.reshape(()), points.reshape(())
        return c.b.op("DequantizeLinear", data, scale, points)
    return c.b.op("DequantizeLinear", data, scale.reshape(-1), points.reshape(-1), axis=axis)


@rules("constexpr_blockwise_shift_scale")
def blockwise(c: Call) -> Any:
    """Weights in few bits with a scale for each block."""
    data, scale = c.array("data"), c.array("scale")
    offset = c.array("offset") if c.has("offset") else None
    block = [d // s for d, s in zip(data.shape, scale.shape, strict=True)]
    own = [axis for axis, size in enumerate(scale.shape) if size != 1]
    fits = data.dtype in _FOUR_OR_EIGHT_BITS and (offset is None or offset.dtype == data.dtype)
    if fits and not own:
        return c.b.op(
            "DequantizeLinear", data, scale.reshape(()), None if offset is None else offset.reshape(())
        )
    if fits and len(own) == 1 and block[own[0]] == 1:
        flat = None if offset is None else offset.reshape(-1)
        return c.b.op("DequantizeLinear", data, scale.reshape(-1), flat, axis=own[0])
    split = [axis for axis in range(data.ndim) if block[axis] != 1]
    if fits and len(split) == 1:
        return c.b.op("DequantizeLinear", data, scale, offset, axis=split[0], block_size=block[split[0]])
    moved = data.astype(np.float32)
    if offset is not None:
        moved = moved - _spread(offset.astype(np.float32), block)
    return c.b.constant((moved * _spread(scale.astype(np.float32), block)).astype(scale.dtype))


def _spread(array: np.ndarray[Any, Any], block: list[int]) -> np.ndarray[Any, Any]:
    """Every element as often as its block is large."""
    for axis, size in enumerate(block):
        array = np.repeat(array, size, axis=axis)
    return array


@rules("constexpr_lut_to_dense")
def lut(c: Call) -> Any:
    """Weights as indices into a table, the whole one (iOS 16) or one of each group (iOS 18)."""
    indices, table = c.array("indices"), c.array("lut")
    if c.has("shape"):
        shape = c.ints("shape")
        count = int(np.prod(shape))
        bits = max(1, int(np.log2(table.size)))
        spread = np.unpackbits(indices.reshape(-1), bitorder="little")[: count * bits].reshape(count, bits)
        places = np.packbits(spread, axis=1, bitorder="little").reshape(count)
        return c.b.constant(table[places].reshape(shape))
    if table.shape[-1] != 1:
        raise UnsupportedError("tables of vectors")
    c.skip("vector_axis")
    block = [d // t for d, t in zip(indices.shape, table.shape[:-2], strict=True)]
    groups = tuple(
        (np.arange(size) // block[axis]).reshape([-1 if a == axis else 1 for a in range(indices.ndim)])
        for axis, size in enumerate(indices.shape)
    )
    return c.b.constant(table[(*groups, indices.astype(np.int64), 0)])


@rules("quantize", "dequantize")
def quantise(c: Call) -> Any:
    """To whole numbers of 8 bits and back."""
    x, scale, zero = c("input"), c("scale"), c.maybe("zero_point")
    c.skip("output_dtype")
    axis = c.integer("axis") if c.has("axis") else None
    if zero is None:
        name = c.raw("output_dtype")
        unsigned = c.op == "dequantize" and c.b.dtype(x) == np.uint8 or bool(name) and name[0] == "uint8"
        kind = np.uint8 if unsigned else np.int8
        zero = c.b.constant(np.zeros([n for n in c.b.shape(scale) if isinstance(n, int)], kind))
    op = "QuantizeLinear" if c.op == "quantize" else "DequantizeLinear"
    return c.b.op(op, x, scale, zero, axis=axis)
