"""Weights stored in few bits: which of a graph's weights can be, how they are rounded, and the graph with them.

Activations stay in floating point, so no data is needed. 8 bits are symmetric with a scale for each output
channel; 4 bits have a scale for each block of the sum, as kernels for such weights read them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.graph import Scope, attribute, constant, is_op, operand
from raceline.convert.quantise.insert import name_all
from raceline.convert.quantise.plan import reasons
from raceline.convert.quantise.rounding import Rounded, rounded_blocks, rounded_channels
from raceline.convert.rewrite import optimise
from raceline.convert.shapes import infer
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError, ConfigError
from raceline.ir import Model
from raceline.ir.packed import OPSET as BLOCKS_OPSET
from raceline.ir.serialise import inlined

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
_CHANNELS_OPSET = 13  # the first in which scales may follow an axis
# Summands that share a scale, the first that divides their number; the runtimes' kernels take these.
_BLOCKS = (32, 16)
_NODE_BYTES = 300  # what a DequantizeLinear with its names takes in a bundle
_LEAST_SAVING = 1 / 3  # of a weight's bytes; else it is not worth a node
_TIDYING = ("merge_common_subexpressions", "remove_dead_code")
_MOVING = ("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze")
"""Operators that may read a stored weight beside its layer."""


@dataclass(frozen=True)
class Stored:
    """How weights are stored in few bits.

    Attributes:
        bits: 8, one scale for each output channel; or 4, one for each block.
        asymmetric: whether 4 bits have a zero point for each block, or their range lies around zero.
        kept_bits: what a layer keeps that 4 bits cost too much: 8; or 32, floating point.
    """

    bits: int = 8
    asymmetric: bool = False
    kept_bits: int = 32

    def __post_init__(self) -> None:
        if self.bits not in {4, 8}:
            raise ConfigError(f"weights alone cannot be stored in {self.bits} bits", "8 and 4 are possible")
        if self.kept_bits not in {8, 32}:
            raise ConfigError(f"a layer cannot be kept in {self.kept_bits} bits", "8 and 32 are possible")

    @property
    def precision(self) -> str:
        """What the tuner and the command line call it."""
        return f"int{self.bits}-weights"

    def __str__(self) -> str:
        scales = "a scale for each channel" if self.bits == 8 else "a scale for each block"
        around = ", zero points" if self.asymmetric and self.bits == 4 else ""
        return f"{self.bits}-bit weights alone, {scales}{around}"


@dataclass(frozen=True)
class Place:
    """Where a weight is read, and which of its axes are which.

    Attributes:
        node: the first layer that reads it.
        index: of the node's input.
        channels: axis of output channels, or of an embedding table's rows.
        summed: axis that is summed over, or of an embedding's elements; along it lie blocks.
        why_not: a sentence where it cannot be stored; empty where it can.
    """

    node: ir.Node
    index: int
    channels: int = 0
    summed: int = 0
    why_not: str = ""

    @property
    def name(self) -> str:
        """What people and settings call it."""
        name = self.node.name or str(self.node.outputs[0].name)
        return f"{name}, recurrent" if self.index == 2 else name


@dataclass(frozen=True)
class Shelf:
    """What can be stored, before anything is measured.

    Attributes:
        model: plain, and of an opset that can hold it; values and nodes keep their names.
        layers: names of the layers whose weights can be stored.
        refused: those whose weights cannot, each with its reason.
        notes: layer -> why it gets 8 bits where 4 were asked.
    """

    model: Model
    bits: int
    layers: tuple[str, ...]
    refused: Mapping[str, str]
    notes: Mapping[str, str]
    _known: dict[tuple[str, int, bool], Rounded] = field(default_factory=dict)

    def written(self, scheme: Stored, keep: Collection[str] = ()) -> Model:
        """The model with weights stored.

        Args:
            scheme: how; of the bits that the shelf was made for.
            keep: layers that keep the scheme's `kept_bits`.

        Raises:
            BadModelError: `keep` leaves nothing to store.
        """
        made = self.model.clone()
        scope = Scope(made.program, made.program.graph)
        count = {4: 0, 8: 0}
        for value, place in _places(scope.graph):
            bits = scheme.kept_bits if place.name in keep else scheme.bits
            if place.name not in self.layers or bits == 32:
                continue
            small = self._rounded(value, place, bits, asymmetric=scheme.asymmetric)
            _store(scope, value, place, small)
            count[small.bits] += 1
        if not any(count.values()):
            raise BadModelError(
                f"nothing is left to store in few bits in {made.name}", "every layer is to be kept"
            )
        result, _ = optimise(made, passes=_TIDYING)
        told = " and ".join(f"{n} weights in {bits} bits" for bits, n in count.items() if n)
        return replace(result, provenance=made.provenance).with_step(f"stored {told}")

    def _rounded(self, value: ir.Value, place: Place, bits: int, *, asymmetric: bool) -> Rounded:
        """The weight in whole numbers; searches ask for the same again and again."""
        key = (str(value.name), bits, asymmetric)
        if key not in self._known:
            weight = constant(value)
            assert weight is not None
            block = _block(weight.shape[place.summed]) if bits == 4 else 0
            self._known[key] = (
                rounded_blocks(weight, place.summed, block, asymmetric=asymmetric)
                if block
                else rounded_channels(weight, place.channels)
            )
        return self._known[key]


def shelf(model: Model, bits: int) -> Shelf:
    """Find out which weights can be stored in few bits.

    Args:
        model: stays as it is.
        bits: 8 or 4.

    Raises:
        BadModelError: none can; the message has the reasons. Or 4 bits, and it cannot be brought to opset 21.
    """
    plain, _ = optimise(replace(model, program=inlined(model.program)), passes=("lift_constants",))
    least = BLOCKS_OPSET if bits == 4 else _CHANNELS_OPSET
    if plain.program.opset_imports.get("", 1) < least:
        plain = with_opset(plain, least)
    infer(plain.program)
    name_all(plain.program.graph)
    _sums_as_products(plain)
    layers, refused, notes = [], {}, {}
    for value, place in _places(plain.program.graph):
        why = place.why_not or _wasteful(value, place, bits)
        if why:
            refused[place.name] = why
            continue
        layers.append(place.name)
        weight = constant(value)
        if bits == 4 and weight is not None and not _block(weight.shape[place.summed]):
            notes[place.name] = (
                f"8 bits: its {weight.shape[place.summed]} summands are no multiple of {_BLOCKS[-1]}"
            )
    if not layers:
        raise BadModelError(
            f"{model.name} has nothing to store in few bits",
            reasons(refused)
            or "it has no constant weights of convolutions, products of matrices or tables in float32",
            "Serve it as it is.",
        )
    return Shelf(plain, bits, tuple(layers), refused, notes)


def _places(graph: ir.Graph) -> Iterator[tuple[ir.Value, Place]]:
    """Each constant weight once, with the first layer that reads it."""
    seen: set[ir.Value] = set()
    for node in [*graph]:
        for index, channels, summed in _axes(node):
            value = operand(node, index)
            if value is None or value in seen or constant(value) is None:
                continue
            seen.add(value)
            yield value, Place(node, index, channels, summed, _why_not(value, graph))


def _axes(node: ir.Node) -> list[tuple[int, int, int]]:
    """Which inputs of a node may be stored: (input, axis of channels, axis of the sum)."""
    if is_op(node, "Conv"):
        return [(1, 0, 1)]
    if is_op(node, "ConvTranspose"):
        return [(1, 1, 0)]
    if is_op(node, "Gather") and attribute(node, "axis", 0) == 0:
        return [(0, 0, 1)]
    if is_op(node, "LSTM", "GRU", "RNN"):
        return [(1, 1, 2), (2, 1, 2)]
    if is_op(node, "Gemm"):
        return [(1, 0, 1) if attribute(node, "transB", 0) else (1, 1, 0)]
    if is_op(node, "MatMul"):
        weight = constant(node.inputs[1])
        rank = 2 if weight is None else weight.ndim
        return [(1, rank - 1, rank - 2)] if rank >= 2 else []
    return []


def _why_not(value: ir.Value, graph: ir.Graph) -> str:
    weight = constant(value)
    assert weight is not None
    if weight.dtype != np.float32 or weight.ndim < 2:
        return f"its weights are {weight.dtype} of {weight.ndim} axes"
    if not np.isfinite(weight).all():
        return "its weights are not all finite"
    if value.is_graph_output() or value.producer() is not None or value.name not in graph.initializers:
        return "its weights are no plain constant of the graph"
    for use in value.uses():
        known = any(use.idx == index for index, _, _ in _axes(use.node)) or is_op(use.node, *_MOVING)
        if not known or use.node.graph is not graph:
            return f"its weights are also read by {use.node.name or use.node.op_type!r}"
    return ""


def _block(summands: int) -> int:
    """How many summands share a scale; 0 where no block that the kernels take divides them."""
    return next((block for block in _BLOCKS if summands % block == 0), 0)


def _wasteful(value: ir.Value, place: Place, bits: int) -> str:
    """Why a weight stays as it is: its scales would take what its bits save."""
    weight = constant(value)
    assert weight is not None
    block = _block(weight.shape[place.summed]) if bits == 4 else 0
    scales = weight.size // block if block else weight.shape[place.channels]
    after = weight.size * (4 if block else 8) // 8 + 4 * scales + _NODE_BYTES
    if after > (1 - _LEAST_SAVING) * weight.nbytes:
        return (
            f"its {weight.nbytes} bytes would take {after} with their scales, which saves less than a third"
        )
    return ""


def _sums_as_products(model: Model) -> None:
    """Write Gemm as MatMul and Add: kernels for stored weights know the former alone, with the sum along axis 0."""
    graph = model.program.graph
    scope = Scope(model.program, graph)
    for node in [*graph]:
        weight = constant(operand(node, 1)) if is_op(node, "Gemm") else None
        plain = all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta"))
        value = operand(node, 1)
        if (
            weight is None
            or value is None
            or not plain
            or attribute(node, "transA", 0)
            or len(value.uses()) > 1
        ):
            continue
        if attribute(node, "transB", 0):
            weight = np.ascontiguousarray(weight.T)
            value = scope.add_constant(f"{value.name}_transposed", weight)
        (result,) = node.outputs
        made = scope.add_node("MatMul", [node.inputs[0], value], node, like=result)
        product = made.producer()
        if (bias := operand(node, 2)) is not None:
            made = scope.add_node("Add", [made, bias], node, like=result)
        scope.replace(result, made)
        name = node.name
        scope.remove([node])
        if product is not None:
            product.name = name
    for value in [*graph.initializers.values()]:
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]


def _store(scope: Scope, value: ir.Value, place: Place, small: Rounded) -> None:
    """Let all readers of a weight read what DequantizeLinear makes of whole numbers."""
    name = str(value.name)
    users = [*value.uses()]
    first = scope.in_order([use.node for use in users])[0]
    parts = [
        scope.add_constant(f"{name}_stored", small.whole),
        scope.add_constant(f"{name}_scale", small.scale),
    ]
    if small.zero is not None:
        parts.append(scope.add_constant(f"{name}_zero_point", small.zero))
    settings = {"axis": small.axis} | ({"block_size": small.block} if small.block else {})
    wide = scope.add_node("DequantizeLinear", parts, first, like=value, **settings)
    for use in users:
        use.node.replace_input_with(use.idx, wide)
