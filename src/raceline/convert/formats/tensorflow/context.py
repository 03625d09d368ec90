"""What rules need beyond their own node: functions, variables, tables, and the rules themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from raceline.convert.formats.tensorflow.graph import Library
from raceline.convert.formats.tensorflow.values import Table
from raceline.convert.graph import Array
from raceline.convert.lower import Rule, SourceNode


@dataclass
class Context:
    """What surrounds the nodes of one model.

    Attributes:
        library: functions.
        load: a variable's array.
        tables: node of a look-up table -> the table.
        rules: the whole table of rules, for graphs inside the graph.
    """

    library: Library
    load: Callable[[SourceNode], Array]
    tables: Mapping[str, Table] = field(default_factory=dict)
    rules: dict[str, Rule] = field(default_factory=dict)
