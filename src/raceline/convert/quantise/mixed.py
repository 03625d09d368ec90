"""Quantise as much of a model as an accuracy budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raceline.convert.quantise.calibrate import observe
from raceline.convert.quantise.insert import Plan, plan, quantise
from raceline.convert.quantise.judge import Budget, Judge
from raceline.convert.quantise.ranges import Method, Observed
from raceline.convert.quantise.runner import Runner
from raceline.convert.quantise.samples import Samples
from raceline.convert.quantise.scheme import Scheme
from raceline.core.clock import Clock, SystemClock
from raceline.core.progress import Progress, Silent
from raceline.ir import Accuracy, Model

_METHODS: tuple[Method, ...] = ("minmax", "mse", "percentile")
_FEW = 16  # items that tell which layers are sensitive
_ENOUGH = 0.9  # of the loss that groups of layers cause is looked at layer by layer


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
        sensitivity: layer -> what the score of a few items loses where it alone is quantised; layers that were
            only tried in a group carry its mean. Empty where nothing had to be kept.
        refused: layers that cannot be quantised, each with its reason.
        stopped: why the search ended early; empty where it did not.
    """

    model: Model
    scheme: Scheme
    layers: int
    kept: tuple[str, ...]
    score: Accuracy
    met: bool
    sensitivity: dict[str, float]
    refused: dict[str, str]
    stopped: str = ""


def within_budget(
    model: Model,
    samples: Samples,
    scheme: Scheme,
    budget: Budget,
    *,
    engine: str,
    judged_on: Samples | None = None,
    methods: Sequence[Method] = _METHODS,
    deadline_s: float = math.inf,
    threads: int = 1,
    clock: Clock | None = None,
    progress: Progress | None = None,
) -> Quantised:
    """Calibrate, quantise all that can be, and give back to floating point the layers that cost most.

    Every method of finding ranges is tried. Where even the best loses more than may be lost, groups of layers
    and then the layers of the worst groups are quantised alone and scored on a few items; then the smallest
    number of the most sensitive ones that must stay in floating point is found by bisection. Engines run in
    child processes.

    Args:
        model: optimised; stays as it is.
        samples: to calibrate on.
        scheme: how; its method is replaced by the best one.
        budget: how much may be lost.
        engine: what will run it, and what scores are taken on.
        judged_on: what to score by; None: every other item of `samples`, which is not calibrated on.
        methods: ways of finding ranges to try.
        deadline_s: seconds after which nothing new is tried; one model always is.
        threads: of the engines.
        clock: for the deadline.
        progress: told of each step.

    Raises:
        BadModelError: nothing can be quantised, the data makes the model compute NaN, or the engine refuses it.
        BackendLostError: the engine crashed on it.
        ConfigError: there is too little data.
    """
    seen, judged = (samples, judged_on) if judged_on is not None else samples.split()
    with Runner(judged, threads=threads) as run:
        study = Study(model, seen, Judge(model, judged, budget, run=run), threads, clock, progress)
        return study.within_budget(scheme, engine, methods=methods, deadline_s=deadline_s)


