"""Branches and loops: If and While of functions become ONNX's If and Loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow.attributes import FunctionName
from raceline.convert.formats.tensorflow.context import Context
from raceline.convert.formats.tensorflow.graph import WRITES, Body
from raceline.convert.formats.tensorflow.loops import translated_loop
from raceline.convert.formats.tensorflow.values import TensorList, Variable, fixed_rank
from raceline.convert.graph import shape_of
from raceline.convert.lower import Rule, Rules, SourceNode, UnsupportedError, lower

if TYPE_CHECKING:
    import onnx_ir as ir

WAY_OUT = "Leave such parts to the program around the model, or save it with standard layers."


CONTROLLED = (
    "If StatelessIf Case StatelessCase While StatelessWhile VarHandleOp VariableV2 Variable ReadVariableOp".split()
    + sorted(WRITES)
)
"""Operators that `Control` has rules for."""


class Control:
    """Rules for nodes that run functions.

    Args:
        context: functions, and the rules for what is in them.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    def rules(self) -> dict[str, Rule]:
        """Operator -> rule."""
        table = Rules()
        table("If", "StatelessIf")(self._if)
        table("Case", "StatelessCase")(self._case)
        table("While", "StatelessWhile")(self._while)
        table("VarHandleOp")(self._variable)
        table("VariableV2", "Variable")(self._old_variable)
        table("ReadVariableOp")(_read)
        table(*sorted(WRITES))(_refuse_write)
        assert table.table.keys() == set(CONTROLLED)
        return table.table

    def _variable(self, b: Builder, node: SourceNode) -> Any:
        node.attributes.get("shape")
        return Variable(node.name, lambda: self._context.load(node))

    def _old_variable(self, b: Builder, node: SourceNode) -> Any:
        node.attributes.get("shape")
        return b.constant(self._context.load(node), node.name)

    # ------------------------------------------------------------ branches

    def _if(self, b: Builder, node: SourceNode, chosen: ir.Value, *inputs: Any) -> Any:
        bodies = [self._body(node, node.attributes[name], name) for name in ("then_branch", "else_branch")]
        known = b.array(chosen)
        if known is not None:
            return self.run(b, bodies[0 if _truth_of(known) else 1], inputs)
        return self._branches(b, node, _truth(b, chosen), bodies, inputs)

    def _case(self, b: Builder, node: SourceNode, place: ir.Value, *inputs: Any) -> Any:
        functions = node.attributes["branches"]
        bodies = [self._body(node, function, f"branch{i}") for i, function in enumerate(functions)]
        known = b.array(place)
        if known is not None:
            index = int(known.reshape(()))
            return self.run(b, bodies[index if 0 <= index < len(bodies) else -1], inputs)
        return self._choose(b, node, place, bodies, 0, inputs)

    def _choose(
        self,
        b: Builder,
        node: SourceNode,
        place: ir.Value,
        bodies: list[Body],
        first: int,
        inputs: Sequence[Any],
    ) -> Any:
        """The first of some bodies, or one of the rest."""
        if first == len(bodies) - 1:
            return self.run(b, bodies[first], inputs)
        here = b.op("Equal", b.cast(place, np.int64), np.int64(first))
        inner, rest = b.body("case"), b.body("other")
        yes = self.run(inner, bodies[first], inputs)
        no = self._choose(rest, node, place, bodies, first + 1, inputs)
        return _joined(b, here, (inner, yes), (rest, no if isinstance(no, tuple) else (no,)))

    def _branches(
        self, b: Builder, node: SourceNode, chosen: ir.Value, bodies: list[Body], inputs: Sequence[Any]
    ) -> tuple[Any, ...]:
        then, other = b.body("then"), b.body("else")
        yes, no = self.run(then, bodies[0], inputs), self.run(other, bodies[1], inputs)
        return _joined(b, chosen, (then, yes), (other, no))

    # ------------------------------------------------------------ loops

    def _while(self, b: Builder, node: SourceNode, *inputs: Any) -> Any:
        condition = self._body(node, node.attributes["cond"], "cond")
        body = self._body(node, node.attributes["body"], "body")
        if len(body.outputs) != len(inputs) or len(body.inputs) != len(inputs):
            raise ValueError(f"a loop over {len(inputs)} values with a body of {len(body.outputs)}")
        return translated_loop(b, self, condition, body, inputs)

    # ------------------------------------------------------------ functions

    def _body(self, node: SourceNode, function: FunctionName, part: str) -> Body:
        around: Mapping[str, Any] = node.attributes
        return self._context.library.body(function, f"{node.name}/{part}", around["_functions"])

    def run(self, b: Builder, body: Body, inputs: Sequence[Any]) -> tuple[Any, ...]:
        """What a function's body computes of some inputs."""
        if len(inputs) != len(body.inputs):
            raise ValueError(f"a function of {len(body.inputs)} arguments is given {len(inputs)}")
        values: dict[str, Any] = dict(zip(body.inputs, inputs, strict=True))
        source = self._context.library.source
        lower(b, body.nodes, self._context.rules, values, source=source, way_out=WAY_OUT)
        return tuple(values[key] for key in body.outputs)


def _read(b: Builder, node: SourceNode, variable: Any) -> Any:
    if not isinstance(variable, Variable):
        raise UnsupportedError("of what is no variable")
    return variable.read(b)


def _refuse_write(b: Builder, node: SourceNode, *inputs: Any) -> Any:
    raise UnsupportedError("it changes a variable, and a model here gives the same answer each time")


def _truth(b: Builder, chosen: ir.Value) -> ir.Value:
    """A scalar as true or false; a number is true unless it is zero."""
    if fixed_rank(b, chosen) != 0:
        raise UnsupportedError("by a condition of more than one element")
    return b.cast(chosen, np.bool_)


def _truth_of(known: np.ndarray[Any, Any]) -> bool:
    return bool(known.reshape(())) if known.ndim == 0 else bool(known.size)


def _joined(
    b: Builder, chosen: ir.Value, yes: tuple[Builder, Sequence[Any]], no: tuple[Builder, Sequence[Any]]
) -> tuple[Any, ...]:
    """An If of two graphs; what both give alike needs none."""
    (then, ours), (other, theirs) = yes, no
    if len(ours) != len(theirs):
        raise ValueError("branches with different numbers of results")
    results: list[Any] = list(ours)
    places = [i for i, (one, two) in enumerate(zip(ours, theirs, strict=True)) if one is not two]
    for place in places:
        _check_alike(ours[place], theirs[place])
    if not places:
        return tuple(results)
    types = [(b.dtype(ours[i]), _merged(ours[i], theirs[i])) for i in places]
    graphs = {
        "then_branch": then.close([ours[i] for i in places]),
        "else_branch": other.close([theirs[i] for i in places]),
    }
    for place, value in zip(places, b.control("If", [chosen], types, **graphs), strict=True):
        results[place] = value
    return tuple(results)


def _check_alike(one: Any, other: Any) -> None:
    for value in (one, other):
        if isinstance(value, TensorList | Variable) or not hasattr(value, "dtype"):
            raise UnsupportedError("with a result that is no tensor")
    if one.dtype != other.dtype:
        raise ValueError("branches with results of different types")


def _merged(one: ir.Value, other: ir.Value) -> list[Any] | None:
    ours, theirs = shape_of(one), shape_of(other)
    if ours is None or theirs is None or len(ours) != len(theirs):
        return None
    return [a if a == c else None for a, c in zip(ours, theirs, strict=True)]
