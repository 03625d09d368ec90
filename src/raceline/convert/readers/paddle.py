"""Read PaddlePaddle inference models without Paddle: .pdmodel or inference.json with .pdiparams, or __model__."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.paddle import model, pir, program
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model

description = (
    "PaddlePaddle inference models (.pdmodel or inference.json with its .pdiparams, or their folder)"
)
extensions = (".pdmodel",)
extra = ""


def recognises(path: Path) -> bool:
    """Whether the file, or the one program in the folder, begins as a Paddle program does."""
    try:
        where = model.program_of(path)
        if not where.is_file():
            return False
        if where.suffix == ".json":
            return pir.looks_like_pir(where)
        with where.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return program.looks_like_program(data)
    except (OSError, ValueError, BadModelError):
        return False


def read(path: Path, *, weights: str | Path | None = None, limits: Limits | None = None) -> Model:
    """Read and translate a model.

    Args:
        path: the program's file with its weights beside it, or the folder of both.
        weights: the file of all weights, where it has another name or place than Paddle gives it.
        limits: what the files may ask of this machine.

    Raises:
        BadModelError: a file is absent, damaged or hostile, or both do not belong together.
        UnsupportedOperatorError: operators that cannot be translated, all of them.
    """
    return model.read(path, limits or Limits(), None if weights is None else Path(weights))


def operators() -> list[str]:
    """Paddle's operators that have a rule, by their names in .pdmodel files."""
    return sorted(model.RULES)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = relu(x w + b), any number of items at once."""
    path = folder / "example.pdmodel"
    data, weights = model.example_files()
    path.write_bytes(data)
    path.with_suffix(".pdiparams").write_bytes(weights)
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"y": np.maximum(inputs["x"] @ model.example_weight() + model.example_bias(), 0)}
