"""Which variable gets which tensor of the checkpoint, told by the part of the graph that restores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raceline.convert.formats.tensorflow.checkpoint import Checkpoint, full_names
from raceline.convert.formats.tensorflow.graph import Library
from raceline.convert.graph import Array
from raceline.convert.lower import SourceNode
from raceline.core.errors import BadModelError
from raceline.ir import Limits

HANDLES = frozenset({"VarHandleOp", "VariableV2", "Variable"})
_PASSING = frozenset({"Identity", "ReadVariableOp"})
_ASSIGN = frozenset({"Assign", "AssignVariableOp"})


class Variables:
    """The variables of a SavedModel by the names of their nodes; each is read when it is asked for.

    Args:
        library: its graph.
        restore: the node that restores; empty where there is none.
        checkpoint: where the tensors are; None where there is none.
        limits: what parts of the checkpoint may take.
    """

    def __init__(self, library: Library, restore: str, checkpoint: Checkpoint | None, limits: Limits) -> None:
        self._checkpoint = checkpoint
        self._source = library.source
        self._places: dict[str, tuple[str, str]] = {}
        self._shared: dict[str, tuple[str, str]] = {}
        if checkpoint is None:
            return
        if restore.split(":")[0] in library.main:
            self._follow(library.assignments(restore.split(":")[0]))
        self._full_names = full_names(checkpoint, limits)
        self._names = set(checkpoint.names())

    def load(self, node: SourceNode) -> Array:
        """The array of a variable.

        Raises:
            BadModelError: nothing restores it, or the checkpoint is broken.
        """
        if self._checkpoint is None:
            raise BadModelError(
                f"{self._source} is incomplete", f"it has no values for the variable {node.name!r}"
            )
        shared = str(node.attributes.get("shared_name") or "")
        place = self._places.get(node.name) or self._shared.get(shared) or self._by_name(node.name, shared)
        if place is None:
            raise BadModelError(
                f"{self._source} is incomplete", f"nothing restores the variable {node.name!r}"
            )
        return self._checkpoint.read(*place)

    def _by_name(self, *names: str) -> tuple[str, str] | None:
        """A tensor by the variable's own name: in the graph of objects, or as TensorFlow 1 saves it."""
        for name in filter(None, names):
            if name in self._full_names:
                return self._full_names[name], ""
            if name in self._names:
                return name, ""
        return None

    def _follow(self, nodes: Sequence[SourceNode]) -> None:
        """Learn what each assignment stores where."""
        writers = {key: node for node in nodes for key in node.outputs}
        texts: dict[str, list[str]] = {}
        for node in nodes:
            if node.op not in _ASSIGN or len(node.inputs) < 2:
                continue
            handle = _origin(writers, node.inputs[0])
            tensor = _origin(writers, node.inputs[1])
            restore = writers.get(tensor)
            variable = writers.get(handle)
            if restore is None or variable is None or restore.op != "RestoreV2" or variable.op not in HANDLES:
                continue
            index = restore.outputs.index(tensor)
            for key in restore.inputs[1:3]:
                if key not in texts:
                    texts[key] = _texts(writers, key)
            names, specs = (texts[key] for key in restore.inputs[1:3])
            if index < len(names):
                place = names[index], specs[index] if index < len(specs) else ""
                self._places[variable.name] = place
                shared = str(variable.attributes.get("shared_name") or "")
                if shared:
                    self._shared[shared] = place


def _origin(writers: dict[str, SourceNode], key: str) -> str:
    """The key of what a chain of nodes that only pass it on begins with."""
    while (node := writers.get(key)) is not None and node.op in _PASSING:
        key = node.inputs[0]
    return key


def _texts(writers: dict[str, SourceNode], key: str) -> list[str]:
    """A constant list of texts."""
    node = writers.get(_origin(writers, key))
    tensor: Any = node.attributes.get("value") if node is not None and node.op == "Const" else None
    if tensor is None:
        return []
    return [text.decode("utf-8", "replace") for text in tensor.array().reshape(-1) if isinstance(text, bytes)]
