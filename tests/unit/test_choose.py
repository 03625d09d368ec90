"""Noise does not choose: the chooser against simulated timings whose truth is known."""

import random

import pytest

from raceline.convert.choose import corrected, leader, ratio, survivors

TRUE_MS = {"best": 10.0, "near": 10.3, "far": 13.0, "hopeless": 30.0}


def simulate(seed, *, rounds=12, drift=0.5, spikes=0.2, bounds=(1.5, 1.2, 1.08)):
    """Rounds on a machine that drifts by half and is hit by spikes, as the tuner runs them."""
    chance = random.Random(seed)
    seen = {name: [] for name in TRUE_MS}
    still = list(TRUE_MS)
    for number in range(rounds):
        speed = 1 + drift * chance.random()
        for name in still:
            spike = 3.0 if chance.random() < spikes else 1.0
            seen[name].append(TRUE_MS[name] * speed * spike * chance.gauss(1, 0.01))
        still = survivors(seen, slower=bounds[min(number // 3, len(bounds) - 1)])
    return seen


def test_the_winner_is_within_five_percent_of_the_best_nearly_always():
    wins = [TRUE_MS[leader(simulate(seed))] for seed in range(200)]
    assert sum(ms <= 1.05 * TRUE_MS["best"] for ms in wins) >= 196


def test_hopeless_candidates_leave_early_and_close_ones_stay():
    lengths = [{name: len(times) for name, times in simulate(seed).items()} for seed in range(50)]
    assert sum(one["hopeless"] <= 6 for one in lengths) >= 45
    assert all(max(one["best"], one["near"]) == 12 for one in lengths)


def test_drift_between_rounds_does_not_count():
    seen = {"a": [10.0, 20.0, 40.0], "b": [11.0, 22.0, 44.0]}
    assert ratio(seen, "b", "a") == pytest.approx(1.1)
    assert corrected(seen) == pytest.approx({"a": 20.0, "b": 22.0})


def test_one_that_left_is_judged_by_the_rounds_it_was_in():
    seen = {"a": [10.0, 20.0, 20.0, 20.0], "b": [15.0]}
    assert corrected(seen)["b"] == pytest.approx(30.0)
    assert leader({"a": [10.0, 10.0], "b": [1.0]}) == "a"


def test_nobody_leaves_before_three_rounds():
    assert survivors({"a": [1.0, 1.0], "b": [9.0, 9.0]}, slower=1.5) == ["a", "b"]
    assert survivors({"a": [1.0] * 3, "b": [9.0] * 3}, slower=1.5) == ["a"]


def test_one_lucky_round_keeps_a_candidate():
    assert survivors({"a": [1.0] * 3, "b": [9.0, 9.0, 0.9]}, slower=1.5) == ["a", "b"]
