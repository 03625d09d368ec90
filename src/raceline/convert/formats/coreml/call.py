"""An operation's arguments by name; every one that a rule did not read is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.declared import as_declared
from raceline.convert.formats.coreml.values import type_of
from raceline.convert.lower import Rule, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

_ABSENT: Any = object()


class Call:
    """One operation with the values of its arguments.

    Attributes:
        b: receives the nodes.
        op: the operation.
        node: the source's node; its attributes hold the message.
        scope: all values that the operation and its blocks read, by name.
    """

    def __init__(self, b: Builder, node: SourceNode, arguments: Mapping[str, Sequence[Any]]) -> None:
        self.b, self.op, self.node = b, node.op, node
        self._arguments = arguments
        self.scope: Mapping[str, Any] = {}
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        """Whether the argument is given."""
        return name in self._arguments

    def raw(self, name: str) -> list[Any]:
        """All values of an argument; none where it is left out."""
        self._asked.add(name)
        return list(self._arguments.get(name, ()))

    def skip(self, *names: str) -> None:
        """Arguments that change nothing."""
        self._asked.update(names)

    def values(self, name: str) -> list[ir.Value]:
        """An argument that is a list of tensors."""
        return [self._tensor(name, item) for item in self.raw(name)]

    def maybe(self, name: str) -> ir.Value | None:
        """A tensor, or None where it is left out."""
        found = self.values(name)
        return found[0] if found else None

    def __call__(self, name: str) -> ir.Value:
        """A tensor that must be there."""
        found = self.maybe(name)
        if found is None:
            raise KeyError(name)
        return found

    def _tensor(self, name: str, item: Any) -> ir.Value:
        if isinstance(item, str | list):
            raise TypeError(f"{name} is no tensor")
        return self.b.constant(item) if isinstance(item, np.ndarray) else item

    def array(self, name: str, default: Any = _ABSENT) -> np.ndarray[Any, Any]:
        """A constant."""
        value = self.maybe(name)
        if value is None:
            if default is _ABSENT:
                raise KeyError(name)
            return np.asarray(default)
        array = self.b.array(value)
        if array is None:
            raise UnsupportedError(f"{name} that the model computes")
        return array

    def ints(self, name: str, default: Any = _ABSENT) -> list[int]:
        """A constant list of whole numbers."""
        return [int(item) for item in self.array(name, default).reshape(-1)]

    def integer(self, name: str, default: int = _ABSENT) -> int:
        """A constant whole number."""
        (found,) = self.ints(name, default)
        return found

    def number(self, name: str, default: float = _ABSENT) -> float:
        """A constant number."""
        return float(self.array(name, default).reshape(()))

    def flag(self, name: str, default: bool = _ABSENT) -> bool:
        """A constant that is true or false."""
        return bool(self.array(name, default).reshape(()))

    def word(self, name: str, default: str, allowed: Sequence[str]) -> str:
        """A text out of those that are supported; lower case."""
        found = self.raw(name)
        value = found[0] if found else default
        if not isinstance(value, str):
            raise TypeError(f"{name} is no text")
        if value.lower() not in allowed:
            raise UnsupportedError(f"{name}={value[:60]}")
        return value.lower()

    def scalar(self, number: float, like: ir.Value) -> ir.Value:
        """A number in the type of a tensor."""
        return self.b.scalar(number, like)

    def rest(self) -> list[str]:
        """Arguments that nobody asked for."""
        return sorted(set(self._arguments) - self._asked)


CallRule = Callable[[Call], Any]


def checked(rule: CallRule) -> Rule:
    """A rule for the table: arguments come by name, all must be read, and results must be as declared."""

    @wraps(rule)
    def strict(b: Builder, node: SourceNode, *inputs: Any) -> Any:
        given = dict(zip(node.inputs, inputs, strict=True))
        arguments = {
            name: [given[item] if isinstance(item, str) else item[0] for item in items]
            for name, items in node.attributes["arguments"].items()
        }
        call = Call(b, node, arguments)
        call.scope = given
        result = rule(call)
        if rest := call.rest():
            raise UnsupportedError(f"argument {', '.join(rest)[:100]}")
        results = result if isinstance(result, tuple) else (result,)
        return tuple(
            _declared(b, value, output.type)
            for value, output in zip(results, node.attributes["outputs"], strict=False)
        )

    return strict


def _declared(b: Builder, value: Any, value_type: Any) -> Any:
    import onnx_ir as ir

    if not isinstance(value, ir.Value) or value_type.WhichOneof("type") != "tensorType":
        return value
    dtype, dims = type_of(value_type)
    return as_declared(b, value, dtype, dims)


def as_int64(call: Call, value: ir.Value) -> ir.Value:
    """Shapes, axes and indices as ONNX wants them."""
    return call.b.cast(value, np.int64)


def sizes(call: Call, value: ir.Value, what: str) -> list[int]:
    """The shape of a value that must be known whole."""
    shape = call.b.shape(value)
    if not all(isinstance(dim, int) for dim in shape):
        raise UnsupportedError(f"{what} of open size")
    return [dim for dim in shape if isinstance(dim, int)]
