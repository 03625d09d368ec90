"""Hold what a rule built against what the source declares: a difference is an error, never a silent guess."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.core.errors import BadModelError

if TYPE_CHECKING:
    import onnx_ir as ir


def as_declared(
    b: Builder, value: ir.Value, dtype: np.dtype[Any] | None, dims: Sequence[int | None] | None
) -> ir.Value:
    """A result, once it fits its declaration.

    Integer types follow the declaration (ONNX's indices are always int64); sizes that inference does not know are
    learnt from it.

    Args:
        b: receives a cast.
        value: what the rule built.
        dtype: declared, None where it is not.
        dims: a size or None for each axis; None where nothing is declared.

    Raises:
        BadModelError: element type, number of axes or a size contradicts it.
    """
    if dtype is not None and value.dtype is not None and dtype != b.dtype(value):
        if {dtype.kind, b.dtype(value).kind} - set("iu"):
            what = f"it gives {b.dtype(value).name}, and the file declares {dtype.name}"
            raise BadModelError("an element type contradicts the file", what)
        value = b.cast(value, dtype)
    return value if dims is None else _with_sizes(value, dims)


def _with_sizes(value: ir.Value, dims: Sequence[int | None]) -> ir.Value:
    import onnx_ir as ir

    if value.shape is None:
        value.shape = ir.Shape(dims)
        return value
    seen = [dim if isinstance(dim, int) else None for dim in value.shape]
    pairs = list(zip(seen, dims, strict=False))
    if len(seen) != len(dims) or any(a != b for a, b in pairs if a is not None and b is not None):
        what = f"it gives {seen}, and the file declares {list(dims)}"
        raise BadModelError("a shape contradicts the file", what, "Export the model again.")
    if value.producer() is not None and any(a is None and b is not None for a, b in pairs):
        named = list(value.shape)
        value.shape = ir.Shape(
            [b if a is None and b is not None else dim for (a, b), dim in zip(pairs, named, strict=True)]
        )
    return value
