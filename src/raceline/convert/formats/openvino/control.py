"""Layers that hold graphs: TensorIterator, Loop and If; and the variables of stateful models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.openvino.assemble import run_net
from raceline.convert.formats.openvino.elements import dtype_of, dtype_of_precision, shape_of
from raceline.convert.formats.openvino.markup import Element
from raceline.convert.formats.openvino.net import Layer, Net, net_of
from raceline.convert.formats.openvino.settings import settings, skip
from raceline.convert.lower import Rules, SourceNode, UnsupportedError
from raceline.core.errors import UnsupportedOperatorError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_MOST_DEPTH = 16


@dataclass
class _Link:
    """A line of a port map: one outer port, one layer of the body, and how the tensor is cut."""

    outer: int
    inner: str
    axis: int | None
    start: int = 0
    end: int = -1
    stride: int = 1
    part: int = 1
    purpose: str = ""


@dataclass
class _Body:
    """A body with its port map; `carried` leads from a parameter to the result it takes over."""

    net: Net
    inputs: list[_Link]
    outputs: list[_Link]
    carried: dict[str, str] = field(default_factory=dict)


def _links(element: Element | None, side: str, layer: Layer) -> list[_Link]:
    """One side of a port map, outer ports as places among the layer's inputs or outputs."""
    ports = layer.inputs if side == "input" else layer.outputs
    places = {port.id: place for place, port in enumerate(ports)}
    found = []
    for item in element.all(side) if element is not None else ():
        given = item.attributes
        axis = given.get("axis")
        found.append(
            _Link(
                outer=places.get(given["external_port_id"], -1),
                inner=given["internal_layer_id"],
                axis=None if axis is None else int(axis),
                start=int(given.get("start", 0)),
                end=int(given.get("end", -1)),
                stride=int(given.get("stride", 1)),
                part=int(given.get("part_size", 1)),
                purpose=given.get("purpose", ""),
            )
        )
    return found


def _body(node: SourceNode, prefix: str = "") -> _Body:
    """The body of a layer: `body`, or `then_body` and `else_body`."""
    layer, source = settings(node).layer, settings(node).context.source
    element = layer.element.find(f"{prefix}body")
    if element is None:
        raise ValueError(f"it has no {prefix}body")
    mapping = layer.element.find(f"{prefix}port_map")
    edges = layer.element.find("back_edges")
    carried = {
        edge.attributes["to-layer"]: edge.attributes["from-layer"]
        for edge in (edges.all("edge") if edges is not None else ())
    }
    return _Body(
        net_of(element, source), _links(mapping, "input", layer), _links(mapping, "output", layer), carried
    )


def _run(
    b: Builder, node: SourceNode, body: _Body, inputs: Mapping[str, ir.Value], wanted: Sequence[str]
) -> list[Any]:
    """Translate a body into `b`, given the values of its parameters; the values of its results."""
    context = settings(node).context
    context.depth += 1
    try:
        if context.depth > _MOST_DEPTH:
            raise UnsupportedError(f"bodies more than {_MOST_DEPTH} deep")
        results = run_net(b, body.net, dict(inputs), context)
        return [results[name] for name in wanted]
    except UnsupportedOperatorError as error:
        raise UnsupportedError(error.why) from error
    finally:
        context.depth -= 1


def _port_type(port: Any) -> tuple[Any, list[int | None]]:
    """Element type and shape that the file declares for an output."""
    dtype = dtype_of_precision(port.precision)
    if dtype is None:
        raise ValueError(f"an output of precision {port.precision!r}")
    return dtype, list(port.dims)


@rules("If")
def if_(b: Builder, node: SourceNode, condition: ir.Value, *inputs: ir.Value) -> Any:
    """One of two bodies."""
    layer = settings(node).layer
    outer = (condition, *inputs)
    branches = {}
    for prefix in ("then", "else"):
        body = _body(node, f"{prefix}_")
        inner = b.body(f"{node.name}_{prefix}")
        given = {link.inner: outer[link.outer] for link in body.inputs}
        places = {link.outer: link.inner for link in body.outputs}
        results = _run(inner, node, body, given, [places[i] for i in range(len(layer.outputs))])
        branches[f"{prefix}_branch"] = inner.close(results)
    if b.rank(condition):
        condition = b.op("Reshape", condition, np.zeros(0, np.int64))
    types = [_port_type(port) for port in layer.outputs]
    return tuple(b.control("If", [condition], types, **branches))


