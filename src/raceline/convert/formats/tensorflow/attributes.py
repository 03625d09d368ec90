"""Attributes of TensorFlow's nodes as plain Python values, with a note of which ones a rule has looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raceline.convert.formats.tensorflow.tensors import array_of, dtype_of, shape_of_proto
from raceline.convert.lower import SourceNode
from raceline.ir import Limits

# Say nothing that inputs and outputs do not say too, or only how to run.
_HARMLESS = frozenset(
    """N U S Index dtype dtypes num num_split use_cudnn_on_gpu container shared_name validate_indices index_type
    parallel_iterations swap_memory element_dtype shape_type explicit_paddings body cond f then_branch else_branch
    branches config config_proto executor_type output_shapes incompatible_shape_error allowed_devices debug_name
    key_dtype value_dtype use_node_name_sharing message max_num_elements grad_x grad_y grad_a grad_b out_idx
    handle_dtype bad_indices_policy use_inter_op_parallelism SrcT""".split()
)


@dataclass(frozen=True)
class FunctionName:
    """A function of the library with the attributes it is given."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class TypeCode:
    """An element type by its number."""

    code: int


@dataclass
class Attributes(Mapping[str, Any]):
    """Attributes by name; remembers which were asked for.

    Attributes:
        plain: by name.
        asked: names that a rule has looked at.
    """

    plain: Mapping[str, Any]
    asked: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return self.plain[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plain)

    def __len__(self) -> int:
        return len(self.plain)

    def ignored(self) -> list[str]:
        """Attributes that a rule has not looked at although they may change what the node means."""
        return sorted(
            name
            for name, item in self.plain.items()
            if name not in self.asked and name not in _HARMLESS and not name.startswith("_")
            if not (
                isinstance(item, TypeCode | list) and name.startswith("T")
            )  # types, as the inputs have them
        )


def attributes_of(proto: Any, given: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """All attributes of a node.

    Args:
        proto: its map.
        given: what the call of the function around it says for its placeholders, already plain.
        limits: what tensors may take.
    """
    return {name: _value(item, given, limits) for name, item in proto.items()}


def _value(proto: Any, given: Mapping[str, Any], limits: Limits) -> Any:
    kind = proto.WhichOneof("value")
    if kind == "placeholder":
        return given.get(proto.placeholder)
    if kind == "list":
        return _listed(proto.list, given, limits)
    return None if kind is None else _single(kind, getattr(proto, kind), given, limits)


def _single(kind: str, item: Any, given: Mapping[str, Any], limits: Limits) -> Any:
    if kind == "s":
        return item.decode("utf-8", "replace")
    if kind == "type":
        return TypeCode(item)
    if kind == "shape":
        return shape_of_proto(item)
    if kind == "tensor":
        return _Tensor(item, limits)
    if kind == "func":
        return FunctionName(item.name, attributes_of(item.attr, given, limits))
    return item


def _listed(proto: Any, given: Mapping[str, Any], limits: Limits) -> list[Any]:
    for kind in ("s", "i", "f", "b", "type", "shape", "tensor", "func"):
        items = getattr(proto, kind)
        if len(items):
            return [_single(kind, item, given, limits) for item in items]
    return []


class _Tensor:
    """A tensor that becomes an array when it is asked for."""

    def __init__(self, proto: Any, limits: Limits) -> None:
        self._proto, self._limits = proto, limits

    def array(self) -> np.ndarray[Any, Any]:
        """Raises as `array_of`."""
        return array_of(self._proto, self._limits)


def dtype(node: SourceNode, name: str, default: str = "float32") -> np.dtype[Any]:
    """An attribute that is an element type; raises as `dtype_of`."""
    item = node.attributes.get(name)
    return np.dtype(default) if item is None else dtype_of(item.code)
