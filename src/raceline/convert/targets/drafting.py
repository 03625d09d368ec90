"""Choices that all targets make alike, and a plan put together from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from raceline.convert.targets.graph import Facts, Step
from raceline.convert.targets.partition import CPU, Partition, on_device, transfers
from raceline.convert.targets.plan import Decision, Provider, TargetPlan
from raceline.convert.targets.roofline import WIDTHS, Device, batch_for_throughput, estimate, memory
from raceline.core.errors import ConfigError
from raceline.core.units import counted, format_bytes
from raceline.ir.platform import PRECISIONS, EngineChoice

Goal = Literal["latency", "throughput"]
GOALS: tuple[Goal, ...] = ("latency", "throughput")
FLOATS = ("fp16", "bf16", "tf32", "fp32")  # the fastest first


class Wish(NamedTuple):
    """What the caller wants.

    Attributes:
        goal: one item soon, or many a second.
        allow: precisions that are accepted.
    """

    goal: Goal = "latency"
    allow: tuple[str, ...] = PRECISIONS


@dataclass(frozen=True)
class Draft:
    """What a target's rules decided.

    Attributes:
        device: what one session gets.
        choice: the engine of the platform that the rules are for.
        partition: who runs what.
        precision, layout: as in the plan.
        batch: items of one run.
        workspace: bytes that the runtime may use beside.
        providers: names and options.
        session: its settings.
        decisions: all, in the order in which they are told.
        next_steps: what to do.
    """

    device: Device
    choice: EngineChoice
    partition: Partition
    precision: str
    layout: str
    batch: int
    workspace: int
    providers: tuple[tuple[str, dict[str, str]], ...]
    session: dict[str, str]
    decisions: tuple[Decision, ...]
    next_steps: tuple[str, ...]


def precision_for(
    facts: Facts, choice: EngineChoice, device: Device, wish: Wish, source: str
) -> tuple[str, Decision]:
    """The precision that a model runs in as it is: int8 only where it is quantised already.

    Raises:
        ConfigError: the device has none that the caller accepts.
    """
    has = [*choice.precisions]
    if device.peak("tf32") and "fp32" in has:
        has.append("tf32")
    floats = [name for name in FLOATS if name in has and name in wish.allow]
    if facts.quantised and "int8" in has and "int8" in wish.allow:
        reason = "the model quantises its activations (QDQ) already"
        return "int8", Decision("precision", "int8", reason, source)
    if not floats:
        refused = ", ".join(wish.allow)
        raise ConfigError(
            f"{choice.provider} cannot run {facts.name} in {refused}",
            f"it computes in {', '.join(has)}, and int8 needs a quantised model",
            "Allow another precision, or quantise the model first: raceline convert quantise.",
        )
    chosen = floats[0]
    left = [name for name in FLOATS if name in has and name not in wish.allow]
    because = f"it is the fastest floating point of {choice.provider} that is allowed"
    because += f" ({', '.join(left)} is not)" if left else ""
    caution = "" if chosen == "fp32" else "; compare answers on data before it is relied on"
    return chosen, Decision("precision", chosen, because + caution, source)


def batch_for(
    facts: Facts, steps: Sequence[Step], device: Device, precision: str, wish: Wish, workspace: int
) -> tuple[int, Decision]:
    """How many items a run takes."""
    if wish.goal == "latency":
        return 1, Decision("batch", "1", "the goal is latency: an item does not wait for others")
    if not facts.batch_axes:
        return 1, Decision("batch", "1", "it is not proven that items of this model are independent")
    batch = batch_for_throughput(facts, steps, device, precision, workspace)
    if batch is None:
        lacking = f"the profile of {device.platform.name} does not state the rates to find a better one"
        return 1, Decision("batch", "1", f"{lacking}: measure 1, 2, 4, ... there")
    reason = (
        "the smallest power of two at which an item takes within 5 % of its least estimated time, or the largest "
        "up to 64 that fits in memory; launches and idle cores are not in that estimate, so measure larger ones too"
    )
    return batch, Decision("batch", str(batch), f"the goal is throughput: {reason}")


def workspace_for(device: Device, weights: int) -> tuple[int, str]:
    """Scratch memory of a runtime that takes a limit, and why so much."""
    have = device.memory_bytes
    if have is None:
        return 1 << 30, "1 GiB, the runtime's default, for the device's memory is unknown"
    quarter = max(0, have - weights) // 4
    size = min(4 << 30, quarter)
    return size, f"a quarter of what the weights leave of {format_bytes(have)}, 4 GiB at most"


def shapes_decision(facts: Facts, batch: int, why: str, source: str) -> Decision:
    """That all shapes are fixed, and how."""
    if not facts.dynamic_axes:
        return Decision("shapes", "fixed, as the model has them", why, source)
    fixed = ", ".join(f"{axis} = {size}" for axis, size in sizes_at(facts, batch).items())
    return Decision("shapes", f"fixed: {fixed}", why, source)


def fixed_sizes(facts: Facts, batch: int) -> dict[str, str]:
    """Settings of an ONNX Runtime session that fix every open axis."""
    return {f"free_dimension_override {axis}": str(size) for axis, size in sizes_at(facts, batch).items()}


def sizes_at(facts: Facts, batch: int) -> dict[str, int]:
    """Sizes of the open axes with so many items."""
    return {axis: batch if axis == facts.batch_axis else facts.sizes[axis] for axis in facts.dynamic_axes}


def export_command(consumer: str) -> str:
    """The command that writes the model for a runtime."""
    return f"raceline convert MODEL --to onnx --set consumer={consumer} -o OUT.onnx"


def shapes_at(facts: Facts, batch: int) -> dict[str, tuple[int, ...]]:
    """The inputs' shapes with so many items."""
    found = {}
    for name, shape in facts.inputs.items():
        place = facts.batch_axes.get(name)
        found[name] = shape if place is None else (*shape[:place], batch, *shape[place + 1 :])
    return found


