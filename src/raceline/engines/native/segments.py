"""A model cut into as few parts as possible: nets of our kernels, and what is left to ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.core.errors import BadModelError
from raceline.engines.native.constants import is_dequantising, roundings
from raceline.engines.native.operators import Facts, Shape, Step, as_pictures, step_of
from raceline.engines.native.rows import as_matrix, units_of
from raceline.ir import Model, Shapes, ShapeTable, infer_shapes
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx_ir as ir

_LEAST_SHARE = 0.05  # of a model's convolutions: a net of fewer is not worth moving its values


@dataclass
class Segment:
    """Nodes that run in one place, one after another.

    Attributes:
        nodes: in order.
        steps: what they are to our kernels; None where ONNX Runtime takes them.
    """

    nodes: list[ir.Node]
    steps: list[Step] | None

    def seen(self, shape: tuple[int, ...]) -> Shape:
        """A value of this shape as the steps see it."""
        return as_pictures(shape)

    def hold(self, constants: Iterable[ir.Node]) -> None:
        """Take in those of some nodes, which read constants alone, that the segment needs."""
        reads = _producers(value for node in self.nodes for value in node.inputs)
        self.nodes = [node for node in constants if node in reads] + self.nodes

    def inputs(self) -> list[ir.Value]:
        """Values that come from other segments or from outside the model."""
        inside = set(self.nodes)
        reads = dict.fromkeys(v for node in self.nodes for v in node.inputs if v is not None)
        return [v for v in reads if v.producer() not in inside and not v.is_initializer()]

    def outputs(self) -> list[ir.Value]:
        """Values that others read."""
        inside = set(self.nodes)
        written = (value for node in self.nodes if not _is_held(node) for value in node.outputs)
        return [
            v for v in written
            if v.is_graph_output() or any(user not in inside for user in v.consumers())
        ]  # fmt: skip


@dataclass
class Rows(Segment):
    """Nodes whose steps are over matrices; some of them only rearrange, and are no step.

    Attributes:
        values: of the whole graph, by name.
    """

    values: Mapping[str, ir.Value]

    def seen(self, shape: tuple[int, ...]) -> Shape:
        """A value of this shape as the steps see it."""
        return as_matrix(shape)

    def inputs(self) -> list[ir.Value]:
        """Values that steps read and none writes."""
        steps = self.steps or []
        reads = dict.fromkeys(name for step in steps for name in (*step.reads, step.residual) if name)
        return [self.values[name] for name in reads if name not in self._written()]

    def outputs(self) -> list[ir.Value]:
        """Values that steps write and others read."""
        inside = set(self.nodes)
        written = [self.values[name] for name in self._written()]
        return [
            v for v in written if v.is_graph_output() or any(user not in inside for user in v.consumers())
        ]

    def _written(self) -> dict[str, None]:
        return dict.fromkeys(name for step in self.steps or [] for name in step.writes)


def settled(model: Model, shapes: Shapes) -> tuple[Model, ShapeTable]:
    """A copy without functions, every shape written in, and without nodes that nobody needs or shapes settle.

    Raises:
        ShapeError: a node cannot take the shapes that reach it.
    """
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    table = infer_shapes(model, shapes)
    whole = Model(lifted(model), model.signature, model.provenance)
    graph = whole.program.graph
    for node in list(graph):
        _settle(graph, node, table)
    RemoveUnusedNodesPass()(whole.program)
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        info = table.known.get(value.name or "")
        if info is not None:
            value.type = ir.TensorType(ir.DataType(info.data_type))
            value.shape = ir.Shape(info.shape)
    return whole, table


def lifted(model: Model) -> ir.Model:
    """A copy of the program without functions and Constant nodes."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    program = inlined(model.program)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(program)
    return program


def _settle(graph: ir.Graph, node: ir.Node, table: ShapeTable) -> None:
    """Put constants in the place of a node's outputs, where all of them are known."""
    import onnx_ir as ir

    if is_dequantising(node):  # its whole numbers are worth more
        return
    found = [(value, table.constants.get(value.name or "")) for value in node.outputs if value.uses()]
    if (
        any(v.is_graph_output() for v in node.outputs)
        or any(array is None for _, array in found)
        or not found
    ):
        return
    for value, array in found:
        assert array is not None
        constant = ir.Value(name=f"{value.name}.known", const_value=ir.tensor(np.asarray(array)))
        constant.shape, constant.type = (
            ir.Shape(array.shape),
            ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        )
        graph.register_initializer(constant)
        value.replace_all_uses_with(constant)
    graph.remove(node, safe=True)


