"""How well a quantised model answers, beside the model it was made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from raceline import engines
from raceline.convert.quantise.samples import Samples
from raceline.core.errors import ConfigError
from raceline.ir import Model

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]
Metric = Literal["fidelity", "top1"]
METRICS: tuple[Metric, ...] = ("fidelity", "top1")


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


@dataclass(frozen=True)
class Score:
    """What a quantised model reached.

    Attributes:
        metric: what was counted.
        full: of the model before quantisation.
        quantised: after it.
        items: on how many items, none of which ranges were taken from where there were enough.
        origin: where these came from.
        labelled: whether true answers were known.
    """

    metric: Metric
    full: float
    quantised: float
    items: int
    origin: str
    labelled: bool

    @property
    def drop(self) -> float:
        """What was lost; below zero where something was gained."""
        return self.full - self.quantised

    def within(self, budget: Budget) -> bool:
        """Whether no more was lost than may be."""
        return self.drop <= budget.drop + 1e-12

    def __str__(self) -> str:
        what = "" if self.labelled or self.metric == "fidelity" else " (agreement with the unquantised model)"
        return f"{self.metric}{what} {self.full:.4f} -> {self.quantised:.4f} on {self.items} items"


class Judge:
    """Scores models on samples against what the unquantised model answers.

    Args:
        full: the unquantised model.
        samples: what to judge by.
        budget: its metric.
        labels: (items,) the true classes, in the samples' order; None where they are not known.
        engine: what runs the unquantised model.
        threads: of the engines.
    """

    def __init__(
        self,
        full: Model,
        samples: Samples,
        budget: Budget,
        *,
        labels: Array | None = None,
        engine: str = "onnxruntime",
        threads: int = 1,
    ) -> None:
        self.samples, self.budget, self._threads = samples, budget, threads
        self._expected = self._run(full, engine)
        self._labels = None if labels is None else np.asarray(labels).reshape(-1)
        if budget.metric == "top1" and labels is not None and len(labels) != samples.items:
            raise ConfigError(f"there are {len(labels)} labels for {samples.items} items")
        self.full = self._value(self._expected)

    def score(self, model: Model, engine: str) -> Score:
        """Run a model on an engine and count."""
        value = self._value(self._run(model, engine))
        return Score(
            self.budget.metric, self.full, value, self.samples.items, self.samples.origin,
            self._labels is not None,
        )  # fmt: skip

    def _run(self, model: Model, engine: str) -> list[Tensors]:
        session = engines.load(engine).load(model, engines.Options(threads=self._threads))
        try:
            return [session.run({**batch}) for batch in self.samples]
        finally:
            session.close()

    def _value(self, found: list[Tensors]) -> float:
        if self.budget.metric == "top1":
            return self._top1(found)
        return 1.0 - max((_apart(name, self._expected, found) for name in self._expected[0]), default=0.0)

    def _top1(self, found: list[Tensors]) -> float:
        (name, first), *_ = self._expected[0].items()
        if first.ndim < 2:
            raise ConfigError(f"top1 needs scores of classes, and {name!r} has shape {list(first.shape)}")
        chosen = np.concatenate([batch[name].argmax(-1).reshape(-1) for batch in found])
        truth = self._labels
        if truth is None:
            truth = np.concatenate([batch[name].argmax(-1).reshape(-1) for batch in self._expected])
        return float(np.mean(chosen == truth))


def _apart(name: str, expected: list[Tensors], found: list[Tensors]) -> float:
    """Relative error of one output over all batches; 1 where it is not even finite."""
    difference = scale = 0.0
    for one, other in zip(expected, found, strict=True):
        want, got = one[name].astype(np.float64), other[name].astype(np.float64)
        difference += float(((want - got) ** 2).sum())
        scale += float((want**2).sum())
    if not np.isfinite(difference):
        return 1.0
    return float(np.sqrt(difference / scale)) if scale else float(difference > 0)
