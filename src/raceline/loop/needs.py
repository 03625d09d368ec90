"""What one item of each of the zoo's networks needs: arithmetic and traffic, counted once and shipped as a table.

Counting takes an export through torch and a run of the passes, seconds to a minute for a network; the table spares
that. Its rows are used only where they are of the same network: parameters, arithmetic and inputs must be those
of the zoo's entry. `make zoo-needs` counts anew, and the contract test compares.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib import resources

from raceline import zoo
from raceline.core.errors import ConfigError
from raceline.core.records import from_json
from raceline.ir import Cost

TABLE = "zoo_needs.json"
"""The table's file, beside this one."""


@dataclass(frozen=True)
class Step:
    """So many equal nodes of an optimised graph.

    Attributes:
        flops: arithmetic of each.
        elements: numbers that each reads and writes, weights among them.
        count: how many.
    """

    flops: int
    elements: int
    count: int


@dataclass(frozen=True)
class Counted:
    """What one item of a network needs.

    Attributes:
        parameters, gflop, inputs: of the entry that was counted.
        least_elements: numbers in the weights and in the largest step together.
        steps: what its nodes do.
    """

    parameters: int
    gflop: float
    inputs: tuple[str, ...]
    least_elements: int
    steps: tuple[Step, ...]

    @property
    def flops(self) -> int:
        """All arithmetic."""
        return sum(step.count * step.flops for step in self.steps)

    @property
    def elements(self) -> int:
        """All numbers read and written."""
        return sum(step.count * step.elements for step in self.steps)

    def is_of(self, entry: zoo.Entry) -> bool:
        """Whether it was counted on a network as large, of the same inputs."""
        inputs = tuple(map(str, entry.inputs))
        return (self.parameters, self.gflop, self.inputs) == (entry.parameters, entry.gflop, inputs)


def counted_in(entry: zoo.Entry, found: Cost) -> Counted:
    """The needs of an entry, from the cost of its optimised graph at one item."""
    kinds = Counter((row.flops, (row.moved_bytes + row.weight_bytes) // 4) for row in found.rows)
    largest = max(row.moved_bytes for row in found.rows)
    return Counted(
        entry.parameters,
        entry.gflop,
        tuple(map(str, entry.inputs)),
        (found.weight_bytes + largest) // 4,
        tuple(Step(flops, elements, count) for (flops, elements), count in sorted(kinds.items())),
    )


def shipped(entry: zoo.Entry) -> Counted | None:
    """The table's row of a network; None where there is none, or it is of another network."""
    found = table().get(entry.name)
    return found if found is not None and found.is_of(entry) else None


@cache
def table() -> dict[str, Counted]:
    """All rows that ship, by name.

    Raises:
        ConfigError: the file is damaged.
    """
    text = (resources.files("raceline.loop") / TABLE).read_text(encoding="utf-8")
    try:
        rows: dict[str, object] = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{TABLE} is damaged", str(error), "Install Raceline again.") from error
    return {name: from_json(Counted, row, name) for name, row in rows.items()}
