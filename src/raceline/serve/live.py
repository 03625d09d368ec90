"""A model that is being served: the shell around the batcher, on one event loop.

It alone touches the batcher, the timer and the futures, so nothing here needs a lock; the workers' threads
report through `call_soon_threadsafe`.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from raceline.core.clock import Clock
from raceline.core.errors import DeadlineError, NotReadyError, QueueFullError, RacelineError, ShapeError
from raceline.ir import Signature, TensorSpec
from raceline.serve import metrics
from raceline.serve.batching import (
    Arrived,
    Batcher,
    Cancelled,
    Command,
    Dispatch,
    Drain,
    Drained,
    Event,
    Reason,
    Refuse,
    Tick,
    WakeAt,
    WorkerFree,
)
from raceline.serve.loading import Loaded
from raceline.serve.statistics import Statistics
from raceline.serve.worker import Batch, Outcome, Request, Tensors

_REFUSALS: dict[Reason, tuple[type[RacelineError], str]] = {
    Reason.QUEUE_FULL: (QueueFullError, "Try again, or send less at a time."),
    Reason.DEADLINE: (DeadlineError, "Allow more time, or send less at a time."),
    Reason.DRAINING: (NotReadyError, "Send it to another server, or here when it is back."),
    Reason.TOO_LARGE: (ShapeError, "Send it in parts."),
}


@dataclass(slots=True)
class _Ticket:
    """A request on its way through."""

    request: Request
    group: object
    answer: "asyncio.Future[Tensors]"
    arrived_s: float


class LiveModel:
    """One loaded model that answers requests; make it on the event loop that will use it.

    Args:
        name: what clients call it.
        loaded: its sessions; this object owns them from now on.
        batcher: decides what runs when; as many workers as `loaded` has.
    """

    version = "1"

    def __init__(self, name: str, loaded: Loaded, batcher: Batcher, clock: Clock) -> None:
        self.name = name
        self.loaded = loaded
        self.inputs = {spec.name: spec for spec in loaded.signature.inputs}
        self.statistics = Statistics()
        self._batcher = batcher
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count()
        self._tickets: dict[int, _Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._drained = asyncio.Event()
        metrics.watch_queue(name, lambda: batcher.waiting_items)

    @property
    def signature(self) -> Signature:
        """What goes in and out."""
        return self.loaded.signature

    @property
    def waiting_items(self) -> int:
        """Items in the queue."""
        return self._batcher.waiting_items

    async def infer(self, inputs: Tensors, deadline_s: float | None = None) -> Tensors:
        """All outputs for these inputs, once the batch they join has run.

        Args:
            inputs: by name; not changed, and not read any more once this returns.
            deadline_s: on this model's clock; the answer is worthless later.

        Raises:
            ShapeError: the inputs do not fit the signature.
            QueueFullError, DeadlineError, NotReadyError: refused; nothing was computed.
            Exception: what the engine raised on these inputs.
        """
        arrived_s = self._clock.now_s()
        try:
            outputs = await self._queued(self._ticket(inputs, arrived_s), deadline_s)
        except BaseException:
            self.statistics.fail.add(self._clock.now_s() - arrived_s)
            raise
        self.statistics.success.add(self._clock.now_s() - arrived_s)
        return outputs

    async def drain(self) -> None:
        """Refuse new requests, and return once those that were admitted are answered."""
        self._tell(Drain())
        await self._drained.wait()

    async def close(self, timeout_s: float = 10.0) -> None:
        """Free the session. Drain first: what still waits fails, what runs is finished for nobody.

        Args:
            timeout_s: how long a call of the engine may take to end; a session in use is not freed.
        """
        if self._timer is not None:
            self._timer.cancel()
        for ticket in self._tickets.values():
            _fail(ticket, NotReadyError("the server stopped before this request's turn came"))
        await asyncio.to_thread(self.loaded.close, timeout_s)

    # ------------------------------------------------ a request's way

    def _ticket(self, inputs: Tensors, arrived_s: float) -> _Ticket:
        sizes = self.signature.validate(inputs)
        _check_values(self.inputs, inputs)
        axis = self.signature.batch_axis
        ordered = {spec.name: inputs[spec.name] for spec in self.signature.inputs}
        group = tuple(array.shape[1:] for array in ordered.values()) if axis else None
        request = Request(ordered, sizes[axis] if axis else 1)
        return _Ticket(request, group, self._loop.create_future(), arrived_s)

    async def _queued(self, ticket: _Ticket, deadline_s: float | None) -> Tensors:
        number = next(self._numbers)
        self._tickets[number] = ticket
        self._tell(Arrived(number, ticket.request.items, ticket.group, deadline_s))
        try:
            return await ticket.answer
        except asyncio.CancelledError:
            if self._tickets.pop(number, None) is not None:
                self._tell(Cancelled(number))
            raise

    def _tell(self, event: Event) -> None:
        """Hand an event to the batcher and do what it says."""
        for command in self._batcher.on(event, self._clock.now_s()):
            self._do(command)

    def _do(self, command: Command) -> None:
        match command:
            case Dispatch(worker, requests):
                self._dispatch(worker, [self._tickets.pop(number) for number in requests])
            case Refuse(number, reason, why):
                error, next_step = _REFUSALS[reason]
                _fail(
                    self._tickets.pop(number), error(f"model {self.name!r}: {reason.value}", why, next_step)
                )
            case WakeAt(time_s):
                self._wake_at(time_s)
            case Drained():
                self._drained.set()
            case _:
                assert_never(command)

    def _dispatch(self, worker: int, tickets: Sequence[_Ticket]) -> None:
        now_s = self._clock.now_s()
        for ticket in tickets:
            self.statistics.queue.add(now_s - ticket.arrived_s)
        batch = Batch([ticket.request for ticket in tickets], tickets[0].group)

        def done(outcome: Outcome) -> None:  # in the worker's thread
            with contextlib.suppress(RuntimeError):  # the loop was closed in a stop that did not wait
                self._loop.call_soon_threadsafe(self._finished, worker, tickets, outcome)

        self.loaded.workers[worker].submit(batch, done)

    def _finished(self, worker: int, tickets: Sequence[_Ticket], outcome: Outcome) -> None:
        # The worker first: it starts on the next batch while the answers go out.
        self._tell(WorkerFree(worker, outcome.run_s if outcome.clean else None))
        if outcome.clean:
            unix_ms = time.time_ns() // 1_000_000  # the protocol asks for the wall clock here
            items = sum(ticket.request.items for ticket in tickets)
            self.statistics.ran(outcome, items, unix_ms)
            metrics.ran(self.name, items, outcome.run_s)
        for ticket, answer in zip(tickets, outcome.answers, strict=True):
            if isinstance(answer, Exception):
                _fail(ticket, answer)
            elif not ticket.answer.done():
                ticket.answer.set_result(answer)

    def _wake_at(self, time_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = max(0.0, time_s - self._clock.now_s())
        self._timer = self._loop.call_later(delay_s, self._tell, Tick())


def _fail(ticket: _Ticket, error: Exception) -> None:
    """Answer with an error, unless the caller went away."""
    if not ticket.answer.done():
        ticket.answer.set_exception(error)


def _check_values(specs: Mapping[str, TensorSpec], inputs: Tensors) -> None:
    """Refuse values outside what the signature is sure of.

    Those are bounds that the graph itself sets on integers (some runtimes read past their end), and the only
    values that the bundle was proven with where its maker named them (a sample rate).
    """
    for name, spec in specs.items():
        array, values = inputs[name], spec.values
        if values is None or values.source == "default" or array.dtype.kind not in "iuf":
            continue
        if values.source == "user" and values.choices:
            if not np.isin(array, values.choices).all():
                allowed = ", ".join(f"{choice:g}" for choice in values.choices)
                raise ShapeError(f"input {name!r} holds other values", f"the model was proven with {allowed}")
        elif values.source == "graph" and array.dtype.kind in "iu" and array.size:
            low, high = int(array.min()), int(array.max())
            if low < values.low or high > values.high:
                raise ShapeError(
                    f"input {name!r} holds values from {low} to {high}",
                    f"the model takes {values.low:.0f} to {values.high:.0f}",
                )
