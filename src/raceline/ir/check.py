"""Whether a model is sound: one function that every reader, pass and bundle goes through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import structure, weights
from raceline.ir.axes import is_packed
from raceline.ir.load import root_cause, summary
from raceline.ir.model import Model
from raceline.ir.serialise import bare_proto
from raceline.ir.signature import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx
    import onnx_ir as ir

# Operators whose weights must not be empty: computing with nothing is an accident, not a model.
_COMPUTING = frozenset("Conv ConvTranspose Gemm MatMul LSTM GRU RNN BatchNormalization".split())


def check(model: Model, *, allow_nan: bool = False) -> None:
    """Check that a model is whole and means something.

    The signature agrees with the graph; every name is written once and before it is read; functions and
    operators are defined; attributes and types are right by ONNX's own checker; shapes fit together; weights
    are numbers.

    Args:
        model: stays as it is.
        allow_nan: accept weights that hold NaN, and do not look for any. Infinite weights are always
            accepted: masks hold them.

    Raises:
        UnsupportedOperatorError: operators without a meaning, all of them.
        BadModelError: anything else, all problems at once.
    """
    problems = _signature_problems(model)
    problems += _weight_problems(model.program, allow_nan=allow_nan)
    problems += _dangling(model.program.graph, set())
    if problems:  # a graph with loose ends cannot even be written down
        raise BadModelError(f"{model.name} is broken", summary(problems), "Export the model again.")
    proto = bare_proto(model.program)
    problems = structure.problems(proto)
    unknown = structure.unsupported(proto)
    if unknown and not problems:
        raise UnsupportedOperatorError(
            model.name, unknown, "Express them in standard ONNX operators, or as model-local functions."
        )
    if not problems:  # onnx's checkers stop at the first problem and assume a sound structure
        problems = _onnx_problems(proto)
    if problems:
        raise BadModelError(f"{model.name} is broken", summary(problems), "Export the model again.")


def _signature_problems(model: Model) -> list[str]:
    """Where the signature and the graph's inputs and outputs disagree."""
    graph, signature = model.program.graph, model.signature
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    found = _side_problems("inputs", inputs, signature.inputs)
    found += _side_problems("outputs", list(graph.outputs), signature.outputs)
    axis = signature.batch_axis
    if axis is not None:
        specs = (*signature.inputs, *signature.outputs)
        found += [f"{s.name!r} lacks the batch axis {axis!r}" for s in specs if s.shape[:1] != (axis,)]
    return found


def _side_problems(side: str, values: Sequence[ir.Value], specs: Sequence[TensorSpec]) -> list[str]:
    names, expected = [v.name for v in values], [s.name for s in specs]
    if names != expected:
        return [f"the signature's {side} are {expected} and the graph's {names}"]
    return [problem for v, s in zip(values, specs, strict=True) if (problem := _mismatch(v, s))]


def _mismatch(value: ir.Value, spec: TensorSpec) -> str:
    """How one value differs from its spec, or cannot go in or out at all; empty where nothing is wrong."""
    import onnx_ir as ir

    if value.type is not None and not isinstance(value.type, ir.TensorType):
        return f"{spec.name!r} is {value.type}, which is no tensor"
    if value.dtype and is_packed(value.dtype):
        return f"{spec.name!r} is {value.dtype.name}, which exists for weights only"
    if value.dtype and value.dtype.numpy().name != spec.dtype:
        return f"{spec.name!r} is {spec.dtype} by the signature and {value.dtype.numpy().name} in the graph"
    if value.shape is None:
        return ""
    if len(value.shape) != len(spec.shape):
        return (
            f"{spec.name!r} has {len(spec.shape)} axes by the signature and {len(value.shape)} in the graph"
        )
    fixed = [(a, b) for a, b in zip(value.shape, spec.shape, strict=True) if isinstance(a, int)]
    wrong = [f"{b} by the signature and {a} in the graph" for a, b in fixed if a > 0 and a != b]
    return f"{spec.name!r} has an axis of {wrong[0]}" if wrong else ""


def _dangling(graph: ir.Graph, outer: set[ir.Value]) -> list[str]:
    """Values that nodes read and that belong to no graph: what a pass leaves when it removes too much."""
    own = outer | {*graph.inputs, *graph.initializers.values()}
    own |= {value for node in graph for value in node.outputs}
    found = []
    for node in graph:
        lost = [value for value in node.inputs if value is not None and value not in own]
        found += [f"node {node.name!r} ({node.op_type}) reads {v.name!r} which nothing writes" for v in lost]
        for inner in _graphs_of(node):
            found += _dangling(inner, own)
    found += [f"output {value.name!r} is produced by nothing" for value in graph.outputs if value not in own]
    return found


def _graphs_of(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if not attribute.is_ref() and attribute.type.name == "GRAPH":
            yield attribute.as_graph()
        elif not attribute.is_ref() and attribute.type.name == "GRAPHS":
            yield from attribute.as_graphs()


def _weight_problems(program: ir.Model, *, allow_nan: bool) -> list[str]:
    found = []
    for name, tensor in () if allow_nan else weights.numbers(program):
        num_nan, _ = weights.non_finite(tensor)
        if num_nan:
            found.append(f"weight {name!r} holds {num_nan} NaN of {tensor.size} elements")
    for node in program.graph.all_nodes():
        if node.op_type not in _COMPUTING:
            continue
        for value in node.inputs:
            tensor_or_none = None if value is None else value.const_value
            if value is not None and tensor_or_none is not None and 0 in tensor_or_none.shape:
                shape = list(tensor_or_none.shape.numpy())
                found.append(f"weight {value.name!r} of {node.op_type} has the empty shape {shape}")
    return found


def _onnx_problems(proto: onnx.ModelProto) -> list[str]:
    """What onnx's checker and its shape inference say."""
    import onnx

    proto.ir_version = min(proto.ir_version, onnx.IR_VERSION)  # the checker refuses what it was built before
    _say_defaults(proto)
    try:
        onnx.checker.check_model(proto)
        onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    except onnx.checker.ValidationError as error:
        return [root_cause(error)]
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        return [f"shapes or types do not fit together: {root_cause(error)}"]
    return []


def _say_defaults(proto: onnx.ModelProto) -> None:
    """Write out the axes of MeanVarianceNormalization: onnx's inference does not know its own default there."""
    import onnx

    for node in structure.all_nodes(proto.graph.node):
        if node.op_type == "MeanVarianceNormalization" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("axes", [0, 2, 3]))
