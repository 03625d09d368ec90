"""Choose the fastest of several candidates from noisy timings: pure decisions, no clock and no processes.

Candidates are timed in rounds, every round in another random order, so that a slow moment of the machine hits
them alike. All comparisons are of two candidates within the same round (paired), and by ranks, so that a
few disturbed timings do not count for more than their number.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from raceline.ir import Candidate

Times = Mapping[Candidate, Mapping[int, float]]
"""Seconds of one call (of the whole batch), by candidate and round; not every candidate is in every round."""

_ERROR = 0.05  # chance that a bound is wrong, on one side
_SWEEPS = 8  # of the median polish; it settles in three or four


@dataclass(frozen=True)
class Ratio:
    """How many times longer one candidate takes than another.

    Attributes:
        low, high: it is at least / at most so much, each with 95 % confidence; 0 and infinity where there are
            too few rounds to tell.
        middle: the median over the rounds.
        rounds: number of rounds that both ran in.
    """

    low: float
    middle: float
    high: float
    rounds: int


def ratio(times: Times, one: Candidate, other: Candidate) -> Ratio:
    """Compare two candidates over the rounds they share.

    The bounds are order statistics (the sign test turned round): they assume nothing of the noise but that it
    is as likely to favour either.
    """
    shared = times[one].keys() & times[other].keys()
    ratios = sorted(times[one][r] / times[other][r] for r in shared)
    if not ratios:
        return Ratio(0.0, math.nan, math.inf, 0)
    outside = _outside(len(ratios))
    if outside < 0:
        return Ratio(0.0, median(ratios), math.inf, len(ratios))
    return Ratio(ratios[outside], median(ratios), ratios[-1 - outside], len(ratios))


def _outside(count: int) -> int:
    """How many of `count` sorted values may be cut off each end for a bound of the median; -1: none fits."""
    chance, cut = 0.0, -1
    while cut + 1 <= count // 2:
        chance += math.comb(count, cut + 1) / 2**count
        if chance > _ERROR:
            break
        cut += 1
    return cut


def representative_s(times_s: Sequence[float], disturbed: Sequence[bool]) -> float:
    """One figure for a burst of calls: the median of those during which nobody else was given the CPU.

    Where every call was disturbed, the median of the faster half.
    """
    calm = [s for s, other in zip(times_s, disturbed, strict=True) if not other]
    kept = sorted(calm) or sorted(times_s)[: (len(times_s) + 1) // 2]
    return (kept[(len(kept) - 1) // 2] + kept[len(kept) // 2]) / 2


def typical_s(times: Times) -> dict[Candidate, float]:
    """Seconds of each candidate, the rounds' common drift taken out.

    It is Tukey's median polish of the logarithms. Candidates that left early are so compared fairly with
    those that ran on through faster or slower rounds.
    """
    logs = {c: {r: math.log(s) for r, s in rows.items()} for c, rows in times.items() if rows}
    rounds = sorted({r for rows in logs.values() for r in rows})
    drift = dict.fromkeys(rounds, 0.0)
    level: dict[Candidate, float] = {}
    for _ in range(_SWEEPS):
        level = {c: median(s - drift[r] for r, s in rows.items()) for c, rows in logs.items()}
        drift = {r: median(rows[r] - level[c] for c, rows in logs.items() if r in rows) for r in rounds}
    return {candidate: math.exp(value) for candidate, value in level.items()}


def cores(candidate: Candidate) -> int:
    """CPU cores a candidate keeps busy."""
    return candidate.cores


def leaders(times: Times) -> dict[int, Candidate]:
    """For each number of cores that any candidate uses: the fastest that uses at most so many."""
    typical = typical_s(times)
    budgets = sorted({cores(c) for c in typical})
    return {b: min((c for c in typical if cores(c) <= b), key=lambda c: typical[c]) for b in budgets}


def beaten(times: Times, alive: Iterable[Candidate]) -> set[Candidate]:
    """Those of `alive` that need not be timed any more: one that uses no more cores is clearly faster.

    The fewer the rounds, the wider the margin: twice as fast in each of three rounds, 1.5 times in each of
    four; from five on by the 95 % bound, which must be 5 % away, after ten rounds 1 %.
    """
    timed = [c for c in alive if times[c]]
    best = leaders({c: times[c] for c in timed})
    return {c for c in timed if c != best[cores(c)] and _loses(times, c, best[cores(c)])}


def _loses(times: Times, candidate: Candidate, leader: Candidate) -> bool:
    found = ratio(times, candidate, leader)
    if found.rounds < 5:
        shared = times[candidate].keys() & times[leader].keys()
        margin = {3: 2.0, 4: 1.5}.get(found.rounds, math.inf)
        return all(times[candidate][r] > margin * times[leader][r] for r in shared)
    return found.low > (1.05 if found.rounds < 10 else 1.01)


def contenders(times: Times, alive: Iterable[Candidate], *, close: float = 1.15) -> set[Candidate]:
    """Those of `alive` between which the choice is: for each number of cores, the fastest of each engine.

    An engine at another precision, or with pinned threads, counts as another engine. Those that are more than
    `close` times slower than the leader are left out. Candidates of one engine differ little where they differ
    at all; engines are where a wrong choice costs.
    """
    timed = {c: times[c] for c in alive if times[c]}
    typical = typical_s(times)
    found: set[Candidate] = set()
    for budget, leader in leaders(timed).items():
        fitting = sorted((c for c in timed if cores(c) <= budget), key=lambda c: -typical[c])
        fastest = {(c.engine, c.precision, c.pinned): c for c in fitting}
        found |= {c for c in fastest.values() if typical[c] <= close * typical[leader]}
    return found


def settled(times: Times, alive: Iterable[Candidate], *, slack: float = 1.02) -> bool:
    """Whether more rounds would not change anything that matters.

    So it is when, for each number of cores, the leader is with 95 % confidence at most `slack` times slower
    than any other that is still alive.
    """
    rivals = [c for c in alive if times[c]]
    best = leaders({c: times[c] for c in rivals})
    return all(
        ratio(times, leader, c).high <= slack
        for budget, leader in best.items()
        for c in rivals
        if c != leader and cores(c) <= budget
    )
