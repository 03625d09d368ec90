"""Run a model's segments one after another, planned once for each shape of the inputs."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np

from raceline import _native, engines
from raceline.core.errors import InvariantError
from raceline.engines import Options, Tensors
from raceline.engines.native.plan import OTHER, NetPart, Plan, plan_for
from raceline.ir import Model

_MOST_PLANS = 4  # shapes that are kept ready
_CHOOSING_S = 4.0  # for measuring the ways of computing each convolution, at most, while loading
_CHOOSING_LATER_S = 0.3  # the same, where a call with new shapes waits for it

Array = np.ndarray[Any, Any]
Key = tuple[tuple[str, tuple[int, ...]], ...]


class NativeSession:
    """A loaded model; its `run` may be called from several threads.

    Args:
        model: stays as it is.
        options: as `load` got them; where they give shapes, those are planned at once.
    """

    def __init__(self, model: Model, options: Options) -> None:
        self._model: Model | None = model
        self._options = options
        self._plans: OrderedDict[Key, Plan] = OrderedDict()
        self._lock = threading.Lock()
        self._item = None if options.shapes else _item_shapes(model)
        if options.shapes:
            self._planned({name: tuple(shape) for name, shape in options.shapes.items()})
        else:  # what the other engine refuses is refused now, not at the first call
            engines.load(OTHER).load(model, Options(optimise=False)).close()
            if self._item is not None and all(min(shape, default=1) > 0 for shape in self._item.values()):
                self._planned(self._item)

    def run(self, inputs: Mapping[str, Array]) -> Tensors:
        """Compute all outputs by name; inputs are those of the signature, validated."""
        if self._model is None:
            raise InvariantError("a closed session was run", "native")
        items = len(next(iter(inputs.values()))) if self._item is not None else 1
        if items <= 1:
            return self._once(inputs)
        each = [self._once({name: array[i : i + 1] for name, array in inputs.items()}) for i in range(items)]
        return {name: np.concatenate([outputs[name] for outputs in each]) for name in each[0]}

    def _once(self, inputs: Mapping[str, Array]) -> Tensors:
        model = self._model
        if model is None:
            raise InvariantError("a closed session was run", "native")
        plan = self._planned({name: tuple(array.shape) for name, array in inputs.items()})
        return plan.run(inputs, [spec.name for spec in model.signature.outputs])

    def memory_bytes(self) -> int:
        """Packed weights, arenas and scratch of our nets, and what the other engine holds."""
        with self._lock:
            return sum(part.memory_bytes() for plan in self._plans.values() for part in plan.parts)

    def close(self) -> None:
        """Free everything; a second call does nothing."""
        with self._lock:
            for plan in self._plans.values():
                plan.close()
            self._plans.clear()
            self._model = None

    def has_steps(self) -> bool:
        """Whether our kernels have something for a plan, even where the other engine was found faster."""
        return any(plan.has_steps for plan in self._plans.values())

    def nets(self) -> list[_native.Net]:
        """Our part of each plan, for benchmarks that look inside."""
        return [part.net for plan in self._plans.values() for part in plan.parts if isinstance(part, NetPart)]

    def _planned(self, shapes: Mapping[str, tuple[int, ...]]) -> Plan:
        """The plan for these shapes, made on their first use; the one used longest ago makes room."""
        key = tuple(sorted(shapes.items()))
        with self._lock:
            if self._model is None:
                raise InvariantError("a closed session was run", "native")
            if key not in self._plans:
                loading = bool(self._options.shapes) or shapes == self._item
                budget_s = _CHOOSING_S if loading else _CHOOSING_LATER_S
                compare = loading and self._options.optimise
                plan = plan_for(self._model, self._options, shapes, budget_s, compare=compare)
                if len(self._plans) >= _MOST_PLANS:
                    self._plans.popitem(last=False)  # runs that still use it keep it until they end
                self._plans[key] = plan
            self._plans.move_to_end(key)
            return self._plans[key]


def _item_shapes(model: Model) -> dict[str, tuple[int, ...]] | None:
    """The inputs' shapes at batch 1, where the batch is all that is open.

    Batches of any size then run item by item on one plan: an item's values stay in the caches, and on no net
    that was measured did an item take less time in a batch of eight.
    """
    axis = model.signature.batch_axis
    shapes = {
        spec.name: tuple(1 if dim == axis else dim for dim in spec.shape) for spec in model.signature.inputs
    }
    if axis is None or not shapes:
        return None
    fixed = {name: tuple(dim for dim in shape if isinstance(dim, int)) for name, shape in shapes.items()}
    return fixed if all(len(fixed[name]) == len(shape) for name, shape in shapes.items()) else None
