"""A parsed file into a model: weights, quantised tensors, subgraphs, and names that callers know."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.tflite import (
    control,
    custom,
    math,
    neural,
    pick,
    recurrent,
    shape,
    signal,
)
from raceline.convert.formats.tflite.asking import Complex
from raceline.convert.formats.tflite.data import DTYPES, array_of
from raceline.convert.formats.tflite.file import File, Operation, SignatureDef, Subgraph, Tensor, parse
from raceline.convert.formats.tflite.quantise import (
    QuantisedBuilder,
    dequantised,
    is_quantised,
    quantised,
    same_scheme,
)
from raceline.convert.graph import shape_of
from raceline.convert.lower import Rules, SourceNode, UnsupportedError, lower, merged
from raceline.core.errors import BadModelError, UnknownNameError
from raceline.ir import Limits, Model, Provenance

if TYPE_CHECKING:
    import onnx_ir as ir

    from raceline.convert.build import Builder
    from raceline.convert.lower import Rule

WAY_OUT = (
    "Convert the original model again with built-in operators only (no SELECT_TF_OPS, no custom operators), "
    "or read its SavedModel, Keras file or ONNX export."
)
_MOST_CALLS = 2_000  # of subgraphs by each other
_DEEPEST_CALL = 40
_NEXT = "_next"

bridge = Rules()

# These take stored integers as they are: they change their meaning, or do not care for it.
_STORED = frozenset(
    "CAST BITCAST SHAPE RANK IF WHILE CALL CALL_ONCE STABLEHLO_COMPOSITE VAR_HANDLE ASSIGN_VARIABLE "
    "READ_VARIABLE DENSIFY".split()
)
# These only move elements, so stored integers may move where they mean the same before and after.
_MOVING = frozenset(
    "RESHAPE SQUEEZE EXPAND_DIMS TRANSPOSE GATHER GATHER_ND SLICE STRIDED_SLICE SPLIT SPLIT_V PACK UNPACK "
    "CONCATENATION TILE REVERSE_V2 BROADCAST_TO".split()
)
_COMPLEX = frozenset("COMPLEX_ABS REAL IMAG".split())


@bridge("QUANTIZE", "DEQUANTIZE")
def requantised(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
    """Between real numbers and stored ones, or between two ways to store them; half precision is widened."""
    before, after = node.attributes["in"][0], node.attributes["out"][0]
    array = b.array(x)
    if before.dtype == "FLOAT16" and array is not None:
        return b.constant(array.astype("float32"), name=after.name)
    real = dequantised(b, x, before)
    if is_quantised(after):
        return quantised(b, real, after)
    if after.dtype not in DTYPES:
        raise UnsupportedError(f"to {after.dtype}")
    return b.cast(real, DTYPES[after.dtype])


RULES: Mapping[str, Rule] = merged(
    bridge,
    control.rules,
    custom.rules,
    math.rules,
    neural.rules,
    pick.rules,
    recurrent.rules,
    shape.rules,
    signal.rules,
)
"""Operator -> rule; custom operators as CUSTOM and their name."""


def read_tflite(path: Path, content: bytes, limits: Limits, signature: str | None) -> Model:
    """Translate a .tflite file.

    Args:
        path: of the file, for messages.
        content: its bytes.
        limits: what it may ask of this machine.
        signature: which of its signatures; None for the first, or for the main subgraph if it has none.

    Raises:
        BadModelError: it is broken or hostile.
        UnsupportedOperatorError: what cannot be translated, all of it.
        UnknownNameError: no signature has that name.
    """
    file = parse(content, path.name, limits)
    return _Translation(file, path.name, limits).model(
        _chosen(file, signature), hashlib.sha256(content).hexdigest()
    )


def _chosen(file: File, name: str | None) -> SignatureDef:
    """The signature asked for; where there is none, the tensors' own names."""
    if name is not None:
        for signature in file.signatures:
            if signature.key == name:
                return signature
        raise UnknownNameError("signature", name, [s.key for s in file.signatures])
    main = file.subgraphs[0]
    for signature in file.signatures:
        named = set(signature.inputs.values()), set(signature.outputs.values())
        if signature.subgraph == 0 and named == (set(main.inputs), set(main.outputs)):
            return signature
    return SignatureDef("", 0, _unique(main, main.inputs, "input"), _unique(main, main.outputs, "output"))


def _unique(graph: Subgraph, indices: Sequence[int], kind: str) -> dict[str, int]:
    """Tensors by name; those without one, or with one that is taken, by number."""
    names: dict[str, int] = {}
    for place, index in enumerate(indices):
        name = graph.tensors[index].name
        names[name if name and name not in names else f"{kind}_{place}"] = index
    return names


