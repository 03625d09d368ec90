"""Read Keras: .keras archives and whole-model HDF5 files, of Keras 2 and 3, without Keras or TensorFlow."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.formats.keras.read import read_keras
from raceline.convert.formats.keras.source import is_keras
from raceline.ir.limits import Limits
from raceline.ir.model import Model

description = "Keras models (.keras archives, and .h5 or .hdf5 whole models) of Keras 2 and 3"
extensions = (".keras", ".h5", ".hdf5")
extra = ""


def recognises(path: Path) -> bool:
    """Whether the file is a Keras archive, or an HDF5 file with a whole model or its weights."""
    return is_keras(path)


def read(path: Path, *, limits: Limits | None = None) -> Model:
    """Read and check a model; see `read_keras`.

    Args:
        path: the model file.
        limits: what the file may ask of this machine.
    """
    return read_keras(path, limits=limits)


def takes(source: Any) -> bool:
    """Whether an object is a Keras model, of whatever package calls itself Keras."""
    return any(
        kind.__name__ == "Model" and kind.__module__.partition(".")[0] in {"keras", "tf_keras"}
        for kind in type(source).__mro__
    )


def read_object(source: Any, *, limits: Limits | None = None) -> Model:
    """Read a model in memory, by way of a temporary file that it saves itself to.

    Args:
        source: the model.
        limits: what it may ask of this machine.
    """
    with tempfile.TemporaryDirectory(prefix="raceline-keras-") as folder:
        path = Path(folder) / "model.keras"
        source.save(path)
        model = read_keras(path, limits=limits)
    model.provenance = replace(model.provenance, source=str(getattr(source, "name", "model")))
    return model


def operators() -> list[str]:
    """Layers and functions that have a rule."""
    from raceline.convert.formats.keras.evaluate import RULES

    return sorted(RULES)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = Relu(x w), two items or more at once."""
    import h5py

    kernel = _kernel()
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": "float32"},
        "registered_name": None,
    }
    layers = [
        {"module": "keras.layers", "class_name": "InputLayer", "registered_name": None,
         "config": {"batch_shape": [None, 3], "dtype": "float32", "name": "x"}},
        {"module": "keras.layers", "class_name": "Dense", "registered_name": None,
         "config": {"name": "y", "trainable": True, "dtype": policy, "units": 2, "activation": "relu",
                    "use_bias": False}},
    ]  # fmt: skip
    config = {
        "module": "keras", "class_name": "Sequential", "registered_name": None,
        "config": {"name": "example", "trainable": True, "layers": layers},
    }  # fmt: skip
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = kernel
    path = folder / "example.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"y": np.maximum(inputs["x"] @ _kernel(), 0)}


def _kernel() -> np.ndarray[Any, Any]:
    return np.arange(6, dtype=np.float32).reshape(3, 2) - 2
