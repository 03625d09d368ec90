"""What each ONNX node is in terms of the kernels; nodes that are nothing there are left to ONNX Runtime.

Every value is seen as (images, channels, rows, columns): a matrix as pictures of one pixel, a signal as
pictures of one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raceline.engines.native.constants import Array, Whole, bytes_of, constant, roundings, whole_weights

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = tuple[int, int, int, int]
_MOST_NUMBERS = 1 << 28  # of one value: a gibibyte


class Function(NamedTuple):
    """An activation as native/net_kernels.hpp numbers and parametrises them."""

    kind: int = 0
    a: float = 0.0
    b: float = 0.0


NOTHING = Function()
CLIP, SIGMOID, SILU, HARD_SIGMOID, HARD_SWISH, LEAKY_RELU, TANH, LINEAR = range(1, 9)
BINARY = {"Add": 0, "Sub": 1, "Mul": 2, "Div": 3}


@dataclass
class Step:
    """One step of a net, before values have places.

    Attributes:
        kind: "convolution", "pool", "average", "apply", "binary", "affine", "upsample", "concat", "split",
            "quantise" or "alias"; of values of bytes "int8_convolution", "bytes_pool" and "restore".
        reads: names of values.
        writes: names of values; one, but for "split".
        settings: what the kernel is told, by name.
        first, residual, second: a convolution's epilogue; of other steps only `first` is used.
    """

    kind: str
    reads: list[str]
    writes: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    first: Function = NOTHING
    residual: str = ""
    second: Function = NOTHING


class Facts:
    """What is known of the values around a node.

    Args:
        shapes: of every value whose shape and type, float32, are known.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """The value's shape as ONNX has it; raises _Unfit where it is no known float32 tensor."""
        name = value.name if value is not None else None
        if name is None or name not in self._shapes:
            raise _Unfit
        return self._shapes[name]

    def seen(self, value: ir.Value | None) -> Shape:
        """The value as pictures."""
        return as_pictures(self.shape(value))


class _Unfit(Exception):  # noqa: N818 - no error: the node goes elsewhere
    """The kernels have nothing for this node."""


def as_pictures(shape: tuple[int, ...]) -> Shape:
    """(N, C), (N, C, W) and (N, C, H, W) as the last; raises _Unfit for others."""
    if len(shape) not in {2, 3, 4} or 0 in shape or math.prod(shape) > _MOST_NUMBERS:
        raise _Unfit
    n, c, *rest = shape
    h, w = {0: (1, 1), 1: (1, *rest), 2: tuple(rest)}[len(rest)]
    return n, c, h, w


def step_of(node: ir.Node, facts: Facts) -> Step | None:
    """The node as a step; None where there is no kernel for it."""
    rule = _RULES.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
    if rule is None:
        return None
    try:
        for value in node.outputs:
            if value.uses() or value.is_graph_output():
                facts.seen(value)
        return rule(node, facts)
    except _Unfit:
        return None


def _need(condition: bool) -> None:
    if not condition:
        raise _Unfit


def _held(node: ir.Node, place: int) -> Array:
    found = constant(node.inputs[place]) if place < len(node.inputs) else None
    if found is None:
        raise _Unfit
    return found


def _floats(node: ir.Node, place: int) -> Array:
    found = _held(node, place)
    _need(found.dtype == np.float32)
    return np.ascontiguousarray(found)


def _given(node: ir.Node, place: int) -> bool:
    return place < len(node.inputs) and node.inputs[place] is not None


def _number(node: ir.Node, name: str, default: float) -> float:
    found = node.attributes.get(name)
    return default if found is None else float(found.value)


def _whole(node: ir.Node, name: str, default: int) -> int:
    found = node.attributes.get(name)
    return default if found is None else int(found.value)


def _text(node: ir.Node, name: str, default: str) -> str:
    found = node.attributes.get(name)
    return default if found is None else str(found.value)


def _list(node: ir.Node, name: str, default: list[int]) -> list[int]:
    found = node.attributes.get(name)
    return default if found is None else [int(v) for v in found.value]


def _name(value: ir.Value | None) -> str:
    """The value's name; raises _Unfit for constants, which steps hold by themselves."""
    if value is None or not value.name or (value.is_initializer() and not value.is_graph_input()):
        raise _Unfit
    return value.name


def _plain(kind: str, node: ir.Node, facts: Facts, first: Function = NOTHING, **settings: Any) -> Step:
    facts.seen(node.inputs[0])
    return Step(kind, [_name(node.inputs[0])], [_name(node.outputs[0])], settings, first)


