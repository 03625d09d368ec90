"""What rules ask of a node: its tensors, its options, and operands that must be known now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.tflite.file import Tensor
from raceline.convert.graph import Array
from raceline.convert.lower import SourceNode, UnsupportedError

if TYPE_CHECKING:
    import onnx_ir as ir

PADDINGS = ("SAME", "VALID")
INT64_MAX = 2**63 - 1
INT64_MIN = -(2**63)


@dataclass(frozen=True)
class Complex:
    """A tensor of complex numbers: two of real ones."""

    real: ir.Value
    imag: ir.Value


def option(node: SourceNode, name: str, default: int = 0) -> int:
    """A setting that is a number; the schema's default where the file leaves it out."""
    return int(node.attributes.get(name, default))


def padding(node: SourceNode) -> str:
    """SAME or VALID."""
    return PADDINGS[option(node, "padding")]


def source(node: SourceNode, index: int = 0) -> Tensor:
    """The file's record of an input."""
    return node.attributes["in"][index]  # type: ignore[no-any-return]


def target(node: SourceNode, index: int = 0) -> Tensor:
    """The file's record of an output."""
    return node.attributes["out"][index]  # type: ignore[no-any-return]


def known(b: Builder, value: ir.Value | None, what: str) -> Array:
    """The array behind an operand.

    Raises:
        UnsupportedError: it is known only when the model runs.
    """
    array = b.array(value)
    if array is None:
        raise UnsupportedError(f"{what} that is computed by the model")
    return array


def known_ints(b: Builder, value: ir.Value | None, what: str) -> list[int]:
    """As `known`, of integers."""
    return [int(number) for number in known(b, value, what).reshape(-1)]


def axes_of(b: Builder, x: ir.Value, axes: ir.Value | None, what: str = "an axis") -> list[int]:
    """Axes, counted from the front, each once."""
    rank = b.rank(x)
    found = known_ints(b, axes, what)
    if any(not -rank <= axis < rank for axis in found):
        raise ValueError(f"axes {found[:9]} of a tensor with {rank}")
    return sorted({axis % rank for axis in found})


def fixed(b: Builder, x: ir.Value, axis: int, what: str) -> int:
    """The size of an axis.

    Raises:
        UnsupportedError: it is open.
    """
    size = b.shape(x)[axis]
    if not isinstance(size, int):
        raise UnsupportedError(f"{what} of open size")
    return size


def int64(b: Builder, value: ir.Value) -> ir.Value:
    """The value as the standard wants sizes and indices."""
    return b.cast(value, np.int64)


def is_float(b: Builder, value: ir.Value) -> bool:
    """Whether the elements are real numbers."""
    return b.dtype(value).kind == "f"


def nonempty(b: Builder, value: ir.Value | None) -> ir.Value | None:
    """The operand, or None where it is left out or has no element."""
    if value is None or (b.array(value) is not None and 0 in b.shape(value)):
        return None
    return value
