"""A layer's attributes: read by type, and every one that a rule did not read is refused."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.declared import as_declared
from raceline.convert.formats.openvino.elements import Weights, dtype_of_precision
from raceline.convert.formats.openvino.net import Layer, Port
from raceline.convert.lower import Rule, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

_ABSENT: Any = object()


@dataclass
class Context:
    """What the rules of one file share.

    Attributes:
        source: the file's name.
        weights: the bytes beside it.
        table: all rules.
        steps: sentences for the provenance.
        states: what Assign writes, by the variable's name.
        depth: bodies around the layer at hand.
    """

    source: str
    weights: Weights
    table: Mapping[str, Rule]
    steps: list[str] = field(default_factory=list)
    states: dict[str, ir.Value] = field(default_factory=dict)
    depth: int = 0


class Settings(Mapping[str, str]):
    """Attributes as text; remembers which were asked for.

    Attributes:
        layer: whose they are.
        context: what the file's rules share.
        opset: number of the operation set.
    """

    def __init__(self, layer: Layer, context: Context) -> None:
        self.layer, self.context = layer, context
        self._asked: set[str] = set()
        digits = "".join(char for char in layer.version if char.isdigit())
        self.opset = int(digits[:4]) if digits else 1

    def __getitem__(self, name: str) -> str:
        self._asked.add(name)
        return self.layer.data[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layer.data)

    def __len__(self) -> int:
        return len(self.layer.data)

    def rest(self) -> list[str]:
        """Attributes that nobody asked for."""
        return sorted(set(self.layer.data) - self._asked)


def settings(node: SourceNode) -> Settings:
    """A node's attributes with the layer behind them."""
    assert isinstance(node.attributes, Settings)
    return node.attributes


def opset(node: SourceNode) -> int:
    """Number of the operation set of a node."""
    return settings(node).opset


def text(node: SourceNode, name: str, default: str = _ABSENT) -> Any:
    """An attribute as text, lower case; without a default it must be there."""
    value = node.attributes.get(name)
    if value is None:
        if default is _ABSENT:
            raise KeyError(name)
        return default
    return value.lower()


def word(node: SourceNode, name: str, default: str, allowed: Collection[str]) -> Any:
    """An attribute that names a choice; other choices than the allowed ones are not supported."""
    value = text(node, name, default)
    if value not in allowed:
        raise UnsupportedError(f"{name}={value[:60]}")
    return value


def _as_text(default: Any) -> Any:
    """A default as the file would have it."""
    return default if default is _ABSENT else str(default).lower()


def flag(node: SourceNode, name: str, default: bool = _ABSENT) -> bool:
    """An attribute that is true or false."""
    value = text(node, name, _as_text(default))
    if value not in {"true", "false", "0", "1"}:
        raise ValueError(f"{name}={value[:40]} is neither true nor false")
    return value in {"true", "1"}


def integer(node: SourceNode, name: str, default: int = _ABSENT) -> int:
    """An attribute that is a whole number."""
    return int(text(node, name, _as_text(default)))


def number(node: SourceNode, name: str, default: float = _ABSENT) -> float:
    """An attribute that is a number."""
    return float(text(node, name, _as_text(default)))


def ints(node: SourceNode, name: str, default: list[int] = _ABSENT) -> list[int]:
    """An attribute that is a list of whole numbers."""
    absent: Any = _ABSENT if default is _ABSENT else ""
    value = text(node, name, absent)
    return [int(part) for part in value.split(",") if part.strip()] or (
        default if default is not _ABSENT else []
    )


def numbers(node: SourceNode, name: str, default: list[float] = _ABSENT) -> list[float]:
    """An attribute that is a list of numbers."""
    absent: Any = _ABSENT if default is _ABSENT else ""
    value = text(node, name, absent)
    return [float(part) for part in value.split(",") if part.strip()] or (
        default if default is not _ABSENT else []
    )


def words(node: SourceNode, name: str, default: list[str]) -> list[str]:
    """An attribute that is a list of words."""
    return [part.strip() for part in text(node, name, "").split(",") if part.strip()] or default


def skip(node: SourceNode, *names: str) -> None:
    """Attributes that change nothing: hints, and types that the declared output already has."""
    for name in names:
        node.attributes.get(name)


def fixed(b: Builder, value: ir.Value | None, what: str) -> np.ndarray[Any, Any]:
    """The array behind an input that must be constant."""
    array = b.array(value)
    if array is None:
        raise UnsupportedError(f"{what} that the model computes")
    return array


def fixed_ints(b: Builder, value: ir.Value | None, what: str) -> list[int]:
    """The whole numbers behind an input that must be constant."""
    return [int(item) for item in fixed(b, value, what).reshape(-1)]


def sizes(b: Builder, value: ir.Value, what: str) -> list[int]:
    """The shape of a value that must be known whole."""
    shape = b.shape(value)
    if not all(isinstance(dim, int) for dim in shape):
        raise UnsupportedError(f"{what} of open size")
    return [dim for dim in shape if isinstance(dim, int)]


def as_int64(b: Builder, value: ir.Value) -> ir.Value:
    """A tensor of shapes, axes or indices as ONNX wants it: int64."""
    return b.cast(value, np.int64)


def as_list(b: Builder, value: ir.Value) -> ir.Value:
    """The same with one axis, where it has none."""
    value = as_int64(b, value)
    return value if b.rank(value) == 1 else b.reshape(value, [-1])


def checked(rule: Rule) -> Rule:
    """A rule whose layer's attributes must all be read and whose outputs must be what the file declares."""

    @wraps(rule)
    def strict(b: Builder, node: SourceNode, *inputs: Any) -> Any:
        result = rule(b, node, *inputs)
        if rest := settings(node).rest():
            raise UnsupportedError(f"attribute {', '.join(rest)[:100]}")
        results = result if isinstance(result, tuple) else (result,)
        ports = settings(node).layer.outputs
        return (*(_declared(b, value, port) for value, port in zip(results, ports, strict=False)),)

    return strict


def _declared(b: Builder, value: Any, port: Port) -> Any:
    """A result, once it fits its port."""
    import onnx_ir as ir

    if not isinstance(value, ir.Value):
        return value
    return as_declared(b, value, dtype_of_precision(port.precision), port.dims if port.precision else None)
