"""The cost model, and the choice of engine, threads and batch from a measured profile."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raceline.core.errors import ConfigError
from raceline.ir import Candidate, Measurement, Profile
from raceline.serve import Settings
from raceline.serve.costs import MeasuredCosts
from raceline.serve.loading import UNMEASURED_ENGINE, UNMEASURED_MAX_BATCH, choose

# ---------------------------------------------------------------- costs


def test_linear_between_sizes_flat_below_proportional_above():
    costs = MeasuredCosts({2: 0.2, 4: 0.3})
    assert [costs.seconds(n) for n in (1, 2, 3, 4, 8)] == pytest.approx([0.2, 0.2, 0.25, 0.3, 0.6])


def test_nothing_known_costs_nothing():
    assert MeasuredCosts({}).seconds(7) == 0.0


def test_the_first_run_replaces_the_seed_and_later_ones_move_it():
    costs = MeasuredCosts({4: 9.0})
    costs.observe(4, 1.0)
    assert costs.seconds(4) == 1.0
    costs.observe(4, 2.0)
    assert costs.seconds(4) == pytest.approx(1.1)


@pytest.mark.parametrize("seed_s", [{0: 1.0}, {1: 0.0}, {1: float("nan")}])
def test_impossible_seeds(seed_s):
    with pytest.raises(ConfigError):
        MeasuredCosts(seed_s)


SECONDS = st.floats(1e-6, 10.0)


@given(
    st.dictionaries(st.integers(1, 64), SECONDS, max_size=5),
    st.lists(st.tuples(st.integers(1, 64), SECONDS)),
    st.integers(1, 64),
)
def test_estimates_stay_within_what_was_seen(seed_s, runs, items):
    costs = MeasuredCosts(seed_s)
    for size, ran_s in runs:
        costs.observe(size, ran_s)
    seen_s = [*seed_s.values(), *(ran_s for _, ran_s in runs)]
    sizes = [*seed_s, *(size for size, _ in runs)]
    if not sizes:
        assert costs.seconds(items) == 0.0
    elif items <= max(sizes):
        assert min(seen_s) * 0.999 <= costs.seconds(items) <= max(seen_s) * 1.001
    else:
        assert costs.seconds(items) > 0


# ---------------------------------------------------------------- choice


def row(engine, batch, latency_s, threads=1, streams=1, **more):
    return Measurement(
        Candidate(engine, threads=threads, batch=batch, streams=streams), latency_s=latency_s, runs=9, **more
    )


def profile(*rows):
    return Profile("here", "0" * 64, {"x": (1, 4)}, rows)


def pick(*rows, cores=2, batched=True, **settings):
    return choose(profile(*rows), Settings(**settings), batched=batched, cores=cores)


def test_the_best_throughput_wins():
    choice = pick(row("a", 1, 0.010), row("a", 8, 0.040), row("b", 1, 0.009), row("b", 8, 0.064))
    assert (choice.engine, choice.max_batch, choice.seed_s) == ("a", 8, {1: 0.010, 8: 0.040})
    assert "200 items/s" in choice.why


def test_of_nearly_equal_ones_the_lower_latency_wins():
    assert pick(row("a", 1, 0.020), row("a", 8, 0.080), row("b", 1, 0.011), row("b", 8, 0.082)).engine == "b"


def test_a_batch_that_gains_nothing_is_not_made():
    assert pick(row("a", 1, 0.010), row("a", 8, 0.079)).max_batch == 1


def test_rows_beyond_the_cores_and_failures_are_left_out():
    best = row("a", 8, 0.001, threads=4)
    failed = row("c", 8, 0.0001, failure="it crashed")
    assert pick(best, failed, row("b", 1, 0.010)).engine == "b"


def test_streams_become_workers_and_share_the_batch():
    choice = pick(row("a", 2, 0.010, streams=2), row("a", 8, 0.030, streams=2))
    assert (choice.workers, choice.threads, choice.max_batch) == (2, 1, 4)
    assert choice.seed_s == {1: 0.010, 4: 0.030}


def test_a_batch_cut_into_chunks_is_served_as_calls_of_a_chunk():
    chunked = Measurement(Candidate("a", batch=8, streams=2, chunk=1), latency_s=0.040, runs=9)
    choice = pick(row("a", 2, 0.0098, streams=2), chunked, row("a", 8, 0.060, streams=2))
    assert (choice.max_batch, choice.workers) == (1, 2)
    assert choice.seed_s == {1: pytest.approx(0.0098), 4: 0.060}


def test_settings_override():
    rows = row("a", 8, 0.010), row("b", 8, 0.020), row("b", 8, 0.015, threads=2)
    assert pick(*rows, engine="b").threads == 2
    assert pick(*rows, engine="b", threads=1).seed_s == {8: 0.020}
    assert pick(*rows, max_batch=3).max_batch == 3
    assert pick(*rows, engine="z").engine == "z"


def test_threads_and_workers_that_were_not_measured_keep_the_engine():
    rows = row("a", 1, 0.010), row("b", 1, 0.020)
    choice = pick(*rows, threads=7, workers=3)
    assert (choice.engine, choice.threads, choice.workers) == ("a", 7, 3)


def test_without_a_batch_axis_every_batch_is_one():
    assert pick(row("a", 1, 0.010), row("a", 8, 0.020), batched=False).max_batch == 1
    assert pick(row("a", 1, 0.010), batched=False, max_batch=16).max_batch == 1


def test_without_a_batch_axis_workers_still_share_the_cores():
    choice = pick(row("a", 1, 0.010), row("a", 1, 0.006, threads=2), batched=False)
    assert (choice.threads, choice.workers) == (1, 2)
    choice = pick(row("a", 1, 0.010), row("a", 1, 0.004, threads=2), batched=False)
    assert (choice.threads, choice.workers) == (2, 1)


def test_an_unmeasured_model_gets_defaults():
    choice = choose(None, Settings(), batched=True, cores=2)
    assert (choice.engine, choice.threads, choice.max_batch) == (UNMEASURED_ENGINE, 2, UNMEASURED_MAX_BATCH)
    assert choose(None, Settings(workers=2), batched=True, cores=2).threads == 1


def test_only_the_graph_that_a_bundle_carries_counts():
    source = Measurement(Candidate("a", batch=8, variant="source"), latency_s=0.001, runs=9)
    assert pick(source, row("b", 1, 0.010)).engine == "b"


@pytest.mark.parametrize("name", ["threads", "workers", "max_batch", "max_queue"])
def test_impossible_settings(name):
    with pytest.raises(ConfigError, match=f"{name} is 0"):
        Settings(**{name: 0})
