"""Write .tflite files: the reader's example, and what its tests read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import tflite

from raceline.convert.graph import Array

_DESCRIPTION = "raceline"
_VERSIONS = {"BROADCAST_TO": 2}  # the first that the interpreter knows; 1 for all others
_PLACEHOLDER = tflite.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to write.

    Attributes:
        dtype: NumPy's name, or the schema's.
        shape: -1 for an open axis; None where not even the rank is told.
        data: of a constant.
        scale: quantisation, one number or one for each slice along `axis`.
        zero: likewise.
        axis: of the scales.
        variable: whether it is state.
    """

    dtype: str
    shape: tuple[int, ...] | None
    data: Array | None = None
    scale: Sequence[float] = ()
    zero: Sequence[int] = ()
    axis: int = 0
    variable: bool = False


@dataclass(frozen=True)
class OperatorSpec:
    """An operator to write: its name, tensors by name ("" where left out), and (kind, fields) of its options."""

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    options: tuple[str, Mapping[str, Any]] | None = None
    custom: bytes = b""


@dataclass(frozen=True)
class GraphSpec:
    """A subgraph to write."""

    tensors: Mapping[str, TensorSpec | Array]
    operators: Sequence[OperatorSpec]
    inputs: Sequence[str]
    outputs: Sequence[str]
    name: str = "main"


SignatureSpec = tuple[str, Mapping[str, str], Mapping[str, str]]
"""Key, input name -> tensor, output name -> tensor."""


