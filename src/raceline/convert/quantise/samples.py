"""Calibration data: what a model meets in use, item by item, checked before anything is measured on it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError, ConfigError, ShapeError
from raceline.ir import Shapes, Signature, make_inputs

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Samples:
    """Inputs of a model, and where they come from.

    Attributes:
        batches: input name -> array, each as the model takes it.
        origin: in words, for reports.
        items: how many items all batches hold.
    """

    batches: tuple[Mapping[str, Array], ...]
    origin: str
    items: int

    def __iter__(self) -> Iterator[Mapping[str, Array]]:
        return iter(self.batches)

    def split(self) -> tuple[Samples, Samples]:
        """Every other batch: one half to calibrate on, one to judge by.

        Raises:
            ConfigError: there is only one batch.
        """
        if len(self.batches) < 2:
            raise ConfigError("one batch cannot be split into two halves", "", "Give more samples.")
        halves = self.batches[::2], self.batches[1::2]
        total = len(self.batches)
        first, second = (Samples(half, self.origin, self.items * len(half) // total or 1) for half in halves)
        return first, second


def from_arrays(
    signature: Signature, arrays: Mapping[str, Array], *, batch: int = 8, origin: str = "arrays"
) -> Samples:
    """Cut arrays whose axis 0 counts items into batches.

    Args:
        signature: of the model.
        arrays: input name -> (items, ...); where a model has no proven batch axis, each item is a whole call.
        batch: items in one call, where items may be stacked.
        origin: where they come from.

    Raises:
        ShapeError: a name, element type or shape does not fit, or inputs have different numbers of items.
        BadModelError: there is NaN or infinity in them, or nothing at all.
    """
    counts = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(counts) != len(arrays) or len(set(counts.values())) > 1:
        raise ShapeError(
            "inputs of calibration data have different numbers of items",
            ", ".join(f"{name}: {list(array.shape)}" for name, array in arrays.items()),
            "Axis 0 of each counts the items.",
        )
    items = next(iter(counts.values()), 0)
    if not items:
        raise BadModelError(f"the calibration data ({origin}) is empty")
    stacked = signature.batch_axis is not None
    step = batch if stacked else 1
    found = []
    for start in range(0, items, step):
        part = {n: a[start : start + step] if stacked else a[start] for n, a in arrays.items()}
        made = {name: np.ascontiguousarray(array) for name, array in part.items()}
        _check(signature, made, origin, start)
        found.append(made)
    return Samples(tuple(found), origin, items)


def _check(signature: Signature, tensors: Mapping[str, Array], origin: str, item: int) -> None:
    try:
        signature.validate(tensors)
    except ShapeError as error:
        raise ShapeError(
            f"calibration data ({origin}) does not fit the model: {error.what}", error.why, error.next_step
        ) from error
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise BadModelError(
                f"calibration data ({origin}) has NaN or infinity in {name!r}",
                f"in item {item} or a few behind it",
                "Ranges cannot be taken from such numbers: leave the item out.",
            )


def from_file(signature: Signature, path: str | Path, *, batch: int = 8, limit: int = 512) -> Samples:
    """Read calibration data: a .npz with one array an input, or a .npy for a model with one input.

    Args:
        signature: of the model.
        path: the file; it is never unpickled.
        batch: items in one call.
        limit: most items that are taken, the first ones.

    Raises:
        ConfigError: there is no such file, or it is neither.
        ShapeError, BadModelError: as `from_arrays`.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no calibration data at {str(path)!r}", "", "Give a .npz or .npy file.")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            named = isinstance(loaded, np.lib.npyio.NpzFile)
            arrays = {name: loaded[name] for name in loaded.files} if named else {"": loaded}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, MemoryError) as error:
        raise ConfigError(
            f"{path.name} is no calibration data",
            str(error)[:200],
            "Save it with numpy.savez(FILE, INPUT=array, ...), axis 0 counting the items.",
        ) from error
    if len(arrays) == 1 and len(signature.inputs) == 1:  # then its name does not matter
        arrays = {signature.inputs[0].name: next(iter(arrays.values()))}
    few = {name: array[:limit] if array.ndim else array for name, array in arrays.items()}
    return from_arrays(signature, few, batch=batch, origin=path.name)


def generated(signature: Signature, shapes: Shapes, *, count: int = 16, seed: int = 0) -> Samples:
    """Made-up inputs, for want of real ones: ranges found on them are a guess, and reports say so.

    Args:
        signature: of the model.
        shapes: the inputs' shapes at batch 1.
        count: number of items.
        seed: of the generator.
    """
    batches = tuple(make_inputs(signature, shapes, seed=seed + i) for i in range(count))
    return Samples(batches, "generated inputs, not data", count)
