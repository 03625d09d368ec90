"""A TorchScript method as a Model: its inputs from what is known of them, its state as inputs and outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline.convert.build import Builder, Dim
from raceline.convert.formats.torchscript.interpret import Interpreter, Raised
from raceline.convert.formats.torchscript.operands import size
from raceline.convert.formats.torchscript.program import Module, Port, Program, Strange, numpy_dtype
from raceline.convert.formats.torchscript.values import Scalar, Tensor
from raceline.core.errors import BadModelError, ConfigError
from raceline.core.units import counted
from raceline.ir import Limits, Model, Provenance

_MOST_ROUNDS = 4


@dataclass(frozen=True)
class Given:
    """What the caller says of the inputs.

    Attributes:
        shapes: input -> size or name of each axis.
        dtypes: input -> element type.
        values: input -> the number or truth value that it always has.
        recorded: (dtype, shape) of each input at tracing, None for what is no tensor; empty where not known.
    """

    shapes: Mapping[str, Sequence[Dim]]
    dtypes: Mapping[str, str]
    values: Mapping[str, Any]
    recorded: Sequence[tuple[str, tuple[int, ...]] | None] = ()


@dataclass(frozen=True)
class State:
    """An attribute that one call leaves to the next: a tensor by its type and shape, or what stays the same."""

    dtype: np.dtype[Any] | None = None
    shape: tuple[Dim, ...] = ()
    value: Any = None


def translate(
    program: Program, given: Given, limits: Limits, provenance: Provenance, *, where: str = ""
) -> Model:
    """Build the model.

    A module that keeps tensors from call to call gets them as inputs and outputs instead: what one call writes to
    output `NAME_next` is the next call's input `NAME`. The shapes are those that a first call leaves behind.

    Raises:
        ConfigError: an input's shape is needed, or an option names no input.
        UnsupportedOperatorError: operators that cannot be translated, all of them.
        BadModelError: the graph makes no sense.
    """
    source = provenance.source
    ports = {_public(port.name): port for port in program.block.inputs[1:]}
    unknown = sorted({*given.shapes, *given.dtypes, *given.values} - set(ports))
    if unknown:
        raise ConfigError(f"{source} has no input {unknown[0]!r}", f"it has: {', '.join(ports) or 'none'}")
    states: dict[str, State] = {}
    for _ in range(_MOST_ROUNDS):
        attempt = _Attempt(program, ports, given, limits, source, states)
        after = attempt.states()
        if after == states:
            needed = {path: state for path, state in states.items() if path in attempt.run.read}
            if needed != states:  # what is only written needs no input
                attempt = _Attempt(program, ports, given, limits, source, needed)
            return attempt.model(provenance)
        states = after
    raise BadModelError(
        f"{source} changes itself with every call",
        f"what it keeps does not settle: {', '.join(states)}",
        "Export a method that takes and gives its state, with torch.export.",
    )


class _Attempt:
    """One pass over the graph, with an assumption about the state that earlier calls left."""

    def __init__(
        self, program: Program, ports: Mapping[str, Port], given: Given, limits: Limits, source: str,
        states: Mapping[str, State],
    ) -> None:  # fmt: skip
        self.b = Builder(source, limits=limits)
        self.program, self.assumed_states = program, states
        arguments = _Arguments(self.b, given, source)
        values = [arguments.of(name, port, place) for place, (name, port) in enumerate(ports.items())]
        arguments.finish()
        self.state_inputs: dict[str, Any] = {}
        attributes = dict(program.attributes)
        for path, state in states.items():
            attributes[path] = self._state(path, state)
        self.run = Interpreter(self.b, attributes, source)
        try:
            self.results = self.run.run(program.block, [Module(""), *values])
        except Raised as error:
            raise BadModelError(
                f"{source} refuses these inputs",
                f"it raises {error.args[0]!r}",
                "Give other shapes= or values=.",
            ) from error
        self.run.missing(*self.results)

    def _state(self, path: str, state: State) -> Any:
        if state.dtype is None:
            dim = state.value if isinstance(state.value, _Size) else None
            return self._size(dim.dim) if dim else state.value
        value = self.b.input(path, state.dtype, state.shape)
        self.state_inputs[path] = value
        return Tensor(value)

    def _size(self, dim: str) -> Any:
        """The size of a named axis, from an input that has it."""
        for value in self.b.graph.inputs:
            shape = self.b.shape(value)
            if dim in shape:
                return size(self.b, value, shape.index(dim))
        raise BadModelError(f"no input has an axis {dim!r}")

    def states(self) -> dict[str, State]:
        """What the call leaves behind and the next one reads."""
        found = {}
        for path in self.run.written:
            value = self.run.memory.attributes[path]
            self.run.missing(value)
            found[path] = self._left(path, value)
        return found | self._changed_in_place()

    def _changed_in_place(self) -> dict[str, State]:
        """Tensors of the module that were changed without being set, such as counters and caches."""
        memory = self.run.memory
        return {
            path: self._left(path, value)
            for path, value in memory.attributes.items()
            if isinstance(value, Tensor) and value.version and path not in self.run.written
        }

    def _left(self, path: str, value: Any) -> State:
        if isinstance(value, Tensor):
            held = self.run.memory.read(self.b, value)
            return State(self.b.dtype(held), self.b.shape(held))
        if isinstance(value, Scalar):
            if not value.dim:
                raise BadModelError(f"it keeps a number that a run computes, {path!r}, from call to call")
            return State(value=_Size(value.dim))
        if isinstance(value, int | float | bool | str | None):
            return State(value=value)
        raise BadModelError(f"it keeps {path!r}, a {type(value).__name__}, from call to call")

    def model(self, provenance: Provenance) -> Model:
        """The finished model."""
        outputs: dict[str, Any] = {}
        for name, value in _named(self.results):
            outputs[name] = value
        for path in self.state_inputs:
            outputs[f"{path}_next"] = self.run.memory.attributes[path]
        for name, value in outputs.items():
            self.b.output(self._tensor(name, value), name)
        _prune(self.b)
        model = self.b.model(provenance)
        for step in self._steps():
            model = model.with_step(step)
        return model

    def _tensor(self, name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.run.memory.read(self.b, value)
        if isinstance(value, Scalar):
            return self.b.op("Squeeze", value.value, [0])
        if isinstance(value, bool | int | float):
            kind: Any = {bool: np.bool_, int: np.int64}.get(type(value), np.float32)
            return self.b.constant(np.array(value, kind))
        raise BadModelError(f"output {name!r} is a {type(value).__name__}, which no tensor can hold")

    def _steps(self) -> list[str]:
        steps = [
            f"State {path!r} of the module is an input; output '{path}_next' is its value for the next call. "
            f"{_start(self.program.attributes.get(path))}"
            for path in self.state_inputs
        ]
        settled = {path: state.value for path, state in self.assumed_states.items() if state.dtype is None}
        if settled:
            seen = ", ".join(f"{p} = {v.dim if isinstance(v, _Size) else v!r}" for p, v in settled.items())
            steps.append(f"It is translated as it is after a first call: {seen}.")
        if self.run.assumed:
            some = ", ".join(list(self.run.assumed)[:3])
            steps.append(
                f"Left out {counted(len(self.run.assumed), 'check')} that may raise an exception ({some})."
            )
        return steps


@dataclass(frozen=True)
class _Size:
    """The size of a named open axis."""

    dim: str


def _start(initial: Any) -> str:
    """What the first call is to be given."""
    if isinstance(initial, np.ndarray) and initial.any():
        listed = initial.reshape(-1)[:8].tolist()
        return f"The module starts with values other than zero: {listed}{' ...' if initial.size > 8 else ''}."
    return "Start with zeros."


class _Arguments:
    """Makes the graph's inputs; collects what is not known, so that one message says it all."""

    def __init__(self, b: Builder, given: Given, source: str) -> None:
        self.b, self.given, self.source = b, given, source
        self.lacking: list[str] = []
        self.unusable: list[str] = []

    def of(self, name: str, port: Port, place: int) -> Any:
        """What an argument stands for."""
        recorded = self.given.recorded[place] if place < len(self.given.recorded) else None
        return self._of(name, port.type, recorded)

    def _of(self, name: str, kind: str, recorded: Any) -> Any:
        given = self.given
        if kind == "Tensor":
            return self._tensor(name, recorded)
        if name in given.values:
            return _number(kind, given.values[name])
        if kind in {"int", "float", "bool", "number"}:
            dtype: Any = {"int": np.int64, "bool": np.bool_}.get(kind, np.float64)
            python = {"int": int, "bool": bool}.get(kind, float)
            value = self.b.input(name, dtype, [])
            return Scalar(self.b.reshape(value, [1]), python)
        if kind == "Optional[Tensor]" and (name in given.shapes or recorded):
            return self._tensor(name, recorded)
        if kind.startswith("Optional["):
            return None
        if kind == "List[Tensor]" or (
            kind.startswith("Tuple[") and set(re.findall(r"\w+", kind)) == {"Tuple", "Tensor"}
        ):
            self.unusable.append(f"{name}: {kind}")
            return None
        self.unusable.append(f"{name}: {kind}")
        return None

    def _tensor(self, name: str, recorded: Any) -> Any:
        shape = self.given.shapes.get(name)
        if shape is None and recorded is not None:
            shape = recorded[1]
        if shape is None:
            self.lacking.append(name)
            shape = ()
        dtype = self.given.dtypes.get(name, recorded[0] if recorded else "float32")
        try:
            element = numpy_dtype(str(np.dtype(dtype)) if not isinstance(dtype, str) else dtype)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"input {name!r} cannot be of type {dtype!r}", str(error)) from error
        return Tensor(self.b.input(name, element, tuple(shape)))

    def finish(self) -> None:
        """Say what is not known.

        Raises:
            ConfigError: shapes are lacking.
            BadModelError: an argument is nothing that a graph can take.
        """
        if self.unusable:
            what = f"{self.source} takes arguments that are no tensors or numbers"
            raise BadModelError(what, "; ".join(self.unusable), "Export a module that takes tensors.")
        if self.lacking:
            shapes = ", ".join(f"{name!r}: (1, ...)" for name in self.lacking)
            flags = " ".join(f"--shape {name}=1,..." for name in self.lacking)
            raise ConfigError(
                f"{self.source} does not say what shape its inputs have",
                ", ".join(self.lacking),
                f"Give shapes={{{shapes}}}, a name such as 'batch' for an open axis; on the command line {flags}.",
            )


