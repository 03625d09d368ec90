"""A branch that only a run chooses: both ways are followed, and what differs comes out of an `If`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.formats.torchscript.operands import number, wider
from raceline.convert.formats.torchscript.program import Block, Node
from raceline.convert.formats.torchscript.values import Lost, Scalar, Tensor, Uninitialised, causes_in

if TYPE_CHECKING:
    from raceline.convert.build import Builder


def either(run: Any, node: Node, condition: Scalar, env: Mapping[str, Any]) -> list[Any]:
    """Follow both branches with an `Interpreter`.

    A branch that always raises is a check of the inputs; a graph cannot raise, so the other one is taken and
    `run.assumed` notes it.
    """
    raising = [_raises(block) for block in node.blocks]
    if any(raising):
        taken = node.blocks[1 if raising[0] else 0]
        run.assumed.setdefault(node.name)
        return list(run.run(taken, [], env))
    sides = [_Side(run, block, env) for block in node.blocks]
    merge = _Merge(run.b, sides[0].b, sides[1].b)
    results = [merge.plan(a, b) for a, b in zip(sides[0].results, sides[1].results, strict=True)]
    tensors, attributes = _changed(run, sides, merge)
    merge.build(condition)
    for tensor, plan in tensors:
        run.memory.write(run.b, tensor, merge.result(plan).value)
    for path, plan in attributes.items():
        run.memory.set(path, merge.result(plan))
    return [merge.result(plan) for plan in results]


class _Side:
    """One branch, followed into a graph of its own, its changes taken back."""

    def __init__(self, run: Any, block: Block, env: Mapping[str, Any]) -> None:
        outer = run.b
        self.b = outer.body(f"{outer.where}/branch")
        run.b = self.b
        try:
            with run.memory.branch() as change:
                self.results = [_held(run, item) for item in run.run(block, [], env)]
                self.tensors, self.attributes = run.memory.undo(change)
                self.attributes = {path: _held(run, item) for path, item in self.attributes.items()}
        finally:
            run.b = outer


def _held(run: Any, item: Any) -> Any:
    """A branch's result as values, which stay when its changes are taken back."""
    return run.unwrap(item) if not causes_in(item) else item


def _changed(run: Any, sides: list[_Side], merge: _Merge) -> tuple[list[tuple[Tensor, Any]], dict[str, Any]]:
    """Plans for the tensors and attributes that a branch changed."""
    tensors = []
    for key in {**sides[0].tensors, **sides[1].tensors}:
        tensor = (sides[0].tensors.get(key) or sides[1].tensors[key])[0]
        if tensor.base is not None:
            continue  # its base changes too, and it follows
        ends = [side.tensors[key][1] if key in side.tensors else vars(tensor) for side in sides]
        if any(end["spoilt"] for end in ends):
            tensor.spoilt = next(end["spoilt"] for end in ends if end["spoilt"])
            continue
        if ends[0]["value"] is not ends[1]["value"]:
            tensors.append((tensor, merge.plan(ends[0]["value"], ends[1]["value"])))
    attributes = {}
    for path in {**sides[0].attributes, **sides[1].attributes}:
        run.read.setdefault(path)  # one of the branches leaves it as it was
        before = run.unwrap(run.array(run.memory.attributes[path]))
        attributes[path] = merge.plan(*(side.attributes.get(path, before) for side in sides))
    return tensors, attributes


class _Merge:
    """Collects what comes out of an `If`, then builds it.

    Args:
        outer: builds around the branches.
        then, other: the branches' own builders.
    """

    def __init__(self, outer: Builder, then: Builder, other: Builder) -> None:
        self.outer, self.then, self.other = outer, then, other
        self._pairs: list[tuple[Any, Any, Any, type | None]] = []
        self._results: list[Any] = []

    def plan(self, a: Any, b: Any) -> Any:
        """What stands for one value in the first branch and another in the second: a plan for `result`."""
        if isinstance(a, Uninitialised) or isinstance(b, Uninitialised):
            return ("same", b if isinstance(a, Uninitialised) else a)
        if causes := causes_in([a, b]):
            return ("same", Lost(tuple(dict.fromkeys(causes))))
        if isinstance(a, list | tuple) and type(a) is type(b) and len(a) == len(b):
            return ("parts", type(a), [self.plan(x, y) for x, y in zip(a, b, strict=True)])
        kinds = {_kind(a), _kind(b)}
        if kinds == {"tensor"}:
            return ("same", a) if a is b else self._pair(a, b, None)
        if kinds <= {int, float, bool}:
            if not isinstance(a, Scalar) and not isinstance(b, Scalar) and a == b and type(a) is type(b):
                return ("same", a)
            kind = max((k for k in kinds if isinstance(k, type)), key=[bool, int, float].index)
            return self._pair(self._one(self.then, a, kind), self._one(self.other, b, kind), kind)
        if a is b or (type(a) is type(b) and isinstance(a, str | None) and a == b):
            return ("same", a)
        return ("same", Lost((("prim::If: its branches give values of different kinds", self.outer.where),)))

    def _pair(self, a: Any, b: Any, kind: type | None) -> Any:
        dtype = wider(self.then.dtype(a), self.other.dtype(b))
        a, b = self.then.cast(a, dtype), self.other.cast(b, dtype)
        self._pairs.append((a, b, dtype, kind))
        return ("pair", len(self._pairs) - 1, kind)

    def _one(self, b: Builder, item: Any, kind: type) -> Any:
        dtype = {bool: np.bool_, int: np.int64, float: np.float64}[kind]
        return (
            b.cast(item.value, dtype) if isinstance(item, Scalar) else b.reshape(number(b, item, dtype), [1])
        )

    def build(self, condition: Scalar) -> None:
        """Add the `If`."""
        if not self._pairs:
            return
        types = [(dtype, _shape(self.then, a, b)) for a, b, dtype, _ in self._pairs]
        then = self.then.close([a for a, *_ in self._pairs])
        other = self.other.close([b for _, b, *_ in self._pairs])
        chosen = self.outer.op("Squeeze", condition.value, [0])
        self._results = self.outer.control("If", [chosen], types, then_branch=then, else_branch=other)

    def result(self, plan: Any) -> Any:
        """What a plan became."""
        if plan[0] == "parts":
            return plan[1](self.result(part) for part in plan[2])
        if plan[0] == "same":
            return plan[1] if _kind(plan[1]) != "tensor" else Tensor(plan[1])
        value, kind = self._results[plan[1]], plan[2]
        return Tensor(value) if kind is None else Scalar(value, kind)


def _kind(item: Any) -> Any:
    import onnx_ir as ir

    if isinstance(item, ir.Value):
        return "tensor"
    if isinstance(item, Scalar):
        return item.kind
    return type(item)


def _shape(b: Builder, one: Any, other: Any) -> list[Any] | None:
    if one.shape is None or other.shape is None or len(one.shape) != len(other.shape):
        return None
    return [x if x == y else None for x, y in zip(b.shape(one), b.shape(other), strict=True)]


def _raises(block: Block) -> bool:
    return any(node.op == "prim::RaiseException" for node in block.nodes)
