"""One race: all candidates of one batch, loaded side by side, timed in rounds until the choice is clear."""

import itertools
import logging
import math
import random
from collections.abc import Iterable, Iterator, Sequence
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
from raceline.ir.profile import UNTRIED

Graph = tuple[str, str]
"""An engine and the variant of the graph that it runs."""

_SLICE_S = 0.03  # of one candidate in one round
_MOST_CALLS = 300  # of one candidate in one round
_NEEDS_WARMING_S = 0.06  # shorter calls feel the caches that the candidate before them left
_MOST_ROUNDS = 40
_ROUNDS_BEFORE_OFFSPRING = 3
_LEAST_ROUNDS = 3  # with fewer, offspring that looks fast may only have been lucky
_ENOUGH_ROUNDS = 5  # one round after cold starts tells nothing
# Everything counts: loading, checking and timing. Until which part of the budget
_VARIETY = 0.5  # whoever differs from another in the race by graph, chunks or streams alone may enter,
_FINAL = 0.6  # all candidates are timed, and then the contenders alone,
_KINDS = 0.75  # the first of an engine, precision and number of threads, or the leader in streams, may enter.
_GRACE = 0.25  # of the budget more is for rounds where there were not enough of them.
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


def _kind(candidate: Candidate) -> tuple[str, str, str]:
    """What every race should have one of."""
    return candidate.engine, candidate.precision, f"t{candidate.threads}"


def _dealt(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The first of each engine, then of each kind, then the others, in the order given.

    Kinds that use few cores and many take turns, as the best of each number of cores is looked for.
    """
    engines = {candidate.engine: candidate for candidate in reversed(candidates)}
    kinds = {_kind(candidate): candidate for candidate in reversed(candidates)}
    first = [c for c in candidates if c == engines[c.engine]]
    second = [c for c in candidates if c == kinds[_kind(c)] and c not in first]
    by_cores = [[c for c in second if c.cores == count] for count in dict.fromkeys(c.cores for c in second)]
    turns = [c for row in itertools.zip_longest(*by_cores) for c in row if c is not None]
    return [*first, *turns, *(c for c in candidates if c not in first and c not in second)]


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
    _crowded_out: list[Candidate] = field(default_factory=list)
    _late: set[Candidate] = field(default_factory=set)
    _start_s: float = 0.0
    _budget_s: float = math.inf
    _patience: float = 0.0
    _loaded: float = 0.0

    def run(
        self,
        founders: Sequence[Candidate],
        threads: Sequence[int],
        budget_s: float,
        step: Step,
        waiting: Sequence[Candidate] = (),
        patience_s: float = 0.0,
    ) -> None:
        """Time rounds until the choice is clear or the time is used; `waiting` enter when it is clear.

        The first of each engine may enter until `patience_s` at least.
        """
        clock = self.bench.journal
        self._start_s, self._budget_s, self._patience = clock.now_s(), budget_s, patience_s / budget_s
        entering, self._waiting = self.bench.founders(self.batch, founders, waiting)
        self._crowded_out = self._entered(_dealt(entering))
        self._waiting += self._crowded_out
        self._loaded = self._spent()
        now_s = self._start_s
        since = 0  # the round before which somebody entered last
        for number in itertools.count():
            self._round(number)
            before_s, now_s = now_s, clock.now_s()
            step.advance(now_s - before_s, note=self._leader())
            if why := self._ended(number - since):
                if not self._admit():
                    break
                since = number + 1
                continue
            self._retire(beaten(self.times, self._alive))
            if number - since + 1 == _ROUNDS_BEFORE_OFFSPRING and self._spent() < _KINDS:
                self._breed(threads)
                if self._spent() < _VARIETY:
                    self._splice(threads, _SPLITTING * budget_s)
            elif self._spent() >= _FINAL:
                known = {c for c in self._alive if len(self.times[c]) >= _LEAST_ROUNDS}
                self._retire(known - contenders(self.times, self._alive))
        self._end()
        spent_s = clock.now_s() - self._start_s
        self.stop = Stop(self.batch, why, spent_s, budget_s, len(self._waiting), self._unheard())
        self.bench.journal.note("stop", batch=self.batch, why=why)

    def _spent(self) -> float:
        """The part of the budget that is gone."""
        return (self.bench.journal.now_s() - self._start_s) / self._budget_s

    def _ended(self, number: int) -> str:
        """Why no further round is run; empty where one is."""
        if not self._alive:
            return "nothing is left"
        most = 1 if number + 1 >= _ENOUGH_ROUNDS else max(1, self._loaded) + _GRACE
        if self._spent() >= most:
            return "the time was used"
        if self._is_settled(number):
            return "settled"
        return f"{_MOST_ROUNDS} rounds were run" if number + 1 >= _MOST_ROUNDS else ""

    def _entered(self, candidates: Iterable[Candidate], variety: float = _VARIETY) -> list[Candidate]:
        """Let candidates in for as long as the time lasts for it; those that stay outside."""
        outside = []
        for candidate in candidates:
            until = variety if _kind(candidate) in map(_kind, self._alive) else _KINDS
            if candidate.engine not in {other.engine for other in self._alive}:
                until = max(_KINDS, self._patience)
            if all(other.cores > candidate.cores for other in self._alive):
                until = math.inf  # nothing else would run on so few cores
            if self._spent() < until:
                self._enter(candidate)
            else:
                outside.append(candidate)
        return outside

    def _admit(self) -> bool:
        """Let in those that wait, if time is left or all others failed; whether any were."""
        late, self._waiting = self._waiting, self._entered(self._waiting, _KINDS)
        self._late |= set(late) - set(self._waiting)
        return len(self._waiting) < len(late)

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
        fresh = [c for c in dict.fromkeys(children) if c not in self.times and c not in self.failures]
        # Several streams of what is fastest on one core seldom lose to one call on all cores.
        likely = [
            c for c in fresh if c.streams > 1 and not c.chunk and replace(c, streams=1) in best.values()
        ]
        self._entered(likely, _KINDS)
        self._entered([c for c in fresh if c not in likely])

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
        splits = [replace(split, threads=count) for split in search.propose() for count in threads]
        for one in splits:
            if one not in self.times and one not in self.failures:
                self._enter(one)

    def _end(self) -> None:
        """Free what is still loaded, and count for nothing what was hardly measured."""
        for candidate in self._alive:
            self._drop(candidate)
        enough = min(_LEAST_ROUNDS, max((len(rows) for rows in self.times.values()), default=0))
        for candidate in [c for c, rows in self.times.items() if len(rows) < enough]:
            self._fail(candidate, NotReadyError("not measured often enough", "the time was used"))
        self.hindered -= {c for c in self._late if "not measured" in self.failures.get(c, "")}
        unheard = self._unheard()
        self.hindered |= {c for c in self._crowded_out if " ".join(_kind(c)) in unheard}
        for candidate in self._waiting:
            self.failures[candidate] = f"{UNTRIED}: the time was used"

    def _unheard(self) -> tuple[str, ...]:
        """Engines at precisions and numbers of threads of which nobody was tried."""
        tried = {_kind(c) for c in (*self.times, *self.failures) if c not in self._waiting}
        return tuple(sorted({" ".join(_kind(c)) for c in self._waiting if _kind(c) not in tried}))

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
