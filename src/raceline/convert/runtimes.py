"""Runtimes in a child process, for writers: conversion into their formats, and runs of what was written."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.exporting import exported
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.core.units import GIB
from raceline.engines import users
from raceline.ir import Model, weights, write_onnx

Tensors = Mapping[str, np.ndarray[Any, Any]]
_ONE_FILE_BYTES = (
    GIB  # formats that are one flatbuffer or message end at 2 GiB; above this, weights go beside
)


def converted(model: Model, runtime: str, folder: Path, *, fp16: bool) -> list[Path]:
    """Convert a model with the runtime's own converter.

    Args:
        model: is written as ONNX first, its functions inlined.
        runtime: a name that the script exporters/runtimes.py knows.
        folder: receives the files.
        fp16: store weights in half precision.

    Returns:
        the files, the model first.

    Raises:
        UnsupportedOperatorError: operators that the runtime lacks, all of them.
        BadModelError: it refuses the model.
        BackendLostError: it crashed.
        MissingDependencyError: it is not installed.
    """
    source = folder / "source.onnx"
    external = weights.total_bytes(model.program) > _ONE_FILE_BYTES
    write_onnx(model, source, inline_functions=True, external_threshold_bytes=1024 if external else None)
    arguments = {
        "runtime": runtime,
        "task": "write",
        "model": str(source.resolve()),
        "fp16": fp16,
        "external": external,
    }
    with exported("runtimes", arguments, source=model.name, extra="base") as (made, answer):
        if "refused" in answer:
            raise _refusal(model, runtime, answer)
        return [Path(shutil.move(made / name, folder / name)) for name in answer["files"]]


def run(
    path: Path, cases: Sequence[Tensors], runtime: str, **options: Any
) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Run a file in a runtime, once for each case.

    Raises:
        BadModelError: the runtime refuses the file or the inputs.
        BackendLostError: it crashed.
        MissingDependencyError: it is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="raceline-run-") as place:
        names = list(cases[0])
        files = [_stored(case, names, Path(place, f"in{index}.npz")) for index, case in enumerate(cases)]
        arguments = {
            "runtime": runtime,
            "task": "run",
            "model": str(path.resolve()),
            "inputs": names,
            "cases": files,
        }
        with exported("runtimes", {**arguments, **options}, source=path.name, extra="base") as (made, answer):
            if "refused" in answer:
                raise BadModelError(f"{runtime} does not run {path.name}", answer["refused"])
            return [_loaded(made / f"out{index}.npz", answer["outputs"]) for index in range(len(cases))]


def _stored(case: Tensors, names: Sequence[str], path: Path) -> str:
    arrays = {
        str(place): case[name].astype(str) if case[name].dtype.kind in "OS" else case[name]
        for place, name in enumerate(names)
    }
    np.savez(path, allow_pickle=False, **arrays)
    return str(path)


def _loaded(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(path, allow_pickle=False) as held:
        arrays = {name: held[str(place)] for place, name in enumerate(names)}
    return {
        name: array.astype(object) if array.dtype.kind == "U" else array for name, array in arrays.items()
    }


def _refusal(model: Model, runtime: str, answer: Mapping[str, Any]) -> RacelineError:
    if answer["operators"]:
        uses = users(model, answer["operators"])
        return UnsupportedOperatorError(f"{model.name} for {runtime}", uses, "Try another format.")
    return BadModelError(f"{runtime} refuses {model.name}", " ".join(answer["refused"].split()))