def _window(node: ir.Node, facts: Facts, kernel: list[int]) -> dict[str, Any]:
    """Strides, dilations and pads (top, left, bottom, right) over rows and columns."""
    x, y = facts.seen(node.inputs[0]), facts.seen(node.outputs[0])
    axes = len(facts.shape(node.inputs[0])) - 2
    _need(axes in {1, 2} and len(kernel) == axes)
    strides, dilations = (_list(node, name, [1] * axes) for name in ("strides", "dilations"))
    pads = _list(node, "pads", [0] * 2 * axes)
    if axes == 1:
        kernel, strides, dilations = ([1, *numbers] for numbers in (kernel, strides, dilations))
        pads = [0, pads[0], 0, pads[1]]
    auto = _text(node, "auto_pad", "NOTSET")
    if auto.startswith("SAME"):
        pads = _same_pads(x[2:], y[2:], kernel, strides, dilations, upper=auto == "SAME_UPPER")
    elif auto == "VALID":
        pads = [0] * 4
    _need(min(pads) >= 0)
    return {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def _same_pads(
    x: tuple[int, ...], y: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int], *,
    upper: bool,
) -> list[int]:  # fmt: skip
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(y, strides, kernel, dilations, strict=True)]
    total = [max(0, r - size) for r, size in zip(reach, x, strict=True)]
    before = [t // 2 if upper else t - t // 2 for t in total]
    return [*before, *(t - b for t, b in zip(total, before, strict=True))]


def _convolution(node: ir.Node, facts: Facts) -> Step:
    weights = _floats(node, 1)
    settings = _window(node, facts, list(weights.shape[2:]))
    settings |= {
        "groups": _whole(node, "group", 1),
        "weights": weights.reshape(*weights.shape[:2], *settings["kernel"]),
    }
    settings["bias"] = _floats(node, 2) if _given(node, 2) else None
    whole = whole_weights(node.inputs[1], 0)
    settings["whole"] = whole and Whole(whole.numbers.reshape(settings["weights"].shape), whole.scale)
    return _plain("convolution", node, facts, **settings)


def _dense(
    node: ir.Node, facts: Facts, weights_OI: Array, whole_OI: Whole | None, bias: Array | None
) -> Step:
    """A matrix product: a convolution over pictures of one pixel."""
    _need(len(facts.shape(node.inputs[0])) == 2)
    if bias is not None:
        _need(bias.size in {1, len(weights_OI)} and bias.ndim <= 1 or bias.shape == (1, len(weights_OI)))
        bias = np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), len(weights_OI)))
    weights = np.ascontiguousarray(weights_OI)[:, :, None, None]
    whole = whole_OI and Whole(np.ascontiguousarray(whole_OI.numbers)[:, :, None, None], whole_OI.scale)
    settings: dict[str, Any] = {"kernel": [1, 1], "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4}
    return _plain("convolution", node, facts, weights=weights, whole=whole, bias=bias, groups=1, **settings)


def _gemm(node: ir.Node, facts: Facts) -> Step:
    _need(_number(node, "alpha", 1) == 1 and _number(node, "beta", 1) == 1 and not _whole(node, "transA", 0))
    weights = _floats(node, 1)
    bias = _floats(node, 2) if _given(node, 2) else None
    if _whole(node, "transB", 0):
        return _dense(node, facts, weights, whole_weights(node.inputs[1], 0), bias)
    return _dense(node, facts, weights.T, _turned(node), bias)


def _matmul(node: ir.Node, facts: Facts) -> Step:
    weights = _floats(node, 1)
    _need(weights.ndim == 2)
    return _dense(node, facts, weights.T, _turned(node), None)


def _turned(node: ir.Node) -> Whole | None:
    whole = whole_weights(node.inputs[1], 1)
    return whole and Whole(whole.numbers.T, whole.scale)


def _quantise(node: ir.Node, facts: Facts) -> Step:
    """A value rounded to bytes, which nodes read that say the same of what they stand for."""
    _need(bool(roundings(node)))
    return _plain("quantise", node, facts, bytes=bytes_of(node))


def _dequantise(node: ir.Node, facts: Facts) -> Step:
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    _need(source is not None and node in roundings(source))
    return _plain("alias", node, facts)


def _applied(kind: int, a: float = 0.0, b: float = 0.0) -> Callable[[ir.Node, Facts], Step]:
    return lambda node, facts: _plain("apply", node, facts, Function(kind, a, b))


def _clip(node: ir.Node, facts: Facts) -> Step:
    bounds = [_number(node, name, math.copysign(math.inf, sign)) for name, sign in (("min", -1), ("max", 1))]
    for place in (1, 2):
        if _given(node, place):
            bounds[place - 1] = float(_floats(node, place).reshape(-1)[0])
    return _plain("apply", node, facts, Function(CLIP, *bounds))


def _hard_sigmoid(node: ir.Node, facts: Facts) -> Step:
    return _plain(
        "apply", node, facts, Function(HARD_SIGMOID, _number(node, "alpha", 0.2), _number(node, "beta", 0.5))
    )


def _leaky_relu(node: ir.Node, facts: Facts) -> Step:
    return _plain("apply", node, facts, Function(LEAKY_RELU, _number(node, "alpha", 0.01)))


def _binary(node: ir.Node, facts: Facts) -> Step:
    """Two values of one shape, or one that has a number for each channel; or a value and constants."""
    held = [constant(value) for value in node.inputs]
    if any(array is not None for array in held):
        return _scaled(node, facts, held)
    (left, right), out = (facts.shape(v) for v in node.inputs), facts.shape(node.outputs[0])
    names = [_name(value) for value in node.inputs]
    swapped = left != out
    if swapped:
        names, left, right = names[::-1], right, left
    _need(left == out and (right == out or (len(out) == 4 and right == (*out[:2], 1, 1))))
    settings = {"op": BINARY[node.op_type], "swapped": swapped, "same_shape": right == out}
    return Step("binary", names, [_name(node.outputs[0])], settings)


def _scaled(node: ir.Node, facts: Facts, held: list[Array | None]) -> Step:
    place = 0 if held[1] is not None else 1  # of the value
    numbers, value = held[1 - place], node.inputs[place]
    _need(numbers is not None and numbers.dtype == np.float32)
    assert numbers is not None
    shape = facts.shape(value)
    _need(shape == facts.shape(node.outputs[0]))
    per_channel = _per_channel(numbers, shape)
    one, zero = np.ones_like(per_channel), np.zeros_like(per_channel)
    with np.errstate(all="ignore"):
        scale, shift = {
            "Add": (one, per_channel),
            "Sub": (one, -per_channel) if place == 0 else (-one, per_channel),
            "Mul": (per_channel, zero),
            "Div": (one / per_channel, zero),
        }[node.op_type]
    _need(node.op_type != "Div" or place == 0)
    return Step("affine", [_name(value)], [_name(node.outputs[0])], {"scale": scale, "shift": shift})


def _per_channel(numbers: Array, shape: tuple[int, ...]) -> Array:
    """One number for each channel; raises _Unfit where they differ within one."""
    padded = (1,) * (len(shape) - numbers.ndim) + numbers.shape
    _need(len(padded) == len(shape) and padded[1] in {1, shape[1]} and math.prod(padded) == padded[1])
    return np.ascontiguousarray(np.broadcast_to(numbers.reshape(-1), shape[1]))


def _batch_norm(node: ir.Node, facts: Facts) -> Step:
    scale, bias, mean, variance = (_floats(node, place).astype(np.float64) for place in range(1, 5))
    _need(not _whole(node, "training_mode", 0))
    factor = scale / np.sqrt(variance + _number(node, "epsilon", 1e-5))
    shift = bias - mean * factor
    return _plain("affine", node, facts, scale=factor.astype(np.float32), shift=shift.astype(np.float32))


def _pool(node: ir.Node, facts: Facts) -> Step:
    _need(
        len([v for v in node.outputs if v.uses() or v.is_graph_output()]) == 1
        and bool(node.outputs[0].uses() or node.outputs[0].is_graph_output())
    )
    window = _window(node, facts, _list(node, "kernel_shape", []))
    counts = bool(_whole(node, "count_include_pad", 0))
    x, y = facts.seen(node.inputs[0]), facts.seen(node.outputs[0])
    for axis in (0, 1):  # every window has a pixel to look at
        _need((y[2 + axis] - 1) * window["strides"][axis] - window["pads"][axis] < x[2 + axis])
        _need(window["pads"][axis] <= (window["kernel"][axis] - 1) * window["dilations"][axis])
        _need(window["dilations"][axis] == 1 or window["pads"][axis] == 0)
    return _plain("pool", node, facts, is_max=node.op_type == "MaxPool", count_padding=counts, **window)


def _global(node: ir.Node, facts: Facts) -> Step:
    x = facts.seen(node.inputs[0])
    if node.op_type == "GlobalAveragePool":
        return _plain("average", node, facts)
    return _plain("pool", node, facts, is_max=True, count_padding=False, kernel=list(x[2:]), strides=[1, 1],
                  dilations=[1, 1], pads=[0] * 4)  # fmt: skip


def _mean(node: ir.Node, facts: Facts) -> Step:
    rank = len(facts.shape(node.inputs[0]))
    axes = [int(v) for v in _held(node, 1)] if _given(node, 1) else _list(node, "axes", [])
    _need(sorted(axis % rank for axis in axes) == list(range(2, rank)) and rank > 2)
    return _plain("average", node, facts)


def _concat(node: ir.Node, facts: Facts) -> Step:
    shapes = [facts.shape(value) for value in node.inputs]
    _need(_whole(node, "axis", 0) in {1, 1 - len(shapes[0])})
    return Step("concat", [_name(value) for value in node.inputs], [_name(node.outputs[0])])


def _split(node: ir.Node, facts: Facts) -> Step:
    rank = len(facts.shape(node.inputs[0]))
    _need(_whole(node, "axis", 0) in {1, 1 - rank})
    sizes = [facts.shape(value)[1] for value in node.outputs]
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    return Step("split", [_name(node.inputs[0])], [_name(v) for v in node.outputs], {"starts": starts})


def _slice(node: ir.Node, facts: Facts) -> Step:
    shape = facts.shape(node.inputs[0])
    starts, ends = (_held(node, place).reshape(-1) for place in (1, 2))
    axes = _held(node, 3).reshape(-1) if _given(node, 3) else np.arange(len(starts))
    steps = _held(node, 4).reshape(-1) if _given(node, 4) else np.ones(1)
    _need(len(axes) == 1 and int(axes[0]) % len(shape) == 1 and int(steps[0]) == 1)
    start, end, _ = slice(int(starts[0]), int(ends[0])).indices(shape[1])
    _need(facts.shape(node.outputs[0])[1] == end - start)
    return Step("split", [_name(node.inputs[0])], [_name(node.outputs[0])], {"starts": [start]})


def _resize(node: ir.Node, facts: Facts) -> Step:
    """Pictures repeated a whole number of times."""
    x, y = facts.seen(node.inputs[0]), facts.seen(node.outputs[0])
    how = (
        _text(node, "coordinate_transformation_mode", "half_pixel"),
        _text(node, "nearest_mode", "round_prefer_floor"),
    )
    _need(_text(node, "mode", "nearest") == "nearest" and (not _given(node, 1) or not _held(node, 1).size))
    _need(how in {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor")})
    _need(x[:2] == y[:2] and y[2] % x[2] == 0 and y[3] % x[3] == 0)
    if _given(node, 2) and _held(node, 2).size:
        scales = [float(scale) for scale in _held(node, 2)]
        _need(scales[-2:] == [y[2] / x[2], y[3] / x[3]] and len(scales) == 4)
    return _plain("upsample", node, facts)


def _alias(node: ir.Node, facts: Facts) -> Step:
    """The same numbers in the same order, seen the same way."""
    _need(facts.seen(node.inputs[0]) == facts.seen(node.outputs[0]))
    _need(all(not (v.uses() or v.is_graph_output()) for v in node.outputs[1:]))
    _need(node.op_type != "Dropout" or not _given(node, 2) or not bool(_held(node, 2).any()))
    return _plain("alias", node, facts)


_RULES: dict[str, Callable[[ir.Node, Facts], Step]] = {
    "Add": _binary, "AveragePool": _pool, "BatchNormalization": _batch_norm, "Clip": _clip, "Concat": _concat,
    "Conv": _convolution, "DequantizeLinear": _dequantise, "Div": _binary, "Dropout": _alias,
    "Flatten": _alias, "Gemm": _gemm, "GlobalAveragePool": _global, "GlobalMaxPool": _global,
    "HardSigmoid": _hard_sigmoid, "HardSwish": _applied(HARD_SWISH), "Identity": _alias,
    "LeakyRelu": _leaky_relu, "MatMul": _matmul, "MaxPool": _pool, "Mul": _binary,
    "QuantizeLinear": _quantise, "ReduceMean": _mean, "Relu": _applied(CLIP, 0.0, math.inf),
    "Reshape": _alias, "Resize": _resize, "Sigmoid": _applied(SIGMOID), "Slice": _slice, "Split": _split,
    "Squeeze": _alias, "Sub": _binary, "Tanh": _applied(TANH), "Unsqueeze": _alias,
}  # fmt: skip
