"""While loops: which values change from turn to turn, how often it turns, and lists that become scan outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.dims import dims_in
from raceline.convert.formats.tensorflow.graph import Body
from raceline.convert.formats.tensorflow.lists import Slot, items_of
from raceline.convert.formats.tensorflow.values import TensorList, fixed_rank
from raceline.convert.graph import shape_of
from raceline.convert.lower import SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

_MOST_ATTEMPTS = 4
_FAR = np.iinfo(np.int64).max


class Runner(Protocol):
    """Translates the body of a function."""

    def run(self, b: Builder, body: Body, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """What it computes of some inputs."""


@dataclass
class _Trace:
    """Where values of a function's body come from.

    Attributes:
        body: the function.
        writers: key -> node that writes it.
        places: key of an argument -> its number.
    """

    body: Body
    writers: dict[str, SourceNode] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.writers = {key: node for node in self.body.nodes for key in node.outputs}
        self.places = {key: place for place, key in enumerate(self.body.inputs)}

    def origin(self, key: str) -> str:
        """The key that a chain of Identity begins with."""
        while (node := self.writers.get(key)) is not None and node.op == "Identity":
            key = node.inputs[0]
        return key

    def argument(self, key: str) -> int | None:
        """The number of the argument that a value is; None where it is computed."""
        return self.places.get(self.origin(key))

    def number(self, key: str) -> int | None:
        """A constant integer scalar."""
        node = self.writers.get(self.origin(key))
        if node is None or node.op != "Const":
            return None
        array = node.attributes["value"].array()
        return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "iu" else None

    def readers(self, place: int) -> list[SourceNode]:
        """Nodes but Identity that read an argument."""
        return [
            node
            for node in self.body.nodes
            if node.op != "Identity" and any(self.argument(key) == place for key in node.inputs)
        ]


def translated_loop(
    b: Builder, runner: Runner, condition: Body, body: Body, inputs: Sequence[Any]
) -> tuple[Any, ...]:
    """A While as a Loop; returns its results, in the order of its inputs.

    Args:
        b: receives the nodes.
        runner: translates functions.
        condition: of the values; whether there is another turn.
        body: of the values; what they are after it.
        inputs: values at first, some of them no tensors.

    Raises:
        UnsupportedError: a value that is no tensor changes, in a way that no scan output can follow.
    """
    return _Loop(b, runner, condition, body, inputs).results()


class _Loop:
    def __init__(
        self, b: Builder, runner: Runner, condition: Body, body: Body, inputs: Sequence[Any]
    ) -> None:
        self.b, self.runner, self.condition, self.body = b, runner, condition, body
        self.inputs = list(inputs)
        self.trace, self.test = _Trace(body), _Trace(condition)
        count = range(len(inputs))
        self.fixed = [self.trace.argument(body.outputs[i]) == i for i in count]
        self.slots = ["" if self.fixed[i] else self._slot(i) for i in count]
        self.carried = [i for i in count if not self.fixed[i] and not self.slots[i]]

    def results(self) -> tuple[Any, ...]:
        b = self.b
        first = [self._first(i) for i in self.carried]
        turns = self._turns()
        start = None if turns is not None else self._whether(b, self.inputs)
        shapes = [shape_of(value) for value in first]
        for _ in range(_MOST_ATTEMPTS):
            inner, values, after, whether = self._turn(first, shapes, counted=turns is not None)
            wider = [
                _wider(shape, shape_of(value))
                for shape, value in zip(shapes, (after[i] for i in self.carried), strict=True)
            ]
            if wider == shapes:
                return self._closed(inner, first, shapes, after, whether, turns, start)
            shapes = wider
            _discard(inner)
        raise UnsupportedError("with values whose shapes keep changing")

    def _first(self, place: int) -> ir.Value:
        """A value before the first turn, as a tensor."""
        value = self.inputs[place]
        if isinstance(value, TensorList):
            return items_of(self.b, value)
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            raise UnsupportedError(f"that changes a {type(value).__name__.lower()}")
        fixed_rank(self.b, value)
        return value  # type: ignore[no-any-return]

    def _turn(
        self, first: list[ir.Value], shapes: list[Any], *, counted: bool
    ) -> tuple[Builder, list[Any], list[Any], ir.Value]:
        """One turn in a graph of its own."""
        b = self.b
        inner = b.body("loop")
        inner.input("turn", np.int64, [])
        going = inner.input("going", np.bool_, [])
        values: list[Any] = list(self.inputs)
        for place, value, shape in zip(self.carried, first, shapes, strict=True):
            fresh = inner.input("carried", b.dtype(value), shape)
            old = self.inputs[place]
            values[place] = (
                TensorList(fresh, old.dtype, old.length, old.shape) if isinstance(old, TensorList) else fresh
            )
        for place, kind in enumerate(self.slots):
            if kind:
                values[place] = Slot()
        after = list(self.runner.run(inner, self.body, values))
        for place, stays in enumerate(self.fixed):
            if stays:
                after[place] = self.inputs[place]
        whether = going if counted else self._whether(inner, after)
        for place in self.carried:
            after[place] = self._tensor(inner, after[place], self.inputs[place])
        return inner, values, after, whether

    def _tensor(self, inner: Builder, value: Any, old: Any) -> ir.Value:
        if isinstance(value, TensorList):
            return items_of(inner, value)
        if isinstance(old, TensorList) or not hasattr(value, "dtype"):
            raise UnsupportedError("with a value that is no tensor")
        return value  # type: ignore[no-any-return]

    def _whether(self, b: Builder, values: Sequence[Any]) -> ir.Value:
        (result,) = self.runner.run(b, self.condition, values)
        return b.reshape(b.cast(result, np.bool_), [])

    def _closed(
        self, inner: Builder, first: list[ir.Value], shapes: list[Any], after: list[Any], whether: ir.Value,
        turns: ir.Value | None, start: ir.Value | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        """The Loop of a finished turn."""
        b = self.b
        scanned = [i for i, kind in enumerate(self.slots) if kind]
        items = [after[i].item for i in scanned]
        types = [(b.dtype(value), shape) for value, shape in zip(first, shapes, strict=True)]
        length = None if turns is None or (known := b.array(turns)) is None else int(known.reshape(()))
        types += [(inner.dtype(item), [length, *(shape_of(item) or ())]) for item in items]
        graph = inner.close([whether, *(after[i] for i in self.carried), *items])
        made = b.control("Loop", [turns, start, *first], types, body=graph)
        results: list[Any] = list(self.inputs)
        for place, value in zip(self.carried, made, strict=False):
            old = self.inputs[place]
            results[place] = (
                TensorList(value, old.dtype, old.length, old.shape) if isinstance(old, TensorList) else value
            )
        for place, value in zip(scanned, made[len(self.carried) :], strict=True):
            results[place] = self._listed(place, value, turns)
        return tuple(results)

    def _listed(self, place: int, value: ir.Value, turns: ir.Value | None) -> TensorList:
        """What a loop has set of a list; the rest is zeros."""
        b, old = self.b, self.inputs[place]
        if self.slots[place] == "last":
            value = b.op("Slice", value, [-1], [_FAR], [0])
        elif turns is None or not _same_number(b, turns, old.length):
            rank = fixed_rank(b, value)
            missing = b.op("Sub", b.reshape(old.length, [1]), b.op("Shape", value, start=0, end=1))
            pads = b.op("Concat", [0] * rank, missing, [0] * (rank - 1), axis=0)
            value = b.op("Pad", value, pads, None, mode="constant")
        return TensorList(value, old.dtype, old.length, old.shape)

    # ------------------------------------------------------------ what kind of loop it is

    def _slot(self, place: int) -> str:
        """How a list is written that is empty at first and not read meanwhile; "" where it is another value.

        "each": one item a turn, in order; "last": always the only item.
        """
        old, trace = self.inputs[place], self.trace
        if not isinstance(old, TensorList) or old.items is not None or self.test.readers(place):
            return ""
        writer = trace.writers.get(trace.origin(self.body.outputs[place]))
        if writer is None or writer.op != "TensorListSetItem" or trace.readers(place) != [writer]:
            return ""
        if trace.argument(writer.inputs[0]) != place or not self._only_result(place, writer):
            return ""
        if trace.number(writer.inputs[1]) == 0 and _number(self.b, old.length) == 1:
            return "last"
        counter = trace.argument(writer.inputs[1])
        in_order = counter is not None and self._is_counter(counter) and self._start(counter) == 0
        return "each" if in_order else ""

    def _only_result(self, place: int, writer: SourceNode) -> bool:
        """Whether nothing but one result of the body uses a list before it is written or after."""
        trace = self.trace
        results = [trace.origin(key) for key in self.body.outputs]
        reads = [trace.origin(key) for n in self.body.nodes if n.op != "Identity" for key in n.inputs]
        return (
            trace.body.inputs[place] not in results
            and sum(key in writer.outputs for key in results) == 1
            and not any(key in writer.outputs for key in reads)
        )

    def _is_counter(self, place: int) -> bool:
        """Whether each turn adds one to a value."""
        trace = self.trace
        node = trace.writers.get(trace.origin(self.body.outputs[place]))
        if node is None or node.op not in {"AddV2", "Add"}:
            return False
        one, other = node.inputs
        return (trace.argument(one) == place and self._whole(other) == 1) or (
            trace.argument(other) == place and self._whole(one) == 1
        )

    def _whole(self, key: str) -> int | None:
        """An integer that the body reads, where it is always the same."""
        place = self.trace.argument(key)
        if place is None:
            return self.trace.number(key)
        return self._start(place) if self.fixed[place] else None

    def _start(self, place: int) -> int | None:
        """A value before the first turn, where it is a known integer."""
        value = self.inputs[place]
        known = hasattr(value, "dtype") and not isinstance(value, TensorList)
        return _number(self.b, value) if known else None

    def _turns(self) -> ir.Value | None:
        """How often the loop turns, where it counts up to limits; None where that is not plain."""
        limits = self._limits(self.condition.outputs[0], 8)
        if not limits:
            return None
        b = self.b
        counts: list[ir.Value] = []
        for counter, limit in limits:
            begin = b.reshape(b.cast(self.inputs[counter], np.int64), [])
            count = b.op("Sub", b.reshape(b.cast(limit, np.int64), []), begin)
            if not any(_same_number(b, count, other) for other in counts):
                counts.append(count)
        turns = counts[0]
        for count in counts[1:]:
            turns = b.op("Min", turns, count)
        return b.op("Max", turns, np.int64(0))  # type: ignore[no-any-return]

    def _limits(self, key: str, depth: int) -> list[tuple[int, Any]] | None:
        """(counter, limit) of each comparison that the condition asks; None where it asks something else."""
        node = self.test.writers.get(self.test.origin(key))
        if node is None or depth == 0:
            return None
        if node.op == "LogicalAnd":
            parts = [self._limits(item, depth - 1) for item in node.inputs]
            return (
                None
                if any(part is None for part in parts)
                else [pair for part in parts for pair in part or ()]
            )
        if node.op not in {"Less", "Greater"}:
            return None
        small, large = node.inputs if node.op == "Less" else node.inputs[::-1]
        counter, limit = self.test.argument(small), self._constant(large)
        if counter is None or limit is None or not self._is_counter(counter):
            return None
        return [(counter, limit)]

    def _constant(self, key: str) -> Any:
        """A value that stays what it is for the whole loop."""
        number = self.test.number(key)
        if number is not None:
            return self.b.constant(np.int64(number))
        place = self.test.argument(key)
        return self.inputs[place] if place is not None and self.fixed[place] else None


def _number(b: Builder, value: ir.Value) -> int | None:
    """A constant integer scalar."""
    array = b.array(value)
    fits = array is not None and array.size == 1 and array.dtype.kind in "iu"
    return int(array.reshape(())) if array is not None and fits else None


def _same_number(b: Builder, one: ir.Value, other: ir.Value) -> bool:
    """Whether two scalars are known to be equal."""
    if one is other:
        return True
    ours, theirs = dims_in(one), dims_in(other)
    return ours is not None and ours == theirs


def _wider(declared: Any, found: Any) -> Any:
    """A shape that both fit."""
    if found is None or declared is None or len(found) != len(declared):
        raise UnsupportedError("with a value whose number of axes changes")
    return tuple(a if a == c else None for a, c in zip(declared, found, strict=True))


def _discard(builder: Builder) -> None:
    """Take nodes that will not be used off the values they read."""
    for node in builder.graph.all_nodes():
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
