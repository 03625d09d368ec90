"""Read Core ML's ML programs: packages (.mlpackage) and single files (.mlmodel), without coremltools."""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.coreml.example import message
from raceline.convert.formats.coreml.package import kinds_in, model_file
from raceline.convert.formats.coreml.program import read_program
from raceline.core.errors import RacelineError
from raceline.ir.limits import Limits
from raceline.ir.model import Model

description = "Core ML programs (.mlpackage folders, .mlmodel files)"
extensions = (".mlpackage", ".mlmodel")
extra = ""


def recognises(path: Path) -> bool:
    """Whether it is a package with a manifest, or a file that holds a Core ML message."""
    try:
        file = model_file(path, Limits(max_model_bytes=1 << 62))
        if not file.is_file():
            return False
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return bool(kinds_in(data))
    except (OSError, ValueError, RacelineError):
        return False


def read(path: Path, *, limits: Limits | None = None) -> Model:
    """Read and check a model.

    Args:
        path: the package's folder, or the file.
        limits: what it may ask of this machine.

    Raises:
        BadModelError: it is broken, hostile, beyond the limits, or another kind of model than an ML program.
        UnsupportedOperatorError: operations that cannot be translated, all of them.
    """
    return read_program(path, limits or Limits())


def operators() -> list[str]:
    """Operations of ML programs that have a rule."""
    from raceline.convert.formats.coreml.program import table

    return sorted(table())


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = relu(x w)."""
    package = folder / "example.mlpackage"
    inner = package / "Data" / "com.apple.CoreML"
    inner.mkdir(parents=True)
    weight = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
    (inner / "model.mlmodel").write_bytes(message(weight))
    entry = {"author": "com.apple.CoreML", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {"1": entry}, "rootModelIdentifier": "1"}
    (package / "Manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return package


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    weight = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
    return {"y": np.maximum(inputs["x"] @ weight, 0)}
