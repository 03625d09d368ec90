"""Train a network of the zoo on a small set of pictures, the same each time for the same seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raceline.core.errors import BadModelError, ConfigError, ShapeError
from raceline.core.progress import Progress, Silent
from raceline.zoo import Data, Entry, Split, Trained, grey_input

_BATCH = 64
_PEAK_RATE = 0.1
_WARM_SHARE = 0.15
_DECAY = 5e-4
_SMOOTHING = 0.1
_TOGETHER = 500  # items of one call outside training


def trained(entry: Entry, data: Data, *, epochs: int, seed: int, progress: Progress | None) -> Trained:
    """See `raceline.zoo.train`."""
    _check(entry, data, epochs)
    with torch.random.fork_rng(devices=[]), (progress or Silent()).step("train", total=epochs) as step:
        torch.manual_seed(seed)
        model = entry.build().to(memory_format=torch.channels_last)  # depthwise layers train in half the time
        _check_classes(entry, model, data)
        optimiser = torch.optim.SGD(_groups(model), lr=_PEAK_RATE, momentum=0.9, nesterov=True)
        steps = math.ceil(len(data.train.items) / _BATCH)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, _pace(epochs * steps))
        best: tuple[float, int, Any] = (-1.0, 0, None)
        for epoch in range(epochs):
            _epoch(model.train(), data.train, optimiser, schedule)
            reached = _accuracy(model, data.validation)
            if reached >= best[0]:
                best = (reached, epoch, copy.deepcopy(model.state_dict()))
            step.advance(note=f"validation {reached:.4f}")
    model.load_state_dict(best[2])
    model = model.to(memory_format=torch.contiguous_format).eval()
    inputs = (grey_input(data.train.items.shape[-1]),)
    return Trained(model, inputs, best[0], _accuracy(model, data.test), best[1], seed)


def _check(entry: Entry, data: Data, epochs: int) -> None:
    if epochs < 1:
        raise ConfigError(f"{epochs} epochs are impossible", next_step="Give 1 or more.")
    shape = [*entry.inputs[0].shape]
    if entry.task != "classify" or len(entry.inputs) != 1 or shape[1] != data.train.items.shape[1]:
        raise ConfigError(
            f"{entry.name} cannot learn {data.name}",
            f"it takes {', '.join(map(str, entry.inputs))} for the task {entry.task!r}, and the pictures have "
            f"shape {list(data.train.items.shape[1:])}",
            "Take a network of small grey pictures, whose names end with _small.",
        )
    for split in (data.train, data.validation, data.test):
        if len(split.items) != len(split.labels) or not len(split.items):
            raise ShapeError(f"{data.name} has {len(split.items)} items for {len(split.labels)} labels")
        if split.labels.min() < 0 or split.labels.max() >= data.classes:
            raise ShapeError(
                f"{data.name} has classes {split.labels.min()} to {split.labels.max()}",
                f"it says that there are {data.classes}",
            )
        if not np.isfinite(split.items).all():
            raise BadModelError(f"{data.name} has NaN or infinity in it", next_step="Leave those items out.")


def _check_classes(entry: Entry, model: nn.Module, data: Data) -> None:
    with torch.no_grad():
        told = model.eval()(torch.from_numpy(data.train.items[:1].astype(np.float32))).shape[1]
    if told < data.classes:
        raise ConfigError(
            f"{entry.name} cannot learn {data.name}", f"it tells {told} classes, and there are {data.classes}"
        )


def _groups(model: nn.Module) -> list[dict[str, Any]]:
    """Weights decay; biases and BatchNorms do not."""
    parameters = [*model.parameters()]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _pace(steps: int) -> Any:
    """Up in a line, then down along half a cosine."""
    warm = max(1, int(_WARM_SHARE * steps))

    def share(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, steps - warm))))

    return share


def _epoch(model: nn.Module, split: Split, optimiser: Any, schedule: Any) -> None:
    for pictures, labels in _batches(split):
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(model(pictures), labels, label_smoothing=_SMOOTHING)
        if not torch.isfinite(loss):
            raise BadModelError("training has diverged", f"the loss became {float(loss.detach())}")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        schedule.step()


def _batches(split: Split) -> Iterator[tuple[Tensor, Tensor]]:
    """All items once, in random order; the pictures of a batch moved by up to a tenth of their side.

    The last few that fill less than half a batch wait for the next epoch's order: BatchNorm needs company.
    """
    order = torch.randperm(len(split.items))
    reach = split.items.shape[-1] // 10
    for start in range(0, len(order), _BATCH):
        chosen = order[start : start + _BATCH]
        if len(chosen) < _BATCH // 2 and start:
            return
        pictures = torch.from_numpy(split.items[chosen.numpy()])
        yield moved(pictures, reach), torch.from_numpy(split.labels[chosen.numpy()])


def moved(pictures: Tensor, reach: int) -> Tensor:
    """Each picture moved by its own few pixels, what comes in at the edges being what is there already."""
    if not reach:
        return pictures
    height, width = pictures.shape[-2:]
    wide = functional.pad(pictures, (reach,) * 4, mode="replicate")
    down, right = torch.randint(0, 2 * reach + 1, (2, len(pictures), 1, 1))
    rows = down + torch.arange(height)[:, None]
    columns = right + torch.arange(width)[None, :]
    items = torch.arange(len(pictures))[:, None, None]
    return wide[items, :, rows, columns].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _accuracy(model: nn.Module, split: Split) -> float:
    model.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(split.items), _TOGETHER):
            pictures = torch.from_numpy(split.items[start : start + _TOGETHER])
            found = model(pictures.contiguous(memory_format=torch.channels_last)).argmax(1).numpy()
            right += int((found == split.labels[start : start + _TOGETHER]).sum())
    return right / len(split.items)
