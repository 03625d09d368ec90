"""What passes ask of a graph, and the few ways in which they change it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
PROBES = "raceline.probes"  # key in Value.meta: the value's shape under each probe of shapes.py


@dataclass(frozen=True)
class Match:
    """A place where a pattern fits.

    Attributes:
        nodes: what the rewrite would replace, in the graph's order; the last one gives the result.
        values: whatever else the pattern found, by name.
        obstacle: why the pattern cannot be rewritten, where the pattern itself saw it.
    """

    nodes: tuple[ir.Node, ...]
    values: dict[str, Any] = field(default_factory=dict)
    obstacle: str = ""

    @property
    def result(self) -> ir.Value:
        """The value that outlives the rewrite."""
        return self.nodes[-1].outputs[0]


class Scope:
    """One graph of a model, the main one or a branch, with the words to change it.

    Attributes:
        program: the whole model.
        graph: the graph at hand; values of enclosing graphs are visible in it.
        inserted: nodes put in so far, in order; the framework empties it between rewrites.
    """

    def __init__(self, program: ir.Model, graph: ir.Graph) -> None:
        self.program = program
        self.graph = graph
        self.inserted: list[ir.Node] = []
        self._names: set[str] = set()
        self._places: dict[ir.Node, int] = {}

    @property
    def opset(self) -> int:
        """Version of the standard operators."""
        return self.program.opset_imports.get("", 1)

    def name(self, hint: str) -> str:
        """A value name that nothing in the model has yet."""
        if not self._names:
            self._names = set(_all_names(self.program))
        candidate, count = hint, 1
        while candidate in self._names:
            count += 1
            candidate = f"{hint}_{count}"
        self._names.add(candidate)
        return candidate

    def in_order(self, nodes: Collection[ir.Node]) -> tuple[ir.Node, ...]:
        """The same nodes in the order of the graph."""
        if not self._places:
            self._places = {node: place for place, node in enumerate(self.graph)}
        return tuple(sorted(nodes, key=self._places.__getitem__))

    def insert(self, node: ir.Node, before: ir.Node) -> None:
        """Put a node in front of another."""
        self.graph.insert_before(before, node)
        self.inserted.append(node)
        self._places.clear()

    def add_constant(self, hint: str, array: Array) -> ir.Value:
        """A new initializer of the main graph, where every branch sees it."""
        import onnx_ir as ir

        name = self.name(hint)
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.val(name, const_value=tensor)
        self.program.graph.register_initializer(value)
        return value

    def add_node(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        before: ir.Node,
        like: ir.Value | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Insert a standard node and return its only output, of the type and shape of `like` if given."""
        import onnx_ir as ir

        output = ir.Value(name=self.name(f"{before.name}_{op.lower()}"))
        if like is not None:
            output.type, output.shape = like.type, like.shape
            output.meta.update(like.meta)
        node = ir.node(
            op, inputs, attributes, outputs=[output], name=self.name(f"{before.name}_{op.lower()}")
        )
        self.insert(node, before)
        return output

    def replace(self, old: ir.Value, new: ir.Value) -> None:
        """Let every user of `old` use `new`; a graph output keeps its name. Ask `can_replace` first."""
        was_output = old.is_graph_output()
        if new.shape is None:
            new.shape = old.shape
        if new.type is None:
            new.type = old.type
        for key, value in old.meta.items():
            new.meta.setdefault(key, value)
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if was_output:
            new.name, old.name = old.name, None
            new.shape, new.type = old.shape, old.type

    def remove(self, nodes: Collection[ir.Node]) -> None:
        """Take out nodes whose outputs nobody uses any more, with the graphs inside them."""
        self.graph.remove(self.in_order(nodes)[::-1], safe=True)
        self._places.clear()
        for inner in (graph for node in nodes for graph in graphs_of(node)):
            _let_go(inner)


def _let_go(graph: ir.Graph) -> None:
    """Take the nodes of a graph that is gone off the values around it, which would count them as users."""
    for node in graph.all_nodes():
        for place in range(len(node.inputs)):
            node.replace_input_with(place, None)


def _all_names(program: ir.Model) -> Iterator[str]:
    for graph in scopes_of(program):
        yield from graph.initializers
        yield from (value.name for value in graph.inputs if value.name)
        for node in graph:
            if node.name:
                yield node.name
            yield from (value.name for value in node.outputs if value.name)


def scopes_of(program: ir.Model) -> list[ir.Graph]:
    """The main graph and every graph nested in it, outer before inner; not the bodies of functions."""
    return list(_with_nested(program.graph))


