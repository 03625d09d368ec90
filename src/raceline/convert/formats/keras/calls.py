"""Unroll a model into its calls: models inside models, and layers that are used more than once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from raceline.convert.formats.keras.layers import Layer
from raceline.convert.formats.keras.structure import Graph, Ref, Use, leaves
from raceline.convert.lower import SourceNode
from raceline.core.errors import BadModelError
from raceline.core.units import counted
from raceline.ir.limits import Limits


class Slot(NamedTuple):
    """Stands for the nth tensor that a call reads."""

    number: int


class Calls:
    """The calls of a model, each after those it reads.

    Args:
        source: the file's name, for messages.
        limits: bound the number of calls.

    Attributes:
        nodes: the calls so far.
    """

    def __init__(self, source: str, limits: Limits) -> None:
        self.nodes: list[SourceNode] = []
        self._source = source
        self._limits = limits
        self._names: dict[str, int] = {}

    def unroll(self, graph: Graph, given: Sequence[str], prefix: str = "") -> Any:
        """Add the calls of a graph.

        Args:
            graph: of a model.
            given: names of the tensors that it is called on, in the order of its inputs.
            prefix: of the names of its layers.

        Returns:
            its outputs: names of tensors, nested as the graph has them.

        Raises:
            BadModelError: it has a loop, reads what it does not have, or has more calls than the limit.
        """
        if not prefix and num_calls(graph, {}) > self._limits.max_nodes:
            raise self._too_large()
        inputs = [graph.resolved(ref) for ref in leaves(graph.inputs)]
        if len(inputs) != len(given):
            raise self._broken(
                f"a model with {counted(len(inputs), 'input')} is called on {counted(len(given), 'tensor')}"
            )
        known: dict[tuple[str, int], list[str]] = {}
        for ref, name in zip(inputs, given, strict=True):
            known.setdefault((ref.layer, ref.use), []).append(name)
        width = _widths(graph)
        for ref in leaves(graph.outputs):
            self._reach(graph, graph.resolved(ref), known, width, prefix)
        return _mapped(graph.outputs, lambda ref: self._name(known, graph.resolved(ref)))

    def _reach(
        self,
        graph: Graph,
        target: Ref,
        known: dict[tuple[str, int], list[str]],
        width: dict[tuple[str, int], int],
        prefix: str,
    ) -> None:
        """Add the call that makes a tensor, after everything that it needs."""
        pending = [(target.layer, target.use)]
        open_calls: set[tuple[str, int]] = set()
        while pending:
            key = pending[-1]
            if key in known:
                pending.pop()
                continue
            use = graph.uses.get(key)
            if use is None:
                raise self._broken(f"call {key[1]} of layer {key[0]!r} is needed, and there is none")
            needed = [
                graph.resolved(leaf) for leaf in leaves([use.args, use.kwargs]) if isinstance(leaf, Ref)
            ]
            missing = [(ref.layer, ref.use) for ref in needed if (ref.layer, ref.use) not in known]
            if missing:
                if key in open_calls:
                    raise self._broken(f"layer {key[0]!r} reads what it makes itself")
                open_calls.add(key)
                pending += missing
                continue
            known[key] = self._call(graph, use, key, known, width.get(key, 1), prefix)
            pending.pop()

    def _call(
        self,
        graph: Graph,
        use: Use,
        key: tuple[str, int],
        known: dict[tuple[str, int], list[str]],
        width: int,
        prefix: str,
    ) -> list[str]:
        """Add one call; the names of what it makes."""
        layer = use.layer
        if layer.graph is not None:
            args = _mapped(
                use.args[0] if use.args else use.kwargs.get("inputs"),
                lambda leaf: self._given(graph, leaf, known),
            )
            inner = self.unroll(layer.graph, _ordered(layer.graph.inputs, args), f"{prefix}{layer.name}/")
            return [str(name) for name in leaves(inner)]
        if layer.kind == "InputLayer":
            raise self._broken(f"input {layer.name!r} is not among the inputs of its model")
        if len(self.nodes) >= self._limits.max_nodes:
            raise self._too_large()
        names: list[str] = []

        def slot(leaf: Any) -> Any:
            if not isinstance(leaf, Ref):
                return leaf
            names.append(self._name(known, graph.resolved(leaf)))
            return Slot(len(names) - 1)

        arguments = {"layer": layer, "args": _mapped(use.args, slot), "kwargs": _mapped(use.kwargs, slot)}
        name = self._unique(prefix + layer.name)
        outputs = tuple(name if number == 0 else f"{name}:{number}" for number in range(width))
        self.nodes.append(SourceNode(layer.kind, name, tuple(names), outputs, arguments))
        return list(outputs)

    def _given(self, graph: Graph, leaf: Any, known: dict[tuple[str, int], list[str]]) -> Any:
        if not isinstance(leaf, Ref):
            raise self._broken("a model is called on a constant")
        return self._name(known, graph.resolved(leaf))

    def _name(self, known: dict[tuple[str, int], list[str]], ref: Ref) -> str:
        names = known[ref.layer, ref.use]
        if not 0 <= ref.tensor < len(names):
            raise self._broken(
                f"output {ref.tensor} of layer {ref.layer!r} is needed, and it has {len(names)}"
            )
        return names[ref.tensor]

    def _unique(self, name: str) -> str:
        count = self._names[name] = self._names.get(name, 0) + 1
        return name if count == 1 else f"{name}@{count}"

    def _too_large(self) -> BadModelError:
        return BadModelError(
            f"{self._source} is too large", f"it has more than the limit of {self._limits.max_nodes} calls"
        )

    def _broken(self, why: str) -> BadModelError:
        return BadModelError(f"{self._source} is broken", why, "Save the model again.")


def num_calls(graph: Graph, counted: dict[int, int]) -> int:
    """How many calls a graph has once the models inside it are unrolled, counted without doing so."""
    if id(graph) not in counted:
        inner = (use.layer.graph for use in graph.uses.values())
        counted[id(graph)] = sum(1 if g is None else num_calls(g, counted) for g in inner)
    return counted[id(graph)]


def _widths(graph: Graph) -> dict[tuple[str, int], int]:
    """How many outputs of each call are read."""
    width: dict[tuple[str, int], int] = {}
    everything = [graph.outputs, *([use.args, use.kwargs] for use in graph.uses.values())]
    for leaf in leaves(everything):
        if isinstance(leaf, Ref):
            ref = graph.resolved(leaf)
            key = (ref.layer, ref.use)
            width[key] = max(width.get(key, 1), min(ref.tensor, 10_000) + 1)
    return width


def _ordered(inputs: Any, given: Any) -> list[str]:
    """Tensors in the order of a model's inputs; dictionaries by their keys."""
    if isinstance(inputs, dict) and isinstance(given, dict) and set(inputs) <= set(given):
        return [str(name) for key in sorted(inputs) for name in leaves(given[key])]
    return [str(name) for name in leaves(given)]


def _mapped(structure: Any, change: Any) -> Any:
    """Nested arguments with each leaf changed."""
    if isinstance(structure, dict):
        return {key: _mapped(item, change) for key, item in structure.items()}
    if isinstance(structure, list | tuple) and not isinstance(structure, Ref | Slot):
        return type(structure)(_mapped(item, change) for item in structure)
    return change(structure)


def named_inputs(layer: Layer) -> list[Ref]:
    """The inputs of a model in order."""
    return [layer.graph.resolved(ref) for ref in leaves(layer.graph.inputs)]
