"""How to train, and what came of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from raceline.core.errors import ConfigError


@dataclass(frozen=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the data.
        learning_rate: at the start; it falls to zero along half a cosine.
        optimiser: "sgd" (Nesterov momentum 0.9) or "adamw".
        batch: items in one step.
        weight_decay: of weights; step sizes, biases and BatchNorms have none.
        freeze_at: after which share of the epochs the folded BatchNorms' statistics stay.
        distil: the teacher's share of the loss, 0 to 1.
        temperature: what the teacher's and the student's scores are divided by.
        clip: largest norm of all gradients together.
        seed: of the order of items, and of what dropout leaves out.
    """

    epochs: int = 4
    learning_rate: float = 0.01
    optimiser: Literal["sgd", "adamw"] = "sgd"
    batch: int = 64
    weight_decay: float = 1e-4
    freeze_at: float = 0.5
    distil: float = 0.5
    temperature: float = 4.0
    clip: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            ("epochs", isinstance(self.epochs, int) and self.epochs >= 1, "a whole number, 1 or more"),
            ("batch", isinstance(self.batch, int) and self.batch >= 1, "a whole number, 1 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "above 0"),
            ("optimiser", self.optimiser in {"sgd", "adamw"}, "sgd or adamw"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("freeze_at", 0 <= self.freeze_at <= 1, "0 to 1"),
            ("distil", 0 <= self.distil <= 1, "0 to 1"),
            ("temperature", 0 < self.temperature < math.inf, "above 0"),
            ("clip", self.clip > 0, "above 0"),
        )
        for name, good, possible in checks:
            if not good:
                raise ConfigError(f"{name} cannot be {getattr(self, name)!r}", f"it is {possible}")


@dataclass
class History:
    """What happened in training.

    Attributes:
        losses: the mean loss of each epoch.
        accuracies: after each epoch, the share of validation items whose class is right; empty without them.
        kept: the epoch (from 0) whose weights were kept: the best on the validation items, else the last.
    """

    losses: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    kept: int = 0
