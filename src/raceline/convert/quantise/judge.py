"""How well a quantised model answers, beside the model it was made from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np

from raceline.convert.quantise.samples import Samples
from raceline.core.errors import BadModelError, ConfigError
from raceline.core.units import counted
from raceline.ir import FULL, Accuracy, Model

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]
Metric = Literal["fidelity", "top1"]
METRICS: tuple[Metric, ...] = ("fidelity", "top1")


class Run(Protocol):
    """Answers of a model on an engine at a precision, call by call, in full batches of the samples' size."""

    def __call__(
        self, model: Model, engine: str, samples: Samples, precision: str = FULL
    ) -> Sequence[Tensors]:
        """Run them."""


FULL_PRECISION = ("onnxruntime", "patchwork")
"""What runs the unquantised model; the second for those that the first does not take whole."""


@dataclass(frozen=True)
class Budget:
    """How much a quantised model may lose.

    Attributes:
        metric: "top1", the share of items whose class is right: with labels the true one, without them the one
            that the model gives before it is quantised. "fidelity", 1 minus the relative error of the outputs
            (the norm of the difference over the norm of the output; of several outputs the worst).
        drop: how much lower than the unquantised model's the score may be, 0.01 for one point.
    """

    metric: Metric = "fidelity"
    drop: float = 0.05

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ConfigError(f"there is no metric {self.metric!r}", f"there are {', '.join(METRICS)}")
        if not 0 <= self.drop <= 1:
            raise ConfigError(f"an accuracy budget of {self.drop} makes no sense", "it is 0 to 1")

    def allows(self, found: Accuracy) -> bool:
        """Whether no more was lost than may be."""
        return found.drop <= self.drop + 1e-12


_DROPS = {"fidelity": 0.05, "top1": 0.01}
_FEW = 8  # items that say little of how near outputs are


def doubt(budget: Budget, items: int) -> str:
    """Why a verdict on so few items is uncertain; empty where it is not."""
    if budget.metric == "top1" and budget.drop * items < 1:
        least = f", and {math.ceil(1 / budget.drop)} are needed to see {budget.drop:g}" if budget.drop else ""
        return f"accuracy rests on {counted(items, 'item')} only: one more wrong answer is {1 / items:.2g}{least}"
    return f"accuracy rests on {counted(items, 'item')} only" if items < _FEW else ""


def budget_of(metric: str, drop: float | None, *, labelled: bool = False) -> Budget:
    """The budget of words from a command line; None is what is usual for the metric.

    Raises:
        ConfigError: there is no such metric, or the drop makes no sense; or the metric leaves labels unused.
    """
    if labelled and metric != "top1":
        raise ConfigError(f"the metric {metric} does not look at labels", "", "Give --metric top1 with them.")
    return Budget(cast(Metric, metric), _DROPS.get(metric, 0.0) if drop is None else drop)


