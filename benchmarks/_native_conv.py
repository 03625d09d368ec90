"""Convolutions and pools of our own, at the shapes of ResNets, MobileNets and YOLOv8n; batch 1.

A model of one operator gets its values as pictures of whole channels, and every engine but MNN, whose tensors keep
its own order between calls, moves them into its blocks and back in each call. So does `native`; `native_alone` is
the kernel within a net.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from onnx import helper

from benchmarks._kernels import Kernel, draw, model_of
from raceline.engines.native.build import build
from raceline.engines.native.operators import CLIP, NOTHING, SILU, Function, Step

CHOOSING_S = 2.0
REPEATS = 40
_FUNCTIONS = {
    "": NOTHING,
    "relu": Function(CLIP, 0.0, math.inf),
    "relu6": Function(CLIP, 0.0, 6.0),
    "silu": Function(SILU),
}


class Layer(NamedTuple):
    """A square convolution with a bias: side x side pictures, padded by half the kernel."""

    net: str
    channels: int
    out: int
    side: int
    kernel: int
    stride: int = 1
    activation: str = "relu"
    depthwise: bool = False


LAYERS = (
    Layer("resnet stem", 3, 64, 224, 7, 2),
    Layer("resnet", 64, 64, 56, 3),
    Layer("resnet", 128, 128, 28, 3),
    Layer("resnet", 256, 256, 14, 3),
    Layer("resnet", 512, 512, 7, 3),
    Layer("resnet", 64, 128, 56, 3, 2),
    Layer("resnet", 64, 256, 56, 1, activation=""),
    Layer("resnet", 256, 64, 56, 1),
    Layer("resnet", 1024, 256, 14, 1),
    Layer("resnet", 512, 2048, 7, 1, activation=""),
    Layer("mobilenet", 16, 96, 112, 1, activation="relu6"),
    Layer("mobilenet", 384, 64, 14, 1, activation=""),
    Layer("mobilenet", 320, 1280, 7, 1, activation="relu6"),
    Layer("mobilenet", 96, 96, 112, 3, 2, "relu6", depthwise=True),
    Layer("mobilenet", 144, 144, 56, 3, 1, "relu6", depthwise=True),
    Layer("mobilenet", 384, 384, 14, 3, 1, "relu6", depthwise=True),
    Layer("mobilenet", 672, 672, 14, 5, 1, "relu6", depthwise=True),
    Layer("yolo stem", 3, 16, 320, 3, 2, "silu"),
    Layer("yolo", 32, 32, 40, 3, 1, "silu"),
    Layer("yolo", 128, 256, 20, 3, 2, "silu"),
    Layer("yolo", 192, 128, 20, 1, 1, "silu"),
)
POOLS = ((64, 112, 3, 2), (128, 10, 5, 1))  # channels, side, kernel, stride: a maximum


def convolution(layer: Layer) -> Kernel:
    """Conv and activation, as an engine fuses them."""
    groups = layer.channels if layer.depthwise else 1
    pad, per_group = layer.kernel // 2, layer.channels // groups
    taps = per_group * layer.kernel**2
    weights = draw(layer.out, per_group, layer.kernel, layer.kernel, scale=taps**-0.5)
    bias = draw(layer.out)
    side = (layer.side + 2 * pad - layer.kernel) // layer.stride + 1
    window = {"strides": [layer.stride] * 2, "pads": [pad] * 4}
    last = "z" if layer.activation else "y"
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], [last], group=groups, **window),
        *_activation(layer.activation),
    ]
    settings = {"weights": weights, "bias": bias, "dilations": [1, 1], "groups": groups, **window}
    step = Step("convolution", ["x"], ["y"], settings, _FUNCTIONS[layer.activation])
    kind = "depthwise" if layer.depthwise else "conv"
    window_name = f"{layer.kernel}x{layer.kernel}/{layer.stride}"
    name = f"{layer.net} {kind} {window_name} {layer.channels}-{layer.out} @{layer.side}"
    shapes = ((1, layer.channels, layer.side, layer.side), (1, layer.out, side, side))
    constants = {"w": weights, "b": bias} | ({"six": np.float32(6), "zero": np.float32(0)})
    return _kernel(name, 2 * layer.out * side**2 * taps, step, shapes, nodes, constants)


def _activation(name: str) -> list[Any]:
    return {
        "": [],
        "relu": [helper.make_node("Relu", ["z"], ["y"])],
        "relu6": [helper.make_node("Clip", ["z", "zero", "six"], ["y"])],
        "silu": [helper.make_node("Sigmoid", ["z"], ["s"]), helper.make_node("Mul", ["z", "s"], ["y"])],
    }[name]


def pool(channels: int, side: int, kernel: int, stride: int) -> Kernel:
    """A maximum, counted as an operation for each number that it looks at."""
    pad = kernel // 2
    out = (side + 2 * pad - kernel) // stride + 1
    window = {"strides": [stride] * 2, "pads": [pad] * 4}
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[kernel] * 2, **window)
    settings = {"is_max": True, "count_padding": False, "kernel": [kernel] * 2, "dilations": [1, 1], **window}
    shapes = ((1, channels, side, side), (1, channels, out, out))
    step = Step("pool", ["x"], ["y"], settings)
    name = f"max pool {kernel}x{kernel}/{stride} {channels} @{side}"
    return _kernel(name, channels * out**2 * kernel**2, step, shapes, [node], {})


def _kernel(
    name: str,
    operations: int,
    step: Step,
    shapes: tuple[Any, Any],
    nodes: list[Any],
    constants: dict[str, Any],
) -> Kernel:
    net = build([step], dict(zip("xy", shapes, strict=True)), ["x"], ["y"], threads=1, streams=1, kernels="")
    net.prepare(CHOOSING_S, True)
    feeds = {"x": draw(*shapes[0])}
    out = np.empty(shapes[1], np.float32)

    def alone() -> float:
        rows = net.time_steps([feeds["x"]], [out], REPEATS)
        return sum(seconds for what, seconds in rows if what not in {"pack", "unpack"})

    read = {name for node in nodes for name in node.input}
    constants = {name: array for name, array in constants.items() if name in read}
    return Kernel(
        name,
        operations,
        feeds,
        lambda: net.run([feeds["x"]], [out]),
        out,
        [model_of(nodes, feeds, shapes[1], constants)],
        weight_bytes=sum(array.nbytes for array in constants.values()),
        alone=alone,
    )


def kernels() -> Iterator[Kernel]:
    """Every layer, prepared when its turn comes."""
    for layer in LAYERS:
        yield convolution(layer)
    for shape in POOLS:
        yield pool(*shape)
