"""Normalisation, resizing, padding, embeddings, rearrangements of images and whole recurrent layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert import channels_last
from raceline.convert.build import Builder
from raceline.convert.formats.paddle.call import Call, bounded, positive, rule
from raceline.convert.formats.paddle.math import activated
from raceline.convert.formats.paddle.window import channels_are_last
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()


@rule(rules, "batch_norm", "sync_batch_norm", out="Y")
def _batch_norm(b: Builder, c: Call) -> dict[str, Any]:
    x, mean, variance = c.value("X"), c.value("Mean"), c.value("Variance")
    trained = c.flag("is_test") or c.flag("use_global_stats")
    if not trained or c.flag("trainable_statistics"):
        raise UnsupportedError("in training mode")
    last = channels_are_last(c, "data_layout")
    ones = b.op("Expand", b.scalar(1, mean), b.sizes(mean))
    scale, bias = c.maybe("Scale"), c.maybe("Bias")
    scale = ones if scale is None else scale
    bias = b.op("Sub", ones, ones) if bias is None else bias
    x = channels_last.channels_first(b, x) if last and b.rank(x) > 2 else x
    y = b.op("BatchNormalization", x, scale, bias, mean, variance, epsilon=c.number("epsilon", 1e-5))
    y = activated(b, c, y)
    y = channels_last.channels_last(b, y) if last and b.rank(x) > 2 else y
    return {"Y": y, "MeanOut": mean, "VarianceOut": variance}


def _row(b: Builder, x: ir.Value) -> Any:
    return x if b.rank(x) == 1 else b.reshape(x, [-1])


@rule(rules, "layer_norm", out="Y")
def _layer_norm(b: Builder, c: Call) -> Any:
    x, scale, bias = c.value("X"), c.maybe("Scale"), c.maybe("Bias")
    axis = positive(c.integer("begin_norm_axis", 1), b.rank(x))
    inner = b.shape(x)[axis:]
    if any(not isinstance(dim, int) for dim in inner) and (scale is not None or bias is not None):
        raise UnsupportedError("a scale over axes of open size")
    shape = [dim for dim in inner if isinstance(dim, int)]
    if scale is None:
        scale = b.op("Expand", b.scalar(1, x), shape if len(shape) == len(inner) else [1])
    else:
        scale = b.reshape(scale, shape)
    bias = None if bias is None else b.reshape(bias, shape)
    epsilon = c.number("epsilon", 1e-5)
    return b.op("LayerNormalization", x, scale, bias, axis=axis, epsilon=epsilon)


@rule(rules, "rms_norm", out="Y")
def _rms_norm(b: Builder, c: Call) -> Any:
    raise UnsupportedError("only what ordinary operators spell out")


def _per_channel(b: Builder, x: ir.Value, tensor: ir.Value | None, default: float) -> Any:
    channels = b.shape(x)[1]
    if tensor is not None:
        return _row(b, tensor)
    if not isinstance(channels, int):
        raise UnsupportedError("an open number of channels")
    return b.constant(np.full(bounded(channels, "channels"), default, b.dtype(x)))


@rule(rules, "instance_norm", out="Y")
def _instance_norm(b: Builder, c: Call) -> Any:
    x = c.value("X")
    if channels_are_last(c, "data_format"):
        raise UnsupportedError("channels last")
    scale, bias = (_per_channel(b, x, c.maybe(s), d) for s, d in (("Scale", 1.0), ("Bias", 0.0)))
    return b.op("InstanceNormalization", x, scale, bias, epsilon=c.number("epsilon", 1e-5))


@rule(rules, "group_norm", out="Y")
def _group_norm(b: Builder, c: Call) -> Any:
    x = c.value("X")
    last = channels_are_last(c, "data_layout")
    x = channels_last.channels_first(b, x) if last else x
    groups = bounded(c.integer("groups", 1), "groups")
    ones, zeros = np.ones(groups, b.dtype(x)), np.zeros(groups, b.dtype(x))
    rows = b.op("Reshape", x, [0, groups, -1])
    rows = b.op("InstanceNormalization", rows, ones, zeros, epsilon=c.number("epsilon", 1e-5))
    y = b.op("Reshape", rows, b.sizes(x))
    behind = [1] * (b.rank(x) - 2)
    for slot, op in (("Scale", "Mul"), ("Bias", "Add")):
        tensor = c.maybe(slot)
        y = y if tensor is None else b.op(op, y, b.reshape(tensor, [-1, *behind]))
    return channels_last.channels_last(b, y) if last else y


@rule(rules, "affine_channel")
def _affine_channel(b: Builder, c: Call) -> Any:
    x = c.value("X")
    behind = [1] * (0 if channels_are_last(c, "data_layout") else b.rank(x) - 2)
    scaled = b.op("Mul", x, b.reshape(c.value("Scale"), [-1, *behind]))
    return b.op("Add", scaled, b.reshape(c.value("Bias"), [-1, *behind]))


@rule(rules, "lrn")
def _lrn(b: Builder, c: Call) -> Any:
    size, alpha = c.integer("n", 5), c.number("alpha", 1e-4)
    if channels_are_last(c, "data_format"):
        raise UnsupportedError("channels last")
    beta, bias = c.number("beta", 0.75), c.number("k", 2.0)
    return b.op("LRN", c.value("X"), size=size, alpha=alpha * size, beta=beta, bias=bias)


# --- resizing and padding ---------------------------------------------------------------------------------

_SIZES = {"linear": ("out_w",), "bilinear": ("out_h", "out_w"), "nearest": ("out_h", "out_w"),
          "bicubic": ("out_h", "out_w"), "trilinear": ("out_d", "out_h", "out_w")}  # fmt: skip
_INTERPOLATIONS = [f"{kind}_interp{version}" for kind in _SIZES for version in ("", "_v2")]


@rule(rules, *_INTERPOLATIONS)
def _interpolate(b: Builder, c: Call) -> Any:
    x = c.value("X")
    last = channels_are_last(c, "data_layout")
    x = channels_last.channels_first(b, x) if last else x
    kind = c.op.partition("_")[0]
    names = _SIZES[kind] if kind != "nearest" or b.rank(x) == 4 else ("out_d", "out_h", "out_w")
    c.ignore("interp_method", "out_d", "out_h", "out_w")
    corners, mode = c.flag("align_corners", True), c.integer("align_mode", 1)
    scales, sizes = _wanted(b, c, names)
    attributes: dict[str, Any] = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    if kind == "nearest":
        rounding = "round_prefer_ceil" if corners else "floor"
        attributes |= {"mode": "nearest", "nearest_mode": rounding}
        attributes["coordinate_transformation_mode"] = "asymmetric"
    elif kind == "bicubic":
        attributes |= {"mode": "cubic", "cubic_coeff_a": -0.75}
    elif mode == 1:
        attributes["coordinate_transformation_mode"] = "asymmetric"
    if corners:
        attributes["coordinate_transformation_mode"] = "align_corners"
        if scales is not None:  # these corners are those of whole sizes
            size = b.cast(b.op("Shape", x, start=2), np.float32)
            sizes = b.cast(b.op("Floor", b.op("Mul", size, np.array(scales, np.float32))), np.int64)
            scales = None
    if scales is not None:
        y = b.op("Resize", x, None, np.array([1, 1, *scales], np.float32), **attributes)
    else:
        whole = b.op("Concat", b.op("Shape", x, start=0, end=2), sizes, axis=0)
        y = b.op("Resize", x, None, None, whole, **attributes)
    return channels_last.channels_last(b, y) if last else y


def _wanted(b: Builder, c: Call, names: tuple[str, ...]) -> tuple[list[float] | None, ir.Value | None]:
    """The factors, or else the sizes, in Paddle's order of precedence."""
    tensors, whole, factor = c.all("SizeTensor"), c.maybe("OutSize"), c.maybe("Scale")
    scale = c.get("scale", 0.0)
    scales = [float(s) for s in (scale if isinstance(scale, list | tuple) else [scale])]
    if tensors:
        return None, b.op("Concat", *(b.reshape(b.cast(t, np.int64), [1]) for t in tensors), axis=0)
    if whole is not None:
        return None, b.reshape(b.cast(whole, np.int64), [-1])
    if factor is not None:
        scales = [float(s) for s in c.constant(b, "Scale").reshape(-1)]
    if scales and all(s > 0 for s in scales):
        if len(scales) not in {1, len(names)}:
            raise ValueError(f"{len(scales)} factors for {len(names)} axes")
        return (scales * len(names) if len(scales) == 1 else scales), None
    sizes = [c.integer(name, -1) for name in names]
    if any(size <= 0 for size in sizes):
        raise ValueError(f"resizing to {sizes}")
    return None, b.constant(np.array(sizes, np.int64))


