"""Convolution, pooling, normalisation, pictures and recurrent layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.coreml.call import Call, sizes
from raceline.convert.lower import Rules, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_PADS = ("valid", "same", "same_lower", "custom")


def _pads(
    c: Call, spatial: list[Any], kernel: list[int], strides: list[int], dilations: list[int]
) -> dict[str, Any]:
    """ONNX's padding attributes; `same` has the odd element at the end."""
    kind = c.word("pad_type", "valid", _PADS)
    given = c.ints("pad", [0] * (2 * len(kernel)))
    if kind == "valid":
        return {"pads": [0] * (2 * len(kernel))}
    if kind == "custom":
        return {"pads": [*given[0::2], *given[1::2]]}
    before, after = [], []
    for size, k, s, d in zip(spatial, kernel, strides, dilations, strict=True):
        if isinstance(size, int):
            total = max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size)
        elif s == 1:
            total = (k - 1) * d
        else:
            return {"auto_pad": "SAME_UPPER" if kind == "same" else "SAME_LOWER"}
        less, more = total // 2, total - total // 2
        before.append(less if kind == "same" else more)
        after.append(more if kind == "same" else less)
    return {"pads": [*before, *after]}


@rules("conv")
def conv(c: Call) -> Any:
    """A convolution; weights lie as ONNX has them."""
    x, weight = c("x"), c("weight")
    kernel = sizes(c, weight, "weights")[2:]
    ones = [1] * len(kernel)
    strides, dilations = c.ints("strides", ones), c.ints("dilations", ones)
    return c.b.op(
        "Conv", x, weight, c.maybe("bias"), kernel_shape=kernel, strides=strides, dilations=dilations,
        group=c.integer("groups", 1), **_pads(c, list(c.b.shape(x)[2:]), kernel, strides, dilations),
    )  # fmt: skip


@rules("conv_transpose")
def conv_transpose(c: Call) -> Any:
    """A transposed convolution; an output shape decides what is cut at the end."""
    x, weight = c("x"), c("weight")
    kernel = sizes(c, weight, "weights")[2:]
    ones = [1] * len(kernel)
    strides, dilations = c.ints("strides", ones), c.ints("dilations", ones)
    kind = c.word("pad_type", "valid", _PADS)
    given = c.ints("pad", [0] * (2 * len(kernel)))
    wanted = c.ints("output_shape")[2:] if c.has("output_shape") else None
    begin, end, extra = [], [], []
    spatial = list(c.b.shape(x)[2:])
    for axis, (k, s, d) in enumerate(zip(kernel, strides, dilations, strict=True)):
        reach = (k - 1) * d + 1
        before, after = (given[2 * axis], given[2 * axis + 1]) if kind == "custom" else (0, 0)
        if kind in {"same", "same_lower"}:
            total = max(0, reach - s)
            less, more = total // 2, total - total // 2
            before, after = (less, more) if kind == "same" else (more, less)
        more_elements = 0
        if wanted is not None:
            size = spatial[axis]
            if not isinstance(size, int):
                raise UnsupportedError("output_shape of an input of open size")
            more_elements = wanted[axis] - ((size - 1) * s + reach - before - after)
        begin.append(before)
        end.append(after - min(0, more_elements))
        extra.append(max(0, more_elements))
    return c.b.op(
        "ConvTranspose", x, weight, c.maybe("bias"), kernel_shape=kernel, strides=strides, dilations=dilations,
        group=c.integer("groups", 1), pads=[*begin, *end], output_padding=extra if any(extra) else None,
    )  # fmt: skip


@rules("max_pool", "avg_pool", "l2_pool")
def pool(c: Call) -> Any:
    """Greatest, mean or norm of each window."""
    x, kernel = c("x"), c.ints("kernel_sizes")
    ones = [1] * len(kernel)
    strides = c.ints("strides", ones)
    spatial = list(c.b.shape(x)[2:])
    pads = _pads(c, spatial, kernel, strides, ones)
    exclude = c.flag("exclude_padding_from_average", False)
    if c.flag("ceil_mode", False):
        pads = {"pads": _ceil_pads(spatial, kernel, strides, pads)}
        if c.op == "avg_pool" and not exclude and any(pads["pads"]):
            raise UnsupportedError("ceil_mode with padding that counts in the average")
    if c.op == "l2_pool":
        return c.b.op("LpPool", x, kernel_shape=kernel, strides=strides, p=2, **pads)
    if c.op == "max_pool":
        return c.b.op("MaxPool", x, kernel_shape=kernel, strides=strides, **pads)
    return c.b.op(
        "AveragePool", x, kernel_shape=kernel, strides=strides, count_include_pad=int(not exclude), **pads
    )


