"""Train a fake-quantised module, or any other: one plain loop, the same each time for the same seed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from raceline.convert.qat.fake import FakeQuantise
from raceline.convert.qat.layers import QuantisedLayer
from raceline.convert.qat.recipe import History, Recipe
from raceline.convert.qat.tracing import FakeQuantised
from raceline.core.errors import BadModelError, ShapeError
from raceline.core.progress import Progress, Silent

Array = np.ndarray[Any, Any]
Loss = Callable[[Any, Tensor], Tensor]
_EVALUATED_TOGETHER = 512


def trained(
    module: nn.Module,
    items: Array,
    labels: Array,
    recipe: Recipe,
    *,
    teacher: nn.Module | None,
    validation: tuple[Array, Array] | None,
    loss: Loss | None,
    augment: Callable[[Tensor], Tensor] | None,
    progress: Progress | None,
) -> History:
    """See `raceline.convert.qat.fit`."""
    data = _as_tensors(items, labels)
    pictures = items.ndim == 4
    if pictures:  # depthwise layers train in half the time so
        module.to(memory_format=torch.channels_last)
    optimiser = _optimiser(module, recipe)
    steps = math.ceil(len(items) / recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * steps)
    judge = _Loss(recipe, loss or functional.cross_entropy, None if teacher is None else teacher.eval())
    history, best, mode = History(), None, module.training
    with (
        torch.random.fork_rng(devices=[]),
        (progress or Silent()).step("train", total=recipe.epochs * steps) as step,
    ):
        torch.manual_seed(recipe.seed)
        for epoch in range(recipe.epochs):
            if isinstance(module, FakeQuantised) and epoch >= recipe.freeze_at * recipe.epochs:
                module.freeze_norms()
            total = 0.0
            for chosen, truth in _batches(data, recipe.batch):
                inputs = chosen if augment is None else augment(chosen)
                with shapes_explained(module, inputs, truth):
                    total += _step(module.train(), inputs, truth, judge, optimiser, recipe) * len(truth)
                schedule.step()
                step.advance(note=f"epoch {epoch + 1} of {recipe.epochs}")
            history.losses.append(total / len(items))
            history.kept = epoch
            if validation is not None:
                best = _best(module, validation, history, best)
    if best is not None:
        module.load_state_dict(best[2])
        history.kept = best[1]
    if pictures:
        module.to(memory_format=torch.contiguous_format)
    module.train(mode)
    return history


def _best(module: nn.Module, validation: tuple[Array, Array], history: History, best: Any) -> Any:
    """(accuracy, epoch, weights) of the best epoch so far; of equals the later one, which has settled more."""
    reached = accuracy(module, *validation)
    history.accuracies.append(reached)
    if best is None or reached >= best[0]:
        return reached, history.kept, copy.deepcopy(module.state_dict())
    return best


def accuracy(module: nn.Module, items: Array, labels: Array) -> float:
    """The share of items whose highest score is that of their class.

    Args:
        module: (items, ...) to scores (items, classes); in its own mode again afterwards.
        items: (items, ...).
        labels: (items,) classes.

    Raises:
        ShapeError: labels are not as many, or none of the classes.
    """
    found, truth = scores(module, items), np.asarray(labels)
    classes = found.shape[1]
    if len(truth) != len(found) or not len(found) or truth.min() < 0 or truth.max() >= classes:
        told = f", {truth.min()} to {truth.max()}" if len(truth) else ""
        raise ShapeError(
            f"{len(truth)} labels{told} do not fit {len(found)} items of {classes} classes",
            next_step=f"Give one of 0 to {classes - 1} for each item.",
        )
    return float(np.mean(found.argmax(1) == truth))


def scores(module: nn.Module, items: Array) -> Array:
    """What a module gives for all items in inference, (items, ...)."""
    mode = module.training
    module.eval()
    with torch.no_grad():
        parts = [
            module(torch.from_numpy(np.ascontiguousarray(items[i : i + _EVALUATED_TOGETHER]))).numpy()
            for i in range(0, len(items), _EVALUATED_TOGETHER)
        ]
    module.train(mode)
    return np.concatenate(parts)


@dataclass
class _Loss:
    """What is made small: the loss against the truth, and the distance from what a teacher says."""

    recipe: Recipe
    against_truth: Loss
    teacher: nn.Module | None

    def __call__(self, inputs: Tensor, answer: Tensor, truth: Tensor) -> Tensor:
        own = self.against_truth(answer, truth)
        if self.teacher is None or not self.recipe.distil:
            return own
        heat = self.recipe.temperature
        with torch.no_grad():
            wanted = functional.log_softmax(self.teacher(inputs) / heat, dim=-1)
        said = functional.log_softmax(answer / heat, dim=-1)
        apart = functional.kl_div(said, wanted, reduction="batchmean", log_target=True) * heat**2
        return (1 - self.recipe.distil) * own + self.recipe.distil * apart


def _step(
    module: nn.Module, inputs: Tensor, truth: Tensor, judge: _Loss, optimiser: Any, recipe: Recipe
) -> float:
    optimiser.zero_grad(set_to_none=True)
    loss = judge(inputs, module(inputs), truth)
    if not torch.isfinite(loss):
        raise BadModelError(
            "training has diverged",
            f"the loss became {float(loss.detach())}",
            "Train again with a lower learning rate, and check the data's scale.",
        )
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
    optimiser.step()
    _keep_positive(module)
    return float(loss.detach())


@torch.no_grad()
def _keep_positive(module: nn.Module) -> None:
    """A step size that training took below zero would turn its grid around."""
    for part in module.modules():
        if isinstance(part, FakeQuantise | QuantisedLayer):
            part.step.clamp_(min=1e-8)


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Decay for the weights of layers alone; step sizes move at a tenth of the pace, as they start near."""
    steps = [p.step for p in module.modules() if isinstance(p, FakeQuantise | QuantisedLayer)]
    known = {id(step) for step in steps}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in known]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if steps:
        groups.append({"params": steps, "weight_decay": 0.0, "lr": recipe.learning_rate / 10})
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _as_tensors(items: Array, labels: Array) -> tuple[Tensor, Tensor]:
    if len(items) != len(labels) or not len(items):
        raise ShapeError(
            f"there are {len(items)} items and {len(labels)} labels",
            next_step="Axis 0 of both counts the items.",
        )
    if items.dtype.kind == "f" and not np.isfinite(items).all():
        raise BadModelError("the training data has NaN or infinity in it", next_step="Leave those items out.")
    truth = np.ascontiguousarray(labels)
    if truth.dtype.kind in "iu":
        truth = truth.astype(np.int64)  # as torch wants classes
    return as_floats(items), torch.from_numpy(truth)


def as_floats(items: Array) -> Tensor:
    """Items as torch takes them: floats in single precision, whole numbers as they are."""
    array = np.ascontiguousarray(items)
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else array)


@contextmanager
def shapes_explained(module: nn.Module, items: Tensor, labels: Tensor | None = None) -> Iterator[None]:
    """Turn what torch says of arrays that do not fit into a ShapeError that tells what was given."""
    try:
        yield
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        given = f"items of shape {list(items.shape)} ({items.dtype})"
        if labels is not None:
            given += f" with labels of shape {list(labels.shape)} ({labels.dtype})"
        raise ShapeError(
            f"{type(module).__name__} does not take {given}",
            (str(error).strip().splitlines() or [type(error).__name__])[0],
            "Give arrays as its forward takes them, axis 0 counting items, and classes it has.",
        ) from error


def _batches(data: tuple[Tensor, Tensor], batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All items once, in an order that torch's generator decides."""
    order = torch.randperm(len(data[0]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        yield data[0][chosen], data[1][chosen]