_PADDINGS = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "edge": "edge",
             "circular": "wrap"}  # fmt: skip


@rule(rules, "pad2d", "pad3d")
def _pad_image(b: Builder, c: Call) -> Any:
    x = c.value("X")
    last = channels_are_last(c, "data_format")
    mode = _PADDINGS[c.text("mode", "constant", *_PADDINGS)]
    numbers = c.listed(b, "paddings", tensor="Paddings")
    if c.op == "pad2d":  # top, bottom, left, right
        pairs = [(numbers[0], numbers[1]), (numbers[2], numbers[3])]
    else:  # left, right, top, bottom, front, back
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
        pairs = pairs[-(b.rank(x) - 2) :]
    pairs = [(0, 0), *pairs, (0, 0)] if last else [(0, 0), (0, 0), *pairs]
    value = b.scalar(c.number("pad_value" if c.op == "pad2d" else "value", 0.0), x)
    before, after = zip(*pairs, strict=True)
    return b.op("Pad", x, [*before, *after], value if mode == "constant" else None, mode=mode)


@rule(rules, "pad")
def _pad(b: Builder, c: Call) -> Any:
    x = c.value("X")
    c.ignore("pad_from_left_axis")
    if c.get("pad_from_left_axis", True) is False:
        raise UnsupportedError("paddings from the last axis on")
    numbers = c.integers("paddings")
    value = b.scalar(c.number("pad_value", 0.0), x)
    if c.maybe("PadValue") is not None:
        value = b.cast(b.reshape(c.value("PadValue"), []), b.dtype(x))
    return b.op("Pad", x, [*numbers[::2], *numbers[1::2]], value)