@rules("TensorIterator", "Loop")
def loop(b: Builder, node: SourceNode, *inputs: ir.Value) -> Any:
    """A body again and again, over slices of a tensor or as long as it says."""
    body = _body(node)
    extra = 2 if node.op == "Loop" else 0  # the number of rounds, and whether there is a first
    trips, start = (inputs[0], inputs[1]) if extra else (None, None)
    sliced = [link for link in body.inputs if link.axis is not None]
    first = next((inputs[link.outer] for link in sliced), None)
    if sliced and first is not None:
        trips_sliced = _rounds(b, first, sliced[0])
        trips = trips_sliced if trips is None or _is_endless(b, trips) else trips
    if trips is None:
        raise UnsupportedError("no slices and no number of rounds")
    if _is_endless(b, trips):
        trips = None
    else:
        trips = b.op("Reshape", b.cast(trips, np.int64), np.zeros(0, np.int64))
    carried = [link for link in body.inputs if link.inner in body.carried]
    begin = [inputs[link.outer] for link in carried]
    inner = b.body(f"{node.name}_body")
    graph, scans = _loop_body(b, inner, node, body, inputs, carried)
    types = [(b.dtype(v), _loose(b, v, link, body)) for v, link in zip(begin, carried, strict=True)]
    types += [(b.dtype(value), [None, *_body_shape(value)]) for value in scans.values()]
    results = b.control("Loop", [trips, _scalar_bool(b, start), *begin], types, body=graph)
    finals = {body.carried[link.inner]: value for link, value in zip(carried, results, strict=False)}
    stacked = dict(zip(scans, results[len(carried) :], strict=True))
    return _loop_results(b, node, body, finals, stacked)


def _is_endless(b: Builder, trips: ir.Value) -> bool:
    array = b.array(trips)
    return array is not None and int(array.reshape(-1)[0]) < 0


def _scalar_bool(b: Builder, start: ir.Value | None) -> Any:
    if start is None:
        return b.constant(np.array(True))
    return b.op("Reshape", b.cast(start, bool), np.zeros(0, np.int64))


def _loose(b: Builder, value: ir.Value, link: _Link, body: _Body) -> list[int | None]:
    """The shape of a carried value: sizes that the body's parameter leaves open may change."""
    parameter = next(layer for layer in body.net.layers if layer.id == link.inner)
    declared = shape_of(parameter.data["shape"]) if "shape" in parameter.data else [None] * b.rank(value)
    own = b.shape(value)
    if len(declared) != len(own):
        raise UnsupportedError("a state whose number of axes changes")
    return [size if size is not None else None for size in declared]


def _body_shape(value: ir.Value) -> list[Any]:
    return [dim if isinstance(dim, int) else None for dim in value.shape or ()]


