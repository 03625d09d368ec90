"""Layers that several families share.

Letters: B batch, C channels, H height, W width.
"""

from torch import Tensor, nn


def conv_norm(
    wide_in: int,
    wide_out: int,
    kernel: int = 1,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    eps: float = 1e-5,
) -> nn.Sequential:
    """A convolution that keeps H and W up to its stride, and its BatchNorm."""
    padding = kernel // 2 * dilation
    conv = nn.Conv2d(wide_in, wide_out, kernel, stride, padding, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide_out, eps))


def depthwise_norm(
    channels: int, kernel: int = 3, stride: int = 1, dilation: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    """A convolution of each channel with itself alone that keeps H and W up to its stride, and its BatchNorm."""
    return conv_norm(channels, channels, kernel, stride, dilation, groups=channels, eps=eps)


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
    """1x1 up to `inner`, depthwise, a gate or none, 1x1 down; added to its input where the shapes agree.

    MobileNetV2's block, and with a gate and other kernels MobileNetV3's.
    """

    def __init__(
        self,
        wide_in: int,
        inner: int,
        wide_out: int,
        kernel: int = 3,
        stride: int = 1,
        dilation: int = 1,
        activation: type[nn.Module] = nn.ReLU6,
        gate: nn.Module | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        widened = [*conv_norm(wide_in, inner, eps=eps), activation(inplace=True)] if inner != wide_in else []
        self.branch = nn.Sequential(
            *widened,
            *depthwise_norm(inner, kernel, stride, dilation, eps),
            activation(inplace=True),
            *([] if gate is None else [gate]),
            *conv_norm(inner, wide_out, eps=eps),
        )
        self.added = stride == 1 and wide_in == wide_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/stride, W/stride)."""
        out = self.branch(x_BCHW)
        return x_BCHW + out if self.added else out


def resized(x_BCHW: Tensor, like_BCHW: Tensor) -> Tensor:
    """Bilinearly to the height and width of another, pixels taken as areas."""
    return nn.functional.interpolate(x_BCHW, like_BCHW.shape[2:], mode="bilinear", align_corners=False)
