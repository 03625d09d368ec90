"""What holds of a graph after every pass, whatever its author thought: checked by the framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raceline.convert.graph import graphs_of
from raceline.core.errors import InvariantError
from raceline.ir import FUSED_DOMAIN

if TYPE_CHECKING:
    import onnx_ir as ir

Port = tuple[str | None, str, str]


@dataclass(frozen=True)
class Promise:
    """The names, types and shapes of a model's inputs and outputs, which users see and no pass may change."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @classmethod
    def of(cls, program: ir.Model) -> Promise:
        """What a program promises now."""
        return cls(_ports(program.graph.inputs), _ports(program.graph.outputs))


def _ports(values: Sequence[ir.Value]) -> tuple[Port, ...]:
    return tuple((value.name, str(value.type), str(value.shape)) for value in values)


def ensure(program: ir.Model, promise: Promise, author: str) -> None:
    """Check that a pass left a valid graph that keeps its promise.

    Every value is computed once, before it is used, in a graph that can see it; names are unique; calls of
    fused operators fit their functions; inputs and outputs are as they were.

    Raises:
        InvariantError: something does not hold; the message names the pass.
    """
    problem = _broken_promise(program, promise) or _broken_graph(program.graph, program, set(), set())
    if problem:
        raise InvariantError(f"pass {author!r} broke the graph", problem)


def _broken_promise(program: ir.Model, promise: Promise) -> str:
    now = Promise.of(program)
    for kind, before, after in (
        ("inputs", promise.inputs, now.inputs),
        ("outputs", promise.outputs, now.outputs),
    ):
        if before != after:
            return f"its {kind} were {before} and are {after}"
    return ""


def _broken_graph(graph: ir.Graph, program: ir.Model, visible: set[ir.Value], names: set[str]) -> str:
    """The first thing wrong in a graph; `visible` is what enclosing graphs have computed so far."""
    seen = visible | set(graph.inputs) | set(graph.initializers.values())
    taken = set(names)
    for value in [*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())]:
        if problem := _take(value, taken):
            return problem
    for node in graph:
        problem = _broken_node(node, program, seen) or next(
            (p for v in node.outputs if (p := _take(v, taken))), ""
        )
        for nested in graphs_of(node):
            problem = problem or _broken_graph(nested, program, seen, taken)
        if problem:
            return problem
        seen.update(node.outputs)
    lost = [value.name for value in graph.outputs if value not in seen]
    return f"nothing computes the output {lost[0]!r}" if lost else ""


def _take(value: ir.Value, taken: set[str]) -> str:
    if value.name and value.name in taken:
        return f"two values are named {value.name!r}"
    taken.add(value.name or "")
    return ""


def _broken_node(node: ir.Node, program: ir.Model, seen: set[ir.Value]) -> str:
    for value in node.inputs:
        if value is not None and value not in seen:
            return f"{node.op_type} {node.name!r} reads {value.name!r}, which nothing before it computes"
    if node.domain == FUSED_DOMAIN:
        function = program.functions.get(node.op_identifier())
        if function is None:
            return f"{node.name!r} calls {node.op_type!r}, which the model does not define"
        if len(node.inputs) > len(function.inputs) or len(node.outputs) != len(function.outputs):
            return f"{node.name!r} does not fit the function {node.op_type!r} it calls"
    return ""
