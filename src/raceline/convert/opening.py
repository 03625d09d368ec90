"""Open a model that is to be looked at or converted: any format that is read, or a bundle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import raceline.convert.readers as folder
from raceline.convert.settle import settle
from raceline.convert.texts import parsed_texts, refuse_unknown
from raceline.convert.translate import IRTranslator, by_content, is_there, recognise
from raceline.core import plugins
from raceline.core.errors import ConfigError
from raceline.ir import Bundle, Limits, Model, Values, manifest

_TOLD_OTHERWISE = frozenset({"path", "limits", "shapes", "values"})
_KINDS = ("str", "bool", "float")  # that a text can give


@dataclass(frozen=True)
class Hints:
    """What a caller knows of a model before it is read.

    Attributes:
        shapes: input name -> shape at batch 1. Formats that do not say their shapes take them from here, and a
            name for an axis that stays open.
        values: input name -> the value it must hold, or what it may hold.
        options: of the reader, as text, such as {"signature": "serving_default"}.
    """

    shapes: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    values: Mapping[str, Values | float] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """A model as it was read, and what is left to know of it.

    Attributes:
        model: as read.
        hints: those that the reader did not take.
    """

    model: Model
    hints: Hints

    def settled(self) -> tuple[Model, dict[str, int]]:
        """The model with its batch axis and values, and the sizes of its axes; see `settle`.

        Raises:
            ShapeError: no sizes were found; says what to give.
        """
        shapes = {
            name: tuple(size for size in shape if isinstance(size, int))
            for name, shape in self.hints.shapes.items()
            if all(isinstance(size, int) for size in shape)
        }
        return settle(self.model, shapes=shapes, values=self.hints.values)


def open_model(
    path: str | Path,
    *,
    input_format: str | None = None,
    limits: Limits | None = None,
    hints: Hints | None = None,
) -> Opened:
    """Read the model at a path.

    Args:
        path: a bundle's folder, or what a reader takes.
        input_format: the reader's name; None to recognise it.
        limits: what it may ask of this machine.
        hints: what is known of it.

    Raises:
        BadModelError: there is none, or it is broken.
        ConfigError: the reader has no such option; or a shape names an axis, and the format names its own.
    """
    place, hints = Path(path), hints or Hints()
    if input_format is None and (place / manifest.NAME).is_file():
        refuse_unknown("a bundle", {}, hints.options)
        return Opened(Bundle.open(place, limits=limits).model, hints)
    name = input_format or by_content(
        place
    )  # None where the name alone may tell; parse then says what is wrong
    taken = _taken(name or recognise(place), hints) if is_there(place) else {}
    limited = {} if limits is None else {"limits": limits}
    model = IRTranslator(name).parse(path, **limited, **taken)
    left = {spec.name for spec in model.signature.inputs}  # a reader fixes inputs that have one value
    values = {n: v for n, v in hints.values.items() if n in left or "values" not in taken}
    return Opened(model, Hints(hints.shapes, values))


def reader_options(name: str) -> dict[str, str]:
    """The options that a reader takes as text, with their types as written in the code."""
    parameters = inspect.signature(plugins.load(folder, name, kind="input format").read).parameters
    return {
        option: str(parameter.annotation)
        for option, parameter in parameters.items()
        if option not in _TOLD_OTHERWISE and any(kind in str(parameter.annotation) for kind in _KINDS)
    }


def _taken(name: str, hints: Hints) -> dict[str, Any]:
    """Arguments for a reader: its own options, and what it must know of the inputs before it can read."""
    parameters = inspect.signature(plugins.load(folder, name, kind="input format").read).parameters
    options = parsed_texts(f"reader {name}", reader_options(name), hints.options)
    named = [n for n, shape in hints.shapes.items() if any(isinstance(size, str) for size in shape)]
    if named and "shapes" not in parameters:
        raise ConfigError(
            f"the shape of {named[0]!r} names an axis", "this format names its own", "Give numbers."
        )
    told = {"shapes": hints.shapes, "values": hints.values}
    return options | {key: value for key, value in told.items() if value and key in parameters}
