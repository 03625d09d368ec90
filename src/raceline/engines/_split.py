"""Run a batch as several smaller calls, one after another or side by side."""

import concurrent.futures
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from raceline.engines import Session, Tensors

Inputs = Mapping[str, "np.ndarray[Any, Any]"]


class Split:
    """A session whose calls are cut into chunks of the batch, run on `streams` threads, and joined again.

    Items of a batch are independent (the signature's batch axis, always axis 0), so the result is the same.
    The last chunk is filled up with copies of its last item, so that the inner session sees one shape only.

    Args:
        inner: takes `chunk` items a call, and `streams` calls side by side; closed with this one.
        chunk: items in one inner call.
        streams: inner calls side by side.
    """

    def __init__(self, inner: Session, chunk: int, streams: int) -> None:
        self._inner = inner
        self._chunk = chunk
        self._streams = streams
        # The calling thread works too.
        self._helpers = ThreadPoolExecutor(streams - 1, "raceline-stream") if streams > 1 else None

    def run(self, inputs: Inputs) -> Tensors:
        size = len(next(iter(inputs.values())))
        starts = iter(range(0, size, self._chunk))  # shared: whoever is free takes the next
        joined = _Joined(size)
        helping = [self._help(inputs, starts, joined) for _ in range(self._streams - 1)]
        try:
            self._work(inputs, starts, joined)
        finally:
            concurrent.futures.wait(helping)
        for future in helping:
            future.result()  # raises what a helper met
        return joined.arrays

    def _help(self, inputs: Inputs, starts: Iterator[int], joined: "_Joined") -> "Future[None]":
        assert self._helpers is not None
        return self._helpers.submit(self._work, inputs, starts, joined)

    def _work(self, inputs: Inputs, starts: Iterator[int], joined: "_Joined") -> None:
        for start in starts:
            part = {name: _cut(array, start, self._chunk) for name, array in inputs.items()}
            joined.put(start, self._inner.run(part))

    def memory_bytes(self) -> int:
        return self._inner.memory_bytes()

    def close(self) -> None:
        if self._helpers is not None:
            self._helpers.shutdown()
        self._inner.close()


class _Joined:
    """The outputs of the whole batch, filled in as chunks come back."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.arrays: Tensors = {}

    def put(self, start: int, part: Tensors) -> None:
        for name, array in part.items():
            whole = self.arrays.get(name)
            if whole is None:  # setdefault is atomic: of two first chunks one allocates for both
                whole = self.arrays.setdefault(name, np.empty((self._size, *array.shape[1:]), array.dtype))
            kept = min(len(array), self._size - start)
            whole[start : start + kept] = array[:kept]


def _cut(array: "np.ndarray[Any, Any]", start: int, size: int) -> "np.ndarray[Any, Any]":
    """Items from `start`, `size` of them; where the batch ends earlier, its last item again."""
    part = array[start : start + size]
    missing = size - len(part)
    if missing == 0:
        return part
    return np.concatenate([part, np.repeat(part[-1:], missing, axis=0)])
