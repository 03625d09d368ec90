"""Layers that several families share.

Letters: B batch, C channels, H height, W width.
"""

from torch import Tensor, nn


def conv_norm(
    wide_in: int, wide_out: int, kernel: int = 1, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """A convolution that keeps H and W up to its stride, and its BatchNorm."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(wide_in, wide_out, kernel, stride, padding, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide_out))


def depthwise_norm(channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """A convolution of each channel with itself alone that keeps H and W up to its stride, and its BatchNorm."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def separable(
    wide_in: int, wide_out: int, kernel: int = 3, stride: int = 1, activation: type[nn.Module] = nn.ReLU
) -> nn.Sequential:
    """Depthwise, then 1x1, each with BatchNorm and activation (MobileNet's layer)."""
    return nn.Sequential(
        *depthwise_norm(wide_in, kernel, stride),
        activation(inplace=True),
        *conv_norm(wide_in, wide_out),
        activation(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 up by `expansion`, depthwise, 1x1 down; added to its input where the shapes agree (MobileNetV2's)."""

    def __init__(
        self,
        wide_in: int,
        wide_out: int,
        expansion: int,
        stride: int = 1,
        dilation: int = 1,
        activation: type[nn.Module] = nn.ReLU6,
    ) -> None:
        super().__init__()
        inner = expansion * wide_in
        widened = [] if expansion == 1 else [*conv_norm(wide_in, inner), activation(inplace=True)]
        self.branch = nn.Sequential(
            *widened,
            *depthwise_norm(inner, 3, stride, dilation),
            activation(inplace=True),
            *conv_norm(inner, wide_out),
        )
        self.added = stride == 1 and wide_in == wide_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/stride, W/stride)."""
        out = self.branch(x_BCHW)
        return x_BCHW + out if self.added else out


def resized(x_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    """Bilinearly to the height and width of another, pixels taken as areas."""
    return nn.functional.interpolate(x_BCHW, like_BCHW.shape[2:], mode="bilinear", align_corners=False)
