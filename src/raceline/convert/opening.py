"""Open a model that is to be looked at or converted: any format that is read, or a bundle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import raceline.convert.readers as folder
from raceline.convert.settle import settle
from raceline.convert.translate import IRTranslator, is_there, recognise
from raceline.core import plugins
from raceline.core.errors import ConfigError
from raceline.ir import Bundle, Limits, Model, Values, manifest

_WORDS = {"true": True, "false": False}
_TOLD_OTHERWISE = frozenset({"path", "limits", "shapes", "values"})
_KINDS = ("str", "bool", "float", "DTypes")  # that a text can give


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
        _refuse_options("a bundle", hints, frozenset())
        return Opened(Bundle.open(place, limits=limits).model, hints)
    translator = IRTranslator(input_format)
    taken = _taken(translator, place, hints)
    limited = {} if limits is None else {"limits": limits}
    model = translator.parse(path, **limited, **taken)
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


def _taken(translator: IRTranslator, path: Path, hints: Hints) -> dict[str, Any]:
    """Arguments for the reader: its own options, and what it must know of the inputs before it can read."""
    if not is_there(path):
        return {}  # parse tells
    name = translator.input_format or recognise(path)
    parameters = inspect.signature(plugins.load(folder, name, kind="input format").read).parameters
    known = reader_options(name)
    _refuse_options(f"format {name}", hints, frozenset(known))
    named = [n for n, shape in hints.shapes.items() if any(isinstance(size, str) for size in shape)]
    if named and "shapes" not in parameters:
        raise ConfigError(
            f"the shape of {named[0]!r} names an axis", "this format names its own", "Give numbers."
        )
    told = {"shapes": hints.shapes, "values": hints.values}
    taken = {key: value for key, value in told.items() if value and key in parameters}
    return taken | {key: _parsed(key, known[key], text) for key, text in hints.options.items()}


def _refuse_options(what: str, hints: Hints, known: frozenset[str]) -> None:
    for option in hints.options:
        if option not in known:
            raise ConfigError(
                f"{what} is read without an option {option!r}",
                f"it has: {', '.join(sorted(known)) or 'none'}",
            )


def _parsed(option: str, kind: str, text: str) -> Any:
    """An option's value, by the reader's annotation.

    Raises:
        ConfigError: the text is none.
    """
    if "Sequence" in kind:
        return text.split(",")
    if "Mapping" in kind or "DTypes" in kind:
        return dict(_pair(option, item) for item in text.split(","))
    if kind.startswith("bool"):
        if text not in _WORDS:
            raise ConfigError(f"{option}={text}", "it is true or false")
        return _WORDS[text]
    if kind.startswith("float"):
        try:
            return float(text)
        except ValueError as error:
            raise ConfigError(f"{option}={text}", "it is a number") from error
    return text


def _pair(option: str, item: str) -> tuple[str, str]:
    name, sign, value = item.rpartition(":")
    if not sign:
        raise ConfigError(
            f"{option}={item}", "there is no ':'", f"Write it as {option}=NAME:VALUE,NAME:VALUE."
        )
    return name, value
