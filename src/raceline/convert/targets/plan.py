"""What a plan for a machine that is not here says, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raceline.core.units import counted, format_bytes, format_seconds

_SHOWN = 2  # nodes of an operator that are named; more are counted


@dataclass(frozen=True)
class Decision:
    """One choice.

    Attributes:
        topic: such as "precision" or "batch".
        choice: what was chosen.
        reason: why.
        source: where the fact behind the reason stands; empty where the model itself says it.
    """

    topic: str
    choice: str
    reason: str
    source: str = ""


@dataclass(frozen=True)
class Provider:
    """One entry of the list that a session is opened with.

    Attributes:
        name: an execution provider of ONNX Runtime, or a device of OpenVINO.
        options: as the runtime spells them.
        nodes: how many it is expected to run.
    """

    name: str
    options: dict[str, str]
    nodes: int


@dataclass(frozen=True)
class Doubt:
    """Nodes of one operator that the device refuses, or of which nobody says whether it takes them.

    Attributes:
        operator: with its domain, unless that is ONNX's own.
        nodes: their names.
        where: who is expected to run them; empty where that is unknown.
        why: the reason.
        source: where it stands.
    """

    operator: str
    nodes: tuple[str, ...]
    where: str
    why: str
    source: str


@dataclass(frozen=True)
class Transfers:
    """What crosses between the host's memory and the device's in one run.

    Attributes:
        count: tensors that cross because of nodes on the CPU, beside the model's own inputs and outputs.
        moved_bytes: of these.
        io_bytes: of the model's inputs and outputs.
        time_s: for all of them at the link's stated rate; None where the profile states none.
    """

    count: int
    moved_bytes: int
    io_bytes: int
    time_s: float | None


@dataclass(frozen=True)
class Memory:
    """What the model takes on the device.

    Attributes:
        weight_bytes: at the plan's precision.
        live_bytes: the most that intermediate tensors take at one time, the graph run node by node in its order.
        workspace_bytes: what the runtime may use beside.
        available_bytes: what the device has; None where the profile does not state it.
        fits: whether all three fit; None where that is unknown.
    """

    weight_bytes: int
    live_bytes: int
    workspace_bytes: int
    available_bytes: int | None
    fits: bool | None


@dataclass(frozen=True)
class Estimate:
    """Rooflines of the part on the device, from rates that the maker states; nothing was run.

    Attributes:
        precision: of the arithmetic.
        fused_s: of one batch if intermediate tensors never left the chip: the longer of computing at peak and of
            reading weights and inputs and writing outputs once; None where a rate is unknown.
        stepwise_s: of one batch if every node read and wrote memory: the sum of the longer of both.
        how: the figures, or what is missing.
    """

    precision: str
    fused_s: float | None
    stepwise_s: float | None
    how: str


@dataclass(frozen=True)
class TargetPlan:
    """How a model should be run on a machine that is not here. Nothing in it was measured.

    Attributes:
        model, platform: names.
        engine: a file in engines/ or the runtime's name.
        providers: in the order in which the session gets them; nodes of no verdict count for the first.
        session: settings of the session itself.
        precision: of the arithmetic.
        layout: of image tensors, outside and inside.
        batch: items of one run.
        shapes: of the inputs, batch included.
        decisions: every choice with its reason and source.
        fallbacks: what the first provider refuses.
        unknown: what no source settles.
        transfers, memory, estimate: see there.
        alternatives: rooflines at other precisions that the device has.
        next_steps: commands, and what to check on the machine.
        measured: False, always.
    """

    model: str
    platform: str
    engine: str
    providers: tuple[Provider, ...]
    session: dict[str, str]
    precision: str
    layout: str
    batch: int
    shapes: dict[str, tuple[int, ...]]
    decisions: tuple[Decision, ...]
    fallbacks: tuple[Doubt, ...]
    unknown: tuple[Doubt, ...]
    transfers: Transfers
    memory: Memory
    estimate: Estimate
    alternatives: tuple[Estimate, ...]
    next_steps: tuple[str, ...]
    measured: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The plan for people."""
        told = [f"{self.model} on {self.platform}: a plan from what makers state, NOT measured", ""]
        for provider in self.providers:
            told.append(f"provider  {provider.name}: {counted(provider.nodes, 'node')}")
            told += [f"            {name} = {value}" for name, value in provider.options.items()]
        told += [f"session   {name} = {value}" for name, value in self.session.items()]
        shapes = ", ".join(f"{name}{list(shape)}" for name, shape in self.shapes.items())
        told += [f"inputs    {shapes}", ""]
        for decision in self.decisions:
            told.append(f"{decision.topic:9} {decision.choice}")
            told.append(f"            because {decision.reason}")
            told += [f"            source: {decision.source}"] * bool(decision.source)
        told += [*_doubts("falls back", self.fallbacks), *_doubts("unknown", self.unknown), ""]
        told += [*self._costs(), ""]
        return told + [f"next      {step}" for step in self.next_steps]

    def _costs(self) -> Iterator[str]:
        crossing, memory = self.transfers, self.memory
        took = "the link's rate is not stated" if crossing.time_s is None else format_seconds(crossing.time_s)
        extra = f"{counted(crossing.count, 'tensor')} more ({format_bytes(crossing.moved_bytes)})"
        yield f"transfers inputs and outputs {format_bytes(crossing.io_bytes)}, {extra}: {took}"
        needs = memory.weight_bytes + memory.live_bytes + memory.workspace_bytes
        have = "unknown" if memory.available_bytes is None else format_bytes(memory.available_bytes)
        verdict = {True: "fits", False: "DOES NOT FIT", None: "not known whether it fits"}[memory.fits]
        yield (
            f"memory    {format_bytes(memory.weight_bytes)} of weights, {format_bytes(memory.live_bytes)} of "
            f"intermediate tensors, {format_bytes(memory.workspace_bytes)} of workspace: {format_bytes(needs)} "
            f"of {have}, {verdict}"
        )
        for estimate in (self.estimate, *self.alternatives):
            yield f"estimate  {_span(estimate)} in {estimate.precision} ({estimate.how})"


def _span(estimate: Estimate) -> str:
    if estimate.fused_s is None or estimate.stepwise_s is None:
        return "unknown"
    ends = (format_seconds(estimate.fused_s), format_seconds(estimate.stepwise_s))
    return f"{ends[0]} (all fused) to {ends[1]} (nothing fused) at the stated peak"


def _doubts(word: str, doubts: Sequence[Doubt]) -> Iterator[str]:
    """Operators with one reason on one line."""
    groups: dict[tuple[str, str], list[Doubt]] = {}
    for doubt in doubts:
        groups.setdefault((doubt.where, doubt.why), []).append(doubt)
    for (where, why), group in groups.items():
        aim = f" to {where}" if where else ""
        yield f"{word}{aim}: {', '.join(_named(doubt) for doubt in group)}: {why}"


def _named(doubt: Doubt) -> str:
    if len(doubt.nodes) > _SHOWN:
        return f"{doubt.operator} x{len(doubt.nodes)}"
    return f"{doubt.operator} ({', '.join(doubt.nodes)})"