@dataclass
class _Writer:
    builder: flatbuffers.Builder = field(default_factory=lambda: flatbuffers.Builder(1024))
    buffers: list[Array] = field(default_factory=lambda: [np.zeros(0, np.uint8)])
    codes: list[str] = field(default_factory=list)

    def offsets(self, offsets: Sequence[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def numbers(self, values: Any, dtype: str = "int32") -> int:
        return int(self.builder.CreateNumpyVector(np.asarray(values, dtype).reshape(-1)))

    def table(self, kind: str, fields: Mapping[str, Any]) -> int:
        """A table of the schema; its vectors, texts and tables are given as `_Made` offsets."""
        getattr(tflite, f"{kind}Start")(self.builder)
        for name, value in fields.items():
            plain = int(value) if isinstance(value, _Made) else value
            getattr(tflite, f"{kind}Add{name}")(self.builder, plain)
        return int(getattr(tflite, f"{kind}End")(self.builder))

    def made(self, value: Any) -> Any:
        if isinstance(value, str):
            return _Made(self.builder.CreateString(value))
        if isinstance(value, Sequence | np.ndarray):
            whole = all(isinstance(item, int | np.integer) for item in value)
            return _Made(self.numbers(value, "int32" if whole else "float32"))
        return value

    def options(self, kind: str, fields: Mapping[str, Any]) -> int:
        return self.table(kind, {_camel(name): self.made(value) for name, value in fields.items()})


class _Made(int):
    """Where something that is already written lies."""


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def written(*graphs: GraphSpec, signatures: Sequence[SignatureSpec] = ()) -> bytes:
    """The bytes of a file.

    Args:
        graphs: the main subgraph first.
        signatures: of the main subgraph.
    """
    w = _Writer()
    subgraphs = [_graph(w, graph) for graph in graphs]
    definitions = [_signature(w, graphs[0], *signature) for signature in signatures]
    codes = [_code(w, code) for code in w.codes]
    buffers = [_buffer(w, data) for data in w.buffers]
    fields = {
        "Version": 3,
        "OperatorCodes": w.offsets(codes),
        "Subgraphs": w.offsets(subgraphs),
        "Buffers": w.offsets(buffers),
        "Description": w.builder.CreateString(_DESCRIPTION),
    }
    if definitions:
        fields["SignatureDefs"] = w.offsets(definitions)
    w.builder.Finish(w.table("Model", fields), file_identifier=b"TFL3")
    return bytes(w.builder.Output())


def _buffer(w: _Writer, data: Array) -> int:
    if not data.size:
        return w.table("Buffer", {})
    w.builder.StartVector(1, data.size, 16)
    w.builder.head -= data.size
    w.builder.Bytes[w.builder.head : w.builder.head + data.size] = data.tobytes()
    return w.table("Buffer", {"Data": _Made(w.builder.EndVector())})


def _code(w: _Writer, name: str) -> int:
    if name.startswith("CUSTOM "):
        fields = {"CustomCode": w.builder.CreateString(name.removeprefix("CUSTOM ")), "BuiltinCode": 32}
        return w.table("OperatorCode", {"DeprecatedBuiltinCode": 32, **fields, "Version": 1})
    number = getattr(tflite.BuiltinOperator, name)
    old = min(number, _PLACEHOLDER)
    return w.table(
        "OperatorCode",
        {"DeprecatedBuiltinCode": old, "BuiltinCode": number, "Version": _VERSIONS.get(name, 1)},
    )


def _graph(w: _Writer, graph: GraphSpec) -> int:
    places = {name: place for place, name in enumerate(graph.tensors)}
    tensors = [_tensor(w, name, spec) for name, spec in graph.tensors.items()]
    operators = [_operator(w, spec, places) for spec in graph.operators]
    fields = {
        "Tensors": w.offsets(tensors),
        "Operators": w.offsets(operators),
        "Inputs": w.numbers([places[name] for name in graph.inputs]),
        "Outputs": w.numbers([places[name] for name in graph.outputs]),
        "Name": w.builder.CreateString(graph.name),
    }
    return w.table("SubGraph", fields)


def _tensor(w: _Writer, name: str, spec: TensorSpec | Array) -> int:
    if isinstance(spec, np.ndarray):
        spec = TensorSpec(str(spec.dtype), spec.shape, spec)
    kind = {"bool": "BOOL"}.get(spec.dtype, spec.dtype.upper())
    fields: dict[str, Any] = {
        "Type": getattr(tflite.TensorType, kind),
        "Buffer": 0,
        "Name": w.builder.CreateString(name),
        "IsVariable": spec.variable,
    }
    if spec.shape is not None:
        fields |= {"Shape": w.numbers([abs(size) for size in spec.shape]), "HasRank": True}
    if spec.data is not None:
        fields["Buffer"] = len(w.buffers)
        w.buffers.append(np.frombuffer(np.ascontiguousarray(spec.data).tobytes(), np.uint8))
    if min(spec.shape or (), default=0) < 0:
        fields["ShapeSignature"] = w.numbers(spec.shape)
    if len(spec.scale):
        scheme = {
            "Scale": w.numbers(spec.scale, "float32"),
            "ZeroPoint": w.numbers(spec.zero if len(spec.zero) else [0] * len(spec.scale), "int64"),
            "QuantizedDimension": spec.axis,
        }
        fields["Quantization"] = w.table("QuantizationParameters", scheme)
    return w.table("Tensor", fields)


def _operator(w: _Writer, spec: OperatorSpec, places: Mapping[str, int]) -> int:
    if spec.op not in w.codes:
        w.codes.append(spec.op)
    fields: dict[str, Any] = {
        "OpcodeIndex": w.codes.index(spec.op),
        "Inputs": w.numbers([places[name] if name else -1 for name in spec.inputs]),
        "Outputs": w.numbers([places[name] for name in spec.outputs]),
    }
    if spec.options is not None:
        kind, settings = spec.options
        union = "BuiltinOptions" if hasattr(tflite.BuiltinOptions, kind) else "BuiltinOptions2"
        fields[f"{union}Type"] = getattr(getattr(tflite, union), kind)
        fields[union] = w.options(kind, settings)
    if spec.custom:
        fields["CustomOptions"] = w.numbers(np.frombuffer(spec.custom, np.uint8), "uint8")
    return w.table("Operator", fields)


def _signature(
    w: _Writer, graph: GraphSpec, key: str, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> int:
    places = {name: place for place, name in enumerate(graph.tensors)}
    maps = [
        w.offsets([
            w.table("TensorMap", {"Name": w.builder.CreateString(name), "TensorIndex": places[tensor]})
            for name, tensor in named.items()
        ])
        for named in (inputs, outputs)
    ]  # fmt: skip
    fields = {"Inputs": maps[0], "Outputs": maps[1], "SignatureKey": w.builder.CreateString(key)}
    return w.table("SignatureDef", {**fields, "SubgraphIndex": 0})
