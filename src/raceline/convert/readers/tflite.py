"""Read TensorFlow Lite (LiteRT) without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import files
from raceline.ir import Limits, Model

description = "TensorFlow Lite models (.tflite), quantised ones too"
extensions = (".tflite", ".lite")
extra = ""

_IDENTIFIER = b"TFL3"
_WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


def recognises(path: Path) -> bool:
    """Whether the file carries TensorFlow Lite's identifier."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8)[4:] == _IDENTIFIER
    except OSError:
        return False


def read(path: Path, *, limits: Limits | None = None, signature: str | None = None) -> Model:
    """Read and check a model.

    Args:
        path: the .tflite file.
        limits: what it may ask of this machine.
        signature: which of its signatures, by name; None for the one of the main subgraph.

    Returns:
        the model; inputs and outputs have the signature's names where the file has one, else the tensors'.
    """
    from raceline.convert.formats.tflite.translate import read_tflite

    limits = limits or Limits()
    return read_tflite(path, files.content(path, limits), limits, signature)


def operators() -> list[str]:
    """Operators that have a rule, custom ones among them."""
    from raceline.convert.formats.tflite.translate import RULES

    return sorted(RULES)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = Relu(x w), any number of items at once."""
    from raceline.convert.formats.tflite.write import GraphSpec, OperatorSpec, TensorSpec, written

    x, y = TensorSpec("float32", (-1, 3)), TensorSpec("float32", (-1, 2))
    options = ("FullyConnectedOptions", {"fused_activation_function": 1})
    operator = OperatorSpec("FULLY_CONNECTED", ["x", "w", ""], ["y"], options)
    path = folder / "example.tflite"
    path.write_bytes(written(GraphSpec({"x": x, "w": _WEIGHT, "y": y}, [operator], ["x"], ["y"])))
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"y": np.maximum(inputs["x"] @ _WEIGHT.T, 0)}
