"""Quantised models as TensorRT and NPU providers take them: symmetric int8 QuantizeLinear and DequantizeLinear.

What these read: int8 with zero point 0, scales known and positive, one scale for activations, one scale or one for
each output channel for weights, biases in floating point. What changes nothing exactly is rewritten into that
(uint8 with zero point 128; constants whose distance from their zero point fits into int8; whole-numbered biases);
whatever else is listed with its reason, node by node, in one message.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.graph import Array, constant
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import Model, operators
from raceline.ir.packed import widened
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx_ir as ir

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# Operators that compute with whole numbers themselves, which these consumers expect as Q and DQ around plain ones.
_WHOLE_NUMBERED = frozenset(
    "ConvInteger DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul".split()
)
# Which axis of a weight its scales may follow: that of the output channels.
_CHANNEL_AXIS = {"Conv": 0, "ConvTranspose": 1}
_SHIFT = 128


@dataclass
class _Symmetric:
    """A model being made symmetric."""

    program: ir.Model
    refused: dict[str, list[str]] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    count: int = 0

    def refuse(self, node: ir.Node, why: str) -> None:
        """Note a node that cannot be had."""
        self.refused.setdefault(f"{node.op_type}: {why}", []).append(node.name or str(node.outputs[0].name))

    def constant(self, hint: str, array: Array) -> ir.Value:
        """A new initializer."""
        import onnx_ir as ir

        self.count += 1
        name = f"raceline_qdq_{self.count}_{hint}"
        value = ir.val(
            name, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        )
        self.program.graph.register_initializer(value)
        return value

    def note(self, what: str) -> None:
        """Count something that was rewritten."""
        self.done[what] = self.done.get(what, 0) + 1


def symmetric(model: Model) -> Model:
    """The same model, bit by bit, with symmetric int8 quantisation only; functions are inlined.

    Raises:
        UnsupportedOperatorError: nodes whose quantisation is another one, all of them, each with its reason.
        BadModelError: nothing in the model is quantised.
    """
    run = _Symmetric(inlined(widened(model).program))
    nodes = [node for graph in run.program.graphs() for node in graph]
    quantised = [node for node in nodes if node.op_type in {_QUANTISE, _DEQUANTISE} | _WHOLE_NUMBERED]
    if not quantised:
        raise BadModelError(
            f"{model.name} is not quantised",
            "it has no QuantizeLinear and no DequantizeLinear",
            "Quantise it first, or write plain ONNX (onnx).",
        )
    for node in nodes:
        if operators.normal_domain(node.domain):
            run.refuse(node, f"the domain {node.domain} is not the standard's")
        elif node.op_type in _WHOLE_NUMBERED:
            run.refuse(
                node, "it computes with whole numbers; the consumer wants Q and DQ around plain operators"
            )
    for node in nodes:
        if node.op_type in {_QUANTISE, _DEQUANTISE} and not node.domain and (why := _general(node)):
            run.refuse(node, why)
    if not run.refused:
        _rewrite_constants(run, nodes)
        _rewrite_activations(run)
        _check_channels(run)
    if run.refused:
        raise UnsupportedOperatorError(
            f"{model.name} as symmetric int8",
            run.refused,
            "Quantise with symmetric int8 activations and weights.",
        )
    _drop_unread(run.program)
    notes = [f"{count} {what}" for what, count in run.done.items()]
    result = replace(model, program=run.program)
    return result.with_step(f"made symmetric int8: {', '.join(notes)}") if notes else result


def _general(node: ir.Node) -> str:
    """What is wrong with a Q or DQ whatever its numbers; empty where nothing is."""
    scale = constant(node.inputs[1])
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if scale is None or (zero is not None and constant(zero) is None):
        return "its scale or zero point is computed, not constant"
    if not (np.all(np.isfinite(scale)) and np.all(scale > 0)):
        return "a scale is not above zero"
    if node.attributes.get_int("block_size", 0):
        return "it quantises in blocks"
    if scale.dtype not in {np.dtype(np.float32), np.dtype(np.float16)}:
        return f"its scale is {scale.dtype}"
    return ""


def _rewrite_constants(run: _Symmetric, nodes: list[ir.Node]) -> None:
    """Weights and biases: constants that a DequantizeLinear reads."""
    for node in nodes:
        if node.op_type != _DEQUANTISE or node.graph is None:
            continue
        held = constant(node.inputs[0])
        if held is None:
            continue
        zero = _zero_point(node)
        if held.dtype == np.int32:
            _fold_bias(run, node, held, zero)
        elif held.dtype not in {np.dtype(np.int8), np.dtype(np.uint8)}:
            run.refuse(node, f"its weights are {held.dtype}")
        elif held.dtype == np.uint8 or np.any(zero):
            _centre(run, node, held, zero)


def _centre(run: _Symmetric, node: ir.Node, held: Array, zero: Array) -> None:
    """Give a constant zero point 0 in int8, where its values reach no further from the old one."""
    from_zero = held.astype(np.int32) - _along(zero.astype(np.int32), node, held.ndim)
    if from_zero.min(initial=0) < -128 or from_zero.max(initial=0) > 127:
        run.refuse(
            node, f"weights reach {int(from_zero.min())} to {int(from_zero.max())} from their zero point"
        )
        return
    node.replace_input_with(0, run.constant("weight", from_zero.astype(np.int8)))
    _set_zero_point(run, node, zero.shape)
    run.note("weights centred")


def _fold_bias(run: _Symmetric, node: ir.Node, held: Array, zero: Array) -> None:
    """Compute a bias now: by the very formula of DequantizeLinear."""
    import onnx_ir as ir

    scale = constant(node.inputs[1])
    assert scale is not None
    whole = held.astype(np.float32) - _along(zero, node, held.ndim).astype(np.float32)
    bias = (whole * _along(scale, node, held.ndim).astype(np.float32)).astype(scale.dtype)
    if node.outputs[0].is_graph_output():
        run.refuse(node, "it gives an output from int32")
        return
    ir.convenience.replace_all_uses_with(node.outputs[0], run.constant("bias", bias))
    assert node.graph is not None
    node.graph.remove(node, safe=True)
    run.note("biases computed")


def _rewrite_activations(run: _Symmetric) -> None:
    """Q and what reads it: uint8 around 128 becomes int8 around 0, a shift that every element shares."""
    for node in [node for graph in run.program.graphs() for node in graph]:
        if node.op_type == _QUANTISE:
            _rewrite_quantise(run, node)
        elif node.op_type == _DEQUANTISE and constant(node.inputs[0]) is None:
            producer = node.inputs[0].producer() if node.inputs[0] is not None else None
            if producer is None or producer.op_type != _QUANTISE:
                run.refuse(node, "it reads neither a QuantizeLinear nor a constant")


def _rewrite_quantise(run: _Symmetric, node: ir.Node) -> None:
    kind, zero = _kind(node), _zero_point(node)
    readers = [use.node for use in node.outputs[0].uses()]
    strange = [reader for reader in readers if reader.op_type != _DEQUANTISE]
    if node.outputs[0].is_graph_output() or strange:
        what = strange[0].op_type if strange else "an output of the model"
        run.refuse(node, f"{what} reads its whole numbers")
        return
    if kind == "int8" and not np.any(zero):
        return
    if kind != "uint8" or np.any(zero != _SHIFT):
        run.refuse(node, f"{kind} with zero point {_some(zero)} is not symmetric")
        return
    wrong = [
        reader
        for reader in readers
        if np.any(_zero_point(reader) != _SHIFT) or reader.inputs[0] is not node.outputs[0]
    ]
    for reader in wrong:
        run.refuse(
            reader, f"its zero point {_some(_zero_point(reader))} is not that of the QuantizeLinear it reads"
        )
    if wrong:
        return
    import onnx_ir as ir

    node.attributes.pop("output_dtype", None)
    node.outputs[0].type = ir.TensorType(ir.DataType.INT8)
    for one in (node, *readers):
        _set_zero_point(run, one, _zero_point(one).shape)
    run.note("activations shifted from uint8")


def _check_channels(run: _Symmetric) -> None:
    """One scale for an activation; for a weight one, or one for each output channel."""
    for node in [node for graph in run.program.graphs() for node in graph]:
        if node.op_type not in {_QUANTISE, _DEQUANTISE}:
            continue
        scale = constant(node.inputs[1])
        assert scale is not None
        if scale.size == 1:
            continue
        source = node.inputs[0]
        if node.op_type == _QUANTISE and constant(source) is None:
            run.refuse(node, "an activation has one scale for each channel")
        elif node.op_type == _DEQUANTISE:
            for reason in _wrong_axes(node):
                run.refuse(node, reason)


def _wrong_axes(node: ir.Node) -> Iterator[str]:
    """Why the scales of a weight do not follow output channels."""
    source = node.inputs[0]
    assert source is not None
    producer = source.producer()
    if constant(source) is None and (producer is None or constant(producer.inputs[0]) is None):
        yield "an activation has one scale for each channel"
        return
    axis = _axis(node, _rank(node))
    for use in node.outputs[0].uses():
        wanted = _output_axis(use.node, use.idx, _rank(node))
        if wanted is None:
            yield f"its scales follow axis {axis} of what {use.node.op_type} reads, which has no output channels"
        elif wanted != axis:
            yield f"its scales follow axis {axis}, and the output channels of {use.node.op_type} are axis {wanted}"


def _output_axis(reader: ir.Node, place: int, rank: int) -> int | None:
    """The axis of output channels of a weight at that place; None where the operator has none there."""
    if place != 1:
        return None
    if reader.op_type in _CHANNEL_AXIS:
        return _CHANNEL_AXIS[reader.op_type]
    if reader.op_type == "MatMul":
        return rank - 1
    if reader.op_type == "Gemm":
        return 0 if reader.attributes.get_int("transB", 0) else 1
    return None


def _kind(node: ir.Node) -> str:
    """The element type that a QuantizeLinear writes."""
    import onnx_ir as ir

    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero = constant(node.inputs[2])
        assert zero is not None
        return str(zero.dtype)
    chosen = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(chosen).numpy().name if chosen else "uint8"


def _zero_point(node: ir.Node) -> Array:
    """The zero point, 0 where none is given, as many as there are scales."""
    given = node.inputs[2] if len(node.inputs) > 2 else None
    array = constant(given)
    if array is not None:
        return array
    scale = constant(node.inputs[1])
    assert scale is not None
    return np.zeros(scale.shape, np.int32)


def _set_zero_point(run: _Symmetric, node: ir.Node, shape: tuple[int, ...]) -> None:
    zero = run.constant("zero", np.zeros(shape, np.int8))
    if len(node.inputs) > 2:
        node.replace_input_with(2, zero)
    else:
        node.resize_inputs(3)
        node.replace_input_with(2, zero)


def _along(numbers: Array, node: ir.Node, rank: int) -> Array:
    """Scales or zero points, so shaped that they meet their axis."""
    if numbers.size == 1:
        return numbers.reshape(())
    shape = [1] * rank
    shape[_axis(node, rank)] = numbers.size
    return numbers.reshape(shape)


def _axis(node: ir.Node, rank: int) -> int:
    axis = node.attributes.get_int("axis", 1)
    return axis + rank if axis < 0 else axis


def _rank(node: ir.Node) -> int:
    source = node.inputs[0]
    assert source is not None
    held = constant(source)
    if held is None and (producer := source.producer()) is not None:
        held = constant(producer.inputs[0])
    assert held is not None
    return held.ndim


def _some(numbers: Array) -> str:
    found = sorted(set(np.asarray(numbers).reshape(-1).tolist()))
    return ", ".join(map(str, found[:4])) + (", ..." if len(found) > 4 else "")


def _drop_unread(program: ir.Model) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(program)


def fixed(model: Model, sizes: dict[str, int]) -> Model:
    """The model with these sizes written into its dynamic axes, and what only depends on them computed.

    Raises:
        ShapeError: a dynamic axis has no size.
        BadModelError: an axis inside the model still depends on the inputs' values.
    """
    import onnx_ir as ir

    from raceline.convert.rewrite import optimise

    shapes = model.signature.concrete(sizes)
    made = model.clone()
    for value in made.program.graph.inputs:
        if value.name in shapes:
            value.shape = ir.Shape(shapes[value.name])
    signature = _signature(made, shapes)
    made = replace(made, signature=signature)
    for value, spec in zip(made.program.graph.outputs, signature.outputs, strict=True):
        value.shape = ir.Shape(spec.shape)
    result, _ = optimise(made, passes=["fold_constants", "remove_dead_code", "remove_identity"])
    open_values = [
        str(value.name)
        for node in result.program.graph
        for value in node.outputs
        if value.name and (value.shape is None or value.shape.is_dynamic())
    ]
    if open_values:
        raise _not_static(model.name, open_values)
    return replace(result, provenance=model.provenance).with_step(f"axes fixed: {sizes}")


def _signature(model: Model, shapes: dict[str, tuple[int, ...]]) -> Any:
    """The signature at these shapes, by shape inference alone: a run would tell sizes that values decide.

    Raises:
        BadModelError: the shape of an output depends on values.
    """
    from raceline.ir import infer_shapes

    table = infer_shapes(model, shapes)
    unknown = [spec.name for spec in model.signature.outputs if spec.name not in table.known]
    if unknown:
        raise _not_static(model.name, unknown)
    inputs = tuple(replace(spec, shape=tuple(shapes[spec.name])) for spec in model.signature.inputs)
    outputs = tuple(
        replace(spec, shape=tuple(table.known[spec.name].shape)) for spec in model.signature.outputs
    )
    return replace(model.signature, inputs=inputs, outputs=outputs, batch_axis=None)


def _not_static(name: str, values: list[str]) -> BadModelError:
    listed = ", ".join(values[:5]) + (", ..." if len(values) > 5 else "")
    return BadModelError(
        f"{name} has no static shapes",
        f"{listed}: their shapes depend on what the model computes",
        "Leave the sizes out, or cut the model before these.",
    )