def _ceil_pads(spatial: list[Any], kernel: list[int], strides: list[int], pads: dict[str, Any]) -> list[int]:
    """Padding with which rounding down gives what rounding up gives."""
    given = pads.get("pads")
    if given is None or not all(isinstance(size, int) for size in spatial):
        raise UnsupportedError("ceil_mode on axes of open size")
    count = len(kernel)
    begin, end = list(given[:count]), list(given[count:])
    for axis, size in enumerate(spatial):
        over = (size + begin[axis] + end[axis] - kernel[axis]) % strides[axis]
        windows = (size + begin[axis] + end[axis] - kernel[axis]) // strides[axis] + 1
        if over and windows * strides[axis] < size + begin[axis]:
            end[axis] += strides[axis] - over
    return [*begin, *end]


@rules("batch_norm")
def batch_norm(c: Call) -> Any:
    """Normalise by stored means and variances."""
    x, mean, variance = c("x"), c("mean"), c("variance")
    gamma, beta = c.maybe("gamma"), c.maybe("beta")
    (count,) = sizes(c, mean, "means")
    dtype = c.b.dtype(x)
    return c.b.op(
        "BatchNormalization", x,
        c.b.constant(np.ones(count, dtype)) if gamma is None else gamma,
        c.b.constant(np.zeros(count, dtype)) if beta is None else beta,
        mean, variance, epsilon=c.number("epsilon", 1e-5),
    )  # fmt: skip


@rules("instance_norm")
def instance_norm(c: Call) -> Any:
    """Normalise each channel of each item."""
    x = c("x")
    channels = c.b.shape(x)[1]
    if not isinstance(channels, int):
        raise UnsupportedError("channels of open number")
    gamma, beta, dtype = c.maybe("gamma"), c.maybe("beta"), c.b.dtype(x)
    return c.b.op(
        "InstanceNormalization", x,
        c.b.constant(np.ones(channels, dtype)) if gamma is None else gamma,
        c.b.constant(np.zeros(channels, dtype)) if beta is None else beta,
        epsilon=c.number("epsilon", 1e-5),
    )  # fmt: skip


@rules("layer_norm")
def layer_norm(c: Call) -> Any:
    """Normalise over given axes."""
    x = c("x")
    rank = c.b.rank(x)
    axes = sorted(axis % rank for axis in c.ints("axes", [*range(1, rank)]))
    gamma, beta = c.maybe("gamma"), c.maybe("beta")
    epsilon = c.number("epsilon", 1e-5)
    centred = c.b.op("Sub", x, c.b.op("ReduceMean", x, axes, keepdims=1))
    variance = c.b.op("ReduceMean", c.b.op("Mul", centred, centred), axes, keepdims=1)
    y = c.b.op("Div", centred, c.b.op("Sqrt", c.b.op("Add", variance, c.scalar(epsilon, x))))
    for op, value in (("Mul", gamma), ("Add", beta)):
        if value is not None:
            y = c.b.op(op, y, _along(c, value, axes, rank))
    return y


def _along(c: Call, value: ir.Value, axes: list[int], rank: int) -> ir.Value:
    """A tensor over some axes as one that broadcasts."""
    own = sizes(c, value, "a scale")
    shape = [1] * rank
    for axis, size in zip(axes, own, strict=True):
        shape[axis] = size
    return c.b.reshape(value, shape)


@rules("l2_norm")
def l2_norm(c: Call) -> Any:
    """Over the norm of the last three axes."""
    x = c("x")
    squares = c.b.op("ReduceSum", c.b.op("Mul", x, x), [-3, -2, -1], keepdims=1)
    return c.b.op("Div", x, c.b.op("Sqrt", c.b.op("Add", squares, c.scalar(c.number("epsilon", 1e-6), x))))


