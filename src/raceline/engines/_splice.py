"""Two engines for one model: one runs it up to a value, the other goes on from there.

Such a pair is an engine itself, named by its recipe, FIRST>SECOND@VALUE: a profile, a bundle and the command line
write it like any other engine's name, and the tuner measures it like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from raceline import engines
from raceline.core.errors import BadModelError, InvariantError, UnknownNameError
from raceline.engines import Engine, Options, Session, Tensors, Tolerance
from raceline.ir import Model, Signature
from raceline.ir.segments import Segments

_RECIPE = re.compile(r"(\w+)>(\w+)@(.+)", re.DOTALL)


def recipe(first: str, second: str, value: str) -> str:
    """The name of the engine that runs `first` up to the node that writes `value`, and `second` from there."""
    return f"{first}>{second}@{value}"


def is_recipe(name: str) -> bool:
    """Whether an engine's name is a recipe; no file's name can be one."""
    return ">" in name


@dataclass(frozen=True)
class Splice:
    """The engine of a recipe.

    Attributes:
        first, second: names of the two engines.
        value: what the last node of the first part writes.
    """

    first: str
    second: str
    value: str

    @classmethod
    def of(cls, name: str) -> Splice:
        """The engine of a recipe.

        Raises:
            UnknownNameError: it is none, or names an engine that there is not.
        """
        found = _RECIPE.fullmatch(name)
        if found is None:
            raise UnknownNameError("engine", name, [*engines.names(), "FIRST>SECOND@VALUE"])
        splice = cls(*found.groups())
        splice._pair()
        return splice

    def _pair(self) -> tuple[Engine, Engine]:
        return engines.load(self.first), engines.load(self.second)

    @property
    def description(self) -> str:
        """One line."""
        return f"{self.first} up to {self.value}, {self.second} from there"

    @property
    def tolerance(self) -> Tolerance:
        """That of the looser engine."""
        both = [engine.tolerance for engine in self._pair()]
        return Tolerance(max(t.atol for t in both), max(t.rtol for t in both))

    def version(self) -> str:
        """Versions of both engines.

        Raises:
            MissingDependencyError: one is not installed.
        """
        return " and ".join(engine.version() for engine in self._pair())

    def load(self, model: Model, options: Options) -> Session:
        """Cut the model after the value and load each part in its engine.

        Raises:
            BadModelError: the model has no such value, it cannot be cut there, or an engine refuses its part.
            ConfigError: a precision that an engine does not offer.
        """
        segments = Segments(model, options.shapes or None)
        place = segments.place_after(self.value)
        if place == segments.size:
            raise BadModelError(
                f"{model.name} cannot be cut after {self.value!r}", "nothing is left behind it"
            )
        models = (segments.part(0, place), segments.part(place, segments.size))
        parts: list[_Part] = []
        try:
            for engine, part in zip(self._pair(), models, strict=True):
                names = tuple(spec.name for spec in part.signature.inputs)
                parts.append(_Part(engine.load(part, _options_of(part, options)), names))
        except BaseException:
            for loaded in parts:
                loaded.session.close()
            raise
        return _Session(model.signature, parts)


def _options_of(part: Model, options: Options) -> Options:
    """The options for a part, whose own shapes are fixed where the whole model's are."""
    fixed = {spec.name: spec.shape for spec in part.signature.inputs}
    shapes = (
        {name: tuple(int(dim) for dim in shape) for name, shape in fixed.items()} if options.shapes else {}
    )
    return replace(options, shapes=shapes)


@dataclass(frozen=True)
class _Part:
    session: Session
    inputs: tuple[str, ...]


class _Session:
    """Runs the parts one after another; safe to call from several threads, as both engines are."""

    def __init__(self, signature: Signature, parts: list[_Part]) -> None:
        self._signature = signature
        self._parts = parts

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> Tensors:
        if not self._parts:
            raise InvariantError("a closed session was run", "splice")
        values = dict(inputs)
        for part in self._parts:
            values |= part.session.run({name: values[name] for name in part.inputs})
        return {spec.name: values[spec.name] for spec in self._signature.outputs}

    def memory_bytes(self) -> int:
        return sum(part.session.memory_bytes() for part in self._parts)

    def close(self) -> None:
        for part in self._parts:
            part.session.close()
        self._parts = []
