"""Branches, loops and calls between subgraphs, and variables that are set once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.asking import option
from raceline.convert.formats.tflite.data import DTYPES
from raceline.convert.formats.tflite.file import Tensor
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
Handle = tuple[str, str]
"""Container and name of a variable."""


@dataclass
class Variables:
    """What variables hold while a model is translated.

    Attributes:
        values: by handle.
        states: names of those that the model writes for the next call: inputs and outputs of ours.
        first: what states hold before the first call, where the file says it.
        setting_up: whether the subgraph is at work that sets variables before the first call.
    """

    values: dict[Handle, ir.Value] = field(default_factory=dict)
    states: dict[Handle, str] = field(default_factory=dict)
    first: dict[Handle, ir.Value] = field(default_factory=dict)
    setting_up: bool = False


def handle_of(options: Mapping[str, Any]) -> Handle:
    """The variable that a VAR_HANDLE names."""
    return str(options.get("container") or ""), str(options.get("shared_name") or "")


Call = Callable[[Builder, int, Sequence[Any]], list[Any]]
"""Builds a subgraph by its number, given its inputs, and returns its outputs."""


def _results(tensors: Sequence[Tensor]) -> list[tuple[Any, Any]]:
    """Element type and shape of what a branch or loop gives.

    Raises:
        UnsupportedError: an element type that no engine takes.
    """
    strange = [tensor.dtype for tensor in tensors if tensor.dtype not in DTYPES]
    if strange:
        raise UnsupportedError(f"results of type {strange[0]}")
    return [
        (np.dtype(DTYPES[t.dtype]), None if t.shape is None else [d if d >= 0 else None for d in t.shape])
        for t in tensors
    ]


@rules("IF")
def if_(b: Builder, node: SourceNode, condition: ir.Value, *operands: ir.Value) -> tuple[ir.Value, ...]:
    """One of two subgraphs."""
    call: Call = node.attributes["call"]
    array = b.array(condition)
    names = ("then_subgraph_index", "else_subgraph_index")
    if array is not None:
        return tuple(call(b, option(node, names[0] if array.reshape(-1)[0] else names[1]), operands))
    branches = []
    for name in names:
        body = b.body(f"{b.where}/{name.partition('_')[0]}")
        branches.append(body.close(call(body, option(node, name), operands)))
    flag = b.op("Reshape", condition, np.zeros(0, np.int64))
    types = _results(node.attributes["out"])
    return tuple(b.control("If", [flag], types, then_branch=branches[0], else_branch=branches[1]))


@rules("WHILE")
def while_(b: Builder, node: SourceNode, *state: ir.Value) -> tuple[ir.Value, ...]:
    """A subgraph repeated as long as another holds."""
    call: Call = node.attributes["call"]
    condition, step = option(node, "cond_subgraph_index"), option(node, "body_subgraph_index")
    scalar = np.zeros(0, np.int64)
    (first,) = call(b, condition, state)
    body = b.body(f"{b.where}/body")
    body.input("iteration", np.int64, [])
    body.input("go_on", np.bool_, [])
    types = _results(node.attributes["out"])
    carried = [body.input(f"state_{i}", dtype, shape or []) for i, (dtype, shape) in enumerate(types)]
    if any(shape is None for _, shape in types):
        for value, given in zip(carried, state, strict=True):
            value.shape = given.shape
    after = call(body, step, carried)
    (again,) = call(body, condition, after)
    graph = body.close([body.op("Reshape", again, scalar), *after])
    operands = [None, b.op("Reshape", first, scalar), *state]
    return tuple(b.control("Loop", operands, types, body=graph))


@rules("CALL", "STABLEHLO_COMPOSITE")
def call_(b: Builder, node: SourceNode, *operands: ir.Value) -> tuple[ir.Value, ...]:
    """Another subgraph in place of the node."""
    name = "subgraph" if node.op == "CALL" else "decomposition_subgraph_index"
    call: Call = node.attributes["call"]
    return tuple(call(b, option(node, name), operands))


@rules("CALL_ONCE")
def call_once(b: Builder, node: SourceNode) -> tuple[ir.Value, ...]:
    """What sets variables before the first call; it runs in place, as it always gives the same."""
    call: Call = node.attributes["call"]
    variables: Variables = node.attributes["variables"]
    variables.setting_up = True
    call(b, option(node, "init_subgraph_index"), ())
    variables.setting_up = False
    return ()


@rules("VAR_HANDLE")
def var_handle(b: Builder, node: SourceNode) -> tuple[Handle]:
    """The name of a variable."""
    return (handle_of(node.attributes),)


@rules("ASSIGN_VARIABLE")
def assign_variable(b: Builder, node: SourceNode, handle: Any, value: ir.Value) -> tuple[ir.Value, ...]:
    """While variables are set up, what they hold; later, what a state holds at the next call."""
    variables: Variables = node.attributes["variables"]
    if variables.setting_up:
        target = variables.first if handle in variables.states else variables.values
        target[handle] = value
    elif handle in variables.states:
        variables.values[handle] = value
    else:
        raise UnsupportedError("a variable that is kept between calls and written in a branch or a loop")
    return ()


@rules("READ_VARIABLE")
def read_variable(b: Builder, node: SourceNode, handle: Any) -> Any:
    """What the variable was set to."""
    values = node.attributes["variables"].values
    if handle not in values:
        raise UnsupportedError("a variable that nothing sets")
    return values[handle]