@rules("local_response_norm")
def lrn(c: Call) -> Any:
    """Over neighbouring channels."""
    return c.b.op(
        "LRN", c("x"), size=c.integer("size"), alpha=c.number("alpha", 1e-4), beta=c.number("beta", 0.75),
        bias=c.number("k", 1.0),
    )  # fmt: skip


@rules("upsample_nearest_neighbor", "upsample_bilinear")
def upsample(c: Call) -> Any:
    """A larger picture, by factors."""
    x = c("x")
    scales = [c.number(f"scale_factor_{side}", 1) for side in ("height", "width")]
    if c.op == "upsample_nearest_neighbor":
        return _resized(c, x, scales, "nearest", "asymmetric")
    align = c.flag("align_corners", True)
    half = c.flag("half_pixel_centers", not align)
    if not align and not half:
        return _resized(c, x, scales, "linear", "asymmetric")
    return _resized(c, x, scales, "linear", "align_corners" if align else "half_pixel")


def _resized(c: Call, x: ir.Value, scales: list[float], mode: str, place: str) -> ir.Value:
    factors = np.array([1.0] * (c.b.rank(x) - 2) + scales, np.float32)
    found: ir.Value = c.b.op(
        "Resize", x, None, c.b.constant(factors), mode=mode, coordinate_transformation_mode=place,
        nearest_mode="floor" if mode == "nearest" else None,
    )  # fmt: skip
    return found


