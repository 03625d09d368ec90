"""Write quantisation into a graph: QuantizeLinear and DequantizeLinear around what is to compute in 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.graph import Scope, attribute, constant, is_op, only_user
from raceline.convert.quantise.plan import Layer, layers_of, rearranging, reasons
from raceline.convert.quantise.ranges import Observed
from raceline.convert.quantise.scheme import Scheme
from raceline.convert.rewrite import optimise
from raceline.convert.shapes import infer
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError
from raceline.ir import Model
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
_LEAST_OPSET = 13  # the first in which scales may follow an axis
_FLOWING = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "Mul")
"""Operators that ONNX Runtime has 8-bit kernels for; worth it where all that they read is quantised already."""
_TIDYING = ("cancel_quantisation", "merge_common_subexpressions", "remove_dead_code")
MOST_OF_A_BIAS = 2**30
"""A bias in whole numbers may be this large: half of what 32 bits hold is left to the products."""


@dataclass(frozen=True)
class Plan:
    """What would be quantised.

    Attributes:
        model: plain and of an opset that can be quantised; values and nodes keep their names.
        layers: names of the nodes that can compute in 8 bits.
        refused: those that cannot, each with its reason.
        values: names of the values that are quantised if all of them are.
    """

    model: Model
    layers: tuple[str, ...]
    refused: Mapping[str, str]
    values: tuple[str, ...]


def plan(model: Model, scheme: Scheme) -> Plan:
    """Find out what can be quantised, before anything is measured.

    Raises:
        BadModelError: nothing can; the message has the reasons.
    """
    plain = replace(model, program=inlined(model.program))
    if plain.program.opset_imports.get("", 1) < _LEAST_OPSET:
        plain = with_opset(plain, _LEAST_OPSET)
    infer(plain.program)  # what was inside functions has no types yet
    name_all(plain.program.graph)
    layers, refused = _chosen(plain.program.graph, scheme, ())
    if not layers:
        raise BadModelError(
            f"{model.name} has nothing to quantise",
            reasons(refused) or "it has no convolution and no product of matrices in float32",
            "Serve it as it is.",
        )
    values = _values(plain.program.graph, layers, scheme)
    names = tuple(str(value.name) for value in values)
    return Plan(plain, tuple(layer.name for layer in layers), refused, names)


def quantise(
    planned: Plan, observed: Mapping[str, Observed], scheme: Scheme, *, keep: Collection[str] = ()
) -> Model:
    """The model with quantisation written in.

    Args:
        planned: what `plan` found for the same scheme.
        observed: ranges of all its values.
        scheme: how.
        keep: layers that stay in floating point.

    Raises:
        BadModelError: `keep` leaves nothing to quantise.
    """
    made = planned.model.clone()
    scope = Scope(made.program, made.program.graph)
    layers, _ = _chosen(scope.graph, scheme, keep)
    if not layers:
        raise BadModelError(f"nothing is left to quantise in {made.name}", "every layer is to be kept")
    values = _values(scope.graph, layers, scheme)
    origins = {value: _origin(value) if scheme.results else value for value in values}
    signed = {v for layer in layers if layer.weight is None for v in layer.node.inputs if v is not None}
    writer = _Writer(scope, scheme, observed, origins, signed if scheme.products == "scores" else set())
    for value in values:
        writer.activation(value)
    for layer in layers:
        writer.weights(layer)
    kept = f", {len(planned.layers) - len(layers)} kept in floating point" if keep else ""
    # OpenVINO only knows a pair whose halves are neighbours; ONNX Runtime rearranges what is in 8 bits already.
    moving = ("move_quantisation",) if scheme.results else ()
    result, _ = optimise(made, passes=(*moving, *_TIDYING))
    return replace(result, provenance=made.provenance).with_step(
        f"quantised {len(layers)} layers to {scheme.weight_bits}-bit weights and {scheme.activations} "
        f"activations, ranges by {scheme.method}{kept}"
    )


def name_all(graph: ir.Graph) -> None:
    """Give every node without a name one: people and settings call layers by them."""
    for place, node in enumerate(graph):
        node.name = node.name or f"{node.op_type}_{place}"


def _chosen(graph: ir.Graph, scheme: Scheme, keep: Collection[str]) -> tuple[list[Layer], dict[str, str]]:
    layers, refused = layers_of(graph)
    chosen = []
    for layer in layers:
        if scheme.results and is_op(layer.node, "ConvTranspose"):
            refused[layer.name] = "this engine has no 8-bit kernel for it"
        elif layer.weight is None and _in_floats(layer, scheme):
            refused[layer.name] = "this engine multiplies these computed factors in floats"
        elif layer.name not in keep:
            chosen.append(layer)
    return chosen, refused


def _in_floats(layer: Layer, scheme: Scheme) -> bool:
    """Whether a product of computed factors is left as it is."""
    if scheme.products != "scores":
        return scheme.products == "none"
    factors = [_origin(value).producer() for value in layer.node.inputs if value is not None]
    return any(node is not None and is_op(node, "Softmax") for node in factors)


def _values(graph: ir.Graph, layers: Iterable[Layer], scheme: Scheme) -> list[ir.Value]:
    """The values to quantise, without repetition: what layers read, where it comes from, and results."""
    found: dict[ir.Value, None] = {}
    for layer in layers:
        for place in layer.activations:
            value = layer.node.inputs[place]
            assert value is not None
            found[value] = None
            if scheme.results:
                found[_origin(value)] = None
        if is_op(layer.node, "Conv") and (scheme.results or (scheme.sums and _is_added(layer.result))):
            found[layer.result] = None
    if scheme.results:
        _flow(graph, found)
    return [value for value in found if any(use.node.graph is graph for use in value.uses())]


def _origin(value: ir.Value) -> ir.Value:
    """Where the elements of a value come from, past operators that only rearrange."""
    node = value.producer()
    while node is not None and rearranging(node) and node.inputs[0] is not None:
        if constant(node.inputs[0]) is not None:
            break
        value, node = node.inputs[0], node.inputs[0].producer()
    return value


def _is_added(value: ir.Value) -> bool:
    """Whether all that reads a value adds something computed to it."""
    nodes = [use.node for use in value.uses()]
    return bool(nodes) and all(
        is_op(node, "Add") and not any(constant(operand) is not None for operand in node.inputs)
        for node in nodes
    )


def _flow(graph: ir.Graph, found: dict[ir.Value, None]) -> None:
    """Results of operators between quantised values, so that these stay in 8 bits."""
    for node in graph:
        if not is_op(node, *_FLOWING) or node.outputs[0] in found:
            continue
        if all(value in found or (value is not None and _rearranged(value, found)) for value in node.inputs):
            result = node.outputs[0]
            user = only_user(result)
            found[user.outputs[0] if user is not None and is_op(user, "Relu", "Clip") else result] = None


def _rearranged(value: ir.Value, found: Mapping[ir.Value, None]) -> bool:
    """Whether a value holds elements of a quantised one."""
    return _origin(value) in found


class _Writer:
    """Puts pairs of Q and DQ into a graph."""

    def __init__(
        self,
        scope: Scope,
        scheme: Scheme,
        observed: Mapping[str, Observed],
        origins: Mapping[ir.Value, ir.Value],
        signed: Collection[ir.Value],
    ) -> None:
        self.scope, self.scheme, self.observed, self._origins = scope, scheme, observed, origins
        self._signed = signed
        self._scales: dict[ir.Value, float] = {}

    def activation(self, value: ir.Value) -> None:
        """Quantise a computed value or an input for all of its readers; an output of the graph stays as it is."""
        scale, zero, dtype = self._numbers(value)
        first = next(node for node in self.scope.graph if value in node.inputs)
        users = [use for use in value.uses() if use.node.graph is self.scope.graph]
        name = str(value.name)
        numbers = [
            self.scope.add_constant(f"{name}_scale", np.array(scale, np.float32)),
            self.scope.add_constant(f"{name}_zero_point", np.array(zero, dtype)),
        ]
        small = self.scope.add_node("QuantizeLinear", [value, *numbers], first)
        small.shape = value.shape
        small.type = _tensor_type(dtype)
        wide = self.scope.add_node("DequantizeLinear", [small, *numbers], first, like=value)
        for use in users:
            use.node.replace_input_with(use.idx, wide)
        self._scales[wide] = scale

    def _numbers(self, value: ir.Value) -> tuple[float, int, np.dtype[Any]]:
        """Scale, zero point and type of numbers; a rearranged value has those of its origin."""
        origin = self._origins[value]
        seen = self.observed[str(origin.name)]
        symmetric = self.scheme.activations == "int8" or origin in self._signed
        low, high = seen.range(self.scheme.method, symmetric=symmetric)
        if symmetric:
            return max(high, -low) / 127, 0, np.dtype(np.int8)
        scale = (high - low) / 255
        return scale, round(-low / scale), np.dtype(np.uint8)

    def weights(self, layer: Layer) -> None:
        """Quantise a layer's weights and bias."""
        if layer.weight is None:
            return
        node = layer.node
        value = node.inputs[layer.weight]
        weight = constant(value)
        assert weight is not None and value is not None
        per_channel = self.scheme.per_channel and (not is_op(node, "MatMul") or weight.ndim == 2)
        axis = layer.axis if per_channel else None
        small, scale = rounded(weight, axis, self.scheme.weight_bits, self._least_scale(layer, axis))
        name = str(value.name)
        attributes = {} if axis is None else {"axis": axis}
        wide = self.scope.add_node(
            "DequantizeLinear",
            [
                self.scope.add_constant(f"{name}_quantised", small),
                self.scope.add_constant(f"{name}_scale", scale.astype(np.float32)),
                self.scope.add_constant(f"{name}_zero_point", np.zeros(scale.shape, np.int8)),
            ],
            node,
            like=value,
            **attributes,
        )
        node.replace_input_with(layer.weight, wide)
        if layer.bias is not None:
            self._bias(layer, scale)

    def _least_scale(self, layer: Layer, axis: int | None) -> Array:
        """The scales of a layer's weights below which its bias would not fit the sums of products.

        Engines round a bias to the scale of the products and clip it there, be it a float in the graph. So a
        channel whose weights are next to nothing, as training leaves some, would lose its bias.
        """
        source = layer.node.inputs[layer.activations[0]]
        if layer.bias is None or source not in self._scales:
            return np.zeros(())
        bias = constant(layer.node.inputs[layer.bias])
        assert bias is not None
        reach = np.abs(bias.astype(np.float64).reshape(-1)) / (MOST_OF_A_BIAS * self._scales[source])
        if axis is None:
            return np.asarray(reach.max())
        group = attribute(layer.node, "group", 1) if is_op(layer.node, "ConvTranspose") else 1
        least: Array = reach.reshape(group, -1).max(axis=0)
        return least

    def _bias(self, layer: Layer, scale: Array) -> None:
        """A bias in 32 bits, on the scale of the products it is added to."""
        node = layer.node
        assert layer.bias is not None
        value, source = node.inputs[layer.bias], node.inputs[layer.activations[0]]
        bias = constant(value)
        assert bias is not None and value is not None and source is not None
        if source not in self._scales:
            return
        group = attribute(node, "group", 1) if is_op(node, "ConvTranspose") else 1
        steps = np.tile(scale.astype(np.float64), group) if scale.ndim else scale.astype(np.float64)
        steps = steps * self._scales[source]
        whole = np.rint(bias.reshape(-1) / steps)
        name = str(value.name)
        parts = [
            self.scope.add_constant(f"{name}_quantised", whole.reshape(bias.shape).astype(np.int32)),
            self.scope.add_constant(f"{name}_scale", steps.astype(np.float32)),
            self.scope.add_constant(f"{name}_zero_point", np.zeros(steps.shape, np.int32)),
        ]
        attributes = {"axis": 0} if steps.ndim else {}
        wide = self.scope.add_node("DequantizeLinear", parts, node, like=value, **attributes)
        node.replace_input_with(layer.bias, wide)


def rounded(weight: Array, axis: int | None, bits: int, least: Array | float = 0.0) -> tuple[Array, Array]:
    """A weight in whole numbers around zero, and its scale: one, or one for each index of an axis.

    No scale is less than `least`.
    """
    largest = 2 ** (bits - 1) - 1
    others = None if axis is None else tuple(a for a in range(weight.ndim) if a != axis)
    reach = np.abs(weight.astype(np.float64)).max(axis=others)
    scale = np.where(reach > 0, reach / largest, 1.0).astype(np.float32)  # a channel of zeros has any scale
    scale = np.maximum(scale, np.maximum(least, np.finfo(np.float32).tiny)).astype(np.float32)
    shape = [1] * weight.ndim
    if axis is not None:
        shape[axis] = -1
    steps = scale.reshape(shape) if axis is not None else scale
    small = np.clip(np.rint(weight / steps), -largest, largest).astype(np.int8)
    return small, scale


def _tensor_type(dtype: np.dtype[Any]) -> ir.TensorType:
    import onnx_ir as ir

    return ir.TensorType(ir.DataType.from_numpy(dtype))
