"""Fast-SCNN: segmentation of streets in two paths that share their first layers.

Letters: B batch, C channels, H height, W width, K classes.
"""

import torch
from torch import Tensor, nn

from raceline.core.errors import ShapeError
from raceline.ir import Values
from raceline.zoo import Entry, Published, image_input
from raceline.zoo._layers import InvertedResidual, conv_norm, depthwise_norm, resized, separable

BINS = (1, 2, 3, 6)
MULTIPLE_OF = 32 * 6  # the coarse map must divide into the largest number of bins


class PyramidPool(nn.Module):
    """Means over 1, 4, 9 and 36 parts of the picture, each seen at a quarter of the channels, merged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        quarter = channels // len(BINS)
        self.views = nn.ModuleList(
            nn.Sequential(*conv_norm(channels, quarter), nn.ReLU(inplace=True)) for _ in BINS
        )
        self.merge = nn.Sequential(*conv_norm(2 * channels, channels), nn.ReLU(inplace=True))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        height, width = x_BCHW.shape[2:]
        parts = [x_BCHW]
        for bins, view in zip(BINS, self.views, strict=True):
            means = nn.functional.avg_pool2d(x_BCHW, (height // bins, width // bins))
            parts.append(resized(view(means), x_BCHW))
        return self.merge(torch.cat(parts, dim=1))


class Merge(nn.Module):
    """The coarse map, enlarged four times and smoothed with dilation 4, added to the fine one."""

    def __init__(self, fine: int, coarse: int, channels: int) -> None:
        super().__init__()
        self.smooth = nn.Sequential(*depthwise_norm(coarse, dilation=4), nn.ReLU(inplace=True))
        self.from_coarse = conv_norm(coarse, channels)
        self.from_fine = conv_norm(fine, channels)

    def forward(self, fine_BCHW: Tensor, coarse_BCHW: Tensor) -> Tensor:
        """Two maps, (B, C, H, W) and (B, C', H/4, W/4), to one (B, channels, H, W)."""
        coarse = self.from_coarse(self.smooth(resized(coarse_BCHW, fine_BCHW)))
        return nn.functional.relu(self.from_fine(fine_BCHW) + coarse)


class FastScnn(nn.Module):
    """Table 1 of the paper: down to an eighth, context at a 32nd, both merged, one score a class and pixel.

    Height and width must be multiples of 192.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        first = nn.Sequential(*conv_norm(3, 32, 3, stride=2), nn.ReLU(inplace=True))
        self.shrink = nn.Sequential(first, separable(32, 48, stride=2), separable(48, 64, stride=2))
        blocks, wide_in = [], 64
        for wide_out, stride in ((64, 2), (96, 2), (128, 1)):
            for index in range(3):
                step = 1 if index else stride
                blocks.append(
                    InvertedResidual(wide_in, 6 * wide_in, wide_out, stride=step, activation=nn.ReLU)
                )
                wide_in = wide_out
        self.context = nn.Sequential(*blocks, PyramidPool(128))
        self.merge = Merge(64, 128, 128)
        self.classify = nn.Sequential(
            separable(128, 128), separable(128, 128), nn.Dropout(0.1), nn.Conv2d(128, num_classes, 1)
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits (B, K, H, W) of normalised RGB pictures (B, 3, H, W).

        Raises:
            ShapeError: H or W is no multiple of 192.
        """
        height, width = images_BCHW.shape[2:]
        if height % MULTIPLE_OF or width % MULTIPLE_OF:
            raise ShapeError(
                f"Fast-SCNN cannot take {height} x {width} pixels",
                f"both must be multiples of {MULTIPLE_OF}",
                "Resize or pad the pictures.",
            )
        fine = self.shrink(images_BCHW)
        return resized(self.classify(self.merge(fine, self.context(fine))), images_BCHW)


# ImageNet's usual mean and deviation taken from 0..1. The paper's 1024 x 2048 pixels cost 7.1 times as much.
_IMAGE = image_input(384, Values(-2.1179, 2.64, source="user"), width_pixels=768)

MODELS = (
    Entry("fast_scnn", "segment", (_IMAGE,), ("logits",), parameters=1_137_795, gflop=1.89,
          source="Poudel et al., Fast-SCNN: Fast Semantic Segmentation Network, BMVC 2019",
          build=FastScnn,
          published=Published("mIoU", "Cityscapes", 0.680, "Poudel et al. 2019, table 2, at 1024 x 2048 pixels")),
)  # fmt: skip
