"""Follow a TorchScript graph with what is known now, and build standard ONNX for what a run must compute.

Branches whose condition is known and loops whose count is known leave no trace. Other branches become `If`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raceline.convert.build import Builder
from raceline.convert.formats.torchscript import branches, python
from raceline.convert.formats.torchscript.operands import scalar, shaped
from raceline.convert.formats.torchscript.program import Block, Module, Node
from raceline.convert.formats.torchscript.rules import ALIASES, NUMBERS, RULES, VIEWS
from raceline.convert.formats.torchscript.values import (
    Lost,
    Memory,
    Scalar,
    Tensor,
    Uninitialised,
    causes_in,
    is_dynamic,
)
from raceline.convert.lower import UnsupportedError, failed
from raceline.core.errors import BadModelError, RacelineError, ShapeError, UnsupportedOperatorError
from raceline.ir.load import PARSE_FAILURES

WAY_OUT = (
    "Export the model from Python instead: torch.export.save(torch.export.export(module, inputs), 'model.pt2') "
    "is read too."
)
_MOST_STEPS = 2_000_000


class Raised(Exception):  # noqa: N818  it is the model that raises, and this only carries what it says
    """The model raises an exception whatever its inputs are."""


class Interpreter:
    """Follows a method's graph.

    Args:
        builder: receives the nodes.
        attributes: of the module, by path; arrays become constants when they are read.
        source: the file's name, for messages.

    Attributes:
        memory: tensors and attributes with their changes.
        read: paths of attributes in the order in which they were first read.
        written: paths that were set, in order.
    """

    def __init__(self, builder: Builder, attributes: Mapping[str, Any], source: str) -> None:
        self.b = builder
        self.source = source
        self.memory = Memory(dict(attributes))
        self.read: dict[str, None] = {}
        self.written: dict[str, None] = {}
        self.assumed: dict[str, None] = {}
        self.lost_writes: list[tuple[str, str]] = []  # whatever they should have changed would be wrong
        self._constants: dict[int, Tensor] = {}
        self._steps = 0

    def run(
        self, block: Block, arguments: Sequence[Any], around: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Follow a block; what it gives.

        Args:
            block: nodes in order.
            arguments: what its inputs stand for.
            around: values of the blocks that enclose it.

        Raises:
            Raised: the model raises an exception.
            BadModelError: the graph makes no sense, or takes too many steps.
        """
        env = dict(around or {})
        env.update(zip((port.name for port in block.inputs), arguments, strict=True))
        for node in block.nodes:
            self._steps += 1
            if self._steps > _MOST_STEPS:
                what = f"{self.source} loops for more than {_MOST_STEPS:,} steps"
                raise BadModelError(what, f"at {node.name!r}", WAY_OUT)
            results = self._node(node, env)
            for port, result in zip(node.outputs, results, strict=False):
                env[port.name] = result
        return [self._get(name, env) for name in block.outputs]

    def array(self, item: Any) -> Any:
        """An attribute's or constant's value: arrays as tensors, the same one each time."""
        import numpy as np

        if isinstance(item, np.ndarray):
            key = id(item)
            if key not in self._constants:
                self._constants[key] = Tensor(self.b.constant(item))
            return self._constants[key]
        if isinstance(item, list):
            return [self.array(part) for part in item]
        if isinstance(item, tuple):
            return tuple(self.array(part) for part in item)
        if isinstance(item, dict):
            return {key: self.array(part) for key, part in item.items()}
        return item

    def missing(self, *items: Any) -> None:
        """Raise one error for all that could not be translated and is needed for these values.

        Raises:
            UnsupportedOperatorError: they depend on something lost.
        """
        causes = [*causes_in(list(items)), *self.lost_writes]
        if causes:
            uses: dict[str, list[str]] = {}
            for op, name in dict.fromkeys(causes):
                uses.setdefault(op, []).append(name)
            raise UnsupportedOperatorError(self.source, uses, WAY_OUT)

    def _get(self, name: str, env: Mapping[str, Any]) -> Any:
        try:
            return env[name]
        except KeyError:
            raise BadModelError(f"{self.source} is broken", f"nothing writes {name!r}") from None

    def _node(self, node: Node, env: dict[str, Any]) -> Sequence[Any]:
        results = self._outcome(node, env)
        if node.op.endswith("_") and not node.op.endswith("__"):
            self.lost_writes += causes_in(list(results))
        return results

    def _outcome(self, node: Node, env: dict[str, Any]) -> Sequence[Any]:
        arguments = [self._get(name, env) for name in node.inputs]
        try:
            with self.b.at(node.name):
                return self._meaning(node, arguments, env)
        except UnsupportedError as error:
            return [Lost(((f"{node.op}: {error}", node.name), *causes_in(arguments)))] * len(node.outputs)
        except (Raised, UnsupportedOperatorError):
            raise
        except BadModelError as error:
            if error.what.startswith(self.source):
                raise
            what = f"{self.source}: node {node.name!r} ({node.op}): {error.what}"
            raise BadModelError(what, error.why, error.next_step) from error
        except (ShapeError, *PARSE_FAILURES) as error:
            if isinstance(error, RacelineError) and not isinstance(error, ShapeError):
                raise
            raise failed(f"{self.source}: node {node.name!r} ({node.op})", error, WAY_OUT) from error

    def _meaning(self, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
        """What a node writes."""
        own = _OWN.get(node.op)
        if own is not None:
            return own(self, node, arguments, env)  # type: ignore[no-any-return]
        causes = causes_in(arguments)
        if causes and not python.passes_parts(node.op, arguments):
            return [Lost(tuple(dict.fromkeys(causes)))] * max(1, len(node.outputs))
        found = python.apply(node.op, arguments, self.memory, is_dynamic(arguments))
        if found is not python.NOTHING:
            self.memory.made(found)
            return [found]
        return self._built(node, arguments)

    def _built(self, node: Node, arguments: list[Any]) -> Sequence[Any]:
        """What a rule builds for a node that a run must compute."""
        op, in_place = node.op, False
        rule = RULES.get(op)
        if rule is None and op.endswith("_") and not op.endswith("__"):
            op, in_place = op[:-1], True
            rule = RULES.get(op)
        if rule is None:
            return [Lost(((node.op, node.name),))] * len(node.outputs)
        plain = self.unwrap(_as_numbers(arguments) if op in NUMBERS else arguments)
        result = rule(self.b, node, *plain)
        if in_place:
            return [self._write(arguments[0], result[0] if isinstance(result, tuple) else result)]
        if op in ALIASES and result is plain[0] and isinstance(arguments[0], Tensor):
            return [arguments[0]]
        if op in VIEWS and isinstance(arguments[0], Tensor):
            return [self._view(op, node, arguments[0], plain, result)]
        results = result if isinstance(result, tuple) else (result,)
        return [self._wrap(item) for item in results]

    def _write(self, target: Any, value: Any) -> Any:
        """Change a tensor in place; it keeps its element type and shape."""
        if not isinstance(target, Tensor):
            raise UnsupportedError("it changes in place what is no tensor")
        before = self.memory.read(self.b, target)
        self.memory.write(self.b, target, self.b.cast(value, before.dtype))
        return target

    def _view(self, op: str, node: Node, base: Tensor, plain: list[Any], result: Any) -> Any:
        """A tensor, or a list of them, that shares its elements with another."""
        backward, rest = VIEWS[op], plain[1:]

        def one(value: Any, place: int | None) -> Tensor:
            def forward(b: Builder, current: Any) -> Any:
                again = RULES[op](b, node, current, *rest)
                return again if place is None else again[place]

            def back(b: Builder, current: Any, new: Any) -> Any:
                assert backward is not None
                return backward(b, node, current, new, *rest)

            writes = back if backward is not None and place is None else None
            return Tensor(value, base, forward, writes, seen=base.version)

        made = [one(v, i) for i, v in enumerate(result)] if isinstance(result, list) else one(result, None)
        self.memory.made(made)
        return made

    def unwrap(self, item: Any) -> Any:
        """Values of the graph for tensors, wherever they are in lists."""
        if isinstance(item, Tensor):
            return self.memory.read(self.b, item)
        if isinstance(item, list):
            return [self.unwrap(part) for part in item]
        if isinstance(item, tuple):
            return tuple(self.unwrap(part) for part in item)
        return item

    def _wrap(self, item: Any) -> Any:
        import onnx_ir as ir

        if isinstance(item, ir.Value):
            return Tensor(item)
        if isinstance(item, list):
            made = [self._wrap(part) for part in item]
            self.memory.made(made)
            return made
        return item


def _as_numbers(arguments: list[Any]) -> list[Any]:
    """Arguments with numbers that a trace made tensors of as numbers again, beside a tensor that is none."""
    if not any(isinstance(item, Tensor) and item.number is None for item in arguments):
        return arguments
    return [
        item.number if isinstance(item, Tensor) and item.number is not None and not item.version else item
        for item in arguments
    ]


def _constant(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    import numpy as np

    value = run.array(node.constant)
    held = node.constant
    if isinstance(held, np.ndarray) and not held.ndim and held.dtype in {np.dtype("f8"), np.dtype("i8")}:
        value.number = held.item()
    return [value]


def _get_attribute(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    if not node.attribute:
        raise UnsupportedError("an attribute of an object that is no module")
    if node.attribute not in run.memory.attributes:
        raise BadModelError(f"{run.source} is broken", f"there is no attribute {node.attribute!r}")
    value = run.memory.attributes[node.attribute]
    if not isinstance(value, Module):
        if node.attribute not in run.written:
            run.read.setdefault(node.attribute)
        import numpy as np

        if isinstance(value, np.ndarray):
            value = Tensor(run.b.constant(value, name=node.attribute))
        elif not isinstance(value, Tensor):
            value = run.array(value)
        run.memory.attributes[node.attribute] = value
    return [value]


def _set_attribute(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    if not node.attribute:
        raise UnsupportedError("an attribute of an object that is no module")
    run.written.setdefault(node.attribute)
    run.memory.set(node.attribute, arguments[1])
    return []


def _if(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    condition = arguments[0]
    run.missing(condition)
    if not isinstance(condition, Scalar):
        return run.run(node.blocks[0 if condition else 1], [], env)
    return branches.either(run, node, condition, env)


def _loop(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    most, going, *carried = arguments
    run.missing(most, going)
    body, count = node.blocks[0], 0
    while True:
        if isinstance(most, Scalar) or isinstance(going, Scalar):
            raise UnsupportedError(
                "how often it runs is only known at run time; where a size decides it, give that size with shapes="
            )
        if count >= most or not going:
            return carried
        going, *carried = run.run(body, [count, *carried], env)
        run.missing(going)
        count += 1


def _raise(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    said = (
        arguments[0] if isinstance(arguments[0], str) and arguments[0] else "an exception without a message"
    )
    raise Raised(said)


def _uninitialised(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    return [Uninitialised()] * len(node.outputs)


def _list(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    made = list(arguments)
    run.memory.made(made)
    return [made]


def _dictionary(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    made = dict(zip(arguments[::2], arguments[1::2], strict=True))
    run.memory.made(made)
    return [made]


def _tuple(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    return [tuple(arguments)]


def _unpack(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    if isinstance(arguments[0], Lost):
        return [arguments[0]] * len(node.outputs)
    if len(arguments[0]) != len(node.outputs):
        raise UnsupportedError(f"it takes {len(arguments[0])} values apart into {len(node.outputs)}")
    return list(arguments[0])


def _slice(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    begin, end = node.constant
    return [arguments[0][begin:end]]


def _same(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    return [arguments[0]]


def _is_instance(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    return [any(python.is_a(arguments[0], kind) for kind in node.constant)]


def _nothing(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    return [None] * len(node.outputs)


def _device(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    return ["cpu"]


def _number(run: Interpreter, node: Node, arguments: list[Any], env: dict[str, Any]) -> Sequence[Any]:
    """A tensor of one element as a number."""
    x = arguments[0]
    if isinstance(x, Lost):
        return [x]
    kind = {"Int": int, "Float": float, "Bool": bool}.get(node.op.rpartition("::")[2])
    kind = kind or {"int": int, "float": float, "bool": bool}.get(node.outputs[0].type, float)
    if isinstance(x, Tensor):
        value = run.memory.read(run.b, x)
        flat = shaped(run.b, value, [1])
        return [scalar(run.b.cast(flat, python.NUMPY[kind]), kind)]
    if isinstance(x, Scalar):
        return [x if x.kind is kind else scalar(run.b.cast(x.value, python.NUMPY[kind]), kind)]
    return [kind(x)]


_OWN: Mapping[str, Any] = {
    "prim::Constant": _constant,
    "prim::GetAttr": _get_attribute,
    "prim::SetAttr": _set_attribute,
    "prim::If": _if,
    "prim::Loop": _loop,
    "prim::RaiseException": _raise,
    "prim::Uninitialized": _uninitialised,
    "prim::ListConstruct": _list,
    "prim::DictConstruct": _dictionary,
    "prim::TupleConstruct": _tuple,
    "prim::ListUnpack": _unpack,
    "prim::TupleUnpack": _unpack,
    "prim::TupleSlice": _slice,
    "prim::unchecked_cast": _same,
    "aten::_unwrap_optional": _same,
    "prim::unchecked_unwrap_optional": _same,
    "prim::data": _same,
    "prim::isinstance": _is_instance,
    "prim::Print": _nothing,
    "aten::warn": _nothing,
    "aten::manual_seed": _nothing,
    "prim::device": _device,
    "aten::Int": _number,
    "aten::Float": _number,
    "aten::Bool": _number,
    "aten::IntImplicit": _number,
    "aten::FloatImplicit": _number,
    "aten::ScalarImplicit": _number,
    "prim::ImplicitTensorToNum": _number,
    "aten::item": _number,
}
