"""Run a model on hardware: one file an engine, all behind one protocol.

A file in this folder is an engine. It has a `description` (one line), a `tolerance` against the reference,
`version() -> str` (raises MissingDependencyError where its package is absent) and
`load(model, options) -> Session`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from raceline.core import plugins
from raceline.ir import Model, Shapes

__all__ = ["Engine", "Options", "Session", "Tolerance", "load", "names"]

Tensors = dict[str, "np.ndarray[Any, Any]"]


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from the reference: |a - b| <= atol + rtol * max|b|, per output."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class Options:
    """How an engine should load a model.

    Attributes:
        threads: CPU threads for one call.
        precision: arithmetic of the heavy operators; an engine must not use a lower one by itself.
        shapes: concrete input shapes where the caller will use only those (engines specialise); empty
            keeps the dynamic axes.
        optimise: False turns the engine's own graph optimisation off (to measure what it brings).
    """

    threads: int = 1
    precision: str = "fp32"
    shapes: Shapes = field(default_factory=dict)
    optimise: bool = True


class Session(Protocol):
    """A loaded model."""

    def run(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        """Compute all outputs by name. The arrays returned belong to the caller.

        Inputs are those of the signature, already validated.
        """

    def memory_bytes(self) -> int:
        """Resident memory this session added: weights, packed copies and buffers."""

    def close(self) -> None:
        """Free what the session holds; a second call does nothing."""


class Engine(Protocol):
    """What a file in this folder offers."""

    description: str
    tolerance: Tolerance

    def version(self) -> str:
        """Version of the runtime.

        Raises:
            MissingDependencyError: it is not installed.
        """

    def load(self, model: Model, options: Options) -> Session:
        """Prepare `model` to run.

        Raises:
            UnsupportedOperatorError: operators this engine lacks, all of them.
            BadModelError: the engine refuses the model; the message says why.
        """


def names() -> list[str]:
    """All engines, installed or not."""
    import raceline.engines as folder

    return plugins.names(folder)


def load(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    import raceline.engines as folder

    return cast(Engine, plugins.load(folder, name, kind="engine"))
