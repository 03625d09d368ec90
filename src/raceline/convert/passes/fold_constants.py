"""Compute now what does not depend on the inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.dims import dims_in
from raceline.convert.example import model_from_text
from raceline.convert.graph import Array, Match, Scope, constant, is_op, rank, shape_of
from raceline.core.errors import BadModelError, ShapeError
from raceline.ir import Model, Reference, Signature

if TYPE_CHECKING:
    import onnx_ir as ir

description = "Compute nodes whose inputs are constant, and shapes that are static"
after: tuple[str, ...] = ("inline_functions", "lift_constants")
tolerance = 0.0

LIMIT_BYTES = 64 * 1024
QUANTISED = frozenset("DequantizeLinear QuantizeLinear DynamicQuantizeLinear".split())
RANDOM = frozenset(
    "Bernoulli Dropout Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split()
)
NESTED = frozenset("If Loop Scan SequenceMap".split())
NO_TENSORS = frozenset(
    "Optional SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SplitToSequence".split()
)
"""What they write is a list of tensors or an optional one, and a weight is neither."""
GROWING = frozenset("ConstantOfShape Expand EyeLike OneHot Pad Range Resize Tile Upsample".split())


def pattern(node: ir.Node, scope: Scope) -> Match | None:
    """A node that reads only constants, or an integer vector that comes to sizes alone."""
    if node.domain not in {"", "ai.onnx"} or node.op_type in RANDOM | NESTED | NO_TENSORS | {"Constant"}:
        return None
    if is_op(node, "CastLike") and constant(node.inputs[0]) is not None and _result_type(node) is not None:
        return Match((node,))
    if node.inputs and all(value is None or constant(value) is not None for value in node.inputs):
        return Match((node,)) if any(value is not None for value in node.inputs) else None
    sizes = _sizes(node)
    return None if sizes is None else Match((node,), {"sizes": sizes})


def check(match: Match, scope: Scope) -> str:
    """Weights must not grow, and outputs must stay computed."""
    (node,) = match.nodes
    if node.op_type in QUANTISED:
        return "folding it would undo the quantisation and store the weights at full size"
    if any(value.is_graph_output() for value in node.outputs):
        return f"{match.result.name!r} is an output of the graph, and an output must be computed by a node"
    if "sizes" in match.values:
        return ""
    room = max(LIMIT_BYTES, _freed_bytes(node))
    promised = _promised_bytes(node)
    if promised is None and node.op_type in GROWING:
        return "how large its result would be is unknown"
    if promised is not None and promised > room:
        return f"its result would hold {promised} bytes, more than the {room} it replaces or the limit"
    match.values["computed"] = computed = _compute(node, scope)
    if isinstance(computed, str):
        return computed
    grown = sum(array.nbytes for array in computed)
    return f"its result holds {grown} bytes, more than the {room} it replaces" if grown > room else ""


def rewrite(match: Match, scope: Scope) -> str:
    """Put the computed arrays among the weights."""
    (node,) = match.nodes
    arrays = match.values.get("computed") or [match.values["sizes"]]
    for value, array in zip(node.outputs, arrays, strict=False):
        scope.replace(value, scope.add_constant(value.name or "folded", array))
    scope.remove(match.nodes)
    return "its result does not depend on the inputs" + (
        ", only on sizes that are fixed" if "sizes" in match.values else ""
    )


def _sizes(node: ir.Node) -> Array | None:
    """The result of shape arithmetic, where every element is a size."""
    result = node.outputs[0]
    if len(node.outputs) != 1 or result.dtype is None or result.dtype.name not in {"INT32", "INT64"}:
        return None
    dims = dims_in(result) if rank(result) in {0, 1} else None
    if dims is None or not all(isinstance(dim, int) for dim in dims):
        return None
    array = np.array(dims, result.dtype.numpy())
    return array if rank(result) == 1 else array.reshape(()) if array.size == 1 else None


def _freed_bytes(node: ir.Node) -> int:
    """Bytes of weights that go once all nodes that read them are folded, less what the others come to."""
    freed = 0
    for value in dict.fromkeys(node.inputs):
        array = constant(value)
        if value is None or array is None or value.is_graph_output():
            continue
        others = [user for user in value.consumers() if user is not node]
        taken = [_promised_bytes(user) if _reads_constants(user) else None for user in others]
        freed += max(0, array.nbytes - sum(t or 0 for t in taken)) if None not in taken else 0
    return freed


def _reads_constants(node: ir.Node) -> bool:
    return node.domain in {"", "ai.onnx"} and all(v is None or constant(v) is not None for v in node.inputs)


def _promised_bytes(node: ir.Node) -> int | None:
    total = 0
    for value in node.outputs:
        shape = shape_of(value)
        if value.dtype is None or shape is None or not all(isinstance(dim, int) for dim in shape):
            return None
        total += math.prod(int(dim or 0) for dim in shape) * math.ceil(value.dtype.bitwidth / 8)
    return total


def _result_type(node: ir.Node) -> Any:
    other = node.inputs[1]
    return None if other is None else other.dtype


def _compute(node: ir.Node, scope: Scope) -> list[Array] | str:
    """The node's results by the reference; a sentence where it has none."""
    try:
        results = Reference(_alone(node, scope)).run({})
    except (BadModelError, ShapeError) as error:
        return f"the reference cannot compute it: {error}"
    return [np.asarray(results[f"out{place}"]) for place in range(len(node.outputs))]


def _alone(node: ir.Node, scope: Scope) -> Model:
    """A model of that node only, its inputs as weights; CastLike as the Cast it comes to."""
    import onnx_ir as ir

    op, attributes, given = node.op_type, list(node.attributes.values()), list(node.inputs)
    if op == "CastLike":
        op, attributes, given = "Cast", [ir.AttrInt64("to", _result_type(node).value)], given[:1]
    weights = {value: _weight(place, value) for place, value in enumerate(given) if value is not None}
    operands = [None if value is None else weights[value] for value in given]
    copy = ir.Node("", op, operands, attributes, num_outputs=len(node.outputs), name=node.name)
    for place, (value, original) in enumerate(zip(copy.outputs, node.outputs, strict=True)):
        value.name, value.type, value.shape = f"out{place}", original.type, original.shape
    graph = ir.Graph(
        [], copy.outputs, nodes=[copy], initializers=list(weights.values()), opset_imports={"": scope.opset}
    )
    return Model(ir.Model(graph, ir_version=8), Signature((), ()))


def _weight(place: int, value: ir.Value) -> ir.Value:
    import onnx_ir as ir

    array = constant(value)
    assert array is not None
    return ir.val(f"in{place}", const_value=ir.tensor(np.array(array), name=f"in{place}"))


def example() -> Model:
    """A target shape put together from the static part of another shape."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[2, 3, 4] x, int64[1] minus, int64[1] place) => (float[M, K] y) {
            shape = Shape(x)
            last = Gather(shape, place)
            target = Concat<axis = 0>(minus, last)
            y = Reshape(x, target)
        }""",
        minus=np.array([-1]),
        place=np.array([2]),
    )
