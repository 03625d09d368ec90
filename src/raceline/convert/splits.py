"""Find where one engine should hand over to another: parts are measured, whole splits predicted from them.

For a cut and two engines, each engine's time of the part before it and of the part behind it is measured, crossing
costs included, for a part's time holds the conversion of what it takes and gives. Parts run alone have their
weights in the caches, which in a whole run they find there less often; how much faster an engine's two parts are
than its whole tells by how much. So

    predicted = first engine's part + second engine's part + mean over both of (whole - both parts), if positive.

A prediction only earns a split its place in the race, where it is timed like any other candidate and held against
the reference. Only pairs are tried: sums over three parts and more predicted gains that were never found. How far
predictions were off: docs/decisions/0011-two-engines-for-one-model.md.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from raceline import engines
from raceline.convert.cost_model import sizes_of
from raceline.convert.measure import Timing
from raceline.core.clock import Clock
from raceline.core.errors import RacelineError
from raceline.ir import Candidate, Model, Shapes, cost
from raceline.ir.segments import Cut, Segments

_PROMISING = 1.4  # engines at most so much slower than the leader may be faster on a part
_MOST_RIVALS = 3
_LEAST_GAIN = 1.03  # predicted; what the prediction itself may be off by
_MOST_PROPOSED = 2
_TARGETS = tuple(odd / scale for scale in (2, 4, 8, 16) for odd in range(1, scale, 2))
"""Shares of the work before the cut, coarse ones first."""
_COARSE = 3  # cuts that are tried before any is refined
_NEAR = 32  # cuts within so small a part of the work are alike; the one that fewer bytes cross is better
_FLOPS_PER_BYTE = 8  # a float that is moved costs as much as some arithmetic
_ROUNDS = 5
_SLICE_S = 0.01  # of one part in one round
_MOST_CALLS = 100

_logger = logging.getLogger(__name__)


class PartBench(Protocol):
    """Where parts are loaded and timed; see `measure.Bench`."""

    @property
    def models(self) -> Mapping[str, Model]:
        """Variant -> graph."""

    @property
    def shapes(self) -> Shapes:
        """The inputs' shapes at batch 1."""

    def cut(self, variant: str, start: int, stop: int) -> str:
        """The name of the variant that is a part of another."""

    def time(self, candidate: Candidate, calls: int, *, warm: bool = True) -> Timing:
        """Time some calls."""

    def drop(self, candidate: Candidate) -> None:
        """Free a candidate."""


@dataclass(frozen=True)
class Forecast:
    """What a split should cost.

    Attributes:
        candidate: its engine is the recipe.
        predicted_s: of one call.
        gain: how many times faster that is than the fastest engine alone.
        place: of the cut: how many nodes are before it.
    """

    candidate: Candidate
    predicted_s: float
    gain: float
    place: int = 0


def rivals(typical_s: Mapping[Candidate, float]) -> list[Candidate]:
    """Candidates that may do better together: the fastest on the fewest threads, and its like of other engines.

    Args:
        typical_s: seconds of one call of each candidate.
    """
    whole = [c for c in typical_s if c.streams == 1 and not c.chunk and not c.pinned]
    fewest = min((c.threads for c in whole), default=0)
    ranked = sorted((c for c in whole if c.threads == fewest), key=lambda c: typical_s[c])
    likes = [c for c in ranked if replace(c, engine=ranked[0].engine) == ranked[0]]
    near = [c for c in likes if typical_s[c] <= _PROMISING * typical_s[likes[0]]]
    return near[:_MOST_RIVALS] if len(near) > 1 else []


