"""A layer as the file describes it, and one call of it as rules see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.lower import UnsupportedError
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]


class UnknownMask:
    """The mask of a tensor that has one, by means that are not translated; who reads it is refused."""


UNKNOWN = UnknownMask()
Mask = Any
"""A boolean value of the graph; None where every step counts; UNKNOWN."""


class Tensor(NamedTuple):
    """What flows between layers: a value, and which of its steps count."""

    value: ir.Value
    mask: Mask = None


@dataclass
class Layer:
    """A layer, its settings and its weights.

    Attributes:
        kind: its class; `ops.NAME` for operations of keras.ops.
        name: in its model.
        config: its settings.
        major: 3 for Keras 3 semantics, 2 for those of tf.keras and older.
        own: names of its own weights: trainable ones, then the others.
        children: layers inside it, by the attribute that holds them.
        graph: of a model: its inner graph.
        weights: name -> array, once they were found.
        problem: why there are none.
    """

    kind: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    major: int = 3
    own: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    children: dict[str, Layer] = field(default_factory=dict)
    graph: Any = None
    weights: dict[str, Array] = field(default_factory=dict)
    problem: str = ""

    @property
    def trainable(self) -> bool:
        """Whether it is trained; decides in which order old files keep weights."""
        return bool(self.config.get("trainable", True))

    def everyone(self) -> Iterator[Layer]:
        """Itself and all layers inside it."""
        yield self
        for child in self.children.values():
            yield from child.everyone()


Evaluate = Callable[[Builder, Layer, Sequence[Any], Mapping[str, Any]], Any]


@dataclass
class Call:
    """One use of a layer: what a rule is given besides the builder and the tensors.

    Attributes:
        layer: the layer.
        masks: of the tensors of the first argument, in order.
        evaluate: builds another layer, for wrappers; takes and returns `Tensor`s.
        args: the arguments with their `Tensor`s whole.
        kwargs: likewise.
        result_masks: of the results; None: masks go on as Keras does it for this class.
    """

    layer: Layer
    masks: list[Mask]
    evaluate: Evaluate
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    result_masks: list[Mask] | None = None

    def __getitem__(self, name: str) -> Any:
        """A setting that must be there."""
        if name not in self.layer.config:
            raise BadModelError(f"the setting {name!r} is missing")
        return self.layer.config[name]

    def get(self, name: str, default: Any = None) -> Any:
        """A setting."""
        return self.layer.config.get(name, default)

    @property
    def mask(self) -> Mask:
        """Of the first tensor, to be used: refused where it is unknown."""
        mask = self.masks[0] if self.masks else None
        return known(mask)

    def has(self, name: str) -> bool:
        """Whether the layer has this weight."""
        return name in self.layer.weights

    def weight(
        self, name: str, shape: Sequence[int | str | None] | None = None, *, of: Layer | None = None
    ) -> Array:
        """A weight.

        Args:
            name: of the weight.
            shape: it must have; numbers count, everything else is open. None: any.
            of: the layer that has it, where it is not this call's own.

        Raises:
            BadModelError: it is missing or has another shape.
        """
        layer = of or self.layer
        if name not in layer.weights:
            why = layer.problem or f"the file has {', '.join(layer.weights) or 'none'}"
            raise BadModelError(
                f"weight {name!r} of layer {layer.name!r} is missing", why, "Save the model again."
            )
        array = layer.weights[name]
        if shape is not None:
            wrong = len(shape) != array.ndim or any(
                isinstance(want, int) and want != have for want, have in zip(shape, array.shape, strict=False)
            )
            if wrong:
                expected = ", ".join("any" if not isinstance(d, int) else str(d) for d in shape)
                why = f"it is ({', '.join(map(str, array.shape))}) and should be ({expected})"
                raise BadModelError(f"weight {name!r} of layer {layer.name!r} has the wrong shape", why)
        return array


def known(mask: Mask) -> Mask:
    """A mask that can be computed with.

    Raises:
        UnsupportedError: there is one, and how it came about is not translated.
    """
    if isinstance(mask, UnknownMask):
        raise UnsupportedError("it reads a mask that came through layers which Keras defines no mask for")
    return mask


def refuse(call: Call, **allowed: Any) -> None:
    """Refuse settings that change the meaning in ways no rule knows.

    Args:
        call: of the layer.
        allowed: setting -> the value, or the tuple of values, that it may have.

    Raises:
        UnsupportedError: a setting has another value.
    """
    for name, values in allowed.items():
        value = call.get(name)
        options = values if isinstance(values, tuple) else (values,)
        if name in call.layer.config and value not in options:
            raise UnsupportedError(f"{name}={value!r}")


def flat(structure: Any) -> list[Any]:
    """The leaves of nested lists and dictionaries, in Keras's order: dictionaries by sorted key."""
    if isinstance(structure, dict):
        return [leaf for key in sorted(structure) for leaf in flat(structure[key])]
    if isinstance(structure, list | tuple) and not isinstance(structure, Tensor):
        return [leaf for item in structure for leaf in flat(item)]
    return [structure]


def mapped(structure: Any, change: Callable[[Any], Any]) -> Any:
    """The same nested lists and dictionaries with each leaf changed."""
    if isinstance(structure, dict):
        return {key: mapped(item, change) for key, item in structure.items()}
    if isinstance(structure, list):
        return [mapped(item, change) for item in structure]
    if isinstance(structure, tuple) and not isinstance(structure, Tensor):
        return tuple(mapped(item, change) for item in structure)
    return change(structure)


def floating(b: Builder, x: ir.Value) -> ir.Value:
    """The value as float32, which all layers compute in."""
    return b.cast(x, np.float32)


def pair(value: Any, rank: int) -> list[int]:
    """A number for each of `rank` axes; a single one counts for all."""
    items = list(value) if isinstance(value, list | tuple) else [value] * rank
    if len(items) != rank or not all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        raise BadModelError(f"{value!r} is no number for each of {rank} axes")
    return [int(item) for item in items]


def channel_axis(call: Call) -> int:
    """1 where channels come first, -1 where they come last."""
    layout = call.get("data_format") or "channels_last"
    if layout not in {"channels_last", "channels_first"}:
        raise UnsupportedError(f"data_format={layout!r}")
    return 1 if layout == "channels_first" else -1
