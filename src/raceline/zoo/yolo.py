"""YOLOv8n: an anchor-free detector with decoupled heads and distributional box edges, at 320 pixels.

Written from the published shapes; the 80 classes are COCO's. Boxes leave it decoded, not yet filtered.

Letters: B batch, C channels, H height, W width, A anchor points of all scales, K classes, N bins of an edge.
"""

import torch
from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, Published, image_input

STRIDES = (8, 16, 32)
NUM_BINS = 16


def _unit(wide_in: int, wide_out: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """Convolution, BatchNorm, SiLU; keeps H and W up to its stride."""
    conv = nn.Conv2d(wide_in, wide_out, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide_out, eps=1e-3, momentum=0.03), nn.SiLU(inplace=True))


class Bottleneck(nn.Module):
    """Two 3x3 units; with `added`, on top of the input."""

    def __init__(self, channels: int, added: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(_unit(channels, channels, 3), _unit(channels, channels, 3))
        self.added = added

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        out = self.branch(x_BCHW)
        return x_BCHW + out if self.added else out


class SplitStage(nn.Module):
    """Half of the channels pass through `depth` bottlenecks; all intermediate results are merged (C2f)."""

    def __init__(self, wide_in: int, wide_out: int, depth: int, added: bool) -> None:
        super().__init__()
        half = wide_out // 2
        self.enter = _unit(wide_in, 2 * half)
        self.steps = nn.ModuleList(Bottleneck(half, added) for _ in range(depth))
        self.merge = _unit((2 + depth) * half, wide_out)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H, W)."""
        parts = [*self.enter(x_BCHW).chunk(2, dim=1)]
        for step in self.steps:
            parts.append(step(parts[-1]))
        return self.merge(torch.cat(parts, dim=1))


class PyramidPool(nn.Module):
    """Maxima over 5x5, 9x9 and 13x13 by pooling three times in a row, merged (SPPF)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = _unit(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.merge = _unit(2 * channels, channels)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        parts = [self.enter(x_BCHW)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.merge(torch.cat(parts, dim=1))


class Backbone(nn.Module):
    """Features at strides 8, 16 and 32, with 64, 128 and 256 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stride_8 = nn.Sequential(
            _unit(3, 16, 3, 2),
            _unit(16, 32, 3, 2),
            SplitStage(32, 32, depth=1, added=True),
            _unit(32, 64, 3, 2),
            SplitStage(64, 64, depth=2, added=True),
        )
        self.stride_16 = nn.Sequential(_unit(64, 128, 3, 2), SplitStage(128, 128, depth=2, added=True))
        self.stride_32 = nn.Sequential(
            _unit(128, 256, 3, 2), SplitStage(256, 256, depth=1, added=True), PyramidPool(256)
        )

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 3, H, W) to three feature maps, finest first."""
        fine = self.stride_8(images_BCHW)
        middle = self.stride_16(fine)
        return fine, middle, self.stride_32(middle)


class Neck(nn.Module):
    """Context flows down to the fine map and back up to the coarse one (a path aggregation network)."""

    def __init__(self) -> None:
        super().__init__()
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.down_16 = SplitStage(256 + 128, 128, depth=1, added=False)
        self.down_8 = SplitStage(128 + 64, 64, depth=1, added=False)
        self.shrink_8 = _unit(64, 64, 3, 2)
        self.up_16 = SplitStage(64 + 128, 128, depth=1, added=False)
        self.shrink_16 = _unit(128, 128, 3, 2)
        self.up_32 = SplitStage(128 + 256, 256, depth=1, added=False)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three maps (B, C, H, W), finest first, to three of the same shapes."""
        middle = self.down_16(torch.cat((self.enlarge(coarse), middle), dim=1))
        fine = self.down_8(torch.cat((self.enlarge(middle), fine), dim=1))
        middle = self.up_16(torch.cat((self.shrink_8(fine), middle), dim=1))
        coarse = self.up_32(torch.cat((self.shrink_16(middle), coarse), dim=1))
        return fine, middle, coarse


class EdgeExpectation(nn.Module):
    """The expected distance of each box edge, from a distribution over bins 0..15 (DFL); fixed weights."""

    def __init__(self) -> None:
        super().__init__()
        self.expect = nn.Conv2d(NUM_BINS, 1, 1, bias=False).requires_grad_(False)
        self.expect.weight.copy_(torch.arange(NUM_BINS, dtype=torch.float32).view(1, NUM_BINS, 1, 1))

    def forward(self, edges_BCA: Tensor) -> Tensor:
        """(B, 4 * N, A) scores to (B, 4, A) distances in strides: left, top, right, bottom."""
        batch, _, anchors = edges_BCA.shape
        scores_BN4A = edges_BCA.view(batch, 4, NUM_BINS, anchors).transpose(1, 2)
        return self.expect(scores_BN4A.softmax(1)).view(batch, 4, anchors)


class Detect(nn.Module):
    """Boxes and class scores at every point of three feature maps."""

    def __init__(self, widths: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        edge_width = max(16, widths[0] // 4, 4 * NUM_BINS)
        class_width = max(widths[0], min(num_classes, 100))
        self.edges = nn.ModuleList(self._branch(w, edge_width, 4 * NUM_BINS) for w in widths)
        self.classes = nn.ModuleList(self._branch(w, class_width, num_classes) for w in widths)
        self.expectation = EdgeExpectation()

    @staticmethod
    def _branch(wide_in: int, width: int, wide_out: int) -> nn.Sequential:
        return nn.Sequential(_unit(wide_in, width, 3), _unit(width, width, 3), nn.Conv2d(width, wide_out, 1))

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Feature maps (B, C, H, W), finest first, to (B, 4 + K, A).

        Rows: centre x, centre y, width, height in pixels of the input, then each class' score in 0..1.
        """
        edges_BCA = torch.cat([f(x).flatten(2) for f, x in zip(self.edges, maps, strict=True)], dim=2)
        scores_BKA = torch.cat([f(x).flatten(2) for f, x in zip(self.classes, maps, strict=True)], dim=2)
        points_2A, strides_A = _anchors(maps)
        low, high = self.expectation(edges_BCA).chunk(2, dim=1)
        boxes_B4A = torch.cat((points_2A + (high - low) / 2, low + high), dim=1) * strides_A
        return torch.cat((boxes_B4A, scores_BKA.sigmoid()), dim=1)


def _anchors(maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Centres (2, A) of all cells, x then y, in units of their stride, and the strides (A,) in pixels."""
    points, strides = [], []
    for x, stride in zip(maps, STRIDES, strict=True):
        height, width = x.shape[2:]
        y_HW, x_HW = torch.meshgrid(
            torch.arange(height, dtype=x.dtype) + 0.5, torch.arange(width, dtype=x.dtype) + 0.5, indexing="ij"
        )
        points.append(torch.stack((x_HW.flatten(), y_HW.flatten())))
        strides.append(torch.full((height * width,), float(stride), dtype=x.dtype))
    return torch.cat(points, dim=1), torch.cat(strides)


class Yolo(nn.Module):
    """Backbone, neck and head; height and width must be multiples of 32."""

    def __init__(self, num_classes: int = 80) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.neck = Neck()
        self.detect = Detect((64, 128, 256), num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """RGB pictures (B, 3, H, W) in 0..1 to predictions (B, 4 + K, A); see `Detect`."""
        return self.detect(self.neck(*self.backbone(images_BCHW)))


MODELS = (
    Entry("yolov8n", "detect", (image_input(320, Values(0.0, 1.0, source="user")),), ("predictions",),
          parameters=3_157_200, gflop=2.18, source="Jocher et al., Ultralytics YOLOv8, 2023", build=Yolo,
          published=Published("mAP 50-95", "COCO at 640 pixels", 0.373, "Ultralytics YOLOv8 model table")),
)  # fmt: skip
