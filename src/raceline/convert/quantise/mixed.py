"""Quantise as much of a model as an accuracy budget allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from raceline.convert.quantise.calibrate import observe
from raceline.convert.quantise.insert import Plan, plan, quantise
from raceline.convert.quantise.judge import Budget, Judge, Score
from raceline.convert.quantise.ranges import Method, Observed
from raceline.convert.quantise.samples import Array, Samples
from raceline.convert.quantise.scheme import Scheme
from raceline.core.progress import Progress, Silent
from raceline.ir import Model

_METHODS: tuple[Method, ...] = ("minmax", "mse", "percentile")


@dataclass(frozen=True)
class Quantised:
    """A quantised model and how it came to be.

    Attributes:
        model: with QDQ; where the budget was not met, the best that was found.
        scheme: how.
        layers: how many nodes compute in 8 bits.
        kept: those that stayed in floating point, the most sensitive first.
        score: what it reached, on the engine it is for.
        met: whether that is within the budget.
        sensitivity: layer -> what the score loses where it alone is quantised; empty where nothing had to be kept.
        refused: layers that cannot be quantised, each with its reason.
    """

    model: Model
    scheme: Scheme
    layers: int
    kept: tuple[str, ...]
    score: Score
    met: bool
    sensitivity: dict[str, float]
    refused: dict[str, str]


def within_budget(
    model: Model,
    samples: Samples,
    scheme: Scheme,
    budget: Budget,
    *,
    engine: str,
    labels: Array | None = None,
    judged_on: Samples | None = None,
    methods: Sequence[Method] = _METHODS,
    threads: int = 1,
    progress: Progress | None = None,
) -> Quantised:
    """Calibrate, quantise all that can be, and give back to floating point the layers that cost most.

    Every method of finding ranges is tried. Where even the best loses more than may be lost, each layer is
    quantised alone and scored; then the smallest number of the most sensitive ones that must stay in floating
    point is found by bisection.

    Args:
        model: optimised; stays as it is.
        samples: to calibrate on.
        scheme: how; its method is replaced by the best one.
        budget: how much may be lost.
        engine: what will run it, and what scores are taken on.
        labels: (items,) true classes of `judged_on`, for metric "top1".
        judged_on: what to score by; None: every other batch of `samples`, which is not calibrated on.
        methods: ways of finding ranges to try.
        threads: of the engines.
        progress: told of each step.

    Raises:
        BadModelError: nothing can be quantised, or the data makes the model compute NaN.
        ConfigError: there is too little data.
    """
    watch = progress or Silent()
    seen, judged = (samples, judged_on) if judged_on is not None else samples.split()
    judge = Judge(model, judged, budget, labels=labels, threads=threads)
    planned = plan(model, scheme)
    observed = observe(
        planned.model, seen, planned.values, threads=threads, progress=watch,
        histograms=any(method != "minmax" for method in methods),
    )  # fmt: skip
    search = _Search(planned, observed, judge, engine, watch)
    best = max(
        (search.tried(replace(scheme, method=m), ()) for m in methods), key=lambda q: q.score.quantised
    )
    return best if best.met else search.mixed(best)


@dataclass
class _Search:
    """The models that were tried, scored on the engine they are for."""

    planned: Plan
    observed: dict[str, Observed]
    judge: Judge
    engine: str
    progress: Progress

    def tried(
        self, scheme: Scheme, keep: Sequence[str], sensitivity: dict[str, float] | None = None
    ) -> Quantised:
        """Quantise all but some layers, and score it."""
        model = quantise(self.planned, self.observed, scheme, keep=keep)
        score = self.judge.score(model, self.engine)
        return Quantised(
            model=model,
            scheme=scheme,
            layers=len(self.planned.layers) - len(keep),
            kept=tuple(keep),
            score=score,
            met=score.within(self.judge.budget),
            sensitivity=sensitivity or {},
            refused=dict(self.planned.refused),
        )

    def mixed(self, best: Quantised) -> Quantised:
        """The fewest sensitive layers kept with which the budget is met; else the best that was found."""
        losses = self._sensitivity(best.scheme)
        order = sorted(losses, key=lambda name: -losses[name])
        low, high = 0, len(order)  # keeping `low` of them is not enough, keeping all is what there was before
        while high - low > 1:
            middle = (low + high) // 2
            found = self.tried(best.scheme, order[:middle], losses)
            if found.met or (not best.met and found.score.quantised > best.score.quantised):
                best = found
            low, high = (low, middle) if found.met else (middle, high)
        return best if best.sensitivity else replace(best, sensitivity=losses)

    def _sensitivity(self, scheme: Scheme) -> dict[str, float]:
        names = self.planned.layers
        losses = {}
        with self.progress.step("sensitivity of layers", total=len(names)) as step:
            for name in names:
                others = [other for other in names if other != name]
                alone = quantise(self.planned, self.observed, scheme, keep=others)
                losses[name] = self.judge.score(alone, self.engine).drop
                step.advance(note=name)
        return losses
