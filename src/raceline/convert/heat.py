"""One race: all candidates of one batch, loaded side by side, timed in rounds until the choice is clear."""

import itertools
import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from statistics import quantiles

from raceline.convert.choose import beaten, contenders, cores, leaders, representative_s, settled, typical_s
from raceline.convert.journal import Recorded, Stop
from raceline.convert.measure import HinderedError
from raceline.convert.splits import Splits, rivals
from raceline.core.errors import BadModelError, NotReadyError, RacelineError
from raceline.core.progress import Step
from raceline.ir import Accuracy, Candidate, Measurement

Graph = tuple[str, str]
"""An engine and the variant of the graph that it runs."""

_SLICE_S = 0.03  # of one candidate in one round
_MOST_CALLS = 300  # of one candidate in one round
_NEEDS_WARMING_S = 0.06  # shorter calls feel the caches that the candidate before them left
_MOST_ROUNDS = 40
_ROUNDS_BEFORE_OFFSPRING = 3
_LEAST_ROUNDS = 3  # with fewer, offspring that looks fast may only have been lucky
_ROUNDS_WHATEVER = 5  # where loading took the time: one round after cold starts tells nothing
_PATIENCE = 2.0  # budgets that those rounds may take
_FINAL = 0.6  # of the budget is for all candidates; what is left, for the contenders alone
_SPLITTING = 0.15  # of the budget may go into the search for splits between engines
_PROMISING = 1.4  # candidates at most so much slower than their leader get offspring
_CHUNKS = (1, 2, 4)  # items that may stay in a cache while the network works on them

_logger = logging.getLogger(__name__)


