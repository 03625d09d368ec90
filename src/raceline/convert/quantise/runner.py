"""Run models over samples in child processes, so that an engine that crashes is only a bad mark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from types import TracebackType

from raceline.convert.measure import Bench
from raceline.convert.quantise.judge import FULL_PRECISION, Tensors
from raceline.convert.quantise.samples import Samples
from raceline.core.errors import BadModelError
from raceline.ir import FULL, Candidate, Model

_ROUNDS = 5
_LEAST_CALLS_S = 0.02


class Runner:
    """Loads one model after another at the samples' shapes; a `with` block that ends its child processes.

    Args:
        samples: any of the model's; their shapes are what sessions are specialised for.
        threads: of the engines.
    """

    def __init__(self, samples: Samples, *, threads: int = 1) -> None:
        self._models: dict[str, Model] = {}
        self._bench = Bench(self._models, samples.shapes)
        self._numbers: Iterator[int] = itertools.count()
        self._threads = threads

    def __enter__(self) -> Runner:
        self._bench.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bench.__exit__(kind, error, trace)

    def __call__(
        self, model: Model, engine: str, samples: Samples, precision: str = FULL
    ) -> Sequence[Tensors]:
        """The answers of a model, in full batches.

        Raises:
            BadModelError: the engine refuses it.
            BackendLostError: the engine crashed; NotReadyError: there was not enough memory.
        """
        size = min(samples.batch, samples.items) if samples.stacked else 1
        with self._held(model, Candidate(engine, precision, self._threads, size)) as candidate:
            return self._bench.answer(candidate, samples.full_batches(size))

    def item_s(self, model: Model) -> float:
        """Seconds that the unquantised model takes for one item.

        Raises:
            BadModelError: no engine runs it.
        """
        reasons = []
        for engine in FULL_PRECISION:
            try:
                with self._held(model, Candidate(engine, threads=self._threads)) as candidate:
                    return max(1e-6, min(self._bench.time(candidate, 3).times_s))
            except BadModelError as error:
                reasons.append(f"{engine}: {error}")
        raise BadModelError(f"{model.name} cannot be run on the data", "; ".join(reasons))

    def gain(self, full: Model, quantised: Model, engine: str, precision: str = FULL) -> float:
        """How many times faster an engine runs the second model than the first, one item at a time, in turns.

        The second one at a precision, where its graph does not say it all.

        Raises:
            BadModelError, BackendLostError, NotReadyError: as a call.
        """
        way = Candidate(engine, threads=self._threads)
        fewer = replace(way, precision=precision)
        with self._held(full, way) as slow, self._held(quantised, fewer) as fast:
            once_s = max(1e-6, min(self._bench.time(slow, 2).times_s))
            calls = max(1, min(50, round(_LEAST_CALLS_S / once_s)))
            pairs = [
                (min(self._bench.time(slow, calls).times_s), min(self._bench.time(fast, calls).times_s))
                for _ in range(_ROUNDS)
            ]
        return median(one / other for one, other in pairs)

    @contextmanager
    def _held(self, model: Model, way: Candidate) -> Iterator[Candidate]:
        """A model as a graph of the bench's, while the block runs; what it is called there."""
        name = f"graph{next(self._numbers)}"
        candidate = replace(way, variant=name)
        self._models[name] = model
        try:
            yield candidate
        finally:
            del self._models[name]
            self._bench.drop(candidate, forget=True)