def cut_up(model: Model, table: ShapeTable, left: Collection[ir.Node] = ()) -> list[Segment]:
    """Segments in order; a net only where it holds a fair share of the model's convolutions.

    Args:
        model: as `settled` gives it.
        table: its shapes.
        left: nodes that the other engine is to run.

    Raises:
        BadModelError: a part would have to be cut around a node with graphs inside.
    """
    import onnx_ir as ir

    floats = {name: info.shape for name, info in table.known.items() if info.data_type == ir.DataType.FLOAT}
    nodes = list(model.program.graph)
    small = [str(node.outputs[0].name) for node in nodes if roundings(node)]
    facts = Facts(floats | {name: table.known[name].shape for name in small if name in table.known})
    steps = {node: step for node in nodes if node not in left and (step := step_of(node, facts)) is not None}
    work = {node: _work(step, floats) for node, step in steps.items()}
    rows = cut_into_rows(nodes, floats, sum(work.values()), left)
    if rows:
        refuse_graphs_inside(model)
        return rows
    held = [node for node in nodes if _is_held(node)]
    nodes = [node for node in nodes if not _is_held(node)]
    segments = _alternating(nodes, steps)
    total = sum(work.values())
    for segment in segments:
        if segment.steps is not None and sum(work[node] for node in segment.nodes) < max(
            1, _LEAST_SHARE * total
        ):
            steps = {node: step for node, step in steps.items() if node not in set(segment.nodes)}
    segments = _alternating(nodes, steps)
    if any(segment.steps for segment in segments):
        refuse_graphs_inside(model)
    for segment in segments:
        segment.hold(held)
    return segments


def _is_held(node: ir.Node) -> bool:
    """Whether a node only dequantises constants: every segment has its own of those that it reads."""
    return is_dequantising(node) and not node.outputs[0].is_graph_output()


def cut_into_rows(
    nodes: Sequence[ir.Node],
    shapes: Mapping[str, tuple[int, ...]],
    convolutions: int,
    left: Collection[ir.Node] = (),
) -> list[Segment]:
    """Segments of kernels over matrices and what is left; none where convolutions outweigh them.

    Args:
        nodes: of the graph, in order.
        shapes: of values of float32.
        convolutions: their multiplications.
        left: nodes that the other engine is to run.
    """
    held = [node for node in nodes if _is_held(node)]
    nodes = [node for node in nodes if not _is_held(node)]
    units, views = units_of(nodes, shapes)
    units = [unit for unit in units if not any(node in left for node in unit.nodes)]
    work = sum(
        math.prod(shapes[unit.step.writes[0]][:-1]) * unit.step.settings["weights"].size
        for unit in units
        if unit.step.kind in {"linear", "int8_linear"}
    )
    if work <= convolutions or all(unit.step.kind != "attention" for unit in units):
        return []
    values = {str(v.name): v for node in nodes for v in (*node.inputs, *node.outputs) if v is not None}
    ours = {node for unit in units for node in unit.nodes}
    needed = {producer for unit in units for producer in _producers(values[name] for name in unit.reads())}
    absorbed = _absorbed(nodes, views.used - ours - needed, ours)
    place = {node: i for i, node in enumerate(nodes)}
    items = [
        _Item(unit.nodes, unit.step, _producers(values[name] for name in unit.reads())) for unit in units
    ]
    items += [_Item([node], None, _producers(node.inputs)) for node in nodes if node not in ours | absorbed]
    items.sort(key=lambda item: max(place[node] for node in item.nodes))
    turns = min((_by_turns(items, ours=first) for first in (False, True)), key=len)
    segments: list[Segment] = []
    turn_of: dict[ir.Node, int] = {}
    for turn, chosen in enumerate(turns):
        inside = sorted((node for item in chosen for node in item.nodes), key=place.__getitem__)
        turn_of |= dict.fromkeys(inside, turn)
        steps = [item.step for item in chosen if item.step is not None]
        segments.append(Rows(inside, steps, values) if steps else Segment(inside, None))
    for node in sorted(absorbed, key=place.__getitem__, reverse=True):
        turn_of[node] = max(turn_of[user] for value in node.outputs for user in value.consumers())
        segments[turn_of[node]].nodes.append(node)
    for segment in segments:
        segment.nodes.sort(key=place.__getitem__)
        segment.hold(held)
    return segments


