"""ONNX Runtime for the nodes that it takes, the reference for those that it lacks.

A model with one operator that no runtime has still runs, and most of it fast. What ONNX Runtime takes whole it
gets whole; the tuner therefore tries this engine only where all others refuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline import engines
from raceline.core.errors import BadModelError, InvariantError, UnsupportedOperatorError
from raceline.engines import Options, Session, Tensors, Tolerance
from raceline.engines._cut import cut
from raceline.ir import Model, Reference, Signature
from raceline.ir.serialise import bare_proto, inlined
from raceline.ir.weights_only import restored

if TYPE_CHECKING:
    import onnx_ir as ir

description = "ONNX Runtime, with the NumPy reference for single nodes that it lacks"
tolerance = Tolerance(atol=1e-5, rtol=1e-4)

_FAST = "onnxruntime"
_ALWAYS_SLOW = frozenset("If Loop Scan".split())
"""Operators with graphs inside: cutting a model inside them is not offered, so they go whole or not at all."""


def version() -> str:
    """Versions of both parts.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    return f"{engines.load(_FAST).version()} and {engines.load('reference').version()}"


def load(model: Model, options: Options) -> Session:
    """Cut the model where ONNX Runtime lacks a node, and load what is between the cuts.

    Raises:
        UnsupportedOperatorError: the reference lacks a node too.
        ConfigError: a precision that is not offered.
    """
    fast = engines.load(_FAST)
    try:
        return fast.load(model, options)
    except UnsupportedOperatorError as error:
        lacking: set[str] = _named(error)
    except BadModelError:
        lacking = set()
    whole = Model(inlined(restored(model).program), model.signature, model.provenance)
    _infer_types(whole.program)
    taken = _taken(whole, lacking)
    parts = [_part(whole, nodes, fast, is_fast, options) for is_fast, nodes in _runs(whole, taken)]
    return _Session(model.signature, Reference(whole), parts)


@dataclass
class _Part:
    """Nodes that follow each other in the graph and run in one place.

    Attributes:
        first, last: their places in the graph.
        session: of ONNX Runtime; None where the reference computes them.
        inputs, outputs: names of what the session takes and gives.
    """

    first: int
    last: int
    session: Session | None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


class _Session:
    """Runs the parts one after another; safe to call from several threads, as both engines are."""

    def __init__(self, signature: Signature, reference: Reference, parts: list[_Part]) -> None:
        self._signature = signature
        self._reference = reference
        self._parts = parts

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Tensors:
        if not self._parts:
            raise InvariantError("a closed session was run", "patchwork")
        values: dict[str, Any] = {
            name: self._reference.constant(name) for name in self._reference.constants()
        }
        values |= {"": None, **inputs}
        for part in self._parts:
            if part.session is not None:
                values |= part.session.run({name: values[name] for name in part.inputs})
            else:
                for place in range(part.first, part.last + 1):
                    values |= self._reference.compute(place, values)
        return {spec.name: np.asarray(values[spec.name]) for spec in self._signature.outputs}

    def memory_bytes(self) -> int:
        return sum(part.session.memory_bytes() for part in self._parts if part.session is not None)

    def close(self) -> None:
        for part in self._parts:
            if part.session is not None:
                part.session.close()
        self._parts = []


def _named(error: UnsupportedOperatorError) -> set[str]:
    """Operators that the engine itself says it lacks."""
    return {operator.rpartition(".")[2] for operator in error.uses}


def _infer_types(program: ir.Model) -> None:
    """Types and ranks of all values, as far as ONNX's inference tells."""
    import onnx
    import onnx_ir as ir

    proto = onnx.shape_inference.infer_shapes(bare_proto(program), data_prop=True)
    found = {info.name: info.type for info in proto.graph.value_info}
    for node in program.graph:
        for value in node.outputs:
            if value.name in found:
                value.type = value.type or ir.serde.deserialize_type_proto_for_type(found[value.name])
                value.shape = value.shape or ir.serde.deserialize_type_proto_for_shape(found[value.name])


def _taken(model: Model, lacking: set[str]) -> list[bool]:
    """For each node, whether ONNX Runtime gets it; each kind of node is tried alone, once."""
    known: dict[str, bool] = {}
    result = []
    for node in model.program.graph:
        key = _likeness(node)
        if key not in known:
            known[key] = _is_plain(node) and node.op_type not in lacking and _takes(model, node)
        result.append(known[key])
    return result


def _is_plain(node: ir.Node) -> bool:
    """Whether everything around a node is a tensor of known type and rank."""
    import onnx_ir as ir

    values = [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]
    typed = all(isinstance(v.type, ir.TensorType) and v.dtype and v.shape is not None for v in values)
    return typed and node.op_type not in _ALWAYS_SLOW


def _likeness(node: ir.Node) -> str:
    """Equal for nodes that an engine takes or refuses alike."""
    kinds = [None if v is None else (str(v.dtype), len(v.shape or ())) for v in node.inputs]
    settings = sorted((key, str(attr.value)) for key, attr in node.attributes.items())
    return f"{node.domain}.{node.op_type} {kinds} {settings}"


def _takes(model: Model, node: ir.Node) -> bool:
    """Whether ONNX Runtime loads a model of this node alone."""
    alone, _, _ = cut(model, [node])
    try:
        engines.load(_FAST).load(alone, Options()).close()
    except BadModelError:
        return False
    return True


def _runs(model: Model, taken: Sequence[bool]) -> Iterator[tuple[bool, list[ir.Node]]]:
    """Neighbours that run in the same place, in the graph's order."""
    current: list[ir.Node] = []
    is_fast = False
    for node, fast in zip(model.program.graph, taken, strict=True):
        if current and fast != is_fast:
            yield is_fast, current
            current = []
        is_fast = fast
        current.append(node)
    if current:
        yield is_fast, current


def _part(model: Model, nodes: list[ir.Node], fast: engines.Engine, is_fast: bool, options: Options) -> _Part:
    order = {node: place for place, node in enumerate(model.program.graph)}
    first, last = order[nodes[0]], order[nodes[-1]]
    if not is_fast:
        return _Part(first, last, None)
    part, inputs, outputs = cut(model, nodes)
    plain = replace(options, precision="fp32", shapes={})
    return _Part(first, last, fast.load(part, plain), inputs, outputs)
