"""Which requests run next: events in, commands out. No socket, thread, clock or array in here.

The shell around it (live.py) turns what happens into events, tells the time with each, and carries the
commands out. So every rule below is tested as a script of a dialogue.

What always holds, whatever the policy:
- A request that arrived is dispatched or refused, exactly once, unless it was cancelled before.
- A batch holds requests of one group only (equal shapes but for the batch axis), in order of arrival.
- Items are counted, not requests. A batch never exceeds `max_batch` items, with one exception: a single
  request that is larger runs alone, as its caller asked for that size and the engine can do it.
- Waiting items never exceed `max_queue`; a request that could never fit is refused for good.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from raceline.core.errors import InvariantError

# ---------------------------------------------------------------- events: what happened


@dataclass(frozen=True, slots=True)
class Arrived:
    """A valid request came in.

    Attributes:
        request: its number, larger than that of any request before it.
        items: rows along the batch axis, at least 1.
        group: requests may share a batch where this is equal.
        deadline_s: on the batcher's clock; the request is worthless later. None: it can wait.
    """

    request: int
    items: int = 1
    group: Hashable = None
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The caller of a request went away. One that is already running keeps running."""

    request: int


@dataclass(frozen=True, slots=True)
class WorkerFree:
    """A worker finished its batch, well or not.

    Attributes:
        worker: its index.
        ran_s: seconds the engine took for the batch; None where that says nothing of its cost (a failure).
    """

    worker: int
    ran_s: float | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """The moment of an earlier WakeAt has come."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no more requests; finish those that wait and run."""


Event = Arrived | Cancelled | WorkerFree | Tick | Drain

# ---------------------------------------------------------------- commands: what to do


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run these requests, in this order, as one batch on this worker."""

    worker: int
    requests: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a Tick at this moment; replaces any WakeAt before it."""

    time_s: float


class Reason(Enum):
    """Why a request was refused; `retry_helps` says whether the same request may succeed later."""

    QUEUE_FULL = "queue full"
    DEADLINE = "deadline"
    DRAINING = "draining"
    TOO_LARGE = "too large"

    @property
    def retry_helps(self) -> bool:
        """Whether the same request may succeed later."""
        return self is not Reason.TOO_LARGE


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer this request with a refusal."""

    request: int
    reason: Reason
    why: str

    @property
    def retry_helps(self) -> bool:
        """Whether the same request may succeed later."""
        return self.reason.retry_helps


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing waits or runs any more, and nothing will; said once."""


Command = Dispatch | WakeAt | Refuse | Drained

# ---------------------------------------------------------------- what a policy sees and decides


@dataclass(frozen=True, slots=True)
class Limits:
    """Hard bounds that no policy can pass.

    Attributes:
        max_batch: items in one batch.
        max_queue: items that may wait.
    """

    max_batch: int = 32
    max_queue: int = 1024


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue."""

    request: int
    items: int
    group: Hashable
    deadline_s: float | None
    arrived_s: float


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished batch: its items, the engine's seconds, and each request's seconds since it arrived."""

    items: int
    ran_s: float | None
    latencies_s: tuple[float, ...]


class Costs(Protocol):
    """What a batch of a given size takes."""

    def seconds(self, items: int) -> float:
        """Expected seconds of one engine call of that many items."""

    def observe(self, items: int, ran_s: float) -> None:
        """Learn from a call that was made."""


class Policy(Protocol):
    """The part of the decision that is a matter of taste; the batcher holds it to the rules above."""

    def items_now(
        self, queue: Iterable[Waiting], limits: Limits, now_s: float, costs: Costs
    ) -> "Now | NotBefore":
        """A worker is free: how many items of `queue` (one group, oldest first, never empty) to run now."""

    def hopeless(self, request: Waiting, ahead_items: int, now_s: float, costs: Costs) -> bool:
        """Whether a request that has `ahead_items` before it cannot be answered in time."""

    def observe(self, batch: Ran, now_s: float) -> None:
        """A batch finished."""


@dataclass(frozen=True, slots=True)
class Now:
    """Run a batch of at most this many items; the oldest request is always in it."""

    max_items: int


@dataclass(frozen=True, slots=True)
class NotBefore:
    """Waiting for company pays; ask again at this moment, or when something happens.

    Not heeded while draining, as no company will come.
    """

    time_s: float


