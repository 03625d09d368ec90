"""The batcher as scripts of a dialogue, and its invariants under any order of events."""

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raceline.core.errors import InvariantError
from raceline.serve.batching import (
    Arrived,
    Batcher,
    Cancelled,
    Dispatch,
    Drain,
    Drained,
    Eager,
    Limits,
    NotBefore,
    Now,
    Reason,
    Refuse,
    Tick,
    WakeAt,
    WorkerFree,
)
from raceline.serve.costs import MeasuredCosts


def batcher(workers=1, policy=None, costs=None, **limits):
    limits = Limits(**{"max_batch": 4, "max_queue": 16, **limits})
    return Batcher(policy or Eager(), limits, costs or MeasuredCosts({}), workers)


def refusals(commands):
    return [(c.request, c.reason) for c in commands if isinstance(c, Refuse)]


# ---------------------------------------------------------------- dialogues


def test_a_free_worker_takes_a_request_at_once():
    b = batcher()
    assert b.on(Arrived(0), 1.0) == [Dispatch(0, (0,))]
    assert b.on(WorkerFree(0), 2.0) == []
    assert b.idle


def test_what_arrives_meanwhile_runs_together_in_order():
    b = batcher()
    b.on(Arrived(0), 0.0)
    for number in (1, 2, 3, 4, 5):
        assert b.on(Arrived(number), 0.1) == []
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1, 2, 3, 4))]
    assert b.on(WorkerFree(0), 2.0) == [Dispatch(0, (5,))]


def test_items_count_and_nobody_overtakes():
    b = batcher()
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1, items=3), 0.0)
    b.on(Arrived(2, items=2), 0.0)
    b.on(Arrived(3, items=1), 0.0)  # would fit beside 1, but 2 came first
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1,))]
    assert b.on(WorkerFree(0), 2.0) == [Dispatch(0, (2, 3))]


def test_a_request_above_the_largest_batch_runs_alone():
    b = batcher()
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1, items=9), 0.0)
    b.on(Arrived(2), 0.0)
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1,))]
    assert b.on(WorkerFree(0), 2.0) == [Dispatch(0, (2,))]


def test_groups_never_mix_and_the_oldest_goes_first():
    b = batcher()
    b.on(Arrived(0, group="a"), 0.0)
    for number, group in ((1, "b"), (2, "a"), (3, "b")):
        b.on(Arrived(number, group=group), 0.0)
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1, 3))]
    assert b.on(WorkerFree(0), 2.0) == [Dispatch(0, (2,))]


def test_workers_run_side_by_side():
    b = batcher(workers=2)
    assert b.on(Arrived(0), 0.0) == [Dispatch(0, (0,))]
    assert b.on(Arrived(1), 0.0) == [Dispatch(1, (1,))]
    assert b.on(Arrived(2), 0.0) == []
    assert b.on(WorkerFree(1), 0.5) == [Dispatch(1, (2,))]


def test_a_full_queue_refuses_and_says_that_waiting_helps():
    b = batcher(max_queue=2)
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1, items=2), 0.0)
    (refusal,) = b.on(Arrived(2), 0.0)
    assert (refusal.request, refusal.reason, refusal.retry_helps) == (2, Reason.QUEUE_FULL, True)
    assert "2 of 2 items" in refusal.why
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1,))]


def test_what_can_never_fit_is_refused_for_good():
    (refusal,) = batcher(max_queue=8).on(Arrived(0, items=9), 0.0)
    assert (refusal.reason, refusal.retry_helps) == (Reason.TOO_LARGE, False)


def test_a_deadline_wakes_and_refuses():
    b = batcher()
    b.on(Arrived(0), 0.0)
    assert b.on(Arrived(1, deadline_s=5.0), 1.0) == [WakeAt(5.0)]
    assert b.on(Arrived(2, deadline_s=9.0), 1.0) == []  # the wake that was asked for comes first
    assert refusals(b.on(Tick(), 5.0)) == [(1, Reason.DEADLINE)]
    assert b.on(WorkerFree(0), 6.0) == [Dispatch(0, (2,))]


def test_the_next_deadline_is_asked_for_after_a_tick():
    b = batcher()
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1, deadline_s=5.0), 1.0)
    b.on(Arrived(2, deadline_s=9.0), 1.0)
    assert b.on(Tick(), 5.0)[-1] == WakeAt(9.0)


def test_a_tick_that_comes_early_is_asked_for_again():
    b = batcher()
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1, deadline_s=5.0), 1.0)
    assert b.on(Tick(), 4.999) == [WakeAt(5.0)]


def test_a_deadline_in_the_past_is_refused_on_arrival():
    assert refusals(batcher().on(Arrived(0, deadline_s=1.0), 1.0)) == [(0, Reason.DEADLINE)]


