"""Read TensorFlow's SavedModel: a folder with a graph, its functions, and a checkpoint of its variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.tensorflow import example as examples
from raceline.convert.formats.tensorflow.saved import looks_like_saved_model, read_saved_model
from raceline.convert.formats.tensorflow.table import known_operators
from raceline.ir.limits import Limits
from raceline.ir.model import Model

description = "TensorFlow SavedModel folders (saved_model.pb and variables), of TensorFlow 1 and 2"
extensions: tuple[str, ...] = ()
extra = ""
landmark = "saved_model.pb"


def recognises(path: Path) -> bool:
    """Whether the folder (or the file in it) holds a SavedModel; reads a few bytes."""
    return looks_like_saved_model(path)


def read(
    path: Path, *, limits: Limits | None = None, signature: str = "", tags: Sequence[str] = ("serve",)
) -> Model:
    """Read and check a model.

    Args:
        path: the folder, or the saved_model.pb in it.
        limits: what it may ask of this machine.
        signature: the function to read; by default `serving_default`, or the only one there is.
        tags: of the graph to read, where the folder holds several.

    Raises:
        BadModelError: it is no whole SavedModel, or has no such signature or tags.
        UnsupportedOperatorError: operators, and uses of operators, that have no translation, all of them.
    """
    return read_saved_model(path, limits or Limits(), signature, tags)


def operators() -> list[str]:
    """TensorFlow's operators that have a rule."""
    return known_operators()


def example(folder: Path) -> Path:
    """Write the smallest useful model: y = Relu(x w), computed by a function."""
    return examples.write_saved_model(folder / "example")


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"y": np.maximum(inputs["x"] @ examples.WEIGHT, 0)}