# --- rearranged images ------------------------------------------------------------------------------------


@rule(rules, "pixel_shuffle")
def _pixel_shuffle(b: Builder, c: Call) -> Any:
    x = c.value("X")
    last = channels_are_last(c, "data_format")
    x = channels_last.channels_first(b, x) if last else x
    y = b.op("DepthToSpace", x, blocksize=c.integer("upscale_factor", 1), mode="CRD")
    return channels_last.channels_last(b, y) if last else y


@rule(rules, "space_to_depth")
def _space_to_depth(b: Builder, c: Call) -> Any:
    raise UnsupportedError("its order of channels differs from every standard")


@rule(rules, "shuffle_channel", "channel_shuffle")
def _shuffle(b: Builder, c: Call) -> Any:
    x = c.value("X")
    groups = c.integer("group" if c.op == "shuffle_channel" else "groups", 1)
    if channels_are_last(c, "data_format"):
        raise UnsupportedError("channels last")
    split = b.op("Reshape", x, b.op("Concat", b.op("Shape", x, start=0, end=1), [groups, -1],
                 b.op("Shape", x, start=2), axis=0))  # fmt: skip
    return b.op("Reshape", b.transpose(split, [0, 2, 1, *range(3, b.rank(x) + 1)]), b.sizes(x))


@rule(rules, "grid_sampler", out="Output")
def _grid_sampler(b: Builder, c: Call) -> Any:
    mode = c.text("mode", "bilinear", "bilinear", "nearest")
    padding = c.text("padding_mode", "zeros", "zeros", "border", "reflection")
    corners, grid = c.flag("align_corners", True), c.value("Grid")
    if not c.flag("half_to_even") and mode == "nearest":
        if padding == "reflection":
            raise UnsupportedError("the nearest element behind a reflection")
        grid = _rounded(b, c.value("X"), grid, corners)
    return b.op(
        "GridSample", c.value("X"), grid, mode="linear" if mode == "bilinear" else mode,
        padding_mode=padding, align_corners=int(corners),
    )  # fmt: skip


def _rounded(b: Builder, x: ir.Value, grid: ir.Value, corners: bool) -> Any:
    """The grid moved onto elements: half way between two, Paddle 2 takes the later, ONNX the even one."""
    size = b.cast(b.op("Shape", x, start=2), np.float32)
    size = b.op("Gather", size, [1, 0])  # the grid's last axis is x, y
    one, half = np.float32(1), np.float32(0.5)
    reach = b.op("Sub", size, one) if corners else size
    place = b.op("Mul", b.op("Mul", b.op("Add", grid, one), reach), half)
    place = place if corners else b.op("Sub", place, half)
    whole = b.op("Floor", b.op("Add", place, half))
    whole = whole if corners else b.op("Add", whole, half)
    return b.op("Sub", b.op("Mul", whole, b.op("Div", np.float32(2), reach)), one)


