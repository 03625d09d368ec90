"""Read TensorFlow's GraphDef: one file with a graph whose variables were frozen into constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.tensorflow import example as examples
from raceline.convert.formats.tensorflow.frozen import looks_like_graph_def, read_graph_def
from raceline.convert.formats.tensorflow.table import known_operators
from raceline.ir.limits import Limits
from raceline.ir.model import Model

description = "frozen TensorFlow graphs (.pb), their weights inside"
extensions = (".pb",)
extra = ""


def recognises(path: Path) -> bool:
    """Whether the file begins as a GraphDef does, with a node that has a name and an operator."""
    return looks_like_graph_def(path)


def read(
    path: Path,
    *,
    limits: Limits | None = None,
    inputs: Mapping[str, Sequence[int] | None] | Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> Model:
    """Read and check a model.

    Args:
        path: the file.
        limits: what it may ask of this machine.
        inputs: names of tensors, or names with shapes (-1 for an open axis) where the file has none; by default
            all placeholders that the outputs need.
        outputs: names of tensors; by default what no node reads.

    Raises:
        BadModelError: it is no whole GraphDef, or has no such inputs or outputs.
        UnsupportedOperatorError: operators, and uses of operators, that have no translation, all of them.
    """
    return read_graph_def(path, limits or Limits(), inputs, outputs)


def operators() -> list[str]:
    """TensorFlow's operators that have a rule."""
    return known_operators()


def example(folder: Path) -> Path:
    """Write the smallest useful model: y = Relu(x w)."""
    return examples.write_graph_def(folder / "example.pb")


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"y": np.maximum(inputs["x"] @ examples.WEIGHT, 0)}
