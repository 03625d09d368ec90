"""Calibration data: what a model meets in use, item by item, checked before anything is measured on it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError, ConfigError, ShapeError
from raceline.ir import Shapes, Signature, make_inputs

Array = np.ndarray[Any, Any]
GENERATED = "generated"
"""What stands in place of a file's name where made-up inputs are wanted."""

_GENERATED_ITEMS = 64
_SEED = 0  # of what falls into which half


@dataclass(frozen=True)
class Samples:
    """Inputs of a model, and where they come from.

    Attributes:
        arrays: input name -> (items, ...); of a model without a proven batch axis each item is a whole call.
        origin: in words, for reports.
        batch: items in one call, where items may be stacked.
        stacked: whether they may; else axis 0 is no axis of the model's.
        labels: (items,) the true classes; None where they are not known.
    """

    arrays: Mapping[str, Array]
    origin: str
    batch: int = 8
    stacked: bool = True
    labels: Array | None = None

    @property
    def items(self) -> int:
        """How many there are."""
        return len(next(iter(self.arrays.values())))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The inputs' shapes at batch 1."""
        first = 1 if self.stacked else 0
        return {name: (1,) * first + tuple(map(int, array.shape[1:])) for name, array in self.arrays.items()}

    def __iter__(self) -> Iterator[dict[str, Array]]:
        """What the model takes, call by call; the last one may have fewer items."""
        for start in range(0, self.items, self.batch if self.stacked else 1):
            yield self._call(range(start, min(start + self.batch, self.items)))

    def full_batches(self, size: int) -> Iterator[dict[str, Array]]:
        """The same in calls of exactly `size` items: the last item is repeated until the last call is full."""
        for start in range(0, self.items, size if self.stacked else 1):
            yield self._call([min(start + i, self.items - 1) for i in range(size)])

    def _call(self, picked: Sequence[int]) -> dict[str, Array]:
        if not self.stacked:
            return {name: np.asarray(array[picked[0]], order="C") for name, array in self.arrays.items()}
        return {name: np.ascontiguousarray(array[list(picked)]) for name, array in self.arrays.items()}

    def pick(self, places: Sequence[int]) -> Samples:
        """Some of the items."""
        chosen = list(places)
        labels = None if self.labels is None else self.labels[chosen]
        return replace(self, arrays={n: a[chosen] for n, a in self.arrays.items()}, labels=labels)

    def thinned(self, most: int) -> Samples:
        """At most so many items, evenly spread."""
        if self.items <= most:
            return self
        return self.pick([i * self.items // most for i in range(most)])

    def split(self) -> tuple[Samples, Samples]:
        """Two halves by chance, the same each time: one to calibrate on, one to judge by.

        Neighbours in a recording, or what alternates in it, must not fall into one half each; and where the true
        classes are known, each half has as many of each.

        Raises:
            ConfigError: there is only one.
        """
        if self.items < 2:
            raise ConfigError("one item cannot be split into two halves", self.origin, "Give more samples.")
        order = np.random.default_rng(_SEED).permutation(self.items)
        if self.labels is not None and self.labels.ndim == 1:
            order = order[np.argsort(self.labels[order], kind="stable")]
        return self.pick(sorted(order[0::2])), self.pick(sorted(order[1::2]))

    def sha256(self) -> str:
        """Digest of all items and labels, the key of what was measured with them."""
        digest = hashlib.sha256(repr((self.origin, self.batch, self.stacked)).encode())
        labels = {} if self.labels is None else {"": self.labels}
        for name, array in sorted({**self.arrays, **labels}.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def from_arrays(
    signature: Signature,
    arrays: Mapping[str, Array],
    *,
    labels: Array | None = None,
    batch: int = 8,
    origin: str = "arrays",
) -> Samples:
    """Take arrays whose axis 0 counts items.

    Args:
        signature: of the model.
        arrays: input name -> (items, ...); where a model has no proven batch axis, each item is a whole call.
        labels: (items,) the true classes, where they are known.
        batch: items in one call, where items may be stacked.
        origin: where they come from.

    Raises:
        ShapeError: a name, element type or shape does not fit, or inputs have different numbers of items.
        BadModelError: there is NaN or infinity in them, or nothing at all.
        ConfigError: there are not as many labels as items, or they are no whole numbers.
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
    made = Samples(arrays, origin, batch, signature.batch_axis is not None, _labels(labels, items))
    for number, tensors in enumerate(made):
        _check(signature, tensors, origin, number * (batch if made.stacked else 1))
    return made


def _labels(labels: Array | None, items: int) -> Array | None:
    if labels is None:
        return None
    flat = np.asarray(labels).reshape(-1)
    if len(flat) != items or flat.dtype.kind not in "iu":
        raise ConfigError(
            f"there are {len(flat)} labels of type {flat.dtype} for {items} items",
            "",
            "Give one whole number, the true class, for each item.",
        )
    return flat


def _check(signature: Signature, tensors: Mapping[str, Array], origin: str, item: int) -> None:
    stacked = signature.batch_axis is not None
    try:
        signature.validate(tensors)
    except ShapeError as error:
        raise ShapeError(
            f"calibration data ({origin}) does not fit the model: {error.what}", error.why, error.next_step
        ) from error
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = np.argwhere(~np.isfinite(array))[0][0] if stacked else 0
            raise BadModelError(
                f"calibration data ({origin}) has NaN or infinity in {name!r}",
                f"the first in item {item + int(bad)}",
                "Ranges cannot be taken from such numbers: leave the item out.",
            )


def from_file(
    signature: Signature,
    path: str | Path,
    *,
    labels: str | Path | None = None,
    batch: int = 8,
    limit: int = 512,
) -> Samples:
    """Read calibration data: a .npz with one array an input, or a .npy for a model with one input.

    Args:
        signature: of the model.
        path: the file; it is never unpickled.
        labels: a .npy with the true class of each item.
        batch: items in one call.
        limit: most items that are taken, evenly spread over the file.

    Raises:
        ConfigError: there is no such file, or it is neither, or labels do not fit.
        ShapeError, BadModelError: as `from_arrays`.
    """
    arrays = _arrays(Path(path))
    if len(arrays) == 1 and len(signature.inputs) == 1:  # then its name does not matter
        arrays = {signature.inputs[0].name: next(iter(arrays.values()))}
    truth = None if labels is None else next(iter(_arrays(Path(labels)).values()))
    origin = Path(path).name
    return from_arrays(signature, arrays, labels=truth, batch=batch, origin=origin).thinned(limit)


def _arrays(path: Path) -> dict[str, Array]:
    """What a file holds, by name; a .npy has one array without a name."""
    if not path.is_file():
        raise ConfigError(f"there is no calibration data at {str(path)!r}", "", "Give a .npz or .npy file.")
    try:
        with path.open("rb") as file:
            if file.read(6)[:2] not in {b"\x93N", b"PK"}:
                raise ValueError("its content is of another kind")  # noqa: TRY301 - told in one place
            file.seek(0)
            loaded = np.load(file, allow_pickle=False)
            named = isinstance(loaded, np.lib.npyio.NpzFile)
            found = {name: loaded[name] for name in loaded.files} if named else {"": loaded}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, MemoryError) as error:
        raise ConfigError(
            f"{path.name} is no calibration data",
            "it holds Python objects, which are never unpickled"
            if "pickle" in str(error)
            else str(error)[:200],
            "Save it with numpy.savez(FILE, INPUT=array, ...), axis 0 counting the items.",
        ) from error
    if not found:
        raise ConfigError(f"{path.name} is no calibration data", "it holds no array")
    return found


def generated(signature: Signature, shapes: Shapes, *, count: int = 16, seed: int = 0) -> Samples:
    """Made-up inputs, for want of real ones: ranges found on them are a guess, and reports say so.

    Args:
        signature: of the model.
        shapes: the inputs' shapes at batch 1.
        count: number of items.
        seed: of the generator.
    """
    made = [make_inputs(signature, shapes, seed=seed + i) for i in range(count)]
    stacked = signature.batch_axis is not None
    join = np.concatenate if stacked else np.stack
    arrays = {name: join([inputs[name] for inputs in made]) for name in made[0]}
    return Samples(arrays, "generated inputs, not data", stacked=stacked)


def samples_for(signature: Signature, data: str, shapes: Shapes, labels: Path | None = None) -> Samples:
    """Calibration data from a file, or made-up inputs where the user says "generated".

    Raises:
        ConfigError, ShapeError, BadModelError: as `from_file`.
    """
    if data != GENERATED:
        return from_file(signature, data, labels=labels)
    if labels is not None:
        raise ConfigError("generated inputs have no labels", "", "Give a file of data.")
    return generated(signature, shapes, count=_GENERATED_ITEMS)
