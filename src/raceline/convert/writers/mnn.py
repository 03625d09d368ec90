"""Write MNN's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import placing, runtimes
from raceline.convert.example import model_from_text
from raceline.core.errors import BadModelError
from raceline.engines import Tolerance
from raceline.ir import Model
from raceline.ir.packed import widened

description = "MNN (.mnn); weights over 1 GiB in a file beside it"
extension = ".mnn"
extra = "base"
exact_types = False  # whole numbers of 64 bits and booleans are held in 32 bits

_TYPES = frozenset({"float32", "float16", "int32", "int64", "bool", "uint8"})


def write(model: Model, path: Path, *, fp16: bool = False) -> list[Path]:
    """Convert with MNN's own converter.

    Args:
        model: stays as it is.
        path: the file, replaced at one instant. The weights of a model over 1 GiB go into `path` + .weight, and
            then neither file may be there yet.
        fp16: store weights in half precision.

    Returns:
        the files.

    Raises:
        UnsupportedOperatorError: operators that MNN cannot convert, all of them.
        BadModelError: MNN refuses the model, or has no equal of an input's or output's type.
    """
    strange = [
        spec for spec in (*model.signature.inputs, *model.signature.outputs) if spec.dtype not in _TYPES
    ]
    if strange:
        raise BadModelError(
            f"MNN cannot hold {', '.join(map(str, strange))}",
            f"it knows {', '.join(sorted(_TYPES))}",
            "Choose another format.",
        )
    with placing.workshop(path) as folder:
        made = runtimes.converted(widened(model), "mnn", folder, fp16=fp16)
        if len(made) == 1:
            return [placing.place(made[0], path)]
        return placing.place_pair(made[0], made[1], path, path.with_name(f"{path.name}.weight"))


def run(
    path: Path, cases: Sequence[Mapping[str, np.ndarray[Any, Any]]], **_: Any
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Run it on MNN's CPU back end, in its high precision."""
    return runtimes.run(path, cases, "mnn")


def tolerance(*, fp16: bool = False, **_: Any) -> Tolerance:
    """As of the engine: MNN approximates exp, tanh and their like, and convolves by Winograd with large tiles."""
    return Tolerance(1e-3, 2e-2) if fp16 else Tolerance(1e-5, 5e-3)


def example() -> Model:
    """A linear layer with its activation."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        layer (float[n, 3] x, float[3, 2] w) => (float[n, 2] y) { h = MatMul(x, w) y = Relu(h) }""",
        w=(3, 2),
    )