def test_an_expired_request_is_refused_even_if_the_tick_is_late():
    b = batcher()
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1, deadline_s=2.0), 0.0)
    b.on(Arrived(2), 0.0)
    assert b.on(WorkerFree(0), 3.0)[-1] == Dispatch(0, (2,))


def test_a_cancelled_request_leaves_the_queue_and_its_room():
    b = batcher(max_queue=1)
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1), 0.0)
    assert b.on(Cancelled(1), 0.1) == []
    assert b.on(Arrived(2), 0.2) == []
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (2,))]


def test_cancelling_what_runs_changes_nothing():
    b = batcher()
    b.on(Arrived(0), 0.0)
    assert b.on(Cancelled(0), 0.1) == []
    assert not b.idle
    assert b.on(WorkerFree(0), 1.0) == []


def test_drain_finishes_what_waits_and_says_so_once():
    b = batcher()
    b.on(Arrived(0), 0.0)
    b.on(Arrived(1), 0.0)
    assert b.on(Drain(), 0.1) == []
    assert refusals(b.on(Arrived(2), 0.2)) == [(2, Reason.DRAINING)]
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1,))]
    assert b.on(WorkerFree(0), 2.0) == [Drained()]
    assert b.on(Tick(), 3.0) == []


def test_draining_an_idle_batcher_is_done_at_once():
    assert batcher().on(Drain(), 0.0) == [Drained()]


def test_a_broken_shell_is_told():
    b = batcher()
    with pytest.raises(InvariantError, match="worker 0"):
        b.on(WorkerFree(0), 0.0)
    b.on(Arrived(3), 0.0)
    with pytest.raises(InvariantError, match="request 3"):
        b.on(Arrived(3), 0.0)


def test_costs_learn_from_the_workers():
    costs = MeasuredCosts({1: 0.5})
    b = batcher(costs=costs)
    b.on(Arrived(0), 0.0)
    b.on(WorkerFree(0, ran_s=0.01), 1.0)
    assert costs.seconds(1) == 0.01


class TwoOrHalfASecond(Eager):
    """Waits for two items, but no longer than half a second; keeps what it is told."""

    def __init__(self):
        self.ran = []

    def items_now(self, queue, limits, now_s, costs):
        waiting = list(queue)
        if sum(w.items for w in waiting) >= 2 or now_s >= waiting[0].arrived_s + 0.5:
            return Now(2)
        return NotBefore(waiting[0].arrived_s + 0.5)

    def observe(self, batch, now_s):
        self.ran.append(batch)


def test_a_policy_may_wait_and_the_batcher_wakes_it():
    b = batcher(policy=TwoOrHalfASecond())
    assert b.on(Arrived(0), 1.0) == [WakeAt(1.5)]
    assert b.on(Arrived(1), 1.2) == [Dispatch(0, (0, 1))]
    b.on(WorkerFree(0), 1.3)
    assert b.on(Arrived(2), 1.3) == []  # the wake at 1.5 still stands
    assert b.on(Tick(), 1.5) == [WakeAt(1.8)]
    assert b.on(Tick(), 1.8) == [Dispatch(0, (2,))]


def test_nobody_waits_for_company_while_draining():
    b = batcher(policy=TwoOrHalfASecond())
    b.on(Arrived(0), 1.0)
    assert b.on(Drain(), 1.1) == [Dispatch(0, (0,))]


def test_a_group_that_waits_does_not_hold_up_one_that_is_ready():
    b = batcher(policy=TwoOrHalfASecond())
    b.on(Arrived(0, group="a"), 1.0)
    assert b.on(Arrived(1, items=2, group="b"), 1.1) == [Dispatch(0, (1,))]


def test_a_policy_hears_how_long_requests_took():
    policy = TwoOrHalfASecond()
    b = batcher(policy=policy)
    b.on(Arrived(0), 1.0)
    b.on(Arrived(1), 1.25)
    b.on(WorkerFree(0, ran_s=0.5), 2.0)
    (ran,) = policy.ran
    assert (ran.items, ran.ran_s, ran.latencies_s) == (2, 0.5, (1.0, 0.75))


class Greedy(Eager):
    """Asks for more than is allowed."""

    def items_now(self, queue, limits, now_s, costs):
        return Now(10**9)


def test_no_policy_passes_the_limits():
    b = batcher(policy=Greedy())
    for number in range(6):
        b.on(Arrived(number), 0.0)
    assert b.on(WorkerFree(0), 1.0) == [Dispatch(0, (1, 2, 3, 4))]


def test_far_deadlines_do_not_pile_up():
    b = batcher()
    for number in range(2000):
        b.on(Arrived(number, deadline_s=1e9), float(number))
        b.on(WorkerFree(0), float(number))
    assert len(b._deadlines) < 100


