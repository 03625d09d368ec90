"""What goes into a model and what comes out: names, element types, shapes with named axes, value ranges."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raceline.core.errors import ShapeError

Dim = int | str  # a fixed size, or the name of a dynamic axis
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Values:
    """The values an input may take; used to generate inputs and to explain a refusal.

    Attributes:
        low: smallest value, inclusive.
        high: largest value, inclusive for integers, exclusive for floats.
        choices: where not empty, the only values that make sense (a sample rate, a flag).
        source: where this is known from: "user", "graph" (an index bound, a comparison) or "default".
    """

    low: float
    high: float
    choices: tuple[float, ...] = ()
    source: str = "default"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: as in the source model.
        dtype: NumPy's name of the element type: "float32", "int64", "bool", "bfloat16", "object" for strings.
        shape: a fixed size or a name for each axis; two axes of one name always have one size.
        values: what an input may hold; None for outputs.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    values: Values | None = None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a concrete shape agrees with every fixed axis."""
        return len(shape) == len(self.shape) and all(
            isinstance(dim, str) or dim == size for dim, size in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True)
class Signature:
    """Typed inputs and outputs.

    Attributes:
        batch_axis: the name of the dynamic axis along which items are independent and may be stacked, always
            axis 0 of every input and output; None where that is not proven.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_axis: str | None = None

    def input(self, name: str) -> TensorSpec:
        """The input of that name.

        Raises:
            ShapeError: there is none; the message lists those there are.
        """
        for spec in self.inputs:
            if spec.name == name:
                return spec
        raise ShapeError(f"there is no input {name!r}", f"the inputs are {', '.join(map(str, self.inputs))}")

    @property
    def dynamic_axes(self) -> tuple[str, ...]:
        """Names of the inputs' dynamic axes, in order of appearance."""
        return tuple(dict.fromkeys(d for spec in self.inputs for d in spec.shape if isinstance(d, str)))

    def concrete(self, sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
        """The inputs' shapes once each dynamic axis has a size.

        Raises:
            ShapeError: an axis has no size.
        """
        missing = [axis for axis in self.dynamic_axes if axis not in sizes]
        if missing:
            raise ShapeError(
                f"the size of axis {', '.join(map(repr, missing))} is unknown",
                f"the inputs are {', '.join(map(str, self.inputs))}",
                "Give concrete shapes, for example --shape NAME=1,3,224,224.",
            )
        return {s.name: tuple(d if isinstance(d, int) else sizes[d] for d in s.shape) for s in self.inputs}

    def validate(self, tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, int]:
        """Check named arrays against the inputs and return the size of each dynamic axis.

        Raises:
            ShapeError: a name, element type or shape is wrong; the message says which and what fits.
        """
        _check_names(self, set(tensors))
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            array = tensors[spec.name]
            if array.dtype.name != spec.dtype and not (spec.dtype == "object" and array.dtype.kind in "OSU"):
                raise ShapeError(f"input {spec.name!r} is {array.dtype.name}", f"it must be {spec.dtype}")
            if not spec.fits(array.shape):
                raise ShapeError(f"input {spec.name!r} has shape {list(array.shape)}", f"it must be {spec}")
            for dim, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                    raise ShapeError(f"axis {dim!r} is {sizes[dim]} and {size} at once", f"seen at {spec}")
        return sizes


def _check_names(signature: Signature, given: set[str]) -> None:
    expected = {spec.name for spec in signature.inputs}
    if given != expected:
        wrong = [f"missing {n!r}" for n in sorted(expected - given)]
        wrong += [f"unknown {n!r}" for n in sorted(given - expected)]
        raise ShapeError(
            "the inputs do not fit", ", ".join(wrong), f"Expected: {', '.join(sorted(expected))}."
        )


@dataclass(frozen=True)
class Provenance:
    """Where a model came from and what was done to it.

    Attributes:
        source: file name of the original (no folder: bundles travel).
        source_format: name of the reader.
        source_sha256: hex digest of the original file, or of all its files in order of name.
        producer: what the original says wrote it.
        steps: one sentence for each thing done since, in order.
    """

    source: str = ""
    source_format: str = ""
    source_sha256: str = ""
    producer: str = ""
    steps: tuple[str, ...] = field(default=())