def _absorbed(nodes: Sequence[ir.Node], views: set[ir.Node], ours: set[ir.Node]) -> set[ir.Node]:
    """Those of `views`, nodes that rearrange, whose results only our kernels read."""
    absorbed: set[ir.Node] = set()
    for node in reversed(nodes):
        users = {user for value in node.outputs for user in value.consumers()}
        visible = any(value.is_graph_output() for value in node.outputs)
        if node in views and users and not visible and users <= ours | absorbed:
            absorbed.add(node)
    return absorbed


def _producers(values: Iterable[ir.Value | None]) -> set[ir.Node]:
    found = {value.producer() for value in values if value is not None}
    return {node for node in found if node is not None}


@dataclass(frozen=True, eq=False)
class _Item:
    """Nodes that run together: a step of our kernels, or one node of the other engine.

    Attributes:
        needs: nodes that compute what these read.
    """

    nodes: list[ir.Node]
    step: Step | None
    needs: set[ir.Node]


def _by_turns(items: Sequence[_Item], *, ours: bool) -> list[list[_Item]]:
    """Items by turns: all steps that can be done next, then all nodes of the other engine that can."""
    left, waiting = list(items), {node for item in items for node in item.nodes}
    turns: list[list[_Item]] = []
    idle = 0
    while left and idle < 2:
        chosen: list[_Item] = []
        for item in left:
            if (item.step is not None) == ours and not (item.needs - set(item.nodes)) & waiting:
                waiting -= set(item.nodes)
                chosen.append(item)
        taken = set(chosen)
        left = [item for item in left if item not in taken]
        if chosen:
            turns.append(chosen)
        idle = 0 if chosen else idle + 1
        ours = not ours
    if left:
        raise BadModelError("the nodes of the graph wait for each other", "it has a cycle")
    return turns


def _work(step: Step, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Multiplications of a convolution of pictures; a matrix product alone is no reason for a net."""
    if step.kind != "convolution" or len(shapes[step.reads[0]]) == 2:
        return 0
    weights: np.ndarray[Any, Any] = step.settings["weights"]
    return math.prod(as_pictures(shapes[step.writes[0]])) * (weights.size // len(weights))


def refuse_graphs_inside(model: Model) -> None:
    """Raise BadModelError where a node has graphs of its own: they may read any value around them."""
    import onnx_ir as ir

    graphs = {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}
    for node in model.program.graph:
        if any(attribute.type in graphs for attribute in node.attributes.values()):
            raise BadModelError(
                f"{model.name} holds branches or loops ({node.op_type})",
                "the native engine cuts no model around them",
                "Use the engine onnxruntime.",
            )


def _alternating(nodes: Sequence[ir.Node], steps: Mapping[ir.Node, Step]) -> list[Segment]:
    """By turns all that our kernels can do next, and all that ONNX Runtime can do next."""
    segments: list[Segment] = []
    left = list(nodes)
    ours, idle = True, 0
    while left and idle < 2:
        taken = _ready(left, steps, ours=ours)
        chosen = [node for node in left if node in taken]
        if chosen:
            segments.append(Segment(chosen, [steps[node] for node in chosen] if ours else None))
        left = [node for node in left if node not in taken]
        idle = 0 if chosen else idle + 1
        ours = not ours
    if left:
        raise BadModelError("the nodes of the graph wait for each other", "it has a cycle")
    return segments


def _ready(left: Iterable[ir.Node], steps: Mapping[ir.Node, Step], *, ours: bool) -> set[ir.Node]:
    """What one place can do without the other: nodes are in topological order, so one look is enough."""
    waiting, taken = set(left), set()
    for node in list(left):
        needs = {value.producer() for value in node.inputs if value is not None}
        if (node in steps) == ours and not needs & waiting:
            waiting.discard(node)
            taken.add(node)
    return taken
