"""Give a conformance case plain tensors at its edges: what engines do not pass is made inside the graph.

Packed numbers (4-bit, 8-bit floats) become weights, and go out cast to float32; sequences and optional values are
built from tensors, and taken apart again.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PACKED = frozenset(
    getattr(TensorProto, name)
    for name in (
        "INT4 UINT4 INT2 UINT2 FLOAT4E2M1 FLOAT8E4M3FN FLOAT8E4M3FNUZ FLOAT8E5M2 FLOAT8E5M2FNUZ FLOAT8E8M0"
    ).split()
    if hasattr(TensorProto, name)
)


def with_plain_edges(case: Any) -> Any:
    """The case itself where its edges are plain, else one whose graph converts at them."""
    graph = case.model.graph
    if all(_is_plain(value) for value in (*graph.input, *graph.output)):
        return case
    (inputs, outputs), *_ = case.data_sets
    made = copy.deepcopy(case)
    edge = _Edges(made.model.graph)
    edge.enter(list(made.model.graph.input), inputs)
    edge.leave(list(made.model.graph.output), outputs)
    made.data_sets = [(edge.feeds, edge.expected)]
    return made


def as_array(value: Any) -> np.ndarray[Any, Any]:
    """A case's value as an array."""
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, TensorProto) else value)


def _is_plain(value: onnx.ValueInfoProto) -> bool:
    return value.type.HasField("tensor_type") and value.type.tensor_type.elem_type not in PACKED


class _Edges:
    """Rewrites the inputs and outputs of a graph."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.feeds: list[Any] = []
        self.expected: list[Any] = []

    def enter(self, values: Sequence[onnx.ValueInfoProto], given: Sequence[Any]) -> None:
        """Replace the inputs."""
        del self.graph.input[:]
        first: list[onnx.NodeProto] = []
        for value, array in zip(values, given, strict=False):
            if _is_plain(value):
                self.graph.input.append(value)
                self.feeds.append(array)
            else:
                self._make(value.name, value.type, array, first)
        later = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*first, *later])

    def _make(self, name: str, kind: onnx.TypeProto, value: Any, nodes: list[onnx.NodeProto]) -> None:
        """Nodes that give `name` this value."""
        if kind.HasField("optional_type"):
            inner = kind.optional_type.elem_type
            if value is None:
                nodes.append(helper.make_node("Optional", [], [name], type=inner))
            else:
                self._make(f"{name}_inside", inner, value, nodes)
                nodes.append(helper.make_node("Optional", [f"{name}_inside"], [name]))
        elif kind.HasField("sequence_type"):
            inner = kind.sequence_type.elem_type
            names = [f"{name}_{index}" for index in range(len(value))]
            for one, item in zip(names, value, strict=True):
                self._make(one, inner, item, nodes)
            nodes.append(
                helper.make_node("SequenceConstruct", names, [name])
                if names
                else helper.make_node("SequenceEmpty", [], [name], dtype=inner.tensor_type.elem_type)
            )
        elif kind.tensor_type.elem_type in PACKED:
            weight = self.graph.initializer.add()
            weight.CopyFrom(value if isinstance(value, TensorProto) else numpy_helper.from_array(value))
            weight.name = name
        else:
            array = as_array(value)
            self.graph.input.append(
                helper.make_tensor_value_info(name, kind.tensor_type.elem_type, array.shape)
            )
            self.feeds.append(array)

    def leave(self, values: Sequence[onnx.ValueInfoProto], expected: Sequence[Any]) -> None:
        """Replace the outputs."""
        del self.graph.output[:]
        for value, array in zip(values, expected, strict=True):
            if _is_plain(value):
                self.graph.output.append(value)
                self.expected.append(array)
            else:
                self._take(value.name, value.type, array)

    def _take(self, name: str, kind: onnx.TypeProto, value: Any) -> None:
        """Nodes that take `name` apart into tensors."""
        if kind.HasField("optional_type"):
            self._add("OptionalHasElement", [name], f"{name}_there", np.array(value is not None))
            if value is not None:
                self.graph.node.append(helper.make_node("OptionalGetElement", [name], [f"{name}_inside"]))
                self._take(f"{name}_inside", kind.optional_type.elem_type, value)
        elif kind.HasField("sequence_type"):
            self._add("SequenceLength", [name], f"{name}_length", np.array(len(value), np.int64))
            for index, item in enumerate(value):
                at = f"{name}_at_{index}"
                self.graph.initializer.append(numpy_helper.from_array(np.array(index, np.int64), at))
                self._add("SequenceAt", [name, at], f"{name}_{index}", as_array(item))
        elif kind.tensor_type.elem_type in PACKED:
            array = as_array(value).astype(np.float32)
            self._add("Cast", [name], f"{name}_plain", array, to=TensorProto.FLOAT)
        else:
            self._add("Identity", [name], f"{name}_plain", as_array(value))

    def _add(self, operator: str, inputs: list[str], name: str, expected: Any, **attributes: Any) -> None:
        """A node whose result goes out."""
        self.graph.node.append(helper.make_node(operator, inputs, [name], **attributes))
        kind = (
            TensorProto.STRING
            if expected.dtype.kind in "OSU"
            else helper.np_dtype_to_tensor_dtype(expected.dtype)
        )
        self.graph.output.append(helper.make_tensor_value_info(name, kind, expected.shape))
        self.expected.append(expected)
