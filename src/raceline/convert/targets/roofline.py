"""Rooflines and memory of the part of a model that runs on a device, from the rates its maker states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raceline.convert.targets.graph import FREE, Facts, Step
from raceline.convert.targets.plan import Estimate, Memory
from raceline.core.units import format_bytes
from raceline.ir import PlatformProfile

WIDTHS = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1}
"""Bytes of a number."""

_NEAR = 1.05  # of the time an item takes in a batch without end
_LARGEST_BATCH = 64


@dataclass(frozen=True)
class Device:
    """What one session gets of a platform.

    Attributes:
        platform: the whole.
        share: of its rates and memory, 1 unless it is several devices.
    """

    platform: PlatformProfile
    share: float = 1.0

    def peak(self, precision: str) -> float | None:
        """Operations a second."""
        rate = self.platform.peak_ops_per_s(precision)
        return None if rate is None else rate * self.share

    @property
    def bandwidth(self) -> float | None:
        """Bytes a second of its memory."""
        rate = self.platform.memory_bytes_per_s
        return None if rate is None else rate * self.share

    @property
    def memory_bytes(self) -> int | None:
        """What it has."""
        size = self.platform.memory_bytes
        return None if size is None else int(size * self.share)


def estimate(facts: Facts, steps: Sequence[Step], device: Device, precision: str, batch: int) -> Estimate:
    """Both rooflines of one batch."""
    peak, bandwidth = device.peak(precision), device.bandwidth
    if peak is None or bandwidth is None:
        lacking = f"{precision} arithmetic" if peak is None else "memory"
        return Estimate(
            precision, None, None, f"the profile of {device.platform.name} states no rate of its {lacking}"
        )
    width = WIDTHS[precision]
    flops = batch * sum(step.flops for step in steps)
    weights = facts.weight_bytes(width)
    ends = batch * sum(facts.size_bytes(name, width) for name in (*facts.inputs, *facts.outputs))
    stepwise_s = sum(
        max(batch * step.flops / peak, _moved(facts, step, width, batch) / bandwidth)
        for step in steps
        if step.operator not in FREE
    )
    fused_s = max(flops / peak, (weights + ends) / bandwidth)
    how = (
        f"{flops / 1e9:.3g} GFLOP at {peak / 1e12:.4g} T/s, {format_bytes(weights)} of weights at "
        f"{bandwidth / 1e9:.4g} GB/s, batch {batch}"
    )
    uncounted = [step.operator for step in steps if step.operator in {"Loop", "Scan", "If"}]
    return Estimate(
        precision, fused_s, stepwise_s, how + "; loops and branches not counted" * bool(uncounted)
    )


def _moved(facts: Facts, step: Step, width: int, batch: int) -> int:
    passing = sum(facts.size_bytes(name, width) for name in (*step.reads, *step.writes))
    return batch * passing + sum(facts.size_bytes(name, width) for name in step.weights)


def memory(
    facts: Facts, steps: Sequence[Step], device: Device, width: int, batch: int, workspace: int
) -> Memory:
    """What the model takes on the device."""
    weights, live = facts.weight_bytes(width), batch * _most_alive(facts, steps, width)
    have = device.memory_bytes
    fits = None if have is None else weights + live + workspace <= have
    return Memory(weights, live, workspace, have, fits)


def _most_alive(facts: Facts, steps: Sequence[Step], width: int) -> int:
    """The most bytes that tensors between nodes take at one time, nodes run in order."""
    last = {name: place for place, step in enumerate(steps) for name in step.reads}
    last |= dict.fromkeys(facts.outputs, len(steps))
    alive = {name: facts.size_bytes(name, width) for name in facts.inputs}
    most = sum(alive.values())
    for place, step in enumerate(steps):
        alive |= {name: facts.size_bytes(name, width) for name in step.writes}
        most = max(most, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if last.get(name, -1) > place}
    return most


def batch_for_throughput(
    facts: Facts, steps: Sequence[Step], device: Device, precision: str, workspace: int
) -> int | None:
    """The smallest power of two at which an item takes within 5 % of its least time, and that fits.

    None where a rate is unknown. The time is that of nothing fused: weights are read once a batch.
    """
    limit = estimate(facts, steps, device, precision, 1 << 20).stepwise_s
    if limit is None:
        return None
    best, batch = 1, 1
    while batch <= _LARGEST_BATCH:
        if memory(facts, steps, device, WIDTHS[precision], batch, workspace).fits is False:
            break
        best = batch
        took = estimate(facts, steps, device, precision, batch).stepwise_s
        if took is not None and took / batch <= _NEAR * limit / (1 << 20):
            break
        batch *= 2
    return best