class _Translation:
    def __init__(self, file: File, source: str, limits: Limits) -> None:
        self.file = file
        self.source = source
        self.limits = limits
        self.variables = control.Variables()
        self.calls = 0
        self.depth = 0
        self.steps: list[str] = []

    def model(self, signature: SignatureDef, sha256: str) -> Model:
        graph = self.file.subgraphs[signature.subgraph]
        name = graph.name or Path(self.source).stem
        b = QuantisedBuilder(name, limits=self.limits)
        inputs = {index: self._input(b, key, graph.tensors[index]) for key, index in signature.inputs.items()}
        missing = [graph.tensors[i].name for i in graph.inputs if i not in inputs]
        if missing:
            why = f"signature {signature.key!r} leaves out {missing[0]!r}"
            raise BadModelError(f"{self.source} is broken", why)
        self._state_inputs(b, graph)
        values = self.values_of(b, graph, inputs)
        for key, index in signature.outputs.items():
            value = values.get(graph.tensors[index].key)
            if value is None or isinstance(value, Complex | tuple | Missing):
                why = f"output {key!r} is text, complex, or written by nothing"
                raise BadModelError(f"{self.source} cannot be read", why, WAY_OUT)
            b.output(value, key or f"output_{index}")
        for handle, name in self.variables.states.items():
            b.output(self.variables.values[handle], f"{name}{_NEXT}")
            begin = _in_words(b, self.variables.first.get(handle))
            self.steps.append(
                f"Variable {name!r} is an input now, and its next value an output: keep it between calls, "
                f"beginning with {begin}."
            )
        _sweep(b.graph)
        model = b.model(
            Provenance(
                source=self.source,
                source_format="tflite",
                source_sha256=sha256,
                producer=self.file.description,
            )  # fmt: skip
        )
        for step in dict.fromkeys(self.steps):
            model = model.with_step(step)
        return model

    def _input(self, b: Builder, name: str, tensor: Tensor) -> ir.Value:
        if tensor.dtype not in DTYPES or tensor.dtype == "INT4":
            why = f"input {name!r} holds {tensor.dtype}"
            raise BadModelError(f"{self.source} cannot be read", why, WAY_OUT)
        dims = [None if dim < 0 else dim for dim in tensor.shape or ()]
        return b.input(name or "input", DTYPES[tensor.dtype], dims)

    def _state_inputs(self, b: Builder, graph: Subgraph) -> None:
        """Make inputs of the variables that a call writes for the next one."""
        handles = {
            op.outputs[0]: control.handle_of(op.options)
            for op in graph.operations
            if op.op == "VAR_HANDLE" and op.outputs
        }
        writes = [op for op in graph.operations if op.op == "ASSIGN_VARIABLE" and len(op.inputs) == 2]
        for handle, value in ((handles.get(op.inputs[0]), op.inputs[1]) for op in writes):
            if handle is None or handle in self.variables.states or value < 0:
                continue
            name = handle[1] or f"variable_{len(self.variables.states)}"
            self.variables.values[handle] = self._input(b, name, graph.tensors[value])
            self.variables.states[handle] = name

    def values_of(self, b: Builder, graph: Subgraph, inputs: Mapping[int, Any]) -> dict[str, Any]:
        """Translate a subgraph's operators; what each tensor stands for, by key."""
        values: dict[str, Any] = {}
        written = {graph.tensors[i].key for op in graph.operations for i in op.outputs}
        for index, tensor in enumerate(graph.tensors):
            if index in inputs:
                values[tensor.key] = inputs[index]
            elif tensor.data is not None:
                values[tensor.key] = self._constant(b, tensor)
            elif 0 in (tensor.shape or ()) and tensor.key not in written:
                values[tensor.key] = self._constant(b, replace(tensor, data=np.zeros(0, np.uint8)))
            elif tensor.variable:
                values[tensor.key] = self._initial(b, tensor)
        nodes = [self._node(graph, op) for op in graph.operations]
        rules = {op: _bridged(rule) for op, rule in RULES.items()}
        lower(b, nodes, rules, values, source=self.source, way_out=WAY_OUT)
        return values

    def _constant(self, b: Builder, tensor: Tensor) -> Any:
        if tensor.dtype not in DTYPES:
            return Missing(f"{tensor.dtype} constants")
        array = array_of(tensor, self.limits.max_model_bytes)
        return b.constant(array, name=tensor.name if array.nbytes > 64 else "")

    def _initial(self, b: Builder, tensor: Tensor) -> Any:
        """A variable tensor before the first call: zeros."""
        if tensor.dtype not in DTYPES or min(tensor.shape or (), default=0) < 0:
            return Missing("variables of open shape")
        self.steps.append("State that the interpreter keeps between calls starts at zero at every call.")
        dtype = np.dtype(DTYPES[tensor.dtype])
        return b.op("Expand", b.constant(np.zeros((), dtype)), list(tensor.shape or ()))

    def _node(self, graph: Subgraph, op: Operation) -> SourceNode:
        tensors = graph.tensors
        outputs = tuple(tensors[i] for i in op.outputs)
        extra: dict[str, Any] = {
            "in": tuple(tensors[i] if i >= 0 else None for i in op.inputs),
            "out": outputs,
            "call": self.call,
            "variables": self.variables,
            "custom_options": op.custom,
        }
        return SourceNode(
            op=op.op,
            name=outputs[0].name if outputs else op.op,
            inputs=tuple(tensors[i].key if i >= 0 else "" for i in op.inputs),
            outputs=tuple(tensor.key for tensor in outputs),
            attributes={**op.options, **extra},
        )

    def call(self, b: Builder, index: int, operands: Sequence[Any]) -> list[Any]:
        """Build a subgraph inside another; see `control.Call`."""
        if not 0 <= index < len(self.file.subgraphs):
            raise ValueError(f"there is no subgraph {index}")
        graph = self.file.subgraphs[index]
        self.calls += 1
        if self.calls > _MOST_CALLS or self.depth >= _DEEPEST_CALL:
            raise ValueError("subgraphs call each other without end")
        if len(operands) != len(graph.inputs):
            raise ValueError(f"{len(operands)} operands for {len(graph.inputs)} inputs of subgraph {index}")
        self.depth += 1
        try:
            values = self.values_of(b, graph, dict(zip(graph.inputs, operands, strict=True)))
        finally:
            self.depth -= 1
        return [values[graph.tensors[i].key] for i in graph.outputs]


