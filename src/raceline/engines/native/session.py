"""Run a model's segments one after another, planned once for each shape of the inputs."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline import _native, engines
from raceline.core.errors import ConfigError, InvariantError
from raceline.engines import Options, Session, Tensors
from raceline.engines._cut import cut
from raceline.engines.native import methods
from raceline.engines.native.build import build
from raceline.engines.native.operators import as_pictures
from raceline.engines.native.segments import Segment, cut_up, settled
from raceline.ir import Model, ShapeTable

KERNELS_VARIABLE = "RACELINE_NATIVE_KERNELS"
"""Environment variable: use these kernels (avx512, avx2, plain) and no wider ones."""

_MOST_PLANS = 4  # shapes that are kept ready
_CHOOSING_S = 4.0  # for measuring the ways of computing each convolution, at most, while loading
_CHOOSING_LATER_S = 0.3  # the same, where a call with new shapes waits for it
_OTHERS = "onnxruntime"

Array = np.ndarray[Any, Any]
Key = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass
class _Net:
    """A segment of our kernels."""

    net: _native.Net
    inputs: tuple[str, ...]
    outputs: dict[str, tuple[int, ...]]

    def run(self, values: Mapping[str, Array]) -> Tensors:
        given = [np.require(values[name], np.float32, "C") for name in self.inputs]
        made = {name: np.empty(shape, np.float32) for name, shape in self.outputs.items()}
        self.net.run(given, list(made.values()))
        return made

    def memory_bytes(self) -> int:
        return self.net.memory_bytes()

    def close(self) -> None:
        """Nothing: the net goes with its last user."""


@dataclass
class _Rest:
    """A segment that another engine runs."""

    session: Session
    inputs: tuple[str, ...]

    def run(self, values: Mapping[str, Array]) -> Tensors:
        return self.session.run({name: values[name] for name in self.inputs})

    def memory_bytes(self) -> int:
        return self.session.memory_bytes()

    def close(self) -> None:
        self.session.close()


@dataclass
class _Plan:
    """A model for inputs of certain shapes.

    Attributes:
        parts: in order.
    """

    parts: list[_Net | _Rest]

    def run(self, inputs: Mapping[str, Array], outputs: list[str]) -> Tensors:
        values: dict[str, Array] = dict(inputs)
        for part in self.parts:
            values |= part.run(values)
        return {name: values[name] for name in outputs}

    def close(self) -> None:
        for part in self.parts:
            part.close()


class NativeSession:
    """A loaded model; its `run` may be called from several threads.

    Args:
        model: stays as it is.
        options: as `load` got them; where they give shapes, those are planned at once.
    """

    def __init__(self, model: Model, options: Options) -> None:
        self._model: Model | None = model
        self._options = options
        self._plans: OrderedDict[Key, _Plan] = OrderedDict()
        self._lock = threading.Lock()
        self._item = None if options.shapes else _item_shapes(model)
        if options.shapes:
            self._planned({name: tuple(shape) for name, shape in options.shapes.items()})
        else:  # what the other engine refuses is refused now, not at the first call
            engines.load(_OTHERS).load(model, Options(optimise=False)).close()
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

    def nets(self) -> list[_native.Net]:
        """Our part of each plan, for benchmarks that look inside."""
        return [part.net for plan in self._plans.values() for part in plan.parts if isinstance(part, _Net)]

    def _planned(self, shapes: Mapping[str, tuple[int, ...]]) -> _Plan:
        """The plan for these shapes, made on their first use; the one used longest ago makes room."""
        key = tuple(sorted(shapes.items()))
        with self._lock:
            if self._model is None:
                raise InvariantError("a closed session was run", "native")
            if key not in self._plans:
                budget_s = _CHOOSING_S if self._options.shapes or shapes == self._item else _CHOOSING_LATER_S
                plan = plan_for(self._model, self._options, shapes, budget_s)
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


def plan_for(
    model: Model, options: Options, shapes: Mapping[str, tuple[int, ...]], budget_s: float = _CHOOSING_S
) -> _Plan:
    """Parts for a model's inputs of these shapes; one part of the other engine where a net would do nothing.

    Args:
        model: stays as it is.
        options: as engines get them.
        shapes: of all inputs.
        budget_s: for measuring the ways of computing each convolution.

    Raises:
        Everything that the other engine's `load` raises.
    """
    if any(0 in shape for shape in shapes.values()):
        return _Plan([_whole(model, options)])
    whole, table = settled(model, shapes)
    segments = cut_up(whole, table)
    if not any(segment.steps for segment in segments):
        return _Plan([_whole(model, options)])
    return _Plan([_part(whole, table, segment, options, budget_s) for segment in segments])


def _whole(model: Model, options: Options) -> _Rest:
    plain = Options(threads=options.threads, streams=options.streams, optimise=options.optimise)
    session = engines.load(_OTHERS).load(model, plain)
    return _Rest(session, tuple(spec.name for spec in model.signature.inputs))


def _part(
    whole: Model, table: ShapeTable, segment: Segment, options: Options, budget_s: float
) -> _Net | _Rest:
    if segment.steps is None:
        part, inputs, _ = cut(whole, segment.nodes)
        plain = Options(threads=options.threads, streams=options.streams, optimise=options.optimise)
        return _Rest(engines.load(_OTHERS).load(part, plain), inputs)
    inputs = tuple(str(value.name) for value in segment.inputs())
    outputs = {str(value.name): table.known[str(value.name)].shape for value in segment.outputs()}
    names = {name for step in segment.steps for name in (*step.reads, *step.writes)}
    net = build(
        segment.steps,
        {name: as_pictures(table.known[name].shape) for name in names},
        inputs,
        list(outputs),
        threads=options.threads,
        streams=options.streams,
        kernels=_kernels(),
    )
    if options.optimise:
        methods.learn()
    net.prepare(budget_s if options.optimise else 0.0, options.optimise)
    if options.optimise:
        methods.keep()
    return _Net(net, inputs, outputs)


def _kernels() -> str:
    """The kernels that the environment asks for; empty for the best.

    Raises:
        ConfigError: this CPU has no such kernels.
    """
    wanted = os.environ.get(KERNELS_VARIABLE, "")
    if wanted and wanted not in _native.net_kernels():
        known = ", ".join(_native.net_kernels())
        raise ConfigError(f"{KERNELS_VARIABLE} asks for kernels {wanted!r}", f"this CPU has {known}")
    return wanted
