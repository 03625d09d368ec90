"""ResNet-18 to ResNet-152: the residual networks of He et al. 2016, stride in the 3x3 convolution (v1.5).

`resnet18_small` has the same blocks at a quarter of the width, for grey pictures of 8 to 32 pixels a side.

Letters: B batch, C channels, H height, W width.
"""

from functools import partial

from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, Published, grey_input, image_input


def _conv_norm(wide_in: int, wide_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution that keeps H and W up to its stride, and its BatchNorm."""
    conv = nn.Conv2d(wide_in, wide_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide_out))


def _plain_branch(wide_in: int, width: int, stride: int) -> nn.Sequential:
    """Two 3x3 convolutions."""
    return nn.Sequential(
        _conv_norm(wide_in, width, 3, stride), nn.ReLU(inplace=True), _conv_norm(width, width, 3)
    )


def _bottleneck_branch(wide_in: int, width: int, stride: int) -> nn.Sequential:
    """1x1 down, 3x3, 1x1 up to four times the width."""
    return nn.Sequential(
        _conv_norm(wide_in, width, 1),
        nn.ReLU(inplace=True),
        _conv_norm(width, width, 3, stride),
        nn.ReLU(inplace=True),
        _conv_norm(width, 4 * width, 1),
    )


class Residual(nn.Module):
    """relu(branch(x) + shortcut(x)); the shortcut is a 1x1 convolution only where the shape changes."""

    def __init__(self, branch: nn.Module, wide_in: int, wide_out: int, stride: int) -> None:
        super().__init__()
        same = stride == 1 and wide_in == wide_out
        self.branch = branch
        self.shortcut = nn.Identity() if same else _conv_norm(wide_in, wide_out, 1, stride)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/stride, W/stride)."""
        return nn.functional.relu(self.branch(x_BCHW) + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, mean over the picture, scores of classes.

    Args:
        depths: blocks of each stage.
        bottleneck: three-convolution blocks, four times wider outside than inside.
        num_classes: how many scores.
        small: for small grey pictures: a 3x3 stem that halves them once, and a quarter of the width.
    """

    def __init__(
        self, depths: tuple[int, ...], bottleneck: bool, num_classes: int = 1000, small: bool = False
    ) -> None:
        super().__init__()
        branch, growth = (_bottleneck_branch, 4) if bottleneck else (_plain_branch, 1)
        first = 16 if small else 64
        stem = _conv_norm(1, first, 3, stride=2) if small else _conv_norm(3, first, 7, stride=2)
        pool = () if small else (nn.MaxPool2d(3, 2, padding=1),)
        self.stem = nn.Sequential(stem, nn.ReLU(inplace=True), *pool)
        blocks, wide_in = [], first
        for stage, depth in enumerate(depths):
            width = first << stage
            for index in range(depth):
                stride = 2 if stage and not index else 1
                inner = branch(wide_in, width, stride)
                blocks.append(Residual(inner, wide_in, growth * width, stride))
                wide_in = growth * width
        self.stages = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(wide_in, num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, classes) of normalised pictures (B, C, H, W)."""
        features_BC = self.pool(self.stages(self.stem(images_BCHW))).flatten(1)
        return self.classify(features_BC)


# ImageNet's usual mean and deviation taken from 0..1.
_IMAGE = image_input(224, Values(-2.1179, 2.64, source="user"))
_PAPER = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"


def _entry(
    depths: tuple[int, ...], bottleneck: bool, parameters: int, gflop: float, accuracy: float
) -> Entry:
    convolutions = 3 if bottleneck else 2
    published = Published(
        "top-1 accuracy", "ImageNet-1k", accuracy, "torchvision, IMAGENET1K_V1, centre crop"
    )
    return Entry(
        f"resnet{convolutions * sum(depths) + 2}", "classify", (_IMAGE,), ("logits",), parameters=parameters,
        gflop=gflop, source=_PAPER, build=partial(ResNet, depths, bottleneck=bottleneck), published=published,
    )  # fmt: skip


MODELS = (
    _entry((2, 2, 2, 2), False, 11_689_512, 3.63, 0.69758),
    _entry((3, 4, 6, 3), False, 21_797_672, 7.33, 0.73314),
    _entry((3, 4, 6, 3), True, 25_557_032, 8.18, 0.76130),
    _entry((3, 4, 23, 3), True, 44_549_160, 15.6, 0.77374),
    _entry((3, 8, 36, 3), True, 60_192_808, 23.03, 0.78312),
    Entry("resnet18_small", "classify", (grey_input(28),), ("logits",), parameters=701_178, gflop=0.015,
          source=_PAPER,
          build=partial(ResNet, (2, 2, 2, 2), bottleneck=False, num_classes=10, small=True)),
)  # fmt: skip
