"""What a model costs to run, computed from its graph: arithmetic, weights, traffic of intermediate tensors.

Traffic is what each node reads and writes of tensors that are not weights, the graph's inputs and outputs
among them. A fused operator (a call of a model-local function) is one node: what stays inside it moves
nothing. Operators that only rename a tensor (Reshape and the like) move nothing either, nor does anything
that depends on shapes and weights alone, for every engine computes that once. These figures are computed, not
measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from raceline.ir import structure, weights
from raceline.ir.flops import multiply_add_flops, other_flops
from raceline.ir.inputs import make_inputs
from raceline.ir.model import Model
from raceline.ir.reference import Reference
from raceline.ir.shapes import ShapeTable, complete, infer_shapes

if TYPE_CHECKING:
    import onnx_ir as ir

_RENAMING = frozenset("Dropout Flatten Identity Reshape Squeeze Unsqueeze".split())
_SELECTING = frozenset("Gather GatherElements GatherND Slice".split())  # read as much as they write
_SHAPE_ONLY = frozenset("Shape Size".split())
_TAG = "raceline.node"


@dataclass(frozen=True)
class NodeCost:
    """One node of the graph.

    Attributes:
        name: the node's, or what it writes.
        operator: with its domain, unless that is ONNX's own.
        multiply_add_flops: operations in convolutions, matrix products, recurrences and attention.
        other_flops: all other arithmetic.
        weight_bytes: weights read; a weight that several nodes read counts at each.
        read_bytes: intermediate tensors read.
        written_bytes: intermediate tensors written.
    """

    name: str
    operator: str
    multiply_add_flops: int
    other_flops: int
    weight_bytes: int
    read_bytes: int
    written_bytes: int

    @property
    def flops(self) -> int:
        """All arithmetic."""
        return self.multiply_add_flops + self.other_flops

    @property
    def moved_bytes(self) -> int:
        """Intermediate tensors read and written."""
        return self.read_bytes + self.written_bytes


@dataclass(frozen=True)
class Cost:
    """What one run of a model costs, computed from its graph.

    Attributes:
        rows: one for each node of the graph, in order.
        weight_bytes: all weights, each once.
        uncounted: nodes whose inner work the shapes do not tell (loops).
    """

    rows: tuple[NodeCost, ...]
    weight_bytes: int
    uncounted: tuple[str, ...] = ()

    @property
    def flops(self) -> int:
        """All arithmetic, two for a multiply-add."""
        return sum(row.flops for row in self.rows)

    @property
    def multiply_add_flops(self) -> int:
        """Arithmetic of convolutions, matrix products, recurrences and attention: the figure papers quote."""
        return sum(row.multiply_add_flops for row in self.rows)

    @property
    def intermediate_bytes(self) -> int:
        """Bytes of intermediate tensors, inputs and outputs included, that all nodes read and write."""
        return sum(row.moved_bytes for row in self.rows)


def cost(model: Model, sizes: Mapping[str, int]) -> Cost:
    """Compute what one run costs.

    Args:
        model: stays as it is.
        sizes: the size of every dynamic axis.

    Raises:
        ShapeError: a size is missing, or the model cannot take these.
        UnsupportedOperatorError: operators without a definition.
        BadModelError: shapes that only a run tells are needed, and the run fails.
    """
    shapes = model.signature.concrete(sizes)
    tagged = _tagged(model)
    reference = Reference(tagged)
    table = infer_shapes(tagged, shapes, reference)
    if table.unknown:
        complete(table, reference, make_inputs(model.signature, shapes, seed=0))
    parts: dict[str, list[Any]] = {}
    for node in reference.proto.graph.node:
        tag = next(p.value for p in node.metadata_props if p.key == _TAG)
        parts.setdefault(tag, []).append(node)
    fixed = _fixed(tagged.program, table)
    rows = [
        _row(node, parts.get(str(place), []), table, fixed) for place, node in enumerate(tagged.program.graph)
    ]
    loops = [structure.label(n) for n in reference.proto.graph.node if n.op_type in {"Loop", "Scan"}]
    return Cost(tuple(rows), weights.total_bytes(model.program), tuple(loops))


def _tagged(model: Model) -> Model:
    """A copy whose nodes carry their place, which inlining hands on to what it puts in their stead."""
    program = model.program.clone()
    for place, node in enumerate(program.graph):
        node.metadata_props[_TAG] = str(place)
    return replace(model, program=program)


def _fixed(program: ir.Model, table: ShapeTable) -> set[str]:
    """Names of values that do not depend on the inputs' elements."""
    fixed = {name for name in table.constants} | set(program.graph.initializers)
    for node in program.graph:
        if all(v is None or v.name in fixed for v in node.inputs) and not _has_graph(node):
            fixed |= {value.name or "" for value in node.outputs}
    return fixed - {value.name for value in program.graph.inputs}


def _has_graph(node: ir.Node) -> bool:
    return any(attribute.type.name in {"GRAPH", "GRAPHS"} for attribute in node.attributes.values())


def _row(node: ir.Node, parts: Sequence[Any], table: ShapeTable, fixed: set[str]) -> NodeCost:
    """The cost of one node of the graph, from the standard nodes it stands for."""
    names = list(dict.fromkeys(v.name or "" for v in node.inputs if v is not None))
    outputs = [v.name or "" for v in node.outputs if v.name]
    constant = all(name in fixed for name in outputs)
    written = 0 if constant else _bytes(table, (name for name in outputs if name not in fixed))
    read = 0 if constant else _bytes(table, (name for name in names if name not in fixed))
    if node.op_type in _RENAMING | _SHAPE_ONLY:
        read = written = 0
    elif node.op_type in _SELECTING:
        read = min(read, written)
    used = 0 if constant else _bytes(table, (name for name in names if name in fixed))
    heavy, other = (0, 0) if constant else _arithmetic(parts, table)
    return NodeCost(
        name=node.name or (outputs[0] if outputs else node.op_type),
        operator=f"{node.domain}.{node.op_type}" if node.domain else node.op_type,
        multiply_add_flops=heavy,
        other_flops=other,
        weight_bytes=used,
        read_bytes=read,
        written_bytes=written,
    )


def _arithmetic(nodes: Iterable[Any], table: ShapeTable) -> tuple[int, int]:
    """Multiply-add and other operations of standard nodes; of an `If`, those of its dearer branch."""
    heavy = other = 0
    for node in nodes:
        if all(name in table.constants for name in node.output if name):
            continue  # computed once, while loading
        if node.op_type == "If":
            branches = [_arithmetic(graph.node, table) for graph in structure.subgraphs(node)]
            best = max(branches, key=sum)
            heavy, other = heavy + best[0], other + best[1]
            continue
        reads = [table.known.get(name) for name in node.input]
        writes = [table.known.get(name) for name in node.output]
        heavy += multiply_add_flops(node, reads, writes)
        other += other_flops(node, reads, writes)
    return heavy, other


def _bytes(table: ShapeTable, names: Iterable[str]) -> int:
    return sum(table.known[name].nbytes for name in names if name in table.known)
