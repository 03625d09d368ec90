"""Write OpenVINO IR: a graph (.xml) and its weights (.bin)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import placing, runtimes
from raceline.convert.example import model_from_text
from raceline.core.errors import ConfigError
from raceline.engines import Tolerance
from raceline.ir import Model

description = "OpenVINO IR: a folder of model.xml and model.bin, or the two files by a name that ends in .xml"
extension = ".xml"
extra = "base"
exact_types = True


def write(model: Model, path: Path, *, fp16: bool = False) -> list[Path]:
    """Convert with OpenVINO and write the pair.

    Args:
        model: stays as it is.
        path: ends in .xml: the graph, the weights beside it; neither may be there yet, as two files cannot be
            replaced at one instant. Any other name: a folder of both, replaced as a whole.
        fp16: store weights in half precision; half the size, for a little accuracy.

    Returns:
        graph and weights.

    Raises:
        UnsupportedOperatorError: operators that OpenVINO cannot convert, all of them.
        BadModelError: OpenVINO refuses the model.
        ConfigError: something is there that may not be replaced.
    """
    pair = path.suffix == extension
    if pair and (taken := [p for p in (path, path.with_suffix(".bin")) if p.exists()]):
        raise ConfigError(
            f"{taken[0]} is there already",
            "IR is two files, which cannot be replaced at one instant",
            "Remove them, or give a name without .xml: a folder is replaced as a whole.",
        )
    with placing.workshop(path) as folder:
        main, second = runtimes.converted(model, "openvino", folder, fp16=fp16)
        if pair:
            return placing.place_pair(main, second, path, path.with_suffix(".bin"))
        return placing.place_folder([main, second], path)


def run(
    path: Path, cases: Sequence[Mapping[str, np.ndarray[Any, Any]]], **_: Any
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Run it on OpenVINO's CPU plug-in, in single precision."""
    return runtimes.run(path / "model.xml" if path.is_dir() else path, cases, "openvino")


def tolerance(*, fp16: bool = False, **_: Any) -> Tolerance:
    """As of the engine; weights in half precision are off by 2^-11 each, which adds up through layers."""
    return Tolerance(1e-3, 2e-2) if fp16 else Tolerance(1e-5, 1e-4)


def example() -> Model:
    """A linear layer with its activation."""
    return model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        layer (float[n, 3] x, float[3, 2] w) => (float[n, 2] y) { h = MatMul(x, w) y = Relu(h) }""",
        w=(3, 2),
    )