class Eager:
    """A free worker never waits: it takes all that is there, up to the largest batch."""

    def items_now(self, queue: Iterable[Waiting], limits: Limits, now_s: float, costs: Costs) -> Now:
        """As many as a batch can hold, at once."""
        return Now(limits.max_batch)

    def hopeless(self, request: Waiting, ahead_items: int, now_s: float, costs: Costs) -> bool:
        """Only once the deadline has passed: no prediction refuses a request that might be in time."""
        return request.deadline_s is not None and now_s >= request.deadline_s

    def observe(self, batch: Ran, now_s: float) -> None:
        """Nothing to learn."""


# ---------------------------------------------------------------- the decision

_Queue = OrderedDict[int, Waiting]


class Batcher:
    """Turns events into commands. Call `on` for each event, with a time that never goes back.

    Args:
        workers: number of workers, all free at the start; they are named 0 .. workers - 1.
        costs: the cost model; the batcher feeds it with what it hears from the workers.
    """

    def __init__(self, policy: Policy, limits: Limits, costs: Costs, workers: int = 1) -> None:
        self._policy = policy
        self._limits = limits
        self._costs = costs
        self._groups: OrderedDict[Hashable, _Queue] = OrderedDict()
        self._group_of: dict[int, Hashable] = {}
        self._deadlines: list[tuple[float, int]] = []  # a heap; may name requests that left
        self._free = list(range(workers))
        self._running: dict[int, list[Waiting]] = {}
        self._draining = False
        self._drained = False
        self._wake_s: float | None = None
        self._latest = -1
        self.waiting_items = 0

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._group_of and not self._running

    def on(self, event: Event, now_s: float) -> list[Command]:
        """What to do about `event`, in this order.

        Raises:
            InvariantError: the shell broke the contract: a number that does not rise, or a worker that was
                not busy.
        """
        if self._wake_s is not None and now_s >= self._wake_s:
            self._wake_s = None
        commands: list[Command] = []
        self._take(event, now_s, commands)
        if self._deadlines:
            self._refuse_expired(now_s, commands)
        wake_s = self._dispatch_all(now_s, commands) if self._free and self._groups else math.inf
        self._wake(wake_s, commands)
        if self._draining and self.idle and not self._drained:
            self._drained = True
            commands.append(Drained())
        return commands

    # ------------------------------------------------ events

    def _take(self, event: Event, now_s: float, commands: list[Command]) -> None:
        """Change the state as the event says."""
        if isinstance(event, Arrived):
            self._arrived(event, now_s, commands)
        elif isinstance(event, WorkerFree):
            self._worker_free(event, now_s)
        elif isinstance(event, Cancelled):
            self._forget(event.request)
        elif isinstance(event, Drain):
            self._draining = True
        else:
            self._wake_s = None  # also where a timer went off a moment early: it is asked for again

    def _arrived(self, event: Arrived, now_s: float, commands: list[Command]) -> None:
        if event.request <= self._latest:
            raise InvariantError(f"request {event.request} arrived after request {self._latest}")
        self._latest = event.request
        request = Waiting(event.request, event.items, event.group, event.deadline_s, now_s)
        refusal = self._refusal(request, now_s)
        if refusal is None:
            self._queue(request)
        else:
            commands.append(refusal)

    def _refusal(self, request: Waiting, now_s: float) -> Refuse | None:
        bound = self._limits.max_queue
        if self._draining:
            return Refuse(request.request, Reason.DRAINING, "the server is draining before it stops")
        if request.items > bound:
            return Refuse(
                request.request, Reason.TOO_LARGE, f"{request.items} items; the queue holds {bound}"
            )
        if self.waiting_items + request.items > bound:
            return Refuse(
                request.request, Reason.QUEUE_FULL, f"{self.waiting_items} of {bound} items are waiting"
            )
        if self._policy.hopeless(request, self.waiting_items, now_s, self._costs):
            return _too_late(request, now_s)
        return None

    def _queue(self, request: Waiting) -> None:
        self._groups.setdefault(request.group, OrderedDict())[request.request] = request
        self._group_of[request.request] = request.group
        self.waiting_items += request.items
        if request.deadline_s is not None:
            self._drop_old_deadlines()
            heapq.heappush(self._deadlines, (request.deadline_s, request.request))

    def _drop_old_deadlines(self) -> None:
        """Keep the heap as small as the queue, however far away the deadlines of answered requests are."""
        if len(self._deadlines) > 64 + 2 * len(self._group_of):
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._group_of]
            heapq.heapify(self._deadlines)

    def _worker_free(self, event: WorkerFree, now_s: float) -> None:
        batch = self._running.pop(event.worker, None)
        if batch is None:
            raise InvariantError(f"worker {event.worker} became free but had no batch")
        self._free.append(event.worker)
        items = sum(request.items for request in batch)
        if event.ran_s is not None:
            self._costs.observe(items, event.ran_s)
        latencies_s = tuple(now_s - request.arrived_s for request in batch)
        self._policy.observe(Ran(items, event.ran_s, latencies_s), now_s)

    def _forget(self, request: int) -> Waiting | None:
        """Take a request out of the queue; None where it is not (any more) in it."""
        if request not in self._group_of:
            return None
        group = self._group_of.pop(request)
        queue = self._groups[group]
        waiting = queue.pop(request)
        self.waiting_items -= waiting.items
        if not queue:
            del self._groups[group]
        return waiting

    # ------------------------------------------------ consequences

    def _refuse_expired(self, now_s: float, commands: list[Command]) -> None:
        """Refuse what is past its deadline: nobody waits for those answers."""
        heap = self._deadlines
        while heap and (heap[0][0] <= now_s or heap[0][1] not in self._group_of):
            waiting = self._forget(heapq.heappop(heap)[1])
            if waiting is not None:
                commands.append(_too_late(waiting, now_s))

    def _dispatch_all(self, now_s: float, commands: list[Command]) -> float:
        """Give work to free workers while the policy wants to; return the moment to ask it again."""
        wake_s = math.inf
        held: set[Hashable] = set()  # groups that the policy lets wait
        while self._free and (queue := self._oldest_queue(held)):
            head = next(iter(queue.values()))
            if self._policy.hopeless(head, 0, now_s, self._costs):
                self._forget(head.request)
                commands.append(_too_late(head, now_s))
                continue
            choice = self._policy.items_now(queue.values(), self._limits, now_s, self._costs)
            if isinstance(choice, NotBefore) and choice.time_s > now_s and not self._draining:
                wake_s = min(wake_s, choice.time_s)
                held.add(head.group)
                continue
            most = choice.max_items if isinstance(choice, Now) else self._limits.max_batch
            commands.append(self._dispatch(queue, min(most, self._limits.max_batch)))
        return wake_s

    def _oldest_queue(self, held: set[Hashable]) -> _Queue | None:
        """The queue of the group whose oldest request came first."""
        if len(self._groups) == 1 and not held:
            return next(iter(self._groups.values()))
        queues = [queue for group, queue in self._groups.items() if group not in held]
        return min(queues, key=lambda queue: next(iter(queue)), default=None)

    def _dispatch(self, queue: _Queue, max_items: int) -> Dispatch:
        batch = list(_prefix(queue.values(), max_items))
        for request in batch:
            self._forget(request.request)
        worker = self._free.pop(0)
        self._running[worker] = batch
        return Dispatch(worker, tuple(request.request for request in batch))

    def _wake(self, wake_s: float, commands: list[Command]) -> None:
        """Ask for a Tick where the next moment that matters comes before the one already asked for."""
        if self._deadlines:
            wake_s = min(wake_s, self._deadlines[0][0])
        if wake_s < (math.inf if self._wake_s is None else self._wake_s):
            self._wake_s = wake_s
            commands.append(WakeAt(wake_s))


def _prefix(queue: Iterable[Waiting], max_items: int) -> Iterator[Waiting]:
    """The first request, and those after it while they fit: no request overtakes another."""
    items = 0
    for request in queue:
        items += request.items
        if items > max_items and items != request.items:
            return
        yield request


def _too_late(request: Waiting, now_s: float) -> Refuse:
    waited_s = now_s - request.arrived_s
    return Refuse(
        request.request, Reason.DEADLINE, f"it cannot be answered in time; it waited {waited_s:.3f} s"
    )
