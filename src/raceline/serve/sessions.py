"""A session for a model whose batches do not pay: specialised for one item of the measured shapes."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from raceline.core.errors import RacelineError, UnavailableError
from raceline.engines import Session, Tensors
from raceline.ir import Shapes


class ItemByItem:
    """Runs items one by one on a session that the engine specialised for the measured shapes.

    Engines plan memory and choose kernels for shapes that they know, which batching across requests would
    forbid. Inputs of other shapes run on a second session that keeps the dynamic axes; it is loaded when the
    first of them comes, which waits for that. Where that fails, it fails at once for those that follow.

    Args:
        load: makes a session for concrete shapes, or with dynamic axes where they are empty.
        shapes: of one item, all inputs.
        batched: axis 0 of every input and output is the batch.
    """

    def __init__(self, load: Callable[[Shapes], Session], shapes: Shapes, *, batched: bool) -> None:
        self._load = load
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._batched = batched
        self._one = load(self._shapes)
        self._any: Session | None = None
        self._refused: RacelineError | None = None
        self._loading = threading.Lock()

    def run(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        """Compute all outputs by name.

        Raises:
            RacelineError: inputs of other shapes came, and the engine refuses the model with dynamic axes.
        """
        first = 1 if self._batched else 0
        if any(array.shape[first:] != self._shapes[name][first:] for name, array in inputs.items()):
            return self._session_for_any().run(inputs)
        items = len(next(iter(inputs.values()))) if self._batched else 1
        if items == 1:
            return self._one.run(inputs)
        each = [
            self._one.run({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(items)
        ]
        return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}

    def memory_bytes(self) -> int:
        """Resident memory of the sessions that are loaded."""
        return self._one.memory_bytes() + (self._any.memory_bytes() if self._any else 0)

    def close(self) -> None:
        """Free what the sessions hold."""
        self._one.close()
        if self._any is not None:
            self._any.close()

    def _session_for_any(self) -> Session:
        with self._loading:
            if self._refused is not None:
                raise self._refused.with_traceback(None)  # or it would grow with every request
            if self._any is None:
                try:
                    self._any = self._load({})
                except RacelineError as error:
                    if not isinstance(error, UnavailableError):  # which passes
                        self._refused = error
                    raise
            return self._any