def _in_words(b: Builder, first: ir.Value | None) -> str:
    """What a state holds before the first call."""
    array = None if first is None else b.array(first)
    if array is None or not array.size or (array != array.flat[0]).any():
        return "what the file sets it to"
    return f"{array.flat[0]:g} everywhere"


class Missing:
    """Stands for a tensor that cannot be read; whatever needs it is refused for this reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _bridged(rule: Rule) -> Rule:
    """The rule between quantised tensors: it reads and writes real numbers, unless it takes stored ones."""

    def run(b: Builder, node: SourceNode, *values: Any) -> Any:
        sources: tuple[Tensor | None, ...] = node.attributes["in"]
        targets: tuple[Tensor, ...] = node.attributes["out"]
        _refuse_strange(node, values)
        if any(isinstance(value, Complex) for value in values) and node.op not in _COMPLEX:
            return _complex(b, node, rule, values)
        if node.op in _STORED or node.op in bridge.table or _moves(node):
            return _settled(b, rule(b, node, *values), targets)
        real = [
            value if value is None or tensor is None else dequantised(b, value, tensor)
            for value, tensor in zip(values, sources, strict=True)
        ]
        results = rule(b, node, *real)
        results = results if isinstance(results, tuple) else (results,)
        stored = [
            value if isinstance(value, Complex) or value is None else quantised(b, value, tensor)
            for value, tensor in zip(results, targets, strict=False)
        ]
        return _settled(b, (*stored, *results[len(stored) :]), targets)

    return run


def _refuse_strange(node: SourceNode, values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, Missing):
            raise UnsupportedError(value.reason)
    if "unknown_options" in node.attributes:
        raise UnsupportedError(f"options of a newer kind ({node.attributes['unknown_options']})")
    for tensor in (*node.attributes["in"], *node.attributes["out"]):
        if tensor is not None and tensor.strange:
            raise UnsupportedError(tensor.strange)


def _moves(node: SourceNode) -> bool:
    """Whether the node only moves elements, stored alike on both sides."""
    if node.op not in _MOVING or node.attributes.get("fused_activation_function"):
        return False
    sources = [tensor for tensor in node.attributes["in"] if is_quantised(tensor)]
    stored = [*sources, *node.attributes["out"]]
    return bool(sources) and all(same_scheme(stored[0], other) for other in stored[1:])


def _complex(b: Builder, node: SourceNode, rule: Rule, values: Sequence[Any]) -> Any:
    """Real and imaginary parts move alike; a cast to real numbers keeps the real part."""
    real = [value.real if isinstance(value, Complex) else value for value in values]
    imag = [value.imag if isinstance(value, Complex) else value for value in values]
    if node.op == "CAST" and node.attributes["out"][0].dtype in DTYPES:
        return rule(b, node, *real)
    if node.op not in _MOVING or len(node.outputs) != 1:
        raise UnsupportedError("complex numbers")
    return Complex(rule(b, node, *real), rule(b, node, *imag))


def _settled(b: Builder, results: Any, targets: Sequence[Tensor]) -> Any:
    """What inference could not tell of the results is believed as the file says it: the number of axes."""
    import onnx_ir as ir

    values = results if isinstance(results, tuple) else (results,)
    for value, tensor in zip(values, targets, strict=False):
        if isinstance(value, ir.Value) and tensor.shape and shape_of(value) is None:
            value.shape = ir.Shape([None] * len(tensor.shape))
    return results


def _sweep(graph: ir.Graph) -> None:
    """Leave out nodes whose results nothing reads: rules look through what they have built before."""
    kept = set(graph.outputs)
    for node in reversed(list(graph)):
        if not any(value in kept or value.uses() for value in node.outputs):
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
            graph.remove(node)
