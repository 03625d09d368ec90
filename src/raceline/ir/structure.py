"""Rules a graph must keep whatever its operators: every name written once, before it is read; no cycles."""

from __future__ import annotations

import graphlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raceline.ir import operators

if TYPE_CHECKING:
    import onnx

# Protobuf messages of onnx carry no types for a checker; these names say what is meant.
Graph = Any
Node = Any
Key = tuple[str, str, str]  # domain, name, overload of a function or of the operator a node runs


def label(node: Node) -> str:
    """A node as a reader finds it in a viewer: its name, or else what it writes."""
    return str(node.name or next(iter(node.output), "") or f"unnamed {node.op_type}")


def subgraphs(node: Node) -> list[Graph]:
    """The graphs inside a node's attributes: branches and loop bodies."""
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def all_nodes(nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes and those of every graph inside them, outermost first."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from all_nodes(graph.node)


def all_graphs(proto: onnx.ModelProto) -> Iterator[Graph]:
    """The main graph and every graph inside any node, functions' nodes included."""
    yield proto.graph
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in all_nodes(nodes):
            yield from subgraphs(node)


def key(node: Node) -> Key:
    """What a node runs."""
    return operators.normal_domain(node.domain), node.op_type, node.overload


def unsupported(proto: onnx.ModelProto) -> dict[str, list[str]]:
    """Every operator without a meaning, with the nodes that use it; subgraphs and functions included."""
    functions = {_function_key(function) for function in proto.functions}
    uses: dict[str, list[str]] = {}
    bodies = [(proto.graph.node, opsets(proto))]
    bodies += [(f.node, {**opsets(proto), **opsets(f)}) for f in proto.functions]
    for nodes, versions in bodies:
        for node in all_nodes(nodes):
            if key(node) in functions or operators.is_known(node.domain, node.op_type, versions):
                continue
            domain = operators.normal_domain(node.domain)
            version = f" at opset {versions[domain]}" if domain in versions else ""
            uses.setdefault(f"{domain or 'ai.onnx'}.{node.op_type}{version}", []).append(label(node))
    return uses


def opsets(holder: Any) -> dict[str, int]:
    """Domain -> version that a model or function imports."""
    return {operators.normal_domain(o.domain): int(o.version) for o in holder.opset_import}


def problems(proto: onnx.ModelProto) -> list[str]:
    """Everything wrong with names, order and functions; empty for a sound model."""
    found = _repeated(
        (operators.normal_domain(o.domain) or "ai.onnx" for o in proto.opset_import), "opset of"
    )
    _check_scope(proto.graph, [], found)
    if not proto.graph.output:
        found.append("it has no outputs")
    found += _repeated(("::".join(_function_key(f)) for f in proto.functions), "function")
    for function in proto.functions:
        _check_function(function, found)
    return found + _recursion(proto)


def sort_nodes(graph: Graph) -> bool:
    """Put a graph's nodes, and those of its subgraphs, in an order that writes before it reads.

    Nodes keep their order where it is already right.

    Returns:
        whether anything moved. A graph with a cycle is left as it is: `problems` reports it.
    """
    moved = False
    for node in graph.node:
        for inner in subgraphs(node):
            moved |= sort_nodes(inner)
    order = _order(graph)
    if order is None or order == list(range(len(graph.node))):
        return moved
    nodes = [type(graph.node[0])() for _ in order]
    for target, index in zip(nodes, order, strict=True):
        target.CopyFrom(graph.node[index])
    del graph.node[:]
    graph.node.extend(nodes)
    return True


def _order(graph: Graph) -> list[int] | None:
    """A topological order nearest the given one; None where there is a cycle."""
    import heapq

    producer = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    needs = [{producer[n] for n in reads(node) if n in producer} for node in graph.node]
    if all(all(d < i for d in deps) for i, deps in enumerate(needs)):
        return list(range(len(needs)))
    users: dict[int, list[int]] = {}
    for i, deps in enumerate(needs):
        for d in deps:
            users.setdefault(d, []).append(i)
    ready = [i for i, deps in enumerate(needs) if not deps]
    left = [len(deps) for deps in needs]
    order = []
    while ready:
        i = heapq.heappop(ready)
        order.append(i)
        for user in users.get(i, ()):
            left[user] -= 1
            if not left[user]:
                heapq.heappush(ready, user)
    return order if len(order) == len(needs) else None


def reads(node: Node) -> set[str]:
    """Names a node reads, those its subgraphs take from outside included."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        names |= _free_names(graph)
    return names


def _free_names(graph: Graph) -> set[str]:
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    read: set[str] = {o.name for o in graph.output}
    for node in graph.node:
        read |= reads(node)
    return read - own


def _check_scope(graph: Graph, outer: list[set[str]], found: list[str]) -> None:
    """Check one graph, seen from inside the scopes `outer`."""
    inputs = [i.name for i in graph.input]
    weights = [t.name for t in graph.initializer]
    found += _repeated(inputs, "input") + _repeated(weights, "initializer")
    if not all(inputs) or not all(weights):
        found.append(f"an input or initializer of graph {graph.name!r} has no name")
    written = set(inputs) | set(weights)
    _check_nodes(graph.node, written, outer, found)
    for output in graph.output:
        if not _visible(output.name, [*outer, written]):
            found.append(f"output {output.name!r} is produced by nothing")
    found += _repeated((o.name for o in graph.output), "output")


def _check_nodes(nodes: Sequence[Node], written: set[str], outer: list[set[str]], found: list[str]) -> None:
    """Check that nodes read what is written before them; adds what they write to `written`."""
    later = {name for node in nodes for name in node.output if name}
    scopes = [*outer, written]
    for node in nodes:
        for name in node.input:
            if name and not _visible(name, scopes):
                why = "before it is written (a cycle)" if name in later else "which nothing writes"
                found.append(f"node {label(node)!r} ({node.op_type}) reads {name!r} {why}")
        for graph in subgraphs(node):
            _check_scope(graph, scopes, found)
        for name in node.output:
            if name and name in written:
                found.append(f"node {label(node)!r} ({node.op_type}) writes {name!r}, which exists already")
            written.add(name)


def _visible(name: str, scopes: list[set[str]]) -> bool:
    return any(name in scope for scope in reversed(scopes))


def _check_function(function: Any, found: list[str]) -> None:
    found += _repeated(function.input, f"input of function {function.name!r}:")
    written = set(function.input)
    _check_nodes(function.node, written, [], found)
    missing = [name for name in function.output if name not in written]
    found += [f"function {function.name!r} never writes its output {name!r}" for name in missing]


def _function_key(function: Any) -> Key:
    return operators.normal_domain(function.domain), function.name, function.overload


def _recursion(proto: onnx.ModelProto) -> list[str]:
    """Functions that call themselves, directly or not."""
    functions = {_function_key(f): f for f in proto.functions}
    calls = {k: {key(n) for n in all_nodes(f.node)} & functions.keys() for k, f in functions.items()}
    try:
        graphlib.TopologicalSorter(calls).prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join("::".join(filter(None, k)) for k in error.args[1])
        return [f"functions call each other in a circle: {circle}"]
    return []


def expanded_count(proto: onnx.ModelProto) -> int:
    """How many nodes there are once every call is replaced by its function's body; no circle among these."""
    functions = {_function_key(function): function for function in proto.functions}
    counts: dict[Key, int] = {}

    def count(nodes: Sequence[Node]) -> int:
        return sum(counts.get(key(node), 1) for node in all_nodes(nodes))

    calls = {k: {key(n) for n in all_nodes(f.node)} & functions.keys() for k, f in functions.items()}
    for name in graphlib.TopologicalSorter(calls).static_order():  # a function after those it calls
        counts[name] = count(functions[name].node)
    return count(proto.graph.node)


def _repeated(names: Any, kind: str) -> list[str]:
    return [f"{kind} {name!r} is declared {n} times" for name, n in Counter(names).items() if n > 1]
