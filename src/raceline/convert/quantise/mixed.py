"""Quantise as much of a model as an accuracy budget allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from raceline.convert.quantise.calibrate import observe
from raceline.convert.quantise.insert import plan, quantise
from raceline.convert.quantise.judge import Budget, Judge
from raceline.convert.quantise.ranges import Method, Observed
from raceline.convert.quantise.runner import Runner
from raceline.convert.quantise.samples import Samples
from raceline.convert.quantise.scheme import Scheme
from raceline.convert.quantise.stored import Shelf, Stored, shelf
from raceline.core.clock import Clock, SystemClock
from raceline.core.errors import BadModelError
from raceline.core.progress import Progress, Silent
from raceline.ir import FULL, Accuracy, Model

_METHODS: tuple[Method, ...] = ("minmax", "mse", "percentile")
_FEW = 16  # items that tell which layers are sensitive
_ENOUGH = 0.9  # of the loss that groups of layers cause is looked at layer by layer

AnyScheme = Scheme | Stored


@dataclass(frozen=True)
class Quantised:
    """A quantised model and how it came to be.

    Attributes:
        model: with QDQ; where the budget was not met, the best that was found.
        scheme: how.
        layers: how many nodes compute in 8 bits, or have weights in as few bits as the scheme says.
        kept: those that stayed in floating point, or in the bits that the scheme keeps, the most sensitive first.
        score: what it reached, on the engine it is for.
        met: whether that is within the budget.
        sensitivity: layer -> what the score of a few items loses where it alone is quantised; layers that were
            only tried in a group carry its mean. Empty where nothing had to be kept.
        refused: layers that cannot be quantised, each with its reason.
        stopped: why the search ended early; empty where it did not.
        notes: layer -> what else is to be told of it.
    """

    model: Model
    scheme: AnyScheme
    layers: int
    kept: tuple[str, ...]
    score: Accuracy
    met: bool
    sensitivity: dict[str, float]
    refused: dict[str, str]
    stopped: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def kept_as(self) -> str:
        """What the layers kept are in, where that is not floating point."""
        eight = isinstance(self.scheme, Stored) and self.scheme.kept_bits == 8
        return ", so it has 8 bits" if eight else ""


def within_budget(
    model: Model,
    samples: Samples,
    scheme: AnyScheme,
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
        scheme: how; its method is replaced by the best one, and so is the way of rounding weights.
        budget: how much may be lost.
        engine: what will run it, and what scores are taken on.
        judged_on: what to score by; None: half of `samples`, which is not calibrated on, or all of them where
            weights alone are quantised, which needs no calibration.
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
    if judged_on is None and isinstance(scheme, Stored):
        judged_on = samples
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
        self._shelves: dict[int, Shelf] = {}

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
        scheme: AnyScheme,
        engine: str,
        *,
        methods: Sequence[Method] = _METHODS,
        deadline_s: float = math.inf,
        worth: Callable[[Model], str] | None = None,
        precision: str = FULL,
    ) -> Quantised:
        """As the function of this name; `worth` says why a search for layers to keep is not worth its time.

        Scores are taken at `precision`; of QDQ the graph says it all, and weights that are only stored in few
        bits are multiplied in full precision where it is `FULL`.

        Raises:
            BadModelError: nothing can be quantised, the data makes the model compute NaN, or the engine refuses it.
            BackendLostError: the engine crashed on it.
        """
        until_s = self._clock.now_s() + deadline_s
        recipe, schemes = self._recipe(scheme, methods)
        search = _Search(
            recipe, self._judge, engine, precision, self._progress, lambda: self._clock.now_s() >= until_s
        )
        best = search.tried(schemes[0], ())
        for other in schemes[1:]:
            if not search.late() and not (best.met and isinstance(scheme, Stored)):
                best = max(best, search.tried(other, ()), key=lambda q: q.score.quantised)
        if best.met:
            return best
        why = "its time was used" if search.late() else worth(best.model) if worth is not None else ""
        return replace(best, stopped=why) if why else search.mixed(best)

    def _recipe(self, scheme: AnyScheme, methods: Sequence[Method]) -> tuple[Recipe, list[AnyScheme]]:
        """What makes the graphs, and the ways to try with all layers."""
        if isinstance(scheme, Stored):
            found = self.shelf(scheme.bits)
            around = (False, True) if scheme.bits == 4 else (False,)  # what is faster and smaller first
            ways: list[AnyScheme] = [replace(scheme, asymmetric=each) for each in around]
            return Recipe.of_stored(found), ways
        self.observe([scheme], methods)
        return (
            Recipe.of_layers(self._model, scheme, self._observed),
            [replace(scheme, method=method) for method in methods],
        )

    def made(self, scheme: Scheme) -> Model:
        """The model with every layer quantised, ranges by the first method.

        Raises:
            BadModelError: nothing can be quantised, or the data makes the model compute NaN.
        """
        recipe, ways = self._recipe(scheme, _METHODS)
        return recipe.make(ways[0], ())

    def remade(self, scheme: AnyScheme, kept: Sequence[str], score: Accuracy) -> Quantised:
        """What a search found before, without one; it must have observed what that search had.

        Raises:
            BadModelError: a layer that was kept is none, or nothing can be quantised.
        """
        recipe, _ = self._recipe(scheme, _METHODS)
        if strangers := set(kept) - set(recipe.layers):
            raise BadModelError(
                f"{self._model.name} has no layers {', '.join(sorted(strangers)[:5])} to keep"
            )
        return Quantised(
            recipe.make(scheme, kept), scheme, len(recipe.layers) - len(kept), tuple(kept), score, met=True,
            sensitivity={}, refused=dict(recipe.refused), notes=dict(recipe.notes),
        )  # fmt: skip

    def shelf(self, bits: int) -> Shelf:
        """Which weights can be stored in so few bits; found once.

        Raises:
            BadModelError: none can.
        """
        if bits not in self._shelves:
            self._shelves[bits] = shelf(self._model, bits)
        return self._shelves[bits]


@dataclass(frozen=True)
class Recipe:
    """Makes the graphs that a search tries.

    Attributes:
        layers: names of what can get fewer bits.
        refused: what cannot, each with its reason.
        make: the graph by a scheme, with layers that keep what the scheme keeps.
        notes: layer -> what else is to be told of it.
    """

    layers: tuple[str, ...]
    refused: Mapping[str, str]
    make: Callable[[AnyScheme, Sequence[str]], Model]
    notes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_layers(cls, model: Model, scheme: Scheme, observed: Mapping[str, Observed]) -> Recipe:
        """Layers that compute in 8 bits."""
        planned = plan(model, scheme)

        def make(how: AnyScheme, keep: Sequence[str]) -> Model:
            assert isinstance(how, Scheme)
            return quantise(planned, observed, how, keep=keep)

        return cls(planned.layers, planned.refused, make)

    @classmethod
    def of_stored(cls, found: Shelf) -> Recipe:
        """Weights that are stored in few bits."""

        def make(how: AnyScheme, keep: Sequence[str]) -> Model:
            assert isinstance(how, Stored)
            return found.written(how, keep)

        return cls(found.layers, found.refused, make, found.notes)


@dataclass
class _Search:
    """The models that were tried, scored on the engine they are for."""

    recipe: Recipe
    judge: Judge
    engine: str
    precision: str
    progress: Progress
    late: Callable[[], bool]

    def tried(self, scheme: AnyScheme, keep: Sequence[str]) -> Quantised:
        """Quantise all but some layers, and score it."""
        model = self.recipe.make(scheme, keep)
        score = self.judge.score(model, self.engine, self.precision)
        return Quantised(
            model=model,
            scheme=scheme,
            layers=len(self.recipe.layers) - len(keep),
            kept=tuple(keep),
            score=score,
            met=self.judge.budget.allows(score),
            sensitivity={},
            refused=dict(self.recipe.refused),
            notes=dict(self.recipe.notes),
        )

    def mixed(self, best: Quantised) -> Quantised:
        """The fewest sensitive layers kept with which the budget is met; else the best that was found."""
        floor = self._all_in_eight(best.scheme)
        scheme, best = (best.scheme, best) if floor is None else (floor.scheme, floor)
        losses = self._sensitivity(scheme)
        order = sorted(losses, key=lambda name: -losses[name])
        low, high = 0, len(order)  # keeping `low` of them is not enough, keeping all is
        while high - low > 1 and not self.late():
            middle = (low + high) // 2
            found = self.tried(scheme, order[:middle])
            if found.met or (not best.met and found.score.quantised > best.score.quantised):
                best = found
            low, high = (low, middle) if found.met else (middle, high)
        stopped = "its time was used" if high - low > 1 else ""
        return replace(best, sensitivity=losses, stopped=stopped)

    def _all_in_eight(self, scheme: AnyScheme) -> Quantised | None:
        """All layers in 8 bits instead of 4, if that is enough: then none need be kept in floating point."""
        if not isinstance(scheme, Stored) or scheme.bits != 4 or self.late():
            return None
        found = self.tried(replace(scheme, kept_bits=8), self.recipe.layers)
        return found if found.met else None

    def _sensitivity(self, scheme: AnyScheme) -> dict[str, float]:
        """What each layer costs alone: group by group, then layer by layer in the groups that cost most."""
        names = list(self.recipe.layers)
        size = max(1, math.isqrt(len(names)))
        groups = [names[start : start + size] for start in range(0, len(names), size)]
        judge = self.judge.thinned(_FEW)
        losses: dict[str, float] = {}
        with self.progress.step("sensitivity of layers", total=len(groups) + len(names)) as step:

            def loss(group: Sequence[str]) -> float:
                if self.late():
                    return 0.0
                others = [name for name in names if name not in group]
                alone = self.recipe.make(scheme, others)
                step.advance(note=group[0])
                return max(0.0, judge.score(alone, self.engine, self.precision).drop)

            found = sorted(((loss(group), group) for group in groups), key=lambda pair: -pair[0])
            rest = sum(cost for cost, _ in found)
            enough = (1 - _ENOUGH) * rest
            for cost, group in found:
                alone = len(group) > 1 and rest > enough and not self.late()
                losses |= {name: loss([name]) if alone else cost / len(group) for name in group}
                rest -= cost
        return losses