def _number(kind: str, value: Any) -> Any:
    inner = kind.removeprefix("Optional[").rstrip("]")
    make = {"int": int, "float": float, "bool": bool, "str": str}.get(inner)
    return make(value) if make else value


def _public(name: str) -> str:
    """An input's name without the number that TorchScript puts behind it."""
    return re.sub(r"\.\d+$", "", name)


def _named(results: Sequence[Any]) -> list[tuple[str, Any]]:
    """A name for each tensor that a method returns, however it is nested."""
    found: list[tuple[str, Any]] = []

    def walk(item: Any, name: str) -> None:
        if isinstance(item, dict):
            for key, part in item.items():
                walk(part, f"{name}.{key}" if name != "output" else str(key))
        elif isinstance(item, list | tuple):
            for place, part in enumerate(item):
                walk(part, f"{name}_{place}")
        elif item is not None and not isinstance(item, Strange):
            found.append((name, item))

    for place, item in enumerate(results):
        walk(item, "output" if len(results) == 1 else f"output_{place}")
    return found


def _prune(b: Builder) -> None:
    """Take out the nodes whose results nobody reads; following a graph leaves many."""
    from raceline.convert.graph import graphs_of

    needed = set(b.graph.outputs)
    for node in reversed(list(b.graph)):
        if any(value in needed for value in node.outputs):
            needed.update(value for value in node.inputs if value is not None)
            for inner in graphs_of(node):
                needed.update(v for n in inner.all_nodes() for v in n.inputs if v is not None)
                needed.update(inner.outputs)
        else:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)
            b.graph.remove(node)