@rules("resize_nearest_neighbor", "resize_bilinear")
def resize(c: Call) -> Any:
    """A picture of a given size."""
    x = c("x")
    target = [c.integer(f"target_size_{side}") for side in ("height", "width")]
    axes = [c.b.rank(x) - 2, c.b.rank(x) - 1]
    if c.op == "resize_nearest_neighbor":
        return c.b.op(
            "Resize", x, None, None, target, axes=axes, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip
    modes = {
        "strict_align_corners": "align_corners", "align_corners": "align_corners",
        "unalign_corners": "half_pixel", "default": "asymmetric",
    }  # fmt: skip
    mode = c.word("sampling_mode", "default", tuple(modes))
    if mode == "align_corners" and 1 in target:
        raise UnsupportedError("sampling_mode=align_corners to one element")
    return c.b.op(
        "Resize", x, None, None, target, axes=axes, mode="linear", coordinate_transformation_mode=modes[mode]
    )


@rules("pixel_shuffle", "depth_to_space")
def depth_to_space(c: Call) -> Any:
    """Channels become blocks of the picture."""
    if c.op == "pixel_shuffle":
        return c.b.op("DepthToSpace", c("x"), blocksize=c.integer("upscale_factor"), mode="CRD")
    return c.b.op("DepthToSpace", c("x"), blocksize=c.integer("block_size"), mode="DCR")


@rules("space_to_depth")
def space_to_depth(c: Call) -> Any:
    """Blocks of the picture become channels."""
    return c.b.op("SpaceToDepth", c("x"), blocksize=c.integer("block_size"))


@rules("pixel_unshuffle")
def pixel_unshuffle(c: Call) -> Any:
    """Blocks become channels, each channel's own ones together."""
    x, factor = c("x"), c.integer("downscale_factor")
    n, ch, h, w = sizes(c, x, "input")
    split = c.b.reshape(x, [n, ch, h // factor, factor, w // factor, factor])
    moved = c.b.transpose(split, [0, 1, 3, 5, 2, 4])
    return c.b.reshape(moved, [n, ch * factor * factor, h // factor, w // factor])


@rules("crop")
def crop(c: Call) -> Any:
    """Without the borders."""
    x = c("x")
    (top, bottom), (left, right) = c.ints("crop_height"), c.ints("crop_width")
    ends = [-bottom or 2**62, -right or 2**62]
    return c.b.op("Slice", x, [top, left], ends, [c.b.rank(x) - 2, c.b.rank(x) - 1])


@rules("resample")
def resample(c: Call) -> Any:
    """Samples at places that are an input."""
    x, grid = c("x"), c("coordinates")
    mode = c.word("sampling_mode", "bilinear", ("bilinear", "nearest"))
    padding = c.word("padding_mode", "constant", ("constant", "border", "reflection"))
    if padding == "constant" and c.number("padding_value", 0) != 0:
        raise UnsupportedError("padding_value other than 0")
    c.skip("padding_value")
    if c.word("coordinates_mode", "", ("normalized_minus_one_to_one",)):
        names = {"constant": "zeros", "border": "border", "reflection": "reflection"}
    return c.b.op(
        "GridSample", x, c.b.cast(grid, c.b.dtype(x)), mode="linear" if mode == "bilinear" else "nearest",
        padding_mode=names[padding], align_corners=int(c.flag("align_corners")),
    )  # fmt: skip


_GATES = {"lstm": [0, 2, 1, 3], "gru": [2, 0, 1], "rnn": [0]}
"""Core ML's blocks in ONNX's order: an LSTM's are input, forget, output, cell; a GRU's reset, output, update."""


def _blocks(array: np.ndarray[Any, Any], kind: str) -> np.ndarray[Any, Any]:
    parts = np.split(array, len(_GATES[kind]))
    return np.concatenate([parts[place] for place in _GATES[kind]])


def _weights(c: Call, kind: str, suffix: str) -> list[np.ndarray[Any, Any]]:
    """Weights of one direction, in ONNX's order."""
    w, r = c.array(f"weight_ih{suffix}"), c.array(f"weight_hh{suffix}")
    bias = c.array(f"bias{suffix}") if c.has(f"bias{suffix}") else np.zeros(w.shape[0], w.dtype)
    both = [bias, np.zeros_like(bias)]
    if c.has("input_bias"):
        both = [c.array("input_bias"), bias]
    return [_blocks(w, kind), _blocks(r, kind), np.concatenate([_blocks(item, kind) for item in both])]


@rules("lstm", "gru", "rnn")
def recurrent(c: Call) -> Any:
    """All steps; time is the first axis."""
    x, hidden = c("x"), c("initial_h")
    direction = c.word("direction", "forward", ("forward", "reverse", "bidirectional"))
    both = direction == "bidirectional"
    names = {
        "lstm": ("recurrent_activation", "cell_activation", "activation"),
        "gru": ("recurrent_activation", "activation"),
        "rnn": ("activation",),
    }[c.op]  # fmt: skip
    known = {"sigmoid": "Sigmoid", "tanh": "Tanh", "relu": "Relu"}
    usual = {"recurrent_activation": "sigmoid"}
    activations = [known[c.word(name, usual.get(name, "tanh"), tuple(known))] for name in names]
    sets = [_weights(c, c.op, "")] + ([_weights(c, c.op, "_back")] if both else [])
    w, r, bias = (c.b.constant(np.stack([item[i] for item in sets])) for i in range(3))
    units = sets[0][1].shape[1]
    states = [_state(c, hidden, both, units)]
    if c.op == "lstm":
        states.append(_state(c, c("initial_c"), both, units))
    clip = c.number("clip") if c.has("clip") else 0.0
    results = c.b.op(
        c.op.upper(), x, w, r, bias, None, *states, hidden_size=units, direction=direction,
        activations=activations * (2 if both else 1), clip=clip or None, outputs=1 + len(states),
        linear_before_reset=int(c.flag("reset_after", False)) if c.op == "gru" else None,
    )  # fmt: skip
    return _answers(c, results, both, units)


def _state(c: Call, value: ir.Value, both: bool, units: int) -> ir.Value:
    """(batch, directions x units) -> (directions, batch, units)."""
    if not both:
        return c.b.op("Unsqueeze", value, [0])  # type: ignore[no-any-return]
    batch = c.b.shape(value)[0]
    split = c.b.reshape(value, [batch if isinstance(batch, int) else -1, 2, units])
    return c.b.transpose(split, [1, 0, 2])


def _answers(c: Call, results: tuple[ir.Value, ...], both: bool, units: int) -> tuple[ir.Value, ...]:
    """Steps (or the last of them) and states, directions side by side."""
    y, *last = results
    ends = []
    for state in last:
        moved = c.b.transpose(state, [1, 0, 2])
        ends.append(c.b.op("Reshape", moved, [0, -1]))
    if c.flag("output_sequence", False):
        moved = c.b.transpose(y, [0, 2, 1, 3])  # (time, batch, directions, units)
        return c.b.op("Reshape", moved, [0, 0, units * (2 if both else 1)]), *ends
    return c.b.op("Unsqueeze", ends[0], [0]), *ends
