"""Run batches: a thread gathers the requests' rows, runs them on the session, and scatters the answers.

Rows are copied once, from where they lie (the request's own bytes) into a batch buffer that is kept. Batches
are not padded to a tuned size: measured, it does not pay (docs/decisions/0005-serving.md).
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline.core.clock import Clock
from raceline.core.errors import InvariantError
from raceline.engines import Session

Array = np.ndarray[Any, Any]
Tensors = dict[str, Array]

_KEPT_BUFFERS = 4  # groups whose batch buffers are kept; more shapes than that re-allocate


@dataclass(slots=True)
class Request:
    """What a worker needs of a request.

    Attributes:
        inputs: by name, in the signature's order; with a batch axis, `items` rows each.
        items: rows along the batch axis; 1 where the model has none.
    """

    inputs: Tensors
    items: int


@dataclass(slots=True)
class Batch:
    """Requests of equal shapes (but for the batch axis), to run together."""

    requests: Sequence[Request]
    group: object = None

    @property
    def items(self) -> int:
        """Rows of all requests."""
        return sum(request.items for request in self.requests)


@dataclass(slots=True)
class Outcome:
    """What became of a batch.

    Attributes:
        answers: for each request, in order, its outputs by name or the error that it met.
        gather_s, run_s, scatter_s: seconds spent copying in, in the engine, and cutting apart.
        clean: False where a failure made the requests run one by one; then the times say nothing.
    """

    answers: "list[Tensors | Exception]"
    gather_s: float = 0.0
    run_s: float = 0.0
    scatter_s: float = 0.0
    clean: bool = True


class Runner:
    """Runs batches on a session, in the calling thread; the buffers are its own, the session may be shared.

    Args:
        session: of the model.
        clock: times the parts of a run.
        batched: the model has a batch axis, axis 0 of every input and output; else a batch is one request.
        max_batch: rows of the kept buffers; a larger batch gets a buffer of its own.
    """

    def __init__(self, session: Session, clock: Clock, *, batched: bool, max_batch: int) -> None:
        self._session = session
        self._clock = clock
        self._batched = batched
        self._max_batch = max_batch
        self._buffers: OrderedDict[object, Tensors] = OrderedDict()

    def run(self, batch: Batch) -> Outcome:
        """Answer every request of a batch. Never raises: an error is the answer of those that it befell.

        Where a batch of several fails, each runs alone, so that one request's bad values fail no other.
        """
        try:
            return self._run_together(batch)
        except Exception as error:  # noqa: BLE001  whatever an engine raises is this batch's answer
            if len(batch.requests) == 1:
                return Outcome([error], clean=False)
        alone = [self.run(Batch([request], batch.group)) for request in batch.requests]
        return Outcome([outcome.answers[0] for outcome in alone], clean=False)

    def _run_together(self, batch: Batch) -> Outcome:
        start_s = self._clock.now_s()
        inputs = self._gather(batch)
        gathered_s = self._clock.now_s()
        outputs = self._session.run(inputs)
        ran_s = self._clock.now_s()
        outputs = {name: _owned(output, inputs) for name, output in outputs.items()}
        answers: list[Tensors | Exception] = list(self._scatter(batch, outputs))
        end_s = self._clock.now_s()
        return Outcome(answers, gathered_s - start_s, ran_s - gathered_s, end_s - ran_s)

    def _gather(self, batch: Batch) -> Tensors:
        first = batch.requests[0].inputs
        if not self._batched:
            return {name: np.array(array) for name, array in first.items()}
        rows = batch.items
        buffers = self._buffers_for(batch.group, first, rows)
        at = 0
        for request in batch.requests:
            for name, array in request.inputs.items():
                buffers[name][at : at + request.items] = array
            at += request.items
        return {name: buffer[:rows] for name, buffer in buffers.items()}

    def _buffers_for(self, group: object, like: Tensors, rows: int) -> Tensors:
        if rows > self._max_batch:
            return _empty(like, rows)
        if group not in self._buffers:
            self._buffers[group] = _empty(like, self._max_batch)
            while len(self._buffers) > _KEPT_BUFFERS:
                self._buffers.popitem(last=False)
        self._buffers.move_to_end(group)
        return self._buffers[group]

    def _scatter(self, batch: Batch, outputs: Tensors) -> Iterator[Tensors]:
        if not self._batched:
            yield outputs
            return
        for name, output in outputs.items():
            if output.shape[:1] != (batch.items,):
                raise InvariantError(
                    f"output {name!r} has shape {list(output.shape)} for a batch of {batch.items} items",
                    "its first axis is not the batch axis that the signature promises",
                )
        if len(batch.requests) == 1:
            yield outputs
            return
        at = 0
        for request in batch.requests:
            yield {name: output[at : at + request.items] for name, output in outputs.items()}
            at += request.items


def _empty(like: Tensors, rows: int) -> Tensors:
    return {name: np.empty((rows, *array.shape[1:]), array.dtype) for name, array in like.items()}


def _owned(output: Array, inputs: Tensors) -> Array:
    """A copy where an output lies in an input buffer, which the next batch overwrites."""
    aliases = any(np.may_share_memory(output, buffer) for buffer in inputs.values())
    return output.copy() if aliases else output


class Worker:
    """A thread that runs the batches it is given, one after the other.

    Args:
        runner: what it runs them on; no other thread may use it.
        name: of the thread.
    """

    def __init__(self, runner: Runner, name: str = "raceline-worker") -> None:
        self._runner = runner
        self._inbox: queue.SimpleQueue[tuple[Batch, Callable[[Outcome], None]] | None] = queue.SimpleQueue()
        # A daemon: an engine call that hangs must not keep the process from stopping.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, batch: Batch, done: Callable[[Outcome], None]) -> None:
        """Run `batch` when those before it are done, then call `done` from the worker's thread."""
        self._inbox.put((batch, done))

    def close(self, timeout_s: float = 10.0) -> bool:
        """Finish what was submitted and end the thread; False where it is still at work."""
        self._inbox.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (job := self._inbox.get()) is not None:
            batch, done = job
            done(self._runner.run(batch))
