"""Shapes of all values, symbolic where an axis is dynamic, and probes: those that sample sizes would give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raceline.convert.graph import PROBES, known, scopes_of
from raceline.ir.serialise import bare_proto

if TYPE_CHECKING:
    import onnx
    import onnx_ir as ir

# Two sets of sizes, so that two axes are hardly alike in both by chance. Multiples of 32, so that networks
# which halve and double their images keep fitting; each axis has its own.
_STEPS = ((5, 2), (11, 3))


def infer(program: ir.Model) -> None:
    """Fill in the shapes and types of inner values, in place. What inputs and outputs declare stays.

    No dynamic axis becomes a size: sample sizes are tried on a copy, and each value remembers them in its
    `meta` for `graph.same_shape`. Where inference fails, shapes stay unknown and passes refuse.
    """
    outputs = {value for graph in scopes_of(program) for value in graph.outputs if value.shape is not None}
    proto = bare_proto(program)
    symbolic = _inferred(proto)
    probes = [_inferred(_probe(proto, first, step)) for first, step in _STEPS]
    for index, graph in enumerate(scopes_of(program)):
        for value in _values(graph):
            found = symbolic[index].get(str(value.name))
            if found is not None and value not in outputs:
                value.type, value.shape = (
                    found.type or value.type,
                    found.shape if found.shape else value.shape,
                )
            _remember(value, [probe[index].get(str(value.name)) for probe in probes])


def _remember(value: ir.Value, probed: list[ir.Value | None]) -> None:
    shapes = [other.shape for other in probed if other is not None and other.shape is not None]
    if len(shapes) == len(_STEPS) and all(shape.is_static() for shape in shapes):
        value.meta[PROBES] = tuple(shape.numpy() for shape in shapes)
    else:
        value.meta.pop(PROBES, None)


def forget_probes(program: ir.Model) -> None:
    """Take the probes out again, so that a finished model carries none."""
    for graph in scopes_of(program):
        for value in _values(graph):
            value.meta.pop(PROBES, None)


def _inferred(proto: onnx.ModelProto) -> list[dict[str, ir.Value]]:
    """Name -> value with inferred type and shape, for each graph in the order of `scopes_of`."""
    import onnx
    import onnx_ir as ir

    try:
        proto = onnx.shape_inference.infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True)
    except onnx.shape_inference.InferenceError:
        pass  # what is known without inference has to do
    return [{str(value.name): value for value in _values(graph)} for graph in scopes_of(ir.from_proto(proto))]


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