def finished(facts: Facts, draft: Draft) -> TargetPlan:
    """The plan of a draft: nodes counted, transfers, memory and rooflines computed."""
    device, width = draft.device, WIDTHS[draft.precision]
    steps = on_device(facts, draft.partition)
    link = device.platform.host_link_bytes_per_s
    others = [
        name
        for name in draft.choice.precisions
        if name != draft.precision and (name == "int8" or name in FLOATS)
    ]
    providers = tuple(
        Provider(name, options, draft.partition.count(name)) for name, options in draft.providers
    )
    return TargetPlan(
        model=facts.name,
        platform=device.platform.name,
        engine=draft.choice.engine,
        providers=providers,
        session=draft.session,
        precision=draft.precision,
        layout=draft.layout,
        batch=draft.batch,
        shapes=shapes_at(facts, draft.batch),
        decisions=draft.decisions,
        fallbacks=draft.partition.fallbacks,
        unknown=draft.partition.unknown,
        transfers=transfers(facts, draft.partition, width, draft.batch, link),
        memory=memory(facts, steps, device, width, draft.batch, draft.workspace),
        estimate=estimate(facts, steps, device, draft.precision, draft.batch),
        alternatives=tuple(estimate(facts, steps, device, name, draft.batch) for name in others),
        next_steps=draft.next_steps,
    )


def fallback_decision(partition: Partition, first: str) -> Decision:
    """What is known of the nodes that the device does not take."""
    on_cpu = partition.count(CPU)
    if not partition.fallbacks and not partition.unknown:
        return Decision("fallback", "none", f"{first} is stated to take every operator of the model")
    parts = []
    if partition.fallbacks:
        nodes = sum(len(doubt.nodes) for doubt in partition.fallbacks)
        parts.append(f"{first} refuses {counted(nodes, 'node')}; {on_cpu} run on the CPU")
    if partition.unknown:
        nodes = sum(len(doubt.nodes) for doubt in partition.unknown)
        parts.append(
            f"no source says whether {first} takes {counted(nodes, 'more node')}: the plan assumes so"
        )
    return Decision("fallback", "; ".join(parts), "of what is listed below, operator by operator")


def quantise_steps(facts: Facts, choice: EngineChoice, wish: Wish) -> list[str]:
    """How to come to int8, where the device has it and the model is not there yet."""
    if facts.quantised or "int8" not in choice.precisions or "int8" not in wish.allow:
        return []
    return [
        "for int8: raceline convert quantise MODEL --data SAMPLES.npz -o NET8, then raceline convert NET8 --to "
        "qdq_onnx -o OUT.onnx, and plan again"
    ]
