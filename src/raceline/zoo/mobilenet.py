"""MobileNetV2 and MobileNetV3-Large: inverted residuals with depthwise convolutions, for small CPUs.

`mobilenet_v2_small` has the same blocks at half the width, for grey pictures of 8 to 32 pixels a side.

Letters: B batch, C channels, H height, W width.
"""

from typing import NamedTuple

from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, Published, grey_input, image_input
from raceline.zoo._layers import InvertedResidual, conv_norm


class Block(NamedTuple):
    """One inverted residual: widths inside and out, kernel, stride, gate on channels, activation."""

    inner: int
    wide_out: int
    kernel: int = 3
    stride: int = 1
    gate: bool = False
    activation: type[nn.Module] = nn.ReLU6


class Recipe(NamedTuple):
    """What distinguishes one MobileNet from another."""

    stem: int
    blocks: tuple[Block, ...]
    features: int
    head: tuple[int, ...]
    activation: type[nn.Module]
    norm_eps: float
    dropout: float = 0.2
    channels: int = 3
    num_classes: int = 1000


def _round_to_8(channels: float) -> int:
    """The multiple of 8 nearest to `channels`, never more than a tenth below it."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class ChannelGate(nn.Module):
    """Squeeze-and-excitation: scale each channel by 0..1, decided from the mean of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = _round_to_8(channels / 4)
        self.decide = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return self.decide(x_BCHW) * x_BCHW


def _block(wide_in: int, block: Block, eps: float) -> InvertedResidual:
    gate = ChannelGate(block.inner) if block.gate else None
    return InvertedResidual(
        wide_in, block.inner, block.wide_out, block.kernel, block.stride,
        activation=block.activation, gate=gate, eps=eps,
    )  # fmt: skip


class MobileNet(nn.Module):
    """Stem, inverted residuals, a wide 1x1 convolution, mean over the picture, scores of classes."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        eps, activation = recipe.norm_eps, recipe.activation
        layers: list[nn.Module] = [
            *conv_norm(recipe.channels, recipe.stem, 3, stride=2, eps=eps),
            activation(inplace=True),
        ]
        wide_in = recipe.stem
        for block in recipe.blocks:
            layers.append(_block(wide_in, block, eps))
            wide_in = block.wide_out
        layers += [*conv_norm(wide_in, recipe.features, eps=eps), activation(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        head: list[nn.Module] = []
        wide_in = recipe.features
        for width in recipe.head:
            head += [nn.Linear(wide_in, width), activation(inplace=True)]
            wide_in = width
        self.classify = nn.Sequential(
            *head, nn.Dropout(recipe.dropout), nn.Linear(wide_in, recipe.num_classes)
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of normalised pictures (B, C, H, W)."""
        return self.classify(self.pool(self.features(images_BCHW)).flatten(1))


def _v2_blocks(width: float = 1.0, strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)) -> tuple[Block, ...]:
    """Table 2 of the paper: (expansion, channels, repeats), and the stride of each row's first block."""
    table = ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1))
    blocks, wide_in = [], _round_to_8(32 * width)
    for (expansion, channels, repeats), stride in zip(table, strides, strict=True):
        wide_out = _round_to_8(channels * width)
        for index in range(repeats):
            blocks.append(Block(expansion * wide_in, wide_out, 3, 1 if index else stride))
            wide_in = wide_out
    return tuple(blocks)


_RELU, _SWISH = nn.ReLU, nn.Hardswish
# Table 1 of the paper.
_V3_LARGE_BLOCKS = (
    Block(16, 16, 3, 1, False, _RELU),
    Block(64, 24, 3, 2, False, _RELU),
    Block(72, 24, 3, 1, False, _RELU),
    Block(72, 40, 5, 2, True, _RELU),
    Block(120, 40, 5, 1, True, _RELU),
    Block(120, 40, 5, 1, True, _RELU),
    Block(240, 80, 3, 2, False, _SWISH),
    Block(200, 80, 3, 1, False, _SWISH),
    Block(184, 80, 3, 1, False, _SWISH),
    Block(184, 80, 3, 1, False, _SWISH),
    Block(480, 112, 3, 1, True, _SWISH),
    Block(672, 112, 3, 1, True, _SWISH),
    Block(672, 160, 5, 2, True, _SWISH),
    Block(960, 160, 5, 1, True, _SWISH),
    Block(960, 160, 5, 1, True, _SWISH),
)


def mobilenet_v2() -> MobileNet:
    """MobileNetV2 at width 1.0."""
    return MobileNet(Recipe(32, _v2_blocks(), 1280, (), nn.ReLU6, norm_eps=1e-5))


def mobilenet_v2_small() -> MobileNet:
    """MobileNetV2 at width 0.5, which halves small grey pictures four times instead of five."""
    blocks = _v2_blocks(0.5, strides=(1, 2, 2, 1, 1, 2, 1))
    return MobileNet(Recipe(16, blocks, 640, (), nn.ReLU6, norm_eps=1e-5, channels=1, num_classes=10))


def mobilenet_v3_large() -> MobileNet:
    """MobileNetV3-Large at width 1.0."""
    return MobileNet(Recipe(16, _V3_LARGE_BLOCKS, 960, (1280,), nn.Hardswish, norm_eps=1e-3))


# ImageNet's usual mean and deviation taken from 0..1.
_IMAGE = image_input(224, Values(-2.1179, 2.64, source="user"))
_CHECKPOINTS = "torchvision, IMAGENET1K_V1, centre crop"

MODELS = (
    Entry("mobilenet_v2", "classify", (_IMAGE,), ("logits",), parameters=3_504_872, gflop=0.60,
          source="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
          build=mobilenet_v2,
          published=Published("top-1 accuracy", "ImageNet-1k", 0.71878, _CHECKPOINTS)),
    Entry("mobilenet_v3_large", "classify", (_IMAGE,), ("logits",), parameters=5_483_032, gflop=0.43,
          source="Howard et al., Searching for MobileNetV3, ICCV 2019",
          build=mobilenet_v3_large,
          published=Published("top-1 accuracy", "ImageNet-1k", 0.74042, _CHECKPOINTS)),
    Entry("mobilenet_v2_small", "classify", (grey_input(28),), ("logits",), parameters=590_122,
          gflop=0.009,
          source="Sandler et al., MobileNetV2: Inverted Residuals and Linear Bottlenecks, CVPR 2018",
          build=mobilenet_v2_small),
)  # fmt: skip
