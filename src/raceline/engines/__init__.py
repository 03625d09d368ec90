"""Run a model on hardware: one file an engine, all behind one protocol.

A file in this folder is an engine. It has a `description` (one line), a `tolerance` against the reference,
`version() -> str` (raises MissingDependencyError where its package is absent) and
`load(model, options) -> Session`. Two of them may share a model: `recipe` names such a pair.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np

from raceline.core import plugins
from raceline.core.errors import ConfigError
from raceline.ir import FULL, WEIGHTS_ONLY, Candidate, Model, Shapes, Signature

__all__ = [
    "Engine",
    "Options",
    "Session",
    "Tensors",
    "Tolerance",
    "batched",
    "load",
    "names",
    "prepare",
    "recipe",
    "users",
]

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
        precision: arithmetic of the heavy operators; an engine must not use a lower one by itself. "int8" is
            meant by the graph, between Q and DQ; without these it changes nothing. With "int8-weights"
            and "int4-weights" an engine may use its kernels for weights that the graph stores in few bits,
            which may round what they multiply; at "fp32" it must not.
        shapes: concrete input shapes where the caller will use only those (engines specialise); empty
            keeps the dynamic axes.
        optimise: False turns the engine's own graph optimisation off (to measure what it brings).
        streams: calls that may run side by side, each with `threads` threads.
        pinned: keep each thread on a physical core of its own.
    """

    threads: int = 1
    precision: str = "fp32"
    shapes: Shapes = field(default_factory=dict)
    optimise: bool = True
    streams: int = 1
    pinned: bool = False

    @property
    def arithmetic(self) -> str:
        """The precision of all that reads no weights of few bits: where only weights have them, "fp32"."""
        return FULL if self.precision in WEIGHTS_ONLY else self.precision


class Session(Protocol):
    """A loaded model.

    `run` may be called from several threads at once: up to `options.streams` calls run side by side, the
    others wait their turn.
    """

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
    """The engine of that name, or of that recipe.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    import raceline.engines as folder
    from raceline.engines._splice import Splice, is_recipe

    if is_recipe(name):
        return cast(Engine, Splice.of(name))
    return cast(Engine, plugins.load(folder, name, kind="engine"))


def recipe(first: str, second: str, value: str) -> str:
    """The name of an engine that runs `first` up to the node that writes `value`, and `second` from there."""
    from raceline.engines._splice import recipe

    return recipe(first, second, value)


def prepare(model: Model, candidate: Candidate, shapes: Shapes, *, fixed: bool = True) -> Session:
    """Load a model the way a candidate says: engine, threads, streams, and batches cut into chunks.

    Args:
        model: the graph of the candidate's variant.
        candidate: its `batch` says what sizes to prepare for.
        shapes: the inputs' shapes at batch 1.
        fixed: let the engine specialise: the session then takes only these shapes, at the candidate's batch
            (at any batch where the candidate cuts it into chunks).

    Raises:
        ConfigError: a batch is asked of a model whose batch axis is not proven.
        Everything that the engine's `load` raises.
    """
    from raceline.engines._split import Split

    items = candidate.items_per_call
    if candidate.batch > 1 and model.signature.batch_axis is None:
        raise ConfigError(
            f"{model.name} cannot run batches", "that its items are independent is not proven", "Use batch 1."
        )
    options = Options(
        threads=candidate.threads,
        precision=candidate.precision,
        shapes=batched(model.signature, shapes, items) if fixed else {},
        streams=candidate.streams,
        optimise=candidate.optimise,
        pinned=candidate.pinned,
    )
    session = load(candidate.engine).load(model, options)
    if items == candidate.batch and candidate.streams == 1:
        return session
    return Split(session, items, candidate.streams)


def batched(signature: Signature, shapes: Shapes, batch: int) -> dict[str, tuple[int, ...]]:
    """The inputs' shapes with `batch` items along the batch axis; as they are where there is none."""
    axis = signature.batch_axis
    if axis is None:
        return {name: tuple(shape) for name, shape in shapes.items()}
    named = {spec.name: zip(spec.shape, shapes[spec.name], strict=True) for spec in signature.inputs}
    return {name: tuple(batch if dim == axis else size for dim, size in dims) for name, dims in named.items()}


def users(model: Model, operators: Iterable[str]) -> dict[str, list[str]]:
    """The nodes that use each of these operators, functions' bodies and subgraphs included.

    `operators` are spelt `Op` or `domain.Op`, as engines report what they lack. One that no node carries
    (an engine's own name for it) keeps an empty list.
    """
    found: dict[str, list[str]] = {operator: [] for operator in operators}
    graphs: list[Any] = [model.program.graph, *model.program.functions.values()]
    for graph in graphs:
        for node in graph.all_nodes():
            for spelling in (node.op_type, f"{node.domain}.{node.op_type}"):
                if spelling in found:
                    found[spelling].append(node.name or node.outputs[0].name or "unnamed")
    return found
