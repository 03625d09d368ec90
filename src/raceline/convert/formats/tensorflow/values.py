"""What a TensorFlow node may write that is no tensor of the graph, and what rules ask of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.dims import MOST_ELEMENTS, dims_in
from raceline.convert.graph import Array, producer, shape_of
from raceline.convert.lower import Rule, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass
class Variable:
    """A variable by its handle.

    Attributes:
        name: as the source has it.
        load: gives its array.
        value: the weight, once it has been read.
    """

    name: str
    load: Callable[[], Array]
    value: Any = None

    def read(self, b: Builder) -> ir.Value:
        """The weight; made once."""
        if self.value is None:
            self.value = b.constant(self.load(), self.name)
        return self.value  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Complex:
    """A complex tensor: its parts are two tensors of one shape."""

    real: ir.Value
    imaginary: ir.Value


@dataclass(frozen=True)
class TensorList:
    """A list of tensors of one shape, kept as one tensor with the list along axis 0.

    Attributes:
        items: (length, shape of an item...); None while no item has been set and the shape is unknown.
        dtype: of the items.
        length: number of items, a scalar int64.
        shape: of an item, -1 for open axes; None where unknown.
    """

    items: ir.Value | None
    dtype: np.dtype[Any]
    length: ir.Value
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Table:
    """A look-up table, filled when the model is loaded."""

    name: str
    keys: Array = field(repr=False)
    values: Array = field(repr=False)


class Dead:
    """What the branch of a TensorFlow 1 conditional writes that is not taken."""


DEAD = Dead()


def guarded(rules: Mapping[str, Rule], special: frozenset[str]) -> dict[str, Rule]:
    """Rules that see tensors only, refuse text and attributes they do not look at, and are skipped where dead.

    Args:
        rules: operator -> rule.
        special: operators that take what is no tensor too.
    """
    return {op: _guarded(rule, takes_all=op in special) for op, rule in rules.items()}


def _guarded(rule: Rule, *, takes_all: bool) -> Rule:
    def run(b: Builder, node: SourceNode, *inputs: Any) -> Any:
        if any(isinstance(item, Dead) for item in inputs) and node.op != "Merge":
            return (DEAD,) * max(1, len(node.outputs))
        if not takes_all:
            _refuse_special(inputs)
        result = _known(b, rule(b, node, *inputs))
        ignored = node.attributes.ignored()  # type: ignore[attr-defined]
        if ignored:
            raise UnsupportedError(f"attribute {', '.join(ignored)}")
        return result

    return run


def _known(b: Builder, result: Any) -> Any:
    """The same, integers as constants where shapes determine them: a size that is fixed need not be computed."""
    import onnx_ir as ir

    if not isinstance(result, ir.Value) or result.dtype not in {ir.DataType.INT32, ir.DataType.INT64}:
        return result
    shape = shape_of(result)
    if shape is None or len(shape) > 1 or not all(isinstance(d, int) and d <= MOST_ELEMENTS for d in shape):
        return result
    dims = None if b.array(result) is not None else dims_in(result)
    if not dims or not all(isinstance(dim, int) for dim in dims):
        return result
    return b.constant(np.array(dims, b.dtype(result)).reshape([d for d in shape if isinstance(d, int)]))


def _refuse_special(inputs: Sequence[Any]) -> None:
    for item in inputs:
        if isinstance(item, Complex):
            raise UnsupportedError("of complex numbers")
        if isinstance(item, Variable | TensorList | Table):
            raise UnsupportedError(f"of a {type(item).__name__.lower()}")
        if item is not None and item.dtype is not None and item.dtype.name == "STRING":
            raise UnsupportedError("of text")


def fixed(b: Builder, value: ir.Value, what: str) -> Array:
    """The array behind a value.

    Raises:
        UnsupportedError: it is computed.
    """
    array = b.array(value)
    if array is None:
        raise UnsupportedError(f"{what} computed by the model")
    return array


def fixed_ints(b: Builder, value: ir.Value, what: str) -> list[int]:
    """Constant integers; raises as `fixed`."""
    return [int(item) for item in fixed(b, value, what).reshape(-1)]


def vector(b: Builder, value: ir.Value) -> ir.Value:
    """Integers as ONNX wants them: int64, one axis."""
    wide = b.cast(value, np.int64)
    return wide if b.rank(wide) == 1 else b.reshape(wide, [-1])


def part(b: Builder, value: ir.Value, place: int) -> ir.Value:
    """One element of a vector of integers, as a vector of one int64; what was stacked is looked up."""
    stack = value
    while (cast := producer(stack, "Cast")) is not None and cast.inputs[0] is not None:
        stack = cast.inputs[0]
    concat = producer(stack, "Concat")
    stacked = [item for item in concat.inputs if item is not None] if concat is not None else []
    if stacked and all(b.shape(item) == (1,) for item in stacked):
        return b.cast(stacked[place], np.int64)
    return b.op("Gather", b.cast(value, np.int64), [place], axis=0)  # type: ignore[no-any-return]


def fixed_rank(b: Builder, value: ir.Value) -> int:
    """Number of axes.

    Raises:
        UnsupportedError: it is unknown.
    """
    if value.shape is None:
        raise UnsupportedError("of a tensor whose number of axes is unknown")
    return b.rank(value)


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from the front."""
    if not -rank <= axis < rank:
        raise IndexError(f"axis {axis} of {rank} axes")
    return axis % rank
