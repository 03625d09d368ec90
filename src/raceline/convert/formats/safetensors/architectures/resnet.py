"""ResNet, ResNeXt and Wide ResNet of any depth, with torchvision's names."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.safetensors.weights import Config, Weights

if TYPE_CHECKING:
    import onnx_ir as ir

model_types = ("resnet",)
_EPSILON = 1e-5
_MOST_BLOCKS = 200


def fits(names: Collection[str]) -> bool:
    """Whether these are torchvision's names: a stem, four stages of blocks, a classifier."""
    return {
        "conv1.weight",
        "bn1.running_var",
        "layer1.0.conv2.weight",
        "layer4.0.bn1.weight",
        "fc.weight",
    } <= set(names)


def build(b: Builder, weights: Weights, config: Config) -> dict[str, ir.Value]:
    """Images (batch, 3, height, width) to logits; depth and width follow from the weights."""
    stem = weights.shape("conv1.weight")
    channels, colours = (stem[0], stem[1]) if len(stem) == 4 else (64, 3)
    x = b.input("x", np.float32, ["batch", colours, "height", "width"])
    y = _conv(b, weights, x, "conv1", "bn1", channels, 2)
    y = b.op("MaxPool", b.op("Relu", y), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    for stage in range(1, 5):
        for block in range(_MOST_BLOCKS):
            at = f"layer{stage}.{block}."
            if block and f"{at}conv1.weight" not in weights:
                break
            y, channels = _block(b, weights, y, at, channels, 2 if stage > 1 and block == 0 else 1)
    y = b.op("Flatten", b.op("GlobalAveragePool", y), axis=1)
    weights.ignore("num_batches_tracked")
    classes = weights.shape("fc.weight")[:1] or (1,)
    return {"logits": weights.linear(y, "fc", channels, *classes)}


def _conv(b: Builder, weights: Weights, x: ir.Value, conv: str, norm: str, inputs: int, stride: int) -> Any:
    """A convolution without bias, then its batch normalisation; padding keeps the size."""
    shape = weights.shape(f"{conv}.weight")
    shape = shape if len(shape) == 4 else (1, 1, 1, 1)
    outputs, each, height, width = shape
    channels = b.shape(x)[1]
    groups = max(1, int(channels or 0) // max(1, each)) if isinstance(channels, int) else 1
    weight = weights.take(f"{conv}.weight", *shape)
    pads = [height // 2, width // 2] * 2
    y = b.op(
        "Conv", x, weight, strides=[stride, stride], pads=pads, group=groups, kernel_shape=[height, width]
    )
    parts = [
        weights.take(f"{norm}.{name}", outputs) for name in ("weight", "bias", "running_mean", "running_var")
    ]
    return b.op("BatchNormalization", y, *parts, epsilon=_EPSILON)


def _block(b: Builder, weights: Weights, x: ir.Value, at: str, channels: int, stride: int) -> tuple[Any, int]:
    """Two or three convolutions around which the input is carried; the stride is in the 3 x 3 one."""
    deep = f"{at}conv3.weight" in weights
    strides = [1, stride, 1] if deep else [stride, 1]
    y: Any = x
    for number, step in enumerate(strides, 1):
        y = _conv(b, weights, y, f"{at}conv{number}", f"{at}bn{number}", channels, step)
        y = y if number == len(strides) else b.op("Relu", y)
    if f"{at}downsample.0.weight" in weights:
        x = _conv(b, weights, x, f"{at}downsample.0", f"{at}downsample.1", channels, stride)
    found = b.shape(y)[1]
    return b.op("Relu", b.op("Add", y, x)), found if isinstance(found, int) else channels
