"""Conditional imitation learning (CIL): a picture, the speed and the navigator's command to the controls.

Letters: B batch, C channels, H height, W width, D features, N commands, A controls.
"""

import torch
from torch import Tensor, nn

from raceline.ir import TensorSpec, Values
from raceline.zoo import BATCH_AXIS, Entry

HEIGHT, WIDTH = 88, 200
COMMANDS = ("follow the lane", "turn left", "turn right", "go straight")
CONTROLS = ("steering", "gas", "brake")


def _linear(*widths: int, dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers from width to width, each with ReLU."""
    layers: list[nn.Module] = []
    for wide_in, wide_out in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(wide_in, wide_out), nn.Dropout(dropout), nn.ReLU(inplace=True)]
    return layers


def _see() -> nn.Sequential:
    """Eight convolutions without padding, then two linear layers."""
    steps = (
        (32, 5, 2),
        (32, 3, 1),
        (64, 3, 2),
        (64, 3, 1),
        (128, 3, 2),
        (128, 3, 1),
        (256, 3, 1),
        (256, 3, 1),
    )
    layers, wide_in = [], 3
    for wide_out, kernel, stride in steps:
        conv = nn.Conv2d(wide_in, wide_out, kernel, stride, bias=False)
        layers += [conv, nn.BatchNorm2d(wide_out), nn.Dropout(0.2), nn.ReLU(inplace=True)]
        wide_in = wide_out
    return nn.Sequential(*layers, nn.Flatten(), *_linear(256 * 2 * 16, 512, 512, dropout=0.5))


class ConditionalImitation(nn.Module):
    """Picture and speed are joined; of one branch for each command, the commanded one answers.

    A further branch tells the speed that the picture alone suggests; it is trained beside the others, so that
    the network does not learn to stand still because it stands.
    """

    def __init__(self) -> None:
        super().__init__()
        self.see = _see()
        self.feel = nn.Sequential(*_linear(1, 128, 128, dropout=0.5))
        self.join = nn.Sequential(*_linear(512 + 128, 512, dropout=0.5))
        self.branches = nn.ModuleList(
            nn.Sequential(*_linear(512, 256, 256, dropout=0.5), nn.Linear(256, len(CONTROLS)))
            for _ in COMMANDS
        )
        self.guess_speed = nn.Sequential(*_linear(512, 256, 256, dropout=0.5), nn.Linear(256, 1))

    def forward(self, images_BCHW: Tensor, speed_B1: Tensor, command_B: Tensor) -> tuple[Tensor, Tensor]:
        """Controls (B, 3), steering, gas and brake, and the guessed speed (B, 1).

        Args:
            images_BCHW: RGB pictures (B, 3, 88, 200) in 0..1.
            speed_B1: (B, 1), as a share of the top speed.
            command_B: (B,) the place of the navigator's command in `COMMANDS`.
        """
        seen_BD = self.see(images_BCHW)
        joined_BD = self.join(torch.cat((seen_BD, self.feel(speed_B1)), dim=1))
        answers_BNA = torch.stack([branch(joined_BD) for branch in self.branches], dim=1)
        places_N = torch.arange(len(COMMANDS), dtype=command_B.dtype)
        chosen_BN1 = (command_B[:, None] == places_N).to(answers_BNA.dtype)[:, :, None]
        return (answers_BNA * chosen_BN1).sum(dim=1), self.guess_speed(seen_BD)


_INPUTS = (
    TensorSpec("images", "float32", (BATCH_AXIS, 3, HEIGHT, WIDTH), Values(0.0, 1.0, source="user")),
    TensorSpec("speed", "float32", (BATCH_AXIS, 1), Values(0.0, 1.0, source="user")),
    TensorSpec("command", "int64", (BATCH_AXIS,), Values(0, len(COMMANDS) - 1, source="user")),
)

MODELS = (
    Entry("conditional_imitation", "drive", _INPUTS, ("controls", "guessed_speed"),
          parameters=6_966_125, gflop=0.333, build=ConditionalImitation,
          source="Codevilla et al., End-to-end Driving via Conditional Imitation Learning, ICRA 2018"),
)  # fmt: skip
