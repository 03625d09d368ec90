"""How well a quantised model answers, beside the model it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np

from raceline.convert.quantise.samples import Samples
from raceline.core.errors import BadModelError, ConfigError
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
        ConfigError: "top1" of a model that gives no scores of classes.
    """

    def __init__(self, full: Model, samples: Samples, budget: Budget, *, run: Run) -> None:
        self.samples, self.budget, self._run, self._full = samples, budget, run, full
        self._expected = self._gathered(_answers_of(full, samples, run))
        self.full = self._value(self._expected)

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

    def _top1(self, found: list[Tensors]) -> float:
        """The share of right answers; labels are of the first output, and any other must agree as well."""
        first, *others = self._expected[0]
        chosen = _classes(first, found)
        truth = self.samples.labels
        if truth is None:
            truth = _classes(first, self._expected)
        if truth.shape != chosen.shape:
            raise ConfigError(f"there are {len(truth)} labels for {len(chosen)} answers of {first!r}")
        agreed = [np.mean(_classes(name, found) == _classes(name, self._expected)) for name in others]
        return float(np.mean(chosen == truth) * min(agreed, default=1.0))


def _classes(name: str, answers: Sequence[Tensors]) -> np.ndarray[Any, Any]:
    """The class that each item's scores tell.

    Raises:
        ConfigError: the output holds no scores.
    """
    for one in answers[:1]:
        if one[name].ndim < 2 or one[name].dtype.kind != "f":
            raise ConfigError(
                f"top1 needs scores of classes, and {name!r} is {one[name].dtype} of shape {list(one[name].shape)}",
                next_step="Take --metric fidelity.",
            )
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