def _rounds(b: Builder, x: ir.Value, link: _Link) -> Any:
    """How many slices the first sliced input has."""
    assert link.axis is not None
    size = b.shape(x)[link.axis]
    if abs(link.stride) != link.part:
        raise UnsupportedError("slices that overlap or leave gaps")
    if {link.start, link.end} != {0, -1} or (link.stride > 0) != (link.start == 0):
        raise UnsupportedError("slices of a part of the tensor")
    if isinstance(size, int):
        return b.constant(np.array(size // link.part, np.int64))
    total = b.op("Squeeze", b.op("Shape", x, start=link.axis, end=link.axis + 1), [0])
    return b.op("Div", total, b.constant(np.array(link.part, np.int64)))


def _loop_body(
    b: Builder,
    inner: Builder,
    node: SourceNode,
    body: _Body,
    inputs: Sequence[ir.Value],
    carried: list[_Link],
) -> tuple[ir.Graph, dict[tuple[str, int], ir.Value]]:
    """The graph of ONNX's Loop, and the results that it stacks."""
    round_ = inner.input(f"{node.name}/round", np.int64, [])
    going = inner.input(f"{node.name}/going", bool, [])
    given: dict[str, ir.Value] = {}
    for link in body.inputs:
        if link.purpose == "current_iteration" or link.outer < 0:
            continue
        value = inputs[link.outer]
        if link in carried:
            shape = _loose(b, value, link, body)
            given[link.inner] = inner.input(f"{node.name}/state", b.dtype(value), shape)
        else:
            given[link.inner] = value if link.axis is None else _slice(inner, value, link, round_)
    for link in body.inputs:
        if link.outer < 0 or link.purpose == "current_iteration":
            parameter = next(layer for layer in body.net.layers if layer.id == link.inner)
            number = inner.cast(round_, dtype_of(parameter.data["element_type"]))
            shape = shape_of(parameter.data.get("shape", ""))
            given[link.inner] = inner.reshape(number, [1] * len(shape)) if shape else number
    condition = next((link.inner for link in body.outputs if link.purpose == "execution_condition"), "")
    scans = [link for link in body.outputs if link.axis is not None]
    wanted = [body.carried[link.inner] for link in carried] + [link.inner for link in scans]
    wanted += [link.inner for link in body.outputs if link.inner not in wanted and not link.purpose]
    results = _run(inner, node, body, given, wanted + ([condition] if condition else []))
    if len(set(wanted)) > len(carried) + len({link.inner for link in scans} - set(wanted[: len(carried)])):
        _require_last(node, body, carried, wanted)
    go_on = _scalar_bool(inner, results.pop()) if condition else going
    stacked = {(link.inner, link.outer): results[len(carried) + i] for i, link in enumerate(scans)}
    graph = inner.close([go_on, *results[: len(carried)], *stacked.values()])
    return graph, stacked


def _require_last(node: SourceNode, body: _Body, carried: list[_Link], wanted: list[str]) -> None:
    """Refuse results that are wanted of the last round only and are no state: ONNX would stack them all."""
    states = {body.carried[link.inner] for link in carried}
    for link in body.outputs:
        if link.axis is None and not link.purpose and link.inner not in states:
            raise UnsupportedError("a result of the last round that is no state")


def _slice(inner: Builder, value: ir.Value, link: _Link, round_: ir.Value) -> Any:
    """The part of a tensor that belongs to a round."""
    assert link.axis is not None
    size = inner.shape(value)[link.axis]
    place = inner.op("Mul", round_, inner.constant(np.array(link.part, np.int64)))
    if link.stride < 0:
        if not isinstance(size, int):
            raise UnsupportedError("slices from the end of an axis of open size")
        place = inner.op("Sub", inner.constant(np.array(size - link.part, np.int64)), place)
    start = inner.reshape(place, [1])
    return inner.op("Slice", value, start, inner.op("Add", start, [link.part]), [link.axis])


def _loop_results(
    b: Builder,
    node: SourceNode,
    body: _Body,
    finals: Mapping[str, ir.Value],
    stacked: Mapping[tuple[str, int], ir.Value],
) -> tuple[ir.Value, ...]:
    """The layer's outputs in its order."""
    results: dict[int, ir.Value] = {}
    for link in body.outputs:
        if link.outer < 0:
            continue
        if link.axis is None:
            if link.inner not in finals:
                raise UnsupportedError("a result of the last round that is no state")
            results[link.outer] = finals[link.inner]
        else:
            results[link.outer] = _joined(b, stacked[link.inner, link.outer], link)
    return tuple(results[place] for place in range(len(settings(node).layer.outputs)))


def _joined(b: Builder, stack: ir.Value, link: _Link) -> Any:
    """(rounds, ...) -> the slices one after another along their axis."""
    assert link.axis is not None
    if link.stride < 0:
        stack = b.op("Slice", stack, [-1], [-(2**62)], [0], [-1])
    rank = b.rank(stack) - 1
    axis = link.axis % rank
    moved = b.transpose(stack, [*range(1, axis + 1), 0, *range(axis + 1, rank + 1)])
    head, tail = b.op("Shape", moved, start=0, end=axis), b.op("Shape", moved, start=axis + 2)
    return b.op("Reshape", moved, b.op("Concat", head, [-1], tail, axis=0))


@rules("ReadValue")
def read_value(b: Builder, node: SourceNode, initial: ir.Value | None = None) -> ir.Value:
    """A variable becomes an input: whoever serves the model keeps the state."""
    context = settings(node).context
    name = node.attributes["variable_id"]
    skip(node, "variable_type", "variable_shape")
    if context.depth:
        raise UnsupportedError("inside a body")
    port = settings(node).layer.outputs[0]
    dtype, shape = _port_type(port)
    if initial is not None and any(dim is None for dim in shape) and initial.shape is not None:
        seen = b.shape(initial)
        shape = (
            [
                s if s is not None else d if isinstance(d, int) else None
                for s, d in zip(shape, seen, strict=True)
            ]
            if len(seen) == len(shape)
            else shape
        )
    context.steps.append(
        f"Variable {name!r} is an input now, and its next value an output: keep it between calls."
    )
    return b.input(name, dtype, shape)


@rules("Assign")
def assign(b: Builder, node: SourceNode, value: ir.Value) -> ir.Value:
    """The variable's next value becomes an output."""
    context = settings(node).context
    if context.depth:
        raise UnsupportedError("inside a body")
    context.states[node.attributes["variable_id"]] = value
    return value
