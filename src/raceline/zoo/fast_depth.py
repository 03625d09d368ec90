"""FastDepth: depth from one picture, on small computers.

MobileNet's layers go down to a 32nd of the side; five depthwise 5x5 layers, each followed by doubling (NNConv5),
come back up, and features of the way down are added on the way.

Letters: B batch, C channels, H height, W width.
"""

from torch import Tensor, nn

from raceline.ir import Values
from raceline.zoo import Entry, image_input
from raceline.zoo._layers import conv_norm, separable

# Channels and stride of MobileNet's separable layers; a skip leaves after each layer that a stride follows.
DOWN = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
UP = (512, 256, 128, 64, 32)
SKIPPED = (4, 2, 0)  # layers of DOWN whose results are added after the second, third and fourth doubling


class FastDepth(nn.Module):
    """Depth of every pixel, never below zero; height and width must be multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(3, 32, 3, stride=2), nn.ReLU6(inplace=True))
        down, wide_in = [], 32
        for wide_out, stride in DOWN:
            down.append(separable(wide_in, wide_out, stride=stride, activation=nn.ReLU6))
            wide_in = wide_out
        self.down = nn.ModuleList(down)
        up = []
        for wide_out in UP:
            up.append(separable(wide_in, wide_out, kernel=5))
            wide_in = wide_out
        self.up = nn.ModuleList(up)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.answer = nn.Sequential(*conv_norm(wide_in, 1), nn.ReLU(inplace=True))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Depths (B, 1, H, W) of RGB pictures (B, 3, H, W) in 0..1; in metres as the data set has them."""
        x, passed = self.stem(images_BCHW), []
        for layer in self.down:
            x = layer(x)
            passed.append(x)
        for index, layer in enumerate(self.up):
            x = self.enlarge(layer(x))
            if 0 < index <= len(SKIPPED):
                x = x + passed[SKIPPED[index - 1]]
        return self.answer(x)


MODELS = (
    Entry("fast_depth", "estimate-depth", (image_input(224, Values(0.0, 1.0, source="user")),), ("depth",),
          parameters=3_960_930, gflop=1.47,
          source="Wofk et al., FastDepth: Fast Monocular Depth Estimation on Embedded Systems, ICRA 2019, "
          "before pruning",
          # 0.771 (delta-1 on NYU Depth v2) is that of the pruned network, which is another one.
          build=FastDepth),
)  # fmt: skip