def offspring(parent: Candidate, threads: Sequence[int]) -> Iterator[Candidate]:
    """Ways to cut a batch that keep the parent's engine and graph: small chunks, several streams, or both.

    Args:
        parent: takes the whole batch at once.
        threads: how many threads may be used in all.
    """
    batch = parent.batch
    for chunk in (size for size in _CHUNKS if size < batch):
        yield replace(parent, chunk=chunk)
    if parent.threads > 1:
        return
    for streams in threads:
        if 1 < streams <= batch:
            each = -(-batch // streams)
            for chunk in (0, *(size for size in _CHUNKS[:2] if size < each)):
                yield replace(parent, streams=streams, chunk=chunk)


@dataclass
class Heat:
    """The race of all candidates of one batch.

    Args:
        bench: where they are loaded, checked and timed; its journal is the clock of the budget.
        batch: of all candidates.
        order: shuffles each round.
        condemned: engines that were wrong about a graph, with the reason; read and added to.

    Attributes:
        stop: why it ended.
        accuracy: of those.
        times: seconds of one call, by candidate and round.
        calls_s: seconds of every timed call.
        memory_bytes: what each added.
        load_s: seconds that loading each took.
        failures: why a candidate has no times.
        hindered: those of them that may have times on another day: memory or time was short.
    """

    bench: Recorded
    batch: int
    order: random.Random
    condemned: dict[Graph, str]
    stop: Stop | None = None
    accuracy: dict[Candidate, Accuracy] = field(default_factory=dict)
    times: dict[Candidate, dict[int, float]] = field(default_factory=dict)
    calls_s: dict[Candidate, list[float]] = field(default_factory=dict)
    memory_bytes: dict[Candidate, int] = field(default_factory=dict)
    load_s: dict[Candidate, float] = field(default_factory=dict)
    failures: dict[Candidate, str] = field(default_factory=dict)
    hindered: set[Candidate] = field(default_factory=set)
    _alive: list[Candidate] = field(default_factory=list)
    _calls: dict[Candidate, int] = field(default_factory=dict)
    _warm: dict[Candidate, bool] = field(default_factory=dict)
    _waiting: list[Candidate] = field(default_factory=list)
    _late: set[Candidate] = field(default_factory=set)
    _spliced: bool = False

    def run(
        self,
        founders: Sequence[Candidate],
        threads: Sequence[int],
        budget_s: float,
        step: Step,
        waiting: Sequence[Candidate] = (),
    ) -> None:
        """Time rounds until the choice is clear or the time is used; `waiting` enter when it is clear."""
        clock = self.bench.journal
        start_s = now_s = clock.now_s()
        entering, self._waiting = self.bench.founders(self.batch, founders, waiting)
        for candidate in entering:
            if clock.now_s() - start_s >= budget_s and self._has_like(candidate):
                self._waiting.append(candidate)
            else:
                self._enter(candidate)
        since = 0  # the round before which somebody entered last
        for number in itertools.count():
            self._round(number)
            before_s, now_s = now_s, clock.now_s()
            step.advance(now_s - before_s, note=self._leader())
            spent = (now_s - start_s) / budget_s
            if why := self._ended(number - since, spent):
                if not self._admit(spent):
                    break
                since = number + 1
                continue
            self._retire(beaten(self.times, self._alive))
            if number - since + 1 == _ROUNDS_BEFORE_OFFSPRING and spent < 0.5:
                self._breed(threads)
                self._splice(threads, _SPLITTING * budget_s)
            elif spent >= _FINAL:
                known = {c for c in self._alive if len(self.times[c]) >= _LEAST_ROUNDS}
                self._retire(known - contenders(self.times, self._alive))
        self._end()
        self.stop = Stop(self.batch, why, clock.now_s() - start_s, budget_s)
        self.bench.journal.note("stop", batch=self.batch, why=why)

    def _ended(self, number: int, spent: float) -> str:
        """Why no further round is run; empty where one is."""
        if not self._alive:
            return "nothing is left"
        if spent >= 1 and (number + 1 >= _ROUNDS_WHATEVER or spent >= _PATIENCE):
            return "the time was used"
        if self._is_settled(number):
            return "settled"
        return f"{_MOST_ROUNDS} rounds were run" if number + 1 >= _MOST_ROUNDS else ""

    def _has_like(self, candidate: Candidate) -> bool:
        """Whether another is in the race that differs in the graph alone."""
        return any(replace(other, variant=candidate.variant) == candidate for other in self._alive)

    def _admit(self, spent: float) -> bool:
        """Let in those that were expected to be slow, if time is left or all others failed; whether any were."""
        if not self._waiting or (spent >= 1 and self.times):
            return False
        late, self._waiting = self._waiting, []
        self._late |= set(late)
        for candidate in late:
            self._enter(candidate)
        return True

    def _is_settled(self, number: int) -> bool:
        return number >= 2 * _ROUNDS_BEFORE_OFFSPRING + 1 and settled(self.times, self._alive)

    def _enter(self, candidate: Candidate) -> None:
        """Load a candidate, check its numbers, and find out how many calls fit into a slice of time."""
        try:
            self._refuse_wrong(candidate)
            start_s = self.bench.journal.now_s()
            self.memory_bytes[candidate] = self.bench.load(candidate)
            self.load_s[candidate] = self.bench.journal.now_s() - start_s
            self._check(candidate)
            once = self.bench.time(candidate, 1)
        except RacelineError as error:
            self._fail(candidate, error)
            return
        once_s = max(once.times_s[0], 1e-9)
        self._calls[candidate] = max(1, min(_MOST_CALLS, round(_SLICE_S / once_s)))
        self._warm[candidate] = once_s < _NEEDS_WARMING_S
        self.times[candidate] = {}
        self.calls_s[candidate] = []
        self._alive.append(candidate)

    def _check(self, candidate: Candidate) -> None:
        """Compare with the reference; an engine that is wrong once is not trusted with this graph again.

        With fewer bits nothing equals the reference: then what counts is the accuracy budget.
        """
        found = self.bench.check(candidate)
        if isinstance(found, Accuracy):
            self.accuracy[candidate] = found
            self.bench.refuse_lossy(found)
        elif found:
            self.condemned[candidate.engine, candidate.variant] = f"wrong numbers: {found}"
            self._refuse_wrong(candidate)

    def _refuse_wrong(self, candidate: Candidate) -> None:
        why = self.condemned.get((candidate.engine, candidate.variant))
        if why is not None:
            raise BadModelError(why)

    def _round(self, number: int) -> None:
        """Time every candidate once, in random order."""
        for candidate in self.order.sample(self._alive, len(self._alive)):
            try:
                timing = self.bench.time(
                    candidate, self._calls[candidate], warm=self._warm[candidate], number=number
                )
            except RacelineError as error:
                self._fail(candidate, error)
                continue
            self.times[candidate][number] = representative_s(timing.times_s, timing.disturbed)
            self.calls_s[candidate] += timing.times_s

    def _breed(self, threads: Sequence[int]) -> None:
        """Enter offspring of the promising: of each engine and precision on the graph that suits it better.

        Pinning is tried with the leaders alone: it seldom changes much, and never the order of engines.
        """
        typical, best = typical_s(self.times), leaders(self.times)
        parents: dict[tuple[str, str, int], Candidate] = {}
        for candidate in sorted(self._alive, key=lambda c: -typical[c]):
            if typical[candidate] <= _PROMISING * typical[best[cores(candidate)]]:
                parents[candidate.engine, candidate.precision, candidate.threads] = candidate
        children = [child for parent in parents.values() for child in offspring(parent, threads)]
        children += [replace(leader, pinned=True) for leader in best.values() if leader.threads > 1]
        for child in children:
            if child not in self.times and child not in self.failures:
                self._enter(child)

    def _splice(self, threads: Sequence[int], budget_s: float) -> None:
        """Enter the splits between two engines that measured parts promise to be faster than either."""
        typical = typical_s(self.times)
        whole = rivals({c: typical[c] for c in self._alive if c in typical})
        if not whole:
            return
        # Two parts take as long to load as the whole.
        search = Splits(
            self.bench, self.bench.journal, whole, budget_s, longest_s=sum(self.load_s[c] for c in whole)
        )
        for split in search.propose():
            for count in threads:
                if (one := replace(split, threads=count)) not in self.times and one not in self.failures:
                    self._enter(one)

    def _end(self) -> None:
        """Free what is still loaded, and count for nothing what was hardly measured."""
        for candidate in self._alive:
            self._drop(candidate)
        enough = min(_LEAST_ROUNDS, max((len(rows) for rows in self.times.values()), default=0))
        for candidate in [c for c, rows in self.times.items() if len(rows) < enough]:
            self._fail(candidate, NotReadyError("not measured often enough", "the time was used"))
        self.hindered -= {c for c in self._late if "not measured" in self.failures.get(c, "")}
        for candidate in self._waiting:
            self.failures[candidate] = "not tried: others should be faster, and the time was used"

    def _retire(self, losers: set[Candidate]) -> None:
        if losers:
            self.bench.journal.note("retired", batch=self.batch, candidates=tuple(sorted(losers)))
        for candidate in losers:
            self._alive.remove(candidate)
            self._drop(candidate)

    def _fail(self, candidate: Candidate, why: RacelineError) -> None:
        _logger.debug("%s failed: %s", candidate, why)
        self.failures[candidate] = str(why)
        if isinstance(why, NotReadyError | HinderedError):
            self.hindered.add(candidate)
        self.times.pop(candidate, None)
        if candidate in self._alive:
            self._alive.remove(candidate)
        self._drop(candidate)

    def _drop(self, candidate: Candidate) -> None:
        """Free a candidate; where even that fails, it matters no more."""
        with suppress(RacelineError):
            self.bench.drop(candidate)

    def _leader(self) -> str:
        timed = {c: rows for c, rows in self.times.items() if rows}
        return str(next(reversed(leaders(timed).values()))) if timed else ""

    def measurements(self) -> list[Measurement]:
        """What was found, failures too."""
        typical = typical_s(self.times)
        rows = [
            Measurement(
                candidate,
                latency_s=seconds,
                latency_p99_s=_p99(self.calls_s[candidate]),
                memory_bytes=self.memory_bytes[candidate],
                runs=len(self.calls_s[candidate]),
                accuracy=self.accuracy.get(candidate),
            )
            for candidate, seconds in typical.items()
        ]
        failed = self.failures.items()
        return rows + [Measurement(c, failure=why, accuracy=self.accuracy.get(c)) for c, why in failed]


def _p99(times_s: Sequence[float]) -> float:
    """The 99th percentile; of few values the largest."""
    if len(times_s) < 2:
        return times_s[0] if times_s else 0.0
    return min(quantiles(times_s, n=100)[98], max(times_s))