@rule(rules, "lookup_table_v2", "lookup_table")
def _embedding(b: Builder, c: Call) -> Any:
    table, ids = c.value("W"), c.value("Ids")
    padding = c.integer("padding_idx", -1)
    c.ignore(
        "entry", "entry_config", "trainer_id", "table_names", "height_sections", "epmap", "slot", "sparse"
    )
    if c.op == "lookup_table" and b.shape(ids)[-1:] == (1,):
        ids = b.op("Squeeze", ids, [-1])
    rows = b.op("Gather", table, ids, axis=0)
    if padding == -1:
        return rows
    size = b.shape(table)[0]
    padding = padding + int(size or 0) if padding < 0 else padding
    empty = b.op("Unsqueeze", b.op("Equal", ids, b.scalar(padding, ids)), [-1])
    return b.op("Where", empty, b.scalar(0, rows), rows)


# --- recurrent layers -------------------------------------------------------------------------------------

_CELLS = {"LSTM": ("LSTM", [0, 3, 1, 2]), "GRU": ("GRU", [1, 0, 2]), "RNN_TANH": ("RNN", [0]),
          "RNN_RELU": ("RNN", [0])}  # fmt: skip
"""Mode -> ONNX's operator, and the order of its gates in terms of Paddle's (i f c o; r z c)."""


@rule(rules, "rnn")
def _rnn(b: Builder, c: Call) -> dict[str, Any]:
    """Several layers in one or both directions over (time, batch, features)."""
    x, states, weights = c.value("Input"), c.all("PreState"), c.all("WeightList")
    mode = c.text("mode", "LSTM", *_CELLS)
    layers, both = c.integer("num_layers", 1), c.flag("is_bidirec")
    c.ignore("hidden_size", "input_size", "dropout_prob")
    directions = 2 if both else 1
    if len(weights) != 4 * layers * directions:
        raise UnsupportedError(f"{len(weights)} weights for {layers} layers")
    lengths = c.maybe("SequenceLength")
    lengths = None if lengths is None else b.cast(lengths, np.int32)
    parts = _split_weights(b, weights, _CELLS[mode][1])
    ends: list[list[ir.Value]] = [[] for _ in states]
    for layer in range(layers):
        own = parts[layer * directions : (layer + 1) * directions]
        bounds = [layer * directions], [(layer + 1) * directions]
        begin = [state if layers == 1 else b.op("Slice", state, *bounds, [0]) for state in states]
        x, last = _layer(b, mode, x, own, begin, lengths)
        for end, value in zip(ends, last, strict=True):
            end.append(value)
    return {"Out": x, "State": [e[0] if len(e) == 1 else b.op("Concat", *e, axis=0) for e in ends]}


def _split_weights(b: Builder, weights: list[ir.Value], order: list[int]) -> list[list[ir.Value]]:
    """For each layer and direction: input weights, recurrent weights, both biases; gates in ONNX's order."""
    half = len(weights) // 2  # all matrices come before all biases
    groups = []
    for place in range(0, half, 2):
        four = [weights[place], weights[place + 1], weights[half + place], weights[half + place + 1]]
        groups.append([_gates(b, value, order) for value in four])
    return groups


def _gates(b: Builder, value: ir.Value, order: list[int]) -> Any:
    array = b.array(value)
    if array is None:
        raise UnsupportedError("weights that the model computes")
    return b.constant(np.concatenate([np.split(array, len(order))[i] for i in order])[None])


def _layer(
    b: Builder,
    mode: str,
    x: ir.Value,
    parts: list[list[ir.Value]],
    begin: list[ir.Value],
    lengths: ir.Value | None,
) -> tuple[ir.Value, list[ir.Value]]:
    """One layer: (time, batch, features) and its last states."""
    columns = [[b.array(part[i]) for part in parts] for i in range(4)]
    w, r, bias_x, bias_h = (np.concatenate([a for a in column if a is not None]) for column in columns)
    attributes: dict[str, Any] = {"hidden_size": int(r.shape[-1])}
    attributes["direction"] = "bidirectional" if len(parts) == 2 else "forward"
    if mode == "GRU":
        attributes["linear_before_reset"] = 1
    if mode == "RNN_RELU":
        attributes["activations"] = ["Relu"] * len(parts)
    bias = np.concatenate([bias_x, bias_h], axis=1)
    op = _CELLS[mode][0]
    y, *last = b.op(op, x, w, r, bias, lengths, *begin, outputs=3 if op == "LSTM" else 2, **attributes)
    if len(parts) == 1:
        return b.op("Squeeze", y, [1]), last
    return b.op("Reshape", b.transpose(y, [0, 2, 1, 3]), [0, 0, 2 * int(r.shape[-1])]), last
