"""ResNet-20 to ResNet-110: the thin residual networks of He et al. 2016 for pictures of 32 pixels (CIFAR-10).

Letters: B batch, C channels, H height, W width.
"""

from functools import partial

from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, Published, image_input
from raceline.zoo._layers import conv_norm

WIDTHS = (16, 32, 64)


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)); the shortcut has no weights.

    Where the shape changes it takes every second pixel and new channels are zero (option A of the paper).
    """

    def __init__(self, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *conv_norm(wide_in, wide_out, 3, stride), nn.ReLU(inplace=True), *conv_norm(wide_out, wide_out, 3)
        )
        self.stride, self.new_channels = stride, wide_out - wide_in

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/stride, W/stride)."""
        kept = x_BCHW
        if self.stride != 1:
            kept = kept[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            half = self.new_channels // 2
            kept = nn.functional.pad(kept, (0, 0, 0, 0, half, self.new_channels - half))
        return nn.functional.relu(self.branch(x_BCHW) + kept)


class SmallResNet(nn.Module):
    """A 3x3 convolution, three stages of residual blocks, mean over the picture, a linear layer.

    Args:
        depth: blocks of each stage; the network has 6 * depth + 2 layers with weights.
    """

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, WIDTHS[0], 3), nn.ReLU(inplace=True))
        blocks, wide_in = [], WIDTHS[0]
        for width in WIDTHS:
            for _ in range(depth):
                blocks.append(Residual(wide_in, width, 2 if width != wide_in else 1))
                wide_in = width
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(wide_in, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of normalised RGB pictures (B, 3, H, W)."""
        return self.classify(self.pool(self.stages(self.stem(images_BCHW))).flatten(1))


_IMAGE = image_input(32, Values(-2.0, 2.1, source="user"))
_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"


def _entry(depth: int, parameters: int, gflop: float, error_percent: float) -> Entry:
    published = Published(
        "top-1 accuracy", "CIFAR-10", round(1 - error_percent / 100, 4), f"{_PAPER}, table 6"
    )
    return Entry(
        f"resnet{6 * depth + 2}", "classify", (_IMAGE,), ("logits",), parameters=parameters, gflop=gflop,
        source=f"{_PAPER}, section 4.2", build=partial(SmallResNet, depth), published=published,
    )  # fmt: skip


MODELS = (
    _entry(3, 269_722, 0.081, 8.75),
    _entry(5, 464_154, 0.138, 7.51),
    _entry(7, 658_586, 0.194, 7.17),
    _entry(9, 853_018, 0.251, 6.97),
    _entry(18, 1_727_962, 0.506, 6.43),
)
