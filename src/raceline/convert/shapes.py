"""Shapes of all values, symbolic where an axis is dynamic, and probes: those that sample sizes would give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from raceline.convert.graph import PROBES, known, scopes_of
from raceline.ir.serialise import bare_proto

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Two sets of sizes, so that two axes are hardly alike in both by chance. Multiples of 32, so that networks
# which halve and double their images keep fitting; each axis has its own.
_STEPS = ((5, 2), (11, 3))

Found = Mapping[str, "onnx.TypeProto"]


def infer(program: ir.Model) -> None:
    """Fill in the shapes and types of inner values, in place. What inputs and outputs declare stays.

    No dynamic axis becomes a size: sample sizes are tried on a copy, and each value remembers them in its
    `meta` for `graph.same_shape`. Where inference fails, shapes stay unknown and passes refuse.
    """
    kept = {value for graph in scopes_of(program) for value in graph.outputs if value.shape is not None}
    proto = bare_proto(program)
    symbolic = _inferred(proto)
    probes = [_inferred(_probe(proto, first, step)) for first, step in _STEPS] if _is_open(program) else []
    for index, graph in enumerate(scopes_of(program)):
        for value in _values(graph):
            name = str(value.name)
            if name in symbolic[index] and value not in kept:
                _learn(value, symbolic[index][name])
            _remember(value, [probe[index].get(name) for probe in probes])


def forget_probes(program: ir.Model) -> None:
    """Take the probes out again, so that a finished model carries none."""
    for graph in scopes_of(program):
        for value in _values(graph):
            value.meta.pop(PROBES, None)


def _is_open(program: ir.Model) -> bool:
    return any(value.shape is None or value.shape.is_dynamic() for value in program.graph.inputs)


def _learn(value: ir.Value, found: onnx.TypeProto) -> None:
    import onnx_ir as ir

    kind = ir.serde.deserialize_type_proto_for_type(found)
    shape = ir.serde.deserialize_type_proto_for_shape(found)
    value.type = value.type if kind is None else kind
    value.shape = value.shape if shape is None else shape


def _remember(value: ir.Value, probed: list[onnx.TypeProto | None]) -> None:
    shapes = [None if found is None else _sizes(found) for found in probed]
    if shapes and None not in shapes:
        value.meta[PROBES] = tuple(shapes)
    else:
        value.meta.pop(PROBES, None)


def _sizes(found: onnx.TypeProto) -> tuple[int, ...] | None:
    if not found.HasField("tensor_type") or not found.tensor_type.HasField("shape"):
        return None
    dims = found.tensor_type.shape.dim
    return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None


def _inferred(proto: onnx.ModelProto) -> list[Found]:
    """Types and shapes by name, for each graph in the order of `scopes_of`."""
    import onnx

    try:
        proto = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except onnx.shape_inference.InferenceError:
        pass  # what is known without inference has to do
    return [
        {info.name: info.type for info in (*graph.input, *graph.value_info, *graph.output)}
        for graph in _graphs(proto.graph)
    ]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for nested in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(nested)


def _probe(proto: onnx.ModelProto, first: int, step: int) -> onnx.ModelProto:
    """A copy in which every dynamic axis of the inputs has a size, and all else follows."""
    copy = type(proto).FromString(proto.SerializeToString())
    copy.graph.ClearField("value_info")
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    sizes: dict[str, int] = {}
    for value in copy.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value"):
                name = dim.dim_param if known(dim.dim_param) else f"{value.name}.{axis}"
                dim.dim_value = sizes.setdefault(name, 32 * (first + step * len(sizes)))
    return copy


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