def _with_nested(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    for node in graph:
        for nested in graphs_of(node):
            yield from _with_nested(nested)


def graphs_of(node: ir.Node) -> list[ir.Graph]:
    """The graphs that are attributes of a node."""
    import onnx_ir as ir

    graphs: list[ir.Graph] = []
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            graphs.append(attr.as_graph())
        elif attr.type == ir.AttributeType.GRAPHS:
            graphs.extend(attr.as_graphs())
    return graphs


def constant(value: ir.Value | None) -> Array | None:
    """The array a value always holds: an initializer's that no caller can override, or a Constant's."""
    import onnx_ir as ir

    if value is None or value.is_graph_input():
        return None
    if value.const_value is None and (node := value.producer()) is not None:
        if not is_op(node, "Constant") or len(node.attributes) != 1:
            return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number a constant of one element holds."""
    array = constant(value)
    return float(array.reshape(())) if array is not None and array.size == 1 else None


def is_op(node: ir.Node | None, *ops: str) -> bool:
    """Whether a node is one of these standard operators."""
    return node is not None and node.domain in {"", "ai.onnx"} and node.op_type in ops


def producer(value: ir.Value | None, *ops: str) -> ir.Node | None:
    """The node that computes a value, if it is one of these standard operators."""
    node = value.producer() if value is not None else None
    return node if is_op(node, *ops) else None


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """An input of a node; None where it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The value of an attribute, or what stands for it where it is left out."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return list(found.value) if isinstance(found.value, tuple | list) else found.value


def axes_of(node: ir.Node, index: int = 1) -> list[int] | None:
    """The axes of a reduction or Squeeze: an attribute in old opsets, a constant input in new ones."""
    if (listed := attribute(node, "axes")) is not None:
        return list(listed)
    array = constant(operand(node, index))
    return None if array is None else [int(axis) for axis in array.reshape(-1)]


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that uses a value; None where others do, a nested graph does, or it is an output."""
    users = set(value.consumers())
    if len(users) != 1 or value.is_graph_output():
        return None
    (user,) = users
    return user if user.graph is value.graph else None


def reaches(node: ir.Node, op: str, depth: int) -> bool:
    """Whether an operator stands at most `depth` nodes before a node; asked before a costly match."""
    found = {node}
    for _ in range(depth):
        found = {p for n in found for v in n.inputs if v is not None and (p := v.producer()) is not None}
        if any(is_op(n, op) for n in found):
            return True
    return False


def describe(node: ir.Node) -> str:
    """A node as people look for it: its operator and its name."""
    return f"{node.op_type} {node.name!r}"


def escape(nodes: Sequence[ir.Node]) -> str:
    """Why these nodes cannot become one: an inner value that something else needs; empty if none."""
    inside = set(nodes)
    for node in nodes[:-1]:
        for value in node.outputs:
            if value.is_graph_output():
                return f"{value.name!r}, the result of {describe(node)}, is an output of the graph"
            others = [user for user in value.consumers() if user not in inside]
            if others:
                return (
                    f"{value.name!r}, the result of {describe(node)}, is also used by {describe(others[0])}"
                )
    return ""


def can_replace(old: ir.Value, new: ir.Value) -> str:
    """Why `new` cannot stand for `old`; empty where it can."""
    if not old.is_graph_output():
        return ""
    if new.is_graph_input() or new.is_initializer():
        return f"{old.name!r} is an output and {new.name!r} an input or a weight; both names must stay"
    if new.is_graph_output():
        return f"{old.name!r} and {new.name!r} are both outputs; both names must stay"
    if new.graph is not old.graph:
        return f"{new.name!r} belongs to an enclosing graph and cannot be this graph's output"
    return ""


def shape_of(value: ir.Value | None) -> tuple[int | str | None, ...] | None:
    """A size, a name or None for each axis; None where even the rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)


def rank(value: ir.Value | None) -> int | None:
    """Number of axes, where known."""
    shape = shape_of(value)
    return None if shape is None else len(shape)


def same_shape(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values have one shape: proven by sizes and axis names, or alike under every probe.

    Good enough to choose what to fuse, as a fused body means the same either way; not to drop a broadcast.
    """
    if same_shape_proven(one, other):
        return True
    probed, other_probed = one.meta.get(PROBES), other.meta.get(PROBES)
    return bool(probed) and probed == other_probed


def same_shape_proven(one: ir.Value, other: ir.Value) -> bool:
    """Whether two values have one shape by their sizes and axis names alone."""
    shape, other_shape = shape_of(one), shape_of(other)
    return shape is not None and shape == other_shape and all(map(known, shape))


def known(dim: int | str | None) -> bool:
    """Whether a dimension is a size or a real name; some exporters write "?" for any they do not know."""
    return isinstance(dim, int) or (dim is not None and any(map(str.isalnum, dim)))
