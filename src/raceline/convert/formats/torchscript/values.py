"""What a TorchScript value is while its graph is followed: a tensor, a number of a run, or Python's own.

Everything that is known while translating stays a plain Python value, so lists, tuples, text and arithmetic on
fixed sizes need no translation at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raceline.convert.lower import UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

    from raceline.convert.build import Builder

Forward = Callable[["Builder", Any], Any]
Backward = Callable[["Builder", Any, Any], Any]


@dataclass(eq=False)
class Scalar:
    """A number that is only known at run time, as a tensor of one element.

    Attributes:
        value: shape (1,); int64, float64 or bool.
        kind: `int`, `float` or `bool`.
        dim: the named open axis whose size it is; empty for others.
    """

    value: ir.Value
    kind: type
    dim: str = ""


@dataclass(frozen=True)
class Lost:
    """What could not be computed; whoever needs it is told all the causes: operator -> nodes."""

    causes: tuple[tuple[str, str], ...]


class Uninitialised:
    """TorchScript's placeholder on paths that end in an exception."""


@dataclass(eq=False)
class Tensor:
    """A tensor that may be changed in place, and may be a view of another.

    Attributes:
        value: what it holds now; stale where `base` has changed since.
        base: the tensor it is a view of.
        forward: computes the view of a base.
        backward: computes a base that shows what was written to the view; None where torch itself leaves open
            whether the view shares memory, and the base is then not to be used again.
        version: counts changes.
        seen: the base's version that `value` shows.
        spoilt: why the tensor's content is unknown; empty for a good one.
        number: what it holds, where a trace made a tensor of a plain number; its type then decides nothing.
    """

    value: ir.Value
    base: Tensor | None = None
    forward: Forward | None = None
    backward: Backward | None = None
    version: int = 0
    seen: int = 0
    spoilt: str = ""
    number: float | None = None


@dataclass
class Change:
    """What was changed inside a branch: tensors with what they held before, and attributes."""

    tensors: dict[int, tuple[Tensor, dict[str, Any]]] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    own_lists: set[int] = field(default_factory=set)
    keep: list[Any] = field(default_factory=list)  # alive, so that no other list takes their identity


class Memory:
    """Reads and writes of tensors and of the module's attributes, as PyTorch's aliasing rules have them."""

    def __init__(self, attributes: dict[str, Any]) -> None:
        self.attributes = attributes
        self._open: list[Change] = []

    def read(self, b: Builder, tensor: Tensor) -> ir.Value:
        """What a tensor holds now."""
        if tensor.spoilt:
            raise UnsupportedError(tensor.spoilt)
        base = tensor.base
        if base is not None:
            current = self.read(b, base)
            if base.version != tensor.seen:
                assert tensor.forward is not None
                self._note(tensor)
                tensor.value = tensor.forward(b, current)
                tensor.version += 1
                tensor.seen = base.version
        return tensor.value

    def write(self, b: Builder, tensor: Tensor, value: ir.Value) -> None:
        """Change a tensor in place, and whatever it is a view of."""
        self._note(tensor)
        tensor.value = value
        tensor.version += 1
        base = tensor.base
        if base is None:
            return
        if tensor.backward is None:
            self._note(base)
            base.spoilt = (
                "it is read after something was written in place to what may or may not share its memory"
            )
            tensor.base = None
            return
        self.write(b, base, tensor.backward(b, self.read(b, base), value))
        tensor.seen = base.version

    def set(self, path: str, value: Any) -> None:
        """Set an attribute of the module."""
        if self._open:
            self._open[-1].attributes.setdefault(path, self.attributes.get(path))
        self.attributes[path] = value

    def made(self, item: Any) -> None:
        """Note a list, which may be changed where it was made."""
        if self._open and isinstance(item, list | dict):
            self._open[-1].own_lists.add(id(item))
            self._open[-1].keep.append(item)

    def may_change(self, item: Any) -> None:
        """Refuse to change a list inside a branch that a run may not take.

        Raises:
            UnsupportedError: the list is from outside of the branch.
        """
        if self._open and id(item) not in self._open[-1].own_lists:
            raise UnsupportedError("a list changes in a branch that only a run chooses")

    @contextmanager
    def branch(self) -> Iterator[Change]:
        """Follow a branch: what it changes is recorded, and `undo` takes it back."""
        change = Change()
        self._open.append(change)
        try:
            yield change
        finally:
            self._open.pop()

    def undo(self, change: Change) -> tuple[dict[int, tuple[Tensor, dict[str, Any]]], dict[str, Any]]:
        """Take back a branch's changes; what the tensors and attributes were at its end."""
        after = {key: (tensor, dict(vars(tensor))) for key, (tensor, _) in change.tensors.items()}
        later = {path: self.attributes[path] for path in change.attributes}
        for tensor, before in change.tensors.values():
            vars(tensor).update(before)
        self.attributes.update(change.attributes)
        return after, later

    def _note(self, tensor: Tensor) -> None:
        if self._open:
            self._open[-1].tensors.setdefault(id(tensor), (tensor, dict(vars(tensor))))


def is_dynamic(item: Any) -> bool:
    """Whether a value holds anything that only a run knows."""
    if isinstance(item, list | tuple):
        return any(is_dynamic(part) for part in item)
    if isinstance(item, dict):
        return any(is_dynamic(part) for part in item.values())
    return isinstance(item, Tensor | Scalar | Lost)


def causes_in(item: Any) -> list[tuple[str, str]]:
    """Why parts of a value are lost."""
    if isinstance(item, Lost):
        return list(item.causes)
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, list | tuple):
        return [cause for part in item for cause in causes_in(part)]
    return []
