"""Which candidate is fastest, from noisy timings: pure decisions, so that noise can be simulated in tests.

All candidates are timed in the same rounds. A machine that slows down slows the whole round, so candidates are
compared within rounds, by their ratio to the best, never by times from different moments.
"""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

C = TypeVar("C", bound=Hashable)

Rounds = Mapping[C, Sequence[float]]
"""Seconds of each candidate in each round it took part in, first round first; a candidate may stop early."""

CERTAIN_ROUNDS = 3


def leader(rounds: Rounds[C]) -> C:
    """The candidate of the lowest median among those that took part in most rounds."""
    most = max(len(times) for times in rounds.values())
    return min((c for c in rounds if len(rounds[c]) == most), key=lambda c: statistics.median(rounds[c]))


def ratio(rounds: Rounds[C], candidate: C, other: C) -> float:
    """How many times slower `candidate` is than `other`: the median over the rounds both took part in."""
    both = zip(rounds[candidate], rounds[other], strict=False)
    return statistics.median(mine / its for mine, its in both)


def survivors(rounds: Rounds[C], *, slower: float) -> list[C]:
    """Those worth another round.

    A candidate leaves when it was slower than the leader each single time, and by a median factor of more than
    `slower`. Nobody leaves before three rounds.
    """
    best = leader(rounds)
    current = [c for c in rounds if len(rounds[c]) == len(rounds[best])]
    if len(rounds[best]) < CERTAIN_ROUNDS:
        return current
    return [
        c
        for c in current
        if ratio(rounds, c, best) <= slower
        or any(mine <= its for mine, its in zip(rounds[c], rounds[best], strict=True))
    ]


def corrected(rounds: Rounds[C]) -> dict[C, float]:
    """Each candidate's seconds as they would be at the leader's moment: its ratio times the leader's median."""
    best = leader(rounds)
    scale = statistics.median(rounds[best])
    return {c: scale * ratio(rounds, c, best) for c in rounds}
