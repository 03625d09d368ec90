"""From a graph and a signature to a Model: what both readers share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tensorflow import table
from raceline.convert.formats.tensorflow.context import Context
from raceline.convert.formats.tensorflow.graph import Library
from raceline.convert.formats.tensorflow.tensors import dtype_of, shape_of_proto
from raceline.convert.formats.tensorflow.values import Complex, Variable
from raceline.convert.lower import UnsupportedError, lower
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.ir import Limits, Model, Provenance
from raceline.ir.load import PARSE_FAILURES, root_cause

if TYPE_CHECKING:
    import onnx_ir as ir

WAY_OUT = "Leave such parts to the program around the model, or save it with standard layers."


@dataclass(frozen=True)
class Port:
    """An input or output.

    Attributes:
        name: as callers know it.
        tensor: the graph's name for it.
        code: number of its element type; 0 where unknown.
        shape: sizes, -1 for open ones; None where even the number of axes is unknown.
    """

    name: str
    tensor: str
    code: int = 0
    shape: Sequence[int] | None = None


@contextmanager
def told(source: str) -> Iterator[None]:
    """Turn what a file's nonsense makes Python raise inside the block into an error that names the file.

    Raises:
        BadModelError: instead of a failure that is no error of ours.
    """
    try:
        yield
    except UnsupportedError as error:
        raise BadModelError(f"{source} cannot be read", str(error)) from error
    except (RacelineError, *PARSE_FAILURES) as error:
        if isinstance(error, RacelineError):
            raise
        why = f"{type(error).__name__}: {root_cause(error)}"
        raise BadModelError(f"{source} is broken", why, "Export the model again.") from error


def translated(
    name: str,
    library: Library,
    inputs: Sequence[Port],
    outputs: Sequence[Port],
    context: Context,
    provenance: Provenance,
    limits: Limits,
) -> Model:
    """Build the model that computes outputs from inputs.

    Args:
        name: of the graph.
        library: nodes and functions.
        inputs: placeholders, or any other tensors whose values callers give.
        outputs: what is computed.
        context: variables and tables.
        provenance: of the result.
        limits: what it may take.

    Raises:
        UnsupportedOperatorError: operators and uses that have no translation, all of them.
        BadModelError: the graph is broken or over the limits.
    """
    b = Builder(name, limits=limits)
    given = {_placed(port.tensor): port for port in inputs}
    body = library.unroll([port.tensor for port in outputs], [tensor.split(":")[0] for tensor in given])
    together = _batches(inputs)
    values: dict[str, Any] = {
        f"0|{tensor}": _input(b, port, library.source, together=together) for tensor, port in given.items()
    }
    rules = table.rules(context)
    lower(b, body.nodes, rules, values, source=library.source, way_out=WAY_OUT)
    for port, key in zip(outputs, body.outputs, strict=True):
        if key not in values:
            raise BadModelError(f"{library.source} is broken", f"nothing writes the output {port.tensor!r}")
        b.output(_tensor(b, port, values[key], library.source), port.name)
    return b.model(provenance)


def _tensor(b: Builder, port: Port, value: Any, source: str) -> ir.Value:
    """What an output is, as a tensor."""
    if isinstance(value, Variable):
        return value.read(b)
    if isinstance(value, Complex):
        raise UnsupportedOperatorError(source, {"complex numbers as an output": [port.name]}, WAY_OUT)
    if not hasattr(value, "dtype") or value.dtype is None or value.dtype.name == "STRING":
        raise UnsupportedOperatorError(
            source, {"an output that is no tensor of numbers": [port.name]}, WAY_OUT
        )
    return value  # type: ignore[no-any-return]


def _placed(tensor: str) -> str:
    """A tensor's name with the number of the output."""
    name, _, place = tensor.partition(":")
    return f"{name}:{place or 0}"


def _batches(inputs: Sequence[Port]) -> bool:
    """Whether all inputs have an open first axis: it is then the batch, the same for all."""
    return all(port.shape is not None and len(port.shape) > 0 and port.shape[0] < 0 for port in inputs)


def _input(b: Builder, port: Port, source: str, *, together: bool) -> ir.Value:
    if port.shape is None:
        raise BadModelError(
            f"{source}: input {port.name!r} has no known number of axes",
            next_step="Save the model with an input_signature that has shapes.",
        )
    try:
        dtype = dtype_of(port.code)
    except UnsupportedError as error:
        raise UnsupportedOperatorError(source, {f"input: {error}": [port.name]}, WAY_OUT) from error
    if dtype == np.dtype(object) or dtype.kind == "c":
        kind = "text" if dtype.kind == "O" else "complex numbers"
        raise UnsupportedOperatorError(source, {f"input of {kind}": [port.name]}, WAY_OUT)
    shape: list[int | str | None] = [None if size < 0 else int(size) for size in port.shape]
    if together and len(shape) > 0:
        shape[0] = "batch"
    return b.input(port.name, dtype, shape)


def ports(infos: Mapping[str, Any], source: str) -> list[Port]:
    """The tensors of one side of a signature, in order of name.

    Raises:
        UnsupportedOperatorError: one is sparse or composite.
    """
    strange = [key for key, info in infos.items() if not info.name]
    if strange:
        raise UnsupportedOperatorError(source, {"sparse or composite tensor": strange}, WAY_OUT)
    return [
        Port(key, infos[key].name, infos[key].dtype, shape_of_proto(infos[key].tensor_shape))
        for key in sorted(infos)
    ]