# ---------------------------------------------------------------- whatever happens, in any order


class Shell(RuleBasedStateMachine):
    """Random events; every answer is checked against the rules at the top of batching.py."""

    WORKERS, MAX_BATCH, MAX_QUEUE = 2, 4, 10
    policy = Eager

    def __init__(self):
        super().__init__()
        limits = Limits(self.MAX_BATCH, self.MAX_QUEUE)
        self.b = Batcher(self.policy(), limits, MeasuredCosts({}), self.WORKERS)
        self.now_s = 0.0
        self.arrived = {}  # number -> Arrived
        self.open = []  # numbers neither answered nor cancelled, in order of arrival
        self.busy = {}
        self.draining = self.drained = False
        self.wake_s = None

    def tell(self, event):
        for command in self.b.on(event, self.now_s):
            self.check(command)

    def check(self, command):
        assert not self.drained or isinstance(command, Refuse)
        if isinstance(command, Dispatch):
            self.check_batch(command)
        elif isinstance(command, Refuse):
            self.open.remove(command.request)  # fails where it was answered before
        elif isinstance(command, WakeAt):
            assert command.time_s > self.now_s
            self.wake_s = command.time_s
        elif isinstance(command, Drained):
            assert self.draining
            assert not self.open
            assert not self.busy
            self.drained = True

    def check_batch(self, command):
        batch = [self.arrived[number] for number in command.requests]
        assert command.worker not in self.busy
        self.busy[command.worker] = command.requests
        assert len({a.group for a in batch}) == 1
        assert len(batch) == 1 or sum(a.items for a in batch) <= self.MAX_BATCH
        assert all(a.deadline_s is None or a.deadline_s > self.now_s for a in batch)
        of_group = [n for n in self.open if self.arrived[n].group == batch[0].group]
        assert tuple(of_group[: len(batch)]) == command.requests  # the oldest, in order
        for number in command.requests:
            self.open.remove(number)

    @rule(
        items=st.integers(1, 6),
        group=st.sampled_from("ab"),
        patience_s=st.one_of(st.none(), st.floats(0.0, 5.0)),
    )
    def arrive(self, items, group, patience_s):
        number = len(self.arrived)
        deadline_s = None if patience_s is None else self.now_s + patience_s
        self.arrived[number] = Arrived(number, items, group, deadline_s)
        self.open.append(number)
        self.tell(self.arrived[number])

    @precondition(lambda self: self.busy)
    @rule(data=st.data())
    def finish(self, data):
        worker = data.draw(st.sampled_from(sorted(self.busy)))
        del self.busy[worker]
        self.tell(WorkerFree(worker, ran_s=0.1))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.sampled_from(self.open))
        self.open.remove(number)
        self.tell(Cancelled(number))

    @rule(number=st.integers(0, 50))
    def cancel_what_left(self, number):
        if number not in self.open:
            self.tell(Cancelled(number))

    @rule(passed_s=st.floats(0.01, 3.0))
    def wait(self, passed_s):
        self.now_s += passed_s
        if self.wake_s is not None and self.now_s >= self.wake_s:
            self.wake_s = None
            self.tell(Tick())

    @rule()
    def drain(self):
        self.draining = True
        self.tell(Drain())

    @invariant()
    def queue_is_counted_and_bounded(self):
        items = sum(self.arrived[n].items for n in self.open)
        assert self.b.waiting_items == items <= self.MAX_QUEUE

    @invariant()
    def no_worker_idles_while_requests_wait(self):
        assert not self.open or len(self.busy) == self.WORKERS or self.wake_s is not None

    @invariant()
    def nobody_sleeps_past_a_deadline(self):
        deadlines_s = [self.arrived[n].deadline_s for n in self.open]
        pending_s = [d for d in deadlines_s if d is not None]
        assert not pending_s or (self.wake_s is not None and self.wake_s <= min(pending_s))

    def teardown(self):
        """Nothing is lost: drained, every request that nobody took back has been answered."""
        if self.drained:
            return
        self.draining = True
        self.tell(Drain())
        while self.busy:
            self.now_s += 1.0
            worker, _ = self.busy.popitem()
            self.tell(WorkerFree(worker))
        assert self.drained
        assert not self.open


class EagerShell(Shell):
    """The eager policy in particular never lets a worker idle while anything waits."""

    @invariant()
    def no_worker_idles(self):
        assert not self.open or len(self.busy) == self.WORKERS


class PatientShell(Shell):
    """A policy that waits keeps every rule as well."""

    policy = TwoOrHalfASecond


MANY = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
TestEager, TestPatient = EagerShell.TestCase, PatientShell.TestCase
TestEager.settings = TestPatient.settings = MANY
