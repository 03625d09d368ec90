"""DeepLabV3 on MobileNetV2: segmentation with dilated convolutions, the output at a 16th of the picture's side.

As in section 6.3 of the MobileNetV2 paper: the features before the widest convolution, a head of 1x1 convolution
and mean over the picture, with the pyramid of dilated convolutions (ASPP) or without.

Letters: B batch, C channels, H height, W width, K classes.
"""

from functools import partial

import torch
from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, Published, image_input
from raceline.zoo._layers import InvertedResidual, conv_norm, resized

WIDTH = 256  # of every branch of the head
PYRAMID = (6, 12, 18)  # dilations at this output stride


def _unit(wide_in: int, wide_out: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_norm(wide_in, wide_out, kernel, dilation=dilation), nn.ReLU(inplace=True))


def _features() -> nn.Sequential:
    """MobileNetV2 to its 320 channels; the last stride of 2 became a dilation of the blocks that follow it."""
    # Expansion, channels, repeats, stride and dilation of the first, dilation of the others.
    table = ((1, 16, 1, 1, 1, 1), (6, 24, 2, 2, 1, 1), (6, 32, 3, 2, 1, 1), (6, 64, 4, 2, 1, 1),
             (6, 96, 3, 1, 1, 1), (6, 160, 3, 1, 1, 2), (6, 320, 1, 1, 2, 2))  # fmt: skip
    layers: list[nn.Module] = [*conv_norm(3, 32, 3, stride=2), nn.ReLU6(inplace=True)]
    wide_in = 32
    for expansion, wide_out, repeats, stride, first, others in table:
        for index in range(repeats):
            step, dilation = (1, others) if index else (stride, first)
            inner = expansion * wide_in
            layers.append(InvertedResidual(wide_in, inner, wide_out, stride=step, dilation=dilation))
            wide_in = wide_out
    return nn.Sequential(*layers)


class Head(nn.Module):
    """Context of several reaches beside each other, merged: 1x1, dilated 3x3 for each of `pyramid`, the mean."""

    def __init__(self, wide_in: int, pyramid: tuple[int, ...]) -> None:
        super().__init__()
        near = [_unit(wide_in, WIDTH)]
        self.reaches = nn.ModuleList([*near, *(_unit(wide_in, WIDTH, 3, dilation) for dilation in pyramid)])
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_unit(wide_in, WIDTH))
        self.merge = _unit((len(pyramid) + 2) * WIDTH, WIDTH)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 256, H, W)."""
        # Of one pixel, so that enlarging it is repeating it.
        whole = self.whole(x_BCHW).expand(-1, -1, x_BCHW.shape[2], x_BCHW.shape[3])
        parts = [reach(x_BCHW) for reach in self.reaches]
        return self.dropout(self.merge(torch.cat([*parts, whole], dim=1)))


class DeepLab(nn.Module):
    """Features, head, one score a class and pixel."""

    def __init__(self, pyramid: tuple[int, ...] = (), num_classes: int = 21) -> None:
        super().__init__()
        self.features = _features()
        self.head = Head(320, pyramid)
        self.classify = nn.Conv2d(WIDTH, num_classes, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K, H, W) of RGB pictures (B, 3, H, W) in -1..1."""
        return resized(self.classify(self.head(self.features(images_BCHW))), images_BCHW)


_IMAGE = image_input(513, Values(-1.0, 1.0, source="user"))
_SOURCE = (
    "Sandler et al., MobileNetV2, CVPR 2018, section 6.3, after Chen et al., Rethinking Atrous Convolution for "
    "Semantic Image Segmentation, 2017"
)


def _entry(name: str, pyramid: tuple[int, ...], parameters: int, gflop: float, miou: float) -> Entry:
    return Entry(
        name, "segment", (_IMAGE,), ("logits",), parameters=parameters, gflop=gflop, source=_SOURCE,
        build=partial(DeepLab, pyramid),
        published=Published("mIoU", "PASCAL VOC 2012", miou, "Sandler et al. 2018, table 7, output stride 16"),
    )  # fmt: skip


MODELS = (
    _entry("deeplabv3_mobilenet_v2", (), 2_113_557, 5.48, 0.7532),
    _entry("deeplabv3_mobilenet_v2_aspp", PYRAMID, 4_523_541, 10.73, 0.7570),
)
