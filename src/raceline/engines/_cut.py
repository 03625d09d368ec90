"""A model of some nodes of another, for engines that run a graph in parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raceline.core.errors import BadModelError
from raceline.ir import Model, Provenance, Signature, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir


def cut(model: Model, nodes: Sequence[ir.Node]) -> tuple[Model, tuple[str, ...], tuple[str, ...]]:
    """A model of these nodes alone, with the names of what it takes and gives.

    Args:
        model: without functions; stays as it is.
        nodes: of its main graph, in order. Their subgraphs must read nothing of it.

    Raises:
        BadModelError: type or rank of a value at the edge is unknown.
    """
    import onnx_ir as ir

    graph = model.program.graph
    inside = set(nodes)
    reads = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None)
    inputs = [v for v in reads if v.producer() not in inside and not v.is_initializer()]
    outputs = [
        v for node in nodes for v in node.outputs
        if v.name and (v.is_graph_output() or any(user not in inside for user in v.consumers()))
    ]  # fmt: skip
    view = ir.GraphView(
        inputs, outputs, nodes=nodes, initializers=[v for v in reads if v.is_initializer()],
        opset_imports=graph.opset_imports, name=graph.name,
    )  # fmt: skip
    program = ir.Model(view.clone(), ir_version=model.program.ir_version)
    taken, given = tuple(map(_spec, inputs)), tuple(map(_spec, outputs))
    part = Model(program, Signature(taken, given), Provenance(source=model.name))
    return part, tuple(spec.name for spec in taken), tuple(spec.name for spec in given)


def _spec(value: ir.Value) -> TensorSpec:
    if value.dtype is None or value.shape is None or not value.name:
        raise BadModelError(
            f"the model cannot be cut at {value.name!r}", "its type is unknown", "Try another engine."
        )
    dims = [dim if isinstance(dim, int) else f"{value.name}.{axis}" for axis, dim in enumerate(value.shape)]
    return TensorSpec(value.name, value.dtype.numpy().name, tuple(dims))