class Judge:
    """Scores answers on samples against what the unquantised model answers.

    Args:
        full: the unquantised model; it is run once.
        samples: what to judge by, with their labels where they are known.
        budget: its metric.
        run: runs models.

    Raises:
        BadModelError: no engine runs the unquantised model.
        ConfigError: "top1" of a model that gives no scores of classes; or labels that are none of its classes, or
            with which it answers no better than chance, so that nothing can be lost.
    """

    def __init__(self, full: Model, samples: Samples, budget: Budget, *, run: Run) -> None:
        self.samples, self.budget, self._run, self._full = samples, budget, run, full
        self._expected = self._gathered(_answers_of(full, samples, run))
        self._scores = _scores_in(self._expected) if budget.metric == "top1" else ()
        self.full = self._value(self._expected)
        if budget.metric == "top1" and samples.labels is not None:
            self._check_labels(samples.labels)

    def score(self, model: Model, engine: str, precision: str = FULL) -> Accuracy:
        """Run a model on an engine and count; of QDQ the graph says the precision."""
        return self.mark(self._run(model, engine, self.samples, precision))

    def mark(self, answers: Sequence[Tensors]) -> Accuracy:
        """Count.

        Args:
            answers: of `samples.full_batches`, of any size, in their order.
        """
        return Accuracy(
            self.budget.metric, self.full, self._value(self._gathered(answers)), self.samples.items,
            self.samples.origin, self.samples.labels is not None,
        )  # fmt: skip

    def thinned(self, most: int) -> Judge:
        """One that judges by few items and by what is finest to tell: how near all outputs are."""
        return Judge(self._full, self.samples.thinned(most), Budget(drop=self.budget.drop), run=self._run)

    def _gathered(self, answers: Sequence[Tensors]) -> list[Tensors]:
        """Answers whose grouping no longer shows; what was repeated to fill a batch is cut off."""
        if not self.samples.stacked:
            return list(answers)
        items = self.samples.items
        joined = {name: np.concatenate([one[name] for one in answers])[:items] for name in answers[0]}
        return [joined]

    def _value(self, found: list[Tensors]) -> float:
        if self.budget.metric == "top1":
            return self._top1(found)
        return 1.0 - max((apart(name, self._expected, found) for name in self._expected[0]), default=0.0)

    def _check_labels(self, labels: Array) -> None:
        classes = self._expected[0][self._scores[0]].shape[-1]
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ConfigError(
                f"the labels are {low} to {high}, and {self._scores[0]!r} has {classes} classes",
                "",
                f"Count classes from 0 to {classes - 1}.",
            )
        if self.full <= 1 / classes:
            raise ConfigError(
                f"in full precision the model answers {self.full:.1%} of {len(labels)} items rightly",
                f"that is no better than chance among {classes} classes, so no loss could be seen",
                "Check that labels count from 0 and belong to these items, and that the items are scaled as the "
                "model wants them.",
            )

    def _top1(self, found: list[Tensors]) -> float:
        """The share of right answers; labels are of the first output of scores, any other must agree as well."""
        first, *others = self._scores
        chosen = _classes(first, found)
        truth = self.samples.labels
        if truth is None:
            truth = _classes(first, self._expected)
        if truth.shape != chosen.shape:
            raise ConfigError(f"there are {len(truth)} labels for {len(chosen)} answers of {first!r}")
        agreed = [np.mean(_classes(name, found) == _classes(name, self._expected)) for name in others]
        return float(np.mean(chosen == truth) * min(agreed, default=1.0))


def _scores_in(answers: Sequence[Tensors]) -> tuple[str, ...]:
    """The outputs that hold scores of classes; others, such as the class itself, follow from them.

    Raises:
        ConfigError: none does.
    """
    outputs = answers[0]
    found = tuple(name for name, array in outputs.items() if array.ndim > 1 and array.dtype.kind == "f")
    if not found:
        told = ", ".join(
            f"{name!r} is {array.dtype} of shape {list(array.shape)}" for name, array in outputs.items()
        )
        raise ConfigError(f"top1 needs scores of classes, and {told}", next_step="Take --metric fidelity.")
    return found


def _classes(name: str, answers: Sequence[Tensors]) -> Array:
    """The class that each item's scores tell."""
    return np.concatenate([one[name].argmax(-1).reshape(-1) for one in answers])


def _answers_of(full: Model, samples: Samples, run: Run) -> Sequence[Tensors]:
    reasons = []
    for engine in FULL_PRECISION:
        try:
            return run(full, engine, samples)
        except BadModelError as error:
            reasons.append(f"{engine}: {error}")
    raise BadModelError(f"{full.name} cannot be run on the data", "; ".join(reasons))


def apart(name: str, expected: Sequence[Tensors], found: Sequence[Tensors]) -> float:
    """Relative error of one output over all answers; 1 where it is not even finite, or of another shape."""
    difference = scale = 0.0
    for one, other in zip(expected, found, strict=True):
        if one[name].shape != other[name].shape or one[name].dtype.kind in "OSU":
            return float(not np.array_equal(one[name], other[name]))
        want, got = one[name].astype(np.float64), other[name].astype(np.float64)
        difference += float(((want - got) ** 2).sum())
        scale += float((want**2).sum())
    if not np.isfinite(difference):
        return 1.0
    return float(np.sqrt(difference / scale)) if scale else float(difference > 0)