@dataclass
class Splits:
    """The search for splits of one graph at one batch.

    Args:
        bench: `whole` is loaded there.
        clock: for the budget.
        whole: at least two candidates that differ in the engine alone.
        budget_s: no cut is begun that would go beyond it if it took as long as the longest so far.
        longest_s: how long the first cut will take.

    Attributes:
        forecasts: of every pair of engines at every cut that was measured.
    """

    bench: PartBench
    clock: Clock
    whole: Sequence[Candidate]
    budget_s: float
    longest_s: float = 0.0
    forecasts: list[Forecast] = field(default_factory=list)
    _tried: list[int] = field(default_factory=list)

    def propose(self) -> list[Candidate]:
        """The splits that are worth racing, best first; none where the time is short or nothing is gained."""
        start_s = self.clock.now_s()
        if self.longest_s >= self.budget_s:
            return []
        for place, size, value in self._places():
            before_s = self.clock.now_s()
            if before_s - start_s + self.longest_s >= self.budget_s:
                break
            self._measure(place, size, value)
            self.longest_s = max(self.longest_s, self.clock.now_s() - before_s)
        best = sorted(self.forecasts, key=lambda forecast: -forecast.gain)
        for forecast in best[:_MOST_PROPOSED]:
            _logger.debug(
                "%s: predicted %.3g s, gain %.3f", forecast.candidate, forecast.predicted_s, forecast.gain
            )
        return [f.candidate for f in best[:_MOST_PROPOSED] if f.gain > _LEAST_GAIN]

    def _places(self) -> Iterator[tuple[int, int, str]]:
        """The cuts to measure, in that order: how many nodes before, how many in all, and the value's name."""
        first = self.whole[0]
        model = self.bench.models[first.variant]
        shapes = engines.batched(model.signature, self.bench.shapes, first.batch)
        try:
            segments = Segments(model, shapes)
            work = _work_before(model, shapes)
        except RacelineError as error:  # an operator whose cost or shape is not known
            _logger.debug("no splits of %s: %s", model.name, error)
            return
        cuts = segments.cuts()
        while (cut := self._next(cuts, work)) is not None:
            self._tried.append(cut.place)
            yield cut.place, segments.size, cut.after

    def _next(self, cuts: Sequence[Cut], work: Sequence[float]) -> Cut | None:
        """The cut to measure next: coarse ones first, then those on either side of the best so far."""
        spread = [cut for cut in _spread(cuts, work) if cut.place not in self._tried]
        if len(self._tried) < _COARSE or not self.forecasts:
            return spread[0] if spread else None
        best = max(self.forecasts, key=lambda forecast: forecast.gain).place
        refined = [cut for cut in _beside(best, self._tried, cuts, work) if cut.place not in self._tried]
        return next(iter(refined or spread), None)

    def _measure(self, place: int, size: int, value: str) -> None:
        """Time the parts before and behind a place in every engine, and predict every pair."""
        variant = self.whole[0].variant
        before, behind = self.bench.cut(variant, 0, place), self.bench.cut(variant, place, size)
        heads = {c.engine: replace(c, variant=before) for c in self.whole}
        tails = {c.engine: replace(c, variant=behind) for c in self.whole}
        seconds = self._timed([*self.whole, *heads.values(), *tails.values()])
        fastest_s = min((seconds[c] for c in self.whole if c in seconds), default=0.0)
        able = [c for c in self.whole if {c, heads[c.engine], tails[c.engine]} <= seconds.keys()]
        warmth_s = {
            c.engine: max(0.0, seconds[c] - seconds[heads[c.engine]] - seconds[tails[c.engine]]) for c in able
        }
        for one, other in itertools.permutations(warmth_s, 2):
            predicted_s = seconds[heads[one]] + seconds[tails[other]] + (warmth_s[one] + warmth_s[other]) / 2
            split = replace(self.whole[0], engine=engines.recipe(one, other, value))
            self.forecasts.append(Forecast(split, predicted_s, fastest_s / predicted_s, place))

    def _timed(self, candidates: Sequence[Candidate]) -> dict[Candidate, float]:
        """Seconds of one call of each, the least of some rounds; without those that an engine refuses."""
        calls: dict[Candidate, int] = {}
        seconds: dict[Candidate, float] = {}
        try:
            for number in range(1 + _ROUNDS):
                for candidate in candidates if number == 0 else list(seconds):
                    self._time(candidate, calls, seconds)
        finally:
            for candidate in candidates:
                if candidate not in self.whole:
                    self._drop(candidate)
        return seconds

    def _time(
        self, candidate: Candidate, calls: dict[Candidate, int], seconds: dict[Candidate, float]
    ) -> None:
        """Time one burst; the first tells how many calls fit into the next ones."""
        try:
            timing = self.bench.time(candidate, calls.get(candidate, 1))
        except RacelineError as error:
            _logger.debug("%s is no part of a split: %s", candidate, error)
            seconds.pop(candidate, None)
            return
        found_s = max(1e-9, min(timing.times_s))
        calls.setdefault(candidate, max(1, min(_MOST_CALLS, round(_SLICE_S / found_s))))
        seconds[candidate] = min(found_s, seconds.get(candidate, found_s))

    def _drop(self, candidate: Candidate) -> None:
        try:
            self.bench.drop(candidate)
        except RacelineError as error:
            _logger.debug("%s could not be dropped: %s", candidate, error)


def _work_before(model: Model, shapes: Shapes) -> list[float]:
    """For each place, the share of the work of the nodes before it."""
    each = [
        row.flops + _FLOPS_PER_BYTE * row.moved_bytes for row in cost(model, sizes_of(model, shapes)).rows
    ]
    total = max(1, sum(each))
    return [done / total for done in itertools.accumulate(each, initial=0)]


def _spread(cuts: Sequence[Cut], work: Sequence[float]) -> list[Cut]:
    """Cuts that divide the work evenly, coarsely first; of cuts at like places the one that fewest bytes cross."""
    chosen: dict[int, Cut] = {}
    for target in _TARGETS if cuts else ():
        nearest = min(cuts, key=lambda c: (round(abs(work[c.place] - target) * _NEAR), c.live_bytes))
        chosen.setdefault(nearest.place, nearest)
    return list(chosen.values())


def _beside(best: int, tried: Sequence[int], cuts: Sequence[Cut], work: Sequence[float]) -> list[Cut]:
    """The cuts half-way from the best place to those that were tried before and behind it, the wider gap first."""
    low = max((work[place] for place in tried if place < best), default=0.0)
    high = min((work[place] for place in tried if place > best), default=1.0)
    gaps = sorted([(low, work[best]), (work[best], high)], key=lambda gap: gap[0] - gap[1])
    found = []
    for start, stop in gaps:
        inside = [cut for cut in cuts if start < work[cut.place] < stop and cut.place not in tried]
        if inside and stop - start > 1 / _NEAR:
            middle = (start + stop) / 2
            found.append(
                min(inside, key=lambda c: (round(abs(work[c.place] - middle) * _NEAR), c.live_bytes))
            )
    return found
