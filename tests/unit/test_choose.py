import math
from collections import Counter

import numpy as np
import pytest

from raceline.convert.choose import beaten, contenders, leaders, ratio, settled, typical_s
from raceline.ir import Candidate

A, B, C = (Candidate(name) for name in "abc")
WIDE = Candidate("w", threads=2)


def rows(*values):
    return dict(enumerate(values))


def test_ratios_are_of_the_same_round():
    times = {A: rows(1.0, 10.0, 100.0), B: rows(2.0, 20.0, 200.0)}
    assert ratio(times, B, A).middle == 2.0
    assert ratio(times, A, B).middle == 0.5


@pytest.mark.parametrize("count, cut", [(4, None), (5, 0), (7, 0), (8, 1), (11, 2), (13, 3)])
def test_bounds_are_those_of_the_sign_test(count, cut):
    found = ratio({A: rows(*range(1, count + 1)), B: rows(*[1.0] * count)}, A, B)
    if cut is None:
        assert (found.low, found.high) == (0.0, math.inf)
    else:
        assert (found.low, found.high) == (1 + cut, count - cut)


def test_bounds_hold_as_often_as_they_say():
    """Both bounds of the median of skewed noise, with 95 % confidence each."""
    rng = np.random.default_rng(0)
    missed = Counter()
    for _ in range(2000):
        noise = rng.lognormal(math.log(1.3), 0.5, (2, 9))
        found = ratio({A: rows(*(1.3 * noise[0])), B: rows(*noise[1])}, A, B)
        missed["low"] += found.low > 1.3
        missed["high"] += found.high < 1.3
    assert missed["low"] / 2000 <= 0.06 and missed["high"] / 2000 <= 0.06


def test_no_shared_round_says_nothing():
    assert ratio({A: {0: 1.0}, B: {1: 1.0}}, A, B).rounds == 0


def test_drift_is_taken_out_for_those_that_left_early():
    """B ran only while the machine was twice as fast; it is still the slower one."""
    times = {
        A: rows(1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0),
        B: rows(1.2, 1.2, 1.2),
        C: rows(*[3.0] * 3, *[6.0] * 4),
    }
    found = typical_s(times)
    assert found[B] / found[A] == pytest.approx(1.2)
    assert found[C] / found[A] == pytest.approx(3.0)


def test_a_candidate_competes_only_with_those_that_use_no_more_cores():
    times = {A: rows(*[2.0] * 6), B: rows(*[2.5] * 6), WIDE: rows(*[1.0] * 6)}
    assert leaders(times) == {1: A, 2: WIDE}
    assert beaten(times, times) == {B}
    slower = {**times, WIDE: rows(*[3.0] * 6)}
    assert leaders(slower) == {1: A, 2: A}
    assert beaten(slower, slower) == {B, WIDE}


def test_contenders_are_each_engines_fastest_near_the_leader():
    """One for each engine and number of cores; an engine that is far behind, or was dropped, has none."""
    other_a, wide_a = Candidate("a", variant="source"), Candidate("a", threads=2)
    times = {
        A: rows(1.0),
        other_a: rows(1.01),
        B: rows(1.1),
        C: rows(1.2),
        WIDE: rows(0.6),
        wide_a: rows(0.65),
    }
    assert contenders(times, times) == {A, B, WIDE, wide_a}
    assert contenders(times, set(times) - {A, WIDE}) == {other_a, B, wide_a}


def test_few_rounds_beat_only_the_hopeless():
    assert beaten({A: rows(1.0, 1.0), B: rows(9.0, 9.0)}, [A, B]) == set()
    assert beaten({A: rows(1.0, 1.0, 1.0), B: rows(9.0, 9.0, 9.0)}, [A, B]) == {B}
    assert beaten({A: rows(1.0, 1.0, 1.0), B: rows(9.0, 9.0, 1.2)}, [A, B]) == set()
    assert beaten({A: rows(*[1.0] * 3), B: rows(*[1.7] * 3)}, [A, B]) == set()
    assert beaten({A: rows(*[1.0] * 4), B: rows(*[1.7] * 4)}, [A, B]) == {B}
    assert beaten({A: rows(*[1.0] * 6), B: rows(*[1.04] * 6)}, [A, B]) == set()
    assert beaten({A: rows(*[1.0] * 12), B: rows(*[1.04] * 12)}, [A, B]) == {B}


def test_it_is_settled_once_nothing_could_be_much_faster_than_the_leader():
    assert settled({A: rows(*[1.0] * 5), B: rows(*[1.005] * 5)}, [A, B])
    assert not settled({A: rows(*[1.0] * 4), B: rows(*[1.005] * 4)}, [A, B])
    uncertain = {A: rows(1.0, 1.0, 1.0, 1.0, 1.2), B: rows(*[1.1] * 5)}
    assert not settled(uncertain, [A, B])
    assert settled({A: rows(1.0)}, [A])


def simulate(rng, true_s, rounds=16):
    """A tuner's decisions on a machine that drifts and is disturbed; the candidate it would pick."""
    alive, times = list(true_s), {c: {} for c in true_s}
    drift = np.exp(np.cumsum(rng.normal(0, 0.1, rounds)))
    for number in range(rounds):
        for c in rng.permutation(len(alive)):
            disturbed = 1.0 + rng.exponential(1.0) * (rng.random() < 0.2)
            noise = np.exp(rng.normal(0, 0.03)) * disturbed
            times[alive[c]][number] = true_s[alive[c]] * drift[number] * noise
        alive = [c for c in alive if c not in beaten(times, alive)]
        if number >= 7 and settled(times, alive):
            break
    typical = typical_s(times)
    return min(typical, key=typical.get), sum(len(r) for r in times.values())


def one_after_the_other(rng, true_s, calls=16):
    """What is usual: each candidate for itself, the mean of its calls."""
    drift, means = 1.0, {}
    for c in true_s:
        drift *= np.exp(rng.normal(0, 0.1))
        disturbed = 1.0 + rng.exponential(1.0, calls) * (rng.random(calls) < 0.2)
        means[c] = np.mean(true_s[c] * drift * np.exp(rng.normal(0, 0.03, calls)) * disturbed)
    return min(means, key=means.get)


def test_noise_does_not_choose():
    rng = np.random.default_rng(1)
    regret, naive, work = [], [], []
    for _ in range(80):
        true_s = {Candidate(f"e{i}"): s for i, s in enumerate(rng.choice([1, 1.02, 1.05, 1.1, 1.3, 2, 4], 9))}
        best = min(true_s.values())
        picked, timings = simulate(rng, true_s)
        regret.append(true_s[picked] / best)
        naive.append(true_s[one_after_the_other(rng, true_s)] / best)
        work.append(timings / (16 * len(true_s)))
    assert np.quantile(regret, 0.98) <= 1.05
    assert np.mean(np.array(regret) > 1.05) < np.mean(np.array(naive) > 1.05) / 4
    assert np.mean(work) < 0.7, "early elimination saves measurements"