class Study:
    """What searches for several engines share: one calibration run, one judge.

    Args:
        model: optimised; stays as it is.
        seen: samples to calibrate on.
        judge: scores, by other samples.
        threads: of the engine that calibrates.
        clock: for deadlines.
        progress: told of each step.
    """

    def __init__(
        self,
        model: Model,
        seen: Samples,
        judge: Judge,
        threads: int = 1,
        clock: Clock | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._model, self._seen, self._judge, self._threads = model, seen, judge, threads
        self._clock, self._progress = clock or SystemClock(), progress or Silent()
        self._observed: dict[str, Observed] = {}

    def observe(self, schemes: Sequence[Scheme], methods: Sequence[Method] = _METHODS) -> None:
        """Calibrate once for all that these schemes quantise.

        Raises:
            BadModelError: nothing can be quantised, or the data makes the model compute NaN.
        """
        plans = [plan(self._model, scheme) for scheme in schemes]
        wanted = dict.fromkeys(name for planned in plans for name in planned.values)
        missing = [name for name in wanted if name not in self._observed]
        if missing:
            self._observed |= observe(
                plans[0].model, self._seen, missing, threads=self._threads, progress=self._progress,
                histograms=any(method != "minmax" for method in methods),
            )  # fmt: skip

    def within_budget(
        self,
        scheme: Scheme,
        engine: str,
        *,
        methods: Sequence[Method] = _METHODS,
        deadline_s: float = math.inf,
        worth: Callable[[Model], str] | None = None,
    ) -> Quantised:
        """As the function of this name; `worth` says why a search for layers to keep is not worth its time.

        Raises:
            BadModelError: nothing can be quantised, the data makes the model compute NaN, or the engine refuses it.
            BackendLostError: the engine crashed on it.
        """
        until_s = self._clock.now_s() + deadline_s
        self.observe([scheme], methods)
        search = _Search(
            plan(self._model, scheme), self._observed, self._judge, engine, self._progress,
            lambda: self._clock.now_s() >= until_s,
        )  # fmt: skip
        best = search.tried(replace(scheme, method=methods[0]), ())
        for method in methods[1:]:
            if not search.late():
                found = search.tried(replace(scheme, method=method), ())
                best = max(best, found, key=lambda q: q.score.quantised)
        if best.met:
            return best
        why = "its time was used" if search.late() else worth(best.model) if worth is not None else ""
        return replace(best, stopped=why) if why else search.mixed(best)


@dataclass
class _Search:
    """The models that were tried, scored on the engine they are for."""

    planned: Plan
    observed: dict[str, Observed]
    judge: Judge
    engine: str
    progress: Progress
    late: Callable[[], bool]

    def tried(self, scheme: Scheme, keep: Sequence[str]) -> Quantised:
        """Quantise all but some layers, and score it."""
        model = quantise(self.planned, self.observed, scheme, keep=keep)
        score = self.judge.score(model, self.engine)
        return Quantised(
            model=model,
            scheme=scheme,
            layers=len(self.planned.layers) - len(keep),
            kept=tuple(keep),
            score=score,
            met=self.judge.budget.allows(score),
            sensitivity={},
            refused=dict(self.planned.refused),
        )

    def mixed(self, best: Quantised) -> Quantised:
        """The fewest sensitive layers kept with which the budget is met; else the best that was found."""
        losses = self._sensitivity(best.scheme)
        order = sorted(losses, key=lambda name: -losses[name])
        low, high = 0, len(order)  # keeping `low` of them is not enough, keeping all is what there was before
        while high - low > 1 and not self.late():
            middle = (low + high) // 2
            found = self.tried(best.scheme, order[:middle])
            if found.met or (not best.met and found.score.quantised > best.score.quantised):
                best = found
            low, high = (low, middle) if found.met else (middle, high)
        stopped = "its time was used" if high - low > 1 else ""
        return replace(best, sensitivity=losses, stopped=stopped)

    def _sensitivity(self, scheme: Scheme) -> dict[str, float]:
        """What each layer costs alone: group by group, then layer by layer in the groups that cost most."""
        names = list(self.planned.layers)
        size = max(1, math.isqrt(len(names)))
        groups = [names[start : start + size] for start in range(0, len(names), size)]
        judge = self.judge.thinned(_FEW)
        losses: dict[str, float] = {}
        with self.progress.step("sensitivity of layers", total=len(groups) + len(names)) as step:

            def loss(group: Sequence[str]) -> float:
                if self.late():
                    return 0.0
                others = [name for name in names if name not in group]
                alone = quantise(self.planned, self.observed, scheme, keep=others)
                step.advance(note=group[0])
                return max(0.0, judge.score(alone, self.engine).drop)

            found = sorted(((loss(group), group) for group in groups), key=lambda pair: -pair[0])
            rest = sum(cost for cost, _ in found)
            enough = (1 - _ENOUGH) * rest
            for cost, group in found:
                alone = len(group) > 1 and rest > enough and not self.late()
                losses |= {name: loss([name]) if alone else cost / len(group) for name in group}
                rest -= cost
        return losses
