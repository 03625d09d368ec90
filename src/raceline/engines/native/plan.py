"""A model planned for inputs of certain shapes: nets of our kernels and parts that another engine runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline import _native, engines
from raceline.core.errors import ConfigError, RacelineError
from raceline.engines import Options, Session, Tensors
from raceline.engines._cut import cut
from raceline.engines._pinning import own_cores
from raceline.engines.native import methods
from raceline.engines.native.build import build
from raceline.engines.native.constants import may_saturate
from raceline.engines.native.segments import Segment, cut_up, settled
from raceline.ir import Model, ShapeTable, make_inputs
from raceline.ir.engine_rules import multiplies_exactly
from raceline.ir.host import architecture
from raceline.ir.weights_only import fold

if TYPE_CHECKING:
    import onnx_ir as ir

KERNELS_VARIABLE = "RACELINE_NATIVE_KERNELS"
"""Environment variable: use these kernels (avx512, avx2, plain) and no wider ones."""

OTHER = "onnxruntime"
"""The engine of the parts that our kernels do not run."""

_ROUNDS = 5  # of measuring whether a part pays; the least counts
_CLEARLY = 1.03  # times slower, for our kernels to give way
_BEYOND_DOUBT = 1.2  # times slower or faster: no further rounds

_log = logging.getLogger(__name__)
Array = np.ndarray[Any, Any]


@dataclass
class NetPart:
    """A segment of our kernels."""

    net: _native.Net
    inputs: tuple[str, ...]
    outputs: dict[str, tuple[int, ...]]

    def run(self, values: Mapping[str, Array]) -> Tensors:
        """Compute its outputs from the values so far."""
        given = [np.require(values[name], np.float32, "C") for name in self.inputs]
        made = {name: np.empty(shape, np.float32) for name, shape in self.outputs.items()}
        self.net.run(given, list(made.values()))
        return made

    def memory_bytes(self) -> int:
        """Of its weights and buffers."""
        return self.net.memory_bytes()

    def close(self) -> None:
        """Nothing: the net goes with its last user."""


@dataclass
class OtherPart:
    """A segment that another engine runs."""

    session: Session
    inputs: tuple[str, ...]

    def run(self, values: Mapping[str, Array]) -> Tensors:
        """Compute its outputs from the values so far."""
        return self.session.run({name: values[name] for name in self.inputs})

    def memory_bytes(self) -> int:
        """As the other engine says."""
        return self.session.memory_bytes()

    def close(self) -> None:
        """Free it."""
        self.session.close()


@dataclass
class Plan:
    """A model for inputs of certain shapes.

    Attributes:
        parts: in order.
        has_steps: whether our kernels have something for it, even where the other engine was found faster.
    """

    parts: list[NetPart | OtherPart]
    has_steps: bool = False

    def run(self, inputs: Mapping[str, Array], outputs: list[str]) -> Tensors:
        """Compute the outputs of these names."""
        values: dict[str, Array] = dict(inputs)
        for part in self.parts:
            values |= part.run(values)
        return {name: values[name] for name in outputs}

    def close(self) -> None:
        """Free all parts."""
        for part in self.parts:
            part.close()


def plan_for(
    model: Model, options: Options, shapes: Mapping[str, tuple[int, ...]], budget_s: float, *, compare: bool
) -> Plan:
    """Parts for a model's inputs of these shapes; one part of the other engine where a net would do nothing.

    Args:
        model: stays as it is.
        options: as engines get them.
        shapes: of all inputs.
        budget_s: for measuring the ways of computing each convolution and linear layer.
        compare: measure too whether each net, and the whole, is faster than the other engine, and give way
            where it is not; only models that are run in several parts are in doubt.

    Raises:
        Everything that the other engine's `load` raises.
    """
    if any(0 in shape for shape in shapes.values()):
        return Plan([_whole(model, options)])
    whole, table = settled(model, shapes)
    segments = cut_up(whole, table)
    if not any(segment.steps for segment in segments):
        return Plan([_whole(model, options)])
    make = _Making(model, whole, table, options, budget_s)
    plan = make.plan(segments)
    if len(segments) == 1 or not compare:
        return plan
    try:
        return make.faster(plan, segments, make_inputs(model.signature, shapes, seed=0))
    except RacelineError as error:  # generated inputs may not suit the model
        _log.info("%s: whether its parts pay could not be measured: %s", model.name, error)
        return plan


@dataclass
class _Making:
    """Plans of one model for inputs of certain shapes."""

    model: Model
    whole: Model
    table: ShapeTable
    options: Options
    budget_s: float

    def plan(self, segments: Sequence[Segment]) -> Plan:
        return Plan([self._part(segment) for segment in segments], has_steps=True)

    def faster(self, plan: Plan, segments: Sequence[Segment], inputs: Tensors) -> Plan:
        """The plan without the nets that are slower than the other engine, or the other engine alone."""
        slow = self._slower(plan, segments, inputs)
        if slow:
            plan.close()
            plan = self.plan(cut_up(self.whole, self.table, left=slow))
        alone = Plan([_whole(self.model, self.options)], has_steps=True)
        names = [spec.name for spec in self.model.signature.outputs]
        ours, theirs = self._compared(lambda: plan.run(inputs, names), lambda: alone.run(inputs, names))
        _log.info("%s: %.3g ms in parts, %.3g ms on %s", self.model.name, 1e3 * ours, 1e3 * theirs, OTHER)
        keeps = ours <= _CLEARLY * theirs
        (alone if keeps else plan).close()
        return plan if keeps else alone

    def _slower(self, plan: Plan, segments: Sequence[Segment], inputs: Tensors) -> set[ir.Node]:
        """Nodes of the nets that the other engine runs faster, each net alone."""
        values: dict[str, Array] = dict(inputs)
        slow: set[ir.Node] = set()
        for part, segment in zip(plan.parts, segments, strict=True):
            other = self._other(segment) if isinstance(part, NetPart) else None
            if other is not None and all(name in values for name in other.inputs):
                seen = dict(values)
                ours, theirs = self._compared(
                    lambda part=part, seen=seen: part.run(seen),  # type: ignore[misc]
                    lambda other=other, seen=seen: other.run(seen),  # type: ignore[misc]
                )
                if ours > _CLEARLY * theirs:
                    slow |= set(segment.nodes)
            if other is not None:
                other.close()
            values |= part.run(values)
        return slow

    def _compared(self, ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[float, float]:
        """Least seconds of each, by turns: computing time at one thread, so that other work does not choose."""
        clock = time.thread_time if self.options.threads == 1 else time.perf_counter
        least = [float("inf"), float("inf")]
        for number in range(_ROUNDS):
            for place, run in enumerate((ours, theirs)):
                start = clock()
                run()
                least[place] = min(least[place], clock() - start)
            if number and max(least) > _BEYOND_DOUBT * min(least):
                break
        return least[0], least[1]

    def _part(self, segment: Segment) -> NetPart | OtherPart:
        if segment.steps is None:
            return self._other(segment)
        inputs = tuple(str(value.name) for value in segment.inputs())
        outputs = {str(value.name): self.table.known[str(value.name)].shape for value in segment.outputs()}
        names = {
            name for step in segment.steps for name in (*step.reads, *step.writes, step.residual) if name
        }
        with own_cores(self.options):
            net = build(
                segment.steps,
                {name: segment.seen(self.table.known[name].shape) for name in names},
                inputs,
                list(outputs),
                threads=self.options.threads,
                streams=self.options.streams,
                kernels=_kernels(),
                choosing_s=self.budget_s if self.options.optimise else 0.0,
            )
        if not self.options.optimise:
            net.prepare(0.0, False)
            return NetPart(net, inputs, outputs)
        methods.learn()
        net.prepare(self.budget_s, True)
        methods.keep()
        return NetPart(net, inputs, outputs)

    def _other(self, segment: Segment) -> OtherPart:
        part, inputs, _ = cut(self.whole, segment.nodes)
        return OtherPart(engines.load(OTHER).load(exactly(part), _plain(self.options)), inputs)


def exactly(model: Model) -> Model:
    """The model for the other engine: with 8-bit layers in floats where its 8-bit sums might saturate on this CPU.

    They compute the same, for rounding to bytes stays, more slowly.
    """
    if multiplies_exactly(architecture(), _native.instruction_sets()):
        return model
    if not any(may_saturate(node) for node in model.program.graph):
        return model
    made = model.clone()
    for node in list(made.program.graph):
        if may_saturate(node) and not node.outputs[0].is_graph_output():
            fold(node)
    return made


def _whole(model: Model, options: Options) -> OtherPart:
    session = engines.load(OTHER).load(exactly(model), _plain(options))
    return OtherPart(session, tuple(spec.name for spec in model.signature.inputs))


def _plain(options: Options) -> Options:
    return replace(options, precision="fp32", shapes={})


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
