"""PilotNet: from the picture of one front camera to the steering command, end to end.

Letters: B batch, C channels, H height, W width.
"""

from itertools import pairwise

from torch import Tensor, nn

from raceline.ir import TensorSpec, Values
from raceline.zoo import BATCH_AXIS, Entry

HEIGHT, WIDTH = 66, 200


class PilotNet(nn.Module):
    """Five convolutions without padding, three linear layers, one command.

    The figure of the paper writes 1164 neurons where its layers give 64 * 1 * 18 = 1152, flattened; a further
    layer of 1164 would hold five times the 250 thousand parameters that the paper counts.
    """

    def __init__(self) -> None:
        super().__init__()
        steps = ((3, 24, 5, 2), (24, 36, 5, 2), (36, 48, 5, 2), (48, 64, 3, 1), (64, 64, 3, 1))
        layers: list[nn.Module] = []
        for wide_in, wide_out, kernel, stride in steps:
            layers += [nn.Conv2d(wide_in, wide_out, kernel, stride), nn.ReLU(inplace=True)]
        self.see = nn.Sequential(*layers, nn.Flatten())
        steer: list[nn.Module] = []
        for wide_in, wide_out in pairwise((64 * 1 * 18, 100, 50, 10)):
            steer += [nn.Linear(wide_in, wide_out), nn.ReLU(inplace=True)]
        self.steer = nn.Sequential(*steer, nn.Linear(10, 1))

    def forward(self, planes_BCHW: Tensor) -> Tensor:
        """Steering (B, 1), the inverse of the turning radius in 1/m, of YUV planes (B, 3, 66, 200) in 0..255.

        The fixed normalisation to -1..1 is part of the network, as in the paper.
        """
        return self.steer(self.see(planes_BCHW / 127.5 - 1.0))


_PLANES = TensorSpec("planes", "float32", (BATCH_AXIS, 3, HEIGHT, WIDTH), Values(0.0, 255.0, source="user"))

MODELS = (
    Entry("pilotnet", "drive", (_PLANES,), ("steering",), parameters=252_219, gflop=0.0538,
          source="Bojarski et al., End to End Learning for Self-Driving Cars, 2016", build=PilotNet),
)  # fmt: skip
