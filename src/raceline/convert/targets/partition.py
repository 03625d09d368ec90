"""Who runs which node, and what crosses between the device's memory and the host's because of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raceline.convert.targets.graph import Facts, Step
from raceline.convert.targets.plan import Doubt, Transfers
from raceline.convert.targets.support import Table, Verdict

CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Partition:
    """A graph shared out.

    Attributes:
        owners: of each step the provider that is expected to run it; those of no verdict stay with the first.
        fallbacks: what the first provider refuses.
        unknown: what no table settles.
    """

    owners: tuple[str, ...]
    fallbacks: tuple[Doubt, ...]
    unknown: tuple[Doubt, ...]

    def count(self, provider: str) -> int:
        """Nodes of a provider."""
        return self.owners.count(provider)


def share_out(facts: Facts, tables: Sequence[tuple[str, Table]], *, last: str = CPU) -> Partition:
    """Give each node to the first provider that takes it, else to the first of no verdict, else to `last`.

    Args:
        facts: of the model.
        tables: providers with what they take, in the order of the session.
        last: who takes what all others refuse.
    """
    owners: list[str] = []
    refused: dict[tuple[str, str, str], list[str]] = {}
    open_: dict[tuple[str, str], list[str]] = {}
    first = tables[0][1]
    for step in facts.steps:
        verdicts = [(name, table.verdict(step, facts)) for name, table in tables]
        owner = _owner(verdicts, last)
        owners.append(owner)
        mine = verdicts[0][1]
        if mine.answer == "refuses":
            refused.setdefault((step.operator, owner, mine.why), []).append(step.name)
        if mine.answer == "unknown" and owner == tables[0][0]:
            open_.setdefault((step.operator, mine.why), []).append(step.name)
    return Partition(
        tuple(owners),
        tuple(
            Doubt(op, tuple(nodes), where, why, first.source) for (op, where, why), nodes in refused.items()
        ),
        tuple(Doubt(op, tuple(nodes), "", why, first.source) for (op, why), nodes in open_.items()),
    )


def _owner(verdicts: Sequence[tuple[str, Verdict]], last: str) -> str:
    for wanted in ("takes", "unknown"):
        for name, verdict in verdicts:
            if verdict.answer == wanted:
                return name
    return last


def transfers(facts: Facts, partition: Partition, width: int, batch: int, link: float | None) -> Transfers:
    """What crosses in one run.

    Args:
        facts: of the model, at one item.
        partition: who runs what; what is not on the CPU shares the device's memory.
        width: bytes of a number on the device.
        batch: items of one run.
        link: bytes a second between both memories; None where unknown.
    """
    on_device = {
        name: owner != CPU
        for step, owner in zip(facts.steps, partition.owners, strict=True)
        for name in step.writes
    }
    on_device |= dict.fromkeys(facts.inputs, False)
    crossing: set[tuple[str, bool]] = set()  # a tensor crosses once in a direction, however many read it
    ends: set[tuple[str, bool]] = set()
    for step, owner in zip(facts.steps, partition.owners, strict=True):
        for name in step.reads:
            if on_device.get(name, False) != (owner != CPU):
                (ends if name in facts.inputs else crossing).add((name, owner != CPU))
    ends |= {(name, False) for name in facts.outputs if on_device.get(name, False)}
    crossing -= ends
    moved = batch * sum(facts.size_bytes(name, width) for name, _ in crossing)
    io_bytes = batch * sum(facts.size_bytes(name, 4) for name, _ in ends)
    return Transfers(len(crossing), moved, io_bytes, None if link is None else (moved + io_bytes) / link)


def on_device(facts: Facts, partition: Partition) -> list[Step]:
    """The steps that run on the device."""
    return [step for step, owner in zip(facts.steps, partition.owners, strict=True) if owner != CPU]
